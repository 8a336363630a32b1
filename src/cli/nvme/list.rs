//! `weft nvme list`: the drives of this host, and the controllers of the daemon.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::own_label;
use crate::base::{ByteCount, Result, format_size};
use crate::cli::output::{Columns, Format, elements, number, print_json, text};
use crate::cli::session::Session;
use crate::nvme::pci::{HostPaths, InUse, KernelDrive, PciFunction, nvme_functions, uses};
use crate::reactor::{CoreList, Topology};

/// Lists the NVMe drives of this host and the NVMe controllers of the daemon
///
/// Reads the first and last sectors of drives that the kernel has, to tell what is on them; nothing is changed. The distance
/// is that of the drive's NUMA node from the nearest of the daemon's reactors: 10 is the same node.
#[derive(Debug, Args)]
pub struct ListCommand {}

impl ListCommand {
    /// Runs it.
    ///
    /// # Errors
    /// None on the host's side: what cannot be read is not shown.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        let paths = HostPaths::system();
        let near = Near { topology: Topology::read(), reactors: reactors(session) };
        let mut attached = attached(session);
        let mut rows: Vec<Value> = nvme_functions(&paths)
            .iter()
            .map(|function| {
                let attached = attached.remove(&function.address.to_string());
                row(&paths, &near, function, attached.unwrap_or_default())
            })
            .collect();
        // What is left is not on PCIe: other processes, other hosts.
        rows.extend(attached.into_values().map(|controller| {
            json!({
                "address": controller.address, "model": controller.model, "serial": controller.serial,
                "firmware": controller.firmware, "bytes": controller.bytes,
                "controller": controller.name, "driver": "weft", "in_use": [],
            })
        }));
        match session.format() {
            Format::Json => print_json(&Value::Array(rows)),
            Format::Text if rows.is_empty() => println!("There is no NVMe drive on this host."),
            Format::Text => println!("{}", table(&rows)),
        }
        Ok(())
    }
}

/// What is near what, and where the daemon's reactors run.
struct Near {
    topology: Topology,
    reactors: Vec<usize>,
}

/// The cores of the daemon's reactors; none when it does not answer.
fn reactors(session: &mut Session) -> Vec<usize> {
    let Ok(answer) = session.call("framework_get_reactors", json!({})) else { return Vec::new() };
    let core = |reactor: &Value| usize::try_from(reactor["lcore"].as_u64()?).ok();
    elements(&answer, "reactors").iter().filter_map(core).collect()
}

/// A controller of the daemon.
#[derive(Default)]
struct Attached {
    address: String,
    name: String,
    model: Option<String>,
    serial: Option<String>,
    firmware: Option<String>,
    bytes: Option<u64>,
}

/// The controllers of the daemon by address; none when it does not answer.
fn attached(session: &mut Session) -> BTreeMap<String, Attached> {
    let Ok(controllers) = session.call("bdev_nvme_get_controllers", json!({})) else {
        return BTreeMap::new();
    };
    let mut found = BTreeMap::new();
    for controller in controllers.as_array().into_iter().flatten() {
        for path in elements(controller, "ctrlrs") {
            let Some(address) = path["trid"]["traddr"].as_str() else { continue };
            let attached = Attached {
                address: address.into(),
                name: text(controller, "name"),
                ..Attached::default()
            };
            found.insert(address.to_owned(), attached);
        }
    }
    let Ok(bdevs) = session.call("bdev_get_bdevs", json!({})) else { return found };
    for bdev in bdevs.as_array().into_iter().flatten() {
        for path in elements(&bdev["driver_specific"], "nvme") {
            let address = path["trid"]["traddr"].as_str().unwrap_or_default();
            let Some(controller) = found.get_mut(address) else { continue };
            let data = &path["ctrlr_data"];
            let known = |field: &str| data[field].as_str().map(|text| text.trim().to_owned());
            controller.model = known("model_number");
            controller.serial = known("serial_number");
            controller.firmware = known("firmware_revision");
            let bytes = number(bdev, "num_blocks").saturating_mul(number(bdev, "block_size"));
            controller.bytes = Some(controller.bytes.unwrap_or(0).saturating_add(bytes));
        }
    }
    found
}

fn row(paths: &HostPaths, near: &Near, function: &PciFunction, attached: Attached) -> Value {
    let kernel = KernelDrive::read(paths, function);
    let place = near.topology.near_pci(&function.address.to_string());
    let node = place.numa_node.or(function.numa_node);
    let distance = near
        .topology
        .nearest(&near.reactors, &place)
        .and_then(|core| near.topology.distance(core, node?));
    let near_cores = CoreList::new(place.cores).ok().map(|cores| cores.to_string());
    let of = |from: fn(&KernelDrive) -> Option<String>| kernel.as_ref().and_then(from);
    let in_use: Vec<String> =
        uses(paths, function, &own_label).iter().map(InUse::to_string).collect();
    json!({
        "address": function.address,
        "vendor_id": format!("{:04x}", function.ids.vendor),
        "device_id": format!("{:04x}", function.ids.device),
        "model": of(|drive| drive.model.clone()).or(attached.model),
        "serial": of(|drive| drive.serial.clone()).or(attached.serial),
        "firmware": of(|drive| drive.firmware.clone()).or(attached.firmware),
        "bytes": kernel.as_ref().map(KernelDrive::bytes).or(attached.bytes),
        "numa_node": node,
        "near_cores": near_cores,
        "distance": distance,
        "driver": function.driver,
        "iommu_group": function.iommu_group,
        "kernel_devices": kernel.as_ref().map(|drive| {
            drive.blocks.iter().map(|block| block.name.clone()).collect::<Vec<String>>()
        }),
        "controller": Some(attached.name).filter(|name| !name.is_empty()),
        "in_use": in_use,
    })
}

fn table(rows: &[Value]) -> String {
    let mut columns = Columns::new(&[
        "address",
        "model",
        "serial",
        "#size",
        "#node",
        "near cores",
        "#distance",
        "driver",
        "#group",
        "controller",
        "in use",
    ]);
    for row in rows {
        let in_use: Vec<&str> = elements(row, "in_use").iter().filter_map(Value::as_str).collect();
        let size = match row["bytes"].as_u64() {
            Some(bytes) => format_size(ByteCount(bytes)),
            None => "-".into(),
        };
        columns.row([
            text(row, "address"),
            text(row, "model"),
            text(row, "serial"),
            size,
            text(row, "numa_node"),
            text(row, "near_cores"),
            text(row, "distance"),
            text(row, "driver"),
            text(row, "iommu_group"),
            text(row, "controller"),
            if in_use.is_empty() { "-".into() } else { in_use.join("; ") },
        ]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_who_uses_what() {
        let rows = [
            json!({"address": "0000:01:00.0", "model": "Fast", "serial": "s1", "bytes": 1_u64 << 30, "numa_node": 0,
                "near_cores": "0-3", "distance": 21, "driver": "nvme", "iommu_group": "5", "controller": null,
                "in_use": ["nvme0n1p1 mounted at /", "nvme0n1 holds GPT partition table"]}),
            json!({"address": "/run/target/0", "controller": "remote", "driver": "weft", "in_use": []}),
        ];
        let lines: Vec<String> = table(&rows).lines().map(str::to_string).collect();
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert!(words.windows(2).any(|pair| pair == ["0-3", "21"]), "{lines:?}");
        assert!(lines[1].contains("1 GiB") && lines[1].contains("mounted at /; nvme0n1 holds GPT"));
        assert!(lines[2].contains("remote") && lines[2].ends_with('-'), "{lines:?}");
    }
}
