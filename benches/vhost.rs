//! What a disk over vhost-user costs: 4 KiB requests through a virtqueue, both ends on one reactor, over null and malloc.
//!
//! `cargo bench --bench vhost` prints ns per I/O for each end: `front` is a channel of the bdev that drives the ring, `back` is
//! all the rest of the reactor's round, nearly all of it the queue of the vhost controller with the bdev below. Each ring in
//! turn and the whole turn several times, so that a noisy machine shows as spread and not as a difference.
//!
//! `cargo bench --bench vhost -- count RING OPCODE N` runs N requests at depth 32 over null and prints nothing: for
//! `ci/instructions/run`, which counts the instructions within the queue of the controller (`vhost-RING`) and within [`front`]
//! (`virtio-RING`).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use weft::base::{BlockCount, BlockSize, Geometry, Lba};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::leaf::null::Null;
use weft::bdev::leaf::virtio::{self, VirtioOptions};
use weft::bdev::{Bdev, Channel, Completions, Device, Opcode, Queue, Registry, Request};
use weft::memory::{Buffer, HugePages, PoolOptions, RegionOptions, Sharing};
use weft::reactor::{self, Activity, Context, IdlePolicy, ReactorOptions, Reactors, Tsc};
use weft::vhost::{self, ControllerOptions};

const BLOCKS: u64 = 64 << 10;
const DEPTHS: [usize; 3] = [1, 32, 128];
const ROUNDS: usize = 5;
const REQUESTS: u64 = 400_000;

/// A layout of the ring, and what is agreed on for it.
struct Ring {
    name: &'static str,
    packed: bool,
    indirect: bool,
    event_index: bool,
}

const fn ring(name: &'static str, packed: bool, indirect: bool, event_index: bool) -> Ring {
    Ring { name, packed, indirect, event_index }
}

const RINGS: [Ring; 6] = [
    ring("split", false, false, false),
    ring("split-event", false, false, true),
    ring("split-indirect", false, true, false),
    ring("packed", true, false, false),
    ring("packed-event", true, false, true),
    ring("packed-indirect", true, true, false),
];

#[derive(Clone, Copy)]
enum Leaf {
    Null,
    Malloc,
}

fn memory() -> RegionOptions {
    RegionOptions {
        huge_pages: HugePages::Try,
        sharing: Sharing::Always,
        ..RegionOptions::default()
    }
}

/// Runs `body` on a reactor that polls.
fn on_a_reactor<F>(body: impl FnOnce(Context, Reactors) -> F + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let cores = "[0]".parse().expect("a list of cores");
    let pool: PoolOptions = memory().into();
    let options = ReactorOptions { idle: IdlePolicy::Poll, pool, ..ReactorOptions::new(cores) };
    reactor::run(options, async move |cx, reactors| body(cx, reactors).await).expect("a reactor");
}

/// Both ends.
struct Stack {
    back: vhost::Controllers,
    front: virtio::Controllers,
    device: Arc<Device>,
    _folder: tempfile::TempDir,
}

impl Stack {
    async fn new(cx: &Context, reactors: &Reactors, ring: &Ring, leaf: Leaf) -> Stack {
        let registry = Registry::new(cx);
        let folder = tempfile::tempdir().expect("folder");
        let geometry = Geometry::new(BlockSize::B4096, BlockCount(BLOCKS)).expect("geometry");
        let bdev: Arc<dyn Bdev> = match leaf {
            Leaf::Null => Null::create("leaf", None, geometry),
            Leaf::Malloc => Malloc::create("leaf", None, geometry, memory()).expect("memory"),
        };
        registry.register(bdev, Vec::new()).expect("leaf");
        let back = vhost::Controllers::new(&registry, reactors, folder.path().into());
        let options = ControllerOptions {
            name: "disk".into(),
            bdev: "leaf".into(),
            reactors: Vec::new(),
            read_only: false,
            packed_ring: ring.packed,
        };
        back.create(options).expect("controller");
        let front = virtio::Controllers::new(&registry, Some(reactors.clone()));
        let options = VirtioOptions {
            queues: 1,
            queue_size: 512,
            packed: Some(ring.packed),
            indirect: Some(ring.indirect),
            event_index: Some(ring.event_index),
            ..VirtioOptions::new(folder.path().join("disk"))
        };
        front.attach("front", options).await.expect("attach");
        let device = registry.get("front").expect("the bdev");
        Stack { back, front, device, _folder: folder }
    }

    async fn end(self) {
        drop(self.device);
        self.front.detach_all().await;
        self.back.stop().await;
    }
}

/// Keeps requests outstanding until so many have completed.
struct Driver {
    channel: Channel,
    buffers: Vec<Buffer>,
    requests: Vec<Request>,
    completions: Completions,
    random: u64,
    opcode: Opcode,
    left: u64,
}

impl Driver {
    fn new(device: &Arc<Device>, cx: &Context, depth: usize, opcode: Opcode) -> Driver {
        let buffers = (0..depth).map(|_| cx.pool().take(4096).expect("buffer")).collect();
        let mut driver = Driver {
            channel: device.open_channel(cx, depth as u32).expect("channel"),
            buffers,
            requests: Vec::with_capacity(depth),
            completions: Completions::with_capacity(depth),
            random: 1,
            opcode,
            left: 0,
        };
        for slot in 0..depth {
            driver.add(slot);
        }
        driver
    }

    #[inline]
    fn add(&mut self, slot: usize) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let lba = Lba((self.random >> 33) % BLOCKS);
        // SAFETY: the buffer lives as long as the driver, whose channel goes first; nobody looks at it.
        let payload = unsafe { self.buffers[slot].segment(4096) };
        self.requests.push(Request::new(self.opcode, lba, 1, payload, slot as u64));
    }
}

/// Everything within is the front end's, but for a few instructions.
#[inline(never)]
fn front(driver: &mut Driver) -> Activity {
    let taken = driver.channel.submit(&mut driver.requests);
    driver.requests.drain(..taken);
    driver.completions.clear();
    let activity = driver.channel.poll(&mut driver.completions);
    for index in 0..driver.completions.len() {
        let completion = driver.completions.as_slice()[index];
        assert!(completion.status.is_success(), "{}", completion.status);
        if driver.left > 0 {
            driver.left -= 1;
            driver.add(completion.token as usize);
        }
    }
    activity
}

/// Ticks per request of the front end and of all else.
async fn run(cx: &Context, driver: Driver, requests: u64) -> (Driver, [u64; 2]) {
    let done: Rc<Cell<Option<(Driver, u64, u64)>>> = Rc::default();
    let result = Rc::clone(&done);
    let mut driver = Some(Driver { left: requests, ..driver });
    let (start, mut within) = (Tsc::read(), 0);
    let poller = move |_: &Context| {
        let Some(own) = &mut driver else { return Activity::Idle };
        let entered = Tsc::read();
        let activity = front(own);
        let left = Tsc::read();
        within += left.since(entered);
        if own.left == 0 && own.requests.is_empty() && own.channel.outstanding() == 0 {
            let own = driver.take().expect("it is there");
            result.set(Some((own, within, left.since(start))));
        }
        activity
    };
    let poller = cx.add_poller("front", None, Box::new(poller));
    let (mut driver, within, all) = loop {
        cx.sleep(Duration::from_millis(1)).await;
        if let Some(done) = done.take() {
            break done;
        }
    };
    cx.remove_poller(poller);
    for slot in 0..driver.buffers.len() {
        driver.add(slot);
    }
    let total = requests + driver.buffers.len() as u64;
    (driver, [within, all - within].map(|ticks| ticks * 1000 / total))
}

async fn count(cx: Context, reactors: Reactors, ring: &Ring, opcode: Opcode, requests: u64) {
    let stack = Stack::new(&cx, &reactors, ring, Leaf::Null).await;
    let driver = Driver::new(&stack.device, &cx, 32, opcode);
    drop(run(&cx, driver, requests).await);
    stack.end().await;
}

async fn measure(cx: Context, reactors: Reactors) {
    println!(
        "{:<16} {:<7} {:<6} front + back, ns per 4 KiB request at depth {DEPTHS:?}",
        "", "", ""
    );
    for round in 0..ROUNDS {
        for ring in &RINGS {
            for (leaf, leaf_name) in [(Leaf::Null, "null"), (Leaf::Malloc, "malloc")] {
                let stack = Stack::new(&cx, &reactors, ring, leaf).await;
                for opcode in [Opcode::Read, Opcode::Write] {
                    print!("{:<16} {:<7} {:<6}", ring.name, leaf_name, opcode.name());
                    for depth in DEPTHS {
                        let driver = Driver::new(&stack.device, &cx, depth, opcode);
                        let (driver, _) = run(&cx, driver, REQUESTS / 20).await;
                        let (_, ticks) = run(&cx, driver, REQUESTS).await;
                        let [front, back] =
                            ticks.map(|ticks| ticks as f64 * 1e6 / Tsc::rate() as f64);
                        print!("  {front:>6.1} + {back:<6.1}");
                    }
                    println!("  (round {round})");
                }
                stack.end().await;
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => on_a_reactor(measure),
        ["list"] => {
            for end in ["vhost", "virtio"] {
                for ring in RINGS.iter().filter(|ring| !ring.event_index) {
                    println!("{end}-{} read", ring.name);
                }
            }
        }
        ["count", name, opcode, requests] => {
            let ring = RINGS.iter().find(|ring| ring.name == name).expect("a known ring");
            let opcode =
                Opcode::ALL.into_iter().find(|known| known.name() == opcode).expect("an opcode");
            let requests = requests.parse().expect("a number");
            on_a_reactor(move |cx, reactors| count(cx, reactors, ring, opcode, requests));
        }
        _ => panic!("usage: vhost [list | count RING OPCODE REQUESTS]"),
    }
}
