//! `weft host`: whether this host is ready for drives, and its reserve of huge pages.
//!
//! Apart from `weft nvme`, since memory and the IOMMU are the host's: they are prepared once, at boot, with or without
//! local drives.

use std::process::Command;

use clap::Subcommand;
use rustix::process::{Resource, geteuid, getrlimit};
use serde_json::{Value, json};

use super::output::{Columns, Format, print_json, text};
use super::session::Session;
use crate::base::{ByteCount, Error, ErrorKind, Result, format_size, parse_size};
use crate::memory::{HUGE_PAGE_SIZE, NodeReserve, reserve, reserves};
use crate::nvme::pci::{HOW_TO_ENABLE, HostPaths, Iommu, VFIO_DRIVER, nvme_functions};

/// Memory that locked pages need at least for a daemon with drives to start.
const LOCKED_MIN: u64 = 256 << 20;

/// This host: is it ready for drives?
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Shows whether VFIO, the IOMMU, huge pages and limits are as they should be, and what to do where not
    Check,
    /// Makes the reserve of huge pages at least so large; a reserve that is large enough stays as it is
    HugePages {
        /// Size, over all NUMA nodes
        #[arg(value_name = "SIZE")]
        size: String,
        /// Only on this NUMA node
        #[arg(long, value_name = "NODE")]
        node: Option<u32>,
    },
}

impl HostCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When the host is not ready, or the system refuses.
    pub fn run(&self, session: &Session) -> Result<()> {
        let paths = HostPaths::system();
        match self {
            HostCommand::Check => check(session, &paths),
            HostCommand::HugePages { size, node } => {
                let added = reserve_huge_pages(&paths, parse_size(size)?, *node)?;
                let all = reserves(&paths.sys);
                match session.format() {
                    Format::Json => print_json(&json!({"added": added, "nodes": nodes_json(&all)})),
                    Format::Text => println!("{}", nodes_table(&all)),
                }
                Ok(())
            }
        }
    }
}

/// Makes the reserve at least `size`.
pub fn reserve_huge_pages(paths: &HostPaths, size: ByteCount, node: Option<u32>) -> Result<u64> {
    reserve(&paths.sys, size, node)
}

/// What is to be said about the reserve of huge pages, if anything.
pub fn huge_page_notes(paths: &HostPaths) -> Vec<String> {
    let all = reserves(&paths.sys);
    let free: u64 = all.iter().map(|node| node.free).sum();
    if free > 0 {
        return Vec::new();
    }
    let total: u64 = all.iter().map(|node| node.total).sum();
    let why =
        if total == 0 { "none are reserved".to_owned() } else { format!("all {total} are taken") };
    vec![format!("there are no free huge pages ({why}): weft host huge-pages 1G reserves some")]
}

/// The number of a user that is given by name or number.
///
/// # Errors
/// When there is no such user.
pub fn user_number(user: &str) -> Result<u32> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    // `id` asks all the sources of users that the system is configured for.
    let known = Command::new("id")
        .args(["-u", "--", user])
        .output()
        .map_err(|error| Error::os(format!("user {user}: cannot run id"), error))?;
    let number = String::from_utf8_lossy(&known.stdout).trim().parse().ok();
    number.filter(|_| known.status.success()).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("there is no user '{user}' (give a name or a number)"),
        )
    })
}

/// One thing that is looked at.
struct Finding {
    what: &'static str,
    /// Not ready; a hint is not enough to call the host that.
    bad: bool,
    state: String,
    advice: Option<String>,
}

fn check(session: &Session, paths: &HostPaths) -> Result<()> {
    let findings = findings(paths);
    match session.format() {
        Format::Json => print_json(&findings.iter().map(finding_json).collect()),
        Format::Text => {
            let mut columns = Columns::new(&["", "what", "state", "advice"]);
            for row in findings.iter().map(finding_json) {
                columns.row(["result", "what", "state", "advice"].map(|field| text(&row, field)));
            }
            println!("{}", columns.text());
        }
    }
    if findings.iter().any(|finding| finding.bad) {
        return Err(Error::new(ErrorKind::Unsupported, "this host is not ready for NVMe drives"));
    }
    Ok(())
}

fn finding_json(finding: &Finding) -> Value {
    let result = match (finding.bad, &finding.advice) {
        (true, _) => "BAD",
        (false, Some(_)) => "hint",
        (false, None) => "ok",
    };
    json!({"what": finding.what, "result": result, "state": finding.state, "advice": finding.advice})
}

fn findings(paths: &HostPaths) -> Vec<Finding> {
    vec![iommu(paths), interrupts(paths), vfio(paths), huge_pages(paths), locked(), drives(paths)]
}

fn iommu(paths: &HostPaths) -> Finding {
    let iommu = Iommu::read(paths);
    let (bad, state, advice) = match (iommu.is_on(), iommu.unsafe_without) {
        (true, false) => (false, format!("on, {} groups", iommu.groups), None),
        (true, true) => (
            false,
            format!("on, {} groups; VFIO may also do without", iommu.groups),
            Some("write N to /sys/module/vfio/parameters/enable_unsafe_noiommu_mode".into()),
        ),
        (false, true) => (
            false,
            "off; VFIO may do without".into(),
            Some("any drive can write to any memory: for tests only".into()),
        ),
        (false, false) => (true, "off".into(), Some(HOW_TO_ENABLE.into())),
    };
    Finding { what: "IOMMU", bad, state, advice }
}

fn interrupts(paths: &HostPaths) -> Finding {
    let iommu = Iommu::read(paths);
    let (state, advice) = match iommu.interrupt_remapping {
        Some(true) => ("on", None),
        // Without it VFIO gives a group out only when told to.
        Some(false) if iommu.is_on() => (
            "off",
            Some(
                "switch on x2APIC or interrupt remapping in the firmware; where the hardware has none: modprobe \
                 vfio_iommu_type1 allow_unsafe_interrupts=1"
                    .into(),
            ),
        ),
        Some(false) => ("off", None),
        None => ("not known", None),
    };
    Finding { what: "interrupt remapping", bad: false, state: state.into(), advice }
}

fn vfio(paths: &HostPaths) -> Finding {
    let loaded = paths.sys.join("bus/pci/drivers").join(VFIO_DRIVER).is_dir();
    let node = paths.dev.join("vfio/vfio").exists();
    let (state, advice) = match (loaded, node) {
        (true, true) => ("loaded", None),
        (true, false) => {
            ("loaded, but there is no /dev/vfio/vfio", Some("give the container /dev/vfio".into()))
        }
        (false, _) => {
            ("not loaded", Some("weft nvme bind loads it (or: modprobe vfio-pci)".into()))
        }
    };
    Finding { what: "vfio-pci", bad: false, state: state.into(), advice }
}

fn huge_pages(paths: &HostPaths) -> Finding {
    let all = reserves(&paths.sys);
    let node = |node: &NodeReserve| {
        let size = |pages: u64| format_size(ByteCount(pages.saturating_mul(HUGE_PAGE_SIZE as u64)));
        format!("node {}: {} of {} free", node.node, size(node.free), size(node.total))
    };
    let state: Vec<String> = all.iter().map(node).collect();
    let state = if state.is_empty() { "none".into() } else { state.join(", ") };
    Finding { what: "huge pages", bad: false, state, advice: huge_page_notes(paths).pop() }
}

fn locked() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    let state = limit.map_or("unlimited".into(), |bytes| format_size(ByteCount(bytes)));
    let low = limit.is_some_and(|bytes| bytes < LOCKED_MIN) && !geteuid().is_root();
    let advice = low.then(|| {
        "VFIO locks all memory that drives may reach: raise it (LimitMEMLOCK=infinity in the service, memlock in \
         /etc/security/limits.d)"
            .into()
    });
    Finding { what: "locked memory", bad: false, state, advice }
}

fn drives(paths: &HostPaths) -> Finding {
    let functions = nvme_functions(paths);
    let bound = functions.iter().filter(|one| one.driver.as_deref() == Some(VFIO_DRIVER)).count();
    let state = format!("{}, of which {bound} bound to {VFIO_DRIVER}", functions.len());
    Finding { what: "NVMe drives", bad: false, state, advice: None }
}

fn nodes_json(nodes: &[NodeReserve]) -> Value {
    let row =
        |node: &NodeReserve| json!({"node": node.node, "total": node.total, "free": node.free});
    nodes.iter().map(row).collect()
}

fn nodes_table(nodes: &[NodeReserve]) -> String {
    let mut columns = Columns::new(&["#node", "#pages", "#free", "#size"]);
    for node in nodes {
        columns.row([
            node.node.to_string(),
            node.total.to_string(),
            node.free.to_string(),
            format_size(ByteCount(node.total.saturating_mul(HUGE_PAGE_SIZE as u64))),
        ]);
    }
    columns.text()
}
