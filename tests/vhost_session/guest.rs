//! A front end and its guest in a few lines: blocking messages, and a split virtqueue that the test fills in by hand.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use weft::memory::{HugePages, Region, RegionOptions, Sharing};
use weft::socket;
use weft::virtio::spec::Features;
use weft::virtio::vhost_user::{
    HEADER_SIZE, Header, MemoryRegion, ProtocolFeatures, Request, VringAddresses, VringFile,
};

/// Descriptors of the queue.
pub const SIZE: u16 = 16;
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Where buffers start.
pub const BUFFERS: u64 = 0x10000;

/// A piece of a chain: address, length, whether the device writes it.
pub type Piece = (u64, u32, bool);

/// A connected front end.
pub struct Guest {
    pub stream: UnixStream,
    pub memory: Region,
    pub call: OwnedFd,
    kick: OwnedFd,
    available: u16,
    seen: u16,
    next_descriptor: u16,
}

impl Guest {
    /// Connects, and agrees on `features` besides those that everybody needs.
    pub fn connect(socket: &Path, features: Features) -> Guest {
        let options = RegionOptions {
            huge_pages: HugePages::Never,
            sharing: Sharing::Always,
            ..Default::default()
        };
        let flags = EventfdFlags::CLOEXEC;
        let mut guest = Guest {
            stream: UnixStream::connect(socket).unwrap(),
            memory: Region::allocate(1, options).unwrap(),
            call: eventfd(0, flags | EventfdFlags::NONBLOCK).unwrap(),
            // Front ends may have it block: whoever reads it must not.
            kick: eventfd(0, flags).unwrap(),
            available: 0,
            seen: 0,
            next_descriptor: 0,
        };
        guest.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        guest.order(Request::SetOwner);
        let offered = Features(guest.ask(Request::GetFeatures));
        let wanted = features.with(Features::VERSION_1).with(Features::PROTOCOL_FEATURES);
        assert!(offered.has(wanted), "{offered:?}");
        let protocol = ProtocolFeatures(guest.ask(Request::GetProtocolFeatures));
        guest.order(Request::SetProtocolFeatures(protocol));
        guest.order(Request::SetFeatures(wanted));
        guest
    }

    /// Connects, and sets up the queue.
    pub fn running(socket: &Path, features: Features) -> Guest {
        let mut guest = Guest::connect(socket, features);
        guest.share_memory();
        guest.start(0);
        guest
    }

    pub fn base(&self) -> u64 {
        self.memory.start().as_ptr() as u64
    }

    /// The memory as messages describe it: at the addresses of this process.
    pub fn region(&self) -> (MemoryRegion, OwnedFd) {
        let region = MemoryRegion {
            guest_address: self.base(),
            size: self.memory.len() as u64,
            user_address: self.base(),
            offset: self.memory.backing().unwrap().offset(),
        };
        (region, self.memory.backing().unwrap().file().try_clone_to_owned().unwrap())
    }

    pub fn share_memory(&mut self) {
        let (region, file) = self.region();
        assert!(self.succeeds(Request::AddMemReg(region, file)));
    }

    /// Sets up the queue.
    pub fn start(&mut self, base: u32) {
        let index = 0;
        let kick = self.kick.try_clone().unwrap();
        let call = self.call.try_clone().unwrap();
        assert!(self.succeeds(Request::SetVringNum { index, size: SIZE }));
        assert!(self.succeeds(Request::SetVringBase { index, base }));
        let addresses = self.addresses();
        assert!(self.succeeds(Request::SetVringAddr(addresses)));
        assert!(self.succeeds(Request::SetVringCall(VringFile { index, file: Some(call) })));
        assert!(self.succeeds(Request::SetVringKick(VringFile { index, file: Some(kick) })));
        assert!(self.succeeds(Request::SetVringEnable { index, enable: true }));
    }

    pub fn addresses(&self) -> VringAddresses {
        VringAddresses {
            index: 0,
            flags: 0,
            descriptors: self.base() + DESCRIPTORS,
            used: self.base() + USED,
            available: self.base() + AVAILABLE,
            log: self.base() + USED,
        }
    }

    /// Sends a request, and a wish for an acknowledgement if `acknowledge`.
    fn send(&self, request: Request, acknowledge: bool) {
        let message = request.encode().with_acknowledgement(acknowledge);
        let descriptors: Vec<_> = message.descriptors.iter().map(AsFd::as_fd).collect();
        let bytes = message.bytes();
        let sent = socket::send(self.stream.as_fd(), &bytes, &descriptors);
        assert_eq!(sent.ok(), Some(bytes.len()), "{:?}", message.header);
    }

    /// Sends what is not answered.
    pub fn order(&self, request: Request) {
        self.send(request, false);
    }

    /// Sends what is answered with a number.
    pub fn ask(&mut self, request: Request) -> u64 {
        self.send(request, false);
        let payload = self.reply();
        u64::from_ne_bytes(payload[..8].try_into().unwrap())
    }

    /// Whether the back end did it.
    pub fn succeeds(&mut self, request: Request) -> bool {
        self.send(request, true);
        u64::from_ne_bytes(self.reply()[..8].try_into().unwrap()) == 0
    }

    /// The payload of the next reply.
    pub fn reply(&mut self) -> Vec<u8> {
        let mut header = [0; HEADER_SIZE];
        self.stream.read_exact(&mut header).expect("a reply");
        let header = Header::parse(&header).unwrap();
        let mut payload = vec![0; header.size as usize];
        self.stream.read_exact(&mut payload).unwrap();
        payload
    }

    /// Stops the queue. Where it stopped.
    pub fn stop(&mut self) -> u32 {
        self.send(Request::GetVringBase { index: 0 }, false);
        u32::from_ne_bytes(self.reply()[4..8].try_into().unwrap())
    }

    /// Whether the back end hangs up.
    pub fn is_cut_off(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }

    pub fn put(&self, offset: u64, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= self.memory.len());
        // SAFETY: within the region; the back end may look at it at the same time, as a device at a guest's memory.
        unsafe {
            let place = self.memory.start().as_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
        }
    }

    pub fn get(&self, offset: u64, length: usize) -> Vec<u8> {
        assert!(offset as usize + length <= self.memory.len());
        let mut bytes = vec![0; length];
        // SAFETY: as above.
        unsafe {
            let place = self.memory.start().as_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), length);
        }
        bytes
    }

    fn word(&self, offset: u64) -> &AtomicU16 {
        // SAFETY: within the region, aligned, for as long as that is borrowed.
        unsafe { &*self.memory.start().as_ptr().add(offset as usize).cast::<AtomicU16>() }
    }

    /// Writes descriptor `index`.
    pub fn describe(&self, index: u16, piece: Piece, next: Option<u16>) {
        let (address, length, write) = piece;
        let flags = u16::from(next.is_some()) | u16::from(write) << 1;
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.unwrap_or(0).to_le_bytes());
        self.put(DESCRIPTORS + 16 * u64::from(index), &bytes);
    }

    /// Makes a chain available. Returns its head.
    pub fn push(&mut self, pieces: &[Piece]) -> u16 {
        let head = self.next_descriptor;
        for (place, &piece) in pieces.iter().enumerate() {
            let index = (head + place as u16) % SIZE;
            let next = (place + 1 < pieces.len()).then_some((index + 1) % SIZE);
            self.describe(index, piece, next);
        }
        self.next_descriptor = (head + pieces.len() as u16) % SIZE;
        self.push_head(head);
        head
    }

    /// Makes whatever starts at `head` available.
    pub fn push_head(&mut self, head: u16) {
        self.put(AVAILABLE + 4 + 2 * u64::from(self.available % SIZE), &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Sets the available index, and kicks.
    pub fn set_available(&self, index: u16) {
        self.word(AVAILABLE + 2).store(index.to_le(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    /// How many buffers were given back in all.
    pub fn used(&self) -> u16 {
        u16::from_le(self.word(USED + 2).load(Ordering::SeqCst))
    }

    /// Waits for the next buffer to be given back: its head, and how much was written.
    pub fn wait(&mut self) -> (u32, u32) {
        let end = Instant::now() + PATIENCE;
        while self.used() == self.seen {
            assert!(Instant::now() < end, "nothing is given back");
            std::thread::yield_now();
        }
        let element = self.get(USED + 4 + 8 * u64::from(self.seen % SIZE), 8);
        self.seen = self.seen.wrapping_add(1);
        let number =
            |range: std::ops::Range<usize>| u32::from_le_bytes(element[range].try_into().unwrap());
        (number(0..4), number(4..8))
    }

    /// Interrupts that came since the last call.
    pub fn interrupts(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.call, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }

    /// One request with header, data and status in a place each, at buffer place `place`. Returns the status byte.
    pub fn request(&mut self, kind: u32, sector: u64, data: Option<(Vec<u8>, bool)>) -> u8 {
        let base = self.base() + BUFFERS;
        self.put_header(BUFFERS, kind, sector);
        self.put(BUFFERS + 0x100, &[0xaa]);
        let mut pieces = vec![(base, 16, false)];
        if let Some((bytes, write)) = &data {
            self.put(BUFFERS + 0x1000, bytes);
            pieces.push((base + 0x1000, bytes.len() as u32, *write));
        }
        pieces.push((base + 0x100, 1, true));
        let head = self.push(&pieces);
        assert_eq!(self.wait().0, u32::from(head));
        self.get(BUFFERS + 0x100, 1)[0]
    }

    pub fn put_header(&self, offset: u64, kind: u32, sector: u64) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.put(offset, &header);
    }

    /// The file of its memory, to be cut short.
    pub fn truncate_memory(&self) {
        let file = self.memory.backing().unwrap().file();
        rustix::fs::ftruncate(file, 0).unwrap();
    }
}
