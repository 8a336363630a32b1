//! What clients and targets say to each other. A payload, where a message has one, travels beside it.
//!
//! Messages may be lost, come twice, late, or in another order: whoever needs an answer asks again, and every message names what it
//! belongs to (session and sequence, or round), so that what comes late is recognised.

use serde::{Deserialize, Serialize};

use super::ids::{
    Epoch, Generation, GroupId, Incarnation, Index, NodeId, ReplicaId, Sequence, SessionNumber,
    WriteNumber,
};
use super::picture::{AttachMode, Round};

/// A run of blocks of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Run {
    /// First block.
    pub first: u64,
    /// How many; at least 1 in all that is accepted.
    pub blocks: u32,
}

impl Run {
    /// One past the last block; saturates.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.blocks.into())
    }

    /// Whether the two share a block.
    pub fn overlaps(&self, other: &Run) -> bool {
        self.first < other.end() && other.first < self.end()
    }

    /// Whether all of `other` lies in it.
    pub fn contains(&self, other: &Run) -> bool {
        self.first <= other.first && other.end() <= self.end()
    }
}

/// What a message is about: a replica and, for who asks it, the attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// The attachment.
    pub generation: Generation,
}

/// From a client to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToTarget {
    /// Opens a session. Answered by [`ToClient::Opened`] once everything of lower sessions and earlier epochs has drained, or by
    /// [`ToClient::Refused`]. Asked again until answered.
    Open(Open),
    /// An I/O in a session.
    Io(Io),
    /// Everything up to this write has been answered by all replicas. Outside of the sequence; may be lost.
    Watermark { key: SessionKey, session: SessionNumber, through: WriteNumber },
    /// Are you there? Answered by [`ToClient::Pong`].
    Ping { key: SessionKey, probe: u64 },
}

/// See [`ToTarget::Open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Which replica, for which attachment.
    pub key: SessionKey,
    /// Number of the session; must be higher than any before from this attachment.
    pub session: SessionNumber,
    /// The epoch that it is for.
    pub epoch: Epoch,
    /// The incarnation of the replica's drive that it is for.
    pub incarnation: Incarnation,
    /// Every write that was sent in an earlier session, to whichever replica of the group, and is not answered by all. Their regions keep
    /// their intent bits; in shared-write mode their blocks are held until they are confirmed.
    pub unconfirmed: Vec<(WriteNumber, Run)>,
    /// Everything up to this write has been answered by all replicas.
    pub watermark: WriteNumber,
}

/// An I/O. Its run lies in one region of the group (see [`crate::mesh::picture::VolumeSpec::region_shift`]), so that it lies in one piece on
/// the drive, and has been written before as a whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io {
    /// Which replica, for which attachment.
    pub key: SessionKey,
    /// The session.
    pub session: SessionNumber,
    /// Its place in the session.
    pub sequence: Sequence,
    /// Everything up to this write has been answered by all replicas.
    pub watermark: WriteNumber,
    /// What to do.
    pub operation: Operation,
}

/// What an I/O does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Reads.
    Read(Run),
    /// Writes the payload.
    Write { number: WriteNumber, run: Run },
    /// Writes zeroes; with `unmap` the drive may give up the space where it then reads as zeroes.
    Zero { number: WriteNumber, run: Run, unmap: bool },
    /// Makes stable what was answered (write-back volumes).
    Flush,
    /// The write has been answered by all replicas: lets go of its blocks (shared-write mode).
    Confirm { number: WriteNumber },
}

impl Operation {
    /// The blocks that it touches.
    pub fn run(&self) -> Option<Run> {
        match *self {
            Operation::Read(run) | Operation::Write { run, .. } | Operation::Zero { run, .. } => {
                Some(run)
            }
            Operation::Flush | Operation::Confirm { .. } => None,
        }
    }

    /// The number of the write that it is.
    pub fn write(&self) -> Option<WriteNumber> {
        match *self {
            Operation::Write { number, .. } | Operation::Zero { number, .. } => Some(number),
            _ => None,
        }
    }
}

/// From a target to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToClient {
    /// The session is open: the replica has applied the attachment and the epoch, and nothing earlier is under way.
    Opened { key: SessionKey, session: SessionNumber },
    /// No session, for now. `applied` is how far the target is.
    Refused { key: SessionKey, session: SessionNumber, why: Refused, applied: Index },
    /// An I/O has ended. A read's payload travels beside it, but for blocks that were never written: these are zeroes.
    Done { key: SessionKey, session: SessionNumber, sequence: Sequence, result: IoResult },
    /// The I/O waits for other work of the target (a sign of life).
    Held { key: SessionKey, session: SessionNumber, sequence: Sequence },
    /// An answer to [`ToTarget::Ping`].
    Pong { key: SessionKey, probe: u64 },
}

impl ToClient {
    /// The attachment that it is for.
    pub fn generation(&self) -> Generation {
        match self {
            ToClient::Opened { key, .. }
            | ToClient::Refused { key, .. }
            | ToClient::Done { key, .. }
            | ToClient::Held { key, .. }
            | ToClient::Pong { key, .. } => key.generation,
        }
    }
}

/// Why a target takes no I/O in a session. All of them end it, so that nothing sent in it is executed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// The sender's epoch or incarnation is behind.
    StaleEpoch,
    /// The target is behind.
    Behind,
    /// The target has no serve lease now.
    NoLease,
    /// The attachment is not, or no longer, in the log.
    NotAttached,
    /// A higher session was opened.
    OldSession,
    /// The replica is not on this node, or not open, or not written to.
    NotServed,
}

/// How an I/O ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoResult {
    /// Done; a write is stable as far as the volume promises it.
    Done,
    /// The blocks cannot be read here; another replica may have them, and this one is mended from there.
    Unreadable,
    /// Only another replica may be read now.
    NotReadable,
    /// The drive failed.
    DeviceError,
    /// Not executed, and never will be: the session has ended for this reason.
    Refused(Refused),
    /// The request makes no sense (outside of the group, read-only attachment).
    Invalid,
}

/// Between targets: rounds and repair. Asked again until answered or out of date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPeer {
    /// From a joiner to a holder: which regions may differ? `written`: all that were ever written, for a joiner that has nothing.
    AskMap { key: PeerKey, written: bool },
    /// The regions, as a bit set of 64-bit words, least significant bit first. `blocks` are those of a region.
    Map { key: PeerKey, words: Vec<u64> },
    /// From a joiner to a source, or to any holder after the source could not read them.
    AskCopy { key: PeerKey, run: Run },
    /// The blocks, beside it if they could be read. `written` is false when they were never written and read as zeroes.
    Copy { key: PeerKey, run: Run, result: CopyResult },
    /// From a `Reconciling` joiner to the source: it has the union and these runs of it are still to be copied; what is not in it is equal.
    /// Sent whenever it changes and asked again by the source.
    Progress { key: PeerKey, left: Left },
    /// From the source to a `Reconciling` joiner: a reader waits for this.
    Hurry { key: PeerKey, run: Run },
    /// From a target whose drive cannot read blocks to another that is in sync: the blocks, please.
    AskRepair { key: PeerKey, run: Run },
    /// An answer to it.
    Repair { key: PeerKey, run: Run, result: CopyResult },
}

impl ToPeer {
    /// The replica that it is for.
    pub fn addressee(&self) -> ReplicaId {
        match self {
            ToPeer::AskMap { key, .. }
            | ToPeer::AskCopy { key, .. }
            | ToPeer::Progress { key, .. }
            | ToPeer::AskRepair { key, .. } => key.holder,
            ToPeer::Map { key, .. }
            | ToPeer::Copy { key, .. }
            | ToPeer::Hurry { key, .. }
            | ToPeer::Repair { key, .. } => key.joiner,
        }
    }
}

/// What a message between targets belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerKey {
    /// The group.
    pub group: GroupId,
    /// The round; for repair the epoch in it is the group's and the source the replica that is asked.
    pub round: Round,
    /// The joiner, or who is to be repaired.
    pub joiner: ReplicaId,
    /// The replica that is asked, or asks.
    pub holder: ReplicaId,
    /// The incarnation of the joiner's drive.
    pub incarnation: Incarnation,
}

/// What a joiner still has to copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Left {
    /// These runs of blocks have just become equal.
    Repaired(Vec<Run>),
    /// Exactly these regions, as a bit set, may differ still.
    Regions(Vec<u64>),
}

/// An answer to a wish for blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyResult {
    /// They are beside it.
    Data,
    /// They were never written: they read as zeroes.
    Zeroes,
    /// The drive cannot read them.
    Unreadable,
    /// Who was asked is no holder in this epoch, or not yet, or has no lease.
    NotNow,
}

/// A message of the data path between two nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// To a target.
    ToTarget(ToTarget),
    /// To a client.
    ToClient(ToClient),
    /// Between targets.
    ToPeer(ToPeer),
}

/// How a session may be used, for who checks.
pub fn may_write(mode: AttachMode) -> bool {
    mode != AttachMode::SharedRead
}

/// Who a message came from and which way, for the answer to take the same way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The node.
    pub node: NodeId,
    /// The way that it took, seen from the sender.
    pub route: super::route::Route,
}
