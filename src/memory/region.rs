//! Regions: runs of memory that devices may address.

use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
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
        Self::map_ordinary(length, huge_pages != HugePages::Never)
    }

    fn map_huge(length: usize) -> Result<Region> {
        // Without POPULATE a shortage of huge pages would only show as SIGBUS at first touch; the
        // kernel reserves the pages at mmap time, so a successful mapping is backed.
        let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)
        }
        .map_err(|errno| {
            let pages = length / HUGE_PAGE_SIZE;
            Error::os(
                format!("cannot map {pages} huge pages (see /proc/sys/vm/nr_hugepages)"),
                errno,
            )
        })?;
        let start = NonNull::new(start.cast()).expect("mmap never returns null");
        Ok(Region { start, length, kind: PageKind::Huge, mapping: Some((start, length)) })
    }

    fn map_ordinary(length: usize, transparent_huge_pages: bool) -> Result<Region> {
        let mapped = length + HUGE_PAGE_SIZE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let mapping = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|errno| Error::os(format!("cannot map {mapped} bytes of memory"), errno))?;
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("mmap never returns null");
        let slack = mapping.as_ptr().align_offset(HUGE_PAGE_SIZE);
        // SAFETY: `slack < HUGE_PAGE_SIZE`, and that much more than `length` was mapped.
        let start = unsafe { mapping.add(slack) };
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
        Ok(Region { start, length, kind: PageKind::Ordinary, mapping: Some((mapping, mapped)) })
    }

    /// A region over memory that somebody else mapped and unmaps, such as a guest's.
    ///
    /// # Safety
    /// `start .. start + length` stays mapped, readable and writable, until the region is dropped.
    pub unsafe fn foreign(start: NonNull<u8>, length: usize) -> Region {
        Region { start, length, kind: PageKind::Foreign, mapping: None }
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
    fn absurd_sizes_are_refused() {
        assert!(Region::allocate(usize::MAX, HugePages::Try).is_err());
        assert!(Region::allocate(0, HugePages::Never).is_err());
        assert!(Region::allocate(1 << 60, HugePages::Require).is_err());
    }
}
