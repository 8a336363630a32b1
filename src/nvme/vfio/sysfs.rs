//! What sysfs tells of a PCI function before VFIO is asked: why it could not be opened, said so that somebody
//! can act on it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, Result};

/// Class code of NVM Express controllers (PCIe Transport Specification, section 3.8.1).
const CLASS_NVME: &str = "0x010802";

/// Name that the kernel gives the groups of functions without an IOMMU.
const NO_IOMMU_GROUP: &str = "vfio-noiommu";

/// A function that VFIO has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its IOMMU group.
    pub(super) group: u32,
    /// Whether that group only stands for one, without an IOMMU behind it.
    pub(super) no_iommu: bool,
    /// The NUMA node that it is near.
    pub(super) numa_node: Option<u32>,
}

/// The folder of sysfs.
pub(super) struct Sysfs(PathBuf);

impl Sysfs {
    /// The system's.
    pub(super) fn system() -> Sysfs {
        Sysfs("/sys".into())
    }

    fn device(&self, address: &str) -> PathBuf {
        self.0.join("bus/pci/devices").join(address)
    }

    /// The NVMe controller at `address`, if it is VFIO's to give.
    pub(super) fn function(&self, address: &str) -> Result<Function> {
        if !is_address(address) {
            return Err(Error::invalid(format!(
                "'{address}' is no PCI address (such as 0000:00:04.0)"
            )));
        }
        let device = self.device(address);
        if !device.exists() {
            return Err(Error::new(
                ErrorKind::NoDevice,
                format!("{address}: no such PCI function"),
            ));
        }
        let class = read(&device.join("class")).unwrap_or_default();
        if class != CLASS_NVME {
            return Err(Error::invalid(format!(
                "{address} is no NVMe controller (its PCI class is {class})"
            )));
        }
        match link_name(&device.join("driver")) {
            Some(driver) if driver.contains("vfio") => {}
            Some(driver) => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "{address} is bound to the kernel's driver {driver}: `weft nvme bind {address}`"
                    ),
                ));
            }
            None => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("{address} is not bound to vfio-pci: `weft nvme bind {address}`"),
                ));
            }
        }
        let group = link_name(&device.join("iommu_group")).and_then(|name| name.parse().ok());
        let Some(group) = group else { return Err(no_iommu(address)) };
        let name = read(&self.0.join(format!("kernel/iommu_groups/{group}/name")));
        Ok(Function {
            group,
            no_iommu: name.is_some_and(|name| name == NO_IOMMU_GROUP),
            // -1 where the system has no nodes, or does not say.
            numa_node: read(&device.join("numa_node")).and_then(|node| node.parse().ok()),
        })
    }

    /// The functions that keep a group from being used: each with the driver that has it.
    pub(super) fn obstacles(&self, group: u32) -> Vec<String> {
        let folder = self.0.join(format!("kernel/iommu_groups/{group}/devices"));
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let mut found: Vec<String> = entries
            .flatten()
            .filter_map(|entry| {
                let address = entry.file_name().to_string_lossy().into_owned();
                let driver = link_name(&entry.path().join("driver"))?;
                // What the kernel allows beside VFIO's own drivers (drivers/vfio/group.c, and driver_managed_dma).
                let harmless =
                    driver.contains("vfio") || ["pci-stub", "pcieport"].contains(&&*driver);
                (!harmless).then(|| format!("{address} (driver {driver})"))
            })
            .collect();
        found.sort();
        found
    }
}

/// The error for a function without an IOMMU.
pub(super) fn no_iommu(address: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{address} is not behind an IOMMU: switch it on in the firmware (VT-d, AMD-Vi) and for the kernel \
             (intel_iommu=on); or ask for no-IOMMU mode, in which a faulty drive can overwrite all memory"
        ),
    )
}

/// Whether this is written as the kernel writes a PCI address: domain, bus, device, function.
fn is_address(address: &str) -> bool {
    let Some((domain, rest)) = address.split_once(':') else { return false };
    let Some((bus, rest)) = rest.split_once(':') else { return false };
    let Some((device, function)) = rest.split_once('.') else { return false };
    let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    hex(domain, 4..=8)
        && hex(bus, 2..=2)
        && hex(device, 2..=2)
        && matches!(function.as_bytes(), [b'0'..=b'7'])
}

fn read(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_string())
}

fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const ADDRESS: &str = "0000:03:00.0";

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Tree {
            Tree(tempfile::tempdir().unwrap())
        }

        fn function(&self, address: &str, class: &str, driver: Option<&str>, group: Option<u32>) {
            let device = self.0.path().join("bus/pci/devices").join(address);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("class"), format!("{class}\n")).unwrap();
            if let Some(driver) = driver {
                symlink(format!("../../drivers/{driver}"), device.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let folder = self.0.path().join(format!("kernel/iommu_groups/{group}"));
                fs::create_dir_all(folder.join("devices")).unwrap();
                symlink(&folder, device.join("iommu_group")).unwrap();
                symlink(&device, folder.join("devices").join(address)).unwrap();
            }
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.0.path().join(file), text).unwrap();
        }

        fn sysfs(&self) -> Sysfs {
            Sysfs(self.0.path().into())
        }

        fn refused(&self) -> (ErrorKind, String) {
            let error = self.sysfs().function(ADDRESS).unwrap_err();
            (error.kind(), error.to_string())
        }
    }

    #[test]
    fn a_function_of_vfio_is_described() {
        let tree = Tree::new();
        tree.function(ADDRESS, CLASS_NVME, Some("vfio-pci"), Some(7));
        tree.write(&format!("bus/pci/devices/{ADDRESS}/numa_node"), "-1\n");
        let function = tree.sysfs().function(ADDRESS).unwrap();
        assert_eq!(function, Function { group: 7, no_iommu: false, numa_node: None });
        tree.write(&format!("bus/pci/devices/{ADDRESS}/numa_node"), "1\n");
        tree.write("kernel/iommu_groups/7/name", "vfio-noiommu\n");
        let function = tree.sysfs().function(ADDRESS).unwrap();
        assert_eq!(function, Function { group: 7, no_iommu: true, numa_node: Some(1) });
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let tree = Tree::new();
        assert_eq!(tree.refused().0, ErrorKind::NoDevice);
        tree.function(ADDRESS, CLASS_NVME, Some("nvme"), Some(7));
        let (kind, text) = tree.refused();
        assert_eq!(kind, ErrorKind::Busy);
        assert!(text.contains("driver nvme") && text.contains("weft nvme bind"), "{text}");
        let tree = Tree::new();
        tree.function(ADDRESS, CLASS_NVME, None, None);
        assert!(tree.refused().1.contains("weft nvme bind"));
        let tree = Tree::new();
        tree.function(ADDRESS, CLASS_NVME, Some("vfio-pci"), None);
        assert!(tree.refused().1.contains("IOMMU"));
        let tree = Tree::new();
        tree.function(ADDRESS, "0x020000", Some("vfio-pci"), Some(7));
        assert!(tree.refused().1.contains("no NVMe controller"));
    }

    #[test]
    fn what_keeps_a_group_from_use_is_named() {
        let tree = Tree::new();
        tree.function(ADDRESS, CLASS_NVME, Some("vfio-pci"), Some(7));
        tree.function("0000:03:00.1", "0x020000", Some("e1000e"), Some(7));
        tree.function("0000:02:00.0", "0x060400", Some("pcieport"), Some(7));
        tree.function("0000:03:00.2", "0x020000", None, Some(7));
        assert_eq!(tree.sysfs().obstacles(7), ["0000:03:00.1 (driver e1000e)"]);
        assert!(tree.sysfs().obstacles(8).is_empty());
    }

    #[test]
    fn only_addresses_are_taken_for_such() {
        for right in ["0000:00:04.0", "10000:e1:1f.7"] {
            assert!(is_address(right), "{right}");
        }
        for wrong in [
            "",
            "0000:00:04",
            "00:04.0",
            "0000:00:04.8",
            "0000:00:4.0",
            "../x:00:04.0",
            "0000:00:04.0/..",
        ] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }
}
