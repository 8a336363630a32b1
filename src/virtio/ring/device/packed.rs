//! Packed virtqueues (VIRTIO 2.8).
//!
//! A buffer's id here is the first entry of its chain in [`PackedChains`]; the driver's own buffer id, of any value, goes
//! back to the driver. Of a batch that is given back, the driver sees nothing before the first used descriptor, which
//! is therefore written last.

use std::mem;
use std::sync::atomic::{Ordering, fence};

use super::indirect::{self, IndirectTable};
use super::packed_chains::{Links, PackedChains};
use super::packed_memory::{PackedMemory, Tail, available_bits, used_bits, words};
use super::{DeviceRing, Piece, RingFault, RingLog, RingPlace, add_piece};
use crate::virtio::inflight::{InflightQueue, PackedRecord};
use crate::virtio::memory::GuestMemory;
use crate::virtio::ring::Position;
use crate::virtio::spec::Features;
use crate::virtio::spec::ring::descriptor_flags::{AVAILABLE, INDIRECT, NEXT, USED, WRITE};
use crate::virtio::spec::ring::{PACKED_EVENT_AREA, event_flags};

/// The device's side of a packed virtqueue.
#[derive(Debug)]
pub struct PackedRing {
    memory: PackedMemory,
    size: u16,
    event_index: bool,
    indirect: bool,
    /// Where the next descriptor is fetched.
    available: Position,
    /// Where the next used descriptor goes.
    used: Position,
    /// Where the driver looks for the next used descriptor, which is where the next batch starts.
    published: Position,
    /// The used descriptor that is to go there.
    first: Option<Tail>,
    /// How many descriptors were fetched, and not published as used.
    taken: u16,
    /// How many of them were completed.
    completed: u16,
    /// How many descriptors were published since somebody asked about an interrupt.
    unannounced: u32,
    /// An interrupt is due whatever the driver says.
    announce: bool,
    in_flight: u16,
    chains: PackedChains,
    /// For each buffer id of the driver, whether it is in flight.
    buffers: Box<[u64]>,
    /// What a predecessor left behind, the last to be fetched first.
    resubmit: Vec<u16>,
    record: Option<PackedRecord>,
    log: Option<RingLog>,
}

/// Where a buffer id's bit is.
#[inline(always)]
fn bit_of(buffer: u16) -> (usize, u64) {
    (usize::from(buffer / 64), 1 << (buffer % 64))
}

impl PackedRing {
    #[inline]
    fn fetch_left_behind(&mut self, ids: &mut [u16]) -> usize {
        let mut count = 0;
        for id in ids {
            let Some(first) = self.resubmit.pop() else { break };
            *id = first;
            count += 1;
        }
        count
    }

    /// Copies the chain whose first descriptor is next and has `tail`.
    #[inline(always)]
    fn take(&mut self, mut tail: Tail) -> Result<u16, RingFault> {
        let first = self.chains.free();
        let mut position = self.available;
        let mut entry = first;
        let mut count = 0;
        let (buffer, last) = loop {
            if self.taken + count >= self.size {
                return Err(match count {
                    0 => RingFault::AvailableIndex(position.bits()),
                    _ => RingFault::ChainTooLong(first),
                });
            }
            let descriptor = self.memory.descriptor(position.index, tail);
            self.chains.set_descriptor(entry, descriptor);
            position = position.advanced(1, self.size);
            count += 1;
            if descriptor.flags & NEXT == 0 {
                break (descriptor.id, entry);
            }
            entry = self.chains.next(entry);
            tail = self.memory.tail(position.index);
        };
        let (word, bit) = bit_of(buffer);
        if self.buffers[word] & bit != 0 {
            return Err(RingFault::InFlight(buffer));
        }
        self.buffers[word] |= bit;
        self.chains.set_links(first, Links { count, last, buffer });
        self.chains.set_free(self.chains.next(last));
        self.available = position;
        self.taken += count;
        Ok(first)
    }

    /// The pieces that are in a table: all of it (2.8.7).
    #[inline]
    fn chain_in_table(
        id: u16,
        table: IndirectTable,
        chain: &mut Vec<Piece>,
    ) -> Result<(), RingFault> {
        for index in 0..table.count() {
            let Some(descriptor) = table.get(index).map(words) else { break };
            if descriptor.flags & INDIRECT != 0 {
                return Err(RingFault::IndirectTable(id));
            }
            add_piece(chain, id, descriptor.address, descriptor.length, descriptor.flags)?;
        }
        Ok(())
    }

    fn set_event(&mut self, flags: u16) {
        self.memory.set_device_event(self.available, flags);
        if let Some(RingLog { log, device, .. }) = &self.log {
            log.mark(*device, PACKED_EVENT_AREA as u64);
        }
    }

    /// Logs the write of a used descriptor.
    #[cold]
    fn log_used(&self, index: u16) {
        if let Some(RingLog { log, descriptors, .. }) = &self.log {
            log.mark(descriptors.wrapping_add(16 * u64::from(index)), 16);
        }
    }

    /// A predecessor may have died while it wrote used descriptors whose batch the driver never saw. All descriptors that
    /// are ours become available ones again; the driver is not looking at any but the first, and that one is.
    fn restore(&self) {
        let mut position = self.used;
        for _ in 0..self.taken {
            let flags = self.memory.tail(position.index).flags() & !(AVAILABLE | USED);
            self.memory.set_flags(position.index, flags | available_bits(position.wrap));
            position = position.advanced(1, self.size);
        }
    }
}

/// Whether a ring that is to start at base 0 was never used. Both wrap counters of a base of 0 are 0, which is the state of
/// a ring after an odd number of rounds; but some front ends (libblkio) give 0 for a new ring, whose counters start at
/// 1 (2.8.1). In a new ring, nothing was used and nothing was made available with a counter of 0, either of which sets
/// the one bit. After an odd round, something was used in it, and it at most has been made available again.
fn is_fresh(memory: &PackedMemory, size: u16) -> bool {
    (0..size).all(|index| memory.tail(index).flags() & USED == 0)
}

impl DeviceRing for PackedRing {
    unsafe fn open(
        place: RingPlace,
        inflight: Option<InflightQueue>,
    ) -> Result<PackedRing, RingFault> {
        // SAFETY: the caller's word.
        let memory = unsafe { PackedMemory::new(&place)? };
        let size = place.size;
        let mut available = Position::from_bits(place.base as u16);
        if place.base == 0 && is_fresh(&memory, size) {
            available.wrap = true;
        }
        // Some front ends give the available index only. Where nothing is in flight, the used index is the same.
        let mut used = match (place.base >> 16) as u16 {
            0 => available,
            bits => Position::from_bits(bits),
        };
        if available.index >= size || used.index >= size {
            return Err(RingFault::Base(place.base));
        }
        let mut chains = PackedChains::new(size);
        let mut resubmit = Vec::new();
        let mut record = None;
        let mut restore = false;
        if let Some(queue) = inflight {
            let is_available =
                |position: Position| memory.tail(position.index).is_available(position.wrap);
            let (open, left) = PackedRecord::open(queue, size, used, &mut chains, is_available)
                .map_err(RingFault::Inflight)?;
            if let Some(left) = left {
                used = left.used;
                available = used.advanced(left.descriptors, size);
                resubmit = left.chains;
                restore = true;
            }
            record = Some(open);
        }
        let taken = available.ahead_of(used, size).ok_or(RingFault::Base(place.base))?;
        let mut buffers = vec![0; 1 << 10].into_boxed_slice();
        for &first in &resubmit {
            let buffer = chains.links(first).buffer;
            let (word, bit) = bit_of(buffer);
            if buffers[word] & bit != 0 {
                return Err(RingFault::InFlight(buffer));
            }
            buffers[word] |= bit;
        }
        resubmit.reverse();
        let mut ring = PackedRing {
            memory,
            size,
            event_index: place.features.has(Features::EVENT_IDX),
            indirect: place.features.has(Features::INDIRECT_DESC),
            available,
            used,
            published: used,
            first: None,
            taken,
            completed: 0,
            unannounced: 0,
            announce: true,
            in_flight: resubmit.len() as u16,
            chains,
            buffers,
            resubmit,
            record,
            log: None,
        };
        if restore {
            ring.restore();
        }
        ring.disarm();
        Ok(ring)
    }

    #[inline]
    fn fetch(&mut self, ids: &mut [u16]) -> Result<usize, RingFault> {
        if !self.resubmit.is_empty() {
            return Ok(self.fetch_left_behind(ids));
        }
        let mut count = 0;
        for id in ids {
            let tail = self.memory.tail(self.available.index);
            if !tail.is_available(self.available.wrap) {
                break;
            }
            match self.take(tail) {
                Ok(first) => *id = first,
                Err(fault) if count == 0 => return Err(fault),
                Err(_) => break,
            }
            if let Some(record) = &mut self.record {
                record.fetched(&self.chains, *id);
            }
            count += 1;
        }
        if count > 0 {
            if let Some(record) = &mut self.record {
                record.end_fetch(&self.chains);
            }
            self.memory.prefetch(self.available.index);
            self.in_flight += count as u16;
        }
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
        let count = self.chains.links(id).count;
        let mut entry = id;
        for _ in 0..count {
            let descriptor = self.chains.descriptor(entry);
            let flags = descriptor.flags;
            if flags & INDIRECT != 0 {
                // A table is all of its buffer (2.8.17).
                if !self.indirect || count != 1 || flags & NEXT != 0 {
                    return Err(RingFault::IndirectTable(id));
                }
                let table = IndirectTable::find(memory, descriptor.address, descriptor.length, id)?;
                return Self::chain_in_table(id, table, chain);
            }
            add_piece(chain, id, descriptor.address, descriptor.length, flags)?;
            entry = self.chains.next(entry);
        }
        Ok(())
    }

    #[inline]
    fn prefetch(&self, id: u16, memory: &GuestMemory) {
        let descriptor = self.chains.descriptor(id);
        if descriptor.flags & INDIRECT != 0 {
            indirect::prefetch(memory, descriptor.address);
        }
    }

    #[inline]
    fn complete(&mut self, id: u16, written: u32) {
        let Links { count, buffer, .. } = self.chains.links(id);
        let (word, bit) = bit_of(buffer);
        debug_assert!(self.buffers[word] & bit != 0, "buffer {id} was not in flight");
        self.buffers[word] &= !bit;
        self.in_flight -= 1;
        let wrote = if written > 0 { WRITE } else { 0 };
        let tail = Tail::new(written, buffer, used_bits(self.used.wrap) | wrote);
        if self.first.is_none() {
            self.first = Some(tail);
        } else {
            self.memory.set_used(self.used.index, tail);
            if self.log.is_some() {
                self.log_used(self.used.index);
            }
        }
        self.used = self.used.advanced(count, self.size);
        self.completed += count;
        match &mut self.record {
            None => self.chains.release(id),
            // On record, the list does not change before the batch is published.
            Some(record) => record.completed(id),
        }
    }

    #[inline]
    fn publish(&mut self) {
        let Some(tail) = self.first.take() else { return };
        let index = self.published.index;
        if let Some(record) = &mut self.record {
            record.link_batch(&mut self.chains, self.used);
        }
        self.memory.set_used(index, tail);
        if let Some(record) = &mut self.record {
            record.end_batch(&self.chains);
        }
        if self.log.is_some() {
            self.log_used(index);
        }
        self.published = self.used;
        let completed = mem::take(&mut self.completed);
        self.taken -= completed;
        self.unannounced = self.unannounced.saturating_add(u32::from(completed));
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
        // The driver says what it wants and then looks at the next used descriptor; we do it the other way round.
        // Between the two, nothing may pass.
        fence(Ordering::SeqCst);
        let (event, flags) = self.memory.driver_event();
        match flags {
            event_flags::DISABLE => false,
            event_flags::DESCRIPTOR if self.event_index => {
                let round = if event.wrap == self.published.wrap { 0 } else { self.size };
                let ago =
                    i32::from(self.published.index) + i32::from(round) - i32::from(event.index);
                // Beyond a round, positions come again.
                count > u32::from(self.size) || (ago > 0 && ago as u32 <= count)
            }
            _ => true,
        }
    }

    fn arm(&mut self) -> bool {
        self.set_event(if self.event_index {
            event_flags::DESCRIPTOR
        } else {
            event_flags::ENABLE
        });
        // As in `take_interrupt`, with the roles changed.
        fence(Ordering::SeqCst);
        let tail = self.memory.tail(self.available.index);
        !self.resubmit.is_empty() || tail.is_available(self.available.wrap)
    }

    fn disarm(&mut self) {
        self.set_event(event_flags::DISABLE);
    }

    #[inline]
    fn in_flight(&self) -> u16 {
        self.in_flight
    }

    fn base(&self) -> u32 {
        u32::from(self.available.bits()) | u32::from(self.used.bits()) << 16
    }

    fn set_log(&mut self, log: Option<RingLog>) {
        self.log = log;
        if let Some(RingLog { log, descriptors, device }) = &self.log {
            log.mark(*descriptors, 16 * u64::from(self.size));
            log.mark(*device, PACKED_EVENT_AREA as u64);
        }
    }
}
