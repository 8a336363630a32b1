//! What a member does: it votes by its engine, or decides alone, and makes durable what that rests on.

use std::collections::BTreeSet;
use std::sync::Arc;

use omnipaxos::ballot_leader_election::Ballot;

use super::engine::Engine;
use super::entry::{Configuration, Entry};
use super::event::{Effect, Failure};
use super::ids::{BatchId, Index, NodeId};
use super::log::Log;
use super::message::{Body, Frame, Session};
use super::role::{Admission, Joining, Quorum, Role, Solo};
use super::store::{Operation, Restored, Vote};
use crate::base::Time;

impl Log {
    /// Makes a new mesh with this node as its only member. Only on a fresh store, with nothing applied; it does
    /// nothing otherwise.
    pub fn found(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let is_fresh = matches!(self.role, Role::Observer) && self.applied == Index::ZERO;
        let (Some(member), true) = (self.as_member(), is_fresh) else { return };
        let start = Index(1);
        let configuration = Configuration { id: 1, members: vec![member] };
        self.commit.stage(Operation::Entries {
            first: start,
            entries: vec![Entry::Configuration(configuration.clone())],
        });
        self.commit.stage(Operation::Vote(fresh_vote(&configuration, start)));
        let batch = self.commit.upcoming();
        let entry = Entry::Configuration(configuration.clone());
        let mut solo = Solo::new(configuration, start);
        solo.appended.push_back((batch, start, entry));
        self.role = Role::Solo(solo);
        self.flush(effects);
        self.watch_leader(now, effects);
    }

    /// Takes over what the store held. Nothing comes back when it does not fit together.
    pub(super) fn restore(
        &mut self,
        now: Time,
        restored: Restored,
        effects: &mut Vec<Effect>,
    ) -> Option<()> {
        for (node, opening) in restored.peers {
            self.peer(node).opening = Some(opening);
        }
        let Some(vote) = restored.vote else { return Some(()) };
        if let Some((index, bytes)) = restored.snapshot {
            self.install(index, bytes, effects)?;
            self.held = index;
        }
        let before = match restored.entries.is_empty() {
            true => vote.base.min(self.applied),
            false => Index(restored.first.0.checked_sub(1)?),
        };
        if before > self.applied {
            return None;
        }
        let is_alone = vote.configuration.members.len() == 1;
        let decided = if is_alone { Index(u64::MAX) } else { vote.decided.max(vote.start) };
        for (index, entry) in (restored.first.0..).map(Index).zip(&restored.entries) {
            if index == self.applied.next() && index <= decided {
                self.apply(index, entry.clone(), effects);
            }
        }
        let voted = vote.configuration.id;
        self.take_up(now, vote, before, restored.entries)?;
        // The entry that ended that configuration, or a snapshot after it, was stored, but not yet that this
        // node had left it: whoever decided alone must not go on.
        if let Some((index, configuration)) = self.state.configuration.clone()
            && configuration.id > voted
        {
            self.configured(now, index, configuration, effects);
        }
        Some(())
    }

    /// Becomes the member that the store says it was.
    fn take_up(
        &mut self,
        now: Time,
        vote: Vote,
        before: Index,
        mut entries: Vec<Entry>,
    ) -> Option<()> {
        let is_mine = vote.configuration.member(self.settings.node) == self.as_member();
        if !is_mine || matches!(self.role, Role::Amnesiac) {
            return Some(());
        }
        if vote.configuration.members.len() == 1 {
            self.role = Role::Solo(Solo::new(vote.configuration, self.applied));
            return Some(());
        }
        if vote.base > self.applied {
            return None;
        }
        // The entries of earlier configurations, and those that are in a snapshot, are not the engine's.
        let skip = usize::try_from(vote.base.0.checked_sub(before.0)?).ok()?;
        entries.drain(..skip.min(entries.len()));
        let engine = Engine::new(self.settings.node, vote, entries)?;
        self.begin_voting(now, engine);
        Some(())
    }

    /// A new configuration was applied: this node becomes what it says.
    pub(super) fn configured(
        &mut self,
        now: Time,
        index: Index,
        configuration: Configuration,
        effects: &mut Vec<Effect>,
    ) {
        if matches!(self.role, Role::Dead | Role::Amnesiac) {
            return;
        }
        if let Role::Solo(solo) = &self.role
            && solo.configuration == configuration
        {
            return;
        }
        let covered = self.leave(index);
        let Some(named) = configuration.member(self.settings.node) else { return };
        if Some(named) != self.as_member() {
            effects.push(Effect::Amnesiac);
            return;
        }
        let mut joining = Joining { configuration, start: index, batch: None };
        let missing = covered.and_then(|covered| self.history.all_from(covered.next()));
        if let (Some(covered), Some(entries)) = (covered, missing) {
            self.commit.stage(Operation::Entries { first: covered.next(), entries });
            let vote = fresh_vote(&joining.configuration, index);
            self.commit.stage(Operation::Vote(vote));
            joining.batch = Some(self.commit.upcoming());
        }
        self.role = Role::Joining(joining);
        self.join_by_snapshot(now);
    }

    /// Leaves the role of the configuration that ended at `index`; up to where its log is in the store, or in what is
    /// staged.
    fn leave(&mut self, index: Index) -> Option<Index> {
        match std::mem::replace(&mut self.role, Role::Observer) {
            Role::Solo(_) => Some(index),
            Role::Quorum(mut quorum) => {
                quorum.engine.take_operations(self.commit.staged());
                // The entry that ended it is no entry to the engine.
                Some(quorum.engine.delivered().min(Index(index.0 - 1)))
            }
            _ => None,
        }
    }

    /// A new member begins with a snapshot that comes after its configuration.
    fn join_by_snapshot(&mut self, now: Time) {
        let Role::Joining(joining) = &mut self.role else { return };
        if joining.batch.is_some() {
            return;
        }
        match self.history.snapshot() {
            Some((index, bytes)) if *index >= joining.start => {
                let (index, bytes) = (*index, Arc::clone(bytes));
                self.commit.stage(Operation::Entries { first: Index(1), entries: Vec::new() });
                self.commit.stage(Operation::Snapshot(index, bytes));
                let vote = fresh_vote(&joining.configuration, joining.start);
                self.commit.stage(Operation::Vote(vote));
                joining.batch = Some(self.commit.upcoming());
                self.holding = Some((self.commit.upcoming(), index));
            }
            _ => self.wanted = self.wanted.max(joining.start),
        }
        let _ = now;
    }

    /// What this node joined with is durable: it votes from here on.
    fn joined(&mut self, now: Time) {
        let Role::Joining(joining) = &self.role else { return };
        let (configuration, start) = (joining.configuration.clone(), joining.start);
        if configuration.members.len() == 1 {
            self.role = Role::Solo(Solo::new(configuration, self.applied));
            return;
        }
        let vote = fresh_vote(&configuration, start);
        if let Some(engine) = Engine::new(self.settings.node, vote, Vec::new()) {
            self.begin_voting(now, engine);
        }
    }

    fn begin_voting(&mut self, now: Time, engine: Engine) {
        let until = now + self.settings.admission;
        let admission = Some(Admission { welcomed: BTreeSet::new(), until });
        self.role = Role::Quorum(Box::new(Quorum { engine, admission }));
        self.next_heartbeat = now;
        // Others are asked at once.
        self.next_status = now;
    }

    /// A heartbeat of the engine.
    pub(super) fn heartbeat(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let patience = self.settings.heartbeat;
        let Role::Quorum(quorum) = &mut self.role else { return };
        if quorum.admission.is_some() {
            self.ask_admission(now, effects);
            return;
        }
        quorum.engine.tick();
        for (node, peer) in &mut self.peers {
            if let Some(session) = peer.link.overdue(now, patience) {
                Self::send(*node, Body::Reset { session }, effects);
            }
        }
        self.take_engine_messages(effects);
    }

    /// A frame for the engine.
    pub(super) fn engine_frame(
        &mut self,
        now: Time,
        from: NodeId,
        configuration: u32,
        session: Session,
        frame: Frame,
        effects: &mut Vec<Effect>,
    ) {
        let is_known = self.is_opening_known(from, session.opened);
        let applied = self.applied;
        let held = self.held;
        let is_wanted = matches!(&self.role, Role::Quorum(quorum)
            if quorum.is_admitted() && quorum.engine.configuration().id == configuration);
        if !is_wanted {
            self.peer(from).link.leave_out(session);
            return;
        }
        let Role::Quorum(quorum) = &mut self.role else { return };
        if !is_known {
            // It says who it is, and begins again.
            Self::send(from, Body::Reset { session }, effects);
            return;
        }
        let mut received = std::mem::take(&mut self.received);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let is_loose = matches!(frame, Frame::Loose(..));
        if peer.link.receive(now, session, frame, &mut received) {
            quorum.engine.reconnected(from);
        }
        let mut wanted = self.wanted;
        for message in received.drain(..) {
            if let Err(needed) = quorum.engine.receive(from, message, held) {
                wanted = wanted.max(needed);
            }
        }
        self.received = received;
        self.wanted = wanted;
        if wanted > applied {
            // The feed has what is missing.
            self.source.lagging = self.source.lagging.max(Some(wanted));
        }
        if is_loose {
            self.take_engine_messages(effects);
        }
    }

    /// A peer misses something of what was sent to it.
    pub(super) fn reset(&mut self, from: NodeId, session: Session, effects: &mut Vec<Effect>) {
        if let Some(opening) = self.own_opening() {
            Self::send(from, Body::Open { opening }, effects);
        }
        if self.peer(from).link.renew(Some(session))
            && let Role::Quorum(quorum) = &mut self.role
        {
            quorum.engine.reconnected(from);
        }
    }

    /// Begins a session with a peer.
    pub(super) fn restart_link(&mut self, node: NodeId) {
        if node == self.settings.node {
            return;
        }
        self.peer(node).link.renew(None);
        if let Role::Quorum(quorum) = &mut self.role
            && quorum.is_admitted()
        {
            quorum.engine.reconnected(node);
        }
    }

    /// Applies what was decided here.
    pub(super) fn deliver(&mut self, now: Time, effects: &mut Vec<Effect>) {
        while let Role::Quorum(quorum) = &mut self.role {
            let Some((index, entry)) = quorum.engine.next_decided() else { break };
            if matches!(entry, Entry::Configuration(_)) {
                // The engine goes, but the others are to hear from it that this was decided.
                self.take_engine_messages(effects);
            }
            self.learn(now, index, entry, effects);
        }
    }

    fn deliver_alone(&mut self, now: Time, batch: BatchId, effects: &mut Vec<Effect>) {
        while let Role::Solo(solo) = &mut self.role
            && solo.appended.front().is_some_and(|(in_batch, ..)| *in_batch <= batch)
            && let Some((_, index, entry)) = solo.appended.pop_front()
        {
            if let Entry::Proposal(proposal) = &entry {
                solo.requests.remove(&proposal.request);
            }
            self.learn(now, index, entry, effects);
        }
    }

    /// A batch is durable.
    pub(super) fn stored(&mut self, now: Time, batch: BatchId, effects: &mut Vec<Effect>) {
        if !self.commit.stored(batch, effects) {
            return;
        }
        if let Some((_, index)) = self.holding.take_if(|(held, _)| *held <= batch) {
            self.held = self.held.max(index);
        }
        if let Role::Joining(joining) = &self.role
            && joining.batch.is_some_and(|joined| joined <= batch)
        {
            self.joined(now);
        }
        self.deliver_alone(now, batch, effects);
    }

    /// The application's part of a snapshot.
    pub(super) fn snapshot_taken(&mut self, index: Index, state: &[u8], effects: &mut Vec<Effect>) {
        let Some(bytes) = self.history.taken(index, state, &self.settings) else { return };
        self.store_snapshot(index, bytes);
        let _ = effects;
    }

    /// A member keeps its snapshots, and forgets the entries before them.
    pub(super) fn store_snapshot(&mut self, index: Index, bytes: Arc<[u8]>) {
        match &mut self.role {
            Role::Quorum(quorum) => quorum.engine.trim(index),
            Role::Solo(_) => self.commit.stage(Operation::Trim(index)),
            Role::Joining(_) => return self.join_by_snapshot(Time::ZERO),
            _ => return,
        }
        self.commit.stage(Operation::Snapshot(index, bytes));
        self.holding = Some((self.commit.upcoming(), index));
    }

    pub(super) fn is_engine_new(&self) -> bool {
        matches!(&self.role, Role::Quorum(quorum) if quorum.engine.is_new())
    }

    /// Gives out a batch when none is under way, and lets the engine's messages wait for it.
    pub(super) fn flush(&mut self, effects: &mut Vec<Effect>) {
        if let Role::Quorum(quorum) = &self.role
            && quorum.engine.is_broken()
        {
            self.fail(Failure::Corrupt, effects);
            return;
        }
        if !self.commit.is_idle() {
            return;
        }
        // While a batch is under way, entries gather in one message of the engine.
        self.take_engine_messages(effects);
        let is_new = self.is_engine_new();
        if is_new || self.commit.is_staged() {
            if let Role::Quorum(quorum) = &mut self.role {
                quorum.engine.take_operations(self.commit.staged());
            }
            self.commit.give(effects);
        }
    }

    pub(super) fn take_engine_messages(&mut self, effects: &mut Vec<Effect>) {
        let Role::Quorum(quorum) = &mut self.role else { return };
        if !quorum.is_admitted() {
            return;
        }
        let is_new = quorum.engine.is_new();
        let configuration = quorum.engine.configuration().id;
        let (peers, commit) = (&mut self.peers, &mut self.commit);
        let opened = self.identity.map_or(0, |identity| identity.opened);
        quorum.engine.take_messages(|to, message| {
            let peer = peers.entry(to).or_insert_with(|| super::peer::Peer::new(opened));
            let (session, frame) = peer.link.send(message);
            let is_loose = matches!(frame, Frame::Loose(..));
            let body = Body::Engine { configuration, session, frame };
            // Elections do not wait for the disk: heartbeats promise nothing.
            if is_loose {
                Self::send(to, body, effects);
            } else {
                commit.send(is_new, to, body, effects);
            }
        });
    }
}

/// The vote of a member that has not voted in a configuration.
fn fresh_vote(configuration: &Configuration, start: Index) -> Vote {
    Vote {
        configuration: configuration.clone(),
        start,
        base: start,
        promise: Ballot::default(),
        accepted: Ballot::default(),
        decided: start,
        stop: None,
    }
}
