//! A split virtqueue in memory (VIRTIO 2.7), field by field. Indices are taken modulo the queue's size, so that none
//! leads out of it.

use super::{RingFault, RingPlace};
use crate::virtio::area::Area;
use crate::virtio::spec::ring::{
    QUEUE_SIZE_MAX, SplitDescriptor, descriptor_area, split_device_area, split_driver_area,
};

const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;

/// The three areas of a split queue.
#[derive(Debug)]
pub(super) struct SplitMemory {
    descriptors: Area,
    available: Area,
    used: Area,
    mask: u16,
}

impl SplitMemory {
    /// Checks size and alignment (2.7).
    ///
    /// # Safety
    /// As [`DeviceRing::open`](super::DeviceRing::open).
    pub(super) unsafe fn new(place: &RingPlace) -> Result<SplitMemory, RingFault> {
        let size = place.size;
        if !size.is_power_of_two() || size > QUEUE_SIZE_MAX {
            return Err(RingFault::Size(size));
        }
        let areas = [
            ("descriptor", place.descriptors, 16),
            ("driver", place.driver, 2),
            ("device", place.device, 4),
        ];
        for (name, start, alignment) in areas {
            if !(start.as_ptr() as usize).is_multiple_of(alignment) {
                return Err(RingFault::Alignment(name));
            }
        }
        // SAFETY: the caller's word.
        unsafe {
            Ok(SplitMemory {
                descriptors: Area::new(place.descriptors, descriptor_area(size)),
                available: Area::new(place.driver, split_driver_area(size)),
                used: Area::new(place.device, split_device_area(size)),
                mask: size - 1,
            })
        }
    }

    #[inline(always)]
    fn slot(&self, position: u16) -> usize {
        usize::from(position & self.mask)
    }

    #[inline(always)]
    fn event(&self, entry: usize) -> usize {
        ENTRIES + entry * (usize::from(self.mask) + 1)
    }

    /// `idx` of the available ring; the entries before it can be read.
    #[inline(always)]
    pub(super) fn available_index(&self) -> u16 {
        // SAFETY: every ring has the field.
        unsafe { self.available.acquire_u16(INDEX) }
    }

    /// The head at a position of the available ring.
    #[inline(always)]
    pub(super) fn available_entry(&self, position: u16) -> u16 {
        // SAFETY: a slot is within the ring.
        unsafe { self.available.load_u16(ENTRIES + 2 * self.slot(position)) }
    }

    /// `flags` of the available ring.
    #[inline(always)]
    pub(super) fn available_flags(&self) -> u16 {
        // SAFETY: every ring has the field.
        unsafe { self.available.load_u16(FLAGS) }
    }

    /// `used_event`: the driver wants to hear of the used element at this position.
    #[inline(always)]
    pub(super) fn used_event(&self) -> u16 {
        // SAFETY: behind the entries, where every ring has it.
        unsafe { self.available.load_u16(self.event(2)) }
    }

    /// A descriptor of the table.
    #[inline(always)]
    pub(super) fn descriptor(&self, index: u16) -> SplitDescriptor {
        let offset = 16 * self.slot(index);
        // SAFETY: a slot is within the table.
        words([unsafe { self.descriptors.load_u64(offset) }, unsafe {
            self.descriptors.load_u64(offset + 8)
        }])
    }

    /// Asks the cache for a descriptor.
    #[inline(always)]
    pub(super) fn prefetch(&self, index: u16) {
        self.descriptors.prefetch(16 * self.slot(index));
    }

    /// `idx` of the used ring, which is ours.
    pub(super) fn used_index(&self) -> u16 {
        // SAFETY: every ring has the field.
        unsafe { self.used.acquire_u16(INDEX) }
    }

    /// Shows the elements before `index`.
    #[inline(always)]
    pub(super) fn set_used_index(&self, index: u16) {
        // SAFETY: every ring has the field.
        unsafe { self.used.store_u16(INDEX, index) }
    }

    /// Writes the used element at a position.
    #[inline(always)]
    pub(super) fn set_used(&self, position: u16, id: u16, written: u32) {
        let offset = self.used_offset(position);
        // SAFETY: a slot is within the ring. An element is aligned to four bytes only.
        unsafe {
            self.used.store_u32(offset, u32::from(id));
            self.used.store_u32(offset + 4, written);
        }
    }

    /// Where in the device area the element at a position is.
    #[inline(always)]
    pub(super) fn used_offset(&self, position: u16) -> usize {
        ENTRIES + 8 * self.slot(position)
    }

    /// Writes `flags` of the used ring.
    pub(super) fn set_used_flags(&self, flags: u16) {
        // SAFETY: every ring has the field.
        unsafe { self.used.store_u16(FLAGS, flags) }
    }

    /// Writes `avail_event`: the device wants to hear of the available entry at this position.
    #[inline]
    pub(super) fn set_available_event(&self, position: u16) {
        // SAFETY: behind the elements, where every ring has it.
        unsafe { self.used.store_u16(self.event(8), position) }
    }

    /// Length of the device area.
    pub(super) fn device_length(&self) -> usize {
        self.used.len()
    }
}

/// A descriptor from its two words.
#[inline(always)]
pub(super) fn words([address, rest]: [u64; 2]) -> SplitDescriptor {
    SplitDescriptor {
        address,
        length: rest as u32,
        flags: (rest >> 32) as u16,
        next: (rest >> 48) as u16,
    }
}
