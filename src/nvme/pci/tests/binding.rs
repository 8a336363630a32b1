//! Drivers change as asked, or not at all.

use std::fs;
use std::io;

use super::{DRIVE, FakeHost, FakeKernel, OTHER, at};
use crate::base::ErrorKind;
use crate::nvme::pci::{Binder, Kernel, Outcome, PciFunction, VFIO_DRIVER};

fn binder<'a>(host: &'a FakeHost, kernel: &'a dyn Kernel) -> Binder<'a> {
    Binder { paths: &host.paths, kernel, force: false, own: &|_| None }
}

fn driver(host: &FakeHost) -> Option<String> {
    PciFunction::read(&host.paths, at(DRIVE)).unwrap().driver
}

fn host() -> FakeHost {
    let host = FakeHost::new();
    host.drive(DRIVE);
    host
}

#[test]
fn a_free_drive_goes_to_vfio_and_back() {
    let host = host();
    let kernel = FakeKernel::new(&host);
    let binder = binder(&host, &kernel);
    let changed = binder.bind(at(DRIVE), VFIO_DRIVER).unwrap();
    assert_eq!(changed, Outcome::Changed { from: Some("nvme".into()) });
    assert_eq!(driver(&host).as_deref(), Some("vfio-pci"));
    let device = format!("bus/pci/devices/{DRIVE}");
    let expected = [
        (format!("{device}/driver_override"), "vfio-pci".to_owned()),
        ("bus/pci/drivers/nvme/unbind".into(), DRIVE.into()),
        ("bus/pci/drivers_probe".into(), DRIVE.into()),
    ];
    assert_eq!(kernel.written(), expected);
    assert_eq!(binder.bind(at(DRIVE), VFIO_DRIVER).unwrap(), Outcome::Already);
    assert_eq!(kernel.written().len(), 3);

    // The kernel's driver is gone from it.
    fs::remove_dir_all(host.device(DRIVE).join("nvme")).unwrap();
    let changed = binder.unbind(at(DRIVE)).unwrap();
    assert_eq!(changed, Outcome::Changed { from: Some("vfio-pci".into()) });
    assert_eq!(driver(&host).as_deref(), Some("nvme"));
    assert_eq!(kernel.written()[3], (format!("{device}/driver_override"), "\n".to_owned()));
    fs::write(host.device(DRIVE).join("driver_override"), "(null)\n").unwrap();
    assert_eq!(binder.unbind(at(DRIVE)).unwrap(), Outcome::Already);
}

#[test]
fn a_drive_in_use_is_left_alone_unless_forced() {
    let host = host();
    host.proc("self/mountinfo", "27 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n");
    let kernel = FakeKernel::new(&host);
    let mut binder = binder(&host, &kernel);
    let Outcome::Refused(uses) = binder.bind(at(DRIVE), VFIO_DRIVER).unwrap() else {
        panic!("not refused");
    };
    assert_eq!(uses[0].to_string(), "nvme0n1 mounted at /");
    assert!(kernel.written().is_empty());
    binder.force = true;
    assert!(matches!(binder.bind(at(DRIVE), VFIO_DRIVER).unwrap(), Outcome::Changed { .. }));
}

#[test]
fn a_drive_that_another_process_drives_is_not_given_back() {
    let host = host();
    host.drive_by(DRIVE, "vfio-pci");
    fs::remove_dir_all(host.device(DRIVE).join("nvme")).unwrap();
    host.process(44, "weftd", "/dev/vfio/5");
    let kernel = FakeKernel::new(&host);
    let refused = binder(&host, &kernel).unbind(at(DRIVE)).unwrap();
    assert!(matches!(refused, Outcome::Refused(_)));
    assert!(kernel.written().is_empty());
}

#[test]
fn what_is_no_nvme_controller_is_never_touched() {
    let host = host();
    host.function(OTHER, "0x020000", "6");
    let kernel = FakeKernel::new(&host);
    let mut binder = binder(&host, &kernel);
    binder.force = true;
    for error in [
        binder.bind(at(OTHER), VFIO_DRIVER).unwrap_err(),
        binder.unbind(at(OTHER)).unwrap_err(),
        binder.bind(at(DRIVE), "../x").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert!(kernel.written().is_empty());
}

#[test]
fn without_an_iommu_it_says_what_to_do() {
    let host = host();
    fs::remove_file(host.device(DRIVE).join("iommu_group")).unwrap();
    fs::remove_dir_all(host.paths.sys.join("kernel/iommu_groups")).unwrap();
    let kernel = FakeKernel::new(&host);
    let binder = binder(&host, &kernel);
    let error = binder.bind(at(DRIVE), VFIO_DRIVER).unwrap_err();
    assert!(error.to_string().contains("intel_iommu=on"), "{error}");
    assert!(kernel.written().is_empty());
    host.sys("module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    assert!(matches!(binder.bind(at(DRIVE), VFIO_DRIVER).unwrap(), Outcome::Changed { .. }));
}

#[test]
fn a_missing_module_is_loaded_or_named() {
    let host = host();
    fs::remove_dir_all(host.paths.sys.join("bus/pci/drivers/vfio-pci")).unwrap();
    let mut kernel = FakeKernel::new(&host);
    let error = binder(&host, &kernel).bind(at(DRIVE), VFIO_DRIVER).unwrap_err();
    assert!(error.to_string().contains("no module vfio-pci"), "{error}");
    assert!(kernel.written().is_empty());
    kernel.loadable.push("vfio-pci");
    let changed = binder(&host, &kernel).bind(at(DRIVE), VFIO_DRIVER).unwrap();
    assert!(matches!(changed, Outcome::Changed { .. }));
    assert_eq!(*kernel.modules.borrow(), ["vfio-pci", "vfio-pci"]);
}

#[test]
fn a_drive_that_vfio_does_not_take_goes_back() {
    let host = host();
    let mut kernel = FakeKernel::new(&host);
    kernel.refusing.push("vfio-pci");
    let error = binder(&host, &kernel).bind(at(DRIVE), VFIO_DRIVER).unwrap_err();
    assert!(error.to_string().contains("it is as it was"), "{error}");
    assert_eq!(driver(&host).as_deref(), Some("nvme"));
    assert_eq!(kernel.written().len(), 5);
}

#[test]
fn a_refused_unbind_leaves_no_override_behind() {
    let host = host();
    let mut kernel = FakeKernel::new(&host);
    kernel.broken = Some(("nvme/unbind", io::ErrorKind::PermissionDenied));
    let error = binder(&host, &kernel).bind(at(DRIVE), VFIO_DRIVER).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert!(error.to_string().contains("root"), "{error}");
    let function = PciFunction::read(&host.paths, at(DRIVE)).unwrap();
    assert_eq!((function.driver.as_deref(), function.driver_override), (Some("nvme"), None));
}

#[test]
fn a_driver_that_does_not_let_go_is_not_waited_for_twice() {
    let host = host();
    let mut kernel = FakeKernel::new(&host);
    kernel.broken = Some(("nvme/unbind", io::ErrorKind::TimedOut));
    let error = binder(&host, &kernel).bind(at(DRIVE), VFIO_DRIVER).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("does not let go"), "{error}");
    assert_eq!(kernel.written().len(), 1);
}

#[test]
fn a_kernel_without_its_driver_is_told() {
    let host = host();
    host.drive_by(DRIVE, "vfio-pci");
    fs::remove_dir_all(host.device(DRIVE).join("nvme")).unwrap();
    fs::remove_dir_all(host.paths.sys.join("bus/pci/drivers/nvme")).unwrap();
    let kernel = FakeKernel::new(&host);
    let error = binder(&host, &kernel).unbind(at(DRIVE)).unwrap_err().to_string();
    assert!(error.contains("no driver of the kernel took it"), "{error}");
    assert!(error.contains("no module nvme"), "{error}");
    assert_eq!(driver(&host), None);
}
