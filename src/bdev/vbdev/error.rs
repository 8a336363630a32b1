//! Error: a device that fails, holds back or damages requests on command, to test what is above it.
//!
//! What is injected, and how many times, is set per opcode for the device; all its queues draw from one
//! count. Reads, writes, unmaps and flushes can be hit, as in SPDK.
//!
//! What each [`Fault`] does:
//! - `Failure`: the request ends with `INTERNAL_ERROR`, without reaching the base.
//! - `NvmeFailure`: the same with a status of choice.
//! - `NoMemory`: the request is put off and tried again at the next poll, as one that found no
//!   resources is; it succeeds when the count is used up.
//! - `Pending`: the request hangs until [`resume_pending`], a reset on any queue, or the removal of
//!   this device. (A device above it that is removed meanwhile waits for the same, as for any drive that
//!   does not answer.)
//! - `CorruptData`: one byte of a read's payload is changed after the base filled it, or one
//!   byte of a write's on its way to the base (in a copy: the submitter's memory stays as it is).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::bases::{self, OnResize, Registered};
use super::corrupt;
use super::relay::Relay;
use super::split::part_uuid;
use crate::base::{Error, ErrorKind, Result, Status, Uuid};
use crate::bdev::{Bdev, Completions, ConfigEntry, Device, Info, Opcode, Queue, Registry, Request};
use crate::memory::Buffer;
use crate::reactor::{Activity, Context};

/// What happens to a request that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails.
    Failure,
    /// It fails with this status.
    NvmeFailure(Status),
    /// It hangs.
    Pending,
    /// It finds no resources.
    NoMemory,
    /// The byte at `offset` of its payload is combined with `value` by exclusive or.
    CorruptData {
        /// Position in the payload, in bytes; a shorter payload stays as it is.
        offset: u64,
        /// Not 0.
        value: u8,
    },
}

/// Which requests are hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Those of one opcode: read, write, unmap or flush.
    Opcode(Opcode),
    /// All of these.
    All,
}

/// What to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// What happens.
    pub fault: Fault,
    /// How many requests are hit.
    pub count: u32,
    /// How many requests of the queue must be with the base for one to be hit.
    pub queue_depth: u64,
}

/// The opcodes that can be hit.
const TARGETS: [Opcode; 4] = [Opcode::Read, Opcode::Write, Opcode::Unmap, Opcode::Flush];

fn target_index(opcode: Opcode) -> Option<usize> {
    TARGETS.iter().position(|&target| target == opcode)
}

/// What all queues of a device share.
#[derive(Default)]
struct Shared {
    registered: Registered,
    /// Grows with every change of `injections`.
    generation: AtomicU32,
    injections: Mutex<[Option<Injection>; TARGETS.len()]>,
    /// How many requests are still to be hit.
    left: [AtomicU32; TARGETS.len()],
    /// Grows when requests that hang are to go on.
    resumed: AtomicU32,
    /// Grows when requests that hang are to be aborted.
    aborted: AtomicU32,
}

impl Shared {
    fn set(&self, target: usize, injection: Option<Injection>) {
        let mut injections = self.injections.lock().unwrap_or_else(PoisonError::into_inner);
        injections[target] = injection;
        self.left[target].store(injection.map_or(0, |i| i.count), Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes one of the hits that are left.
    fn draw(&self, target: usize) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.left[target].fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// An error device.
pub struct ErrorInjector {
    info: Info,
    base: Arc<Device>,
    shared: Arc<Shared>,
}

/// The name of the error device over `base`.
pub fn name_over(base: &str) -> String {
    format!("EE_{base}")
}

/// Makes an error device over the bdev `base`.
///
/// # Errors
/// `NoDevice` when there is no such base, `NotPermitted` when it is claimed, `Exists` when the name or
/// UUID is taken.
pub fn create(registry: &Registry, base: &str, uuid: Option<Uuid>) -> Result<Arc<Device>> {
    let name = name_over(registry.get(base)?.name());
    let bases = bases::open(registry, &[base], "error", &[&name], OnResize::Follow)?;
    let base = Arc::clone(bases[0].device());
    let blocks = base.geometry().blocks;
    let mut info = bases::derive_info(&name, "Error Injection Disk", &bases, blocks)?;
    info.native = bases::with_passthrough(info.native, &base);
    info.uuid = uuid.unwrap_or_else(|| part_uuid(base.info().uuid, 0, blocks.0));
    let shared = Arc::new(Shared::default());
    let injector = ErrorInjector { info, base, shared: Arc::clone(&shared) };
    shared.registered.register(registry, Arc::new(injector), bases)
}

fn shared_of(registry: &Registry, name: &str) -> Result<Arc<Shared>> {
    let device = registry.get(name)?;
    let injector = device.driver::<ErrorInjector>().ok_or_else(|| {
        Error::new(ErrorKind::NoDevice, format!("bdev '{name}' is not an error device"))
    })?;
    Ok(Arc::clone(&injector.shared))
}

/// Injects a fault through the error device `name`, in place of what was injected for the same requests
/// before.
///
/// # Errors
/// `NoDevice` when there is no error device of this name; `Invalid` for an opcode that cannot be hit, or a
/// corruption that changes nothing.
pub fn inject(registry: &Registry, name: &str, target: Target, injection: Injection) -> Result<()> {
    if let Fault::CorruptData { value: 0, .. } = injection.fault {
        return Err(Error::invalid("corrupt_value 0 changes nothing (1 to 255 is possible)"));
    }
    let shared = shared_of(registry, name)?;
    match target {
        Target::All => (0..TARGETS.len()).for_each(|index| shared.set(index, Some(injection))),
        Target::Opcode(opcode) => {
            let index = target_index(opcode).ok_or_else(|| {
                Error::invalid(format!("no errors are injected into {}", opcode.name()))
            })?;
            shared.set(index, Some(injection));
        }
    }
    Ok(())
}

/// Ends all injection through the error device `name`. Requests that hang stay so.
///
/// # Errors
/// `NoDevice` when there is no error device of this name.
pub fn clear(registry: &Registry, name: &str) -> Result<()> {
    let shared = shared_of(registry, name)?;
    (0..TARGETS.len()).for_each(|index| shared.set(index, None));
    Ok(())
}

/// Lets the requests that hang in the error device `name` go on, as if they came in now.
///
/// # Errors
/// `NoDevice` when there is no error device of this name.
pub fn resume_pending(registry: &Registry, name: &str) -> Result<()> {
    shared_of(registry, name)?.resumed.fetch_add(1, Ordering::Release);
    Ok(())
}

impl Bdev for ErrorInjector {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(ErrorQueue {
            relay: Relay::open(&self.base, cx, depth)?,
            cx: cx.clone(),
            // Not the present one: the first batch looks.
            generation: shared.generation.load(Ordering::Acquire).wrapping_sub(1),
            resumed: shared.resumed.load(Ordering::Acquire),
            aborted: shared.aborted.load(Ordering::Acquire),
            shared,
            injections: [None; TARGETS.len()],
            hanging: VecDeque::with_capacity(depth as usize),
            put_off: VecDeque::with_capacity(depth as usize),
            corruptions: (0..depth).map(|_| None).collect(),
            corrupting: 0,
        }))
    }

    fn driver_specific(&self) -> Value {
        json!({ "error_disk": { "base_bdev": self.base.name() } })
    }

    fn config(&self) -> Vec<ConfigEntry> {
        vec![ConfigEntry {
            method: "bdev_error_create",
            params: json!({
                "base_name": self.base.name(),
                "uuid": self.info.uuid.to_string(),
            }),
        }]
    }
}

/// What is to be done when a request comes back from the base.
enum Corruption {
    /// Damage what was read.
    Read { offset: u64, value: u8 },
    /// Nothing but to let go of the damaged copy.
    Write { _copy: Vec<Buffer>, _segments: Vec<crate::memory::Segment> },
}

struct ErrorQueue {
    relay: Relay,
    cx: Context,
    shared: Arc<Shared>,
    generation: u32,
    resumed: u32,
    aborted: u32,
    /// A copy of the device's.
    injections: [Option<Injection>; TARGETS.len()],
    /// Slots of requests that hang.
    hanging: VecDeque<u32>,
    /// Slots of requests to try again.
    put_off: VecDeque<u32>,
    /// By slot.
    corruptions: Box<[Option<Corruption>]>,
    /// How many of them there are.
    corrupting: usize,
}

impl ErrorQueue {
    #[inline]
    fn follow_device(&mut self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.injections =
                *self.shared.injections.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does with the request in a slot what is to be done with it now.
    fn route(&mut self, slot: u32) {
        let opcode = self.relay.request(slot).opcode();
        if opcode == Opcode::Reset {
            self.shared.aborted.fetch_add(1, Ordering::Release);
            self.abort_hanging();
        }
        let Some(fault) = self.fault_for(opcode) else {
            self.relay.forward(slot);
            return;
        };
        match fault {
            Fault::Failure => self.relay.finish(slot, Status::INTERNAL_ERROR),
            Fault::NvmeFailure(status) => self.relay.finish(slot, status),
            Fault::Pending => self.hanging.push_back(slot),
            Fault::NoMemory => self.put_off.push_back(slot),
            Fault::CorruptData { offset, value } => self.corrupt(slot, offset, value),
        }
    }

    #[inline]
    fn fault_for(&self, opcode: Opcode) -> Option<Fault> {
        let target = target_index(opcode)?;
        let injection = self.injections[target]?;
        let hit = self.relay.inflight() as u64 >= injection.queue_depth && self.shared.draw(target);
        hit.then_some(injection.fault)
    }

    #[cold]
    fn corrupt(&mut self, slot: u32, offset: u64, value: u8) {
        let request = *self.relay.request(slot);
        let corruption = match request.opcode() {
            Opcode::Read => {
                self.relay.forward(slot);
                Corruption::Read { offset, value }
            }
            Opcode::Write => match corrupt::damaged_copy(&self.cx, &request, offset, value) {
                Ok((copy, segments)) => {
                    let (lba, blocks) = (request.lba, request.ticket.blocks);
                    // SAFETY: the segments, and the buffers that they are of, stay in `corruptions` until
                    // the request is back from the base.
                    let damaged =
                        unsafe { Request::scattered(Opcode::Write, lba, blocks, &segments, 0) };
                    self.relay.forward_as(slot, damaged.with_flags(request.ticket.flags));
                    Corruption::Write { _copy: copy, _segments: segments }
                }
                Err(_) => return self.relay.finish(slot, Status::INTERNAL_ERROR),
            },
            // There is no payload to damage.
            _ => return self.relay.forward(slot),
        };
        self.corruptions[slot as usize] = Some(corruption);
        self.corrupting += 1;
    }

    fn abort_hanging(&mut self) {
        while let Some(slot) = self.hanging.pop_front() {
            self.relay.finish(slot, Status::ABORTED_BY_REQUEST);
        }
    }

    /// Looks whether what hangs may go on or must go.
    #[cold]
    fn tend_hanging(&mut self) {
        let aborted = self.shared.aborted.load(Ordering::Acquire);
        if aborted != self.aborted || self.shared.registered.is_closing() {
            self.abort_hanging();
        }
        let resumed = self.shared.resumed.load(Ordering::Acquire);
        if resumed != self.resumed {
            for _ in 0..self.hanging.len() {
                if let Some(slot) = self.hanging.pop_front() {
                    self.route(slot);
                }
            }
        }
    }

    fn retry_put_off(&mut self) {
        for _ in 0..self.put_off.len() {
            if let Some(slot) = self.put_off.pop_front() {
                self.route(slot);
            }
        }
    }
}

impl Queue for ErrorQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        self.follow_device();
        let taken = requests.len().min(self.relay.room());
        for request in &requests[..taken] {
            let slot = self.relay.take(request);
            self.route(slot);
        }
        self.relay.flush();
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        self.follow_device();
        if !self.hanging.is_empty() {
            self.tend_hanging();
        }
        self.aborted = self.shared.aborted.load(Ordering::Acquire);
        self.resumed = self.shared.resumed.load(Ordering::Acquire);
        self.retry_put_off();
        let mut activity = self.relay.poll_base();
        let mut index = 0;
        while let Some(completion) = self.relay.returned(index) {
            index += 1;
            let slot = completion.token as u32;
            if self.corrupting > 0
                && let Some(corruption) = self.corruptions[slot as usize].take()
            {
                self.corrupting -= 1;
                if let Corruption::Read { offset, value } = corruption
                    && completion.status.is_success()
                {
                    corrupt::damage(self.relay.request(slot), offset, value);
                }
            }
            self.relay.finish_as(slot, completion.status, completion.blocks);
        }
        if !self.hanging.is_empty() || !self.put_off.is_empty() {
            activity = activity.max(Activity::Waiting);
        }
        activity.max(self.relay.deliver(completions))
    }
}
