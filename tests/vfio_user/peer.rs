//! A server that does what a test says: honest until told otherwise.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use weft::nvme::vfio_user::region_info::{
    Area, CAPABILITY_SPARSE_MMAP, CapabilityHeader, REGION_BAR0, REGION_CONFIG, RegionInfo,
    SparseMmap,
};
use weft::nvme::vfio_user::wire::{
    Command, DeviceInfo, HEADER_SIZE, Header, RegionAccess, VERSION,
};
use zerocopy::{FromBytes, IntoBytes};

/// Length of the register window.
pub const WINDOW: u64 = 0x2000;
/// The part of it that is shared, if any is.
pub const DOORBELLS: Area = Area { offset: 0x1000, size: 0x1000 };

/// A command of the client's.
pub struct Request {
    pub header: Header,
    pub payload: Vec<u8>,
    pub files: Vec<OwnedFd>,
}

impl Request {
    pub fn is(&self, command: Command) -> bool {
        self.header.command == command as u16
    }

    /// Of a register read or write.
    pub fn access(&self) -> RegionAccess {
        RegionAccess::read_from_prefix(&self.payload).unwrap().0
    }

    /// Whether it reads this register.
    pub fn reads(&self, offset: u64) -> bool {
        self.is(Command::RegionRead)
            && (self.access().offset, self.access().region) == (offset, REGION_BAR0)
    }
}

/// What a script does with a request.
pub enum Act {
    /// What an honest server would.
    Honest,
    /// Nothing more: the script has done what there is to do.
    Done,
    /// Hangs up.
    HangUp,
}

/// The server's end of a connection.
pub struct Peer {
    pub stream: UnixStream,
    /// JSON for the version message.
    pub capabilities: &'static str,
    /// The file of the doorbells, if they are to be shared.
    pub doorbells: Option<OwnedFd>,
}

/// A server in a thread of its own, which ends after one connection.
pub struct Server {
    pub folder: tempfile::TempDir,
    pub thread: JoinHandle<()>,
}

impl Server {
    /// Starts a server with `script`, in whose folder the socket has the name that SPDK's target gives it.
    pub fn start(script: impl FnOnce(Peer) + Send + 'static) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("cntrl")).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            script(Peer { stream, capabilities: "", doorbells: None });
        });
        Server { folder, thread }
    }

    /// Starts one that is honest but where `deviate` says otherwise.
    pub fn honest_but(
        mut deviate: impl FnMut(&mut Peer, &Request) -> Act + Send + 'static,
    ) -> Server {
        Server::start(move |mut peer| peer.serve(&mut deviate))
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Peer {
    /// The next command, or none when the client has hung up.
    pub fn next(&mut self) -> Option<Request> {
        let mut bytes = [0; HEADER_SIZE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut into = [std::io::IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.stream, &mut into, &mut beside, RecvFlags::WAITALL).ok()?;
        if received.bytes < HEADER_SIZE {
            return None;
        }
        let files = beside
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => files.collect(),
                _ => Vec::new(),
            })
            .collect();
        let header = Header::parse(&bytes).unwrap();
        let mut payload = vec![0; header.payload()];
        self.stream.read_exact(&mut payload).ok()?;
        Some(Request { header, payload, files })
    }

    /// Answers until the client hangs up or the script does.
    pub fn serve(&mut self, deviate: &mut dyn FnMut(&mut Peer, &Request) -> Act) {
        while let Some(request) = self.next() {
            match deviate(self, &request) {
                Act::Honest => self.answer(&request),
                Act::Done => {}
                Act::HangUp => return,
            }
        }
    }

    pub fn send(&mut self, parts: &[&[u8]]) {
        // The client may have hung up on what came before.
        let _ = self.stream.write_all(&parts.concat());
    }

    pub fn reply(&mut self, request: &Request, payload: &[u8]) {
        self.send(&[request.header.reply(payload.len()).as_bytes(), payload]);
    }

    pub fn send_with(&mut self, bytes: &[u8], files: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(beside.push(SendAncillaryMessage::ScmRights(files)));
        let sent =
            sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// What an honest server answers. Registers read as their offset.
    pub fn answer(&mut self, request: &Request) {
        if !request.header.wants_reply() {
            return;
        }
        match Command::from_number(request.header.command).unwrap() {
            Command::Version => {
                let data = [VERSION.as_bytes(), self.capabilities.as_bytes(), &[0]].concat();
                self.reply(request, &data);
            }
            Command::DeviceGetInfo => {
                let flags = DeviceInfo::PCI | DeviceInfo::RESET;
                let info = DeviceInfo { argsz: 16, flags, regions: 9, interrupts: 5 };
                self.reply(request, info.as_bytes());
            }
            Command::DeviceGetRegionInfo => self.describe(request),
            Command::RegionRead => {
                let access = request.access();
                let value = match (access.region, access.offset) {
                    (REGION_CONFIG, 0x08) => 0x0108_0200_u64,
                    (_, offset) => offset,
                };
                let data = &value.as_bytes()[..access.count as usize];
                self.reply(request, &[access.as_bytes(), data].concat());
            }
            Command::RegionWrite => self.reply(request, request.access().as_bytes()),
            _ => self.reply(request, &[]),
        }
    }

    fn describe(&mut self, request: &Request) {
        let asked = RegionInfo::read_from_bytes(&request.payload).unwrap();
        let (size, shared) = match (asked.index, &self.doorbells) {
            (REGION_BAR0, Some(file)) => (WINDOW, Some(file.try_clone().unwrap())),
            (REGION_BAR0, None) => (WINDOW, None),
            (REGION_CONFIG, _) => (256, None),
            _ => (0, None),
        };
        let flags = RegionInfo::READ | RegionInfo::WRITE;
        let mut info = RegionInfo { argsz: 32, flags, size, index: asked.index, ..asked };
        let Some(file) = shared else { return self.reply(request, info.as_bytes()) };
        info.flags |= RegionInfo::MMAP | RegionInfo::CAPS;
        info.cap_offset = 32;
        let capability = CapabilityHeader { id: CAPABILITY_SPARSE_MMAP, version: 1, next: 0 };
        let sparse = SparseMmap { areas: 1, reserved: 0 };
        info.argsz = 32 + 8 + 8 + 16;
        let payload =
            [info.as_bytes(), capability.as_bytes(), sparse.as_bytes(), DOORBELLS.as_bytes()]
                .concat();
        let header = request.header.reply(payload.len());
        self.send_with(&[header.as_bytes(), &payload].concat(), &[file.as_fd()]);
    }
}
