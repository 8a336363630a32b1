//! What members keep durable: batches that become durable whole.

pub mod batch;

pub use batch::{Batch, Identity, Operation, Restored, Vote};
