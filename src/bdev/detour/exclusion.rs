//! One channel's part in keeping compare-and-write atomic: what it asks of the device's range locks, and when.
//!
//! While nobody has used emulated compare-and-write on the device, plain requests and writes of the detour are
//! only counted, in batches. The first use turns exclusion on, for good: every channel then lets
//! what it has counted finish (plain requests wait in the detour meanwhile), and from then on writes are
//! not plain and take a lock on their range.

use std::sync::Arc;

use crate::bdev::range_lock::{Access, Level, RangeLock, RangeLocks};
use crate::bdev::request::{Opcode, OpcodeSet, Request};

/// What a job has of the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing.
    None,
    /// It was counted.
    Counted,
    /// Its range, or a place among those who wait for it.
    Range,
}

/// How far exclusion is turned on for this channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The device has no emulated compare-and-write.
    Unused,
    /// Requests are counted.
    Counting,
    /// What was counted is to finish first.
    Changing,
    /// Writes take locks.
    Excluding,
}

/// A channel's range lock and the stage that it is in.
pub(super) struct Exclusion {
    lock: Option<RangeLock>,
    stage: Stage,
}

impl Exclusion {
    /// Joins the locks of a device, where it has them, with room for `capacity` jobs.
    pub(super) fn new(locks: Option<&Arc<RangeLocks>>, capacity: u32) -> Exclusion {
        let lock = locks.map(|locks| RangeLock::join(locks, capacity));
        let mut exclusion = Exclusion { lock, stage: Stage::Unused };
        exclusion.poll();
        exclusion
    }

    /// Which of `opcodes` may be plain.
    pub(super) fn plain(&self, opcodes: OpcodeSet) -> OpcodeSet {
        match self.stage {
            Stage::Unused | Stage::Counting => opcodes,
            Stage::Changing => OpcodeSet::EMPTY,
            Stage::Excluding => opcodes.iter().filter(|opcode| !opcode.is_write()).collect(),
        }
    }

    /// Counts `requests` plain requests that are about to start; when it returns false they may not, and
    /// what is plain has changed.
    #[inline]
    pub(super) fn enter(&mut self, requests: u32) -> bool {
        match (&mut self.lock, self.stage) {
            (Some(lock), Stage::Counting) => {
                let entered = lock.enter(requests);
                if !entered {
                    self.update();
                }
                entered
            }
            (_, stage) => stage != Stage::Changing,
        }
    }

    /// Counts `requests` plain requests as finished. Those that started after exclusion was turned on are not
    /// counted; all that started before have finished by then.
    #[inline]
    pub(super) fn exit(&mut self, requests: u32) {
        if let (Some(lock), Stage::Counting | Stage::Changing) = (&mut self.lock, self.stage)
            && lock.level() == Level::Off
        {
            lock.exit(requests);
        }
    }

    /// Whether job `index` may start with `request`, and what it has of the lock then. If it may not,
    /// [`Exclusion::next_granted`] will name it.
    pub(super) fn acquire(&mut self, index: u32, request: &Request, alone: bool) -> (bool, Hold) {
        let Some(lock) = self.lock.as_mut().filter(|_| request.opcode().is_write()) else {
            return (true, Hold::None);
        };
        if alone && lock.level() == Level::Off {
            lock.locks().require();
        } else if self.stage == Stage::Counting && lock.enter(1) {
            return (true, Hold::Counted);
        }
        let blocks = u64::from(request.ticket.blocks);
        let granted = lock.acquire(index, Access::Write, request.lba, blocks);
        self.update();
        (granted, Hold::Range)
    }

    /// Gives back what a job has.
    pub(super) fn release(&mut self, index: u32, hold: Hold) {
        match (&mut self.lock, hold) {
            (Some(lock), Hold::Counted) => lock.exit(1),
            (Some(lock), Hold::Range) => lock.release(index),
            _ => {}
        }
    }

    /// Looks whether those who wait may start.
    pub(super) fn poll(&mut self) {
        if let Some(lock) = &mut self.lock {
            lock.poll();
            self.update();
        }
    }

    /// A job that waited and may start.
    pub(super) fn next_granted(&mut self) -> Option<u32> {
        self.lock.as_mut()?.next_granted()
    }

    /// Whether a job waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.lock.as_ref().is_some_and(RangeLock::is_waiting)
    }

    /// How far exclusion is turned on.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    fn update(&mut self) {
        self.stage = match &self.lock {
            None => Stage::Unused,
            Some(lock) if !lock.is_settled() => Stage::Changing,
            Some(lock) if lock.level() == Level::Off => Stage::Counting,
            Some(_) => Stage::Excluding,
        };
    }
}

const _: () = assert!(Opcode::CompareAndWrite.is_write());
