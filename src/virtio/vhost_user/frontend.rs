//! The front end's side of the dialogue: from a socket to virtqueues that a back end serves.
//!
//! A task on the reactor of the [`Frontend`] receives; whoever asks waits for its reply without blocking the reactor.
//! Replies have no numbers, so they belong to requests by their order alone: after a reply that does not come
//! in time, or is to something else, nothing that follows has a meaning, and the connection is ended for good with the
//! reason. So is it when the back end hangs up, which [`Frontend::closed`] tells.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_lite::FutureExt;

use super::message::Message;
use super::payload::{ConfigHeader, Inflight, VringAddresses, config_flags};
use super::protocol_features::ProtocolFeatures;
use super::request::{Request, VringFile};
use super::stream::{MessageStream, Received};
use crate::base::{Error, ErrorKind, Result};
use crate::reactor::{Context, Readiness, Watched};
use crate::virtio::spec::{DeviceStatus, Features};

/// How often a socket without room is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// What was agreed on with a back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Features of the device that are in use.
    pub features: Features,
    /// Extensions of the protocol that are in use.
    pub protocol_features: ProtocolFeatures,
    /// Most virtqueues, if the back end tells.
    pub queues_max: Option<u16>,
    /// Most memory regions at once.
    pub memory_slots: usize,
}

/// Memory regions that any back end takes.
const MEMORY_SLOTS_MIN: usize = 8;

impl Agreement {
    const NONE: Agreement = Agreement {
        features: Features::NONE,
        protocol_features: ProtocolFeatures::NONE,
        queues_max: None,
        memory_slots: MEMORY_SLOTS_MIN,
    };
}

/// A virtqueue to be served.
#[derive(Clone, Copy, Debug)]
pub struct Vring<'a> {
    /// In descriptors.
    pub size: u16,
    /// Address of the descriptor area, in this process as the other two.
    pub descriptors: u64,
    /// The driver area.
    pub driver: u64,
    /// The device area.
    pub device: u64,
    /// Where to start, as [`Frontend::stop_vring`] gives it.
    pub base: u32,
    /// What the driver signals.
    pub kick: Option<BorrowedFd<'a>>,
    /// What the device signals.
    pub call: Option<BorrowedFd<'a>>,
    /// What the device signals when the ring is broken.
    pub error: Option<BorrowedFd<'a>>,
}

/// A connection to a back end. Dropping it hangs up.
pub struct Frontend {
    shared: Rc<Shared>,
}

struct Shared {
    cx: Context,
    /// What stands in messages.
    address: String,
    /// How long a reply may take.
    patience: Duration,
    stream: RefCell<MessageStream>,
    /// Who waits for a reply, in the order of the requests.
    awaited: RefCell<VecDeque<Awaited>>,
    /// Why nothing goes on.
    failure: RefCell<Option<(ErrorKind, String)>>,
    /// Who waits for the end.
    watchers: RefCell<Vec<oneshot::Sender<()>>>,
    agreement: Cell<Agreement>,
}

struct Awaited {
    number: u32,
    reply: oneshot::Sender<Message>,
}

impl Frontend {
    /// Connects to the back end that listens at `path`. It may take `patience` to accept, and for each reply.
    ///
    /// # Errors
    /// When nobody listens there or accepts, or the process has no descriptors left.
    pub async fn connect(
        cx: &Context,
        readiness: &Readiness,
        path: &Path,
        patience: Duration,
    ) -> Result<Frontend> {
        let socket = crate::socket::connect(cx, "vhost-user", path, patience).await?;
        Frontend::over(cx, readiness, socket, path.display().to_string(), patience)
    }

    /// The front end of a connected socket; `address` is what messages call it. `readiness` is of the reactor of `cx`.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn over(
        cx: &Context,
        readiness: &Readiness,
        socket: OwnedFd,
        address: String,
        patience: Duration,
    ) -> Result<Frontend> {
        let stream = MessageStream::new(socket);
        let watched = readiness.watch(stream.socket())?;
        let shared = Rc::new(Shared {
            cx: cx.clone(),
            address,
            patience,
            stream: RefCell::new(stream),
            awaited: RefCell::default(),
            failure: RefCell::default(),
            watchers: RefCell::default(),
            agreement: Cell::new(Agreement::NONE),
        });
        cx.spawn(receive(Rc::clone(&shared), watched));
        Ok(Frontend { shared })
    }

    /// The path of the socket.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// What was agreed on.
    pub fn agreement(&self) -> Agreement {
        self.shared.agreement.get()
    }

    /// Which features the device has.
    ///
    /// # Errors
    /// As for every request: when the back end does not answer properly, or not in time.
    pub async fn offered(&self) -> Result<Features> {
        Ok(Features(self.number(Request::GetFeatures).await?))
    }

    /// Starts the session: agrees on those of `wanted` and `protocol` that the back end has, too.
    ///
    /// # Errors
    /// When the back end does not answer properly, or not in time.
    pub async fn negotiate(
        &self,
        wanted: Features,
        protocol: ProtocolFeatures,
    ) -> Result<Agreement> {
        let offered = self.offered().await?;
        let mut agreement = Agreement { features: offered.and(wanted), ..Agreement::NONE };
        if offered.has(Features::PROTOCOL_FEATURES) {
            let theirs = ProtocolFeatures(self.number(Request::GetProtocolFeatures).await?);
            agreement.protocol_features = theirs.and(protocol);
            agreement.features = agreement.features.with(Features::PROTOCOL_FEATURES);
            let set = Request::SetProtocolFeatures(agreement.protocol_features);
            // Whether it can be acknowledged is only just being said.
            self.shared.send(set.encode()).await?;
            self.shared.agreement.set(agreement);
            if agreement.protocol_features.has(ProtocolFeatures::MQ) {
                let queues = self.number(Request::GetQueueNum).await?;
                agreement.queues_max = Some(u16::try_from(queues).unwrap_or(u16::MAX));
            }
            if agreement.protocol_features.has(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
                let slots = self.number(Request::GetMaxMemSlots).await?;
                agreement.memory_slots = usize::try_from(slots).unwrap_or(usize::MAX);
            }
        }
        self.shared.agreement.set(agreement);
        self.order(Request::SetOwner).await?;
        self.order(Request::SetFeatures(agreement.features)).await?;
        Ok(agreement)
    }

    /// Reads `size` bytes of the configuration space from `offset` on.
    ///
    /// # Errors
    /// `Unsupported` when the back end has none to read; as for every request.
    pub async fn get_config(&self, offset: u32, size: u32) -> Result<Vec<u8>> {
        self.need(ProtocolFeatures::CONFIG, "a configuration space")?;
        let asked = ConfigHeader { offset, size, flags: config_flags::DRIVER };
        let reply = self.ask(Request::GetConfig(asked)).await?;
        let bytes = reply.config("GET_CONFIG", asked).map(<[u8]>::to_vec);
        bytes.map_err(|error| self.shared.about(error))
    }

    /// Writes the configuration space from `offset` on, as the driver.
    ///
    /// # Errors
    /// `Unsupported` when the back end has none to write; as for every request.
    pub async fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<()> {
        self.need(ProtocolFeatures::CONFIG, "a configuration space")?;
        let flags = config_flags::DRIVER;
        self.order(Request::SetConfig { offset, flags, bytes: bytes.to_vec() }).await
    }

    /// Sets up virtqueue `index`, which starts it.
    ///
    /// # Errors
    /// When the process has no descriptors left; as for every request.
    pub async fn set_vring(&self, index: u16, vring: &Vring<'_>) -> Result<()> {
        let file = |file: Option<BorrowedFd<'_>>| {
            Ok(VringFile { index, file: file.map(duplicate).transpose()? })
        };
        // Some back ends make a virtqueue when they first hear of it by this.
        self.order(Request::SetVringCall(file(vring.call)?)).await?;
        self.order(Request::SetVringNum { index, size: vring.size }).await?;
        self.order(Request::SetVringBase { index, base: vring.base }).await?;
        let addresses = VringAddresses {
            index: index.into(),
            flags: 0,
            descriptors: vring.descriptors,
            used: vring.device,
            available: vring.driver,
            log: 0,
        };
        self.order(Request::SetVringAddr(addresses)).await?;
        if vring.error.is_some() {
            self.order(Request::SetVringErr(file(vring.error)?)).await?;
        }
        // Last, since it starts the virtqueue.
        self.order(Request::SetVringKick(file(vring.kick)?)).await
    }

    /// Enables a virtqueue that is set up, or disables it. When this returns, the back end has done so.
    ///
    /// # Errors
    /// As for every request.
    pub async fn enable_vring(&self, index: u16, enable: bool) -> Result<()> {
        // Without protocol features, virtqueues are enabled when they start ("Ring states").
        if !self.agreement().features.has(Features::PROTOCOL_FEATURES) {
            return self.synchronize().await;
        }
        self.order(Request::SetVringEnable { index, enable }).await?;
        self.synchronize().await
    }

    /// Stops a virtqueue. Gives where a successor is to start; what was in flight is completed.
    ///
    /// # Errors
    /// As for every request.
    pub async fn stop_vring(&self, index: u16) -> Result<u32> {
        let reply = self.ask(Request::GetVringBase { index }).await?;
        let base = reply.vring_base("GET_VRING_BASE", index);
        base.map_err(|error| self.shared.about(error))
    }

    /// Asks for memory in which the back end tracks requests in flight, for so many queues of one size; none when it has
    /// no use for it.
    ///
    /// # Errors
    /// `Unsupported` when it does not track them; as for every request.
    pub async fn get_inflight(
        &self,
        queues: u16,
        queue_size: u16,
    ) -> Result<Option<(Inflight, OwnedFd)>> {
        self.need(ProtocolFeatures::INFLIGHT_SHMFD, "memory for requests in flight")?;
        let reply = self.ask(Request::GetInflightFd { queues, queue_size }).await?;
        reply.inflight("GET_INFLIGHT_FD").map_err(|error| self.shared.about(error))
    }

    /// Gives a back end the memory in which it, or its predecessor, tracks requests in flight.
    ///
    /// # Errors
    /// `Unsupported` when it does not track them; as for every request.
    pub async fn set_inflight(&self, inflight: Inflight, file: BorrowedFd<'_>) -> Result<()> {
        self.need(ProtocolFeatures::INFLIGHT_SHMFD, "memory for requests in flight")?;
        self.order(Request::SetInflightFd(inflight, duplicate(file)?)).await
    }

    /// Sets the device status, if the back end wants to know.
    ///
    /// # Errors
    /// As for every request.
    pub async fn set_status(&self, status: DeviceStatus) -> Result<()> {
        match self.has(ProtocolFeatures::STATUS) {
            true => self.order(Request::SetStatus(status)).await,
            false => Ok(()),
        }
    }

    /// The device status, if the back end tells.
    ///
    /// # Errors
    /// As for every request.
    pub async fn get_status(&self) -> Result<Option<DeviceStatus>> {
        if !self.has(ProtocolFeatures::STATUS) {
            return Ok(None);
        }
        let status = self.number(Request::GetStatus).await?;
        Ok(Some(DeviceStatus(status as u8)))
    }

    /// Resets the device.
    ///
    /// # Errors
    /// `Unsupported` when the back end does not do that; as for every request.
    pub async fn reset(&self) -> Result<()> {
        self.need(ProtocolFeatures::RESET_DEVICE, "resets")?;
        self.order(Request::ResetDevice).await?;
        self.synchronize().await
    }

    /// Completes when all that was ordered is done.
    async fn synchronize(&self) -> Result<()> {
        match self.has(ProtocolFeatures::REPLY_ACK) {
            // Each order was acknowledged.
            true => Ok(()),
            // Every back end answers this, and in order.
            false => self.offered().await.map(drop),
        }
    }

    /// Completes with the reason when the connection has ended.
    pub async fn closed(&self) -> Error {
        loop {
            if let Some(error) = self.shared.failed() {
                return error;
            }
            let (told, end) = oneshot::channel();
            self.shared.watchers.borrow_mut().push(told);
            // Dropped or told, it is the end.
            let _ = end.await;
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.failure.borrow().is_some()
    }

    pub(super) fn has(&self, feature: ProtocolFeatures) -> bool {
        self.agreement().protocol_features.has(feature)
    }

    pub(super) fn need(&self, feature: ProtocolFeatures, what: &str) -> Result<()> {
        if self.has(feature) {
            return Ok(());
        }
        let address = &self.shared.address;
        let what = format!("vhost-user {address}: the back end has no {what} ({feature:?})");
        Err(Error::new(ErrorKind::Unsupported, what))
    }

    /// Asks, and gives the number of the reply.
    async fn number(&self, request: Request) -> Result<u64> {
        let name = request.name();
        let reply = self.ask(request).await?;
        reply.number(name).map_err(|error| self.shared.about(error))
    }

    /// Asks, and gives the reply.
    async fn ask(&self, request: Request) -> Result<Message> {
        let name = request.name();
        self.shared.ask(name, request.encode()).await
    }

    /// Asks for what has no reply but an acknowledgement, if those were agreed on.
    pub(super) async fn order(&self, request: Request) -> Result<()> {
        let name = request.name();
        if !self.has(ProtocolFeatures::REPLY_ACK) {
            return self.shared.send(request.encode()).await;
        }
        let message = request.encode().with_acknowledgement(true);
        let reply = self.shared.ask(name, message).await?;
        match reply.number(name).map_err(|error| self.shared.about(error))? {
            0 => Ok(()),
            _ => Err(self.shared.about(Error::new(
                ErrorKind::Io,
                format!("the back end refused {name}; its log may say why"),
            ))),
        }
    }

    /// As [`Frontend::order`], and done when it returns.
    pub(super) async fn order_and_wait(&self, request: Request) -> Result<()> {
        self.order(request).await?;
        self.synchronize().await
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        self.shared.end(ErrorKind::Canceled, "the connection was closed".into());
    }
}

impl Shared {
    /// An error of this connection.
    fn about(&self, error: Error) -> Error {
        error.context(format_args!("vhost-user {}", self.address))
    }

    fn failed(&self) -> Option<Error> {
        let failure = self.failure.borrow();
        let (kind, what) = failure.as_ref()?;
        Some(Error::new(*kind, format!("vhost-user {}: {what}", self.address)))
    }

    /// Ends the connection; the first reason counts. Gives it.
    fn end(&self, kind: ErrorKind, what: String) -> Error {
        self.failure.borrow_mut().get_or_insert((kind, what));
        self.stream.borrow_mut().close();
        // Their receivers find the failure.
        drop(self.awaited.take());
        drop(self.watchers.take());
        self.failed().unwrap_or_else(|| Error::new(kind, "the connection has ended"))
    }

    /// Sends, and completes when the socket has taken all of it.
    async fn send(&self, message: Message) -> Result<()> {
        self.put(message)?;
        self.sent("a request").await
    }

    fn put(&self, message: Message) -> Result<()> {
        if let Some(error) = self.failed() {
            return Err(error);
        }
        let sent = self.stream.borrow_mut().send(message);
        sent.map_err(|error| self.end(error.kind(), error.to_string()))
    }

    async fn sent(&self, what: &str) -> Result<()> {
        let all = async {
            loop {
                let flushed = self.stream.borrow_mut().flush();
                match flushed {
                    Ok(true) => return Ok(()),
                    Ok(false) => self.cx.sleep(RETRY).await,
                    Err(error) => return Err(self.end(error.kind(), error.to_string())),
                }
            }
        };
        self.in_time(all, || format!("the back end did not read {what}")).await?
    }

    /// Sends, and completes with the reply.
    async fn ask(&self, name: &str, message: Message) -> Result<Message> {
        let (reply, answer) = oneshot::channel();
        let number = message.header.request;
        self.put(message)?;
        // Nobody receives between these lines: both are on one reactor.
        self.awaited.borrow_mut().push_back(Awaited { number, reply });
        self.sent(name).await?;
        let answered = self.in_time(answer, || format!("no reply to {name}")).await?;
        answered.map_err(|oneshot::Canceled| {
            self.failed().unwrap_or_else(|| Error::new(ErrorKind::Canceled, "no reply any more"))
        })
    }

    /// What `future` gives, if it does in time; else the end.
    async fn in_time<T>(
        &self,
        future: impl Future<Output = T>,
        late: impl FnOnce() -> String,
    ) -> Result<T> {
        let timeout = async {
            self.cx.sleep(self.patience).await;
            None
        };
        match async { Some(future.await) }.or(timeout).await {
            Some(result) => Ok(result),
            None => {
                let what = format!("{} within {:?}", late(), self.patience);
                Err(self.end(ErrorKind::TimedOut, what))
            }
        }
    }

    /// Gives a reply to whoever waits for it.
    fn dispatch(&self, message: Message) -> std::result::Result<(), String> {
        let header = message.header;
        let Some(awaited) = self.awaited.borrow_mut().pop_front() else {
            return Err(format!("the back end sent message {}, unasked", header.request));
        };
        if !header.is_reply() || header.request != awaited.number {
            return Err(format!(
                "the back end answered request {} with {} {}",
                awaited.number,
                if header.is_reply() { "a reply to" } else { "request" },
                header.request
            ));
        }
        // Whoever asked may have left.
        let _ = awaited.reply.send(message);
        Ok(())
    }
}

/// Receives until the end.
async fn receive(shared: Rc<Shared>, watched: Watched) {
    loop {
        let received = shared.stream.borrow_mut().receive();
        match received {
            Ok(Received::Nothing) => watched.readable().await,
            Ok(Received::Message(message)) => {
                if let Err(what) = shared.dispatch(message) {
                    shared.end(ErrorKind::Io, what);
                    return;
                }
            }
            Ok(Received::End) => {
                shared.end(ErrorKind::NoDevice, "the back end hung up".into());
                return;
            }
            Err(error) => {
                shared.end(error.kind(), error.to_string());
                return;
            }
        }
    }
}

/// A descriptor of our own for the same file, to be sent.
pub(super) fn duplicate(file: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(file, 0).map_err(|errno| {
        Error::os("cannot duplicate a descriptor for a vhost-user back end", errno)
    })
}
