//! The poll round, and the loops around it.
//!
//! A round runs, in this order: what came in from other reactors, calls, the pollers of every round,
//! the timers that are due (periodic pollers and sleeping tasks), the tasks that can go on. Then it
//! publishes what it sent. In a round in which nothing happens that costs one counter reading, a few
//! loads, and the pollers.

use std::future::Future;
use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Wake as TaskWake, Waker};

use super::account::Account;
use super::clock::Tsc;
use super::context::{Context, Entry, Remote, Timer};
use super::cores;
use super::idle::{Backoff, Decision, IdlePolicy, Wake};
use super::mailbox::CALLS_PER_ROUND;
use super::poller::Activity;
use super::sleep::Signal;
use super::stats::{CpuTimes, ReactorStats};

impl Context {
    /// One round, for a detached context.
    ///
    /// # Panics
    /// When called from inside of a round, by a poller or a task.
    pub fn turn(&self) {
        self.0.account.resume();
        self.round();
    }

    /// Runs `future`, and the reactor with it, until the future completes. Between events the
    /// reactor sleeps as its idle policy says.
    ///
    /// # Panics
    /// When called from inside of a round, by a poller or a task.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.check_outside_of_round();
        let mut future = pin!(future);
        let root = Arc::new(Root {
            ready: AtomicBool::new(true),
            signal: Arc::clone(&self.0.remote.signal),
        });
        let waker = Waker::from(Arc::clone(&root));
        let mut task = TaskContext::from_waker(&waker);
        let account = &self.0.account;
        account.resume();
        self.0.now.set(account.mark());
        let mut backoff = Backoff::new(account.mark());
        loop {
            let mut activity = Activity::Idle;
            if root.ready.load(Ordering::Relaxed) {
                // The swap, unlike a store, sees all that came before the wake-up that it takes down.
                root.ready.swap(false, Ordering::AcqRel);
                let polled = future.as_mut().poll(&mut task);
                self.count_task_poll(None);
                if let Poll::Ready(output) = polled {
                    self.0.links.publish();
                    return output;
                }
                activity = Activity::Busy;
            }
            activity = activity.max(self.round());
            self.idle(&mut backoff, activity, || root.ready.load(Ordering::Relaxed));
        }
    }

    /// Runs the reactor until it is told to stop.
    pub(super) fn run_until_stopped(&self) {
        self.0.account.resume();
        let mut backoff = Backoff::new(self.0.account.mark());
        while !self.0.remote.signal.stop_requested() {
            let activity = self.round();
            self.idle(&mut backoff, activity, || false);
        }
    }

    fn check_outside_of_round(&self) {
        assert!(
            !self.0.in_round.get(),
            "a poller or a task tried to run the reactor that runs it: await instead"
        );
    }

    pub(super) fn round(&self) -> Activity {
        let inner = &*self.0;
        self.check_outside_of_round();
        inner.in_round.set(true);
        let now = inner.account.begin_round();
        inner.now.set(now);
        let mut activity = Activity::Idle;
        inner.tasks.begin_round();
        if inner.links.drain(|message| message.run(self)) > 0 {
            self.count_busy("messages");
            activity = Activity::Busy;
        }
        if !inner.remote.mailbox.is_empty() {
            self.run_calls();
            activity = Activity::Busy;
        }
        let suspicious = inner.account.is_suspicious();
        for entry in inner.pollers.active.borrow().iter() {
            activity = activity.max(self.run_poller(entry, suspicious));
        }
        inner.pollers.settle();
        if now >= inner.next_due.get() {
            activity = activity.max(self.run_timers(now));
        }
        if inner.remote.signal.take_tasks() {
            let polls = inner.tasks.run(|spawned_at| self.count_task_poll(spawned_at));
            if polls > 0 {
                activity = Activity::Busy;
            }
        }
        inner.links.publish();
        if inner.tasks.wants_round() {
            activity = Activity::Busy;
        }
        inner.in_round.set(false);
        activity
    }

    #[inline]
    fn run_poller(&self, entry: &Entry, suspicious: bool) -> Activity {
        // An empty entry is one that was removed earlier in this round.
        let Some(mut poller) = entry.poller.take() else { return Activity::Idle };
        let activity = poller.poll(self);
        if entry.removed.get() {
            drop(poller);
        } else {
            entry.poller.set(Some(poller));
        }
        entry.runs.set(entry.runs.get() + 1);
        let account = &self.0.account;
        if activity == Activity::Busy {
            let ticks = account.ran_busy();
            entry.count_busy(ticks);
            self.check_hog(account, ticks, entry);
        } else if suspicious {
            self.check_hog(account, account.ran_suspect(), entry);
        } else {
            account.ran_idle();
        }
        activity
    }

    #[inline]
    fn check_hog(&self, account: &Account, ticks: u64, entry: &Entry) {
        if account.is_hog(ticks) {
            account.report_hog(self.0.index, format_args!("poller '{}'", entry.name), ticks);
        }
    }

    fn count_busy(&self, what: &str) {
        let account = &self.0.account;
        let ticks = account.ran_busy();
        if account.is_hog(ticks) {
            account.report_hog(self.0.index, format_args!("{what}"), ticks);
        }
    }

    fn count_task_poll(&self, spawned_at: Option<&'static Location<'static>>) {
        let inner = &*self.0;
        inner.task_polls.set(inner.task_polls.get() + 1);
        let ticks = inner.account.ran_busy();
        if inner.account.is_hog(ticks) {
            match spawned_at {
                Some(place) => {
                    let who = format_args!("the task spawned at {place}");
                    inner.account.report_hog(inner.index, who, ticks);
                }
                None => inner.account.report_hog(inner.index, format_args!("the main task"), ticks),
            }
        }
    }

    #[cold]
    fn run_calls(&self) {
        let inner = &*self.0;
        for call in std::iter::from_fn(|| inner.remote.mailbox.take()).take(CALLS_PER_ROUND) {
            inner.calls.set(inner.calls.get() + 1);
            call(self);
        }
        self.count_busy("calls from other threads");
    }

    fn run_timers(&self, now: Tsc) -> Activity {
        let inner = &*self.0;
        let mut activity = Activity::Idle;
        loop {
            let due = inner.timers.borrow_mut().pop_due(now);
            match due {
                None => break,
                Some((_, Timer::Task(waker))) => waker.wake(),
                Some((due, Timer::Poller(entry))) => {
                    entry.timer.set(None);
                    activity = activity.max(self.run_poller(&entry, inner.account.is_suspicious()));
                    if !entry.removed.get() {
                        let period = entry.period.unwrap_or(1);
                        let next = due.after(period);
                        let next = if next > now { next } else { now.after(period) };
                        self.set_timer_of(entry, next);
                    }
                }
            }
        }
        let next = inner.timers.borrow().next_due();
        inner.next_due.set(next.unwrap_or(Tsc(u64::MAX)));
        activity
    }

    #[inline]
    fn idle(&self, backoff: &mut Backoff, activity: Activity, root_ready: impl Fn() -> bool) {
        if self.0.remote.policy.get() == IdlePolicy::Adaptive {
            let now = self.0.account.mark();
            let due = self.0.next_due.get();
            let next_timer = (due != Tsc(u64::MAX)).then(|| due.since(now));
            match backoff.after_round(activity, now, next_timer) {
                Decision::Poll => {}
                Decision::Sleep { ticks, descriptors } => {
                    self.sleep_reactor(backoff, ticks, descriptors, root_ready);
                }
            }
        }
    }

    #[cold]
    fn sleep_reactor(
        &self,
        backoff: &mut Backoff,
        ticks: u64,
        descriptors: bool,
        root_ready: impl Fn() -> bool,
    ) {
        let Some(sleeper) = self.sleeper() else { return };
        let begin = Tsc::read();
        let wake = sleeper.sleep(ticks, descriptors, || root_ready() || self.has_work());
        if wake != Wake::NotSlept {
            let (now, slept) = self.0.account.slept(begin);
            backoff.after_sleep(wake, slept, now);
        }
    }

    /// Whether there is anything that another thread could have brought, to be asked before a sleep.
    fn has_work(&self) -> bool {
        let Remote { signal, mailbox, policy, .. } = &*self.0.remote;
        signal.has_tasks()
            || signal.stop_requested()
            || !mailbox.is_empty()
            || policy.get() == IdlePolicy::Poll
            || self.0.links.has_incoming()
    }

    /// What this reactor has done. The asker adds processor times, so that a reactor need not read
    /// files.
    pub(super) fn stats(&self) -> ReactorStats {
        let inner = &*self.0;
        let (account, remote) = (&inner.account, &inner.remote);
        let awake_idle = account.idle().saturating_sub(account.asleep());
        ReactorStats {
            index: inner.index,
            name: super::reactors::thread_name(inner.index),
            core: remote.core,
            core_mask: cores::mask(&[remote.core]),
            numa_node: 0,
            tid: remote.tid(),
            elapsed_ticks: account.elapsed(),
            busy_ticks: account.busy(),
            idle_ticks: account.idle(),
            sleep_ticks: account.asleep(),
            policy: remote.policy.get(),
            in_sleep: false,
            sleeps: account.sleeps(),
            rounds: account.rounds.get(),
            messages: inner.links.received(),
            calls: inner.calls.get(),
            task_polls: inner.task_polls.get(),
            cpu: CpuTimes::default(),
            pollers: inner.pollers.stats(awake_idle),
            pool: self.pool().stats(),
        }
    }
}

/// The waker of [`Context::block_on`]'s future.
struct Root {
    ready: AtomicBool,
    signal: Arc<Signal>,
}

impl TaskWake for Root {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.store(true, Ordering::Release);
        self.signal.ring();
    }
}
