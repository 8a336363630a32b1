//! What is still to be sent: messages, in order, and doorbells that the socket had no room for.
//!
//! A doorbell register holds a value, not an event: of several writes to one that could not be sent yet only the
//! last one counts. So there is never more than one pending write a register, and the outbox is bounded.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::region_info::REGION_BAR0;
use super::wire::{Command, Header, RegionAccess};
use crate::memory::Backing;

/// The message id of register writes that nobody answers.
pub const POSTED_ID: u16 = u16::MAX;

/// A doorbell write, as one message.
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct PostedWrite {
    header: Header,
    access: RegionAccess,
    value: u32,
}

const _: () = assert!(size_of::<PostedWrite>() == 36);

impl PostedWrite {
    fn new(offset: u32, value: u32) -> PostedWrite {
        let payload = size_of::<PostedWrite>() - size_of::<Header>();
        PostedWrite {
            header: Header::command(POSTED_ID, Command::RegionWrite, payload).without_reply(),
            access: RegionAccess {
                offset: offset.into(),
                region: REGION_BAR0,
                count: size_of::<u32>() as u32,
            },
            value,
        }
    }
}

/// One message, or what is left of it.
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Goes with the first byte.
    file: Option<Backing>,
}

/// The messages that wait.
#[derive(Default)]
pub struct Outbox {
    messages: VecDeque<Outgoing>,
    /// Bytes in `messages`.
    bytes: usize,
    /// Register and value; the least recently written first.
    doorbells: Vec<(u32, u32)>,
}

impl Outbox {
    /// Whether all is sent.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.doorbells.is_empty()
    }

    /// Bytes of messages that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes room for the pending writes of `registers` doorbells, so that a write does not allocate.
    pub fn reserve_doorbells(&mut self, registers: usize) {
        self.doorbells.reserve(registers.saturating_sub(self.doorbells.len()));
    }

    /// Appends a message, `file` with it.
    pub fn push(&mut self, bytes: Vec<u8>, file: Option<Backing>) {
        // What was written before stays before.
        let mut doorbells = std::mem::take(&mut self.doorbells);
        for (offset, value) in doorbells.drain(..) {
            self.append(PostedWrite::new(offset, value).as_bytes().to_vec(), 0, None);
        }
        // With its room.
        self.doorbells = doorbells;
        self.append(bytes, 0, file);
    }

    fn append(&mut self, bytes: Vec<u8>, sent: usize, file: Option<Backing>) {
        self.bytes += bytes.len() - sent;
        self.messages.push_back(Outgoing { bytes, sent, file });
    }

    /// Writes a doorbell register: at once if nothing waits and the socket has room, else later.
    ///
    /// # Errors
    /// What the socket says, if it is broken.
    pub fn post(&mut self, socket: BorrowedFd<'_>, offset: u32, value: u32) -> Result<(), Errno> {
        if self.is_empty() {
            let message = PostedWrite::new(offset, value);
            let bytes = message.as_bytes();
            match send(socket, bytes, None)? {
                0 => {}
                sent if sent == bytes.len() => return Ok(()),
                // The kernel takes so little in one piece; if it ever does not, the rest must follow.
                sent => {
                    self.append(bytes.to_vec(), sent, None);
                    return Ok(());
                }
            }
        }
        // To the end, behind what was written before it.
        self.doorbells.retain(|&(pending, _)| pending != offset);
        self.doorbells.push((offset, value));
        Ok(())
    }

    /// Sends what the socket takes. True when anything went.
    ///
    /// # Errors
    /// What the socket says, if it is broken.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        let mut progress = false;
        while let Some(message) = self.messages.front_mut() {
            let file = message.file.as_ref().filter(|_| message.sent == 0);
            let sent = send(socket, &message.bytes[message.sent..], file)?;
            if sent == 0 {
                return Ok(progress);
            }
            progress = true;
            message.sent += sent;
            self.bytes -= sent;
            if message.sent == message.bytes.len() {
                self.messages.pop_front();
            }
        }
        let mut done = 0;
        let mut result = Ok(());
        while let Some(&(offset, value)) = self.doorbells.get(done) {
            let message = PostedWrite::new(offset, value);
            match send(socket, message.as_bytes(), None) {
                Ok(0) => break,
                Ok(sent) => {
                    done += 1;
                    progress = true;
                    if sent < message.as_bytes().len() {
                        self.append(message.as_bytes().to_vec(), sent, None);
                        break;
                    }
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.doorbells.drain(..done);
        result.map(|()| progress)
    }
}

/// Sends what the socket takes at once; 0 when it takes nothing now.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], file: Option<&Backing>) -> Result<usize, Errno> {
    match file {
        Some(file) => crate::socket::send(socket, bytes, &[file.file()]),
        None => crate::socket::send(socket, bytes, &[]),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::net::RecvFlags;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    /// All that has arrived, as (message id, register, value).
    fn arrived(socket: &UnixStream) -> Vec<(u16, u64, u32)> {
        let mut found = Vec::new();
        let mut bytes = [0; 36];
        while let Ok((36, _)) = rustix::net::recv(socket, &mut bytes, RecvFlags::empty()) {
            let number = |range: std::ops::Range<usize>| {
                u64::from_ne_bytes({
                    let mut padded = [0; 8];
                    padded[..range.len()].copy_from_slice(&bytes[range]);
                    padded
                })
            };
            found.push((number(0..2) as u16, number(16..24), number(32..36) as u32));
        }
        found
    }

    /// Fills the socket with doorbell writes. Gives how many it took.
    fn fill(outbox: &mut Outbox, socket: &UnixStream) -> usize {
        (0..1_000_000)
            .position(|value| {
                outbox.post(socket.as_fd(), 0x1000, value).unwrap();
                !outbox.is_empty()
            })
            .expect("the socket fills up")
    }

    #[test]
    fn of_writes_that_wait_the_last_one_of_each_register_is_sent() {
        let (ours, theirs) = pair();
        let mut outbox = Outbox::default();
        let taken = fill(&mut outbox, &ours);
        for value in 0..1000 {
            outbox.post(ours.as_fd(), 0x1008, value).unwrap();
            outbox.post(ours.as_fd(), 0x1000, value).unwrap();
        }
        assert_eq!(outbox.doorbells, [(0x1008, 999), (0x1000, 999)]);
        assert!(!outbox.flush(ours.as_fd()).unwrap(), "no room yet");
        assert_eq!(arrived(&theirs).len(), taken);
        assert!(outbox.flush(ours.as_fd()).unwrap());
        assert!(outbox.is_empty());
        assert_eq!(arrived(&theirs), [(POSTED_ID, 0x1008, 999), (POSTED_ID, 0x1000, 999)]);
    }

    #[test]
    fn messages_and_writes_keep_their_order() {
        let (ours, theirs) = pair();
        let mut outbox = Outbox::default();
        let taken = fill(&mut outbox, &ours);
        let mut message = PostedWrite::new(0x14, 1);
        message.header.id = 7;
        outbox.push(message.as_bytes().to_vec(), None);
        outbox.post(ours.as_fd(), 0x1000, 5).unwrap();
        assert_eq!(outbox.bytes(), 72);
        assert_eq!(arrived(&theirs).len(), taken);
        outbox.flush(ours.as_fd()).unwrap();
        let order: Vec<_> = arrived(&theirs).iter().map(|message| (message.0, message.1)).collect();
        assert_eq!(order, [(POSTED_ID, 0x1000), (7, 0x14), (POSTED_ID, 0x1000)]);
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn a_peer_that_left_shows() {
        let (ours, theirs) = pair();
        drop(theirs);
        let mut outbox = Outbox::default();
        assert_eq!(outbox.post(ours.as_fd(), 0x1000, 1), Err(Errno::PIPE));
        outbox.push(vec![0; 16], None);
        assert_eq!(outbox.flush(ours.as_fd()), Err(Errno::PIPE));
    }
}
