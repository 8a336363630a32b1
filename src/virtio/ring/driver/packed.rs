//! A packed virtqueue (VIRTIO 2.8).
//!
//! Places in the ring go round whatever becomes of the requests, so a descriptor has nothing that could be written
//! beforehand. With tables a request is one descriptor in the ring and its slot's line: the table and the header. Without, it is
//! three descriptors, or two where there are no data.
//!
//! The flags of the first descriptor of a batch are written last: the device sees all of the batch or nothing.

use std::sync::atomic::{Ordering, fence};

use super::cells::{Bytes, Field, Lines, Pairs, Part};
use super::frame::{DATA, HEADER, HEADER_LENGTH, STATUS, set_header, set_range};
use super::memory::{FRAME_DESCRIPTORS, Layout, Place, QueueMemory};
use super::slots::{Shape, Slot, Slots};
use super::{
    DeviceFault, Done, DriverRing, Header, RingAddresses, RingOptions, Sender, wants_event,
};
use crate::base::Result;
use crate::memory::Segment;
use crate::virtio::ring::Position;
use crate::virtio::spec::block::RangeDescriptor;
use crate::virtio::spec::ring::{descriptor_flags, event_flags};

/// The second half of a descriptor.
#[inline(always)]
const fn half(length: u32, id: u16, flags: u16) -> u64 {
    length as u64 | (id as u64) << 32 | (flags as u64) << 48
}

/// The flags that make a descriptor at this place available.
#[inline(always)]
fn available(at: Position) -> u16 {
    if at.wrap { descriptor_flags::AVAILABLE } else { descriptor_flags::USED }
}

/// The ring.
#[derive(Debug)]
pub struct PackedRing {
    slots: Slots,
    ring: Pairs,
    lines: Lines,
    statuses: Bytes,
    size: u16,
    in_tables: bool,
    /// Where the next descriptor goes.
    next: Position,
    /// Where the device puts the next used one.
    taken: Position,
    /// How many descriptors are in the ring and not used.
    filled: u16,
    /// The first descriptor that was pushed and not published: its place, and its second half.
    first: Option<(u16, u64)>,
    /// Descriptors that were pushed and not published, and that were published since it was last certain
    /// what the device wants to hear.
    pushed: u16,
    untold: u16,
    device_event: Field<4>,
    // What follows is not needed for a plain request.
    driver_event: Field<4>,
    ranges: Pairs,
    tables: Pairs,
    table_size: u16,
    descriptors: Part,
    device: Part,
    addresses: RingAddresses,
    _memory: QueueMemory,
}

impl PackedRing {
    /// The ring in `memory`, which is as long as the layout of these options says.
    ///
    /// # Errors
    /// `Invalid` for options that no queue can have.
    pub fn new(memory: QueueMemory, options: &RingOptions) -> Result<PackedRing> {
        let layout = Layout::new(options)?;
        let part = |place: Place| Part::of(&memory, place.offset, place.length);
        let (descriptors, device) = (part(layout.descriptors), part(layout.device));
        let statuses = part(layout.statuses);
        statuses.fill(0xff);
        let mut ring = PackedRing {
            slots: Slots::new(layout.slots),
            ring: descriptors.pairs(),
            lines: part(layout.lines).lines(),
            statuses: statuses.bytes(),
            size: options.size,
            in_tables: layout.slots == options.size,
            next: Position::START,
            taken: Position::START,
            filled: 0,
            first: None,
            pushed: 0,
            untold: 0,
            device_event: device.field(0),
            driver_event: part(layout.driver).field(0),
            ranges: part(layout.ranges).pairs(),
            tables: part(layout.tables).pairs(),
            table_size: layout.table_size,
            descriptors,
            device,
            addresses: layout.addresses(&memory),
            _memory: memory,
        };
        for slot in 0..usize::from(layout.slots) {
            let line = ring.lines.line(slot);
            line.store::<0>(line.address() + HEADER as u64);
            line.store::<8>(half(HEADER_LENGTH, 0, 0));
            ring.preset_status(slot);
        }
        ring.clear();
        Ok(ring)
    }

    /// Writes the status byte's descriptor of a slot's line.
    #[inline(always)]
    fn preset_status(&self, slot: usize) {
        let line = self.lines.line(slot);
        line.store::<STATUS>(self.statuses.address(slot));
        line.store::<{ STATUS + 8 }>(half(1, 0, descriptor_flags::WRITE));
    }

    /// Makes the ring empty.
    fn clear(&mut self) {
        self.descriptors.fill(0);
        self.device.fill(0);
        self.driver_event.store(u32::from(event_flags::DISABLE) << 16);
        (self.next, self.taken) = (Position::START, Position::START);
        (self.filled, self.pushed, self.untold, self.first) = (0, 0, 0, None);
    }

    /// Puts the first descriptor of a buffer in its place, available once what comes after it is.
    #[inline(always)]
    fn put_head(&mut self, at: Position, address: u64, length: u32, id: u16, flags: u16) {
        let index = usize::from(at.index);
        let second = half(length, id, flags | available(at));
        if self.first.is_none() {
            self.first = Some((at.index, second));
            self.ring.store_first(index, address);
        } else {
            self.ring.store(index, address, second);
        }
    }

    /// Puts a request in the ring. In tables, `address` and `length` are those of its table; else of its data.
    #[inline(always)]
    fn append(&mut self, slot: u16, shape: Shape, address: u64, length: u32, to_memory: bool) {
        let head = self.next;
        let count = if self.in_tables || shape == Shape::Table {
            self.put_head(head, address, length, slot, descriptor_flags::INDIRECT);
            1
        } else {
            self.append_chain(slot, shape, address, length, to_memory)
        };
        self.next = self.next.advanced(count, self.size);
        self.filled += count;
        self.pushed += count;
    }

    /// Puts a request in the ring as a chain; its first descriptor comes last. Says how many it took.
    #[inline]
    fn append_chain(
        &mut self,
        slot: u16,
        shape: Shape,
        address: u64,
        length: u32,
        to_memory: bool,
    ) -> u16 {
        let head = self.next;
        let mut at = head;
        let mut count = FRAME_DESCRIPTORS;
        at = at.advanced(1, self.size);
        if shape == Shape::Plain {
            let write = if to_memory { descriptor_flags::WRITE } else { 0 };
            let flags = descriptor_flags::NEXT | write | available(at);
            self.ring.store(usize::from(at.index), address, half(length, slot, flags));
            at = at.advanced(1, self.size);
            count += 1;
        }
        let flags = descriptor_flags::WRITE | available(at);
        let status = self.statuses.address(usize::from(slot));
        self.ring.store(usize::from(at.index), status, half(1, slot, flags));
        let header = self.lines.line(usize::from(slot)).address() + HEADER as u64;
        self.put_head(head, header, HEADER_LENGTH, slot, descriptor_flags::NEXT);
        count
    }

    /// How many descriptors of the ring a request takes.
    #[inline(always)]
    fn places(&self, shape: Shape) -> u16 {
        match shape {
            _ if self.in_tables => 1,
            Shape::Plain => FRAME_DESCRIPTORS + 1,
            Shape::Bare => FRAME_DESCRIPTORS,
            Shape::Table | Shape::Free => 1,
        }
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
        let taken = Slot { sender, address, length, writable: written + 1, shape: Shape::Plain };
        let Some(slot) = self.slots.take(taken) else { return false };
        let line = self.lines.line(usize::from(slot));
        set_header(line, header);
        if self.in_tables {
            let write = if to_memory { descriptor_flags::WRITE } else { 0 };
            line.store::<DATA>(address);
            line.store::<{ DATA + 8 }>(half(length, 0, write));
            let table_length = 16 * u32::from(FRAME_DESCRIPTORS + 1);
            self.append(slot, Shape::Plain, line.address(), table_length, to_memory);
        } else {
            self.append(slot, Shape::Plain, address, length, to_memory);
        }
        true
    }

    /// Whether the device wants to hear of what was made available since it was last certain, as far as can
    /// be seen.
    #[inline(always)]
    fn device_wants(&self) -> bool {
        // Place and flags, as one load.
        let event = self.device_event.load();
        match (event >> 16) as u16 & 0x3 {
            event_flags::ENABLE => true,
            event_flags::DESCRIPTOR => {
                let mut at = event as u16 & 0x7fff;
                // A place of the other round lies a ring's length back.
                if (event & 0x8000 != 0) != self.next.wrap {
                    at = at.wrapping_sub(self.size);
                }
                let new = self.next.index;
                wants_event(at, new, new.wrapping_sub(self.untold))
            }
            _ => false,
        }
    }
}

impl DriverRing for PackedRing {
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
        let Some(slot) = self.slots.next_free() else { return false };
        let line = self.lines.line(usize::from(slot));
        set_header(line, header);
        let (mut address, mut length) = (0, 0);
        if self.in_tables {
            // The status byte's descriptor in place of the data's, which every plain request writes anew.
            line.store::<DATA>(self.statuses.address(usize::from(slot)));
            line.store::<{ DATA + 8 }>(half(1, 0, descriptor_flags::WRITE));
            (address, length) = (line.address(), 16 * u32::from(FRAME_DESCRIPTORS));
        }
        let taken = Slot { sender, address, length, writable: 1, shape: Shape::Bare };
        if self.slots.take(taken).is_none() {
            return false;
        }
        self.append(slot, Shape::Bare, address, length, false);
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
        let (mut place, mut bytes) = (1u16, 0u32);
        for segment in data {
            if place + 1 >= self.table_size {
                return false;
            }
            let second = half(segment.len(), 0, write);
            self.tables.store(table + usize::from(place), segment.address() as u64, second);
            place += 1;
            bytes = bytes.saturating_add(segment.len());
        }
        if place == 1 {
            return false;
        }
        let header_address = line.address() + HEADER as u64;
        self.tables.store(table, header_address, half(HEADER_LENGTH, 0, 0));
        let status = self.statuses.address(index);
        let status_half = half(1, 0, descriptor_flags::WRITE);
        self.tables.store(table + usize::from(place), status, status_half);
        let (address, length) = (self.tables.address(table), 16 * u32::from(place + 1));
        let writable = if to_memory { bytes.saturating_add(1) } else { 1 };
        let taken = Slot { sender, address, length, writable, shape: Shape::Table };
        if self.slots.take(taken).is_none() {
            return false;
        }
        set_header(line, header);
        self.append(slot, Shape::Table, address, length, to_memory);
        true
    }

    #[inline]
    fn publish(&mut self) -> bool {
        let Some((index, second)) = self.first.take() else { return false };
        self.ring.store_second(usize::from(index), second);
        // Beyond the length of the ring the difference becomes ambiguous.
        self.untold = (self.untold + self.pushed).min(self.size);
        self.pushed = 0;
        let wants = self.device_wants();
        if wants {
            self.untold = 0;
        } else if self.untold == self.size {
            return self.recheck();
        }
        wants
    }

    #[inline]
    fn recheck(&mut self) -> bool {
        if self.untold == 0 {
            return false;
        }
        // Between the store of the descriptors' flags and the load of what the device wants (VIRTIO 2.8.21.3.1).
        fence(Ordering::SeqCst);
        let wants = self.device_wants();
        self.untold = 0;
        wants
    }

    #[inline]
    fn reap(
        &mut self,
        room: usize,
        mut deliver: impl FnMut(Done),
    ) -> std::result::Result<usize, DeviceFault> {
        let mut count = 0;
        while count < room {
            let second = self.ring.load_second(usize::from(self.taken.index));
            let flags = (second >> 48) as u16;
            let (available, used) =
                (flags & descriptor_flags::AVAILABLE != 0, flags & descriptor_flags::USED != 0);
            if used != self.taken.wrap || available != used || self.filled == 0 {
                break;
            }
            let id = u32::from((second >> 32) as u16);
            let index = id as usize;
            let Some(&slot) = self.slots.get(index) else {
                return Err(DeviceFault::NotOutstanding(id));
            };
            // The length of a buffer that has no part to write is not to be looked at (VIRTIO 2.8.22); all of
            // ours have one.
            let written = second as u32;
            if written > slot.writable {
                return Err(DeviceFault::Length(written));
            }
            let places = self.places(slot.shape);
            if places > self.filled {
                return Err(DeviceFault::NotOutstanding(id));
            }
            let status = self.statuses.load(index);
            self.slots.release(index);
            self.taken = self.taken.advanced(places, self.size);
            self.filled -= places;
            count += 1;
            deliver(Done { sender: slot.sender, status });
        }
        Ok(count)
    }

    fn restart(&mut self) {
        self.clear();
        let busy: Vec<(usize, Slot)> =
            self.slots.busy().map(|(index, slot)| (index, *slot)).collect();
        for (index, slot) in busy {
            let to_memory = slot.writable > 1;
            let line = self.lines.line(index);
            let (address, length) = match slot.shape {
                Shape::Plain if self.in_tables => {
                    (line.address(), 16 * u32::from(FRAME_DESCRIPTORS + 1))
                }
                _ => (slot.address, slot.length),
            };
            self.append(index as u16, slot.shape, address, length, to_memory);
        }
        self.publish();
        // The new device is told in any case.
        self.untold = 0;
    }

    fn base(&self) -> u32 {
        let taken = u32::from(self.taken.bits());
        taken | taken << 16
    }

    fn give_up(&mut self) -> Option<Sender> {
        let (index, slot) = self.slots.busy().next()?;
        let sender = slot.sender;
        self.slots.release(index);
        Some(sender)
    }

    fn owes(&self, owner: u16) -> bool {
        self.slots.busy().any(|(_, slot)| slot.sender.owner == owner)
    }
}
