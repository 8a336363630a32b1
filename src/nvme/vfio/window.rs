//! The registers of a device, mapped: loads and stores that cannot leave the window.
//!
//! Owns the mapping. Parts of a BAR may not be mappable (the page with the MSI-X table); they read as absent here, and
//! the owner reaches them through the device's descriptor.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use tracing::debug;

use super::pagemap::page_size;
use crate::base::{Error, Result};
use crate::memory::{Substitute, Watch};

/// A run of device registers.
#[derive(Debug)]
pub(super) struct Window {
    start: NonNull<u8>,
    length: usize,
    /// What of it is mapped.
    areas: Vec<Range<u64>>,
    /// Always there, but during the drop.
    watch: Option<Watch>,
}

// SAFETY: registers are shared with the device anyhow; every access is one volatile load or store.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps these areas of `length` bytes of `file` from `offset` on; whole pages of them, that is.
    pub(super) fn map(
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
        areas: &[Range<u64>],
    ) -> Result<Window> {
        let doing = || format!("cannot map {length} bytes of device registers");
        let page = page_size();
        let size = length
            .checked_next_multiple_of(page)
            .and_then(|size| usize::try_from(size).ok())
            .filter(|&size| size > 0)
            .ok_or_else(|| Error::invalid(doing()))?;
        // Address space for all of it, so that one offset reaches everything and the holes fault.
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), size, ProtFlags::empty(), MapFlags::PRIVATE)
        }
        .map_err(|errno| Error::os(doing(), errno))?;
        let start = NonNull::new(start.cast::<u8>()).expect("mmap never returns null");
        // SAFETY: the range was mapped above for this purpose, and nothing else will be there.
        let watch = unsafe { Watch::over(start.as_ptr() as usize, size, Substitute::OnesPage) };
        let watch = match watch {
            Ok(watch) => watch,
            Err(error) => {
                unmap(start, size);
                return Err(error);
            }
        };
        let mut window = Window { start, length: size, areas: Vec::new(), watch: Some(watch) };
        for area in areas {
            let from = area.start.next_multiple_of(page);
            let to = area.end.min(length) / page * page;
            if from >= to {
                continue;
            }
            // SAFETY: within the address space reserved above; a part of it is replaced.
            unsafe {
                mmap(
                    start.as_ptr().add(from as usize).cast(),
                    (to - from) as usize,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED | MapFlags::FIXED,
                    file,
                    offset + from,
                )
            }
            .map_err(|errno| Error::os(doing(), errno))?;
            window.areas.push(from..to);
        }
        Ok(window)
    }

    /// The register at `offset`, if it is mapped and in one piece.
    pub(super) fn register(&self, offset: u64) -> Option<NonNull<u32>> {
        let end = offset.checked_add(4)?;
        let mapped = self.areas.iter().any(|area| area.start <= offset && end <= area.end);
        if !mapped || !offset.is_multiple_of(4) {
            return None;
        }
        // SAFETY: within the mapping, whose start is aligned to a page.
        Some(unsafe { self.start.add(offset as usize) }.cast())
    }

    /// Loads a register; `None` where it is not mapped.
    pub(super) fn load(&self, offset: u64) -> Option<u32> {
        // SAFETY: `register` gives an aligned address within the mapping.
        self.register(offset).map(|register| unsafe { register.as_ptr().read_volatile() })
    }

    /// Stores to a register; `None` where it is not mapped.
    pub(super) fn store(&self, offset: u64, value: u32) -> Option<()> {
        // SAFETY: as for `load`; what a device does at a store is the driver's business.
        self.register(offset).map(|register| unsafe { register.as_ptr().write_volatile(value) })
    }

    /// Whether an access found the device gone.
    pub(super) fn is_gone(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::has_faulted)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // First, while the range is still ours: a fault in whatever is mapped there next is none of the watch's business.
        self.watch = None;
        unmap(self.start, self.length);
    }
}

fn unmap(start: NonNull<u8>, length: usize) {
    // SAFETY: a mapping of ours, unmapped once; doorbells in it keep the window alive.
    if let Err(error) = unsafe { munmap(start.as_ptr().cast(), length) } {
        debug!(%error, "munmap of device registers");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::{AsFd, OwnedFd};

    fn file(length: u64) -> OwnedFd {
        let file = memfd_create("window", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, length).unwrap();
        file
    }

    #[test]
    fn accesses_stay_within_what_is_mapped() {
        let page = page_size();
        let file = file(6 * page);
        // An area that is not whole pages, and one beyond the window.
        let areas = [0..page, 2 * page + 8..4 * page + 8, 8 * page..9 * page];
        let window = Window::map(file.as_fd(), page, 5 * page, &areas).unwrap();
        assert_eq!(window.load(0), Some(0));
        window.store(page - 4, 0xabcd).unwrap();
        let mut word = [0; 4];
        rustix::io::pread(&file, &mut word, 2 * page - 4).unwrap();
        assert_eq!(u32::from_le_bytes(word), 0xabcd);
        for outside in [page, page - 2, 2, 2 * page, 4 * page, 5 * page, 8 * page, u64::MAX - 2] {
            assert_eq!(window.load(outside), None, "{outside:#x}");
        }
        assert_eq!(window.load(3 * page), Some(0));
    }

    #[test]
    fn registers_of_a_device_that_is_gone_read_as_ones() {
        let page = page_size();
        let file = file(3 * page);
        let window =
            Window::map(file.as_fd(), 0, 3 * page, std::slice::from_ref(&(0..3 * page))).unwrap();
        let other = Window::map(file.as_fd(), 0, page, std::slice::from_ref(&(0..page))).unwrap();
        window.store(2 * page, 5).unwrap();
        // As the kernel does: the pages go, the mapping stays.
        ftruncate(&file, page).unwrap();
        assert!(!window.is_gone());
        window.store(2 * page + 8, 7).unwrap();
        assert!(window.is_gone());
        assert_eq!(window.load(2 * page), Some(u32::MAX));
        assert_eq!(window.load(page + 4), Some(u32::MAX));
        // A page that is still there is left alone, and so is another window.
        assert_eq!(window.load(0), Some(0));
        assert!(!other.is_gone());
        // The place in the handler's table serves the next window.
        drop(window);
        let next = Window::map(file.as_fd(), 0, page, std::slice::from_ref(&(0..page))).unwrap();
        assert!(!next.is_gone());
    }

    #[test]
    fn absurd_windows_are_refused() {
        let file = file(4096);
        for length in [0, u64::MAX, 1 << 62] {
            assert!(Window::map(file.as_fd(), 0, length, &[]).is_err());
        }
    }
}
