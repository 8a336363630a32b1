//! Which driver has a function: giving NVMe controllers to VFIO, and back to the kernel.
//!
//! `driver_override` names the only driver that may have the function; then the present driver is told to let go and the
//! kernel to look for a driver again. Whether that happened is seen from the function's `driver` link. A step that
//! fails is undone, so that a drive does not stay without a driver.

use std::path::Path;
use std::time::{Duration, Instant};

use super::address::PciAddress;
use super::function::{PciFunction, VFIO_DRIVER};
use super::iommu;
use super::kernel::Kernel;
use super::paths::HostPaths;
use super::usage::{InUse, OwnLabel, uses};
use crate::base::{Error, ErrorKind, Result};

/// The kernel's own driver.
pub const KERNEL_DRIVER: &str = "nvme";

/// What became of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was as asked for.
    Already,
    /// Its driver changed.
    Changed {
        /// The one before.
        from: Option<String>,
    },
    /// It is in use, and nothing was done.
    Refused(Vec<InUse>),
}

/// Changes drivers of functions.
pub struct Binder<'a> {
    /// Where the kernel shows its state.
    pub paths: &'a HostPaths,
    /// Who changes it.
    pub kernel: &'a dyn Kernel,
    /// Takes drives that are in use, too.
    pub force: bool,
    /// Knows what of Weft's own may be on a drive.
    pub own: OwnLabel<'a>,
}

impl Binder<'_> {
    /// Gives the function to `driver`, by default [`VFIO_DRIVER`].
    ///
    /// # Errors
    /// When there is no such function or driver, when it is no NVMe controller, when there is no IOMMU that VFIO needs,
    /// and when the kernel refuses or does not come back.
    pub fn bind(&self, address: PciAddress, driver: &str) -> Result<Outcome> {
        let function = PciFunction::read(self.paths, address)?;
        check_nvme(&function)?;
        check_name(driver)?;
        if function.driver.as_deref() == Some(driver) {
            return Ok(Outcome::Already);
        }
        if let Some(refused) = self.refused(&function) {
            return Ok(refused);
        }
        self.need_driver(driver)?;
        if driver == VFIO_DRIVER && function.iommu_group.is_none() {
            iommu::check(self.paths).map_err(|error| error.context(address))?;
        }
        self.write(&function, &function.folder().join("driver_override"), driver)?;
        let changed = self.rebind(&function).and_then(|now| match now {
            Some(now) if now == driver => Ok(()),
            now => Err(Error::new(ErrorKind::Io, not_taken(&function, driver, now.as_deref()))),
        });
        match changed {
            Ok(()) => Ok(Outcome::Changed { from: function.driver }),
            // With a stuck driver every further write would wait as well.
            Err(error) if error.kind() == ErrorKind::TimedOut => Err(error),
            Err(error) => Err(self.undo(&function, error)),
        }
    }

    /// Gives the function back to the kernel's driver.
    ///
    /// # Errors
    /// As [`Binder::bind`].
    pub fn unbind(&self, address: PciAddress) -> Result<Outcome> {
        let function = PciFunction::read(self.paths, address)?;
        check_nvme(&function)?;
        if function.driver_override.is_none() && function.driver.as_deref() == Some(KERNEL_DRIVER) {
            return Ok(Outcome::Already);
        }
        if let Some(refused) = self.refused(&function) {
            return Ok(refused);
        }
        // A kernel may have another driver for it, or the driver built in under another name.
        let loaded = self.need_driver(KERNEL_DRIVER);
        self.write(&function, &function.folder().join("driver_override"), "\n")?;
        match self.rebind(&function)? {
            Some(_) => Ok(Outcome::Changed { from: function.driver }),
            None => {
                let text = format!(
                    "{address}: no driver of the kernel took it (see dmesg, and whether module {KERNEL_DRIVER} is there)"
                );
                let error = Error::new(ErrorKind::Io, text);
                Err(match loaded {
                    Ok(()) => error,
                    Err(cause) => error.because(cause),
                })
            }
        }
    }

    fn refused(&self, function: &PciFunction) -> Option<Outcome> {
        if self.force {
            return None;
        }
        let uses = uses(self.paths, function, self.own);
        uses.iter().any(InUse::refuses).then_some(Outcome::Refused(uses))
    }

    /// Takes the function from its driver, lets the kernel look for another, and gives the one that has it then.
    fn rebind(&self, function: &PciFunction) -> Result<Option<String>> {
        let address = function.address.to_string();
        if let Some(driver) = &function.driver {
            let unbind = self.paths.pci_driver(driver).join("unbind");
            if let Err(error) = self.write(function, &unbind, &address) {
                // It may have lost its driver meanwhile.
                if error.kind() == ErrorKind::TimedOut || self.driver(function)?.is_some() {
                    return Err(error);
                }
            }
        }
        self.write(function, &self.paths.sys.join("bus/pci/drivers_probe"), &address)?;
        self.settled(function)
    }

    /// The driver of a function that has been probed, as soon as it has one.
    fn settled(&self, function: &PciFunction) -> Result<Option<String>> {
        // A probe that goes on behind our back takes milliseconds.
        const INTERVAL: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + self.kernel.patience();
        loop {
            let driver = self.driver(function)?;
            if driver.is_some() || Instant::now() >= deadline {
                return Ok(driver);
            }
            std::thread::sleep(INTERVAL);
        }
    }

    fn driver(&self, function: &PciFunction) -> Result<Option<String>> {
        Ok(PciFunction::read(self.paths, function.address)?.driver)
    }

    /// Gives a function back to whatever had it, after `error`.
    fn undo(&self, function: &PciFunction, error: Error) -> Error {
        let before = function.driver_override.as_deref().unwrap_or("\n");
        let undone = self
            .write(function, &function.folder().join("driver_override"), before)
            .and_then(|()| self.driver(function))
            .and_then(|now| match now {
                // It never left, or had none before.
                now if now == function.driver => Ok(now),
                _ => self
                    .write(
                        function,
                        &self.paths.sys.join("bus/pci/drivers_probe"),
                        &function.address.to_string(),
                    )
                    .and_then(|()| self.settled(function)),
            });
        let state = match undone {
            Ok(now) if now == function.driver => "it is as it was".to_owned(),
            Ok(now) => format!("its driver is now {}", now.as_deref().unwrap_or("none")),
            Err(failed) => format!("and it could not be put back: {failed}"),
        };
        Error::new(error.kind(), format!("{error} ({state})"))
    }

    fn need_driver(&self, driver: &str) -> Result<()> {
        let folder = self.paths.pci_driver(driver);
        if folder.is_dir() {
            return Ok(());
        }
        self.kernel.load_module(driver)?;
        if folder.is_dir() {
            return Ok(());
        }
        let text =
            format!("kernel module {driver} is loaded, but there is no PCI driver of that name");
        Err(Error::new(ErrorKind::NotFound, text))
    }

    fn write(&self, function: &PciFunction, path: &Path, value: &str) -> Result<()> {
        self.kernel.write(path, value).map_err(|error| {
            let doing = format!("{}: write to {}", function.address, path.display());
            if error.kind() == std::io::ErrorKind::TimedOut {
                let driver = function.driver.as_deref().unwrap_or("none");
                let text = format!(
                    "{doing}: the kernel has not finished in time; driver {driver} does not let go, because the \
                     drive does not answer or a process still has it open (see dmesg). It may still finish later"
                );
                return Error::new(ErrorKind::TimedOut, text);
            }
            let hint = match error.kind() {
                std::io::ErrorKind::PermissionDenied => " (it takes root)",
                std::io::ErrorKind::ReadOnlyFilesystem => {
                    " (sysfs is read-only here: run it on the host, not in a container)"
                }
                _ => "",
            };
            Error::os(format!("{doing}{hint}"), error)
        })
    }
}

fn check_nvme(function: &PciFunction) -> Result<()> {
    if function.is_nvme() {
        return Ok(());
    }
    let text = format!(
        "{}: a function of class {:06x} is no NVMe controller (weft nvme list shows those)",
        function.address, function.class
    );
    Err(Error::invalid(text))
}

/// A driver's name becomes part of a path.
fn check_name(driver: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !driver.is_empty() && driver.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::invalid(format!("'{driver}' is no name of a driver")))
}

fn not_taken(function: &PciFunction, driver: &str, now: Option<&str>) -> String {
    let address = function.address;
    match now {
        Some(now) => format!("{address}: driver {now} has it instead of {driver}"),
        None if driver == VFIO_DRIVER && function.iommu_group.is_none() => format!(
            "{address}: {driver} did not take it: the function is in no IOMMU group (weft host check)"
        ),
        None => format!("{address}: {driver} did not take it (see dmesg)"),
    }
}
