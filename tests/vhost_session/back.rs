//! The back end of a test: controllers on a reactor of their own, and a device that holds on to requests when told to.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use futures_lite::future::block_on;
use weft::base::{BlockCount, BlockSize, Geometry, Result, Status};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::{
    Bdev, Completion, Completions, Info, Opcode, OpcodeSet, Queue, Registry, Request, RequestFlags,
};
use weft::memory::{HugePages, RegionOptions};
use weft::reactor::{self, Activity, Context, CoreList, IdlePolicy, ReactorOptions, Reactors};
use weft::vhost::{ControllerOptions, Controllers};

/// Blocks of the devices, of 4096 bytes.
pub const BLOCKS: u64 = 256;

/// What lives on the control reactor.
pub struct Back {
    pub registry: Registry,
    pub controllers: Controllers,
}

thread_local! {
    static BACK: RefCell<Option<Back>> = const { RefCell::new(None) };
}

/// A running back end.
pub struct Running {
    pub folder: tempfile::TempDir,
    reactors: Reactors,
    stop: Option<futures_channel::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start() -> Running {
        let folder = tempfile::tempdir().unwrap();
        let directory: PathBuf = folder.path().into();
        let (stop, stopped) = futures_channel::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let cores = CoreList::first_allowed().unwrap();
            let memory = RegionOptions { huge_pages: HugePages::Never, ..Default::default() };
            let options = ReactorOptions {
                idle: IdlePolicy::Adaptive,
                pool: memory.into(),
                ..ReactorOptions::new(cores)
            };
            reactor::run(options, async move |cx: Context, reactors: Reactors| {
                let registry = Registry::new(&cx);
                let controllers = Controllers::new(&registry, &reactors, directory);
                let end = controllers.clone();
                BACK.set(Some(Back { registry, controllers }));
                ready.send(reactors).unwrap();
                let _ = stopped.await;
                end.stop().await;
                BACK.take();
            })
            .unwrap();
        });
        let reactors = is_ready.recv().unwrap();
        Running { folder, reactors, stop: Some(stop), thread: Some(thread) }
    }

    /// Does something on the control reactor.
    pub fn on<T: Send + 'static>(&self, action: impl FnOnce(&Back) -> T + Send + 'static) -> T {
        let call = self
            .reactors
            .call(0, |_| BACK.with_borrow(|back| action(back.as_ref().expect("it runs"))));
        block_on(call).unwrap()
    }

    /// A memory device with a controller of its name. Returns its socket.
    pub fn disk(&self, name: &'static str, read_only: bool) -> PathBuf {
        self.on(move |back| {
            let memory = RegionOptions { huge_pages: HugePages::Never, ..Default::default() };
            let disk = Malloc::create(name, None, geometry(), memory).unwrap();
            back.registry.register(disk, Vec::new()).unwrap();
            back.serve(name, read_only);
        });
        self.folder.path().join(name)
    }

    /// The same, for a gate.
    pub fn gate(&self, name: &'static str, state: &Arc<GateState>) -> PathBuf {
        let state = Arc::clone(state);
        self.on(move |back| {
            back.registry.register(Gate::create(name, state), Vec::new()).unwrap();
            back.serve(name, false);
        });
        self.folder.path().join(name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.expect("the back end does not panic");
        }
    }
}

impl Back {
    fn serve(&self, name: &str, read_only: bool) {
        let options = ControllerOptions {
            name: name.into(),
            bdev: name.into(),
            reactors: Vec::new(),
            read_only,
            packed_ring: true,
        };
        self.controllers.create(options).unwrap();
    }
}

fn geometry() -> Geometry {
    Geometry::new(BlockSize::B4096, BlockCount(BLOCKS)).unwrap()
}

/// What a test sees of a gate, and does to it.
#[derive(Default)]
pub struct GateState {
    /// Requests stay where they are.
    pub closed: AtomicBool,
    /// Requests that came.
    pub arrived: AtomicU64,
    /// Opcode and flags of each.
    pub seen: Mutex<Vec<(Opcode, RequestFlags)>>,
}

/// A device that stores nothing, has a volatile cache, and holds on to requests while it is closed.
struct Gate {
    info: Info,
    state: Arc<GateState>,
}

impl Gate {
    fn create(name: &str, state: Arc<GateState>) -> Arc<Gate> {
        let mut info = Info::new(name, "Gate", geometry());
        info.native = OpcodeSet::BLOCK;
        info.volatile_write_cache = true;
        Arc::new(Gate { info, state })
    }
}

impl Bdev for Gate {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, _cx: &Context, _depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(GateQueue { state: Arc::clone(&self.state), held: Vec::new() }))
    }
}

struct GateQueue {
    state: Arc<GateState>,
    held: Vec<Completion>,
}

impl Queue for GateQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        for request in requests.iter() {
            let flags = request.ticket.flags;
            self.state.seen.lock().unwrap().push((request.opcode(), flags));
            self.held.push(request.complete(Status::SUCCESS));
        }
        self.state.arrived.fetch_add(requests.len() as u64, Ordering::SeqCst);
        requests.len()
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        if self.held.is_empty() {
            return Activity::Idle;
        }
        if self.state.closed.load(Ordering::SeqCst) {
            return Activity::Waiting;
        }
        while completions.room() > 0
            && let Some(done) = self.held.pop()
        {
            completions.push(done);
        }
        Activity::Busy
    }
}
