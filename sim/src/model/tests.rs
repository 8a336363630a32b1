use super::{
    check::{Limits, Outcome, check},
    scope::{Mutations, Scope},
};

const LIMITS: Limits = Limits { states: 2_000_000, shortest: true };

/// An eviction, a preempting attach, one write.
const FAILOVER: Scope = Scope::of([2, 2, 1, 1, 0, 1, 0, 0, 2]);
/// An eviction and a resync with one client and two writes.
const RESYNC: Scope = Scope::of([2, 3, 2, 1, 1, 0, 0, 0, 1]);

fn holds(scope: Scope) -> Outcome {
    let outcome = check(scope, Mutations::default(), LIMITS);
    assert_eq!(outcome.violation, None);
    assert!(outcome.complete, "{} states were not enough", outcome.states);
    outcome
}

fn property_that_fails(name: &str) -> &'static str {
    let (_, scope, mutations) =
        Mutations::each().into_iter().find(|(known, ..)| *known == name).unwrap();
    let outcome = check(scope, mutations, LIMITS);
    outcome.violation.unwrap_or_else(|| panic!("{name} was not noticed")).property
}

#[test]
fn a_resync_under_writes_is_safe_and_ends() {
    let outcome = holds(RESYNC);
    assert!(outcome.reached.contains(&"reads after a resync"), "{:?}", outcome.reached);
}

#[test]
fn a_failover_is_safe_with_the_wait_and_with_fast_fencing() {
    holds(FAILOVER);
    let fast = holds(FAILOVER.fast());
    assert!(fast.reached.contains(&"acknowledges without a replica that does not know"));
}

#[test]
fn fast_fencing_needs_the_confirmation_of_the_attachment() {
    let mutations = Mutations { unconfirmed_fast: true, ..Mutations::default() };
    let violation = check(FAILOVER.fast(), mutations, LIMITS).violation.unwrap();
    assert_eq!(violation.property, "one epoch serves");
    assert!(violation.trace.iter().any(|line| line.contains("attach Y")), "{violation:?}");
}

#[test]
fn broken_rules_of_a_resync_are_noticed() {
    for name in ["no_record", "no_hold", "marks_early", "clear_while_stale", "mixed_epochs"] {
        assert_eq!(property_that_fails(name), "nothing acknowledged is lost", "{name}");
    }
}

#[test]
fn an_old_queue_that_lands_after_the_copy_is_noticed() {
    property_that_fails("source_undrained");
    property_that_fails("joiner_undrained");
}
