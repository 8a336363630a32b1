//! What is asked of the kernel to change something: writes to sysfs, and modules. A trait, so that tests can play
//! the kernel over a tree of plain files.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

use super::isolated;
use crate::base::{Error, ErrorKind, Result};

/// Changes to the host.
pub trait Kernel {
    /// Writes a sysfs attribute.
    ///
    /// # Errors
    /// Of the system; `TimedOut` when the kernel does not come back.
    fn write(&self, path: &Path, value: &str) -> io::Result<()>;

    /// Loads a module.
    ///
    /// # Errors
    /// Says why it could not be.
    fn load_module(&self, module: &str) -> Result<()>;

    /// How long an effect of a write may take to show.
    fn patience(&self) -> Duration;
}

/// The kernel of this machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemKernel {
    timeout: Duration,
}

/// Longer than the kernel's NVMe driver waits for a command (30 s) when it shuts a drive down, and than the delay
/// before it begins to complain of a hung task would be useful to anybody.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Default for SystemKernel {
    fn default() -> Self {
        SystemKernel { timeout: TIMEOUT }
    }
}

impl Kernel for SystemKernel {
    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        isolated::write(path, value.as_bytes(), self.timeout)
    }

    fn load_module(&self, module: &str) -> Result<()> {
        let doing = || format!("cannot load kernel module {module}");
        let mut modprobe = Command::new("modprobe")
            .args(["--", module])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::os(format!("{}: modprobe does not run", doing()), error))?;
        let pid = Pid::from_child(&modprobe);
        let ended =
            isolated::wait_for(pid, self.timeout).map_err(|error| Error::os(doing(), error))?;
        if !ended {
            let text = format!("{}: modprobe has not ended in {:?}", doing(), self.timeout);
            return Err(Error::new(ErrorKind::TimedOut, text));
        }
        let status = modprobe.wait().map_err(|error| Error::os(doing(), error))?;
        if status.success() {
            return Ok(());
        }
        let said = modprobe.stderr.as_mut().map(last_words).unwrap_or_default();
        Err(Error::new(ErrorKind::NotFound, format!("{}: {said} ({status})", doing())))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// What a process that has ended left in its pipe: read only as far as there is something, since a descendant
/// may still hold the other end.
fn last_words(pipe: &mut (impl Read + std::os::fd::AsFd)) -> String {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&at_once));
    let mut buffer = [0; 1024];
    let count =
        if ready.is_ok_and(|ready| ready > 0) { pipe.read(&mut buffer).unwrap_or(0) } else { 0 };
    let text = String::from_utf8_lossy(&buffer[..count]);
    text.lines().next().unwrap_or("it does not say why").to_owned()
}
