//! `weft vhost`: bdevs as virtio-blk disks of virtual machines.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Columns, Format, elements, number, print_json, short_count, text};
use super::session::Session;
use crate::base::{ByteCount, Result, format_size};
use crate::reactor::CoreList;

/// Disks of virtual machines: vhost-user-blk controllers.
#[derive(Debug, Subcommand)]
pub enum VhostCommand {
    Create(CreateCommand),
    List(ListCommand),
    Delete(DeleteCommand),
    Coalescing(CoalescingCommand),
    Move(MoveCommand),
}

/// Makes a bdev the disk of a virtual machine, and prints the socket that the machine connects to
///
/// QEMU takes the socket as -chardev socket,id=c0,path=SOCKET,reconnect-ms=500 -device vhost-user-blk-pci,chardev=c0 and must
/// share its memory: -object memory-backend-memfd,id=m0,size=SIZE,share=on -machine memory-backend=m0.
#[derive(Debug, Args)]
pub struct CreateCommand {
    /// Name for the controller and its socket
    name: String,
    /// The bdev
    bdev: String,
    /// Cores whose reactors may poll its queues: a mask (0x3) or a list (0,2-3) [default: all of the daemon's]
    #[arg(long, value_name = "CORES")]
    cores: Option<CoreList>,
    /// Refuses writes, and tells the guest so
    #[arg(long)]
    read_only: bool,
    /// Offers packed rings beside split ones
    #[arg(long)]
    packed: bool,
}

/// Lists controllers, the virtual machines connected to them, and their queues
#[derive(Debug, Args)]
pub struct ListCommand {
    /// Only this controller
    name: Option<String>,
}

/// Removes a controller and its socket; refused while a virtual machine is connected
#[derive(Debug, Args)]
pub struct DeleteCommand {
    /// The controller
    name: String,
}

/// Holds interrupts back, so that one tells of several completions: fewer for the guest to take, each a little later
#[derive(Debug, Args)]
pub struct CoalescingCommand {
    /// The controller
    name: String,
    /// For how long an interrupt may be held back, in microseconds; 0 holds none back
    #[arg(long, value_name = "MICROSECONDS")]
    delay: u32,
    /// Only while a queue completes more requests per second than this
    #[arg(long, value_name = "IOPS", default_value_t = IOPS_THRESHOLD, value_parser = clap::value_parser!(u32).range(1..))]
    iops_threshold: u32,
}

/// Lets another reactor poll a queue, with nothing lost
#[derive(Debug, Args)]
pub struct MoveCommand {
    /// The controller
    name: String,
    /// Index of the queue
    queue: u16,
    /// Core of the reactor
    core: u32,
}

/// What controllers begin with.
const IOPS_THRESHOLD: u32 = 60_000;

impl VhostCommand {
    /// Runs it.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn run(&self, session: &mut Session) -> Result<()> {
        match self {
            VhostCommand::Create(command) => command.run(session),
            VhostCommand::List(command) => command.run(session),
            VhostCommand::Delete(DeleteCommand { name }) => {
                done(session, "vhost_delete_controller", json!({ "ctrlr": name }))
            }
            VhostCommand::Coalescing(CoalescingCommand { name, delay, iops_threshold }) => {
                let params = json!({
                    "ctrlr": name, "delay_base_us": delay, "iops_threshold": iops_threshold,
                });
                done(session, "vhost_controller_set_coalescing", params)
            }
            VhostCommand::Move(MoveCommand { name, queue, core }) => {
                let params = json!({ "ctrlr": name, "queue": queue, "core": core });
                done(session, "weft_vhost_move_queue", params)
            }
        }
    }
}

fn done(session: &mut Session, method: &str, params: Value) -> Result<()> {
    let answer = session.call(method, params)?;
    if session.format() == Format::Json {
        print_json(&answer);
    }
    Ok(())
}

impl CreateCommand {
    fn run(&self, session: &mut Session) -> Result<()> {
        session.call("vhost_create_blk_controller", self.params())?;
        let made = session.call("vhost_get_controllers", json!({ "name": self.name }))?;
        match session.format() {
            Format::Json => print_json(&made),
            Format::Text => println!("{}", text(&made[0], "socket")),
        }
        Ok(())
    }

    fn params(&self) -> Value {
        let mut params = json!({
            "ctrlr": self.name,
            "dev_name": self.bdev,
            "readonly": self.read_only,
            "packed_ring": self.packed,
        });
        if let Some(cores) = &self.cores {
            params["cpumask"] = format!("0x{}", cores.mask()).into();
        }
        params
    }
}

impl ListCommand {
    fn run(&self, session: &mut Session) -> Result<()> {
        let params = self.name.as_ref().map_or_else(|| json!({}), |name| json!({ "name": name }));
        let controllers = session.call("vhost_get_controllers", params)?;
        match session.format() {
            Format::Json => print_json(&controllers),
            Format::Text => println!("{}", list(&controllers)),
        }
        Ok(())
    }
}

fn list(controllers: &Value) -> String {
    let controllers = controllers.as_array().map_or(&[][..], Vec::as_slice);
    if controllers.is_empty() {
        return "There is no vhost controller.".into();
    }
    let mut columns = Columns::new(&[
        "name",
        "bdev",
        "mode",
        "cores",
        "coalescing",
        "front end",
        "#memory",
        "socket",
    ]);
    for controller in controllers {
        let block = &controller["backend_specific"]["block"];
        let session = elements(controller, "sessions").first();
        columns.row([
            text(controller, "ctrlr"),
            text(block, "bdev"),
            mode(block),
            cores(controller),
            coalescing(controller),
            session.map_or_else(|| "-".into(), front_end),
            session.map_or_else(
                || "-".into(),
                |session| format_size(ByteCount(number(session, "memory_size"))),
            ),
            text(controller, "socket"),
        ]);
    }
    let mut parts = vec![columns.text()];
    parts.extend(queues(controllers));
    parts.join("\n\n")
}

fn mode(block: &Value) -> String {
    let access = if block["readonly"] == true { "read-only" } else { "read-write" };
    let packed = if block["packed_ring"] == true { ", packed" } else { "" };
    format!("{access}{packed}")
}

fn cores(controller: &Value) -> String {
    let mask = text(controller, "cpumask");
    mask.parse().map_or(mask, |cores: CoreList| cores.to_string())
}

fn coalescing(controller: &Value) -> String {
    match number(controller, "delay_base_us") {
        0 => "-".into(),
        delay => {
            let threshold = short_count(number(controller, "iops_threshold") as f64);
            format!("{delay} µs above {threshold} IOPS")
        }
    }
}

/// How a session stands, in a few words.
fn front_end(session: &Value) -> String {
    match (session["fault"].as_str(), session["started"] == true) {
        (Some(fault), _) => format!("stopped: {fault}"),
        (None, true) => format!("running, {} in flight", number(session, "inflight_task_cnt")),
        (None, false) => "connected".into(),
    }
}

/// A table of all queues that are set up, if any is.
fn queues(controllers: &[Value]) -> Option<String> {
    let mut columns = Columns::new(&[
        "name",
        "#queue",
        "#core",
        "#size",
        "#in flight",
        "#completed",
        "#interrupts",
        "#kicks",
    ]);
    let mut any = false;
    for controller in controllers {
        for session in elements(controller, "sessions") {
            for queue in elements(session, "queues") {
                any = true;
                let count = |field: &str| short_count(number(queue, field) as f64);
                columns.row([
                    text(controller, "ctrlr"),
                    text(queue, "index"),
                    text(queue, "lcore"),
                    text(queue, "size"),
                    text(queue, "inflight_task_cnt"),
                    count("completed"),
                    count("interrupts"),
                    count("kicks"),
                ]);
            }
        }
    }
    any.then(|| columns.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(name: &str, sessions: Value) -> Value {
        json!({
            "ctrlr": name, "cpumask": "0xd", "delay_base_us": 0, "iops_threshold": 60000,
            "socket": format!("/run/weft/{name}"), "sessions": sessions,
            "backend_specific": {"block": {"readonly": false, "bdev": "m0", "transport": "vhost_user_blk"}},
        })
    }

    #[test]
    fn controllers_show_who_is_connected_and_who_polls_what() {
        let queue = json!({"index": 1, "lcore": 3, "size": 128, "inflight_task_cnt": 5, "completed": 12_345,
            "interrupts": 77, "kicks": 0});
        let running = json!([{"started": true, "inflight_task_cnt": 5, "memory_size": 1_u64 << 30, "fault": null,
            "queues": [queue]}]);
        let mut tuned = controller("vm0", running);
        tuned["delay_base_us"] = 20.into();
        let table = list(&json!([tuned, controller("vm1", json!([]))]));
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].contains("read-write"), "{table}");
        assert!(lines[1].contains("running, 5 in flight") && lines[1].contains("1 GiB"), "{table}");
        assert!(
            lines[1].contains("20 µs above 60.0k IOPS") && lines[1].contains("0,2-3"),
            "{table}"
        );
        assert!(lines[2].ends_with("/run/weft/vm1") && lines[2].contains("-  "), "{table}");
        let words: Vec<&str> = lines[5].split_whitespace().collect();
        assert_eq!(words, ["vm0", "1", "3", "128", "5", "12.3k", "77", "0"]);
    }

    #[test]
    fn a_front_end_that_was_stopped_shows_why() {
        let stopped =
            json!([{"started": false, "fault": "queue 0: a descriptor beyond the guest's memory"}]);
        let table = list(&json!([controller("vm0", stopped)]));
        assert!(table.contains("stopped: queue 0: a descriptor beyond"), "{table}");
        assert!(!table.contains("KICKS"), "{table}");
    }

    #[test]
    fn lists_of_cores_go_out_as_masks() {
        let create = CreateCommand {
            name: "vm0".into(),
            bdev: "m0".into(),
            cores: Some("0,2-3".parse().unwrap()),
            read_only: true,
            packed: false,
        };
        let wanted = json!({"ctrlr": "vm0", "dev_name": "m0", "readonly": true, "packed_ring": false,
            "cpumask": "0xd"});
        assert_eq!(create.params(), wanted);
    }
}
