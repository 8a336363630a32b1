//! The applied entries that a node keeps in memory, and its last snapshots: what it serves others from.

use std::collections::VecDeque;
use std::sync::Arc;

use super::entry::Entry;
use super::ids::Index;
use super::settings::Settings;
use super::state::State;

/// Most entries in one message, and about the most bytes.
const MESSAGE_ENTRIES: usize = 256;
const MESSAGE_BYTES: usize = 256 << 10;

/// Entries up to the applied one, without gaps.
#[derive(Default)]
pub struct History {
    /// The index of the entry before the first that is here.
    before: Index,
    entries: VecDeque<Entry>,
    entries_since: u64,
    bytes_since: usize,
    /// The last snapshots, the newest last: one may be on its way to another node when the next is taken.
    snapshots: VecDeque<(Index, Arc<[u8]>)>,
    /// A snapshot was asked for: our own state at this index.
    taking: Option<(Index, Vec<u8>)>,
}

impl History {
    /// A history that begins with a snapshot.
    pub fn begin(index: Index, snapshot: Arc<[u8]>) -> History {
        let snapshots = VecDeque::from([(index, snapshot)]);
        History { before: index, snapshots, ..History::default() }
    }

    /// Adds the entry that was applied.
    pub fn push(&mut self, entry: Entry) {
        self.entries_since += 1;
        self.bytes_since += entry.bytes();
        self.entries.push_back(entry);
    }

    /// Entries from `first` on, as many as fit in a message; nothing when the first is gone.
    pub fn entries(&self, first: Index, most: u64) -> Option<Vec<Entry>> {
        let skip = usize::try_from(first.0.checked_sub(self.before.0 + 1)?).ok()?;
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(MESSAGE_ENTRIES);
        let mut bytes = 0;
        let found = self.entries.range(skip.min(self.entries.len())..).take(most);
        let found = found.take_while(|entry| {
            let fits = bytes == 0 || bytes + entry.bytes() <= MESSAGE_BYTES;
            bytes += entry.bytes();
            fits
        });
        Some(found.cloned().collect())
    }

    /// All entries from `first` on.
    pub fn all_from(&self, first: Index) -> Option<Vec<Entry>> {
        let skip = usize::try_from(first.0.checked_sub(self.before.0 + 1)?).ok()?;
        Some(self.entries.range(skip.min(self.entries.len())..).cloned().collect())
    }

    /// The last snapshot.
    pub fn snapshot(&self) -> Option<&(Index, Arc<[u8]>)> {
        self.snapshots.back()
    }

    /// A snapshot of this index, if it is still here.
    pub fn snapshot_of(&self, index: Index) -> Option<&Arc<[u8]>> {
        self.snapshots.iter().find(|(at, _)| *at == index).map(|(_, bytes)| bytes)
    }

    /// Whether a snapshot is due and none was asked for.
    pub fn is_due(&self, settings: &Settings) -> bool {
        let is_long = self.entries_since >= settings.snapshot_entries;
        self.taking.is_none() && (is_long || self.bytes_since >= settings.snapshot_bytes)
    }

    /// Whether a snapshot was asked for.
    pub fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// A snapshot is asked for.
    pub fn take(&mut self, index: Index, state: &State) {
        self.taking = Some((index, state.encode()));
        self.entries_since = 0;
        self.bytes_since = 0;
    }

    /// The application gave its part of the snapshot. Nothing when it was not asked for.
    pub fn taken(
        &mut self,
        index: Index,
        application: &[u8],
        settings: &Settings,
    ) -> Option<Arc<[u8]>> {
        let (_, own) = self.taking.take_if(|(asked, _)| *asked == index)?;
        let bytes = State::seal(&own, application);
        self.snapshots.push_back((index, Arc::clone(&bytes)));
        if self.snapshots.len() > 2 {
            self.snapshots.pop_front();
        }
        let keep = index.0.saturating_sub(settings.retained_entries as u64).max(self.before.0);
        self.entries.drain(..(keep - self.before.0) as usize);
        self.before = Index(keep);
        Some(bytes)
    }
}
