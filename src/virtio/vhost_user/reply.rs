//! What is answered: making replies, and reading them.

use std::os::fd::OwnedFd;

use zerocopy::IntoBytes;

use super::message::Message;
use super::payload::{ConfigHeader, Inflight, SharedArea, VringState, leading};
use super::wire::{Header, malformed};
use crate::base::Result;

impl Message {
    fn reply(to: Header, payload: Vec<u8>, descriptors: Vec<OwnedFd>) -> Message {
        Message { header: to.reply(payload.len()), payload, descriptors }
    }

    /// Answers with a number: features, a count, a status, or as acknowledgement 0 for success and anything else for a
    /// failure.
    pub fn reply_number(to: Header, number: u64) -> Message {
        Message::reply(to, number.as_bytes().to_vec(), Vec::new())
    }

    /// Answers that the request succeeded or failed (REPLY_ACK).
    pub fn reply_outcome(to: Header, success: bool) -> Message {
        Message::reply_number(to, u64::from(!success))
    }

    /// Answers where virtqueue `index` stopped.
    pub fn reply_vring_base(to: Header, index: u16, base: u32) -> Message {
        let state = VringState { index: index.into(), number: base };
        Message::reply(to, state.as_bytes().to_vec(), Vec::new())
    }

    /// Answers that dirty pages are logged in `area`. Front ends do not look at more than that there is an answer, but some
    /// want it to be as long as the request.
    pub fn reply_log_base(to: Header, area: SharedArea) -> Message {
        Message::reply(to, area.as_bytes().to_vec(), Vec::new())
    }

    /// Answers with the part of the configuration space that was `asked` for; `space` is all of it, as far as there is any:
    /// beyond its end are zeros.
    pub fn reply_config(to: Header, asked: ConfigHeader, space: &[u8]) -> Message {
        let mut payload = asked.as_bytes().to_vec();
        let size = asked.size as usize;
        let part = asked.start().and_then(|start| space.get(start..)).unwrap_or_default();
        payload.extend_from_slice(&part[..part.len().min(size)]);
        payload.resize(size_of::<ConfigHeader>() + size, 0);
        Message::reply(to, payload, Vec::new())
    }

    /// Answers that there is no such part of the configuration space.
    pub fn reply_no_config(to: Header) -> Message {
        Message::reply(to, Vec::new(), Vec::new())
    }

    /// Answers with the memory for requests in flight, or that there is none.
    pub fn reply_inflight(to: Header, inflight: Inflight, file: Option<OwnedFd>) -> Message {
        Message::reply(to, inflight.as_bytes().to_vec(), file.into_iter().collect())
    }

    /// The number in the reply to `what`.
    pub(super) fn number(&self, what: &str) -> Result<u64> {
        self.alone(what)
    }

    /// Where virtqueue `index` stopped, in the reply to `what`.
    pub(super) fn vring_base(&self, what: &str, index: u16) -> Result<u32> {
        let state: VringState = self.alone(what)?;
        if state.index != u32::from(index) {
            let other = state.index;
            return Err(malformed(format!(
                "{what} of vring {index} was answered for vring {other}"
            )));
        }
        Ok(state.number)
    }

    /// The part of the configuration space that was asked for, in the reply to `what`.
    pub(super) fn config(&self, what: &str, asked: ConfigHeader) -> Result<&[u8]> {
        self.without_descriptors(what)?;
        if self.payload.is_empty() {
            return Err(malformed(format!(
                "{what}: the back end has no {} bytes at offset {} of its configuration space",
                asked.size, asked.offset
            )));
        }
        let (config, bytes): (ConfigHeader, _) = leading(&self.payload, what)?;
        if (config.offset, config.size) != (asked.offset, asked.size)
            || bytes.len() != asked.size as usize
        {
            return Err(malformed(format!(
                "{what} of {} bytes at offset {} was answered with {} as {} at {}",
                asked.size,
                asked.offset,
                bytes.len(),
                config.size,
                config.offset
            )));
        }
        Ok(bytes)
    }

    /// The memory for requests in flight, in the reply to `what`; none when the back end has none.
    pub(super) fn inflight(mut self, what: &str) -> Result<Option<(Inflight, OwnedFd)>> {
        let inflight = Inflight::parse(&self.payload, what)?;
        if self.descriptors.len() > 1 {
            let count = self.descriptors.len();
            return Err(malformed(format!("{what} was answered with {count} descriptors")));
        }
        match self.descriptors.pop() {
            Some(file) if inflight.size > 0 => Ok(Some((inflight, file))),
            _ => Ok(None),
        }
    }
}
