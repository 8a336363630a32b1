//! One user's share of a controller's queue pair, on one reactor.

use std::sync::Arc;

use super::controller::Controller;
use super::link::{Link, PairHandle};
use super::pair::QueuePair;
use super::pair::Sender;
pub use super::pair::{Done, Push};
use super::slots::{Kind, Tag};
use super::spec::{DsmRange, SubmissionEntry};
use crate::base::Result;
use crate::memory::Segment;
use crate::reactor::{Activity, Context};

/// Opens queues on a controller, on any reactor.
#[derive(Clone)]
pub struct QueueOpener(Arc<Link>);

impl Controller {
    /// What opens queues.
    pub fn opener(&self) -> QueueOpener {
        QueueOpener(Arc::clone(self.link()))
    }
}

impl QueueOpener {
    /// Opens a queue for the reactor of `cx`, on that reactor. All queues that one reactor has on the controller share one
    /// queue pair.
    ///
    /// # Errors
    /// `NoSpace` when other reactors have all of the controller's queue pairs.
    pub fn open(&self, cx: &Context) -> Result<Queue> {
        Ok(Queue { handle: PairHandle::open(&self.0, cx)? })
    }
}

/// A queue: batches of commands in, batches of completions out.
///
/// Dropped with commands outstanding, it waits for them: the device must not write to memory that is gone.
pub struct Queue {
    handle: PairHandle,
}

/// A batch of commands. The doorbell is rung when it is dropped.
pub struct Batch<'a> {
    pair: std::cell::RefMut<'a, QueuePair>,
    owner: super::slots::OwnerId,
    now: u64,
}

impl Queue {
    /// Begins a batch; `now` is the time of the poll round, in TSC ticks.
    #[inline]
    pub fn batch(&mut self, now: u64) -> Batch<'_> {
        Batch { pair: self.handle.get(), owner: self.handle.owner(), now }
    }

    /// Gives up to `room` completions to `deliver`.
    #[inline]
    pub fn poll(&mut self, now: u64, room: usize, deliver: impl FnMut(Done)) -> Activity {
        self.handle.get().poll(self.handle.owner(), now, room, deliver)
    }
}

impl Batch<'_> {
    #[inline]
    fn sender(&self, tag: Tag) -> Sender {
        Sender { owner: self.owner, now: self.now, tag }
    }

    /// Adds a command with a payload: `first` of `count` segments, and all `segments`.
    #[inline]
    pub fn push(
        &mut self,
        tag: Tag,
        command: SubmissionEntry,
        count: usize,
        first: Segment,
        segments: impl Iterator<Item = Segment> + Clone,
    ) -> Push {
        let sender = self.sender(tag);
        self.pair.push(sender, Kind::Plain, command, (count, first), segments)
    }

    /// Adds a command without payload.
    #[inline]
    pub fn push_bare(&mut self, tag: Tag, command: SubmissionEntry) -> Push {
        self.push(tag, command, 0, Segment::EMPTY, std::iter::empty())
    }

    /// Adds a command of a user's: it is never sent twice.
    pub fn push_passthrough(
        &mut self,
        tag: Tag,
        command: SubmissionEntry,
        segments: impl Iterator<Item = Segment> + Clone,
    ) -> Push {
        let count = segments.clone().count();
        let first = segments.clone().next().unwrap_or(Segment::EMPTY);
        let sender = self.sender(tag);
        self.pair.push(sender, Kind::Passthrough, command, (count, first), segments)
    }

    /// Adds Write Zeroes that is followed by Dataset Management of the same blocks: they read as zeros for certain, and
    /// their space is given back if the device likes.
    pub fn push_zero_and_deallocate(&mut self, tag: Tag, command: SubmissionEntry) -> Push {
        let sender = self.sender(tag);
        let payload = (0, Segment::EMPTY);
        self.pair.push(sender, Kind::ZeroThenDeallocate, command, payload, std::iter::empty())
    }

    /// Adds Dataset Management of one range.
    pub fn push_range(&mut self, tag: Tag, command: SubmissionEntry, range: DsmRange) -> Push {
        let sender = self.sender(tag);
        self.pair.push_range(sender, Kind::Plain, command, range)
    }

    /// Adds a fused compare-and-write: the first command compares with `compared`, the second writes `written`. One
    /// completion comes for both.
    pub fn push_fused<S: Iterator<Item = Segment> + Clone>(
        &mut self,
        tag: Tag,
        commands: [SubmissionEntry; 2],
        payloads: [S; 2],
    ) -> Push {
        let sender = self.sender(tag);
        self.pair.push_fused(sender, commands, payloads)
    }
}

impl Drop for Batch<'_> {
    #[inline]
    fn drop(&mut self) {
        self.pair.flush();
    }
}
