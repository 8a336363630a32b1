//! Sessions of attachments with a replica.

use crate::base::Time;
use crate::mesh::ids::{Generation, Sequence, SessionNumber, WriteNumber};
use crate::mesh::message::{Run, Sender};
use crate::mesh::picture::Round;

/// A session. It ends when the group's epoch changes, when a higher one is opened, when the attachment ends, and at the first I/O that is refused.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub generation: Generation,
    /// Who opened it, and the way it came.
    pub client: Sender,
    pub number: SessionNumber,
    /// Nothing of lower sessions is under way any more: I/O is accepted.
    pub live: bool,
    /// The next I/O.
    pub next: Sequence,
    /// Up to here the attachment's writes are on every copy.
    pub watermark: WriteNumber,
}

/// A write in shared-write mode that its owner has not confirmed. At the first replica nobody else reads its blocks. Nobody else writes them either once
/// it has been done here in this epoch; before that, who has declared a write to them as well may repeat it: what both have sent to
/// an earlier first replica, nobody has seen, and whoever comes first now is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unconfirmed {
    pub generation: Generation,
    pub number: WriteNumber,
    pub run: Run,
    /// It has been handed to the drive in this epoch.
    pub done: bool,
}

/// An I/O that has been accepted.
#[derive(Clone, Debug)]
pub(super) struct Accepted<P> {
    pub io: crate::mesh::message::Io,
    pub from: Sender,
    pub payload: Option<P>,
    pub region: u32,
    /// When its client was last told that it waits.
    pub held: Time,
    pub on_drive: bool,
    /// The round that the replica was a joiner of when it was handed to the drive.
    pub round: Option<Round>,
    /// Its session has ended: nobody wants an answer.
    pub orphan: bool,
}
