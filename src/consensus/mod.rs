//! The metadata quorum: one replicated log, decided by the members, that reaches every node.

mod ids;

pub use ids::{Index, NodeId};
