//! NVMe functions that appear, vanish, and change their driver.
//!
//! The kernel tells by uevents on a netlink socket. Where that cannot be had, or when it lost messages, the functions
//! are listed and compared with what was there before: that costs some dozens of system calls, and a function that
//! went and came again in between goes unnoticed. The socket is read without waiting.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use tracing::{debug, warn};

use super::address::PciAddress;
use super::function::nvme_functions;
use super::paths::{HostPaths, read_text};
use super::uevent::{PciEvent, PciEventKind, parse};

/// The group of the kernel's own messages; udev repeats them in another.
const KERNEL_GROUP: u32 = 1;
/// Longest message that the kernel makes (UEVENT_BUFFER_SIZE and a heading).
const MESSAGE_MAX: usize = 8192;
/// A shelf of drives that goes away makes hundreds of messages at once.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Messages that one poll reads at most, whatever they are about.
const MESSAGES_PER_POLL: usize = 64;

/// Follows the NVMe functions of the host. Owned by whoever polls it.
#[derive(Debug)]
pub struct PciEvents {
    paths: HostPaths,
    socket: Option<OwnedFd>,
    /// The functions and their drivers as of the last event.
    known: BTreeMap<PciAddress, Option<String>>,
    found: VecDeque<PciEvent>,
}

impl PciEvents {
    /// Follows from now on: the functions that are there already make no events.
    pub fn new(paths: HostPaths) -> PciEvents {
        if !in_first_user_namespace(&paths) {
            warn!(
                "the kernel sends no uevents to this container: drives are looked for from time to time"
            );
            return PciEvents::by_listing(paths);
        }
        let socket = open()
            .inspect_err(
                |error| warn!(%error, "no uevents: drives are looked for from time to time"),
            )
            .ok();
        PciEvents::over(paths, socket)
    }

    /// Follows by listing the functions at every poll.
    pub fn by_listing(paths: HostPaths) -> PciEvents {
        PciEvents::over(paths, None)
    }

    fn over(paths: HostPaths, socket: Option<OwnedFd>) -> PciEvents {
        // In this order: what happens in between is told twice rather than never.
        let known = list(&paths);
        PciEvents { paths, socket, known, found: VecDeque::new() }
    }

    /// The socket, if there is one: it becomes readable when something happened.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// The next event, if something happened. Without a socket this lists the functions, so it should not be called
    /// in every round of a reactor.
    pub fn poll(&mut self) -> Option<PciEvent> {
        if self.found.is_empty() {
            match self.socket.take() {
                Some(socket) => {
                    let usable = self.receive(&socket);
                    self.socket = Some(socket).filter(|_| usable);
                }
                None => self.rescan(),
            }
        }
        self.found.pop_front()
    }

    /// Lists the functions and makes events of what differs from before.
    pub fn rescan(&mut self) {
        let now = list(&self.paths);
        let before = std::mem::replace(&mut self.known, now.clone());
        let mut tell = |address, kind, driver| {
            self.found.push_back(PciEvent { address, kind, driver });
        };
        for (address, driver) in &before {
            match now.get(address) {
                None => tell(*address, PciEventKind::Removed, None),
                Some(same) if same == driver => {}
                Some(None) => tell(*address, PciEventKind::Unbound, None),
                Some(driver) => tell(*address, PciEventKind::Bound, driver.clone()),
            }
        }
        for (address, driver) in &now {
            if !before.contains_key(address) {
                tell(*address, PciEventKind::Added, None);
                if driver.is_some() {
                    tell(*address, PciEventKind::Bound, driver.clone());
                }
            }
        }
    }

    /// Reads messages until one is of interest. Whether the socket can still be used.
    fn receive(&mut self, socket: &OwnedFd) -> bool {
        let mut buffer = [0; MESSAGE_MAX];
        for _ in 0..MESSAGES_PER_POLL {
            match recvfrom(socket, &mut buffer[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((read, length, from)) => {
                    let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    // Any process may send to the socket: only the kernel's messages come from port 0.
                    if from.is_none_or(|from| from.pid() != 0) || length > read {
                        debug!(length, "a uevent that is not the kernel's, or too long");
                        continue;
                    }
                    if let Some(event) = parse(&buffer[..read]) {
                        self.note(&event);
                        self.found.push_back(event);
                        return true;
                    }
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => {
                    warn!("uevents were lost: looking at all drives");
                    self.rescan();
                    return true;
                }
                Err(error) => {
                    warn!(%error, "no more uevents: drives are looked for from time to time");
                    self.rescan();
                    return false;
                }
            }
        }
        true
    }

    fn note(&mut self, event: &PciEvent) {
        match event.kind {
            PciEventKind::Removed => {
                self.known.remove(&event.address);
            }
            PciEventKind::Added | PciEventKind::Unbound | PciEventKind::Bound => {
                self.known.insert(event.address, event.driver.clone());
            }
        }
    }
}

/// Network namespaces that belong to a user namespace of a container's own get no uevents of devices. The first user
/// namespace maps all numbers to themselves.
fn in_first_user_namespace(paths: &HostPaths) -> bool {
    let Some(map) = read_text(&paths.proc.join("self/uid_map")) else { return true };
    let mut numbers = map.split_ascii_whitespace();
    [numbers.next(), numbers.next(), numbers.next()] == [Some("0"), Some("0"), Some("4294967295")]
}

fn list(paths: &HostPaths) -> BTreeMap<PciAddress, Option<String>> {
    nvme_functions(paths).into_iter().map(|function| (function.address, function.driver)).collect()
}

fn open() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    // As large as the system allows; a loss is noticed.
    if let Err(error) = set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER) {
        debug!(%error, "the receive buffer of uevents stays as it is");
    }
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{DRIVE, FakeHost, OTHER, at};
    use super::super::uevent::tests::message;
    use super::*;
    use rustix::net::{SendFlags, getsockname, sendto};

    fn kinds(events: &mut PciEvents) -> Vec<(PciAddress, PciEventKind, Option<String>)> {
        std::iter::from_fn(|| events.poll())
            .map(|event| (event.address, event.kind, event.driver))
            .collect()
    }

    #[test]
    fn listing_finds_what_changed() {
        let host = FakeHost::new();
        host.drive(DRIVE);
        let mut events = PciEvents::by_listing(host.paths.clone());
        assert!(kinds(&mut events).is_empty());

        host.drive_by(DRIVE, "vfio-pci");
        host.function(OTHER, "0x010802", "6");
        host.drive_by(OTHER, "nvme");
        host.function("0000:03:00.0", "0x020000", "7");
        assert_eq!(
            kinds(&mut events),
            [
                (at(DRIVE), PciEventKind::Bound, Some("vfio-pci".into())),
                (at(OTHER), PciEventKind::Added, None),
                (at(OTHER), PciEventKind::Bound, Some("nvme".into())),
            ]
        );
        fs::remove_dir_all(host.device(OTHER)).unwrap();
        fs::remove_file(host.device(DRIVE).join("driver")).unwrap();
        assert_eq!(
            kinds(&mut events),
            [(at(DRIVE), PciEventKind::Unbound, None), (at(OTHER), PciEventKind::Removed, None)]
        );
        assert!(kinds(&mut events).is_empty());
    }

    #[test]
    fn a_message_of_another_process_is_not_believed() {
        let host = FakeHost::new();
        let Ok(socket) = open() else {
            eprintln!("skipped: no uevents here");
            return;
        };
        let own = SocketAddrNetlink::try_from(getsockname(&socket).unwrap()).unwrap();
        let mut events = PciEvents::over(host.paths.clone(), Some(socket));
        let sender = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(KOBJECT_UEVENT),
        )
        .unwrap();
        let forged = message("add", DRIVE, "10802", None);
        let to = SocketAddrNetlink::new(own.pid(), 0);
        if sendto(&sender, &forged, SendFlags::empty(), &to).is_err() {
            eprintln!("skipped: not allowed to send to the socket");
            return;
        }
        // It is there to be read, and is not told.
        let mut waiting = rustix::event::PollFd::new(
            events.socket.as_ref().unwrap(),
            rustix::event::PollFlags::IN,
        );
        let ready = rustix::event::poll(std::slice::from_mut(&mut waiting), None).unwrap();
        assert_eq!(ready, 1);
        assert_eq!(kinds(&mut events), []);
        assert!(events.socket().is_some());
    }

    #[test]
    fn a_container_that_gets_no_uevents_lists() {
        let host = FakeHost::new();
        assert!(in_first_user_namespace(&host.paths));
        host.proc("self/uid_map", "         0          0 4294967295\n");
        assert!(in_first_user_namespace(&host.paths));
        host.proc("self/uid_map", "         0     100000      65536\n");
        assert!(PciEvents::new(host.paths.clone()).socket().is_none());
    }

    #[test]
    fn events_keep_what_is_known_up_to_date() {
        let host = FakeHost::new();
        let mut events = PciEvents::by_listing(host.paths.clone());
        let event = parse(&message("bind", DRIVE, "10802", Some("nvme"))).unwrap();
        events.note(&event);
        assert_eq!(events.known[&at(DRIVE)].as_deref(), Some("nvme"));
        // The list does not have it: what the messages said is not told again, and what they did not say is.
        assert_eq!(kinds(&mut events), [(at(DRIVE), PciEventKind::Removed, None)]);
        let event = parse(&message("remove", DRIVE, "10802", None)).unwrap();
        events.note(&event);
        assert!(events.known.is_empty());
    }
}
