//! Mappings of files that another process gave.
//!
//! Such a file is that process's: it may be of any kind and length, and be cut short while it is mapped here.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::fs::{FileType, fstat, fstatfs};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::param::page_size;
use tracing::debug;

use super::sigbus::{Substitute, Watch};
use crate::base::{Error, Result};

/// `f_type` of hugetlbfs (linux/magic.h).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// A range of a file, mapped for reading and writing. Whole pages are mapped; the range is somewhere in them.
#[derive(Debug)]
pub(super) struct SharedMapping {
    start: NonNull<u8>,
    mapping: NonNull<u8>,
    mapped: usize,
    /// Always there, but during the drop and before the mapping is.
    watch: Option<Watch>,
}

impl SharedMapping {
    /// Maps `length` bytes of `file` from `offset` on.
    pub(super) fn new(file: BorrowedFd<'_>, offset: u64, length: usize) -> Result<SharedMapping> {
        let doing = || format!("mapping {length} bytes from {offset:#x} of a file that was given");
        let stat = fstat(file).map_err(|errno| Error::os(doing(), errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::invalid(format!(
                "{}: it is no regular file, memfd or file of hugetlbfs",
                doing()
            )));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if length == 0 || offset > size || length as u64 > size - offset {
            return Err(Error::invalid(format!("{}: the file has {size} bytes", doing())));
        }
        let page = page_of(file).map_err(|errno| Error::os(doing(), errno))?;
        let within = (offset % page as u64) as usize;
        let mapped = within.checked_add(length).and_then(|end| end.checked_next_multiple_of(page));
        let mapped = mapped
            .filter(|&mapped| mapped <= isize::MAX as usize)
            .ok_or_else(|| Error::invalid(format!("{}: the address space is smaller", doing())))?;
        // Pages of hugetlbfs are reserved by this (without MAP_NORESERVE), so that a shortage is an error here and not
        // a fault later. For other shared files the flag has no meaning.
        // SAFETY: a new mapping at an address of the kernel's choice.
        let mapping = unsafe {
            mmap(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset - within as u64,
            )
        }
        .map_err(|errno| Error::os(doing(), errno))?;
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("mmap never returns null");
        // SAFETY: `within` lies in the mapping.
        let start = unsafe { mapping.add(within) };
        // From here on the drop unmaps it.
        let mut shared = SharedMapping { start, mapping, mapped, watch: None };
        // A guest's memory is no part of a core dump of ours.
        let dump = Advice::LinuxDontDump;
        // SAFETY: advice on our own mapping.
        let advised = unsafe { madvise(mapping.as_ptr().cast(), mapped, dump) };
        if let Err(error) = advised {
            debug!(%error, "shared memory would be in a core dump");
        }
        // SAFETY: all of a mapping of ours, whose memory is reached through raw pointers and can change at any time
        // anyhow. The watch ends before the mapping does.
        let watch = unsafe { Watch::over(mapping.as_ptr() as usize, mapped, Substitute::ZerosAll) };
        shared.watch = Some(watch.map_err(|error| error.context(doing()))?);
        Ok(shared)
    }

    /// Where the range starts.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Whether an access found the file cut short.
    pub(super) fn is_lost(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::has_faulted)
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // First, while the range is still ours: a fault in whatever is mapped there next is none of the watch's business.
        self.watch = None;
        // SAFETY: the mapping that `new` made, unmapped once; whoever has a pointer into it keeps the region.
        if let Err(error) = unsafe { munmap(self.mapping.as_ptr().cast(), self.mapped) } {
            debug!(%error, "munmap of shared memory");
        }
    }
}

/// The length of the pages that `file` is mapped in.
fn page_of(file: BorrowedFd<'_>) -> rustix::io::Result<usize> {
    let about = fstatfs(file)?;
    // Compared as the kernel's 32 bits, whatever type the platform gives the field.
    if about.f_type as u32 as u64 != HUGETLBFS_MAGIC {
        return Ok(page_size());
    }
    Ok(usize::try_from(about.f_bsize).unwrap_or(0).max(page_size()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use crate::memory::{PageKind, Region};

    fn file(length: u64) -> OwnedFd {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, length).unwrap();
        file
    }

    fn byte(region: &Region, at: usize) -> u8 {
        assert!(at < region.len());
        // SAFETY: within the region.
        unsafe { region.start().add(at).read_volatile() }
    }

    fn set(region: &Region, at: usize, value: u8) {
        assert!(at < region.len());
        // SAFETY: within the region.
        unsafe { region.start().add(at).write_volatile(value) }
    }

    #[test]
    fn the_range_is_the_files_wherever_it_starts() {
        for (offset, length) in [(0, 3 * 4096), (4096, 4096), (5000, 100), (4095, 2), (8191, 4097)]
        {
            let given = file(3 * 4096);
            let mine = rustix::io::fcntl_dupfd_cloexec(&given, 0).unwrap();
            rustix::io::pwrite(&given, &[7], offset).unwrap();
            let region = Region::map(mine, offset, length).unwrap();
            assert_eq!((region.len(), region.kind()), (length, PageKind::Foreign));
            assert_eq!(byte(&region, 0), 7);
            set(&region, length - 1, 9);
            let mut read = [0];
            rustix::io::pread(&given, &mut read, offset + length as u64 - 1).unwrap();
            assert_eq!(read, [9]);
            assert_eq!(region.backing().unwrap().offset(), offset);
            assert!(!region.is_lost());
        }
    }

    #[test]
    fn ranges_that_are_not_there_are_refused() {
        for (offset, length) in [
            (0, 8193),
            (0, 0),
            (8192, 1),
            (8193, 0),
            (1, 8192),
            (u64::MAX, 1),
            (u64::MAX, usize::MAX),
            (0, usize::MAX),
        ] {
            let error = Region::map(file(8192), offset, length).unwrap_err();
            assert!(error.to_string().contains("8192 bytes"), "{error}");
        }
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = Region::map(socket.into(), 0, 1).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        let device = std::fs::File::open("/dev/zero").unwrap();
        assert!(Region::map(device.into(), 0, 1).is_err());
        let read_only = tempfile::NamedTempFile::new().unwrap();
        read_only.as_file().set_len(4096).unwrap();
        let read_only = std::fs::File::open(read_only.path()).unwrap();
        let error = Region::map(read_only.into(), 0, 1).unwrap_err();
        assert_eq!(error.kind(), crate::base::ErrorKind::AccessDenied, "{error}");
    }

    #[test]
    fn memory_that_is_taken_away_reads_as_zeros() {
        let given = file(16 * 4096);
        let mine = rustix::io::fcntl_dupfd_cloexec(&given, 0).unwrap();
        let region = Region::map(mine, 100, 15 * 4096).unwrap();
        let other = Region::map(file(4096), 0, 4096).unwrap();
        set(&region, 0, 1);
        set(&region, 9 * 4096, 2);
        set(&other, 5, 3);
        ftruncate(&given, 4096).unwrap();
        assert!(!region.is_lost(), "nobody has looked yet");
        assert_eq!(byte(&region, 9 * 4096), 0);
        assert!(region.is_lost());
        // It can be written still, which nobody sees.
        set(&region, 9 * 4096 + 1, 4);
        assert_eq!(byte(&region, 9 * 4096 + 1), 4);
        set(&region, 14 * 4096, 5);
        assert_eq!((byte(&other, 5), other.is_lost()), (3, false));
        // The place in the handler's table serves the next one.
        drop(region);
        assert!(!Region::map(file(4096), 0, 1).unwrap().is_lost());
    }

    #[test]
    fn a_guest_may_have_very_many_regions() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        // Each keeps its descriptor, and others run beside this test.
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        let count = if maximum.is_none_or(|maximum| maximum > 6000) { 4096 } else { 512 };
        let given = file(count * 4096);
        let regions: Vec<Region> = (0..count)
            .map(|index| {
                let mine = rustix::io::fcntl_dupfd_cloexec(&given, 0).unwrap();
                Region::map(mine, index * 4096, 4096).unwrap()
            })
            .collect();
        let count = regions.len();
        ftruncate(&given, (count / 2 * 4096) as u64).unwrap();
        assert_eq!(byte(&regions[count / 2 - 1], 0), 0);
        assert_eq!(byte(&regions[count - 1], 0), 0);
        let lost: Vec<bool> = regions.iter().map(Region::is_lost).collect();
        assert_eq!(lost.iter().position(|&lost| lost), Some(count - 1));
    }

    #[test]
    fn huge_pages_are_mapped_whole() {
        const HUGE: usize = crate::memory::HUGE_PAGE_SIZE;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let given = memfd_create("guest", flags).unwrap();
        ftruncate(&given, 2 * HUGE as u64).unwrap();
        let mine = rustix::io::fcntl_dupfd_cloexec(&given, 0).unwrap();
        let region = match Region::map(mine, HUGE as u64 - 4096, HUGE) {
            Ok(region) => region,
            Err(error) => return eprintln!("skipped, the machine has no huge pages free: {error}"),
        };
        set(&region, 4095, 1);
        set(&region, 4096, 2);
        ftruncate(&given, HUGE as u64).unwrap();
        assert_eq!(byte(&region, HUGE - 1), 0);
        assert!(region.is_lost());
    }
}
