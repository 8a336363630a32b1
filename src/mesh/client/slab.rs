//! Slots that are used again: names that are small numbers, and no allocation once there are enough.

/// Name of no slot.
pub const NONE: u32 = u32::MAX;

/// A store of things by slot.
pub struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// With room for this many; it grows when more are wanted.
    pub fn with_capacity(capacity: usize) -> Slab<T> {
        Slab { slots: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity) }
    }

    /// Puts a thing in a free slot.
    pub fn insert(&mut self, thing: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(thing);
            return slot;
        }
        self.slots.push(Some(thing));
        // Giving a slot back must not allocate.
        self.free.reserve(self.slots.len());
        self.slots.len() as u32 - 1
    }

    /// Takes a thing out of its slot.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let thing = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(thing)
    }

    /// What is in a slot.
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// What is in a slot.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// What is in the slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// Empties all slots.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.free.clear();
    }
}
