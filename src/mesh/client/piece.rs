//! Requests, and the pieces of them that lie in one group each.

use super::slab::NONE;
use crate::base::Time;
use crate::mesh::ids::WriteNumber;
use crate::mesh::message::{Operation, Run};
use crate::mesh::request::Token;

/// No replica.
pub const NOBODY: u8 = u8::MAX;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes or zeroes.
    Write,
    /// Makes stable.
    Flush,
}

/// How a request will end, the worst of its pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Well.
    Done,
    /// Something could not be read.
    Unreadable,
    /// A target found it senseless.
    Invalid,
    /// The attachment is gone.
    Detached,
}

/// A request that has not ended.
pub struct Pending {
    /// The requester's name for it.
    pub token: Token,
    /// Its place among all requests.
    pub order: u64,
    /// When it came.
    pub submitted: Time,
    /// What it does.
    pub kind: Kind,
    /// Its pieces that have not ended; for a flush that still waits, the writes before it.
    pub left: usize,
    /// Its first piece; they are chained in the order of its blocks.
    pub first: u32,
    /// How it will end.
    pub outcome: Outcome,
}

/// What a piece does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reads.
    Read,
    /// Writes its payload.
    Write,
    /// Writes zeroes.
    Zero { unmap: bool },
    /// Makes stable the writes of the group up to this number.
    Flush { through: u64 },
    /// Tells that its write has been answered by all.
    Confirm,
}

impl Work {
    /// Whether it changes blocks.
    pub fn is_write(self) -> bool {
        matches!(self, Work::Write | Work::Zero { .. })
    }
}

/// Where a piece stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not started: behind others.
    Waiting,
    /// Started: sent, or to be sent, to replicas.
    Running,
    /// Ended; it waits for the others of its request.
    Ended,
}

/// A part of a request that lies in one group.
pub struct Piece<P> {
    /// Its request; [`NONE`] when that has ended before it.
    pub request: u32,
    /// The next piece of the request.
    pub next: u32,
    /// A number that no other piece of this client has.
    pub order: u64,
    /// Its group, by its place among the volume's.
    pub group: u32,
    /// What it does.
    pub work: Work,
    /// Its blocks.
    pub run: Run,
    /// What is written, or has been read.
    pub payload: Option<P>,
    /// Its number, if it is a write that has started.
    pub number: WriteNumber,
    /// Earlier pieces of the group that it waits for.
    pub blockers: u32,
    /// Where it stands.
    pub stage: Stage,
    /// Replicas that have it in their current session, as bits by their place in the group's write set.
    pub sent: u32,
    /// Replicas that have answered in this epoch.
    pub answered: u32,
    /// Replicas that a read need not be sent to in this turn.
    pub tried: u32,
    /// Replicas that cannot read it.
    pub bad: u32,
    /// Turns of a read over all replicas.
    pub turns: u32,
    /// The replica that a read was sent to.
    pub reader: u8,
    /// A read rests until this time.
    pub rest: Time,
}

impl<P> Piece<P> {
    /// A piece that has not started.
    pub fn new(order: u64, group: u32, work: Work, run: Run, payload: Option<P>) -> Piece<P> {
        Piece {
            request: NONE,
            next: NONE,
            order,
            group,
            work,
            run,
            payload,
            number: WriteNumber(0),
            blockers: 0,
            stage: Stage::Waiting,
            sent: 0,
            answered: 0,
            tried: 0,
            bad: 0,
            turns: 0,
            reader: NOBODY,
            rest: Time::ZERO,
        }
    }

    /// Forgets what happened in an earlier epoch.
    pub fn start_over(&mut self) {
        self.sent = 0;
        self.answered = 0;
        self.tried = 0;
        self.bad = 0;
        self.turns = 0;
        self.reader = NOBODY;
        self.rest = Time::ZERO;
        if self.work == Work::Read {
            self.payload = None;
        }
    }

    /// What a target is asked to do.
    pub fn operation(&self) -> Operation {
        let (number, run) = (self.number, self.run);
        match self.work {
            Work::Read => Operation::Read(run),
            Work::Write => Operation::Write { number, run },
            Work::Zero { unmap } => Operation::Zero { number, run, unmap },
            Work::Flush { .. } => Operation::Flush,
            Work::Confirm => Operation::Confirm { number },
        }
    }
}
