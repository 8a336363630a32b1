//! An exercise: writes every block of a device pass by pass and reads back what it wrote, at depth.
//!
//! Each pass writes all positions, in a pseudo-random order or in line, with stamps of its generation, then
//! flushes; the generation is *durable* when the flush has completed, and the progress says so. Between the
//! writes it reads positions that this pass has written already, and checks that they say what they
//! should. After a crash, a check pass tells whether every block is of a generation that was
//! durable, or of the one that was being written.
//!
//! The exercise is a [`Poller`] that owns its channel; the rest of the process sees it through
//! [`Progress`]. It stops at the first I/O error or mismatch.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::random::{Permutation, Random, below};
use super::stamp::{Mismatch, Stamp};
use crate::base::{BlockSize, ByteCount, Error, Lba, Result, limits};
use crate::bdev::{Channel, Completion, Completions, Opcode, Queue, Request};
use crate::memory::Buffer;
use crate::reactor::{Activity, Context, Poller};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Write pass by pass from `generation` on, and verify meanwhile. `passes`: how many, or until
    /// stopped.
    WriteVerify {
        /// Generation of the first pass, from 1.
        generation: u64,
        /// How many passes.
        passes: Option<u64>,
    },
    /// Read every block once: each must be of a generation from `oldest` to `newest`.
    Check {
        /// The last generation that is known to be durable.
        oldest: u64,
        /// The last generation of which any write was issued.
        newest: u64,
    },
}

/// An exercise to be.
#[derive(Clone, Copy, Debug)]
pub struct ExercisePlan {
    /// What to do.
    pub mode: Mode,
    /// Requests outstanding at once.
    pub depth: u32,
    /// Size of each request: a multiple of the block size, at most 2 MiB.
    pub io_size: ByteCount,
    /// Tells the stamps of this exercise from those of others.
    pub seed: u64,
    /// Whether each pass goes from the first block to the last, instead of in a pseudo-random order
    /// that `seed` picks.
    pub sequential: bool,
}

/// What an exercise has done so far; also how to stop it. Shared with its reactor.
#[derive(Debug, Default)]
pub struct Progress {
    stop: AtomicBool,
    finished: AtomicBool,
    generation: AtomicU64,
    durable_generation: AtomicU64,
    bytes_written: AtomicU64,
    bytes_verified: AtomicU64,
    pass_percent: AtomicU64,
    fault: Mutex<Option<String>>,
}

/// A copy of [`Progress`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether it has ended.
    pub finished: bool,
    /// The generation that is being written; of the last pass when it has ended.
    pub generation: u64,
    /// The last generation that is durable all over the device; 0 before the first.
    pub durable_generation: u64,
    /// Bytes written.
    pub bytes_written: ByteCount,
    /// Bytes read back and found right.
    pub bytes_verified: ByteCount,
    /// How far the pass is, in percent.
    pub pass_percent: u64,
    /// What went wrong: an I/O error, or the first block that is not what it should be.
    pub fault: Option<String>,
}

impl Progress {
    /// Asks the exercise to end when its outstanding requests have.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it has ended: its poller does nothing any more and can be removed.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// How it stands.
    pub fn snapshot(&self) -> Snapshot {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Snapshot {
            finished: self.is_finished(),
            generation: get(&self.generation),
            durable_generation: get(&self.durable_generation),
            bytes_written: ByteCount(get(&self.bytes_written)),
            bytes_verified: ByteCount(get(&self.bytes_verified)),
            pass_percent: get(&self.pass_percent),
            fault: self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn fail(&self, fault: String) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
        self.stop();
    }

    fn add(number: &AtomicU64, more: u64) {
        number.store(number.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

/// Most requests that one run of the poller makes: filling blocks with stamps takes its time, and others
/// are polled by the same reactor.
const REQUESTS_PER_RUN: usize = 8;

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Free,
    /// Writing the position at this place of the order.
    Write {
        place: u64,
    },
    /// Reading it; written last by this generation when the read was issued.
    Read {
        place: u64,
        generation: u64,
    },
    Flush,
}

/// A running exercise.
pub struct Exercise {
    cx: Context,
    channel: Channel,
    plan: ExercisePlan,
    progress: Arc<Progress>,
    block_size: BlockSize,
    blocks_per_io: u32,
    /// How many positions of `io_size` the device has.
    positions: u64,
    /// Where each place of the order lies; `None` when they are the same.
    order: Option<Permutation>,
    random: Random,
    slots: Vec<Work>,
    buffers: Vec<Buffer>,
    completions: Completions,
    /// The next place of the order in this pass.
    next: u64,
    generation: u64,
    passes_left: u64,
}

impl Exercise {
    /// An exercise over `channel`, which was opened with a depth of `plan.depth` at least, on the reactor of
    /// `cx`.
    ///
    /// # Errors
    /// `Invalid` for a plan that does not fit the device; `NoMemory` without buffers.
    pub fn new(
        cx: &Context,
        channel: Channel,
        plan: ExercisePlan,
        progress: Arc<Progress>,
    ) -> Result<Exercise> {
        let geometry = channel.device().geometry();
        let block_bytes = u64::from(geometry.block_size.bytes());
        let size = plan.io_size.0;
        if size == 0 || !size.is_multiple_of(block_bytes) || size > 2 << 20 {
            return Err(Error::invalid(format!(
                "an I/O size of {size} bytes (multiples of {block_bytes} up to 2 MiB are possible)"
            )));
        }
        if plan.depth == 0 || plan.depth > limits::QUEUE_DEPTH_MAX {
            return Err(Error::invalid(format!("a depth of {}", plan.depth)));
        }
        let positions = geometry.capacity().0 / size;
        if positions == 0 {
            return Err(Error::invalid("the device is smaller than one I/O"));
        }
        let (generation, passes_left) = match plan.mode {
            Mode::WriteVerify { generation, passes } if generation > 0 => {
                (generation, passes.unwrap_or(u64::MAX))
            }
            Mode::WriteVerify { .. } => {
                return Err(Error::invalid("generations count from 1"));
            }
            Mode::Check { oldest, newest } if oldest <= newest => (newest, 1),
            Mode::Check { .. } => {
                return Err(Error::invalid("the oldest generation is beyond the newest"));
            }
        };
        let buffers =
            (0..plan.depth).map(|_| cx.pool().take(size as usize)).collect::<Result<_>>()?;
        progress.generation.store(generation, Ordering::Relaxed);
        if let Mode::WriteVerify { .. } = plan.mode {
            progress.durable_generation.store(generation - 1, Ordering::Relaxed);
        }
        Ok(Exercise {
            cx: cx.clone(),
            channel,
            plan,
            progress,
            block_size: geometry.block_size,
            blocks_per_io: (size / block_bytes) as u32,
            positions,
            order: (!plan.sequential).then(|| Permutation::new(positions, plan.seed)),
            random: Random::new(plan.seed, generation),
            slots: vec![Work::Free; plan.depth as usize],
            buffers,
            completions: Completions::with_capacity(plan.depth as usize),
            next: 0,
            generation,
            passes_left,
        })
    }

    fn is_idle(&self) -> bool {
        self.slots.iter().all(|work| *work == Work::Free)
    }

    /// All places below this are written in this pass.
    fn watermark(&self) -> u64 {
        let writing = self.slots.iter().filter_map(|work| match work {
            Work::Write { place } => Some(*place),
            _ => None,
        });
        writing.min().unwrap_or(self.next).min(self.next)
    }

    fn lba_of(&self, place: u64) -> Lba {
        let position = self.order.map_or(place, |order| order.apply(place));
        Lba(position * u64::from(self.blocks_per_io))
    }

    fn stamp(&self, lba: u64, generation: u64) -> Stamp {
        let offset = lba << self.block_size.shift();
        Stamp { lba, offset, seed: self.plan.seed, generation }
    }

    /// What a free slot does next; `None` to wait.
    fn choose(&mut self) -> Option<Work> {
        match self.plan.mode {
            Mode::Check { .. } if self.next < self.positions => {
                self.next += 1;
                Some(Work::Read { place: self.next - 1, generation: self.generation })
            }
            Mode::Check { .. } => None,
            Mode::WriteVerify { .. } => {
                let watermark = self.watermark();
                let read = watermark > 0 && self.random.next_u64().is_multiple_of(2);
                if read && self.passes_left > 0 && self.next <= self.positions {
                    let place = below(self.random.next_u64(), watermark.min(self.positions));
                    Some(Work::Read { place, generation: self.generation })
                } else if self.next < self.positions {
                    self.next += 1;
                    Some(Work::Write { place: self.next - 1 })
                } else if self.next == self.positions && watermark == self.positions {
                    // One past the last place stands for the flush.
                    self.next += 1;
                    Some(Work::Flush)
                } else {
                    None
                }
            }
        }
    }

    fn request(&mut self, slot: usize, work: Work) -> Request {
        let (opcode, place) = match work {
            Work::Write { place } => (Opcode::Write, place),
            Work::Read { place, .. } => (Opcode::Read, place),
            Work::Flush | Work::Free => {
                return Request::bare(Opcode::Flush, Lba(0), 0, slot as u64);
            }
        };
        let lba = self.lba_of(place);
        if opcode == Opcode::Write {
            let generation = self.generation;
            let stamps: Vec<Stamp> = (0..u64::from(self.blocks_per_io))
                .map(|block| self.stamp(lba.0 + block, generation))
                .collect();
            let size = self.block_size.bytes() as usize;
            let blocks = self.buffers[slot].bytes_mut().chunks_exact_mut(size);
            for (block, stamp) in blocks.zip(stamps) {
                stamp.write(block);
            }
        }
        // SAFETY: the slot's buffer is dropped with the exercise, after its channel, and is looked at
        // only when the slot's request has completed.
        let payload = unsafe { self.buffers[slot].segment(self.plan.io_size.0 as u32) };
        Request::new(opcode, lba, self.blocks_per_io, payload, slot as u64)
    }

    fn completed(&mut self, completion: Completion) {
        let slot = completion.token as usize;
        let work = std::mem::replace(&mut self.slots[slot], Work::Free);
        if !completion.status.is_success() {
            self.progress.fail(format!(
                "{} failed: {}",
                completion.opcode.name(),
                completion.status
            ));
            return;
        }
        let bytes = self.plan.io_size.0;
        match work {
            Work::Write { .. } => Progress::add(&self.progress.bytes_written, bytes),
            Work::Read { place, generation } => match self.verify(slot, place, generation) {
                None => Progress::add(&self.progress.bytes_verified, bytes),
                Some(mismatch) => self.progress.fail(mismatch.to_string()),
            },
            Work::Flush => self.pass_is_durable(),
            Work::Free => {}
        }
    }

    fn pass_is_durable(&mut self) {
        self.progress.durable_generation.store(self.generation, Ordering::Relaxed);
        self.passes_left -= 1;
        if self.passes_left > 0 {
            self.generation += 1;
            self.progress.generation.store(self.generation, Ordering::Relaxed);
            self.next = 0;
        }
    }

    fn verify(&self, slot: usize, place: u64, generation: u64) -> Option<Mismatch> {
        let size = self.block_size.bytes() as usize;
        let lba = self.lba_of(place).0;
        let blocks = self.buffers[slot].bytes().chunks_exact(size);
        blocks.take(self.blocks_per_io as usize).enumerate().find_map(|(index, block)| {
            let found = Stamp::generation_of(block);
            let right = match self.plan.mode {
                Mode::Check { oldest, newest } => (oldest..=newest).contains(&found),
                // The next pass may have overtaken the read.
                Mode::WriteVerify { .. } => (generation..=self.generation).contains(&found),
            };
            let expected = if right { found } else { generation };
            self.stamp(lba + index as u64, expected).check(block)
        })
    }

    fn refill(&mut self) -> bool {
        let mut issued = 0;
        for slot in 0..self.slots.len() {
            if issued == REQUESTS_PER_RUN {
                break;
            }
            if self.slots[slot] != Work::Free {
                continue;
            }
            let before = self.next;
            let Some(work) = self.choose() else { break };
            let mut request = [self.request(slot, work)];
            if self.channel.submit(&mut request) == 0 {
                self.next = before;
                break;
            }
            self.slots[slot] = work;
            issued += 1;
        }
        issued > 0
    }

    fn is_through(&self) -> bool {
        match self.plan.mode {
            Mode::Check { .. } => self.next == self.positions,
            Mode::WriteVerify { .. } => self.passes_left == 0,
        }
    }
}

impl Poller for Exercise {
    fn poll(&mut self, _cx: &Context) -> Activity {
        if self.progress.is_finished() {
            return Activity::Idle;
        }
        self.completions.clear();
        let mut activity = self.channel.poll(&mut self.completions);
        for index in 0..self.completions.len() {
            let completion = self.completions.as_slice()[index];
            self.completed(completion);
        }
        let ending = self.progress.stop.load(Ordering::Relaxed) || self.is_through();
        if !ending {
            if self.refill() {
                activity = Activity::Busy;
            }
            let percent = self.next.min(self.positions) * 100 / self.positions;
            self.progress.pass_percent.store(percent, Ordering::Relaxed);
        } else if self.is_idle() {
            if self.is_through() {
                self.progress.pass_percent.store(100, Ordering::Relaxed);
            }
            self.progress.finished.store(true, Ordering::Release);
            tracing::debug!(reactor = self.cx.index(), "exercise ended");
        }
        activity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockCount, Geometry};
    use crate::bdev::Device;
    use crate::bdev::leaf::malloc::Malloc;
    use crate::memory::{self, HugePages, PoolOptions};

    struct Rig {
        cx: Context,
        device: Arc<Device>,
    }

    impl Rig {
        fn new() -> Rig {
            let pool = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
            let cx = Context::detached(memory::Registry::new(), pool);
            let geometry = Geometry::new(BlockSize::B512, BlockCount(1000)).unwrap();
            let malloc = Malloc::create("m", None, geometry, HugePages::Never).unwrap();
            Rig { cx, device: Device::new(malloc) }
        }

        fn run(&self, mode: Mode) -> Snapshot {
            let plan = ExercisePlan {
                mode,
                depth: 7,
                io_size: ByteCount(2048),
                seed: 3,
                sequential: false,
            };
            let progress = Arc::new(Progress::default());
            let channel = self.device.open_channel(&self.cx, plan.depth).unwrap();
            let mut exercise =
                Exercise::new(&self.cx, channel, plan, Arc::clone(&progress)).unwrap();
            while !progress.is_finished() {
                self.cx.turn();
                exercise.poll(&self.cx);
            }
            progress.snapshot()
        }

        /// Writes one block of garbage.
        fn damage(&self, lba: u64) {
            let mut channel = self.device.open_channel(&self.cx, 1).unwrap();
            let mut request = [Request::bare(Opcode::WriteZeroes, Lba(lba), 1, 0)];
            assert_eq!(channel.submit(&mut request), 1);
            let mut completions = Completions::with_capacity(1);
            channel.poll(&mut completions);
        }
    }

    #[test]
    fn passes_are_written_verified_and_durable() {
        let rig = Rig::new();
        let snapshot = rig.run(Mode::WriteVerify { generation: 1, passes: Some(3) });
        assert_eq!(snapshot.fault, None);
        assert_eq!((snapshot.generation, snapshot.durable_generation), (3, 3));
        assert_eq!(snapshot.bytes_written, ByteCount(3 * 250 * 2048));
        assert!(snapshot.bytes_verified.0 > 0);
        let check = rig.run(Mode::Check { oldest: 3, newest: 3 });
        assert_eq!((check.fault, check.bytes_verified), (None, ByteCount(250 * 2048)));
    }

    #[test]
    fn a_lost_generation_and_a_damaged_block_are_found() {
        let rig = Rig::new();
        rig.run(Mode::WriteVerify { generation: 1, passes: Some(2) });
        let stale = rig.run(Mode::Check { oldest: 3, newest: 4 });
        assert!(stale.fault.unwrap().contains("generation"));
        rig.damage(123);
        let damaged = rig.run(Mode::Check { oldest: 1, newest: 2 });
        assert!(damaged.fault.unwrap().contains("LBA 123"));
    }

    #[test]
    fn plans_that_do_not_fit_are_refused() {
        let rig = Rig::new();
        for (io_size, depth, mode) in [
            (1000, 1, Mode::Check { oldest: 0, newest: 1 }),
            (0, 1, Mode::Check { oldest: 0, newest: 1 }),
            (4 << 20, 1, Mode::Check { oldest: 0, newest: 1 }),
            (512, 0, Mode::Check { oldest: 0, newest: 1 }),
            (512, 1, Mode::Check { oldest: 2, newest: 1 }),
            (512, 1, Mode::WriteVerify { generation: 0, passes: None }),
        ] {
            let channel = rig.device.open_channel(&rig.cx, 8).unwrap();
            let plan = ExercisePlan {
                mode,
                depth,
                io_size: ByteCount(io_size),
                seed: 0,
                sequential: true,
            };
            assert!(Exercise::new(&rig.cx, channel, plan, Arc::default()).is_err(), "{plan:?}");
        }
    }
}
