//! What a medium can do: alignment, block sizes, its write cache, punching holes and zeroing.
//!
//! Found out once, at creation, by system calls that may block. Nothing here changes a byte of the
//! medium's contents.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::ptr::NonNull;

use rustix::fs::{
    AtFlags, FallocateFlags, StatxFlags, fallocate, ftruncate, ioctl_blkpbszget, ioctl_blksszget,
    statx,
};
use rustix::io::Errno;
use tracing::debug;

use super::medium::{Medium, MediumKind};
use crate::base::{ByteCount, Error, Result, limits};
use crate::memory::{HugePages, Region};

/// Hole punching and zeroing work on the file system of a regular file and on a block device alike:
/// both by fallocate(2).
pub(super) const PUNCH_HOLE: FallocateFlags =
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
/// Zeroes a range and keeps it allocated.
pub(super) const ZERO_RANGE: FallocateFlags =
    FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

/// What a medium can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Offsets and lengths are multiples of this many bytes.
    pub offset_align: u32,
    /// Addresses of payload memory are multiples of this many bytes.
    pub memory_align: u32,
    /// The block size to take where the user names none, in bytes.
    pub block_size_default: u32,
    /// Writes of less than this cost a read, in bytes.
    pub physical_block_size: u32,
    /// Whether a completed write needs a flush to be durable.
    pub volatile_write_cache: bool,
    /// Whether [`PUNCH_HOLE`] works.
    pub punch_hole: bool,
    /// Whether [`ZERO_RANGE`] works.
    pub zero_range: bool,
    /// The NUMA node that the device is near.
    pub numa_node: Option<u32>,
}

impl Facts {
    pub(super) fn of(medium: &Medium, size: ByteCount) -> Result<Facts> {
        match medium.kind {
            MediumKind::RegularFile => Self::of_file(medium, size),
            MediumKind::BlockDevice => Self::of_block_device(medium),
        }
    }

    fn of_file(medium: &Medium, size: ByteCount) -> Result<Facts> {
        let metadata = medium
            .file
            .metadata()
            .map_err(|error| Error::os("cannot look at the open file", error))?;
        let (offset_align, memory_align) = direct_alignment(medium)?;
        let preferred = u32::try_from(metadata.blksize()).unwrap_or(4096);
        let block_size_default = if preferred.is_power_of_two() { preferred } else { 4096 }
            .clamp(limits::BLOCK_SIZE_MIN as u32, 4096)
            .max(offset_align);
        let (punch_hole, zero_range) =
            if medium.readonly { (false, false) } else { probe_fallocate(medium, size) };
        Ok(Facts {
            offset_align,
            memory_align,
            block_size_default,
            physical_block_size: block_size_default,
            // Even past the page cache a write that extends the file or fills a hole leaves metadata
            // in memory, and the drive below has a cache of its own: fdatasync(2) covers both.
            volatile_write_cache: true,
            punch_hole,
            zero_range,
            numa_node: None,
        })
    }

    fn of_block_device(medium: &Medium) -> Result<Facts> {
        let logical = ioctl_blksszget(&medium.file)
            .map_err(|errno| Error::os("cannot read the logical block size (BLKSSZGET)", errno))?;
        let physical = ioctl_blkpbszget(&medium.file).unwrap_or(logical).max(logical);
        let (_, memory_align) = direct_alignment(medium)?;
        let sysfs = Sysfs::of(medium);
        let attribute = |name: &str| sysfs.as_ref().and_then(|sysfs| sysfs.queue(name));
        let write_back = attribute("write_cache").is_none_or(|text| text != "write through");
        // Punching a hole in a block device zeroes with the device's own command, or fails: it never
        // writes zeros by itself (Linux, blkdev_fallocate with BLKDEV_ZERO_NOFALLBACK). A plain
        // discard would be quicker, but promises nothing about what is read afterwards.
        let zeroes_max = attribute("write_zeroes_max_bytes").and_then(|text| text.parse().ok());
        Ok(Facts {
            offset_align: if medium.direct { logical } else { 1 },
            memory_align,
            block_size_default: logical,
            physical_block_size: physical,
            volatile_write_cache: write_back || !medium.direct,
            punch_hole: !medium.readonly && zeroes_max.is_some_and(|bytes: u64| bytes > 0),
            // The kernel writes zeros where the device has no command for it.
            zero_range: !medium.readonly,
            numa_node: sysfs.and_then(|sysfs| sysfs.numa_node()),
        })
    }
}

/// What O_DIRECT asks of offsets and of memory, in bytes; 1 without O_DIRECT.
fn direct_alignment(medium: &Medium) -> Result<(u32, u32)> {
    if !medium.direct {
        return Ok((1, 1));
    }
    // Linux 6.1 and later tell. Zeros mean that this file does not support it after all.
    if let Ok(answer) = statx(&medium.file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && answer.stx_mask & StatxFlags::DIOALIGN.bits() != 0
        && answer.stx_dio_offset_align != 0
    {
        let pair = (answer.stx_dio_offset_align, answer.stx_dio_mem_align);
        if pair.0.is_power_of_two() && pair.1.is_power_of_two() {
            return Ok(pair);
        }
    }
    if medium.kind == MediumKind::BlockDevice {
        let logical = ioctl_blksszget(&medium.file)
            .map_err(|errno| Error::os("cannot read the logical block size (BLKSSZGET)", errno))?;
        return Ok((logical, logical));
    }
    // Otherwise try: the smallest read that is not refused tells.
    let scratch = Region::allocate(limits::BLOCK_SIZE_MAX as usize, HugePages::Never)?;
    let mut size = limits::BLOCK_SIZE_MIN as usize;
    while size < 4096 {
        let bytes: NonNull<[u8]> = NonNull::slice_from_raw_parts(scratch.start(), size);
        // SAFETY: the region has that many bytes, and nobody else knows of it.
        let bytes = unsafe { &mut *bytes.as_ptr() };
        match medium.file.read_at(bytes, size as u64) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => size *= 2,
            _ => break,
        }
    }
    Ok((size as u32, size as u32))
}

/// Whether the file system punches holes and zeroes ranges in this file.
///
/// Tried beyond the end, where there are no contents. A block that the zeroing allocates there goes
/// again with the truncation to the size that the file has.
fn probe_fallocate(medium: &Medium, size: ByteCount) -> (bool, bool) {
    const LENGTH: u64 = 4096;
    let Some(end) = size.0.checked_next_multiple_of(LENGTH) else { return (false, false) };
    let works = |mode: FallocateFlags| match fallocate(&medium.file, mode, end, LENGTH) {
        // No room and a size limit say nothing about whether the file system knows the operation.
        Ok(()) | Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => true,
        Err(error) => {
            debug!(%error, ?mode, fd = medium.file.as_raw_fd(), "fallocate is refused");
            false
        }
    };
    let zero_range = works(ZERO_RANGE);
    // Somebody who appends in spite of the lock loses nothing by this.
    let unchanged = medium.size().is_ok_and(|now| now == size);
    if zero_range
        && unchanged
        && let Err(error) = ftruncate(&medium.file, size.0)
    {
        debug!(%error, "truncate to the present size");
    }
    (works(PUNCH_HOLE), zero_range)
}

/// A block device's folder in sysfs.
struct Sysfs {
    folder: PathBuf,
}

impl Sysfs {
    fn of(medium: &Medium) -> Option<Sysfs> {
        let device = medium.file.metadata().ok()?.rdev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let folder = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        // A partition lies in the folder of its disk.
        let folder = match folder.join("partition").exists() {
            true => folder.parent()?.to_path_buf(),
            false => folder,
        };
        Some(Sysfs { folder })
    }

    fn queue(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("queue").join(name)).ok()?;
        Some(text.trim().to_string())
    }

    fn numa_node(&self) -> Option<u32> {
        // -1 stands for none.
        fs::read_to_string(self.folder.join("device/numa_node")).ok()?.trim().parse().ok()
    }
}
