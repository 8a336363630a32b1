//! One configuration's engine: OmniPaxos behind names and indexes of the mesh.
//!
//! Members are numbered from 1 in the order of their nodes, as the engine keeps tables by number. It
//! walks them in that order only, so that its messages leave in an order that the events fix.

use std::collections::BTreeSet;

use omnipaxos::messages::Message as EngineMessage;
use omnipaxos::messages::sequence_paxos::PaxosMsg;
use omnipaxos::storage::SnapshotType;
use omnipaxos::util::LogSync;
use omnipaxos::{ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig};

use super::entry::{Configuration, Entry, Prefix, Proposal};
use super::ids::{Index, NodeId, RequestId};
use super::image::{Image, Shared, stop_sign};
use super::message::Leader;
use super::store::{Operation, Vote};

/// Heartbeats between two rounds of messages that may have been lost.
const RESEND_HEARTBEATS: u64 = 3;

/// A member's engine.
pub struct Engine {
    engine: OmniPaxos<Entry, Shared>,
    image: Shared,
    configuration: Configuration,
    start: Index,
    /// How many decided entries were taken out.
    delivered: u64,
    /// What was appended in this round and is not decided yet, so that copies are not appended too.
    appended: BTreeSet<RequestId>,
    round: u32,
    outgoing: Vec<EngineMessage<Entry>>,
}

impl Engine {
    /// The engine of a member. Nothing comes back when the configuration is not one for an engine.
    pub fn new(node: NodeId, vote: Vote, entries: Vec<Entry>) -> Option<Engine> {
        let (configuration, start) = (vote.configuration.clone(), vote.start);
        let image = Shared::new(Image::new(vote, entries));
        let mut engine = None;
        if let Some(pid) = number(&configuration, node) {
            let settings = OmniPaxosConfig {
                cluster_config: ClusterConfig {
                    configuration_id: configuration.id,
                    nodes: (1..=configuration.members.len() as u64).collect(),
                    flexible_quorum: None,
                },
                server_config: ServerConfig {
                    pid,
                    election_tick_timeout: 1,
                    resend_message_tick_timeout: RESEND_HEARTBEATS,
                    buffer_size: 64,
                    batch_size: 1,
                    // One entry is a batch, so that there is never a part of one to flush.
                    flush_batch_tick_timeout: u64::MAX,
                    leader_priority: 0,
                },
            };
            engine = settings.build(image.clone()).ok();
        }
        let appended = BTreeSet::new();
        let delivered = image.lock().base();
        let engine = engine?;
        let (round, outgoing) = (0, Vec::new());
        Some(Engine { engine, image, configuration, start, delivered, appended, round, outgoing })
    }

    /// The configuration.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The last index that the engine gave out.
    pub fn delivered(&self) -> Index {
        Index(self.start.0 + self.delivered)
    }

    /// The last index that it knows to be decided.
    pub fn decided(&self) -> Index {
        Index(self.start.0 + self.engine.get_decided_idx() as u64)
    }

    /// The next decided entry with its index.
    pub fn next_decided(&mut self) -> Option<(Index, Entry)> {
        let decided = self.engine.get_decided_idx() as u64;
        let image = self.image.lock();
        // What a peer's prefix left out was applied from a snapshot.
        self.delivered = self.delivered.max(image.base().min(decided));
        if self.delivered >= decided {
            return None;
        }
        let entry = image.entry(self.delivered)?;
        self.delivered += 1;
        if let Entry::Proposal(proposal) = &entry {
            self.appended.remove(&proposal.request);
        }
        Some((Index(self.start.0 + self.delivered), entry))
    }

    /// One heartbeat has passed.
    pub fn tick(&mut self) {
        self.engine.tick();
    }

    /// Who leads, when this member follows or leads in an accepted round.
    pub(super) fn leader(&self) -> Option<Leader> {
        let (pid, is_accepted) = self.engine.get_current_leader()?;
        let member = self.configuration.members.get(usize::try_from(pid).ok()?.checked_sub(1)?)?;
        let round = self.engine.get_promise().n;
        let configuration = self.configuration.id;
        is_accepted.then_some(Leader { configuration, round, node: member.node })
    }

    /// Whether this member leads. It may have been replaced without knowing.
    pub fn is_leader(&self) -> bool {
        self.engine.get_current_leader() == Some((self.engine.get_pid(), true))
    }

    /// Appends a proposal at the leader; whether it stands in the log now, or did already.
    pub fn append(&mut self, proposal: Proposal) -> bool {
        let round = self.engine.get_promise().n;
        if round != self.round {
            self.round = round;
            self.appended.clear();
        }
        if !self.appended.insert(proposal.request) {
            return true;
        }
        let request = proposal.request;
        let is_taken = self.engine.append(Entry::Proposal(proposal)).is_ok();
        if !is_taken {
            self.appended.remove(&request);
        }
        is_taken
    }

    /// Ends this configuration at the leader.
    pub fn end(&mut self, next: &Configuration) {
        let stop = stop_sign(next);
        // Refused when one stands in the log already: then whoever proposed this one tries again.
        let _ = self.engine.reconfigure(stop.next_config, stop.metadata);
    }

    /// A session with a peer began.
    pub fn reconnected(&mut self, node: NodeId) {
        if let Some(pid) = number(&self.configuration, node) {
            self.engine.reconnected(pid);
        }
    }

    /// Takes a message of a peer. One that rests on a state that this node does not have, `held` being what it has
    /// durably, is left out; the index that is needed comes back. It is sent again.
    pub fn receive(
        &mut self,
        from: NodeId,
        mut message: EngineMessage<Entry>,
        held: Index,
    ) -> Result<(), Index> {
        let Some(peer) = number(&self.configuration, from) else { return Ok(()) };
        let me = self.engine.get_pid();
        match &mut message {
            EngineMessage::BLE(message) => (message.from, message.to) = (peer, me),
            EngineMessage::SequencePaxos(message) => {
                (message.from, message.to) = (peer, me);
                let sync = match &mut message.msg {
                    PaxosMsg::Promise(promise) => promise.log_sync.as_mut(),
                    PaxosMsg::AcceptSync(sync) => Some(&mut sync.log_sync),
                    // Not said by us: proposals travel by themselves, and each node compacts when it likes.
                    PaxosMsg::ProposalForward(_)
                    | PaxosMsg::Compaction(_)
                    | PaxosMsg::ForwardStopSign(_) => return Ok(()),
                    _ => None,
                };
                if !self.check(sync, held)? {
                    return Ok(());
                }
            }
        }
        let is_promise = matches!(
            &message,
            EngineMessage::SequencePaxos(message) if matches!(message.msg, PaxosMsg::Promise(_))
        );
        self.engine.handle_incoming(message);
        if is_promise {
            // The leader may have answered with its log. Entries that it appends from here on must go into a message after
            // that: left to itself, the engine adds them to one that waits before it, which the follower
            // takes for an outdated one, and the follower's log lacks them without a sign.
            self.engine.take_outgoing_messages(&mut self.outgoing);
        }
        Ok(())
    }

    /// Whether what a peer's log is founded on is here.
    ///
    /// A snapshot of the last entries only is made one that says where it begins. The engine would join it to
    /// its own beginning, but counts the new decided index already when it takes that: it would
    /// leave out entries, or take such as were never decided.
    fn check(&self, sync: Option<&mut LogSync<Entry>>, held: Index) -> Result<bool, Index> {
        let Some(sync) = sync else { return Ok(true) };
        // To a member that has the entry which ends the configuration, the engine counts it among those that the
        // member keeps, and then once more.
        let end = self.image.lock().end() as usize;
        let is_twice = sync.stopsign.is_some() && sync.suffix.is_empty();
        if is_twice && sync.decided_snapshot.is_none() && sync.sync_idx == end + 1 {
            sync.sync_idx = end;
        }
        let decided = self.engine.get_decided_idx();
        if decided > end {
            // The configuration has ended here: its traffic is of no interest.
            return Ok(false);
        }
        let snapshot = match sync.decided_snapshot.take() {
            Some(SnapshotType::Complete(prefix) | SnapshotType::Delta(prefix)) => prefix,
            None => return Ok(Self::skip_decided(sync, decided)),
        };
        let base = (sync.sync_idx as u64).saturating_sub(snapshot.entries.len() as u64);
        let prefix = Prefix { base: Some(base), entries: snapshot.entries };
        sync.decided_snapshot = Some(SnapshotType::Complete(prefix));
        let needed = Index(self.start.0.saturating_add(base));
        if needed > held.max(self.decided()) { Err(needed) } else { Ok(sync.sync_idx >= decided) }
    }

    /// Leaves out entries that are decided here, which are the same. Whether the rest can be taken.
    fn skip_decided(sync: &mut LogSync<Entry>, decided: usize) -> bool {
        let known = decided.saturating_sub(sync.sync_idx);
        if known > sync.suffix.len() {
            return false;
        }
        sync.suffix.drain(..known);
        sync.sync_idx += known;
        true
    }

    /// Takes out the messages to peers.
    pub fn take_messages(&mut self, mut send: impl FnMut(NodeId, EngineMessage<Entry>)) {
        self.engine.take_outgoing_messages(&mut self.outgoing);
        for message in self.outgoing.drain(..) {
            let place = message.get_receiver() as usize - 1;
            if let Some(member) = self.configuration.members.get(place) {
                send(member.node, message);
            }
        }
    }

    /// Whether messages rest on what is not in the store.
    pub fn is_new(&self) -> bool {
        self.image.lock().is_new()
    }

    /// Whether the engine's log contradicts itself.
    pub fn is_broken(&self) -> bool {
        self.image.lock().is_broken()
    }

    /// Takes out what the store lacks.
    pub fn take_operations(&mut self, operations: &mut Vec<Operation>) {
        self.image.lock().take(operations);
    }

    /// Forgets the entries up to `index`, which are in a snapshot, as far as the engine knows them to be decided.
    pub fn trim(&mut self, index: Index) {
        let through = index.min(self.delivered()).0.saturating_sub(self.start.0);
        // The engine makes a prefix, which the image throws away: only its index is of interest.
        if self.engine.snapshot(Some(through as usize), true).is_ok() {
            self.image.lock().trim(through);
        }
    }
}

/// The number of a member, from 1.
fn number(configuration: &Configuration, node: NodeId) -> Option<u64> {
    let place = configuration.members.iter().position(|member| member.node == node)?;
    Some(place as u64 + 1)
}
