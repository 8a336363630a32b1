//! Exercises: work for a bdev from inside the daemon, written and verified.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::base::{ByteCount, Error};
use crate::load::{ExercisePlan, LoadStatus, Mode};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{param_enum, params};
use crate::rpc::services::Services;

methods! {
    /// Starts an exercise on a bdev: it writes every block with a stamp that names the block and the pass,
    /// pass by pass, and reads back what it wrote; or it checks what an earlier exercise wrote.
    /// Writing destroys what is on the bdev. It ends by itself at the first I/O error or wrong block.
    Runtime fn weft_load_start(Start) -> "the exercise's name.";
    /// Describes exercises: those that run, and those that have ended and were not stopped.
    Runtime fn weft_load_get(Get)
        -> "an array of objects: `name`, `bdev_name`, `finished`, `generation` (the pass that is \
            written), `durable_generation` (the last pass that was flushed), `pass_percent`, \
            `bytes_written`, `bytes_verified`, and `fault` (null, or what went wrong).";
    /// Ends an exercise, waits for its outstanding requests, and forgets it.
    Runtime fn weft_load_stop(Stop) -> "its last description, as `weft_load_get` gives it.";
}

param_enum! {
    /// What an exercise does.
    enum LoadMode { WriteVerify = "write_verify", Check = "check" }
}

params! {
    /// Of `weft_load_start`.
    struct Start {
        /// The bdev's name.
        bdev_name: String,
        /// `write_verify` writes passes and verifies; `check` reads every block once.
        mode: LoadMode,
        /// Size of one request in bytes: a multiple of the block size, at most 2 MiB.
        io_size: u64 = 65536,
        /// Requests outstanding at once.
        queue_depth: u32 = 32,
        /// Tells the stamps of this exercise from those of others.
        seed: u64 = 0,
        /// Whether passes go from the first block to the last, instead of in a random order.
        sequential: bool = false,
        /// Index of the reactor that does the work.
        reactor: u32 = 0,
        /// `write_verify`: number of the first pass, from 1.
        generation: u64 = 1,
        /// `write_verify`: how many passes; until stopped by default.
        passes: Option<u64>,
        /// `check`: the oldest pass that a block may be of.
        oldest: u64 = 1,
        /// `check`: the newest; the oldest by default.
        newest: Option<u64>,
    }
}

async fn weft_load_start(services: Rc<Services>, params: Start) -> Outcome {
    let mode = match params.mode {
        LoadMode::WriteVerify => {
            if params.passes == Some(0) {
                return Err(Error::invalid("passes: 0 (1 at least, or none given)").into());
            }
            Mode::WriteVerify { generation: params.generation, passes: params.passes }
        }
        LoadMode::Check => {
            Mode::Check { oldest: params.oldest, newest: params.newest.unwrap_or(params.oldest) }
        }
    };
    let plan = ExercisePlan {
        mode,
        depth: params.queue_depth,
        io_size: ByteCount(params.io_size),
        seed: params.seed,
        sequential: params.sequential,
    };
    let reactor = params.reactor as usize;
    Ok(json!(services.loads.start(&params.bdev_name, reactor, plan).await?))
}

params! {
    /// Of `weft_load_get`.
    struct Get {
        /// The exercise's name; all by default.
        name: Option<String>,
    }
}

async fn weft_load_get(services: Rc<Services>, params: Get) -> Outcome {
    let loads = services.loads.status(params.name.as_deref())?;
    Ok(loads.iter().map(describe).collect())
}

params! {
    /// Of `weft_load_stop`.
    struct Stop {
        /// The exercise's name.
        name: String,
    }
}

async fn weft_load_stop(services: Rc<Services>, params: Stop) -> Outcome {
    Ok(describe(&services.loads.stop(&params.name).await?))
}

fn describe(load: &LoadStatus) -> Value {
    let snapshot = &load.snapshot;
    json!({
        "name": load.name,
        "bdev_name": load.bdev,
        "finished": snapshot.finished,
        "generation": snapshot.generation,
        "durable_generation": snapshot.durable_generation,
        "pass_percent": snapshot.pass_percent,
        "bytes_written": snapshot.bytes_written.0,
        "bytes_verified": snapshot.bytes_verified.0,
        "fault": snapshot.fault,
    })
}
