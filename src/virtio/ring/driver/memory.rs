//! What a queue's memory consists of.

use std::ptr::NonNull;
use std::sync::Arc;

use super::{RingAddresses, RingOptions};
use crate::base::{Error, ErrorKind, Result};
use crate::memory::Region;
use crate::virtio::spec::ring::{
    PACKED_EVENT_AREA, QUEUE_SIZE_MAX, descriptor_area, split_device_area, split_driver_area,
};
use crate::virtio::spec::{Features, block};

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;
/// Descriptors that a slot has to itself where requests are chains in the descriptor area: a cache line of them.
pub(super) const SLOT_DESCRIPTORS: u16 = 4;
/// Descriptors of a chain besides those of its data: the header's and the status byte's.
pub(super) const FRAME_DESCRIPTORS: u16 = 2;
/// Smallest queue: a request takes three descriptors, a slot four.
const SIZE_MIN: u16 = SLOT_DESCRIPTORS;

/// Memory for one queue, shared with the device, which finds it at the address that it has here.
#[derive(Clone, Debug)]
pub struct QueueMemory {
    region: Arc<Region>,
    offset: usize,
    length: usize,
}

impl QueueMemory {
    /// `length` bytes at `offset` of `region`, for nobody else.
    ///
    /// # Errors
    /// `NoMemory` when the region is not so long.
    pub fn new(region: &Arc<Region>, offset: usize, length: usize) -> Result<QueueMemory> {
        let end = offset.checked_add(length).filter(|&end| end <= region.len());
        if end.is_none() || !offset.is_multiple_of(LINE) {
            return Err(Error::new(
                ErrorKind::NoMemory,
                format!("{length} bytes at {offset} for a virtqueue"),
            ));
        }
        Ok(QueueMemory { region: Arc::clone(region), offset, length })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        // SAFETY: the offset is within the region, as checked in `new`.
        unsafe { self.region.start().add(self.offset) }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }
}

/// Where a part is in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: usize,
    pub(super) length: usize,
}

/// Where everything of a queue is in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many requests fit.
    pub(super) slots: u16,
    pub(super) descriptors: Place,
    pub(super) driver: Place,
    pub(super) device: Place,
    /// A status byte for each slot, close together: the device writes, and we read, one line for many.
    pub(super) statuses: Place,
    /// A line for each slot: a table of the three descriptors of a plain request, and its header.
    pub(super) lines: Place,
    /// A range for each slot.
    pub(super) ranges: Place,
    /// A table for each slot, where tables were agreed on.
    pub(super) tables: Place,
    /// Descriptors of such a table.
    pub(super) table_size: u16,
    length: usize,
}

impl Layout {
    /// The layout of a queue with these options.
    ///
    /// # Errors
    /// `Invalid` for a size that no queue can have.
    pub fn new(options: &RingOptions) -> Result<Layout> {
        let size = options.size;
        let packed = options.features.has(Features::RING_PACKED);
        if !(SIZE_MIN..=QUEUE_SIZE_MAX).contains(&size) || (!packed && !size.is_power_of_two()) {
            return Err(Error::invalid(format!(
                "a virtqueue of {size} descriptors ({SIZE_MIN} to {QUEUE_SIZE_MAX} are possible, \
                 and a power of two unless it is packed)"
            )));
        }
        let has_tables = options.features.has(Features::INDIRECT_DESC);
        let in_tables = has_tables && options.tables;
        let slots = match (in_tables, packed) {
            (true, _) => size,
            (false, true) => size / (FRAME_DESCRIPTORS + 1),
            (false, false) => size / SLOT_DESCRIPTORS,
        };
        // A table is no longer than the queue (VIRTIO 2.7.5.3.1; 2.8.7).
        let table_size = match has_tables {
            true => (options.segments_max.saturating_add(FRAME_DESCRIPTORS)).min(size),
            false => 0,
        };
        let (driver, device) = match packed {
            true => (PACKED_EVENT_AREA, PACKED_EVENT_AREA),
            false => (split_driver_area(size), split_device_area(size)),
        };
        let count = usize::from(slots);
        let mut end = 0;
        let mut cut = |length: usize| {
            let offset = end;
            // Two lines apart: processors fetch lines in pairs.
            end = (offset + length).next_multiple_of(2 * LINE);
            Place { offset, length }
        };
        Ok(Layout {
            slots,
            descriptors: cut(descriptor_area(size)),
            driver: cut(driver),
            device: cut(device),
            statuses: cut(count),
            lines: cut(LINE * count),
            ranges: cut(size_of::<block::RangeDescriptor>() * count),
            tables: cut(16 * usize::from(table_size) * count),
            table_size,
            length: end,
        })
    }

    /// How many requests fit.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// Most segments of one request.
    pub fn segments_max(&self) -> u16 {
        self.table_size.saturating_sub(FRAME_DESCRIPTORS).max(1)
    }

    /// How much memory the queue needs.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Where the device finds the ring.
    pub(super) fn addresses(&self, memory: &QueueMemory) -> RingAddresses {
        let start = memory.start().as_ptr() as u64;
        RingAddresses {
            descriptors: start + self.descriptors.offset as u64,
            driver: start + self.driver.offset as u64,
            device: start + self.device.offset as u64,
        }
    }
}
