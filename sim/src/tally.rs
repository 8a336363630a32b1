//! What many runs came to.

use std::io::IsTerminal;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::jobs::Done;
use crate::plan::MS;

/// Sums up runs.
pub struct Tally {
    /// How many.
    pub seeds: u64,
    /// Their time, in nanoseconds.
    pub lasted: u128,
    /// The seeds of those that went wrong, and what.
    pub wrong: Vec<(u64, String)>,
    steps: u64,
    answered: u64,
    undecided: u64,
    stalls: Histogram<u64>,
    since: Instant,
}

/// Percentiles in milliseconds.
#[derive(Serialize)]
pub struct Percentiles {
    /// Half are shorter.
    pub p50: u64,
    /// Ninety-nine of a hundred are.
    pub p99: u64,
    /// None is longer.
    pub max: u64,
}

/// The last line of a command's output.
#[derive(Serialize)]
struct Summary {
    seeds: u64,
    virtual_hours: f64,
    violations: usize,
    stall_ms: Percentiles,
    seconds: f64,
    virtual_seconds_per_second: f64,
    events_per_second: f64,
    answered: u64,
    undecided_blocks: u64,
}

/// A histogram of nanoseconds, kept in microseconds.
pub fn histogram() -> Histogram<u64> {
    // The two lowest bounds and the precision are valid, and it grows by itself.
    Histogram::new(3).unwrap_or_else(|_| unreachable!("3 digits are allowed"))
}

/// Its percentiles.
pub fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    let ms = |micros: u64| micros.div_ceil(1000);
    Percentiles {
        p50: ms(histogram.value_at_quantile(0.5)),
        p99: ms(histogram.value_at_quantile(0.99)),
        max: ms(histogram.max()),
    }
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Tally {
        Tally {
            seeds: 0,
            lasted: 0,
            wrong: Vec::new(),
            steps: 0,
            answered: 0,
            undecided: 0,
            stalls: histogram(),
            since: Instant::now(),
        }
    }

    /// Adds a run, and says so if it went wrong.
    pub fn add(&mut self, done: Done, replay: impl Fn(u64) -> String) {
        let outcome = done.outcome;
        self.seeds += 1;
        self.lasted += u128::from(outcome.lasted);
        self.steps += outcome.steps;
        self.answered += outcome.answered;
        self.undecided += outcome.undecided;
        for stall in outcome.stalls {
            let _ = self.stalls.record(stall / 1000);
        }
        if let Some(why) = outcome.wrong {
            println!("seed {} ({}): {why}\n  replay: {}", done.seed, done.name, replay(done.seed));
            self.wrong.push((done.seed, why));
        }
        if self.seeds.is_multiple_of(100) && std::io::stderr().is_terminal() {
            let hours = self.virtual_hours();
            eprint!(
                "\r{} seeds, {hours:.1} virtual hours, {} wrong ",
                self.seeds,
                self.wrong.len()
            );
        }
    }

    fn virtual_hours(&self) -> f64 {
        self.lasted as f64 / 3.6e12
    }

    /// Prints the last line.
    pub fn print(&self) {
        let seconds = self.since.elapsed().as_secs_f64();
        let summary = Summary {
            seeds: self.seeds,
            virtual_hours: self.virtual_hours(),
            violations: self.wrong.len(),
            stall_ms: percentiles(&self.stalls),
            seconds,
            virtual_seconds_per_second: self.lasted as f64 / 1e9 / seconds,
            events_per_second: self.steps as f64 / seconds,
            answered: self.answered,
            undecided_blocks: self.undecided,
        };
        println!("{}", serde_json::to_string(&summary).unwrap_or_default());
    }
}

/// Milliseconds of nanoseconds.
pub fn ms(nanoseconds: u64) -> u64 {
    nanoseconds / MS
}
