//! A message as it travels.

use std::os::fd::OwnedFd;

use zerocopy::IntoBytes;

use super::payload::exactly;
use super::wire::{Header, malformed};
use crate::base::Result;

/// A message, with the descriptors that go with it.
#[derive(Debug)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// Descriptors, in order.
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// A request.
    pub fn request(number: u32, payload: Vec<u8>, descriptors: Vec<OwnedFd>) -> Message {
        Message { header: Header::request(number, payload.len()), payload, descriptors }
    }

    /// This one, but it is to be acknowledged if `wanted`.
    #[must_use]
    pub fn with_acknowledgement(self, wanted: bool) -> Message {
        Message { header: self.header.with_acknowledgement(wanted), ..self }
    }

    /// The bytes that are sent.
    pub fn bytes(&self) -> Vec<u8> {
        [self.header.as_bytes(), &self.payload].concat()
    }

    /// The payload as one structure, nothing beside it.
    pub(super) fn alone<T>(&self, what: &str) -> Result<T>
    where
        T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable,
    {
        self.without_descriptors(what)?;
        exactly(&self.payload, what)
    }

    /// Checks that there is no payload.
    pub(super) fn empty(&self, what: &str) -> Result<()> {
        match self.payload.len() {
            0 => Ok(()),
            length => Err(malformed(format!("{what}: {length} bytes of payload instead of none"))),
        }
    }

    /// Checks that no descriptors came.
    pub(super) fn without_descriptors(&self, what: &str) -> Result<()> {
        match self.descriptors.len() {
            0 => Ok(()),
            count => Err(malformed(format!("{what}: {count} descriptors instead of none"))),
        }
    }
}
