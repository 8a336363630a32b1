//! What nodes say to each other about the log. Opaque to all but this module's siblings.

use std::sync::Arc;

use omnipaxos::messages::Message as EngineMessage;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Member, Opening, Proposal, shared_bytes};
use super::ids::{Index, NodeId};

/// A message from one node's log to another's. The transport may lose, repeat and reorder them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message(pub(super) Body);

impl Message {
    /// About how many bytes it takes on the wire.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Body::Entries { entries, .. } => 32 + entries.iter().map(Entry::bytes).sum::<usize>(),
            Body::Chunk { bytes, .. } => 32 + bytes.len(),
            _ => 64,
        }
    }
}

/// A run of messages from one node to another that arrives in order and without loss, or ends. Ordered by
/// the sender's opening first, so that none of an earlier start comes after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Session {
    /// The sender's open count.
    pub opened: u64,
    /// Counts the sessions since.
    pub number: u64,
}

/// Who leads, and since when: the greatest is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Leader {
    pub configuration: u32,
    pub round: u32,
    pub node: NodeId,
}

/// What a node tells of itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Status {
    pub applied: Index,
    pub leader: Option<Leader>,
    pub member: bool,
    /// An answer is wanted.
    pub ask: bool,
}

/// A piece of the engine's traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Frame {
    /// In order: the place in the session, from 0.
    Ordered(u64, Box<EngineMessage<Entry>>),
    /// Heartbeats may come as they like; they say how many ordered ones were sent before.
    Loose(u64, Box<EngineMessage<Entry>>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Body {
    /// Between members of one configuration.
    Engine {
        configuration: u32,
        session: Session,
        frame: Frame,
    },
    /// Something of this session is missing: begin another.
    Reset {
        session: Session,
    },
    /// May this opening vote?
    Open {
        opening: Opening,
    },
    /// It may, and its count is remembered durably.
    Welcome {
        opening: Opening,
    },
    /// It may not.
    Refused {
        opening: Opening,
        known: Opening,
    },
    /// On its way to the leader.
    Propose {
        proposal: Proposal,
        hops: u8,
    },
    /// The same, for the members that follow configuration `after`.
    Reconfigure {
        after: u32,
        members: Vec<Member>,
        hops: u8,
    },
    Status(Status),
    /// Send entries from after `applied` on.
    Subscribe {
        applied: Index,
    },
    /// Send no more.
    Unsubscribe,
    /// Decided entries.
    Entries {
        first: Index,
        entries: Vec<Entry>,
    },
    /// The entries asked for are gone: take this snapshot.
    Offer {
        index: Index,
        total: u64,
    },
    /// A piece of a snapshot is wanted.
    Pull {
        index: Index,
        offset: u64,
        length: u32,
    },
    /// A piece of a snapshot.
    Chunk {
        index: Index,
        offset: u64,
        total: u64,
        #[serde(with = "shared_bytes")]
        bytes: Arc<[u8]>,
    },
}
