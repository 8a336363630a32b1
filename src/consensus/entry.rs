//! What stands in the mesh log.

use std::sync::Arc;

use crate::base::Uuid;
use omnipaxos::storage::{Entry as EngineEntry, Snapshot as EngineSnapshot};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ids::{Index, NodeId, RequestId};

/// Bytes that many hold, as serde sees them.
pub mod shared_bytes {
    use super::{Arc, Deserializer, Serializer};
    use serde::de::{Error, SeqAccess, Visitor};
    use std::fmt;

    /// As a byte string.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &Arc<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    /// From a byte string.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Arc<[u8]>, D::Error> {
        struct Bytes;
        impl<'a> Visitor<'a> for Bytes {
            type Value = Arc<[u8]>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Arc<[u8]>, E> {
                Ok(bytes.into())
            }
            fn visit_seq<A: SeqAccess<'a>>(self, mut from: A) -> Result<Arc<[u8]>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = from.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes.into())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

/// A member of the quorum: a node, bound to the store that its votes rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The UUID of its store. A node with another store is not this member.
    pub store: Uuid,
}

/// Who votes, from one entry of the log on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Counts the configurations of the mesh, from 1.
    pub id: u32,
    /// In order of their nodes; none twice.
    pub members: Vec<Member>,
}

impl Configuration {
    /// Most members that a configuration may have.
    pub const MEMBERS_MAX: usize = 7;

    /// A configuration whose members are in order.
    ///
    /// # Errors
    /// Nothing comes back when there are none, more than [`Configuration::MEMBERS_MAX`], or one twice.
    pub fn new(id: u32, mut members: Vec<Member>) -> Option<Configuration> {
        members.sort();
        let twice = members.windows(2).any(|pair| pair[0].node == pair[1].node);
        let fits = (1..=Self::MEMBERS_MAX).contains(&members.len());
        (fits && !twice && id > 0).then_some(Configuration { id, members })
    }

    /// The member that a node is.
    pub fn member(&self, node: NodeId) -> Option<Member> {
        self.members.iter().copied().find(|member| member.node == node)
    }

    /// Whether a node is a member, with whichever store.
    pub fn names(&self, node: NodeId) -> bool {
        self.member(node).is_some()
    }
}

/// One opening of a store: what tells a store from an older image of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The UUID of the store.
    pub store: Uuid,
    /// How often it was opened, this time included; durable before anything is sent.
    pub count: u64,
    /// The random number of this start: two copies of one image have the same count, but not this.
    pub session: u64,
}

impl Opening {
    /// Whether a store that shows this opening cannot be the one that was last seen as `known`, or went on from
    /// an older image of it.
    pub fn contradicts(&self, known: &Opening) -> bool {
        let rolled_back = self.count < known.count;
        let twin = self.count == known.count && self.session != known.session;
        self.store == known.store && (rolled_back || twin)
    }
}

/// What a proposal carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Payload {
    /// A command of the application.
    Command(#[serde(with = "shared_bytes")] Arc<[u8]>),
    /// A member opened its store.
    Opened(NodeId, Opening),
}

/// A proposal on its way and in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Its name.
    pub request: RequestId,
    /// The index that the proposer had applied when it sent this copy.
    pub since: Index,
    /// What it carries.
    pub payload: Payload,
}

/// An entry of the mesh log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// A proposal.
    Proposal(Proposal),
    /// From here on others vote.
    Configuration(Configuration),
}

impl Entry {
    /// About how many bytes it takes in memory and in the store.
    pub fn bytes(&self) -> usize {
        match self {
            Entry::Proposal(Proposal { payload: Payload::Command(command), .. }) => {
                64 + command.len()
            }
            Entry::Proposal(_) | Entry::Configuration(_) => 256,
        }
    }
}

/// The decided beginning of one configuration's log, without loss: what came before `base` is named by its
/// length only (whoever lacks it gets it through the feed), the rest is there entry by entry.
///
/// This is what the engine takes for a snapshot. Making one of entries, and joining two, only puts entries
/// next to each other, so that it does not matter when and where the engine does so.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Prefix {
    /// How many entries of this configuration came before the first of `entries`, if that is known: one made of
    /// a run of entries does not know where it starts.
    pub base: Option<u64>,
    /// The entries after these.
    pub entries: Vec<Entry>,
}

impl EngineEntry for Entry {
    type Snapshot = Prefix;
}

impl EngineSnapshot<Entry> for Prefix {
    fn create(entries: &[Entry]) -> Prefix {
        Prefix { base: None, entries: entries.to_vec() }
    }

    fn merge(&mut self, delta: Prefix) {
        match delta.base {
            Some(_) => *self = delta,
            None => self.entries.extend(delta.entries),
        }
    }

    fn use_snapshots() -> bool {
        true
    }
}
