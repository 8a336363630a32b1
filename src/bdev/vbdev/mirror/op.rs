//! A request in a mirror's queue: where it stands.

use super::shared::LegSet;
use crate::base::{Lba, Status};
use crate::bdev::intent::Mark;
use crate::bdev::request::{Opcode, Request};

/// Where a request stands. After each colon: what takes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// No request.
    Free,
    /// A read or compare waits for writes that overlap: the range lock.
    ReadLock,
    /// It waits until its regions are the same on all legs: the control task.
    ReadRegion,
    /// It is with one leg.
    Read,
    /// A write waits for others that overlap: the range lock.
    WriteLock,
    /// It waits for its intent bits: the write of a page.
    WriteIntent,
    /// It waits for memory to capture its payload in: the pool.
    WriteMemory,
    /// It is with all legs.
    Write,
    /// A read that found a bad block waits for writes that overlap: the range lock.
    RepairLock,
    /// It waits for intent bits, as a write does.
    RepairIntent,
    /// It is with a good leg.
    RepairRead,
    /// It is with the bad legs.
    RepairWrite,
    /// A flush or reset is with all legs.
    Broadcast,
    /// A page of the intent map is with all legs.
    Page,
}

/// A request.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Op {
    pub request: Request,
    /// The view that it was sent under.
    pub generation: u64,
    /// The first failure.
    pub status: Status,
    pub stage: Stage,
    /// Legs that have not answered.
    pub pending: u8,
    /// Legs that failed what is under way.
    pub failed: LegSet,
    /// Legs that did what is under way.
    pub succeeded: LegSet,
    /// Legs that a read was tried on.
    pub tried: LegSet,
    /// Legs whose medium failed a read.
    pub bad: LegSet,
    /// All failures say that the request itself cannot be done, so that nothing changed.
    pub refused: bool,
    /// The payload is in the slot's bounce.
    pub captured: bool,
    pub mark: Mark,
}

impl Op {
    pub fn free() -> Op {
        Op {
            request: Request::bare(Opcode::Flush, Lba(0), 0, 0),
            generation: 0,
            status: Status::SUCCESS,
            stage: Stage::Free,
            pending: 0,
            failed: 0,
            succeeded: 0,
            tried: 0,
            bad: 0,
            refused: true,
            captured: false,
            mark: Mark::default(),
        }
    }

    /// Starts over, for a new request.
    #[inline]
    pub fn begin(&mut self, request: &Request) {
        self.request = *request;
        self.status = Status::SUCCESS;
        self.tried = 0;
        self.bad = 0;
        self.captured = false;
    }

    /// Is sent to `count` legs under view `generation`.
    #[inline]
    pub fn send(&mut self, stage: Stage, count: u8, generation: u64) {
        self.stage = stage;
        self.pending = count;
        self.generation = generation;
        self.failed = 0;
        self.succeeded = 0;
        self.refused = true;
    }

    /// Leg `leg` has answered.
    #[inline]
    pub fn answer(&mut self, leg: usize, status: Status) {
        self.pending -= 1;
        if status.is_success() {
            self.succeeded |= 1 << leg;
        } else {
            self.fail(leg, status);
        }
    }

    #[cold]
    fn fail(&mut self, leg: usize, status: Status) {
        self.failed |= 1 << leg;
        self.status = self.status.or(status);
        self.refused &= is_refusal(status);
    }

    /// Length of the range in blocks.
    #[inline]
    pub fn blocks(&self) -> u64 {
        u64::from(self.request.ticket.blocks)
    }
}

/// Whether a device that ends a write so has not begun it.
fn is_refusal(status: Status) -> bool {
    matches!(
        status,
        Status::INVALID_OPCODE
            | Status::INVALID_FIELD
            | Status::LBA_OUT_OF_RANGE
            | Status::NAMESPACE_WRITE_PROTECTED
    )
}
