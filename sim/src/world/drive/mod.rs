//! A simulated drive: its label, what it holds, and the operations that it has in hand.
//!
//! An operation takes effect at some moment between its start and its end: at one of the two, as chance has it, so that what is in flight
//! together may be executed in any order.

mod medium;

use std::sync::Arc;

use weft::base::Uuid;
use weft::mesh::disk::{DiskOperation, DiskResult, Ticket};
use weft::mesh::payload::Payload;

use crate::payload::{Blocks, GARBAGE, ZERO};
use crate::random::Random;

pub use medium::{BLOCK_BYTES, Content, Medium};

/// What is written on a drive so that it is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub uuid: Uuid,
    /// How often it was opened.
    pub open_count: u64,
    /// Random number of the last opening.
    pub nonce: u64,
    /// Those of the openings before, the newest first; zero where there were fewer.
    pub before: [u64; 64],
}

/// How fast a drive is: nanoseconds, around these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// Of a read.
    pub read: u64,
    /// Of a write.
    pub write: u64,
    /// Of a flush.
    pub flush: u64,
}

impl Speed {
    /// A good drive.
    pub const GOOD: Speed = Speed { read: 80_000, write: 15_000, flush: 200_000 };
}

/// What is wrong with a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ailment {
    /// Operations do not end, for now.
    pub hung: bool,
    /// All operations fail.
    pub failing: bool,
    /// Writes fail: the medium has no room left.
    pub full: bool,
    /// So many times slower; 0 and 1 are as fast as ever.
    pub slow: u32,
}

impl Ailment {
    /// Whether operations end, and end well.
    pub fn works(&self) -> bool {
        !self.hung && !self.failing && !self.full
    }
}

/// An operation in hand.
struct InHand {
    ticket: Ticket,
    operation: DiskOperation<Blocks>,
    /// What it has read or done already; otherwise it takes effect when it ends.
    early: Option<DiskResult<Blocks>>,
    /// Operations that had ended when it began: what a flush makes stable.
    began: u64,
}

/// A drive.
pub struct Drive {
    /// What is written on it.
    pub label: Label,
    /// What it holds.
    pub medium: Medium,
    /// What is wrong with it.
    pub ailment: Ailment,
    /// How fast it is.
    pub speed: Speed,
    /// Unmapped blocks hold anything, as on drives that guarantee no zeroes (rule S17 broken).
    pub unmap_leaves_garbage: bool,
    /// The host that it is in.
    pub host: Option<usize>,
    /// Operations that should have ended while it hung.
    pub(super) stuck: Vec<Work>,
    /// Counts resets: operations from before one never end.
    resets: u32,
    in_hand: Vec<Option<InHand>>,
    free: Vec<u32>,
    ended: u64,
    random: Random,
}

/// Names an operation in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    place: u32,
    resets: u32,
}

impl Drive {
    /// A drive with garbage on it.
    pub fn new(uuid: Uuid, blocks: u64, speed: Speed, mut random: Random) -> Drive {
        Drive {
            label: Label { uuid, open_count: 0, nonce: 0, before: [0; 64] },
            medium: Medium::new(blocks, random.draw()),
            ailment: Ailment::default(),
            speed,
            unmap_leaves_garbage: false,
            host: None,
            stuck: Vec::new(),
            resets: 0,
            in_hand: Vec::new(),
            free: Vec::new(),
            ended: 0,
            random,
        }
    }

    /// Takes an operation. Says which it is, and after how many nanoseconds it ends unless the drive hangs.
    pub fn begin(&mut self, ticket: Ticket, operation: DiskOperation<Blocks>) -> (Work, u64) {
        let mean = match &operation {
            DiskOperation::Read { .. } | DiskOperation::ReadMeta { .. } => self.speed.read,
            DiskOperation::Flush => self.speed.flush,
            _ => self.speed.write,
        };
        let slow = u64::from(self.ailment.slow.max(1));
        let takes = (mean / 2 + self.random.around(mean / 2)).saturating_mul(slow);
        // A flush that takes effect early would promise more than a drive does.
        let is_early = self.random.draw() & 3 == 0 && !matches!(operation, DiskOperation::Flush);
        let began = self.ended;
        let early = is_early.then(|| self.execute(&operation, began));
        let work = InHand { ticket, operation, early, began };
        let place = self.free.pop().unwrap_or_else(|| {
            self.in_hand.push(None);
            self.in_hand.len() as u32 - 1
        });
        self.in_hand[place as usize] = Some(work);
        (Work { place, resets: self.resets }, takes)
    }

    /// An operation ends, unless the drive was reset since it began.
    pub fn end(&mut self, work: Work) -> Option<(Ticket, DiskResult<Blocks>)> {
        if work.resets != self.resets {
            return None;
        }
        let done = self.in_hand[work.place as usize].take()?;
        self.free.push(work.place);
        let result = match done.early {
            Some(result) => result,
            None => self.execute(&done.operation, done.began),
        };
        self.ended += 1;
        Some((done.ticket, result))
    }

    fn execute(&mut self, operation: &DiskOperation<Blocks>, began: u64) -> DiskResult<Blocks> {
        if self.ailment.failing || !self.exists(operation) {
            return DiskResult::Failed;
        }
        let is_write = matches!(
            operation,
            DiskOperation::Write { .. }
                | DiskOperation::Zero { .. }
                | DiskOperation::WriteMeta { .. }
        );
        if self.ailment.full && is_write {
            return DiskResult::Failed;
        }
        match operation {
            DiskOperation::Read { block, blocks } => self.read(*block, *blocks),
            DiskOperation::ReadMeta { block, blocks } => self.read_bytes(*block, *blocks),
            DiskOperation::Flush => {
                self.medium.flush(began);
                DiskResult::Done
            }
            DiskOperation::Poison { block, blocks } => {
                (*block..block + u64::from(*blocks)).for_each(|block| self.medium.poison(block));
                DiskResult::Done
            }
            write => {
                self.write(write, |_| true);
                DiskResult::Done
            }
        }
    }

    fn exists(&self, operation: &DiskOperation<Blocks>) -> bool {
        let (block, blocks) = extent(operation);
        self.medium.contains(block, blocks)
    }

    fn read(&self, block: u64, blocks: u32) -> DiskResult<Blocks> {
        if !self.medium.is_readable(block, blocks) {
            return DiskResult::Unreadable;
        }
        let values = (block..block + u64::from(blocks)).map(|block| self.medium.value(block));
        DiskResult::Data(Blocks::new(values))
    }

    fn read_bytes(&self, block: u64, blocks: u32) -> DiskResult<Blocks> {
        if !self.medium.is_readable(block, blocks) {
            return DiskResult::Unreadable;
        }
        let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
        for (place, block) in bytes.chunks_mut(BLOCK_BYTES).zip(block..) {
            if let Some(held) = self.medium.bytes(block) {
                place[..held.len()].copy_from_slice(held);
            }
        }
        DiskResult::Meta(bytes.into())
    }

    /// Writes those blocks of an operation for which `lands` says so.
    fn write(&mut self, operation: &DiskOperation<Blocks>, mut lands: impl FnMut(u64) -> bool) {
        let number = self.ended + 1;
        let medium = &mut self.medium;
        match operation {
            DiskOperation::Write { block, payload, stable } => {
                for (block, value) in (*block..).zip(payload.values()) {
                    if lands(block) {
                        medium.write(block, Content::Value(value), *stable, number);
                    }
                }
            }
            DiskOperation::Zero { block, blocks, unmap, stable } => {
                for block in *block..block + u64::from(*blocks) {
                    let left = match *unmap && self.unmap_leaves_garbage {
                        true => GARBAGE | self.random.draw() >> 1,
                        false => ZERO,
                    };
                    if lands(block) {
                        medium.write(block, Content::Value(left), *stable, number);
                    }
                }
            }
            DiskOperation::WriteMeta { block, bytes } => {
                for (block, at) in (*block..).zip((0..bytes.len()).step_by(BLOCK_BYTES)) {
                    if lands(block) {
                        let content = Content::Bytes(Arc::clone(bytes), at);
                        medium.write(block, content, true, number);
                    }
                }
            }
            _ => {}
        }
    }

    /// Ends all operations in hand without an answer: of each write, any of its blocks may be written.
    pub fn reset(&mut self) {
        self.resets += 1;
        self.stuck.clear();
        self.free.clear();
        let mut random = self.random.fork();
        for torn in std::mem::take(&mut self.in_hand).into_iter().flatten() {
            let chosen = random.below(4);
            let works = !self.ailment.failing && !self.ailment.full;
            if torn.early.is_none() && chosen > 0 && works && self.exists(&torn.operation) {
                self.write(&torn.operation, |_| chosen == 1 || random.draw() & 1 == 0);
            }
        }
    }

    /// The power fails: what was not stable may be lost.
    pub fn lose_power(&mut self) {
        self.reset();
        let mut random = self.random.fork();
        self.medium.lose_power(&mut random);
    }

    /// Rewrites the label for another opening.
    pub fn open(&mut self) {
        self.label.before.rotate_right(1);
        self.label.before[0] = self.label.nonce;
        self.label.open_count += 1;
        self.label.nonce = self.random.draw();
    }

    /// What it is at present, for [`Drive::restore`] and for a clone.
    pub fn image(&self) -> (Label, Medium) {
        (self.label, self.medium.clone())
    }

    /// Becomes what it was, or what another is.
    pub fn restore(&mut self, (label, medium): (Label, Medium)) {
        self.reset();
        (self.label, self.medium) = (label, medium);
    }
}

/// The blocks that an operation touches.
fn extent(operation: &DiskOperation<Blocks>) -> (u64, u32) {
    match operation {
        DiskOperation::Read { block, blocks }
        | DiskOperation::Zero { block, blocks, .. }
        | DiskOperation::Poison { block, blocks }
        | DiskOperation::ReadMeta { block, blocks } => (*block, *blocks),
        DiskOperation::Write { block, payload, .. } => (*block, payload.blocks()),
        DiskOperation::WriteMeta { block, bytes } => {
            (*block, bytes.len().div_ceil(BLOCK_BYTES) as u32)
        }
        DiskOperation::Flush => (0, 0),
    }
}

#[cfg(test)]
mod tests;
