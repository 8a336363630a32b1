//! A fixed number of slots that never move.

use std::ops::{Index, IndexMut};

/// Slots for `T`, named by index. Memory is reserved when the slab is made and touched when a slot is first
/// used; no call after that allocates, and a slot keeps its address and, while free, its contents.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    in_use: bool,
    value: T,
}

impl<T: Default> Slab<T> {
    /// A slab of `capacity` slots.
    pub(super) fn new(capacity: usize) -> Slab<T> {
        Slab { slots: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity) }
    }

    /// A slot, with whatever its last user left in it (`T::default()` at first), unless all are in use.
    pub(super) fn take(&mut self) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.slots.capacity() => {
                self.slots.push(Slot { in_use: false, value: T::default() });
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        self.slots[index as usize].in_use = true;
        Some(index)
    }

    /// Frees a slot.
    pub(super) fn give_back(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.in_use, "a slot is freed once");
        slot.in_use = false;
        self.free.push(index);
    }

    /// How many slots are in use.
    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether `index` names a slot in use.
    pub(super) fn is_in_use(&self, index: u32) -> bool {
        self.slots.get(index as usize).is_some_and(|slot| slot.in_use)
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    #[inline]
    fn index(&self, index: u32) -> &T {
        &self.slots[index as usize].value
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.slots[index as usize].value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_never_move() {
        let mut slab: Slab<u64> = Slab::new(2);
        let a = slab.take().unwrap();
        slab[a] = 7;
        let address = &raw const slab[a];
        let b = slab.take().unwrap();
        assert_ne!(a, b);
        assert_eq!(slab.take(), None);
        assert_eq!(&raw const slab[a], address);
        slab.give_back(a);
        assert!(!slab.is_in_use(a) && slab.is_in_use(b) && !slab.is_in_use(9));
        assert_eq!(slab.in_use(), 1);
        assert_eq!(slab.take(), Some(a));
        assert_eq!(slab[a], 7, "contents stay");
    }
}
