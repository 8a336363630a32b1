//! A controller's queue pairs and the reactors that have them.
//!
//! The controller makes its pairs when it is attached, one for each reactor if the device has as many. A pair is
//! with the controller until a reactor opens a queue; then that reactor owns it, and all who open queues
//! on the controller there share it; with the last of them it comes back. The controller reaches a pair on
//! another reactor by a call that runs there between polls, so that a pair is never touched by two
//! threads and needs no lock.

use std::cell::{RefCell, RefMut};
use std::mem::ManuallyDrop;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::mpsc::UnboundedSender;
use tracing::{error, warn};

use super::pair::{Done, QueuePair};
use super::slots::OwnerId;
use super::trouble::Trouble;
use crate::base::{Error, ErrorKind, Result, Status};
use crate::reactor::{Context, Reactors, Tsc};

/// How long the drop of a queue with commands outstanding waits for the device.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    /// The pairs of this thread's reactor, by controller.
    static PAIRS: RefCell<Vec<(u64, Weak<RefCell<QueuePair>>)>> = const { RefCell::new(Vec::new()) };
}

/// Who asks for what of the controller.
#[derive(Debug)]
pub(super) enum Event {
    /// A queue pair met something that only the controller can mend.
    Trouble(Trouble),
    /// Somebody gave an order.
    Order,
}

/// What the reactors share of a controller.
pub(super) struct Link {
    id: u64,
    address: String,
    reactors: Option<Reactors>,
    pairs: Mutex<Pairs>,
    events: UnboundedSender<Event>,
}

struct Pairs {
    state: State,
    seats: Vec<Seat>,
}

/// What a pair is told that was not there when all were told.
#[derive(Clone, Copy)]
enum State {
    Live,
    Frozen,
    Dead(Status),
}

/// Where the pair of a queue identifier is.
struct Seat {
    id: u16,
    place: Place,
}

enum Place {
    /// With the controller.
    Free(Box<QueuePair>),
    /// On this reactor.
    On(usize),
}

impl Link {
    pub(super) fn new(
        address: &str,
        reactors: Option<Reactors>,
        events: UnboundedSender<Event>,
    ) -> Arc<Link> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Link {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            address: address.to_owned(),
            reactors,
            pairs: Mutex::new(Pairs { state: State::Live, seats: Vec::new() }),
            events,
        })
    }

    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        // No code panics while it holds the lock with the list in pieces.
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the controller.
    pub(super) fn send(&self, event: Event) {
        // When the controller is gone, so is the reason to tell it.
        let _ = self.events.unbounded_send(event);
    }

    /// Adds a pair that the controller made.
    pub(super) fn add(&self, pair: QueuePair) {
        let id = pair.id();
        self.pairs().seats.push(Seat { id, place: Place::Free(Box::new(pair)) });
    }

    /// How many pairs there are.
    pub(super) fn pair_count(&self) -> usize {
        self.pairs().seats.len()
    }

    /// Calls `each` once for every pair, on the reactor that has it. One that changes hands meanwhile is looked for
    /// again.
    pub(super) async fn for_each<T: Send + 'static>(
        &self,
        cx: &Context,
        each: impl Fn(&mut QueuePair) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let mut results = Vec::new();
        let mut visited: Vec<u16> = Vec::new();
        loop {
            let mut elsewhere: Vec<(usize, u16)> = Vec::new();
            for seat in &mut self.pairs().seats {
                match &mut seat.place {
                    _ if visited.contains(&seat.id) => {}
                    Place::Free(pair) => {
                        results.push(each(pair));
                        visited.push(seat.id);
                    }
                    Place::On(reactor) => elsewhere.push((*reactor, seat.id)),
                }
            }
            if elsewhere.is_empty() {
                return results;
            }
            let mut calls = Vec::new();
            for (reactor, queue) in elsewhere {
                let (id, each) = (self.id, each.clone());
                match &self.reactors {
                    Some(reactors) if reactor != cx.index() => {
                        let call = reactors.call(reactor, move |_| for_local(id, queue, each));
                        calls.push((queue, call));
                    }
                    _ => {
                        // Nothing changes hands on this thread meanwhile: it is here, or out of reach.
                        results.extend(for_local(id, queue, each));
                        visited.push(queue);
                    }
                }
            }
            for (queue, call) in calls {
                match call.await {
                    Ok(Some(result)) => {
                        results.push(result);
                        visited.push(queue);
                    }
                    // It was given back before the call ran.
                    Ok(None) => {}
                    // A reactor that has stopped polls no pair any more.
                    Err(_) => visited.push(queue),
                }
            }
        }
    }

    /// Freezes every pair: when this completes, no reactor touches the device.
    pub(super) async fn freeze(&self, cx: &Context) {
        self.pairs().state = State::Frozen;
        self.for_each(cx, QueuePair::freeze).await;
    }

    /// Every pair goes on; `thaw` does so with one.
    pub(super) async fn thaw(
        &self,
        cx: &Context,
        thaw: impl Fn(&mut QueuePair) + Clone + Send + 'static,
    ) {
        self.pairs().state = State::Live;
        self.for_each(cx, thaw).await;
    }

    /// Every pair ends what it has, and what comes, with `status`.
    pub(super) async fn die(&self, cx: &Context, status: Status) {
        self.pairs().state = State::Dead(status);
        self.for_each(cx, move |pair| pair.die(status)).await;
    }
}

/// Calls `each` for the pair of queue `queue`, if this thread's reactor has it.
fn for_local<T>(id: u64, queue: u16, each: impl Fn(&mut QueuePair) -> T) -> Option<T> {
    let pair = local(id)?;
    let mut pair = pair.borrow_mut();
    (pair.id() == queue).then(|| each(&mut pair))
}

/// The pair of a controller that this thread's reactor has.
fn local(id: u64) -> Option<Rc<RefCell<QueuePair>>> {
    PAIRS.with_borrow(|pairs| {
        let mut of_controller = pairs.iter().filter(|(other, _)| *other == id);
        of_controller.find_map(|(_, pair)| pair.upgrade())
    })
}

/// The use of a controller's queue pair by one owner, on one reactor.
pub(super) struct PairHandle {
    pair: ManuallyDrop<Rc<RefCell<QueuePair>>>,
    owner: OwnerId,
    link: Arc<Link>,
}

impl PairHandle {
    /// The pair of this reactor: the one that others here use, or one that is free.
    ///
    /// # Errors
    /// `NoSpace` when all of the controller's queues are on other reactors.
    pub(super) fn open(link: &Arc<Link>, cx: &Context) -> Result<PairHandle> {
        let pair = match local(link.id) {
            Some(pair) => pair,
            None => link.take_free(cx)?,
        };
        let owner = pair.borrow_mut().add_owner();
        Ok(PairHandle { pair: ManuallyDrop::new(pair), owner, link: Arc::clone(link) })
    }

    /// The pair.
    #[inline]
    pub(super) fn get(&self) -> RefMut<'_, QueuePair> {
        self.pair.borrow_mut()
    }

    /// Who we are there.
    #[inline]
    pub(super) fn owner(&self) -> OwnerId {
        self.owner
    }
}

impl Link {
    fn take_free(&self, cx: &Context) -> Result<Rc<RefCell<QueuePair>>> {
        let mut pairs = self.pairs();
        let free = pairs.seats.iter_mut().find(|seat| matches!(seat.place, Place::Free(_)));
        let Some(seat) = free else {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{}: all {} I/O queues of the controller are in use by other reactors",
                    self.address,
                    pairs.seats.len()
                ),
            ));
        };
        let Place::Free(pair) = std::mem::replace(&mut seat.place, Place::On(cx.index())) else {
            unreachable!("matched above");
        };
        let pair = Rc::new(RefCell::new(*pair));
        PAIRS.with_borrow_mut(|pairs| {
            pairs.retain(|(_, pair)| pair.strong_count() > 0);
            pairs.push((self.id, Rc::downgrade(&pair)));
        });
        Ok(pair)
    }

    fn give_back(&self, mut pair: QueuePair) {
        let mut pairs = self.pairs();
        match pairs.state {
            State::Live => {}
            State::Frozen => pair.freeze(),
            State::Dead(status) => pair.die(status),
        }
        let id = pair.id();
        if let Some(seat) = pairs.seats.iter_mut().find(|seat| seat.id == id) {
            seat.place = Place::Free(Box::new(pair));
        }
    }
}

impl Drop for PairHandle {
    fn drop(&mut self) {
        let deadline = Tsc::read().after(Tsc::ticks(DROP_PATIENCE));
        // Whoever closes a queue has waited for its requests, unless the process ends. Then memory must not
        // go away under the device: the commands are waited for here.
        let mut told = false;
        while self.pair.borrow().owes(self.owner) {
            if !std::mem::replace(&mut told, true) {
                warn!(
                    controller = self.link.address,
                    "a queue is dropped with commands outstanding"
                );
            }
            let now = Tsc::read();
            self.pair.borrow_mut().poll(self.owner, now.0, usize::MAX, |_: Done| {});
            if now > deadline {
                error!(
                    controller = self.link.address,
                    "commands are still outstanding at the end; the process stops before their memory goes"
                );
                std::process::abort();
            }
        }
        self.pair.borrow_mut().remove_owner(self.owner);
        // SAFETY: taken once, here; nothing uses the field after.
        let pair = unsafe { ManuallyDrop::take(&mut self.pair) };
        if let Some(pair) = Rc::into_inner(pair) {
            self.link.give_back(pair.into_inner());
        }
    }
}
