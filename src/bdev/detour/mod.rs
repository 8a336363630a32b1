//! The detour of a channel: everything that cannot go straight to the driver.
//!
//! Job: refuse with the precise status; split what is too long, crosses a boundary or has too many
//! segments; copy what is misaligned; make up for opcodes that the driver lacks; hold back what exceeds the
//! rate limits; keep writes out of a range that compare-and-write is at.
//!
//! Each detoured request is a [`Job`] in a slab, and each request to the driver for a piece of it a part in
//! another; both are sized when the channel opens, so nothing here allocates but pool buffers. A job
//! passes through: the lanes (rate limits), the range lock, the queue of runnable jobs, and parts in flight. It ends
//! once, when nothing of it is in flight; the first failure is its status, and after one no more
//! parts are made.
//!
//! When the reactor's pool has no buffer for a copy, a job waits for one that this channel will give back;
//! if it holds none, the job ends with `COMMAND_INTERRUPTED`, which tells the host to try again: nothing
//! would wake it otherwise.
//!
//! Invariant: what the driver may still touch (segments of parts, their buffers, the zeros) lives until the
//! driver has completed it; a channel drops its queue before its detour.

mod exclusion;
mod job;
mod lanes;
mod parts;
mod payload;
mod plan;
mod slab;

use std::collections::VecDeque;
use std::sync::Arc;

use exclusion::{Exclusion, Hold, Stage};
use job::{Job, Work};
use lanes::Lanes;
use parts::{Parts, Refusal, ZERO_BYTES};
use slab::Slab;

use super::device::Device;
use super::fit::Fit;
use super::qos::{Cost, Direction, Throttle};
use super::queue::Queue;
use super::request::{Completion, Completions, OpcodeSet, Request, RequestFlags};
use crate::base::{BlockCount, Status};
use crate::reactor::{Context, Tsc};

/// Set in every request that the detour gives to the driver, whose token is then one of its own.
const MARK: RequestFlags = RequestFlags::DETOUR;
/// In a token of ours: names a job that is forwarded, not a part.
const FORWARDED: u64 = 1 << 32;

/// Most parts of all jobs of a channel in flight. Half of the channel's depth is less, as a rule: a request of
/// thousands of parts leaves room for others in the driver's queue.
const PARTS_MAX: u32 = 256;
/// Parts that a job makes before the next job's turn.
const PARTS_PER_TURN: u32 = 8;

/// The detour of one channel.
pub(super) struct Detour {
    depth: usize,
    block_shift: u32,
    /// What the driver takes.
    fit: Fit,
    jobs: Slab<Job>,
    parts: Parts,
    lanes: Lanes,
    exclusion: Exclusion,
    /// Jobs with parts to make, in the order of their turns.
    runnable: VecDeque<u32>,
    /// Made and not yet taken by the driver.
    outbox: Vec<Request>,
    /// Ended and not yet collected.
    done: VecDeque<Completion>,
    /// The reset that waits for all others.
    reset: Option<u32>,
    closing: bool,
}

/// What keeps requests from being plain, for a while or for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HoldUp {
    resetting: bool,
    exclusion: Stage,
}

impl Detour {
    /// The detour of a channel with room for `depth` requests.
    pub(super) fn new(device: &Device, depth: u32) -> Detour {
        let info = device.info();
        let fit = Fit::new(info, info.native);
        let parts = (depth / 2).clamp(1, PARTS_MAX);
        Detour {
            depth: depth as usize,
            block_shift: info.geometry.block_size.shift(),
            fit,
            jobs: Slab::new(depth as usize),
            parts: Parts::new(info, fit, parts),
            lanes: Lanes::new(depth as usize),
            exclusion: Exclusion::new(device.range_locks(), depth),
            runnable: VecDeque::with_capacity(depth as usize),
            outbox: Vec::with_capacity((depth + parts) as usize),
            done: VecDeque::with_capacity(depth as usize),
            reset: None,
            closing: false,
        }
    }

    /// Whether it has nothing in hand: no completion of the driver's is then one of ours.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.in_use() == 0 && self.done.is_empty()
    }

    /// Whether something waits that only polling this channel will move on.
    pub(super) fn is_waiting(&self) -> bool {
        self.exclusion.is_waiting()
            || !(self.lanes.is_empty()
                && self.runnable.is_empty()
                && self.outbox.is_empty()
                && self.done.is_empty())
    }

    /// What keeps requests from being plain now.
    pub(super) fn holds_up(&self) -> HoldUp {
        HoldUp { resetting: self.reset.is_some(), exclusion: self.exclusion.stage() }
    }

    /// Which of `opcodes` may go straight to the driver.
    pub(super) fn plain(&self, opcodes: OpcodeSet) -> OpcodeSet {
        if self.reset.is_some() {
            // All that comes after a reset waits for it.
            return OpcodeSet::EMPTY;
        }
        let opcodes = self.exclusion.plain(opcodes);
        if self.lanes.is_limited() {
            return opcodes.iter().filter(|&opcode| Direction::of(opcode).is_none()).collect();
        }
        opcodes
    }

    /// Told of `requests` plain ones before they start. When it returns false they may not, and what is
    /// plain has changed.
    #[inline]
    pub(super) fn plain_starts(&mut self, requests: u32) -> bool {
        self.exclusion.enter(requests)
    }

    /// Told of `requests` plain ones that have completed, or were not taken.
    #[inline]
    pub(super) fn plain_done(&mut self, requests: u32) {
        self.exclusion.exit(requests);
    }

    /// Takes a request, unless there is no room. It starts with the next [`Detour::run`].
    pub(super) fn take(&mut self, request: &Request, device: &Device) -> bool {
        if self.jobs.in_use() + self.done.len() >= self.depth || self.reset.is_some() {
            return false;
        }
        let planned = if device.is_online() {
            Work::of(plan::plan(request, device.info(), device.geometry(), &self.fit))
        } else {
            Err(Status::INVALID_NAMESPACE)
        };
        let work = match planned {
            Ok(work) => work,
            Err(status) => {
                self.done.push_back(request.complete(status));
                return true;
            }
        };
        let Some(index) = self.jobs.take() else { return false };
        self.jobs[index] = Job::new(*request, work);
        if work == Work::Reset {
            self.reset = Some(index);
            return true;
        }
        match work.direction(request.opcode()) {
            Some(direction) if self.lanes.is_limited() => {
                self.jobs[index].queued = true;
                self.lanes.push(direction, index);
            }
            _ => self.admit(index),
        }
        true
    }

    /// Follows other rate limits.
    pub(super) fn set_throttle(&mut self, throttle: Option<Arc<Throttle>>) {
        self.lanes.set_throttle(throttle);
    }

    /// Ends what waits to start, and lets the rest run to its end without limits. Called when the device
    /// goes.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.lanes.set_throttle(None);
        while let Some(index) = self.lanes.pop(Tsc(0), |_| Cost::default()) {
            self.jobs[index].queued = false;
            self.start(index);
        }
    }

    /// Lets a job that the rate limits let through start, or wait for its range.
    fn admit(&mut self, index: u32) {
        let job = &mut self.jobs[index];
        if job.hold == Hold::None {
            let alone = job.work == Work::CompareThenWrite;
            let (granted, hold) = self.exclusion.acquire(index, &job.request, alone);
            job.hold = hold;
            if !granted {
                return;
            }
        }
        self.start(index);
    }

    /// Lets a job that has its range go on.
    fn start(&mut self, index: u32) {
        let job = &mut self.jobs[index];
        if self.closing && !job.started {
            job.fail(Status::INVALID_NAMESPACE);
            self.finish(index);
            return;
        }
        job.started = true;
        if job.work != Work::Forward {
            job.queued = true;
            self.runnable.push_back(index);
            return;
        }
        job.left = 0;
        job.in_flight = 1;
        let mut request = job.request;
        request.ticket.token = FORWARDED | u64::from(index);
        request.ticket.flags = request.ticket.flags.with(MARK);
        request.ticket.stamp = 0;
        self.outbox.push(request);
    }

    /// Lets jobs go as far as they can now, and gives the driver what it has room for. `outstanding` is
    /// how many requests of the channel are. Returns whether the driver took anything.
    pub(super) fn run(&mut self, queue: &mut dyn Queue, cx: &Context, outstanding: u32) -> bool {
        self.exclusion.poll();
        while let Some(index) = self.exclusion.next_granted() {
            self.start(index);
        }
        if !self.lanes.is_empty() {
            self.run_lanes(cx.now());
        }
        if !self.runnable.is_empty() {
            self.run_jobs(cx);
        }
        let mut taken = 0;
        if !self.outbox.is_empty() {
            taken = queue.submit(&mut self.outbox);
            self.outbox.drain(..taken);
        }
        if outstanding == 1
            && let Some(index) = self.reset.take()
        {
            self.finish(index);
        }
        taken > 0
    }

    fn run_lanes(&mut self, now: Tsc) {
        loop {
            let (jobs, shift) = (&self.jobs, self.block_shift);
            let next = self.lanes.pop(now, |index| jobs[index].cost(shift, ZERO_BYTES));
            let Some(index) = next else { return };
            self.jobs[index].queued = false;
            self.admit(index);
        }
    }

    /// Gives each runnable job turns until none can go on.
    fn run_jobs(&mut self, cx: &Context) {
        loop {
            let mut made_any = false;
            for _ in 0..self.runnable.len() {
                let Some(index) = self.runnable.pop_front() else { break };
                made_any |= self.run_job(index, cx);
            }
            if !made_any {
                return;
            }
        }
    }

    /// One job's turn. Returns whether it made a part.
    fn run_job(&mut self, index: u32, cx: &Context) -> bool {
        let job = &mut self.jobs[index];
        job.queued = false;
        // Writes of zeros are paid for part by part.
        let paced = job.work == Work::Zero && self.lanes.is_limited();
        let turn = if paced { 1 } else { PARTS_PER_TURN };
        let flags = job.request.ticket.flags.with(MARK);
        let mut made = 0;
        while made < turn && job.left > 0 {
            match self.parts.make(index, job, flags, cx.pool()) {
                Ok(request) => self.outbox.push(request),
                Err(Refusal::Later) => break,
                Err(Refusal::NoBuffer) => job.fail(Status::COMMAND_INTERRUPTED),
            }
            made += 1;
        }
        if job.left > 0 {
            job.queued = true;
            match job.work.direction(job.request.opcode()) {
                Some(direction) if paced && made > 0 => self.lanes.push(direction, index),
                _ => self.runnable.push_back(index),
            }
        } else if job.is_at_rest() {
            self.advance(index);
        }
        made > 0
    }

    /// Takes the completion of a request that carries the mark.
    fn complete(&mut self, completion: &Completion) {
        let token = completion.token;
        if token & FORWARDED != 0 {
            let index = token as u32;
            if !self.jobs.is_in_use(index) {
                debug_assert!(false, "a completion of no job: {completion:?}");
                return;
            }
            let job = &mut self.jobs[index];
            job.in_flight = 0;
            job.status = completion.status;
            // Dword 0 of a passthrough command's completion; for the others, what it was.
            job.request.ticket.blocks = completion.blocks;
            self.finish(index);
            return;
        }
        let Some(index) = self.parts.job_of(token) else {
            debug_assert!(false, "a completion of no part: {completion:?}");
            return;
        };
        let job = &mut self.jobs[index];
        let status = self.parts.complete(token, job, completion.status);
        job.in_flight -= 1;
        if !status.is_success() {
            job.fail(status);
        }
        if job.is_at_rest() {
            self.advance(index);
        }
    }

    /// Goes on with a job of which nothing is in flight and no part left to make.
    fn advance(&mut self, index: u32) {
        let job = &mut self.jobs[index];
        if job.work == Work::CompareThenWrite && job.status.is_success() {
            let blocks = BlockCount(u64::from(job.request.ticket.blocks));
            job.turn_to_write(blocks.0 << self.block_shift);
            self.start(index);
        } else {
            self.finish(index);
        }
    }

    fn finish(&mut self, index: u32) {
        let job = &self.jobs[index];
        self.done.push_back(job.request.complete(job.status));
        self.exclusion.release(index, job.hold);
        self.jobs.give_back(index);
    }

    /// Takes out of `completions` those after the first `start` that are ours.
    pub(super) fn sift(&mut self, completions: &mut Completions, start: usize) {
        let mut kept = start;
        for next in start..completions.len() {
            let completion = completions.as_slice()[next];
            if completion.flags.has(MARK) {
                self.complete(&completion);
            } else {
                completions.as_mut_slice()[kept] = completion;
                kept += 1;
            }
        }
        completions.truncate(kept);
    }

    /// Reports what has ended, as far as there is room.
    pub(super) fn deliver(&mut self, completions: &mut Completions) {
        while completions.room() > 0
            && let Some(completion) = self.done.pop_front()
        {
            completions.push(completion);
        }
    }
}
