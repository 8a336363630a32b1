//! Who may vote: a member that opened its store asks the others whether it is what it was.
//!
//! Each opening of a store is remembered by the other members durably, and by all nodes through the log.

use super::entry::{Member, Opening};
use super::event::Effect;
use super::ids::NodeId;
use super::log::Log;
use super::message::Body;
use super::role::{Admission, Role};
use super::store::Operation;
use crate::base::Time;

impl Log {
    /// Whether this store is an old image, by what the log says of it.
    pub(super) fn check_own_opening(&mut self, effects: &mut Vec<Effect>) {
        let known = self.state.openings.get(&self.settings.node).copied();
        if let (Some(own), Some(known)) = (self.own_opening(), known) {
            self.refused(own, known, effects);
        }
    }

    /// Somebody remembers an opening of this store that cannot have been before this one.
    pub(super) fn refused(&mut self, opening: Opening, known: Opening, effects: &mut Vec<Effect>) {
        let is_mine = self.own_opening() == Some(opening);
        let is_believed = self.settings.mutations.accept_old_store_identity;
        let is_over = matches!(self.role, Role::Dead | Role::Amnesiac);
        if is_mine && opening.contradicts(&known) && !is_believed && !is_over {
            self.role = Role::Amnesiac;
            effects.push(Effect::Amnesiac);
        }
    }

    /// A member that opened its store asks whether it may vote.
    pub(super) fn open_asked(&mut self, from: NodeId, opening: Opening, effects: &mut Vec<Effect>) {
        let replicated = self.state.openings.get(&from).copied();
        let remembered = self.peer(from).opening;
        let known = [remembered, replicated].into_iter().flatten();
        let mut contradicted = known.filter(|known| opening.contradicts(known));
        if let Some(known) = contradicted.next()
            && !self.settings.mutations.accept_old_store_identity
        {
            Self::send(from, Body::Refused { opening, known }, effects);
            return;
        }
        // Who has no memory that lasts says nothing.
        if !matches!(self.role, Role::Solo(_) | Role::Quorum(_) | Role::Joining(_)) {
            return;
        }
        if remembered != Some(opening) {
            self.peer(from).opening = Some(opening);
            self.commit.stage(Operation::Peer(from, opening));
        }
        let is_new = self.is_engine_new();
        self.commit.send(is_new, from, Body::Welcome { opening }, effects);
    }

    /// A member says that this opening may vote.
    pub(super) fn welcomed(
        &mut self,
        now: Time,
        from: NodeId,
        opening: Opening,
        effects: &mut Vec<Effect>,
    ) {
        let is_mine = self.own_opening() == Some(opening);
        if let Role::Quorum(quorum) = &mut self.role
            && is_mine
            && quorum.engine.configuration().names(from)
            && let Some(admission) = &mut quorum.admission
        {
            admission.welcomed.insert(from);
            self.admit(now, effects);
        }
    }

    fn admit(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let Role::Quorum(quorum) = &mut self.role else { return };
        let members = &quorum.engine.configuration().members;
        let is_enough = |admission: &Admission| admission.is_enough(now, members.len());
        if !quorum.admission.as_ref().is_some_and(is_enough) {
            return;
        }
        let peers: Vec<Member> = members.clone();
        quorum.admission = None;
        // The first round ends when the others had time to answer: who hears nobody calls an election.
        self.next_heartbeat = now + self.settings.heartbeat;
        for member in peers {
            self.restart_link(member.node);
            if let Some(session) = self.peer(member.node).link.take_left_out() {
                Self::send(member.node, Body::Reset { session }, effects);
            }
        }
        self.take_engine_messages(effects);
    }

    pub(super) fn ask_admission(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let node = self.settings.node;
        if let (Role::Quorum(quorum), Some(opening)) = (&self.role, self.own_opening())
            && let Some(admission) = &quorum.admission
        {
            let members = quorum.engine.configuration().members.iter();
            for peer in members.map(|member| member.node).filter(|peer| *peer != node) {
                if !admission.welcomed.contains(&peer) {
                    Self::send(peer, Body::Open { opening }, effects);
                }
            }
        }
        self.admit(now, effects);
    }

    /// Whether a peer's engine speaks for the store that is remembered.
    pub(super) fn is_opening_known(&self, node: NodeId, opened: u64) -> bool {
        let remembered = self.peers.get(&node).and_then(|peer| peer.opening);
        let replicated = self.state.openings.get(&node).copied();
        let mut known = [remembered, replicated].into_iter().flatten();
        self.settings.mutations.accept_old_store_identity
            || known.any(|opening| opening.count == opened)
    }
}
