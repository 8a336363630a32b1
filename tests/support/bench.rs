//! A registry on a detached reactor, with memory devices and one request at a time.

use std::ptr::NonNull;
use std::sync::Arc;

use weft::base::{BlockCount, BlockSize, Geometry, Lba, Status, Uuid};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::vbdev::raid::{RaidLevel, RaidSpec};
use weft::bdev::{Channel, Completions, Device, Opcode, Queue, Registry, Request};
use weft::memory::{HugePages, PoolOptions, RegionId, Registry as Regions, Segment};
use weft::reactor::{Activity, Context};

pub struct Bench {
    pub cx: Context,
    pub registry: Registry,
}

impl Bench {
    pub fn new() -> Bench {
        let pool = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
        let cx = Context::detached(Regions::new(), pool);
        let registry = Registry::new(&cx);
        Bench { cx, registry }
    }

    /// A memory device of 512-byte blocks.
    pub fn malloc(&self, name: &str, blocks: u64) -> Arc<Device> {
        let geometry = Geometry::new(BlockSize::B512, BlockCount(blocks)).unwrap();
        let malloc = Malloc::create(name, None, geometry, HugePages::Never).unwrap();
        self.registry.register(malloc, Vec::new()).unwrap()
    }

    /// Unregisters a device; what is over it is gone then, too.
    pub fn unregister(&self, name: &str) {
        self.cx.block_on(self.registry.unregister(name)).unwrap();
    }

    /// All devices in the order of their registration.
    pub fn names(&self) -> Vec<String> {
        self.registry.list().iter().map(|device| device.name().to_owned()).collect()
    }

    pub fn open(&self, name: &str) -> Io {
        let device = self.registry.get(name).unwrap();
        let channel = device.open_channel(&self.cx, 64).unwrap();
        Io { cx: self.cx.clone(), channel, completions: Completions::with_capacity(64) }
    }
}

/// One request at a time.
pub struct Io {
    pub cx: Context,
    pub channel: Channel,
    pub completions: Completions,
}

impl Io {
    pub fn submit(&mut self, request: Request) {
        self.cx.turn();
        assert_eq!(self.channel.submit(&mut [request]), 1);
    }

    /// Polls once; the status of what completed, if something did.
    pub fn poll(&mut self) -> (Activity, Option<Status>) {
        self.cx.turn();
        self.completions.clear();
        let activity = self.channel.poll(&mut self.completions);
        assert!(self.completions.len() <= 1);
        (activity, self.completions.as_slice().first().map(|completion| completion.status))
    }

    pub fn wait(&mut self) -> Status {
        for _ in 0..10_000_000 {
            if let (_, Some(status)) = self.poll() {
                return status;
            }
        }
        panic!("the request does not complete");
    }

    pub fn run(&mut self, opcode: Opcode, lba: u64, bytes: &mut [u8]) -> Status {
        let segment = segment(bytes);
        let blocks = (bytes.len() / 512) as u32;
        self.submit(Request::new(opcode, Lba(lba), blocks, segment, 1));
        self.wait()
    }
}

/// The bytes as a payload; the test waits for the completion before it looks at them.
pub fn segment(bytes: &mut [u8]) -> Segment {
    let address = NonNull::new(bytes.as_mut_ptr()).unwrap();
    // SAFETY: see above.
    unsafe { Segment::new(address, bytes.len() as u32, RegionId::NONE) }
}

pub fn spec(name: &str, level: RaidLevel, strip_size_kb: u32, bases: &[&str]) -> RaidSpec {
    RaidSpec {
        name: name.into(),
        uuid: Uuid::new_v4(),
        level,
        strip_size_kb,
        base_bdevs: bases.iter().map(|&base| base.to_owned()).collect(),
        superblock: false,
    }
}
