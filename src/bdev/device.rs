//! A bdev, and what every registered bdev has besides: state, capacity, controls, counters.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::channel::Channel;
use super::queue::Queue;
use super::request::OpcodeSet;
use super::stats::{ChannelStats, IoStat};
use crate::base::{BlockCount, Error, ErrorKind, Geometry, Result, Uuid, limits};
use crate::reactor::Context;

/// What a driver can take in one request. The channel splits or copies what goes beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoLimits {
    /// Longest data transfer, in bytes.
    pub transfer_max: u32,
    /// Most segments in a payload.
    pub segments_max: u16,
    /// Alignment of each segment's address and length, in bytes; a power of two.
    pub memory_alignment: u32,
    /// No request may cross a multiple of this many blocks; 0 for no such boundary. A power of two.
    pub boundary: u32,
}

impl IoLimits {
    /// A driver that takes whatever the channel lets in.
    pub const NONE: IoLimits = IoLimits {
        transfer_max: limits::TRANSFER_MAX as u32,
        segments_max: limits::SEGMENTS_MAX as u16,
        memory_alignment: 1,
        boundary: 0,
    };
}

/// The facts about a bdev that do not change while it lives.
#[derive(Clone, Debug)]
pub struct Info {
    /// Unique name.
    pub name: String,
    /// Unique id.
    pub uuid: Uuid,
    /// The kind of device, in SPDK's words where SPDK has it ("Malloc disk").
    pub product_name: &'static str,
    /// Block size, and capacity at creation.
    pub geometry: Geometry,
    /// Opcodes that the driver itself takes; the channel makes up for others on blocks.
    pub native: OpcodeSet,
    /// What one request may look like.
    pub limits: IoLimits,
    /// Whether a completed write may be lost with power before a flush.
    pub volatile_write_cache: bool,
    /// Physical block size in bytes, where it is known to be larger than the logical one: writes of
    /// less cost a read.
    pub physical_block_size: u32,
    /// NUMA node that the device is near, where there is one.
    pub numa_node: Option<u32>,
}

impl Info {
    /// The facts of a device that has no peculiarities.
    pub fn new(name: impl Into<String>, product_name: &'static str, geometry: Geometry) -> Info {
        Info {
            name: name.into(),
            uuid: Uuid::new_v4(),
            product_name,
            geometry,
            native: OpcodeSet::BLOCK,
            limits: IoLimits::NONE,
            volatile_write_cache: false,
            physical_block_size: geometry.block_size.bytes(),
            numa_node: None,
        }
    }
}

/// One RPC call of a saved configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigEntry {
    /// Method name.
    pub method: &'static str,
    /// Parameters: a JSON object.
    pub params: Value,
}

/// Control work in progress.
pub type ControlFuture<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A block device: a description, immutable and shared by all reactors, that can open a queue for
/// one of them.
pub trait Bdev: Any + Send + Sync {
    /// The facts.
    fn info(&self) -> &Info;

    /// Opens a queue for the reactor of `cx`, with room for `depth` requests outstanding. Called on
    /// that reactor. Every request that the queue gets was checked against [`Bdev::info`] and
    /// the capacity by the channel in front.
    ///
    /// # Errors
    /// When the system refuses what the queue needs.
    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>>;

    /// The `driver_specific` object of `bdev_get_bdevs`.
    fn driver_specific(&self) -> Value {
        Value::Object(serde_json::Map::new())
    }

    /// The RPC calls that make this device again in a fresh daemon.
    fn config(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }

    /// Control work to do when the device goes, after the last channel has closed.
    fn close<'a>(&'a self, _cx: &'a Context) -> ControlFuture<'a> {
        Box::pin(std::future::ready(()))
    }
}

/// Where a registered bdev is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeviceState {
    /// Serves I/O.
    Online = 0,
    /// Going away: new requests complete with `INVALID_NAMESPACE`, those outstanding run to their end.
    Closing = 1,
}

/// What an operator can change on a running device. Channels take a copy when
/// [`Device::generation`] moves.
#[derive(Clone, Debug, Default)]
pub(super) struct Controls {
    /// Whether latency histograms are kept.
    pub histogram: bool,
    /// Grows when minimum and maximum latencies are to start over.
    pub extremes_epoch: u32,
}

/// A registered bdev. Shared by all reactors.
pub struct Device {
    bdev: Arc<dyn Bdev>,
    state: AtomicU8,
    /// Capacity in blocks; moves when the device is resized.
    blocks: AtomicU64,
    /// Grows with every change of `controls` and `state`, for channels to notice.
    generation: AtomicU32,
    controls: Mutex<Controls>,
    channels: Mutex<Channels>,
}

#[derive(Default)]
struct Channels {
    open: Vec<Arc<ChannelStats>>,
    /// The sum of the counters of channels that have closed.
    closed: IoStat,
    /// What was counted before the last `bdev_reset_iostat`.
    baseline: IoStat,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics half way through a change under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Wraps a bdev. Use [`Registry::register`](super::Registry::register) to give it a name that
    /// others find; this alone serves tests and tools.
    pub fn new(bdev: Arc<dyn Bdev>) -> Arc<Device> {
        let blocks = AtomicU64::new(bdev.info().geometry.blocks.0);
        Arc::new(Device {
            bdev,
            state: AtomicU8::new(DeviceState::Online as u8),
            blocks,
            generation: AtomicU32::new(0),
            controls: Mutex::default(),
            channels: Mutex::default(),
        })
    }

    /// The facts.
    #[inline]
    pub fn info(&self) -> &Info {
        self.bdev.info()
    }

    /// Its name.
    #[inline]
    pub fn name(&self) -> &str {
        &self.bdev.info().name
    }

    /// The driver.
    pub fn bdev(&self) -> &Arc<dyn Bdev> {
        &self.bdev
    }

    /// Block size and present capacity.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        Geometry {
            block_size: self.bdev.info().geometry.block_size,
            blocks: BlockCount(self.blocks.load(Ordering::Relaxed)),
        }
    }

    /// Whether it serves I/O.
    #[inline]
    pub fn state(&self) -> DeviceState {
        if self.state.load(Ordering::Acquire) == DeviceState::Online as u8 {
            DeviceState::Online
        } else {
            DeviceState::Closing
        }
    }

    /// Grows when state or controls change.
    #[inline]
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn set_blocks(&self, blocks: BlockCount) {
        self.blocks.store(blocks.0, Ordering::Relaxed);
    }

    pub(super) fn start_closing(&self) {
        self.state.store(DeviceState::Closing as u8, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn controls(&self) -> Controls {
        lock(&self.controls).clone()
    }

    pub(super) fn control(&self, change: impl FnOnce(&mut Controls)) {
        change(&mut lock(&self.controls));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Opens a channel for the reactor of `cx`, on that reactor, with room for `depth` requests
    /// outstanding.
    ///
    /// # Errors
    /// `NoDevice` when the device is going away; `Invalid` for a depth of 0 or beyond
    /// [`limits::QUEUE_DEPTH_MAX`]; whatever the driver says.
    pub fn open_channel(self: &Arc<Self>, cx: &Context, depth: u32) -> Result<Channel> {
        if depth == 0 || depth > limits::QUEUE_DEPTH_MAX {
            return Err(Error::invalid(format!(
                "queue depth {depth} (1 to {} is possible)",
                limits::QUEUE_DEPTH_MAX
            )));
        }
        if self.state() != DeviceState::Online {
            return Err(Error::new(
                ErrorKind::NoDevice,
                format!("bdev '{}' is being removed", self.name()),
            ));
        }
        let queue = self
            .bdev
            .open_queue(cx, depth)
            .map_err(|error| error.context(format_args!("open a queue on '{}'", self.name())))?;
        let stats = Arc::new(ChannelStats::new(cx.index()));
        lock(&self.channels).open.push(Arc::clone(&stats));
        Ok(Channel::new(Arc::clone(self), queue, cx.clone(), depth, stats))
    }

    pub(super) fn channel_closed(&self, stats: &Arc<ChannelStats>) {
        let mut channels = lock(&self.channels);
        channels.open.retain(|open| !Arc::ptr_eq(open, stats));
        let last = stats.snapshot();
        channels.closed.add(&last);
    }

    /// How many channels are open.
    pub fn open_channels(&self) -> usize {
        lock(&self.channels).open.len()
    }

    /// The counters of all channels since the start or the last reset.
    pub fn iostat(&self) -> IoStat {
        let channels = lock(&self.channels);
        let mut sum = channels.closed.clone();
        for channel in &channels.open {
            sum.add(&channel.snapshot());
        }
        sum.subtract(&channels.baseline);
        sum
    }

    /// The counters of each open channel, by reactor index.
    pub fn iostat_per_channel(&self) -> Vec<(usize, IoStat)> {
        let channels = lock(&self.channels);
        channels.open.iter().map(|stats| (stats.reactor(), stats.snapshot())).collect()
    }

    /// Starts counting from zero.
    pub fn reset_iostat(&self) {
        let mut channels = lock(&self.channels);
        let mut sum = channels.closed.clone();
        for channel in &channels.open {
            sum.add(&channel.snapshot());
        }
        channels.baseline = sum;
        drop(channels);
        self.control(|controls| controls.extremes_epoch += 1);
    }
}
