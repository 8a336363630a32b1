//! What each layer costs: requests at several queue depths, on one core, without a reactor. 4 KiB each unless a stack says
//! otherwise, from memory of this process or, where a stack's name has `guest` in it, from memory that somebody else may change.
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
use weft::memory::{self, HugePages, PoolOptions, Region, RegionView, Segment};
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
    payload: Payload,
}

/// Where payloads lie, and how long they are.
#[derive(Clone, Copy)]
struct Payload {
    foreign: bool,
    bytes: u32,
}

const OWN: Payload = Payload { foreign: false, bytes: 4096 };
const GUEST: Payload = Payload { foreign: true, bytes: 4096 };
const OWN_LONG: Payload = Payload { foreign: false, bytes: 128 << 10 };
const GUEST_LONG: Payload = Payload { foreign: true, bytes: 128 << 10 };

const READ: &[Opcode] = &[Opcode::Read];
const WRITE: &[Opcode] = &[Opcode::Write];
const READ_WRITE: &[Opcode] = &[Opcode::Read, Opcode::Write];

const STACKS: &[Stack] = &[
    stack("null", |registry| null(registry, "n0"), READ, OWN),
    stack("malloc", |registry| malloc(registry, "m0"), READ_WRITE, OWN),
    stack("passthru-null", passthru, READ, OWN),
    stack("linear-null", |registry| raid(registry, RaidLevel::Concat), READ, OWN),
    stack("stripe-null", |registry| raid(registry, RaidLevel::Raid0), READ, OWN),
    stack("mirror-null", |registry| mirror(registry, null, false), READ_WRITE, OWN),
    stack("mirror-null-guest", |registry| mirror(registry, null, false), READ_WRITE, GUEST),
    stack("mirror-malloc", |registry| mirror(registry, malloc, false), READ_WRITE, OWN),
    stack("mirror-malloc-guest", |registry| mirror(registry, malloc, false), WRITE, GUEST),
    stack("mirror-label", |registry| mirror(registry, malloc, true), READ_WRITE, OWN),
    stack("mirror-null-128k", |registry| mirror(registry, null, false), WRITE, OWN_LONG),
    stack("mirror-null-guest-128k", |registry| mirror(registry, null, false), WRITE, GUEST_LONG),
    stack("mirror-malloc-128k", |registry| mirror(registry, malloc, false), WRITE, OWN_LONG),
    stack(
        "mirror-malloc-guest-128k",
        |registry| mirror(registry, malloc, false),
        WRITE,
        GUEST_LONG,
    ),
];

const fn stack(
    name: &'static str,
    build: Build,
    opcodes: &'static [Opcode],
    payload: Payload,
) -> Stack {
    Stack { name, build, opcodes, payload }
}

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
    payloads: Vec<Segment>,
    blocks: u32,
    requests: Vec<Request>,
    completions: Completions,
    cx: Context,
    random: u64,
    opcode: Opcode,
    /// The payloads' memory, which goes last.
    _regions: [RegionView; 2],
}

impl Bench {
    fn new(stack: &Stack, opcode: Opcode, depth: u32) -> Bench {
        let cx = Context::detached(memory::Registry::new(), PoolOptions::default());
        let registry = Registry::new(&cx);
        let device = (stack.build)(&registry);
        let channel = device.open_channel(&cx, depth).expect("channel");
        let Payload { foreign, bytes } = stack.payload;
        let region =
            Region::allocate(depth as usize * bytes as usize, HugePages::Try).expect("memory");
        let (start, length) = (region.start(), region.len());
        let own = cx.pool().registry().add(Arc::new(region)).expect("a region");
        // SAFETY: the bench keeps the region that mapped it.
        let foreign_region = Arc::new(unsafe { Region::foreign(start, length) });
        let guest = cx.pool().registry().add(foreign_region).expect("a region");
        let id = if foreign { guest.id } else { own.id };
        let payloads = (0..depth as usize).map(|slot| {
            // SAFETY: within the regions, which live as long as the bench; nobody looks at it.
            unsafe { Segment::new(start.add(slot * bytes as usize), bytes, id) }
        });
        let payloads = payloads.collect();
        let completions = Completions::with_capacity(depth as usize);
        let requests = Vec::with_capacity(depth as usize);
        Bench {
            channel,
            payloads,
            blocks: bytes / 4096,
            requests,
            completions,
            cx,
            random: 1,
            opcode,
            _regions: [own, guest],
        }
    }

    #[inline]
    fn request(&mut self, slot: usize) -> Request {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Half the capacity: a label takes some of it.
        let lba = Lba((self.random >> 33) % (BLOCKS / 2));
        Request::new(self.opcode, lba, self.blocks, self.payloads[slot], slot as u64)
    }

    fn run(&mut self, count: usize) {
        self.requests.clear();
        for slot in 0..self.payloads.len() {
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
    // Long payloads are about the memory, not about instructions.
    for stack in STACKS.iter().filter(|stack| stack.payload.bytes == 4096) {
        for opcode in stack.opcodes {
            println!("{} {}", stack.name, opcode.name());
        }
    }
}

fn measure() {
    println!("{:<24} {:>6}  ns per request at depth {DEPTHS:?}", "stack", "");
    for round in 0..ROUNDS {
        for stack in STACKS {
            for &opcode in stack.opcodes {
                print!("{:<24} {:>6} ", stack.name, opcode.name());
                for depth in DEPTHS {
                    let mut bench = Bench::new(stack, opcode, depth);
                    bench.run(5_000);
                    let requests = if stack.payload.bytes == 4096 { 400_000 } else { 40_000 };
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
