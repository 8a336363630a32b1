//! The requests of a queue that are outstanding.

use super::Sender;

/// What became of a slot's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Shape {
    /// No request is in it.
    Free,
    /// A header, one piece of data, a status byte: nearly every request.
    Plain,
    /// A header and a status byte.
    Bare,
    /// The slot's own table.
    Table,
}

/// An outstanding request.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    pub(super) sender: Sender,
    /// Packed: what its descriptor in the ring points to; with it the request can be made available again.
    pub(super) address: u64,
    pub(super) length: u32,
    /// Bytes that the device may write.
    pub(super) writable: u32,
    pub(super) shape: Shape,
}

/// All slots of a queue. Which are free is a stack: what was used last is still in the cache.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
}

impl Slots {
    pub(super) fn new(count: u16) -> Slots {
        let slot = Slot {
            sender: Sender { tag: [0; 3], owner: 0, mark: 0 },
            address: 0,
            length: 0,
            writable: 0,
            shape: Shape::Free,
        };
        Slots { slots: vec![slot; usize::from(count)].into(), free: (0..count).rev().collect() }
    }

    /// How many more requests fit.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    /// How many are outstanding.
    #[inline]
    pub(super) fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts a request in a free slot, if there is one.
    #[inline]
    pub(super) fn take(&mut self, slot: Slot) -> Option<u16> {
        let index = self.free.pop()?;
        self.slots[usize::from(index)] = slot;
        Some(index)
    }

    /// The outstanding request of this slot, which may be any number.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index).filter(|slot| slot.shape != Shape::Free)
    }

    /// Frees the slot of an outstanding request.
    #[inline]
    pub(super) fn release(&mut self, index: usize) {
        self.slots[index].shape = Shape::Free;
        // There was room: it was taken from there.
        self.free.push(index as u16);
    }

    /// The slots of all outstanding requests.
    pub(super) fn busy(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.shape != Shape::Free)
    }

    /// The slot that is taken next.
    #[inline]
    pub(super) fn next_free(&self) -> Option<u16> {
        self.free.last().copied()
    }
}
