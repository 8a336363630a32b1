//! How a queue begins: its parts are put together on the control reactor and opened on the one that is to poll it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::interrupts::Interrupts;
use super::mailbox::{Faults, Mailbox, QueueHandle, SharedFd};
use super::slots::{Slot, rooms};
use super::{Device, Notifications, Phase, VirtQueue};
use crate::base::{Error, ErrorKind, Result, limits};
use crate::bdev::Completions;
use crate::reactor::{Context, Reactors};
use crate::vhost::disk::Disk;
use crate::vhost::info::Coalescing;
use crate::virtio::inflight::InflightQueue;
use crate::virtio::memory::{GuestMemory, GuestRegion};
use crate::virtio::ring::device::packed::PackedRing;
use crate::virtio::ring::device::split::SplitRing;
use crate::virtio::ring::device::{CHAIN_MAX, DeviceRing, RingLog, RingPlace};
use crate::virtio::spec::Features;

/// All that a queue needs.
pub struct QueueStart {
    /// Its index.
    pub index: u16,
    /// Where the ring is: in `memory`.
    pub place: RingPlace,
    /// What keeps it there.
    pub ring_regions: Vec<Arc<GuestRegion>>,
    /// The guest's memory.
    pub memory: Arc<GuestMemory>,
    /// Where its requests in flight are recorded.
    pub inflight: Option<InflightQueue>,
    /// The disk.
    pub disk: Arc<Disk>,
    /// Whether the device is there.
    pub has_device: bool,
    /// Whether requests are taken from the start.
    pub enabled: bool,
    /// Where notifications come from.
    pub kick: SharedFd,
    /// Where interrupts go.
    pub call: SharedFd,
    /// When they are held back.
    pub coalescing: Coalescing,
    /// Where writes to guest memory are logged.
    pub log: Option<RingLog>,
    /// Where a fault is reported.
    pub faults: Faults,
}

// SAFETY: what is not `Send` by itself are the addresses in `place`. They lie in `memory`, which travels along and is
// shared memory whose mapping belongs to no thread.
unsafe impl Send for QueueStart {}

impl QueueStart {
    /// Starts the queue on a reactor.
    ///
    /// # Errors
    /// When the ring cannot be what the front end says it is, or the device opens no channel.
    pub async fn start(self, reactors: &Reactors, reactor: usize) -> Result<QueueHandle> {
        let mailbox = Arc::new(Mailbox::default());
        let own = Arc::clone(&mailbox);
        reactors.call(reactor, move |cx| self.open(cx, own)).await??;
        Ok(QueueHandle { mailbox, reactors: reactors.clone(), reactor })
    }

    fn open(self, cx: &Context, mailbox: Arc<Mailbox>) -> Result<()> {
        match self.place.features.has(Features::RING_PACKED) {
            true => self.run::<PackedRing>(cx, mailbox),
            false => self.run::<SplitRing>(cx, mailbox),
        }
    }

    fn run<R: DeviceRing + 'static>(mut self, cx: &Context, mailbox: Arc<Mailbox>) -> Result<()> {
        // SAFETY: the session has found the areas in the guest's memory, whose regions the queue keeps for as long
        // as the ring.
        let ring = unsafe { R::open(self.place, self.inflight.take()) };
        let mut ring = ring.map_err(|fault| {
            let text = format!("the ring of virtqueue {}: {fault}", self.index);
            Error::new(ErrorKind::Invalid, text)
        })?;
        let depth = u32::from(self.place.size).min(limits::QUEUE_DEPTH_MAX);
        let device = match self.has_device {
            true => Device::Open(self.disk.device().open_channel(cx, depth)?),
            false => Device::Gone,
        };
        let log = self.log.as_ref().map(|log| Arc::clone(&log.log));
        ring.set_log(self.log);
        let size = usize::from(self.place.size);
        let id = Rc::new(Cell::new(None));
        let name = format!("vhost_{}_{}", self.disk.device().name(), self.index);
        let queue = VirtQueue {
            index: self.index,
            ring,
            phase: if self.enabled { Phase::Running } else { Phase::Disabled },
            device,
            live: 0,
            disk: self.disk,
            memory: self.memory,
            _ring_regions: self.ring_regions,
            memory_epoch: 0,
            old_memories: Vec::new(),
            slots: vec![Slot::EMPTY; size].into_boxed_slice(),
            rooms: rooms(size),
            staged: Vec::with_capacity(size),
            completions: Completions::with_capacity(size),
            chains: Box::new(std::array::from_fn(|_| Vec::with_capacity(CHAIN_MAX))),
            ids: [0; super::BATCH],
            completed: 0,
            log,
            interrupts: Interrupts::new(self.call, self.coalescing, cx.now()),
            notifications: Notifications::new(self.kick, cx),
            faults: self.faults,
            mailbox,
            id: Rc::clone(&id),
        };
        id.set(Some(cx.add_poller(&name, None, Box::new(queue))));
        Ok(())
    }
}
