//! `weft iostat`: what the devices do, live.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::output::{
    Columns, Format, elements, number, print_json, short_count, short_micros, text,
};
use super::session::Session;
use crate::base::{Error, Result};

/// Shows operations, throughput and latency of devices as rates over an interval
#[derive(Debug, Args)]
pub struct IostatCommand {
    /// Devices to show (all when none is named)
    names: Vec<String>,
    /// Seconds between two readings
    #[arg(short, long, default_value_t = 1.0)]
    interval: f64,
    /// How many readings to show (until interrupted when not given)
    #[arg(short, long)]
    count: Option<u64>,
    /// Shows totals since the start instead of rates, once
    #[arg(short, long)]
    total: bool,
}

impl IostatCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the daemon answers; an interval that is no positive number of seconds.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        let interval = Duration::try_from_secs_f64(self.interval)
            .ok()
            .filter(|interval| !interval.is_zero())
            .ok_or_else(|| Error::invalid("--interval takes a positive number of seconds"))?;
        let mut before = self.read(session)?;
        if self.total {
            return self.print(session, &Value::Null, &before);
        }
        let mut shown = 0;
        while self.count.is_none_or(|count| shown < count) {
            thread::sleep(interval);
            let now = self.read(session)?;
            if shown > 0 && session.format() == Format::Text {
                println!();
            }
            self.print(session, &before, &now)?;
            // A reader that goes away (`| head`) ends the loop.
            if std::io::stdout().flush().is_err() {
                break;
            }
            before = now;
            shown += 1;
        }
        Ok(())
    }

    fn read(&self, session: &mut Session) -> Result<Value> {
        let params = if self.names.is_empty() { json!({}) } else { json!({ "names": self.names }) };
        session.call("bdev_get_iostat", params)
    }

    fn print(&self, session: &Session, before: &Value, now: &Value) -> Result<()> {
        let rates = rates(before, now);
        match session.format() {
            Format::Json => {
                print_json(&json!(rates.iter().map(Rates::json).collect::<Vec<_>>()));
            }
            Format::Text => println!("{}", table(&rates, before.is_null())),
        }
        Ok(())
    }
}

/// What one device did between two readings, or since its start (then per second of 1 s).
struct Rates {
    name: String,
    /// Read, write, unmap: operations and bytes per second, mean latency in µs.
    kinds: [(f64, f64, f64); 3],
    errors: u64,
}

impl Rates {
    fn json(&self) -> Value {
        let kind = |(ops, bytes, micros): (f64, f64, f64)| json!({"iops": ops, "bytes_per_s": bytes, "latency_us": micros});
        json!({
            "name": self.name,
            "read": kind(self.kinds[0]),
            "write": kind(self.kinds[1]),
            "unmap": kind(self.kinds[2]),
            "errors": self.errors,
        })
    }
}

fn rates(before: &Value, now: &Value) -> Vec<Rates> {
    let tick_rate = number(now, "tick_rate").max(1) as f64;
    let seconds = if before.is_null() {
        1.0
    } else {
        (number(now, "ticks").saturating_sub(number(before, "ticks")) as f64 / tick_rate).max(1e-9)
    };
    let earlier: BTreeMap<String, &Value> =
        elements(before, "bdevs").iter().map(|bdev| (text(bdev, "name"), bdev)).collect();
    let rates_of = |bdev: &Value| {
        let name = text(bdev, "name");
        let base = earlier.get(&name).copied().unwrap_or(&Value::Null);
        let grown = |field: &str| number(bdev, field).saturating_sub(number(base, field)) as f64;
        let kind = |ops: &str, bytes: &str, ticks: &str| {
            let count = grown(ops);
            let micros = if count > 0.0 { grown(ticks) / count / tick_rate * 1e6 } else { 0.0 };
            (count / seconds, grown(bytes) / seconds, micros)
        };
        let errors = bdev.get("io_error").and_then(Value::as_object);
        Rates {
            kinds: [
                kind("num_read_ops", "bytes_read", "read_latency_ticks"),
                kind("num_write_ops", "bytes_written", "write_latency_ticks"),
                kind("num_unmap_ops", "bytes_unmapped", "unmap_latency_ticks"),
            ],
            errors: errors.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum(),
            name,
        }
    };
    elements(now, "bdevs").iter().map(rates_of).collect()
}

fn table(rates: &[Rates], totals: bool) -> String {
    let headings = if totals {
        ["name", "#reads", "#read MiB", "#µs", "#writes", "#write MiB", "#µs", "#unmaps", "#errors"]
    } else {
        ["name", "#r/s", "#r MiB/s", "#µs", "#w/s", "#w MiB/s", "#µs", "#unmap/s", "#errors"]
    };
    let mut columns = Columns::new(&headings);
    let mebibytes = |bytes: f64| format!("{:.1}", bytes / 1_048_576.0);
    for device in rates {
        let [read, write, unmap] = device.kinds;
        columns.row([
            device.name.clone(),
            short_count(read.0),
            mebibytes(read.1),
            short_micros(read.2),
            short_count(write.0),
            mebibytes(write.1),
            short_micros(write.2),
            short_count(unmap.0),
            device.errors.to_string(),
        ]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(ticks: u64, reads: u64, latency: u64) -> Value {
        json!({"tick_rate": 1_000_000, "ticks": ticks, "bdevs": [{
            "name": "m", "num_read_ops": reads, "bytes_read": reads * 4096,
            "read_latency_ticks": latency, "io_error": {"Write Fault": 2},
        }]})
    }

    #[test]
    fn rates_are_differences_over_the_interval() {
        let rates = rates(&reading(1_000_000, 100, 1000), &reading(3_000_000, 2100, 21_000));
        let (ops, bytes, micros) = rates[0].kinds[0];
        assert_eq!((ops, bytes, micros), (1000.0, 4_096_000.0, 10.0));
        assert_eq!(rates[0].errors, 2);
        assert!(table(&rates, false).contains("1.00k"));
    }

    #[test]
    fn a_device_that_is_new_or_was_reset_gives_no_nonsense() {
        let fresh = rates(&json!({"bdevs": [], "ticks": 0}), &reading(1_000_000, 10, 10));
        assert_eq!(fresh[0].kinds[0].0, 10.0);
        let reset = rates(&reading(0, 500, 500), &reading(1_000_000, 10, 10));
        assert_eq!(reset[0].kinds[0].0, 0.0);
    }
}
