//! Split virtqueues (VIRTIO 2.7).
//!
//! A buffer's id is the index of its head. A driver cannot have more buffers outstanding than there are heads, and that
//! is enforced: the available index may run ahead of the used index that the driver can see by the queue's size at most.

use std::mem;
use std::sync::atomic::{Ordering, fence};

use super::indirect::{self, IndirectTable};
use super::split_memory::{SplitMemory, words};
use super::{CHAIN_MAX, DeviceRing, Piece, RingFault, RingLog, RingPlace, add_piece};
use crate::virtio::inflight::{InflightQueue, SplitRecord};
use crate::virtio::memory::GuestMemory;
use crate::virtio::spec::Features;
use crate::virtio::spec::ring::descriptor_flags::{INDIRECT, NEXT};
use crate::virtio::spec::ring::{AVAIL_NO_INTERRUPT, USED_NO_NOTIFY};

/// The device's side of a split virtqueue.
#[derive(Debug)]
pub struct SplitRing {
    memory: SplitMemory,
    size: u16,
    event_index: bool,
    indirect: bool,
    /// Position in the available ring of what is fetched next.
    available: u16,
    /// Position in the used ring of what is completed next.
    used: u16,
    /// The used index that the driver sees.
    published: u16,
    /// How many were published since somebody asked about an interrupt.
    unannounced: u32,
    /// An interrupt is due whatever the driver says.
    announce: bool,
    in_flight: u16,
    /// For each head, whether it is in flight.
    heads: Box<[bool]>,
    /// What a predecessor left behind, the last to be fetched first.
    resubmit: Vec<u16>,
    record: Option<SplitRecord>,
    log: Option<RingLog>,
}

impl SplitRing {
    #[inline]
    fn fetch_left_behind(&mut self, ids: &mut [u16]) -> usize {
        let mut count = 0;
        for id in ids {
            let Some(head) = self.resubmit.pop() else { break };
            self.memory.prefetch(head);
            *id = head;
            count += 1;
        }
        count
    }

    /// The rest of a chain, which is in a table.
    #[inline]
    fn chain_in_table(
        &self,
        id: u16,
        table: IndirectTable,
        chain: &mut Vec<Piece>,
    ) -> Result<(), RingFault> {
        let mut index = 0;
        // Each turn adds a piece, and those are limited.
        loop {
            let Some(descriptor) = table.get(u32::from(index)).map(words) else {
                return Err(RingFault::DescriptorIndex(index));
            };
            let flags = descriptor.flags;
            if flags & INDIRECT != 0 {
                return Err(RingFault::IndirectTable(id));
            }
            add_piece(chain, id, descriptor.address, descriptor.length, flags)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    /// Logs the writes of `count` used elements from a position on, and of the used index.
    #[cold]
    fn log_published(&self, first: u16, count: u16) {
        let Some(RingLog { log, device, .. }) = &self.log else { return };
        if usize::from(count) >= usize::from(self.size) {
            log.mark(*device, self.memory.device_length() as u64);
            return;
        }
        let start = self.memory.used_offset(first) as u64;
        let before_end = (self.size - (first & (self.size - 1))).min(count);
        log.mark(device.wrapping_add(start), 8 * u64::from(before_end));
        if before_end < count {
            let start = self.memory.used_offset(0) as u64;
            log.mark(device.wrapping_add(start), 8 * u64::from(count - before_end));
        }
        log.mark(*device, 4);
    }

    /// Logs a write of `flags` or of `avail_event`.
    fn log_suppression(&self) {
        if let Some(RingLog { log, device, .. }) = &self.log {
            log.mark(*device, 2);
            log.mark(device.wrapping_add(self.memory.device_length() as u64 - 2), 2);
        }
    }
}

impl DeviceRing for SplitRing {
    unsafe fn open(
        place: RingPlace,
        inflight: Option<InflightQueue>,
    ) -> Result<SplitRing, RingFault> {
        // SAFETY: the caller's word.
        let memory = unsafe { SplitMemory::new(&place)? };
        let used = memory.used_index();
        let mut available = u16::try_from(place.base).map_err(|_| RingFault::Base(place.base))?;
        // What the driver sees as used was fetched, too: a front end that lost its back end may give the base of the
        // time before.
        if (1..=place.size).contains(&used.wrapping_sub(available)) {
            available = used;
        }
        let mut heads = vec![false; usize::from(place.size)].into_boxed_slice();
        let mut resubmit = Vec::new();
        let mut record = None;
        if let Some(queue) = inflight {
            let outstanding = memory.available_index().wrapping_sub(used);
            let (open, left) = SplitRecord::open(queue, place.size, used, outstanding)
                .map_err(RingFault::Inflight)?;
            if let Some(left) = left {
                // What was fetched is what was completed and what was not. The front end cannot know how far we
                // had come when we died.
                available = used.wrapping_add(left.len() as u16);
                resubmit = left;
            }
            record = Some(open);
        }
        for &head in &resubmit {
            heads[usize::from(head)] = true;
        }
        resubmit.reverse();
        let mut ring = SplitRing {
            memory,
            size: place.size,
            event_index: place.features.has(Features::EVENT_IDX),
            indirect: place.features.has(Features::INDIRECT_DESC),
            available,
            used,
            published: used,
            unannounced: 0,
            announce: true,
            in_flight: resubmit.len() as u16,
            heads,
            resubmit,
            record,
            log: None,
        };
        if ring.event_index {
            ring.memory.set_used_flags(0);
        }
        ring.disarm();
        Ok(ring)
    }

    #[inline]
    fn fetch(&mut self, ids: &mut [u16]) -> Result<usize, RingFault> {
        if !self.resubmit.is_empty() {
            return Ok(self.fetch_left_behind(ids));
        }
        let index = self.memory.available_index();
        let waiting = index.wrapping_sub(self.available);
        if waiting == 0 {
            return Ok(0);
        }
        if index.wrapping_sub(self.published) > self.size || waiting > self.size {
            return Err(RingFault::AvailableIndex(index));
        }
        let mut count = 0;
        for id in ids.iter_mut().take(usize::from(waiting)) {
            let head = self.memory.available_entry(self.available);
            let fault = match self.heads.get_mut(usize::from(head)) {
                Some(in_flight) if !*in_flight => {
                    *in_flight = true;
                    None
                }
                Some(_) => Some(RingFault::InFlight(head)),
                None => Some(RingFault::DescriptorIndex(head)),
            };
            if let Some(fault) = fault {
                if count == 0 {
                    return Err(fault);
                }
                break;
            }
            self.memory.prefetch(head);
            if let Some(record) = &mut self.record {
                record.fetched(head);
            }
            *id = head;
            self.available = self.available.wrapping_add(1);
            count += 1;
        }
        self.in_flight += count as u16;
        Ok(count)
    }

    #[inline]
    fn chain(
        &mut self,
        id: u16,
        memory: &GuestMemory,
        chain: &mut Vec<Piece>,
    ) -> Result<(), RingFault> {
        chain.clear();
        let mut index = id;
        for _ in 0..usize::from(self.size).min(CHAIN_MAX + 1) {
            let descriptor = self.memory.descriptor(index);
            let flags = descriptor.flags;
            if flags & INDIRECT != 0 {
                // A table may end a chain (2.7.5.3.2), but be nowhere else in it (2.7.5.3.1).
                if !self.indirect || flags & NEXT != 0 {
                    return Err(RingFault::IndirectTable(id));
                }
                let table = IndirectTable::find(memory, descriptor.address, descriptor.length, id)?;
                return self.chain_in_table(id, table, chain);
            }
            add_piece(chain, id, descriptor.address, descriptor.length, flags)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
            if index >= self.size {
                return Err(RingFault::DescriptorIndex(index));
            }
        }
        Err(RingFault::ChainTooLong(id))
    }

    #[inline]
    fn prefetch(&self, id: u16, memory: &GuestMemory) {
        let descriptor = self.memory.descriptor(id);
        if descriptor.flags & INDIRECT != 0 {
            indirect::prefetch(memory, descriptor.address);
        }
    }

    #[inline]
    fn complete(&mut self, id: u16, written: u32) {
        let in_flight = &mut self.heads[usize::from(id)];
        debug_assert!(*in_flight, "buffer {id} was not in flight");
        *in_flight = false;
        self.in_flight -= 1;
        self.memory.set_used(self.used, id, written);
        self.used = self.used.wrapping_add(1);
        if let Some(record) = &mut self.record {
            record.completed(id);
        }
    }

    #[inline]
    fn publish(&mut self) {
        let count = self.used.wrapping_sub(self.published);
        if count == 0 {
            return;
        }
        if let Some(record) = &mut self.record {
            record.link_batch();
        }
        self.memory.set_used_index(self.used);
        if let Some(record) = &mut self.record {
            record.end_batch(self.used);
        }
        if self.log.is_some() {
            self.log_published(self.published, count);
        }
        self.published = self.used;
        self.unannounced = self.unannounced.saturating_add(u32::from(count));
    }

    #[inline]
    fn take_interrupt(&mut self) -> bool {
        let count = mem::take(&mut self.unannounced);
        if mem::take(&mut self.announce) {
            return true;
        }
        if count == 0 {
            return false;
        }
        // The driver says what it wants and then looks at the used index; we do it the other way round. Between
        // the two, nothing may pass (2.7.7.2).
        fence(Ordering::SeqCst);
        if self.event_index {
            let ago = self.published.wrapping_sub(self.memory.used_event()).wrapping_sub(1);
            u32::from(ago) < count
        } else {
            self.memory.available_flags() & AVAIL_NO_INTERRUPT == 0
        }
    }

    fn arm(&mut self) -> bool {
        if self.event_index {
            self.memory.set_available_event(self.available);
        } else {
            self.memory.set_used_flags(0);
        }
        self.log_suppression();
        // As in `take_interrupt`, with the roles changed (2.7.10.1).
        fence(Ordering::SeqCst);
        !self.resubmit.is_empty() || self.memory.available_index() != self.available
    }

    fn disarm(&mut self) {
        if self.event_index {
            // The position that the driver has just passed is the one that it takes longest to reach.
            self.memory.set_available_event(self.available.wrapping_sub(1));
        } else {
            self.memory.set_used_flags(USED_NO_NOTIFY);
        }
        self.log_suppression();
    }

    #[inline]
    fn in_flight(&self) -> u16 {
        self.in_flight
    }

    fn base(&self) -> u32 {
        u32::from(self.available)
    }

    fn set_log(&mut self, log: Option<RingLog>) {
        self.log = log;
        if let Some(RingLog { log, device, .. }) = &self.log {
            log.mark(*device, self.memory.device_length() as u64);
        }
    }
}
