//! System calls that may never return, made in a child process.
//!
//! A write to a driver's `unbind` waits until the driver lets go of the device, and a read of a dead drive
//! until the kernel gives up on it; a driver that is stuck keeps the caller in the kernel, deaf to signals, for
//! minutes or for good. A thread would not do: a process with a thread in that state cannot end. So a child
//! makes the call, and the parent waits for it as long as it cares to.
//!
//! The child inherits nothing that somebody else may wait for: it closes all descriptors first, so that a pipe of
//! the parent ends when the parent does.
//!
//! For short-lived tools. A process that has memory mapped for a device had better not fork: pages that are pinned
//! for the device are copied.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid,
};

/// Writes `bytes` to the file at `path` with one system call.
///
/// # Errors
/// Of the open and the write; `TimedOut` when they have not come back after `timeout`. They may still take effect
/// later.
pub fn write(path: &Path, bytes: &[u8], timeout: Duration) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    in_child(timeout, || {
        // SAFETY: system calls on a C string and a slice that the child has its own copy of.
        unsafe {
            let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file < 0 {
                return errno();
            }
            let written = libc::write(file, bytes.as_ptr().cast(), bytes.len());
            match usize::try_from(written) {
                Ok(written) if written == bytes.len() => 0,
                Ok(_) => libc::EIO,
                Err(_) => errno(),
            }
        }
    })
}

/// Opens the file at `path` for reading, with O_EXCL when `exclusive`: for a block device, that fails with EBUSY when
/// a file system, a volume manager or the like has it.
///
/// # Errors
/// As [`write()`].
pub fn try_open(path: &Path, exclusive: bool, timeout: Duration) -> io::Result<()> {
    read(path, exclusive, &[], timeout).map(drop)
}

/// Reads ranges (offset and length) of the file at `path`. What lies beyond its end is missing from the result.
///
/// # Errors
/// As [`write()`].
pub fn read(
    path: &Path,
    exclusive: bool,
    ranges: &[(u64, usize)],
    timeout: Duration,
) -> io::Result<Vec<Vec<u8>>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let header = ranges.len() * size_of::<u64>();
    let total = ranges.iter().map(|(_, length)| length).sum::<usize>() + header;
    let shared = Shared::new(total.max(1))?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | if exclusive { libc::O_EXCL } else { 0 };
    in_child(timeout, || {
        // SAFETY: system calls on a C string and on the shared memory, which is as long as all ranges and the
        // count of bytes of each.
        unsafe {
            let file = libc::open(path.as_ptr(), flags);
            if file < 0 {
                return errno();
            }
            let mut at = header;
            for (index, &(offset, length)) in ranges.iter().enumerate() {
                let mut done = 0;
                while done < length {
                    let into = shared.start.as_ptr().add(at + done);
                    let place = offset.saturating_add(done as u64) as libc::off_t;
                    match libc::pread(file, into.cast(), length - done, place) {
                        0 => break,
                        count if count > 0 => done += count as usize,
                        _ if errno() == libc::EINTR => {}
                        _ => return errno(),
                    }
                }
                shared.start.as_ptr().cast::<u64>().add(index).write(done as u64);
                at += length;
            }
        }
        0
    })?;
    let mut at = header;
    let mut contents = Vec::with_capacity(ranges.len());
    for (index, &(_, length)) in ranges.iter().enumerate() {
        // SAFETY: the child has ended, nobody writes the shared memory any more; the page alignment of the
        // mapping is that of a u64.
        let bytes = unsafe {
            let done = shared.start.as_ptr().cast::<u64>().add(index).read() as usize;
            std::slice::from_raw_parts(shared.start.as_ptr().add(at), done.min(length))
        };
        contents.push(bytes.to_vec());
        at += length;
    }
    Ok(contents)
}

/// Memory that a child process writes and the parent reads.
struct Shared {
    start: NonNull<u8>,
    length: usize,
}

impl Shared {
    fn new(length: usize) -> io::Result<Shared> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::SHARED) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Shared { start, length })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; a child that still has it has its own reference.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn errno() -> i32 {
    // SAFETY: the location is this thread's, always valid.
    unsafe { *libc::__errno_location() }
}

/// Runs `work` in a child. It gives 0 or an errno, and only makes system calls: no allocation, no lock, no
/// panic, since other threads of the parent may have held any lock at the moment of the fork.
fn in_child(timeout: Duration, work: impl FnOnce() -> i32) -> io::Result<()> {
    // SAFETY: the child calls nothing but async-signal-safe functions and ends by `_exit`.
    let pid = unsafe {
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                // Before kernel 5.9 the call does not exist: then at least not the standard streams.
                if libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) != 0 {
                    (0..3).for_each(|descriptor| {
                        libc::close(descriptor);
                    });
                }
                libc::_exit(work().clamp(0, 255));
            }
            pid => Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?,
        }
    };
    if !wait_for(pid, timeout)? {
        // It dies when the kernel lets it; nobody waits for that, and init reaps it after us.
        let _ = kill_process(pid, Signal::KILL);
        return Err(io::ErrorKind::TimedOut.into());
    }
    let status = loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            status => break status?,
        }
    };
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("the child process was killed")),
    }
}

/// Whether the process ended within `timeout`. It is not reaped.
pub(super) fn wait_for(pid: Pid, timeout: Duration) -> io::Result<bool> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_written_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        write(&path, b"vfio-pci\n", PATIENCE).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "vfio-pci\n");
        let missing = write(&folder.path().join("other"), b"x", PATIENCE).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(write(Path::new("a\0b"), b"x", PATIENCE).is_err());
    }

    #[test]
    fn ranges_come_back_as_far_as_there_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, (0..100_u8).collect::<Vec<u8>>()).unwrap();
        let ranges = [(0, 4), (90, 20), (1 << 40, 8)];
        let read = read(&path, false, &ranges, PATIENCE).unwrap();
        assert_eq!(read[0], [0, 1, 2, 3]);
        assert_eq!(read[1], (90..100).collect::<Vec<u8>>());
        assert!(read[2].is_empty());
    }

    #[test]
    fn a_call_that_does_not_return_is_left_behind() {
        // The open of a FIFO waits for the other end, which nobody opens.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            &path,
            rustix::fs::Mode::RUSR.union(rustix::fs::Mode::WUSR),
        )
        .unwrap();
        let error = write(&path, b"x", Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
