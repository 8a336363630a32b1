//! Who may drive a function that VFIO has.

use std::os::unix::fs::chown;

use super::address::PciAddress;
use super::function::PciFunction;
use super::paths::HostPaths;
use crate::base::{Error, ErrorKind, Result};

/// Gives the device of a function's IOMMU group to `user`. It stays so until the group's last function leaves VFIO.
///
/// # Errors
/// When the function is in no group that VFIO shows, and when the system refuses.
pub fn hand_over(paths: &HostPaths, address: PciAddress, user: u32) -> Result<()> {
    let function = PciFunction::read(paths, address)?;
    let group = function.iommu_group.ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("{address}: it is in no IOMMU group to give to a user"),
        )
    })?;
    // Without an IOMMU the group has another name, and only root may open it, whoever owns it.
    let device = paths.dev.join("vfio").join(&group);
    chown(&device, Some(user), None).map_err(|error| {
        Error::os(format!("{address}: cannot give {} to user {user}", device.display()), error)
    })
}
