//! Regions: runs of memory that devices may address.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use tracing::debug;

#[cfg(feature = "dpdk")]
use super::dpdk;
use super::numa;
use super::page::{Backing, DeviceAddresses, HUGE_PAGE_SIZE, HugePages, PageKind};
use super::shared::SharedMapping;
use super::source::{RegionOptions, Sharing, Source};
use crate::base::{Error, Result};

/// A run of memory, aligned to [`HUGE_PAGE_SIZE`] when it is ours.
///
/// Owns the mapping (unless foreign) and unmaps it when dropped. The bytes are shared with devices:
/// nobody holds a Rust reference to them while a device may write.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    length: usize,
    kind: PageKind,
    backing: Option<Backing>,
    addresses: Option<DeviceAddresses>,
    owner: Owner,
}

/// Whose the memory is.
#[derive(Debug)]
enum Owner {
    /// Somebody else's.
    Foreign,
    /// Ours. What was mapped, for the unmap: alignment costs slack on both sides.
    Mapped(NonNull<u8>, usize),
    /// Another process's, which gave the file.
    Shared(SharedMapping),
    /// DPDK's; goes back when dropped.
    #[cfg(feature = "dpdk")]
    Dpdk(#[expect(dead_code, reason = "held for its drop")] dpdk::Block),
}

// SAFETY: a region is an address range; it gives out raw pointers only, and what is done with those
// is answered for where it is done.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A fresh region of at least `length` bytes of zeros, rounded up to whole huge pages, as
    /// [`RegionOptions`] or just [`HugePages`] say.
    ///
    /// # Errors
    /// `NoMemory` when the system has not got it: with [`HugePages::Require`], when it has not got
    /// enough free reserved huge pages (`/proc/sys/vm/nr_hugepages`).
    pub fn allocate(length: usize, options: impl Into<RegionOptions>) -> Result<Region> {
        let options: RegionOptions = options.into();
        let length = length
            .checked_next_multiple_of(HUGE_PAGE_SIZE)
            .filter(|&rounded| rounded > 0 && rounded <= isize::MAX as usize)
            .ok_or_else(|| Error::invalid(format!("a memory region of {length} bytes")))?;
        match options.source {
            Source::System => Self::from_system(length, options),
            #[cfg(feature = "dpdk")]
            Source::Dpdk(environment) => Self::from_dpdk(environment, length, options),
        }
    }

    fn from_system(length: usize, options: RegionOptions) -> Result<Region> {
        let huge_pages = options.huge_pages;
        let huge = match huge_pages {
            HugePages::Never => None,
            _ => match Self::map_huge(length) {
                Ok(region) => Some(region),
                Err(error) if huge_pages == HugePages::Require => return Err(error),
                Err(error) => {
                    debug!(%error, "ordinary memory instead of huge pages");
                    None
                }
            },
        };
        let region = match huge {
            Some(region) => region,
            None => Self::map_ordinary(length, huge_pages != HugePages::Never, options.sharing)?,
        };
        if let Some(node) = options.numa_node {
            numa::prefer(region.start, region.length, node);
        }
        Ok(region)
    }

    #[cfg(feature = "dpdk")]
    fn from_dpdk(
        environment: &'static dpdk::Environment,
        length: usize,
        options: RegionOptions,
    ) -> Result<Region> {
        let block = environment.allocate(length, options.numa_node)?;
        let kind = block.kind();
        if options.huge_pages == HugePages::Require && kind != PageKind::Huge {
            return Err(Error::invalid(
                "huge pages are required, and DPDK was told to do without (--no-huge)",
            ));
        }
        if options.sharing == Sharing::Always && block.backing().is_none() {
            return Err(Error::new(
                crate::base::ErrorKind::Unsupported,
                "memory that other processes can be given: DPDK's has no file behind it with --no-huge",
            ));
        }
        Ok(Region {
            start: block.start(),
            length,
            kind,
            backing: block.backing(),
            addresses: block.addresses(),
            owner: Owner::Dpdk(block),
        })
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
            backing: Some(Backing::new(Arc::new(file), 0)),
            addresses: None,
            owner: Owner::Mapped(start, length),
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
            backing: None,
            addresses: None,
            owner: Owner::Mapped(mapping, mapped),
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
        Region {
            start,
            length,
            kind: PageKind::Foreign,
            backing: None,
            addresses: None,
            owner: Owner::Foreign,
        }
    }

    /// A region over `length` bytes from `offset` on of a file that another process gave: a guest's memory, say. The
    /// file is kept as the region's [backing](Region::backing).
    ///
    /// The other process can take the memory away at any time, by cutting the file short. Then the region
    /// reads as zeros, what is written to it is seen by nobody, and [`Region::is_lost`] tells.
    ///
    /// # Errors
    /// `Invalid` when there is no such range in the file, or it is no file that has memory; what the system says of the
    /// mapping.
    pub fn map(file: OwnedFd, offset: u64, length: usize) -> Result<Region> {
        let mapping = SharedMapping::new(file.as_fd(), offset, length)?;
        Ok(Region {
            start: mapping.start(),
            length,
            kind: PageKind::Foreign,
            backing: Some(Backing::new(Arc::new(file), offset)),
            addresses: None,
            owner: Owner::Shared(mapping),
        })
    }

    /// Whether an access found that the process which gave the memory has taken it away.
    pub fn is_lost(&self) -> bool {
        match &self.owner {
            Owner::Shared(mapping) => mapping.is_lost(),
            _ => false,
        }
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

    /// Where devices find it, if the memory's source says so.
    pub fn device_addresses(&self) -> Option<&DeviceAddresses> {
        self.addresses.as_ref()
    }

    /// The NUMA node that its first page lies on, if the system tells. Touches the page.
    pub fn numa_node(&self) -> Option<u32> {
        if self.is_empty() { None } else { numa::node_of(self.start) }
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
        if let Owner::Mapped(start, length) = self.owner {
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
        let options = RegionOptions {
            huge_pages: HugePages::Never,
            sharing: Sharing::Always,
            ..RegionOptions::default()
        };
        let region = Region::allocate(1, options).unwrap();
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
    fn a_node_is_a_wish() {
        for numa_node in [None, Some(0), Some(77), Some(u32::MAX)] {
            for huge_pages in [HugePages::Never, HugePages::Try] {
                for sharing in [Sharing::WhereFree, Sharing::Always] {
                    let options =
                        RegionOptions { huge_pages, sharing, numa_node, ..Default::default() };
                    let region = Region::allocate(1, options).unwrap();
                    // SAFETY: within the region, which nobody else uses.
                    unsafe { region.start().write(1) };
                    let lies_on = region.numa_node();
                    if numa_node == Some(0) {
                        assert!(lies_on.is_none_or(|node| node == 0), "{lies_on:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(Region::allocate(usize::MAX, HugePages::Try).is_err());
        assert!(Region::allocate(0, HugePages::Never).is_err());
        assert!(Region::allocate(1 << 60, HugePages::Require).is_err());
    }
}
