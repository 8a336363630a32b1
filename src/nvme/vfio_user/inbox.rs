//! The stream of bytes from the server, cut into messages. Pure: bytes come in, in pieces of any size, and
//! messages come out.
//!
//! Never asks for bytes beyond the end of the current message, so that descriptors, which travel beside the
//! bytes, cannot be taken for another message's.

use super::wire::{HEADER_SIZE, Header};
use crate::base::{Error, ErrorKind, Result};

/// How much memory is taken at once for a message, before its bytes are there: a peer that announces a
/// long message and sends none costs no more.
const STEP: usize = 64 << 10;

/// One message, with what came beside it.
#[derive(Debug)]
pub struct Message<D> {
    /// Its header.
    pub header: Header,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// Descriptors, in the order in which they came.
    pub descriptors: Vec<D>,
}

/// A message in the making.
#[derive(Debug)]
pub struct Inbox<D> {
    front: [u8; HEADER_SIZE],
    header: Option<Header>,
    payload: Vec<u8>,
    /// Bytes of the header, then of the payload, that are there.
    have: usize,
    descriptors: Vec<D>,
    descriptors_max: usize,
}

impl<D> Inbox<D> {
    /// At the start of a stream whose messages bring `descriptors_max` descriptors or fewer.
    pub fn new(descriptors_max: usize) -> Inbox<D> {
        Inbox {
            front: [0; HEADER_SIZE],
            header: None,
            payload: Vec::new(),
            have: 0,
            descriptors: Vec::new(),
            descriptors_max,
        }
    }

    /// Where the next bytes belong; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        let Some(header) = self.header else { return &mut self.front[self.have..] };
        if self.have == self.payload.len() {
            let more = (header.payload() - self.have).min(STEP);
            self.payload.resize(self.have + more, 0);
        }
        &mut self.payload[self.have..]
    }

    /// Takes a descriptor that came with the bytes that [`Inbox::filled`] is told of next.
    ///
    /// # Errors
    /// When they are too many for one message.
    pub fn add_descriptor(&mut self, descriptor: D) -> Result<()> {
        if self.descriptors.len() >= self.descriptors_max {
            return Err(Error::new(
                ErrorKind::Io,
                format!("more than {} descriptors with one message", self.descriptors_max),
            ));
        }
        self.descriptors.push(descriptor);
        Ok(())
    }

    /// Says that the first `count` bytes of [`Inbox::space`] are there. Gives the message that they complete.
    ///
    /// # Errors
    /// When the header cannot be one. What follows in the stream has no meaning then.
    ///
    /// # Panics
    /// When `count` is more than there was space for.
    pub fn filled(&mut self, count: usize) -> Result<Option<Message<D>>> {
        self.have += count;
        let header = match self.header {
            Some(header) => {
                assert!(self.have <= self.payload.len());
                header
            }
            None => {
                assert!(self.have <= HEADER_SIZE);
                if self.have < HEADER_SIZE {
                    return Ok(None);
                }
                let header = Header::parse(&self.front)?;
                self.header = Some(header);
                self.have = 0;
                header
            }
        };
        if self.have < header.payload() {
            return Ok(None);
        }
        self.header = None;
        self.have = 0;
        Ok(Some(Message {
            header,
            payload: std::mem::take(&mut self.payload),
            descriptors: std::mem::take(&mut self.descriptors),
        }))
    }

    /// Whether the stream may end here without loss.
    pub fn is_between_messages(&self) -> bool {
        self.header.is_none() && self.have == 0
    }
}
