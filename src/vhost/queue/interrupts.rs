//! When the guest is interrupted: at once, or a little later for several completions together.

use std::time::Duration;

use super::mailbox::{Counters, SharedFd};
use crate::reactor::Tsc;
use crate::vhost::info::Coalescing;

/// How often the rate of completions is taken.
const WINDOW: Duration = Duration::from_millis(10);

/// The interrupts of one queue.
pub struct Interrupts {
    call: SharedFd,
    /// In ticks; 0 when none are held back.
    delay: u64,
    /// Completions per window above which they are.
    threshold: u64,
    window: u64,
    window_end: Tsc,
    completed: u64,
    /// Whether the last window was a busy one.
    busy: bool,
    /// Something was published and nobody was told; to be looked at then.
    due: Option<Tsc>,
}

impl Interrupts {
    /// Interrupts through `call`.
    pub fn new(call: SharedFd, coalescing: Coalescing, now: Tsc) -> Interrupts {
        let mut interrupts = Interrupts {
            call,
            delay: 0,
            threshold: 0,
            window: Tsc::ticks(WINDOW),
            window_end: now,
            completed: 0,
            busy: false,
            // A predecessor may have died between publishing and interrupting.
            due: Some(now),
        };
        interrupts.set_coalescing(coalescing);
        interrupts
    }

    /// Sends them there from now on.
    pub fn set_call(&mut self, call: SharedFd) {
        self.call = call;
    }

    /// Changes when they are held back.
    pub fn set_coalescing(&mut self, coalescing: Coalescing) {
        self.delay = Tsc::ticks(Duration::from_micros(coalescing.delay_base_us.into()));
        let per_window = Duration::from_secs(1).as_nanos() / WINDOW.as_nanos();
        self.threshold = u64::from(coalescing.iops_threshold) / per_window as u64;
    }

    /// Takes note of completions that were published.
    #[inline]
    pub fn published(&mut self, count: u64, now: Tsc) {
        if self.delay == 0 {
            self.due = Some(now);
            return;
        }
        self.completed += count;
        if now >= self.window_end {
            self.busy = self.completed > self.threshold;
            self.completed = 0;
            self.window_end = now.after(self.window);
        }
        if self.due.is_none() {
            self.due = Some(if self.busy { now.after(self.delay) } else { now });
        }
    }

    /// Whether it is time to ask whether the guest wants an interrupt.
    #[inline]
    pub fn are_due(&self, now: Tsc) -> bool {
        self.due.is_some_and(|due| now >= due)
    }

    /// Whether any is held back.
    #[inline]
    pub fn are_held_back(&self) -> bool {
        self.due.is_some()
    }

    /// The guest knows of everything.
    #[inline]
    pub fn settle(&mut self) {
        self.due = None;
    }

    /// Interrupts the guest.
    pub fn send(&self, counters: &Counters) {
        let Some(call) = &self.call else { return };
        // A full counter (`AGAIN`) is an interrupt that the guest has still to take; other errors are those of
        // a descriptor that is no eventfd, which is the front end's loss.
        let _ = rustix::io::write(&**call, &1_u64.to_ne_bytes());
        counters.add_interrupt();
    }
}
