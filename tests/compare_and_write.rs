//! Emulated compare-and-write between threads: each adds to one number, and none of the additions is lost.

use std::ptr::NonNull;
use std::sync::Arc;

use weft::base::{BlockCount, BlockSize, Geometry, Lba, Status};
use weft::bdev::leaf::malloc::Malloc;
use weft::bdev::{Channel, Completions, Device, Opcode, Queue, Request};
use weft::memory::{HugePages, PoolOptions, RegionId, Registry, Segment};
use weft::reactor::Context;

const ADDITIONS: u64 = 3000;
const THREADS: u64 = 3;
const BLOCK: usize = 512;

/// One thread's channel, driven one request at a time.
struct Client {
    cx: Context,
    channel: Channel,
    completions: Completions,
}

impl Client {
    fn new(device: &Arc<Device>) -> Client {
        let pool = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
        let cx = Context::detached(Registry::new(), pool);
        let channel = device.open_channel(&cx, 8).expect("channel");
        Client { cx, channel, completions: Completions::with_capacity(8) }
    }

    fn run(&mut self, opcode: Opcode, lba: u64, bytes: &mut [u8]) -> Status {
        let address = NonNull::new(bytes.as_mut_ptr()).expect("a slice");
        // SAFETY: this function returns when the request has completed.
        let segment = unsafe { Segment::new(address, bytes.len() as u32, RegionId::NONE) };
        let mut request = [Request::new(opcode, Lba(lba), 1, segment, 0)];
        while self.channel.submit(&mut request) == 0 {
            self.poll();
        }
        self.completions.clear();
        while self.completions.is_empty() {
            self.poll();
        }
        self.completions.as_slice()[0].status
    }

    fn poll(&mut self) {
        self.cx.turn();
        self.channel.poll(&mut self.completions);
        // Two cores, more threads: the one that is waited for may need this core.
        std::thread::yield_now();
    }
}

#[test]
fn no_addition_is_lost() {
    let geometry = Geometry::new(BlockSize::B512, BlockCount(64)).expect("geometry");
    let malloc = Malloc::create("malloc", None, geometry, HugePages::Never).expect("memory");
    let device = Device::new(malloc);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let device = &device;
            scope.spawn(move || {
                let mut client = Client::new(device);
                let mut added = 0;
                while added < ADDITIONS {
                    let mut bytes = [0; 2 * BLOCK];
                    let read = client.run(Opcode::Read, 7, &mut bytes[..BLOCK]);
                    assert_eq!(read, Status::SUCCESS);
                    let (old, new) = bytes.split_at_mut(BLOCK);
                    new.copy_from_slice(old);
                    let number = u64::from_le_bytes(old[..8].try_into().expect("8 bytes"));
                    new[..8].copy_from_slice(&(number + 1).to_le_bytes());
                    match client.run(Opcode::CompareAndWrite, 7, &mut bytes) {
                        Status::SUCCESS => added += 1,
                        status => assert_eq!(status, Status::COMPARE_FAILURE),
                    }
                    // Plain writes beside it come and go meanwhile.
                    let mut other = [thread as u8; BLOCK];
                    let write = client.run(Opcode::Write, 8 + thread, &mut other);
                    assert_eq!(write, Status::SUCCESS);
                }
            });
        }
    });
    let mut client = Client::new(&device);
    let mut bytes = [0; BLOCK];
    assert_eq!(client.run(Opcode::Read, 7, &mut bytes), Status::SUCCESS);
    let number = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
    assert_eq!(number, THREADS * ADDITIONS);
}
