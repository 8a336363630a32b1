//! The checks that belong together: scopes in which nothing may fail, and broken rules that must
//! be noticed.

use std::process::ExitCode;

use super::{
    check::{Limits, Outcome, check},
    scope::{Mutations, Scope},
};

/// Most transitions of one check in the bounded suite.
const BOUNDED: usize = 3_000_000;
/// Most transitions of a check for one mutation.
const MUTATED: usize = 40_000_000;
/// Most transitions of one check of the full suite.
const FULL: usize = 400_000_000;

/// One check of the suite and what came of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The broken rule; `None` for a scope in which nothing may fail.
    pub mutation: Option<&'static str>,
    /// What was explored.
    pub scope: Scope,
    /// What was found.
    pub outcome: Outcome,
    /// Whether that is what must be found: a violation exactly where a rule is broken.
    pub expected: bool,
}

/// The scopes without a broken rule: counts in the order of [`Scope`]'s fields. The ones before
/// `BOUNDED_SCOPES` are small enough for every push.
const SCOPES: [[u8; 9]; 8] = [
    [2, 3, 2, 1, 1, 0, 0, 0, 1],
    [2, 2, 1, 1, 0, 1, 0, 0, 2],
    [2, 3, 1, 1, 1, 1, 0, 0, 2],
    [2, 4, 2, 1, 1, 0, 1, 0, 1],
    [3, 3, 1, 1, 1, 0, 1, 0, 1],
    [2, 4, 2, 2, 1, 1, 0, 0, 1],
    [2, 4, 1, 2, 1, 1, 0, 0, 2],
    [2, 3, 2, 1, 1, 1, 0, 0, 2],
];
/// How many of the scopes belong to the bounded suite.
const BOUNDED_SCOPES: usize = 3;

/// Runs every check, one after the other, and hands each row to `report` when it is done.
pub fn suite(bounded: bool, mut report: impl FnMut(&Row)) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |mutation, scope, outcome: Outcome| {
        let expected = match mutation {
            Some(_) => outcome.violation.is_some(),
            None => outcome.complete && reaches(scope, &outcome),
        };
        let row = Row { mutation, scope, outcome, expected };
        report(&row);
        rows.push(row);
    };
    let count = if bounded { BOUNDED_SCOPES } else { SCOPES.len() };
    for counts in &SCOPES[..count] {
        let slow = Scope::of(*counts);
        for scope in [slow, slow.fast()] {
            let states = if bounded { BOUNDED * 4 } else { FULL };
            let limits = Limits { states, shortest: false };
            add(None, scope, check(scope, Mutations::default(), limits));
        }
    }
    for (name, scope, mutations) in Mutations::each() {
        if bounded && Mutations::DEEP.contains(&name) {
            continue;
        }
        let scope = if mutations.unconfirmed_fast { scope.fast() } else { scope };
        let states = if bounded { BOUNDED } else { MUTATED };
        add(
            Some(name),
            scope,
            check(scope, mutations, Limits { states, shortest: !mutations.union_not_merged }),
        );
    }
    rows
}

/// Whether a check reached what makes its scope worth checking; without that it proves nothing.
fn reaches(scope: Scope, outcome: &Outcome) -> bool {
    let reached = |name: &str| outcome.reached.contains(&name);
    (scope.begins == 0 || reached("reads after a resync"))
        && (scope.attaches == 0 || reached("reads after a reconcile round"))
        && (!scope.fast || reached("acknowledges without a replica that does not know"))
}

/// Runs the suite and prints it; `quick` runs the bounded one, `traces` prints counter-examples.
pub fn run(quick: bool, traces: bool) -> ExitCode {
    println!(
        "{:<22} {:<36} {:>11} {:>11} {:>6} {:>8}  found",
        "broken rule", "scope", "states", "transitions", "depth", "seconds"
    );
    let rows = suite(quick, |row| print(row, traces));
    let wrong = rows.iter().filter(|row| !row.expected).count();
    println!("{} checks, {wrong} not as expected", rows.len());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(row: &Row, traces: bool) {
    let outcome = &row.outcome;
    let found = match &outcome.violation {
        Some(violation) => format!("{} in {} steps", violation.property, violation.trace.len()),
        None if outcome.complete => "nothing, complete".to_owned(),
        None => "nothing, stopped at its limit".to_owned(),
    };
    println!(
        "{:<22} {:<36} {:>11} {:>11} {:>6} {:>8.1}  {found}{}",
        row.mutation.unwrap_or("none"),
        row.scope.to_string(),
        outcome.unique,
        outcome.states,
        outcome.depth,
        outcome.seconds,
        if row.expected { "" } else { "  <- NOT AS EXPECTED" },
    );
    let wanted = traces || row.mutation.is_none();
    for line in outcome.violation.iter().filter(|_| wanted).flat_map(|found| &found.trace) {
        println!("    {line}");
    }
}
