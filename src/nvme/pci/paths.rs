//! Where the kernel shows its state: the roots of sysfs, procfs and the device folder.
//!
//! Everything in this folder reads through [`HostPaths`], so that a test can put a tree of plain files in
//! their place. What is read is the kernel's, but hot removal can take any file away at any time: a file that is
//! missing or unreadable is "not known", not an error, unless the caller says otherwise.

use std::fs;
use std::path::{Path, PathBuf};

/// The roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPaths {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
}

impl HostPaths {
    /// Those of this machine.
    pub fn system() -> HostPaths {
        HostPaths::below(Path::new("/"))
    }

    /// `sys`, `proc` and `dev` below `root`.
    pub fn below(root: &Path) -> HostPaths {
        HostPaths { sys: root.join("sys"), proc: root.join("proc"), dev: root.join("dev") }
    }

    /// The folder of the PCI functions.
    pub(super) fn pci_devices(&self) -> PathBuf {
        self.sys.join("bus/pci/devices")
    }

    /// The folder of a PCI driver.
    pub(super) fn pci_driver(&self, driver: &str) -> PathBuf {
        self.sys.join("bus/pci/drivers").join(driver)
    }

    /// The folder of a block device or partition.
    pub(super) fn block(&self, name: &str) -> PathBuf {
        self.sys.join("class/block").join(name)
    }
}

/// The contents of a small file, without blanks around them.
pub(super) fn read_text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The same, where an empty file says as little as none.
pub(super) fn read_word(path: &Path) -> Option<String> {
    read_text(path).filter(|text| !text.is_empty())
}

/// A hexadecimal number, as sysfs writes ids.
pub(super) fn read_hex(path: &Path) -> Option<u32> {
    let text = read_text(path)?;
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
}

/// A decimal number.
pub(super) fn read_number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    read_text(path)?.parse().ok()
}

/// The last part of where a link leads: how sysfs says which driver or group a function has.
pub(super) fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// The names in a folder, in order.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
