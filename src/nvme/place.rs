//! Where a controller is, as an operator writes it, and the transport that leads there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pci::PciAddress;
use super::transport::Transport;
use super::vfio::{self, VfioOptions};
use super::vfio_user::{self, ConnectOptions};
use crate::base::{Error, ErrorKind, Result};
use crate::reactor::Context;

/// A controller's place: SPDK's transport type and address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A PCIe function that is bound to vfio-pci.
    Pcie(PciAddress),
    /// A vfio-user socket, or the directory that it is in.
    VfioUser(PathBuf),
}

impl Place {
    /// Reads SPDK's `trtype` (case does not matter) and `traddr`.
    ///
    /// # Errors
    /// `Unsupported` for other transports, `Invalid` for an address that the transport cannot have.
    pub fn parse(transport: &str, address: &str) -> Result<Place> {
        match transport.to_ascii_lowercase().as_str() {
            "pcie" => Ok(Place::Pcie(address.parse()?)),
            "vfiouser" if address.is_empty() => {
                Err(Error::invalid("the address of a vfio-user controller is a path"))
            }
            "vfiouser" => Ok(Place::VfioUser(PathBuf::from(address))),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("transport '{transport}' (PCIe and VFIOUSER are possible)"),
            )),
        }
    }

    /// Opens the way there.
    ///
    /// # Errors
    /// As the transport says.
    pub async fn open(&self, cx: &Context, options: VfioOptions) -> Result<Arc<dyn Transport>> {
        match self {
            Place::Pcie(address) => vfio::open(&address.to_string(), options).await,
            Place::VfioUser(path) => {
                vfio_user::connect(cx, Path::new(path), &ConnectOptions::default()).await
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Pcie(address) => address.fmt(f),
            Place::VfioUser(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_spdk_writes_them() {
        let pcie = Place::parse("PCIe", "0000:5e:00.0").unwrap();
        assert_eq!(pcie.to_string(), "0000:5e:00.0");
        assert_eq!(Place::parse("pcie", "0000.5e.00.0").unwrap(), pcie);
        let user = Place::parse("VFIOUSER", "/var/run/vfio").unwrap();
        assert_eq!(user, Place::VfioUser("/var/run/vfio".into()));
        assert!(Place::parse("pcie", "/var/run").is_err());
        assert!(Place::parse("vfiouser", "").is_err());
        assert_eq!(Place::parse("TCP", "1.2.3.4").unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
