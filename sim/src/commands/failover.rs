//! How long writes stall when something fails.

use weft::mesh::picture::{AttachMode, Timing};

use crate::jobs::{Job, run_all};
use crate::scenario::{Kind, failover};
use crate::tally::{histogram, percentiles};

/// Fails in each way `seeds` times, at other moments, and prints the longest stall of a write.
pub fn execute(seeds: u64, threads: usize) -> bool {
    let usual = Timing::default();
    let fast = Timing { lease_ms: 300, io_timeout_ms: 100, drive_timeout_ms: 300, ..usual };
    let mut well = true;
    println!("| what fails | T | mode | p50 ms | p99 ms | max ms | runs |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for kind in Kind::ALL {
        for timing in [usual, fast] {
            for mode in [AttachMode::Exclusive, AttachMode::SharedWrite] {
                well &= measure(kind, timing, mode, seeds, threads);
            }
        }
    }
    well
}

fn measure(kind: Kind, timing: Timing, mode: AttachMode, seeds: u64, threads: usize) -> bool {
    let job = move |seed| Job { seed, plan: failover(kind, timing, mode, seed), broken: None };
    let mut stalls = histogram();
    let mut well = true;
    run_all((0..seeds).map(job), threads, |done| {
        let _ = stalls.record(done.outcome.longest / 1000);
        if let Some(why) = done.outcome.wrong
            && std::mem::replace(&mut well, false)
        {
            println!("seed {} of {}: {why}", done.seed, done.name);
        }
        true
    });
    let found = percentiles(&stalls);
    println!(
        "| {} | {} ms | {mode:?} | {} | {} | {} | {seeds} |",
        kind.name(),
        timing.lease_ms,
        found.p50,
        found.p99,
        found.max
    );
    well
}
