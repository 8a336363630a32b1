//! What each command does. Exit codes: 0 all is well, 1 something was found, 2 the command line is wrong.

mod failover;
mod mutations;
mod replay;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft::mesh::mutations::Rule;

use crate::cli::{Command, Many, Shape};
use crate::jobs::{Job, run_all};
use crate::model;
use crate::plan::draw::{Limits, plan};
use crate::tally::Tally;

/// Does it.
pub fn execute(command: Command) -> ExitCode {
    let done = match command {
        Command::Run(many) => Ok(run(&many)),
        Command::Replay { seed, shape, show, rule, without, only, shrink } => {
            let is_left = |act: &usize| match only.is_empty() {
                true => !without.contains(act),
                false => only.contains(act),
            };
            rule_of(rule.as_deref())
                .and_then(|rule| replay::seed(seed, shape, &show, rule, is_left, shrink))
        }
        Command::Mutations { rule, seeds, from, jobs } => rule_of(rule.as_deref())
            .map(|rule| mutations::execute(rule, seeds, from, threads(jobs))),
        Command::Model { quick, traces } => return model::run(quick, traces),
        Command::Scenario { name, show, seed, rule } => rule_of(rule.as_deref())
            .and_then(|rule| replay::scenario(name.as_deref(), &show, seed, rule)),
        Command::Soak { hours, shape, jobs } => Ok(soak(hours, shape, threads(jobs))),
        Command::Failover { seeds, jobs } => Ok(failover::execute(seeds, threads(jobs))),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("weft-sim: {why}");
            ExitCode::from(2)
        }
    }
}

/// What a shape leaves to the seed.
fn limits(shape: Shape) -> Limits {
    let hosts = shape.nodes.map(|nodes| nodes as usize);
    Limits { hosts, seconds: shape.seconds, theme: shape.theme }
}

/// The command that runs a seed again.
fn replay_command(seed: u64, shape: Shape) -> String {
    let mut text = format!("cargo run --release -p weft-sim -- replay {seed}");
    if let Some(nodes) = shape.nodes {
        text += &format!(" --nodes {nodes}");
    }
    if let Some(seconds) = shape.seconds {
        text += &format!(" --seconds {seconds}");
    }
    if let Some(theme) = shape.theme {
        text += &format!(" --theme {theme:?}").to_lowercase();
    }
    text + " --story"
}

fn threads(jobs: Option<usize>) -> usize {
    jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1)
}

/// A seed that nobody has run yet, most likely. Short enough to be typed.
fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    crate::random::Random::new(since.as_nanos() as u64 ^ u64::from(std::process::id())).draw() >> 24
}

fn rule_of(name: Option<&str>) -> Result<Option<Rule>, String> {
    let Some(name) = name else { return Ok(None) };
    let is_it = |rule: &&Rule| format!("{rule:?}").eq_ignore_ascii_case(name);
    Rule::ALL
        .iter()
        .find(is_it)
        .copied()
        .map(Some)
        .ok_or_else(|| format!("there is no rule {name}"))
}

fn run(many: &Many) -> bool {
    let from = many.from.unwrap_or_else(fresh_seed);
    let (shape, limits) = (many.shape, limits(many.shape));
    let job = move |seed| Job { seed, plan: plan(seed, limits), broken: None };
    let mut tally = Tally::new();
    println!("seeds {from} to {}", from.saturating_add(many.seeds.saturating_sub(1)));
    run_all((from..from.saturating_add(many.seeds)).map(job), threads(many.jobs), |done| {
        tally.add(done, |seed| replay_command(seed, shape));
        true
    });
    tally.print();
    tally.wrong.is_empty()
}

fn soak(hours: f64, shape: Shape, threads: usize) -> bool {
    let until = Instant::now() + Duration::from_secs_f64(hours.max(0.0) * 3600.0);
    let limits = limits(shape);
    let job = move |seed| Job { seed, plan: plan(seed, limits), broken: None };
    let mut tally = Tally::new();
    run_all((fresh_seed()..).map(job), threads, |done| {
        tally.add(done, |seed| replay_command(seed, shape));
        Instant::now() < until
    });
    tally.print();
    tally.wrong.is_empty()
}
