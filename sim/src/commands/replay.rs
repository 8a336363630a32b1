//! One run again, with its story.

use std::fs;

use weft::mesh::mutations::Rule;

use super::{limits, replay_command};
use crate::cli::{Shape, Show};
use crate::jobs;
use crate::plan::{Plan, draw};
use crate::run::Outcome;
use crate::scenario;
use crate::story::{Recorder, html, timeline};
use crate::tally::ms;

/// Runs a seed again.
///
/// # Errors
/// The page cannot be written.
pub fn seed(
    seed: u64,
    shape: Shape,
    show: &Show,
    rule: Option<Rule>,
    is_left: impl Fn(&usize) -> bool,
    shrink: bool,
) -> Result<bool, String> {
    let mut plan = draw::plan(seed, limits(shape));
    let acts = std::mem::take(&mut plan.acts).into_iter().enumerate();
    let acts: Vec<_> = acts.filter(|(at, _)| is_left(at)).collect();
    let numbers: Vec<usize> = acts.iter().map(|(at, _)| *at).collect();
    plan.acts = acts.into_iter().map(|(_, act)| act).collect();
    if shrink {
        let left_out = shrunk(&plan, rule);
        let kept = (0..numbers.len()).filter(|at| !left_out.contains(at));
        let kept: Vec<String> = kept.map(|at| numbers[at].to_string()).collect();
        println!("{} --only {}", replay_command(seed, shape), kept.join(","));
        let acts = std::mem::take(&mut plan.acts).into_iter().enumerate();
        plan.acts = acts.filter(|(at, _)| !left_out.contains(at)).map(|(_, act)| act).collect();
    }
    let about = format!("Seed {seed}, drawn from the mix of faults that is called {}.", plan.name);
    play(plan, &about, show, rule)
}

/// Plays a scenario, all of them, or lists them.
///
/// # Errors
/// There is no such scenario, or the page cannot be written.
pub fn scenario(
    name: Option<&str>,
    show: &Show,
    seed: u64,
    rule: Option<Rule>,
) -> Result<bool, String> {
    let all = scenario::all();
    match name.unwrap_or("list") {
        "list" => {
            for scenario in all {
                println!("{:<24} {}", scenario.name, scenario.about);
            }
            Ok(true)
        }
        "all" => Ok(all.into_iter().fold(true, |well, scenario| {
            let name = scenario.name;
            let outcome = jobs::run(scenario.plan(seed), rule, None);
            let longest = ms(outcome.longest);
            match &outcome.wrong {
                None => println!("{name:<24} well; longest stall {longest} ms"),
                Some(why) => println!("{name:<24} WRONG: {why}"),
            }
            well && outcome.wrong.is_none()
        })),
        name => {
            let found = all.into_iter().find(|scenario| scenario.name == name);
            let scenario = found.ok_or_else(|| format!("there is no scenario {name}"))?;
            println!("{}: {}\n", scenario.name, scenario.about);
            let show = Show { story: true, messages: show.messages, html: show.html.clone() };
            play(scenario.plan(seed), scenario.about, &show, rule)
        }
    }
}

fn play(plan: Plan, about: &str, show: &Show, rule: Option<Rule>) -> Result<bool, String> {
    let recorder = (show.story || show.html.is_some())
        .then(|| Recorder::new(show.html.is_some() || show.messages));
    let (name, hosts) = (plan.name.clone(), plan.hosts);
    for (at, (time, act)) in plan.acts.iter().enumerate().filter(|_| show.story) {
        println!("act {at:>3} at {:>8.3} s: {act}", *time as f64 / 1e9);
    }
    let outcome = jobs::run(plan, rule, recorder);
    if let Some(story) = outcome.story.as_ref().filter(|_| show.story) {
        print!("{}", timeline::text(story, show.messages));
    }
    if let (Some(file), Some(story)) = (&show.html, &outcome.story) {
        let page = html::page(&name, about, hosts, story, outcome.wrong.as_deref());
        fs::write(file, page).map_err(|why| format!("{}: {why}", file.display()))?;
    }
    print(&outcome);
    Ok(outcome.wrong.is_none())
}

fn print(outcome: &Outcome) {
    println!(
        "{:.3} virtual seconds, {} events, {} requests answered, longest {} ms, digest {:016x}",
        outcome.lasted as f64 / 1e9,
        outcome.steps,
        outcome.answered,
        ms(outcome.longest),
        outcome.digest
    );
    match &outcome.wrong {
        None => println!("all is well"),
        Some(why) => println!("WRONG: {why}"),
    }
}

/// Acts that are not needed for the run to go wrong.
fn shrunk(plan: &Plan, rule: Option<Rule>) -> Vec<usize> {
    let kind = |outcome: Outcome| {
        let why = outcome.wrong.unwrap_or_default();
        why.chars().take_while(|letter| !letter.is_ascii_digit()).collect::<String>()
    };
    let wanted = kind(jobs::run(plan.clone(), rule, None));
    let fails = |left_out: &[usize]| {
        let mut plan = plan.clone();
        let acts = std::mem::take(&mut plan.acts).into_iter().enumerate();
        plan.acts = acts.filter(|(at, _)| !left_out.contains(at)).map(|(_, act)| act).collect();
        !wanted.is_empty() && kind(jobs::run(plan, rule, None)) == wanted
    };
    let mut left_out: Vec<usize> = Vec::new();
    let mut size = plan.acts.len().div_ceil(2);
    while size > 0 {
        let kept: Vec<usize> = (0..plan.acts.len()).filter(|at| !left_out.contains(at)).collect();
        for some in kept.chunks(size) {
            let mut more = left_out.clone();
            more.extend(some);
            if fails(&more) {
                left_out = more;
            }
        }
        size /= 2;
    }
    left_out.sort_unstable();
    left_out
}
