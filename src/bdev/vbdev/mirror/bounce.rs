//! Payload in memory of our own, for a request whose memory may change under us.
//!
//! All legs must get the same bytes. Memory of this process stays as it is until a write has completed
//! (see [`Segment`]); memory of a guest may be changed by the guest at any time, and each leg reads it at
//! another moment. Such a payload is captured once, and the legs read the copy.

use crate::base::Result;
use crate::bdev::request::Request;
use crate::memory::{Buffer, PageKind, Pool, Segment, Subscription, copy};

/// Buffers for one payload.
#[derive(Default)]
pub(super) struct Bounce {
    buffers: Vec<Buffer>,
    segments: Vec<Segment>,
}

/// Longest buffer of a pool.
const BUFFER_MAX: usize = 2 << 20;

impl Bounce {
    /// Takes buffers for `length` bytes.
    ///
    /// # Errors
    /// When the pool has none; then it holds none.
    pub fn take(&mut self, pool: &Pool, length: usize) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let part = left.min(BUFFER_MAX);
            let buffer = pool.take(part).inspect_err(|_| self.clear())?;
            // SAFETY: the buffer stays in `self` until `clear`, which the queue calls when the request has
            // completed.
            self.segments.push(unsafe { buffer.segment(part as u32) });
            self.buffers.push(buffer);
            left -= part;
        }
        Ok(())
    }

    /// Copies the payload of `request`, as long as what was taken.
    pub fn capture(&mut self, request: &Request) {
        let mut parts = self.segments.iter().copied();
        let mut to = Segment::EMPTY;
        for mut from in request.segments() {
            while !from.is_empty() {
                if to.is_empty() {
                    let Some(next) = parts.next() else { return };
                    to = next;
                }
                let length = from.len().min(to.len());
                // SAFETY: `from` is mapped (see `Segment`), `to` is ours, and both have `length` bytes. A
                // guest may write to `from` meanwhile: what is copied is then any mixture, as it would be for
                // a drive; nothing of it is interpreted here.
                unsafe { copy::copy(from.address(), to.address(), length as usize) };
                from = from.part(length, from.len() - length);
                to = to.part(length, to.len() - length);
            }
        }
    }

    /// The payload's segments; in place until [`Bounce::clear`].
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Gives the buffers back.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.buffers.clear();
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
        let mut changes = Vec::new();
        // The views are dropped within: no region is kept from going.
        self.subscription.catch_up(
            |_| (),
            |new| changes.push((new.id.slot(), new.region.kind() == PageKind::Foreign)),
        );
        for (slot, is_foreign) in changes {
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

    fn holds_any(&self, request: &Request) -> bool {
        let mut segments = request.segments();
        segments.any(|segment| self.by_slot.get(segment.region().slot()).copied().unwrap_or(false))
    }
}
