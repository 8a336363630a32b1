//! PCI functions, as sysfs shows them.

use std::fs;
use std::path::{Path, PathBuf};

use super::address::PciAddress;
use super::paths::{HostPaths, link_name, names, read_hex, read_number, read_word};
use crate::base::{Error, ErrorKind, Result};

/// Class code of an NVMe I/O controller: mass storage (01h), non-volatile memory (08h), NVM Express I/O
/// controller (02h) (NVMe over PCIe Transport Specification, section 3.8.1.5, Class Code).
pub const NVME_CLASS: u32 = 0x01_08_02;

/// The driver that Weft reaches drives through.
pub const VFIO_DRIVER: &str = "vfio-pci";

/// A base address register, as the kernel has placed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its number, 0 to 5.
    pub index: u8,
    /// Length in bytes.
    pub size: u64,
}

/// Vendor, device and subsystem of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciIds {
    /// Vendor.
    pub vendor: u16,
    /// Device, by the vendor's numbers.
    pub device: u16,
    /// Vendor of the board.
    pub subsystem_vendor: u16,
    /// Board, by its vendor's numbers.
    pub subsystem_device: u16,
}

/// A PCI function as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciFunction {
    /// Where it is.
    pub address: PciAddress,
    /// What it is.
    pub ids: PciIds,
    /// Class code: base class, sub-class and programming interface.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The only driver that may have it, where one was said.
    pub driver_override: Option<String>,
    /// The IOMMU group.
    pub iommu_group: Option<String>,
    /// The other functions of that group: VFIO gives out a group as a whole.
    pub group_members: Vec<PciAddress>,
    /// The NUMA node that it is near.
    pub numa_node: Option<u32>,
    /// Base address registers that are in use.
    pub bars: Vec<Bar>,
    folder: PathBuf,
}

impl PciFunction {
    /// Reads the function at `address`.
    ///
    /// # Errors
    /// `NoDevice` when there is none.
    pub fn read(paths: &HostPaths, address: PciAddress) -> Result<PciFunction> {
        let folder = paths.pci_devices().join(address.to_string());
        let class = read_hex(&folder.join("class")).ok_or_else(|| {
            Error::new(
                ErrorKind::NoDevice,
                format!(
                    "{address}: there is no such PCI function (weft nvme list shows what there is)"
                ),
            )
        })?;
        let id = |name: &str| read_hex(&folder.join(name)).unwrap_or_default() as u16;
        let iommu_group = link_name(&folder.join("iommu_group"));
        let group_members = names(&folder.join("iommu_group/devices"))
            .iter()
            .filter_map(|name| name.parse().ok())
            .filter(|member| *member != address)
            .collect();
        Ok(PciFunction {
            address,
            ids: PciIds {
                vendor: id("vendor"),
                device: id("device"),
                subsystem_vendor: id("subsystem_vendor"),
                subsystem_device: id("subsystem_device"),
            },
            class,
            revision: read_hex(&folder.join("revision")).unwrap_or_default() as u8,
            driver: link_name(&folder.join("driver")),
            // The kernel writes an override that is not set as "(null)".
            driver_override: read_word(&folder.join("driver_override"))
                .filter(|driver| driver != "(null)"),
            iommu_group,
            group_members,
            // -1 is the kernel's way to say that it does not know.
            numa_node: read_number(&folder.join("numa_node")),
            bars: read_bars(&folder.join("resource")),
            folder,
        })
    }

    /// Whether it is an NVMe I/O controller.
    pub fn is_nvme(&self) -> bool {
        self.class == NVME_CLASS
    }

    /// Its folder in sysfs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its configuration space: 4096 bytes of a PCI Express function, or as many of them as the kernel
    /// lets this process read (64 without privileges).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn config_space(&self) -> Result<Vec<u8>> {
        let path = self.folder.join("config");
        fs::read(&path).map_err(|error| {
            Error::os(format!("{}: cannot read {}", self.address, path.display()), error)
        })
    }
}

/// All NVMe controllers of the machine, by address.
pub fn nvme_functions(paths: &HostPaths) -> Vec<PciFunction> {
    let folder = paths.pci_devices();
    let mut addresses: Vec<PciAddress> = names(&folder)
        .iter()
        .filter(|name| read_hex(&folder.join(name).join("class")) == Some(NVME_CLASS))
        .filter_map(|name| name.parse().ok())
        .collect();
    addresses.sort();
    // One that went away meanwhile is none.
    addresses.into_iter().filter_map(|address| PciFunction::read(paths, address).ok()).collect()
}

/// The NVMe controllers that `driver` has and that are not among `attached`: what hot plug attaches.
pub fn unattached(
    paths: &HostPaths,
    driver: &str,
    attached: impl Fn(PciAddress) -> bool,
) -> Vec<PciAddress> {
    nvme_functions(paths)
        .into_iter()
        .filter(|function| function.driver.as_deref() == Some(driver))
        .map(|function| function.address)
        .filter(|address| !attached(*address))
        .collect()
}

/// Lines of first address, last address and flags, the first six of which are the base address registers.
fn read_bars(resource: &Path) -> Vec<Bar> {
    let text = fs::read_to_string(resource).unwrap_or_default();
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let bar = |(index, line): (usize, &str)| {
        let mut words = line.split_ascii_whitespace();
        let (first, last) = (number(words.next()?)?, number(words.next()?)?);
        let size = last.checked_sub(first)?.checked_add(1)?;
        (last != 0).then_some(Bar { index: index as u8, size })
    };
    text.lines().take(6).enumerate().filter_map(bar).collect()
}
