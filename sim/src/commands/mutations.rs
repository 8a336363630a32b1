//! Breaks each rule in turn: a simulator that does not notice proves nothing.

use std::time::Instant;

use weft::mesh::mutations::Rule;

use crate::jobs::{Job, run_all};
use crate::plan::draw::{Limits, Theme, plan};
use crate::scenario;

/// How a broken rule was noticed.
struct Catch {
    tried: u64,
    by: String,
    why: String,
}

/// Breaks the rule, or each, until it is noticed or `seeds` seeds have been tried. Whether all were.
pub fn execute(rule: Option<Rule>, seeds: u64, from: u64, threads: usize) -> bool {
    let rules: Vec<Rule> = rule.map_or_else(|| Rule::ALL.to_vec(), |rule| vec![rule]);
    println!("| rule | caught by | in | runs | seconds |");
    println!("| --- | --- | --- | --- | --- |");
    let mut missed = 0;
    for rule in rules {
        let since = Instant::now();
        let caught = hunt(rule, seeds, from, threads);
        let seconds = since.elapsed().as_secs_f64();
        match caught {
            Some(Catch { tried, by, why }) => {
                let why = why.lines().next().unwrap_or_default().replace('|', "/");
                println!("| {rule:?} | {why} | {by} | {tried} | {seconds:.1} |");
            }
            None => {
                missed += 1;
                println!("| {rule:?} | **nothing** | – | {seeds} | {seconds:.1} |");
            }
        }
    }
    if missed > 0 {
        println!("{missed} broken rules were not noticed");
    }
    missed == 0
}

/// Seeds with which a rule's own scenario is played.
const SEEDS_OF_SCENARIO: u64 = 40;
/// Seeds that are tried for a violation of safety after the mesh has come to a stand without the rule.
const SEEDS_AFTER_STALL: u64 = 100;

/// Looks for a run that goes wrong without the rule, and well with it. One in which something false was said counts more than one that came to a
/// stand: that is taken only if no other is found soon after.
fn hunt(rule: Rule, seeds: u64, from: u64, threads: usize) -> Option<Catch> {
    // The rule's own scenario first, then whatever the seeds bring.
    let own = scenario::all().into_iter().filter(move |scenario| scenario.rule == Some(rule));
    let job = |scenario: &scenario::Scenario, seed| Job {
        seed,
        plan: scenario.plan(seed),
        broken: Some(rule),
    };
    let jobs: Vec<Job> =
        own.flat_map(|it| (1..=SEEDS_OF_SCENARIO).map(move |seed| job(&it, seed))).collect();
    let drawn = (from..from.saturating_add(seeds)).map(move |seed| Job {
        seed,
        plan: plan(seed, limits(seed)),
        broken: Some(rule),
    });
    let mut stalled: Option<Catch> = None;
    let mut false_said = None;
    let mut tried = 0;
    run_all(jobs.into_iter().chain(drawn), threads, |done| {
        tried += 1;
        let is_enough = |stalled: &Option<Catch>| {
            stalled.as_ref().is_some_and(|first| tried > first.tried + SEEDS_AFTER_STALL)
        };
        let Some(why) = done.outcome.wrong else {
            return false_said.is_none() && !is_enough(&stalled);
        };
        let is_stall = is_stall(&why);
        if (is_stall && stalled.is_some()) || !is_well_unbroken(&done.name, done.seed) {
            return false_said.is_none() && !is_enough(&stalled);
        }
        let by = match scenario::all().iter().any(|scenario| scenario.name == done.name) {
            true => format!("`scenario {} --seed {}`", done.name, done.seed),
            false if limits(done.seed).theme.is_some() => {
                format!("`replay {} --theme narrow`", done.seed)
            }
            false => format!("`replay {}` ({})", done.seed, done.name),
        };
        if is_stall { &mut stalled } else { &mut false_said }.get_or_insert(Catch {
            tried,
            by,
            why,
        });
        false_said.is_none() && !is_enough(&stalled)
    });
    false_said.or(stalled)
}

/// Every other plan is a narrow one.
fn limits(seed: u64) -> Limits {
    let theme = seed.is_multiple_of(2).then_some(Theme::Narrow);
    Limits { theme, ..Limits::default() }
}

/// Whether a run only came to a stand.
fn is_stall(why: &str) -> bool {
    const STALLS: [&str; 5] =
        ["the mesh is not whole", "a storm", "the last clients cannot", "does not end", "stalled"];
    STALLS.iter().any(|stall| why.starts_with(stall))
}

/// Whether the same run goes well when no rule is broken: otherwise it tells nothing of the rule.
fn is_well_unbroken(name: &str, seed: u64) -> bool {
    let scenario = scenario::all().into_iter().find(|scenario| scenario.name == name);
    let plan = scenario.map_or_else(|| plan(seed, limits(seed)), |scenario| scenario.plan(seed));
    let mut well = false;
    run_all(std::iter::once(Job { seed, plan, broken: None }), 1, |done| {
        well = done.outcome.wrong.is_none();
        true
    });
    well
}
