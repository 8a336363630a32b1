//! The log. Weft has one, on standard error (which systemd takes to the journal), where SPDK has
//! two: so a record is written when either level admits it.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{NoParams, param_enum, params};
use crate::rpc::services::{LogLevel, Services};

methods! {
    /// Sets the least severe level that is logged.
    Any fn log_set_level(SetLevel) -> "`true`.";
    /// Tells the least severe level that is logged.
    Any fn log_get_level(NoParams) -> "the level's name.";
    /// Sets the least severe level that is printed. Weft prints what it logs: the more talkative of
    /// this and the other level counts.
    Any fn log_set_print_level(SetLevel) -> "`true`.";
    /// Tells the level that `log_set_print_level` sets.
    Any fn log_get_print_level(NoParams) -> "the level's name.";
    /// Has the details (level DEBUG) of one part of the daemon logged.
    Any fn log_set_flag(Flag) -> "`true`.";
    /// Undoes `log_set_flag`.
    Any fn log_clear_flag(Flag) -> "`true`.";
    /// Lists the parts of the daemon whose details can be logged.
    Any fn log_get_flags(NoParams) -> "an object: each part's name, and whether it is set.";
    /// Has records carry the time, or not.
    Runtime fn log_enable_timestamps(EnableTimestamps) -> "`true`.";
}

param_enum! {
    /// SPDK's names of the levels.
    enum Level {
        /// Errors.
        Error = "ERROR",
        /// Warnings.
        Warning = "WARNING",
        /// Notices.
        Notice = "NOTICE",
        /// What is being done.
        Info = "INFO",
        /// Details.
        Debug = "DEBUG",
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> LogLevel {
        match level {
            Level::Error => LogLevel::Error,
            Level::Warning => LogLevel::Warning,
            Level::Notice => LogLevel::Notice,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
        }
    }
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Level {
        match level {
            LogLevel::Error => Level::Error,
            LogLevel::Warning => Level::Warning,
            LogLevel::Notice => Level::Notice,
            LogLevel::Info => Level::Info,
            LogLevel::Debug => Level::Debug,
        }
    }
}

params! {
    /// Of the methods that set a level.
    struct SetLevel {
        /// The level.
        level: Level,
    }
}

async fn log_set_level(services: Rc<Services>, params: SetLevel) -> Outcome {
    services.log.set_level(params.level.into());
    Ok(json!(true))
}

async fn log_get_level(services: Rc<Services>, _params: NoParams) -> Outcome {
    Ok(json!(Level::from(services.log.level()).as_str()))
}

async fn log_set_print_level(services: Rc<Services>, params: SetLevel) -> Outcome {
    services.log.set_print_level(params.level.into());
    Ok(json!(true))
}

async fn log_get_print_level(services: Rc<Services>, _params: NoParams) -> Outcome {
    Ok(json!(Level::from(services.log.print_level()).as_str()))
}

params! {
    /// Of the methods that switch a flag.
    struct Flag {
        /// The part's name, as `log_get_flags` has it, or `all`.
        flag: String,
    }
}

async fn log_set_flag(services: Rc<Services>, params: Flag) -> Outcome {
    services.log.set_flag(&params.flag, true)?;
    Ok(json!(true))
}

async fn log_clear_flag(services: Rc<Services>, params: Flag) -> Outcome {
    services.log.set_flag(&params.flag, false)?;
    Ok(json!(true))
}

async fn log_get_flags(services: Rc<Services>, _params: NoParams) -> Outcome {
    let flags = services.log.flags().into_iter();
    let flags: Map<String, Value> = flags.map(|(name, on)| (name.into(), on.into())).collect();
    Ok(Value::Object(flags))
}

params! {
    /// Of `log_enable_timestamps`.
    struct EnableTimestamps {
        /// Whether.
        enabled: bool,
    }
}

async fn log_enable_timestamps(services: Rc<Services>, params: EnableTimestamps) -> Outcome {
    services.log.set_timestamps(params.enabled);
    Ok(json!(true))
}
