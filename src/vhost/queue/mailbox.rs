//! What the control reactor says to a queue that is polled elsewhere, and what it can see of it.
//!
//! The poller asks one flag per round; only when it is raised does it take the lock.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::{mpsc, oneshot};

use crate::reactor::Reactors;
use crate::vhost::info::Coalescing;
use crate::virtio::memory::GuestMemory;
use crate::virtio::ring::device::{RingFault, RingLog};

/// A descriptor that a front end gave, shared by those who still use it.
pub type SharedFd = Option<Arc<OwnedFd>>;

/// What a queue is told.
pub enum Command {
    /// The guest's memory has changed. Requests in flight stay in the old one.
    Memory(Arc<GuestMemory>),
    /// Interrupts go there.
    Call(SharedFd),
    /// Notifications come from there.
    Kick(SharedFd),
    /// Takes requests, or lets them lie.
    Enable(bool),
    /// When interrupts are held back.
    Coalesce(Coalescing),
    /// Writes of guest memory are logged, or not.
    Log(Option<RingLog>),
    /// The device goes: end what is in flight, close the channel, and fail what comes after that.
    CloseDevice(oneshot::Sender<()>),
    /// Answers when all that was said before is in effect.
    Settle(oneshot::Sender<()>),
    /// Takes no more requests, ends those in flight, and goes away. The answer is where a successor starts.
    Stop(oneshot::Sender<u32>),
}

/// What a driver did to its queue.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The ring cannot be.
    Ring(RingFault),
    /// The chain of this buffer has no room for a header, or none for a status.
    Frame(u16),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Ring(fault) => fault.fmt(f),
            Fault::Frame(id) => write!(f, "buffer {id} holds no header or no status"),
        }
    }
}

impl From<RingFault> for Fault {
    fn from(fault: RingFault) -> Fault {
        Fault::Ring(fault)
    }
}

/// The queue's end of life when it was not asked to.
#[derive(Clone, Copy, Debug)]
pub struct FaultReport {
    /// The queue.
    pub queue: u16,
    /// What its driver did.
    pub fault: Fault,
}

/// Counters of a queue: written by its reactor alone.
#[derive(Debug, Default)]
pub struct Counters {
    in_flight: AtomicU32,
    completed: AtomicU64,
    interrupts: AtomicU64,
    kicks: AtomicU64,
}

impl Counters {
    #[inline]
    pub(super) fn add_completed(&self, count: u64) {
        add(&self.completed, count);
    }

    #[inline]
    pub(super) fn add_interrupt(&self) {
        add(&self.interrupts, 1);
    }

    #[inline]
    pub(super) fn add_kicks(&self, count: u64) {
        add(&self.kicks, count);
    }

    #[inline]
    pub(super) fn set_in_flight(&self, count: u32) {
        self.in_flight.store(count, Ordering::Relaxed);
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests completed.
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Interrupts sent.
    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Relaxed)
    }

    /// Notifications received.
    pub fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::Relaxed)
    }
}

/// There is one writer: no read-modify-write.
#[inline]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// What both sides of a queue share.
#[derive(Default)]
pub struct Mailbox {
    raised: AtomicBool,
    commands: Mutex<Vec<Command>>,
    /// How the queue is doing.
    pub counters: Counters,
}

impl Mailbox {
    fn commands(&self) -> MutexGuard<'_, Vec<Command>> {
        // Nothing panics while it holds the lock.
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is anything to read: one load.
    #[inline]
    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// All that was said since the last time.
    pub(super) fn take(&self) -> Vec<Command> {
        let mut commands = self.commands();
        self.raised.store(false, Ordering::Relaxed);
        std::mem::take(&mut *commands)
    }

    fn put(&self, command: Command) {
        let mut commands = self.commands();
        commands.push(command);
        self.raised.store(true, Ordering::Relaxed);
    }
}

/// The control reactor's handle of a queue that is polled.
pub struct QueueHandle {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) reactors: Reactors,
    pub(super) reactor: usize,
}

impl QueueHandle {
    /// The reactor that polls it.
    pub fn reactor(&self) -> usize {
        self.reactor
    }

    /// How it is doing.
    pub fn counters(&self) -> &Counters {
        &self.mailbox.counters
    }

    /// Says something to the queue, which hears it in its reactor's next round.
    pub fn tell(&self, command: Command) {
        self.mailbox.put(command);
        // For a reactor that sleeps. One that has stopped polls nothing any more; one with too many calls is awake.
        let _ = self.reactors.post(self.reactor, |_| {});
    }

    /// Lets the queue end what it has in flight and go. Returns where a successor starts; `None` when its
    /// reactor has stopped.
    pub async fn stop(&self) -> Option<u32> {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Stop(sender));
        receiver.await.ok()
    }

    /// Completes when all that the queue was told is in effect.
    pub async fn settled(&self) {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Settle(sender));
        // A queue that is gone does nothing by what it was told before.
        let _ = receiver.await;
    }

    /// Lets the queue go on without its device. Completes when it has let go of it.
    pub async fn close_device(&self) {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::CloseDevice(sender));
        // Gone is as good as closed.
        let _ = receiver.await;
    }
}

/// Where queues report their faults.
pub type Faults = mpsc::UnboundedSender<FaultReport>;
