//! `weft reactor`: what the cores do.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{Columns, Format, elements, number, print_json, text};
use super::session::Session;
use crate::base::Result;

/// The reactors.
#[derive(Debug, Subcommand)]
pub enum ReactorCommand {
    /// Lists the reactors: how busy each is, and what it polls
    List,
}

impl ReactorCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        let ReactorCommand::List = self;
        let reactors = session.call("framework_get_reactors", json!({}))?;
        let pollers = session.call("thread_get_pollers", json!({}))?;
        match session.format() {
            Format::Json => print_json(&json!({"reactors": reactors, "pollers": pollers})),
            Format::Text => println!("{}", list(&reactors, &pollers)),
        }
        Ok(())
    }
}

fn list(reactors: &Value, pollers: &Value) -> String {
    let polled: BTreeMap<String, &Value> =
        elements(pollers, "threads").iter().map(|thread| (text(thread, "name"), thread)).collect();
    let mut columns =
        Columns::new(&["#core", "#numa", "#tid", "#busy %", "idle policy", "pollers"]);
    for reactor in elements(reactors, "reactors") {
        let (busy, idle) = (number(reactor, "busy"), number(reactor, "idle"));
        let share = 100.0 * busy as f64 / (busy + idle).max(1) as f64;
        let mut names = Vec::new();
        for thread in elements(reactor, "lw_threads") {
            let Some(thread) = polled.get(&text(thread, "name")) else { continue };
            for kind in ["active_pollers", "timed_pollers"] {
                names.extend(elements(thread, kind).iter().map(|poller| text(poller, "name")));
            }
        }
        columns.row([
            text(reactor, "lcore"),
            text(reactor, "numa_id"),
            text(reactor, "tid"),
            format!("{share:.1}"),
            text(reactor, "idle_policy"),
            names.join(" "),
        ]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pollers_are_listed_with_their_reactor() {
        let reactors = json!({"reactors": [{
            "lcore": 1, "numa_id": 0, "tid": 7, "busy": 25, "idle": 75, "idle_policy": "adaptive",
            "lw_threads": [{"name": "reactor_1"}],
        }]});
        let pollers = json!({"threads": [{
            "name": "reactor_1", "active_pollers": [{"name": "a"}], "timed_pollers": [{"name": "b"}],
        }]});
        let table = list(&reactors, &pollers);
        assert!(
            table.contains("25.0") && table.contains("adaptive") && table.contains("a b"),
            "{table}"
        );
    }
}
