//! What is read of functions and drives.

use std::fs;

use super::{DRIVE, FakeHost, OTHER, at};
use crate::base::ErrorKind;
use crate::nvme::pci::{Bar, Iommu, KernelDrive, PciFunction, nvme_functions, unattached};

#[test]
fn everything_about_a_function_is_read() {
    let host = FakeHost::new();
    host.drive(DRIVE);
    host.function(OTHER, "0x020000", "5");
    let function = PciFunction::read(&host.paths, at(DRIVE)).unwrap();
    assert_eq!((function.ids.vendor, function.ids.device), (0x1b36, 0x10));
    assert_eq!((function.ids.subsystem_vendor, function.ids.subsystem_device), (0x1af4, 0x1100));
    assert_eq!((function.class, function.revision), (0x01_0802, 2));
    assert_eq!(function.driver.as_deref(), Some("nvme"));
    assert_eq!(function.driver_override, None);
    assert_eq!(function.iommu_group.as_deref(), Some("5"));
    assert_eq!(function.group_members, [at(OTHER)]);
    assert_eq!(function.numa_node, Some(1));
    assert_eq!(function.bars, [Bar { index: 0, size: 16 << 10 }, Bar { index: 2, size: 4096 }]);
}

#[test]
fn what_the_kernel_does_not_know_is_not_made_up() {
    let host = FakeHost::new();
    host.drive(DRIVE);
    let device = host.device(DRIVE);
    fs::write(device.join("numa_node"), "-1\n").unwrap();
    for file in ["driver", "iommu_group", "resource", "driver_override"] {
        fs::remove_file(device.join(file)).unwrap();
    }
    let function = PciFunction::read(&host.paths, at(DRIVE)).unwrap();
    assert_eq!(function.numa_node, None);
    assert_eq!(
        (function.driver, function.driver_override, function.iommu_group),
        (None, None, None)
    );
    assert!(function.bars.is_empty() && function.group_members.is_empty());
    let missing = PciFunction::read(&host.paths, at(OTHER)).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NoDevice);
}

#[test]
fn nonsense_in_a_resource_file_is_no_bar() {
    let host = FakeHost::new();
    host.drive(DRIVE);
    host.sys(
        &format!("bus/pci/devices/{DRIVE}/resource"),
        "0x0 0xffffffffffffffff 0x0\n0x20 0x10 0x0\nzz\n0x1000\n0x1000 0x1fff 0x200\n\n0x0 0x5 0x0\n",
    );
    let function = PciFunction::read(&host.paths, at(DRIVE)).unwrap();
    assert_eq!(function.bars, [Bar { index: 4, size: 4096 }]);
}

#[test]
fn only_nvme_controllers_are_found_and_in_order() {
    let host = FakeHost::new();
    host.function(OTHER, "0x010802", "6");
    host.function("0000:00:1f.0", "0x060100", "7");
    host.function("10000:01:00.0", "0x010802", "8");
    host.drive(DRIVE);
    let found: Vec<String> =
        nvme_functions(&host.paths).iter().map(|function| function.address.to_string()).collect();
    assert_eq!(found, [DRIVE, OTHER, "10000:01:00.0"]);
    host.drive_by(OTHER, "vfio-pci");
    assert_eq!(unattached(&host.paths, "vfio-pci", |_| false), [at(OTHER)]);
    assert!(unattached(&host.paths, "vfio-pci", |address| address == at(OTHER)).is_empty());
}

#[test]
fn the_kernels_view_of_a_drive_is_read() {
    let host = FakeHost::new();
    host.drive(DRIVE);
    // A path of a namespace that has more than one.
    host.sys(&format!("bus/pci/devices/{DRIVE}/nvme/nvme0/nvme3c0n2/size"), "0\n");
    host.block("nvme3n2", "259:7", 100);
    let function = PciFunction::read(&host.paths, at(DRIVE)).unwrap();
    let drive = KernelDrive::read(&host.paths, &function).unwrap();
    assert_eq!(drive.controller, "nvme0");
    assert_eq!(drive.model.as_deref(), Some("QEMU NVMe Ctrl"));
    assert_eq!((drive.serial.as_deref(), drive.firmware.as_deref()), (Some("gt0"), Some("10.0.2")));
    let blocks: Vec<(&str, u64)> =
        drive.blocks.iter().map(|block| (block.name.as_str(), block.bytes)).collect();
    assert_eq!(blocks, [("nvme0n1", 4 << 20), ("nvme3n2", 51_200)]);
    assert_eq!(drive.bytes(), (4 << 20) + 51_200);
    assert_eq!(drive.characters, ["nvme0", "ng0n1"]);
}

#[test]
fn the_state_of_the_iommu_is_read() {
    let host = FakeHost::new();
    assert!(!Iommu::read(&host.paths).is_on());
    host.drive(DRIVE);
    host.proc("interrupts", " 24: 0 0 IR-PCI-MSIX-0000:01:00.0 0-edge nvme0q0\n");
    let iommu = Iommu::read(&host.paths);
    assert_eq!((iommu.units, iommu.groups), (vec!["dmar0".to_owned()], 1));
    assert_eq!((iommu.interrupt_remapping, iommu.unsafe_without), (Some(true), false));
}
