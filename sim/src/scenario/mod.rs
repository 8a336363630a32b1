//! Runs written by hand: each shows one thing.

mod failovers;
mod rules;
mod script;
mod shapes;

use weft::mesh::mutations::Rule;

use crate::plan::Plan;

pub use failovers::{Kind, failover};
pub use script::Script;

/// A scenario.
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// The rule without which it goes wrong.
    pub rule: Option<Rule>,
    script: fn(Script) -> Script,
}

impl Scenario {
    /// What happens in it.
    pub fn plan(&self, seed: u64) -> Plan {
        (self.script)(Script::new(self.name, seed)).plan()
    }
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    let mut all = shapes::all();
    all.extend(failovers::all());
    all.extend(rules::all());
    all
}
