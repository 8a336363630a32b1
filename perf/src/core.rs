//! All workers of one core, as one poller of its reactor, and what it shares with the others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
        self.outcome.leave(CoreResult { workers, busy_ticks: self.busy_ticks, ticks: self.ticks });
    }

    #[cold]
    fn stop(&mut self, now: u64) {
        self.stopped = true;
        self.seats.iter_mut().for_each(|seat| seat.worker.stop(now));
    }

    /// Whether the result has been left.
    #[cfg(test)]
    pub fn is_finished(&self) -> bool {
        self.finished
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
        self.last_measuring = sum.measuring;
        if sum.finished {
            self.finish();
        }
        if sum.busy { Activity::Busy } else { Activity::Waiting }
    }
}
