//! A device for tests that does what the test says: it holds each request until told how it ends, keeps its
//! contents in plain memory, and checks that it gets nothing that its limits forbid.

use std::sync::{Arc, Mutex, MutexGuard};

use super::device::{Bdev, Device, Info};
use super::queue::Queue;
use super::request::{Completion, Completions, Opcode, OpcodeSet, Request};
use crate::base::{BlockCount, BlockSize, Geometry, Lba, Result, Status, limits};
use crate::memory::{HugePages, PoolOptions, RegionId, Registry, Segment};
use crate::reactor::{Activity, Context};

/// A device that a test drives.
pub(crate) struct Scripted {
    info: Info,
    script: Arc<Script>,
}

/// The test's side of a [`Scripted`] device, shared by all its queues.
pub(crate) struct Script {
    state: Mutex<State>,
}

struct State {
    info: Info,
    memory: Vec<u8>,
    /// How many requests a queue takes at a time.
    room: usize,
    held: Vec<(usize, Request)>,
    finished: Vec<(usize, Completion)>,
    queues: usize,
    /// Ends each request at once.
    immediate: bool,
}

// SAFETY: tests move a device between threads only while none of its requests is outstanding, whose
// pointers are what keeps the compiler from seeing that.
unsafe impl Send for Script {}
// SAFETY: as above; the state is behind a mutex.
unsafe impl Sync for Script {}

/// Facts of a device of `blocks` blocks of 512 bytes.
pub(crate) fn small_info(blocks: u64) -> Info {
    let geometry = Geometry::new(BlockSize::B512, BlockCount(blocks)).expect("geometry");
    Info::new("scripted", "Scripted disk", geometry)
}

/// A context with ordinary memory, of which the pool takes at most `pool_max` bytes.
pub(crate) fn context_with_pool(pool_max: u64) -> Context {
    use crate::base::ByteCount;
    let options = PoolOptions {
        huge_pages: HugePages::Never,
        grow: ByteCount(2 << 20),
        max: ByteCount(pool_max),
        ..PoolOptions::default()
    };
    Context::detached(Registry::new(), options)
}

/// A context with ordinary memory.
pub(crate) fn context() -> Context {
    context_with_pool(64 << 20)
}

/// A device with these facts, each queue of which takes `room` requests at a time, and its script.
pub(crate) fn scripted(info: Info, room: usize) -> (Arc<Device>, Arc<Script>) {
    let memory = vec![0; info.geometry.capacity().0 as usize];
    let state = State {
        info: info.clone(),
        memory,
        room,
        held: Vec::new(),
        finished: Vec::new(),
        queues: 0,
        immediate: false,
    };
    let script = Arc::new(Script { state: Mutex::new(state) });
    let bdev = Scripted { info, script: Arc::clone(&script) };
    (Device::new(Arc::new(bdev)), script)
}

/// The bytes as a segment.
///
/// # Safety
/// They live, and are left to the device, until the request that the segment is put in has completed.
pub(crate) unsafe fn segment_of(bytes: &mut [u8]) -> Segment {
    let address = std::ptr::NonNull::new(bytes.as_mut_ptr()).expect("a slice");
    // SAFETY: the caller's promise.
    unsafe { Segment::new(address, bytes.len() as u32, RegionId::NONE) }
}

impl Script {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics under the lock")
    }

    /// The requests held, oldest first.
    pub(crate) fn held(&self) -> Vec<(Opcode, Lba, u32)> {
        let state = self.lock();
        let shown = |r: &Request| (r.opcode(), r.lba, r.ticket.blocks);
        state.held.iter().map(|(_, request)| shown(request)).collect()
    }

    /// The segments of the `index`th request held: address and length.
    pub(crate) fn segments(&self, index: usize) -> Vec<(usize, u32)> {
        let state = self.lock();
        let segments = state.held[index].1.segments();
        segments.map(|segment| (segment.address() as usize, segment.len())).collect()
    }

    /// Ends the `index`th request held: does what it asks for when `status` is success.
    pub(crate) fn end(&self, index: usize, status: Status) {
        let mut state = self.lock();
        let (queue, request) = state.held.remove(index);
        state.end(queue, &request, status);
    }

    /// Ends all that are held with success, and how many that were.
    pub(crate) fn end_all(&self) -> usize {
        let count = self.held().len();
        (0..count).for_each(|_| self.end(0, Status::SUCCESS));
        count
    }

    /// From now on each request ends as soon as it is submitted.
    pub(crate) fn end_at_once(&self) {
        self.lock().immediate = true;
    }

    /// The contents.
    pub(crate) fn memory(&self) -> Vec<u8> {
        self.lock().memory.clone()
    }

    /// Sets the contents.
    pub(crate) fn fill(&self, contents: impl Fn(usize) -> u8) {
        let mut state = self.lock();
        state.memory.iter_mut().enumerate().for_each(|(at, byte)| *byte = contents(at));
    }
}

impl State {
    /// Panics when the driver should not have got `request`.
    fn check(&self, request: &Request) {
        let info = &self.info;
        let (opcode, limits) = (request.opcode(), info.limits);
        assert!(info.native.contains(opcode), "{opcode:?} is not native");
        if !opcode.has_range() {
            return;
        }
        let blocks = u64::from(request.ticket.blocks);
        assert!(blocks > 0 && info.geometry.contains(request.lba, BlockCount(blocks)));
        let bytes = info.geometry.bytes_of(BlockCount(blocks)).0;
        assert!(bytes <= u64::from(limits.transfer_max), "{bytes} bytes in one request");
        if limits.boundary > 0 {
            let boundary = u64::from(limits.boundary);
            let last = request.lba.0 + blocks - 1;
            assert_eq!(request.lba.0 / boundary, last / boundary, "crosses a boundary");
        }
        let sum: u64 = request.segments().map(|segment| u64::from(segment.len())).sum();
        if opcode.payload_factor() > 0 {
            assert_eq!(sum, bytes * opcode.payload_factor());
            assert!(request.segment_count() <= usize::from(limits.segments_max));
        }
        let alignment = limits.memory_alignment as usize;
        for segment in request.segments() {
            assert_eq!(segment.address() as usize % alignment, 0, "misaligned address");
            assert_eq!(segment.len() as usize % alignment.min(512), 0, "misaligned length");
        }
    }

    fn end(&mut self, queue: usize, request: &Request, status: Status) {
        let status = if status.is_success() { self.execute(request) } else { status };
        self.finished.push((queue, request.complete(status)));
    }

    fn execute(&mut self, request: &Request) -> Status {
        let opcode = request.opcode();
        if !opcode.has_range() {
            return Status::SUCCESS;
        }
        let geometry = self.info.geometry;
        let start = geometry.offset_of(request.lba).0 as usize;
        let bytes = geometry.bytes_of(BlockCount(request.ticket.blocks.into())).0 as usize;
        let medium = &mut self.memory[start..start + bytes];
        let mut payload = Vec::new();
        for segment in request.segments() {
            let length = segment.len() as usize;
            // SAFETY: the segment's invariant.
            payload.extend_from_slice(unsafe {
                std::slice::from_raw_parts(segment.address(), length)
            });
        }
        match opcode {
            Opcode::Read => {
                let mut at = 0;
                for segment in request.segments() {
                    let part = &medium[at..at + segment.len() as usize];
                    // SAFETY: the segment's invariant.
                    unsafe { part.as_ptr().copy_to(segment.address(), part.len()) };
                    at += part.len();
                }
            }
            Opcode::Write => medium.copy_from_slice(&payload),
            Opcode::Unmap | Opcode::WriteZeroes => medium.fill(0),
            Opcode::Compare if medium != payload => return Status::COMPARE_FAILURE,
            Opcode::CompareAndWrite if *medium != payload[..bytes] => {
                return Status::COMPARE_FAILURE;
            }
            Opcode::CompareAndWrite => medium.copy_from_slice(&payload[bytes..]),
            _ => {}
        }
        Status::SUCCESS
    }
}

impl Bdev for Scripted {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, _cx: &Context, _depth: u32) -> Result<Box<dyn Queue>> {
        let mut state = self.script.lock();
        state.queues += 1;
        Ok(Box::new(ScriptedQueue { number: state.queues, script: Arc::clone(&self.script) }))
    }
}

struct ScriptedQueue {
    number: usize,
    script: Arc<Script>,
}

impl Queue for ScriptedQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        let mut state = self.script.lock();
        let mine = state.held.iter().filter(|(queue, _)| *queue == self.number).count();
        let taken = requests.len().min(state.room - mine);
        for request in &requests[..taken] {
            state.check(request);
            if state.immediate {
                state.end(self.number, request, Status::SUCCESS);
            } else {
                state.held.push((self.number, *request));
            }
        }
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        let mut state = self.script.lock();
        let mut rest = Vec::new();
        for (queue, completion) in std::mem::take(&mut state.finished) {
            if queue == self.number && completions.room() > 0 {
                completions.push(completion);
            } else {
                rest.push((queue, completion));
            }
        }
        state.finished = rest;
        Activity::Idle
    }
}

/// Facts that make the channel do most of the work.
pub(crate) fn poor_info(blocks: u64) -> Info {
    let mut info = small_info(blocks);
    info.native = OpcodeSet::READ_WRITE;
    info.limits.transfer_max = 8 * 512;
    info.limits.segments_max = 3;
    info.limits.memory_alignment = 64;
    info.limits.boundary = 16;
    info
}

const _: () = assert!(limits::BLOCK_SIZE_MIN == 512);
