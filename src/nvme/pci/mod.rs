//! The host's PCI functions: which NVMe drives there are, who uses them, which driver has them, and when they come
//! and go.
//!
//! All of it is read from the kernel's own files, below roots that a test can put elsewhere ([`HostPaths`]); all
//! changes go through [`Kernel`]. Nothing here keeps state but [`PciEvents`], and nothing touches a device's registers:
//! that is the transports' work.

mod address;
mod binding;
mod drive;
mod events;
mod function;
mod iommu;
mod isolated;
mod kernel;
mod paths;
mod permission;
mod signature;
mod uevent;
mod usage;

#[cfg(test)]
mod tests;

pub use address::PciAddress;
pub use binding::{Binder, KERNEL_DRIVER, Outcome};
pub use drive::{BlockDevice, KernelDrive};
pub use events::PciEvents;
pub use function::{Bar, NVME_CLASS, PciFunction, PciIds, VFIO_DRIVER, nvme_functions, unattached};
pub use iommu::{HOW_TO_ENABLE, Iommu};
pub use kernel::{Kernel, SystemKernel};
pub use paths::HostPaths;
pub use permission::hand_over;
pub use signature::{HEAD_BYTES, Image, TAIL_BYTES};
pub use uevent::{PciEvent, PciEventKind};
pub use usage::{InUse, OwnLabel, Reason, driven_by_us, uses};
