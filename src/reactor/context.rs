//! What code that runs on a reactor can ask of it, and the three things that a reactor runs: a [`Poller`],
//! a [`Message`], a [`Call`].

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::os::fd::BorrowedFd;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use super::account::Account;
use super::clock::Tsc;
use super::idle::IdlePolicy;
use super::links::{Links, connect};
use super::poller::{Activity, PollerId};
use super::pollers;
use super::remote;
use super::sleep::{Sleeper, WakeGuard};
use super::tasks::Tasks;
use super::timer::{TimerHeap, TimerId};
use crate::base::{Error, ErrorKind, Result};
use crate::memory::{Pool, PoolOptions, Registry};

/// The hog limit of detached contexts.
const HOG_LIMIT_DETACHED: Duration = Duration::from_secs(1);

/// Something that a reactor runs over and over.
pub trait Poller {
    /// Does what there is to do, briefly, and never blocks.
    fn poll(&mut self, cx: &Context) -> Activity;
}

/// A closure is a poller.
impl<F: FnMut(&Context) -> Activity> Poller for F {
    fn poll(&mut self, cx: &Context) -> Activity {
        self(cx)
    }
}

/// A poller of a reactor.
pub(super) type Entry = pollers::Entry<dyn Poller>;

/// A closure to run on a reactor.
pub(super) type Call = Box<dyn FnOnce(&Context) + Send>;

/// The part of a reactor that other threads reach.
pub(super) type Remote = remote::Remote<Call>;

/// What a [`Message`] runs.
pub type MessageFunction = fn(&Context, u64, u64, u64);

/// A function to be run on another reactor, and three words for it.
///
/// The words are plain numbers: what they mean (an index into a table of the receiver, a length) is between
/// sender and function.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    function: MessageFunction,
    words: [u64; 3],
}

const _: () = assert!(size_of::<Message>() == 32, "two messages fill a cache line");

impl Message {
    /// A message that runs `function` with `words` on the receiving reactor. The function must be as brief
    /// as a poller's run.
    #[inline]
    pub const fn new(function: MessageFunction, words: [u64; 3]) -> Message {
        Message { function, words }
    }

    /// The words.
    #[inline]
    pub const fn words(&self) -> [u64; 3] {
        self.words
    }

    #[inline]
    pub(super) fn run(self, cx: &Context) {
        // One by one they travel in registers, as an array through the stack.
        let [first, second, third] = self.words;
        (self.function)(cx, first, second, third);
    }
}

/// A handle to the reactor of the current thread. Cheap to clone; never leaves its thread.
#[derive(Clone)]
pub struct Context(pub(super) Rc<Inner>);

/// A reactor. All of it belongs to its thread, but for `remote`.
pub(super) struct Inner {
    pub(super) index: usize,
    pub(super) now: Cell<Tsc>,
    pub(super) account: Account,
    pub(super) pollers: pollers::Pollers<dyn Poller>,
    pub(super) timers: RefCell<TimerHeap<Timer>>,
    /// When the first timer is due; the end of time when there is none.
    pub(super) next_due: Cell<Tsc>,
    pub(super) tasks: Tasks,
    pub(super) links: Links<Message>,
    pub(super) remote: Arc<Remote>,
    /// Made for the first sleep; empty inside when the system refused.
    pub(super) sleeper: OnceCell<Option<Rc<Sleeper>>>,
    pub(super) calls: Cell<u64>,
    pub(super) task_polls: Cell<u64>,
    pub(super) in_round: Cell<bool>,
    closed: Cell<bool>,
    pool: Pool,
}

/// What becomes due.
pub(super) enum Timer {
    Task(Waker),
    Poller(Rc<Entry>),
}

impl Context {
    /// A context without a reactor thread, for unit tests, benchmarks and single-threaded tools: the
    /// owner advances it with [`Context::turn`] or [`Context::block_on`].
    pub fn detached(regions: Arc<Registry>, pool: PoolOptions) -> Context {
        let remote = Arc::new(Remote::new(0, IdlePolicy::Adaptive));
        let links = connect(std::slice::from_ref(&remote.signal)).pop().expect("one reactor");
        Context::new(0, remote, links, Pool::new(regions, pool), HOG_LIMIT_DETACHED)
    }

    pub(super) fn new(
        index: usize,
        remote: Arc<Remote>,
        links: Links<Message>,
        pool: Pool,
        hog_limit: Duration,
    ) -> Context {
        let account = Account::new(hog_limit);
        Context(Rc::new(Inner {
            index,
            now: Cell::new(account.mark()),
            account,
            pollers: pollers::Pollers::default(),
            timers: RefCell::default(),
            next_due: Cell::new(Tsc(u64::MAX)),
            tasks: Tasks::new(Arc::clone(&remote.signal)),
            links,
            remote,
            sleeper: OnceCell::new(),
            calls: Cell::new(0),
            task_polls: Cell::new(0),
            in_round: Cell::new(false),
            closed: Cell::new(false),
            pool,
        }))
    }

    /// Index of this reactor among the process's reactors, from 0.
    #[inline]
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The time of the current poll round: one counter reading, shared by all that runs in the
    /// round.
    #[inline]
    pub fn now(&self) -> Tsc {
        self.0.now.get()
    }

    /// What the reactor does when it has nothing to do: whether a poller that waits for memory to change must also arrange to
    /// be woken. It may change between rounds.
    #[inline]
    pub fn idle_policy(&self) -> IdlePolicy {
        self.0.remote.policy.get()
    }

    /// The reactor's buffers.
    #[inline]
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Runs `poller` in every round, or every `period`, until removed. A reactor that has stopped drops
    /// it at once.
    ///
    /// A periodic poller that comes late skips the turns that it missed.
    pub fn add_poller(
        &self,
        name: &str,
        period: Option<Duration>,
        poller: Box<dyn Poller>,
    ) -> PollerId {
        let period = period.filter(|period| !period.is_zero());
        let Some(period) = period else {
            let id = self.0.pollers.add_active(name, poller);
            self.drop_if_closed(id);
            return id;
        };
        let period = Tsc::ticks(period).max(1);
        let entry = self.0.pollers.add_timed(name, period, poller);
        let id = entry.id;
        self.set_timer_of(entry, Tsc::read().after(period));
        self.drop_if_closed(id);
        id
    }

    pub(super) fn set_timer_of(&self, entry: Rc<Entry>, due: Tsc) {
        let timer = self.add_timer(due, Timer::Poller(Rc::clone(&entry)));
        entry.timer.set(Some(timer));
    }

    fn drop_if_closed(&self, id: PollerId) {
        if self.0.closed.get() {
            self.remove_poller(id);
        }
    }

    /// Drops a poller (at the end of its run, when it is the one that runs). An id that is gone is none
    /// to worry about.
    pub fn remove_poller(&self, id: PollerId) {
        if let Some(timer) = self.0.pollers.remove(id) {
            self.cancel_timer(timer);
        }
    }

    /// Runs `future` on this reactor, detached. A panic in it stops the reactor, and so the process. A
    /// reactor that has stopped drops it at once.
    #[track_caller]
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.0.tasks.spawn(future, Location::caller());
    }

    /// Completes `duration` from now. Dropping it cancels it.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + use<> {
        // Not the round's time: the round may have begun long ago, by a detached context's owner.
        let due = Tsc::read().after(Tsc::ticks(duration));
        Sleep { cx: self.clone(), due, timer: None }
    }

    /// Lets the next round begin, then completes.
    pub fn yield_now(&self) -> impl Future<Output = ()> + use<> {
        let cx = self.clone();
        let mut yielded = false;
        poll_fn(move |task| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.0.tasks.wake_next_round(task.waker());
            Poll::Pending
        })
    }

    /// While the guard lives, a reactor that backed off wakes when `fd` becomes readable. To read it remains
    /// the poller's work, and the poller's report of [`Activity`] what tells that it did.
    ///
    /// # Errors
    /// When `fd` cannot be waited for (a regular file), or the process has no descriptors left.
    pub fn wake_on(&self, fd: BorrowedFd<'_>) -> Result<WakeGuard> {
        match self.sleeper() {
            Some(sleeper) => sleeper.watch(fd),
            None => Err(Error::new(
                ErrorKind::NoSpace,
                "a reactor has no wake-up descriptors (raise the limit of open files)",
            )),
        }
    }

    /// Sends a message to reactor `index`, maybe this one: the fast way, for data. It arrives after the
    /// end of this round, in order with what this reactor sent there before.
    ///
    /// # Errors
    /// Gives the message back when the ring to that reactor is full (try again in a later round), and
    /// when there is no such reactor.
    #[inline]
    pub fn send(&self, index: usize, message: Message) -> std::result::Result<(), Message> {
        self.0.links.send(index, message)
    }

    /// Drops all pollers and tasks of a detached context, and refuses new ones. They commonly hold the
    /// context, so that it would not go by itself.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.0.remote.close();
        self.0.pollers.clear();
        self.0.tasks.close();
        // What is dropped here may drop or add more; `closed` sees to the latter.
        let timers = self.0.timers.take();
        self.0.next_due.set(Tsc(u64::MAX));
        drop(timers);
        self.0.remote.mailbox.clear();
    }

    pub(super) fn add_timer(&self, due: Tsc, timer: Timer) -> TimerId {
        let mut timers = self.0.timers.borrow_mut();
        let id = timers.add(due, timer);
        self.0.next_due.set(timers.next_due().unwrap_or(Tsc(u64::MAX)));
        id
    }

    fn cancel_timer(&self, id: TimerId) {
        let canceled = {
            let mut timers = self.0.timers.borrow_mut();
            let canceled = timers.cancel(id);
            self.0.next_due.set(timers.next_due().unwrap_or(Tsc(u64::MAX)));
            canceled
        };
        // Dropping a waker may run code of ours: not under the borrow.
        drop(canceled);
    }

    pub(super) fn sleeper(&self) -> Option<&Rc<Sleeper>> {
        let made = self.0.sleeper.get_or_init(|| {
            let made = Sleeper::new(Arc::clone(&self.0.remote.signal));
            made.inspect_err(|error| tracing::warn!(%error, "this reactor cannot sleep"))
                .ok()
                .map(Rc::new)
        });
        made.as_ref()
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("index", &self.0.index).finish_non_exhaustive()
    }
}

/// Completes when its time has come.
struct Sleep {
    cx: Context,
    due: Tsc,
    timer: Option<TimerId>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        if self.cx.now() >= self.due {
            return Poll::Ready(());
        }
        let set =
            self.timer.is_some_and(|timer| match self.cx.0.timers.borrow_mut().get_mut(timer) {
                Some(Timer::Task(waker)) => {
                    waker.clone_from(task.waker());
                    true
                }
                _ => false,
            });
        if !set {
            self.timer = Some(self.cx.add_timer(self.due, Timer::Task(task.waker().clone())));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.cx.cancel_timer(timer);
        }
    }
}
