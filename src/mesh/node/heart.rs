//! Heartbeats: a node's own, and those that a leader has collected for its next tick.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::Time;
use crate::mesh::ids::{Incarnation, Index, NodeId};
use crate::mesh::picture::{Beat, Nonce, Tick, Timing};

/// A node's heart.
#[derive(Debug)]
pub(super) struct Heart {
    origin: u64,
    counter: u64,
    due: Time,
}

impl Heart {
    pub fn new(origin: u64, now: Time) -> Heart {
        Heart { origin, counter: 0, due: now }
    }

    pub fn due(&self) -> Time {
        self.due
    }

    /// The heartbeat that is due, if one is.
    pub fn beat(
        &mut self,
        now: Time,
        timing: &Timing,
        node: NodeId,
        incarnation: Incarnation,
        applied: Index,
    ) -> Option<Beat> {
        (now >= self.due).then(|| {
            self.due = now + timing.heartbeat();
            self.counter += 1;
            let nonce = Nonce { origin: self.origin, counter: self.counter };
            Beat { node, incarnation, nonce, applied }
        })
    }

    /// A change that others wait for has been acted on: the next heartbeat goes at once.
    pub fn hurry(&mut self, now: Time) {
        self.due = self.due.min(now);
    }
}

/// What a leader does with heartbeats.
#[derive(Debug, Default)]
pub(super) struct Ticker {
    beats: BTreeMap<NodeId, Beat>,
    /// When the last tick of this leadership that was decided had been proposed.
    before: Option<Time>,
    /// When the tick that is under way was proposed.
    proposed: Option<Time>,
    /// A heartbeat that should not wait long has come.
    hurry: bool,
    since: Time,
}

impl Ticker {
    /// A heartbeat has come.
    pub fn collect(&mut self, beat: Beat) {
        let newest = self.beats.entry(beat.node).or_insert(beat);
        if newest.nonce.origin != beat.nonce.origin || newest.nonce.counter <= beat.nonce.counter {
            self.hurry |= newest.applied < beat.applied;
            *newest = beat;
        }
    }

    /// When a tick is due.
    pub fn due(&self, timing: &Timing) -> Time {
        if let Some(proposed) = self.proposed {
            return proposed + timing.lease();
        }
        let pause = if self.hurry { Duration::from_millis(5) } else { timing.heartbeat() / 2 };
        self.since + pause
    }

    /// The tick that is due, if one is.
    pub fn tick(&mut self, now: Time, timing: &Timing) -> Option<Tick> {
        if now < self.due(timing) {
            return None;
        }
        if self.proposed.is_some() {
            // The one before has got lost, or the quorum has: nothing is known of the time since.
            self.before = None;
        }
        let elapsed_ms = self
            .before
            .map(|before| u32::try_from(now.since(before).as_millis()).unwrap_or(u32::MAX));
        self.proposed = Some(now);
        self.since = now;
        self.hurry = false;
        Some(Tick { elapsed_ms, beats: std::mem::take(&mut self.beats).into_values().collect() })
    }

    /// The tick that was under way has been decided.
    pub fn decided(&mut self) {
        self.before = self.proposed.take();
    }

    /// Another node leads.
    pub fn stop(&mut self) {
        *self = Ticker::default();
    }

    /// Whether it has anything to forget.
    pub fn is_active(&self) -> bool {
        self.proposed.is_some() || self.before.is_some() || !self.beats.is_empty()
    }
}
