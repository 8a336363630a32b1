//! What code that runs on a reactor can ask of it.

use std::cell::Cell;
use std::future::Future;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Tsc;
use super::poller::{Poller, PollerId};
use crate::base::Result;
use crate::memory::{Pool, PoolOptions, Registry};

/// A handle to the reactor of the current thread. Cheap to clone; never leaves its thread.
#[derive(Clone)]
pub struct Context(Rc<Inner>);

struct Inner {
    index: usize,
    now: Cell<Tsc>,
    pool: Pool,
}

impl Context {
    /// A context without a reactor thread, for unit tests, benchmarks and single-threaded tools: the
    /// owner advances it with [`Context::turn`].
    pub fn detached(regions: Arc<Registry>, pool: PoolOptions) -> Context {
        Context(Rc::new(Inner {
            index: 0,
            now: Cell::new(Tsc::read()),
            pool: Pool::new(regions, pool),
        }))
    }

    /// Index of this reactor among the process's reactors, from 0.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The time of the current poll round: one counter reading, shared by all that runs in the
    /// round.
    #[inline]
    pub fn now(&self) -> Tsc {
        self.0.now.get()
    }

    /// The reactor's buffers.
    #[inline]
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Runs `poller` in every round, or every `period`, until removed.
    pub fn add_poller(
        &self,
        _name: &str,
        _period: Option<Duration>,
        _poller: Box<dyn Poller>,
    ) -> PollerId {
        todo!()
    }

    /// Drops a poller (at the end of the round, when it is the one that runs).
    pub fn remove_poller(&self, _id: PollerId) {
        todo!()
    }

    /// Runs `future` on this reactor, detached.
    pub fn spawn(&self, _future: impl Future<Output = ()> + 'static) {
        todo!()
    }

    /// Completes `duration` from now.
    pub fn sleep(&self, _duration: Duration) -> impl Future<Output = ()> + use<> {
        async { todo!() }
    }

    /// Lets the next rounds run, then completes.
    pub fn yield_now(&self) -> impl Future<Output = ()> + use<> {
        async { todo!() }
    }

    /// While the guard lives, a reactor that backed off wakes when `fd` becomes readable.
    pub fn wake_on(&self, _fd: BorrowedFd<'_>) -> Result<WakeGuard> {
        todo!()
    }

    /// One round, for a detached context.
    pub fn turn(&self) {
        self.0.now.set(Tsc::read());
    }
}

/// Keeps a wake-up source registered.
#[must_use]
pub struct WakeGuard(());
