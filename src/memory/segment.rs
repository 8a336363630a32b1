//! Scatter lists: where the payload of a request lies.

use std::ptr::NonNull;

use super::registry::RegionId;
use crate::base::limits;

/// One contiguous piece of payload memory.
///
/// # Invariant
/// Whoever made the segment keeps `address .. address + length` mapped, and leaves it to the
/// device, from the submission of a request that carries it until that request's completion:
/// readable always, writable (and not looked at by others) for an opcode that moves data to the
/// host. The constructors are `unsafe` for this reason; using a segment is not.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Segment {
    address: NonNull<u8>,
    length: u32,
    region: RegionId,
}

impl Segment {
    /// No memory: the segment of a request without payload.
    pub const EMPTY: Segment =
        Segment { address: NonNull::dangling(), length: 0, region: RegionId::NONE };

    /// The segment at `address`, `length` bytes long, in `region`.
    ///
    /// # Safety
    /// The type's invariant must hold for every request that the segment, or a part of it, is
    /// put in. `region` is the registered region that holds all of it, or [`RegionId::NONE`].
    #[inline]
    pub const unsafe fn new(address: NonNull<u8>, length: u32, region: RegionId) -> Segment {
        Segment { address, length, region }
    }

    /// Where it starts.
    #[inline]
    pub const fn address(self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Length in bytes.
    #[inline]
    pub const fn len(self) -> u32 {
        self.length
    }

    /// Whether it holds no bytes.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// The region it lies in, or [`RegionId::NONE`] for memory that no device was told of.
    #[inline]
    pub const fn region(self) -> RegionId {
        self.region
    }

    /// The part of `length` bytes that starts `offset` bytes in.
    ///
    /// # Panics
    /// When the part is not within the segment.
    #[inline]
    #[must_use]
    pub fn part(self, offset: u32, length: u32) -> Segment {
        assert!(offset <= self.length && length <= self.length - offset, "part of a segment");
        Segment {
            // SAFETY: `offset <= self.length`, so the address stays within the segment's memory
            // (or one past its end).
            address: unsafe { self.address.add(offset as usize) },
            length,
            region: self.region,
        }
    }
}

/// The scatter list of a request: one segment in place, which is nearly every request, and more
/// behind a pointer.
///
/// # Invariant
/// `more` points at `count - 1` segments that stay where they are, unchanged, until the completion
/// of every request that holds this list.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SegmentList {
    first: Segment,
    more: *const Segment,
}

impl SegmentList {
    /// A list without segments.
    pub const EMPTY: SegmentList = SegmentList { first: Segment::EMPTY, more: std::ptr::null() };

    /// A list of one segment.
    #[inline]
    pub const fn one(segment: Segment) -> (SegmentList, u16) {
        (SegmentList { first: segment, more: std::ptr::null() }, 1)
    }

    /// A list of `segments`, and its count for the request.
    ///
    /// # Safety
    /// `segments` stays where it is, unchanged, until the completion of every request that the
    /// list is put in.
    ///
    /// # Panics
    /// When there are more than [`limits::SEGMENTS_MAX`].
    #[inline]
    pub unsafe fn many(segments: &[Segment]) -> (SegmentList, u16) {
        assert!(segments.len() <= limits::SEGMENTS_MAX, "too many segments");
        match segments {
            [] => (SegmentList::EMPTY, 0),
            [first, more @ ..] => {
                (SegmentList { first: *first, more: more.as_ptr() }, segments.len() as u16)
            }
        }
    }

    /// The first segment (of no length in an empty list).
    #[inline]
    pub const fn first(&self) -> Segment {
        self.first
    }

    /// All segments of a list of `count`, in order.
    ///
    /// # Safety
    /// `count` is the count that this list was made with.
    #[inline]
    pub unsafe fn iter(&self, count: u16) -> impl Iterator<Item = Segment> + Clone + use<> {
        let rest = match count {
            0 | 1 => &[][..],
            // SAFETY: by the invariant there are `count - 1` segments behind `more`.
            _ => unsafe { std::slice::from_raw_parts(self.more, usize::from(count) - 1) },
        };
        (count > 0).then_some(self.first).into_iter().chain(rest.iter().copied())
    }
}
