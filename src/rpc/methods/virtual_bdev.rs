//! Virtual bdevs over one base: split, passthru, error, delay. Those whose base is not there yet are
//! made when it appears.

use std::rc::Rc;

use serde_json::json;

use super::bdev::unregister;
use crate::base::{Error, Status, Uuid};
use crate::bdev::Opcode;
use crate::bdev::vbdev::delay::{self, LatencyKind};
use crate::bdev::vbdev::error::{self, Fault, Injection, Target};
use crate::bdev::vbdev::{VirtualSpec, split};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{param_enum, params};
use crate::rpc::services::Services;

methods! {
    /// Makes bdevs of equal size out of one. They are named after it: `p0`, `p1`, … are appended.
    Runtime fn bdev_split_create(SplitCreate) -> "an array of the names of the parts.";
    /// Removes the parts of a bdev.
    Runtime fn bdev_split_delete(SplitDelete) -> "`true`.";
    /// Makes a bdev that hands all requests to another. It is good for tests.
    Runtime fn bdev_passthru_create(PassthruCreate) -> "the bdev's name.";
    /// Removes a passthru bdev.
    Runtime fn bdev_passthru_delete(Delete) -> "`true`.";
    /// Makes a bdev that hands requests to another and can be told to let some fail. Its name is the
    /// base's with `EE_` in front.
    Runtime fn bdev_error_create(ErrorCreate) -> "`true`.";
    /// Removes an error bdev.
    Runtime fn bdev_error_delete(Delete) -> "`true`.";
    /// Lets requests of an error bdev fail.
    Runtime fn bdev_error_inject_error(InjectError) -> "`true`.";
    /// Lets requests go on that hang in an error bdev.
    Runtime fn bdev_error_resume_pending(ResumePending) -> "`true`.";
    /// Makes a bdev that hands requests to another and answers late.
    Runtime fn bdev_delay_create(DelayCreate) -> "the bdev's name.";
    /// Removes a delay bdev.
    Runtime fn bdev_delay_delete(Delete) -> "`true`.";
    /// Changes a latency of a delay bdev, for requests from now on.
    Runtime fn bdev_delay_update_latency(UpdateLatency) -> "`true`.";
}

params! {
    /// Of `bdev_split_create`.
    struct SplitCreate {
        /// The bdev to split.
        base_bdev: String,
        /// How many parts; fewer are made when there is not enough room.
        split_count: u32,
        /// Size of each part in MiB; 0 shares out the whole bdev.
        split_size_mb: u64 = 0,
    }
}

async fn bdev_split_create(services: Rc<Services>, params: SplitCreate) -> Outcome {
    let spec = split::SplitSpec {
        base: params.base_bdev,
        count: params.split_count,
        size_mib: params.split_size_mb,
    };
    Ok(json!(services.waiting.create(VirtualSpec::Split(spec))?))
}

params! {
    /// Of `bdev_split_delete`.
    struct SplitDelete {
        /// The bdev that is split.
        base_bdev: String,
    }
}

async fn bdev_split_delete(services: Rc<Services>, params: SplitDelete) -> Outcome {
    if !services.waiting.forget(&split::part_name(&params.base_bdev, 0)) {
        split::delete(&services.bdevs, &params.base_bdev).await?;
    }
    Ok(json!(true))
}

params! {
    /// Of `bdev_passthru_create`.
    struct PassthruCreate {
        /// The bdev's name.
        name: String,
        /// The base.
        base_bdev_name: String,
        /// The bdev's UUID; a random one by default.
        uuid: Option<Uuid>,
    }
}

async fn bdev_passthru_create(services: Rc<Services>, params: PassthruCreate) -> Outcome {
    services.waiting.create(VirtualSpec::Passthru {
        name: params.name.clone(),
        base: params.base_bdev_name,
        uuid: params.uuid,
    })?;
    Ok(json!(params.name))
}

params! {
    /// Of the methods that remove one bdev.
    struct Delete {
        /// The bdev's name.
        name: String,
    }
}

async fn delete(services: &Services, name: &str, product: &str) -> Outcome {
    if services.waiting.forget(name) {
        return Ok(json!(true));
    }
    unregister(services, name, product).await
}

async fn bdev_passthru_delete(services: Rc<Services>, params: Delete) -> Outcome {
    delete(&services, &params.name, "passthru").await
}

params! {
    /// Of `bdev_error_create`.
    struct ErrorCreate {
        /// The base.
        base_name: String,
        /// The bdev's UUID; by default one that follows from the base's.
        uuid: Option<Uuid>,
    }
}

async fn bdev_error_create(services: Rc<Services>, params: ErrorCreate) -> Outcome {
    services.waiting.create(VirtualSpec::Error { base: params.base_name, uuid: params.uuid })?;
    Ok(json!(true))
}

async fn bdev_error_delete(services: Rc<Services>, params: Delete) -> Outcome {
    delete(&services, &params.name, "Error Injection Disk").await
}

param_enum! {
    /// Which requests fail.
    enum IoType {
        /// None any more.
        Clear = "clear",
        /// Reads.
        Read = "read",
        /// Writes.
        Write = "write",
        /// Unmaps.
        Unmap = "unmap",
        /// Flushes.
        Flush = "flush",
        /// All of these.
        All = "all",
    }
}

param_enum! {
    /// How requests fail.
    enum ErrorType {
        /// With an error.
        Failure = "failure",
        /// Not at all: they hang.
        Pending = "pending",
        /// With success and other data.
        CorruptData = "corrupt_data",
        /// For lack of memory.
        NoMemory = "nomem",
        /// With an NVMe status.
        NvmeFailure = "nvme_failure",
    }
}

params! {
    /// Of `bdev_error_inject_error`.
    struct InjectError {
        /// The error bdev's name.
        name: String,
        /// Which requests; `clear` ends all injection.
        io_type: IoType,
        /// How they fail.
        error_type: ErrorType,
        /// NVMe status code type, for `nvme_failure`.
        nvme_sct: u32 = 0,
        /// NVMe status code, for `nvme_failure`.
        nvme_sc: u32 = 0,
        /// How many requests; 0 ends the injection.
        num: u32 = 1,
        /// Only while so many requests are outstanding; 0 for always.
        queue_depth: u64 = 0,
        /// For `corrupt_data`: the byte of the payload to change.
        corrupt_offset: u64 = 0,
        /// For `corrupt_data`: what to combine it with by exclusive or, 1 to 255.
        corrupt_value: u8 = 0,
    }
}

async fn bdev_error_inject_error(services: Rc<Services>, params: InjectError) -> Outcome {
    let target = match params.io_type {
        IoType::Clear => {
            error::clear(&services.bdevs, &params.name)?;
            return Ok(json!(true));
        }
        IoType::Read => Target::Opcode(Opcode::Read),
        IoType::Write => Target::Opcode(Opcode::Write),
        IoType::Unmap => Target::Opcode(Opcode::Unmap),
        IoType::Flush => Target::Opcode(Opcode::Flush),
        IoType::All => Target::All,
    };
    let fault = match params.error_type {
        ErrorType::Failure => Fault::Failure,
        ErrorType::Pending => Fault::Pending,
        ErrorType::NoMemory => Fault::NoMemory,
        ErrorType::CorruptData => {
            Fault::CorruptData { offset: params.corrupt_offset, value: params.corrupt_value }
        }
        ErrorType::NvmeFailure => Fault::NvmeFailure(nvme_status(params.nvme_sct, params.nvme_sc)?),
    };
    let injection = Injection { fault, count: params.num, queue_depth: params.queue_depth };
    error::inject(&services.bdevs, &params.name, target, injection)?;
    Ok(json!(true))
}

/// NVM Express Base Specification, section 4.2.3: the status code type has three bits, the code eight.
fn nvme_status(sct: u32, sc: u32) -> Result<Status, Error> {
    match (u8::try_from(sct), u8::try_from(sc)) {
        (Ok(sct @ 0..=7), Ok(sc)) if (sct, sc) != (0, 0) => Ok(Status::new(sct, sc)),
        _ => Err(Error::invalid(format!(
            "nvme_sct {sct}, nvme_sc {sc} is no error status (0 to 7, 0 to 255, not both 0)"
        ))),
    }
}

params! {
    /// Of `bdev_error_resume_pending`.
    struct ResumePending {
        /// The error bdev's name.
        name: String,
    }
}

async fn bdev_error_resume_pending(services: Rc<Services>, params: ResumePending) -> Outcome {
    error::resume_pending(&services.bdevs, &params.name)?;
    Ok(json!(true))
}

params! {
    /// Of `bdev_delay_create`.
    struct DelayCreate {
        /// The bdev's name.
        name: String,
        /// The base.
        base_bdev_name: String,
        /// Latency of most reads, in microseconds.
        avg_read_latency: u64,
        /// Latency of every hundredth read, in microseconds.
        p99_read_latency: u64,
        /// Latency of most writes, in microseconds.
        avg_write_latency: u64,
        /// Latency of every hundredth write, in microseconds.
        p99_write_latency: u64,
        /// The bdev's UUID; a random one by default.
        uuid: Option<Uuid>,
    }
}

async fn bdev_delay_create(services: Rc<Services>, params: DelayCreate) -> Outcome {
    services.waiting.create(VirtualSpec::Delay {
        name: params.name.clone(),
        base: params.base_bdev_name,
        uuid: params.uuid,
        latencies: [
            params.avg_read_latency,
            params.p99_read_latency,
            params.avg_write_latency,
            params.p99_write_latency,
        ],
    })?;
    Ok(json!(params.name))
}

async fn bdev_delay_delete(services: Rc<Services>, params: Delete) -> Outcome {
    delete(&services, &params.name, "delay").await
}

param_enum! {
    /// Latencies that can be changed.
    enum LatencyType {
        /// Of most reads.
        AverageRead = "avg_read",
        /// Of every hundredth read.
        P99Read = "p99_read",
        /// Of most writes.
        AverageWrite = "avg_write",
        /// Of every hundredth write.
        P99Write = "p99_write",
    }
}

params! {
    /// Of `bdev_delay_update_latency`.
    struct UpdateLatency {
        /// The delay bdev's name.
        delay_bdev_name: String,
        /// Which latency.
        latency_type: LatencyType,
        /// The latency in microseconds.
        latency_us: u64,
    }
}

async fn bdev_delay_update_latency(services: Rc<Services>, params: UpdateLatency) -> Outcome {
    let kind = match params.latency_type {
        LatencyType::AverageRead => LatencyKind::AverageRead,
        LatencyType::P99Read => LatencyKind::P99Read,
        LatencyType::AverageWrite => LatencyKind::AverageWrite,
        LatencyType::P99Write => LatencyKind::P99Write,
    };
    delay::update_latency(&services.bdevs, &params.delay_bdev_name, kind, params.latency_us)?;
    Ok(json!(true))
}
