//! The names of things in the mesh. Numbers are given out by the mesh log and never used twice.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::consensus::{Index, NodeId};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($raw:ty) $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $raw);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

ids! {
    /// A local block device that is part of the mesh.
    DriveId(u32) "d";
    /// What a client attaches.
    VolumeId(u32) "v";
    /// A set of replicas that hold the same bytes.
    GroupId(u32) "g";
    /// One copy of one group, on one drive.
    ReplicaId(u32) "r";
    /// Counts the changes of a group's replica states: who may write, who may be read. Starts at 1.
    Epoch(u64) "e";
    /// One attachment of a volume by a node: the index of the log entry that made it.
    Generation(u64) "a";
    /// One start of a daemon, or one opening of a drive: the index of the log entry that announced it.
    Incarnation(u64) "i";
    /// Number of a session between an attachment and a replica; a higher one ends all lower ones.
    SessionNumber(u64) "s";
    /// Place of a request within its session, from 1 without gaps.
    Sequence(u64) "#";
    /// Number of a write of one attachment to one group, from 1 without gaps.
    WriteNumber(u64) "w";
}

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl Incarnation {
    /// The entry that announced it.
    pub fn index(self) -> Index {
        Index(self.0)
    }
}

impl Generation {
    /// The entry that made the attachment.
    pub fn index(self) -> Index {
        Index(self.0)
    }
}
