//! The log: `tracing` records on standard error, with levels that RPC methods change.
//!
//! SPDK has five levels and so has `tracing`; they correspond one to one, though the names differ
//! below "warning".

use std::fmt;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::base::{Error, ErrorKind, Result};
use crate::rpc::{LogControl, LogLevel};

/// The parts whose details can be logged one by one: the modules of the library.
const PARTS: [&str; 8] = ["bdev", "daemon", "memory", "nvme", "reactor", "rpc", "vhost", "virtio"];

struct State {
    level: AtomicU8,
    print_level: AtomicU8,
    parts: [AtomicBool; PARTS.len()],
    timestamps: AtomicBool,
}

/// One log per process.
static STATE: State = State {
    level: AtomicU8::new(LogLevel::Notice as u8),
    print_level: AtomicU8::new(LogLevel::Notice as u8),
    parts: [const { AtomicBool::new(false) }; PARTS.len()],
    timestamps: AtomicBool::new(true),
};

const LEVELS: [LogLevel; 5] =
    [LogLevel::Error, LogLevel::Warning, LogLevel::Notice, LogLevel::Info, LogLevel::Debug];

fn load(level: &AtomicU8) -> LogLevel {
    LEVELS[usize::from(level.load(Ordering::Relaxed))]
}

fn severity(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warning,
        Level::INFO => LogLevel::Notice,
        Level::DEBUG => LogLevel::Info,
        Level::TRACE => LogLevel::Debug,
    }
}

/// Which of our modules a record comes from.
fn part_of(target: &str) -> Option<usize> {
    let module = target.strip_prefix("weft::")?.split("::").next()?;
    PARTS.iter().position(|part| *part == module)
}

struct Gate;

impl<S: Subscriber> Filter<S> for Gate {
    fn enabled(&self, metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        let level = severity(*metadata.level());
        if level <= load(&STATE.level).max(load(&STATE.print_level)) {
            return true;
        }
        part_of(metadata.target()).is_some_and(|part| STATE.parts[part].load(Ordering::Relaxed))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Flags and levels change while the daemon runs.
        Some(LevelFilter::TRACE)
    }
}

struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        if STATE.timestamps.load(Ordering::Relaxed) {
            SystemTime.format_time(writer)
        } else {
            Ok(())
        }
    }
}

/// Starts logging at `level`.
pub fn start(level: LogLevel) {
    STATE.level.store(level as u8, Ordering::Relaxed);
    STATE.print_level.store(level as u8, Ordering::Relaxed);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_timer(Clock)
        .with_filter(Gate);
    // Who embeds the daemon in a process that logs already keeps that log.
    tracing_subscriber::registry().with(layer).try_init().ok();
}

/// The control that RPC methods get.
pub struct Control;

impl LogControl for Control {
    fn level(&self) -> LogLevel {
        load(&STATE.level)
    }

    fn set_level(&self, level: LogLevel) {
        STATE.level.store(level as u8, Ordering::Relaxed);
    }

    fn print_level(&self) -> LogLevel {
        load(&STATE.print_level)
    }

    fn set_print_level(&self, level: LogLevel) {
        STATE.print_level.store(level as u8, Ordering::Relaxed);
    }

    fn flags(&self) -> Vec<(&'static str, bool)> {
        let on = STATE.parts.iter().map(|part| part.load(Ordering::Relaxed));
        PARTS.into_iter().zip(on).collect()
    }

    fn set_flag(&self, flag: &str, on: bool) -> Result<()> {
        let mut known = false;
        for (name, part) in PARTS.iter().zip(&STATE.parts) {
            if flag == "all" || flag == *name {
                part.store(on, Ordering::Relaxed);
                known = true;
            }
        }
        if known {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!("no part is named '{flag}' (there are: all, {})", PARTS.join(", ")),
        ))
    }

    fn set_timestamps(&self, on: bool) {
        STATE.timestamps.store(on, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_modules() {
        assert_eq!(part_of("weft::bdev::registry"), Some(0));
        assert_eq!(part_of("weft::bdevil"), None);
        assert_eq!(part_of("bdev"), None);
    }
}
