//! Waiting for descriptors in `async` code: one epoll set for all that tasks of a reactor wait for.
//!
//! A look at the set is one system call, however many descriptors are in it; a reactor that is awake looks every
//! [`PERIOD`] while anybody waits, one that sleeps is woken.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::clock::Tsc;
use super::context::Context;
use super::poller::{Activity, PollerId};
use super::sleep::WakeGuard;
use crate::base::{Error, Result};

/// How often a reactor that is awake looks.
const PERIOD: Duration = Duration::from_micros(100);

/// Descriptors that tasks of one reactor wait for. Cloning gives another handle.
#[derive(Clone)]
pub struct Readiness(Rc<Inner>);

struct Inner {
    cx: Context,
    epoll: OwnedFd,
    watched: RefCell<BTreeMap<u64, Rc<State>>>,
    next_key: Cell<u64>,
    /// How many wait.
    waiting: Cell<usize>,
    poller: Cell<Option<PollerId>>,
    _wake: WakeGuard,
}

/// One descriptor of them.
#[derive(Default)]
struct State {
    /// Who waits, and has not been told.
    waker: RefCell<Option<Waker>>,
}

fn failed(errno: Errno) -> Error {
    Error::os("cannot wait for a descriptor to become ready", errno)
}

impl Readiness {
    /// Nothing is waited for yet. Must be called on the reactor of `cx`.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new(cx: &Context) -> Result<Readiness> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        let wake = cx.wake_on(epoll.as_fd())?;
        let inner = Rc::new(Inner {
            cx: cx.clone(),
            epoll,
            watched: RefCell::default(),
            next_key: Cell::new(0),
            waiting: Cell::new(0),
            poller: Cell::new(None),
            _wake: wake,
        });
        let weak = Rc::downgrade(&inner);
        let period = Tsc::ticks(PERIOD);
        let mut next_look = cx.now();
        let look = move |cx: &Context| {
            let Some(inner) = weak.upgrade() else { return Activity::Idle };
            if inner.waiting.get() == 0 || cx.now() < next_look {
                return Activity::Idle;
            }
            next_look = cx.now().after(period);
            inner.look()
        };
        inner.poller.set(Some(cx.add_poller("readiness", None, Box::new(look))));
        Ok(Readiness(inner))
    }

    /// Lets tasks wait for `descriptor`, of which a duplicate is kept.
    ///
    /// # Errors
    /// When it cannot be waited for (a regular file), or none are left.
    pub fn watch(&self, descriptor: BorrowedFd<'_>) -> Result<Watched> {
        let own = rustix::io::fcntl_dupfd_cloexec(descriptor, 0).map_err(failed)?;
        let key = self.0.next_key.get();
        self.0.next_key.set(key + 1);
        // In the set, but asleep until somebody waits.
        epoll::add(&self.0.epoll, &own, EventData::new_u64(key), EventFlags::ONESHOT)
            .map_err(failed)?;
        let state = Rc::new(State::default());
        self.0.watched.borrow_mut().insert(key, Rc::clone(&state));
        Ok(Watched { inner: Rc::downgrade(&self.0), descriptor: own, key, state })
    }
}

impl Inner {
    fn look(&self) -> Activity {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 32];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error is an interruption by a signal: the next look tells.
        let count = epoll::wait(&self.epoll, events.as_mut_slice(), Some(&now)).unwrap_or(0);
        for event in &events[..count] {
            // Copied, since the kernel's structure is packed.
            let data = event.data;
            let state = self.watched.borrow().get(&data.u64()).cloned();
            if let Some(waker) = state.and_then(|state| state.waker.take()) {
                self.waiting.set(self.waiting.get() - 1);
                waker.wake();
            }
        }
        if count > 0 { Activity::Busy } else { Activity::Idle }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(poller) = self.poller.get() {
            self.cx.remove_poller(poller);
        }
    }
}

/// A descriptor that a task can wait for.
pub struct Watched {
    inner: Weak<Inner>,
    descriptor: OwnedFd,
    key: u64,
    state: Rc<State>,
}

impl Watched {
    /// Completes when there is something to read, or the other side has hung up. One task waits at a time.
    pub async fn readable(&self) {
        self.ready(EventFlags::IN | EventFlags::RDHUP).await;
    }

    /// Completes when there is room to write, or the other side has hung up.
    pub async fn writable(&self) {
        self.ready(EventFlags::OUT).await;
    }

    async fn ready(&self, events: EventFlags) {
        let mut asked = false;
        poll_fn(move |task| {
            let Some(inner) = self.inner.upgrade() else { return Poll::Pending };
            if asked && self.state.waker.borrow().is_none() {
                return Poll::Ready(());
            }
            if !asked {
                asked = true;
                let data = EventData::new_u64(self.key);
                let events = events | EventFlags::ONESHOT;
                if epoll::modify(&inner.epoll, &self.descriptor, data, events).is_err() {
                    // Cannot happen to a descriptor that is in the set; whoever reads it learns more.
                    return Poll::Ready(());
                }
            }
            if self.state.waker.replace(Some(task.waker().clone())).is_none() {
                inner.waiting.set(inner.waiting.get() + 1);
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        inner.watched.borrow_mut().remove(&self.key);
        if self.state.waker.take().is_some() {
            inner.waiting.set(inner.waiting.get() - 1);
        }
        // The duplicate may share its file with others, so closing it would not take it out of the set.
        let _ = epoll::delete(&inner.epoll, &self.descriptor);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::memory::{PoolOptions, Registry};

    #[test]
    fn a_task_goes_on_when_its_descriptor_is_ready_and_no_sooner() {
        let cx = Context::detached(Registry::new(), PoolOptions::default());
        let readiness = Readiness::new(&cx).unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        let (_quiet_near, quiet) = UnixStream::pair().unwrap();
        let watched = readiness.watch(far.as_fd()).unwrap();
        let idle = readiness.watch(quiet.as_fd()).unwrap();
        let count = Rc::new(Cell::new(0));
        let counted = Rc::clone(&count);
        cx.spawn(async move {
            for _ in 0..2 {
                watched.readable().await;
                counted.set(counted.get() + 1);
            }
            watched.writable().await;
            counted.set(counted.get() + 1);
        });
        let other = Rc::clone(&count);
        cx.spawn(async move {
            idle.readable().await;
            other.set(100);
        });
        for _ in 0..1000 {
            cx.turn();
        }
        assert_eq!(count.get(), 0);
        // The byte stays unread: whoever waits again is told again.
        near.write_all(b"x").unwrap();
        cx.block_on(async {
            while count.get() < 3 {
                cx.yield_now().await;
            }
        });
        assert_eq!(count.get(), 3);
        cx.close();
    }
}
