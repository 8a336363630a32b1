//! A store in memory, for tests and the simulator. A clone is an image of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::entry::{Entry, Opening};
use super::super::ids::{Index, NodeId};
use super::batch::{Batch, Identity, Operation, Restored, Vote};
use crate::base::Uuid;

/// What a store holds.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    identity: Identity,
    vote: Option<Vote>,
    snapshot: Option<(Index, Arc<[u8]>)>,
    log: BTreeMap<Index, Entry>,
    peers: BTreeMap<NodeId, Opening>,
}

impl MemoryStore {
    /// A fresh store.
    pub fn new(node: NodeId, store: Uuid) -> MemoryStore {
        MemoryStore {
            identity: Identity { store, node, opened: 0 },
            vote: None,
            snapshot: None,
            log: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Counts an opening and gives back what is here.
    pub fn open(&mut self) -> Restored {
        self.identity.opened += 1;
        self.restored()
    }

    /// What is here.
    pub fn restored(&self) -> Restored {
        Restored {
            identity: self.identity,
            vote: self.vote.clone(),
            snapshot: self.snapshot.clone(),
            first: self.log.keys().next().copied().unwrap_or(Index(1)),
            entries: self.log.values().cloned().collect(),
            peers: self.peers.iter().map(|(node, opening)| (*node, *opening)).collect(),
        }
    }

    /// Makes a batch durable.
    pub fn apply(&mut self, batch: &Batch) {
        for operation in &batch.operations {
            match operation {
                Operation::Vote(vote) => self.vote = Some(vote.clone()),
                Operation::Entries { first, entries } => {
                    self.log.split_off(first);
                    self.log.extend((first.0..).map(Index).zip(entries.iter().cloned()));
                }
                Operation::Trim(index) => self.log = self.log.split_off(&index.next()),
                Operation::Snapshot(index, bytes) => {
                    self.snapshot = Some((*index, Arc::clone(bytes)));
                }
                Operation::Peer(node, opening) => {
                    self.peers.insert(*node, *opening);
                }
            }
        }
    }

    /// How many entries are here.
    pub fn entries(&self) -> usize {
        self.log.len()
    }
}
