//! One client of the server: bytes in, requests started, answers out. Never blocks.
//!
//! Invariants: every request that is no notification is answered once, unless its client has gone.
//! A client that does not read its answers, or has too many requests in flight, is not read from
//! until that has changed; it holds up nobody else.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use rustix::event::epoll::EventFlags;

use super::batch::{Batch, Target};
use super::decoder::{Decoded, Decoder, Message};
use super::dispatch;
use super::message::{Answer, Id};
use super::method::Outcome;
use super::services::Services;
use crate::base::limits::{RPC_ANSWERS_PENDING_MAX, RPC_REQUESTS_IN_FLIGHT_MAX};
use crate::reactor::Tsc;

/// Bytes read at a time.
const READ_SIZE: usize = 64 << 10;
/// How long a client's turn may start further messages, so that others, and I/O, get theirs.
const TURN: Duration = Duration::from_micros(200);

/// What is to be done about a client after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Wait for these events.
    Wait(EventFlags),
    /// It has more to do right away.
    Again,
    /// It is done: drop it.
    Gone,
}

/// A connected client.
pub(super) struct Connection {
    stream: UnixStream,
    services: Rc<Services>,
    decoder: RefCell<Decoder>,
    /// Read, but waiting for room.
    held: RefCell<Option<Message>>,
    answers: RefCell<Answers>,
    in_flight: Cell<usize>,
    /// Nothing more is read: the client has said all it has to say, or was too unclear.
    deaf: Cell<bool>,
    /// Nothing more can be written.
    dead: Cell<bool>,
    /// Tells the server that a request of this client finished by itself.
    on_progress: Box<dyn Fn()>,
}

/// Answers that the socket has not taken yet.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    sent: usize,
}

impl Answers {
    fn pending(&self) -> usize {
        self.bytes.len() - self.sent
    }
}

impl Connection {
    pub(super) fn new(
        stream: UnixStream,
        services: Rc<Services>,
        on_progress: impl Fn() + 'static,
    ) -> Rc<Connection> {
        Rc::new(Connection {
            stream,
            services,
            decoder: RefCell::default(),
            held: RefCell::default(),
            answers: RefCell::default(),
            in_flight: Cell::new(0),
            deaf: Cell::new(false),
            dead: Cell::new(false),
            on_progress: Box::new(on_progress),
        })
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Does what there is to do.
    pub(super) fn turn(self: &Rc<Self>) -> Turn {
        let end = Tsc(Tsc::read().0.wrapping_add(Tsc::ticks(TURN)));
        let mut over = false;
        while !over {
            if self.start_next() {
                over = Tsc::read() >= end;
            } else if self.held.borrow().is_some() || !self.read() {
                break;
            }
        }
        self.write();
        let held = self.held.borrow().is_some();
        if over || (held && self.has_room_for_held()) {
            return Turn::Again;
        }
        // All that was read is started by now, but for what is held.
        let pending = self.answers.borrow().pending() > 0;
        let answered = !held && !pending && self.in_flight.get() == 0;
        if self.deaf.get() && (answered || self.dead.get()) {
            return Turn::Gone;
        }
        let mut events = EventFlags::empty();
        events.set(EventFlags::IN, !self.deaf.get() && !held);
        events.set(EventFlags::OUT, pending);
        Turn::Wait(events)
    }

    /// Stops reading; what was read is still answered.
    pub(super) fn finish(&self) {
        self.deaf.set(true);
    }

    /// Whether anything is to be answered yet.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.get() > 0 || self.held.borrow().is_some()
    }

    /// The client has hung up: nothing can be written any more. What it had sent is still read
    /// and done.
    pub(super) fn hang_up(&self) {
        self.dead.set(true);
    }

    fn has_room_for(&self, message: &Message) -> bool {
        let in_flight = self.in_flight.get();
        let fits = in_flight + message.requests() <= RPC_REQUESTS_IN_FLIGHT_MAX;
        fits && self.answers.borrow().pending() < RPC_ANSWERS_PENDING_MAX
    }

    fn has_room_for_held(&self) -> bool {
        self.held.borrow().as_ref().is_some_and(|message| self.has_room_for(message))
    }

    /// Reads once. False when there is nothing to read now, or never again.
    fn read(&self) -> bool {
        if self.deaf.get() {
            return false;
        }
        let mut buffer = [0; READ_SIZE];
        loop {
            match (&self.stream).read(&mut buffer) {
                Ok(0) => {
                    self.deaf.set(true);
                    return false;
                }
                Ok(count) => {
                    self.decoder.borrow_mut().feed(&buffer[..count]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    tracing::debug!("reading from an RPC client: {error}");
                    self.deaf.set(true);
                    self.hang_up();
                    return false;
                }
            }
        }
    }

    /// Starts the next message if there is one and room for it.
    fn start_next(self: &Rc<Self>) -> bool {
        let held = self.held.take();
        let Some(message) = held.or_else(|| self.decoder.borrow_mut().next_message()) else {
            return false;
        };
        if !self.has_room_for(&message) {
            self.held.replace(Some(message));
            return false;
        }
        self.in_flight.set(self.in_flight.get() + message.requests());
        match message {
            Message::Single(request) => self.start(request, Target::Single),
            Message::Batch(requests) => {
                let batch = Batch::new(requests.len());
                for (index, request) in requests.into_iter().enumerate() {
                    self.start(request, Target::Batch(Rc::clone(&batch), index));
                }
            }
            Message::Broken(error) => {
                tracing::debug!("an RPC client is cut off: {error}");
                self.deaf.set(true);
                let answer = Answer { id: Id::null(), outcome: Err(error) };
                self.send(Target::Single.complete(Some(answer)));
            }
        }
        true
    }

    fn start(self: &Rc<Self>, request: Decoded, target: Target) {
        let call = match request {
            Ok(call) => call,
            Err(rejected) => {
                self.complete(&target, Some(rejected.id), Err(rejected.error));
                return;
            }
        };
        tracing::trace!(method = call.method, "RPC");
        let started = dispatch::start(&self.services, &call.method, call.params.as_deref());
        let mut running = match started {
            Ok(running) => running,
            Err(error) => {
                self.complete(&target, call.id, Err(error));
                return;
            }
        };
        // Most methods never wait; and those of one client start in the order of their coming.
        let mut at_once = std::task::Context::from_waker(Waker::noop());
        if let Poll::Ready(outcome) = running.as_mut().poll(&mut at_once) {
            self.complete(&target, call.id, outcome);
            return;
        }
        let connection = Rc::clone(self);
        self.services.cx.spawn(async move {
            let outcome = running.await;
            connection.complete(&target, call.id, outcome);
            (connection.on_progress)();
        });
    }

    fn complete(&self, target: &Target, id: Option<Id>, outcome: Outcome) {
        self.in_flight.set(self.in_flight.get() - 1);
        let answer = id.map(|id| Answer { id, outcome });
        self.send(target.complete(answer));
    }

    fn send(&self, text: Option<Vec<u8>>) {
        let Some(text) = text else { return };
        if self.dead.get() {
            return;
        }
        let mut answers = self.answers.borrow_mut();
        if answers.pending() == 0 {
            *answers = Answers { bytes: text, sent: 0 };
        } else {
            answers.bytes.extend_from_slice(&text);
        }
    }

    /// Writes as much as the socket takes.
    fn write(&self) {
        let mut answers = self.answers.borrow_mut();
        while answers.pending() > 0 && !self.dead.get() {
            match (&self.stream).write(&answers.bytes[answers.sent..]) {
                Ok(count) => answers.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!("writing to an RPC client: {error}");
                    self.hang_up();
                }
            }
        }
        if answers.pending() == 0 {
            *answers = Answers::default();
        } else if answers.sent > answers.bytes.len() / 2 {
            let sent = std::mem::take(&mut answers.sent);
            answers.bytes.drain(..sent);
        }
    }
}
