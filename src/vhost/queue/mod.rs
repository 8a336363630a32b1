//! A virtqueue that a reactor polls: chains become requests of the bdev, completions become used buffers.
//!
//! Owned by one reactor. A poll round takes what the device has finished, then what the guest has made available, in
//! batches; it copies no payload, and makes a system call only to interrupt a guest that wants it. The guest is
//! told not to notify while the queue is polled; before its reactor may sleep, the queue asks to be notified.
//!
//! Invariants: a buffer that the ring has handed out has a slot, and is given back once; the guest's memory
//! that a slot was read in is kept until then.

mod interrupts;
mod mailbox;
mod request;
mod slots;
mod start;

use std::cell::Cell;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use rustix::io::{ReadWriteFlags, preadv2};

use self::interrupts::Interrupts;
pub use self::mailbox::{Command, Fault, FaultReport, QueueHandle, SharedFd};
use self::mailbox::{Faults, Mailbox};
use self::request::{Frame, Step, next_range};
use self::slots::{Room, Slot};
pub use self::start::QueueStart;
use crate::base::Status;
use crate::bdev::{Channel, Completions, Queue, Request};
use crate::memory::copy::prefetch;
use crate::reactor::{Activity, Context, IdlePolicy, Poller, PollerId, Tsc, WakeGuard};
use crate::vhost::disk::Disk;
use crate::virtio::dirty_log::DirtyLog;
use crate::virtio::memory::{GuestMemory, GuestRegion};
use crate::virtio::ring::device::{DeviceRing, Piece};
use crate::virtio::spec::block::{RequestStatus, RequestType};

/// Most buffers that one round takes from a ring, so that the queues of a reactor take turns.
const BATCH: usize = 64;

/// How long a queue must have been quiet before it asks for notifications: a guest that is at work pays for each.
const QUIET: Duration = Duration::from_micros(50);

/// How often the notifications of a quiet queue are taken off its descriptor.
const KICK_PERIOD: Duration = Duration::from_micros(100);

/// A virtqueue at work.
struct VirtQueue<R> {
    index: u16,
    ring: R,
    phase: Phase,
    device: Device,
    /// How many requests were made of buffers and not answered yet.
    live: u32,
    disk: Arc<Disk>,
    memory: Arc<GuestMemory>,
    /// Keeps the ring itself mapped.
    _ring_regions: Vec<Arc<GuestRegion>>,
    memory_epoch: u32,
    /// Memories of before that requests in flight lie in.
    old_memories: Vec<OldMemory>,
    slots: Box<[Slot]>,
    rooms: Box<[Room]>,
    /// Not taken by the channel yet.
    staged: Vec<Request>,
    completions: Completions,
    chains: Box<[Vec<Piece>; BATCH]>,
    ids: [u16; BATCH],
    /// Given back since the last publishing.
    completed: u64,
    log: Option<Arc<DirtyLog>>,
    interrupts: Interrupts,
    notifications: Notifications,
    faults: Faults,
    mailbox: Arc<Mailbox>,
    id: Rc<Cell<Option<PollerId>>>,
}

/// Whether new buffers are taken.
enum Phase {
    /// They are.
    Running,
    /// Not for now.
    Disabled,
    /// Never again: the driver must reset the device.
    Faulted,
    /// Never again: the queue goes when nothing is in flight.
    Stopping(oneshot::Sender<u32>),
}

/// The way to the device.
enum Device {
    /// There it is.
    Open(Channel),
    /// It goes when nothing is outstanding; it gets nothing more.
    Closing(Channel, oneshot::Sender<()>),
    /// It is gone: what it would have to do fails.
    Gone,
}

impl Device {
    #[inline]
    fn channel(&mut self) -> Option<&mut Channel> {
        match self {
            Device::Open(channel) | Device::Closing(channel, _) => Some(channel),
            Device::Gone => None,
        }
    }
}

struct OldMemory {
    memory: Arc<GuestMemory>,
    epoch: u32,
    in_flight: u32,
}

/// How the guest's notifications arrive, and whether it sends any.
struct Notifications {
    kick: SharedFd,
    /// Lets them end the reactor's sleep.
    wake: Option<WakeGuard>,
    armed: bool,
    /// When there was last anything to do.
    busy: Tsc,
    looked: Tsc,
    /// [`QUIET`] and [`KICK_PERIOD`] in ticks.
    quiet: u64,
    period: u64,
}

impl Notifications {
    fn new(kick: SharedFd, cx: &Context) -> Notifications {
        let mut notifications = Notifications {
            kick: None,
            wake: None,
            armed: false,
            busy: cx.now(),
            looked: cx.now(),
            quiet: Tsc::ticks(QUIET),
            period: Tsc::ticks(KICK_PERIOD),
        };
        notifications.set_kick(kick, cx);
        notifications
    }

    fn set_kick(&mut self, kick: SharedFd, cx: &Context) {
        // One that cannot be waited for leaves the queue to be polled.
        self.wake = kick.as_ref().and_then(|kick| cx.wake_on(kick.as_fd()).ok());
        self.kick = kick;
    }

    /// Takes what has arrived. Returns how many.
    fn take(&mut self, now: Tsc) -> u64 {
        self.looked = now;
        let Some(kick) = &self.kick else { return 0 };
        let mut count = [0; 8];
        // The descriptor may be one that blocks: whether it is, is the front end's choice, at any time. It has no
        // place, which is what the offset says.
        let at_once = ReadWriteFlags::NOWAIT;
        match preadv2(&**kick, &mut [IoSliceMut::new(&mut count)], u64::MAX, at_once) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }
}

impl<R: DeviceRing> Poller for VirtQueue<R> {
    fn poll(&mut self, cx: &Context) -> Activity {
        if self.mailbox.is_raised() {
            self.read_mail(cx);
        }
        let mut activity = self.reap();
        if self.staged.is_empty()
            && let Phase::Running = self.phase
        {
            match self.accept() {
                Ok(0) => {}
                Ok(_) => activity = Activity::Busy,
                Err(fault) => self.fail(fault),
            }
        }
        if !self.staged.is_empty() {
            self.submit();
            // A device that completes at once saves its guest a round.
            activity = activity.max(self.reap());
        }
        if self.completed > 0 {
            self.publish(cx.now());
            activity = Activity::Busy;
        }
        if self.interrupts.are_due(cx.now()) {
            self.interrupt();
        }
        if let Device::Closing(..) = self.device {
            self.settle_device();
        }
        if activity == Activity::Busy {
            self.notifications.busy = cx.now();
            return Activity::Busy;
        }
        activity.max(self.rest(cx))
    }
}

impl<R: DeviceRing> VirtQueue<R> {
    /// Takes buffers that the guest has made available, and makes requests of them.
    #[inline]
    fn accept(&mut self) -> Result<usize, Fault> {
        let count = self.ring.fetch(&mut self.ids)?;
        if count == 0 {
            return Ok(0);
        }
        if self.notifications.armed {
            self.ring.disarm();
            self.notifications.armed = false;
        }
        // First all tables, then all chains, then all headers: each step finds in the cache what the one before has asked
        // for.
        if count > 1 {
            for id in &self.ids[..count] {
                self.ring.prefetch(*id, &self.memory);
            }
        }
        for index in 0..count {
            let chain = &mut self.chains[index];
            self.ring.chain(self.ids[index], &self.memory, chain)?;
            if let Some(header) = chain.first()
                && let Some(address) = self.memory.translate(header.address, 1)
            {
                prefetch(address.as_ptr());
            }
        }
        for index in 0..count {
            self.start(self.ids[index], index)?;
        }
        self.mailbox.counters.set_in_flight(self.live);
        Ok(count)
    }

    #[inline]
    fn start(&mut self, id: u16, chain: usize) -> Result<(), Fault> {
        let frame = Frame::read(&mut self.chains[chain], &self.memory);
        let frame = frame.ok_or(Fault::Frame(id))?;
        let slot = &mut self.slots[usize::from(id)];
        let room = &mut self.rooms[usize::from(id)];
        let step = frame.start(id, &self.memory, &self.disk, slot, room);
        slot.memory_epoch = self.memory_epoch;
        self.live += 1;
        self.take_step(id, step);
        Ok(())
    }

    #[inline]
    fn take_step(&mut self, id: u16, step: Step) {
        match (step, &self.device) {
            (Step::Submit(request), Device::Open(_)) => self.staged.push(request),
            (Step::Submit(_), _) => self.answer(id, RequestStatus::IoError),
            (Step::Done(status), _) => self.answer(id, status),
        }
    }

    /// Hands the channel what it takes now.
    #[inline]
    fn submit(&mut self) {
        let Some(channel) = self.device.channel() else { return };
        let taken = channel.submit(&mut self.staged);
        if taken == self.staged.len() {
            self.staged.clear();
        } else {
            self.staged.drain(..taken);
        }
    }

    /// Takes what the device has finished.
    #[inline]
    fn reap(&mut self) -> Activity {
        let Some(channel) = self.device.channel() else { return Activity::Idle };
        let activity = channel.poll(&mut self.completions);
        for index in 0..self.completions.len() {
            let completion = &self.completions.as_slice()[index];
            let (id, status) = (completion.token as u16, completion.status);
            self.finish(id, status);
        }
        self.completions.clear();
        activity
    }

    #[inline]
    fn finish(&mut self, id: u16, status: Status) {
        let slot = &mut self.slots[usize::from(id)];
        if slot.ranges > 0 && status.is_success() {
            let room = &mut self.rooms[usize::from(id)];
            if let Some(step) = next_range(id, &self.disk, slot, room) {
                return self.take_step(id, step);
            }
        }
        self.answer(
            id,
            match status {
                Status::SUCCESS => RequestStatus::Ok,
                Status::INVALID_OPCODE => RequestStatus::Unsupported,
                _ => RequestStatus::IoError,
            },
        );
    }

    /// Gives a buffer back.
    #[inline]
    fn answer(&mut self, id: u16, status: RequestStatus) {
        let slot = &self.slots[usize::from(id)];
        // SAFETY: the memory of the slot's epoch is kept until its request has been answered.
        unsafe { slot.answer(status) };
        if self.log.is_some() {
            self.log_writes(id);
        }
        let slot = &self.slots[usize::from(id)];
        self.ring.complete(id, slot.written);
        self.completed += 1;
        self.live -= 1;
        if slot.memory_epoch != self.memory_epoch {
            self.leave_old_memory(slot.memory_epoch);
        }
    }

    /// Shows the guest what was given back.
    #[inline]
    fn publish(&mut self, now: Tsc) {
        self.ring.publish();
        self.mailbox.counters.add_completed(self.completed);
        self.mailbox.counters.set_in_flight(self.live);
        self.interrupts.published(self.completed, now);
        self.completed = 0;
    }

    #[inline]
    fn interrupt(&mut self) {
        self.interrupts.settle();
        if self.ring.take_interrupt() {
            self.interrupts.send(&self.mailbox.counters);
        }
    }

    /// Nothing to do just now: sees to it that what comes next is noticed.
    fn rest(&mut self, cx: &Context) -> Activity {
        if !self.staged.is_empty() || self.interrupts.are_held_back() {
            return Activity::Waiting;
        }
        if let Phase::Stopping(_) = self.phase
            && self.live == 0
        {
            self.leave(cx);
            return Activity::Busy;
        }
        let Phase::Running = self.phase else { return Activity::Idle };
        let now = cx.now();
        let notifications = &mut self.notifications;
        if notifications.armed {
            if now.since(notifications.looked) < notifications.period {
                return Activity::Idle;
            }
            let kicks = notifications.take(now);
            self.mailbox.counters.add_kicks(kicks);
            return if kicks > 0 { Activity::Busy } else { Activity::Idle };
        }
        if cx.idle_policy() == IdlePolicy::Poll {
            return Activity::Idle;
        }
        if notifications.wake.is_none() || now.since(notifications.busy) < notifications.quiet {
            return Activity::Waiting;
        }
        let kicks = notifications.take(now);
        self.mailbox.counters.add_kicks(kicks);
        if self.ring.arm() {
            // It came just now, maybe without a notification.
            self.ring.disarm();
            return Activity::Busy;
        }
        self.notifications.armed = true;
        Activity::Idle
    }

    #[cold]
    fn fail(&mut self, fault: Fault) {
        self.phase = Phase::Faulted;
        // Requests of this batch that were made before the fault are in order. The session may be gone.
        let _ = self.faults.unbounded_send(FaultReport { queue: self.index, fault });
    }

    #[cold]
    fn read_mail(&mut self, cx: &Context) {
        for command in self.mailbox.take() {
            match command {
                Command::Memory(memory) => self.follow_memory(memory),
                Command::Call(call) => {
                    self.interrupts.set_call(call);
                    // What was published before may have interrupted nobody.
                    self.interrupts.send(&self.mailbox.counters);
                }
                Command::Kick(kick) => self.notifications.set_kick(kick, cx),
                Command::Enable(on) => match (&self.phase, on) {
                    (Phase::Disabled, true) => self.phase = Phase::Running,
                    (Phase::Running, false) => self.phase = Phase::Disabled,
                    _ => {}
                },
                Command::Coalesce(coalescing) => self.interrupts.set_coalescing(coalescing),
                Command::Log(log) => {
                    self.log = log.as_ref().map(|log| Arc::clone(&log.log));
                    self.ring.set_log(log);
                }
                Command::CloseDevice(closed) => self.close_device(closed),
                Command::Settle(settled) => {
                    // Whoever asked may have gone.
                    let _ = settled.send(());
                }
                Command::Stop(stopped) => self.phase = Phase::Stopping(stopped),
            }
        }
    }

    fn follow_memory(&mut self, memory: Arc<GuestMemory>) {
        let old = std::mem::replace(&mut self.memory, memory);
        let in_flight = self.live - self.old_memories.iter().map(|old| old.in_flight).sum::<u32>();
        if in_flight > 0 {
            let epoch = self.memory_epoch;
            self.old_memories.push(OldMemory { memory: old, epoch, in_flight });
        }
        self.memory_epoch = self.memory_epoch.wrapping_add(1);
    }

    fn close_device(&mut self, closed: oneshot::Sender<()>) {
        self.device = match std::mem::replace(&mut self.device, Device::Gone) {
            Device::Open(channel) => Device::Closing(channel, closed),
            other => {
                // It was gone already. Whoever asks may have gone, too.
                let _ = closed.send(());
                other
            }
        };
    }

    /// Lets go of a device that goes, once it has answered everything.
    #[cold]
    fn settle_device(&mut self) {
        let idle = self.staged.is_empty()
            && self.device.channel().is_some_and(|channel| channel.outstanding() == 0);
        if !idle {
            return;
        }
        if let Device::Closing(channel, closed) = std::mem::replace(&mut self.device, Device::Gone)
        {
            drop(channel);
            let _ = closed.send(());
        }
    }

    /// A request in a memory of before has ended.
    #[cold]
    fn leave_old_memory(&mut self, epoch: u32) {
        if let Some(index) = self.old_memories.iter().position(|old| old.epoch == epoch) {
            let old = &mut self.old_memories[index];
            old.in_flight -= 1;
            if old.in_flight == 0 {
                self.old_memories.swap_remove(index);
            }
        }
    }

    /// Marks the pages that a request has written.
    #[cold]
    fn log_writes(&mut self, id: u16) {
        let slot = self.slots[usize::from(id)];
        let Some(log) = &self.log else { return };
        let memory = self
            .old_memories
            .iter()
            .find(|old| old.epoch == slot.memory_epoch)
            .map_or(&self.memory, |old| &old.memory);
        let mark = |address: *const u8, length: u32| {
            if let Some(address) = memory.guest_address(address) {
                log.mark(address, length.into());
            }
        };
        mark(slot.status.as_ptr(), 1);
        if !matches!(slot.kind, RequestType::In | RequestType::GetId) {
            return;
        }
        if slot.segments == 1 {
            return mark(slot.first.address(), slot.first.len());
        }
        for segment in &self.rooms[usize::from(id)].segments()[..usize::from(slot.segments)] {
            // SAFETY: a request has filled as many segments as its slot says.
            let segment = unsafe { segment.assume_init() };
            mark(segment.address(), segment.len());
        }
    }

    /// The end: tells where a successor starts, and removes the poller.
    #[cold]
    fn leave(&mut self, cx: &Context) {
        if let Phase::Stopping(stopped) = std::mem::replace(&mut self.phase, Phase::Faulted) {
            // The device is let go of before anybody hears of it.
            self.device = Device::Gone;
            let _ = stopped.send(self.ring.base());
        }
        if let Some(id) = self.id.get() {
            cx.remove_poller(id);
        }
    }
}
