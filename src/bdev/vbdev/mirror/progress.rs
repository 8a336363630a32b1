//! What a round is about, how far it has come, and how it ended.

use std::cell::Cell;

use super::copy::CopyError;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// All legs are made equal where they may differ.
    Resolve,
    /// The leg in this place, that came with this view, is brought up to date.
    Rebuild { place: usize, since: u64 },
}

/// How far it has come.
pub(super) struct Progress {
    pub work: Work,
    pub blocks_total: Cell<u64>,
    pub blocks_done: Cell<u64>,
    canceled: Cell<bool>,
}

impl Progress {
    pub fn new(work: Work) -> Progress {
        let (blocks_total, blocks_done) = (Cell::new(0), Cell::new(0));
        Progress { work, blocks_total, blocks_done, canceled: Cell::new(false) }
    }

    pub fn is_canceled(&self) -> bool {
        self.canceled.get()
    }

    pub fn cancel(&self) {
        self.canceled.set(true);
    }

    /// Done, in percent.
    pub fn percent(&self) -> u32 {
        let (done, total) = (self.blocks_done.get(), self.blocks_total.get());
        (done * 100).checked_div(total).map_or(100, |percent| percent as u32)
    }
}

/// How it ended.
pub(super) struct Outcome {
    pub work: Work,
    /// Whether it came to its end; if not, and without an error, it was called off.
    pub result: Result<bool, CopyError>,
}
