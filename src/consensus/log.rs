//! The one façade that a node drives: what is common to all roles of a node.
//!
//! Entries come to a node by two ways, from the engine when it is a member and from the feed, and are applied in the order of
//! their indexes, whichever way was faster. `member` holds what a member does, `feed` how entries reach
//! nodes, `proposals` how proposals reach the leader; each adds its part of [`Log`].

use std::collections::BTreeMap;
use std::sync::Arc;

use omnipaxos::messages::Message as EngineMessage;

use super::commit::Commit;
use super::entry::{Configuration, Entry, Member, Opening, Payload};
use super::event::{Effect, Event, Failure};
use super::history::History;
use super::ids::{BatchId, Index, NodeId, RequestId};
use super::message::{Body, Leader, Message};
use super::peer::Peer;
use super::role::Role;
use super::settings::Settings;
use super::source::Source;
use super::state::State;
use super::store::{Identity, Restored};
use super::waiting::Waiting;
use crate::base::Time;

/// A node's end of the mesh log, member or not.
pub struct Log {
    pub(super) settings: Settings,
    /// The random number of this start.
    pub(super) origin: u64,
    pub(super) identity: Option<Identity>,
    pub(super) state: State,
    pub(super) applied: Index,
    pub(super) history: History,
    pub(super) role: Role,
    pub(super) commit: Commit,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) source: Source,
    pub(super) waiting: Waiting,
    pub(super) leader: Option<Leader>,
    /// The index of the last snapshot in the store, and the one that a batch will put there.
    pub(super) held: Index,
    pub(super) holding: Option<(BatchId, Index)>,
    /// A snapshot of this index or a later one must come into the store.
    pub(super) wanted: Index,
    pub(super) next_heartbeat: Time,
    pub(super) next_status: Time,
    /// Effects of opening, until the first event.
    opening: Vec<Effect>,
    pub(super) received: Vec<EngineMessage<Entry>>,
}

impl Log {
    /// Opens a node's end of the log. `restored` is what its store held; a node without a store is never a member.
    /// `origin` is a random number, another one at each start. What the store held is applied with the first event,
    /// which is due at once.
    pub fn open(settings: Settings, restored: Option<Restored>, origin: u64, now: Time) -> Log {
        let mut commit = Commit::default();
        commit.is_hasty = settings.mutations.send_before_durable;
        let mut log = Log {
            settings,
            origin,
            identity: restored.as_ref().map(|restored| restored.identity),
            state: State::default(),
            applied: Index::ZERO,
            history: History::default(),
            role: Role::Observer,
            commit,
            peers: BTreeMap::new(),
            source: Source::default(),
            waiting: Waiting::default(),
            leader: None,
            held: Index::ZERO,
            holding: None,
            wanted: Index::ZERO,
            next_heartbeat: now,
            next_status: now,
            opening: Vec::new(),
            received: Vec::new(),
        };
        if let Some(restored) = restored {
            let mut effects = Vec::new();
            if log.restore(now, restored, &mut effects).is_none() {
                log.fail(Failure::Corrupt, &mut effects);
            }
            log.opening = effects;
        }
        log
    }

    /// Takes an event and adds what is to be done.
    pub fn handle(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        if !self.opening.is_empty() {
            effects.append(&mut self.opening);
        }
        if matches!(self.role, Role::Dead) {
            return;
        }
        match event {
            Event::Timer => self.timer(now, effects),
            Event::Message { from, message } => self.message(now, from, message.0, effects),
            Event::LinkUp(node) => self.link_up(now, node, effects),
            Event::LinkDown(node) => self.link_down(now, node, effects),
            Event::Stored(batch) => self.stored(now, batch, effects),
            Event::StoreFailed => self.fail(Failure::Store, effects),
            Event::SnapshotTaken { index, state } => self.snapshot_taken(index, &state, effects),
        }
        self.settle(now, effects);
    }

    /// When [`Event::Timer`] is wanted at the latest.
    pub fn next_timer(&self) -> Time {
        match &self.role {
            _ if !self.opening.is_empty() => Time::ZERO,
            Role::Dead => Time::NEVER,
            Role::Quorum(_) => self.next_heartbeat.min(self.next_status),
            _ if self.peers.is_empty() && self.waiting.is_empty() => Time::NEVER,
            _ => self.next_status,
        }
    }

    /// The last index that was applied.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Who leads, as far as this node knows.
    pub fn leader_hint(&self) -> Option<NodeId> {
        self.leader.map(|leader| leader.node)
    }

    /// Whether this node leads, as far as it knows: it may have been replaced.
    pub fn is_leader(&self) -> bool {
        match &self.role {
            Role::Solo(_) => true,
            Role::Quorum(quorum) => quorum.is_admitted() && quorum.engine.is_leader(),
            _ => false,
        }
    }

    /// Whether this node votes now.
    pub fn is_member(&self) -> bool {
        match &self.role {
            Role::Solo(_) => true,
            Role::Quorum(quorum) => quorum.is_admitted(),
            _ => false,
        }
    }

    /// Who votes at the applied index; nothing before the first entry.
    pub fn members(&self) -> Option<&Configuration> {
        self.state.configuration.as_ref().map(|(_, configuration)| configuration)
    }

    /// This node as the member that it would be; nothing without a store.
    pub fn as_member(&self) -> Option<Member> {
        let identity = self.identity?;
        Some(Member { node: self.settings.node, store: identity.store })
    }

    /// This opening of the store.
    pub(super) fn own_opening(&self) -> Option<Opening> {
        let Identity { store, opened, .. } = self.identity?;
        Some(Opening { store, count: opened, session: self.origin })
    }

    pub(super) fn peer(&mut self, node: NodeId) -> &mut Peer {
        let opened = self.identity.map_or(0, |identity| identity.opened);
        self.peers.entry(node).or_insert_with(|| Peer::new(opened))
    }

    /// Sends what rests on nothing that is not durable.
    pub(super) fn send(to: NodeId, body: Body, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send { to, message: Message(body) });
    }

    /// Nothing is done any more.
    pub(super) fn fail(&mut self, failure: Failure, effects: &mut Vec<Effect>) {
        if !matches!(self.role, Role::Dead) {
            self.role = Role::Dead;
            effects.push(Effect::Failed(failure));
        }
    }

    fn timer(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + self.settings.heartbeat;
            self.heartbeat(now, effects);
        }
        if now >= self.next_status {
            self.next_status = now + self.settings.status;
            self.follow(now, effects);
            self.tell(now, effects);
            self.retry(now, effects);
        }
    }

    fn message(&mut self, now: Time, from: NodeId, body: Body, effects: &mut Vec<Effect>) {
        if from == self.settings.node {
            return;
        }
        let peer = self.peer(from);
        peer.heard = now;
        peer.is_up = true;
        match body {
            Body::Engine { configuration, session, frame } => {
                self.engine_frame(now, from, configuration, session, frame, effects);
            }
            Body::Reset { session } => self.reset(from, session, effects),
            Body::Open { opening } => self.open_asked(from, opening, effects),
            Body::Welcome { opening } => self.welcomed(now, from, opening, effects),
            Body::Refused { opening, known } => self.refused(opening, known, effects),
            Body::Propose { proposal, hops } => {
                self.pass_on(now, Some(from), Body::Propose { proposal, hops }, 0, effects);
            }
            Body::Reconfigure { after, members, hops } => {
                let body = Body::Reconfigure { after, members, hops };
                self.pass_on(now, Some(from), body, 0, effects);
            }
            Body::Status(status) => self.status(now, from, status, effects),
            Body::Subscribe { applied } => self.subscribed(from, applied, effects),
            Body::Unsubscribe => self.peer(from).cursor = None,
            Body::Entries { first, entries } => self.entries(now, from, first, entries, effects),
            Body::Offer { index, total } => self.offered(now, from, index, total, effects),
            Body::Pull { index, offset, length } => {
                self.pulled(from, index, offset, length, effects);
            }
            Body::Chunk { index, offset, total, bytes } => {
                self.chunk(now, from, (index, total), offset, bytes, effects);
            }
        }
    }

    /// After each event: what was decided is applied, what is new is stored and sent.
    fn settle(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if matches!(self.role, Role::Dead) {
            return;
        }
        let applied = self.applied;
        self.deliver(now, effects);
        self.take_snapshot(effects);
        self.flush(effects);
        if matches!(self.role, Role::Dead) {
            return;
        }
        if self.applied > applied || self.source.is_grown {
            self.source.is_grown = false;
            self.source.progressed = now;
            self.push(effects);
        }
        self.watch_leader(now, effects);
    }

    /// An entry is decided: it is applied when it is the next one.
    pub(super) fn learn(
        &mut self,
        now: Time,
        index: Index,
        entry: Entry,
        effects: &mut Vec<Effect>,
    ) {
        if index != self.applied.next() {
            return;
        }
        self.apply(index, entry.clone(), effects);
        if let Entry::Configuration(configuration) = entry {
            self.configured(now, index, configuration, effects);
        }
    }

    /// Applies an entry; what a new configuration means for this node is not looked at.
    pub(super) fn apply(&mut self, index: Index, entry: Entry, effects: &mut Vec<Effect>) {
        self.applied = index;
        self.source.is_grown = true;
        self.history.push(entry.clone());
        match entry {
            Entry::Configuration(configuration) => {
                self.state.configuration = Some((index, configuration.clone()));
                self.waiting.configured(configuration.id);
                effects.push(Effect::MembersChanged { index, configuration });
            }
            Entry::Proposal(proposal) => {
                let request = proposal.request;
                let is_new = self.state.requests.admit(index, request, proposal.since);
                self.settle_own(request);
                if !is_new && !self.settings.mutations.no_request_dedupe {
                    return;
                }
                match proposal.payload {
                    Payload::Command(command) => {
                        effects.push(Effect::Apply { index, request, command });
                    }
                    Payload::Opened(node, opening) => {
                        self.state.opened(node, opening);
                        self.check_own_opening(effects);
                    }
                }
            }
        }
    }

    fn settle_own(&mut self, request: RequestId) {
        if request.origin == self.origin && self.state.requests.contains(request) {
            self.waiting.settled(request.sequence);
        }
    }

    /// Replaces the applied state by a snapshot's. Nothing comes back when it is not one.
    pub(super) fn install(
        &mut self,
        index: Index,
        bytes: Arc<[u8]>,
        effects: &mut Vec<Effect>,
    ) -> Option<()> {
        let (state, application) = State::open(&bytes)?;
        self.history = History::begin(index, bytes);
        self.state = state;
        self.applied = index;
        self.source.is_grown = true;
        effects.push(Effect::Install { index, state: application });
        if let Some((index, configuration)) = self.state.configuration.clone() {
            self.waiting.configured(configuration.id);
            effects.push(Effect::MembersChanged { index, configuration });
        }
        let (requests, origin) = (&self.state.requests, self.origin);
        self.waiting.retain(|sequence| !requests.contains(RequestId { origin, sequence }));
        self.check_own_opening(effects);
        Some(())
    }

    fn take_snapshot(&mut self, effects: &mut Vec<Effect>) {
        let is_keeper = match &self.role {
            Role::Quorum(_) => true,
            Role::Joining(joining) => joining.batch.is_none(),
            _ => false,
        };
        let is_wanted = is_keeper
            && self.wanted > self.held
            && self.holding.is_none()
            && self.applied >= self.wanted
            && !self.history.is_taking();
        if is_wanted || self.history.is_due(&self.settings) {
            self.history.take(self.applied, &self.state);
            effects.push(Effect::TakeSnapshot { index: self.applied });
        }
    }
}
