//! What the log keeps durable, and how it changes.

use std::sync::Arc;

use crate::base::Uuid;
use omnipaxos::ballot_leader_election::Ballot;
use serde::{Deserialize, Serialize};

use super::super::entry::{Configuration, Entry, Opening};
use super::super::ids::{BatchId, Index, NodeId};

/// What this node promised and accepted as a member of one configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    /// The configuration.
    pub configuration: Configuration,
    /// The entry that began it; its own entries come after.
    pub start: Index,
    /// Entries up to this one are decided and gone into a snapshot; the log of this configuration goes on after.
    pub base: Index,
    /// The highest round that was promised.
    pub promise: Ballot,
    /// The round in which the last entries were accepted.
    pub accepted: Ballot,
    /// Known to be decided. May lag: it is learned again from any quorum.
    pub decided: Index,
    /// The configuration that follows, when the entry for it was accepted.
    pub stop: Option<Configuration>,
}

/// One change of what is stored.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Replaces the vote.
    Vote(Vote),
    /// Removes all entries from `first` on, and puts these there.
    Entries {
        /// The index of the first of `entries`.
        first: Index,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// Removes the entries up to this one.
    Trim(Index),
    /// Replaces the snapshot.
    Snapshot(Index, Arc<[u8]>),
    /// What is remembered of another node's store.
    Peer(NodeId, Opening),
}

/// Operations that become durable together or not at all, in this order. Batches are applied in the order of
/// their ids; the next one is given out only when the one before was answered.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Goes back in [`Event::Stored`](super::super::Event::Stored).
    pub id: BatchId,
    /// The operations.
    pub operations: Vec<Operation>,
}

/// Who a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Drawn when the store was made.
    pub store: Uuid,
    /// The node that it was made for.
    pub node: NodeId,
    /// How often it was opened, this time included.
    pub opened: u64,
}

/// What a store held when it was opened.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Who it is, with this opening counted.
    pub identity: Identity,
    /// The vote, when the node is or was a member.
    pub vote: Option<Vote>,
    /// The last snapshot.
    pub snapshot: Option<(Index, Arc<[u8]>)>,
    /// The entries in order, without gaps, with the index of the first.
    pub first: Index,
    /// The entries.
    pub entries: Vec<Entry>,
    /// What is remembered of other nodes' stores, in order of the nodes.
    pub peers: Vec<(NodeId, Opening)>,
}
