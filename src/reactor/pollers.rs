//! A reactor's pollers and what each has done.
//!
//! Pollers come and go while they run, often by their own hand. The list is therefore only read
//! during a round: a poller that is added waits beside the list, one that is removed leaves an empty
//! entry, and both are settled when the round is over. A removed poller's box is dropped at once, or,
//! when it is the one that runs, as soon as it returns.
//!
//! The list only keeps pollers; what one is (`P`) and how it is run is for the round.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::poller::PollerId;
use super::stats::PollerStats;
use super::timer::TimerId;

pub(super) struct Entry<P: ?Sized> {
    /// `None` while it runs, and once it is removed.
    pub(super) poller: Cell<Option<Box<P>>>,
    pub(super) removed: Cell<bool>,
    pub(super) runs: Cell<u64>,
    pub(super) busy_runs: Cell<u64>,
    pub(super) busy_ticks: Cell<u64>,
    pub(super) last_run: Cell<u64>,
    pub(super) longest_run: Cell<u64>,
    /// `None` for every round.
    pub(super) period: Option<u64>,
    /// The timer of a periodic poller, unless it runs just now.
    pub(super) timer: Cell<Option<TimerId>>,
    pub(super) id: PollerId,
    pub(super) name: Box<str>,
}

impl<P: ?Sized> Entry<P> {
    fn new(id: PollerId, name: &str, period: Option<u64>, poller: Box<P>) -> Entry<P> {
        Entry {
            poller: Cell::new(Some(poller)),
            removed: Cell::new(false),
            runs: Cell::new(0),
            busy_runs: Cell::new(0),
            busy_ticks: Cell::new(0),
            last_run: Cell::new(0),
            longest_run: Cell::new(0),
            period,
            timer: Cell::new(None),
            id,
            name: name.into(),
        }
    }

    /// Counts a run that found something to do and took `ticks`.
    #[inline]
    pub(super) fn count_busy(&self, ticks: u64) {
        self.busy_runs.set(self.busy_runs.get() + 1);
        self.busy_ticks.set(self.busy_ticks.get() + ticks);
        self.last_run.set(ticks);
        if ticks > self.longest_run.get() {
            self.longest_run.set(ticks);
        }
    }

    fn idle_runs(&self) -> u64 {
        self.runs.get() - self.busy_runs.get()
    }

    /// `idle` are the ticks of one idle run.
    fn stats(&self, idle: f64) -> PollerStats {
        PollerStats {
            name: self.name.to_string(),
            id: self.id,
            period_ticks: self.period,
            run_count: self.runs.get(),
            busy_count: self.busy_runs.get(),
            busy_ticks: self.busy_ticks.get(),
            idle_ticks: (idle * self.idle_runs() as f64) as u64,
            last_run_ticks: self.last_run.get(),
            longest_run_ticks: self.longest_run.get(),
        }
    }
}

pub(super) struct Pollers<P: ?Sized> {
    /// Those that run in every round.
    pub(super) active: RefCell<Vec<Entry<P>>>,
    /// Those with a period; their turns are timers.
    timed: RefCell<Vec<Rc<Entry<P>>>>,
    /// Added while `active` was in use.
    added: RefCell<Vec<Entry<P>>>,
    /// Whether `settle` has something to do.
    unsettled: Cell<bool>,
    last_id: Cell<u64>,
}

impl<P: ?Sized> Default for Pollers<P> {
    fn default() -> Pollers<P> {
        Pollers {
            active: RefCell::default(),
            timed: RefCell::default(),
            added: RefCell::default(),
            unsettled: Cell::default(),
            last_id: Cell::default(),
        }
    }
}

impl<P: ?Sized> Pollers<P> {
    fn next_id(&self) -> PollerId {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        PollerId(id)
    }

    pub(super) fn add_active(&self, name: &str, poller: Box<P>) -> PollerId {
        let id = self.next_id();
        self.added.borrow_mut().push(Entry::new(id, name, None, poller));
        self.unsettled.set(true);
        self.settle();
        id
    }

    /// The caller sets its first timer.
    pub(super) fn add_timed(&self, name: &str, period: u64, poller: Box<P>) -> Rc<Entry<P>> {
        let entry = Rc::new(Entry::new(self.next_id(), name, Some(period), poller));
        self.timed.borrow_mut().push(Rc::clone(&entry));
        entry
    }

    /// Removes a poller; gives its timer back, for the caller to cancel. The poller is dropped here
    /// (unless it runs), with no borrow held, since it may call back.
    pub(super) fn remove(&self, id: PollerId) -> Option<TimerId> {
        let retire = |entry: &Entry<P>| {
            entry.removed.set(true);
            entry.poller.take()
        };
        let active = self.active.borrow().iter().find(|entry| entry.id == id).map(retire);
        if let Some(poller) = active {
            self.unsettled.set(true);
            self.settle();
            drop(poller);
            return None;
        }
        let added = {
            let mut added = self.added.borrow_mut();
            let place = added.iter().position(|entry| entry.id == id);
            place.map(|place| added.remove(place))
        };
        if added.is_some() {
            return None;
        }
        let timed = {
            let mut timed = self.timed.borrow_mut();
            let place = timed.iter().position(|entry| entry.id == id);
            place.map(|place| timed.remove(place))
        }?;
        let poller = retire(&timed);
        drop(poller);
        timed.timer.take()
    }

    /// Brings the list up to date, unless a round is using it.
    #[inline]
    pub(super) fn settle(&self) {
        if !self.unsettled.get() {
            return;
        }
        if let Ok(mut active) = self.active.try_borrow_mut() {
            // These entries are empty: no poller is dropped here.
            active.retain(|entry| !entry.removed.get());
            active.append(&mut self.added.borrow_mut());
            self.unsettled.set(false);
        }
    }

    /// Drops all.
    pub(super) fn clear(&self) {
        let ids: Vec<PollerId> = self
            .active
            .borrow()
            .iter()
            .chain(self.added.borrow().iter())
            .map(|entry| entry.id)
            .chain(self.timed.borrow().iter().map(|entry| entry.id))
            .collect();
        for id in ids {
            self.remove(id);
        }
    }

    /// What each has done; `idle_ticks` are the reactor's, awake.
    pub(super) fn stats(&self, idle_ticks: u64) -> Vec<PollerStats> {
        let (active, added, timed) =
            (self.active.borrow(), self.added.borrow(), self.timed.borrow());
        let entries = || active.iter().chain(added.iter()).chain(timed.iter().map(Rc::as_ref));
        let idle_runs: u64 = entries().map(Entry::<P>::idle_runs).sum();
        let idle = idle_ticks as f64 / idle_runs.max(1) as f64;
        let mut stats: Vec<PollerStats> =
            entries().filter(|entry| !entry.removed.get()).map(|entry| entry.stats(idle)).collect();
        stats.sort_by_key(|poller| poller.id.0);
        stats
    }
}
