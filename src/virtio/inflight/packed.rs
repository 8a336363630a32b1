//! The records of a packed queue.
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | features: u64 | zero |
//! | 8 | version: u16 | 1; 0 before the first use |
//! | 10 | desc_num: u16 | how many entries follow |
//! | 12 | free_head: u16 | first free entry |
//! | 14 | old_free_head: u16 | the same, before what is going on |
//! | 16 | used_idx: u16 | the used index |
//! | 18 | old_used_idx: u16 | the same, before what is going on |
//! | 20 | used_wrap_counter: u8 | its wrap counter |
//! | 21 | old_used_wrap_counter: u8 | the same, before what is going on |
//! | 32 + 32 i | inflight: u8 | entry i is the first of a chain in flight |
//! | 34 + 32 i | next: u16 | the entry behind it, in its chain or in the free list |
//! | 36 + 32 i | last: u16 | first entry: the last entry of the chain |
//! | 38 + 32 i | num: u16 | first entry: how many entries the chain has |
//! | 40 + 32 i | counter: u64 | first entry: when it was fetched |
//! | 48 + 32 i | id: u16, flags: u16, len: u32, addr: u64 | the descriptor |
//!
//! Nothing going on is when old and new agree. A fetch fills entries from the free list's start and is done with the one
//! store that moves both heads of the list. A batch that is given back goes into the list and into the used index,
//! leaving the old values; then the flags of its first used descriptor show it to the driver; then the old values follow. A
//! successor that finds a difference in the used index looks at that descriptor to see whether to go on or to go back.
//!
//! That is the protocol's procedure but for two gaps in it. A batch may be as long as the ring, and then
//! differs in the wrap counter only; so that counts as a difference too. And a batch's other used
//! descriptors are in the ring when its first one is not yet: after going back they would be taken for used as soon as
//! the driver comes there. The ring makes them available ones again when it is opened.

use super::layout::{InflightLayout, PACKED_ENTRIES as ENTRIES, PACKED_ENTRY as ENTRY};
use super::region::InflightQueue;
use crate::virtio::ring::Position;
use crate::virtio::ring::device::packed_chains::{Links, PackedChains};
use crate::virtio::spec::ring::PackedDescriptor;

const VERSION: usize = 8;
const COUNT: usize = 10;
/// `free_head` and `old_free_head`, which change together.
const FREE: usize = 12;
/// `used_idx`, `old_used_idx` and their wrap counters, likewise.
const USED: usize = 16;

/// `inflight`, `next`, `last` and `num`.
const STATE: usize = 0;
const IN_FLIGHT: usize = 0;
const NEXT: usize = 2;
const COUNTER: usize = 8;
/// `id`, `flags` and `len`.
const REST: usize = 16;
const ADDRESS: usize = 24;

const VERSION_1: u16 = 1;

/// The records of one packed queue, and what of them is not to be read back.
#[derive(Debug)]
pub(in crate::virtio) struct PackedRecord {
    queue: InflightQueue,
    size: u16,
    counter: u64,
    /// The used index on record.
    used: Position,
    /// What was completed since the last batch.
    batch: Vec<u16>,
}

/// What a predecessor left.
#[derive(Debug)]
pub(in crate::virtio) struct PackedLeft {
    /// The used index.
    pub(in crate::virtio) used: Position,
    /// The chains in flight by first entry, in the order of fetching.
    pub(in crate::virtio) chains: Vec<u16>,
    /// How many descriptors they take in the ring.
    pub(in crate::virtio) descriptors: u16,
}

/// What of an entry says how it is linked.
#[derive(Clone, Copy, Debug)]
struct EntryState {
    in_flight: bool,
    next: u16,
    last: u16,
    count: u16,
}

impl PackedRecord {
    /// Opens the records of a queue of `size` descriptors, which is to start with the used index `used` if they
    /// were never used. Otherwise gives what a predecessor left, and puts its chains into `chains`; `is_available` tells
    /// whether the descriptor at a position is one that the driver made available, and nobody used.
    pub(in crate::virtio) fn open(
        queue: InflightQueue,
        size: u16,
        used: Position,
        chains: &mut PackedChains,
        is_available: impl Fn(Position) -> bool,
    ) -> Result<(PackedRecord, Option<PackedLeft>), &'static str> {
        if queue.layout() != InflightLayout::Packed {
            return Err("they are of a split queue");
        }
        if queue.size() < size {
            return Err("there are fewer than the queue has descriptors");
        }
        let batch = Vec::with_capacity(usize::from(size));
        let mut record = PackedRecord { queue, size, counter: 0, used, batch };
        // SAFETY: the field is in every area.
        let left = match unsafe { record.queue.area().load_u16(VERSION) } {
            0 => {
                record.initialize();
                None
            }
            VERSION_1 => Some(record.adopt(chains, is_available)?),
            _ => return Err("they are of a version that is not known here"),
        };
        Ok((record, left))
    }

    #[inline(always)]
    fn entry(&self, index: u16) -> usize {
        assert!(index < self.size, "entry {index} of {}", self.size);
        ENTRIES + ENTRY * usize::from(index)
    }

    fn initialize(&self) {
        self.link_all();
        self.set_used(self.used, self.used);
        // SAFETY: fields of every area.
        unsafe {
            self.queue.area().store_u16(COUNT, self.queue.size());
            self.queue.area().store_u16(VERSION, VERSION_1);
        }
    }

    /// Makes all entries free, in order.
    fn link_all(&self) {
        for index in 0..self.size {
            let state = EntryState { in_flight: false, next: index + 1, last: 0, count: 0 };
            self.set_state(index, state);
        }
        self.set_free(0, 0);
    }

    #[inline(always)]
    fn set_free(&self, free: u16, old: u16) {
        // SAFETY: fields of every area.
        unsafe { self.queue.area().store_u32(FREE, u32::from(free) | u32::from(old) << 16) }
    }

    #[inline(always)]
    fn set_used(&self, used: Position, old: Position) {
        let fields = u64::from(used.index)
            | u64::from(old.index) << 16
            | u64::from(used.wrap) << 32
            | u64::from(old.wrap) << 40;
        // SAFETY: fields of every area.
        unsafe { self.queue.area().store_u64(USED, fields) }
    }

    #[inline(always)]
    fn set_state(&self, index: u16, state: EntryState) {
        let fields = u64::from(state.in_flight)
            | u64::from(state.next) << 16
            | u64::from(state.last) << 32
            | u64::from(state.count) << 48;
        // SAFETY: an entry of the queue, which the area has.
        unsafe { self.queue.area().store_u64(self.entry(index) + STATE, fields) }
    }

    fn state(&self, index: u16) -> EntryState {
        // SAFETY: an entry of the queue, which the area has.
        let fields = unsafe { self.queue.area().load_u64(self.entry(index) + STATE) };
        EntryState {
            in_flight: fields as u8 != 0,
            next: (fields >> 16) as u16,
            last: (fields >> 32) as u16,
            count: (fields >> 48) as u16,
        }
    }

    fn clear_in_flight(&self, index: u16) {
        // SAFETY: an entry of the queue, which the area has.
        unsafe { self.queue.area().store_u8(self.entry(index) + IN_FLIGHT, 0) }
    }

    fn adopt(
        &mut self,
        chains: &mut PackedChains,
        is_available: impl Fn(Position) -> bool,
    ) -> Result<PackedLeft, &'static str> {
        let area = self.queue.area();
        // SAFETY: fields of every area.
        let (count, free, used) =
            unsafe { (area.load_u16(COUNT), area.load_u32(FREE), area.load_u64(USED)) };
        if count != self.queue.size() {
            return Err("they are for another number of descriptors than was said");
        }
        let new = Position { index: used as u16, wrap: (used >> 32) as u8 != 0 };
        let old = Position { index: (used >> 16) as u16, wrap: (used >> 40) as u8 != 0 };
        if new.index >= self.size || old.index >= self.size {
            return Err("their used index is outside of the queue");
        }
        // Whether the driver has seen the batch that was going on, if one was.
        let go_on = new != old && !is_available(old);
        let (used, free) = if go_on { (new, free as u16) } else { (old, (free >> 16) as u16) };

        let states: Vec<EntryState> = (0..self.size).map(|index| self.state(index)).collect();
        let mut accounted = vec![false; states.len()];
        let free_list = follow(&states, &mut accounted, free, usize::MAX);
        let left = self.chains_in_flight(&states, &mut accounted, chains);
        match (&free_list, accounted.iter().all(|&accounted| accounted)) {
            (Some(_), true) => {}
            // Nothing is lost by starting over, if nothing is in flight: a queue of another size had the records before.
            _ if states.iter().all(|state| !state.in_flight) => {
                self.link_all();
                self.set_used(used, used);
                self.used = used;
                return Ok(PackedLeft { used, chains: Vec::new(), descriptors: 0 });
            }
            _ => return Err("their entries are not linked as they must be"),
        }
        let left = left?;
        for &index in free_list.iter().flatten() {
            chains.set_next(index, states[usize::from(index)].next);
            if states[usize::from(index)].in_flight {
                self.clear_in_flight(index);
            }
        }
        chains.set_free(free);
        // In this order: with the new heads and the old used index, a successor of ours decides as we did.
        self.set_free(free, free);
        self.set_used(used, used);
        self.used = used;
        let descriptors = left.iter().map(|&first| chains.links(first).count).sum();
        Ok(PackedLeft { used, chains: left, descriptors })
    }

    /// The chains in flight in the order of fetching; copies them to `chains`.
    fn chains_in_flight(
        &mut self,
        states: &[EntryState],
        accounted: &mut [bool],
        chains: &mut PackedChains,
    ) -> Result<Vec<u16>, &'static str> {
        let mut left = Vec::new();
        for (first, state) in (0..self.size).zip(states) {
            if accounted[usize::from(first)] || !state.in_flight {
                continue;
            }
            let entries = follow(states, accounted, first, usize::from(state.count))
                .filter(|entries| entries.len() == usize::from(state.count))
                .filter(|entries| entries.last() == Some(&state.last))
                .ok_or("a chain of theirs is not linked as it must be")?;
            let mut buffer = 0;
            for &index in &entries {
                let entry = self.entry(index);
                // SAFETY: an entry of the queue, which the area has.
                let (rest, address) = unsafe {
                    let area = self.queue.area();
                    (area.load_u64(entry + REST), area.load_u64(entry + ADDRESS))
                };
                let descriptor = PackedDescriptor {
                    address,
                    length: (rest >> 32) as u32,
                    id: rest as u16,
                    flags: (rest >> 16) as u16,
                };
                buffer = descriptor.id;
                chains.set_descriptor(index, descriptor);
                chains.set_next(index, states[usize::from(index)].next);
            }
            chains.set_links(first, Links { count: state.count, last: state.last, buffer });
            // SAFETY: an entry of the queue, which the area has.
            let counter = unsafe { self.queue.area().load_u64(self.entry(first) + COUNTER) };
            left.push((counter, first));
        }
        left.sort_unstable();
        self.counter = left.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(left.into_iter().map(|(_, first)| first).collect())
    }

    /// A chain was taken from the ring, into the free entries of `chains` from `first` on.
    #[inline]
    pub(in crate::virtio) fn fetched(&mut self, chains: &PackedChains, first: u16) {
        let links = chains.links(first);
        let area = self.queue.area();
        let mut index = first;
        for _ in 0..links.count {
            let entry = self.entry(index);
            let descriptor = chains.descriptor(index);
            let rest = u64::from(descriptor.id)
                | u64::from(descriptor.flags) << 16
                | u64::from(descriptor.length) << 32;
            // SAFETY: an entry of the queue, which the area has.
            unsafe {
                area.store_u64(entry + REST, rest);
                area.store_u64(entry + ADDRESS, descriptor.address);
            }
            index = chains.next(index);
        }
        // SAFETY: an entry of the queue, which the area has.
        unsafe { area.store_u64(self.entry(first) + COUNTER, self.counter) };
        self.counter = self.counter.wrapping_add(1);
        let (next, last, count) = (chains.next(first), links.last, links.count);
        self.set_state(first, EntryState { in_flight: true, next, last, count });
    }

    /// All chains of a batch were taken.
    #[inline]
    pub(in crate::virtio) fn end_fetch(&self, chains: &PackedChains) {
        self.set_free(chains.free(), chains.free());
    }

    /// A buffer is to be in the next batch.
    #[inline(always)]
    pub(in crate::virtio) fn completed(&mut self, first: u16) {
        self.batch.push(first);
    }

    /// Before the driver sees the batch, which makes `used` the used index. Puts its entries back into the list.
    #[inline]
    pub(in crate::virtio) fn link_batch(&mut self, chains: &mut PackedChains, used: Position) {
        let area = self.queue.area();
        let old = chains.free();
        for &first in &self.batch {
            chains.release(first);
            let last = chains.links(first).last;
            // SAFETY: an entry of the queue, which the area has.
            unsafe { area.store_u16(self.entry(last) + NEXT, chains.next(last)) };
        }
        self.set_free(chains.free(), old);
        self.set_used(used, self.used);
        self.used = used;
    }

    /// After the driver has seen it.
    #[inline]
    pub(in crate::virtio) fn end_batch(&mut self, chains: &PackedChains) {
        for &first in &self.batch {
            self.clear_in_flight(first);
        }
        // In this order: while the used index differs, a successor takes the new head of the list.
        self.set_free(chains.free(), chains.free());
        self.set_used(self.used, self.used);
        self.batch.clear();
    }
}

/// The entries from `first` on, at most `count`, until one that does not exist; `None` when one is there twice.
fn follow(
    states: &[EntryState],
    accounted: &mut [bool],
    first: u16,
    count: usize,
) -> Option<Vec<u16>> {
    let mut entries = Vec::new();
    let mut index = first;
    while entries.len() < count
        && let Some(accounted) = accounted.get_mut(usize::from(index))
    {
        if std::mem::replace(accounted, true) {
            return None;
        }
        entries.push(index);
        index = states[usize::from(index)].next;
    }
    Some(entries)
}
