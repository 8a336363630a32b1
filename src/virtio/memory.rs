//! The memory of a guest as this process sees it: which of its addresses lie where.
//!
//! A [`GuestMemory`] is immutable. When a guest's memory changes, queues get a new one; the old one lives, and with it
//! what is mapped, until nobody has a request in it.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::base::{Error, Result};
use crate::memory::{Region, RegionId, RegionView, Registry, Segment};

/// A run of guest memory. Registered, so that devices can reach it, for as long as it lives.
#[derive(Debug)]
pub struct GuestRegion {
    guest_address: u64,
    user_address: u64,
    /// Where it is here, as long as it is in the guest.
    view: RegionView,
    registry: Arc<Registry>,
}

impl Drop for GuestRegion {
    fn drop(&mut self) {
        self.registry.remove(self.view.id);
    }
}

impl GuestRegion {
    /// Memory of a guest that is mapped at `region`. `guest_address` is its address in the guest, `user_address` that in
    /// the process of the front end, which gives ring addresses in these.
    ///
    /// # Errors
    /// `NoSpace` when there are too many regions.
    pub fn register(
        registry: &Arc<Registry>,
        region: Arc<Region>,
        guest_address: u64,
        user_address: u64,
    ) -> Result<Arc<GuestRegion>> {
        let view = registry.add(region)?;
        let registry = Arc::clone(registry);
        Ok(Arc::new(GuestRegion { guest_address, user_address, view, registry }))
    }

    /// Its address in the guest.
    pub fn guest_address(&self) -> u64 {
        self.guest_address
    }

    /// Its address in the process of the front end.
    pub fn user_address(&self) -> u64 {
        self.user_address
    }

    /// Where it is here.
    pub fn view(&self) -> &RegionView {
        &self.view
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        self.view.region.len() as u64
    }

    /// Whether it holds nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All of a guest's memory, in the order of guest addresses, without overlap.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Vec<Arc<GuestRegion>>,
    /// The same in one piece: every address of every request is looked up here.
    extents: Box<[Extent]>,
}

/// Where a region is, in the guest and here.
#[derive(Clone, Copy, Debug)]
struct Extent {
    guest_address: u64,
    length: u64,
    start: NonNull<u8>,
    id: RegionId,
}

// SAFETY: addresses of memory that the regions beside it keep mapped, and that belongs to no thread.
unsafe impl Send for Extent {}
// SAFETY: as above.
unsafe impl Sync for Extent {}

impl Extent {
    fn of(region: &GuestRegion) -> Extent {
        Extent {
            guest_address: region.guest_address,
            length: region.len(),
            start: region.view.region.start(),
            id: region.view.id,
        }
    }

    /// Where the byte at `offset` is; it must lie within.
    #[inline]
    fn at(&self, offset: u64) -> NonNull<u8> {
        debug_assert!(offset < self.length);
        // SAFETY: callers have checked that `offset` lies within the region.
        unsafe { self.start.add(offset as usize) }
    }
}

impl GuestMemory {
    /// The memory that consists of `regions`.
    ///
    /// # Errors
    /// `Invalid` when two overlap, or one ends beyond the address space.
    pub fn new(mut regions: Vec<Arc<GuestRegion>>) -> Result<GuestMemory> {
        regions.sort_by_key(|region| region.guest_address);
        let mut end = 0;
        for region in &regions {
            let start = region.guest_address;
            if start < end {
                return Err(Error::invalid(format!("guest memory at {start:#x} is there twice")));
            }
            end = start.checked_add(region.len()).ok_or_else(|| {
                Error::invalid(format!("guest memory at {start:#x} ends beyond the address space"))
            })?;
            if region.user_address.checked_add(region.len()).is_none() {
                return Err(Error::invalid(format!(
                    "the front end's memory at {:#x} ends beyond the address space",
                    region.user_address
                )));
            }
        }
        let extents = regions.iter().map(|region| Extent::of(region)).collect();
        Ok(GuestMemory { regions, extents })
    }

    /// The regions.
    pub fn regions(&self) -> &[Arc<GuestRegion>] {
        &self.regions
    }

    #[inline]
    fn extent_of(&self, address: u64) -> Option<(&Extent, u64)> {
        // A guest has few regions, and nearly all of its memory in one or two.
        self.extents.iter().find_map(|extent| {
            let offset = address.wrapping_sub(extent.guest_address);
            (offset < extent.length).then_some((extent, offset))
        })
    }

    /// Where `length` bytes at guest address `address` are, if they lie in one region.
    #[inline]
    pub fn translate(&self, address: u64, length: u64) -> Option<NonNull<u8>> {
        let (extent, offset) = self.extent_of(address)?;
        (length <= extent.length - offset).then(|| extent.at(offset))
    }

    /// The first part of `length` bytes at guest address `address` that lies in one region, which is
    /// nearly always all of them; `None` when the address is not the guest's.
    ///
    /// The segment's invariant holds while this memory lives.
    #[inline]
    pub fn segment(&self, address: u64, length: u32) -> Option<Segment> {
        let (extent, offset) = self.extent_of(address)?;
        let length = u64::from(length).min(extent.length - offset) as u32;
        // SAFETY: within the region, which this memory keeps mapped; who makes a request of the
        // segment keeps this memory until it has completed.
        Some(unsafe { Segment::new(extent.at(offset), length, extent.id) })
    }

    /// Where `length` bytes at the front end's own address `address` are, if they lie in one region, and the region.
    pub fn translate_user(
        &self,
        address: u64,
        length: u64,
    ) -> Option<(NonNull<u8>, &Arc<GuestRegion>)> {
        self.regions.iter().find_map(|region| {
            let offset = address.wrapping_sub(region.user_address);
            let within = offset < region.len() && length <= region.len() - offset;
            within.then(|| (Extent::of(region).at(offset), region))
        })
    }

    /// The guest address of memory that a [`Segment`] of ours points at.
    pub fn guest_address(&self, address: *const u8) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let start = region.view.region.start().as_ptr() as usize;
            let offset = (address as usize).wrapping_sub(start) as u64;
            (offset < region.len()).then(|| region.guest_address + offset)
        })
    }
}
