//! The records of a split queue.
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | features: u64 | zero |
//! | 8 | version: u16 | 1; 0 before the first use |
//! | 10 | desc_num: u16 | how many entries follow |
//! | 12 | last_batch_head: u16 | last buffer of the last batch that was given back |
//! | 14 | used_idx: u16 | the used index after that batch, once it is all on record |
//! | 16 + 16 i | inflight: u8 | buffer i is in flight |
//! | 22 + 16 i | next: u16 | the buffer before it in its batch |
//! | 24 + 16 i | counter: u64 | when it was fetched |
//!
//! The ring's own used index is what makes a batch given back. A successor that finds it ahead of `used_idx` knows that the
//! flags of that many buffers, from `last_batch_head` on, may not have been cleared any more.

use super::layout::{InflightLayout, SPLIT_ENTRIES as ENTRIES, SPLIT_ENTRY as ENTRY};
use super::region::InflightQueue;

const VERSION: usize = 8;
const COUNT: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_INDEX: usize = 14;
const IN_FLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

const VERSION_1: u16 = 1;

/// The records of one split queue, and what of them is not to be read back.
#[derive(Debug)]
pub(in crate::virtio) struct SplitRecord {
    queue: InflightQueue,
    size: u16,
    counter: u64,
    last_batch_head: u16,
    /// What was completed since the last batch.
    batch: Vec<u16>,
}

impl SplitRecord {
    /// Opens the records of a queue of `size` descriptors whose used index is `used` and in which the driver has
    /// `outstanding` buffers. Gives what a predecessor left in flight, in the order of its fetching, if there was a
    /// predecessor.
    pub(in crate::virtio) fn open(
        queue: InflightQueue,
        size: u16,
        used: u16,
        outstanding: u16,
    ) -> Result<(SplitRecord, Option<Vec<u16>>), &'static str> {
        if queue.layout() != InflightLayout::Split {
            return Err("they are of a packed queue");
        }
        if queue.size() < size {
            return Err("there are fewer than the queue has descriptors");
        }
        let batch = Vec::with_capacity(usize::from(size));
        let mut record = SplitRecord { queue, size, counter: 0, last_batch_head: 0, batch };
        // SAFETY: the field is in every area.
        let left = match unsafe { record.queue.area().load_u16(VERSION) } {
            0 => {
                record.initialize(used);
                None
            }
            VERSION_1 => Some(record.adopt(used, outstanding)?),
            _ => return Err("they are of a version that is not known here"),
        };
        Ok((record, left))
    }

    #[inline(always)]
    fn entry(&self, id: u16) -> usize {
        debug_assert!(id < self.size);
        ENTRIES + ENTRY * usize::from(id)
    }

    fn initialize(&mut self, used: u16) {
        let area = self.queue.area();
        // SAFETY: fields of every area, and of the entries that it has at least.
        unsafe {
            for id in 0..self.size {
                area.store_u8(self.entry(id) + IN_FLIGHT, 0);
            }
            area.store_u16(COUNT, self.queue.size());
            area.store_u16(LAST_BATCH_HEAD, 0);
            area.store_u16(USED_INDEX, used);
            area.store_u16(VERSION, VERSION_1);
        }
    }

    fn adopt(&mut self, used: u16, outstanding: u16) -> Result<Vec<u16>, &'static str> {
        let area = self.queue.area();
        // SAFETY: fields of every area.
        let (count, head, recorded) = unsafe {
            (area.load_u16(COUNT), area.load_u16(LAST_BATCH_HEAD), area.load_u16(USED_INDEX))
        };
        if count != self.queue.size() {
            return Err("they are for another number of descriptors than was said");
        }
        let unrecorded = used.wrapping_sub(recorded);
        if unrecorded > self.size {
            return Err("the used index is not one that they lead to");
        }
        let mut id = head;
        for _ in 0..unrecorded {
            if id >= self.size {
                return Err("their last batch leads out of the queue");
            }
            let entry = self.entry(id);
            // SAFETY: an entry of the queue, which the area has.
            unsafe {
                area.store_u8(entry + IN_FLIGHT, 0);
                id = area.load_u16(entry + NEXT);
            }
        }
        // SAFETY: a field of every area.
        unsafe { area.store_u16(USED_INDEX, used) };

        let mut left = Vec::new();
        for id in 0..self.size {
            let entry = self.entry(id);
            // SAFETY: an entry of the queue, which the area has.
            unsafe {
                if area.load_u8(entry + IN_FLIGHT) != 0 {
                    left.push((area.load_u64(entry + COUNTER), id));
                }
            }
        }
        if left.len() > usize::from(outstanding) || outstanding > self.size {
            return Err("there is more in flight than the driver made available");
        }
        left.sort_unstable();
        self.counter = left.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(left.into_iter().map(|(_, id)| id).collect())
    }

    /// A buffer is taken from the ring.
    #[inline(always)]
    pub(in crate::virtio) fn fetched(&mut self, id: u16) {
        let entry = self.entry(id);
        let area = self.queue.area();
        // SAFETY: an entry of the queue, which the area has.
        unsafe {
            area.store_u64(entry + COUNTER, self.counter);
            area.store_u8(entry + IN_FLIGHT, 1);
        }
        self.counter = self.counter.wrapping_add(1);
    }

    /// A buffer is to be in the next batch.
    #[inline(always)]
    pub(in crate::virtio) fn completed(&mut self, id: u16) {
        self.batch.push(id);
    }

    /// Before the driver sees the batch.
    #[inline]
    pub(in crate::virtio) fn link_batch(&mut self) {
        let area = self.queue.area();
        for &id in &self.batch {
            // SAFETY: an entry of the queue, which the area has.
            unsafe { area.store_u16(self.entry(id) + NEXT, self.last_batch_head) };
            self.last_batch_head = id;
        }
        // SAFETY: a field of every area.
        unsafe { area.store_u16(LAST_BATCH_HEAD, self.last_batch_head) };
    }

    /// After the driver's used index became `used`.
    #[inline]
    pub(in crate::virtio) fn end_batch(&mut self, used: u16) {
        let area = self.queue.area();
        for &id in &self.batch {
            // SAFETY: an entry of the queue, which the area has.
            unsafe { area.store_u8(self.entry(id) + IN_FLIGHT, 0) };
        }
        // SAFETY: a field of every area.
        unsafe { area.store_u16(USED_INDEX, used) };
        self.batch.clear();
    }
}
