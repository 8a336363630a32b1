//! The serve lease of a node: permission to serve I/O for a while, that only the mesh log gives.

use crate::base::Time;
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::picture::{Nonce, Timing};

/// Most heartbeats that may be on their way: older ones are given up.
const OUTSTANDING: usize = 32;

/// A node's lease.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    until: Time,
    /// Heartbeats on their way, with the moment that was noted before each was sent.
    sent: Vec<(Nonce, Time)>,
}

impl Lease {
    /// Whether it is valid at `now`.
    #[inline]
    pub fn is_valid(&self, now: Time) -> bool {
        now < self.until
    }

    /// When it ends.
    pub fn until(&self) -> Time {
        self.until
    }

    /// A heartbeat is about to be sent. Its nonce is never sent again.
    pub fn sent(&mut self, nonce: Nonce, now: Time) {
        if self.sent.len() == OUTSTANDING {
            self.sent.remove(0);
        }
        self.sent.push((nonce, now));
    }

    /// A tick with this nonce has been applied, at `now`: the lease runs from the moment noted before it was sent.
    pub fn ticked(&mut self, nonce: Nonce, now: Time, timing: &Timing) {
        if let Some(at) = self.sent.iter().position(|(sent, _)| *sent == nonce) {
            let noted = if kept(Rule::S9) { self.sent[at].1 } else { now };
            self.until = self.until.max(noted + timing.lease());
            self.sent.drain(..=at);
        }
    }

    /// Gives it up.
    pub fn drop_now(&mut self) {
        self.until = Time::ZERO;
        self.sent.clear();
    }
}
