//! What happens to a log, and what it wants done.

use std::fmt;
use std::sync::Arc;

use super::entry::Configuration;
use super::ids::{BatchId, Index, NodeId, RequestId};
use super::message::Message;
use super::store::Batch;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The moment of [`Log::next_timer`](super::Log::next_timer) has come. Harmless when it has not.
    Timer,
    /// A message arrived; the transport vouches for who sent it.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// This node and that one can talk, both ways, by whatever route.
    LinkUp(NodeId),
    /// They cannot any more.
    LinkDown(NodeId),
    /// The batch is durable.
    Stored(BatchId),
    /// The store failed; nothing is known of the batch in hand.
    StoreFailed,
    /// The answer to [`Effect::TakeSnapshot`].
    SnapshotTaken {
        /// The index that was asked for.
        index: Index,
        /// The application's whole state after it had applied that index.
        state: Arc<[u8]>,
    },
}

/// Something to be done, in the order given.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send a message. It may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Make a batch durable and answer with [`Event::Stored`] or [`Event::StoreFailed`].
    Store(Batch),
    /// Apply a command. Each request comes once; indexes rise.
    Apply {
        /// Its place in the log.
        index: Index,
        /// Its name.
        request: RequestId,
        /// The bytes that were proposed.
        command: Arc<[u8]>,
    },
    /// Replace the whole applied state by this one, of a later index.
    Install {
        /// The index that the state is of.
        index: Index,
        /// What an application gave in [`Event::SnapshotTaken`]; empty before the first command.
        state: Arc<[u8]>,
    },
    /// Give back the state as it is at this point between the effects.
    TakeSnapshot {
        /// The index that it is of.
        index: Index,
    },
    /// From this entry on these members vote.
    MembersChanged {
        /// The entry.
        index: Index,
        /// The members.
        configuration: Configuration,
    },
    /// This node is named as a member but must not vote: its store is not the one that was named, or is an old
    /// image of it. Make a new store and have the member replaced.
    Amnesiac,
    /// The log is dead; the node must stop.
    Failed(Failure),
}

/// Why a log died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The store did not take a batch.
    Store,
    /// What the store held does not fit together.
    Corrupt,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Store => "the store of the metadata quorum failed",
            Failure::Corrupt => "the store of the metadata quorum contradicts itself",
        })
    }
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many wait already: try again later.
    Busy,
    /// The log is dead.
    Dead,
    /// These members cannot be a configuration: none, too many, or one twice.
    Members,
}
