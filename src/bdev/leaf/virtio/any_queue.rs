//! A virtqueue of either layout.

use super::virtqueue::Virtqueue;
use crate::base::Status;
use crate::bdev::request::{Completion, Completions, Request};
use crate::memory::{RegionId, Segment};
use crate::reactor::Activity;
use crate::virtio::ring::driver::packed::PackedRing;
use crate::virtio::ring::driver::split::SplitRing;
use crate::virtio::ring::driver::{DriverRing, RingAddresses};

/// A virtqueue.
pub(super) enum AnyQueue {
    Split(Virtqueue<SplitRing>),
    Packed(Virtqueue<PackedRing>),
}

/// Does the same for either.
macro_rules! either {
    ($any:expr, $queue:ident => $what:expr) => {
        match $any {
            AnyQueue::Split($queue) => $what,
            AnyQueue::Packed($queue) => $what,
        }
    };
}

impl AnyQueue {
    #[inline]
    pub(super) fn submit(
        &mut self,
        owner: u16,
        requests: &[Request],
        refused: &mut Vec<Completion>,
    ) -> usize {
        either!(self, queue => queue.submit(owner, requests, refused))
    }

    #[inline]
    pub(super) fn poll(&mut self, owner: u16, completions: &mut Completions) -> Activity {
        either!(self, queue => queue.poll(owner, completions))
    }

    pub(super) fn index(&self) -> u16 {
        either!(self, queue => queue.index())
    }

    pub(super) fn addresses(&self) -> RingAddresses {
        either!(self, queue => queue.ring().addresses())
    }

    /// Where a new device goes on; see [`DriverRing::base`].
    pub(super) fn base(&self) -> u32 {
        either!(self, queue => queue.ring().base())
    }

    pub(super) fn ask_identity(&mut self, into: Segment) {
        either!(self, queue => queue.ask_identity(into));
    }

    pub(super) fn identity_answer(&mut self) -> Option<u8> {
        either!(self, queue => queue.identity_answer())
    }

    pub(super) fn add_owner(&mut self) -> u16 {
        either!(self, queue => queue.add_owner())
    }

    pub(super) fn remove_owner(&mut self, owner: u16) {
        either!(self, queue => queue.remove_owner(owner));
    }

    pub(super) fn owes(&self, owner: u16) -> bool {
        either!(self, queue => queue.owes(owner))
    }

    pub(super) fn set_region(&mut self, id: RegionId) {
        either!(self, queue => queue.set_region(id));
    }

    pub(super) fn clear_region(&mut self, id: RegionId) {
        either!(self, queue => queue.clear_region(id));
    }

    pub(super) fn answer(&mut self, id: RegionId) {
        either!(self, queue => queue.answer(id));
    }

    pub(super) fn freeze(&mut self) {
        either!(self, queue => queue.freeze());
    }

    pub(super) fn prepare(&mut self, fresh: bool) {
        either!(self, queue => queue.prepare(fresh));
    }

    pub(super) fn thaw(&mut self) {
        either!(self, queue => queue.thaw());
    }

    pub(super) fn die(&mut self, status: Status) {
        either!(self, queue => queue.die(status));
    }
}
