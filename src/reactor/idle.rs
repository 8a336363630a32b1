//! When a reactor that finds nothing to do sleeps, and for how long at most.
//!
//! Pure decisions over ticks, without a clock and without system calls; `context.rs` carries them out.
//!
//! An adaptive reactor spins for a while after the last thing it did, since what comes next
//! often comes soon and a sleep costs tens of microseconds at its end. How long it spins follows
//! what the last sleeps were like: one that ended soon by an event means that a longer spin would
//! have caught it, one that lasted means that the spin was in vain. So a reactor that only a timer moves
//! spends next to nothing on spinning, and one under load hardly ever sleeps.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::clock::Tsc;
use super::poller::Activity;
use crate::base::{Error, Result};

/// Longest spin without anything to do.
const SPIN_MAX: Duration = Duration::from_micros(100);
/// Shortest one.
const SPIN_MIN: Duration = Duration::from_micros(5);
/// Spin while something is awaited that only polling can notice: longer than a flash drive takes.
const SPIN_WAITING: Duration = Duration::from_micros(500);
/// Longest nap while something is awaited that only polling can notice.
const NAP_WAITING: Duration = Duration::from_micros(50);
/// Longest sleep. All that a sleeping reactor must notice cuts it short; this bounds the harm of a poller
/// that should have named what it waits for.
const SLEEP_MAX: Duration = Duration::from_millis(10);
/// So many sleeps in a row that a file descriptor ended, with nothing found to do, and the next sleep
/// leaves file descriptors out: whoever should read it waits for its period.
const FRUITLESS_MAX: u32 = 64;
/// How long such a sleep takes.
const FRUITLESS_SLEEP: Duration = Duration::from_millis(1);

/// What a reactor does when it has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Goes on polling: lowest latency, a whole core.
    Poll,
    /// Spins briefly, then sleeps until something happens.
    #[default]
    Adaptive,
}

impl IdlePolicy {
    /// Its name: `poll` or `adaptive`.
    pub fn name(self) -> &'static str {
        match self {
            IdlePolicy::Poll => "poll",
            IdlePolicy::Adaptive => "adaptive",
        }
    }
}

impl std::fmt::Display for IdlePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for IdlePolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<IdlePolicy> {
        [IdlePolicy::Poll, IdlePolicy::Adaptive]
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| {
                Error::invalid(format!("'{text}' is no idle policy (poll or adaptive is)"))
            })
    }
}

/// A policy that other threads may change.
#[derive(Debug)]
pub(super) struct SharedPolicy(AtomicU8);

impl SharedPolicy {
    pub(super) fn new(policy: IdlePolicy) -> SharedPolicy {
        SharedPolicy(AtomicU8::new(policy as u8))
    }

    #[inline]
    pub(super) fn get(&self) -> IdlePolicy {
        // The policy guards no other data.
        if self.0.load(Ordering::Relaxed) == IdlePolicy::Poll as u8 {
            IdlePolicy::Poll
        } else {
            IdlePolicy::Adaptive
        }
    }

    pub(super) fn set(&self, policy: IdlePolicy) {
        self.0.store(policy as u8, Ordering::Relaxed);
    }
}

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The next round, at once.
    Poll,
    /// A sleep of at most so many ticks.
    Sleep {
        /// Longest duration.
        ticks: u64,
        /// Whether file descriptors may end it.
        descriptors: bool,
    },
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// There was work before it began.
    NotSlept,
    /// Its time was up.
    TimedOut,
    /// Another thread rang the doorbell.
    Doorbell,
    /// A file descriptor became ready.
    Descriptor,
}

/// What a reactor remembers of its idle times.
#[derive(Debug)]
pub(super) struct Backoff {
    /// Ticks of the durations above.
    spin_max: u64,
    spin_min: u64,
    spin_waiting: u64,
    nap_waiting: u64,
    sleep_max: u64,
    fruitless_sleep: u64,
    /// How long to spin now.
    spin: u64,
    /// When something was last done, or announced by an event.
    quiet_since: Tsc,
    /// Sleeps in a row that a descriptor ended and no activity followed.
    fruitless: u32,
}

impl Backoff {
    pub(super) fn new(now: Tsc) -> Backoff {
        Backoff {
            spin_max: Tsc::ticks(SPIN_MAX),
            spin_min: Tsc::ticks(SPIN_MIN),
            spin_waiting: Tsc::ticks(SPIN_WAITING),
            nap_waiting: Tsc::ticks(NAP_WAITING),
            sleep_max: Tsc::ticks(SLEEP_MAX),
            fruitless_sleep: Tsc::ticks(FRUITLESS_SLEEP),
            spin: Tsc::ticks(SPIN_MAX),
            quiet_since: now,
            fruitless: 0,
        }
    }

    /// After a round that began at `now` and found `activity`; the next timer is due in
    /// `next_timer` ticks.
    #[inline]
    pub(super) fn after_round(
        &mut self,
        activity: Activity,
        now: Tsc,
        next_timer: Option<u64>,
    ) -> Decision {
        let quiet = match activity {
            Activity::Busy => {
                self.quiet_since = now;
                self.fruitless = 0;
                return Decision::Poll;
            }
            Activity::Idle | Activity::Waiting => now.since(self.quiet_since),
        };
        let (spin, longest) = match activity {
            Activity::Waiting => (self.spin_waiting, self.nap_waiting),
            _ => (self.spin, self.sleep_max),
        };
        if quiet < spin {
            return Decision::Poll;
        }
        let ticks = next_timer.map_or(longest, |timer| timer.min(longest));
        if ticks == 0 {
            return Decision::Poll;
        }
        if self.fruitless >= FRUITLESS_MAX {
            return Decision::Sleep { ticks: ticks.min(self.fruitless_sleep), descriptors: false };
        }
        Decision::Sleep { ticks, descriptors: true }
    }

    /// After a sleep of `slept` ticks that ended at `now`.
    pub(super) fn after_sleep(&mut self, wake: Wake, slept: u64, now: Tsc) {
        match wake {
            Wake::NotSlept => return,
            Wake::TimedOut => {}
            Wake::Doorbell => self.quiet_since = now,
            Wake::Descriptor => {
                self.quiet_since = now;
                self.fruitless = self.fruitless.saturating_add(1);
            }
        }
        self.spin = if wake != Wake::TimedOut && slept < self.spin_max {
            (self.spin * 2).min(self.spin_max)
        } else {
            (self.spin / 2).max(self.spin_min)
        };
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use super::*;

    const SLEEP: fn(&Backoff) -> Decision =
        |backoff| Decision::Sleep { ticks: backoff.sleep_max, descriptors: true };

    #[test]
    fn spins_first_and_then_sleeps_until_the_next_timer() {
        let start = Tsc(1_000_000);
        let mut backoff = Backoff::new(start);
        let decide = |backoff: &mut Backoff, ticks, timer| {
            backoff.after_round(Activity::Idle, start.after(ticks), timer)
        };
        let spin = backoff.spin_max;
        assert_eq!(decide(&mut backoff, spin - 1, None), Decision::Poll);
        let sleep = SLEEP(&backoff);
        assert_eq!(decide(&mut backoff, spin, None), sleep);
        assert_eq!(
            decide(&mut backoff, spin, Some(17)),
            Decision::Sleep { ticks: 17, descriptors: true }
        );
        assert_eq!(decide(&mut backoff, spin, Some(u64::MAX)), sleep);
        assert_eq!(decide(&mut backoff, spin, Some(0)), Decision::Poll, "the timer is due");
    }

    #[test]
    fn activity_begins_a_new_spin() {
        let mut backoff = Backoff::new(Tsc(0));
        let late = Tsc(10 * backoff.spin_max);
        assert_eq!(backoff.after_round(Activity::Busy, late, None), Decision::Poll);
        assert_eq!(backoff.after_round(Activity::Idle, late.after(1), None), Decision::Poll);
        let later = late.after(backoff.spin_max);
        assert_eq!(backoff.after_round(Activity::Idle, later, None), SLEEP(&backoff));
    }

    #[test]
    fn naps_stay_short_while_something_is_awaited() {
        let mut backoff = Backoff::new(Tsc(0));
        let spun = Tsc(backoff.spin_waiting);
        let before = Tsc(backoff.spin_waiting - 1);
        assert_eq!(backoff.after_round(Activity::Waiting, before, None), Decision::Poll);
        assert_eq!(
            backoff.after_round(Activity::Waiting, spun, None),
            Decision::Sleep { ticks: backoff.nap_waiting, descriptors: true }
        );
    }

    #[test]
    fn spins_that_were_in_vain_get_shorter_and_others_longer() {
        let mut backoff = Backoff::new(Tsc(0));
        for _ in 0..10 {
            backoff.after_sleep(Wake::TimedOut, backoff.sleep_max, Tsc(0));
        }
        assert_eq!(backoff.spin, backoff.spin_min);
        backoff.after_sleep(Wake::Doorbell, backoff.sleep_max, Tsc(0));
        assert_eq!(backoff.spin, backoff.spin_min, "an event after a long sleep");
        for _ in 0..10 {
            backoff.after_sleep(Wake::Doorbell, 1, Tsc(0));
        }
        assert_eq!(backoff.spin, backoff.spin_max);
    }

    #[test]
    fn a_descriptor_that_nobody_reads_does_not_keep_the_core_busy() {
        let mut backoff = Backoff::new(Tsc(0));
        let idle = |backoff: &mut Backoff| {
            let now = backoff.quiet_since.after(backoff.spin_max);
            backoff.after_round(Activity::Idle, now, None)
        };
        for _ in 0..FRUITLESS_MAX {
            assert!(matches!(idle(&mut backoff), Decision::Sleep { descriptors: true, .. }));
            backoff.after_sleep(Wake::Descriptor, 1, backoff.quiet_since);
        }
        let without = Decision::Sleep { ticks: backoff.fruitless_sleep, descriptors: false };
        assert_eq!(idle(&mut backoff), without);
        backoff.after_round(Activity::Busy, backoff.quiet_since, None);
        assert_eq!(idle(&mut backoff), SLEEP(&backoff));
    }

    #[test]
    fn policies_have_names() {
        for policy in [IdlePolicy::Poll, IdlePolicy::Adaptive] {
            assert_eq!(policy.to_string().parse::<IdlePolicy>().unwrap(), policy);
            let shared = SharedPolicy::new(policy);
            assert_eq!(shared.get(), policy);
        }
        assert!("interrupt".parse::<IdlePolicy>().is_err());
    }
}
