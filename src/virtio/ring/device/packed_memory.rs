//! A packed virtqueue in memory (VIRTIO 2.8), field by field.

use super::{RingFault, RingPlace};
use crate::virtio::area::Area;
use crate::virtio::ring::Position;
use crate::virtio::spec::ring::descriptor_flags::{AVAILABLE, USED};
use crate::virtio::spec::ring::{
    PACKED_EVENT_AREA, PackedDescriptor, QUEUE_SIZE_MAX, descriptor_area,
};

/// The descriptor ring and the two event suppression structures.
#[derive(Debug)]
pub(super) struct PackedMemory {
    descriptors: Area,
    driver: Area,
    device: Area,
    size: u16,
}

/// The half of a descriptor that says whether it is available, and most else: one read gets it whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail(u64);

impl Tail {
    #[inline(always)]
    pub(super) fn new(length: u32, id: u16, flags: u16) -> Tail {
        Tail(u64::from(length) | u64::from(id) << 32 | u64::from(flags) << 48)
    }

    #[inline(always)]
    pub(super) fn flags(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Whether the driver made it available in the round of this wrap counter (2.8.1).
    #[inline(always)]
    pub(super) fn is_available(self, wrap: bool) -> bool {
        self.flags() & (AVAILABLE | USED) == available_bits(wrap)
    }
}

/// The two bits of a descriptor that is available in the round of a wrap counter.
#[inline(always)]
pub(super) const fn available_bits(wrap: bool) -> u16 {
    if wrap { AVAILABLE } else { USED }
}

/// The two bits of a descriptor that was used in the round of a wrap counter.
#[inline(always)]
pub(super) const fn used_bits(wrap: bool) -> u16 {
    if wrap { AVAILABLE | USED } else { 0 }
}

/// A descriptor from its address and the rest.
#[inline(always)]
pub(super) fn words([address, tail]: [u64; 2]) -> PackedDescriptor {
    PackedDescriptor {
        address,
        length: tail as u32,
        id: (tail >> 32) as u16,
        flags: (tail >> 48) as u16,
    }
}

impl PackedMemory {
    /// Checks size and alignment (2.8.10.1).
    ///
    /// # Safety
    /// As [`DeviceRing::open`](super::DeviceRing::open).
    pub(super) unsafe fn new(place: &RingPlace) -> Result<PackedMemory, RingFault> {
        let size = place.size;
        if size == 0 || size > QUEUE_SIZE_MAX {
            return Err(RingFault::Size(size));
        }
        let areas = [
            ("descriptor", place.descriptors, 16),
            ("driver", place.driver, 4),
            ("device", place.device, 4),
        ];
        for (name, start, alignment) in areas {
            if !(start.as_ptr() as usize).is_multiple_of(alignment) {
                return Err(RingFault::Alignment(name));
            }
        }
        // SAFETY: the caller's word.
        unsafe {
            Ok(PackedMemory {
                descriptors: Area::new(place.descriptors, descriptor_area(size)),
                driver: Area::new(place.driver, PACKED_EVENT_AREA),
                device: Area::new(place.device, PACKED_EVENT_AREA),
                size,
            })
        }
    }

    #[inline(always)]
    fn offset(&self, index: u16) -> usize {
        assert!(index < self.size, "descriptor {index} of {}", self.size);
        16 * usize::from(index)
    }

    /// The half of a descriptor that says whether it is available. If it is, all of the descriptor and of the rest of
    /// its chain can be read.
    #[inline(always)]
    pub(super) fn tail(&self, index: u16) -> Tail {
        // SAFETY: the index is within the ring.
        Tail(unsafe { self.descriptors.acquire_u64(self.offset(index) + 8) })
    }

    /// The descriptor of which `tail` was read.
    #[inline(always)]
    pub(super) fn descriptor(&self, index: u16, tail: Tail) -> PackedDescriptor {
        // SAFETY: the index is within the ring.
        words([unsafe { self.descriptors.load_u64(self.offset(index)) }, tail.0])
    }

    /// Makes a descriptor a used one.
    #[inline(always)]
    pub(super) fn set_used(&self, index: u16, tail: Tail) {
        // SAFETY: the index is within the ring.
        unsafe { self.descriptors.store_u64(self.offset(index) + 8, tail.0) }
    }

    /// Writes the flags of a descriptor.
    pub(super) fn set_flags(&self, index: u16, flags: u16) {
        // SAFETY: the index is within the ring.
        unsafe { self.descriptors.store_u16(self.offset(index) + 14, flags) }
    }

    /// Asks the cache for the lines from this descriptor on.
    #[inline(always)]
    pub(super) fn prefetch(&self, index: u16) {
        let offset = 16 * usize::from(index);
        self.descriptors.prefetch(offset + 64);
        self.descriptors.prefetch(offset + 128);
    }

    /// What the driver wants to be told: a position and [`event_flags`](crate::virtio::spec::ring::event_flags), read
    /// in one piece.
    #[inline(always)]
    pub(super) fn driver_event(&self) -> (Position, u16) {
        // SAFETY: all of the area.
        let event = unsafe { self.driver.load_u32(0) };
        (Position::from_bits(event as u16), (event >> 16) as u16 & 3)
    }

    /// Tells the driver what we want to be told.
    pub(super) fn set_device_event(&self, position: Position, flags: u16) {
        let event = u32::from(position.bits()) | u32::from(flags) << 16;
        // SAFETY: all of the area.
        unsafe { self.device.store_u32(0, event) }
    }
}
