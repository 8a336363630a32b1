//! Counters of a channel.
//!
//! The owning reactor adds with plain loads and stores; anybody may read at any time. There is one
//! writer, so nothing is lost without an atomic read-modify-write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::request::{Completion, Opcode};
use crate::base::{BlockCount, Geometry, Status};
use crate::reactor::Tsc;

/// What counters are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpClass {
    /// Read and compare.
    Read = 0,
    /// Write, write-zeroes and compare-and-write.
    Write = 1,
    /// Unmap.
    Unmap = 2,
    /// Flush, reset and passthrough: counted, without bytes.
    Other = 3,
}

/// Number of classes.
pub const OP_CLASSES: usize = 4;

impl OpClass {
    /// The class of each opcode, by its number.
    const OF: [OpClass; Opcode::ALL.len()] = [
        OpClass::Read,
        OpClass::Write,
        OpClass::Other,
        OpClass::Unmap,
        OpClass::Write,
        OpClass::Read,
        OpClass::Write,
        OpClass::Other,
        OpClass::Other,
        OpClass::Other,
    ];

    /// The class that `opcode` is counted in.
    #[inline]
    pub const fn of(opcode: Opcode) -> OpClass {
        Self::OF[opcode as usize]
    }
}

/// The counters of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassStat {
    /// Requests that succeeded.
    pub ops: u64,
    /// Blocks of those.
    pub blocks: u64,
    /// Sum of their latencies, in TSC ticks.
    pub latency_ticks: u64,
    /// Longest latency, in TSC ticks; 0 before the first.
    pub latency_ticks_max: u64,
    /// Shortest latency, in TSC ticks; `u64::MAX` before the first.
    pub latency_ticks_min: u64,
}

impl Default for ClassStat {
    fn default() -> Self {
        ClassStat {
            ops: 0,
            blocks: 0,
            latency_ticks: 0,
            latency_ticks_max: 0,
            latency_ticks_min: u64::MAX,
        }
    }
}

/// The counters of a channel or of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoStat {
    /// By [`OpClass`].
    pub classes: [ClassStat; OP_CLASSES],
    /// How many requests failed, by status.
    pub errors: BTreeMap<Status, u64>,
}

impl IoStat {
    /// The counters of `class`.
    pub fn class(&self, class: OpClass) -> &ClassStat {
        &self.classes[class as usize]
    }

    /// Adds the counters of another channel.
    pub fn add(&mut self, other: &IoStat) {
        for (mine, theirs) in self.classes.iter_mut().zip(&other.classes) {
            mine.ops += theirs.ops;
            mine.blocks += theirs.blocks;
            mine.latency_ticks += theirs.latency_ticks;
            mine.latency_ticks_max = mine.latency_ticks_max.max(theirs.latency_ticks_max);
            mine.latency_ticks_min = mine.latency_ticks_min.min(theirs.latency_ticks_min);
        }
        for (status, count) in &other.errors {
            *self.errors.entry(*status).or_default() += count;
        }
    }

    /// Bytes of the successful requests of `class`.
    pub fn bytes(&self, class: OpClass, geometry: Geometry) -> u64 {
        geometry.bytes_of(BlockCount(self.class(class).blocks)).0
    }

    /// Takes away what was counted up to `baseline`. The extremes have no past to take away.
    pub fn subtract(&mut self, baseline: &IoStat) {
        for (mine, theirs) in self.classes.iter_mut().zip(&baseline.classes) {
            mine.ops = mine.ops.saturating_sub(theirs.ops);
            mine.blocks = mine.blocks.saturating_sub(theirs.blocks);
            mine.latency_ticks = mine.latency_ticks.saturating_sub(theirs.latency_ticks);
        }
        for (status, count) in &baseline.errors {
            if let Some(mine) = self.errors.get_mut(status) {
                *mine = mine.saturating_sub(*count);
            }
        }
        self.errors.retain(|_, count| *count > 0);
    }

    /// Takes from `now` what `mode` names: as a baseline, it makes that part start from zero; the
    /// parts that `mode` does not name stay.
    pub(super) fn rebase(&mut self, mode: ResetMode, now: &IoStat) {
        match mode {
            ResetMode::All => *self = now.clone(),
            ResetMode::Error => self.errors.clone_from(&now.errors),
            // Extremes have no baseline; they start over by epoch.
            ResetMode::MaxMin | ResetMode::None => {}
        }
    }

    /// Sets what `mode` names to zero.
    pub(super) fn clear(&mut self, mode: ResetMode) {
        if mode == ResetMode::MaxMin {
            for class in &mut self.classes {
                class.latency_ticks_max = 0;
                class.latency_ticks_min = u64::MAX;
            }
        }
        self.rebase(mode, &IoStat::default());
    }
}

/// What a reset of the counters covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetMode {
    /// All counters.
    All,
    /// The longest and the shortest latencies.
    MaxMin,
    /// The errors.
    Error,
    /// Nothing.
    None,
}

/// A number that one thread changes and any thread reads.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    #[inline]
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Only the owner calls this.
    #[inline]
    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Only the owner calls this.
    #[inline]
    fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }
}

#[derive(Debug, Default)]
struct ClassCounters {
    ops: Counter,
    blocks: Counter,
    latency_ticks: Counter,
    latency_ticks_max: Counter,
    latency_ticks_min: Counter,
}

impl ClassCounters {
    /// Only the owner calls this.
    #[inline]
    fn add(&self, run: &ClassStat) {
        self.ops.add(run.ops);
        self.blocks.add(run.blocks);
        self.latency_ticks.add(run.latency_ticks);
        if run.latency_ticks_max > self.latency_ticks_max.get() {
            self.latency_ticks_max.set(run.latency_ticks_max);
        }
        if run.latency_ticks_min < self.latency_ticks_min.get() {
            self.latency_ticks_min.set(run.latency_ticks_min);
        }
    }
}

/// The live counters of one channel.
#[derive(Debug)]
#[repr(align(128))]
pub struct ChannelStats {
    reactor: usize,
    /// The epoch of the extremes: those of an older one than the device's are void.
    extremes_epoch: AtomicU32,
    classes: [ClassCounters; OP_CLASSES],
    errors: Mutex<BTreeMap<Status, u64>>,
}

impl ChannelStats {
    /// All zero, for a channel of reactor `reactor`.
    pub fn new(reactor: usize) -> ChannelStats {
        let stats = ChannelStats {
            reactor,
            extremes_epoch: AtomicU32::new(0),
            classes: Default::default(),
            errors: Mutex::default(),
        };
        stats.reset_extremes(0);
        stats
    }

    /// Index of the reactor that the channel belongs to.
    pub fn reactor(&self) -> usize {
        self.reactor
    }

    /// Counts what finished at `now`. Only the owner calls this.
    ///
    /// Neighbours of one opcode are summed up in registers first: a batch is mostly that.
    #[inline]
    pub(super) fn count(&self, completions: &[Completion], now: Tsc) {
        let mut rest = completions.iter();
        let mut next = rest.next();
        while let Some(first) = next {
            if !first.status.is_success() {
                self.count_error(first.status);
                next = rest.next();
                continue;
            }
            let mut run = ClassStat::default();
            while let Some(completion) = next
                && completion.opcode == first.opcode
                && completion.status.is_success()
            {
                let latency = now.0.wrapping_sub(completion.stamp);
                run.ops += 1;
                run.blocks += u64::from(completion.blocks);
                run.latency_ticks += latency;
                run.latency_ticks_max = run.latency_ticks_max.max(latency);
                run.latency_ticks_min = run.latency_ticks_min.min(latency);
                next = rest.next();
            }
            self.classes[OpClass::of(first.opcode) as usize].add(&run);
        }
    }

    #[cold]
    fn count_error(&self, status: Status) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(status).or_default() += 1;
    }

    /// Forgets the shortest and the longest latency; those from now on are of `epoch`. Only the owner
    /// calls this.
    pub(super) fn reset_extremes(&self, epoch: u32) {
        for class in &self.classes {
            class.latency_ticks_max.set(0);
            class.latency_ticks_min.set(u64::MAX);
        }
        self.extremes_epoch.store(epoch, Ordering::Release);
    }

    /// What was counted up to now, where extremes count if they are of `epoch`.
    pub(super) fn snapshot(&self, epoch: u32) -> IoStat {
        let current = self.extremes_epoch.load(Ordering::Acquire) == epoch;
        let class = |counters: &ClassCounters| ClassStat {
            ops: counters.ops.get(),
            blocks: counters.blocks.get(),
            latency_ticks: counters.latency_ticks.get(),
            latency_ticks_max: if current { counters.latency_ticks_max.get() } else { 0 },
            latency_ticks_min: if current { counters.latency_ticks_min.get() } else { u64::MAX },
        };
        IoStat {
            classes: self.classes.each_ref().map(class),
            errors: self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
