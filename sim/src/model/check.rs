//! One check: every state of a scope, with stateright.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{
    rules::Rules,
    scope::{Mutations, Scope},
    state::State,
    step::{Step, with_rules},
    story,
};

/// Where a check gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Transitions to look at.
    pub states: usize,
    /// Whether to look for the shortest counter-example; this needs more memory.
    pub shortest: bool,
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Transitions that were taken.
    pub states: usize,
    /// Different states that were reached.
    pub unique: usize,
    /// Steps of the longest path that was followed.
    pub depth: usize,
    /// Whether every state of the scope was reached.
    pub complete: bool,
    /// The property that failed, and the steps that lead there.
    pub violation: Option<Violation>,
    /// Names of the interesting situations that were reached.
    pub reached: Vec<&'static str>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A counter-example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property that does not hold.
    pub property: &'static str,
    /// The steps to it, one line each.
    pub trace: Vec<String>,
}

/// The protocol's core in one scope, for stateright.
#[derive(Clone, Copy, Debug)]
struct Core {
    scope: Scope,
    mutations: Mutations,
}

impl Core {
    fn with<T>(&self, state: &State, work: impl FnOnce(&Rules<'_>) -> T) -> T {
        with_rules(state, &self.scope, &self.mutations, work)
    }
}

impl Model for Core {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::initial()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.with(state, |rules| rules.steps(actions));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        Some(self.with(state, |rules| rules.after(step)))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = Property::<Self>::always;
        let sometimes = Property::<Self>::sometimes;
        vec![
            always("no stale read", |core, state| core.with(state, |r| r.no_stale_read())),
            always("nothing acknowledged is lost", |core, state| {
                core.with(state, |r| r.nothing_lost())
            }),
            always("one epoch serves", |core, state| core.with(state, |r| r.one_epoch_serves())),
            always("replicas converge", |core, state| core.with(state, |r| r.converged())),
            sometimes("reads after a resync", |core, state| {
                core.with(state, |r| r.reads_after_resync())
            }),
            sometimes("reads after a reconcile round", |core, state| {
                core.with(state, |r| r.reads_after_reconcile())
            }),
            sometimes("acknowledges without a replica that does not know", |core, state| {
                core.with(state, |r| r.acknowledges_without())
            }),
        ]
    }
}

/// Explores `scope` without the rules that `mutations` names, up to `limits`.
pub fn check(scope: Scope, mutations: Mutations, limits: Limits) -> Outcome {
    let core = Core { scope, mutations };
    let begin = Instant::now();
    let builder = core
        .checker()
        .threads(1)
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(limits.states);
    if limits.shortest {
        outcome(&core, builder.spawn_bfs().join(), limits, begin)
    } else {
        outcome(&core, builder.spawn_dfs().join(), limits, begin)
    }
}

fn outcome(core: &Core, checker: impl Checker<Core>, limits: Limits, begin: Instant) -> Outcome {
    let seconds = begin.elapsed();
    let mut violation = None;
    let mut reached = Vec::new();
    for (property, path) in checker.discoveries() {
        let kind = core.property(property).expectation;
        if kind == stateright::Expectation::Sometimes {
            reached.push(property);
            continue;
        }
        let trace: Vec<_> = path.into_actions().into_iter().map(story::line).collect();
        let shorter = |old: &Violation| old.trace.len() <= trace.len();
        if !violation.as_ref().is_some_and(shorter) {
            violation = Some(Violation { property, trace });
        }
    }
    reached.sort_unstable();
    let within = checker.state_count() < limits.states;
    Outcome {
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        complete: within && violation.is_none(),
        violation,
        reached,
        seconds: seconds.as_secs_f64(),
    }
}
