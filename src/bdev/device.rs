//! A bdev, and what every registered bdev has besides: state, capacity, controls, counters.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::histogram::{Histogram, HistogramData, HistogramLayout, HistogramOptions};
use super::qos::{QosLimits, Throttle};
use super::queue::Queue;
use super::range_lock::RangeLocks;
use super::request::{Opcode, OpcodeSet};
use super::stats::{ChannelStats, IoStat, ResetMode};
use crate::base::{BlockCount, BlockSize, Geometry, Result, Uuid, limits};
use crate::reactor::{Context, Tsc};

/// What a driver can take in one request. The channel splits or copies what goes beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoLimits {
    /// Longest range, in bytes, with payload or without. At least a block.
    pub transfer_max: u32,
    /// Most segments in a payload.
    pub segments_max: u16,
    /// Alignment of each segment's address, in bytes; a power of two, up to 2 MiB. Lengths are aligned to as
    /// much, or to a block where that is less.
    pub memory_alignment: u32,
    /// Alignment, in bytes, of each edge between two segments of a payload: where one ends and the next begins. A
    /// power of two. NVMe's PRP entries ask for whole pages there, and for less at a payload's ends.
    pub edge_alignment: u32,
    /// No request may cross a multiple of this many blocks; 0 for no such boundary. A power of two.
    pub boundary: u32,
    /// Longest range of a request without payload, in blocks; such a range may cross boundaries. 0 where requests
    /// without payload are limited as those with one.
    pub range_max: u32,
    /// Longest compare-and-write, in blocks; 0 for no limit of its own.
    pub compare_and_write_max: u32,
}

impl IoLimits {
    /// A driver that takes whatever the channel lets in.
    pub const NONE: IoLimits = IoLimits {
        transfer_max: limits::TRANSFER_MAX as u32,
        segments_max: limits::SEGMENTS_MAX as u16,
        memory_alignment: 1,
        edge_alignment: 1,
        boundary: 0,
        range_max: 0,
        compare_and_write_max: 0,
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
    /// Whether nothing is left of what blocks held, on any medium, once they were unmapped or written with zeros.
    pub erases: bool,
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
            erases: false,
            physical_block_size: geometry.block_size.bytes(),
            numa_node: None,
        }
    }

    /// The opcodes that the device serves: what its driver takes, and what channels make up for.
    pub fn supported(&self) -> OpcodeSet {
        let native = self.native;
        let mut supported = native.with(Opcode::Reset);
        if native.contains(Opcode::Write) || native.contains(Opcode::WriteZeroes) {
            supported = supported.with(Opcode::Unmap);
        }
        if native.contains(Opcode::Write) {
            supported = supported.with(Opcode::WriteZeroes);
        }
        if native.contains(Opcode::Read) {
            supported = supported.with(Opcode::Compare);
        }
        if self.can_compare_then_write() {
            supported = supported.with(Opcode::CompareAndWrite);
        }
        if !self.volatile_write_cache {
            supported = supported.with(Opcode::Flush);
        }
        supported
    }

    /// Whether a read, a comparison and a write can stand in for compare-and-write.
    fn can_compare_then_write(&self) -> bool {
        self.native.contains(Opcode::Read) && self.native.contains(Opcode::Write)
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
    /// Latency histograms, where they are kept.
    pub histogram: Option<(HistogramLayout, HistogramOptions)>,
    /// Grows when minimum and maximum latencies are to start over.
    pub extremes_epoch: u32,
    /// The rate limits as they were set,
    pub qos: QosLimits,
    /// and the buckets that keep them.
    pub throttle: Option<Arc<Throttle>>,
}

/// A registered bdev. Shared by all reactors.
pub struct Device {
    bdev: Arc<dyn Bdev>,
    /// The driver's, at hand: every batch asks for it.
    block_size: BlockSize,
    state: AtomicU8,
    /// Capacity in blocks; moves when the device is resized.
    blocks: AtomicU64,
    /// Grows with every change of `controls` and `state`, for channels to notice.
    generation: AtomicU32,
    controls: Mutex<Controls>,
    channels: Mutex<Channels>,
    range_locks: Option<Arc<RangeLocks>>,
}

#[derive(Default)]
struct Channels {
    open: Vec<OpenChannel>,
    /// The counters of channels that have closed, since the last reset.
    closed: IoStat,
    /// The histogram of channels that have closed, since histograms were enabled.
    closed_histogram: Option<HistogramData>,
}

struct OpenChannel {
    stats: Arc<ChannelStats>,
    /// What it had counted at the last reset.
    baseline: IoStat,
    histogram: Option<Arc<Histogram>>,
}

impl OpenChannel {
    fn iostat(&self, extremes_epoch: u32) -> IoStat {
        let mut stat = self.stats.snapshot(extremes_epoch);
        stat.subtract(&self.baseline);
        stat
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics half way through a change under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Wraps a bdev. Use [`Registry::register`](super::Registry::register) to give it a name that
    /// others find; this alone serves tests and tools.
    pub fn new(bdev: Arc<dyn Bdev>) -> Arc<Device> {
        let info = bdev.info();
        debug_assert!(
            info.limits.memory_alignment.is_power_of_two()
                && (info.limits.boundary == 0 || info.limits.boundary.is_power_of_two()),
            "limits of '{}': {:?}",
            info.name,
            info.limits
        );
        let block_size = info.geometry.block_size;
        let blocks = AtomicU64::new(info.geometry.blocks.0);
        let range_locks =
            info.can_compare_then_write().then(|| Arc::new(RangeLocks::new(block_size)));
        Arc::new(Device {
            bdev,
            block_size,
            state: AtomicU8::new(DeviceState::Online as u8),
            blocks,
            generation: AtomicU32::new(0),
            controls: Mutex::default(),
            channels: Mutex::default(),
            range_locks,
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

    /// The driver, if it is a `D`: for operations that only this kind of device has.
    pub fn driver<D: Bdev>(&self) -> Option<&D> {
        let driver: &dyn Any = &*self.bdev;
        driver.downcast_ref()
    }

    /// Block size and present capacity.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        Geometry {
            block_size: self.block_size,
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

    /// Whether it serves I/O.
    #[inline]
    pub(super) fn is_online(&self) -> bool {
        self.state() == DeviceState::Online
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

    /// Where channels keep ranges apart; `None` where no channel will have to.
    pub(super) fn range_locks(&self) -> Option<&Arc<RangeLocks>> {
        self.range_locks.as_ref()
    }

    /// Adds a channel of reactor `reactor` to the list. Its counters are read from now on.
    pub(super) fn channel_opened(&self, reactor: usize) -> Arc<ChannelStats> {
        let stats = Arc::new(ChannelStats::new(reactor));
        let controls = lock(&self.controls);
        let histogram =
            controls.histogram.map(|(layout, options)| Histogram::new(layout, options.opcodes));
        lock(&self.channels).open.push(OpenChannel {
            stats: Arc::clone(&stats),
            baseline: IoStat::default(),
            histogram: histogram.map(Arc::new),
        });
        stats
    }

    pub(super) fn channel_closed(&self, stats: &Arc<ChannelStats>) {
        let epoch = lock(&self.controls).extremes_epoch;
        let mut channels = lock(&self.channels);
        let Some(index) = channels.open.iter().position(|open| Arc::ptr_eq(&open.stats, stats))
        else {
            return;
        };
        let last = channels.open.remove(index);
        channels.closed.add(&last.iostat(epoch));
        if let (Some(sum), Some(histogram)) = (&mut channels.closed_histogram, &last.histogram) {
            sum.add(histogram);
        }
    }

    pub(super) fn histogram_of(&self, stats: &Arc<ChannelStats>) -> Option<Arc<Histogram>> {
        let channels = lock(&self.channels);
        let open = channels.open.iter().find(|open| Arc::ptr_eq(&open.stats, stats))?;
        open.histogram.clone()
    }

    /// How many channels are open.
    pub fn open_channels(&self) -> usize {
        lock(&self.channels).open.len()
    }

    /// The opcodes that it serves: what its driver takes, and what channels make up for.
    pub fn supported(&self) -> OpcodeSet {
        self.info().supported()
    }

    /// Whether it serves `opcode`, by itself or made up for.
    pub fn supports(&self, opcode: Opcode) -> bool {
        self.supported().contains(opcode)
    }

    /// The counters of all channels since the start or the last reset.
    pub fn iostat(&self) -> IoStat {
        let epoch = lock(&self.controls).extremes_epoch;
        let channels = lock(&self.channels);
        let mut sum = channels.closed.clone();
        for channel in &channels.open {
            sum.add(&channel.iostat(epoch));
        }
        sum
    }

    /// The counters of each open channel since it was opened or the last reset, by reactor index.
    pub fn iostat_per_channel(&self) -> Vec<(usize, IoStat)> {
        let epoch = lock(&self.controls).extremes_epoch;
        let channels = lock(&self.channels);
        channels.open.iter().map(|open| (open.stats.reactor(), open.iostat(epoch))).collect()
    }

    /// Starts counting from zero what `mode` names.
    pub fn reset_iostat(&self, mode: ResetMode) {
        if matches!(mode, ResetMode::All | ResetMode::MaxMin) {
            self.control(|controls| controls.extremes_epoch += 1);
        }
        let epoch = lock(&self.controls).extremes_epoch;
        let mut channels = lock(&self.channels);
        channels.closed.clear(mode);
        for open in &mut channels.open {
            let now = open.stats.snapshot(epoch);
            open.baseline.rebase(mode, &now);
        }
    }

    /// The rate limits.
    pub fn qos_limits(&self) -> QosLimits {
        lock(&self.controls).qos
    }

    /// Sets the rate limits of all channels together. Requests that wait go on under the new ones.
    pub fn set_qos_limits(&self, limits: QosLimits) {
        self.set_qos_limits_at(limits, Tsc::rate());
    }

    pub(super) fn set_qos_limits_at(&self, limits: QosLimits, tick_rate: u64) {
        self.control(|controls| {
            controls.qos = limits;
            controls.throttle = Throttle::new(&limits, tick_rate).map(Arc::new);
        });
    }

    /// Keeps latency histograms from now on, from zero; those kept so far are dropped.
    ///
    /// # Errors
    /// `Invalid` for options that make no histogram.
    pub fn enable_histogram(&self, options: HistogramOptions) -> Result<()> {
        let layout = HistogramLayout::new(&options, Tsc::rate())
            .map_err(|error| error.context(format_args!("histogram of '{}'", self.name())))?;
        self.set_histogram(Some((layout, options)));
        Ok(())
    }

    /// Keeps no histograms from now on.
    pub fn disable_histogram(&self) {
        self.set_histogram(None);
    }

    pub(super) fn set_histogram(&self, kept: Option<(HistogramLayout, HistogramOptions)>) {
        let mut controls = lock(&self.controls);
        controls.histogram = kept;
        let mut channels = lock(&self.channels);
        channels.closed_histogram = kept.map(|(layout, _)| HistogramData::new(layout));
        for open in &mut channels.open {
            open.histogram =
                kept.map(|(layout, options)| Arc::new(Histogram::new(layout, options.opcodes)));
        }
        drop(channels);
        drop(controls);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// How histograms are kept, if they are.
    pub fn histogram_options(&self) -> Option<HistogramOptions> {
        lock(&self.controls).histogram.map(|(_, options)| options)
    }

    /// The latencies that all channels have recorded since histograms were enabled; `None` where they are
    /// not.
    pub fn histogram(&self) -> Option<HistogramData> {
        let channels = lock(&self.channels);
        let mut sum = channels.closed_histogram.clone()?;
        for histogram in channels.open.iter().filter_map(|open| open.histogram.as_ref()) {
            sum.add(histogram);
        }
        Some(sum)
    }
}
