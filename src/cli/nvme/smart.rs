//! `weft nvme smart`: the health of a drive.

use clap::Args;
use serde_json::{Value, json};

use crate::base::{ByteCount, Result, format_size};
use crate::cli::output::{Columns, Format, print_json, text};
use crate::cli::session::Session;

/// Shows the health of a drive: wear, spare blocks, temperature, errors
#[derive(Debug, Args)]
pub struct SmartCommand {
    /// Controller of the daemon
    controller: String,
}

impl SmartCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        let name = json!({ "name": self.controller });
        let health = session.call("bdev_nvme_get_controller_health_info", name)?;
        match session.format() {
            Format::Json => print_json(&health),
            Format::Text => println!("{}", table(&health)),
        }
        Ok(())
    }
}

/// Bits of Critical Warning (Base Specification, section 5.16.1.3, figure 207).
const WARNINGS: [&str; 6] = [
    "spare blocks below the threshold",
    "temperature beyond a threshold",
    "reliability degraded by errors",
    "READ-ONLY",
    "backup of the volatile memory failed",
    "persistent memory unreliable",
];

fn warnings(bits: u64) -> String {
    let set = (0..8).filter(|bit| bits >> bit & 1 != 0);
    let texts: Vec<String> = set
        .map(|bit| WARNINGS.get(bit).map_or_else(|| format!("bit {bit}"), |text| (*text).into()))
        .collect();
    if texts.is_empty() { "none".into() } else { texts.join(", ") }
}

/// A field as people read it.
fn value(health: &Value, field: &str) -> String {
    let plain = text(health, field);
    let number = health[field].as_u64();
    match (field, number) {
        ("critical_warning", Some(bits)) => warnings(bits),
        // Thousands of 512 bytes; a drive may count further than a u64 of bytes.
        ("data_units_read" | "data_units_written", Some(units)) => {
            format_size(ByteCount(units.saturating_mul(512_000)))
        }
        ("temperature_celsius", Some(_)) => format!("{plain} °C"),
        (field, Some(_)) if field.contains("percentage") => format!("{plain} %"),
        ("controller_busy_time", Some(_)) => format!("{plain} min"),
        (field, Some(_)) if field.ends_with("_time_minutes") => format!("{plain} min"),
        ("power_on_hours", Some(_)) => format!("{plain} h"),
        _ => plain,
    }
}

fn table(health: &Value) -> String {
    let mut columns = Columns::new(&["field", "value"]);
    for field in health.as_object().into_iter().flat_map(|fields| fields.keys()) {
        let name = field
            .trim_end_matches("_celsius")
            .trim_end_matches("_minutes")
            .replace("_percentage", "")
            .replace('_', " ");
        columns.row([name, value(health, field)]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_has_units() {
        let health = json!({
            "model_number": "X", "critical_warning": 9, "temperature_celsius": 41,
            "available_spare_percentage": 99, "percentage_used": 3, "data_units_read": 2_097_152,
            "power_on_hours": 12, "warning_temperature_time_minutes": 4, "media_errors": 0,
        });
        let table = table(&health);
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect())
            .collect();
        let cell = |name: &str| {
            let line = lines.iter().find(|line| line[0].trim() == name);
            line.map(|line| line[1].trim().to_owned()).unwrap_or_else(|| panic!("{name}: {table}"))
        };
        assert_eq!(cell("critical warning"), "spare blocks below the threshold, READ-ONLY");
        assert_eq!(cell("temperature"), "41 °C");
        assert_eq!(cell("available spare"), "99 %");
        assert_eq!(cell("percentage used"), "3 %");
        assert_eq!(cell("data units read"), "1000 GiB");
        assert_eq!(cell("power on hours"), "12 h");
        assert_eq!(cell("warning temperature time"), "4 min");
        assert_eq!(cell("media errors"), "0");
    }

    #[test]
    fn no_warning_says_so() {
        assert_eq!(warnings(0), "none");
        assert_eq!(warnings(1 << 7), "bit 7");
    }
}
