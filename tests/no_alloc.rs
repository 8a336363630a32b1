//! No layer allocates for an I/O: a counting global allocator around steady load.
//!
//! Each path runs a while first, since buffers are carved out of their pool, and slabs touched, when they are first
//! used. A new layer adds a case.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use weft::base::{BlockCount, BlockSize, ByteCount, Geometry, Lba, Result, Uuid};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::leaf::null::Null;
use weft::bdev::leaf::nvme::Controllers;
use weft::bdev::leaf::virtio::{self, VirtioOptions};
use weft::bdev::vbdev::raid::{RaidLevel, RaidSpec};
use weft::bdev::vbdev::split::{self, SplitSpec};
use weft::bdev::vbdev::{delay, error, linear, passthru, stripe};
use weft::bdev::{
    Bdev, Channel, Completions, ConfigEntry, Device, HistogramOptions, Info, IoLimits, Opcode,
    OpcodeSet, QosLimits, Queue, Request,
};
use weft::memory::{
    HugePages, PoolOptions, Region, RegionOptions, RegionView, Registry, Segment, Sharing,
};
use weft::nvme::ControllerOptions;
use weft::nvme::model::{Model, ModelOptions, NamespaceOptions};
use weft::nvme::vfio::VfioOptions;
use weft::reactor::{self, Activity, Context, CoreList, ReactorOptions, Reactors};
use weft::vhost;

struct Counting;

thread_local! {
    /// Calls of this thread, which other tests do not disturb.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // During the end of a thread there is nothing to count for.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: everything goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BLOCKS: u64 = 4096;
const DEPTH: usize = 32;

/// A bdev whose facts say that it can do less than it does.
struct Restricted {
    info: Info,
    base: Arc<dyn Bdev>,
}

impl Bdev for Restricted {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        self.base.open_queue(cx, depth)
    }
}

fn geometry() -> Geometry {
    Geometry::new(BlockSize::B512, BlockCount(BLOCKS)).expect("geometry")
}

fn malloc() -> Arc<dyn Bdev> {
    Malloc::create("malloc", None, geometry(), HugePages::Never).expect("memory")
}

fn restricted(restrict: impl FnOnce(&mut Info)) -> Arc<dyn Bdev> {
    let base = malloc();
    let mut info = base.info().clone();
    restrict(&mut info);
    Arc::new(Restricted { info, base })
}

fn context() -> Context {
    let pool = PoolOptions {
        huge_pages: HugePages::Never,
        grow: ByteCount(4 << 20),
        max: ByteCount(32 << 20),
        ..PoolOptions::default()
    };
    Context::detached(Registry::new(), pool)
}

struct Load {
    cx: Context,
    channel: Channel,
    memory: RegionView,
    completions: Completions,
}

impl Load {
    fn new(bdev: Arc<dyn Bdev>) -> Load {
        Load::on(&context(), &Device::new(bdev))
    }

    fn on(cx: &Context, device: &Arc<Device>) -> Load {
        let cx = cx.clone();
        let channel = device.open_channel(&cx, DEPTH as u32).expect("channel");
        let completions = Completions::with_capacity(DEPTH);
        let region = Region::allocate(DEPTH << 16, HugePages::Never).expect("memory");
        let memory = cx.pool().registry().add(Arc::new(region)).expect("room for a region");
        Load { cx, channel, memory, completions }
    }

    fn clear(&mut self) {
        let region = &self.memory.region;
        // SAFETY: the region is this load's own, and no request is outstanding.
        unsafe { region.start().as_ptr().write_bytes(0, region.len()) };
    }

    /// Runs `rounds` batches of `opcode` requests of `blocks` blocks, whose payload starts `skew` bytes beside
    /// its place.
    fn run(&mut self, opcode: Opcode, blocks: u32, skew: usize, rounds: usize) {
        let start = self.memory.region.start().as_ptr();
        let length = blocks as usize * 512 * opcode.payload_factor() as usize;
        assert!((DEPTH - 1) * ((1 << 16) - 256) + 4096 + length <= self.memory.region.len());
        let mut requests = [Request::bare(Opcode::Flush, Lba(0), 0, 0); DEPTH];
        for round in 0..rounds {
            for (slot, request) in requests.iter_mut().enumerate() {
                let lba = Lba((round * 13 + slot * 101) as u64 % (BLOCKS - u64::from(blocks)));
                let at = start.wrapping_add(slot * (1 << 15) + skew);
                // SAFETY: `memory` outlives the request; that two comparisons share it does no harm.
                let segment = unsafe {
                    Segment::new(NonNull::new_unchecked(at), length as u32, self.memory.id)
                };
                *request = if length > 0 {
                    Request::new(opcode, lba, blocks, segment, slot as u64)
                } else {
                    Request::bare(opcode, lba, blocks, slot as u64)
                };
            }
            let mut submitted = 0;
            let mut completed = 0;
            while completed < DEPTH {
                self.cx.turn();
                submitted += self.channel.submit(&mut requests[submitted..]);
                self.completions.clear();
                self.channel.poll(&mut self.completions);
                for completion in &self.completions {
                    assert!(completion.status.is_success(), "{}", completion.status);
                }
                completed += self.completions.len();
            }
        }
    }

    fn allocations(&mut self, opcode: Opcode, blocks: u32, skew: usize) -> u64 {
        self.run(opcode, blocks, skew, 20);
        let before = CALLS.get();
        self.run(opcode, blocks, skew, 100);
        CALLS.get() - before
    }
}

#[test]
fn the_counter_counts() {
    let before = CALLS.get();
    drop(std::hint::black_box(vec![1]));
    assert_eq!(CALLS.get() - before, 1);
}

#[test]
fn plain_requests() {
    let mut load = Load::new(Null::create("null", None, geometry()));
    for opcode in [Opcode::Read, Opcode::Write, Opcode::Unmap, Opcode::WriteZeroes, Opcode::Flush] {
        assert_eq!(load.allocations(opcode, 8, 0), 0, "{opcode:?} on null");
    }
    let mut load = Load::new(malloc());
    for opcode in [Opcode::Read, Opcode::Write, Opcode::Unmap, Opcode::Flush, Opcode::Compare] {
        // Comparisons succeed on zeros only.
        load.clear();
        load.run(Opcode::WriteZeroes, 32, 0, 1000);
        assert_eq!(load.allocations(opcode, 8, 0), 0, "{opcode:?} on malloc");
    }
}

#[test]
fn requests_that_are_split() {
    let mut load = Load::new(restricted(|info| {
        info.limits = IoLimits { transfer_max: 1024, boundary: 4, ..IoLimits::NONE };
    }));
    for opcode in [Opcode::Read, Opcode::Write, Opcode::Unmap, Opcode::WriteZeroes] {
        assert_eq!(load.allocations(opcode, 16, 0), 0, "{opcode:?}");
    }
}

#[test]
fn requests_that_are_copied() {
    let mut load = Load::new(restricted(|info| info.limits.memory_alignment = 512));
    for opcode in [Opcode::Read, Opcode::Write] {
        assert_eq!(load.allocations(opcode, 16, 1), 0, "{opcode:?}");
    }
}

#[test]
fn requests_that_are_made_up_for() {
    let mut load = Load::new(restricted(|info| info.native = OpcodeSet::READ_WRITE));
    // All zeros stay zeros: comparisons succeed.
    let opcodes = [
        Opcode::WriteZeroes,
        Opcode::Unmap,
        Opcode::Compare,
        Opcode::CompareAndWrite,
        Opcode::Flush,
    ];
    for opcode in opcodes {
        assert_eq!(load.allocations(opcode, 16, 0), 0, "{opcode:?}");
    }
    // Writes take locks from now on.
    assert_eq!(load.allocations(Opcode::Write, 16, 0), 0);
}

#[test]
fn requests_under_limits_and_with_histograms() {
    let mut load = Load::new(malloc());
    // Far beyond what the test does: requests take the way through the limits without waiting long.
    let limits = QosLimits {
        rw_ios_per_sec: 100_000_000,
        rw_mbytes_per_sec: 1 << 20,
        ..QosLimits::default()
    };
    load.channel.device().set_qos_limits(limits);
    load.channel.device().enable_histogram(HistogramOptions::default()).expect("a histogram");
    for opcode in [Opcode::Read, Opcode::Write] {
        assert_eq!(load.allocations(opcode, 8, 0), 0, "{opcode:?}");
    }
    let recorded = load.channel.device().histogram().expect("enabled").total();
    assert_eq!(recorded, 2 * 120 * DEPTH as u64);
}

#[test]
fn virtual_bdevs() {
    let cx = context();
    let registry = weft::bdev::Registry::new(&cx);
    for name in ["a", "b", "c"] {
        let bdev = Malloc::create(name, None, geometry(), HugePages::Never).expect("memory");
        registry.register(bdev, Vec::new()).expect("malloc");
    }
    let raid = |name: &str, level, bases: &[&str]| RaidSpec {
        name: name.into(),
        uuid: Uuid::new_v4(),
        level,
        strip_size_kb: 4,
        base_bdevs: bases.iter().map(|&base| base.into()).collect(),
        superblock: false,
    };
    passthru::create(&registry, "p", "a", None).expect("passthru");
    error::create(&registry, "p", None).expect("error");
    delay::create(&registry, "d", "EE_p", None, [1; 4]).expect("delay");
    let spec = SplitSpec { base: "d".into(), count: 1, size_mib: 0 };
    split::create(&registry, &spec).expect("split");
    linear::create(&registry, raid("l", RaidLevel::Concat, &["b", "c"])).expect("linear");
    let stripe =
        stripe::create(&registry, raid("s", RaidLevel::Raid0, &["l", "dp0"])).expect("stripe");
    let mut load = Load::on(&cx, &stripe);
    // All zeros: comparisons succeed. 8 blocks lie on one base or two, 40 in several pieces on each.
    for opcode in Opcode::ALL.into_iter().filter(|opcode| OpcodeSet::BLOCK.contains(*opcode)) {
        for blocks in [8, 40] {
            assert_eq!(load.allocations(opcode, blocks, 0), 0, "{opcode:?} of {blocks} blocks");
        }
    }
}

/// The NVMe driver against the model, whose own allocations are not counted.
#[test]
fn nvme() {
    let cx = context();
    let registry = weft::bdev::Registry::new(&cx);
    let namespace = NamespaceOptions { blocks: BLOCKS, ..NamespaceOptions::default() };
    for sgl in [false, true] {
        let options = ModelOptions {
            namespaces: vec![namespace.clone()],
            address: format!("model with SGLs: {sgl}"),
            sgl,
            ..ModelOptions::default()
        };
        let model = Model::new(options);
        let stepped = Arc::clone(&model);
        let poller = move |_: &Context| {
            let before = CALLS.get();
            stepped.step();
            CALLS.set(before);
            Activity::Waiting
        };
        let poller = cx.add_poller("model", None, Box::new(poller));
        let controllers = Controllers::new(&registry, None, VfioOptions::default());
        let config = ConfigEntry { method: "", params: serde_json::json!({}) };
        // The controller's own work now and then is control work.
        let options = ControllerOptions {
            admin_poll_period: Duration::from_secs(3600),
            ..ControllerOptions::default()
        };
        let attach = controllers.attach_transport("Nvme0", model.transport(), options, config);
        let names = cx.block_on(attach).expect("attach");
        let device = registry.get(&names[0]).expect("bdev");
        let mut load = Load::on(&cx, &device);
        for opcode in Opcode::ALL.into_iter().filter(|opcode| OpcodeSet::BLOCK.contains(*opcode)) {
            // All zeros: comparisons succeed. 40 blocks need a list or an SGL.
            for blocks in [8, 40] {
                load.clear();
                load.run(Opcode::WriteZeroes, 64, 0, 200);
                let skew = if sgl { 4 } else { 0 };
                let counted = load.allocations(opcode, blocks, skew);
                assert_eq!(counted, 0, "{opcode:?} of {blocks} blocks, SGLs: {sgl}");
            }
        }
        drop(load);
        drop(device);
        cx.block_on(controllers.detach("Nvme0")).expect("detach");
        cx.remove_poller(poller);
        assert_eq!(model.faults(), []);
    }
}

/// Requests through both ends of a virtqueue: the bdev that drives it, and the controller that serves it.
#[test]
fn virtqueues() {
    let memory = RegionOptions {
        huge_pages: HugePages::Never,
        sharing: Sharing::Always,
        ..RegionOptions::default()
    };
    let cores = CoreList::first_allowed().expect("a core");
    let options = ReactorOptions { pool: memory.into(), ..ReactorOptions::new(cores) };
    let run = reactor::run(options, async move |cx: Context, reactors: Reactors| {
        let folder = tempfile::tempdir().expect("folder");
        let registry = weft::bdev::Registry::new(&cx);
        let bdev = Malloc::create("disk", None, geometry(), memory).expect("memory");
        registry.register(bdev, Vec::new()).expect("malloc");
        let back = vhost::Controllers::new(&registry, &reactors, folder.path().into());
        let front = virtio::Controllers::new(&registry, Some(reactors.clone()));
        for packed in [false, true] {
            let served = vhost::ControllerOptions {
                name: "vm".into(),
                bdev: "disk".into(),
                reactors: Vec::new(),
                read_only: false,
                packed_ring: packed,
            };
            back.create(served).expect("controller");
            let driven = VirtioOptions {
                packed: Some(packed),
                ..VirtioOptions::new(folder.path().join("vm"))
            };
            front.attach("Front", driven).await.expect("attach");
            let device = registry.get("Front").expect("the bdev");
            for opcode in [Opcode::Read, Opcode::Write, Opcode::Flush, Opcode::WriteZeroes] {
                // In one segment, and in two.
                for pieces in [1, 2] {
                    let counted = allocations_of_stream(&cx, &device, opcode, pieces).await;
                    assert_eq!(counted, 0, "{opcode:?} in {pieces} pieces, packed: {packed}");
                }
            }
            drop(device);
            front.detach("Front").await.expect("detach");
            back.stop().await;
        }
    });
    run.expect("reactors");
}

/// What a stream of requests allocates on the reactor that does all of its work, once it has run a while.
async fn allocations_of_stream(
    cx: &Context,
    device: &Arc<Device>,
    opcode: Opcode,
    pieces: usize,
) -> u64 {
    const WARM: u64 = 2000;
    const COUNTED: u64 = 4000;
    let mut channel = device.open_channel(cx, DEPTH as u32).expect("a channel");
    let buffer = cx.pool().take(8 * 512).expect("a buffer");
    // SAFETY: the buffer outlives the poller, which is done with its requests when it reports.
    let whole = unsafe { buffer.segment(8 * 512) };
    let half = 4 * 512;
    let segments = [whole.part(0, half), whole.part(half, half)];
    let mut completions = Completions::with_capacity(DEPTH);
    let (report, reported) = futures_channel::oneshot::channel();
    let mut report = Some(report);
    let (mut sent, mut ended, mut start) = (0, 0, 0);
    let poller = move |_: &Context| {
        while sent < WARM + COUNTED && sent - ended < DEPTH as u64 {
            let lba = Lba(sent * 8 % BLOCKS);
            let request = match (opcode.payload_factor(), pieces) {
                (0, _) => Request::bare(opcode, lba, 8, sent),
                (_, 1) => Request::new(opcode, lba, 8, whole, sent),
                // SAFETY: the segments live in this closure, which stays in its box until all have completed.
                _ => unsafe { Request::scattered(opcode, lba, 8, &segments, sent) },
            };
            if channel.submit(&mut [request]) == 0 {
                break;
            }
            sent += 1;
        }
        channel.poll(&mut completions);
        for completion in &completions {
            assert!(completion.status.is_success(), "{completion:?}");
            ended += 1;
            if ended == WARM {
                start = CALLS.get();
            }
        }
        completions.clear();
        if ended == WARM + COUNTED
            && let Some(report) = report.take()
        {
            report.send(CALLS.get() - start).expect("somebody waits");
        }
        Activity::Busy
    };
    let id = cx.add_poller("stream", None, Box::new(poller));
    let counted = reported.await.expect("a report");
    cx.remove_poller(id);
    drop(buffer);
    counted
}
