//! Payload in memory of our own, for a request whose memory may change under us.
//!
//! All legs must get the same bytes. Memory of this process stays as it is until a write has completed
//! (see [`Segment`]); memory of a guest may be changed by the guest at any time, and each leg reads it at
//! another moment. Such a payload is captured once, and the legs read the copy.

use crate::base::limits;
use crate::bdev::request::Request;
use crate::memory::{Buffer, PageKind, Pool, Segment, SegmentList, Subscription, copy};

/// Longest buffer of a pool.
const BUFFER_MAX: usize = 2 << 20;
/// Shortest one.
const BUFFER_MIN: usize = 4 << 10;

/// Buffers for one payload.
#[derive(Default)]
pub(super) struct Bounce {
    /// The only one, for nearly every payload.
    whole: Option<Buffer>,
    /// Several, where one would be too long, or the pool has no long ones left.
    parts: Vec<Buffer>,
    segments: Vec<Segment>,
}

impl Bounce {
    /// The request with memory of our own for its payload of `length` bytes, in place until [`Bounce::clear`]; `None` when the
    /// pool has none, and then it holds none.
    #[inline]
    pub fn take(&mut self, pool: &Pool, request: &Request, length: usize) -> Option<Request> {
        if length <= BUFFER_MAX
            && let Ok(buffer) = pool.take(length)
        {
            // SAFETY: the buffer stays in `self` until `clear`, which the queue calls when the request has
            // completed.
            let segment = unsafe { buffer.segment(length as u32) };
            self.whole = Some(buffer);
            return Some(request.with_payload(SegmentList::one(segment)));
        }
        self.take_parts(pool, length)?;
        // SAFETY: the segments stay as they are until `clear`.
        Some(request.with_payload(unsafe { SegmentList::many(&self.segments) }))
    }

    #[cold]
    fn take_parts(&mut self, pool: &Pool, length: usize) -> Option<()> {
        let mut left = length;
        let mut part_max = BUFFER_MAX;
        while left > 0 {
            let part = left.min(part_max);
            if let Ok(buffer) = pool.take(part) {
                // SAFETY: as in `take`.
                self.segments.push(unsafe { buffer.segment(part as u32) });
                self.parts.push(buffer);
                left -= part;
                continue;
            }
            // Shorter ones, while a request can name as many as it takes.
            part_max /= 2;
            if part_max < BUFFER_MIN
                || self.parts.len() + left.div_ceil(part_max) > limits::SEGMENTS_MAX
            {
                self.clear();
                return None;
            }
        }
        Some(())
    }

    /// The request with a copy of its payload of `length` bytes, as [`Bounce::take`] has it.
    #[inline]
    pub fn capture(&mut self, pool: &Pool, request: &Request, length: usize) -> Option<Request> {
        let captured = self.take(pool, request, length)?;
        match (request.segment_count(), captured.segment_count()) {
            (1, 1) => {
                copy_part(request.first_segment(), captured.first_segment());
            }
            _ => copy_segments(request, &captured),
        }
        Some(captured)
    }

    /// Gives the buffers back.
    #[inline]
    pub fn clear(&mut self) {
        self.whole = None;
        if !self.parts.is_empty() {
            self.segments.clear();
            self.parts.clear();
        }
    }
}

/// Copies payload, as much as both have; returns how much.
#[inline]
fn copy_part(from: Segment, to: Segment) -> u32 {
    let length = from.len().min(to.len());
    // SAFETY: `from` is mapped (see `Segment`), `to` is ours, and both have `length` bytes. A guest may write to `from`
    // meanwhile: what is copied is then any mixture, as it would be for a drive; nothing of it is
    // interpreted here.
    unsafe { copy::copy(from.address(), to.address(), length as usize) };
    length
}

/// Copies the payload of one request to that of another of the same length.
fn copy_segments(from: &Request, to: &Request) {
    let mut parts = to.segments();
    let mut to = Segment::EMPTY;
    for mut from in from.segments() {
        while !from.is_empty() {
            if to.is_empty() {
                // Both are as long as the range of blocks: the channel has seen to it.
                let Some(next) = parts.next() else { return };
                to = next;
            }
            let length = copy_part(from, to);
            from = from.part(length, from.len() - length);
            to = to.part(length, to.len() - length);
        }
    }
}

/// Which memory may change under us.
pub(super) struct Foreign {
    subscription: Subscription,
    by_slot: Vec<bool>,
    any: bool,
}

impl Foreign {
    pub fn new(pool: &Pool) -> Foreign {
        let mut foreign =
            Foreign { subscription: pool.registry().subscribe(), by_slot: Vec::new(), any: false };
        foreign.follow();
        foreign
    }

    /// Takes over changes of the list of regions; once per batch.
    #[inline]
    pub fn catch_up(&mut self) {
        if self.subscription.is_behind() {
            self.follow();
        }
    }

    #[cold]
    fn follow(&mut self) {
        // Kinds alone: no region is kept from going.
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        self.subscription.catch_up(
            |view| gone.push((view.id.slot(), false)),
            |view| new.push((view.id.slot(), view.region.kind() == PageKind::Foreign)),
        );
        // A new region may be in the place of one that is gone.
        for (slot, is_foreign) in gone.into_iter().chain(new) {
            if self.by_slot.len() <= slot {
                self.by_slot.resize(slot + 1, false);
            }
            self.by_slot[slot] = is_foreign;
        }
        self.any = self.by_slot.contains(&true);
    }

    /// Whether a part of the payload lies in such memory.
    #[inline]
    pub fn holds(&self, request: &Request) -> bool {
        self.any && self.holds_any(request)
    }

    #[inline]
    fn holds_any(&self, request: &Request) -> bool {
        match request.segment_count() {
            1 => self.is_foreign(request.first_segment()),
            _ => request.segments().any(|segment| self.is_foreign(segment)),
        }
    }

    #[inline]
    fn is_foreign(&self, segment: Segment) -> bool {
        self.by_slot.get(segment.region().slot()).copied().unwrap_or(false)
    }
}
