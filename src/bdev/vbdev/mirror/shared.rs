//! What the queues of a mirror and its control task share.
//!
//! The control task publishes a [`View`], the legs and what they are good for; queues follow it by its
//! generation number, compared once per batch. Each queue shows in its [`Mark`] which view it follows and
//! whether it has anything in flight, so that the control task knows when a change is in force
//! everywhere. What a queue cannot decide alone it reports to the [`Mailbox`].

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Waker};

use crate::base::{Geometry, limits};
use crate::bdev::intent::{IntentMap, Tracker};
use crate::bdev::range_lock::Barrier;
use crate::bdev::{Device, RangeLocks};

/// Most legs.
pub(super) const LEGS: usize = limits::MIRROR_LEGS_MAX;

/// A set of legs: one bit each.
pub(super) type LegSet = u8;

const _: () = assert!(LEGS <= LegSet::BITS as usize);

/// What a leg in service is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LegRole {
    /// Holds everything: takes writes and serves reads.
    InSync,
    /// Is being brought up to date: takes writes.
    Syncing,
}

/// A leg in service.
#[derive(Clone)]
pub(super) struct Leg {
    pub role: LegRole,
    pub device: Arc<Device>,
    /// The view that it came with.
    pub since: u64,
}

/// The legs in service.
#[derive(Clone, Default)]
pub(super) struct View {
    pub generation: u64,
    pub legs: [Option<Leg>; LEGS],
    /// Some regions may differ between legs: reads there wait until they are made equal.
    pub unresolved: bool,
    /// Why writes are refused: the loss of a leg could not be recorded.
    pub refuse_writes: bool,
}

impl View {
    /// The legs for which `test` holds.
    pub fn legs_that(&self, test: impl Fn(&Leg) -> bool) -> LegSet {
        let bit = |(index, leg): (usize, &Option<Leg>)| match leg {
            Some(leg) if test(leg) => 1 << index,
            _ => 0,
        };
        self.legs.iter().enumerate().map(bit).sum()
    }

    /// The legs that hold everything.
    pub fn in_sync(&self) -> LegSet {
        self.legs_that(|leg| leg.role == LegRole::InSync)
    }
}

/// Where things are on every leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// First block of the data.
    pub data: u64,
    /// First block of the intent map.
    pub map: u64,
}

/// What one queue shows; alone in its cache lines.
#[repr(align(128))]
pub(super) struct Mark {
    /// 1 while it has anything in flight.
    pub active: AtomicU32,
    /// Generation of the view that it goes by.
    pub seen: AtomicU64,
    /// Generation of the newest view whose gone legs it has closed.
    pub closed: AtomicU64,
    /// Wakes the queue's attendant.
    attendant: Mutex<Option<Waker>>,
    gone: AtomicBool,
}

impl Mark {
    /// Whether the queue is gone; otherwise the attendant is woken when the view changes.
    pub fn attend(&self, cx: &TaskContext<'_>) -> bool {
        *lock(&self.attendant) = Some(cx.waker().clone());
        self.gone.load(Ordering::Acquire)
    }

    fn wake(&self) {
        if let Some(waker) = lock(&self.attendant).take() {
            waker.wake();
        }
    }
}

/// A request of one queue that some legs failed, and that waits for a verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    /// Legs that failed it.
    pub failed: LegSet,
    /// Legs that did it.
    pub succeeded: LegSet,
    /// The view that it was sent under.
    pub generation: u64,
}

/// What queues ask of the control task.
#[derive(Default)]
pub(super) struct Mailbox {
    /// Failed writes, since the task last looked.
    pub reports: Vec<Report>,
    /// Number of reports ever.
    pub reported: u64,
    /// Regions that reads wait for.
    pub awaited: Vec<u32>,
    waker: Option<Waker>,
}

impl Mailbox {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics half way through a change under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the queues of a mirror and its control task share.
pub(super) struct Shared {
    pub name: String,
    pub geometry: Geometry,
    pub offsets: Offsets,
    pub locks: Arc<RangeLocks>,
    pub tracker: Arc<Tracker>,
    /// Who changes bits of `tracker` holds this lock.
    pub map: Mutex<IntentMap>,
    /// Regions that may differ between legs, 64 a word. Bits are only taken out, by the control task.
    pub unresolved: Box<[AtomicU64]>,
    generation: AtomicU64,
    view: Mutex<Arc<View>>,
    /// Number of reports that were dealt with.
    verdicts: AtomicU64,
    mailbox: Mutex<Mailbox>,
    marks: Mutex<Vec<Arc<Mark>>>,
    /// The device goes: the control task is to end.
    stopping: AtomicBool,
    /// The control task has ended.
    stopped: AtomicBool,
    barrier: Barrier,
}

impl Shared {
    pub fn new(
        name: &str,
        geometry: Geometry,
        offsets: Offsets,
        map: IntentMap,
        view: View,
    ) -> Arc<Shared> {
        let locks = Arc::new(RangeLocks::new(geometry.block_size));
        locks.require();
        let layout = *map.layout();
        Arc::new(Shared {
            name: name.into(),
            geometry,
            offsets,
            locks,
            tracker: Tracker::new(layout),
            map: Mutex::new(map),
            unresolved: (0..layout.words()).map(|_| AtomicU64::new(0)).collect(),
            generation: AtomicU64::new(view.generation),
            view: Mutex::new(Arc::new(view)),
            verdicts: AtomicU64::new(0),
            mailbox: Mutex::default(),
            marks: Mutex::default(),
            stopping: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            barrier: Barrier::new(),
        })
    }

    /// Asks the control task to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        lock(&self.mailbox).wake();
    }

    /// Whether the control task is to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Says that the control task has ended.
    pub fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether the control task has ended.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether a queue has anything in flight.
    pub fn is_busy(&self) -> bool {
        lock(&self.marks).iter().any(|mark| mark.active.load(Ordering::Relaxed) != 0)
    }

    /// Generation of the present view.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The present view.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&lock(&self.view))
    }

    /// Changes the view. For the control task alone.
    pub fn publish(&self, change: impl FnOnce(&mut View)) -> u64 {
        let mut view = lock(&self.view);
        let mut next = View::clone(&view);
        next.generation += 1;
        change(&mut next);
        let generation = next.generation;
        *view = Arc::new(next);
        self.generation.store(generation, Ordering::Release);
        drop(view);
        // Who looks idle after this sees the new view before it starts anything.
        self.barrier.heavy();
        for mark in &*lock(&self.marks) {
            mark.wake();
        }
        generation
    }

    /// Whether every queue goes by view `generation` or a later one.
    pub fn is_in_force(&self, generation: u64) -> bool {
        lock(&self.marks).iter().all(|mark| {
            mark.seen.load(Ordering::Acquire) >= generation
                || mark.active.load(Ordering::Acquire) == 0
        })
    }

    /// Whether no queue has a channel open on a leg that is not in view `generation`.
    pub fn is_closed(&self, generation: u64) -> bool {
        lock(&self.marks).iter().all(|mark| mark.closed.load(Ordering::Acquire) >= generation)
    }

    /// Wakes the queues that sit idle, so that they close what they have open.
    pub fn wake_queues(&self) {
        for mark in &*lock(&self.marks) {
            mark.wake();
        }
    }

    /// Adds a queue, which goes by the present view.
    pub fn join(&self) -> Arc<Mark> {
        let mut marks = lock(&self.marks);
        let mark = Arc::new(Mark {
            active: AtomicU32::new(0),
            seen: AtomicU64::new(0),
            // What it opens it opens by the view that it takes after this.
            closed: AtomicU64::new(self.generation()),
            attendant: Mutex::new(None),
            gone: AtomicBool::new(false),
        });
        marks.push(Arc::clone(&mark));
        mark
    }

    /// Takes a queue out.
    pub fn leave(&self, mark: &Arc<Mark>) {
        lock(&self.marks).retain(|other| !Arc::ptr_eq(other, mark));
        mark.gone.store(true, Ordering::Release);
        mark.wake();
    }

    /// To stand between a store to a mark's `active` and the look at the generation.
    #[inline]
    pub fn barrier(&self) {
        self.barrier.light();
    }

    /// Reports a failed write; the number comes back as dealt with in [`Shared::verdicts`].
    pub fn report(&self, report: Report) -> u64 {
        let mut mailbox = lock(&self.mailbox);
        mailbox.reports.push(report);
        mailbox.reported += 1;
        let number = mailbox.reported;
        mailbox.wake();
        number
    }

    /// Asks for regions to be resolved first.
    pub fn await_region(&self, region: u32) {
        let mut mailbox = lock(&self.mailbox);
        if !mailbox.awaited.contains(&region) {
            mailbox.awaited.push(region);
            mailbox.wake();
        }
    }

    /// How many reports were dealt with.
    pub fn verdicts(&self) -> u64 {
        self.verdicts.load(Ordering::Acquire)
    }

    /// Says that reports up to number `reported` were dealt with. For the control task alone.
    pub fn give_verdicts(&self, reported: u64) {
        self.verdicts.store(reported, Ordering::Release);
        self.wake_queues();
    }

    /// What is in the mailbox. When nothing is, `cx` is woken when something comes.
    pub fn collect(&self, cx: Option<&TaskContext<'_>>) -> Option<(Vec<Report>, u64)> {
        let mut mailbox = lock(&self.mailbox);
        if mailbox.reports.is_empty() {
            mailbox.waker = cx.map(|cx| cx.waker().clone());
            return None;
        }
        Some((std::mem::take(&mut mailbox.reports), mailbox.reported))
    }

    /// A region that reads wait for.
    pub fn next_awaited(&self) -> Option<u32> {
        lock(&self.mailbox).awaited.pop()
    }

    /// Whether any of regions `first ..= last` may differ between legs.
    #[inline]
    pub fn is_unresolved(&self, first: u32, last: u32) -> bool {
        (first..=last).any(|region| {
            let word = self.unresolved[region as usize / 64].load(Ordering::Acquire);
            word >> (region % 64) & 1 != 0
        })
    }
}
