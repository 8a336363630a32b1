//! Calls from any thread to a reactor: boxed closures for control work, in a bounded queue.
//!
//! The data path uses [`Message`](super::Message)s. A call that is never run, since the
//! reactor stopped, is dropped, so that whoever awaits its answer learns of it.

use crossbeam_queue::ArrayQueue;

/// Calls that fit.
const MAILBOX_CAPACITY: usize = 1024;
/// Most calls that run in one round.
pub(super) const CALLS_PER_ROUND: usize = 32;

/// A reactor's calls.
pub(super) struct Mailbox<C> {
    calls: ArrayQueue<C>,
}

impl<C> Mailbox<C> {
    pub(super) fn new() -> Mailbox<C> {
        Mailbox { calls: ArrayQueue::new(MAILBOX_CAPACITY) }
    }

    /// Puts a call in, or gives it back when the mailbox is full. The caller rings.
    pub(super) fn put(&self, call: C) -> Result<(), C> {
        self.calls.push(call)
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// The oldest call.
    pub(super) fn take(&self) -> Option<C> {
        self.calls.pop()
    }

    /// Drops what came in.
    pub(super) fn clear(&self) {
        while self.take().is_some() {}
    }
}
