//! Every way to be in use.

use std::fs;

use super::{DRIVE, FakeHost, OTHER, at};
use crate::nvme::pci::{InUse, PciFunction, driven_by_us, uses};

fn texts(host: &FakeHost) -> Vec<String> {
    let function = PciFunction::read(&host.paths, at(DRIVE)).unwrap();
    uses(&host.paths, &function, &|_| None).iter().map(InUse::to_string).collect()
}

fn host() -> FakeHost {
    let host = FakeHost::new();
    host.drive(DRIVE);
    assert!(texts(&host).is_empty());
    host
}

#[test]
fn a_mounted_file_system() {
    let host = host();
    host.partition("nvme0n1", "nvme0n1p1", "259:1");
    host.proc(
        "self/mountinfo",
        "22 1 0:21 / /proc rw - proc proc rw\n\
         27 1 259:1 / /mnt/with\\040blank rw,relatime shared:1 master:2 - ext4 /dev/root rw\n",
    );
    assert_eq!(texts(&host), ["nvme0n1 has 1 partition", "nvme0n1p1 mounted at /mnt/with blank"]);
}

#[test]
fn a_file_system_with_a_device_number_of_its_own() {
    let host = host();
    host.proc("self/mountinfo", "30 1 0:44 /sub /data rw - btrfs /dev/nvme0n1 rw,subvol=/sub\n");
    assert_eq!(texts(&host), ["nvme0n1 mounted at /data"]);
}

#[test]
fn swap() {
    let host = host();
    host.partition("nvme0n1", "nvme0n1p2", "259:2");
    host.proc(
        "swaps",
        "Filename Type Size Used Priority\n/dev/nvme0n1p2 partition 100 0 -2\n/swap file 1 0 -3\n",
    );
    assert_eq!(texts(&host), ["nvme0n1 has 1 partition", "nvme0n1p2 is swap in use"]);
}

#[test]
fn holders_and_what_stands_on_them() {
    let host = host();
    host.sys("class/block/nvme0n1/holders/md0/dev", "");
    host.block("md0", "9:0", 8192);
    host.sys("class/block/md0/holders/dm-0/dev", "");
    host.block("dm-0", "253:0", 8192);
    host.sys("class/block/dm-0/dm/name", "vg-root\n");
    // A circle, which the kernel never makes, must not keep us either.
    host.sys("class/block/dm-0/holders/md0/dev", "");
    host.proc("self/mountinfo", "27 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n");
    assert_eq!(
        texts(&host),
        [
            "nvme0n1 used by md0",
            "md0 used by dm-0 (vg-root)",
            "dm-0 mounted at /",
            "dm-0 used by md0"
        ]
    );
}

#[test]
fn a_signature() {
    let host = host();
    let mut disk = vec![0; 4 << 20];
    disk[..6].copy_from_slice(b"LUKS\xba\xbe");
    fs::write(host.paths.dev.join("nvme0n1"), disk).unwrap();
    assert_eq!(texts(&host), ["nvme0n1 holds LUKS"]);
}

#[test]
fn a_label_of_ours_is_told_but_refuses_nothing() {
    let host = host();
    let function = PciFunction::read(&host.paths, at(DRIVE)).unwrap();
    let found = uses(&host.paths, &function, &|head| {
        assert_eq!(head.len(), 256 << 10);
        Some("a label".into())
    });
    assert_eq!(found.len(), 1);
    assert!(!found[0].refuses());
    assert_eq!(found[0].to_string(), "nvme0n1 holds a label");
}

#[test]
fn processes_that_have_it_open() {
    let host = host();
    host.process(41, "qemu", "/dev/nvme0n1");
    host.process(42, "cat", "/dev/nvme1n1");
    host.process(43, "tool", "/dev/ng0n1");
    host.process(44, "weftd", "/dev/vfio/5");
    assert_eq!(
        texts(&host),
        [
            "nvme0n1 open in process 41 (qemu)",
            "ng0n1 open in process 43 (tool)",
            "/dev/vfio/5 open in process 44 (weftd)",
        ]
    );
}

#[test]
fn a_drive_that_cannot_be_looked_at_counts_as_used() {
    let host = host();
    fs::remove_file(host.paths.dev.join("nvme0n1")).unwrap();
    let function = PciFunction::read(&host.paths, at(DRIVE)).unwrap();
    let found = uses(&host.paths, &function, &|_| None);
    assert!(found.len() == 1 && found[0].refuses());
    assert!(found[0].to_string().contains("cannot be checked"), "{}", found[0]);
}

#[test]
fn what_this_process_drives_is_what_it_has_open() {
    let host = host();
    host.function(OTHER, "0x010802", "6");
    host.drive_by(OTHER, "vfio-pci");
    assert!(driven_by_us(&host.paths).is_empty());
    // The kernel has the drive of this group.
    host.own_file("/dev/vfio/5");
    assert!(driven_by_us(&host.paths).is_empty());
    host.own_file("/dev/vfio/6");
    let found = driven_by_us(&host.paths);
    assert!(found.len() == 1 && found[0].address == at(OTHER), "{found:?}");
}
