//! What a node is to the quorum.

use std::collections::{BTreeSet, VecDeque};

use super::engine::Engine;
use super::entry::{Configuration, Entry};
use super::ids::{BatchId, Index, NodeId, RequestId};
use crate::base::Time;

/// What a node is to the quorum.
pub enum Role {
    /// It applies what others decide.
    Observer,
    /// It is named as a member; what came before its configuration is becoming durable here.
    Joining(Joining),
    /// It is the only member.
    Solo(Solo),
    /// It is one of several members.
    Quorum(Box<Quorum>),
    /// Its store is an old image of itself: it must not vote again.
    Amnesiac,
    /// The store failed.
    Dead,
}

/// A member that does not vote yet.
pub struct Joining {
    /// The configuration that names it.
    pub configuration: Configuration,
    /// The entry that began it.
    pub start: Index,
    /// The batch with which it can vote; nothing while that waits for a snapshot.
    pub batch: Option<BatchId>,
}

/// The only member. It decides what is durable.
pub struct Solo {
    /// The configuration.
    pub configuration: Configuration,
    /// The last entry of its log.
    pub last: Index,
    /// The entries that are not durable yet, with the batch that each is in.
    pub appended: VecDeque<(BatchId, Index, Entry)>,
    /// Their requests.
    pub requests: BTreeSet<RequestId>,
    /// The last of them ends the configuration.
    pub is_ending: bool,
}

/// One of several members.
pub struct Quorum {
    /// The engine. It does nothing before the member is admitted.
    pub engine: Engine,
    /// Who must say still that this store is not an old image.
    pub admission: Option<Admission>,
}

impl Solo {
    /// The only member of a configuration, whose log ends with `last`.
    pub fn new(configuration: Configuration, last: Index) -> Solo {
        let (appended, requests) = (VecDeque::new(), BTreeSet::new());
        Solo { configuration, last, appended, requests, is_ending: false }
    }
}

impl Quorum {
    /// Whether it votes.
    pub fn is_admitted(&self) -> bool {
        self.admission.is_none()
    }
}

/// A member that opened its store asks the others whether they remember a later opening.
///
/// More than half of the others must answer that they do not, and remember this one from then on: of two such sets
/// one member is in both, without counting the one that asks, whose memory is in doubt. When they cannot be
/// reached, as many as a quorum needs are enough after a while: a member that was rolled back while one that remembers
/// it is away are two faults at once, which three members do not bear anyway.
pub struct Admission {
    /// Who answered.
    pub welcomed: BTreeSet<NodeId>,
    /// After this a quorum is enough.
    pub until: Time,
}

impl Admission {
    /// Whether enough have answered, in a configuration of so many members.
    pub fn is_enough(&self, now: Time, members: usize) -> bool {
        let others = members - 1;
        let quorum = members / 2;
        let needed = if now >= self.until { quorum } else { others / 2 + 1 };
        self.welcomed.len() >= needed
    }
}
