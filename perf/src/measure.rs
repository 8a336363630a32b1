//! What a worker measures: operations, bytes and latency by class, errors, and throughput over
//! time. Memory is taken at the start; recording allocates nothing (an error may).

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use weft::base::Status;
use weft::bdev::Opcode;

/// What latencies are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Reads.
    Read = 0,
    /// Writes.
    Write = 1,
    /// Everything else: flush, reset, unmap, write-zeroes.
    Other = 2,
}

impl Class {
    /// All, by number.
    pub const ALL: [Class; 3] = [Class::Read, Class::Write, Class::Other];

    /// The class of `opcode`.
    #[inline]
    pub fn of(opcode: Opcode) -> Class {
        match opcode {
            Opcode::Read => Class::Read,
            Opcode::Write => Class::Write,
            _ => Class::Other,
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        ["read", "write", "other"][self as usize]
    }
}

/// Highest latency that is told apart, in TSC ticks: some 20 minutes. Longer ones count as this.
const LATENCY_TICKS_MAX: u64 = 1 << 42;
/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// The figures of one class.
#[derive(Clone, Debug)]
pub struct ClassMeasure {
    /// Requests that succeeded.
    pub ops: u64,
    /// Blocks of those.
    pub blocks: u64,
    /// Their latencies, in TSC ticks.
    pub latency: Histogram<u64>,
    /// The exact sum of the latencies.
    pub latency_sum: u128,
    /// The exact longest.
    pub latency_max: u64,
}

impl ClassMeasure {
    fn new() -> ClassMeasure {
        let latency = Histogram::new_with_bounds(1, LATENCY_TICKS_MAX, DIGITS)
            .expect("bounds that the type allows");
        ClassMeasure { ops: 0, blocks: 0, latency, latency_sum: 0, latency_max: 0 }
    }

    fn clear(&mut self) {
        self.latency.reset();
        (self.ops, self.blocks, self.latency_sum, self.latency_max) = (0, 0, 0, 0);
    }

    /// Adds the figures of another worker.
    pub fn add(&mut self, other: &ClassMeasure) {
        self.ops += other.ops;
        self.blocks += other.blocks;
        self.latency_sum += other.latency_sum;
        self.latency_max = self.latency_max.max(other.latency_max);
        self.latency.add(&other.latency).expect("the same bounds");
    }
}

/// The figures of one worker, or of several together.
#[derive(Clone, Debug)]
pub struct Measure {
    /// By [`Class`].
    pub classes: [ClassMeasure; 3],
    /// Failed requests, by status; warm-up and what completes after the end count too.
    pub errors: BTreeMap<Status, u64>,
}

impl Measure {
    /// Nothing yet.
    pub fn new() -> Measure {
        Measure { classes: Class::ALL.map(|_| ClassMeasure::new()), errors: BTreeMap::new() }
    }

    /// Counts `count` requests of `blocks` blocks together that took `latency` ticks each.
    #[inline]
    pub fn record(&mut self, opcode: Opcode, latency: u64, count: u64, blocks: u64) {
        let class = &mut self.classes[Class::of(opcode) as usize];
        class.ops += count;
        class.blocks += blocks;
        class.latency_sum += u128::from(latency) * u128::from(count);
        class.latency_max = class.latency_max.max(latency);
        class.latency.saturating_record_n(latency, count);
    }

    /// Counts a failed request.
    #[cold]
    pub fn record_error(&mut self, status: Status) {
        *self.errors.entry(status).or_default() += 1;
    }

    /// Forgets what was measured, but no error: the warm-up is over.
    pub fn start_over(&mut self) {
        self.classes.iter_mut().for_each(ClassMeasure::clear);
    }

    /// Requests that succeeded.
    pub fn ops(&self) -> u64 {
        self.classes.iter().map(|class| class.ops).sum()
    }

    /// Their blocks.
    pub fn blocks(&self) -> u64 {
        self.classes.iter().map(|class| class.blocks).sum()
    }

    /// Requests that failed.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds the figures of another worker.
    pub fn add(&mut self, other: &Measure) {
        for (mine, theirs) in self.classes.iter_mut().zip(&other.classes) {
            mine.add(theirs);
        }
        for (status, count) in &other.errors {
            *self.errors.entry(*status).or_default() += count;
        }
    }

    /// The figures of all classes as of one.
    pub fn total(&self) -> ClassMeasure {
        let mut total = self.classes[0].clone();
        for class in &self.classes[1..] {
            total.add(class);
        }
        total
    }
}

/// What was done in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests.
    pub ops: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Throughput over time: a fixed number of periods, which double in length when they run out.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Length of a period, in TSC ticks.
    pub period: u64,
    /// One for each period from the start of the measurement.
    pub samples: Vec<Sample>,
}

impl Timeline {
    /// Periods kept at most.
    pub const SAMPLES_MAX: usize = 512;

    /// An empty one with periods of `period` ticks at first.
    pub fn new(period: u64) -> Timeline {
        Timeline { period: period.max(1), samples: Vec::with_capacity(Self::SAMPLES_MAX) }
    }

    /// Counts `done` into the period that `elapsed` ticks from the start lies in.
    pub fn add(&mut self, elapsed: u64, done: Sample) {
        while elapsed / self.period >= Self::SAMPLES_MAX as u64 {
            self.coarsen();
        }
        let index = (elapsed / self.period) as usize;
        if index >= self.samples.len() {
            self.samples.resize(index + 1, Sample::default());
        }
        self.samples[index].ops += done.ops;
        self.samples[index].bytes += done.bytes;
    }

    fn coarsen(&mut self) {
        self.period *= 2;
        let half = self.samples.len().div_ceil(2);
        for index in 0..half {
            let mut sum = self.samples[2 * index];
            if let Some(next) = self.samples.get(2 * index + 1) {
                sum.ops += next.ops;
                sum.bytes += next.bytes;
            }
            self.samples[index] = sum;
        }
        self.samples.truncate(half);
    }

    /// Adds the timeline of another worker that started together with this one.
    pub fn merge(&mut self, other: &Timeline) {
        let mut other = other.clone();
        while other.period < self.period {
            other.coarsen();
        }
        while self.period < other.period {
            self.coarsen();
        }
        if self.samples.len() < other.samples.len() {
            self.samples.resize(other.samples.len(), Sample::default());
        }
        for (mine, theirs) in self.samples.iter_mut().zip(&other.samples) {
            mine.ops += theirs.ops;
            mine.bytes += theirs.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_add_up() {
        let mut one = Measure::new();
        one.record(Opcode::Read, 100, 3, 24);
        one.record(Opcode::Write, 1 << 50, 1, 8);
        one.record_error(Status::WRITE_FAULT);
        let mut two = Measure::new();
        two.record(Opcode::Read, 300, 1, 8);
        two.add(&one);
        let total = two.total();
        assert_eq!((total.ops, total.blocks), (5, 40));
        assert_eq!(total.latency_max, 1 << 50);
        assert_eq!(total.latency_sum, 600 + (1 << 50));
        assert_eq!(two.classes[0].latency.value_at_quantile(0.5), 100);
        assert_eq!(two.error_count(), 1);
        two.start_over();
        assert_eq!((two.ops(), two.error_count()), (0, 1));
    }

    #[test]
    fn a_timeline_coarsens_and_keeps_the_sum() {
        let done = Sample { ops: 1, bytes: 10 };
        let mut long = Timeline::new(10);
        let periods = Timeline::SAMPLES_MAX as u64 * 3;
        for index in 0..periods {
            long.add(index * 10, done);
        }
        assert_eq!(long.period, 40);
        assert_eq!(long.samples.len(), periods as usize / 4);
        assert!(long.samples.iter().all(|sample| *sample == Sample { ops: 4, bytes: 40 }));
        let mut short = Timeline::new(10);
        short.add(5, done);
        short.add(45, done);
        short.merge(&long);
        assert_eq!(short.period, 40);
        assert_eq!(short.samples[0].ops, 5);
        assert_eq!(short.samples[1].ops, 5);
        assert_eq!(short.samples.iter().map(|s| s.ops).sum::<u64>(), periods + 2);
    }
}
