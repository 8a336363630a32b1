//! The store of a node's log: what is durable, and the batches that are on their way there.

use std::collections::VecDeque;

use weft::base::Uuid;
use weft::consensus::store::{Batch, MemoryStore, Restored};
use weft::consensus::{BatchId, NodeId};

use crate::random::Random;

/// A store.
pub struct Store {
    image: MemoryStore,
    pending: VecDeque<Batch>,
    /// The next batch fails.
    pub failing: bool,
}

impl Store {
    /// An empty store.
    pub fn new(node: NodeId, store: Uuid) -> Store {
        let image = MemoryStore::new(node, store);
        Store { image, pending: VecDeque::new(), failing: false }
    }

    /// Opens it: another opening is counted, durably.
    pub fn open(&mut self) -> Restored {
        self.failing = false;
        self.image.open()
    }

    /// Takes a batch. It is durable when [`Store::end`] says so.
    pub fn begin(&mut self, batch: Batch) {
        self.pending.push_back(batch);
    }

    /// The oldest batch becomes durable, or fails.
    pub fn end(&mut self) -> Option<Result<BatchId, ()>> {
        let batch = self.pending.pop_front()?;
        if self.failing {
            return Some(Err(()));
        }
        self.image.apply(&batch);
        Some(Ok(batch.id))
    }

    /// The daemon dies: what was on its way is durable or not, in order and batch by batch.
    pub fn crash(&mut self, random: &mut Random) {
        let kept = random.below(self.pending.len() as u64 + 1);
        self.failing = false;
        for _ in 0..kept {
            self.end();
        }
        self.pending.clear();
    }

    /// What is durable at present, for [`Store::restore`].
    pub fn image(&self) -> MemoryStore {
        self.image.clone()
    }

    /// Falls back to an old image.
    pub fn restore(&mut self, image: MemoryStore) {
        self.pending.clear();
        self.image = image;
    }
}
