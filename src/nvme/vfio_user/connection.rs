//! One connection to a server: requests and their replies, the server's own requests, and the end of it.
//!
//! The dialogue is behind a lock, since doorbells may be posted by any reactor; nobody holds it for longer than a few
//! system calls that return at once. A poller on the reactor that made the connection moves the bytes and wakes
//! whoever waits for a reply. Once anything goes wrong with the stream itself, nothing that follows in it has a
//! meaning: the connection is [failed](Connection::fail) for good, every request that waits ends with the reason,
//! and so does every later one.

use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::FutureExt;
use rustix::net::{Shutdown, shutdown};
use zerocopy::IntoBytes;

use super::dialogue::{Dialogue, Failure, Progress, Reply, Request, hang_up};
use super::mapped_memory::MappedMemory;
use super::outbox::POSTED_ID;
use super::wire::{Command, Header};
use crate::base::{Error, ErrorKind, Result};
use crate::memory::Backing;
use crate::reactor::Context;

/// Most requests that wait at once; a driver has a handful.
const REQUESTS_MAX: usize = 256;

/// A connection to one server.
pub struct Connection {
    /// What stands in messages.
    address: String,
    socket: OwnedFd,
    timeout: Duration,
    failed: AtomicBool,
    /// Something is awaited or not yet sent: the poller looks in every round.
    eager: AtomicBool,
    dialogue: Mutex<Dialogue>,
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
            dialogue: Mutex::new(Dialogue::new()),
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

    fn lock(&self) -> MutexGuard<'_, Dialogue> {
        // Nobody panics with the dialogue in pieces.
        self.dialogue.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut dialogue = self.lock();
        if let Some(failure) = &dialogue.failure {
            return Err(self.failure(failure));
        }
        if dialogue.requests.len() >= REQUESTS_MAX {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("vfio-user {}: {REQUESTS_MAX} requests wait for a reply", self.address),
            ));
        }
        let id = dialogue.free_id();
        let header = Header::command(id, command, payload.len());
        dialogue.requests.insert(id, Request { command, progress: Progress::Waits(None) });
        dialogue.outbox.push([header.as_bytes(), payload].concat(), file);
        self.eager.store(true, Ordering::Relaxed);
        if let Err(errno) = dialogue.outbox.flush(self.socket.as_fd()) {
            let failure = hang_up(errno);
            let error = self.failure(&failure);
            self.end(dialogue, failure);
            return Err(error);
        }
        Ok(id)
    }

    /// Sends a command that asks for no reply, as far as the socket has room for it.
    pub fn send_without_reply(&self, command: Command) {
        let mut dialogue = self.lock();
        if dialogue.failure.is_none() {
            let header = Header::command(POSTED_ID, command, 0).without_reply();
            dialogue.outbox.push(header.as_bytes().to_vec(), None);
            if let Err(errno) = dialogue.outbox.flush(self.socket.as_fd()) {
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
        let mut dialogue = self.lock();
        if dialogue.failure.is_some() {
            return;
        }
        match dialogue.outbox.post(self.socket.as_fd(), offset, value) {
            Ok(()) => {
                if !dialogue.outbox.is_empty() {
                    self.eager.store(true, Ordering::Relaxed);
                }
            }
            Err(errno) => self.end(dialogue, hang_up(errno)),
        }
    }

    /// Ends the connection for a reason of the caller's; `what` is said of it. Gives the reason for the end as an
    /// error, which is another one if it had ended before.
    pub fn fail(&self, kind: ErrorKind, what: impl Into<String>) -> Error {
        let dialogue = self.lock();
        let failure = dialogue.failure.clone().unwrap_or_else(|| (kind, what.into()));
        let error = self.failure(&failure);
        self.end(dialogue, failure);
        error
    }

    /// A failure as an error of whoever asks.
    fn failure(&self, (kind, what): &Failure) -> Error {
        Error::new(*kind, format!("vfio-user {}: {what}", self.address))
    }

    /// Ends the connection, if it has not ended yet: the first reason is the one that counts.
    fn end(&self, mut dialogue: MutexGuard<'_, Dialogue>, failure: Failure) {
        if dialogue.failure.is_some() {
            return;
        }
        self.failed.store(true, Ordering::Relaxed);
        self.eager.store(false, Ordering::Relaxed);
        if !dialogue.awaits_reply() {
            // Nobody waits who could be told.
            tracing::warn!("vfio-user {}: {}", self.address, failure.1);
        }
        let wakers = dialogue.end(failure, |failure| self.failure(failure));
        drop(dialogue);
        if let Err(errno) = shutdown(&self.socket, Shutdown::Both) {
            tracing::debug!("vfio-user {}: hanging up: {errno}", self.address);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Hangs up, after what the socket still takes is sent.
    pub fn close(&self) {
        let mut dialogue = self.lock();
        if dialogue.failure.is_none() {
            // What does not go now never will: the server is gone or stuck.
            let _ = dialogue.outbox.flush(self.socket.as_fd());
            self.failed.store(true, Ordering::Relaxed);
            dialogue.failure = Some((ErrorKind::Canceled, "the connection was closed".into()));
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
    }

    /// Sends and receives what can be, without waiting. True when anything moved.
    pub fn look(&self) -> bool {
        let mut dialogue = self.lock();
        if dialogue.failure.is_some() {
            return false;
        }
        let mut wakers = Vec::new();
        let moved = dialogue.exchange(self.socket.as_fd(), &self.address, &mut wakers);
        let eager = !dialogue.outbox.is_empty() || dialogue.awaits_reply();
        self.eager.store(eager, Ordering::Relaxed);
        let moved = match moved {
            Ok(moved) => {
                drop(dialogue);
                moved
            }
            Err(failure) => {
                self.end(dialogue, failure);
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

/// Waits for the reply to one request, and forgets it when dropped.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u16,
}

impl Waiting<'_> {
    fn answer(&self) -> impl Future<Output = Result<Reply>> {
        poll_fn(|task| {
            let mut dialogue = self.connection.lock();
            let Some(request) = dialogue.requests.get_mut(&self.id) else {
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
        let mut dialogue = self.connection.lock();
        match dialogue.requests.get_mut(&self.id) {
            Some(Request { progress: progress @ Progress::Waits(_), .. }) => {
                *progress = Progress::Abandoned;
            }
            _ => {
                dialogue.requests.remove(&self.id);
            }
        }
    }
}
