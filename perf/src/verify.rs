//! The `verify` load: writes checksummed blocks over a range, in a random order by default, then reads
//! them back at depth and checks each block.
//!
//! Cores split the range by positions, so that each position has one owner; a pass reads only what
//! it has written. Memory is taken at the start; a mismatch may allocate.

use weft::base::{BlockCount, BlockSize, Lba};
use weft::bdev::{Completion, Opcode, RequestFlags};
use weft::load::Stamp;
use weft::load::random::Permutation;

use crate::findings::Findings;
use crate::load::{Load, Next};
use crate::payload::Payloads;
use crate::plan::{Extent, JobPlan, Offsets, Passes};
use crate::shape::Shape;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Write,
    Flush,
    Read,
    End,
}

/// The load of one worker.
pub struct VerifyLoad {
    extent: Extent,
    block_size: BlockSize,
    /// Blocks of one request; the last of the extent may be shorter.
    unit: u64,
    /// Where each position goes, or `None` for in order.
    order: Option<Permutation>,
    /// This worker's positions.
    first: u64,
    last: u64,
    seed: u64,
    flags: RequestFlags,
    can_flush: bool,
    only: bool,
    passes_left: u64,
    timed: bool,
    phase: Phase,
    next: u64,
    in_flight: u64,
    generation: u64,
    /// Where the request of each slot began.
    lbas: Box<[Lba]>,
    findings: Findings,
}

impl VerifyLoad {
    /// The load of worker `part` of `parts` on one device. `can_flush`: whether to flush between
    /// writing and reading.
    pub fn new(
        job: &JobPlan,
        block_size: BlockSize,
        extent: Extent,
        (part, parts): (u64, u64),
        can_flush: bool,
    ) -> VerifyLoad {
        let unit = job.sizes.largest() >> block_size.shift();
        let positions = extent.blocks.0.div_ceil(unit);
        let cut = |part: u64| (u128::from(positions) * u128::from(part) / u128::from(parts)) as u64;
        let order = match job.offsets {
            Offsets::Sequential => None,
            _ => Some(Permutation::new(positions, job.seed)),
        };
        let (passes, timed) = match job.verify.passes {
            Passes::Count(count) => (count, false),
            Passes::Timed => (u64::MAX, true),
        };
        VerifyLoad {
            extent,
            block_size,
            unit,
            order,
            first: cut(part),
            last: cut(part + 1),
            seed: job.seed,
            flags: if job.fua { RequestFlags::FUA } else { RequestFlags::NONE },
            can_flush,
            only: job.verify.only,
            passes_left: passes,
            timed,
            phase: if job.verify.only { Phase::Read } else { Phase::Write },
            next: cut(part),
            in_flight: 0,
            generation: job.verify.generation,
            lbas: vec![Lba(0); job.depth as usize].into(),
            findings: Findings { generation: job.verify.generation, ..Findings::default() },
        }
    }

    fn shape(&self, opcode: Opcode, position: u64) -> Shape {
        let position = self.order.map_or(position, |order| order.apply(position));
        let block = position * self.unit;
        let flags = if opcode == Opcode::Write { self.flags } else { RequestFlags::NONE };
        let blocks = self.unit.min(self.extent.blocks.0 - block) as u32;
        Shape { opcode, flags, lba: self.extent.start + BlockCount(block), blocks }
    }

    fn stamp(&self, lba: u64) -> Stamp {
        Stamp {
            lba,
            offset: lba << self.block_size.shift(),
            seed: self.seed,
            generation: self.generation,
        }
    }

    fn advance(&mut self) {
        self.next = self.first;
        self.phase = match self.phase {
            Phase::Write if self.can_flush => Phase::Flush,
            Phase::Write | Phase::Flush => Phase::Read,
            Phase::Read => {
                self.passes_left -= 1;
                if self.passes_left == 0 {
                    Phase::End
                } else if self.only {
                    Phase::Read
                } else {
                    self.generation += 1;
                    self.findings.generation = self.generation;
                    Phase::Write
                }
            }
            Phase::End => Phase::End,
        };
    }
}

impl Load for VerifyLoad {
    const CHECKS: bool = true;

    fn next(&mut self, slot: usize, payloads: &mut Payloads) -> Next {
        let through = match self.phase {
            Phase::Write | Phase::Read => self.next == self.last,
            Phase::Flush => self.next > self.first,
            Phase::End => true,
        };
        if through {
            if self.in_flight > 0 {
                return Next::Wait;
            }
            self.advance();
            if self.first == self.last {
                self.phase = Phase::End;
            }
        }
        let shape = match self.phase {
            Phase::Write => {
                let shape = self.shape(Opcode::Write, self.next);
                let size = self.block_size.bytes() as usize;
                let mut lba = shape.lba.0;
                for piece in payloads.pieces_mut(slot, shape.blocks as usize * size) {
                    for block in piece.chunks_exact_mut(size) {
                        self.stamp(lba).write(block);
                        lba += 1;
                    }
                }
                shape
            }
            Phase::Flush => {
                Shape { opcode: Opcode::Flush, flags: RequestFlags::NONE, lba: Lba(0), blocks: 0 }
            }
            Phase::Read => self.shape(Opcode::Read, self.next),
            Phase::End => return Next::End,
        };
        self.next += 1;
        self.in_flight += 1;
        self.lbas[slot] = shape.lba;
        Next::Issue(shape)
    }

    fn completed(&mut self, slot: usize, completion: &Completion, payloads: &Payloads) {
        self.in_flight -= 1;
        if completion.opcode != Opcode::Read || !completion.status.is_success() {
            return;
        }
        let size = self.block_size.bytes() as usize;
        let mut lba = self.lbas[slot].0;
        for piece in payloads.pieces(slot, completion.blocks as usize * size) {
            for block in piece.chunks_exact(size) {
                self.findings.checked += 1;
                if let Some(mismatch) = self.stamp(lba).check(block) {
                    self.findings.bad += 1;
                    self.findings.note(mismatch);
                }
                lba += 1;
            }
        }
    }

    fn time_is_over(&mut self) -> bool {
        if self.timed {
            // The pass at hand is finished: half a pass leaves two generations behind.
            self.passes_left = 1;
        }
        false
    }

    fn into_findings(mut self) -> Option<Findings> {
        self.findings.incomplete = self.phase != Phase::End;
        Some(self.findings)
    }
}

#[cfg(test)]
mod tests {
    use weft::load::Mismatch;

    use super::*;
    use weft::load::Field;

    use crate::load::parse_size_mix;
    use crate::plan::Workload;
    use crate::plan::tests::job;

    fn load(part: u64, parts: u64, blocks: u64) -> VerifyLoad {
        let mut job = job(Workload::Verify);
        job.sizes = parse_size_mix("4K").unwrap();
        let extent = Extent { start: Lba(100), blocks: BlockCount(blocks) };
        VerifyLoad::new(&job, BlockSize::B512, extent, (part, parts), false)
    }

    /// Issues until the load waits or ends.
    fn issue(load: &mut VerifyLoad) -> (Vec<Shape>, Next) {
        let mut payloads = Payloads::none();
        let mut shapes = Vec::new();
        loop {
            match load.next(0, &mut payloads) {
                Next::Issue(shape) => shapes.push(shape),
                other => return (shapes, other),
            }
        }
    }

    #[test]
    fn workers_cover_the_range_once_and_wait_between_phases() {
        let mut covered = vec![0; 1003];
        for part in 0..3 {
            let mut load = load(part, 3, 1003);
            let (writes, next) = issue(&mut load);
            assert_eq!(next, Next::Wait);
            assert!(writes.iter().all(|shape| shape.opcode == Opcode::Write));
            for shape in &writes {
                for block in 0..u64::from(shape.blocks) {
                    covered[(shape.lba.0 - 100 + block) as usize] += 1;
                }
            }
            for shape in &writes {
                let request = weft::bdev::Request::bare(shape.opcode, shape.lba, shape.blocks, 0);
                let done = request.complete(weft::base::Status::SUCCESS);
                load.completed(0, &done, &Payloads::none());
            }
            let (reads, _) = issue(&mut load);
            let as_read = |shape: &Shape| Shape { opcode: Opcode::Read, ..*shape };
            assert_eq!(reads, writes.iter().map(as_read).collect::<Vec<_>>());
        }
        assert!(covered.iter().all(|&times| times == 1));
    }

    #[test]
    fn a_part_without_positions_ends_at_once() {
        let mut load = load(0, 3, 8);
        assert_eq!(issue(&mut load), (Vec::new(), Next::End));
        assert!(!load.into_findings().unwrap().incomplete);
    }

    #[test]
    fn the_lowest_bad_block_is_named() {
        let mismatch = |lba| Mismatch {
            lba,
            field: Field::Crc,
            expected: 0,
            found: 1,
            byte: 48,
            zeros: false,
        };
        let mut sum = Findings::default();
        for lba in [9, 4, 7] {
            sum.add(&Findings { bad: 1, first: Some(mismatch(lba)), ..Findings::default() });
        }
        assert_eq!((sum.bad, sum.first), (3, Some(mismatch(4))));
    }
}
