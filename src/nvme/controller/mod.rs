//! One NVMe controller: attached, watched, reset, detached.
//!
//! Owned by the control reactor, in one task: [`Controller::run`] waits for what happens (an asynchronous event, news from a
//! queue pair, a request of the operator, a time-out) and deals with it, one at a time. Queue pairs are with
//! the reactors; the controller reaches them through its [`Link`].
//!
//! States: *ready* → *resetting* → *ready*, or *failed* when resets do not help. From every state to *removed* when the
//! device is gone, and to *detached* when the operator says so. In each of the last three every outstanding command
//! has ended and every later one ends at once.

mod attach;
mod memory;
mod namespace;
mod namespaces;
mod options;
mod registers;
mod reset;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc::UnboundedReceiver;
use futures_channel::oneshot;
use tracing::warn;
use zerocopy::FromBytes;

pub use namespace::Namespace;
pub use options::{ControllerOptions, ResetPolicy, TimeoutAction};

use self::registers::Properties;
use super::admin::AdminQueue;
use super::commands;
use super::link::{Event, Link};
use super::memory::{Piece, QueueMemory};
use super::pair::{Done, Push};
use super::payload::Scatter;
use super::regions::Regions;
use super::spec::{
    CompletionEntry, ErrorLogEntry, IdentifyController, LogPage, NSID_ALL, SmartLog,
    SubmissionEntry, Version,
};
use super::transport::Transport;
use super::trouble::{Injection, PairStats};
use crate::base::{Error, ErrorKind, Result, Status};
use crate::memory::Buffer;
use crate::reactor::{Context, Reactors, Tsc};

/// Bytes of the data that an Identify command returns.
const PAGE: u32 = 4096;
/// Most data of one command that is sent from here, in bytes: the largest buffer of the pool.
const TRANSFER_MAX: usize = 2 << 20;

/// What a controller is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves I/O.
    Ready,
    /// It is being reset; I/O waits.
    Resetting,
    /// Resets do not help; I/O fails.
    Failed,
    /// The device is gone.
    Removed,
    /// The operator detached it.
    Detached,
}

/// What happened to a controller, for whoever makes devices of its namespaces.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A namespace appeared.
    Added(Arc<Namespace>),
    /// A namespace went.
    Removed(Arc<Namespace>),
    /// A namespace has another capacity.
    Resized(Arc<Namespace>),
    /// The controller came to this state.
    State(State),
}

/// What is told of notices.
pub type Watcher = Rc<dyn Fn(Notice) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A request to the controller's task.
pub(super) enum Order {
    Reset(oneshot::Sender<Result<()>>),
    Detach(oneshot::Sender<()>),
    Rescan(oneshot::Sender<Result<()>>),
}

/// A controller.
pub struct Controller {
    cx: Context,
    transport: Arc<dyn Transport>,
    link: Arc<Link>,
    options: RefCell<ControllerOptions>,
    properties: Properties,
    identify: RefCell<Box<IdentifyController>>,
    admin: AdminQueue,
    regions: Regions,
    /// Memory of the admin queue and of the I/O queues.
    memory: RefCell<Vec<QueueMemory>>,
    /// Pages of shadow doorbells and event indices, where the controller takes them.
    shadows: RefCell<Option<(Piece, Piece)>>,
    state: Cell<State>,
    namespaces: RefCell<BTreeMap<u32, Arc<Namespace>>>,
    /// Whether a completed write may be lost with power before a flush.
    write_cache: Cell<bool>,
    /// Longest Write Zeroes in bytes, where the controller has a limit (WZSL).
    write_zeroes_max: Cell<Option<u64>>,
    watcher: RefCell<Option<Watcher>>,
    orders: RefCell<Vec<Order>>,
    events: RefCell<Option<UnboundedReceiver<Event>>>,
    reactors: Option<Reactors>,
}

impl Controller {
    /// Where the controller is.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// What the queues of other reactors need of it.
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// What it is in.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// The specification's revision that it follows.
    pub fn version(&self) -> Version {
        self.properties.version
    }

    /// Its identify data.
    pub fn identify(&self) -> Box<IdentifyController> {
        self.identify.borrow().clone()
    }

    /// Its namespaces, by identifier.
    pub fn namespaces(&self) -> Vec<Arc<Namespace>> {
        self.namespaces.borrow().values().cloned().collect()
    }

    /// Whether a completed write may be lost with power before a flush (VWC, and whether the cache is on).
    pub fn write_cache(&self) -> bool {
        self.write_cache.get()
    }

    /// Longest Write Zeroes in bytes, where the controller has a limit.
    pub fn write_zeroes_max(&self) -> Option<u64> {
        self.write_zeroes_max.get()
    }

    /// How many I/O queue pairs it has.
    pub fn io_queues(&self) -> usize {
        self.link.pair_count()
    }

    /// Longest data transfer of one command, in bytes.
    pub fn transfer_max(&self) -> u32 {
        attach::transfer_max(&self.identify.borrow(), self.properties.cap)
    }

    /// Whether it takes SGLs for I/O.
    pub fn takes_sgl(&self) -> bool {
        attach::scatter(&self.identify.borrow()) == Scatter::Sgl
    }

    /// How it is driven.
    pub fn options(&self) -> ControllerOptions {
        self.options.borrow().clone()
    }

    /// Changes time-outs and their action; the rest of the options are of the attach.
    pub fn set_timeouts(&self, options: &ControllerOptions) {
        let mut own = self.options.borrow_mut();
        own.timeout = options.timeout;
        own.admin_timeout = options.admin_timeout;
        own.timeout_action = options.timeout_action;
        own.admin_poll_period = options.admin_poll_period;
        own.reset_policy = options.reset_policy;
    }

    /// Executes an admin command; `out` is data for the device, otherwise `length` bytes are returned.
    ///
    /// # Errors
    /// When the device gives no answer, or cannot be given the command. A command that the device refuses is not an
    /// error here: look at the entry's status.
    pub async fn admin(
        &self,
        command: SubmissionEntry,
        out: Option<&[u8]>,
        length: u32,
    ) -> Result<(CompletionEntry, Vec<u8>)> {
        let patience = self.options.borrow().admin_timeout;
        self.admin_within(command, out, length, patience).await
    }

    /// The same, with a patience of the caller's.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub async fn admin_within(
        &self,
        command: SubmissionEntry,
        out: Option<&[u8]>,
        length: u32,
        patience: Duration,
    ) -> Result<(CompletionEntry, Vec<u8>)> {
        let data = self.buffer(out, length)?;
        let length = data.as_ref().map_or(0, |(_, length)| *length);
        // The pool may just have grown.
        self.follow_regions().await;
        let answer = self.admin.execute(&self.cx, command, data, patience).await.map_err(
            |error| match self.regions.take_refusal() {
                Some(refusal) => refusal,
                None => error,
            },
        )?;
        let data = answer.data.as_ref().map(|buffer| (buffer, length));
        Ok((answer.entry, returned(out, data)))
    }

    /// Executes an I/O command as it is, on this reactor's queue pair; `out` and `length` as for
    /// [`Controller::admin`].
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub async fn io(
        &self,
        command: SubmissionEntry,
        out: Option<&[u8]>,
        length: u32,
        patience: Duration,
    ) -> Result<(Done, Vec<u8>)> {
        let data = self.buffer(out, length)?;
        self.follow_regions().await;
        // SAFETY: the buffer stays until the command has ended: the queue is dropped before it, and waits.
        let segment = data.as_ref().map(|(buffer, length)| unsafe { buffer.segment(*length) });
        let mut queue = self.opener().open(&self.cx)?;
        let deadline = Tsc::read().after(Tsc::ticks(patience));
        loop {
            let push =
                queue.batch(self.cx.now().0).push_passthrough([0; 3], command, segment.into_iter());
            match push {
                Push::Taken => break,
                Push::Refused(status) => {
                    return Ok((Done { tag: [0; 3], status, result: 0 }, Vec::new()));
                }
                Push::Full if Tsc::read() > deadline => {
                    return Err(Error::new(
                        ErrorKind::TimedOut,
                        format!(
                            "{}: I/O command {:#04x} found no room in the queue within {patience:?}",
                            self.transport.address(),
                            command.opcode
                        ),
                    ));
                }
                Push::Full => self.cx.sleep(Duration::from_micros(100)).await,
            }
        }
        let done = loop {
            let mut ended = None;
            queue.poll(self.cx.now().0, 1, |done| ended = Some(done));
            if let Some(done) = ended {
                break done;
            }
            if Tsc::read() > deadline {
                // The queue must not be dropped with the command outstanding: a reset ends it.
                warn!(controller = self.transport.address(), "a passthrough command took too long");
                self.request_reset().await?;
            }
            self.cx.yield_now().await;
        };
        let data = data.as_ref().map(|(buffer, length)| (buffer, *length));
        Ok((done, returned(out, data)))
    }

    /// A buffer with the data for the device, or zeros for data from it.
    fn buffer(&self, out: Option<&[u8]>, length: u32) -> Result<Option<(Buffer, u32)>> {
        let length = out.map_or(length as usize, <[u8]>::len);
        if length > TRANSFER_MAX || !length.is_multiple_of(4) {
            return Err(Error::invalid(format!(
                "{length} bytes of data for a command (multiples of 4 up to {TRANSFER_MAX} are possible)"
            )));
        }
        if length == 0 {
            return Ok(None);
        }
        let mut buffer = self.cx.pool().take(length)?;
        let bytes = &mut buffer.bytes_mut()[..length];
        match out {
            Some(out) => bytes.copy_from_slice(out),
            None => bytes.fill(0),
        }
        Ok(Some((buffer, length as u32)))
    }

    /// The error of a command that the device refused.
    fn expect_success(&self, command: &SubmissionEntry, entry: &CompletionEntry) -> Result<()> {
        match entry.status() {
            Status::SUCCESS => Ok(()),
            status => Err(Error::new(
                ErrorKind::Io,
                format!(
                    "{}: admin command {:#04x} failed: {status}",
                    self.transport.address(),
                    command.opcode
                ),
            )),
        }
    }

    /// Reads `bytes` (a multiple of four) of log page `id` (Base Specification, section 5.16).
    ///
    /// # Errors
    /// When the device refuses it or does not answer.
    pub async fn log_page(&self, id: u8, nsid: u32, bytes: u32) -> Result<Vec<u8>> {
        let command = commands::log_page(id, nsid, 0, bytes);
        let (entry, data) = self.admin(command, None, bytes).await?;
        self.expect_success(&command, &entry)?;
        Ok(data)
    }

    /// The drive's health.
    ///
    /// # Errors
    /// As [`Controller::log_page`].
    pub async fn health(&self) -> Result<SmartLog> {
        let page = self.log_page(LogPage::SMART, NSID_ALL, size_of::<SmartLog>() as u32).await?;
        SmartLog::read_from_bytes(&page)
            .map_err(|_| Error::invalid("a health log page of another size"))
    }

    /// The newest `count` entries of the error log.
    ///
    /// # Errors
    /// As [`Controller::log_page`].
    pub async fn errors(&self, count: u32) -> Result<Vec<ErrorLogEntry>> {
        let count = count.clamp(1, self.identify.borrow().error_log_entries());
        let size = size_of::<ErrorLogEntry>() as u32;
        let page = self.log_page(LogPage::ERROR, NSID_ALL, count * size).await?;
        let entries = page.chunks_exact(size as usize).filter_map(|entry| {
            ErrorLogEntry::read_from_bytes(entry).ok().filter(|entry| entry.error_count != 0)
        });
        Ok(entries.collect())
    }

    /// Injects an error into commands of an opcode, on the admin queue or on all I/O queues; a count of 0
    /// takes it away.
    pub async fn inject(&self, admin: bool, injection: Injection) {
        if admin {
            self.admin.inject(injection);
        } else {
            self.link.for_each(&self.cx, move |pair| pair.inject(injection)).await;
        }
    }

    /// What the I/O queue pairs have done, by queue identifier.
    pub async fn stats(&self) -> Vec<(u16, PairStats)> {
        let mut stats = self.link.for_each(&self.cx, |pair| (pair.id(), pair.stats())).await;
        stats.sort_by_key(|(id, _)| *id);
        stats
    }

    async fn notify(&self, notice: Notice) {
        let watcher = self.watcher.borrow().clone();
        if let Some(watcher) = watcher {
            watcher(notice).await;
        }
    }

    async fn enter(&self, state: State) {
        if self.state.replace(state) != state {
            self.notify(Notice::State(state)).await;
        }
    }

    /// Whether the controller may still come back.
    fn is_over(&self) -> bool {
        matches!(self.state.get(), State::Removed | State::Detached)
    }
}

/// What a command returned: with data for the device (`out`) nothing, otherwise what is in the buffer now.
fn returned(out: Option<&[u8]>, data: Option<(&Buffer, u32)>) -> Vec<u8> {
    match (out, data) {
        (None, Some((buffer, length))) => buffer.bytes()[..length as usize].to_vec(),
        _ => Vec::new(),
    }
}
