//! Drives random requests through a device and holds every completion against the model.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weft::base::{Lba, Status};
use weft::bdev::vbdev::error::{self, Fault, Injection, Target};
use weft::bdev::{
    Channel, Claim, Completion, Completions, Descriptor, DeviceState, Event, Opcode, Queue,
    Registry, Request, RequestFlags,
};
use weft::memory::{RegionId, Segment};
use weft::reactor::Context;

use super::model::{Model, conflict};
use super::tree::Built;

/// Longest that anything may take: a request that never completes is found by this.
const PATIENCE: Duration = Duration::from_secs(10);

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Step {
    /// A request: where (a fraction of the device), how long, how its payload is scattered.
    Io { opcode: Opcode, at: u16, length: u32, scatter: Scatter, same: bool, fua: bool },
    /// Submit what has gathered, and poll.
    Turn,
    /// Inject a fault into one of the error devices.
    Inject { device: u8, target: u8, fault: Fault, count: u32, queue_depth: u64 },
    /// Let what hangs in the error devices go on.
    Resume,
    /// Begin to remove one of the devices.
    Remove(u8),
}

/// How a payload lies in memory.
#[derive(Clone, Debug)]
pub enum Scatter {
    One,
    /// Cut after multiples of this many bytes.
    Every(u32),
    /// Cut after these fractions of it, wherever that is.
    At(Vec<u16>),
}

fn any_opcode() -> impl Strategy<Value = Opcode> {
    prop_oneof![
        6 => Just(Opcode::Read),
        6 => Just(Opcode::Write),
        1 => Just(Opcode::Flush),
        2 => Just(Opcode::Unmap),
        2 => Just(Opcode::WriteZeroes),
        2 => Just(Opcode::Compare),
        2 => Just(Opcode::CompareAndWrite),
        1 => Just(Opcode::Reset),
    ]
}

fn any_scatter() -> impl Strategy<Value = Scatter> {
    prop_oneof![
        3 => Just(Scatter::One),
        2 => prop_oneof![Just(512_u32), Just(4096), Just(16384), 1_u32..5000].prop_map(Scatter::Every),
        2 => prop::collection::vec(any::<u16>(), 1..20).prop_map(Scatter::At),
    ]
}

fn any_io() -> impl Strategy<Value = Step> {
    // Mostly a few blocks; sometimes as much as the device holds.
    let length = prop_oneof![6 => 1_u32..10, 2 => 1_u32..200, 1 => 1_u32..4000];
    (any_opcode(), any::<u16>(), length, any_scatter(), any::<bool>(), any::<bool>()).prop_map(
        |(opcode, at, length, scatter, same, fua)| Step::Io {
            opcode,
            at,
            length,
            scatter,
            same,
            fua,
        },
    )
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Failure),
        Just(Fault::NvmeFailure(Status::UNRECOVERED_READ_ERROR)),
        Just(Fault::Pending),
        Just(Fault::NoMemory),
    ]
}

fn any_injection() -> impl Strategy<Value = Step> {
    let queue_depth = prop_oneof![3 => Just(0), 1 => 0_u64..4];
    (any::<u8>(), 0_u8..5, any_fault(), 1_u32..5, queue_depth).prop_map(
        |(device, target, fault, count, queue_depth)| Step::Inject {
            device,
            target,
            fault,
            count,
            queue_depth,
        },
    )
}

/// What to do to a healthy stack.
pub fn quiet_steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![4 => any_io(), 1 => Just(Step::Turn)], 1..150)
}

/// The same with faults, and a removal at some point.
pub fn rough_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => any_io(),
        5 => Just(Step::Turn),
        2 => any_injection(),
        1 => Just(Step::Resume),
    ];
    let steps = prop::collection::vec(step, 1..150);
    (steps, prop::option::of((any::<prop::sample::Index>(), any::<u8>()))).prop_map(
        |(mut steps, removal)| {
            if let Some((at, device)) = removal {
                let at = at.index(steps.len());
                steps.insert(at, Step::Remove(device));
            }
            steps
        },
    )
}

/// A request under way.
struct Flight {
    opcode: Opcode,
    range: Range<usize>,
    fua: bool,
    memory: Payload,
    /// What a compare will find.
    matches: bool,
}

/// Memory in pieces with gaps between them, which must stay as they are.
struct Payload {
    memory: Vec<u8>,
    pieces: Vec<Range<usize>>,
    segments: Vec<Segment>,
}

const GAP: usize = 24;
const GAP_BYTE: u8 = 0xa5;

impl Payload {
    fn new(data: &[u8], scatter: &Scatter) -> Payload {
        let mut cuts: Vec<usize> = match scatter {
            Scatter::One => Vec::new(),
            Scatter::Every(bytes) => {
                // At most as many segments as a request may have.
                let bytes = (*bytes as usize).max(data.len().div_ceil(256));
                (0..data.len()).step_by(bytes).skip(1).collect()
            }
            Scatter::At(cuts) => {
                cuts.iter().map(|&cut| (data.len() * usize::from(cut)) >> 16).collect()
            }
        };
        cuts.sort_unstable();
        cuts.push(data.len());
        let mut memory = vec![GAP_BYTE; GAP];
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in cuts {
            if cut > start {
                let at = memory.len();
                memory.extend_from_slice(&data[start..cut]);
                pieces.push(at..memory.len());
                memory.extend_from_slice(&[GAP_BYTE; GAP]);
                start = cut;
            }
        }
        let base = NonNull::new(memory.as_mut_ptr()).unwrap();
        let segments = pieces
            .iter()
            .map(|piece| {
                // SAFETY: a piece of `memory`, which lives with the flight, is not looked at until the
                // request has completed, and whose buffer stays where it is.
                unsafe { Segment::new(base.add(piece.start), piece.len() as u32, RegionId::NONE) }
            })
            .collect();
        Payload { memory, pieces, segments }
    }

    fn data(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|piece| self.memory[piece.clone()].iter().copied()).collect()
    }

    fn gaps_are_whole(&self) -> bool {
        let mut at = 0;
        self.pieces.iter().all(|piece| {
            let gap = &self.memory[at..piece.start];
            at = piece.end;
            gap.iter().all(|&byte| byte == GAP_BYTE)
        }) && self.memory[at..].iter().all(|&byte| byte == GAP_BYTE)
    }
}

pub struct Driver {
    cx: Context,
    registry: Registry,
    built: Built,
    channels: Vec<Channel>,
    queued: Vec<Vec<Request>>,
    completions: Completions,
    descriptor: Option<Descriptor>,
    /// The top device is being removed.
    removing: Rc<Cell<bool>>,
    /// Removals that were begun, and how many of them have ended.
    removals: Vec<String>,
    removals_ended: Rc<Cell<usize>>,
    model: Model,
    flights: HashMap<u64, Flight>,
    next_token: u64,
    /// Whether requests may fail: something was injected or removed.
    disturbed: bool,
    block: usize,
    capacity: usize,
    random: u64,
}

impl Driver {
    pub fn new(cx: &Context, registry: &Registry, built: Built, depths: &[u32]) -> Driver {
        let removing = Rc::new(Cell::new(false));
        let seen = Rc::clone(&removing);
        let descriptor = registry
            .open(built.top.name(), Claim::Write, move |event| {
                if *event == Event::Removing {
                    seen.set(true);
                }
            })
            .unwrap();
        let geometry = built.top.geometry();
        let block = geometry.block_size.bytes() as usize;
        let capacity = geometry.capacity().0 as usize;
        let channels: Vec<Channel> =
            depths.iter().map(|&depth| built.top.open_channel(cx, depth).unwrap()).collect();
        Driver {
            cx: cx.clone(),
            registry: registry.clone(),
            queued: channels.iter().map(|_| Vec::new()).collect(),
            channels,
            completions: Completions::with_capacity(7),
            descriptor: Some(descriptor),
            removing,
            removals: Vec::new(),
            removals_ended: Rc::default(),
            model: Model::new(capacity, block, built.stores),
            built,
            flights: HashMap::new(),
            next_token: 1,
            disturbed: false,
            block,
            capacity,
            random: 0x1234_5678_9abc_def1,
        }
    }

    fn random_bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for chunk in bytes.chunks_mut(8) {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            chunk.copy_from_slice(&self.random.to_le_bytes()[..chunk.len()]);
        }
        bytes
    }

    /// Does all steps and waits for the end of every request.
    pub fn run(mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        for step in steps {
            match step {
                Step::Io { opcode, at, length, scatter, same, fua } => {
                    self.io(*opcode, *at, *length, scatter, *same, *fua)?;
                }
                Step::Turn => self.turn()?,
                Step::Inject { device, target, fault, count, queue_depth } => {
                    self.inject(*device, *target, *fault, *count, *queue_depth);
                }
                Step::Resume => self.resume(),
                Step::Remove(device) => self.remove(*device),
            }
        }
        self.finish()
    }

    fn io(
        &mut self,
        opcode: Opcode,
        at: u16,
        length: u32,
        scatter: &Scatter,
        same: bool,
        fua: bool,
    ) -> Result<(), TestCaseError> {
        let total = self.capacity / self.block;
        let blocks = (length as usize).min(total);
        let lba = (total - blocks) * usize::from(at) / usize::from(u16::MAX);
        let range = match opcode.has_range() {
            true => lba * self.block..(lba + blocks) * self.block,
            false => 0..0,
        };
        let deadline = Instant::now() + PATIENCE;
        while self.flights.values().any(|flight| {
            conflict(opcode, flight.opcode)
                && flight.range.start < range.end
                && range.start < flight.range.end
        }) {
            // What hangs would keep this one from ever starting.
            self.resume();
            self.turn()?;
            prop_assert!(Instant::now() < deadline, "{}", self.stuck());
        }
        let random = self.random_bytes(range.len());
        let mut matches = true;
        let data = match opcode {
            Opcode::Read | Opcode::Write => random,
            Opcode::Compare | Opcode::CompareAndWrite => {
                let mut expected = self.model.bytes(range.start, range.len()).to_vec();
                if !same {
                    let wrong = expected.len() * usize::from(at) / (usize::from(u16::MAX) + 1);
                    expected[wrong] ^= 0x40;
                    matches = false;
                }
                if opcode == Opcode::CompareAndWrite {
                    expected.extend_from_slice(&random);
                }
                expected
            }
            _ => Vec::new(),
        };
        let memory = Payload::new(&data, scatter);
        let (token, blocks) = (self.next_token, (range.len() / self.block) as u32);
        self.next_token += 1;
        let first = Lba((range.start / self.block) as u64);
        // SAFETY: the segments, and the memory they name, live in `flights` until the completion.
        let mut request =
            unsafe { Request::scattered(opcode, first, blocks, &memory.segments, token) };
        if fua && opcode == Opcode::Write {
            request = request.with_flags(RequestFlags::FUA);
        }
        let queue = (token % self.channels.len() as u64) as usize;
        self.queued[queue].push(request);
        self.flights.insert(token, Flight { opcode, range, fua, memory, matches });
        Ok(())
    }

    fn inject(&mut self, device: u8, target: u8, fault: Fault, count: u32, queue_depth: u64) {
        if self.built.errors.is_empty() {
            return;
        }
        self.disturbed = true;
        let name = &self.built.errors[usize::from(device) % self.built.errors.len()];
        let target = match target {
            0 => Target::Opcode(Opcode::Read),
            1 => Target::Opcode(Opcode::Write),
            2 => Target::Opcode(Opcode::Unmap),
            3 => Target::Opcode(Opcode::Flush),
            _ => Target::All,
        };
        // It may be gone by now.
        let _ =
            error::inject(&self.registry, name, target, Injection { fault, count, queue_depth });
    }

    /// Lets what hangs in the error devices go on. In one that is going away it must end by itself.
    fn resume(&mut self) {
        for name in &self.built.errors {
            let device = self.registry.find(name);
            if device.is_some_and(|device| device.state() == DeviceState::Online) {
                error::resume_pending(&self.registry, name).unwrap();
            }
        }
    }

    fn remove(&mut self, device: u8) {
        self.disturbed = true;
        let name = self.built.all[usize::from(device) % self.built.all.len()].clone();
        self.removals.push(name.clone());
        let (registry, ended) = (self.registry.clone(), Rc::clone(&self.removals_ended));
        self.cx.spawn(async move {
            registry.unregister(&name).await.unwrap();
            ended.set(ended.get() + 1);
        });
    }

    fn turn(&mut self) -> Result<(), TestCaseError> {
        self.cx.turn();
        for queue in 0..self.channels.len() {
            let queued = &mut self.queued[queue];
            let taken = self.channels[queue].submit(queued);
            queued.drain(..taken);
            self.completions.clear();
            self.channels[queue].poll(&mut self.completions);
            let done = self.completions.as_slice().to_vec();
            for completion in done {
                self.check(&completion)?;
            }
        }
        Ok(())
    }

    fn check(&mut self, completion: &Completion) -> Result<(), TestCaseError> {
        let flight = self.flights.remove(&completion.token);
        prop_assert!(flight.is_some(), "{completion:?} is of no request under way");
        let flight = flight.unwrap();
        let Flight { opcode, range, fua, memory, matches } = flight;
        prop_assert_eq!(completion.opcode, opcode);
        prop_assert_eq!(completion.blocks as usize, range.len() / self.block);
        let flags =
            if fua && opcode == Opcode::Write { RequestFlags::FUA } else { RequestFlags::NONE };
        prop_assert_eq!(completion.flags, flags);
        prop_assert!(memory.gaps_are_whole(), "{:?} touched memory beside its payload", opcode);
        let status = completion.status;
        let certain = self.model.all_known(range.start, range.len());
        let compares = matches!(opcode, Opcode::Compare | Opcode::CompareAndWrite);
        let differs = compares && status == Status::COMPARE_FAILURE && (!matches || !certain);
        if !status.is_success() && !differs {
            prop_assert!(self.disturbed, "{:?} on {:?}: {}", opcode, range, status);
            if opcode.is_write() {
                self.model.forget(range.start, range.len());
            }
            return Ok(());
        }
        if compares && certain {
            prop_assert_eq!(status.is_success(), matches, "{:?} on {:?}", opcode, range);
        }
        if differs {
            return Ok(());
        }
        let data = memory.data();
        let stores = self.built.stores;
        match opcode {
            Opcode::Read => {
                let allowed = self.model.allows(range.start, &data);
                prop_assert!(allowed.is_ok(), "read of {:?}: {}", range, allowed.unwrap_err());
            }
            Opcode::Write => self.model.write(range.start, range.len(), Some(&data), stores),
            Opcode::CompareAndWrite => {
                let new = &data[range.len()..];
                self.model.write(range.start, range.len(), Some(new), stores);
            }
            Opcode::Unmap | Opcode::WriteZeroes => {
                self.model.write(range.start, range.len(), None, stores);
            }
            _ => (),
        }
        Ok(())
    }

    fn stuck(&self) -> String {
        let opcodes: Vec<_> = self.flights.values().map(|f| (f.opcode, f.range.clone())).collect();
        format!("requests that do not complete: {opcodes:?}")
    }

    fn finish(mut self) -> Result<(), TestCaseError> {
        for name in &self.built.errors {
            let _ = error::clear(&self.registry, name);
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.flights.is_empty() {
            self.resume();
            self.turn()?;
            prop_assert!(Instant::now() < deadline, "{}", self.stuck());
        }
        for channel in &self.channels {
            prop_assert_eq!(channel.outstanding(), 0);
        }
        if !self.disturbed {
            // All that was written, read once more through the whole stack.
            for at in 0..16 {
                self.io(Opcode::Read, at * 4096, 300, &Scatter::One, true, false)?;
            }
            while !self.flights.is_empty() {
                self.turn()?;
                prop_assert!(Instant::now() < deadline, "{}", self.stuck());
            }
        }
        if !self.removals.is_empty() {
            let ended = |driver: &Driver| driver.removals_ended.get() == driver.removals.len();
            while !ended(&self) {
                self.cx.turn();
                if self.removing.get() {
                    self.channels.clear();
                    self.descriptor = None;
                }
                prop_assert!(Instant::now() < deadline, "{:?} is not removed", self.removals);
            }
            for name in &self.removals {
                prop_assert!(self.registry.find(name).is_none());
            }
        }
        Ok(())
    }
}
