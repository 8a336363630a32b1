//! What a replica has asked of its drive.

use crate::base::Time;
use crate::bdev::intent::PageWrite;
use crate::mesh::message::{PeerKey, Run, Sender};
use crate::mesh::picture::Round;

/// What an operation of the drive was for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Io(usize),
    ZeroRegion(u32),
    Page(PageWrite),
    Load {
        page: u32,
        copy: u32,
    },
    /// A peer wants these blocks.
    Lend {
        to: Sender,
        key: PeerKey,
        run: Run,
        repair: bool,
    },
    /// The run that is being copied here, in this round.
    Copy(Round),
    /// Blocks that could not be read here, from another replica.
    Mend(Run),
}

/// An operation that the drive has not ended.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub purpose: Purpose,
    pub at: Time,
    /// It was started in an epoch that has ended.
    pub old: bool,
}

/// Blocks that the drive could not read, and that are being mended.
#[derive(Clone, Debug)]
pub(super) struct Mending {
    pub run: Run,
    /// Who is asked for them.
    pub from: usize,
    pub asked: Time,
    pub writing: bool,
}

/// What has become of an I/O that was to start.
pub(super) enum Verdict {
    /// It has to wait, and is checked from the start later.
    Waits,
    /// It is on the drive, or has ended.
    Goes,
}
