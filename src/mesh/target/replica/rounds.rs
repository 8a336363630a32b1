//! The replica's part in rounds: as a joiner, and as who is asked.

use std::time::Duration;

use super::{Replica, TICK};
use crate::mesh::disk::DiskOperation;
use crate::mesh::ids::ReplicaId;
use crate::mesh::message::{CopyResult, Message};
use crate::mesh::message::{Left, PeerKey, Run, ToPeer};
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::payload::Payload;
use crate::mesh::picture::{Command, Evidence, ReplicaState, Round, SyncEnd};
use crate::mesh::story;
use crate::mesh::target::bits;
use crate::mesh::target::effect::{Effect, Port};
use crate::mesh::target::facts::{BackOff, Peer};
use crate::mesh::target::joining::{Copied, Joining, Step};
use crate::mesh::target::pending::Purpose;
use crate::mesh::target::sourcing::Sourcing;

/// A client counts as busy for this long after an I/O.
const BUSY: Duration = Duration::from_millis(10);

impl<P: Payload> Replica<P> {
    /// Takes up, goes on with or drops its part in rounds, as its state says.
    pub(super) fn follow_round(&mut self, port: &mut Port<'_, P>) {
        let facts = &self.facts;
        let layout = facts.place.layout;
        let current = self.joining.as_ref().map(|joining| joining.round);
        if current != facts.state.round() {
            if let (Some(joining), None) = (&self.joining, facts.state.round())
                && facts.state == ReplicaState::InSync
            {
                let (group, replica, copied) = (facts.group, facts.replica, joining.copied);
                port.story(story::Event::RoundEnded { group, replica, copied });
                self.comeback = BackOff::new(port.now);
            }
            self.joining = facts.state.round().map(|round| {
                let (group, replica, source) = (facts.group, facts.replica, round.source);
                port.story(story::Event::RoundBegun { group, epoch: round.epoch, replica, source });
                Joining::new(round, port.now, layout.words(), layout.region_blocks(), facts.blocks)
            });
        }
        let joiner = |peer: &Peer| match (peer.state, peer.incarnation) {
            (ReplicaState::Reconciling(round), Some(incarnation))
                if round.source == facts.replica =>
            {
                Some((peer.replica, incarnation, round))
            }
            _ => None,
        };
        if facts.reconciling.is_some_and(|round| round.source == facts.replica) {
            let make = || Sourcing::new(layout.region_blocks(), facts.blocks);
            let sourcing = self.sourcing.get_or_insert_with(make);
            sourcing.set(port.now, facts.peers.iter().filter_map(joiner));
        } else {
            self.sourcing = None;
        }
        if facts.state == ReplicaState::Stale {
            self.tick = self.tick.min(self.comeback.at);
        }
    }

    /// The other replicas that hold every acknowledged write, the source first.
    pub(super) fn holders(&self) -> Vec<ReplicaId> {
        let source = self.facts.state.round().map(|round| round.source);
        let mut holders: Vec<ReplicaId> = self
            .facts
            .peers
            .iter()
            .filter(|peer| peer.state.is_holder())
            .map(|peer| peer.replica)
            .collect();
        holders.sort_by_key(|holder| Some(*holder) != source);
        holders
    }

    pub(super) fn join(&mut self, port: &mut Port<'_, P>) {
        // Mostly there is no round: nothing is made ready for one.
        if self.joining.is_none() || self.loading.is_some() || self.broken.is_some() {
            return;
        }
        let holders = self.holders();
        while let Some(joining) = &mut self.joining {
            let round = joining.round;
            let Some(step) = joining.step(port.now, self.old == 0, &holders, self.regions.intent())
            else {
                break;
            };
            let (group, joiner, incarnation) =
                (self.facts.group, self.facts.replica, self.facts.incarnation);
            let key = |holder| PeerKey { group, round, joiner, holder, incarnation };
            match step {
                Step::AskMaps(holders) => {
                    let written = self.facts.blank;
                    for holder in holders {
                        self.tell(port, holder, ToPeer::AskMap { key: key(holder), written }, None);
                    }
                }
                Step::Merge => self.merge(port),
                Step::AskCopy(holder, run) => {
                    self.tell(port, holder, ToPeer::AskCopy { key: key(holder), run }, None)
                }
                Step::TellLeft => {
                    let blocks = joining.left_blocks(self.facts.place.layout.region_blocks());
                    let (group, replica) = (self.facts.group, self.facts.replica);
                    port.story(story::Event::UnionKnown { group, replica, blocks });
                    self.tell_left(port);
                }
                Step::Finish => {
                    let (group, replica, incarnation) =
                        (self.facts.group, self.facts.replica, self.facts.incarnation);
                    let end = SyncEnd { group, replica, round: round.epoch, incarnation };
                    port.propose(Command::FinishSync { proposer: port.node, syncs: vec![end] });
                    self.tell_left(port);
                }
            }
            self.check_merged();
        }
        self.check_merged();
        if let Some(joining) = &self.joining {
            self.tick = self.tick.min(joining.next_timer(port.now)).max(port.now + TICK / 50);
        }
    }

    pub(super) fn tell_left(&mut self, port: &mut Port<'_, P>) {
        if let Some(left) = self.joining.as_ref().and_then(Joining::left) {
            let left = Left::Regions(left.to_vec());
            self.tell_progress(port, left);
        }
    }

    /// Makes the union part of the own map. A holder must read as zeroes what it never wrote, also if it becomes the source: such
    /// regions are zeroed first. One that is being filled gets every block of them by copying.
    pub(super) fn merge(&mut self, port: &mut Port<'_, P>) {
        let Some(joining) = &self.joining else { return };
        if !kept(Rule::S5) {
            return;
        }
        let union = joining.union().to_vec();
        let holder = self.facts.state.is_holder();
        let mut next = bits::next(&union, 0);
        while let Some(region) = next {
            if region < self.regions.layout().regions() {
                // Zeroes that are on their way there make the bit durable when they have landed.
                if holder {
                    self.warm(port, region);
                } else if !self.zeroing.contains(&region) {
                    self.regions.want(region);
                }
            }
            next = bits::next(&union, region + 1);
        }
        self.write_pages(port);
    }

    pub(super) fn check_merged(&mut self) {
        let Some(joining) = &mut self.joining else { return };
        if !joining.is_merging() {
            return;
        }
        let durable = |word: (usize, &u64)| word.1 & !self.regions.durable()[word.0] == 0;
        if joining.union().iter().enumerate().all(durable) || !kept(Rule::S5) {
            joining.merged();
        }
    }

    /// A holder has said which of its regions may differ.
    pub(super) fn take_map(&mut self, port: &mut Port<'_, P>, key: PeerKey, mut words: Vec<u64>) {
        let layout = *self.regions.layout();
        words.resize(layout.words(), 0);
        words.iter_mut().enumerate().for_each(|(at, word)| *word &= layout.valid_bits(at));
        if let Some(joining) = self.joining_of(&key) {
            joining.map(port.now, key.holder, &words);
            self.proceed(port);
        }
    }

    /// A holder has answered for a run.
    pub(super) fn take_copy(
        &mut self,
        port: &mut Port<'_, P>,
        key: PeerKey,
        run: Run,
        result: CopyResult,
        payload: Option<P>,
    ) {
        let holders = self.holders();
        let complete = payload.as_ref().is_some_and(|payload| payload.blocks() == run.blocks);
        let result =
            if result == CopyResult::Data && !complete { CopyResult::NotNow } else { result };
        let now = port.now;
        let own = self.facts.state.is_holder().then_some(self.facts.replica);
        let Some(joining) = self.joining_of(&key) else { return };
        let copied = joining.copy_answer(now, key.holder, run, result, &holders, own);
        let round = joining.round;
        let Some(block) = self.facts.place.data(run.first) else { return };
        let blocks = run.blocks;
        let operation = match (copied, payload) {
            (Copied::Ignore, _) => return self.proceed(port),
            (Copied::Keep, _) => {
                self.copy_ended(port, round, true);
                return self.proceed(port);
            }
            (Copied::Write, Some(payload)) => DiskOperation::Write { block, payload, stable: true },
            (Copied::Write, None) => return,
            (Copied::Zero, _) => DiskOperation::Zero { block, blocks, unmap: true, stable: true },
            (Copied::Poison, _) => {
                port.story(story::Event::Mended { replica: self.facts.replica, lost: true });
                DiskOperation::Poison { block, blocks }
            }
        };
        self.start(port, Purpose::Copy(round), operation);
    }

    /// The part in the round that a message is about.
    fn joining_of(&mut self, key: &PeerKey) -> Option<&mut Joining> {
        let own = key.joiner == self.facts.replica && key.incarnation == self.facts.incarnation;
        self.joining.as_mut().filter(|joining| own && joining.round == key.round)
    }

    pub(super) fn copy_ended(&mut self, port: &mut Port<'_, P>, round: Round, done: bool) {
        let busy = port.now.since(self.last_client_io) < BUSY;
        let Some(joining) = self.joining.as_mut().filter(|joining| joining.round == round) else {
            return;
        };
        if !done {
            joining.not_written();
            return self.give_up(port);
        }
        let Some(run) = joining.written(port.now, busy) else { return };
        self.tell_repaired(port, run);
    }

    fn tell_repaired(&mut self, port: &mut Port<'_, P>, run: Run) {
        self.tell_progress(port, Left::Repaired(vec![run]));
    }

    /// A reader at the source waits for a run.
    pub(super) fn hurry(&mut self, port: &mut Port<'_, P>, key: PeerKey, run: Run) {
        let Some(region) = self.region_of(&run) else { return };
        let Some(joining) = self.joining_of(&key) else { return };
        if joining.is_equal(run, region) {
            return self.tell_repaired(port, run);
        }
        joining.hurry(run);
        self.proceed(port);
    }

    /// A round that does not go on: somebody has to leave. First the one that is waited for, if the log has missed it as well; then this
    /// replica.
    pub(super) fn look_after_round(&mut self, port: &mut Port<'_, P>) {
        let patience = 2 * port.timing.lease();
        self.tell_alive(port);
        if port.now < self.giving_up.at {
            return;
        }
        let stalled = |joining: &&Joining| port.now.since(joining.heard) > patience;
        if let Some(joining) = self.joining.as_ref().filter(stalled)
            && let Some(silent) = joining.waits_for()
            && self.loading.is_none()
        {
            self.giving_up = BackOff { at: port.now + port.timing.lease() / 2, ..self.giving_up };
            self.stalled = !self.stalled;
            if !self.facts.peer(silent).is_some_and(|peer| peer.open) {
                // It cannot answer, whoever asks. If it is the last holder all there is to do is to wait.
                self.evict(port, silent, Evidence::Round);
            } else if self.stalled {
                let since = self.facts.applied;
                self.evict(port, silent, Evidence::Unreachable { tried: Vec::new(), since });
            } else {
                port.story(story::Event::Unreachable { replica: silent });
                self.evict(port, self.facts.replica, Evidence::Round);
            }
            return;
        }
        let before = port.now - patience;
        if let Some(silent) = self.sourcing.as_ref().and_then(|sourcing| sourcing.silent(before)) {
            self.giving_up = BackOff { at: port.now + port.timing.lease() / 2, ..self.giving_up };
            self.evict(port, silent, Evidence::Round);
        }
    }

    /// A source that hears nothing of a joiner takes it for lost.
    fn tell_alive(&mut self, port: &mut Port<'_, P>) {
        if self.joining.is_some() && port.now >= self.alive_told + port.timing.lease() / 2 {
            self.alive_told = port.now;
            self.tell_progress(port, Left::Repaired(Vec::new()));
        }
    }

    /// Tells the source how far a `Reconciling` replica is.
    fn tell_progress(&mut self, port: &mut Port<'_, P>, left: Left) {
        if let ReplicaState::Reconciling(round) = self.facts.state {
            let (group, joiner) = (self.facts.group, self.facts.replica);
            let incarnation = self.facts.incarnation;
            let key = PeerKey { group, round, joiner, holder: round.source, incarnation };
            self.tell(port, round.source, ToPeer::Progress { key, left }, None);
        }
    }

    /// Says something to the node of another replica of the group.
    pub(super) fn tell(
        &mut self,
        port: &mut Port<'_, P>,
        replica: ReplicaId,
        message: ToPeer,
        payload: Option<P>,
    ) {
        let Some(peer) = self.facts.peer(replica) else { return };
        // Each try takes the next way, so that one that does not work holds nothing up for long.
        let turn = (port.now.as_nanos() / 100_000_000) as usize;
        let route = match peer.routes.len() {
            0 => crate::mesh::route::Route::DIRECT,
            count => peer.routes[if turn % 4 == 3 { turn / 4 % count } else { 0 }],
        };
        port.out.push(Effect::Send {
            to: peer.node,
            route,
            message: Message::ToPeer(message),
            payload,
        });
    }
}
