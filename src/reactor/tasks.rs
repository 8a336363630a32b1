//! The reactor's executor for control work.
//!
//! The executor proper is `async-executor`'s `LocalExecutor`: its queue may be pushed to by wakers on
//! any thread, and it drops all its tasks when it is dropped. It is driven from the poll round, one
//! task poll at a time, so that each can be timed; its own waker is the reactor's [`Signal`], so a wake
//! from another thread ends a sleep.
//!
//! The executor would keep a detached task's panic to itself. Here a task that panics takes the
//! reactor down: the panic goes on from [`Tasks::run`].

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use async_executor::LocalExecutor;

use super::sleep::Signal;

/// Most task polls in a round.
const POLLS_PER_ROUND: usize = 32;

pub(super) struct Tasks {
    running: RefCell<Option<Running>>,
    watch: Rc<Watch>,
    signal: Arc<Signal>,
    waker: Waker,
    /// Tasks that wait for the next round.
    yielded: RefCell<Vec<Waker>>,
}

struct Running {
    executor: Rc<LocalExecutor<'static>>,
    /// Polls one task each time it is polled; taken out while it is.
    driver: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// What the tasks tell about the poll that runs.
#[derive(Default)]
struct Watch {
    polled: Cell<bool>,
    spawned_at: Cell<Option<&'static Location<'static>>>,
    panic: Cell<Option<Box<dyn Any + Send>>>,
}

impl Tasks {
    pub(super) fn new(signal: Arc<Signal>) -> Tasks {
        let executor = Rc::new(LocalExecutor::new());
        let watch = Rc::new(Watch::default());
        let driver = drive(Rc::clone(&executor), Rc::clone(&watch));
        // The driver has not said yet that it wants to be woken.
        signal.put_tasks();
        Tasks {
            running: RefCell::new(Some(Running { executor, driver: Some(Box::pin(driver)) })),
            watch,
            waker: Waker::from(Arc::clone(&signal)),
            signal,
            yielded: RefCell::default(),
        }
    }

    /// Runs `future` from the next round on, or drops it when the reactor has stopped.
    pub(super) fn spawn(
        &self,
        future: impl Future<Output = ()> + 'static,
        spawned_at: &'static Location<'static>,
    ) {
        let executor = self.running.borrow().as_ref().map(|running| Rc::clone(&running.executor));
        let Some(executor) = executor else { return };
        let watch = Rc::clone(&self.watch);
        let mut future = Box::pin(future);
        let watched = poll_fn(move |cx| {
            watch.spawned_at.set(Some(spawned_at));
            catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))).unwrap_or_else(|panic| {
                watch.panic.set(Some(panic));
                Poll::Ready(())
            })
        });
        executor.spawn(watched).detach();
    }

    /// Polls the tasks that can go on, some at most, and calls `polled` after each with the place where
    /// the task was spawned. How many there were.
    pub(super) fn run(&self, mut polled: impl FnMut(Option<&'static Location<'static>>)) -> usize {
        let driver = self.running.borrow_mut().as_mut().and_then(|running| running.driver.take());
        let Some(mut driver) = driver else { return 0 };
        let mut cx = TaskContext::from_waker(&self.waker);
        let mut polls = 0;
        loop {
            self.watch.polled.set(false);
            let _ = driver.as_mut().poll(&mut cx);
            if !self.watch.polled.get() {
                // The driver has seen an empty queue and left its waker.
                break;
            }
            if let Some(panic) = self.watch.panic.take() {
                resume_unwind(panic);
            }
            polls += 1;
            polled(self.watch.spawned_at.get());
            if polls == POLLS_PER_ROUND {
                self.signal.put_tasks();
                break;
            }
        }
        if let Some(running) = self.running.borrow_mut().as_mut() {
            running.driver = Some(driver);
        }
        polls
    }

    /// Wakes those that wait for a new round.
    #[inline]
    pub(super) fn begin_round(&self) {
        let mut yielded = self.yielded.borrow_mut();
        if !yielded.is_empty() {
            yielded.drain(..).for_each(Waker::wake);
        }
    }

    /// Wakes `waker` at the beginning of the next round.
    pub(super) fn wake_next_round(&self, waker: &Waker) {
        self.yielded.borrow_mut().push(waker.clone());
    }

    /// Whether somebody waits for the next round.
    #[inline]
    pub(super) fn wants_round(&self) -> bool {
        !self.yielded.borrow().is_empty()
    }

    /// Drops all tasks, now and from now on.
    pub(super) fn close(&self) {
        let running = self.running.borrow_mut().take();
        // The driver holds the executor too; the tasks go with the last of both.
        drop(running);
        self.yielded.borrow_mut().clear();
    }
}

/// Polls one task whenever it is polled, and tells so.
async fn drive(executor: Rc<LocalExecutor<'static>>, watch: Rc<Watch>) {
    loop {
        executor.tick().await;
        watch.polled.set(true);
        let mut paused = false;
        poll_fn(
            |_| if std::mem::replace(&mut paused, true) { Poll::Ready(()) } else { Poll::Pending },
        )
        .await;
    }
}
