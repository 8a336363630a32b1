//! A host made of plain files, and a kernel that acts on it as the real one does.

mod binding;
mod discovery;
mod usage;

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::{HostPaths, Kernel, PciAddress};
use crate::base::{Error, ErrorKind, Result};

pub const DRIVE: &str = "0000:01:00.0";
pub const OTHER: &str = "0000:02:00.0";

pub fn at(address: &str) -> PciAddress {
    address.parse().unwrap()
}

/// Files below a temporary folder.
pub struct FakeHost {
    _root: tempfile::TempDir,
    pub paths: HostPaths,
}

impl FakeHost {
    /// A host with the drivers that a kernel usually has, and an IOMMU.
    pub fn new() -> FakeHost {
        let root = tempfile::tempdir().unwrap();
        let host = FakeHost { paths: HostPaths::below(root.path()), _root: root };
        host.file(
            &host.paths.proc,
            "self/mountinfo",
            "22 1 0:21 / /proc rw shared:1 - proc proc rw\n",
        );
        host.file(&host.paths.proc, "swaps", "Filename Type Size Used Priority\n");
        host.sys("bus/pci/drivers_probe", "");
        for driver in ["nvme", "vfio-pci"] {
            host.sys(&format!("bus/pci/drivers/{driver}/unbind"), "");
        }
        fs::create_dir_all(host.paths.sys.join("class/iommu/dmar0")).unwrap();
        fs::create_dir_all(&host.paths.dev).unwrap();
        host
    }

    fn file(&self, root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn sys(&self, path: &str, text: &str) {
        self.file(&self.paths.sys, path, text);
    }

    pub fn proc(&self, path: &str, text: &str) {
        self.file(&self.paths.proc, path, text);
    }

    /// A function of class `class`, in IOMMU group `group`.
    pub fn function(&self, address: &str, class: &str, group: &str) {
        let folder = format!("bus/pci/devices/{address}");
        for (file, text) in [
            ("class", class),
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("subsystem_vendor", "0x1af4"),
            ("subsystem_device", "0x1100"),
            ("revision", "0x02"),
            ("driver_override", "(null)"),
            ("numa_node", "1"),
            (
                "resource",
                "0x00000000fe400000 0x00000000fe403fff 0x0000000000140204\n\
                 0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                 0x00000000fe500000 0x00000000fe500fff 0x0000000000040200\n",
            ),
        ] {
            self.sys(&format!("{folder}/{file}"), &format!("{text}\n"));
        }
        self.group(address, group);
    }

    fn group(&self, address: &str, group: &str) {
        let folder = self.paths.sys.join("kernel/iommu_groups").join(group).join("devices");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(address), "").unwrap();
        let link = self.device(address).join("iommu_group");
        symlink(folder.parent().unwrap(), link).unwrap();
    }

    pub fn device(&self, address: &str) -> std::path::PathBuf {
        self.paths.sys.join("bus/pci/devices").join(address)
    }

    /// Lets `driver` have the function.
    pub fn drive_by(&self, address: &str, driver: &str) {
        let link = self.device(address).join("driver");
        let _ = fs::remove_file(&link);
        symlink(self.paths.sys.join("bus/pci/drivers").join(driver), link).unwrap();
    }

    /// A drive that the kernel has as `nvme0`, of 4 MiB of zeros.
    pub fn drive(&self, address: &str) {
        self.function(address, "0x010802", "5");
        self.drive_by(address, "nvme");
        let folder = format!("bus/pci/devices/{address}/nvme/nvme0");
        for (file, text) in [
            ("model", "QEMU NVMe Ctrl                          \n"),
            ("serial", "gt0                 \n"),
            ("firmware_rev", "10.0.2  \n"),
            ("nvme0n1/dev", "259:0\n"),
            ("ng0n1/dev", "244:0\n"),
            ("power/control", "auto\n"),
        ] {
            self.sys(&format!("{folder}/{file}"), text);
        }
        self.block("nvme0n1", "259:0", 8192);
        fs::write(self.paths.dev.join("nvme0n1"), vec![0; 4 << 20]).unwrap();
    }

    /// A block device of so many 512-byte sectors.
    pub fn block(&self, name: &str, number: &str, sectors: u64) {
        self.sys(&format!("class/block/{name}/dev"), &format!("{number}\n"));
        self.sys(&format!("class/block/{name}/size"), &format!("{sectors}\n"));
        self.sys(&format!("class/block/{name}/queue/logical_block_size"), "512\n");
    }

    /// A partition, which sysfs shows below its device and beside it.
    pub fn partition(&self, of: &str, name: &str, number: &str) {
        self.sys(&format!("class/block/{of}/{name}/partition"), "1\n");
        self.block(name, number, 2048);
    }

    /// A file that this process has open.
    pub fn own_file(&self, open: &str) {
        let folder = self.paths.proc.join("self/fd");
        fs::create_dir_all(&folder).unwrap();
        symlink(open, folder.join(open.replace('/', ""))).unwrap();
    }

    /// A process that has a file open.
    pub fn process(&self, number: u32, name: &str, open: &str) {
        self.proc(&format!("{number}/comm"), &format!("{name}\n"));
        let folder = self.paths.proc.join(format!("{number}/fd"));
        fs::create_dir_all(&folder).unwrap();
        symlink(open, folder.join("7")).unwrap();
    }
}

/// Does to the files what the kernel does to its state.
pub struct FakeKernel<'a> {
    pub host: &'a FakeHost,
    /// Paths below sysfs and what was written there.
    pub writes: RefCell<Vec<(String, String)>>,
    /// Modules that were asked for.
    pub modules: RefCell<Vec<String>>,
    /// Modules that there are: loading one makes its driver.
    pub loadable: Vec<&'static str>,
    /// Drivers whose probe fails.
    pub refusing: Vec<&'static str>,
    /// A file whose writes fail, and how.
    pub broken: Option<(&'static str, io::ErrorKind)>,
}

impl<'a> FakeKernel<'a> {
    pub fn new(host: &'a FakeHost) -> FakeKernel<'a> {
        FakeKernel {
            host,
            writes: RefCell::default(),
            modules: RefCell::default(),
            loadable: Vec::new(),
            refusing: Vec::new(),
            broken: None,
        }
    }

    pub fn written(&self) -> Vec<(String, String)> {
        self.writes.borrow().clone()
    }

    fn probe(&self, address: &str) {
        let device = self.host.device(address);
        if device.join("driver").exists() {
            return;
        }
        let wanted = fs::read_to_string(device.join("driver_override")).unwrap();
        let driver = match wanted.trim() {
            "" | "(null)" => "nvme",
            wanted => wanted,
        };
        let known = self.host.paths.sys.join("bus/pci/drivers").join(driver).is_dir();
        if known && !self.refusing.contains(&driver) {
            self.host.drive_by(address, driver);
        }
    }
}

impl Kernel for FakeKernel<'_> {
    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        let name = path.strip_prefix(&self.host.paths.sys).unwrap().to_str().unwrap().to_owned();
        if let Some((file, kind)) = self.broken
            && name.ends_with(file)
        {
            return Err(kind.into());
        }
        // The real files exist: one that is made here is a wrong path.
        assert!(path.exists(), "{name}");
        self.writes.borrow_mut().push((name.clone(), value.to_owned()));
        if name.ends_with("driver_override") {
            fs::write(path, value).unwrap();
        } else if name.ends_with("drivers_probe") {
            self.probe(value);
        } else if let Some(driver) = name.strip_suffix("/unbind") {
            let link = self.host.device(value).join("driver");
            let bound = super::paths::link_name(&link);
            if bound.as_deref() != driver.rsplit('/').next() {
                return Err(io::Error::from_raw_os_error(libc::ENODEV));
            }
            fs::remove_file(link).unwrap();
        }
        Ok(())
    }

    fn load_module(&self, module: &str) -> Result<()> {
        self.modules.borrow_mut().push(module.to_owned());
        if !self.loadable.contains(&module) {
            return Err(Error::new(ErrorKind::NotFound, format!("no module {module}")));
        }
        self.host.sys(&format!("bus/pci/drivers/{module}/unbind"), "");
        Ok(())
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }
}
