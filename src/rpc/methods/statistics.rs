//! Counters and latency histograms of bdevs.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::base::{ByteCount, Error, ErrorKind, Result};
use crate::bdev::{
    ClassStat, ConfigEntry, Device, HistogramData, HistogramOptions, IoStat, OpClass, Opcode,
    OpcodeSet, ResetMode,
};
use crate::reactor::Tsc;
use crate::rpc::error::RpcError;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{param_enum, params};
use crate::rpc::services::Services;

methods! {
    /// Tells what bdevs have done since their start or the last reset of their counters.
    Runtime fn bdev_get_iostat(GetIostat)
        -> "`tick_rate`, `ticks` (now), and `bdevs`, an array of objects with `name` and the counters; \
            or, per channel, `name` and `channels`, an array of objects with `thread_id` and the \
            counters. `io_error` counts failed requests by NVMe status.";
    /// Resets counters of bdevs.
    Runtime fn bdev_reset_iostat(ResetIostat) -> "`true`.";
    /// Starts or stops recording latencies of a bdev. A start begins from zero.
    Runtime fn bdev_enable_histogram(EnableHistogram) -> "`true`.";
    /// Gives the recorded latencies of a bdev.
    Runtime fn bdev_get_histogram(GetHistogram)
        -> "`histogram`, the buckets as 64-bit little-endian counters in base64, and what tells their \
            borders: `granularity`, `min_range`, `max_range`, `tsc_rate`.";
    /// Counts the recorded latencies of a bdev up to each of some borders.
    Runtime fn bdev_get_histogram_borders(GetHistogramBorders)
        -> "`borders_count`, an array of numbers: for each border the count up to it, then the total.";
}

param_enum! {
    /// What a reset covers.
    enum ResetModeName {
        /// Everything.
        All = "all",
        /// Extremes.
        MaxMin = "maxmin",
        /// Errors.
        Error = "error",
        /// Nothing.
        None = "none",
    }
}

impl From<ResetModeName> for ResetMode {
    fn from(name: ResetModeName) -> ResetMode {
        match name {
            ResetModeName::All => ResetMode::All,
            ResetModeName::MaxMin => ResetMode::MaxMin,
            ResetModeName::Error => ResetMode::Error,
            ResetModeName::None => ResetMode::None,
        }
    }
}

params! {
    /// Of `bdev_get_iostat`.
    struct GetIostat {
        /// The bdevs; all by default.
        names: Option<Vec<String>>,
        /// Tell the channels apart; for one bdev only.
        per_channel: bool = false,
        /// What to reset afterwards; `none` by default.
        reset_mode: Option<ResetModeName>,
    }
}

async fn bdev_get_iostat(services: Rc<Services>, params: GetIostat) -> Outcome {
    let devices = match &params.names {
        None => services.bdevs.list(),
        Some(names) => {
            names.iter().map(|name| services.bdevs.get(name)).collect::<Result<Vec<_>>>()?
        }
    };
    let mut answer = json!({"tick_rate": Tsc::rate(), "ticks": Tsc::read().0});
    if params.per_channel {
        let ([device], true) = (devices.as_slice(), params.names.is_some()) else {
            return Err(Error::invalid("per_channel: 'names' must name one bdev").into());
        };
        let channels = device.iostat_per_channel().into_iter().map(|(reactor, stat)| {
            // Threads are numbered from 1, as `thread_get_stats` shows them.
            with_counters(json!({"thread_id": reactor + 1}), device, &stat)
        });
        answer["name"] = json!(device.name());
        answer["channels"] = channels.collect();
    } else {
        let bdevs = devices
            .iter()
            .map(|device| with_counters(json!({"name": device.name()}), device, &device.iostat()));
        answer["bdevs"] = bdevs.collect();
    }
    if let Some(mode) = params.reset_mode {
        devices.iter().for_each(|device| device.reset_iostat(mode.into()));
    }
    Ok(answer)
}

/// Adds the counters to an object, under SPDK's names.
fn with_counters(mut object: Value, device: &Device, stat: &IoStat) -> Value {
    let geometry = device.geometry();
    let none = ClassStat::default();
    // Weft copies nothing by itself: the copy counters are there for SPDK's clients.
    let classes = [
        ("read", "read", stat.class(OpClass::Read)),
        ("written", "write", stat.class(OpClass::Write)),
        ("unmapped", "unmap", stat.class(OpClass::Unmap)),
        ("copied", "copy", &none),
    ];
    for (done, operation, class) in classes {
        let ByteCount(bytes) = geometry.bytes_of(crate::base::BlockCount(class.blocks));
        object[format!("bytes_{done}")] = json!(bytes);
        object[format!("num_{operation}_ops")] = json!(class.ops);
    }
    for (_, operation, class) in classes {
        let shortest =
            if class.latency_ticks_min == u64::MAX { 0 } else { class.latency_ticks_min };
        object[format!("{operation}_latency_ticks")] = json!(class.latency_ticks);
        object[format!("max_{operation}_latency_ticks")] = json!(class.latency_ticks_max);
        object[format!("min_{operation}_latency_ticks")] = json!(shortest);
    }
    let errors = stat.errors.iter().map(|(status, count)| (status.to_string(), json!(count)));
    object["io_error"] = Value::Object(errors.collect::<Map<_, _>>());
    object
}

params! {
    /// Of `bdev_reset_iostat`.
    struct ResetIostat {
        /// The bdev; all by default.
        name: Option<String>,
        /// What to reset; `all` by default.
        mode: Option<ResetModeName>,
    }
}

async fn bdev_reset_iostat(services: Rc<Services>, params: ResetIostat) -> Outcome {
    let devices = match params.name {
        Some(name) => vec![services.bdevs.get(&name)?],
        None => services.bdevs.list(),
    };
    let mode = params.mode.unwrap_or(ResetModeName::All);
    devices.iter().for_each(|device| device.reset_iostat(mode.into()));
    Ok(json!(true))
}

params! {
    /// Of `bdev_enable_histogram`.
    struct EnableHistogram {
        /// The bdev.
        name: String,
        /// Whether to record.
        enable: bool,
        /// Record requests of one kind only, such as `read`; all kinds by default.
        opc: Option<String>,
        /// Base-2 logarithm of the number of buckets for each doubling of the latency.
        granularity: u8 = 7,
        /// Latencies of less, in nanoseconds, are not told apart.
        min_nsec: u64 = 1000,
        /// Latencies of more, in nanoseconds, are not told apart.
        max_nsec: u64 = 120_000_000_000,
    }
}

async fn bdev_enable_histogram(services: Rc<Services>, params: EnableHistogram) -> Outcome {
    let device = services.bdevs.get(&params.name)?;
    if !params.enable {
        device.disable_histogram();
        return Ok(json!(true));
    }
    let opcodes = match &params.opc {
        None => OpcodeSet::ALL,
        Some(name) => {
            let opcode = Opcode::ALL.into_iter().find(|opcode| opcode.name() == name);
            let opcode = opcode.ok_or_else(|| {
                let known: Vec<&str> = Opcode::ALL.iter().map(|opcode| opcode.name()).collect();
                RpcError::invalid_params(format_args!(
                    "'opc': no kind of request is named '{name}' (there are: {})",
                    known.join(", ")
                ))
            })?;
            OpcodeSet::EMPTY.with(opcode)
        }
    };
    device.enable_histogram(HistogramOptions {
        opcodes,
        granularity: params.granularity,
        min_nsec: params.min_nsec,
        max_nsec: params.max_nsec,
    })?;
    Ok(json!(true))
}

/// The call that makes a device record latencies as it does now.
pub(super) fn config(device: &Device) -> Option<ConfigEntry> {
    let options = device.histogram_options()?;
    let mut params = json!({"name": device.name(), "enable": true});
    let usual = HistogramOptions::default();
    if options.opcodes != usual.opcodes
        && let Some(opcode) = options.opcodes.iter().next()
    {
        params["opc"] = json!(opcode.name());
    }
    if options.granularity != usual.granularity {
        params["granularity"] = json!(options.granularity);
    }
    if options.min_nsec != usual.min_nsec {
        params["min_nsec"] = json!(options.min_nsec);
    }
    if options.max_nsec != usual.max_nsec {
        params["max_nsec"] = json!(options.max_nsec);
    }
    Some(ConfigEntry { method: "bdev_enable_histogram", params })
}

fn recorded(services: &Services, name: &str) -> Result<HistogramData> {
    let device: Arc<Device> = services.bdevs.get(name)?;
    device.histogram().ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("no latencies of '{name}' are recorded (bdev_enable_histogram starts that)"),
        )
    })
}

params! {
    /// Of `bdev_get_histogram`.
    struct GetHistogram {
        /// The bdev.
        name: String,
    }
}

async fn bdev_get_histogram(services: Rc<Services>, params: GetHistogram) -> Outcome {
    let data = recorded(&services, &params.name)?;
    let layout = data.layout();
    Ok(json!({
        "histogram": STANDARD.encode(data.to_bytes()),
        "granularity": layout.granularity(),
        "min_range": layout.min_range(),
        "max_range": layout.max_range(),
        "tsc_rate": Tsc::rate(),
    }))
}

params! {
    /// Of `bdev_get_histogram_borders`.
    struct GetHistogramBorders {
        /// The bdev.
        name: String,
        /// The borders in microseconds, ascending.
        borders: Vec<u64>,
    }
}

async fn bdev_get_histogram_borders(
    services: Rc<Services>,
    params: GetHistogramBorders,
) -> Outcome {
    if params.borders.is_empty() || !params.borders.is_sorted() {
        return Err(RpcError::invalid_params("'borders' is to be an ascending list"));
    }
    let data = recorded(&services, &params.name)?;
    let rate = u128::from(Tsc::rate());
    let ticks =
        |micros: &u64| u64::try_from(u128::from(*micros) * rate / 1_000_000).unwrap_or(u64::MAX);
    let borders: Vec<u64> = params.borders.iter().map(ticks).collect();
    Ok(json!({"borders_count": data.counts_up_to(&borders)}))
}
