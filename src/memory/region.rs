//! Regions: runs of memory that devices may address.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use tracing::debug;

use crate::base::{Error, Result};

/// Size of a huge page, in bytes (x86-64 and the usual arm64 configuration).
pub const HUGE_PAGE_SIZE: usize = 2 << 20;

/// When to take huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HugePages {
    /// Reserved huge pages where the system has enough free, else ordinary memory that asks the
    /// kernel for transparent huge pages.
    #[default]
    Try,
    /// Reserved huge pages or an error.
    Require,
    /// Ordinary memory.
    Never,
}

/// Whether another process can be given the memory: a device that is emulated by another process
/// reaches payload memory only through the file behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Huge pages can be shared, since that costs nothing; ordinary memory cannot, since the kernel
    /// gives transparent huge pages to private memory more readily.
    #[default]
    WhereFree,
    /// All of it.
    Always,
}

/// The file behind memory that can be shared with another process.
#[derive(Clone, Debug)]
pub struct Backing {
    file: Arc<OwnedFd>,
    offset: u64,
}

impl Backing {
    /// The memory of a region that lies in `file` from `offset` bytes on.
    pub fn new(file: Arc<OwnedFd>, offset: u64) -> Backing {
        Backing { file, offset }
    }

    /// The file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where in the file the region starts, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// What a region of ours is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Reserved huge pages: never swapped, never moved.
    Huge,
    /// Ordinary pages; the kernel may back them by transparent huge pages.
    Ordinary,
    /// Mapped by somebody else.
    Foreign,
}

/// A run of memory, aligned to [`HUGE_PAGE_SIZE`] when it is ours.
///
/// Owns the mapping (unless foreign) and unmaps it when dropped. The bytes are shared with devices:
/// nobody holds a Rust reference to them while a device may write.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    length: usize,
    kind: PageKind,
    /// What was mapped, for the unmap: alignment costs slack on both sides.
    mapping: Option<(NonNull<u8>, usize)>,
    backing: Option<Backing>,
}

// SAFETY: a region is an address range; it gives out raw pointers only, and what is done with those
// is answered for where it is done.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A fresh region of at least `length` bytes of zeros, rounded up to whole huge pages.
    ///
    /// # Errors
    /// `NoMemory` when the system has not got it: with [`HugePages::Require`], when it has not got
    /// enough free reserved huge pages (`/proc/sys/vm/nr_hugepages`).
    pub fn allocate(length: usize, huge_pages: HugePages) -> Result<Region> {
        Self::allocate_shared(length, huge_pages, Sharing::WhereFree)
    }

    /// The same, with a say in whether other processes can be given the memory.
    ///
    /// # Errors
    /// As [`Region::allocate`].
    pub fn allocate_shared(
        length: usize,
        huge_pages: HugePages,
        sharing: Sharing,
    ) -> Result<Region> {
        let length = length
            .checked_next_multiple_of(HUGE_PAGE_SIZE)
            .filter(|&rounded| rounded > 0 && rounded <= isize::MAX as usize)
            .ok_or_else(|| Error::invalid(format!("a memory region of {length} bytes")))?;
        if huge_pages != HugePages::Never {
            match Self::map_huge(length) {
                Ok(region) => return Ok(region),
                Err(error) if huge_pages == HugePages::Require => return Err(error),
                Err(error) => debug!(%error, "ordinary memory instead of huge pages"),
            }
        }
        Self::map_ordinary(length, huge_pages != HugePages::Never, sharing)
    }

    fn map_huge(length: usize) -> Result<Region> {
        let pages = length / HUGE_PAGE_SIZE;
        let doing = || format!("cannot map {pages} huge pages (see /proc/sys/vm/nr_hugepages)");
        let file = memory_file(length, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
            .map_err(|errno| Error::os(doing(), errno))?;
        // A shortage of huge pages does not show as SIGBUS at first touch: the kernel reserves the pages
        // at mmap time, so a successful mapping is backed.
        // SAFETY: a new mapping of our own file at an address of the kernel's choice.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        }
        .map_err(|errno| Error::os(doing(), errno))?;
        let start = NonNull::new(start.cast()).expect("mmap never returns null");
        Ok(Region {
            start,
            length,
            kind: PageKind::Huge,
            mapping: Some((start, length)),
            backing: Some(Backing::new(Arc::new(file), 0)),
        })
    }

    fn map_ordinary(
        length: usize,
        transparent_huge_pages: bool,
        sharing: Sharing,
    ) -> Result<Region> {
        let mapped = length + HUGE_PAGE_SIZE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let doing = || format!("cannot map {mapped} bytes of memory");
        // Address space first, so that the memory can be placed in it where the alignment is right.
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let mapping = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                protection,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|errno| Error::os(doing(), errno))?;
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("mmap never returns null");
        let slack = mapping.as_ptr().align_offset(HUGE_PAGE_SIZE);
        // SAFETY: `slack < HUGE_PAGE_SIZE`, and that much more than `length` was mapped.
        let start = unsafe { mapping.add(slack) };
        let mut region = Region {
            start,
            length,
            kind: PageKind::Ordinary,
            mapping: Some((mapping, mapped)),
            backing: None,
        };
        if sharing == Sharing::Always {
            let file = memory_file(length, MemfdFlags::empty())
                .map_err(|errno| Error::os(doing(), errno))?;
            // SAFETY: it replaces a part of the mapping above, which is ours and unused.
            unsafe {
                mmap(
                    start.as_ptr().cast(),
                    length,
                    protection,
                    MapFlags::SHARED | MapFlags::FIXED,
                    &file,
                    0,
                )
            }
            .map_err(|errno| Error::os(doing(), errno))?;
            region.backing = Some(Backing::new(Arc::new(file), 0));
        }
        if transparent_huge_pages {
            // SAFETY: advice on our own mapping; it changes no contents.
            let advice = unsafe {
                rustix::mm::madvise(
                    start.as_ptr().cast(),
                    length,
                    rustix::mm::Advice::LinuxHugepage,
                )
            };
            if let Err(error) = advice {
                debug!(%error, "no transparent huge pages");
            }
        }
        Ok(region)
    }

    /// A region over memory that somebody else mapped and unmaps, such as a guest's.
    ///
    /// # Safety
    /// `start .. start + length` stays mapped, readable and writable, until the region is dropped.
    pub unsafe fn foreign(start: NonNull<u8>, length: usize) -> Region {
        Region { start, length, kind: PageKind::Foreign, mapping: None, backing: None }
    }

    /// Names the file that holds a foreign region's memory.
    #[must_use]
    pub fn backed_by(mut self, backing: Backing) -> Region {
        self.backing = Some(backing);
        self
    }

    /// The file that holds the memory, where another process can be given it.
    pub fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }

    /// Where it starts.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds no bytes (only a foreign region may).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What it is made of.
    pub fn kind(&self) -> PageKind {
        self.kind
    }

    /// Whether all of `address .. address + length` lies within.
    #[inline]
    pub fn contains(&self, address: *const u8, length: usize) -> bool {
        let offset = (address as usize).wrapping_sub(self.start.as_ptr() as usize);
        offset <= self.length && length <= self.length - offset
    }
}

/// A file of `length` bytes that has no name and lives in memory.
fn memory_file(length: usize, kind: MemfdFlags) -> rustix::io::Result<OwnedFd> {
    let file = memfd_create("weft", MemfdFlags::CLOEXEC | kind)?;
    ftruncate(&file, length as u64)?;
    Ok(file)
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some((start, length)) = self.mapping {
            // SAFETY: this is the mapping that `allocate` made, unmapped once; the registry and
            // the pools drop a region only when no device uses it.
            if let Err(error) = unsafe { munmap(start.as_ptr().cast(), length) } {
                debug!(%error, "munmap of a region");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_memory_is_aligned_and_zero() {
        let region = Region::allocate(5000, HugePages::Never).unwrap();
        assert_eq!(region.len(), HUGE_PAGE_SIZE);
        assert_eq!(region.start().as_ptr().align_offset(HUGE_PAGE_SIZE), 0);
        // SAFETY: within the region, which nobody else uses.
        assert_eq!(unsafe { region.start().add(HUGE_PAGE_SIZE - 1).read() }, 0);
        assert!(region.contains(region.start().as_ptr(), HUGE_PAGE_SIZE));
        assert!(!region.contains(region.start().as_ptr(), HUGE_PAGE_SIZE + 1));
        assert!(!region.contains(std::ptr::null(), 1));
    }

    #[test]
    fn shared_memory_can_be_mapped_again() {
        let region = Region::allocate_shared(1, HugePages::Never, Sharing::Always).unwrap();
        assert_eq!(region.start().as_ptr().align_offset(HUGE_PAGE_SIZE), 0);
        // SAFETY: within the region, which nobody else uses.
        unsafe { region.start().add(4097).write(0x5a) };
        let backing = region.backing().unwrap();
        let mut byte = [0];
        rustix::io::pread(backing.file(), &mut byte, backing.offset() + 4097).unwrap();
        assert_eq!(byte, [0x5a]);
        assert!(Region::allocate(1, HugePages::Never).unwrap().backing().is_none());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(Region::allocate(usize::MAX, HugePages::Try).is_err());
        assert!(Region::allocate(0, HugePages::Never).is_err());
        assert!(Region::allocate(1 << 60, HugePages::Require).is_err());
    }
}
