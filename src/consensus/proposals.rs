//! How proposals reach the leader: by any route, again and again, until they are seen in the log.
//!
//! A node that cannot reach the leader hands a proposal to the node that its entries come from, as that one is nearer to
//! the leader; when that does not help, to each neighbour in turn. Copies do no harm.

use std::sync::Arc;

use super::entry::{Configuration, Entry, Member, Payload, Proposal};
use super::event::{Effect, Refusal};
use super::ids::{NodeId, RequestId};
use super::log::Log;
use super::message::{Body, Leader};
use super::role::Role;
use super::waiting::{Change, Waiter};
use crate::base::Time;

/// Most nodes that hand a proposal on.
const HOPS_MAX: u8 = 6;

impl Log {
    /// Proposes a command. It is decided some time, unless this node stops; then its [`Effect::Apply`] comes, or an
    /// [`Effect::Install`] of a state in which it was applied.
    ///
    /// # Errors
    /// The command is not taken.
    pub fn propose(
        &mut self,
        now: Time,
        command: Arc<[u8]>,
        effects: &mut Vec<Effect>,
    ) -> Result<RequestId, Refusal> {
        if matches!(self.role, Role::Dead) {
            return Err(Refusal::Dead);
        }
        if self.waiting.proposals.len() >= self.settings.proposals_max {
            return Err(Refusal::Busy);
        }
        let sequence = self.propose_payload(now, Payload::Command(command), effects);
        self.flush(effects);
        Ok(RequestId { origin: self.origin, sequence })
    }

    /// Proposes who votes after the configuration that this node has applied. Sent until a newer configuration is applied: this
    /// one, or another that was faster. Those who vote already are not proposed: each change costs an election.
    ///
    /// # Errors
    /// The members cannot be a configuration.
    pub fn propose_members(
        &mut self,
        now: Time,
        members: Vec<Member>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if matches!(self.role, Role::Dead) {
            return Err(Refusal::Dead);
        }
        let after = self.state.configuration_id();
        let next = Configuration::new(after + 1, members).ok_or(Refusal::Members)?;
        let members = next.members;
        if self.members().is_some_and(|present| present.members == members) {
            self.waiting.change = None;
            return Ok(());
        }
        self.waiting.change = Some(Change { after, members, sent: now, attempts: 0 });
        self.send_change(now, effects);
        self.flush(effects);
        Ok(())
    }

    fn propose_payload(&mut self, now: Time, payload: Payload, effects: &mut Vec<Effect>) -> u64 {
        self.waiting.last += 1;
        let sequence = self.waiting.last;
        let waiter = Waiter { payload, sent: now, attempts: 0 };
        self.waiting.proposals.insert(sequence, waiter);
        self.send_proposal(now, sequence, effects);
        sequence
    }

    fn send_proposal(&mut self, now: Time, sequence: u64, effects: &mut Vec<Effect>) {
        let (origin, since) = (self.origin, self.applied);
        let Some(waiter) = self.waiting.proposals.get_mut(&sequence) else { return };
        waiter.sent = now;
        let attempt = waiter.attempts;
        waiter.attempts += 1;
        let request = RequestId { origin, sequence };
        let proposal = Proposal { request, since, payload: waiter.payload.clone() };
        self.pass_on(now, None, Body::Propose { proposal, hops: HOPS_MAX }, attempt, effects);
    }

    fn send_change(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let Some(change) = &mut self.waiting.change else { return };
        change.sent = now;
        let attempt = change.attempts;
        change.attempts += 1;
        let (after, members) = (change.after, change.members.clone());
        let body = Body::Reconfigure { after, members, hops: HOPS_MAX };
        self.pass_on(now, None, body, attempt, effects);
    }

    /// Puts a proposal into the log here, or hands it to a node that is nearer to the leader.
    pub(super) fn pass_on(
        &mut self,
        now: Time,
        from: Option<NodeId>,
        body: Body,
        attempt: u32,
        effects: &mut Vec<Effect>,
    ) {
        let is_leader = self.is_leader();
        let mut body = body;
        if is_leader {
            match &body {
                Body::Propose { proposal, .. } => self.append(proposal.clone()),
                Body::Reconfigure { after, members, .. } => self.end(*after, members.clone()),
                _ => {}
            }
            // A leader that was replaced may not know it: what is not decided soon goes to others too.
            if attempt < 2 {
                return;
            }
        }
        if let Body::Propose { hops, .. } | Body::Reconfigure { hops, .. } = &mut body {
            let Some(left) = hops.checked_sub(1) else { return };
            *hops = left;
        }
        if let Some(to) = self.route(now, from, attempt) {
            Self::send(to, body, effects);
        }
    }

    /// The next node on the way to the leader.
    fn route(&self, now: Time, from: Option<NodeId>, attempt: u32) -> Option<NodeId> {
        let is_good = |node: &NodeId| Some(*node) != from && self.is_near(now, *node);
        let leader = self.leader.map(|leader| leader.node).filter(is_good);
        let source = self.source.node.filter(is_good);
        if (attempt < 2 || attempt.is_multiple_of(2))
            && let Some(node) = leader.or(source)
        {
            return Some(node);
        }
        let near: Vec<NodeId> = self.peers.keys().copied().filter(is_good).collect();
        let turn = attempt as usize / 2;
        near.get(turn.checked_rem(near.len())?).copied()
    }

    /// Whether a node can be talked to, as far as can be told.
    pub(super) fn is_near(&self, now: Time, node: NodeId) -> bool {
        self.peers
            .get(&node)
            .is_some_and(|peer| peer.is_up && now.since(peer.heard) <= self.settings.silence)
    }

    fn append(&mut self, proposal: Proposal) {
        if self.state.requests.contains(proposal.request) {
            return;
        }
        match &mut self.role {
            Role::Quorum(quorum) => {
                quorum.engine.append(proposal);
            }
            Role::Solo(_) => self.append_alone(Entry::Proposal(proposal)),
            _ => {}
        }
    }

    fn append_alone(&mut self, entry: Entry) {
        let Role::Solo(solo) = &mut self.role else { return };
        if solo.is_ending {
            return;
        }
        let is_there = match &entry {
            Entry::Proposal(proposal) => !solo.requests.insert(proposal.request),
            Entry::Configuration(_) => false,
        };
        if is_there {
            return;
        }
        solo.is_ending = matches!(entry, Entry::Configuration(_));
        solo.last = solo.last.next();
        self.commit.stage_entry(solo.last, entry.clone());
        solo.appended.push_back((self.commit.upcoming(), solo.last, entry));
    }

    fn end(&mut self, after: u32, members: Vec<Member>) {
        let Some(next) = Configuration::new(after + 1, members) else { return };
        match &mut self.role {
            Role::Quorum(quorum) if quorum.engine.configuration().id == after => {
                quorum.engine.end(&next);
            }
            Role::Solo(solo) if solo.configuration.id == after => {
                self.append_alone(Entry::Configuration(next));
            }
            _ => {}
        }
    }

    /// Sends again what was not decided in time.
    pub(super) fn retry(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let patience = self.settings.retry;
        self.tell_opening(now, effects);
        self.send_older_than(now, patience, effects);
    }

    fn send_older_than(
        &mut self,
        now: Time,
        patience: std::time::Duration,
        effects: &mut Vec<Effect>,
    ) {
        if self.waiting.is_empty() {
            return;
        }
        let is_due = |sent: Time| now.since(sent) >= patience;
        let proposals = self.waiting.proposals.iter();
        let due: Vec<u64> = proposals
            .filter(|(_, waiter)| is_due(waiter.sent))
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in due {
            self.send_proposal(now, sequence, effects);
        }
        if self.waiting.change.as_ref().is_some_and(|change| is_due(change.sent)) {
            self.send_change(now, effects);
        }
    }

    /// A member that votes has its opening put into the log, so that all remember it.
    fn tell_opening(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let Some(opening) = self.own_opening() else { return };
        let node = self.settings.node;
        if !self.is_member() || self.state.openings.get(&node) == Some(&opening) {
            return;
        }
        let is_under_way = |sequence: &u64| self.waiting.proposals.contains_key(sequence);
        if self.waiting.opened.as_ref().is_some_and(is_under_way) {
            return;
        }
        let sequence = self.propose_payload(now, Payload::Opened(node, opening), effects);
        self.waiting.opened = Some(sequence);
    }

    /// Learns who leads. When that changes, what waits is sent to the new one at once.
    pub(super) fn watch_leader(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let node = self.settings.node;
        let known = match &self.role {
            Role::Quorum(quorum) if quorum.is_admitted() => quorum.engine.leader(),
            Role::Solo(solo) => {
                Some(Leader { configuration: solo.configuration.id, round: 0, node })
            }
            _ => None,
        };
        if known > self.leader {
            self.new_leader(now, known, effects);
        }
    }

    /// Somebody leads in a newer round than the one known.
    pub(super) fn new_leader(
        &mut self,
        now: Time,
        leader: Option<Leader>,
        effects: &mut Vec<Effect>,
    ) {
        self.leader = leader;
        self.send_older_than(now, std::time::Duration::ZERO, effects);
        self.flush(effects);
    }
}
