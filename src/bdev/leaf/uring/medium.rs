//! Opens the file or block device, and keeps others from writing to it at the same time.
//!
//! The lock belongs to the open file description that the rings use. So it lives until the
//! kernel has given up the last I/O, also when the process is killed: a successor cannot start
//! while writes of its predecessor are still on their way to the medium.
//!
//! Everything here may block and runs at creation only.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind as IoErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, SeekFrom, fcntl_getfl, fcntl_setfl, seek};
use tracing::warn;

use crate::base::{ByteCount, Error, ErrorKind, Result};

/// How long to wait between two attempts to lock.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// What kind of file a medium is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediumKind {
    RegularFile,
    BlockDevice,
}

/// How to open a medium.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenMode {
    pub readonly: bool,
    /// Bypass the page cache where the medium allows.
    pub direct: bool,
    /// How long to wait for a lock that somebody holds.
    pub lock_patience: Duration,
}

/// An open and locked file or block device.
#[derive(Debug)]
pub(super) struct Medium {
    pub file: File,
    pub kind: MediumKind,
    pub readonly: bool,
    /// Whether I/O bypasses the page cache.
    pub direct: bool,
}

impl Medium {
    pub(super) fn open(path: &Path, mode: OpenMode) -> Result<Medium> {
        let shown = path.display();
        let metadata = std::fs::metadata(path)
            .map_err(|error| Error::os(format!("cannot look at '{shown}'"), error))?;
        let kind = kind_of(path, &metadata)?;
        let deadline = Instant::now() + mode.lock_patience;
        loop {
            match Self::try_open(path, kind, &metadata, mode) {
                Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                    thread::sleep(LOCK_RETRY);
                }
                opened => return opened,
            }
        }
    }

    fn try_open(
        path: &Path,
        kind: MediumKind,
        metadata: &Metadata,
        mode: OpenMode,
    ) -> Result<Medium> {
        let shown = path.display();
        let (file, direct) = match Self::open_file(path, kind, mode, mode.direct) {
            // open(2): EINVAL when the file system does not support O_DIRECT.
            Err(error) if mode.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                warn!(path = %shown, "no O_DIRECT here: I/O goes through the page cache");
                (Self::open_file(path, kind, mode, false), false)
            }
            opened => (opened, mode.direct),
        };
        let file = file.map_err(|error| open_error(path, kind, mode, error))?;
        let opened = file
            .metadata()
            .map_err(|error| Error::os(format!("cannot look at the open '{shown}'"), error))?;
        if (opened.dev(), opened.ino()) != (metadata.dev(), metadata.ino()) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("'{shown}' was replaced while it was being opened: try again"),
            ));
        }
        // O_NONBLOCK kept open() from waiting on a FIFO that took the file's place. It must go:
        // io_uring fails requests on such a file with EAGAIN instead of waiting for them.
        let cleared = fcntl_getfl(&file)
            .and_then(|flags| fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK)));
        cleared.map_err(|errno| Error::os(format!("cannot set the flags of '{shown}'"), errno))?;
        if kind == MediumKind::RegularFile {
            lock(&file, path, mode.readonly)?;
        }
        Ok(Medium { file, kind, readonly: mode.readonly, direct })
    }

    fn open_file(path: &Path, kind: MediumKind, mode: OpenMode, direct: bool) -> io::Result<File> {
        let mut flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        if direct {
            flags |= libc::O_DIRECT;
        }
        // open(2): without O_CREAT, O_EXCL on a block device fails with EBUSY when the device is in
        // use: mounted, a member of an array, or opened like this by another.
        if kind == MediumKind::BlockDevice && !mode.readonly {
            flags |= libc::O_EXCL;
        }
        OpenOptions::new().read(true).write(!mode.readonly).custom_flags(flags).open(path)
    }

    /// The size at this moment.
    pub(super) fn size(&self) -> io::Result<ByteCount> {
        match self.kind {
            MediumKind::RegularFile => Ok(ByteCount(self.file.metadata()?.len())),
            // The end of a block device is its size; all I/O here names its offset, so nobody
            // minds the file position.
            MediumKind::BlockDevice => Ok(ByteCount(seek(&self.file, SeekFrom::End(0))?)),
        }
    }
}

fn kind_of(path: &Path, metadata: &Metadata) -> Result<MediumKind> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return Ok(MediumKind::RegularFile);
    } else if kind.is_block_device() {
        return Ok(MediumKind::BlockDevice);
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "of an unknown type"
    };
    Err(Error::invalid(format!(
        "'{}' is {what}: name a regular file or a block device",
        path.display()
    )))
}

fn open_error(path: &Path, kind: MediumKind, mode: OpenMode, error: io::Error) -> Error {
    let shown = path.display();
    let denied =
        matches!(error.kind(), IoErrorKind::PermissionDenied | IoErrorKind::ReadOnlyFilesystem);
    if error.raw_os_error() == Some(libc::EBUSY) && kind == MediumKind::BlockDevice {
        return Error::os(
            format!("'{shown}' is in use: mounted, part of an array, or held by another process"),
            error,
        );
    }
    if denied && !mode.readonly {
        let what = format!("cannot open '{shown}' for writing (set readonly to only read it)");
        return Error::new(ErrorKind::AccessDenied, what).because(error);
    }
    Error::os(format!("cannot open '{shown}'"), error)
}

/// Takes an open file description lock on the whole file (fcntl(2), F_OFD_SETLK): exclusive to
/// write, shared to read. It conflicts with such locks of others, QEMU's among them, and with POSIX
/// record locks.
fn lock(file: &File, path: &Path, readonly: bool) -> Result<()> {
    let shown = path.display();
    // SAFETY: `flock` is plain data for which zeros are a valid value. (Its fields differ between
    // architectures, so that it cannot be written out.)
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    let kind = if readonly { libc::F_RDLCK } else { libc::F_WRLCK };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: `range` lives through the call, which only reads it.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut range) };
    if outcome == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "'{shown}' is locked by another bdev or process (lslocks names it): two writers \
                 would destroy its contents"
            ),
        )),
        Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => {
            warn!(path = %shown, %error, "no locks here: nothing keeps a second writer away");
            Ok(())
        }
        _ => Err(Error::os(format!("cannot lock '{shown}'"), error)),
    }
}
