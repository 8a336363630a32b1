//! The measuring loop: one job on one device on one core.
//!
//! A round polls completions, records their latencies, refills the slots that came back, and submits
//! all of them in one batch. The time is read once per round, by the reactor. A worker owns its
//! queue, its slots and its figures; nothing is shared and nothing is allocated per I/O.
//!
//! A latency runs from the round that first offered the request to the queue (with a rate: from the
//! moment it was due, so that a stall shows in every request that it held up) to the round that
//! saw the completion.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft::bdev::{Completions, Opcode, Queue, Request};
use weft::reactor::Activity;

use crate::findings::Findings;
use crate::load::{Load, Next, Start, slot_of};
use crate::measure::{Measure, Sample, Timeline};
use crate::payload::Payloads;

/// When a worker does what, in TSC ticks.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When it starts.
    pub start: u64,
    /// When warm-up is over.
    pub measure_from: u64,
    /// When it asks for no more.
    pub end: u64,
    /// How often it notes the throughput and publishes its progress.
    pub period: u64,
}

/// What a worker has done so far, for the progress line.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests completed.
    pub ops: AtomicU64,
    /// Bytes of those.
    pub bytes: AtomicU64,
    /// Requests failed.
    pub errors: AtomicU64,
}

/// Open-loop arrivals.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// Ticks between arrivals.
    pub interval: f64,
    /// When the next is due, in ticks from the start.
    pub next: f64,
}

/// How a worker ended.
#[derive(Clone, Debug)]
pub struct WorkerResult {
    /// What it measured.
    pub measure: Measure,
    /// Throughput over time.
    pub timeline: Timeline,
    /// Length of the measurement, in ticks.
    pub ticks: u64,
    /// Ticks in which this worker did something.
    pub busy_ticks: u64,
    /// Requests that were due by the end and had not been issued (with a rate).
    pub behind: u64,
    /// Requests that never completed.
    pub lost: u64,
    /// What `verify` found.
    pub findings: Option<Findings>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Warming,
    Measuring,
    /// Everything is issued: waits for what is in flight, and measures it.
    Finishing,
    /// The time is over: waits for what is in flight.
    Draining,
    Finished,
}

/// What a round of a worker did.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// It did something.
    pub busy: bool,
    /// It measures at present.
    pub measuring: bool,
    /// It is through.
    pub finished: bool,
}

/// A worker.
pub struct Worker<Q, L> {
    queue: Q,
    load: L,
    payloads: Payloads,
    completions: Completions,
    /// Requests made and not yet taken by the queue.
    batch: Vec<Request>,
    /// Slots without a request.
    free: Vec<u16>,
    depth: usize,
    block_shift: u32,
    pacing: Option<Pacing>,
    /// How many more to issue; `u64::MAX` for no limit.
    issues_left: u64,
    count: Option<u64>,
    state: State,
    schedule: Schedule,
    /// The next time that something is to be done besides I/O.
    next_event: u64,
    measured_from: u64,
    measured_to: u64,
    measure: Measure,
    timeline: Timeline,
    noted: Sample,
    busy_ticks: u64,
    progress: Arc<Progress>,
    /// Since when it waits for what is in flight, and how long at most.
    drain_from: Option<u64>,
    drain_ticks: u64,
}

/// What a worker is made of.
pub struct WorkerParts<Q, L> {
    /// The queue to drive.
    pub queue: Q,
    /// What to ask for.
    pub load: L,
    /// A buffer for each request in flight.
    pub payloads: Payloads,
    /// Requests in flight.
    pub depth: u32,
    /// Block size of the device, as a power of two.
    pub block_shift: u32,
    /// Arrivals, or `None` for as fast as possible.
    pub pacing: Option<Pacing>,
    /// How many requests at most.
    pub count: Option<u64>,
    /// Where progress is published.
    pub progress: Arc<Progress>,
    /// How long to wait for what is in flight at the end, in ticks.
    pub drain_ticks: u64,
}

impl<Q: Queue, L: Load> Worker<Q, L> {
    /// A worker that starts when it is told the schedule.
    pub fn new(parts: WorkerParts<Q, L>) -> Worker<Q, L> {
        let depth = parts.depth as usize;
        Worker {
            queue: parts.queue,
            load: parts.load,
            payloads: parts.payloads,
            completions: Completions::with_capacity(depth),
            batch: Vec::with_capacity(depth),
            free: (0..parts.depth as u16).rev().collect(),
            depth,
            block_shift: parts.block_shift,
            pacing: parts.pacing,
            issues_left: u64::MAX,
            count: parts.count,
            state: State::Finished,
            schedule: Schedule { start: 0, measure_from: 0, end: 0, period: 1 },
            next_event: 0,
            measured_from: 0,
            measured_to: 0,
            measure: Measure::new(),
            timeline: Timeline::new(1),
            noted: Sample::default(),
            busy_ticks: 0,
            progress: parts.progress,
            drain_from: None,
            drain_ticks: parts.drain_ticks,
        }
    }

    fn outstanding(&self) -> usize {
        self.depth - self.free.len() - self.batch.len()
    }

    /// The part of a token that says when.
    #[inline]
    fn since_start(&self, now: u64) -> u64 {
        now - self.schedule.start
    }

    /// Records what came back.
    #[inline]
    fn account(&mut self, now: u64) {
        let elapsed = self.since_start(now);
        let mut rest = self.completions.as_slice();
        // Requests of one batch that come back together have one latency: they are recorded by runs.
        // Reads and the rest are told apart without a branch, which a random mix would mispredict.
        while let Some(first) = rest.first() {
            let start = Start::of(first.token);
            let (mut count, mut reads) = (0, 0);
            let (mut blocks, mut read_blocks) = (0, 0);
            let mut other = first.opcode;
            for completion in rest {
                if Start::of(completion.token) != start || !completion.status.is_success() {
                    break;
                }
                let is_read = completion.opcode == Opcode::Read;
                count += 1;
                reads += u64::from(is_read);
                blocks += u64::from(completion.blocks);
                read_blocks += u64::from(completion.blocks) * u64::from(is_read);
                other = if is_read { other } else { completion.opcode };
            }
            if count == 0 {
                self.measure.record_error(first.status);
                count = 1;
            } else if matches!(self.state, State::Measuring | State::Finishing) {
                let latency = elapsed.saturating_sub(start.0);
                if reads > 0 {
                    self.measure.record(Opcode::Read, latency, reads, read_blocks);
                }
                if reads < count as u64 {
                    let (others, blocks) = (count as u64 - reads, blocks - read_blocks);
                    self.measure.record(other, latency, others, blocks);
                }
            }
            rest = &rest[count..];
        }
        if L::CHECKS {
            for completion in &self.completions {
                self.load.completed(slot_of(completion.token), completion, &self.payloads);
            }
        }
    }

    /// Makes a request in `slot`. Says whether there was one to make; if not, the slot is free.
    #[inline]
    fn issue(&mut self, slot: usize, start: Start) -> bool {
        match self.load.next(slot, &mut self.payloads) {
            Next::Issue(shape) => {
                self.batch.push(self.payloads.request(slot, shape, start.token(slot)));
                true
            }
            Next::Wait => {
                self.free.push(slot as u16);
                false
            }
            Next::End => {
                self.free.push(slot as u16);
                self.state = State::Finishing;
                false
            }
        }
    }

    fn is_issuing(&self) -> bool {
        matches!(self.state, State::Warming | State::Measuring)
    }

    /// Issues from the free slots as far as arrivals and the load allow.
    fn issue_from_free(&mut self, now: u64) {
        let elapsed = self.since_start(now);
        while self.is_issuing()
            && let Some(&slot) = self.free.last()
        {
            if self.issues_left == 0 {
                self.state = State::Finishing;
                break;
            }
            let start = match self.pacing {
                Some(pacing) if pacing.next > elapsed as f64 => break,
                Some(pacing) => Start(pacing.next as u64),
                None => Start(elapsed),
            };
            self.free.pop();
            if !self.issue(usize::from(slot), start) {
                break;
            }
            self.issues_left -= 1;
            if let Some(pacing) = &mut self.pacing {
                pacing.next += pacing.interval;
            }
        }
    }

    /// Ends now, as if the time were over.
    pub fn stop(&mut self, now: u64) {
        if !matches!(self.state, State::Draining | State::Finished) {
            if self.state == State::Warming {
                self.measured_from = now;
            }
            self.measured_to = now;
            self.schedule.end = now;
            self.state = State::Draining;
        }
    }

    /// One round. `now` is the round's time; `busy` is for how many ticks this worker kept the core
    /// busy since its last round.
    #[inline]
    pub fn round(&mut self, now: u64, busy: u64) -> Round {
        self.busy_ticks += busy;
        if now >= self.next_event {
            self.event(now);
        }
        self.completions.clear();
        let activity = self.queue.poll(&mut self.completions);
        if !self.completions.is_empty() {
            self.account(now);
        }
        let back = self.completions.len();
        if self.pacing.is_none() && self.is_issuing() && self.issues_left >= back as u64 {
            // The closed loop: each slot that came back goes out again.
            let start = Start(self.since_start(now));
            let done = self.completions.as_slice();
            let filled = self.load.refill(done, start, &mut self.payloads, &mut self.batch);
            self.issues_left -= filled as u64;
            for index in filled..back {
                let slot = slot_of(self.completions.as_slice()[index].token);
                self.issues_left -= u64::from(self.issue(slot, start));
            }
        } else {
            for completion in &self.completions {
                self.free.push(slot_of(completion.token) as u16);
            }
        }
        if !self.free.is_empty() {
            self.issue_from_free(now);
        }
        let submitted = self.submit();
        if matches!(self.state, State::Finishing | State::Draining) {
            self.drain(now);
        }
        Round {
            busy: back > 0 || submitted > 0 || activity == Activity::Busy,
            measuring: matches!(self.state, State::Measuring | State::Finishing),
            finished: self.state == State::Finished,
        }
    }

    #[inline]
    fn submit(&mut self) -> usize {
        if self.batch.is_empty() {
            return 0;
        }
        let taken = self.queue.submit(&mut self.batch);
        if taken == self.batch.len() {
            self.batch.clear();
        } else {
            self.batch.drain(..taken);
        }
        taken
    }

    fn drain(&mut self, now: u64) {
        if self.state == State::Draining {
            // What the queue has not taken by now never began.
            for request in self.batch.drain(..) {
                self.free.push(slot_of(request.ticket.token) as u16);
            }
        }
        let began = *self.drain_from.get_or_insert(now);
        let given_up = now >= began.saturating_add(self.drain_ticks);
        if (self.outstanding() == 0 && self.batch.is_empty()) || given_up {
            if self.state == State::Finishing {
                self.measured_to = now;
            }
            self.note(self.measured_to);
            self.state = State::Finished;
        }
    }

    /// Starts, at `schedule.start`.
    pub fn start(&mut self, schedule: Schedule) {
        self.state = State::Warming;
        self.schedule = schedule;
        // A load that checks has an end of its own: all of it is measured.
        self.next_event = if L::CHECKS { schedule.start } else { schedule.measure_from };
        self.timeline = Timeline::new(schedule.period);
    }

    #[cold]
    fn event(&mut self, now: u64) {
        match self.state {
            State::Warming => {
                self.measure.start_over();
                self.measured_from = now;
                self.issues_left = self.count.unwrap_or(u64::MAX);
                self.state = State::Measuring;
            }
            State::Measuring | State::Finishing => {
                self.note(now);
                if now >= self.schedule.end && self.load.time_is_over() {
                    self.stop(now);
                }
            }
            State::Draining | State::Finished => {}
        }
        self.next_event = now.saturating_add(self.schedule.period);
        if now < self.schedule.end {
            self.next_event = self.next_event.min(self.schedule.end);
        }
    }

    /// Notes the throughput since the last time, and publishes.
    fn note(&mut self, now: u64) {
        let bytes = self.measure.blocks() << self.block_shift;
        let total = Sample { ops: self.measure.ops(), bytes };
        let done = Sample { ops: total.ops - self.noted.ops, bytes: bytes - self.noted.bytes };
        if done.ops > 0 {
            // What is noted at the end of a period was done in it.
            let elapsed = now.saturating_sub(self.measured_from).saturating_sub(1);
            self.timeline.add(elapsed, done);
        }
        self.noted = total;
        self.progress.ops.store(total.ops, Ordering::Relaxed);
        self.progress.bytes.store(bytes, Ordering::Relaxed);
        self.progress.errors.store(self.measure.error_count(), Ordering::Relaxed);
    }

    /// Ends: closes the queue and gives the figures, and what the load found.
    fn finish(self) -> WorkerResult {
        let behind = match self.pacing {
            Some(pacing) => {
                let due = (self.measured_to.saturating_sub(self.schedule.start)) as f64;
                ((due - pacing.next) / pacing.interval).ceil().max(0.0) as u64
            }
            None => 0,
        };
        let lost = self.outstanding() as u64;
        // The queue goes first: it returns only when no device touches the payloads.
        drop(self.queue);
        drop(self.payloads);
        WorkerResult {
            findings: self.load.into_findings(),
            measure: self.measure,
            timeline: self.timeline,
            ticks: self.measured_to.saturating_sub(self.measured_from),
            busy_ticks: self.busy_ticks,
            behind,
            lost,
        }
    }
}

/// A worker of any queue and load: one dynamic call a round.
pub trait Drive {
    /// As [`Worker::start`].
    fn start(&mut self, schedule: Schedule);
    /// As [`Worker::round`].
    fn round(&mut self, now: u64, busy: u64) -> Round;
    /// As [`Worker::stop`].
    fn stop(&mut self, now: u64);
    /// As [`Worker::finish`].
    fn finish(self: Box<Self>) -> WorkerResult;
}

impl<Q: Queue, L: Load> Drive for Worker<Q, L> {
    fn start(&mut self, schedule: Schedule) {
        Worker::start(self, schedule);
    }
    fn round(&mut self, now: u64, busy: u64) -> Round {
        Worker::round(self, now, busy)
    }
    fn stop(&mut self, now: u64) {
        Worker::stop(self, now);
    }
    fn finish(self: Box<Self>) -> WorkerResult {
        Worker::finish(*self)
    }
}
