//! The registry of regions: each is registered once, and every driver that must know of it (io_uring
//! fixed buffers, VFIO mappings, RDMA keys) follows the list through a [`Subscription`].
//!
//! Control work (add, remove) takes a lock. The I/O path does not: a driver's queue keeps its own
//! table, indexed by [`RegionId::slot`], and compares one generation number per poll round to
//! see whether it must catch up.
//!
//! Removal is in two steps, because a device may still use the memory. [`Registry::remove`] takes
//! the region off the list; each subscriber lets go of it when it next catches up. The region's
//! memory goes when the last [`RegionView`] of it is dropped, that is when every subscriber has
//! caught up and no device can reach it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::region::Region;
use crate::base::{Error, ErrorKind, Result, limits};

/// Names a registered region: a slot in every driver's table, and how often the slot was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct RegionId(u32);

const SLOT_BITS: u32 = 16;
const _: () = assert!(limits::REGIONS_MAX < (1 << SLOT_BITS));

impl RegionId {
    /// Memory that is in no registered region: a driver that needs registration must copy.
    pub const NONE: RegionId = RegionId(u32::MAX);

    fn new(slot: usize, generation: u16) -> RegionId {
        RegionId(u32::from(generation) << SLOT_BITS | slot as u32)
    }

    /// Index of the region's entry in a driver's table of [`limits::REGIONS_MAX`] entries or less.
    /// The slot of [`RegionId::NONE`] lies beyond every table.
    #[inline]
    pub const fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }
}

/// A registered region, kept alive by whoever holds this.
#[derive(Clone, Debug)]
pub struct RegionView {
    /// Its id.
    pub id: RegionId,
    /// The memory.
    pub region: Arc<Region>,
}

/// The list of all regions. One per process; shared by `Arc`.
#[derive(Debug, Default)]
pub struct Registry {
    /// Grows with every change.
    generation: AtomicU64,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    uses: u16,
    region: Option<Arc<Region>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Arc<Registry> {
        Arc::default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        // No code panics while it holds the lock with the list in pieces.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `region` on the list.
    ///
    /// # Errors
    /// `NoSpace` when [`limits::REGIONS_MAX`] regions are registered.
    pub fn add(&self, region: Arc<Region>) -> Result<RegionView> {
        let mut slots = self.lock();
        let free = slots.iter().position(|slot| slot.region.is_none());
        let index = match free {
            Some(index) => index,
            None if slots.len() < limits::REGIONS_MAX => {
                slots.push(Slot::default());
                slots.len() - 1
            }
            None => {
                return Err(Error::new(
                    ErrorKind::NoSpace,
                    format!("{} memory regions are registered already", limits::REGIONS_MAX),
                ));
            }
        };
        let slot = &mut slots[index];
        slot.uses = slot.uses.wrapping_add(1);
        slot.region = Some(Arc::clone(&region));
        let id = RegionId::new(index, slot.uses);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(RegionView { id, region })
    }

    /// Takes a region off the list. Its memory stays until every subscriber has let go of it; the
    /// caller has made sure that no request with a segment in it is outstanding or to come.
    pub fn remove(&self, id: RegionId) {
        let mut slots = self.lock();
        if let Some(slot) = slots.get_mut(id.slot())
            && slot.region.is_some()
            && RegionId::new(id.slot(), slot.uses) == id
        {
            slot.region = None;
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Follows the list from now on.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        Subscription { registry: Arc::clone(self), seen: 0, known: Vec::new() }
    }
}

/// One driver's view of the registry.
#[derive(Debug)]
pub struct Subscription {
    registry: Arc<Registry>,
    seen: u64,
    known: Vec<Option<RegionView>>,
}

impl Subscription {
    /// Whether the list has changed since [`Subscription::catch_up`]: one load.
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.registry.generation.load(Ordering::Acquire) != self.seen
    }

    /// Reports every change since the last call: `removed` for each region that is gone, then
    /// `added` for each new one. A removed region's memory is mapped until `removed` returns.
    pub fn catch_up(
        &mut self,
        mut removed: impl FnMut(&RegionView),
        mut added: impl FnMut(&RegionView),
    ) {
        let now: Vec<Option<RegionView>> = {
            let slots = self.registry.lock();
            self.seen = self.registry.generation.load(Ordering::Acquire);
            slots
                .iter()
                .enumerate()
                .map(|(index, slot)| {
                    let region = Arc::clone(slot.region.as_ref()?);
                    Some(RegionView { id: RegionId::new(index, slot.uses), region })
                })
                .collect()
        };
        let id_of = |views: &[Option<RegionView>], index: usize| {
            views.get(index).and_then(Option::as_ref).map(|view| view.id)
        };
        for (index, old) in self.known.iter().enumerate() {
            if let Some(old) = old
                && id_of(&now, index) != Some(old.id)
            {
                removed(old);
            }
        }
        for (index, new) in now.iter().enumerate() {
            if let Some(new) = new
                && id_of(&self.known, index) != Some(new.id)
            {
                added(new);
            }
        }
        self.known = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HugePages;

    fn region() -> Arc<Region> {
        Arc::new(Region::allocate(1, HugePages::Never).unwrap())
    }

    fn changes(subscription: &mut Subscription) -> (Vec<RegionId>, Vec<RegionId>) {
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        subscription.catch_up(|view| removed.push(view.id), |view| added.push(view.id));
        (removed, added)
    }

    #[test]
    fn subscribers_see_each_change_once() {
        let registry = Registry::new();
        let a = registry.add(region()).unwrap().id;
        let mut subscription = registry.subscribe();
        assert!(subscription.is_behind());
        assert_eq!(changes(&mut subscription), (vec![], vec![a]));
        assert!(!subscription.is_behind());
        registry.remove(a);
        let b = registry.add(region()).unwrap().id;
        assert_eq!(a.slot(), b.slot());
        assert_ne!(a, b);
        registry.remove(a); // a stale id takes nothing away
        assert_eq!(changes(&mut subscription), (vec![a], vec![b]));
    }

    #[test]
    fn memory_outlives_the_slowest_subscriber() {
        let registry = Registry::new();
        let view = registry.add(region()).unwrap();
        let weak = Arc::downgrade(&view.region);
        let mut subscription = registry.subscribe();
        changes(&mut subscription);
        registry.remove(view.id);
        drop(view);
        assert!(weak.upgrade().is_some());
        changes(&mut subscription);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn the_slot_of_none_is_beyond_every_table() {
        assert!(RegionId::NONE.slot() >= limits::REGIONS_MAX);
    }
}
