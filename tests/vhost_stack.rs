//! A bdev over a vhost-user socket, over our own vhost controller, over a bdev: both ends of the protocol and of the rings, in
//! one process and in two.

mod weftd;

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use weft::base::{BlockCount, BlockSize, ErrorKind, Geometry, Lba, Status};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::leaf::null::Null;
use weft::bdev::leaf::virtio::{self, VirtioOptions};
use weft::bdev::{Completions, Device, Opcode, Queue, Registry, Request, RequestFlags};
use weft::load::{Exercise, ExercisePlan, Mode, Progress};
use weft::memory::{Buffer, HugePages, PoolOptions, RegionOptions, Segment, Sharing};
use weft::reactor::{self, Activity, Context, CoreList, IdlePolicy, ReactorOptions, Reactors};
use weft::vhost::{self, ControllerOptions};
use weftd::{PATIENCE, Weftd};

/// Requests in flight on each reactor; each has blocks of its own.
const DEPTH: usize = 16;
/// Blocks of one request at most, and of the range that a slot has to itself.
const BLOCKS: u64 = 24;
const BLOCK: usize = 512;

fn memory() -> RegionOptions {
    RegionOptions {
        huge_pages: HugePages::Never,
        sharing: Sharing::Always,
        ..RegionOptions::default()
    }
}

/// Runs `body` on a reactor of each core of `cores`, if there are such.
fn on_reactors<B, F>(cores: &str, body: B)
where
    B: FnOnce(Context, Reactors) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let Ok(cores) = cores.parse::<CoreList>() else {
        println!("skipped: this process may not use the cores {cores}");
        return;
    };
    let pool: PoolOptions = memory().into();
    let options = ReactorOptions { idle: IdlePolicy::Adaptive, pool, ..ReactorOptions::new(cores) };
    reactor::run(options, async move |cx, reactors| body(cx, reactors).await).expect("reactors");
}

/// Both ends.
struct Stack {
    registry: Registry,
    back: vhost::Controllers,
    front: virtio::Controllers,
    folder: tempfile::TempDir,
}

impl Stack {
    fn new(cx: &Context, reactors: &Reactors) -> Stack {
        let registry = Registry::new(cx);
        let folder = tempfile::tempdir().expect("folder");
        Stack {
            back: vhost::Controllers::new(&registry, reactors, folder.path().into()),
            front: virtio::Controllers::new(&registry, Some(reactors.clone())),
            registry,
            folder,
        }
    }

    fn malloc(&self, name: &str, reactors: usize) {
        let blocks = BlockCount(BLOCKS * (DEPTH * reactors) as u64);
        let geometry = Geometry::new(BlockSize::B512, blocks).expect("geometry");
        let disk = Malloc::create(name, None, geometry, memory()).expect("memory");
        self.registry.register(disk, Vec::new()).expect("malloc");
    }

    fn serve(&self, bdev: &str, change: impl FnOnce(&mut ControllerOptions)) {
        let mut options = ControllerOptions {
            name: "vm".into(),
            bdev: bdev.into(),
            reactors: Vec::new(),
            read_only: false,
            packed_ring: true,
        };
        change(&mut options);
        self.back.create(options).expect("controller");
    }

    fn options(&self) -> VirtioOptions {
        VirtioOptions { queue_size: 64, ..VirtioOptions::new(self.folder.path().join("vm")) }
    }

    async fn attach(&self, options: VirtioOptions) -> Arc<Device> {
        self.front.attach("Front", options).await.expect("attach");
        self.registry.get("Front").expect("the bdev")
    }

    async fn end(self) {
        self.front.detach_all().await;
        assert!(self.registry.find("Front").is_none());
        self.back.stop().await;
    }
}

/// Ends a stack once the task that shares it has ended.
async fn end_when_alone(cx: &Context, stack: Rc<Stack>) {
    stack.front.detach_all().await;
    while Rc::strong_count(&stack) > 1 {
        cx.sleep(Duration::from_millis(1)).await;
    }
    stack.back.stop().await;
}

/// A small generator of random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// What a slot does, and what its blocks hold.
struct Slot {
    buffer: Buffer,
    segments: Vec<Segment>,
    expected: Vec<u8>,
    /// Blocks of a read under way.
    reading: Option<(usize, usize)>,
}

/// Does `requests` random things at a time on the blocks of `reactor`, and checks what is read.
async fn exercise(cx: Context, device: Arc<Device>, reactor: u64, requests: u64) {
    let mut channel = device.open_channel(&cx, DEPTH as u32).expect("a queue for each reactor");
    let mut random = Random(0x9e37_79b9_7f4a_7c15 + reactor);
    let length = BLOCKS as usize * BLOCK;
    let mut slots: Vec<Slot> = (0..DEPTH)
        .map(|_| Slot {
            buffer: cx.pool().take(length).expect("buffer"),
            segments: Vec::new(),
            expected: vec![0; length],
            reading: None,
        })
        .collect();
    let mut idle: Vec<usize> = (0..DEPTH).collect();
    let mut completions = Completions::with_capacity(DEPTH);
    let (mut started, mut ended) = (0, 0);
    while ended < requests {
        while started < requests
            && let Some(index) = idle.pop()
        {
            let first = random.below(BLOCKS) as usize;
            let count = 1 + random.below(BLOCKS - first as u64) as usize;
            let base = (reactor * DEPTH as u64 + index as u64) * BLOCKS;
            let lba = Lba(base + first as u64);
            let slot = &mut slots[index];
            let range = first * BLOCK..(first + count) * BLOCK;
            let mut flags = RequestFlags::NONE;
            let opcode = match random.below(16) {
                0 => Opcode::Flush,
                1 => Opcode::WriteZeroes,
                2 => Opcode::Unmap,
                3..=8 => Opcode::Write,
                _ => Opcode::Read,
            };
            match opcode {
                Opcode::Write => {
                    let fill = random.below(255) as u8 + 1;
                    slot.buffer.bytes_mut()[..count * BLOCK].fill(fill);
                    slot.expected[range].fill(fill);
                    if random.below(4) == 0 {
                        flags = RequestFlags::FUA;
                    }
                }
                Opcode::Read => {
                    slot.buffer.bytes_mut()[..count * BLOCK].fill(0xee);
                    slot.reading = Some((first, count));
                }
                Opcode::WriteZeroes | Opcode::Unmap => slot.expected[range].fill(0),
                _ => {}
            }
            let request = if matches!(opcode, Opcode::Read | Opcode::Write) {
                // SAFETY: the buffer is not looked at before the request has completed.
                let whole = unsafe { slot.buffer.segment((count * BLOCK) as u32) };
                let pieces = 1 + random.below(count as u64) as usize;
                slot.segments.clear();
                for piece in 0..pieces {
                    let (from, to) = (piece * count / pieces, (piece + 1) * count / pieces);
                    let part = whole.part((from * BLOCK) as u32, ((to - from) * BLOCK) as u32);
                    slot.segments.push(part);
                }
                // SAFETY: the slot keeps its segments as they are meanwhile.
                unsafe {
                    Request::scattered(opcode, lba, count as u32, &slot.segments, index as u64)
                }
            } else {
                Request::bare(opcode, lba, count as u32, index as u64)
            };
            while channel.submit(&mut [request.with_flags(flags)]) == 0 {
                // The back end may be away, or memory may have to be told of.
                assert_eq!(channel.poll(&mut completions).max(Activity::Busy), Activity::Busy);
                finish(&mut completions, &mut slots, &mut idle, &mut ended);
                cx.yield_now().await;
            }
            started += 1;
        }
        channel.poll(&mut completions);
        finish(&mut completions, &mut slots, &mut idle, &mut ended);
        cx.yield_now().await;
    }
    assert_eq!(channel.outstanding(), 0);
}

fn finish(
    completions: &mut Completions,
    slots: &mut [Slot],
    idle: &mut Vec<usize>,
    ended: &mut u64,
) {
    for completion in &*completions {
        assert!(completion.status.is_success(), "{:?} {completion:?}", completion.status);
        let index = completion.token as usize;
        let slot = &mut slots[index];
        if let Some((first, count)) = slot.reading.take() {
            let expected = &slot.expected[first * BLOCK..(first + count) * BLOCK];
            assert!(slot.buffer.bytes()[..count * BLOCK] == *expected, "what was read");
        }
        assert!(!idle.contains(&index), "a request ends once");
        idle.push(index);
        *ended += 1;
    }
    completions.clear();
}

/// Exercises a device on all reactors at once.
async fn exercise_all(reactors: &Reactors, device: &Arc<Device>, requests: u64) {
    let mut exercises = Vec::new();
    for reactor in 0..reactors.len() {
        let device = Arc::clone(device);
        exercises.push(reactors.call_async(reactor, async move |cx: Context| {
            exercise(cx, device, reactor as u64, requests).await;
        }));
    }
    for exercise in exercises {
        exercise.await.expect("reactor");
    }
}

/// All layouts that the front end has.
fn layouts() -> impl Iterator<Item = (bool, bool, bool)> {
    (0..8).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0))
}

fn with_layout(
    options: VirtioOptions,
    (packed, indirect, event): (bool, bool, bool),
) -> VirtioOptions {
    VirtioOptions {
        packed: Some(packed),
        indirect: Some(indirect),
        event_index: Some(event),
        ..options
    }
}

#[test]
fn what_is_written_is_read_in_every_layout() {
    on_reactors("0-1", async |cx: Context, reactors: Reactors| {
        for layout in layouts() {
            let stack = Stack::new(&cx, &reactors);
            stack.malloc("disk", reactors.len());
            stack.serve("disk", |_| ());
            let options = VirtioOptions {
                queues: reactors.len() as u16,
                ..with_layout(stack.options(), layout)
            };
            let device = stack.attach(options).await;
            exercise_all(&reactors, &device, 2000).await;
            drop(device);
            stack.end().await;
        }
    });
}

#[test]
fn a_back_end_that_comes_back_finds_every_request() {
    on_reactors("0-1", async |cx: Context, reactors: Reactors| {
        for layout in layouts().filter(|(_, _, event)| *event) {
            let stack = Rc::new(Stack::new(&cx, &reactors));
            stack.malloc("disk", reactors.len());
            stack.serve("disk", |_| ());
            let options = VirtioOptions {
                queues: reactors.len() as u16,
                reconnect: PATIENCE,
                ..with_layout(stack.options(), layout)
            };
            let device = stack.attach(options).await;
            let (again, done) = (Rc::clone(&stack), Rc::new(std::cell::Cell::new(false)));
            let (ended, sleeper) = (Rc::clone(&done), cx.clone());
            cx.spawn(async move {
                while !ended.get() {
                    sleeper.sleep(Duration::from_millis(5)).await;
                    again.back.stop().await;
                    again.serve("disk", |_| ());
                }
            });
            exercise_all(&reactors, &device, 5000).await;
            done.set(true);
            drop(device);
            end_when_alone(&cx, stack).await;
        }
    });
}

#[test]
fn a_queue_that_moves_under_load_loses_nothing() {
    on_reactors("0-1", async |cx: Context, reactors: Reactors| {
        for packed in [false, true] {
            let stack = Rc::new(Stack::new(&cx, &reactors));
            stack.malloc("disk", reactors.len());
            stack.serve("disk", |_| ());
            let options = VirtioOptions {
                queues: reactors.len() as u16,
                packed: Some(packed),
                ..stack.options()
            };
            let device = stack.attach(options).await;
            let (mover, done) = (Rc::clone(&stack), Rc::new(std::cell::Cell::new(false)));
            let moves = Rc::new(std::cell::Cell::new(0_usize));
            let (ended, counted, sleeper) = (Rc::clone(&done), Rc::clone(&moves), cx.clone());
            let count = reactors.len();
            cx.spawn(async move {
                while !ended.get() {
                    let turn = counted.get();
                    let queue = (turn % count) as u16;
                    match mover.back.move_queue("vm", queue, turn / count % count).await {
                        Ok(()) => counted.set(turn + 1),
                        // A queue is set up when its first user comes.
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                    }
                    sleeper.yield_now().await;
                }
            });
            exercise_all(&reactors, &device, 5000).await;
            done.set(true);
            assert!(moves.get() > 10, "{} moves", moves.get());
            let nowhere = stack.back.move_queue("vm", 0, count).await.expect_err("no such reactor");
            assert_eq!(nowhere.kind(), ErrorKind::Invalid);
            drop(device);
            end_when_alone(&cx, stack).await;
        }
    });
}

#[test]
fn a_reactor_too_many_hears_why() {
    on_reactors("0-1", async |cx: Context, reactors: Reactors| {
        if reactors.len() < 2 {
            return;
        }
        let stack = Stack::new(&cx, &reactors);
        stack.malloc("disk", 1);
        stack.serve("disk", |_| ());
        let device = stack.attach(stack.options()).await;
        // Two on one reactor share its virtqueue.
        let first = device.open_channel(&cx, 4).expect("a channel");
        let second = device.open_channel(&cx, 4).expect("another on the same reactor");
        let other = Arc::clone(&device);
        let refused = reactors.call(1, move |cx| match other.open_channel(cx, 4) {
            Ok(_) => panic!("a virtqueue that there is not"),
            Err(error) => (error.kind(), error.to_string()),
        });
        let (kind, text) = refused.await.expect("reactor");
        assert_eq!(kind, ErrorKind::NoSpace);
        assert!(text.contains("virtqueues") && text.contains("vq_count"), "{text}");
        drop((first, second));
        let other = Arc::clone(&device);
        let opened = reactors.call(1, move |cx| other.open_channel(cx, 4).is_ok());
        assert!(opened.await.expect("reactor"), "the queue changes hands");
        drop(device);
        stack.end().await;
    });
}

#[test]
fn a_read_only_device_says_so() {
    on_reactors("0", async |cx: Context, reactors: Reactors| {
        let stack = Stack::new(&cx, &reactors);
        stack.malloc("disk", 1);
        stack.serve("disk", |options| options.read_only = true);
        let device = stack.attach(stack.options()).await;
        assert!(device.info().native.iter().all(|opcode| !opcode.is_write()));
        let mut channel = device.open_channel(&cx, 4).expect("a channel");
        let buffer = cx.pool().take(BLOCK).expect("buffer");
        // SAFETY: the buffer stays until the request has ended.
        let segment = unsafe { buffer.segment(BLOCK as u32) };
        for (opcode, succeeds) in [(Opcode::Read, true), (Opcode::Write, false)] {
            let request = Request::new(opcode, Lba(0), 1, segment, 1);
            let status = one(&cx, &mut channel, request).await;
            assert_eq!(status.is_success(), succeeds, "{opcode:?}: {status}");
        }
        drop((channel, device));
        stack.end().await;
    });
}

/// Does one request.
async fn one(cx: &Context, channel: &mut weft::bdev::Channel, request: Request) -> Status {
    let mut completions = Completions::with_capacity(1);
    let mut sent = false;
    loop {
        sent = sent || channel.submit(&mut [request]) == 1;
        channel.poll(&mut completions);
        if let [completion] = completions.as_slice() {
            return completion.status;
        }
        cx.yield_now().await;
    }
}

#[test]
fn a_device_that_grows_is_followed() {
    on_reactors("0", async |cx: Context, reactors: Reactors| {
        let stack = Stack::new(&cx, &reactors);
        let geometry = Geometry::new(BlockSize::B4096, BlockCount(100)).expect("geometry");
        stack.registry.register(Null::create("disk", None, geometry), Vec::new()).expect("null");
        stack.serve("disk", |_| ());
        let device = stack.attach(stack.options()).await;
        assert_eq!(device.geometry(), geometry);
        Null::resize(&stack.registry, "disk", BlockCount(250)).expect("resize");
        let end = Instant::now() + PATIENCE;
        while device.geometry().blocks != BlockCount(250) {
            assert!(Instant::now() < end, "the new size is not heard of");
            cx.sleep(Duration::from_millis(1)).await;
        }
        drop(device);
        stack.end().await;
    });
}

#[test]
fn a_back_end_that_is_not_waited_for_takes_its_bdev_along() {
    on_reactors("0", async |cx: Context, reactors: Reactors| {
        let stack = Stack::new(&cx, &reactors);
        stack.malloc("disk", 1);
        stack.serve("disk", |_| ());
        let device = stack.attach(stack.options()).await;
        let mut channel = device.open_channel(&cx, 4).expect("a channel");
        stack.back.stop().await;
        // However far the news has come: it ends, and not well in the end.
        let end = Instant::now() + PATIENCE;
        while one(&cx, &mut channel, Request::bare(Opcode::Flush, Lba(0), 0, 1)).await
            == Status::SUCCESS
        {
            assert!(Instant::now() < end, "requests succeed without a device");
        }
        drop((channel, device));
        while stack.registry.find("Front").is_some() {
            assert!(Instant::now() < end, "the bdev stays");
            cx.sleep(Duration::from_millis(1)).await;
        }
        let error = stack.front.attach("Front", stack.options()).await.expect_err("nobody there");
        assert!(error.to_string().contains("no such socket"), "{error}");
        stack.end().await;
    });
}

const DISK_BYTES: u64 = 4 << 20;
const KILLS: u64 = 5;

fn start_daemon(folder: tempfile::TempDir) -> Weftd {
    let daemon = Weftd::start_in(folder, &["-m", "0x1", "--huge-pages", "never"]);
    let file = daemon.folder.path().join("disk.img");
    daemon.call(
        "bdev_uring_create",
        json!({"name": "disk", "filename": file, "block_size": 512, "direct": false}),
    );
    let create = json!({"ctrlr": "vm", "dev_name": "disk", "packed_ring": true});
    daemon.call("vhost_create_blk_controller", create);
    daemon
}

/// Where the daemon's vhost sockets are.
fn socket(folder: &Path) -> std::path::PathBuf {
    let named = folder.join("vhost").join("vm");
    if named.exists() { named } else { folder.join("vm") }
}

#[test]
fn a_killed_daemon_loses_nothing() {
    for packed in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("disk.img")).unwrap();
        file.set_len(DISK_BYTES).unwrap();
        let daemon = start_daemon(folder);
        let options = VirtioOptions {
            packed: Some(packed),
            reconnect: PATIENCE,
            ..VirtioOptions::new(socket(daemon.folder.path()))
        };
        on_reactors("1", move |cx, reactors| survive(cx, reactors, daemon, options));
    }
}

/// Writes and verifies while the daemon is killed, at depth, and started again.
async fn survive(cx: Context, reactors: Reactors, daemon: Weftd, options: VirtioOptions) {
    let registry = Registry::new(&cx);
    let front = virtio::Controllers::new(&registry, Some(reactors.clone()));
    front.attach("Front", options).await.expect("attach");
    let device = registry.get("Front").expect("the bdev");
    assert!(device.info().volatile_write_cache || device.info().native.contains(Opcode::Flush));
    let channel = device.open_channel(&cx, 32).expect("a channel");
    let progress = Arc::new(Progress::default());
    let plan = ExercisePlan {
        mode: Mode::WriteVerify { generation: 1, passes: None },
        depth: 32,
        io_size: weft::base::ByteCount(4096),
        seed: 7,
        sequential: false,
    };
    let exercise = Exercise::new(&cx, channel, plan, Arc::clone(&progress)).expect("exercise");
    let poller = cx.add_poller("exercise", None, Box::new(exercise));
    let mut daemon = Some(daemon);
    for kill in 0..KILLS {
        let before = progress.snapshot().bytes_written;
        wait_for(&cx, &progress, |now| now.bytes_written.0 > before.0 + (1 + kill) * 300_000).await;
        let folder = daemon.take().expect("a daemon").kill();
        // Starting takes a while, during which the reactor only waits: requests stay outstanding.
        daemon = Some(start_daemon(folder));
    }
    let generation = progress.snapshot().durable_generation;
    wait_for(&cx, &progress, |now| now.durable_generation > generation + 1).await;
    progress.stop();
    wait_for(&cx, &progress, |now| now.finished).await;
    cx.remove_poller(poller);
    assert_eq!(progress.snapshot().fault, None);
    drop(device);
    front.detach_all().await;
}

async fn wait_for(
    cx: &Context,
    progress: &Progress,
    reached: impl Fn(&weft::load::Snapshot) -> bool,
) {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = progress.snapshot();
        assert_eq!(now.fault, None);
        if reached(&now) {
            return;
        }
        assert!(Instant::now() < end, "it does not go on: {now:?}");
        cx.sleep(Duration::from_millis(1)).await;
    }
}
