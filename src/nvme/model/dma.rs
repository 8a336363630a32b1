//! Memory that the host let the model address, and what the model does to it.
//!
//! Every access is checked against the mapped regions; one that is not within is recorded as a fault and does
//! not happen, as behind an IOMMU. The bytes are the driver's: it may be wrong and touch them at the same time, so they
//! are only ever copied through raw pointers.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use zerocopy::{FromBytes, IntoBytes};

use crate::memory::{HUGE_PAGE_SIZE, Region};
use crate::nvme::spec::CompletionEntry;

/// Something that a correct driver never makes a device do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An access to memory that is not mapped.
    Memory {
        /// Address.
        address: u64,
        /// Length in bytes.
        length: u64,
        /// Whether the device was to write.
        write: bool,
    },
    /// A doorbell of a queue that does not exist was rung.
    DoorbellRegister {
        /// Number of the doorbell: twice the queue's, and one more for a completion queue's.
        index: u32,
    },
    /// A doorbell was rung with a value that cannot be.
    DoorbellValue {
        /// Number of the doorbell.
        index: u32,
        /// The value.
        value: u32,
    },
    /// The controller was enabled with settings that it does not have.
    Configuration(&'static str),
}

/// Faults that are kept; a driver that goes wild makes more than anybody reads.
const FAULTS_MAX: usize = 1000;

/// The mapped memory.
pub(super) struct Dma {
    mappings: BTreeMap<u64, Mapping>,
    /// Grows with every change: whoever resolved an address before asks again.
    generation: u64,
    next: u64,
    pub(super) faults: Vec<Fault>,
}

struct Mapping {
    region: Arc<Region>,
    offset: usize,
    length: u64,
    /// Which transport made it.
    owner: u64,
}

/// A contiguous piece of the host's memory.
pub(super) struct Window {
    start: NonNull<u8>,
    length: usize,
    generation: u64,
    _region: Arc<Region>,
}

// SAFETY: an address range that `_region` keeps mapped; what is done with it goes through raw pointers.
unsafe impl Send for Window {}

/// An access that did not happen.
#[derive(Debug)]
pub(super) struct NotMapped;

impl Dma {
    pub(super) fn new() -> Dma {
        // Far from zero, and nothing like the addresses of the process: a driver that mixes them up shows.
        Dma {
            mappings: BTreeMap::new(),
            generation: 1,
            next: 0x0000_0010_0000_0000,
            faults: Vec::new(),
        }
    }

    pub(super) fn record(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    /// Maps a region in one piece at an address of the model's choice.
    pub(super) fn map(&mut self, region: &Arc<Region>, owner: u64) -> u64 {
        let at = self.next;
        self.place(region, owner, at, 0, region.len() as u64);
        // A page is left free behind each.
        self.next +=
            (region.len() as u64).next_multiple_of(HUGE_PAGE_SIZE as u64) + HUGE_PAGE_SIZE as u64;
        at
    }

    /// Maps each huge page of a region at an address of its own, in descending order.
    pub(super) fn map_pages(&mut self, region: &Arc<Region>, owner: u64) -> Vec<u64> {
        let pages = region.len().div_ceil(HUGE_PAGE_SIZE);
        let distance = 2 * HUGE_PAGE_SIZE as u64;
        let first = self.next;
        self.next += pages as u64 * distance;
        let address = |page: usize| first + (pages - 1 - page) as u64 * distance;
        for page in 0..pages {
            let offset = page * HUGE_PAGE_SIZE;
            let length = (region.len() - offset).min(HUGE_PAGE_SIZE) as u64;
            self.place(region, owner, address(page), offset, length);
        }
        (0..pages).map(address).collect()
    }

    /// Maps a region where the host says. It must not overlap what is mapped.
    pub(super) fn map_at(&mut self, region: &Arc<Region>, owner: u64, at: u64) -> bool {
        let length = region.len() as u64;
        let Some(end) = at.checked_add(length) else { return false };
        let free = self
            .mappings
            .range(..end)
            .next_back()
            .is_none_or(|(&start, mapping)| start + mapping.length <= at);
        if free {
            self.place(region, owner, at, 0, length);
        }
        free
    }

    fn place(&mut self, region: &Arc<Region>, owner: u64, at: u64, offset: usize, length: u64) {
        let mapping = Mapping { region: Arc::clone(region), offset, length, owner };
        self.mappings.insert(at, mapping);
        self.generation += 1;
    }

    /// Takes back what `owner` mapped of `region`, or all that it mapped.
    pub(super) fn unmap(&mut self, region: Option<&Region>, owner: u64) {
        self.mappings.retain(|_, mapping| {
            mapping.owner != owner
                || region.is_some_and(|region| !std::ptr::eq(&*mapping.region, region))
        });
        self.generation += 1;
    }

    /// The piece of memory at `address`, and how long it is, up to `length`.
    fn find(&self, address: u64, length: u64) -> Option<(NonNull<u8>, u64, &Arc<Region>)> {
        let (&start, mapping) = self.mappings.range(..=address).next_back()?;
        let offset = address - start;
        let length = mapping.length.checked_sub(offset).filter(|&rest| rest > 0)?.min(length);
        // SAFETY: `offset` lies within the mapping, which lies within the region.
        let at = unsafe { mapping.region.start().add(mapping.offset + offset as usize) };
        Some((at, length, &mapping.region))
    }

    fn refuse(&mut self, address: u64, length: u64, write: bool) -> NotMapped {
        self.record(Fault::Memory { address, length, write });
        NotMapped
    }

    pub(super) fn read(&mut self, mut address: u64, mut out: &mut [u8]) -> Result<(), NotMapped> {
        while !out.is_empty() {
            let Some((from, length, _)) = self.find(address, out.len() as u64) else {
                return Err(self.refuse(address, out.len() as u64, false));
            };
            let (now, rest) = out.split_at_mut(length as usize);
            // SAFETY: `find` vouches for `length` bytes of a region that the mapping keeps.
            unsafe { from.copy_to_nonoverlapping(NonNull::from(&mut *now).cast(), now.len()) };
            address = address.wrapping_add(length);
            out = rest;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, mut address: u64, mut data: &[u8]) -> Result<(), NotMapped> {
        while !data.is_empty() {
            let Some((to, length, _)) = self.find(address, data.len() as u64) else {
                return Err(self.refuse(address, data.len() as u64, true));
            };
            let (now, rest) = data.split_at(length as usize);
            // SAFETY: as in `read`; the driver has left the memory to the device.
            unsafe { to.copy_from_nonoverlapping(NonNull::from(now).cast(), now.len()) };
            address = address.wrapping_add(length);
            data = rest;
        }
        Ok(())
    }

    /// A structure at `address`.
    pub(super) fn read_value<T: FromBytes + IntoBytes>(
        &mut self,
        address: u64,
    ) -> Result<T, NotMapped> {
        let mut value = T::new_zeroed();
        self.read(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// A piece that lies in one mapping, for accesses that follow.
    pub(super) fn window(&mut self, address: u64, length: usize) -> Result<Window, NotMapped> {
        let found = self
            .find(address, length as u64)
            .filter(|&(_, found, _)| found == length as u64)
            .map(|(start, _, region)| (start, Arc::clone(region)));
        let Some((start, region)) = found else {
            return Err(self.refuse(address, length as u64, true));
        };
        Ok(Window { start, length, generation: self.generation, _region: region })
    }

    /// Whether a window is as good as when it was made.
    pub(super) fn is_current(&self, window: &Window) -> bool {
        window.generation == self.generation
    }
}

impl Window {
    /// Copies a structure out.
    #[inline]
    pub(super) fn load<T: FromBytes>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= self.length, "within the window");
        // SAFETY: within the window, by the check; any bytes make a `T`.
        unsafe { self.start.add(offset).cast::<T>().as_ptr().read_unaligned() }
    }

    /// Reads a word that the host writes meanwhile.
    #[inline]
    pub(super) fn load_word(&self, offset: usize) -> u32 {
        assert!(offset + 4 <= self.length && offset.is_multiple_of(4), "within the window");
        // SAFETY: within the window, by the check; windows of words start at page boundaries.
        let word = unsafe { self.start.add(offset).cast::<u32>().as_ptr().read_volatile() };
        fence(Ordering::Acquire);
        word
    }

    /// Writes a word that the host reads meanwhile.
    pub(super) fn store_word(&self, offset: usize, word: u32) {
        assert!(offset + 4 <= self.length && offset.is_multiple_of(4), "within the window");
        fence(Ordering::Release);
        // SAFETY: as in `load_word`.
        unsafe { self.start.add(offset).cast::<u32>().as_ptr().write_volatile(word) };
    }

    /// Writes a completion queue entry: the half with the phase tag last.
    #[inline]
    pub(super) fn post(&self, index: u32, entry: CompletionEntry) {
        let offset = index as usize * size_of::<CompletionEntry>();
        assert!(offset + size_of::<CompletionEntry>() <= self.length, "within the window");
        let halves: [u64; 2] = zerocopy::transmute!(entry);
        // SAFETY: within the window, by the check; completion queues are page aligned.
        unsafe {
            let at = self.start.add(offset).cast::<u64>().as_ptr();
            at.write_volatile(halves[0]);
            fence(Ordering::Release);
            at.add(1).write_volatile(halves[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HugePages;

    #[test]
    fn accesses_stay_within_what_is_mapped() {
        let region = Arc::new(Region::allocate(2 * HUGE_PAGE_SIZE, HugePages::Never).unwrap());
        let mut dma = Dma::new();
        let at = dma.map(&region, 1);
        dma.write(at + 100, &[7; 8]).unwrap();
        assert_eq!(dma.read_value::<u64>(at + 100).unwrap(), 0x0707_0707_0707_0707);
        let end = at + region.len() as u64;
        assert!(dma.write(end - 4, &[0; 8]).is_err());
        assert!(dma.window(end - 4, 8).is_err());
        assert!(dma.read_value::<u64>(u64::MAX - 3).is_err());
        assert_eq!(dma.faults.len(), 3);
        assert_eq!(dma.faults[0], Fault::Memory { address: end, length: 4, write: true });
        let window = dma.window(at, 64).unwrap();
        dma.unmap(Some(&region), 1);
        assert!(!dma.is_current(&window) && dma.read_value::<u64>(at).is_err());
    }

    #[test]
    fn scattered_pages_do_not_touch() {
        let region = Arc::new(Region::allocate(3 * HUGE_PAGE_SIZE, HugePages::Never).unwrap());
        let mut dma = Dma::new();
        let pages = dma.map_pages(&region, 1);
        assert!(pages[0] > pages[1] && pages[1] > pages[2]);
        assert!(dma.write(pages[0] + HUGE_PAGE_SIZE as u64 - 4, &[0; 8]).is_err());
        dma.write(pages[2], &[9]).unwrap();
        // SAFETY: within the region, which only this test uses.
        assert_eq!(unsafe { region.start().add(2 * HUGE_PAGE_SIZE).read() }, 9);
        assert!(!dma.map_at(&region, 2, pages[1] - 4096) && dma.map_at(&region, 2, 0x10_0000));
        assert!(!dma.map_at(&region, 2, u64::MAX - 5));
    }
}
