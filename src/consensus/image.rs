//! The engine's storage: an image in memory, which knows what of it is not in the store yet.
//!
//! The engine writes to it as if each write were durable. Whoever owns the engine takes the changes out as one batch, and
//! holds back the engine's messages until the batch is durable: to the rest of the world that is the same as
//! a disk that is slow. Indexes here count the entries of one configuration from 0, as the engine does.
//!
//! Nothing here ever fails towards the engine, which would panic; what cannot be is noted in `broken`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::{StopSign, Storage, StorageOp, StorageResult};

use super::entry::{Configuration, Entry, Prefix};
use super::ids::Index;
use super::store::{Operation, Vote};

/// The image of one configuration's log.
pub struct Image {
    configuration: Configuration,
    start: Index,
    promise: Ballot,
    accepted: Ballot,
    decided: u64,
    stop: Option<StopSign>,
    /// Entries before this one are only in a snapshot.
    base: u64,
    entries: Vec<Entry>,
    /// What the engine believes to be in its snapshot. Not ours: see [`Prefix`].
    compacted: u64,
    /// The vote differs from the store's.
    is_vote_new: bool,
    /// Entries from here on differ from the store's.
    new_from: Option<u64>,
    /// Entries before `base` are still in the store.
    is_trimmed: bool,
    broken: bool,
}

impl Image {
    /// An image of what is stored: `entries` begin after the vote's base.
    pub fn new(vote: Vote, entries: Vec<Entry>) -> Image {
        let base = vote.base.0.saturating_sub(vote.start.0);
        let end = base + entries.len() as u64;
        let decided = vote.decided.0.saturating_sub(vote.start.0).clamp(base, end);
        Image {
            configuration: vote.configuration,
            start: vote.start,
            promise: vote.promise,
            accepted: vote.accepted,
            decided,
            stop: vote.stop.as_ref().map(stop_sign),
            base,
            entries,
            compacted: base,
            is_vote_new: false,
            new_from: None,
            is_trimmed: false,
            broken: false,
        }
    }

    /// Whether the engine asked for what cannot be.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether anything that messages rest on is not in the store. The decided index is not: whoever forgets it learns it
    /// again from any quorum, as an entry that was decided is in the log of one member of each quorum at least. So it goes
    /// along with the next batch.
    pub fn is_new(&self) -> bool {
        self.is_vote_new || self.new_from.is_some()
    }

    fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// The entry at a place, which may be the one that ends the configuration.
    pub fn entry(&self, at: u64) -> Option<Entry> {
        if at == self.end() {
            return self.stop.as_ref().and_then(configuration_of).map(Entry::Configuration);
        }
        self.entries.get(usize::try_from(at.checked_sub(self.base)?).ok()?).cloned()
    }

    /// Entries before this one are only in a snapshot.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Takes out what the store lacks.
    pub fn take(&mut self, operations: &mut Vec<Operation>) {
        if std::mem::take(&mut self.is_trimmed) {
            operations.push(Operation::Trim(Index(self.start.0 + self.base)));
        }
        if let Some(from) = self.new_from.take() {
            let from = from.max(self.base);
            let entries = self.entries[(from - self.base) as usize..].to_vec();
            let first = Index(self.start.0 + from + 1);
            operations.push(Operation::Entries { first, entries });
        }
        self.is_vote_new = false;
        operations.push(Operation::Vote(Vote {
            configuration: self.configuration.clone(),
            start: self.start,
            base: Index(self.start.0 + self.base),
            promise: self.promise,
            accepted: self.accepted,
            decided: Index(self.start.0 + self.decided),
            stop: self.stop.as_ref().and_then(configuration_of),
        }));
    }

    /// Forgets entries before `base`, which are decided and in a durable snapshot, or in one of the same batch.
    pub fn trim(&mut self, base: u64) {
        let base = base.min(self.compacted).min(self.end());
        if base > self.base {
            self.entries.drain(..(base - self.base) as usize);
            self.base = base;
            self.is_trimmed = true;
        }
    }

    fn replace(&mut self, from: u64, entries: impl IntoIterator<Item = Entry>) {
        if from < self.base || from > self.end() {
            self.broken = true;
            return;
        }
        self.entries.truncate((from - self.base) as usize);
        self.entries.extend(entries);
        self.new_from = Some(self.new_from.unwrap_or(u64::MAX).min(from));
    }

    /// Takes over a decided beginning, of which the first `decided` entries are here already.
    fn take_over(&mut self, prefix: Prefix, decided: u64) {
        let base = prefix.base.unwrap_or(0);
        if base > decided {
            // The state before `base` is here as a snapshot: messages that need one are let in only then.
            self.base = base;
            self.entries.clear();
            self.is_trimmed = true;
            self.replace(base, prefix.entries);
        } else if base + prefix.entries.len() as u64 > decided {
            self.replace(decided, prefix.entries.into_iter().skip((decided - base) as usize));
        }
    }

    fn slice(&self, from: u64, to: u64) -> &[Entry] {
        if from < self.base || to > self.end() || from > to {
            return &[];
        }
        &self.entries[(from - self.base) as usize..(to - self.base) as usize]
    }

    fn perform(&mut self, operation: StorageOp<Entry>, decided: u64) {
        match operation {
            StorageOp::AppendEntry(entry) => self.replace(self.end(), [entry]),
            StorageOp::AppendEntries(entries) => self.replace(self.end(), entries),
            StorageOp::AppendOnPrefix(from, entries) => self.replace(from as u64, entries),
            StorageOp::SetPromise(promise) => {
                self.is_vote_new |= promise != self.promise;
                self.promise = promise;
            }
            StorageOp::SetDecidedIndex(index) => self.decided = index as u64,
            StorageOp::SetAcceptedRound(round) => {
                self.is_vote_new |= round != self.accepted;
                self.accepted = round;
            }
            StorageOp::SetCompactedIdx(index) => self.compacted = index as u64,
            // Entries go when they are in a snapshot of the application.
            StorageOp::Trim(_) | StorageOp::SetSnapshot(None) => {}
            StorageOp::SetSnapshot(Some(prefix)) => self.take_over(prefix, decided),
            StorageOp::SetStopsign(stop) => {
                self.is_vote_new |= stop != self.stop;
                self.stop = stop;
            }
        }
    }
}

/// A configuration as what ends the one before. The engine does not take one of a single node, so it is told of
/// two, and the truth stands in the metadata.
pub fn stop_sign(configuration: &Configuration) -> StopSign {
    let next_config = omnipaxos::ClusterConfig {
        configuration_id: configuration.id,
        nodes: vec![1, 2],
        flexible_quorum: None,
    };
    StopSign::with(next_config, postcard::to_stdvec(configuration).ok())
}

fn configuration_of(stop: &StopSign) -> Option<Configuration> {
    postcard::from_bytes(stop.metadata.as_deref()?).ok()
}

/// The image, as the engine and its owner hold it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Image>>);

impl Shared {
    /// Shares an image.
    pub fn new(image: Image) -> Shared {
        Shared(Arc::new(Mutex::new(image)))
    }

    /// The image. Only one thread uses it.
    pub fn lock(&self) -> MutexGuard<'_, Image> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform(&self, operation: StorageOp<Entry>) -> StorageResult<()> {
        let mut image = self.lock();
        let decided = image.decided;
        image.perform(operation, decided);
        Ok(())
    }
}

impl Storage<Entry> for Shared {
    fn write_atomically(&mut self, operations: Vec<StorageOp<Entry>>) -> StorageResult<()> {
        let mut image = self.lock();
        // What was decided before: the new index may come ahead of the entries.
        let decided = image.decided;
        operations.into_iter().for_each(|operation| image.perform(operation, decided));
        Ok(())
    }

    fn append_entry(&mut self, entry: Entry) -> StorageResult<()> {
        self.perform(StorageOp::AppendEntry(entry))
    }

    fn append_entries(&mut self, entries: Vec<Entry>) -> StorageResult<()> {
        if entries.is_empty() { Ok(()) } else { self.perform(StorageOp::AppendEntries(entries)) }
    }

    fn append_on_prefix(&mut self, from: usize, entries: Vec<Entry>) -> StorageResult<()> {
        self.perform(StorageOp::AppendOnPrefix(from, entries))
    }

    fn set_promise(&mut self, promise: Ballot) -> StorageResult<()> {
        self.perform(StorageOp::SetPromise(promise))
    }

    fn set_decided_idx(&mut self, index: usize) -> StorageResult<()> {
        self.perform(StorageOp::SetDecidedIndex(index))
    }

    fn get_decided_idx(&self) -> StorageResult<usize> {
        Ok(self.lock().decided as usize)
    }

    fn set_accepted_round(&mut self, round: Ballot) -> StorageResult<()> {
        self.perform(StorageOp::SetAcceptedRound(round))
    }

    fn get_accepted_round(&self) -> StorageResult<Option<Ballot>> {
        Ok(Some(self.lock().accepted))
    }

    fn get_entries(&self, from: usize, to: usize) -> StorageResult<Vec<Entry>> {
        Ok(self.lock().slice(from as u64, to as u64).to_vec())
    }

    fn get_log_len(&self) -> StorageResult<usize> {
        let image = self.lock();
        Ok((image.end() - image.compacted) as usize)
    }

    fn get_suffix(&self, from: usize) -> StorageResult<Vec<Entry>> {
        let image = self.lock();
        Ok(image.slice(from as u64, image.end()).to_vec())
    }

    fn get_promise(&self) -> StorageResult<Option<Ballot>> {
        let promise = self.lock().promise;
        // A promise makes the engine ask its peers for what it missed.
        Ok((promise != Ballot::default()).then_some(promise))
    }

    fn set_stopsign(&mut self, stop: Option<StopSign>) -> StorageResult<()> {
        self.perform(StorageOp::SetStopsign(stop))
    }

    fn get_stopsign(&self) -> StorageResult<Option<StopSign>> {
        Ok(self.lock().stop.clone())
    }

    fn trim(&mut self, _: usize) -> StorageResult<()> {
        Ok(())
    }

    fn set_compacted_idx(&mut self, index: usize) -> StorageResult<()> {
        self.perform(StorageOp::SetCompactedIdx(index))
    }

    fn get_compacted_idx(&self) -> StorageResult<usize> {
        Ok(self.lock().compacted as usize)
    }

    fn set_snapshot(&mut self, snapshot: Option<Prefix>) -> StorageResult<()> {
        self.perform(StorageOp::SetSnapshot(snapshot))
    }

    fn get_snapshot(&self) -> StorageResult<Option<Prefix>> {
        let image = self.lock();
        let entries = image.slice(image.base, image.compacted).to_vec();
        Ok(Some(Prefix { base: Some(image.base), entries }))
    }
}
