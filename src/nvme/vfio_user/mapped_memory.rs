//! The memory that the server was given: by which address it knows it, and its own accesses to it by messages
//! ("Client memory access"), for a server that does not map what it was given.
//!
//! The addresses are the process's own. Whatever a server asks for is looked up here first.

use std::collections::BTreeMap;

use crate::memory::RegionView;

/// The regions, by their first address.
#[derive(Debug, Default)]
pub struct MappedMemory {
    regions: BTreeMap<u64, RegionView>,
}

/// Where a region starts, as the device sees it.
pub fn address_of(region: &RegionView) -> u64 {
    region.region.start().as_ptr() as u64
}

impl MappedMemory {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether this very region is there.
    pub fn contains(&self, region: &RegionView) -> bool {
        self.regions.get(&address_of(region)).is_some_and(|known| known.id == region.id)
    }

    /// Adds a region, which stays alive meanwhile.
    pub fn insert(&mut self, region: RegionView) {
        self.regions.insert(address_of(&region), region);
    }

    /// Takes a region away.
    pub fn remove(&mut self, region: &RegionView) {
        if self.contains(region) {
            self.regions.remove(&address_of(region));
        }
    }

    /// The pieces that `count` bytes from `address` on consist of: nothing if any byte of them is not there.
    fn pieces(&self, address: u64, count: usize) -> Option<Vec<(*mut u8, usize)>> {
        let mut pieces = Vec::new();
        let (mut at, mut left) = (address, count);
        while left > 0 {
            let (&start, view) = self.regions.range(..=at).next_back()?;
            let offset = usize::try_from(at - start).ok()?;
            let here = view.region.len().checked_sub(offset).filter(|&here| here > 0)?.min(left);
            // In bounds: `offset` was just found to be less than the length.
            pieces.push((view.region.start().as_ptr().wrapping_add(offset), here));
            at = at.checked_add(here as u64)?;
            left -= here;
        }
        Some(pieces)
    }

    /// Appends `count` bytes from `address` on to `data`. False, and nothing done, when some of them are
    /// not in any region.
    #[must_use]
    pub fn read(&self, address: u64, count: usize, data: &mut Vec<u8>) -> bool {
        let Some(pieces) = self.pieces(address, count) else { return false };
        data.reserve(count);
        for (from, length) in pieces {
            // SAFETY: `pieces` gave a range inside of a region, which `self.regions` keeps mapped; the vector has
            // room. What a driver writes there meanwhile may be seen in part, as it may be by a device.
            unsafe {
                let to = data.as_mut_ptr().add(data.len());
                std::ptr::copy_nonoverlapping(from, to, length);
                data.set_len(data.len() + length);
            }
        }
        true
    }

    /// Stores `data` from `address` on. False, and nothing done, when that is not all inside of regions.
    #[must_use]
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some(pieces) = self.pieces(address, data.len()) else { return false };
        let mut done = 0;
        for (to, length) in pieces {
            // SAFETY: as in `read`; this is the device writing memory that it was given to write.
            unsafe { std::ptr::copy_nonoverlapping(data[done..].as_ptr(), to, length) };
            done += length;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{HUGE_PAGE_SIZE, HugePages, Region, Registry};

    fn view() -> RegionView {
        let region = Region::allocate(HUGE_PAGE_SIZE, HugePages::Never).unwrap();
        Registry::new().add(Arc::new(region)).unwrap()
    }

    #[test]
    fn only_what_is_mapped_is_reached() {
        let view = view();
        let (start, length) = (address_of(&view), view.region.len());
        let mut memory = MappedMemory::default();
        let mut data = Vec::new();
        assert!(!memory.read(start, 1, &mut data), "before it is mapped");
        memory.insert(view.clone());
        assert!(memory.write(start + 10, b"abc"));
        assert!(memory.read(start + 9, 5, &mut data));
        assert_eq!(data, b"\0abc\0");
        assert!(memory.read(start + length as u64 - 1, 1, &mut data));
        for (address, count) in [
            (start - 1, 2),
            (start + length as u64 - 1, 2),
            (start + length as u64, 1),
            (0, 1),
            (u64::MAX, 2),
            (start, length + 1),
        ] {
            assert!(!memory.read(address, count, &mut data), "{address:#x} {count}");
            assert!(!memory.write(address, &vec![1; count]), "{address:#x} {count}");
        }
        assert_eq!(data.len(), 6, "a refused read gives nothing");
        memory.remove(&view);
        assert!(!memory.read(start, 1, &mut data));
    }

    #[test]
    fn an_access_may_span_regions_that_touch() {
        let whole = Arc::new(Region::allocate(2 * HUGE_PAGE_SIZE, HugePages::Never).unwrap());
        let registry = Registry::new();
        let mut memory = MappedMemory::default();
        let start = whole.start();
        for half in 0..2 {
            // SAFETY: a half of `whole`, which outlives both.
            let part = unsafe { Region::foreign(start.add(half * HUGE_PAGE_SIZE), HUGE_PAGE_SIZE) };
            memory.insert(registry.add(Arc::new(part)).unwrap());
        }
        let address = start.as_ptr() as u64 + HUGE_PAGE_SIZE as u64 - 2;
        assert!(memory.write(address, b"abcd"));
        let mut data = Vec::new();
        assert!(memory.read(address - 1, 6, &mut data));
        assert_eq!(data, b"\0abcd\0");
        drop(memory);
    }
}
