//! The messages of a socket, in both directions, without ever blocking. It serves either side.
//!
//! Bytes are received no further than to the end of the current message, so that descriptors, which travel beside
//! them, cannot be taken for another message's. What the socket has no room for is kept; a peer that does not
//! read is not read from, so that what is kept is bounded by a few answers.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::message::Message;
use super::wire::{HEADER_SIZE, Header};
use crate::base::{Error, ErrorKind, Result};
use crate::socket::{self, ReceiveError};

/// Bytes that may wait to be sent before nothing more is received.
const UNSENT_MAX: usize = 64 << 10;

/// Most descriptors with one message: every one of a message's bytes could bring some, if it came alone.
const DESCRIPTORS_MAX: usize = socket::DESCRIPTORS_MAX;

/// What [`MessageStream::receive`] found.
#[derive(Debug)]
pub enum Received {
    /// Nothing (more) so far.
    Nothing,
    /// A whole message.
    Message(Message),
    /// The peer has hung up, between messages.
    End,
}

/// A message that is on its way, or what is left of it.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Go with the first byte.
    descriptors: Vec<OwnedFd>,
}

/// A stream of messages over a socket.
#[derive(Debug)]
pub struct MessageStream {
    socket: OwnedFd,
    front: [u8; HEADER_SIZE],
    /// Of the message whose header is there.
    header: Option<Header>,
    payload: Vec<u8>,
    /// Bytes of the header, then of the payload, that are there.
    have: usize,
    descriptors: Vec<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
    /// Bytes in `outgoing`.
    unsent: usize,
    /// Nothing that comes has a meaning any more.
    broken: bool,
}

impl MessageStream {
    /// The messages of `socket`, which may be of the blocking kind or not.
    pub fn new(socket: impl Into<OwnedFd>) -> MessageStream {
        MessageStream {
            socket: socket.into(),
            front: [0; HEADER_SIZE],
            header: None,
            payload: Vec::new(),
            have: 0,
            descriptors: Vec::new(),
            outgoing: VecDeque::new(),
            unsent: 0,
            broken: false,
        }
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// `NoDevice` when the peer hung up in the middle of a message, or the connection is gone otherwise; `Invalid` for what
    /// cannot be a message. After any error, nothing more can be received.
    pub fn receive(&mut self) -> Result<Received> {
        if self.broken {
            return Err(Error::new(ErrorKind::NoDevice, "the connection is broken"));
        }
        let received = self.advance();
        self.broken = received.is_err();
        received
    }

    fn advance(&mut self) -> Result<Received> {
        if !self.flush()? && self.unsent > UNSENT_MAX {
            return Ok(Received::Nothing);
        }
        loop {
            let space = match self.header {
                None => &mut self.front[self.have..],
                Some(_) => &mut self.payload[self.have..],
            };
            // An empty payload is complete.
            if !space.is_empty() {
                match socket::receive(self.socket.as_fd(), space).map_err(failed)? {
                    socket::Received::Nothing => return Ok(Received::Nothing),
                    socket::Received::End => return self.end(),
                    socket::Received::Bytes(count, descriptors) => {
                        self.have += count;
                        self.descriptors.extend(descriptors);
                    }
                }
                if self.descriptors.len() > DESCRIPTORS_MAX {
                    return Err(Error::invalid(format!(
                        "more than {DESCRIPTORS_MAX} descriptors with one message"
                    )));
                }
            }
            match self.header {
                None if self.have == HEADER_SIZE => {
                    let header = Header::parse(&self.front)?;
                    self.header = Some(header);
                    self.payload = vec![0; header.size as usize];
                    self.have = 0;
                }
                Some(header) if self.have == self.payload.len() => {
                    self.header = None;
                    self.have = 0;
                    return Ok(Received::Message(Message {
                        header,
                        payload: std::mem::take(&mut self.payload),
                        descriptors: std::mem::take(&mut self.descriptors),
                    }));
                }
                _ => {}
            }
        }
    }

    fn end(&self) -> Result<Received> {
        match self.header.is_none() && self.have == 0 {
            true => Ok(Received::End),
            false => {
                Err(Error::new(ErrorKind::NoDevice, "the peer hung up in the middle of a message"))
            }
        }
    }

    /// Sends a message: what the socket has room for now, the rest later.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, message: Message) -> Result<()> {
        let bytes = message.bytes();
        self.unsent += bytes.len();
        self.outgoing.push_back(Outgoing { bytes, sent: 0, descriptors: message.descriptors });
        self.flush()?;
        Ok(())
    }

    /// Sends what is left, as far as there is room. Whether all is sent.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn flush(&mut self) -> Result<bool> {
        while let Some(message) = self.outgoing.front_mut() {
            let descriptors: Vec<BorrowedFd<'_>> =
                message.descriptors.iter().map(AsFd::as_fd).collect();
            let rest = &message.bytes[message.sent..];
            let sent = socket::send(self.socket.as_fd(), rest, &descriptors)
                .map_err(|errno| failed(ReceiveError::Socket(errno)))?;
            if sent == 0 {
                return Ok(false);
            }
            message.descriptors.clear();
            message.sent += sent;
            self.unsent -= sent;
            if message.sent == message.bytes.len() {
                self.outgoing.pop_front();
            }
        }
        Ok(true)
    }

    /// Whether something waits to be sent.
    pub fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// The socket, to wait for what comes.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Hangs up.
    pub fn close(&mut self) {
        self.broken = true;
        // An error says that the peer was faster.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

fn failed(error: ReceiveError) -> Error {
    match error {
        ReceiveError::Socket(Errno::PIPE | Errno::CONNRESET) => {
            Error::new(ErrorKind::NoDevice, "the peer hung up")
        }
        ReceiveError::Socket(errno) => Error::os("the socket failed", errno),
        error @ ReceiveError::Descriptors => {
            Error::invalid("descriptors got lost").because(std::io::Error::from(error))
        }
    }
}
