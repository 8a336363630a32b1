//! One front end: its messages in order, and what they make of the queues.
//!
//! A session is a task of the control reactor. It alone changes its state, one event at a time: a message, a fault
//! of a queue, an order of the controller's. It never blocks, and a front end that sends half a message, or none,
//! holds up nobody.
//!
//! When the front end goes, the session ends what is in flight, and answers it in the guest's memory, which outlives the
//! connection. Until then no later session of the same controller starts a queue: a write that is still under way
//! must not come after one that its guest made since.

mod messages;
mod rings;
mod state;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_lite::{FutureExt, StreamExt};
use tracing::{debug, info, warn};

use self::state::State;
use super::disk::{Disk, QUEUES_MAX};
use super::info::{Coalescing, QueueInfo, SessionInfo};
use super::queue::{Command, FaultReport, QueueHandle, QueueStart};
use super::shared::Shared;
use crate::base::{Error, ErrorKind, Result};
use crate::bdev::Device;
use crate::reactor::{Tsc, Watched};
use crate::virtio::inflight::InflightQueue;
use crate::virtio::vhost_user::{Message, MessageStream, Received};

/// How often a session looks whether its guest's memory is still there, and whether one before it has ended.
const LOOK: Duration = Duration::from_millis(100);

/// How often the end of sessions before this one is looked for.
const BEFORE_POLL: Duration = Duration::from_millis(1);

/// What a controller tells a session.
pub enum Order {
    /// The configuration space has changed.
    ConfigChanged,
    /// When interrupts are held back.
    Coalesce(Coalescing),
    /// Another reactor is to poll a queue.
    Move(u16, usize, oneshot::Sender<Result<()>>),
    /// The device goes.
    CloseDevice(oneshot::Sender<()>),
    /// End what is in flight, and the connection.
    End,
}

/// What a session gets from its controller at the start.
pub struct SessionFacts {
    /// The controller's name.
    pub controller: String,
    /// Reactors that may poll queues; empty for all.
    pub reactors: Vec<usize>,
    /// Whether packed rings are offered.
    pub packed_ring: bool,
    /// When interrupts are held back.
    pub coalescing: Coalescing,
    /// What a driver has said of the write cache, if one has: it is still what the guest believes when the connection was
    /// lost and made again.
    pub write_back: Rc<Cell<Option<bool>>>,
    /// The sessions that there were before.
    pub before: Vec<Weak<Session>>,
}

/// One front end.
pub struct Session {
    id: u32,
    shared: Rc<Shared>,
    facts: SessionFacts,
    disk: Arc<Disk>,
    /// Never borrowed across an await.
    state: RefCell<State>,
    coalescing: Cell<Coalescing>,
    has_device: Cell<bool>,
    connected: Cell<bool>,
    /// Nothing is in flight any more, and nothing will be.
    ended: Cell<bool>,
    orders: mpsc::UnboundedSender<Order>,
    faults: mpsc::UnboundedSender<FaultReport>,
}

/// What a session does next.
enum Event {
    Message(Result<Option<Message>>),
    Order(Order),
    Fault(FaultReport),
    Look,
}

impl Session {
    /// A session over `stream`, and the future that is its life.
    pub fn new(
        shared: &Rc<Shared>,
        facts: SessionFacts,
        device: &Arc<Device>,
        read_only: bool,
        stream: UnixStream,
    ) -> Result<(Rc<Session>, impl Future<Output = ()> + use<>)> {
        let watched = shared.readiness()?.watch(stream.as_fd())?;
        let (orders, order_receiver) = mpsc::unbounded();
        let (faults, fault_receiver) = mpsc::unbounded();
        let session = Rc::new(Session {
            id: shared.session_number(),
            shared: Rc::clone(shared),
            coalescing: Cell::new(facts.coalescing),
            facts,
            disk: Arc::new(Disk::new(device, read_only)),
            state: RefCell::default(),
            has_device: Cell::new(true),
            connected: Cell::new(true),
            ended: Cell::new(false),
            orders,
            faults,
        });
        let peer = Peer { stream: MessageStream::new(stream), watched };
        let life = Rc::clone(&session).live(peer, order_receiver, fault_receiver);
        Ok((session, life))
    }

    async fn live(
        self: Rc<Self>,
        mut peer: Peer,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut faults: mpsc::UnboundedReceiver<FaultReport>,
    ) {
        let controller = self.facts.controller.as_str();
        info!(controller, session = self.id, "a front end is connected");
        let look = Tsc::ticks(LOOK);
        let mut next_look = Tsc::read().after(look);
        loop {
            // One event per round of the reactor: a front end that sends without a pause must not keep it from its other
            // work, nor the session from its orders.
            self.shared.cx.yield_now().await;
            // Those that are rare first.
            let event =
                async { orders.next().await.map_or(Event::Order(Order::End), Event::Order) }
                    .or(async {
                        match faults.next().await {
                            Some(fault) => Event::Fault(fault),
                            None => std::future::pending().await,
                        }
                    })
                    .or(async {
                        let left = next_look.0.saturating_sub(Tsc::read().0);
                        self.shared.cx.sleep(Tsc::duration(left)).await;
                        Event::Look
                    })
                    .or(async { Event::Message(peer.next().await) })
                    .await;
            let outcome = match event {
                Event::Message(Ok(Some(message))) => self.obey(message, &mut peer.stream).await,
                Event::Message(Ok(None)) => break,
                Event::Message(Err(error)) => Err(error),
                Event::Order(Order::End) => break,
                Event::Order(order) => {
                    self.take_order(order).await;
                    Ok(())
                }
                Event::Fault(fault) => {
                    self.note_fault(&fault);
                    Ok(())
                }
                Event::Look => {
                    next_look = Tsc::read().after(look);
                    self.look_at_memory()
                }
            };
            if let Err(error) = outcome {
                warn!(controller, session = self.id, "a front end is cut off: {error}");
                break;
            }
        }
        self.connected.set(false);
        drop(peer);
        self.stop_all().await;
        self.state.take();
        self.ended.set(true);
        info!(controller, session = self.id, "a front end is gone");
    }

    /// Whether the front end is there.
    pub fn is_connected(&self) -> bool {
        self.connected.get()
    }

    /// Whether a queue of this index is polled.
    pub fn polls(&self, queue: u16) -> bool {
        let state = self.state.borrow();
        state.vrings.get(&queue).is_some_and(|vring| vring.running.is_some())
    }

    /// Tells the session something; one that has ended does not hear it.
    pub fn order(&self, order: Order) {
        let _ = self.orders.unbounded_send(order);
    }

    /// Lets another reactor poll a queue.
    pub async fn move_queue(&self, queue: u16, reactor: usize) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Move(queue, reactor, sender));
        receiver.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Canceled, "the front end has gone meanwhile"))
        })
    }

    /// Lets go of the device.
    pub async fn close_device(&self) {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::CloseDevice(sender));
        // A session that has ended has let go of it.
        let _ = receiver.await;
    }

    /// How it stands.
    pub fn info(&self) -> SessionInfo {
        let state = self.state.borrow();
        let queues = state.vrings.iter().filter_map(|(&index, vring)| {
            let handle = vring.running.as_ref()?;
            let counters = handle.counters();
            Some(QueueInfo {
                index,
                reactor: handle.reactor(),
                size: vring.size,
                in_flight: counters.in_flight(),
                completed: counters.completed(),
                interrupts: counters.interrupts(),
                kicks: counters.kicks(),
            })
        });
        let queues: Vec<QueueInfo> = queues.collect();
        SessionInfo {
            id: self.id,
            started: !queues.is_empty(),
            features: state.features.0,
            queues_max: QUEUES_MAX,
            memory: state.memory.regions().iter().map(|region| region.len()).sum(),
            queues,
            fault: state.fault.clone(),
        }
    }

    async fn take_order(&self, order: Order) {
        match order {
            Order::ConfigChanged => self.state.borrow_mut().notify_config_change(),
            Order::Coalesce(coalescing) => {
                self.coalescing.set(coalescing);
                self.tell_queues(|_| Command::Coalesce(coalescing));
            }
            Order::Move(queue, reactor, done) => {
                let outcome = self.move_now(queue, reactor).await;
                // Whoever asked may have gone.
                let _ = done.send(outcome);
            }
            Order::CloseDevice(done) => {
                self.has_device.set(false);
                for (_, handle) in self.running() {
                    handle.close_device().await;
                }
                let _ = done.send(());
            }
            Order::End => {}
        }
    }

    /// Says the same to all queues that are polled.
    fn tell_queues(&self, command: impl Fn(u16) -> Command) {
        for (index, handle) in self.running() {
            handle.tell(command(index));
        }
    }

    /// Completes when all queues do by what they were told.
    async fn settle(&self) {
        for (_, handle) in self.running() {
            handle.settled().await;
        }
    }

    /// The queues that are polled.
    fn running(&self) -> Vec<(u16, Rc<QueueHandle>)> {
        let state = self.state.borrow();
        let running = |(&index, vring): (&u16, &rings::Vring)| {
            Some((index, Rc::clone(vring.running.as_ref()?)))
        };
        state.vrings.iter().filter_map(running).collect()
    }

    /// Starts a queue if all that it needs is known and it is not polled yet.
    async fn start(&self, index: u16) -> Result<()> {
        let ready = {
            let state = self.state.borrow();
            let vring = state.vrings.get(&index);
            vring.is_some_and(|vring| vring.kick.is_some() && vring.running.is_none())
        };
        if !ready {
            return Ok(());
        }
        self.wait_for_those_before().await;
        let reactor = self.shared.least_loaded(&self.facts.reactors);
        self.start_on(index, reactor).await
    }

    async fn start_on(&self, index: u16, reactor: usize) -> Result<()> {
        let Some(start) = self.prepare(index)? else { return Ok(()) };
        let handle = start.start(&self.shared.reactors, reactor).await?;
        debug!(
            controller = self.facts.controller,
            session = self.id,
            index,
            reactor,
            "virtqueue starts"
        );
        self.shared.queue_starts(reactor);
        if let Some(vring) = self.state.borrow_mut().vrings.get_mut(&index) {
            vring.running = Some(Rc::new(handle));
        }
        Ok(())
    }

    /// All that a queue needs; `None` while something is missing.
    fn prepare(&self, index: u16) -> Result<Option<QueueStart>> {
        let state = self.state.borrow();
        let Some(vring) = state.vrings.get(&index) else { return Ok(None) };
        let Some(kick) = &vring.kick else { return Ok(None) };
        let placed = vring
            .place(&state.memory, state.features)
            .map_err(|error| error.context(format_args!("virtqueue {index}")))?;
        let Some(placed) = placed else { return Ok(None) };
        let inflight: Option<InflightQueue> =
            state.inflight.as_ref().and_then(|area| area.queue(index));
        Ok(Some(QueueStart {
            index,
            place: placed.place,
            ring_regions: placed.regions,
            memory: Arc::clone(&state.memory),
            inflight,
            disk: Arc::clone(&self.disk),
            has_device: self.has_device.get(),
            enabled: vring.is_enabled(state.features),
            kick: kick.descriptor(),
            call: vring.call.clone(),
            coalescing: self.coalescing.get(),
            log: state.log_of(vring),
            faults: self.faults.clone(),
        }))
    }

    /// Stops a queue, if it is polled, and keeps where it stands.
    async fn stop(&self, index: u16) {
        let handle = {
            let mut state = self.state.borrow_mut();
            state.vrings.get_mut(&index).and_then(|vring| vring.running.take())
        };
        let Some(handle) = handle else { return };
        let base = handle.stop().await;
        self.shared.queue_stops(handle.reactor());
        debug!(
            controller = self.facts.controller,
            session = self.id,
            index,
            ?base,
            "virtqueue stops"
        );
        let mut state = self.state.borrow_mut();
        if let (Some(base), Some(vring)) = (base, state.vrings.get_mut(&index)) {
            vring.base = base;
        }
    }

    async fn stop_all(&self) {
        for (index, _) in self.running() {
            self.stop(index).await;
        }
    }

    async fn move_now(&self, index: u16, reactor: usize) -> Result<()> {
        let from = self.running().into_iter().find(|&(running, _)| running == index);
        let Some((_, handle)) = from else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("virtqueue {index} is not polled"),
            ));
        };
        let old = handle.reactor();
        if old == reactor {
            return Ok(());
        }
        self.stop(index).await;
        match self.start_on(index, reactor).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // Back to where it was: a guest must not lose its disk over a move.
                self.start_on(index, old).await?;
                Err(error)
            }
        }
    }

    /// Waits until sessions that have lost their front end have ended what it left in flight.
    async fn wait_for_those_before(&self) {
        let busy = |session: &Weak<Session>| {
            session.upgrade().is_some_and(|session| !session.is_connected() && !session.ended.get())
        };
        while self.facts.before.iter().any(busy) {
            self.shared.cx.sleep(BEFORE_POLL).await;
        }
    }

    fn note_fault(&self, report: &FaultReport) {
        let controller = self.facts.controller.as_str();
        let text = format!("virtqueue {}: {}", report.queue, report.fault);
        warn!(
            controller,
            session = self.id,
            "the guest's driver broke its queue, and must reset the disk: {text}"
        );
        self.state.borrow_mut().fail(report.queue, text);
    }

    /// Ends the session of a front end that took its guest's memory away.
    fn look_at_memory(&self) -> Result<()> {
        let state = self.state.borrow();
        let lost = state.memory.regions().iter().find(|region| region.view().region.is_lost());
        match lost {
            None => Ok(()),
            Some(region) => Err(Error::new(
                ErrorKind::Io,
                format!("the guest's memory at {:#x} was cut off its file", region.guest_address()),
            )),
        }
    }
}

/// The front end's side of the connection.
struct Peer {
    stream: MessageStream,
    watched: Watched,
}

impl Peer {
    /// The next message; `None` when the front end has hung up.
    async fn next(&mut self) -> Result<Option<Message>> {
        loop {
            match self.stream.receive()? {
                Received::Message(message) => return Ok(Some(message)),
                Received::End => return Ok(None),
                Received::Nothing if self.stream.has_unsent() => self.watched.writable().await,
                Received::Nothing => self.watched.readable().await,
            }
        }
    }
}
