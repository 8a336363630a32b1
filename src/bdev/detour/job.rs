//! The state of one detoured request.

use super::exclusion::Hold;
use super::payload::Position;
use super::plan::Plan;
use crate::base::{Lba, Status};
use crate::bdev::qos::{Cost, Direction};
use crate::bdev::request::{Opcode, Request};

/// What a job does with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Hands the request on as it is.
    Forward,
    /// Moves payload, part by part.
    Transfer(Opcode),
    /// The same without payload.
    Range(Opcode),
    /// Writes zeros, part by part.
    Zero,
    /// Reads each part and compares it with the payload.
    Compare,
    /// As `Compare`; when all was equal, goes on with `Transfer` of the payload's second half.
    CompareThenWrite,
    /// Nothing: waits until it is the only request.
    Reset,
}

impl Work {
    /// What a plan comes to, unless it ends the request at once.
    pub(super) fn of(plan: Plan) -> Result<Work, Status> {
        Ok(match plan {
            Plan::End(status) => return Err(status),
            Plan::Forward => Work::Forward,
            Plan::Transfer(opcode) => Work::Transfer(opcode),
            Plan::Range(opcode) => Work::Range(opcode),
            Plan::Zero => Work::Zero,
            Plan::Compare => Work::Compare,
            Plan::CompareAndWrite => Work::CompareThenWrite,
            Plan::Reset => Work::Reset,
        })
    }

    /// Under which rate limits it falls, for a request of `opcode`.
    pub(super) fn direction(self, opcode: Opcode) -> Option<Direction> {
        match self {
            Work::Zero => Some(Direction::Write),
            _ => Direction::of(opcode),
        }
    }
}

/// A detoured request.
#[derive(Debug)]
pub(super) struct Job {
    /// The request as it came.
    pub(super) request: Request,
    pub(super) work: Work,
    /// First block of the next part.
    pub(super) lba: Lba,
    /// Blocks that no part has been made of yet. 0 once anything has failed.
    pub(super) left: u32,
    /// Where in the payload the next part starts.
    pub(super) at: Position,
    /// Parts that are with the driver or on their way.
    pub(super) in_flight: u32,
    /// Whether it is past all that it waits for before its first step.
    pub(super) started: bool,
    /// Whether its index stands in a queue of the detour: it does not end before it is taken out.
    pub(super) queued: bool,
    /// What it has of the range lock.
    pub(super) hold: Hold,
    /// The first failure.
    pub(super) status: Status,
}

impl Default for Job {
    fn default() -> Self {
        Job::new(Request::bare(Opcode::Reset, Lba(0), 0, 0), Work::Reset)
    }
}

impl Job {
    pub(super) fn new(request: Request, work: Work) -> Job {
        Job {
            request,
            work,
            lba: request.lba,
            left: request.ticket.blocks,
            at: Position::default(),
            in_flight: 0,
            started: false,
            queued: false,
            hold: Hold::None,
            status: Status::SUCCESS,
        }
    }

    /// Starts over with the second half of the payload, to be written.
    pub(super) fn turn_to_write(&mut self, range_bytes: u64) {
        self.work = Work::Transfer(Opcode::Write);
        self.lba = self.request.lba;
        self.left = self.request.ticket.blocks;
        self.at = Position::default().advanced(&self.request, range_bytes);
    }

    /// Records that something failed: no more parts.
    pub(super) fn fail(&mut self, status: Status) {
        self.status = self.status.or(status);
        self.left = 0;
    }

    /// What its next step costs under rate limits: all of it, or one part of no more than `zero_bytes`
    /// where it writes zeros.
    pub(super) fn cost(&self, block_shift: u32, zero_bytes: u32) -> Cost {
        let bytes = u64::from(self.left) << block_shift;
        Cost::of(if self.work == Work::Zero { bytes.min(zero_bytes.into()) } else { bytes })
    }

    /// Whether nothing is left to do, and the job stands in no queue.
    pub(super) fn is_at_rest(&self) -> bool {
        self.left == 0 && self.in_flight == 0 && !self.queued
    }
}
