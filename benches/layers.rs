//! What each layer costs: 4 KiB requests at several queue depths, on one core, without a reactor.
//!
//! `cargo bench --bench layers` prints ns per I/O, each stack in turn and the whole turn several
//! times, so that a noisy machine shows as spread and not as a difference.
//!
//! `cargo bench --bench layers -- count STACK OPCODE N` runs N requests at depth 32 and prints nothing: for
//! `ci/instructions/run`, which counts instructions of two such runs and divides the difference.

use std::sync::Arc;
use std::time::Instant;

use weft::base::{BlockCount, BlockSize, Geometry, Lba, Uuid};
use weft::bdev::vbdev::Raids;
use weft::bdev::vbdev::mirror::MirrorKind;
use weft::bdev::vbdev::raid::{RaidLevel, RaidSpec};
use weft::bdev::{Channel, Completions, Device, Opcode, Queue, Registry, Request, vbdev};
use weft::memory::{self, Buffer, HugePages, PoolOptions};
use weft::reactor::Context;

const BLOCKS: u64 = 64 << 10;
const DEPTHS: [u32; 3] = [1, 32, 128];
const ROUNDS: usize = 5;

/// Builds a stack of devices and returns the uppermost.
type Build = fn(&Registry) -> Arc<Device>;

struct Stack {
    name: &'static str,
    build: Build,
    opcodes: &'static [Opcode],
}

const READ: &[Opcode] = &[Opcode::Read];
const READ_WRITE: &[Opcode] = &[Opcode::Read, Opcode::Write];

const STACKS: &[Stack] = &[
    Stack { name: "null", build: |registry| null(registry, "n0"), opcodes: READ },
    Stack { name: "malloc", build: |registry| malloc(registry, "m0"), opcodes: READ_WRITE },
    Stack { name: "passthru-null", build: passthru, opcodes: READ },
    Stack {
        name: "linear-null",
        build: |registry| raid(registry, RaidLevel::Concat),
        opcodes: READ,
    },
    Stack {
        name: "stripe-null",
        build: |registry| raid(registry, RaidLevel::Raid0),
        opcodes: READ,
    },
    Stack {
        name: "mirror-null",
        build: |registry| mirror(registry, null, false),
        opcodes: READ_WRITE,
    },
    Stack {
        name: "mirror-malloc",
        build: |registry| mirror(registry, malloc, false),
        opcodes: READ_WRITE,
    },
    Stack {
        name: "mirror-label",
        build: |registry| mirror(registry, malloc, true),
        opcodes: READ_WRITE,
    },
];

fn geometry() -> Geometry {
    Geometry::new(BlockSize::B4096, BlockCount(BLOCKS)).expect("geometry")
}

fn null(registry: &Registry, name: &str) -> Arc<Device> {
    let bdev = weft::bdev::leaf::null::Null::create(name, None, geometry());
    registry.register(bdev, Vec::new()).expect("null")
}

fn malloc(registry: &Registry, name: &str) -> Arc<Device> {
    let bdev = weft::bdev::leaf::malloc::Malloc::create(name, None, geometry(), HugePages::Try)
        .expect("malloc");
    registry.register(bdev, Vec::new()).expect("malloc")
}

fn passthru(registry: &Registry) -> Arc<Device> {
    null(registry, "n0");
    vbdev::passthru::create(registry, "p0", "n0", None).expect("passthru")
}

/// Over four null devices.
fn raid(registry: &Registry, level: RaidLevel) -> Arc<Device> {
    let base_bdevs: Vec<String> = (0..4).map(|index| format!("n{index}")).collect();
    for name in &base_bdevs {
        null(registry, name);
    }
    let (name, uuid) = ("r0".into(), Uuid::new_v4());
    let spec = RaidSpec { name, uuid, level, strip_size_kb: 64, base_bdevs, superblock: false };
    match level {
        RaidLevel::Concat => vbdev::linear::create(registry, spec).expect("linear"),
        _ => vbdev::stripe::create(registry, spec).expect("stripe"),
    }
}

/// Over two legs; with a label, the intent map is on them.
fn mirror(
    registry: &Registry,
    leaf: fn(&Registry, &str) -> Arc<Device>,
    superblock: bool,
) -> Arc<Device> {
    let base_bdevs: Vec<String> = (0..2).map(|index| format!("l{index}")).collect();
    for name in &base_bdevs {
        leaf(registry, name);
    }
    let raids = Raids::new(registry);
    raids.add_kind(MirrorKind::new(registry, &raids));
    let spec = RaidSpec {
        name: "r0".into(),
        uuid: Uuid::new_v4(),
        level: RaidLevel::Raid1,
        strip_size_kb: 0,
        base_bdevs,
        superblock,
    };
    registry.context().block_on(raids.create(spec)).expect("mirror");
    registry.get("r0").expect("mirror")
}

/// One stack with a queue open, and a payload for each slot.
struct Bench {
    channel: Channel,
    buffers: Vec<Buffer>,
    requests: Vec<Request>,
    completions: Completions,
    cx: Context,
    random: u64,
    opcode: Opcode,
}

impl Bench {
    fn new(stack: &Stack, opcode: Opcode, depth: u32) -> Bench {
        let cx = Context::detached(memory::Registry::new(), PoolOptions::default());
        let registry = Registry::new(&cx);
        let device = (stack.build)(&registry);
        let channel = device.open_channel(&cx, depth).expect("channel");
        let buffers: Vec<Buffer> =
            (0..depth).map(|_| cx.pool().take(4096).expect("buffer")).collect();
        let completions = Completions::with_capacity(depth as usize);
        let requests = Vec::with_capacity(depth as usize);
        Bench { channel, buffers, requests, completions, cx, random: 1, opcode }
    }

    #[inline]
    fn request(&mut self, slot: usize) -> Request {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Half the capacity: a label takes some of it.
        let lba = Lba((self.random >> 33) % (BLOCKS / 2));
        // SAFETY: the buffer lives as long as the bench; nobody looks at it.
        let payload = unsafe { self.buffers[slot].segment(4096) };
        Request::new(self.opcode, lba, 1, payload, slot as u64)
    }

    fn run(&mut self, count: usize) {
        self.requests.clear();
        for slot in 0..self.buffers.len() {
            let request = self.request(slot);
            self.requests.push(request);
        }
        let mut done = 0;
        while done < count {
            let taken = self.channel.submit(&mut self.requests);
            self.requests.drain(..taken);
            self.cx.turn();
            self.completions.clear();
            self.channel.poll(&mut self.completions);
            done += self.completions.len();
            for index in 0..self.completions.len() {
                let completion = self.completions.as_slice()[index];
                assert!(completion.status.is_success(), "{}", completion.status);
                let request = self.request(completion.token as usize);
                self.requests.push(request);
            }
        }
        while self.channel.outstanding() > 0 {
            self.completions.clear();
            self.channel.poll(&mut self.completions);
        }
    }
}

fn count(stack: &str, opcode: &str, requests: usize) {
    let stack = STACKS.iter().find(|known| known.name == stack).expect("a known stack");
    let opcode = Opcode::ALL.into_iter().find(|known| known.name() == opcode).expect("an opcode");
    Bench::new(stack, opcode, 32).run(requests);
}

fn list() {
    for stack in STACKS {
        for opcode in stack.opcodes {
            println!("{} {}", stack.name, opcode.name());
        }
    }
}

fn measure() {
    println!("{:<24} {:>6}  ns per 4 KiB request at depth {DEPTHS:?}", "stack", "");
    for round in 0..ROUNDS {
        for stack in STACKS {
            for &opcode in stack.opcodes {
                print!("{:<24} {:>6} ", stack.name, opcode.name());
                for depth in DEPTHS {
                    let mut bench = Bench::new(stack, opcode, depth);
                    bench.run(20_000);
                    let requests = 400_000;
                    let start = Instant::now();
                    bench.run(requests);
                    print!(" {:>8.1}", start.elapsed().as_secs_f64() * 1e9 / requests as f64);
                }
                println!("   (round {round})");
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure(),
        ["list"] => list(),
        ["count", stack, opcode, requests] => {
            count(stack, opcode, requests.parse().expect("a number"));
        }
        _ => panic!("usage: layers [list | count STACK OPCODE REQUESTS]"),
    }
}
