//! A controller's virtqueues and the reactors that have them.
//!
//! The controller makes all of its queues when it is attached. A queue is with the controller until a reactor opens a
//! bdev queue; then that reactor owns it, and all who open queues on the device there share it; with the last of them it
//! comes back. The controller reaches a queue on another reactor by a call that runs there between polls, so that
//! a queue is never touched by two threads and needs no lock.

use std::cell::{RefCell, RefMut};
use std::mem::ManuallyDrop;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{error, warn};

use super::any_queue::AnyQueue;
use crate::base::{Error, ErrorKind, Result, Status};
use crate::bdev::request::Completions;
use crate::memory::RegionId;
use crate::reactor::{Context, Reactors, Tsc};

/// How long the drop of a queue with requests outstanding waits for the device.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    /// The queues of this thread's reactor, by controller.
    static QUEUES: RefCell<Vec<(u64, Weak<RefCell<AnyQueue>>)>> = const { RefCell::new(Vec::new()) };
}

/// What the reactors share of a controller.
pub(super) struct Link {
    id: u64,
    /// The device's socket, for messages.
    address: String,
    reactors: Option<Reactors>,
    queues: Mutex<Queues>,
}

/// What a queue is told that was not there when all were told.
#[derive(Clone, Debug)]
enum State {
    Live,
    Frozen,
    Dead(Status),
}

struct Queues {
    state: State,
    /// What the device was told of: for queues that were on their way meanwhile.
    seats: Vec<Seat>,
}

/// Where a queue is.
struct Seat {
    index: u16,
    place: Place,
}

enum Place {
    /// With the controller.
    Free(Box<AnyQueue>),
    /// On this reactor.
    On(usize),
}

impl Link {
    pub(super) fn new(
        address: &str,
        reactors: Option<Reactors>,
        queues: Vec<AnyQueue>,
    ) -> Arc<Link> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let seat =
            |queue: AnyQueue| Seat { index: queue.index(), place: Place::Free(Box::new(queue)) };
        Arc::new(Link {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            address: address.to_owned(),
            reactors,
            queues: Mutex::new(Queues {
                state: State::Live,
                seats: queues.into_iter().map(seat).collect(),
            }),
        })
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        // No code panics while it holds the lock with the list in pieces.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `each` once for every queue, on the reactor that has it. One that changes hands meanwhile is looked for
    /// again.
    pub(super) async fn for_each<T: Send + 'static>(
        &self,
        cx: &Context,
        each: impl Fn(&mut AnyQueue) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let mut results = Vec::new();
        let mut visited: Vec<u16> = Vec::new();
        loop {
            let mut elsewhere: Vec<(usize, u16)> = Vec::new();
            for seat in &mut self.queues().seats {
                match &mut seat.place {
                    _ if visited.contains(&seat.index) => {}
                    Place::Free(queue) => {
                        results.push(each(queue));
                        visited.push(seat.index);
                    }
                    Place::On(reactor) => elsewhere.push((*reactor, seat.index)),
                }
            }
            if elsewhere.is_empty() {
                return results;
            }
            let mut calls = Vec::new();
            for (reactor, index) in elsewhere {
                let (id, each) = (self.id, each.clone());
                match &self.reactors {
                    Some(reactors) if reactor != cx.index() => {
                        let call = reactors.call(reactor, move |_| for_local(id, index, each));
                        calls.push((index, call));
                    }
                    _ => {
                        // Nothing changes hands on this thread meanwhile: it is here, or out of reach.
                        results.extend(for_local(id, index, each));
                        visited.push(index);
                    }
                }
            }
            for (index, call) in calls {
                match call.await {
                    Ok(Some(result)) => {
                        results.push(result);
                        visited.push(index);
                    }
                    // It was given back before the call ran.
                    Ok(None) => {}
                    // A reactor that has stopped polls no queue any more.
                    Err(_) => visited.push(index),
                }
            }
        }
    }

    /// Freezes every queue: when this completes, none waits for the device.
    pub(super) async fn freeze(&self, cx: &Context) {
        self.queues().state = State::Frozen;
        self.for_each(cx, AnyQueue::freeze).await;
    }

    /// Every queue goes on.
    pub(super) async fn thaw(&self, cx: &Context) {
        self.queues().state = State::Live;
        self.for_each(cx, AnyQueue::thaw).await;
    }

    /// Every queue ends what it has, and what comes, with `status`.
    pub(super) async fn die(&self, cx: &Context, status: Status) {
        self.queues().state = State::Dead(status);
        self.for_each(cx, move |queue| queue.die(status)).await;
    }

    /// Every queue hears that the device was told of a region, or cannot be.
    pub(super) async fn answer(&self, cx: &Context, id: RegionId, told: bool) {
        self.for_each(cx, move |queue| {
            if told {
                queue.set_region(id);
            }
            queue.answer(id);
        })
        .await;
    }

    /// Every queue hears that these regions go.
    pub(super) async fn remove_regions(&self, cx: &Context, ids: Vec<RegionId>) {
        self.for_each(cx, move |queue| ids.iter().for_each(|&id| queue.clear_region(id))).await;
    }

    fn take_free(&self, cx: &Context) -> Result<Rc<RefCell<AnyQueue>>> {
        let mut queues = self.queues();
        let free = queues.seats.iter_mut().find(|seat| matches!(seat.place, Place::Free(_)));
        let Some(seat) = free else {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{}: all {} virtqueues of the device are in use by other reactors (attach it with a greater \
                     vq_count, if its back end has more)",
                    self.address,
                    queues.seats.len()
                ),
            ));
        };
        let Place::Free(queue) = std::mem::replace(&mut seat.place, Place::On(cx.index())) else {
            unreachable!("matched above");
        };
        let queue = Rc::new(RefCell::new(*queue));
        QUEUES.with_borrow_mut(|queues| {
            queues.retain(|(_, queue)| queue.strong_count() > 0);
            queues.push((self.id, Rc::downgrade(&queue)));
        });
        Ok(queue)
    }

    fn give_back(&self, mut queue: AnyQueue) {
        let mut queues = self.queues();
        match queues.state {
            State::Live => {}
            State::Frozen => queue.freeze(),
            State::Dead(status) => queue.die(status),
        }
        let index = queue.index();
        if let Some(seat) = queues.seats.iter_mut().find(|seat| seat.index == index) {
            seat.place = Place::Free(Box::new(queue));
        }
    }
}

/// Calls `each` for queue `index`, if this thread's reactor has it.
fn for_local<T>(id: u64, index: u16, each: impl Fn(&mut AnyQueue) -> T) -> Option<T> {
    let queue = local(id)?;
    let mut queue = queue.borrow_mut();
    (queue.index() == index).then(|| each(&mut queue))
}

/// The queue of a controller that this thread's reactor has.
fn local(id: u64) -> Option<Rc<RefCell<AnyQueue>>> {
    QUEUES.with_borrow(|queues| {
        let mut of_controller = queues.iter().filter(|(other, _)| *other == id);
        of_controller.find_map(|(_, queue)| queue.upgrade())
    })
}

/// The use of a controller's virtqueue by one owner, on one reactor.
pub(super) struct QueueHandle {
    queue: ManuallyDrop<Rc<RefCell<AnyQueue>>>,
    owner: u16,
    link: Arc<Link>,
}

impl QueueHandle {
    /// The queue of this reactor: the one that others here use, or one that is free.
    ///
    /// # Errors
    /// `NoSpace` when all of the device's queues are on other reactors.
    pub(super) fn open(link: &Arc<Link>, cx: &Context) -> Result<QueueHandle> {
        let queue = match local(link.id) {
            Some(queue) => queue,
            None => link.take_free(cx)?,
        };
        let owner = queue.borrow_mut().add_owner();
        Ok(QueueHandle { queue: ManuallyDrop::new(queue), owner, link: Arc::clone(link) })
    }

    /// The queue.
    #[inline]
    pub(super) fn get(&self) -> RefMut<'_, AnyQueue> {
        self.queue.borrow_mut()
    }

    /// Who we are there.
    #[inline]
    pub(super) fn owner(&self) -> u16 {
        self.owner
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        let deadline = Tsc::read().after(Tsc::ticks(DROP_PATIENCE));
        // Whoever closes a queue has waited for its requests, unless the process ends. Then memory must not
        // go away under the device: the requests are waited for here, while there is a device.
        let mut told = false;
        let mut done = Completions::with_capacity(64);
        while self.queue.borrow().owes(self.owner) {
            if !std::mem::replace(&mut told, true) {
                warn!(socket = self.link.address, "a queue is dropped with requests outstanding");
            }
            done.clear();
            self.queue.borrow_mut().poll(self.owner, &mut done);
            if Tsc::read() > deadline {
                error!(
                    socket = self.link.address,
                    "requests are still outstanding at the end; the process stops before their memory goes"
                );
                std::process::abort();
            }
        }
        self.queue.borrow_mut().remove_owner(self.owner);
        // SAFETY: taken once, here; nothing uses the field after.
        let queue = unsafe { ManuallyDrop::take(&mut self.queue) };
        if let Some(queue) = Rc::into_inner(queue) {
            self.link.give_back(queue.into_inner());
        }
    }
}
