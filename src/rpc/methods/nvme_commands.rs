//! NVMe controllers from close by: health, commands, statistics, injected errors.

use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use zerocopy::{FromBytes, IntoBytes};

use super::bdev::check_unsupported;
use super::nvme::Named;
use crate::base::{Error, Result, Status};
use crate::nvme::spec::{CompletionEntry, SubmissionEntry};
use crate::nvme::{Injection, PairStats};
use crate::reactor::Tsc;
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{NoParams, param_enum, params};
use crate::rpc::services::Services;

methods! {
    /// Gives the health log of an NVMe controller (SMART).
    Runtime fn bdev_nvme_get_controller_health_info(Named)
        -> "an object: identity, then the log's fields by SPDK's names; data units are 512000 bytes.";
    /// Sends a command to an NVMe controller as it is: an admin command, or an I/O command to the namespace that it
    /// names. Weft does not know what it does; the caller answers for it.
    Runtime fn bdev_nvme_send_cmd(SendCommand)
        -> "an object: `cpl`, the completion queue entry, and `data`, what the controller returned; both base64url.";
    /// Gives counters of the I/O queue pairs.
    Runtime fn bdev_nvme_get_transport_statistics(NoParams)
        -> "an object with `tick_rate` and `poll_groups`, one for each queue pair.";
    /// Lets commands of an opcode fail.
    Runtime fn bdev_nvme_add_error_injection(AddInjection) -> "`true`.";
    /// Ends that.
    Runtime fn bdev_nvme_remove_error_injection(RemoveInjection) -> "`true`.";
}

async fn bdev_nvme_get_controller_health_info(services: Rc<Services>, params: Named) -> Outcome {
    let controller = services.nvme.get(&params.name)?.controller;
    let health = controller.health().await?;
    let identify = controller.identify();
    let mut info = json!({
        "model_number": identify.model_number(),
        "serial_number": identify.serial_number(),
        "firmware_revision": identify.firmware_revision(),
        "traddr": controller.transport().address(),
        "critical_warning": health.critical_warning,
        "temperature_celsius": health.temperature_celsius(),
        "available_spare_percentage": health.available_spare,
        "available_spare_threshold_percentage": health.available_spare_threshold,
        "percentage_used": health.percentage_used,
        "data_units_read": wide(health.data_units_read),
        "data_units_written": wide(health.data_units_written),
        "host_read_commands": wide(health.host_read_commands),
        "host_write_commands": wide(health.host_write_commands),
        "controller_busy_time": wide(health.controller_busy_time),
        "power_cycles": wide(health.power_cycles),
        "power_on_hours": wide(health.power_on_hours),
        "unsafe_shutdowns": wide(health.unsafe_shutdowns),
        "media_errors": wide(health.media_errors),
        "num_err_log_entries": wide(health.error_log_entries),
        "warning_temperature_time_minutes": health.warning_temperature_time,
        "critical_composite_temperature_time_minutes": health.critical_temperature_time,
    });
    for (index, celsius) in health.sensors_celsius() {
        info[format!("temperature_sensor_{index}_celsius")] = celsius.into();
    }
    Ok(info)
}

/// A counter of 128 bits; beyond 64 it stays at the end of them, since JSON numbers go no further.
fn wide(counter: [u8; 16]) -> u64 {
    u64::try_from(u128::from_le_bytes(counter)).unwrap_or(u64::MAX)
}

param_enum! {
    /// Which queue a command is for.
    enum CommandType {
        /// The admin queue.
        Admin = "admin",
        /// An I/O queue.
        Io = "io",
    }
}

param_enum! {
    /// Which way the data go.
    enum Direction {
        /// From the host to the controller.
        ToController = "h2c",
        /// From the controller to the host.
        ToHost = "c2h",
    }
}

params! {
    /// Of `bdev_nvme_send_cmd`.
    struct SendCommand {
        /// The controller's name.
        name: String,
        /// Which queue the command is for.
        cmd_type: CommandType,
        /// Which way the data go.
        data_direction: Direction,
        /// The command: a submission queue entry of 64 bytes, in base64url. Command identifier and data pointer are
        /// filled in.
        cmdbuf: String,
        /// Data for the controller, in base64url.
        data: Option<String>,
        /// Metadata for the controller; none is possible.
        metadata: Option<String>,
        /// How many bytes the controller returns: a multiple of 4, up to 2 MiB.
        data_len: u32 = 0,
        /// How much metadata the controller returns; 0 is possible.
        metadata_len: u32 = 0,
        /// How long the command may take, in milliseconds; 0 for the time that the options give to admin commands.
        timeout_ms: u32 = 0,
    }
}

async fn bdev_nvme_send_cmd(services: Rc<Services>, params: SendCommand) -> Outcome {
    check_unsupported(&[
        ("metadata", params.metadata.is_some()),
        ("metadata_len", params.metadata_len != 0),
    ])?;
    let controller = services.nvme.get(&params.name)?.controller;
    let bytes = decode("cmdbuf", &params.cmdbuf)?;
    let mut command = SubmissionEntry::read_from_bytes(&bytes)
        .map_err(|_| Error::invalid(format!("cmdbuf: {} bytes; a command has 64", bytes.len())))?;
    let fused = command.flags & (SubmissionEntry::FUSE_FIRST | SubmissionEntry::FUSE_SECOND);
    if fused != 0 {
        return Err(Error::invalid("cmdbuf: half of a fused operation").into());
    }
    // The data pointer is ours, and we say what is in it.
    command.flags &= !SubmissionEntry::PSDT_MASK;
    let out = match (params.data_direction, &params.data) {
        (Direction::ToController, Some(data)) => Some(decode("data", data)?),
        (Direction::ToController, None) | (Direction::ToHost, None) => None,
        (Direction::ToHost, Some(_)) => {
            return Err(Error::invalid("data: the direction is from the controller").into());
        }
    };
    let length = match params.data_direction {
        Direction::ToHost => params.data_len,
        Direction::ToController => 0,
    };
    let patience = match params.timeout_ms {
        0 => controller.options().admin_timeout,
        timeout => Duration::from_millis(u64::from(timeout)),
    };
    let out = out.as_deref();
    let (entry, data) = match params.cmd_type {
        CommandType::Admin => controller.admin_within(command, out, length, patience).await?,
        CommandType::Io => {
            let (done, data) = controller.io(command, out, length, patience).await?;
            let entry = CompletionEntry {
                dw0: done.result,
                status: CompletionEntry::status_field(done.status, false),
                ..CompletionEntry::default()
            };
            (entry, data)
        }
    };
    let mut answer = json!({ "cpl": URL_SAFE.encode(entry.as_bytes()) });
    if length > 0 {
        answer["data"] = URL_SAFE.encode(data).into();
    }
    Ok(answer)
}

fn decode(field: &str, text: &str) -> Result<Vec<u8>> {
    // Clients differ in whether they pad.
    URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|error| Error::invalid(format!("{field}: no base64url: {error}")))
}

async fn bdev_nvme_get_transport_statistics(services: Rc<Services>, _params: NoParams) -> Outcome {
    let mut groups = Vec::new();
    for attached in services.nvme.list() {
        let kind = attached.controller.transport().kind();
        for (id, stats) in attached.controller.stats().await {
            groups.push(json!({
                "thread": format!("{}q{id}", attached.name),
                "transports": [transport(kind, &stats)],
            }));
        }
    }
    Ok(json!({ "tick_rate": Tsc::rate(), "poll_groups": groups }))
}

fn transport(kind: &str, stats: &PairStats) -> Value {
    json!({
        "trname": kind,
        "polls": stats.polls,
        "idle_polls": stats.idle_polls,
        "completions": stats.completions,
        "submitted_requests": stats.submitted,
        "queued_requests": stats.queued,
        "sq_mmio_doorbell_updates": stats.submission_doorbells,
        "cq_mmio_doorbell_updates": stats.completion_doorbells,
        "retried_requests": stats.retries,
        "failed_requests": stats.errors,
    })
}

params! {
    /// Of `bdev_nvme_add_error_injection`.
    struct AddInjection {
        /// The controller's name.
        name: String,
        /// Which queue the commands are for.
        cmd_type: CommandType,
        /// Their opcode.
        opc: u8,
        /// The commands are not given to the controller.
        do_not_submit: bool = false,
        /// How long a command takes that is not, in microseconds.
        timeout_in_us: u64 = 0,
        /// How many commands.
        err_count: u32 = 1,
        /// Status code type that they end with.
        sct: u8 = 0,
        /// Status code that they end with.
        sc: u8 = 0,
    }
}

async fn bdev_nvme_add_error_injection(services: Rc<Services>, params: AddInjection) -> Outcome {
    if params.sct > 7 {
        return Err(Error::invalid(format!("sct: {} (0 to 7 are possible)", params.sct)).into());
    }
    let injection = Injection {
        opcode: params.opc,
        do_not_submit: params.do_not_submit,
        delay: Tsc::ticks(Duration::from_micros(params.timeout_in_us)),
        count: params.err_count,
        status: Status::new(params.sct, params.sc),
    };
    let admin = matches!(params.cmd_type, CommandType::Admin);
    services.nvme.get(&params.name)?.controller.inject(admin, injection).await;
    Ok(json!(true))
}

params! {
    /// Of `bdev_nvme_remove_error_injection`.
    struct RemoveInjection {
        /// The controller's name.
        name: String,
        /// Which queue the commands are for.
        cmd_type: CommandType,
        /// Their opcode.
        opc: u8,
    }
}

async fn bdev_nvme_remove_error_injection(
    services: Rc<Services>,
    params: RemoveInjection,
) -> Outcome {
    let nothing = Injection {
        opcode: params.opc,
        do_not_submit: false,
        delay: 0,
        count: 0,
        status: Status::SUCCESS,
    };
    let admin = matches!(params.cmd_type, CommandType::Admin);
    services.nvme.get(&params.name)?.controller.inject(admin, nothing).await;
    Ok(json!(true))
}
