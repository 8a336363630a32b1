//! A split virtqueue (VIRTIO 2.7).
//!
//! A slot's line is the same wherever it is: descriptors of header, data and status, and the header itself where a
//! fourth descriptor would be. Without tables the lines are the descriptor area, and a request's chain is its slot's line;
//! with tables each line is the table that the slot's one descriptor points to.

use std::sync::atomic::{Ordering, fence};

use super::cells::{Bytes, Field, Lines, Pairs, Part, Ring};
use super::frame::{DATA, HEADER, HEADER_LENGTH, STATUS, set_header, set_range};
use super::memory::{FRAME_DESCRIPTORS, Layout, QueueMemory, SLOT_DESCRIPTORS};
use super::slots::{Shape, Slot, Slots};
use super::{
    DeviceFault, Done, DriverRing, Header, RingAddresses, RingOptions, Sender, wants_event,
};
use crate::base::Result;
use crate::memory::Segment;
use crate::virtio::spec::Features;
use crate::virtio::spec::block::RangeDescriptor;
use crate::virtio::spec::ring::{AVAIL_NO_INTERRUPT, USED_NO_NOTIFY, descriptor_flags};

/// The second half of a descriptor.
#[inline(always)]
const fn half(length: u32, flags: u16, next: u16) -> u64 {
    length as u64 | (flags as u64) << 32 | (next as u64) << 48
}

/// The ring.
#[derive(Debug)]
pub struct SplitRing {
    slots: Slots,
    lines: Lines,
    available: Ring<2>,
    available_index: Field<2>,
    used: Ring<8>,
    used_index: Field<2>,
    statuses: Bytes,
    /// Index of the next place in the available ring, and as far as it was published.
    next: u16,
    published: u16,
    /// The available index when it was last certain what the device wants to hear.
    told: u16,
    /// Index of the next element of the used ring.
    taken: u16,
    /// A slot's first descriptor is its number shifted by this,
    head_shift: u32,
    /// and in the links between descriptors of a line these bits of that remain.
    link_mask: u16,
    event_index: bool,
    used_flags: Field<2>,
    available_event: Field<2>,
    // What follows is not needed for a plain request.
    descriptors: Pairs,
    ranges: Pairs,
    tables: Pairs,
    table_size: u16,
    parts: Parts,
    addresses: RingAddresses,
    _memory: QueueMemory,
}

/// What is cleared for a restart.
#[derive(Debug)]
struct Parts {
    driver: Part,
    device: Part,
    size: u16,
}

impl SplitRing {
    /// The ring in `memory`, which is as long as the layout of these options says.
    ///
    /// # Errors
    /// `Invalid` for options that no queue can have.
    pub fn new(memory: QueueMemory, options: &RingOptions) -> Result<SplitRing> {
        let layout = Layout::new(options)?;
        let part = |place: super::memory::Place| Part::of(&memory, place.offset, place.length);
        let size = options.size;
        let (driver, device) = (part(layout.driver), part(layout.device));
        let in_tables = layout.slots == size;
        let descriptors = part(layout.descriptors);
        let lines = if in_tables { part(layout.lines) } else { descriptors };
        let statuses = part(layout.statuses);
        statuses.fill(0xff);
        let mut ring = SplitRing {
            slots: Slots::new(layout.slots),
            lines: lines.lines(),
            available: driver.ring(4, size),
            available_index: driver.field(2),
            used: device.ring(4, size),
            used_index: device.field(2),
            statuses: statuses.bytes(),
            next: 0,
            published: 0,
            told: 0,
            taken: 0,
            head_shift: if in_tables { 0 } else { SLOT_DESCRIPTORS.ilog2() },
            link_mask: if in_tables { 0 } else { u16::MAX },
            event_index: options.features.has(Features::EVENT_IDX),
            used_flags: device.field(0),
            available_event: device.field(4 + 8 * usize::from(size)),
            descriptors: descriptors.pairs(),
            ranges: part(layout.ranges).pairs(),
            tables: part(layout.tables).pairs(),
            table_size: layout.table_size,
            parts: Parts { driver, device, size },
            addresses: layout.addresses(&memory),
            _memory: memory,
        };
        for slot in 0..layout.slots {
            ring.preset(slot);
        }
        ring.clear();
        Ok(ring)
    }

    /// Writes what never changes of a slot's line, and its first descriptor.
    fn preset(&self, slot: u16) {
        let line = self.lines.line(usize::from(slot));
        line.store::<0>(line.address() + HEADER as u64);
        line.store::<8>(half(HEADER_LENGTH, descriptor_flags::NEXT, self.link(slot, 1)));
        line.store::<STATUS>(self.statuses.address(usize::from(slot)));
        line.store::<{ STATUS + 8 }>(half(1, descriptor_flags::WRITE, 0));
        if self.head_shift == 0 {
            let length = 16 * u32::from(FRAME_DESCRIPTORS + 1);
            let table = half(length, descriptor_flags::INDIRECT, 0);
            self.descriptors.store(usize::from(slot), line.address(), table);
        }
    }

    /// Makes the ring empty.
    fn clear(&mut self) {
        self.parts.driver.fill(0);
        self.parts.device.fill(0);
        self.parts.driver.field::<2>(0).store_release(AVAIL_NO_INTERRUPT);
        // With event indices the flag says nothing; an index that was just passed is not met before 2^16 more requests.
        let used_event = 4 + 2 * usize::from(self.parts.size);
        self.parts.driver.field::<2>(used_event).store_release(u16::MAX);
        (self.next, self.published, self.told, self.taken) = (0, 0, 0, 0);
    }

    /// How a descriptor of a slot's line is named by another.
    #[inline(always)]
    fn link(&self, slot: u16, place: u16) -> u16 {
        ((slot << self.head_shift) & self.link_mask) + place
    }

    #[inline(always)]
    fn append(&mut self, slot: u16) {
        self.available.store(self.next, slot << self.head_shift);
        self.next = self.next.wrapping_add(1);
    }

    #[inline(always)]
    fn plain(
        &mut self,
        sender: Sender,
        header: Header,
        address: u64,
        length: u32,
        to_memory: bool,
    ) -> bool {
        let written = if to_memory { length } else { 0 };
        let shape = Shape::Plain;
        let slot = Slot { sender, address: 0, length: 0, writable: written + 1, shape };
        let Some(slot) = self.slots.take(slot) else { return false };
        let line = self.lines.line(usize::from(slot));
        let write = if to_memory { descriptor_flags::WRITE } else { 0 };
        line.store::<DATA>(address);
        let flags = descriptor_flags::NEXT | write;
        line.store::<{ DATA + 8 }>(half(length, flags, self.link(slot, 2)));
        set_header(line, header);
        self.append(slot);
        true
    }

    /// Whether the device wants to hear of what is available now, as far as can be seen.
    #[inline(always)]
    fn device_wants(&self) -> bool {
        if self.event_index {
            wants_event(self.available_event.load(), self.published, self.told)
        } else {
            self.used_flags.load() & USED_NO_NOTIFY == 0
        }
    }

    /// Puts back what a request changed of its slot's descriptors.
    #[cold]
    fn restore(&self, slot: usize) {
        // It is the number of a slot.
        self.preset(slot as u16);
    }
}

impl DriverRing for SplitRing {
    fn addresses(&self) -> RingAddresses {
        self.addresses
    }

    #[inline]
    fn room(&self) -> usize {
        self.slots.room()
    }

    #[inline]
    fn outstanding(&self) -> usize {
        self.slots.outstanding()
    }

    #[inline]
    fn push(&mut self, sender: Sender, header: Header, data: Segment, to_memory: bool) -> bool {
        self.plain(sender, header, data.address() as u64, data.len(), to_memory)
    }

    fn push_bare(&mut self, sender: Sender, header: Header) -> bool {
        let slot = Slot { sender, address: 0, length: 0, writable: 1, shape: Shape::Bare };
        let Some(slot) = self.slots.take(slot) else { return false };
        let line = self.lines.line(usize::from(slot));
        // The header's descriptor passes over the data's.
        line.store::<8>(half(HEADER_LENGTH, descriptor_flags::NEXT, self.link(slot, 2)));
        set_header(line, header);
        self.append(slot);
        true
    }

    fn push_range(&mut self, sender: Sender, header: Header, range: RangeDescriptor) -> bool {
        let Some(slot) = self.slots.next_free() else { return false };
        let (address, length) = set_range(&self.ranges, usize::from(slot), range);
        self.plain(sender, header, address, length, false)
    }

    fn push_scattered(
        &mut self,
        sender: Sender,
        header: Header,
        data: impl Iterator<Item = Segment>,
        to_memory: bool,
    ) -> bool {
        let Some(slot) = self.slots.next_free() else { return false };
        let index = usize::from(slot);
        let table = index * usize::from(self.table_size);
        let line = self.lines.line(index);
        let write = if to_memory { descriptor_flags::WRITE } else { 0 };
        let next = descriptor_flags::NEXT;
        let (mut place, mut length) = (1u16, 0u32);
        for segment in data {
            if place + 1 >= self.table_size {
                return false;
            }
            let second = half(segment.len(), next | write, place + 1);
            self.tables.store(table + usize::from(place), segment.address() as u64, second);
            place += 1;
            length = length.saturating_add(segment.len());
        }
        if place == 1 {
            return false;
        }
        let header_address = line.address() + HEADER as u64;
        self.tables.store(table, header_address, half(HEADER_LENGTH, next, 1));
        let status = self.statuses.address(index);
        let status_half = half(1, descriptor_flags::WRITE, 0);
        self.tables.store(table + usize::from(place), status, status_half);
        let writable = if to_memory { length.saturating_add(1) } else { 1 };
        let taken = Slot { sender, address: 0, length: 0, writable, shape: Shape::Table };
        if self.slots.take(taken).is_none() {
            return false;
        }
        set_header(line, header);
        let table_half = half(16 * u32::from(place + 1), descriptor_flags::INDIRECT, 0);
        self.descriptors.store(index << self.head_shift, self.tables.address(table), table_half);
        self.append(slot);
        true
    }

    #[inline]
    fn publish(&mut self) -> bool {
        if self.published == self.next {
            return false;
        }
        self.published = self.next;
        self.available_index.store_release(self.next);
        // So far ahead that the difference would become ambiguous.
        if self.published.wrapping_sub(self.told) > u16::MAX / 2 {
            return self.recheck();
        }
        let wants = self.device_wants();
        if wants {
            self.told = self.published;
        }
        wants
    }

    #[inline]
    fn recheck(&mut self) -> bool {
        if self.told == self.published {
            return false;
        }
        // Between the store of the available index and the load of what the device wants (VIRTIO 2.7.13.4.1).
        fence(Ordering::SeqCst);
        let wants = self.device_wants();
        self.told = self.published;
        wants
    }

    #[inline]
    fn reap(
        &mut self,
        room: usize,
        mut deliver: impl FnMut(Done),
    ) -> std::result::Result<usize, DeviceFault> {
        let used = self.used_index.load_acquire();
        let pending = usize::from(used.wrapping_sub(self.taken));
        if pending == 0 {
            return Ok(0);
        }
        if pending > self.slots.outstanding() {
            return Err(DeviceFault::UsedIndex(used));
        }
        let count = pending.min(room);
        for _ in 0..count {
            let (id, written) = self.used.load_halves(self.taken);
            let index = (id >> self.head_shift) as usize;
            let slot = match self.slots.get(index) {
                Some(slot) if (index as u32) << self.head_shift == id => *slot,
                _ => return Err(DeviceFault::NotOutstanding(id)),
            };
            if written > slot.writable {
                return Err(DeviceFault::Length(written));
            }
            let status = self.statuses.load(index);
            if slot.shape != Shape::Plain {
                self.restore(index);
            }
            self.slots.release(index);
            self.taken = self.taken.wrapping_add(1);
            deliver(Done { sender: slot.sender, status });
        }
        Ok(count)
    }

    fn restart(&mut self) {
        self.clear();
        let busy: Vec<usize> = self.slots.busy().map(|(index, _)| index).collect();
        for index in busy {
            self.append(index as u16);
        }
        self.publish();
        // The new device is told in any case.
        self.told = self.published;
    }

    fn base(&self) -> u32 {
        u32::from(self.taken)
    }

    fn give_up(&mut self) -> Option<Sender> {
        let (index, slot) = self.slots.busy().next()?;
        let sender = slot.sender;
        self.restore(index);
        self.slots.release(index);
        Some(sender)
    }

    fn owes(&self, owner: u16) -> bool {
        self.slots.busy().any(|(_, slot)| slot.sender.owner == owner)
    }
}
