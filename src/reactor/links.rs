//! Messages between reactors: small, of fixed size, in batches.
//!
//! Between each two reactors, and from each to itself, runs one ring. What a reactor sends in a round
//! is staged and published once, at the end of the round or when a batch is full, with one look at
//! whether the receiver must be woken. A full ring gives the message back: nothing is dropped, and the
//! sender decides how to wait.
//!
//! A [`Links`] belongs to its reactor and is used by no other thread.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::ring::{Receiver, Sender, ring};
use super::sleep::Signal;

/// Messages that fit in one ring.
const RING_CAPACITY: usize = 1024;
/// So many staged messages are published without waiting for the end of the round, so that the
/// receiver has something to do meanwhile.
const PUBLISH_BATCH: usize = 64;
/// Most messages taken from one ring in a round.
const DRAIN_BATCH: usize = 256;
/// How many rings are looked at in a round: it bounds what a round costs with hundreds of reactors.
const RINGS_PER_ROUND: usize = 8;

const _: () = assert!(PUBLISH_BATCH < RING_CAPACITY && DRAIN_BATCH <= RING_CAPACITY);

struct Outgoing<M> {
    sender: Sender<M>,
    /// The receiver's signal; none for the ring to oneself.
    signal: Option<Arc<Signal>>,
    /// Whether the index is in `Links::staged`.
    listed: Cell<bool>,
}

impl<M: Copy + Send> Outgoing<M> {
    #[inline]
    fn publish(&self) {
        if self.sender.publish()
            && let Some(signal) = &self.signal
        {
            signal.ring();
        }
    }
}

/// A reactor's ends of the rings.
pub(super) struct Links<M> {
    outgoing: Vec<Outgoing<M>>,
    incoming: Vec<Receiver<M>>,
    /// The rings with staged messages.
    staged: RefCell<Vec<usize>>,
    /// The ring to look at first in the next round.
    next: Cell<usize>,
    received: Cell<u64>,
}

/// Connects reactors, each with all; `signals` has one of each.
pub(super) fn connect<M: Copy + Send>(signals: &[Arc<Signal>]) -> Vec<Links<M>> {
    let count = signals.len();
    let mut incoming: Vec<Vec<Receiver<M>>> =
        (0..count).map(|_| Vec::with_capacity(count)).collect();
    let mut outgoing = Vec::with_capacity(count);
    for from in 0..count {
        let mut row = Vec::with_capacity(count);
        for (to, signal) in signals.iter().enumerate() {
            let (sender, receiver) = ring(RING_CAPACITY);
            incoming[to].push(receiver);
            let signal = (from != to).then(|| Arc::clone(signal));
            row.push(Outgoing { sender, signal, listed: Cell::new(false) });
        }
        outgoing.push(row);
    }
    outgoing
        .into_iter()
        .zip(incoming)
        .map(|(outgoing, incoming)| Links {
            staged: RefCell::new(Vec::with_capacity(outgoing.len())),
            outgoing,
            incoming,
            next: Cell::new(0),
            received: Cell::new(0),
        })
        .collect()
}

impl<M: Copy + Send> Links<M> {
    /// Stages a message; gives it back when the ring is full, or no reactor has this index.
    #[inline]
    pub(super) fn send(&self, to: usize, message: M) -> Result<(), M> {
        let Some(outgoing) = self.outgoing.get(to) else { return Err(message) };
        if let Err(message) = outgoing.sender.push(message) {
            // The receiver should see what there is, at least.
            outgoing.publish();
            return Err(message);
        }
        if !outgoing.listed.get() {
            self.list(to, outgoing);
        }
        if outgoing.sender.unpublished() >= PUBLISH_BATCH {
            outgoing.publish();
        }
        Ok(())
    }

    #[inline(never)]
    fn list(&self, to: usize, outgoing: &Outgoing<M>) {
        outgoing.listed.set(true);
        // Never grows: each index is in it once at most.
        self.staged.borrow_mut().push(to);
    }

    /// Makes visible what was staged.
    #[inline]
    pub(super) fn publish(&self) {
        let mut staged = self.staged.borrow_mut();
        if staged.is_empty() {
            return;
        }
        for &to in staged.iter() {
            let outgoing = &self.outgoing[to];
            outgoing.listed.set(false);
            outgoing.publish();
        }
        staged.clear();
    }

    /// Gives `run` what came in; how many messages.
    #[inline]
    pub(super) fn drain(&self, mut run: impl FnMut(M)) -> usize {
        let rings = self.incoming.len();
        let mut place = self.next.get();
        let mut count = 0;
        for _ in 0..rings.min(RINGS_PER_ROUND) {
            count += self.incoming[place].drain(DRAIN_BATCH, &mut run);
            place = if place + 1 == rings { 0 } else { place + 1 };
        }
        if rings > RINGS_PER_ROUND {
            self.next.set(place);
        }
        if count > 0 {
            self.received.set(self.received.get() + count as u64);
        }
        count
    }

    /// Whether any ring holds a message for this reactor.
    pub(super) fn has_incoming(&self) -> bool {
        self.incoming.iter().any(|receiver| !receiver.is_empty())
    }

    /// Messages received since the start.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }
}
