//! NVMe controllers: attached, described, reset, detached; how they are driven.

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::bdev::check_unsupported;
use crate::base::Error;
use crate::bdev::ConfigEntry;
use crate::bdev::leaf::nvme::{Attached, PERIOD_DEFAULT, PERIOD_MAX};
use crate::nvme::{Place, State, TimeoutAction};
use crate::rpc::method::{Outcome, methods};
use crate::rpc::params::{Object, param_enum, params};
use crate::rpc::services::Services;

methods! {
    /// Attaches an NVMe controller, on PCIe or served over a vfio-user socket. Each of its namespaces becomes a bdev,
    /// named after the controller with `n` and the namespace's number appended; bdevs come and go with
    /// namespaces.
    Runtime fn bdev_nvme_attach_controller(Attach) -> "an array of the names of the bdevs.";
    /// Removes the bdevs of an NVMe controller and shuts it down in order.
    Runtime fn bdev_nvme_detach_controller(Detach) -> "`true`.";
    /// Describes NVMe controllers.
    Runtime fn bdev_nvme_get_controllers(Get)
        -> "an array of objects with `name` and `ctrlrs`, an array with one object: `state`, `trid`, `cntlid`, `host`.";
    /// Resets an NVMe controller. I/O that is outstanding is sent again.
    Runtime fn bdev_nvme_reset_controller(Reset) -> "`true`.";
    /// Looks at the namespaces of an NVMe controller again: for drives that do not tell when they change.
    Runtime fn weft_nvme_rescan_controller(Named) -> "`true`.";
    /// Sets how NVMe controllers are driven. Time-outs hold at once, for attached controllers too, the rest for those that
    /// are attached later.
    Any fn bdev_nvme_set_options(SetOptions) -> "`true`.";
    /// Switches hot plug: NVMe drives that are bound to vfio-pci, now or later, are attached by themselves. (A drive that
    /// goes away is noticed in any case.)
    Any fn bdev_nvme_set_hotplug(SetHotplug) -> "`true`.";
}

param_enum! {
    /// What a second path to the same controller name means.
    enum Multipath {
        /// It is refused.
        Disable = "disable",
        /// It would be used when the first fails.
        Failover = "failover",
        /// Both would be used.
        Both = "multipath",
    }
}

params! {
    /// Of `bdev_nvme_attach_controller`.
    struct Attach {
        /// The controller's name, which the names of its bdevs begin with.
        name: String,
        /// `PCIe` or `VFIOUSER`.
        trtype: String,
        /// PCI address of a function that is bound to vfio-pci, or path of the vfio-user socket or of its
        /// directory.
        traddr: String,
        /// Address family, for fabrics.
        adrfam: Option<String>,
        /// Service, for fabrics.
        trsvcid: Option<String>,
        /// Priority, for fabrics.
        priority: Option<String>,
        /// The subsystem's name, for fabrics.
        subnqn: Option<String>,
        /// The host's name. A local controller does not ask for it; it is reported with the controller.
        hostnqn: Option<String>,
        /// The host's address, for fabrics.
        hostaddr: Option<String>,
        /// The host's service, for fabrics.
        hostsvcid: Option<String>,
        /// Checking of reference tags; false is possible.
        prchk_reftag: bool = false,
        /// Checking of guards; false is possible.
        prchk_guard: bool = false,
        /// Header digests, for fabrics.
        hdgst: bool = false,
        /// Data digests, for fabrics.
        ddgst: bool = false,
        /// Time-out of Connect, for fabrics, in microseconds.
        fabrics_connect_timeout_us: Option<u64>,
        /// What to do when the name is taken. There is one path to a controller, so that any value refuses it.
        multipath: Option<Multipath>,
        /// How many I/O queue pairs to ask for; no more than there are reactors are used. One for each by default.
        num_io_queues: Option<u32>,
        /// How long a lost controller is waited for, in seconds; 0 is possible.
        ctrlr_loss_timeout_sec: i32 = 0,
        /// When a lost controller is looked for again, in seconds; 0 is possible.
        reconnect_delay_sec: u32 = 0,
        /// When I/O to a lost controller fails, in seconds; 0 is possible.
        fast_io_fail_timeout_sec: u32 = 0,
        /// Key of TLS, for fabrics.
        psk: Option<String>,
        /// Most bdevs in the answer. Weft names all of them.
        max_bdevs: Option<u32>,
        /// Key of authentication, for fabrics.
        dhchap_key: Option<String>,
        /// Key of the controller's authentication, for fabrics.
        dhchap_ctrlr_key: Option<String>,
        /// Namespaces of other command sets; false is possible.
        allow_unrecognized_csi: bool = false,
        /// Flow control of submission queues, for fabrics; false is possible.
        disable_sq_flow_control: bool = false,
        /// Options of several paths, which there are not.
        multipath_opts: Option<Object>,
    }
}

async fn bdev_nvme_attach_controller(services: Rc<Services>, params: Attach) -> Outcome {
    check_unsupported(&[
        ("prchk_reftag", params.prchk_reftag),
        ("prchk_guard", params.prchk_guard),
        ("hdgst", params.hdgst),
        ("ddgst", params.ddgst),
        ("psk", params.psk.is_some()),
        ("ctrlr_loss_timeout_sec", params.ctrlr_loss_timeout_sec != 0),
        ("reconnect_delay_sec", params.reconnect_delay_sec != 0),
        ("fast_io_fail_timeout_sec", params.fast_io_fail_timeout_sec != 0),
        ("dhchap_key", params.dhchap_key.is_some()),
        ("dhchap_ctrlr_key", params.dhchap_ctrlr_key.is_some()),
        ("allow_unrecognized_csi", params.allow_unrecognized_csi),
        ("disable_sq_flow_control", params.disable_sq_flow_control),
        ("multipath_opts", params.multipath_opts.is_some()),
        ("max_bdevs", params.max_bdevs == Some(0)),
        ("num_io_queues", params.num_io_queues == Some(0)),
    ])?;
    // They say nothing about a local controller; SPDK lets them pass, too.
    let _of_fabrics = (
        params.adrfam,
        params.trsvcid,
        params.priority,
        params.subnqn,
        params.hostaddr,
        params.hostsvcid,
        params.fabrics_connect_timeout_us,
        params.multipath,
    );
    let place = Place::parse(&params.trtype, &params.traddr)?;
    let mut options = services.nvme.options();
    options.io_queues = params.num_io_queues.or(options.io_queues);
    let mut config = json!({
        "name": params.name,
        "trtype": params.trtype,
        "traddr": place.to_string(),
    });
    if let Some(queues) = params.num_io_queues {
        config["num_io_queues"] = queues.into();
    }
    if let Some(hostnqn) = params.hostnqn {
        config["hostnqn"] = hostnqn.into();
    }
    let config = ConfigEntry { method: "bdev_nvme_attach_controller", params: config };
    let names = services.nvme.attach(&params.name, &place, options, config).await?;
    Ok(json!(names))
}

params! {
    /// Of `bdev_nvme_detach_controller`.
    struct Detach {
        /// The controller's name.
        name: String,
        /// Only if it is reached by this transport.
        trtype: Option<String>,
        /// Only if it is at this address.
        traddr: Option<String>,
        /// For fabrics.
        adrfam: Option<String>,
        /// For fabrics.
        trsvcid: Option<String>,
        /// For fabrics.
        subnqn: Option<String>,
        /// For fabrics.
        hostaddr: Option<String>,
        /// For fabrics.
        hostsvcid: Option<String>,
    }
}

async fn bdev_nvme_detach_controller(services: Rc<Services>, params: Detach) -> Outcome {
    let attached = services.nvme.get(&params.name)?;
    let transport = attached.controller.transport();
    let _of_fabrics =
        (params.adrfam, params.trsvcid, params.subnqn, params.hostaddr, params.hostsvcid);
    if let Some(kind) = &params.trtype
        && !kind.eq_ignore_ascii_case(transport.kind())
    {
        return Err(no_such_path(&params.name, kind).into());
    }
    if let Some(address) = &params.traddr {
        let place = Place::parse(transport.kind(), address)?;
        if place.to_string() != transport.address() {
            return Err(no_such_path(&params.name, address).into());
        }
    }
    services.nvme.detach(&params.name).await?;
    Ok(json!(true))
}

fn no_such_path(name: &str, path: &str) -> Error {
    let text = format!("NVMe controller '{name}' has no path by '{path}'");
    Error::new(crate::base::ErrorKind::NoDevice, text)
}

params! {
    /// Of `bdev_nvme_get_controllers`.
    struct Get {
        /// Only this one.
        name: Option<String>,
    }
}

async fn bdev_nvme_get_controllers(services: Rc<Services>, params: Get) -> Outcome {
    let list = match params.name {
        Some(name) => vec![services.nvme.get(&name)?],
        None => services.nvme.list(),
    };
    Ok(list.iter().map(describe).collect())
}

fn describe(attached: &Attached) -> Value {
    let controller = &attached.controller;
    let transport = controller.transport();
    let state = match controller.state() {
        State::Ready => "enabled",
        State::Resetting => "resetting",
        State::Failed => "failed",
        State::Removed | State::Detached => "deleting",
    };
    json!({
        "name": attached.name,
        "ctrlrs": [{
            "state": state,
            "trid": { "trtype": transport.kind(), "traddr": transport.address() },
            "cntlid": controller.identify().cntlid,
            "host": {
                "nqn": attached.config.params.get("hostnqn").cloned().unwrap_or_else(|| "".into()),
                "addr": "",
                "svcid": "",
            },
            "numa_id": transport.numa_node().map_or(-1, i64::from),
            "num_io_queues": controller.io_queues(),
        }],
    })
}

params! {
    /// Of `bdev_nvme_reset_controller`.
    struct Reset {
        /// The controller's name.
        name: String,
        /// Only if this is its controller id.
        cntlid: Option<u16>,
    }
}

async fn bdev_nvme_reset_controller(services: Rc<Services>, params: Reset) -> Outcome {
    let attached = services.nvme.get(&params.name)?;
    let id = attached.controller.identify().cntlid;
    if params.cntlid.is_some_and(|wanted| wanted != id) {
        let text = format!("the controller id of '{}' is {id}", params.name);
        return Err(Error::new(crate::base::ErrorKind::NoDevice, text).into());
    }
    attached.controller.request_reset().await?;
    Ok(json!(true))
}

params! {
    /// Of methods that only name a controller.
    pub(super) struct Named {
        /// The controller's name.
        name: String,
    }
}

async fn weft_nvme_rescan_controller(services: Rc<Services>, params: Named) -> Outcome {
    services.nvme.get(&params.name)?.controller.request_rescan().await?;
    Ok(json!(true))
}

param_enum! {
    /// What to do about a command that takes too long.
    enum Action {
        /// Log it.
        None = "none",
        /// Reset the controller.
        Reset = "reset",
        /// Abort the command; reset the controller when that does not help.
        Abort = "abort",
    }
}

params! {
    /// Of `bdev_nvme_set_options`. What is left out stays as it is.
    struct SetOptions {
        /// What to do about a command that takes too long; `abort` at first.
        action_on_timeout: Option<Action>,
        /// How long an I/O command may take, in microseconds; 0 for ever; 30 s at first.
        timeout_us: Option<u64>,
        /// How long an admin command may take, in microseconds; 0 as long as I/O commands; 60 s at first.
        timeout_admin_us: Option<u64>,
        /// How often admin queues are looked at for events, in microseconds; 10000 at first.
        nvme_adminq_poll_period_us: Option<u64>,
        /// How often a command that failed for a transient reason is sent again; -1 for as often as it takes, up to
        /// 255; 4 at first.
        bdev_retry_count: Option<i32>,
        /// Attempts within the transport, for fabrics.
        transport_retry_count: Option<u32>,
        /// Entries of I/O queues, as Weft has no other requests; 0 leaves it at 1024.
        io_queue_requests: Option<u32>,
        /// Keep-alive, for fabrics, in milliseconds.
        keep_alive_timeout_ms: Option<u32>,
        /// Arbitration; 0 is possible.
        arbitration_burst: u32 = 0,
        /// Arbitration; 0 is possible.
        low_priority_weight: u32 = 0,
        /// Arbitration; 0 is possible.
        medium_priority_weight: u32 = 0,
        /// Arbitration; 0 is possible.
        high_priority_weight: u32 = 0,
        /// How often I/O queues are polled; 0 (always) is possible.
        nvme_ioq_poll_period_us: u64 = 0,
        /// Doorbells once for several commands. Weft always does that.
        delay_cmd_submit: bool = true,
        /// For fabrics.
        transport_ack_timeout: Option<u8>,
        /// How long a lost controller is waited for; 0 is possible.
        ctrlr_loss_timeout_sec: i32 = 0,
        /// When a lost controller is looked for again; 0 is possible.
        reconnect_delay_sec: u32 = 0,
        /// When I/O to a lost controller fails; 0 is possible.
        fast_io_fail_timeout_sec: u32 = 0,
        /// For several paths, which there are not.
        disable_auto_failback: bool = false,
        /// UUIDs for namespaces without one. Weft always derives one.
        generate_uuids: bool = false,
        /// For fabrics.
        transport_tos: Option<u8>,
        /// Error counts; Weft always keeps them.
        nvme_error_stat: bool = false,
        /// For RDMA.
        rdma_srq_size: u32 = 0,
        /// Counters per path; false is possible.
        io_path_stat: bool = false,
        /// For accelerators; false is possible.
        allow_accel_sequence: bool = false,
        /// For RDMA.
        rdma_max_cq_size: u32 = 0,
        /// For RDMA.
        rdma_cm_event_timeout_ms: u16 = 0,
        /// Digests of authentication, for fabrics.
        dhchap_digests: Option<Vec<String>>,
        /// Groups of authentication, for fabrics.
        dhchap_dhgroups: Option<Vec<String>>,
        /// For RDMA.
        rdma_umr_per_io: bool = false,
        /// For TCP.
        tcp_connect_timeout_ms: u32 = 0,
        /// Whether flushes go to drives with a volatile write cache. Weft always sends them.
        enable_flush: Option<bool>,
        /// Options of several paths, which there are not.
        multipath_opts: Option<Object>,
    }
}

async fn bdev_nvme_set_options(services: Rc<Services>, params: SetOptions) -> Outcome {
    check_unsupported(&[
        ("arbitration_burst", params.arbitration_burst != 0),
        ("low_priority_weight", params.low_priority_weight != 0),
        ("medium_priority_weight", params.medium_priority_weight != 0),
        ("high_priority_weight", params.high_priority_weight != 0),
        ("nvme_ioq_poll_period_us", params.nvme_ioq_poll_period_us != 0),
        ("delay_cmd_submit", !params.delay_cmd_submit),
        ("ctrlr_loss_timeout_sec", params.ctrlr_loss_timeout_sec != 0),
        ("reconnect_delay_sec", params.reconnect_delay_sec != 0),
        ("fast_io_fail_timeout_sec", params.fast_io_fail_timeout_sec != 0),
        ("disable_auto_failback", params.disable_auto_failback),
        ("rdma_srq_size", params.rdma_srq_size != 0),
        ("io_path_stat", params.io_path_stat),
        ("allow_accel_sequence", params.allow_accel_sequence),
        ("rdma_max_cq_size", params.rdma_max_cq_size != 0),
        ("rdma_cm_event_timeout_ms", params.rdma_cm_event_timeout_ms != 0),
        ("rdma_umr_per_io", params.rdma_umr_per_io),
        ("tcp_connect_timeout_ms", params.tcp_connect_timeout_ms != 0),
        ("bdev_retry_count", params.bdev_retry_count.is_some_and(|count| count < -1)),
    ])?;
    // Of fabrics, or what is always so.
    let _accepted = (
        params.transport_retry_count,
        params.keep_alive_timeout_ms,
        params.transport_ack_timeout,
        params.transport_tos,
        params.generate_uuids,
        params.nvme_error_stat,
        params.dhchap_digests,
        params.dhchap_dhgroups,
        params.enable_flush,
        params.multipath_opts,
    );
    let mut options = services.nvme.options();
    if let Some(action) = params.action_on_timeout {
        options.timeout_action = match action {
            Action::None => TimeoutAction::None,
            Action::Reset => TimeoutAction::Reset,
            Action::Abort => TimeoutAction::Abort,
        };
    }
    if let Some(timeout) = params.timeout_us {
        options.timeout = Duration::from_micros(timeout);
    }
    match params.timeout_admin_us {
        Some(0) if !options.timeout.is_zero() => options.admin_timeout = options.timeout,
        Some(0) | None => {}
        Some(timeout) => options.admin_timeout = Duration::from_micros(timeout),
    }
    if let Some(period) = params.nvme_adminq_poll_period_us {
        const LEAST: Duration = Duration::from_micros(100);
        options.admin_poll_period = Duration::from_micros(period).max(LEAST);
    }
    if let Some(count) = params.bdev_retry_count {
        options.retries = u8::try_from(count).unwrap_or(u8::MAX);
    }
    if let Some(size) = params.io_queue_requests.filter(|size| *size != 0) {
        options.io_queue_size = size.clamp(2, 1 << 15);
    }
    services.nvme.set_options(options);
    Ok(json!(true))
}

params! {
    /// Of `bdev_nvme_set_hotplug`.
    struct SetHotplug {
        /// On or off.
        enable: bool,
        /// How often drives are looked for, in microseconds: 1 to 10000000; 0 for 100000.
        period_us: u64 = 0,
    }
}

async fn bdev_nvme_set_hotplug(services: Rc<Services>, params: SetHotplug) -> Outcome {
    let period = match params.period_us {
        0 => PERIOD_DEFAULT,
        period => Duration::from_micros(period),
    };
    if period > PERIOD_MAX {
        return Err(Error::invalid(format!(
            "period_us: {} (up to {} is possible)",
            params.period_us,
            PERIOD_MAX.as_micros()
        ))
        .into());
    }
    services.hotplug.set(params.enable.then_some(period));
    Ok(json!(true))
}
