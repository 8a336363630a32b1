//! Where a node gets decided entries from, when not from its own engine.

use super::ids::{Index, NodeId};
use crate::base::Time;

/// The source, and how it goes.
#[derive(Default)]
pub struct Source {
    /// The node that was subscribed to.
    pub node: Option<NodeId>,
    /// When the last entry was applied.
    pub progressed: Time,
    /// Entries were applied since the last push.
    pub is_grown: bool,
    /// Somebody had more at the last look, and nothing was applied since.
    pub lagging: Option<Index>,
    /// When the source was last asked.
    pub asked: Time,
    /// The last index that the source was told of.
    pub told: Index,
    /// A snapshot on its way here.
    pub fetch: Option<Fetch>,
}

/// A snapshot on its way here, in order.
pub struct Fetch {
    /// Who sends it.
    pub from: NodeId,
    /// Its index.
    pub index: Index,
    /// Its length in bytes.
    pub total: u64,
    /// What is here.
    pub bytes: Vec<u8>,
    /// Up to where it was asked for.
    pub requested: u64,
    /// When the last piece came.
    pub progressed: Time,
}
