//! Bytes with descriptors beside them.
//!
//! The kernel hands descriptors out with the first byte that they were sent with, and never bytes of two messages that
//! have descriptors at once. So who asks for no more than the rest of its current message gets
//! what belongs to that.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors that go with one piece of a stream.
pub const DESCRIPTORS_MAX: usize = 32;

/// What came.
#[derive(Debug)]
pub enum Received {
    /// Nothing, so far.
    Nothing,
    /// The end: the peer has closed its side.
    End,
    /// So many bytes; and descriptors, which are closed on exec.
    Bytes(usize, Vec<OwnedFd>),
}

/// Why nothing more can be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveError {
    /// What the socket says.
    Socket(Errno),
    /// Descriptors got lost: there were more than [`DESCRIPTORS_MAX`] at once, or this process may open no more
    /// files.
    Descriptors,
}

impl From<ReceiveError> for std::io::Error {
    fn from(error: ReceiveError) -> std::io::Error {
        match error {
            ReceiveError::Socket(errno) => errno.into(),
            ReceiveError::Descriptors => std::io::Error::other(format!(
                "more than {DESCRIPTORS_MAX} descriptors came at once, or more than this process may open"
            )),
        }
    }
}

/// Receives what is there into `into`, which must not be empty. Never waits.
///
/// # Errors
/// Why nothing more can be received over `socket`.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> Result<Received, ReceiveError> {
    debug_assert!(!into.is_empty(), "no byte would look like the end");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(into)], &mut beside, flags) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(errno) => return Err(ReceiveError::Socket(errno)),
        }
    };
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    // The kernel has closed what did not fit; the space may be for a few more than needed.
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > DESCRIPTORS_MAX {
        return Err(ReceiveError::Descriptors);
    }
    match received.bytes {
        0 => Ok(Received::End),
        bytes => Ok(Received::Bytes(bytes, descriptors)),
    }
}

/// Sends what `socket` takes at once of `bytes`, and with the first of them `descriptors`: how many bytes went,
/// 0 when it takes none now. Never waits.
///
/// # Errors
/// What the socket says, if it is broken.
///
/// # Panics
/// With more than [`DESCRIPTORS_MAX`] descriptors.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = beside.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "{} descriptors at once", descriptors.len());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, flags) {
            Err(Errno::INTR) => {}
            // NOBUFS and NOMEM pass, too; so does TOOMANYREFS, when the peer receives descriptors that are on their way.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS) => return Ok(0),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut bytes = [0; 8];
        assert!(matches!(receive(theirs.as_fd(), &mut bytes), Ok(Received::Nothing)));
        let (mut read, mut write) = UnixStream::pair().unwrap();
        assert_eq!(send(ours.as_fd(), b"abc", &[]), Ok(3));
        assert_eq!(send(ours.as_fd(), b"defg", &[read.as_fd(), write.as_fd()]), Ok(4));
        let mut arrived = Vec::new();
        while arrived.len() < 7 {
            let Ok(Received::Bytes(count, rights)) = receive(theirs.as_fd(), &mut bytes[..3])
            else {
                panic!("{arrived:?}");
            };
            let before = arrived.len();
            arrived.extend_from_slice(&bytes[..count]);
            if before == 3 {
                let [first, second] = <[OwnedFd; 2]>::try_from(rights).unwrap();
                for descriptor in [&first, &second] {
                    let flags = rustix::io::fcntl_getfd(descriptor).unwrap();
                    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
                }
                (read, write) = (first.into(), second.into());
            } else {
                assert!(rights.is_empty());
            }
        }
        assert_eq!(arrived, b"abcdefg");
        write.write_all(b"x").unwrap();
        read.read_exact(&mut bytes[..1]).unwrap();
        assert_eq!(bytes[0], b'x');
        drop(ours);
        assert!(matches!(receive(theirs.as_fd(), &mut bytes), Ok(Received::End)));
    }

    #[test]
    fn too_many_descriptors_are_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let many = vec![ours.as_fd(); DESCRIPTORS_MAX + 1];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(beside.push(SendAncillaryMessage::ScmRights(&many)));
        sendmsg(&ours, &[IoSlice::new(b"abc")], &mut beside, SendFlags::empty()).unwrap();
        let mut bytes = [0; 8];
        let error = receive(theirs.as_fd(), &mut bytes).unwrap_err();
        assert_eq!(error, ReceiveError::Descriptors);
    }

    #[test]
    fn a_peer_that_does_not_read_and_one_that_left_show() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let data = vec![0; 1 << 20];
        let sent: usize = (0..1000)
            .map(|_| send(ours.as_fd(), &data, &[]).unwrap())
            .take_while(|&sent| sent > 0)
            .sum();
        assert!(sent > 0);
        assert_eq!(send(ours.as_fd(), &data, &[theirs.as_fd()]), Ok(0));
        drop(theirs);
        assert_eq!(send(ours.as_fd(), &data, &[]), Err(Errno::PIPE));
        let error = receive(ours.as_fd(), &mut [0]).unwrap_err();
        assert_eq!(error, ReceiveError::Socket(Errno::CONNRESET));
    }
}
