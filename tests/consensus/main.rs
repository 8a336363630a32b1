//! The metadata quorum in a small simulated network, and its store under power loss.

mod chaos;
mod growth;
mod memory;
mod network;
mod partitions;
