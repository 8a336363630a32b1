//! What is kept of each request in flight, by buffer id. Everything is sized when the queue starts.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::base::limits;
use crate::memory::Segment;
use crate::vhost::disk::RANGES_MAX;
use crate::virtio::spec::block::{RangeDescriptor, RequestStatus, RequestType};

/// A request in flight.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Slot {
    /// Where the guest is told how it ended.
    pub status: NonNull<u8>,
    /// What was asked for.
    pub kind: RequestType,
    /// Of a request over several ranges: how many there are,
    pub ranges: u16,
    /// and which comes next.
    pub next_range: u16,
    /// Segments of the payload; the first one is `first`, several are in the slot's room.
    pub segments: u16,
    /// Bytes that the guest finds written when it succeeds.
    pub written: u32,
    /// Which of the guest's memories it lies in.
    pub memory_epoch: u32,
    /// The first segment of the payload.
    pub first: Segment,
}

const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    /// A slot without a request.
    pub const EMPTY: Slot = Slot {
        status: NonNull::dangling(),
        kind: RequestType::Flush,
        ranges: 0,
        next_range: 0,
        segments: 0,
        written: 0,
        memory_epoch: 0,
        first: Segment::EMPTY,
    };

    /// Tells the guest how it ended.
    ///
    /// # Safety
    /// The guest's memory that the request was read in is still mapped.
    #[inline]
    pub unsafe fn answer(&self, status: RequestStatus) {
        // SAFETY: the caller's promise; `status` was translated in that memory.
        unsafe { self.status.write_volatile(status as u8) };
    }
}

/// Room for what does not fit in a slot: a scatter list, or ranges.
#[derive(Clone, Copy)]
pub union Room {
    segments: [MaybeUninit<Segment>; limits::SEGMENTS_MAX],
    ranges: [MaybeUninit<RangeDescriptor>; RANGES_MAX],
}

impl Room {
    /// Room for a scatter list.
    #[inline]
    pub fn segments(&mut self) -> &mut [MaybeUninit<Segment>; limits::SEGMENTS_MAX] {
        // SAFETY: both fields are arrays of what may be uninitialised, so any bytes are valid.
        unsafe { &mut self.segments }
    }

    /// Room for ranges.
    #[inline]
    pub fn ranges(&mut self) -> &mut [MaybeUninit<RangeDescriptor>; RANGES_MAX] {
        // SAFETY: as above.
        unsafe { &mut self.ranges }
    }
}

/// The room of all slots. Pages that no request has needed yet take no memory.
pub fn rooms(count: usize) -> Box<[Room]> {
    let rooms = Box::<[Room]>::new_uninit_slice(count);
    // SAFETY: a room is made of what may be uninitialised.
    unsafe { rooms.assume_init() }
}
