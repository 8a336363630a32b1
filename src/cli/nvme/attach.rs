//! `weft nvme attach`, `detach` and `reset`: controllers of the daemon.

use clap::Args;
use serde_json::{Value, json};

use crate::base::{Error, Result};
use crate::cli::output::{Format, print_json};
use crate::cli::session::Session;
use crate::nvme::pci::{HostPaths, PciAddress, PciFunction, VFIO_DRIVER};

/// Attaches a controller: a bdev for each of its namespaces, named NAMEn1, NAMEn2, …
#[derive(Debug, Args)]
pub struct AttachCommand {
    /// Name for the controller
    name: String,
    /// Where it is: a PCI address, or the folder of a vfio-user socket
    #[arg(value_name = "ADDRESS|DIR")]
    address: String,
    /// I/O queues to ask for
    #[arg(long, value_name = "COUNT")]
    queues: Option<u32>,
    /// NQN that this host calls itself by
    #[arg(long, value_name = "NQN")]
    hostnqn: Option<String>,
}

/// Detaches a controller: its bdevs go away
#[derive(Debug, Args)]
pub struct DetachCommand {
    /// The controller
    name: String,
}

/// Resets a controller
#[derive(Debug, Args)]
pub struct ResetCommand {
    /// The controller
    name: String,
}

impl AttachCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the daemon answers, and why that may be.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        let place = place(&self.address)?;
        let mut params = json!({"name": self.name, "trtype": place.kind, "traddr": place.address});
        if let Some(queues) = self.queues {
            params["num_io_queues"] = queues.into();
        }
        if let Some(hostnqn) = &self.hostnqn {
            params["hostnqn"] = hostnqn.as_str().into();
        }
        let bdevs =
            session.call("bdev_nvme_attach_controller", params).map_err(|error| {
                match place.pci.and_then(|pci| hint(&HostPaths::system(), pci)) {
                    Some(hint) => Error::new(error.kind(), format!("{error} ({hint})")),
                    None => error,
                }
            })?;
        match session.format() {
            Format::Json => print_json(&bdevs),
            Format::Text => {
                let names: Vec<&str> =
                    bdevs.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                if names.is_empty() {
                    println!("{} has no namespaces that can be used", self.name);
                }
                names.iter().for_each(|name| println!("{name}"));
            }
        }
        Ok(())
    }
}

impl DetachCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        done(session, "bdev_nvme_detach_controller", &self.name)
    }
}

impl ResetCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        done(session, "bdev_nvme_reset_controller", &self.name)
    }
}

fn done(session: &mut Session, method: &str, name: &str) -> Result<()> {
    let answer = session.call(method, json!({ "name": name }))?;
    if session.format() == Format::Json {
        print_json(&answer);
    }
    Ok(())
}

/// Where a controller is, in the words of the RPC.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    kind: &'static str,
    address: String,
    pci: Option<PciAddress>,
}

fn place(address: &str) -> Result<Place> {
    if address.contains('/') {
        // The daemon has another working folder.
        let path = std::path::absolute(address)
            .map_err(|error| Error::os(format!("'{address}' is no path"), error))?;
        let path = path.to_string_lossy().into_owned();
        return Ok(Place { kind: "VFIOUSER", address: path, pci: None });
    }
    let pci: PciAddress = address.parse().map_err(|error: Error| {
        Error::invalid(format!("{error}, nor a folder with a vfio-user socket (write ./{address})"))
    })?;
    Ok(Place { kind: "PCIe", address: pci.to_string(), pci: Some(pci) })
}

/// What is likely to be wrong with a function that could not be attached.
fn hint(paths: &HostPaths, address: PciAddress) -> Option<String> {
    let Ok(function) = PciFunction::read(paths, address) else {
        return Some(format!(
            "there is no PCI function {address}; weft nvme list shows the drives"
        ));
    };
    match function.driver.as_deref() {
        Some(VFIO_DRIVER) => None,
        driver => Some(format!(
            "its driver is {}, not {VFIO_DRIVER}: weft nvme bind {address}",
            driver.unwrap_or("none")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_how_it_is_reached() {
        let place_of = |text: &str| place(text).map(|place| (place.kind, place.address)).unwrap();
        assert_eq!(place_of("01:00.0"), ("PCIe", "0000:01:00.0".into()));
        assert_eq!(place_of("/run/target"), ("VFIOUSER", "/run/target".into()));
        let (kind, path) = place_of("./target");
        assert!(kind == "VFIOUSER" && path.starts_with('/') && path.ends_with("/target"));
        let error = place("target").unwrap_err().to_string();
        assert!(error.contains("./target"), "{error}");
    }

    #[test]
    fn a_function_without_vfio_gets_a_hint() {
        let root = tempfile::tempdir().unwrap();
        let paths = HostPaths::below(root.path());
        let address: PciAddress = "01:00.0".parse().unwrap();
        assert!(hint(&paths, address).unwrap().contains("no PCI function"));
        let folder = paths.sys.join("bus/pci/devices/0000:01:00.0");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("class"), "0x010802\n").unwrap();
        assert!(hint(&paths, address).unwrap().contains("weft nvme bind 0000:01:00.0"));
        std::os::unix::fs::symlink("../drivers/vfio-pci", folder.join("driver")).unwrap();
        assert_eq!(hint(&paths, address), None);
    }
}
