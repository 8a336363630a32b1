//! Where a reactor's time goes.
//!
//! Time is read once per round and after everything that did something. What lies between two readings
//! goes to the one thing that did something in it; the rest is idle time. A reading at the end of
//! a round is the beginning of the next.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use super::clock::Tsc;

/// The log names hogs this often at most.
const HOG_LOG_INTERVAL: Duration = Duration::from_secs(1);
/// When a round was too long and nobody said that they did something, so many rounds time every
/// poller.
const SUSPICIOUS_ROUNDS: u64 = 1000;

pub(super) struct Account {
    /// The last reading.
    mark: Cell<Tsc>,
    /// Whether nothing ran since then.
    fresh: Cell<bool>,
    started: Tsc,
    busy: Cell<u64>,
    idle: Cell<u64>,
    asleep: Cell<u64>,
    sleeps: Cell<u64>,
    pub(super) rounds: Cell<u64>,
    hog_limit: u64,
    /// Every poller is timed until this round.
    suspicious_until: Cell<u64>,
    hog_logged: Cell<Option<Tsc>>,
    hogs_unlogged: Cell<u64>,
}

impl Account {
    pub(super) fn new(hog_limit: Duration) -> Account {
        let now = Tsc::read();
        Account {
            mark: Cell::new(now),
            fresh: Cell::new(false),
            started: now,
            busy: Cell::new(0),
            idle: Cell::new(0),
            asleep: Cell::new(0),
            sleeps: Cell::new(0),
            rounds: Cell::new(0),
            hog_limit: Tsc::ticks(hog_limit),
            suspicious_until: Cell::new(0),
            hog_logged: Cell::new(None),
            hogs_unlogged: Cell::new(0),
        }
    }

    /// Time passed outside of the reactor's hands: it is idle time, and no hog's.
    #[inline]
    pub(super) fn resume(&self) {
        self.pass_idle();
    }

    #[inline]
    fn pass_idle(&self) -> u64 {
        let now = Tsc::read();
        let ticks = now.since(self.mark.get());
        self.idle.set(self.idle.get() + ticks);
        self.mark.set(now);
        self.fresh.set(true);
        ticks
    }

    /// Begins a round: its time.
    #[inline]
    pub(super) fn begin_round(&self) -> Tsc {
        self.rounds.set(self.rounds.get() + 1);
        if !self.fresh.replace(false) {
            let ticks = self.pass_idle();
            self.fresh.set(false);
            if ticks > self.hog_limit {
                self.suspicious_until.set(self.rounds.get() + SUSPICIOUS_ROUNDS);
            }
        }
        self.mark.get()
    }

    /// Something ran and did nothing.
    #[inline]
    pub(super) fn ran_idle(&self) {
        self.fresh.set(false);
    }

    /// Something ran and did something: how long it took.
    #[inline]
    pub(super) fn ran_busy(&self) -> u64 {
        let now = Tsc::read();
        let ticks = now.since(self.mark.get());
        self.busy.set(self.busy.get() + ticks);
        self.mark.set(now);
        self.fresh.set(true);
        ticks
    }

    /// Whether runs that did nothing are to be timed, too.
    #[inline]
    pub(super) fn is_suspicious(&self) -> bool {
        self.rounds.get() < self.suspicious_until.get()
    }

    /// Times a run that did nothing.
    pub(super) fn ran_suspect(&self) -> u64 {
        self.pass_idle()
    }

    #[inline]
    pub(super) fn is_hog(&self, ticks: u64) -> bool {
        ticks > self.hog_limit
    }

    /// Names in the log who ran for too long.
    #[cold]
    pub(super) fn report_hog(&self, reactor: usize, who: fmt::Arguments<'_>, ticks: u64) {
        let now = self.mark.get();
        let interval = Tsc::ticks(HOG_LOG_INTERVAL);
        if self.hog_logged.get().is_some_and(|logged| now.since(logged) < interval) {
            self.hogs_unlogged.set(self.hogs_unlogged.get() + 1);
            return;
        }
        self.hog_logged.set(Some(now));
        let unlogged = self.hogs_unlogged.take();
        tracing::warn!(
            reactor,
            milliseconds = Tsc::micros(ticks) / 1000.0,
            limit_milliseconds = Tsc::micros(self.hog_limit) / 1000.0,
            not_logged_since_last = unlogged,
            "{who} held its reactor for too long (or the system took the core away)"
        );
    }

    /// The reactor slept from `begin` to now: when now is, and for how long.
    pub(super) fn slept(&self, begin: Tsc) -> (Tsc, u64) {
        self.pass_idle();
        let now = self.mark.get();
        let ticks = now.since(begin);
        self.asleep.set(self.asleep.get() + ticks);
        self.sleeps.set(self.sleeps.get() + 1);
        (now, ticks)
    }

    pub(super) fn mark(&self) -> Tsc {
        self.mark.get()
    }

    pub(super) fn elapsed(&self) -> u64 {
        Tsc::read().since(self.started)
    }

    pub(super) fn busy(&self) -> u64 {
        self.busy.get()
    }

    pub(super) fn idle(&self) -> u64 {
        self.idle.get()
    }

    pub(super) fn asleep(&self) -> u64 {
        self.asleep.get()
    }

    pub(super) fn sleeps(&self) -> u64 {
        self.sleeps.get()
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use super::*;

    #[test]
    fn busy_and_idle_time_add_up() {
        let account = Account::new(Duration::from_secs(1));
        for _ in 0..10 {
            account.begin_round();
            account.ran_idle();
            account.ran_busy();
            account.ran_idle();
        }
        account.begin_round();
        let total = account.mark().since(account.started);
        assert_eq!(account.busy() + account.idle(), total);
        assert!(account.busy() > 0 && account.idle() > 0);
        assert_eq!(account.rounds.get(), 11);
    }

    #[test]
    fn a_round_begins_where_the_last_thing_done_ended() {
        let account = Account::new(Duration::from_secs(1));
        account.begin_round();
        account.ran_busy();
        let end = account.mark();
        assert_eq!(account.begin_round(), end);
        assert!(account.begin_round() > end, "a round of nothing takes time, too");
        account.ran_busy();
        let end = account.mark();
        account.ran_idle();
        assert!(account.begin_round() > end, "what ran in vain is idle time of this round");
    }

    #[test]
    fn a_long_round_of_nobody_makes_suspicious() {
        let account = Account::new(Duration::ZERO);
        account.begin_round();
        account.ran_idle();
        account.begin_round();
        assert!(account.is_suspicious());
        let relaxed = Account::new(Duration::from_secs(3600));
        relaxed.begin_round();
        relaxed.ran_idle();
        relaxed.begin_round();
        assert!(!relaxed.is_suspicious());
    }
}
