//! A model of an NVMe controller in memory: the controller's side of the protocol, for tests, fuzzing, fault
//! injection, and for measuring what the driver costs.
//!
//! [`Model::transport`] is a way to it like any other, with doorbells in plain memory, so that the driver's hot path
//! is the one of production. Nothing happens by itself: [`Model::step`] looks at the doorbells, executes
//! and completes. A test calls it by hand, adds [`Model::poller`] to the driver's own reactor, or has
//! [`Model::run`] call it on a thread.
//!
//! The model is strict. What a driver must not do is recorded ([`Model::faults`]) and answered as a real device
//! would: memory that is not mapped is not accessed, doorbell values that cannot be raise events, wrong
//! settings are a fatal error. And it is wrong on purpose where it is told to be ([`Model::inject`] and its like).
//!
//! All state is behind one lock, taken for a step or a register access, never for longer; doorbells are rung without it.
//! Namespaces, their contents and the logs survive resets; what a queue held does not.

mod admin;
mod dma;
mod doorbells;
mod engine;
mod events;
mod features;
mod identify;
mod io;
mod log_pages;
mod namespace;
mod options;
mod payload;
mod queues;
mod registers;
mod script;
mod shared;
mod state;
mod store;
mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

pub use dma::Fault;
pub use options::{ModelOptions, NamespaceOptions};
pub use script::{Action, Pick};

use crate::memory::Region;
use crate::nvme::spec::{AsyncEvent, AsyncEventKind, AsyncHealth, CompletionEntry, LogPage};
use crate::nvme::transport::Transport;
use crate::reactor::{Activity, Context, Poller};
use namespace::Namespace;
use shared::Shared;
use state::{Controller, Overlay};
use transport::ModelTransport;

/// A model of a controller. Cheap to share; any thread may call any method.
pub struct Model {
    shared: Arc<Shared>,
    /// Names the transports, and what each of them maps.
    transports: AtomicU64,
}

/// The owner of the memory that [`Model::map_at`] mapped.
const OWNER_BY_HAND: u64 = 0;

impl Model {
    /// A controller, disabled, in its state after power on. Options beyond what the specification allows are brought
    /// within.
    pub fn new(mut options: ModelOptions) -> Arc<Model> {
        options.queue_entries_max = options.queue_entries_max.clamp(2, 65536);
        options.io_queues = options.io_queues.clamp(1, 1024);
        options.doorbell_stride_log2 = options.doorbell_stride_log2.min(7);
        options.mdts = options.mdts.min(20);
        let shared = Arc::new(Shared::new(Controller::new(options)));
        Arc::new(Model { shared, transports: AtomicU64::new(OWNER_BY_HAND + 1) })
    }

    /// A way to the controller.
    pub fn transport(&self) -> Arc<dyn Transport> {
        let id = self.transports.fetch_add(1, Ordering::Relaxed);
        Arc::new(ModelTransport::new(Arc::clone(&self.shared), id))
    }

    /// Looks at the doorbells, executes what was submitted, posts what is done. Returns how many completions
    /// were posted.
    pub fn step(&self) -> usize {
        self.shared.lock().run(&self.shared.doorbells)
    }

    /// A poller that steps the model, for the reactor of the driver or another.
    pub fn poller(self: &Arc<Self>) -> Box<dyn Poller> {
        let model = Arc::clone(self);
        Box::new(move |_: &Context| match model.step() {
            // The host's doorbells wake nobody.
            0 => Activity::Waiting,
            _ => Activity::Busy,
        })
    }

    /// Steps the model on a thread of its own until the handle is dropped.
    ///
    /// # Panics
    /// When the system refuses a thread.
    pub fn run(self: &Arc<Self>) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let (model, stopped) = (Arc::clone(self), Arc::clone(&stop));
        let body = move || {
            while !stopped.load(Ordering::Relaxed) {
                if model.step() == 0 {
                    std::thread::yield_now();
                }
            }
        };
        let thread = std::thread::Builder::new().name("nvme model".into()).spawn(body);
        Running { stop, thread: Some(thread.expect("a thread for the model")) }
    }

    /// Reads a register, as over a bus that this model is put behind.
    pub fn read_register(&self, offset: u32) -> u32 {
        self.shared.lock().read_register(offset)
    }

    /// Writes a register; doorbells, too.
    pub fn write_register(&self, offset: u32, value: u32) {
        self.shared.lock().write_register(offset, value, &self.shared.doorbells);
    }

    /// Length of the register window, doorbells included.
    pub fn window(&self) -> u64 {
        self.shared.doorbells.window()
    }

    /// Lets the model address a region at an address of the caller's choice. Whether nothing was there.
    pub fn map_at(&self, region: &Arc<Region>, address: u64) -> bool {
        self.shared.lock().dma.map_at(region, OWNER_BY_HAND, address)
    }

    /// Takes back [`Model::map_at`].
    pub fn unmap(&self, region: &Arc<Region>) {
        self.shared.lock().dma.unmap(Some(region), OWNER_BY_HAND);
    }

    /// What the driver did that it must not do, since the last call.
    pub fn faults(&self) -> Vec<Fault> {
        std::mem::take(&mut self.shared.lock().dma.faults)
    }

    /// Commands that the controller has fetched.
    pub fn commands(&self) -> u64 {
        self.shared.lock().commands
    }

    /// I/O submission queues that exist.
    pub fn io_queues(&self) -> usize {
        self.shared.lock().submission.iter().skip(1).flatten().count()
    }
}

/// What goes wrong.
impl Model {
    /// From now on, `action` becomes of the commands that `pick` picks. Rules that were there before go first.
    pub fn inject(&self, pick: Pick, action: Action) {
        self.shared.lock().script.add(pick, action);
    }

    /// Forgets all rules. What they held stays held.
    pub fn clear_injections(&self) {
        self.shared.lock().script.clear();
    }

    /// Executes, in the next step, what was held.
    pub fn release(&self) {
        self.shared.lock().release_held();
    }

    /// Commands that are held or delayed.
    pub fn held(&self) -> usize {
        self.shared.lock().held.len()
    }

    /// Posts a completion that nothing asked for. Only its phase tag is put right. Whether the queue exists.
    pub fn post(&self, completion_queue: u16, entry: CompletionEntry) -> bool {
        self.shared.lock().post_raw(completion_queue, entry)
    }

    /// Overwrites identify data from `offset` on, whenever structure `cns` is asked for (of namespace `nsid`).
    pub fn overlay_identify(&self, cns: u8, nsid: Option<u32>, offset: usize, bytes: Vec<u8>) {
        self.shared.lock().overlays.push(Overlay { cns, nsid, offset, bytes });
    }

    /// Lets a register read as `value`, or as it is.
    pub fn force_register(&self, offset: u32, value: Option<u32>) {
        let forced = &mut self.shared.lock().forced;
        match value {
            Some(value) => forced.insert(offset, value),
            None => forced.remove(&offset),
        };
    }

    /// Changes of CC.EN, and shutdowns, show in CSTS no more, or do again.
    pub fn set_stuck(&self, stuck: bool) {
        self.shared.lock().stuck = stuck;
    }

    /// Reports a fatal error (CSTS.CFS) and stops, until the next reset.
    pub fn fail(&self) {
        self.shared.lock().fail();
    }

    /// Pulls the device: registers read as all ones from now on.
    pub fn unplug(&self) {
        self.shared.lock().unplugged = true;
    }

    /// Pulls the device after `reads` more register reads.
    pub fn unplug_after_reads(&self, reads: u64) {
        self.shared.lock().reads_left = Some(reads);
    }

    /// Puts the device back, as it is after power on; its namespaces hold what they did.
    pub fn plug(&self) {
        let mut state = self.shared.lock();
        state.power_on(&self.shared.doorbells);
        state.unplugged = false;
        state.reads_left = None;
        state.removal_announced = false;
    }

    /// Lets the transports know that the device is gone for good, as a removal event does.
    pub fn announce_removal(&self) {
        self.shared.lock().removal_announced = true;
    }

    /// Power fails and returns. What was in the write cache is lost, but for the blocks (namespace, address) that `keep`
    /// says the drive had written back by itself.
    pub fn lose_power(&self, mut keep: impl FnMut(u32, u64) -> bool) {
        let mut state = self.shared.lock();
        for (&nsid, namespace) in &mut state.namespaces {
            namespace.store.lose_power(|lba| keep(nsid, lba));
        }
        state.logs.unsafe_shutdowns += 1;
        state.power_on(&self.shared.doorbells);
    }

    /// Raises an asynchronous event.
    pub fn raise(&self, event: AsyncEvent) {
        self.shared.lock().raise(event);
    }

    /// Sets the critical warnings of the SMART log and raises the event.
    pub fn warn(&self, critical_warning: u8) {
        let mut state = self.shared.lock();
        state.logs.critical_warning = critical_warning;
        state.raise(AsyncEvent {
            kind: AsyncEventKind::Health(AsyncHealth::Reliability),
            log_page: LogPage::SMART,
        });
    }

    /// How many I/O queues are granted from now on; takes effect with the next reset.
    pub fn set_io_queues(&self, count: u16) {
        let mut state = self.shared.lock();
        let most = (self.shared.doorbells.count() / 2).saturating_sub(1) as u16;
        state.options.io_queues = count.clamp(1, most);
    }
}

/// Namespaces, at run time.
impl Model {
    /// Adds a namespace, or puts another in its place, and raises the event.
    pub fn add_namespace(&self, options: NamespaceOptions) {
        let mut state = self.shared.lock();
        let nsid = options.nsid;
        state.namespaces.insert(nsid, Namespace::new(options));
        state.namespace_changed(nsid);
    }

    /// Takes a namespace away and raises the event. Whether it was there.
    pub fn remove_namespace(&self, nsid: u32) -> bool {
        let mut state = self.shared.lock();
        let was = state.namespaces.remove(&nsid).is_some();
        state.namespace_changed(nsid);
        was
    }

    /// Changes a namespace's size and raises the event. Whether it is there.
    pub fn resize_namespace(&self, nsid: u32, blocks: u64) -> bool {
        let mut state = self.shared.lock();
        let Some(namespace) = state.namespaces.get_mut(&nsid) else { return false };
        namespace.resize(blocks);
        state.namespace_changed(nsid);
        true
    }

    /// A block's data as a read would return them; `None` where there is no such block.
    pub fn block(&self, nsid: u32, lba: u64) -> Option<Vec<u8>> {
        let state = self.shared.lock();
        let namespace = state.namespaces.get(&nsid).filter(|namespace| namespace.has(lba, 1))?;
        Some(namespace.read(lba, 1).0)
    }

    /// Makes blocks unreadable, as a failing medium does, or readable again.
    pub fn set_uncorrectable(&self, nsid: u32, lba: u64, blocks: u64, uncorrectable: bool) {
        let mut state = self.shared.lock();
        if let Some(namespace) = state.namespaces.get_mut(&nsid) {
            if uncorrectable {
                namespace.uncorrectable.extend(lba..lba.saturating_add(blocks));
            } else {
                namespace.clear_uncorrectable(lba, blocks);
            }
        }
    }
}

impl Controller {
    fn power_on(&mut self, doorbells: &doorbells::Doorbells) {
        self.reset(doorbells);
        self.registers = state::Registers::default();
    }
}

/// A thread that steps a model. Dropped, it ends.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the model has been printed by then.
            let _ = thread.join();
        }
    }
}
