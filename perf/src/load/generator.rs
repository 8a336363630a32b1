//! The ordinary loads: one opcode or a mix of reads and writes, at sequential, uniform or Zipf
//! offsets, of one size or a mix. Endless.

use weft::base::{BlockCount, BlockSize, Lba};
use weft::bdev::{Completion, Opcode, Request, RequestFlags};
use weft::load::random::{Permutation, Random, below};
use weft::memory::Segment;

use super::zipf::Zipf;
use super::{Load, Next, Shape, Start, slot_of};
use crate::findings::Findings;
use crate::payload::Payloads;
use crate::plan::{Extent, JobPlan, Offsets};

/// Generates requests within an extent.
pub struct Generator {
    random: Random,
    /// What is not a read of the mix.
    opcode: Opcode,
    /// Of writes.
    flags: RequestFlags,
    /// A draw of 32 bits below this is a read; 0 when nothing is mixed.
    reads_below: u64,
    pattern: Pattern,
    start: Lba,
    sizes: Box<[Size]>,
}

enum Pattern {
    /// Next block, and the end, both from the start of the extent.
    Sequential {
        cursor: u64,
        end: u64,
    },
    Uniform,
    Zipf,
    /// The opcode names no blocks.
    None,
}

struct Size {
    blocks: u32,
    /// How many offsets, at multiples of the size.
    positions: u64,
    /// A draw of 32 bits below this picks this size, when none before it was picked.
    below: u64,
    zipf: Option<(Zipf, Permutation)>,
}

impl Generator {
    /// The load of worker `part` of `parts` on one device: each has random numbers of its own, and a
    /// slice of its own of a sequential range.
    ///
    /// # Panics
    /// When the plan's sizes do not fit the extent: [`JobPlan::extent_on`] has checked.
    pub fn new(
        job: &JobPlan,
        block_size: BlockSize,
        extent: Extent,
        (part, parts): (u64, u64),
        stream: u64,
    ) -> Generator {
        let largest = job.sizes.largest() >> block_size.shift();
        let slice = match job.offsets {
            // A slice too short for one request would be no use: overlap then.
            Offsets::Sequential if extent.blocks.0 / parts >= largest => {
                extent.slice(part, parts, largest)
            }
            _ => extent,
        };
        let opcode = job.workload.opcode();
        let pattern = match job.offsets {
            _ if !opcode.has_range() => Pattern::None,
            Offsets::Sequential => Pattern::Sequential { cursor: 0, end: slice.blocks.0 },
            Offsets::Uniform => Pattern::Uniform,
            Offsets::Zipf(_) => Pattern::Zipf,
        };
        let block_sizes = job.block_sizes(block_size);
        let weights: u64 = block_sizes.iter().map(|&(_, weight)| u64::from(weight)).sum();
        let mut sum = 0;
        let sizes = block_sizes.into_iter().map(|(blocks, weight)| {
            sum += u64::from(weight);
            let positions = slice.blocks.0 / u64::from(blocks);
            assert!(positions > 0 || !opcode.has_range(), "an I/O larger than its range");
            let zipf = match job.offsets {
                Offsets::Zipf(theta) if opcode.has_range() => {
                    Some((Zipf::new(positions, theta), Permutation::new(positions, job.seed)))
                }
                _ => None,
            };
            Size { blocks, positions, below: (sum << 32) / weights, zipf }
        });
        Generator {
            random: Random::new(job.seed, stream),
            opcode,
            flags: if job.fua { RequestFlags::FUA } else { RequestFlags::NONE },
            reads_below: match job.workload.is_mixed() {
                true => (u64::from(job.read_percent) << 32) / 100,
                false => 0,
            },
            pattern,
            start: slice.start,
            sizes: sizes.collect(),
        }
    }

    #[inline]
    fn pick_size(&mut self) -> usize {
        if self.sizes.len() == 1 {
            return 0;
        }
        let draw = self.random.next_u64() >> 32;
        self.sizes.iter().position(|size| draw < size.below).unwrap_or(0)
    }
}

/// The constant part of a batch.
struct Fill<'a> {
    /// By slot, of the full length.
    segments: &'a [Segment],
    start: Start,
    first: Lba,
    blocks: u32,
    opcode: Opcode,
    flags: RequestFlags,
    reads_below: u64,
}

impl Fill<'_> {
    /// A request for each slot in `done`, at the block that `next` gives with a draw for the mix.
    #[inline]
    fn batch(
        &self,
        done: &[Completion],
        batch: &mut Vec<Request>,
        mut next: impl FnMut() -> (u64, u64),
    ) {
        batch.extend(done.iter().map(|completion| {
            let slot = slot_of(completion.token);
            let (block, draw) = next();
            let (opcode, flags) = choose(draw, self.reads_below, self.opcode, self.flags);
            let lba = self.first + BlockCount(block);
            let token = self.start.token(slot);
            Request::new(opcode, lba, self.blocks, self.segments[slot], token).with_flags(flags)
        }));
    }
}

/// The opcode of the mix that the lower 32 bits of `draw` pick.
#[inline]
fn choose(
    draw: u64,
    reads_below: u64,
    opcode: Opcode,
    flags: RequestFlags,
) -> (Opcode, RequestFlags) {
    if draw & 0xffff_ffff < reads_below {
        (Opcode::Read, RequestFlags::NONE)
    } else {
        (opcode, flags)
    }
}

impl Load for Generator {
    const CHECKS: bool = false;

    #[inline]
    fn next(&mut self, _slot: usize, _payloads: &mut Payloads) -> Next {
        let index = self.pick_size();
        let size = &self.sizes[index];
        let blocks = size.blocks;
        // One draw serves offset (its upper bits) and mix (its lower 32).
        let draw = self.random.next_u64();
        let block = match &mut self.pattern {
            Pattern::Uniform => below(draw, size.positions) * u64::from(blocks),
            Pattern::Sequential { cursor, end } => {
                let block = if *cursor + u64::from(blocks) <= *end { *cursor } else { 0 };
                *cursor = block + u64::from(blocks);
                block
            }
            Pattern::Zipf => match &size.zipf {
                Some((zipf, permutation)) => {
                    permutation.apply(zipf.sample(&mut self.random)) * u64::from(blocks)
                }
                None => 0,
            },
            Pattern::None => {
                return Next::Issue(Shape {
                    opcode: self.opcode,
                    flags: RequestFlags::NONE,
                    lba: Lba(0),
                    blocks: 0,
                });
            }
        };
        let (opcode, flags) = choose(draw, self.reads_below, self.opcode, self.flags);
        Next::Issue(Shape { opcode, flags, lba: self.start + BlockCount(block), blocks })
    }

    #[inline]
    fn refill(
        &mut self,
        done: &[Completion],
        start: Start,
        payloads: &mut Payloads,
        batch: &mut Vec<Request>,
    ) -> usize {
        let ([size], Some(segments)) = (&*self.sizes, payloads.whole()) else { return 0 };
        if self.opcode.payload_factor() == 0 {
            return 0;
        }
        // The pattern is looked at once per batch, and what it needs stays in registers.
        let fill = Fill {
            segments,
            start,
            first: self.start,
            blocks: size.blocks,
            opcode: self.opcode,
            flags: self.flags,
            reads_below: self.reads_below,
        };
        let mut random = self.random.clone();
        match (&mut self.pattern, &size.zipf) {
            (Pattern::Uniform, _) => {
                let (positions, blocks) = (size.positions, u64::from(size.blocks));
                fill.batch(done, batch, || {
                    let draw = random.next_u64();
                    (below(draw, positions) * blocks, draw)
                });
            }
            (Pattern::Zipf, Some((zipf, permutation))) => {
                let blocks = u64::from(size.blocks);
                fill.batch(done, batch, || {
                    (permutation.apply(zipf.sample(&mut random)) * blocks, random.next_u64())
                });
            }
            (Pattern::Sequential { cursor, end }, _) => {
                let (blocks, end) = (u64::from(size.blocks), *end);
                let mut next = *cursor;
                fill.batch(done, batch, || {
                    let block = if next + blocks <= end { next } else { 0 };
                    next = block + blocks;
                    (block, random.next_u64())
                });
                *cursor = next;
            }
            _ => return 0,
        }
        self.random = random;
        done.len()
    }

    fn completed(&mut self, _slot: usize, _completion: &Completion, _payloads: &Payloads) {}

    fn time_is_over(&mut self) -> bool {
        true
    }

    fn into_findings(self) -> Option<Findings> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::parse_size_mix;
    use crate::plan::Workload;
    use crate::plan::tests::job;
    use proptest::prelude::*;

    fn shapes(generator: &mut Generator, count: usize) -> Vec<Shape> {
        let mut payloads = Payloads::none();
        (0..count)
            .map(|_| match generator.next(0, &mut payloads) {
                Next::Issue(shape) => shape,
                other => panic!("an endless load says {other:?}"),
            })
            .collect()
    }

    fn generator(job: &JobPlan, start: u64, blocks: u64, slice: (u64, u64)) -> Generator {
        let extent = Extent { start: Lba(start), blocks: BlockCount(blocks) };
        Generator::new(job, BlockSize::B512, extent, slice, slice.0)
    }

    #[test]
    fn sequential_wraps_before_the_end() {
        // 20 blocks hold two requests of 8; the third would run beyond.
        let mut generator = generator(&job(Workload::Read), 100, 20, (0, 1));
        let lbas: Vec<u64> = shapes(&mut generator, 5).iter().map(|shape| shape.lba.0).collect();
        assert_eq!(lbas, [100, 108, 100, 108, 100]);
    }

    #[test]
    fn cores_share_a_sequential_range() {
        let job = job(Workload::Write);
        let first = |part| shapes(&mut generator(&job, 0, 64, (part, 4)), 3);
        let lbas = |part| first(part).iter().map(|shape| shape.lba.0).collect::<Vec<_>>();
        assert_eq!((lbas(0), lbas(3)), (vec![0, 8, 0], vec![48, 56, 48]));
    }

    #[test]
    fn the_mix_is_kept() {
        let mut job = job(Workload::RandRw);
        job.read_percent = 70;
        let shapes = shapes(&mut generator(&job, 0, 1 << 20, (0, 1)), 100_000);
        let reads = shapes.iter().filter(|shape| shape.opcode == Opcode::Read).count();
        assert!((69_000..71_000).contains(&reads), "{reads}");
        for (percent, reads) in [(0, 0), (100, 1000)] {
            job.read_percent = percent;
            let shapes = self::shapes(&mut generator(&job, 0, 1 << 20, (0, 1)), 1000);
            assert_eq!(shapes.iter().filter(|s| s.opcode == Opcode::Read).count(), reads);
        }
    }

    #[test]
    fn size_mixes_follow_their_weights() {
        let mut job = job(Workload::RandRead);
        job.sizes = parse_size_mix("4K:75,64K:25").unwrap();
        let shapes = shapes(&mut generator(&job, 0, 1 << 20, (0, 1)), 100_000);
        let small = shapes.iter().filter(|shape| shape.blocks == 8).count();
        assert!((74_000..76_000).contains(&small), "{small}");
    }

    #[test]
    fn zipf_favours_a_few_scattered_offsets() {
        let mut job = job(Workload::RandRead);
        job.offsets = Offsets::Zipf(1.2);
        let mut lbas: Vec<u64> = shapes(&mut generator(&job, 0, 1 << 20, (0, 1)), 50_000)
            .iter()
            .map(|shape| shape.lba.0)
            .collect();
        lbas.sort_unstable();
        let mut counts: Vec<(usize, u64)> =
            lbas.chunk_by(|a, b| a == b).map(|run| (run.len(), run[0])).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top: usize = counts.iter().take(10).map(|(count, _)| count).sum();
        assert!(top > 20_000, "the ten most frequent offsets have {top} of 50000");
        assert!(counts[0].1.abs_diff(counts[1].1) > 8, "the most frequent offsets are neighbours");
    }

    #[test]
    fn flush_and_reset_name_no_blocks() {
        for (workload, opcode) in
            [(Workload::Flush, Opcode::Flush), (Workload::Reset, Opcode::Reset)]
        {
            let shape = shapes(&mut generator(&job(workload), 0, 4, (0, 1)), 1)[0];
            assert_eq!((shape.opcode, shape.blocks), (opcode, 0));
        }
    }

    proptest! {
        #[test]
        fn every_request_lies_in_its_range(
            start in 0_u64..1 << 40,
            blocks in 128_u64..100_000,
            parts in 1_u64..5,
            offsets in prop_oneof![
                Just(Offsets::Sequential), Just(Offsets::Uniform), (0.1..3.0).prop_map(Offsets::Zipf)
            ],
            seed: u64,
        ) {
            let mut job = job(Workload::RandRw);
            job.sizes = parse_size_mix("512:1,8K:2,64K:1").unwrap();
            (job.offsets, job.seed) = (offsets, seed);
            for part in 0..parts {
                for shape in shapes(&mut generator(&job, start, blocks, (part, parts)), 200) {
                    let at = shape.lba.0 - start;
                    prop_assert!(at + u64::from(shape.blocks) <= blocks);
                    if offsets != Offsets::Sequential {
                        prop_assert_eq!(at % u64::from(shape.blocks), 0);
                    }
                }
            }
        }
    }
}
