//! All workers of one core, as one poller of its reactor, and what it shares with the others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use weft::reactor::{Activity, Context, Poller, Tsc};

use crate::worker::{Drive, Round, Schedule, WorkerResult};

/// What starts and stops the workers of all cores together.
#[derive(Debug, Default)]
pub struct Signals {
    /// The counter's value at which to start; 0 as long as not all cores are ready.
    start: AtomicU64,
    /// End now, and report.
    stop: AtomicBool,
}

impl Signals {
    /// Starts all workers.
    pub fn start(&self) {
        self.start.store(Tsc::read().0.max(1), Ordering::Release);
    }

    /// Ends all workers as if the time were over.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Phases of a run, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Not measured.
    pub warmup: u64,
    /// Measured.
    pub duration: u64,
    /// How often throughput is noted.
    pub period: u64,
}

/// How the workers of one core ended.
#[derive(Debug, Default)]
pub struct CoreResult {
    /// In the order in which the workers were given.
    pub workers: Vec<WorkerResult>,
    /// Ticks of the rounds in which any of them did something while it measured.
    pub busy_ticks: u64,
    /// Ticks of all rounds while any of them measured.
    pub ticks: u64,
    /// How much of that time the kernel let this thread have its core.
    pub on_cpu: Duration,
}

impl CoreResult {
    /// The part of the measured time in which the thread had its core, at most 1.
    pub fn cpu_share(&self) -> f64 {
        match self.ticks {
            0 => 1.0,
            ticks => (Tsc::ticks(self.on_cpu) as f64 / ticks as f64).min(1.0),
        }
    }
}

/// CPU time that this thread has had.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// Where a core leaves its result.
#[derive(Debug, Default)]
pub struct Outcome(Mutex<Option<CoreResult>>);

impl Outcome {
    fn leave(&self, result: CoreResult) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }

    /// The result, once it is there.
    pub fn take(&self) -> Option<CoreResult> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Seat {
    worker: Box<dyn Drive>,
    /// For how long its last round kept the core busy.
    busy: u64,
    finished: bool,
}

/// The workers of one core.
pub struct Core {
    seats: Vec<Seat>,
    signals: Arc<Signals>,
    outcome: Arc<Outcome>,
    timing: Timing,
    started: bool,
    stopped: bool,
    finished: bool,
    /// When the round before began, and what it found.
    last: u64,
    last_busy: bool,
    last_measuring: bool,
    busy_ticks: u64,
    ticks: u64,
    /// CPU time when the measurement began, and spent in it.
    cpu_from: Duration,
    on_cpu: Duration,
}

impl Core {
    /// A core that waits for the start signal.
    pub fn new(
        workers: Vec<Box<dyn Drive>>,
        signals: Arc<Signals>,
        outcome: Arc<Outcome>,
        timing: Timing,
    ) -> Core {
        let seat = |worker| Seat { worker, busy: 0, finished: false };
        Core {
            seats: workers.into_iter().map(seat).collect(),
            signals,
            outcome,
            timing,
            started: false,
            stopped: false,
            finished: false,
            last: 0,
            last_busy: false,
            last_measuring: false,
            busy_ticks: 0,
            ticks: 0,
            cpu_from: Duration::ZERO,
            on_cpu: Duration::ZERO,
        }
    }

    #[cold]
    fn try_start(&mut self, now: u64) {
        let start = self.signals.start.load(Ordering::Acquire);
        if start == 0 || now < start {
            return;
        }
        self.started = true;
        self.last = now;
        let measure_from = start.saturating_add(self.timing.warmup);
        let schedule = Schedule {
            start,
            measure_from,
            end: measure_from.saturating_add(self.timing.duration),
            period: self.timing.period,
        };
        for seat in &mut self.seats {
            seat.worker.start(schedule);
        }
    }

    #[cold]
    fn finish(&mut self) {
        self.finished = true;
        let workers = self.seats.drain(..).map(|seat| seat.worker.finish()).collect();
        self.outcome.leave(CoreResult {
            workers,
            busy_ticks: self.busy_ticks,
            ticks: self.ticks,
            on_cpu: self.on_cpu,
        });
    }

    /// The measurement begins or ends: the CPU's clock is read.
    #[cold]
    fn turn_clock(&mut self, measuring: bool) {
        let now = thread_time();
        if measuring {
            self.cpu_from = now;
        } else {
            self.on_cpu += now.saturating_sub(self.cpu_from);
        }
    }

    #[cold]
    fn stop(&mut self, now: u64) {
        self.stopped = true;
        self.seats.iter_mut().for_each(|seat| seat.worker.stop(now));
    }
}

impl Poller for Core {
    fn poll(&mut self, cx: &Context) -> Activity {
        let now = cx.now().0;
        if !self.started {
            self.try_start(now);
            return Activity::Waiting;
        }
        if self.finished {
            return Activity::Idle;
        }
        if !self.stopped && self.signals.stop.load(Ordering::Relaxed) {
            self.stop(now);
        }
        // A round lasts until the next begins: what the reactor itself costs is part of it.
        let ticks = now.saturating_sub(self.last);
        self.last = now;
        if self.last_measuring {
            self.ticks += ticks;
            if self.last_busy {
                self.busy_ticks += ticks;
            }
        }
        let mut sum = Round { busy: false, measuring: false, finished: true };
        if let [seat] = self.seats.as_mut_slice() {
            let busy = if self.last_busy && self.last_measuring { ticks } else { 0 };
            sum = seat.worker.round(now, busy);
        } else {
            // Several workers share the round: each is charged with its own part.
            let mut before = Tsc::read().0;
            for seat in self.seats.iter_mut().filter(|seat| !seat.finished) {
                let round = seat.worker.round(now, seat.busy);
                let after = Tsc::read().0;
                let charged = round.busy && round.measuring;
                seat.busy = if charged { after.saturating_sub(before) } else { 0 };
                seat.finished = round.finished;
                sum.busy |= round.busy;
                sum.measuring |= round.measuring;
                sum.finished &= round.finished;
                before = after;
            }
        }
        self.last_busy = sum.busy;
        if sum.measuring != self.last_measuring {
            self.turn_clock(sum.measuring);
        }
        self.last_measuring = sum.measuring;
        if sum.finished {
            self.finish();
        }
        if sum.busy { Activity::Busy } else { Activity::Waiting }
    }
}

#[cfg(test)]
mod tests {
    use weft::base::{BlockCount, BlockSize, Geometry, Lba};
    use weft::bdev::leaf::null::Null;
    use weft::bdev::{Device, Queue};
    use weft::load::random::Random;
    use weft::memory::{PoolOptions, Registry};

    use super::*;
    use crate::allocations;
    use crate::empty::EmptyQueue;
    use crate::load::Generator;
    use crate::payload::Payloads;
    use crate::plan::tests::job;
    use crate::plan::{Extent, Offsets, Workload};
    use crate::worker::{Pacing, Worker, WorkerParts};

    fn worker(
        cx: &Context,
        workload: Workload,
        queue: impl Queue + 'static,
        pacing: Option<Pacing>,
        count: Option<u64>,
    ) -> Box<dyn Drive> {
        let mut job = job(workload);
        if workload == Workload::RandRw {
            job.offsets = Offsets::Zipf(0.9);
            job.sizes = crate::load::parse_size_mix("4K,8K").unwrap();
        }
        let extent = Extent { start: Lba(0), blocks: BlockCount(1 << 10) };
        let random = &mut Random::new(1, 1);
        Box::new(Worker::new(WorkerParts {
            queue,
            load: Generator::new(&job, BlockSize::B4096, extent, (0, 1), 0),
            payloads: Payloads::take(cx.pool(), 8, 8192, 12, random).unwrap(),
            depth: job.depth,
            block_shift: 12,
            pacing,
            count,
            progress: Arc::default(),
            drain_ticks: Tsc::rate(),
        }))
    }

    fn core(workers: Vec<Box<dyn Drive>>, warmup: u64, duration: u64) -> (Core, Arc<Outcome>) {
        let (signals, outcome) = (Arc::new(Signals::default()), Arc::new(Outcome::default()));
        let timing = Timing { warmup, duration, period: duration.max(2) / 2 };
        let core = Core::new(workers, Arc::clone(&signals), Arc::clone(&outcome), timing);
        signals.start();
        (core, outcome)
    }

    fn finish(cx: &Context, core: &mut Core, outcome: &Outcome) -> CoreResult {
        loop {
            cx.turn();
            core.poll(cx);
            if let Some(result) = outcome.take() {
                return result;
            }
        }
    }

    fn detached() -> Context {
        Context::detached(Registry::new(), PoolOptions::default())
    }

    #[test]
    fn a_round_allocates_nothing() {
        let cx = detached();
        let geometry = Geometry::new(BlockSize::B4096, BlockCount(1 << 10)).unwrap();
        let device = Device::new(Null::create("null", None, geometry));
        let channel = || device.open_channel(&cx, 8).unwrap();
        let pacing = Some(Pacing { interval: 100.0, next: 0.0 });
        let workers = vec![
            worker(&cx, Workload::RandRead, channel(), None, None),
            worker(&cx, Workload::RandRw, channel(), None, None),
            worker(&cx, Workload::Write, channel(), pacing, None),
            worker(&cx, Workload::Unmap, EmptyQueue::new(8), None, None),
        ];
        let (mut core, _outcome) = core(workers, 0, u64::MAX / 4);
        for _ in 0..100 {
            cx.turn();
            core.poll(&cx);
        }
        let before = allocations::count();
        for _ in 0..10_000 {
            cx.turn();
            core.poll(&cx);
        }
        assert_eq!(allocations::count() - before, 0);
    }

    #[test]
    fn warm_up_is_not_measured_and_a_count_begins_after_it() {
        let cx = detached();
        let queue = EmptyQueue::new(8);
        let workers = vec![worker(&cx, Workload::RandRead, queue, None, Some(1003))];
        let (mut core, outcome) = core(workers, Tsc::rate() / 200, u64::MAX / 4);
        let result = finish(&cx, &mut core, &outcome);
        let worker = &result.workers[0];
        // The requests of the warm-up that were in flight at its end are measured too.
        assert!((1003..=1003 + 8).contains(&worker.measure.ops()), "{}", worker.measure.ops());
        assert_eq!(worker.lost, 0);
        assert!(worker.ticks > 0 && result.ticks > 0 && result.busy_ticks <= result.ticks);
    }

    #[test]
    fn a_rate_issues_as_much_as_is_due() {
        let cx = detached();
        let interval = Tsc::rate() as f64 / 20_000.0;
        let pacing = Some(Pacing { interval, next: 0.0 });
        let workers = vec![worker(&cx, Workload::RandRead, EmptyQueue::new(8), pacing, None)];
        let (mut core, outcome) = core(workers, 0, Tsc::rate() / 50);
        let result = finish(&cx, &mut core, &outcome);
        let worker = &result.workers[0];
        // What was due by the end was done, is behind, or was in flight when the time was over.
        let due = (worker.ticks as f64 / interval).ceil() as u64;
        let known = worker.measure.ops() + worker.behind;
        assert!((due.saturating_sub(9)..=due + 1).contains(&known), "{known} of {due}");
    }

    /// A queue that takes three requests at a time, and completes them or not.
    struct Narrow {
        queue: EmptyQueue,
        completes: bool,
    }

    impl Queue for Narrow {
        fn submit(&mut self, requests: &mut [weft::bdev::Request]) -> usize {
            let taken = requests.len().min(3);
            self.queue.submit(&mut requests[..taken])
        }
        fn poll(&mut self, completions: &mut weft::bdev::Completions) -> Activity {
            if self.completes { self.queue.poll(completions) } else { Activity::Waiting }
        }
    }

    fn narrow(cx: &Context, completes: bool, count: Option<u64>) -> Box<dyn Drive> {
        let queue = Narrow { queue: EmptyQueue::new(8), completes };
        worker(cx, Workload::RandRead, queue, None, count)
    }

    #[test]
    fn what_a_queue_has_no_room_for_comes_again() {
        let cx = detached();
        let (mut core, outcome) = core(vec![narrow(&cx, true, Some(1000))], 0, u64::MAX / 4);
        // Far more rounds than three at a time need.
        for _ in 0..2000 {
            cx.turn();
            core.poll(&cx);
        }
        let result = outcome.take().expect("a count is reached");
        assert_eq!((result.workers[0].measure.ops(), result.workers[0].lost), (1000, 0));
    }

    #[test]
    fn requests_that_never_complete_are_given_up_and_counted() {
        let cx = detached();
        let (mut core, outcome) = core(vec![narrow(&cx, false, None)], 0, u64::MAX / 4);
        for _ in 0..10 {
            cx.turn();
            core.poll(&cx);
        }
        core.signals.stop();
        let result = finish(&cx, &mut core, &outcome);
        assert_eq!((result.workers[0].lost, result.workers[0].measure.ops()), (8, 0));
    }
}
