//! The part of a reactor that other threads reach. A call is a `C`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use super::idle::{IdlePolicy, SharedPolicy};
use super::mailbox::Mailbox;
use super::sleep::Signal;

pub(super) struct Remote<C> {
    pub(super) signal: Arc<Signal>,
    pub(super) mailbox: Mailbox<C>,
    pub(super) policy: SharedPolicy,
    pub(super) core: usize,
    tid: AtomicU32,
    closed: AtomicBool,
}

/// Why a call was not taken.
pub(super) enum Refused<C> {
    /// The mailbox is full.
    Full(C),
    /// The reactor has stopped.
    Stopped,
}

impl<C> Remote<C> {
    pub(super) fn new(core: usize, policy: IdlePolicy) -> Remote<C> {
        Remote {
            signal: Arc::new(Signal::new()),
            mailbox: Mailbox::new(),
            policy: SharedPolicy::new(policy),
            core,
            tid: AtomicU32::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Puts a call into the mailbox and sees to it that the reactor notices.
    pub(super) fn post(&self, call: C) -> Result<(), Refused<C>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Refused::Stopped);
        }
        self.mailbox.put(call).map_err(Refused::Full)?;
        self.signal.ring();
        // Either the reactor, which closes and then clears its mailbox, sees the call, or we see that
        // it is closed: `ring` has a full fence, and so has `close`.
        if self.closed.load(Ordering::Relaxed) {
            self.mailbox.clear();
            return Err(Refused::Stopped);
        }
        Ok(())
    }

    /// From here on calls are refused. The caller clears the mailbox.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    pub(super) fn set_policy(&self, policy: IdlePolicy) {
        self.policy.set(policy);
        // A sleeping reactor thinks it over.
        self.signal.ring();
    }

    pub(super) fn set_tid(&self, tid: u32) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// The kernel's id of the reactor's thread.
    pub(super) fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use super::super::clock::Tsc;
    use super::super::idle::Wake;
    use super::super::sleep::Sleeper;
    use super::*;

    /// Whatever another thread brings ends a sleep at once, not only at its time limit.
    #[test]
    fn everything_that_brings_work_wakes() {
        let bringers: [fn(&Remote<u32>); 4] = [
            |remote| assert!(remote.post(1).is_ok()),
            |remote| remote.set_policy(IdlePolicy::Poll),
            |remote| remote.signal.request_stop(),
            |remote| Waker::from(Arc::clone(&remote.signal)).wake(),
        ];
        for (number, bring) in bringers.into_iter().enumerate() {
            let remote = Arc::new(Remote::new(0, IdlePolicy::Adaptive));
            let sleeper = Sleeper::new(Arc::clone(&remote.signal)).unwrap();
            let other = Arc::clone(&remote);
            let thread = std::thread::spawn(move || {
                while !other.signal.is_asleep() {
                    std::thread::yield_now();
                }
                bring(&other);
            });
            let forever = Tsc::ticks(Duration::from_secs(3000));
            let wake = sleeper.sleep(forever, true, || false);
            thread.join().unwrap();
            assert_eq!(wake, Wake::Doorbell, "bringer {number}");
        }
    }
}
