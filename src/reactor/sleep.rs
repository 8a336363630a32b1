//! Sleeping and being woken: the system calls behind the idle policy.
//!
//! [`Signal`] is what other threads hold of a reactor: it says that there is work, and wakes the
//! reactor if it sleeps. [`Sleeper`] is the reactor's own side: it waits on the signal's eventfd and on an
//! epoll set of the descriptors that pollers named. Neither is touched in a poll round, but for one
//! relaxed load.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake as TaskWake;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::io::Errno;

use super::clock::Tsc;
use super::doorbell::Doorbell;
use super::idle::Wake;
use crate::base::{Error, Result};

/// How the rest of the process reaches a reactor that may sleep.
#[derive(Debug)]
pub(super) struct Signal {
    doorbell: Doorbell,
    /// There from before the first sleep.
    eventfd: OnceLock<OwnedFd>,
    /// A task of the executor may be runnable.
    tasks: AtomicBool,
    /// The reactor is to stop.
    stop: AtomicBool,
}

impl Signal {
    pub(super) fn new() -> Signal {
        Signal {
            doorbell: Doorbell::new(),
            eventfd: OnceLock::new(),
            tasks: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    /// To be called after work was made visible to the reactor.
    #[inline]
    pub(super) fn ring(&self) {
        if self.doorbell.ring() {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if let Some(eventfd) = self.eventfd.get() {
            // The counter is full only with 2^64 - 2 wake-ups outstanding; no other error is possible,
            // and with one the sleep ends by its time limit.
            let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.doorbell.is_asleep()
    }

    pub(super) fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    #[inline]
    pub(super) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether a task may be runnable; the question is answered once per wake-up.
    #[inline]
    pub(super) fn take_tasks(&self) -> bool {
        let ready = self.tasks.load(Ordering::Relaxed);
        if ready {
            self.tasks.store(false, Ordering::Relaxed);
        }
        ready
    }

    /// Says that a task may be runnable, from the reactor's own thread, which is awake.
    #[inline]
    pub(super) fn put_tasks(&self) {
        self.tasks.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_tasks(&self) -> bool {
        self.tasks.load(Ordering::Relaxed)
    }
}

/// As the executor's waker: a task became runnable, maybe by another thread.
impl TaskWake for Signal {
    fn wake(self: std::sync::Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.tasks.store(true, Ordering::Release);
        self.ring();
    }
}

/// The reactor's side of its sleeps.
#[derive(Debug)]
pub(super) struct Sleeper {
    signal: std::sync::Arc<Signal>,
    epoll: OwnedFd,
    /// How many descriptors are in the epoll set.
    watched: Rc<Cell<usize>>,
}

impl Sleeper {
    /// # Errors
    /// When the process has no file descriptors left.
    pub(super) fn new(signal: std::sync::Arc<Signal>) -> Result<Sleeper> {
        let failed = |errno: Errno| Error::os("cannot make a reactor's wake-up descriptors", errno);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        if signal.eventfd.get().is_none() {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            // A second thread cannot come in between: only the reactor's own makes a sleeper.
            let _ = signal.eventfd.set(eventfd(0, flags).map_err(failed)?);
        }
        Ok(Sleeper { signal, epoll, watched: Rc::default() })
    }

    /// Sleeps for at most `ticks`, unless `has_work`, which is asked when everyone who brings work
    /// from then on will ring.
    pub(super) fn sleep(
        &self,
        ticks: u64,
        descriptors: bool,
        has_work: impl FnOnce() -> bool,
    ) -> Wake {
        self.signal.doorbell.prepare_sleep();
        if has_work() {
            self.signal.doorbell.awake();
            return Wake::NotSlept;
        }
        let wake = self.wait(Tsc::duration(ticks), descriptors);
        self.signal.doorbell.awake();
        wake
    }

    fn wait(&self, duration: Duration, descriptors: bool) -> Wake {
        let Some(eventfd) = self.signal.eventfd.get() else { return Wake::NotSlept };
        let timeout = Timespec {
            tv_sec: duration.as_secs().min(3600) as i64,
            tv_nsec: duration.subsec_nanos().into(),
        };
        // Not epoll_wait: its timeout counts in milliseconds on kernels before 5.11.
        let mut sources =
            [PollFd::new(eventfd, PollFlags::IN), PollFd::new(&self.epoll, PollFlags::IN)];
        let used = if descriptors && self.watched.get() > 0 { 2 } else { 1 };
        match poll(&mut sources[..used], Some(&timeout)) {
            Ok(0) => return Wake::TimedOut,
            Ok(_) => {}
            // A signal handler ran (EINTR), or the kernel is short of memory: the next round tells.
            Err(_) => return Wake::Doorbell,
        }
        if sources[0].revents().is_empty() {
            return Wake::Descriptor;
        }
        let mut count = [0_u8; 8];
        // Empties the counter; it cannot be empty, and if it were, nothing would be lost.
        let _ = rustix::io::read(eventfd, &mut count);
        Wake::Doorbell
    }

    /// Lets `descriptor` end sleeps while the guard lives.
    ///
    /// # Errors
    /// When the descriptor cannot be waited for (a regular file), or none are left.
    pub(super) fn watch(self: &Rc<Self>, descriptor: BorrowedFd<'_>) -> Result<WakeGuard> {
        // A duplicate of our own, so that the guard outlives the descriptor without harm: the number could
        // stand for another file by then.
        let own = rustix::io::fcntl_dupfd_cloexec(descriptor, 0)
            .map_err(|errno| Error::os("cannot duplicate a descriptor to wait for it", errno))?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, &own, epoll::EventData::new_u64(0), events)
            .map_err(|errno| Error::os("cannot wait for a descriptor to become ready", errno))?;
        self.watched.set(self.watched.get() + 1);
        Ok(WakeGuard { sleeper: Rc::clone(self), descriptor: own })
    }
}

/// Keeps a wake-up source registered. It holds a duplicate of the descriptor, so the file stays open
/// until the guard is dropped, too.
#[must_use = "the descriptor wakes the reactor only while the guard lives"]
#[derive(Debug)]
pub struct WakeGuard {
    sleeper: Rc<Sleeper>,
    descriptor: OwnedFd,
}

impl Drop for WakeGuard {
    fn drop(&mut self) {
        self.sleeper.watched.set(self.sleeper.watched.get() - 1);
        if let Err(error) = epoll::delete(&self.sleeper.epoll, self.descriptor.as_fd()) {
            tracing::warn!(%error, "cannot take a descriptor out of a reactor's wake-up set");
        }
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn sleeper() -> (Arc<Signal>, Rc<Sleeper>) {
        let signal = Arc::new(Signal::new());
        let sleeper = Sleeper::new(Arc::clone(&signal)).unwrap();
        (signal, Rc::new(sleeper))
    }

    /// Long enough that a test which needs the time limit does not end.
    const FOREVER: Duration = Duration::from_secs(3000);

    #[test]
    fn a_ring_of_another_thread_ends_the_sleep() {
        let (signal, sleeper) = sleeper();
        let ringer = Arc::clone(&signal);
        let thread = std::thread::spawn(move || {
            while !ringer.is_asleep() {
                std::thread::yield_now();
            }
            ringer.ring();
        });
        assert_eq!(sleeper.sleep(Tsc::ticks(FOREVER), true, || false), Wake::Doorbell);
        thread.join().unwrap();
        assert!(!signal.is_asleep());
        // The eventfd is empty again.
        assert_eq!(sleeper.sleep(1, true, || false), Wake::TimedOut);
    }

    #[test]
    fn nobody_writes_the_eventfd_of_a_reactor_that_is_awake() {
        let (signal, sleeper) = sleeper();
        signal.ring();
        assert_eq!(sleeper.sleep(1, true, || false), Wake::TimedOut);
    }

    #[test]
    fn work_that_is_there_prevents_the_sleep() {
        let (signal, sleeper) = sleeper();
        assert_eq!(sleeper.sleep(Tsc::ticks(FOREVER), true, || true), Wake::NotSlept);
        assert!(!signal.is_asleep());
    }

    #[test]
    fn a_descriptor_counts_while_its_guard_lives() {
        let (_signal, sleeper) = sleeper();
        let event = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
        let guard = sleeper.watch(event.as_fd()).unwrap();
        let second = sleeper.watch(event.as_fd()).unwrap();
        drop(event);
        assert_eq!(sleeper.sleep(Tsc::ticks(FOREVER), true, || false), Wake::Descriptor);
        assert_eq!(sleeper.sleep(1, false, || false), Wake::TimedOut);
        drop(guard);
        assert_eq!(sleeper.sleep(Tsc::ticks(FOREVER), true, || false), Wake::Descriptor);
        drop(second);
        assert_eq!(sleeper.sleep(1, true, || false), Wake::TimedOut);
    }

    #[test]
    fn a_regular_file_is_refused() {
        let (_signal, sleeper) = sleeper();
        let file = tempfile::tempfile().unwrap();
        let error = sleeper.watch(file.as_fd()).unwrap_err();
        assert!(error.to_string().contains("wait for a descriptor"), "{error}");
    }
}
