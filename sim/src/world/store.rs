//! The store of a node's log: what is durable, and the batches that are on their way there.

use std::collections::VecDeque;

use weft::base::Uuid;
use weft::consensus::store::{Identity, Operation, Restored};
use weft::consensus::{BatchId, Index, NodeId};
use weft::consensus::store::Batch;

use crate::random::Random;

/// What is durable.
#[derive(Clone)]
pub struct Image(Restored);

impl Image {
    fn new(node: NodeId, store: Uuid) -> Image {
        Image(Restored {
            identity: Identity { store, node, opened: 0 },
            vote: None,
            snapshot: None,
            first: Index(1),
            entries: Vec::new(),
            peers: Vec::new(),
        })
    }

    fn apply(&mut self, operation: Operation) {
        let held = &mut self.0;
        match operation {
            Operation::Vote(vote) => held.vote = Some(vote),
            Operation::Entries { first, entries } => {
                if held.entries.is_empty() {
                    held.first = first;
                }
                held.entries.truncate(first.0.saturating_sub(held.first.0) as usize);
                held.entries.extend(entries);
            }
            Operation::Trim(through) => {
                let gone = (through.0 + 1).saturating_sub(held.first.0);
                held.entries.drain(..held.entries.len().min(gone as usize));
                held.first = Index(held.first.0.max(through.0 + 1));
            }
            Operation::Snapshot(index, state) => held.snapshot = Some((index, state)),
            Operation::Peer(node, opening) => {
                match held.peers.binary_search_by_key(&node, |(known, _)| *known) {
                    Ok(at) => held.peers[at].1 = opening,
                    Err(at) => held.peers.insert(at, (node, opening)),
                }
            }
        }
    }
}

/// A store.
pub struct Store {
    image: Image,
    pending: VecDeque<Batch>,
    /// The next batch fails.
    pub failing: bool,
}

impl Store {
    /// An empty store.
    pub fn new(node: NodeId, store: Uuid) -> Store {
        Store { image: Image::new(node, store), pending: VecDeque::new(), failing: false }
    }

    /// Opens it: another opening is counted, durably.
    pub fn open(&mut self) -> Restored {
        self.image.0.identity.opened += 1;
        self.failing = false;
        self.image.0.clone()
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
        batch.operations.into_iter().for_each(|operation| self.image.apply(operation));
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
    pub fn image(&self) -> Image {
        self.image.clone()
    }

    /// Falls back to an old image.
    pub fn restore(&mut self, image: Image) {
        self.pending.clear();
        self.image = image;
    }
}
