//! vhost-user-blk controllers: made, described, tuned, removed; queues moved between reactors.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::base::{Error, ErrorKind, Result};
use crate::bdev::ConfigEntry;
use crate::reactor::{CoreList, Reactors};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::params;
use crate::rpc::services::Services;
use crate::vhost::{Coalescing, ControllerInfo, ControllerOptions, QueueInfo, SessionInfo};

/// The transport that there is; it needs no making.
const TRANSPORT: &str = "vhost_user_blk";

methods! {
    /// Makes a bdev a virtio-blk disk of virtual machines: a vhost-user-blk controller, with a socket of its name in the
    /// daemon's directory of sockets (`--vhost-dir`).
    Runtime fn vhost_create_blk_controller(Create) -> "`true`.";
    /// Describes vhost controllers.
    Runtime fn vhost_get_controllers(Get)
        -> "an array of objects: `ctrlr`, `cpumask`, `delay_base_us`, `iops_threshold`, `socket`, `sessions` (`vid`, `id`, \
            `name`, `started`, `max_queues`, `inflight_task_cnt`) and `backend_specific`. Weft adds to a session \
            `features`, `num_queues`, `memory_size`, `fault` (why its driver must reset it) and `queues`: `index`, \
            `lcore`, `size`, `inflight_task_cnt`, `completed`, `interrupts`, `kicks`.";
    /// Removes a vhost controller and its socket. While a front end is connected, it is refused.
    Runtime fn vhost_delete_controller(Delete) -> "`true`.";
    /// Sets when interrupts of a controller are held back, so that one tells of several completions. Holds at once.
    Runtime fn vhost_controller_set_coalescing(SetCoalescing) -> "`true`.";
    /// Lets another reactor poll a queue of a controller, with nothing lost.
    Runtime fn weft_vhost_move_queue(MoveQueue) -> "`true`.";
    /// Lists the transports of virtio-blk.
    Runtime fn virtio_blk_get_transports(GetTransports) -> "an array of objects with `name`.";
    /// Makes a transport of virtio-blk. The only one, `vhost_user_blk`, is always there, and made twice by this.
    Runtime fn virtio_blk_create_transport(CreateTransport) -> "`true`.";
}

/// The calls that make the controllers again.
pub(super) fn config(services: &Services) -> Vec<ConfigEntry> {
    services.vhost.config()
}

params! {
    /// Of `vhost_create_blk_controller`.
    struct Create {
        /// The controller's name, and that of its socket.
        ctrlr: String,
        /// The bdev.
        dev_name: String,
        /// Cores whose reactors may poll its queues, as a mask (`0x3`) or a list (`[0,2-3]`); by default all that the
        /// daemon runs on.
        cpumask: Option<String>,
        /// Writes are refused, and the guest is told so.
        readonly: bool = false,
        /// Packed rings are offered beside split ones.
        packed_ring: bool = false,
        /// `vhost_user_blk`, the default.
        transport: Option<String>,
    }
}

async fn vhost_create_blk_controller(services: Rc<Services>, params: Create) -> Outcome {
    if let Some(transport) = params.transport
        && !transport.eq_ignore_ascii_case(TRANSPORT)
    {
        let text = format!("transport: '{transport}' is not there (there is: {TRANSPORT})");
        return Err(Error::invalid(text).into());
    }
    let reactors = match params.cpumask {
        Some(cores) => reactors_on(&services.reactors, &cores)?,
        None => Vec::new(),
    };
    services.vhost.create(ControllerOptions {
        name: params.ctrlr,
        bdev: params.dev_name,
        reactors,
        read_only: params.readonly,
        packed_ring: params.packed_ring,
    })?;
    Ok(json!(true))
}

/// The reactors on these cores, each of which must have one.
fn reactors_on(reactors: &Reactors, cores: &str) -> Result<Vec<usize>> {
    let cores: CoreList = cores.parse().map_err(|error: Error| error.context("cpumask"))?;
    cores.cores().iter().map(|&core| reactor_on(reactors, "cpumask", core)).collect()
}

fn reactor_on(reactors: &Reactors, parameter: &str, core: usize) -> Result<usize> {
    reactors.on_core(core).ok_or_else(|| {
        let text = format!(
            "{parameter}: no reactor runs on core {core} (the daemon has: {})",
            core_text(reactors, &[])
        );
        Error::invalid(text)
    })
}

fn cores_of(reactors: &Reactors, indices: &[usize]) -> Option<CoreList> {
    let core_of = |index: usize| reactors.core_of(index);
    let cores = match indices {
        [] => (0..reactors.len()).map(core_of).collect(),
        some => some.iter().copied().map(core_of).collect(),
    };
    CoreList::new(cores).ok()
}

/// The cores of these reactors, of all when there are none, as a list.
fn core_text(reactors: &Reactors, indices: &[usize]) -> String {
    cores_of(reactors, indices).map(|cores| cores.to_string()).unwrap_or_default()
}

params! {
    /// Of `vhost_get_controllers`.
    struct Get {
        /// Only this one.
        name: Option<String>,
    }
}

async fn vhost_get_controllers(services: Rc<Services>, params: Get) -> Outcome {
    let list = services.vhost.list(params.name.as_deref())?;
    Ok(list.iter().map(|controller| describe(&services, controller)).collect())
}

fn describe(services: &Services, controller: &ControllerInfo) -> Value {
    let options = &controller.options;
    let mask = cores_of(&services.reactors, &options.reactors).map(|cores| cores.mask());
    // As for SPDK, a controller outlives its bdev.
    let bdev = controller.has_device.then_some(&options.bdev);
    json!({
        "ctrlr": options.name,
        "cpumask": format!("0x{}", mask.unwrap_or_default()),
        "delay_base_us": controller.coalescing.delay_base_us,
        "iops_threshold": controller.coalescing.iops_threshold,
        "socket": controller.socket.to_string_lossy(),
        "sessions": controller.sessions.iter().map(|it| session(services, options, it)).collect::<Vec<_>>(),
        "backend_specific": {
            "block": {
                "readonly": options.read_only,
                "bdev": bdev,
                "transport": TRANSPORT,
                "packed_ring": options.packed_ring,
            },
        },
    })
}

fn session(services: &Services, options: &ControllerOptions, session: &SessionInfo) -> Value {
    // SPDK counts up to the last queue that is set up, not what the device could have.
    let set_up = session.queues.iter().map(|queue| u32::from(queue.index) + 1).max();
    let in_flight: u64 = session.queues.iter().map(|queue| u64::from(queue.in_flight)).sum();
    json!({
        "vid": session.id,
        "id": session.id,
        "name": format!("{}s{}", options.name, session.id),
        "started": session.started,
        "max_queues": set_up.unwrap_or(0),
        "inflight_task_cnt": in_flight,
        "features": format!("0x{:x}", session.features),
        "num_queues": session.queues_max,
        "memory_size": session.memory,
        "fault": session.fault,
        "queues": session.queues.iter().map(|it| queue(services, it)).collect::<Vec<_>>(),
    })
}

fn queue(services: &Services, queue: &QueueInfo) -> Value {
    json!({
        "index": queue.index,
        "lcore": services.reactors.core_of(queue.reactor),
        "size": queue.size,
        "inflight_task_cnt": queue.in_flight,
        "completed": queue.completed,
        "interrupts": queue.interrupts,
        "kicks": queue.kicks,
    })
}

params! {
    /// Of `vhost_delete_controller`.
    struct Delete {
        /// The controller.
        ctrlr: String,
    }
}

async fn vhost_delete_controller(services: Rc<Services>, params: Delete) -> Outcome {
    services.vhost.delete(&params.ctrlr).await?;
    Ok(json!(true))
}

params! {
    /// Of `vhost_controller_set_coalescing`.
    struct SetCoalescing {
        /// The controller.
        ctrlr: String,
        /// For how long an interrupt may be held back, in microseconds; 0 holds none back.
        delay_base_us: u32,
        /// Interrupts of a queue are held back only while it completes more requests per second than this; not 0.
        iops_threshold: u32,
    }
}

async fn vhost_controller_set_coalescing(services: Rc<Services>, params: SetCoalescing) -> Outcome {
    if params.iops_threshold == 0 {
        let text = "iops_threshold: 0 is no threshold; delay_base_us 0 holds no interrupt back";
        return Err(Error::invalid(text).into());
    }
    let coalescing =
        Coalescing { delay_base_us: params.delay_base_us, iops_threshold: params.iops_threshold };
    services.vhost.set_coalescing(&params.ctrlr, coalescing)?;
    Ok(json!(true))
}

params! {
    /// Of `weft_vhost_move_queue`.
    struct MoveQueue {
        /// The controller.
        ctrlr: String,
        /// Index of the queue.
        queue: u16,
        /// Core of the reactor that is to poll it; any of the daemon's, also one that `cpumask` left out.
        core: u32,
    }
}

async fn weft_vhost_move_queue(services: Rc<Services>, params: MoveQueue) -> Outcome {
    let reactor = reactor_on(&services.reactors, "core", params.core as usize)?;
    services.vhost.move_queue(&params.ctrlr, params.queue, reactor).await?;
    Ok(json!(true))
}

params! {
    /// Of `virtio_blk_get_transports`.
    struct GetTransports {
        /// Only this one.
        name: Option<String>,
    }
}

async fn virtio_blk_get_transports(_services: Rc<Services>, params: GetTransports) -> Outcome {
    if let Some(name) = params.name
        && !name.eq_ignore_ascii_case(TRANSPORT)
    {
        let text = format!("no transport of virtio-blk is named '{name}' (there is: {TRANSPORT})");
        return Err(Error::new(ErrorKind::NoDevice, text).into());
    }
    Ok(json!([{ "name": TRANSPORT }]))
}

params! {
    /// Of `virtio_blk_create_transport`.
    struct CreateTransport {
        /// The transport.
        name: String,
    }
}

async fn virtio_blk_create_transport(_services: Rc<Services>, params: CreateTransport) -> Outcome {
    let name = params.name;
    let error = match name.to_ascii_lowercase().as_str() {
        TRANSPORT => {
            Error::new(ErrorKind::Exists, format!("transport '{TRANSPORT}' is there always"))
        }
        "vfio_user" | "vfio_user_blk" => Error::new(
            ErrorKind::Unsupported,
            format!(
                "disks are not served over vfio-user: connect virtual machines by '{TRANSPORT}'"
            ),
        ),
        _ => Error::new(
            ErrorKind::NotFound,
            format!("no transport of virtio-blk is named '{name}' (there is: {TRANSPORT})"),
        ),
    };
    Err(error.into())
}
