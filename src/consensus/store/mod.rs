//! What members keep durable: batches that become durable whole.

pub mod batch;
mod memory;
mod redb;

pub use batch::{Batch, Identity, Operation, Restored, Vote};
pub use memory::MemoryStore;
pub use redb::RedbStore;
