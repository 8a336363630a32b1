//! Who has work for a reactor rings its doorbell, and learns whether it must also be woken.
//!
//! The handshake that loses no wake-up, as both sides write one variable and read the other's with a
//! full fence in between (so at least one of them sees the other):
//!
//! * who brings work makes it visible, then fences, then looks whether the reactor sleeps;
//! * the reactor says that it is about to sleep, then fences, then looks for work.
//!
//! Of several who find it asleep, one has to wake it: whoever takes the flag down. The model at the
//! end shows it for every interleaving.

use super::sync::{AtomicBool, Ordering, fence};

/// The flag by which a reactor says that it sleeps.
#[derive(Debug)]
pub(super) struct Doorbell {
    sleeping: AtomicBool,
}

impl Doorbell {
    pub(super) fn new() -> Doorbell {
        Doorbell { sleeping: AtomicBool::new(false) }
    }

    /// Called after work was made visible: whether the caller must wake the reactor.
    #[inline]
    #[must_use]
    pub(super) fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        // The load alone keeps the line shared in the usual case that nobody sleeps. Whoever comes too late
        // to take the flag down leaves it alone: a write of its own would count against the next sleep.
        self.sleeping.load(Ordering::Relaxed)
            && self
                .sleeping
                .compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Called by the reactor before it looks for work for the last time.
    pub(super) fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Called by the reactor when it is awake again, or found work after all.
    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether the reactor sleeps, for statistics.
    pub(super) fn is_asleep(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, weft_loom))]
mod loom_models {
    use std::collections::VecDeque;

    use loom::sync::{Arc, Condvar, Mutex};

    use super::super::ring::ring;
    use super::*;

    /// Stands in for the eventfd: a counter that a sleeper waits on and takes to zero.
    #[derive(Default)]
    struct EventFd {
        count: Mutex<u64>,
        changed: Condvar,
    }

    impl EventFd {
        fn write(&self) {
            *self.count.lock().unwrap() += 1;
            self.changed.notify_one();
        }

        fn wait(&self) {
            let mut count = self.count.lock().unwrap();
            while *count == 0 {
                count = self.changed.wait(count).unwrap();
            }
            *count = 0;
        }
    }

    /// A reactor that sleeps without a time limit gets what two others send, in every interleaving:
    /// `loom` reports a lost wake-up as a deadlock.
    #[test]
    fn loom_doorbell_loses_no_wake_up() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let bell = Arc::new(Doorbell::new());
            let eventfd = Arc::new(EventFd::default());
            let mut receivers = VecDeque::new();
            let mut senders = Vec::new();
            for _ in 0..2 {
                let (sender, receiver) = ring::<u32>(2);
                receivers.push_back(receiver);
                let (bell, eventfd) = (Arc::clone(&bell), Arc::clone(&eventfd));
                senders.push(loom::thread::spawn(move || {
                    sender.push(1).unwrap();
                    sender.publish();
                    if bell.ring() {
                        eventfd.write();
                    }
                }));
            }
            let mut received = 0;
            while received < 2 {
                let mut taken = 0;
                for receiver in &receivers {
                    taken += receiver.drain(2, |item| received += item);
                }
                if taken > 0 || received == 2 {
                    continue;
                }
                bell.prepare_sleep();
                if receivers.iter().all(|receiver| receiver.is_empty()) {
                    eventfd.wait();
                }
                bell.awake();
            }
            for sender in senders {
                sender.join().unwrap();
            }
        });
    }
}
