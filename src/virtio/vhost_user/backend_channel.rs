//! What the back end asks the front end: over a socket of its own, that the front end gives it.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::backend_request::BackendRequest;
use super::frontend::Frontend;
use super::message::Message;
use super::protocol_features::ProtocolFeatures;
use super::request::Request;
use super::stream::{MessageStream, Received};
use crate::base::{Error, Result};
use crate::reactor::{Readiness, Watched};

/// The requests of a back end.
pub struct BackendChannel {
    stream: MessageStream,
    watched: Watched,
}

impl BackendChannel {
    /// Gives the back end of `frontend` a socket for its requests.
    ///
    /// # Errors
    /// `Unsupported` when it has no requests; when the process has no descriptors left; as for every request.
    pub async fn open(frontend: &Frontend, readiness: &Readiness) -> Result<BackendChannel> {
        frontend.need(ProtocolFeatures::BACKEND_REQ, "requests of its own")?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs): (OwnedFd, OwnedFd) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(|errno| {
                Error::os("cannot make a socket for a back end's requests", errno)
            })?;
        let stream = MessageStream::new(ours);
        let watched = readiness.watch(stream.socket())?;
        frontend.order(Request::SetBackendReqFd(theirs)).await?;
        Ok(BackendChannel { stream, watched })
    }

    /// The next request; none when the back end has closed its side. A request that nobody here answers
    /// is refused, if it wants an answer, and not given.
    ///
    /// # Errors
    /// When what comes is no request.
    pub async fn next(&mut self) -> Result<Option<BackendRequest>> {
        loop {
            let message = match self.stream.receive()? {
                Received::Nothing => {
                    self.watched.readable().await;
                    continue;
                }
                Received::End => return Ok(None),
                Received::Message(message) => message,
            };
            let request = BackendRequest::parse(&message)?;
            let known = request == BackendRequest::ConfigChange;
            if message.header.wants_acknowledgement() {
                self.stream.send(Message::reply_outcome(message.header, known))?;
            }
            if known {
                return Ok(Some(request));
            }
            // Whoever sends one such after the other does not keep the reactor from its other work.
            self.watched.readable().await;
        }
    }
}
