//! A socket that clients connect to: one process per path, mode 0600, nothing left behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::base::{Error, Result};

/// Clients that wait to be accepted.
const BACKLOG: i32 = 128;

/// A bound socket with its lock. Dropping it removes both files.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Dropped after the socket file is gone.
    _lock: Lock,
}

/// The file `<socket>.lock`, locked for as long as this lives.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while still locked, so that it cannot be another daemon's.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("removing {}: {error}", self.path.display());
        }
    }
}

impl Lock {
    fn take(path: PathBuf, socket: &Path) -> Result<Lock> {
        let fault = |error: io::Error| Error::os(format!("lock {}", path.display()), error);
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(fault)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let holder = fs::read_to_string(&path).unwrap_or_default();
                    return Err(in_use(socket, holder.trim()));
                }
                Err(error) => return Err(fault(error.into())),
            }
            // Between open and lock the last holder may have removed the file: then it is a lock
            // on nothing, and the next round makes a new one.
            let ours = file.metadata().map_err(fault)?;
            if fs::metadata(&path)
                .is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()))
            {
                file.set_len(0).map_err(fault)?;
                writeln!(file, "{}", std::process::id()).map_err(fault)?;
                return Ok(Lock { path, _file: file });
            }
        }
    }
}

fn in_use(path: &Path, holder: &str) -> Error {
    let holder = match holder {
        "" => "another process".to_owned(),
        pid => format!("process {pid}"),
    };
    Error::new(
        crate::base::ErrorKind::Busy,
        format!("{holder} listens on {} already; stop it, or choose another path", path.display()),
    )
}

/// Removes a socket that a dead daemon left. What is no socket stays.
fn clear_stale(path: &Path) -> Result<()> {
    let fault = |error: io::Error| Error::os(format!("look at {}", path.display()), error);
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(error)),
    };
    if !kind.is_socket() {
        return Err(Error::new(
            crate::base::ErrorKind::Exists,
            format!("{} exists and is no socket; it stays as it is", path.display()),
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(in_use(path, "")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!("removing {}, which a daemon that is gone left", path.display());
            fs::remove_file(path)
                .map_err(|error| Error::os(format!("remove {}", path.display()), error))
        }
        Err(error) => Err(fault(error)),
    }
}

impl Listener {
    /// Binds a socket at `path` for the owner alone.
    ///
    /// # Errors
    /// `Busy` when another process listens there; `Exists` when a file that is no socket is there;
    /// what the system says, for a path that is too long or not writable.
    pub fn bind(path: &Path) -> Result<Listener> {
        let fault = |error: Errno| {
            Error::os(format!("listen on {}", path.display()), io::Error::from(error))
        };
        let address = SocketAddrUnix::new(path).map_err(|error| {
            Error::invalid(format!(
                "the socket path {} cannot be used (107 bytes are possible)",
                path.display()
            ))
            .because(io::Error::from(error))
        })?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = Lock::take(lock_path.into(), path)?;
        clear_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(fault)?;
        // On Linux a socket file gets the mode of its socket: it is never open to others, not even
        // for a moment.
        rustix::fs::fchmod(socket.as_fd(), Mode::RUSR | Mode::WUSR).map_err(fault)?;
        rustix::net::bind(&socket, &address).map_err(fault)?;
        let listener =
            Listener { socket: UnixListener::from(socket), path: path.to_owned(), _lock: lock };
        rustix::net::listen(&listener.socket, BACKLOG).map_err(fault)?;
        Ok(listener)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket, to wait for clients.
    pub fn socket(&self) -> &UnixListener {
        &self.socket
    }

    /// The next client that waits, if one does: a stream that does not block.
    ///
    /// # Errors
    /// What the system says, which is most likely that the process may open no more files.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            return match rustix::net::accept_with(&self.socket, flags) {
                Ok(stream) => Ok(Some(UnixStream::from(stream))),
                Err(Errno::AGAIN) => Ok(None),
                // Whoever waited has left.
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("removing {}: {error}", self.path.display());
        }
    }
}
