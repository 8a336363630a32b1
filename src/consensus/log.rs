//! The one façade that a node drives.

use std::sync::Arc;

use super::entry::{Configuration, Member};
use super::event::{Effect, Event, Refusal};
use super::ids::{Index, NodeId, RequestId};
use super::settings::Settings;
use super::store::Restored;
use crate::base::Time;

/// A node's end of the mesh log, member or not.
pub struct Log {
    settings: Settings,
}

impl Log {
    /// Opens a node's end of the log. `restored` is what its store held; a node without a store is never a member.
    /// `origin` is a random number, another one at each start.
    pub fn open(settings: Settings, restored: Option<Restored>, origin: u64, now: Time) -> Log {
        let _ = (restored, origin, now);
        Log { settings }
    }

    /// Makes a new mesh with this node as its only member. Only on a fresh store.
    pub fn found(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let _ = (now, effects);
    }

    /// Takes an event and adds what is to be done.
    pub fn handle(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        let _ = (now, event, effects);
    }

    /// Proposes a command. It is decided some time, unless this node stops; then its `Apply` comes.
    ///
    /// # Errors
    /// The command is not taken.
    pub fn propose(
        &mut self,
        now: Time,
        command: Arc<[u8]>,
        effects: &mut Vec<Effect>,
    ) -> Result<RequestId, Refusal> {
        let _ = (now, command, effects);
        Err(Refusal::Dead)
    }

    /// Proposes who votes after the configuration that this node has applied. Sent until a newer configuration is applied: this one, or
    /// another that was faster.
    ///
    /// # Errors
    /// The members cannot be a configuration.
    pub fn propose_members(
        &mut self,
        now: Time,
        members: Vec<Member>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let _ = (now, members, effects);
        Err(Refusal::Dead)
    }

    /// When [`Event::Timer`] is wanted at the latest.
    pub fn next_timer(&self) -> Time {
        Time::NEVER
    }

    /// The last index that was applied.
    pub fn applied(&self) -> Index {
        Index::ZERO
    }

    /// Who leads, as far as this node knows.
    pub fn leader_hint(&self) -> Option<NodeId> {
        None
    }

    /// Whether this node leads, as far as it knows: it may have been replaced.
    pub fn is_leader(&self) -> bool {
        false
    }

    /// Who votes at the applied index; nothing before the first entry.
    pub fn members(&self) -> Option<&Configuration> {
        None
    }

    /// This node as the member that it would be; nothing without a store.
    pub fn as_member(&self) -> Option<Member> {
        let _ = &self.settings;
        None
    }
}
