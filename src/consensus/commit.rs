//! Group commit: what is to be stored, and the messages that wait for it.
//!
//! One batch is under way at a time; what comes up meanwhile is the next. A message is released when the batch that
//! holds the last change before it is durable, and messages leave in the order in which they came.

use std::collections::VecDeque;

use super::entry::Entry;
use super::event::Effect;
use super::ids::{BatchId, Index, NodeId};
use super::message::{Body, Message};
use super::store::{Batch, Operation};

/// The batches of one node.
#[derive(Default)]
pub struct Commit {
    given: u64,
    in_flight: Option<BatchId>,
    staged: Vec<Operation>,
    held: VecDeque<(BatchId, NodeId, Message)>,
    /// Nothing waits: a mutation.
    pub is_hasty: bool,
}

impl Commit {
    /// The batch that what is staged now will be in.
    pub fn upcoming(&self) -> BatchId {
        BatchId(self.given + 1)
    }

    /// Whether a batch may be given out.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Whether anything is staged here.
    pub fn is_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Stages an operation.
    pub fn stage(&mut self, operation: Operation) {
        self.staged.push(operation);
    }

    /// Where operations are staged.
    pub fn staged(&mut self) -> &mut Vec<Operation> {
        &mut self.staged
    }

    /// Stages an entry that follows the last one.
    pub fn stage_entry(&mut self, index: Index, entry: Entry) {
        if let Some(Operation::Entries { first, entries }) = self.staged.last_mut()
            && first.0 + entries.len() as u64 == index.0
        {
            entries.push(entry);
            return;
        }
        self.staged.push(Operation::Entries { first: index, entries: vec![entry] });
    }

    /// Sends a message when all before it is durable. `is_new` says that there are changes which are neither staged here nor
    /// in a batch.
    pub(super) fn send(&mut self, is_new: bool, to: NodeId, body: Body, effects: &mut Vec<Effect>) {
        let message = Message(body);
        let rests_on =
            if is_new || self.is_staged() { Some(self.upcoming()) } else { self.in_flight };
        match rests_on {
            Some(batch) if !self.is_hasty => self.held.push_back((batch, to, message)),
            _ => effects.push(Effect::Send { to, message }),
        }
    }

    /// Gives out what is staged as a batch.
    pub fn give(&mut self, effects: &mut Vec<Effect>) {
        self.given += 1;
        let id = BatchId(self.given);
        self.in_flight = Some(id);
        let operations = std::mem::take(&mut self.staged);
        effects.push(Effect::Store(Batch { id, operations }));
    }

    /// A batch is durable: its messages leave. Whether it was the one under way.
    pub fn stored(&mut self, id: BatchId, effects: &mut Vec<Effect>) -> bool {
        if self.in_flight != Some(id) {
            return false;
        }
        self.in_flight = None;
        while self.held.front().is_some_and(|(batch, ..)| *batch <= id) {
            if let Some((_, to, message)) = self.held.pop_front() {
                effects.push(Effect::Send { to, message });
            }
        }
        true
    }
}
