//! The proposals of this node that were not decided yet, as far as it knows.

use std::collections::BTreeMap;

use super::entry::{Member, Payload};
use crate::base::Time;

/// A proposal under way.
pub struct Waiter {
    /// What it carries.
    pub payload: Payload,
    /// When it was last sent.
    pub sent: Time,
    /// How often.
    pub attempts: u32,
}

/// A change of members under way.
pub struct Change {
    /// The configuration that it replaces.
    pub after: u32,
    /// The members.
    pub members: Vec<Member>,
    /// When it was last sent.
    pub sent: Time,
    /// How often.
    pub attempts: u32,
}

/// All of them, by sequence.
#[derive(Default)]
pub struct Waiting {
    /// The last sequence that was given out.
    pub last: u64,
    /// The proposals.
    pub proposals: BTreeMap<u64, Waiter>,
    /// The change of members.
    pub change: Option<Change>,
    /// The proposal that tells of this opening of the store.
    pub opened: Option<u64>,
}

impl Waiting {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.proposals.is_empty() && self.change.is_none()
    }

    /// A proposal was applied.
    pub fn settled(&mut self, sequence: u64) {
        self.proposals.remove(&sequence);
    }

    /// Keeps those that are not settled.
    pub fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.proposals.retain(|sequence, _| keep(*sequence));
    }

    /// A configuration was applied: a change that was to follow an earlier one is void.
    pub fn configured(&mut self, id: u32) {
        self.change.take_if(|change| change.after < id);
    }
}
