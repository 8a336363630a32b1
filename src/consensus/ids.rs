//! The numbers that name things of the mesh log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A node of the mesh. The mesh gives them out and never gives one out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

/// The place of an entry in the mesh log, from 1; 0 is before the first. It runs on over all
/// configurations of the quorum.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Index(pub u64);

impl Index {
    /// Before the first entry.
    pub const ZERO: Index = Index(0);

    /// The one after this.
    #[inline]
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }
}

/// Names one proposal, so that it is applied once however often it arrives in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The random number of the proposer's start.
    pub origin: u64,
    /// Counts the proposals of that start, from 1.
    pub sequence: u64,
}

/// Counts the batches that one start of a node gave to its store, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
