//! Connecting, without blocking the reactor.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::base::{Error, ErrorKind, Result};
use crate::reactor::{Context, Tsc};

/// How long to wait before a server with a full backlog is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// Connects to the server that listens at `path`: a socket that does not block. `protocol` is what messages begin with.
///
/// # Errors
/// When nobody listens there, or nobody accepts within `patience`.
pub async fn connect(
    cx: &Context,
    protocol: &str,
    path: &Path,
    patience: Duration,
) -> Result<OwnedFd> {
    let doing = || format!("{protocol} {}", path.display());
    let address = SocketAddrUnix::new(path).map_err(|errno| {
        Error::invalid(format!("{}: the path of a socket has 107 bytes at most", doing()))
            .because(std::io::Error::from(errno))
    })?;
    let failed = |errno: Errno| Error::os(doing(), errno);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(failed)?;
    let end = Tsc::read().after(Tsc::ticks(patience));
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // The server has others to accept first.
            Err(Errno::AGAIN) if Tsc::read() < end => cx.sleep(RETRY).await,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("{}: the server accepted nobody within {patience:?}", doing()),
                ));
            }
            Err(Errno::NOENT) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{}: no such socket; is the server running?", doing()),
                ));
            }
            Err(Errno::CONNREFUSED) => {
                return Err(Error::new(
                    ErrorKind::NoDevice,
                    format!("{}: nobody listens there; is the server running?", doing()),
                ));
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
}
