//! The metadata quorum in a small simulated network, and its store under power loss.

mod chaos;
mod crash;
mod growth;
mod memory;
mod mutations;
mod network;
mod partitions;
