//! What the NVMe driver costs: 4 KiB reads against the device model in memory, on one core. Only what the driver does
//! is counted: the model's own work happens between the stretches that are timed.
//!
//! `cargo bench --bench nvme` prints ns per I/O: `queue` is submit and complete on the driver's queue, `bdev` the same through the
//! channel of the namespace's bdev.
//!
//! `cargo bench --bench nvme -- count LEVEL OPCODE N` runs N commands at depth 32 and prints nothing, for `ci/instructions/run`,
//! which counts the instructions within [`driver`].

use std::hint::black_box;
use std::sync::Arc;

use serde_json::json;
use weft::base::Lba;
use weft::bdev::leaf::nvme::Controllers;
use weft::bdev::{Channel, Completions, ConfigEntry, Opcode, Queue as _, Registry, Request};
use weft::memory::{self, Buffer, PoolOptions};
use weft::nvme::model::{Model, ModelOptions, NamespaceOptions};
use weft::nvme::spec::{IoOpcode, SubmissionEntry};
use weft::nvme::vfio::VfioOptions;
use weft::nvme::{ControllerOptions, Push, Queue};
use weft::reactor::{Context, Tsc};

const BLOCKS: u64 = 64 << 10;
const DEPTHS: [usize; 3] = [1, 32, 128];
const ROUNDS: usize = 5;
const COMMANDS: usize = 1_000_000;

/// One side of the driver: what is timed.
trait Side {
    /// Sends `slots`; all fit.
    fn submit(&mut self, slots: &[u16], lbas: &[u64]);
    /// Puts the slots of what completed in `done`.
    fn poll(&mut self, done: &mut Vec<u16>);
}

/// Everything within is the driver's.
#[inline(never)]
fn driver<S: Side>(side: &mut S, slots: &[u16], lbas: &[u64], done: &mut Vec<u16>) {
    if slots.is_empty() {
        side.poll(done);
    } else {
        side.submit(slots, lbas);
    }
}

struct Rig {
    model: Arc<Model>,
    cx: Context,
    registry: Registry,
    controllers: Controllers,
}

impl Rig {
    fn new() -> Rig {
        let namespace =
            NamespaceOptions { blocks: BLOCKS, format: 1, ..NamespaceOptions::default() };
        let options =
            ModelOptions { fast: true, namespaces: vec![namespace], ..ModelOptions::default() };
        let model = Model::new(options);
        let cx = Context::detached(memory::Registry::new(), PoolOptions::default());
        let registry = Registry::new(&cx);
        let controllers = Controllers::new(&registry, None, VfioOptions::default());
        let poller = cx.add_poller("model", None, model.poller());
        let config = ConfigEntry { method: "", params: json!({}) };
        let attach = controllers.attach_transport(
            "Nvme0",
            model.transport(),
            ControllerOptions::default(),
            config,
        );
        cx.block_on(attach).expect("attach");
        // From now on the model works when it is told to.
        cx.remove_poller(poller);
        Rig { model, cx, registry, controllers }
    }

    fn buffers(&self, depth: usize) -> Vec<Buffer> {
        (0..depth).map(|_| self.cx.pool().take(4096).expect("buffer")).collect()
    }

    /// Lets the controller learn of the memory that the buffers took.
    fn settle(&self) {
        let poller = self.cx.add_poller("model", None, self.model.poller());
        let controller = self.controllers.get("Nvme0").expect("attached").controller;
        self.cx.block_on(controller.request_rescan()).expect("rescan");
        self.cx.remove_poller(poller);
    }

    fn queue(&self, depth: usize, opcode: Opcode) -> QueueSide {
        let buffers = self.buffers(depth);
        self.settle();
        let controller = self.controllers.get("Nvme0").expect("attached").controller;
        let opcode = if opcode == Opcode::Read { IoOpcode::READ } else { IoOpcode::WRITE };
        let queue = controller.opener().open(&self.cx).expect("queue");
        QueueSide { queue, buffers, opcode, cx: self.cx.clone() }
    }

    fn bdev(&self, depth: usize, opcode: Opcode) -> BdevSide {
        let buffers = self.buffers(depth);
        self.settle();
        let name = self.registry.list()[0].name().to_owned();
        let device = self.registry.get(&name).expect("bdev");
        BdevSide {
            channel: device.open_channel(&self.cx, depth as u32).expect("channel"),
            buffers,
            requests: Vec::with_capacity(depth),
            completions: Completions::with_capacity(depth),
            opcode,
        }
    }
}

struct QueueSide {
    queue: Queue,
    buffers: Vec<Buffer>,
    opcode: u8,
    cx: Context,
}

impl Side for QueueSide {
    #[inline]
    fn submit(&mut self, slots: &[u16], lbas: &[u64]) {
        let mut batch = self.queue.batch(self.cx.now().0);
        for (&slot, &lba) in slots.iter().zip(lbas) {
            // SAFETY: the buffers live as long as the queue; nobody looks at them.
            let segment = unsafe { self.buffers[usize::from(slot)].segment(4096) };
            let command = SubmissionEntry {
                cdw10: lba as u32,
                cdw11: (lba >> 32) as u32,
                ..SubmissionEntry::new(self.opcode, 1)
            };
            let tag = [u64::from(slot), 0, 0];
            let push = batch.push(tag, command, 1, segment, std::iter::once(segment));
            assert!(push == Push::Taken);
        }
    }

    #[inline]
    fn poll(&mut self, done: &mut Vec<u16>) {
        self.queue.poll(self.cx.now().0, self.buffers.len(), |ended| {
            assert!(ended.status.is_success());
            done.push(ended.tag[0] as u16);
        });
    }
}

struct BdevSide {
    channel: Channel,
    buffers: Vec<Buffer>,
    requests: Vec<Request>,
    completions: Completions,
    opcode: Opcode,
}

impl Side for BdevSide {
    #[inline]
    fn submit(&mut self, slots: &[u16], lbas: &[u64]) {
        self.requests.clear();
        for (&slot, &lba) in slots.iter().zip(lbas) {
            // SAFETY: as above.
            let segment = unsafe { self.buffers[usize::from(slot)].segment(4096) };
            self.requests.push(Request::new(self.opcode, Lba(lba), 1, segment, u64::from(slot)));
        }
        let taken = self.channel.submit(&mut self.requests);
        assert_eq!(taken, slots.len());
    }

    #[inline]
    fn poll(&mut self, done: &mut Vec<u16>) {
        self.completions.clear();
        self.channel.poll(&mut self.completions);
        for completion in &self.completions {
            assert!(completion.status.is_success());
            done.push(completion.token as u16);
        }
    }
}

/// Runs `count` commands at `depth`; returns the ticks within the driver.
fn run<S: Side>(rig: &Rig, side: &mut S, depth: usize, count: usize) -> u64 {
    let mut slots: Vec<u16> = (0..depth as u16).collect();
    let mut done: Vec<u16> = Vec::with_capacity(depth);
    let mut lbas = vec![0; depth];
    let (mut random, mut ticks, mut completed) = (1_u64, 0, 0);
    while completed < count {
        for lba in &mut lbas {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *lba = (random >> 33) % BLOCKS;
        }
        let start = Tsc::read();
        driver(side, black_box(&slots), &lbas, &mut done);
        ticks += Tsc::read() - start;
        rig.model.step();
        let start = Tsc::read();
        driver(side, &[], &[], &mut done);
        ticks += Tsc::read() - start;
        completed += done.len();
        std::mem::swap(&mut slots, &mut done);
        done.clear();
    }
    ticks
}

/// Ticks that two readings of the clock take by themselves.
fn overhead() -> u64 {
    (0..1000).map(|_| Tsc::read()).map(|start| Tsc::read() - start).min().unwrap_or(0)
}

fn measure(rig: &Rig, level: &str, opcode: Opcode, depth: usize, count: usize) -> u64 {
    match level {
        "queue" => run(rig, &mut rig.queue(depth, opcode), depth, count),
        _ => run(rig, &mut rig.bdev(depth, opcode), depth, count),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let rig = Rig::new();
    match arguments[..] {
        ["list"] => {
            for level in ["queue", "bdev"] {
                println!("nvme-{level} read\nnvme-{level} write");
            }
        }
        ["count", level, opcode, count] => {
            let opcode = if opcode == "read" { Opcode::Read } else { Opcode::Write };
            measure(&rig, level, opcode, 32, count.parse().expect("a number"));
        }
        _ => {
            let clock = overhead();
            println!("ns per 4 KiB read within the driver, least of {ROUNDS} rounds (median)");
            println!("{:8} {:>6} {:>8}", "level", "depth", "ns");
            for level in ["queue", "bdev"] {
                for depth in DEPTHS {
                    let mut rounds: Vec<f64> = (0..ROUNDS)
                        .map(|_| {
                            let ticks = measure(&rig, level, Opcode::Read, depth, COMMANDS);
                            let clock = clock * 2 * (COMMANDS / depth) as u64;
                            Tsc::seconds(ticks.saturating_sub(clock)) * 1e9 / COMMANDS as f64
                        })
                        .collect();
                    rounds.sort_by(f64::total_cmp);
                    println!("{level:8} {depth:>6} {:>8.1} ({:.1})", rounds[0], rounds[ROUNDS / 2]);
                }
            }
        }
    }
}
