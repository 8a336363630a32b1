//! What is said over one connection, by both sides: the requests that wait for a reply, and the server's own requests.
//!
//! Owned by the [`Connection`](super::connection::Connection), which locks it. Nothing here blocks or waits.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::Waker;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::capabilities::DESCRIPTORS_MAX;
use super::inbox::{Inbox, Message};
use super::mapped_memory::MappedMemory;
use super::outbox::{Outbox, POSTED_ID};
use super::wire::{Command, DmaAccess, Header};
use crate::base::{Error, ErrorKind, Result};
use crate::socket::{self, ReceiveError};

/// Bytes of answers that a server may leave unread before nothing more is read from it.
const ANSWERS_MAX: usize = 4 << 20;

/// How often the socket is read in one look, so that a busy server leaves the reactor its turns.
const RECEIVES_PER_LOOK: usize = 64;

/// Bytes of answers after which a look ends, for the same reason.
const ANSWERS_PER_LOOK: usize = 256 << 10;

/// What is going on over one connection.
pub struct Dialogue {
    pub outbox: Outbox,
    inbox: Inbox<OwnedFd>,
    pub requests: BTreeMap<u16, Request>,
    next_id: u16,
    pub memory: MappedMemory,
    pub failure: Option<Failure>,
}

/// Why a connection ended.
pub type Failure = (ErrorKind, String);

/// A request that was sent.
pub struct Request {
    /// What was asked.
    pub command: Command,
    /// What became of it.
    pub progress: Progress,
}

/// What became of a request.
pub enum Progress {
    /// No answer yet.
    Waits(Option<Waker>),
    /// There it is.
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

/// The reason for the end when the socket says `errno`.
pub fn hang_up(errno: Errno) -> Failure {
    match errno {
        Errno::PIPE | Errno::CONNRESET => (ErrorKind::NoDevice, "the server hung up".into()),
        other => (ErrorKind::Io, format!("the socket failed: {other}")),
    }
}

impl Dialogue {
    /// Nothing said yet.
    pub fn new() -> Dialogue {
        Dialogue {
            outbox: Outbox::default(),
            inbox: Inbox::new(DESCRIPTORS_MAX),
            requests: BTreeMap::new(),
            next_id: 0,
            memory: MappedMemory::default(),
            failure: None,
        }
    }

    /// Whether a reply is awaited.
    pub fn awaits_reply(&self) -> bool {
        self.requests.values().any(|request| matches!(request.progress, Progress::Waits(_)))
    }

    /// Ends it for `failure`: every request that waits has `error` for an answer. Gives the wakers of those.
    pub fn end(&mut self, failure: Failure, error: impl Fn(&Failure) -> Error) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for request in self.requests.values_mut() {
            if let Progress::Waits(waker) = &mut request.progress {
                wakers.extend(waker.take());
                request.progress = Progress::Answered(Err(error(&failure)));
            }
        }
        self.outbox = Outbox::default();
        self.inbox = Inbox::new(DESCRIPTORS_MAX);
        self.failure = Some(failure);
        wakers
    }

    /// An id that no request has, and no posted write.
    pub fn free_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = (id + 1) % POSTED_ID;
            if !self.requests.contains_key(&id) {
                return id;
            }
        }
    }

    /// Sends and receives what can be. Whether anything moved; `wakers` gets those of whoever was answered.
    ///
    /// # Errors
    /// Why the connection cannot go on.
    pub fn exchange(
        &mut self,
        socket: BorrowedFd<'_>,
        address: &str,
        wakers: &mut Vec<Waker>,
    ) -> std::result::Result<bool, Failure> {
        let mut moved = self.outbox.flush(socket).map_err(hang_up)?;
        let mut messages = 0;
        let unsent = self.outbox.bytes();
        for _ in 0..RECEIVES_PER_LOOK {
            if self.outbox.bytes() >= ANSWERS_MAX.min(unsent + ANSWERS_PER_LOOK) {
                break;
            }
            match self.receive(socket)? {
                Received::Nothing => break,
                Received::Bytes => moved = true,
                Received::Message(message) => {
                    messages += 1;
                    moved = true;
                    if message.header.is_reply() {
                        wakers.extend(self.take_reply(address, message)?);
                    } else {
                        self.answer(address, &message);
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
    fn receive(&mut self, stream: BorrowedFd<'_>) -> std::result::Result<Received, Failure> {
        let absurd = |error: Error| (error.kind(), format!("the server sent {error}"));
        let (count, descriptors) = match socket::receive(stream, self.inbox.space()) {
            Ok(socket::Received::Bytes(count, descriptors)) => (count, descriptors),
            Ok(socket::Received::Nothing) => return Ok(Received::Nothing),
            Ok(socket::Received::End) => {
                let between = self.inbox.is_between_messages();
                let when = if between { "" } else { " in the middle of a message" };
                return Err((ErrorKind::NoDevice, format!("the server hung up{when}")));
            }
            Err(ReceiveError::Socket(errno)) => return Err(hang_up(errno)),
            Err(ReceiveError::Descriptors) => {
                let what = format!(
                    "the server sent more than {DESCRIPTORS_MAX} descriptors at once, or more than may be open"
                );
                return Err((ErrorKind::Io, what));
            }
        };
        for descriptor in descriptors {
            self.inbox.add_descriptor(descriptor).map_err(absurd)?;
        }
        match self.inbox.filled(count).map_err(absurd)? {
            Some(message) => Ok(Received::Message(message)),
            None => Ok(Received::Bytes),
        }
    }

    /// Gives a reply to whoever waits for it.
    fn take_reply(
        &mut self,
        address: &str,
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
            tracing::debug!("vfio-user {address}: an answer that was not asked for");
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
                            "vfio-user {address}: the server refused {} ({})",
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
    fn answer(&mut self, address: &str, message: &Message<OwnedFd>) {
        let header = message.header;
        let refuse = |errno: Errno, why: &str| {
            tracing::debug!("vfio-user {address}: command {} of the server: {why}", header.command);
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
