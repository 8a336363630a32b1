//! The metadata quorum in a small simulated network, and its store under power loss.

mod growth;
mod network;
mod partitions;
