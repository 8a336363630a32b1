//! What the kernel's NVMe driver knows of a drive that it has.

use super::function::PciFunction;
use super::paths::{HostPaths, names, read_number, read_word};

/// A namespace as a block device of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its name, such as `nvme0n1`.
    pub name: String,
    /// Capacity in bytes.
    pub bytes: u64,
    /// Logical block size in bytes, where known.
    pub block_size: Option<u32>,
}

/// A controller that the kernel's NVMe driver has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelDrive {
    /// The kernel's name for the controller, such as `nvme0`.
    pub controller: String,
    /// Model number (MN).
    pub model: Option<String>,
    /// Serial number (SN).
    pub serial: Option<String>,
    /// Firmware revision (FR).
    pub firmware: Option<String>,
    /// Its namespaces.
    pub blocks: Vec<BlockDevice>,
    /// Character devices: of the controller, and of each namespace.
    pub characters: Vec<String>,
}

impl KernelDrive {
    /// The controller on `function`, if the kernel's driver has it.
    pub fn read(paths: &HostPaths, function: &PciFunction) -> Option<KernelDrive> {
        let class = function.folder().join("nvme");
        let controller = names(&class).into_iter().find(|name| name.starts_with("nvme"))?;
        let folder = class.join(&controller);
        let mut characters = vec![controller.clone()];
        let mut blocks = Vec::new();
        for name in names(&folder) {
            let Some(head) = head_of(&name) else { continue };
            if head.starts_with("ng") {
                characters.push(head);
            } else {
                blocks.extend(read_block(paths, head));
            }
        }
        Some(KernelDrive {
            controller,
            model: read_word(&folder.join("model")),
            serial: read_word(&folder.join("serial")),
            firmware: read_word(&folder.join("firmware_rev")),
            blocks,
            characters,
        })
    }

    /// Capacity of all namespaces in bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().fold(0, |sum, block| sum.saturating_add(block.bytes))
    }
}

fn read_block(paths: &HostPaths, name: String) -> Option<BlockDevice> {
    let folder = paths.block(&name);
    // The kernel counts in units of 512 bytes, whatever the block size.
    let bytes = read_number::<u64>(&folder.join("size"))?.checked_mul(512)?;
    Some(BlockDevice {
        name,
        bytes,
        block_size: read_number(&folder.join("queue/logical_block_size")),
    })
}

/// The name of a namespace's device, if `entry` is one. With multipath, what is below a controller is a path of the
/// namespace (`nvme0c1n2`, `ng0c1n2`), which nobody opens; the device that is used is that of the subsystem
/// (`nvme0n2`, `ng0n2`).
fn head_of(entry: &str) -> Option<String> {
    let (kind, rest) = match entry.strip_prefix("nvme") {
        Some(rest) => ("nvme", rest),
        None => ("ng", entry.strip_prefix("ng")?),
    };
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (instance, namespace) = rest.split_once('n')?;
    let subsystem = match instance.split_once('c') {
        Some((subsystem, path)) if numeric(path) => subsystem,
        Some(_) => return None,
        None => instance,
    };
    (numeric(subsystem) && numeric(namespace)).then(|| format!("{kind}{subsystem}n{namespace}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_the_device_that_is_used() {
        for (entry, head) in [
            ("nvme0n1", Some("nvme0n1")),
            ("nvme3c12n4", Some("nvme3n4")),
            ("ng0n1", Some("ng0n1")),
            ("ng3c0n12", Some("ng3n12")),
            ("nvme0", None),
            ("nvme0n", None),
            ("nvme0c1", None),
            ("nvmecn1", None),
            ("hwmon2", None),
            ("power", None),
        ] {
            assert_eq!(head_of(entry).as_deref(), head, "{entry}");
        }
    }
}
