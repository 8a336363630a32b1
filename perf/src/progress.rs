//! The progress line: what all workers have done, once a second, on a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::worker::Progress;

/// How often it is written.
const PERIOD: Duration = Duration::from_secs(1);

/// The line. Writes nothing unless standard error is a terminal.
pub struct ProgressLine {
    workers: Vec<Arc<Progress>>,
    shown: bool,
    started: Instant,
    last: Instant,
    ops: u64,
    bytes: u64,
    width: usize,
}

impl ProgressLine {
    /// A line over these workers, silent if `quiet`.
    pub fn new(workers: Vec<Arc<Progress>>, quiet: bool) -> ProgressLine {
        let now = Instant::now();
        let shown = !quiet && stderr().is_terminal();
        ProgressLine { workers, shown, started: now, last: now, ops: 0, bytes: 0, width: 0 }
    }

    /// Writes the line if its time has come.
    pub fn tick(&mut self) {
        let now = Instant::now();
        let elapsed = now - self.last;
        if !self.shown || elapsed < PERIOD {
            return;
        }
        let sum = |of: fn(&Progress) -> u64| self.workers.iter().map(|worker| of(worker)).sum();
        let ops: u64 = sum(|worker| worker.ops.load(Ordering::Relaxed));
        let bytes: u64 = sum(|worker| worker.bytes.load(Ordering::Relaxed));
        let errors: u64 = sum(|worker| worker.errors.load(Ordering::Relaxed));
        let seconds = elapsed.as_secs_f64();
        let line = if ops == 0 {
            format!("{:5.0} s  warming up", (now - self.started).as_secs_f64())
        } else {
            format!(
                "{:5.0} s  {:.0} IOPS  {:.1} MiB/s  {errors} errors",
                (now - self.started).as_secs_f64(),
                ops.saturating_sub(self.ops) as f64 / seconds,
                bytes.saturating_sub(self.bytes) as f64 / f64::from(1 << 20) / seconds,
            )
        };
        self.write(&line);
        (self.last, self.ops, self.bytes) = (now, ops, bytes);
    }

    /// Overwrites the line. A terminal that is gone is no reason to stop.
    fn write(&mut self, line: &str) {
        let width = self.width;
        let mut out = stderr().lock();
        let _ = write!(out, "\r{line:<width$}");
        let _ = out.flush();
        self.width = line.len();
    }

    /// Takes the line away.
    pub fn finish(mut self) {
        if self.width > 0 {
            self.write("");
            let _ = write!(stderr(), "\r");
        }
    }
}
