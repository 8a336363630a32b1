//! One reactor's queue on a mirror: the way of an I/O that nothing goes wrong with. The rest is in `slow`.
//!
//! A read takes: the range lock's look, a leg, a slot. A write: the range lock, its region's intent bit, a request
//! for each leg. What waits for something stands in a list of its own, which is looked at in every poll
//! while there is anything in it.
//!
//! Everything is sized at open.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::bounce::{Bounce, Foreign};
use super::legs::QueueLegs;
use super::op::{Op, Stage};
use super::shared::{LEGS, Mark, Shared, View};
use crate::base::{Lba, Result, Status};
use crate::bdev::intent::{PageWrite, Writer};
use crate::bdev::request::{Completion, Completions, Opcode, Request, RequestFlags};
use crate::bdev::{Access, Queue, RangeLock};
use crate::memory::Buffer;
use crate::reactor::{Activity, Context};

/// Pages of the intent map that one queue writes at a time.
pub(super) const PAGE_WRITES: u32 = 4;

/// A reactor's queue on a mirror. Shared with its attendant, a task that closes legs while nobody polls
/// the queue.
pub(super) struct MirrorQueue(Rc<RefCell<Inner>>);

/// The legs are dropped first: after that no device is at work for this queue.
pub(super) struct Inner {
    pub(super) legs: QueueLegs,
    pub(super) shared: Arc<Shared>,
    pub(super) cx: Context,
    pub(super) mark: Arc<Mark>,
    pub(super) view: Arc<View>,
    pub(super) lock: RangeLock,
    pub(super) writer: Writer,
    /// By slot: the submitter's requests, then pages of the intent map.
    pub(super) ops: Box<[Op]>,
    pub(super) free: Vec<u32>,
    pub(super) pages: Vec<PageSlot>,
    /// Slots in use.
    pub(super) used: u32,
    done: Vec<Completion>,
    scratch: Completions,
    pub(super) waiting: Waiting,
    pub(super) bounces: Vec<Bounce>,
    foreign: Foreign,
}

/// Room for one page of the intent map on its way to the legs.
pub(super) struct PageSlot {
    pub buffer: Buffer,
    pub write: Option<PageWrite>,
}

/// Slots that wait for something other than a leg or a lock.
#[derive(Default)]
pub(super) struct Waiting {
    pub intent: Vec<u32>,
    pub region: Vec<u32>,
    pub memory: Vec<u32>,
    /// With the number of the report.
    pub verdict: Vec<(u64, u32)>,
}

impl Waiting {
    fn with_capacity(capacity: usize) -> Waiting {
        Waiting {
            intent: Vec::with_capacity(capacity),
            region: Vec::with_capacity(capacity),
            memory: Vec::with_capacity(capacity),
            verdict: Vec::with_capacity(capacity),
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.intent.len() + self.region.len() + self.memory.len() + self.verdict.len() == 0
    }
}

impl MirrorQueue {
    pub fn open(shared: &Arc<Shared>, cx: &Context, depth: u32) -> Result<MirrorQueue> {
        let page_writes = {
            let map = super::shared::lock(&shared.map);
            if map.is_persistent() { PAGE_WRITES } else { 0 }
        };
        let page_bytes = shared.tracker.layout().page_bytes() as usize;
        let pages = (0..page_writes)
            .map(|_| Ok(PageSlot { buffer: cx.pool().take(page_bytes)?, write: None }))
            .collect::<Result<Vec<_>>>()?;
        let slots = depth + page_writes;
        let mark = shared.join();
        let view = shared.view();
        let mut legs = QueueLegs::new(slots);
        if let Err(error) = legs.follow(&view, cx) {
            shared.leave(&mark);
            return Err(error);
        }
        mark.seen.store(view.generation, Ordering::Release);
        mark.closed.store(view.generation, Ordering::Release);
        let inner = Inner {
            shared: Arc::clone(shared),
            cx: cx.clone(),
            mark: Arc::clone(&mark),
            view,
            lock: RangeLock::join(&shared.locks, depth),
            writer: shared.tracker.join(),
            legs,
            ops: vec![Op::free(); slots as usize].into_boxed_slice(),
            free: (0..depth).rev().collect(),
            pages,
            used: 0,
            done: Vec::with_capacity(depth as usize),
            scratch: Completions::with_capacity(slots as usize),
            waiting: Waiting::with_capacity(slots as usize),
            bounces: (0..depth).map(|_| Bounce::default()).collect(),
            foreign: Foreign::new(cx.pool()),
        };
        let inner = Rc::new(RefCell::new(inner));
        attend(&inner, mark, cx);
        Ok(MirrorQueue(inner))
    }
}

/// Starts the queue's attendant: it lets the queue follow a new view also when nobody polls it.
fn attend(inner: &Rc<RefCell<Inner>>, mark: Arc<Mark>, cx: &Context) {
    let weak = Rc::downgrade(inner);
    cx.spawn(poll_fn(move |cx| {
        if mark.attend(cx) {
            return Poll::Ready(());
        }
        let Some(inner) = weak.upgrade() else { return Poll::Ready(()) };
        // Nobody is within a call of the queue: this runs on its reactor, between polls.
        if let Ok(mut inner) = inner.try_borrow_mut() {
            inner.look_at_view();
        }
        Poll::Pending
    }));
}

impl Queue for MirrorQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        self.0.borrow_mut().submit(requests)
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        self.0.borrow_mut().poll(completions)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.leave(&self.mark);
    }
}

impl Inner {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        if self.used == 0 {
            self.mark.active.store(1, Ordering::Relaxed);
            self.shared.barrier();
        }
        self.look_at_view();
        self.foreign.catch_up();
        let taken = requests.len().min(self.free.len());
        for request in &requests[..taken] {
            let Some(slot) = self.free.pop() else { break };
            self.used += 1;
            self.start(slot, request);
        }
        self.legs.flush();
        self.rest_if_idle();
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        let mut activity = completions.take_from(&mut self.done);
        if self.used == 0 && !self.legs.is_leaving() {
            return activity;
        }
        self.look_at_view();
        if !self.waiting.is_empty() {
            self.look_at_waiting();
        }
        for leg in 0..LEGS {
            let seen = self.legs.poll(leg, &mut self.scratch);
            activity = activity.max(seen);
            for index in 0..self.scratch.len() {
                let Completion { token, status, .. } = self.scratch.as_slice()[index];
                self.answer(token as u32, leg, status);
            }
            self.scratch.clear();
        }
        self.lock.poll();
        if self.lock.is_waiting() {
            self.take_granted();
        }
        if self.legs.is_dirty() {
            self.legs.flush();
            activity = Activity::Busy;
        }
        if self.legs.is_leaving() {
            self.close_leaving();
        }
        activity = activity.max(completions.take_from(&mut self.done));
        self.rest_if_idle();
        if !self.waiting.is_empty() || self.lock.is_waiting() {
            activity = activity.max(Activity::Waiting);
        }
        activity
    }

    #[inline]
    fn rest_if_idle(&mut self) {
        if self.used == 0 {
            self.mark.active.store(0, Ordering::Release);
        }
    }

    /// Follows the present view, if it is another than the queue goes by.
    #[inline]
    pub(super) fn look_at_view(&mut self) {
        if self.shared.generation() != self.view.generation {
            self.follow_view();
        }
    }

    #[inline(always)]
    fn start(&mut self, slot: u32, request: &Request) {
        let op = &mut self.ops[slot as usize];
        op.begin(request);
        match request.opcode() {
            Opcode::Read | Opcode::Compare => {
                let (lba, blocks) = (request.lba, op.blocks());
                op.stage = Stage::ReadLock;
                if self.lock.acquire(slot, Access::Read, lba, blocks) {
                    self.read(slot);
                }
            }
            Opcode::Write | Opcode::WriteZeroes | Opcode::Unmap => {
                let (lba, blocks) = (request.lba, op.blocks());
                op.stage = Stage::WriteLock;
                if self.lock.acquire(slot, Access::Write, lba, blocks) {
                    self.write(slot);
                }
            }
            Opcode::Flush | Opcode::Reset => self.send_to_all(slot, Stage::Broadcast),
            _ => self.finish(slot, Status::INVALID_OPCODE),
        }
    }

    /// Sends a read, which may start, to the least busy leg.
    #[inline(always)]
    pub(super) fn read(&mut self, slot: u32) {
        if self.view.unresolved && self.awaits_region(slot) {
            return;
        }
        match self.legs.least_busy() {
            Some(leg) => self.read_from(slot, leg, Stage::Read),
            None => self.finish(slot, Status::INTERNAL_PATH_ERROR),
        }
    }

    #[inline(always)]
    pub(super) fn read_from(&mut self, slot: u32, leg: usize, stage: Stage) {
        let op = &mut self.ops[slot as usize];
        op.send(stage, 1, self.view.generation);
        op.tried |= 1 << leg;
        let request = self.request_for_leg(slot);
        self.legs.stage(leg, request);
    }

    /// Goes on with a write that has its range.
    #[inline(always)]
    pub(super) fn write(&mut self, slot: u32) {
        let durable = self.begin_intent(slot);
        if !durable && !self.ask_for_intent(slot) {
            self.ops[slot as usize].stage = Stage::WriteIntent;
            self.waiting.intent.push(slot);
            return;
        }
        self.write_to_legs(slot);
    }

    /// Notes the regions of a write; returns whether their intent bits are durable.
    #[inline(always)]
    pub(super) fn begin_intent(&mut self, slot: u32) -> bool {
        let op = &mut self.ops[slot as usize];
        let layout = self.writer.tracker().layout();
        let (first, last) = layout.regions_of(op.request.lba, op.blocks());
        let (mark, durable) = self.writer.begin(first, last);
        op.mark = mark;
        durable
    }

    /// Sends a write, whose intent bits are durable, to all legs.
    #[inline(always)]
    pub(super) fn write_to_legs(&mut self, slot: u32) {
        let capture = self.must_capture(slot);
        // Those that wait for memory go first: a long payload would never find any behind short ones.
        let queue_up = capture && !self.waiting.memory.is_empty();
        if queue_up || !self.try_write_to_legs(slot, capture) {
            self.ops[slot as usize].stage = Stage::WriteMemory;
            self.waiting.memory.push(slot);
        }
    }

    /// Whether the payload may change while several legs read it.
    #[inline(always)]
    pub(super) fn must_capture(&self, slot: u32) -> bool {
        self.foreign.holds(&self.ops[slot as usize].request) && self.legs.writable_count() > 1
    }

    /// Sends a write to all legs; returns false when there is no memory to capture its payload in.
    #[inline(always)]
    pub(super) fn try_write_to_legs(&mut self, slot: u32, capture: bool) -> bool {
        if self.view.refuse_writes {
            self.end_write(slot);
            self.finish(slot, Status::WRITE_FAULT);
            return true;
        }
        if capture && !self.capture(slot) {
            return false;
        }
        self.send_to_all(slot, Stage::Write);
        true
    }

    /// Captures the payload; false when there is no memory for it now.
    #[inline(never)]
    fn capture(&mut self, slot: u32) -> bool {
        let op = &mut self.ops[slot as usize];
        let bytes = (op.blocks() as usize) << self.shared.geometry.block_size.shift();
        let bounce = &mut self.bounces[slot as usize];
        let Some(captured) = bounce.capture(self.cx.pool(), &op.request, bytes) else {
            return false;
        };
        op.request = captured;
        op.captured = true;
        true
    }

    #[inline(always)]
    pub(super) fn send_to_all(&mut self, slot: u32, stage: Stage) {
        let legs = self.legs.writable_count();
        let op = &mut self.ops[slot as usize];
        op.send(stage, legs, self.view.generation);
        if legs == 0 {
            op.status = Status::INTERNAL_PATH_ERROR;
            return self.end(slot);
        }
        self.legs.stage_for_all(self.request_for_leg(slot));
    }

    /// The request that a leg gets: at its place on the leg, under our token.
    #[inline(always)]
    pub(super) fn request_for_leg(&self, slot: u32) -> Request {
        let Op { stage, request, .. } = self.ops[slot as usize];
        let mut lba = request.lba;
        if request.opcode().has_range() && stage != Stage::Page {
            lba = Lba(lba.0 + self.shared.offsets.data);
        }
        // Other flags are the own use of layers above.
        let flags = request.ticket.flags.only(RequestFlags::FUA);
        request.child(lba, u64::from(slot)).with_flags(flags)
    }

    /// Leg `leg` has answered.
    #[inline(always)]
    fn answer(&mut self, slot: u32, leg: usize, status: Status) {
        let op = &mut self.ops[slot as usize];
        op.answer(leg, status);
        if op.pending > 0 {
            return;
        }
        if op.failed != 0 {
            return self.answer_failed(slot);
        }
        match op.stage {
            Stage::Read if op.bad == 0 => self.finish(slot, Status::SUCCESS),
            Stage::Write => {
                self.end_write(slot);
                self.finish(slot, Status::SUCCESS);
            }
            _ => self.end(slot),
        }
    }

    /// Gives back what a write holds.
    #[inline(always)]
    pub(super) fn end_write(&mut self, slot: u32) {
        let op = &mut self.ops[slot as usize];
        self.writer.end(op.mark);
        if op.captured {
            op.captured = false;
            self.bounces[slot as usize].clear();
        }
        self.lock.release(slot);
    }

    /// Completes a request.
    #[inline]
    pub(super) fn finish(&mut self, slot: u32, status: Status) {
        let op = &mut self.ops[slot as usize];
        op.stage = Stage::Free;
        self.done.push(op.request.complete(status));
        self.free.push(slot);
        self.used -= 1;
    }
}
