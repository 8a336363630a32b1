//! Delay: completes reads and writes later than the base did.
//!
//! Two latencies for each direction: the usual one, and one that every hundredth request meets (drawn at
//! random). They can be changed at any time; a request that is waiting keeps the time it was given. Other
//! opcodes are not delayed. A reset, or the removal of the device, lets go of all that wait.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::time::Duration;

use serde_json::{Value, json};

use super::bases::{self, OnResize, Registered};
use super::relay::Relay;
use crate::base::{Error, ErrorKind, Result, Status, Uuid};
use crate::bdev::{Bdev, Completions, ConfigEntry, Device, Info, Opcode, Queue, Registry, Request};
use crate::reactor::{Activity, Context, Tsc};

/// Which latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum LatencyKind {
    /// Of most reads.
    AverageRead = 0,
    /// Of every hundredth read.
    P99Read = 1,
    /// Of most writes.
    AverageWrite = 2,
    /// Of every hundredth write.
    P99Write = 3,
}

impl LatencyKind {
    /// The latency of this name: `avg_read`, `p99_read`, `avg_write` or `p99_write`.
    ///
    /// # Errors
    /// `Invalid` for any other name.
    pub fn parse(name: &str) -> Result<LatencyKind> {
        match name {
            "avg_read" => Ok(LatencyKind::AverageRead),
            "p99_read" => Ok(LatencyKind::P99Read),
            "avg_write" => Ok(LatencyKind::AverageWrite),
            "p99_write" => Ok(LatencyKind::P99Write),
            _ => Err(Error::invalid(format!(
                "'{name}' is not a latency (avg_read, p99_read, avg_write and p99_write are)"
            ))),
        }
    }
}

/// Latencies in microseconds, by [`LatencyKind`].
pub type Latencies = [u64; 4];

/// The latencies of a device, which all its queues read and control work changes.
#[derive(Default)]
struct Settings {
    micros: [AtomicU64; 4],
    ticks: [AtomicU64; 4],
}

impl Settings {
    fn set(&self, kind: LatencyKind, micros: u64) {
        let ticks = Tsc::ticks(Duration::from_micros(micros));
        self.micros[kind as usize].store(micros, Memory::Relaxed);
        self.ticks[kind as usize].store(ticks, Memory::Relaxed);
    }

    fn micros(&self) -> Latencies {
        std::array::from_fn(|kind| self.micros[kind].load(Memory::Relaxed))
    }

    fn ticks(&self) -> Latencies {
        std::array::from_fn(|kind| self.ticks[kind].load(Memory::Relaxed))
    }
}

/// A delay device.
pub struct Delay {
    info: Info,
    base: Arc<Device>,
    settings: Arc<Settings>,
    registered: Arc<Registered>,
}

/// Makes a delay device over the bdev `base`.
///
/// # Errors
/// `NoDevice` when there is no such base, `NotPermitted` when it is claimed, `Exists` when the name or
/// UUID is taken.
pub fn create(
    registry: &Registry,
    name: &str,
    base: &str,
    uuid: Option<Uuid>,
    latencies: Latencies,
) -> Result<Arc<Device>> {
    let bases = bases::open(registry, &[base], "delay", &[name], OnResize::Follow)?;
    let base = Arc::clone(bases[0].device());
    let mut info = bases::derive_info(name, "delay", &bases, base.geometry().blocks)?;
    info.native = bases::with_passthrough(info.native, &base);
    if let Some(uuid) = uuid {
        info.uuid = uuid;
    }
    let settings = Arc::new(Settings::default());
    for (kind, micros) in [
        LatencyKind::AverageRead,
        LatencyKind::P99Read,
        LatencyKind::AverageWrite,
        LatencyKind::P99Write,
    ]
    .into_iter()
    .zip(latencies)
    {
        settings.set(kind, micros);
    }
    let registered = Arc::new(Registered::default());
    let delay = Delay { info, base, settings, registered: Arc::clone(&registered) };
    registered.register(registry, Arc::new(delay), bases)
}

/// Changes a latency of the delay device `name`.
///
/// # Errors
/// `NoDevice` when there is none of this name.
pub fn update_latency(
    registry: &Registry,
    name: &str,
    kind: LatencyKind,
    micros: u64,
) -> Result<()> {
    let device = registry.get(name)?;
    let delay = device.driver::<Delay>().ok_or_else(|| {
        Error::new(ErrorKind::NoDevice, format!("bdev '{name}' is not a delay device"))
    })?;
    delay.settings.set(kind, micros);
    Ok(())
}

impl Delay {
    /// The properties, as both the configuration and `driver_specific` list them.
    fn properties(&self) -> Value {
        let [average_read, p99_read, average_write, p99_write] = self.settings.micros();
        json!({
            "name": self.info.name,
            "base_bdev_name": self.base.name(),
            "uuid": self.info.uuid.to_string(),
            "avg_read_latency": average_read,
            "p99_read_latency": p99_read,
            "avg_write_latency": average_write,
            "p99_write_latency": p99_write,
        })
    }
}

impl Bdev for Delay {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        let random = RandomState::new().build_hasher().finish() | 1;
        Ok(Box::new(DelayQueue {
            relay: Relay::open(&self.base, cx, depth)?,
            cx: cx.clone(),
            settings: Arc::clone(&self.settings),
            registered: Arc::clone(&self.registered),
            waiting: BinaryHeap::with_capacity(depth as usize),
            random,
        }))
    }

    fn driver_specific(&self) -> Value {
        json!({ "delay": self.properties() })
    }

    fn config(&self) -> Vec<ConfigEntry> {
        vec![ConfigEntry { method: "bdev_delay_create", params: self.properties() }]
    }
}

/// A request that the base has completed.
#[derive(Clone, Copy)]
struct Waiting {
    due: u64,
    slot: u32,
    status: Status,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due.cmp(&other.due)
    }
}

struct DelayQueue {
    relay: Relay,
    cx: Context,
    settings: Arc<Settings>,
    registered: Arc<Registered>,
    /// Soonest first. Has room for all slots, so that it never grows.
    waiting: BinaryHeap<Reverse<Waiting>>,
    random: u64,
}

impl DelayQueue {
    /// Whether this request is one of the slow hundredth (Marsaglia's xorshift).
    fn is_slow(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.is_multiple_of(100)
    }

    fn finish_until(&mut self, due: u64) {
        while let Some(Reverse(first)) = self.waiting.peek()
            && first.due <= due
        {
            let Waiting { slot, status, .. } = *first;
            self.waiting.pop();
            self.relay.finish(slot, status);
        }
    }
}

impl Queue for DelayQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        let taken = requests.len().min(self.relay.room());
        for request in &requests[..taken] {
            let slot = self.relay.take(request);
            self.relay.forward(slot);
        }
        self.relay.flush();
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        let mut activity = self.relay.poll_base();
        let now = self.cx.now().0;
        let latencies = self.settings.ticks();
        let mut index = 0;
        while let Some(completion) = self.relay.returned(index) {
            index += 1;
            let slot = completion.token as u32;
            let kinds = match completion.opcode {
                Opcode::Read => [LatencyKind::AverageRead, LatencyKind::P99Read],
                Opcode::Write => [LatencyKind::AverageWrite, LatencyKind::P99Write],
                opcode => {
                    if opcode == Opcode::Reset {
                        // All that came before it are back from the base, and go first.
                        self.finish_until(u64::MAX);
                    }
                    self.relay.finish_as(slot, completion.status, completion.blocks);
                    continue;
                }
            };
            let latency = latencies[kinds[usize::from(self.is_slow())] as usize];
            if latency == 0 {
                self.relay.finish(slot, completion.status);
            } else {
                let due = now.saturating_add(latency);
                self.waiting.push(Reverse(Waiting { due, slot, status: completion.status }));
            }
        }
        if !self.waiting.is_empty() {
            let closing = self.registered.is_closing();
            self.finish_until(if closing { u64::MAX } else { now });
            activity = activity.max(Activity::Waiting);
        }
        activity.max(self.relay.deliver(completions))
    }
}
