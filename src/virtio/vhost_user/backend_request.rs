//! What a back end asks, over the socket that the front end gave it for that.

use zerocopy::IntoBytes;

use super::message::Message;
use super::payload::VringState;
use super::wire::{BackendRequestCode, VRINGS_MAX, malformed};
use crate::base::Result;

/// A request of a back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendRequest {
    /// The configuration space has changed.
    ConfigChange,
    /// An interrupt of a virtqueue.
    VringCall(u16),
    /// A virtqueue is broken.
    VringErr(u16),
    /// One that nobody here answers.
    Other(u32),
}

impl BackendRequest {
    /// What `message` asks.
    ///
    /// # Errors
    /// `Invalid`, with the request and what is wrong.
    pub fn parse(message: &Message) -> Result<BackendRequest> {
        let number = message.header.request;
        if message.header.is_reply() {
            return Err(malformed(format!("a reply to request {number} of the back end's")));
        }
        let Some(code) = BackendRequestCode::from_number(number) else {
            return Ok(BackendRequest::Other(number));
        };
        let name = code.name();
        let vring = || {
            let state: VringState = message.alone(name)?;
            let index = u16::try_from(state.index).ok().filter(|&index| index < VRINGS_MAX);
            index.ok_or_else(|| malformed(format!("{name}: vring {}", state.index)))
        };
        match code {
            BackendRequestCode::ConfigChangeMsg => {
                message.empty(name)?;
                message.without_descriptors(name)?;
                Ok(BackendRequest::ConfigChange)
            }
            BackendRequestCode::VringCall => Ok(BackendRequest::VringCall(vring()?)),
            BackendRequestCode::VringErr => Ok(BackendRequest::VringErr(vring()?)),
            _ => Ok(BackendRequest::Other(number)),
        }
    }

    /// As a message.
    pub fn encode(self) -> Message {
        let vring = |code: BackendRequestCode, index: u16| {
            let state = VringState { index: index.into(), number: 0 };
            Message::request(code.number(), state.as_bytes().to_vec(), Vec::new())
        };
        match self {
            BackendRequest::ConfigChange => {
                let number = BackendRequestCode::ConfigChangeMsg.number();
                Message::request(number, Vec::new(), Vec::new())
            }
            BackendRequest::VringCall(index) => vring(BackendRequestCode::VringCall, index),
            BackendRequest::VringErr(index) => vring(BackendRequestCode::VringErr, index),
            BackendRequest::Other(number) => Message::request(number, Vec::new(), Vec::new()),
        }
    }
}
