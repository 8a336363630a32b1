//! Initialization, and the configuration that can be saved.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::base::{Error, ErrorKind};
use crate::bdev::ConfigEntry;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{NoParams, params};
use crate::rpc::services::Services;

methods! {
    /// Lets initialization begin, in a daemon that was started with `--wait-for-rpc`, and waits for
    /// its end. It can be called once.
    Startup fn framework_start_init(NoParams) -> "`true`.";
    /// Waits until the daemon is initialized.
    Any fn framework_wait_init(NoParams) -> "`true`.";
    /// Lists the subsystems whose configuration can be saved, each after those it depends on.
    Runtime fn framework_get_subsystems(NoParams)
        -> "an array of objects with `subsystem` and `depends_on`.";
    /// Gives the configuration of a subsystem: the calls that make it again in a fresh daemon.
    Runtime fn framework_get_config(GetConfig)
        -> "an array of objects with `method` and, where there are any, `params`.";
}

/// A part of the daemon with a configuration of its own.
struct Subsystem {
    name: &'static str,
    depends_on: &'static [&'static str],
    config: fn(&Services) -> Vec<ConfigEntry>,
}

/// Each after those that it depends on.
const SUBSYSTEMS: &[Subsystem] = &[
    Subsystem { name: "bdev", depends_on: &[], config: super::bdev::config },
    Subsystem { name: "vhost_blk", depends_on: &["bdev"], config: super::vhost::config },
];

async fn framework_start_init(services: Rc<Services>, _params: NoParams) -> Outcome {
    services.framework.begin()?;
    services.framework.wait().await?;
    Ok(json!(true))
}

async fn framework_wait_init(services: Rc<Services>, _params: NoParams) -> Outcome {
    services.framework.wait().await?;
    Ok(json!(true))
}

async fn framework_get_subsystems(_services: Rc<Services>, _params: NoParams) -> Outcome {
    let row = |subsystem: &Subsystem| json!({"subsystem": subsystem.name, "depends_on": subsystem.depends_on});
    Ok(SUBSYSTEMS.iter().map(row).collect())
}

params! {
    /// Of `framework_get_config`.
    struct GetConfig {
        /// The subsystem.
        name: String,
        /// Keep calls that were made as a batch together. Weft saves none as a batch.
        with_batches: bool = false,
    }
}

async fn framework_get_config(services: Rc<Services>, params: GetConfig) -> Outcome {
    // No configuration has batches: it is the same with and without them.
    let _same = params.with_batches;
    let name = params.name;
    let Some(subsystem) = SUBSYSTEMS.iter().find(|subsystem| subsystem.name == name) else {
        let names: Vec<&str> = SUBSYSTEMS.iter().map(|subsystem| subsystem.name).collect();
        let text = format!("no subsystem is named '{name}' (there are: {})", names.join(", "));
        return Err(Error::new(ErrorKind::Invalid, text).into());
    };
    let entry = |entry: ConfigEntry| match entry.params {
        Value::Null => json!({"method": entry.method}),
        params => json!({"method": entry.method, "params": params}),
    };
    Ok((subsystem.config)(&services).into_iter().map(entry).collect())
}
