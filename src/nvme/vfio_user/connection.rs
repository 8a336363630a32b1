//! One connection to a server: requests and their replies, the server's own requests, and the end of it.
//!
//! The state is behind a lock, since doorbells may be posted by any reactor; nobody holds it for longer than a few
//! system calls that return at once. A poller on the reactor that made the connection moves the bytes and wakes
//! whoever waits for a reply. Once anything goes wrong with the stream itself, nothing that follows in it has a
//! meaning: the connection is [failed](Connection::fail) for good, every request that waits ends with the reason,
//! and so does every later one.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::FutureExt;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, Shutdown, recvmsg, shutdown,
};
use zerocopy::IntoBytes;

use super::capabilities::DESCRIPTORS_MAX;
use super::inbox::{Inbox, Message};
use super::mapped_memory::MappedMemory;
use super::outbox::{Outbox, POSTED_ID};
use super::wire::{Command, DmaAccess, Header};
use crate::base::{Error, ErrorKind, Result};
use crate::memory::Backing;
use crate::reactor::Context;

/// Most requests that wait at once; a driver has a handful.
const REQUESTS_MAX: usize = 256;

/// Bytes of answers that a server may leave unread before nothing more is read from it.
const ANSWERS_MAX: usize = 4 << 20;

/// How often the socket is read in one look, so that a busy server leaves the reactor its turns.
const RECEIVES_PER_LOOK: usize = 64;

/// Bytes of answers after which a look ends, for the same reason.
const ANSWERS_PER_LOOK: usize = 256 << 10;

/// A connection to one server.
pub struct Connection {
    /// What stands in messages.
    address: String,
    socket: OwnedFd,
    timeout: Duration,
    failed: AtomicBool,
    /// Something is awaited or not yet sent: the poller looks in every round.
    eager: AtomicBool,
    state: Mutex<State>,
}

struct State {
    outbox: Outbox,
    inbox: Inbox<OwnedFd>,
    requests: BTreeMap<u16, Request>,
    next_id: u16,
    memory: MappedMemory,
    failure: Option<Failure>,
}

/// Why a connection ended.
type Failure = (ErrorKind, String);

/// A request that was sent.
struct Request {
    command: Command,
    progress: Progress,
}

enum Progress {
    Waits(Option<Waker>),
    Answered(Result<Reply>),
    /// Whoever asked went away; the answer will be of no interest.
    Abandoned,
}

/// What a server answered.
#[derive(Debug)]
pub struct Reply {
    /// What followed the header.
    pub payload: Vec<u8>,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Connection {
    /// A connection over a connected socket that does not block. `timeout` is how long a reply may take.
    pub fn new(address: String, socket: OwnedFd, timeout: Duration) -> Connection {
        Connection {
            address,
            socket,
            timeout,
            failed: AtomicBool::new(false),
            eager: AtomicBool::new(false),
            state: Mutex::new(State {
                outbox: Outbox::default(),
                inbox: Inbox::new(DESCRIPTORS_MAX),
                requests: BTreeMap::new(),
                next_id: 0,
                memory: MappedMemory::default(),
                failure: None,
            }),
        }
    }

    /// The path of the socket.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether it has failed for good.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether the poller should look in every round.
    pub fn is_eager(&self) -> bool {
        self.eager.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics with the state in pieces.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at and changes the list of memory that the server was given.
    pub fn memory<R>(&self, change: impl FnOnce(&mut MappedMemory) -> R) -> R {
        change(&mut self.lock().memory)
    }

    /// Sends a command and waits for the reply, without blocking the reactor of `cx`.
    ///
    /// # Errors
    /// What the server answers; when it does not answer in time or hangs up, after which the connection is of no
    /// use any more.
    pub async fn request(
        &self,
        cx: &Context,
        command: Command,
        payload: &[u8],
        file: Option<Backing>,
    ) -> Result<Reply> {
        let id = self.send(command, payload, file)?;
        let reply = Waiting { connection: self, id };
        let answer = async { Some(reply.answer().await) };
        let timeout = async {
            cx.sleep(self.timeout).await;
            None
        };
        match answer.or(timeout).await {
            Some(answer) => answer,
            None => {
                let what = format!("no reply to {} within {:?}", command.name(), self.timeout);
                Err(self.fail(ErrorKind::TimedOut, what))
            }
        }
    }

    fn send(&self, command: Command, payload: &[u8], file: Option<Backing>) -> Result<u16> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(self.failure(failure));
        }
        if state.requests.len() >= REQUESTS_MAX {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("vfio-user {}: {REQUESTS_MAX} requests wait for a reply", self.address),
            ));
        }
        let id = state.free_id();
        let header = Header::command(id, command, payload.len());
        state.requests.insert(id, Request { command, progress: Progress::Waits(None) });
        state.outbox.push([header.as_bytes(), payload].concat(), file);
        self.eager.store(true, Ordering::Relaxed);
        if let Err(errno) = state.outbox.flush(self.socket.as_fd()) {
            let failure = hang_up(errno);
            let error = self.failure(&failure);
            self.end(state, failure);
            return Err(error);
        }
        Ok(id)
    }

    /// Sends a command that asks for no reply, as far as the socket has room for it.
    pub fn send_without_reply(&self, command: Command) {
        let mut state = self.lock();
        if state.failure.is_none() {
            let header = Header::command(POSTED_ID, command, 0).without_reply();
            state.outbox.push(header.as_bytes().to_vec(), None);
            if let Err(errno) = state.outbox.flush(self.socket.as_fd()) {
                tracing::debug!("vfio-user {}: {}: {errno}", self.address, command.name());
            }
        }
    }

    /// Makes room for the pending writes of `registers` doorbells.
    pub fn reserve_doorbells(&self, registers: usize) {
        self.lock().outbox.reserve_doorbells(registers);
    }

    /// Writes a doorbell register by a message that nobody answers.
    pub fn post(&self, offset: u32, value: u32) {
        let mut state = self.lock();
        if state.failure.is_some() {
            return;
        }
        match state.outbox.post(self.socket.as_fd(), offset, value) {
            Ok(()) => {
                if !state.outbox.is_empty() {
                    self.eager.store(true, Ordering::Relaxed);
                }
            }
            Err(errno) => self.end(state, hang_up(errno)),
        }
    }

    /// Ends the connection for a reason of the caller's; `what` is said of it. Gives the reason for the end as an
    /// error, which is another one if it had ended before.
    pub fn fail(&self, kind: ErrorKind, what: impl Into<String>) -> Error {
        let state = self.lock();
        let failure = state.failure.clone().unwrap_or_else(|| (kind, what.into()));
        let error = self.failure(&failure);
        self.end(state, failure);
        error
    }

    /// A failure as an error of whoever asks.
    fn failure(&self, (kind, what): &Failure) -> Error {
        Error::new(*kind, format!("vfio-user {}: {what}", self.address))
    }

    /// Ends the connection, if it has not ended yet: the first reason is the one that counts.
    fn end(&self, mut state: MutexGuard<'_, State>, failure: Failure) {
        if state.failure.is_some() {
            return;
        }
        self.failed.store(true, Ordering::Relaxed);
        self.eager.store(false, Ordering::Relaxed);
        let mut wakers = Vec::new();
        for request in state.requests.values_mut() {
            if let Progress::Waits(waker) = &mut request.progress {
                wakers.extend(waker.take());
                request.progress = Progress::Answered(Err(self.failure(&failure)));
            }
        }
        state.outbox = Outbox::default();
        state.inbox = Inbox::new(DESCRIPTORS_MAX);
        if wakers.is_empty() {
            // Nobody waits who could be told.
            tracing::warn!("vfio-user {}: {}", self.address, failure.1);
        }
        state.failure = Some(failure);
        drop(state);
        if let Err(errno) = shutdown(&self.socket, Shutdown::Both) {
            tracing::debug!("vfio-user {}: hanging up: {errno}", self.address);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Hangs up, after what the socket still takes is sent.
    pub fn close(&self) {
        let mut state = self.lock();
        if state.failure.is_none() {
            // What does not go now never will: the server is gone or stuck.
            let _ = state.outbox.flush(self.socket.as_fd());
            self.failed.store(true, Ordering::Relaxed);
            state.failure = Some((ErrorKind::Canceled, "the connection was closed".into()));
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
    }

    /// Sends and receives what can be, without waiting. True when anything moved.
    pub fn look(&self) -> bool {
        let mut state = self.lock();
        if state.failure.is_some() {
            return false;
        }
        let mut wakers = Vec::new();
        let moved = state.exchange(self, &mut wakers);
        let waiting = |request: &Request| matches!(request.progress, Progress::Waits(_));
        let eager = !state.outbox.is_empty() || state.requests.values().any(waiting);
        self.eager.store(eager, Ordering::Relaxed);
        let moved = match moved {
            Ok(moved) => {
                drop(state);
                moved
            }
            Err(failure) => {
                self.end(state, failure);
                true
            }
        };
        wakers.into_iter().for_each(Waker::wake);
        moved
    }

    /// Whether there is something left to send.
    pub fn has_unsent(&self) -> bool {
        !self.lock().outbox.is_empty()
    }
}

/// The reason for the end when the socket says `errno`.
fn hang_up(errno: Errno) -> Failure {
    match errno {
        Errno::PIPE | Errno::CONNRESET => (ErrorKind::NoDevice, "the server hung up".into()),
        other => (ErrorKind::Io, format!("the socket failed: {other}")),
    }
}

impl State {
    /// An id that no request has, and no posted write.
    fn free_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = (id + 1) % POSTED_ID;
            if !self.requests.contains_key(&id) {
                return id;
            }
        }
    }

    fn exchange(
        &mut self,
        connection: &Connection,
        wakers: &mut Vec<Waker>,
    ) -> std::result::Result<bool, Failure> {
        let socket = connection.socket.as_fd();
        let mut moved = self.outbox.flush(socket).map_err(hang_up)?;
        let mut messages = 0;
        let unsent = self.outbox.bytes();
        for _ in 0..RECEIVES_PER_LOOK {
            if self.outbox.bytes() >= ANSWERS_MAX.min(unsent + ANSWERS_PER_LOOK) {
                break;
            }
            match self.receive(connection)? {
                Received::Nothing => break,
                Received::Bytes => moved = true,
                Received::Message(message) => {
                    messages += 1;
                    moved = true;
                    if message.header.is_reply() {
                        wakers.extend(self.take_reply(connection, message)?);
                    } else {
                        self.answer(connection, &message);
                    }
                }
            }
        }
        if messages > 0 {
            self.outbox.flush(socket).map_err(hang_up)?;
        }
        Ok(moved)
    }

    /// Receives once.
    fn receive(&mut self, connection: &Connection) -> std::result::Result<Received, Failure> {
        let absurd = |error: Error| (error.kind(), format!("the server sent {error}"));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            let mut into = [IoSliceMut::new(self.inbox.space())];
            match recvmsg(&connection.socket, &mut into, &mut beside, flags) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(errno) => return Err(hang_up(errno)),
            }
        };
        if received.bytes == 0 {
            let when =
                if self.inbox.is_between_messages() { "" } else { " in the middle of a message" };
            return Err((ErrorKind::NoDevice, format!("the server hung up{when}")));
        }
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                for descriptor in descriptors {
                    self.inbox.add_descriptor(descriptor).map_err(absurd)?;
                }
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            // The kernel has closed what did not fit.
            let what = format!("the server sent more than {DESCRIPTORS_MAX} descriptors at once");
            return Err((ErrorKind::Io, what));
        }
        match self.inbox.filled(received.bytes).map_err(absurd)? {
            Some(message) => Ok(Received::Message(message)),
            None => Ok(Received::Bytes),
        }
    }

    /// Gives a reply to whoever waits for it.
    fn take_reply(
        &mut self,
        connection: &Connection,
        message: Message<OwnedFd>,
    ) -> std::result::Result<Option<Waker>, Failure> {
        let Header { id, command: number, .. } = message.header;
        let Some(request) = self.requests.get_mut(&id) else {
            if id != POSTED_ID {
                let what = format!("the server answered message {id}, which asked for nothing");
                return Err((ErrorKind::Io, what));
            }
            if let Some(errno) = message.header.failed() {
                let what = format!("the server refused a doorbell write ({})", describe(errno));
                return Err((ErrorKind::Io, what));
            }
            tracing::debug!("vfio-user {}: an answer that was not asked for", connection.address);
            return Ok(None);
        };
        if number != request.command as u16 {
            let asked = request.command.name();
            let what = format!("the server answered {asked} with a reply to command {number}");
            return Err((ErrorKind::Io, what));
        }
        match &mut request.progress {
            Progress::Waits(waker) => {
                let waker = waker.take();
                let answer = match message.header.failed() {
                    None => {
                        let Message { payload, descriptors, .. } = message;
                        Ok(Reply { payload, descriptors })
                    }
                    Some(errno) => Err(Error::new(
                        ErrorKind::from_errno(i32::try_from(errno).unwrap_or(0)),
                        format!(
                            "vfio-user {}: the server refused {} ({})",
                            connection.address,
                            request.command.name(),
                            describe(errno)
                        ),
                    )),
                };
                request.progress = Progress::Answered(answer);
                Ok(waker)
            }
            Progress::Abandoned => {
                self.requests.remove(&id);
                Ok(None)
            }
            Progress::Answered(_) => {
                Err((ErrorKind::Io, format!("the server answered message {id} twice")))
            }
        }
    }

    /// Answers a command of the server's.
    fn answer(&mut self, connection: &Connection, message: &Message<OwnedFd>) {
        let header = message.header;
        let refuse = |errno: Errno, why: &str| {
            tracing::debug!(
                "vfio-user {}: command {} of the server: {why}",
                connection.address,
                header.command
            );
            header.failure(errno.raw_os_error() as u32).as_bytes().to_vec()
        };
        const OUTSIDE: &str = "it names memory that is not mapped for it";
        let reply = match Command::from_number(header.command) {
            Some(Command::DmaRead) => match DmaAccess::parse_read(&message.payload) {
                Ok(access) => {
                    let count = access.count as usize;
                    let reply = header.reply(size_of::<DmaAccess>() + count);
                    let mut bytes = [reply.as_bytes(), access.as_bytes()].concat();
                    match self.memory.read(access.address, count, &mut bytes) {
                        true => bytes,
                        false => refuse(Errno::FAULT, OUTSIDE),
                    }
                }
                Err(error) => refuse(Errno::INVAL, &error.to_string()),
            },
            Some(Command::DmaWrite) => match DmaAccess::parse_write(&message.payload) {
                Ok((access, data)) => match self.memory.write(access.address, data) {
                    true => {
                        let reply = header.reply(size_of::<DmaAccess>());
                        [reply.as_bytes(), access.as_bytes()].concat()
                    }
                    false => refuse(Errno::FAULT, OUTSIDE),
                },
                Err(error) => refuse(Errno::INVAL, &error.to_string()),
            },
            _ => refuse(Errno::NOTSUP, "not one that a client answers"),
        };
        if header.wants_reply() {
            self.outbox.push(reply, None);
        }
    }
}

fn describe(errno: u32) -> String {
    match i32::try_from(errno) {
        Ok(0) | Err(_) => "it does not say why".into(),
        Ok(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

enum Received {
    Nothing,
    Bytes,
    Message(Message<OwnedFd>),
}

/// Waits for the reply to one request, and forgets it when dropped.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u16,
}

impl Waiting<'_> {
    fn answer(&self) -> impl Future<Output = Result<Reply>> {
        poll_fn(|task| {
            let mut state = self.connection.lock();
            let Some(request) = state.requests.get_mut(&self.id) else {
                unreachable!("only this removes it");
            };
            match std::mem::replace(&mut request.progress, Progress::Abandoned) {
                Progress::Answered(answer) => Poll::Ready(answer),
                _ => {
                    request.progress = Progress::Waits(Some(task.waker().clone()));
                    Poll::Pending
                }
            }
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        match state.requests.get_mut(&self.id) {
            Some(Request { progress: progress @ Progress::Waits(_), .. }) => {
                *progress = Progress::Abandoned;
            }
            _ => {
                state.requests.remove(&self.id);
            }
        }
    }
}
