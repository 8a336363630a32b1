//! `weft bdev`: the devices.

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{Columns, Format, elements, number, print_json, text};
use super::session::Session;
use crate::base::{ByteCount, Result, format_size};

/// The devices of the daemon.
#[derive(Debug, Subcommand)]
pub enum BdevCommand {
    /// Lists all devices
    List,
    /// Shows everything about one device
    Show {
        /// Name or UUID
        name: String,
    },
}

impl BdevCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        match self {
            BdevCommand::List => {
                let bdevs = session.call("bdev_get_bdevs", json!({}))?;
                match session.format() {
                    Format::Json => print_json(&bdevs),
                    Format::Text => println!("{}", list(&bdevs)),
                }
            }
            BdevCommand::Show { name } => {
                let bdevs = session.call("bdev_get_bdevs", json!({ "name": name }))?;
                match session.format() {
                    Format::Json => print_json(&bdevs),
                    Format::Text => bdevs.as_array().into_iter().flatten().for_each(show),
                }
            }
        }
        Ok(())
    }
}

fn capacity(bdev: &Value) -> String {
    format_size(ByteCount(number(bdev, "num_blocks") * number(bdev, "block_size")))
}

fn claim(bdev: &Value) -> String {
    let claimed = bdev.get("claimed").and_then(Value::as_bool).unwrap_or(false);
    if claimed { text(bdev, "claim_type") } else { "-".into() }
}

fn list(bdevs: &Value) -> String {
    let mut columns = Columns::new(&["name", "product", "#size", "#block", "claim", "uuid"]);
    for bdev in bdevs.as_array().into_iter().flatten() {
        columns.row([
            text(bdev, "name"),
            text(bdev, "product_name"),
            capacity(bdev),
            text(bdev, "block_size"),
            claim(bdev),
            text(bdev, "uuid"),
        ]);
    }
    columns.text()
}

fn show(bdev: &Value) {
    let mut columns = Columns::new(&["field", "value"]);
    let mut row = |field: &str, value: String| columns.row([field.into(), value]);
    for field in ["name", "product_name", "uuid", "block_size", "num_blocks"] {
        row(field, text(bdev, field));
    }
    row("size", capacity(bdev));
    row("claim", claim(bdev));
    row("aliases", joined(elements(bdev, "aliases")));
    if let Some(types) = bdev.get("supported_io_types").and_then(Value::as_object) {
        let supported: Vec<&str> = types
            .iter()
            .filter(|(_, supported)| supported.as_bool() == Some(true))
            .map(|(name, _)| name.as_str())
            .collect();
        row("io_types", supported.join(" "));
    }
    for (group, values) in
        [("limit", bdev.get("assigned_rate_limits")), ("driver", bdev.get("driver_specific"))]
    {
        for (field, value) in values.and_then(Value::as_object).into_iter().flatten() {
            row(&format!("{group}.{field}"), value.to_string());
        }
    }
    println!("{}", columns.text());
}

fn joined(values: &[Value]) -> String {
    let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
    if texts.is_empty() { "-".into() } else { texts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_shows_sizes_and_claims() {
        let bdevs = json!([
            {"name": "m0", "product_name": "Malloc disk", "block_size": 4096, "num_blocks": 8192,
             "uuid": "u0", "claimed": true, "claim_type": "exclusive_write"},
            {"name": "n", "product_name": "Null disk", "block_size": 512, "num_blocks": 3,
             "uuid": "u1", "claimed": false},
        ]);
        let lines: Vec<String> = list(&bdevs).lines().map(str::to_string).collect();
        assert!(lines[1].contains("32 MiB") && lines[1].contains("exclusive_write"), "{lines:?}");
        assert!(lines[2].contains("1.5 KiB") && lines[2].contains(" - "), "{lines:?}");
    }
}
