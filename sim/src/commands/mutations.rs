//! Breaks each rule in turn: a simulator that does not notice proves nothing.

use std::time::Instant;

use weft::mesh::mutations::Rule;

use crate::jobs::{Job, run_all};
use crate::plan::draw::{Limits, plan};
use crate::scenario;

/// Breaks the rule, or each, until it is noticed or `seeds` seeds have been tried. Whether all were.
pub fn execute(rule: Option<Rule>, seeds: u64, from: u64, threads: usize) -> bool {
    let rules: Vec<Rule> = rule.map_or_else(|| Rule::ALL.to_vec(), |rule| vec![rule]);
    println!("| rule | caught after | seed | what was seen | seconds |");
    println!("| --- | --- | --- | --- | --- |");
    let mut missed = 0;
    for rule in rules {
        let since = Instant::now();
        let caught = hunt(rule, seeds, from, threads);
        let seconds = since.elapsed().as_secs_f64();
        match caught {
            Some((tried, by, why)) => {
                let why = why.lines().next().unwrap_or_default().replace('|', "/");
                println!("| {rule:?} | {tried} | {by} | {why} | {seconds:.1} |");
            }
            None => {
                missed += 1;
                println!("| {rule:?} | never | – | {seeds} seeds saw nothing | {seconds:.1} |");
            }
        }
    }
    if missed > 0 {
        println!("{missed} broken rules were not noticed");
    }
    missed == 0
}

/// How many runs it took, which one it was, and what was seen.
fn hunt(rule: Rule, seeds: u64, from: u64, threads: usize) -> Option<(u64, String, String)> {
    // The rule's own scenario first, then whatever the seeds bring.
    let own = scenario::all().into_iter().filter(move |scenario| scenario.rule == Some(rule));
    let own = own.map(move |scenario| Job { seed: 1, plan: scenario.plan(1), broken: Some(rule) });
    let limits = Limits { hosts: None, seconds: None };
    let drawn = (from..from.saturating_add(seeds)).map(move |seed| Job {
        seed,
        plan: plan(seed, limits),
        broken: Some(rule),
    });
    let jobs: Vec<Job> = own.collect();
    let mut caught = None;
    let mut tried = 0;
    run_all(jobs.into_iter().chain(drawn), threads, |done| {
        tried += 1;
        if let Some(why) = done.outcome.wrong
            && is_well_unbroken(&done.name, done.seed)
        {
            caught.get_or_insert((tried, format!("{} ({})", done.seed, done.name), why));
        }
        caught.is_none()
    });
    caught
}

/// Whether the same run goes well when no rule is broken: otherwise it tells nothing of the rule.
fn is_well_unbroken(name: &str, seed: u64) -> bool {
    let limits = Limits { hosts: None, seconds: None };
    let scenario = scenario::all().into_iter().find(|scenario| scenario.name == name);
    let plan = scenario.map_or_else(|| plan(seed, limits), |scenario| scenario.plan(seed));
    let mut well = false;
    run_all(std::iter::once(Job { seed, plan, broken: None }), 1, |done| {
        well = done.outcome.wrong.is_none();
        true
    });
    well
}
