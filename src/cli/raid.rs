//! `weft raid`: stripes, mirrors and concatenations.

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{Columns, Format, elements, number, print_json, text};
use super::session::Session;
use crate::base::Result;

/// Stripes, mirrors and concatenations.
#[derive(Debug, Subcommand)]
pub enum RaidCommand {
    /// Lists them with their legs and what is being rebuilt
    List,
}

impl RaidCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        let RaidCommand::List = self;
        let raids = session.call("bdev_raid_get_bdevs", json!({ "category": "all" }))?;
        match session.format() {
            Format::Json => print_json(&raids),
            Format::Text => println!("{}", list(&raids)),
        }
        Ok(())
    }
}

fn list(raids: &Value) -> String {
    let mut columns =
        Columns::new(&["name", "level", "state", "#strip", "legs", "base bdevs", "process"]);
    for raid in raids.as_array().into_iter().flatten() {
        let strip = number(raid, "strip_size_kb");
        let bases: Vec<String> = elements(raid, "base_bdevs_list").iter().map(base).collect();
        columns.row([
            text(raid, "name"),
            text(raid, "raid_level"),
            text(raid, "state"),
            if strip == 0 { "-".into() } else { format!("{strip} KiB") },
            format!(
                "{}/{}",
                number(raid, "num_base_bdevs_operational"),
                number(raid, "num_base_bdevs")
            ),
            bases.join(" "),
            process(raid.get("process")),
        ]);
    }
    columns.text()
}

fn base(base: &Value) -> String {
    let configured = base.get("is_configured").and_then(Value::as_bool).unwrap_or(false);
    let name = text(base, "name");
    if configured { name } else { format!("({name})") }
}

fn process(process: Option<&Value>) -> String {
    let Some(process) = process else { return "-".into() };
    let progress = process.get("progress").cloned().unwrap_or_default();
    format!(
        "{} {} {} %",
        text(process, "type"),
        text(process, "target"),
        number(&progress, "percent")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_leg_and_a_rebuild_show() {
        let raids = json!([{
            "name": "r", "raid_level": "raid1", "state": "online", "strip_size_kb": 0,
            "num_base_bdevs": 2, "num_base_bdevs_operational": 1,
            "base_bdevs_list": [
                {"name": "a", "is_configured": true},
                {"name": null, "is_configured": false},
            ],
            "process": {"type": "rebuild", "target": "b", "progress": {"blocks": 5, "percent": 42}},
        }]);
        let table = list(&raids);
        assert!(table.contains("1/2"), "{table}");
        assert!(table.contains("a (-)"), "{table}");
        assert!(table.contains("rebuild b 42 %"), "{table}");
    }
}
