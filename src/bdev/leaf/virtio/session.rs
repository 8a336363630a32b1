//! A device's task: what happens, one thing at a time.
//!
//! Owned by the control reactor. It keeps the connection to the back end: tells it of memory, hears of changes of the
//! configuration, and when it is gone looks for its successor, which is given the rings as they are. What was in flight is in
//! the memory that back ends track it in, if they do; if not, everything that is outstanding is made available again.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc::UnboundedReceiver;
use futures_channel::{mpsc, oneshot};
use futures_lite::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use super::any_queue::AnyQueue;
use super::facts::{self, Facts};
use super::handshake::{Peer, agree, config};
use super::link::Link;
use super::options::VirtioOptions;
use super::queues::{self, Queues};
use super::told::Told;
use super::trouble::{Trouble, TroubleSender};
use crate::base::{BlockCount, Error, ErrorKind, Result, Status};
use crate::memory::{RegionId, Segment};
use crate::reactor::{Context, Reactors, Readiness, Tsc};
use crate::virtio::ring::driver::memory::Layout;
use crate::virtio::spec::{DeviceStatus, Features};
use crate::virtio::vhost_user::ProtocolFeatures;
use crate::virtio::vhost_user::{BackendChannel, BackendRequest, Frontend, Inflight, Vring};

/// How often regions that went are looked for.
const REGIONS_PERIOD: Duration = Duration::from_millis(100);
/// How often a back end that is gone is looked for.
const RECONNECT_PERIOD: Duration = Duration::from_millis(50);
/// How long a device may take to tell its serial number, and how often the answer is looked for.
const IDENTIFY_PATIENCE: Duration = Duration::from_secs(1);
const IDENTIFY_PERIOD: Duration = Duration::from_micros(200);
/// How requests end when the back end does not come back.
const LOST: Status = Status::INTERNAL_PATH_ERROR;

/// Memory for the serial number, on its way to the reactor that has the queue.
#[derive(Clone, Copy)]
struct Identity(Segment);

// SAFETY: an address of memory that nobody looks at before the answer is there.
unsafe impl Send for Identity {}

impl Identity {
    fn segment(self) -> Segment {
        self.0
    }
}

/// What happens to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// It has another size.
    Resized(BlockCount),
    /// It is gone for good.
    Lost,
}

/// Deals with notices; takes no time.
pub(super) type Watcher = Box<dyn Fn(Notice)>;

/// An attached device.
pub(super) struct Session {
    cx: Context,
    readiness: Readiness,
    options: VirtioOptions,
    link: Arc<Link>,
    facts: Facts,
    features: Features,
    protocol: ProtocolFeatures,
    queues: Queues,
    trouble: TroubleSender,
    watcher: Watcher,
    /// As the device tells; empty if it does not.
    serial: RefCell<String>,
    /// Who waits for the detachment.
    detach: RefCell<Option<oneshot::Sender<()>>>,
    ended: Cell<bool>,
}

/// What changes of it with its back end.
struct Back {
    frontend: Frontend,
    channel: Option<BackendChannel>,
}

/// What the task alone has.
struct Task {
    session: Rc<Session>,
    events: UnboundedReceiver<Trouble>,
    back: Option<Back>,
    told: Told,
    inflight: Option<(Inflight, OwnedFd)>,
}

/// What the task waits for.
enum Event {
    Trouble(Trouble),
    ConfigChanged,
    Closed(Error),
    /// The back end has no more requests of its own.
    Mute,
    Tick,
}

impl Session {
    /// Attaches the device and starts its task.
    ///
    /// # Errors
    /// When there is no back end, it does not agree, or its device cannot be a bdev.
    pub(super) async fn attach(
        cx: &Context,
        readiness: &Readiness,
        reactors: Option<Reactors>,
        options: VirtioOptions,
        watcher: Watcher,
    ) -> Result<Rc<Session>> {
        options.check()?;
        let peer = agree(cx, readiness, &options, None).await?;
        let features = peer.agreement.features;
        let ring_options = queues::ring_options(&options, features);
        let about = |error: Error| error.context(options.socket.display());
        let segments_max = Layout::new(&ring_options)?.segments_max();
        let config = config(&peer.frontend).await?;
        let facts = Facts::new(&config, features, segments_max).map_err(about)?;
        let (sender, events) = mpsc::unbounded();
        let trouble = TroubleSender::new(sender);
        let (queues, rings) = queues::make(options.queues, &ring_options, &facts, &trouble)?;
        let address = options.socket.display().to_string();
        let registry = cx.pool().registry();
        let told = Told::new(registry.subscribe(), Arc::clone(&queues.memory));
        let session = Rc::new(Session {
            cx: cx.clone(),
            readiness: readiness.clone(),
            link: Link::new(&address, reactors, rings),
            options,
            facts,
            features,
            protocol: peer.agreement.protocol_features,
            queues,
            trouble,
            watcher,
            serial: RefCell::default(),
            detach: RefCell::new(None),
            ended: Cell::new(false),
        });
        let mut task =
            Task { session: Rc::clone(&session), events, back: None, told, inflight: None };
        task.start(peer, true).await?;
        session.identify().await;
        info!(
            socket = address,
            queues = session.options.queues,
            features = ?session.features,
            blocks = session.facts.geometry.blocks.0,
            "vhost-user device attached"
        );
        cx.spawn(task.run());
        Ok(session)
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(super) fn options(&self) -> &VirtioOptions {
        &self.options
    }

    /// Asks for the serial number, which not every device has.
    async fn identify(&self) {
        let into = Identity(self.queues.identity());
        self.link
            .for_each(&self.cx, move |queue| {
                if queue.index() == 0 {
                    queue.ask_identity(into.segment());
                }
            })
            .await;
        let end = Tsc::read().after(Tsc::ticks(IDENTIFY_PATIENCE));
        while Tsc::read() < end {
            let first = |queue: &mut AnyQueue| match queue.index() {
                0 => queue.identity_answer(),
                _ => None,
            };
            let answers = self.link.for_each(&self.cx, first).await;
            match answers.into_iter().flatten().next() {
                Some(0) => {
                    *self.serial.borrow_mut() = self.queues.serial();
                    return;
                }
                Some(_) => return,
                None => self.cx.sleep(IDENTIFY_PERIOD).await,
            }
        }
        debug!("a device does not answer what its serial number is");
    }

    /// The `driver_specific` object's part.
    pub(super) fn description(&self) -> Value {
        json!({
            "trtype": "user",
            "traddr": self.options.socket.display().to_string(),
            "dev_type": "blk",
            "serial": *self.serial.borrow(),
            "vq_count": self.options.queues,
            "vq_size": self.options.queue_size,
            "packed_ring": self.features.has(Features::RING_PACKED),
            "indirect": self.features.has(Features::INDIRECT_DESC),
            "event_index": self.features.has(Features::EVENT_IDX),
            "inflight_tracking": self.protocol.has(ProtocolFeatures::INFLIGHT_SHMFD),
            "read_only": self.facts.read_only,
        })
    }

    /// Detaches the device: its queues on reactors are closed by then. Completes when the back end was left.
    pub(super) async fn detach(&self) {
        if self.ended.get() {
            return;
        }
        let (sender, receiver) = oneshot::channel();
        *self.detach.borrow_mut() = Some(sender);
        self.trouble.send(Trouble::Order);
        // Dropped or told, it is the end.
        let _ = receiver.await;
    }
}

impl Task {
    /// Gives a back end memory and queues. `fresh`: it has to know nothing of what was in flight.
    async fn start(&mut self, peer: Peer, fresh: bool) -> Result<()> {
        let Peer { frontend, agreement, channel } = peer;
        let session = Rc::clone(&self.session);
        self.told.start(&frontend).await?;
        if agreement.protocol_features.has(ProtocolFeatures::INFLIGHT_SHMFD) {
            if fresh || self.inflight.is_none() {
                let options = &session.options;
                self.inflight = frontend.get_inflight(options.queues, options.queue_size).await?;
            }
            if let Some((inflight, file)) = &self.inflight {
                frontend.set_inflight(*inflight, file.as_fd()).await?;
            }
        }
        let bases = session
            .link
            .for_each(&session.cx, move |queue| {
                queue.prepare(fresh);
                (queue.index(), queue.base())
            })
            .await;
        for (index, base) in bases {
            let queues = &session.queues;
            let addresses = queues.addresses[usize::from(index)];
            let vring = Vring {
                size: queues.size,
                descriptors: addresses.descriptors,
                driver: addresses.driver,
                device: addresses.device,
                base,
                kick: Some(queues.kicks[usize::from(index)].as_fd()),
                call: Some(queues.call.as_fd()),
                error: None,
            };
            frontend.set_vring(index, &vring).await?;
        }
        for index in 0..session.options.queues {
            frontend.enable_vring(index, true).await?;
        }
        frontend
            .set_status(
                DeviceStatus::ACKNOWLEDGE
                    .with(DeviceStatus::DRIVER)
                    .with(DeviceStatus::FEATURES_OK)
                    .with(DeviceStatus::DRIVER_OK),
            )
            .await?;
        self.back = Some(Back { frontend, channel });
        session.link.thaw(&session.cx).await;
        Ok(())
    }

    async fn run(mut self) {
        let session = Rc::clone(&self.session);
        loop {
            if session.detach.borrow().is_some() {
                self.leave().await;
                break;
            }
            match self.next().await {
                Event::Trouble(Trouble::RegionBehind(id)) => self.tell(id).await,
                Event::Trouble(Trouble::Unreachable(id)) => self.explain(id),
                Event::Trouble(Trouble::Fault(queue, fault)) => {
                    let address = session.options.socket.display();
                    warn!(
                        "vhost-user {address}: virtqueue {queue}: {fault}; the device is given up"
                    );
                    self.lose().await;
                    break;
                }
                Event::Trouble(Trouble::Order) => {}
                Event::Mute => {
                    if let Some(back) = &mut self.back {
                        back.channel = None;
                    }
                }
                Event::Tick => self.follow().await,
                Event::ConfigChanged => self.look_at_config().await,
                Event::Closed(error) => {
                    warn!("virtio device: {error}");
                    if !self.reconnect().await {
                        if session.detach.borrow().is_none() {
                            self.lose().await;
                        }
                        break;
                    }
                }
            }
        }
        session.ended.set(true);
        // Whoever waits is told by the drop.
        session.detach.borrow_mut().take();
    }

    /// Waits for what happens next.
    async fn next(&mut self) -> Event {
        let Task { session, events, back, .. } = self;
        let trouble = async {
            match events.next().await {
                Some(trouble) => Event::Trouble(trouble),
                // It holds a sender itself.
                None => Event::Tick,
            }
        };
        let tick = async {
            session.cx.sleep(REGIONS_PERIOD).await;
            Event::Tick
        };
        let Some(Back { frontend, channel }) = back else { return trouble.or(tick).await };
        let closed = async { Event::Closed(frontend.closed().await) };
        let told: Pin<Box<dyn Future<Output = Event> + '_>> = match channel {
            None => Box::pin(std::future::pending()),
            Some(open) => Box::pin(async {
                match open.next().await {
                    Ok(Some(BackendRequest::ConfigChange)) => Event::ConfigChanged,
                    Ok(Some(_)) => Event::Tick,
                    Ok(None) => Event::Mute,
                    Err(error) => {
                        debug!(%error, "a back end's own requests");
                        Event::Mute
                    }
                }
            }),
        };
        trouble.or(closed).or(told).or(tick).await
    }

    async fn tell(&mut self, id: RegionId) {
        // Without a back end, its successor is told.
        let Some(back) = &self.back else { return };
        let session = &self.session;
        let told = self.told.tell(&session.cx, &session.link, &back.frontend, id).await;
        if let Err(error) = told {
            debug!(%error, "telling a back end of memory");
        }
    }

    async fn follow(&mut self) {
        if !self.told.is_behind() {
            return;
        }
        let session = &self.session;
        let frontend = self.back.as_ref().map(|back| &back.frontend);
        if let Err(error) = self.told.follow(&session.cx, &session.link, frontend).await {
            debug!(%error, "taking memory from a back end");
        }
    }

    fn explain(&self, id: RegionId) {
        let address = self.session.options.socket.display();
        match id {
            RegionId::NONE => {
                warn!(
                    "vhost-user {address}: a request's memory is in no region that can be shared"
                );
            }
            _ => warn!(
                "vhost-user {address}: requests fail whose memory the back end cannot reach (huge pages \
                 or --shared-memory make it reachable, unless the back end has no room for more regions)"
            ),
        }
    }

    async fn look_at_config(&mut self) {
        let Some(back) = &self.back else { return };
        let block_size = self.session.facts.geometry.block_size;
        let read = config(&back.frontend).await;
        match read.and_then(|config| facts::blocks(&config, block_size)) {
            Ok(blocks) => (self.session.watcher)(Notice::Resized(blocks)),
            Err(error) => warn!("virtio device: its new configuration: {error}"),
        }
    }

    /// Looks for the successor of a back end that is gone. False when it does not come within the patience, or the device
    /// is detached meanwhile.
    async fn reconnect(&mut self) -> bool {
        let session = Rc::clone(&self.session);
        self.back = None;
        session.link.freeze(&session.cx).await;
        let end = Tsc::read().after(Tsc::ticks(session.options.reconnect));
        loop {
            if session.detach.borrow().is_some() {
                return false;
            }
            match self.try_reconnect().await {
                Ok(()) => {
                    let socket = session.options.socket.display();
                    info!("vhost-user {socket}: the back end is back");
                    self.look_at_config().await;
                    return true;
                }
                Err(error) => debug!(%error, "the back end is not back"),
            }
            self.back = None;
            if Tsc::read() >= end {
                return false;
            }
            session.cx.sleep(RECONNECT_PERIOD).await;
            self.follow().await;
        }
    }

    async fn try_reconnect(&mut self) -> Result<()> {
        if self.session.options.reconnect.is_zero() {
            return Err(Error::new(
                ErrorKind::NoDevice,
                "a back end that is gone is not waited for",
            ));
        }
        let session = Rc::clone(&self.session);
        let (cx, readiness) = (&session.cx, &session.readiness);
        let peer = agree(cx, readiness, &session.options, Some(session.features)).await?;
        let config = config(&peer.frontend).await?;
        let segments_max =
            Layout::new(&queues::ring_options(&session.options, session.features))?.segments_max();
        let facts = Facts::new(&config, peer.agreement.features, segments_max)?;
        let same = Facts {
            geometry: crate::base::Geometry {
                blocks: session.facts.geometry.blocks,
                ..facts.geometry
            },
            ..facts
        };
        if same != session.facts {
            return Err(Error::invalid("the back end came back with a device of another kind"));
        }
        let tracks = peer.agreement.protocol_features.has(ProtocolFeatures::INFLIGHT_SHMFD);
        let fresh = !tracks || self.inflight.is_none();
        self.start(peer, fresh).await
    }

    /// The device is gone for good.
    async fn lose(&mut self) {
        let session = &self.session;
        // First of all, so that it touches nothing more, if it is honest.
        self.back = None;
        session.link.die(&session.cx, LOST).await;
        (session.watcher)(Notice::Lost);
    }

    /// Leaves the back end in order.
    async fn leave(&mut self) {
        if let Some(back) = self.back.take() {
            for index in 0..self.session.options.queues {
                if let Err(error) = back.frontend.stop_vring(index).await {
                    debug!(%error, "leaving a back end");
                    break;
                }
            }
        }
        self.session.link.die(&self.session.cx, Status::INVALID_NAMESPACE).await;
    }
}
