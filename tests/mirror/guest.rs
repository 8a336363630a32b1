//! Payloads in memory that somebody else may change at any time, as a guest may its own.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weft::base::{ByteCount, Lba, Status};
use weft::bdev::{Channel, Completions, Opcode, Queue, Request};
use weft::memory::{
    Buffer, HugePages, PoolOptions, Region, RegionId, RegionView, Registry as Regions, Segment,
};

use crate::disk::{BLOCK, Disk, Random};
use crate::world::{Daemon, MIRROR};
use crate::{assert_equal, disks, in_sync, plug_all};

const DEPTH: usize = 16;
const BLOCKS_MAX: usize = 12;
/// Bytes of memory for each slot.
const ROOM: usize = BLOCKS_MAX * BLOCK;

/// Memory of a guest and of the daemon, side by side.
struct Memory {
    guest: RegionView,
    own: RegionView,
    /// What the guest's region lies in.
    _mapping: Region,
}

impl Memory {
    fn new(regions: &Regions) -> Memory {
        let mapping = Region::allocate(DEPTH * ROOM, HugePages::Never).unwrap();
        // SAFETY: within the mapping, which nobody else knows yet.
        unsafe { mapping.start().write_bytes(0xa5, mapping.len()) };
        // SAFETY: the mapping goes after the region, and after all requests.
        let guest = unsafe { Region::foreign(mapping.start(), mapping.len()) };
        let guest = regions.add(Arc::new(guest)).unwrap();
        let own = Region::allocate(DEPTH * ROOM, HugePages::Never).unwrap();
        Memory { guest, own: regions.add(Arc::new(own)).unwrap(), _mapping: mapping }
    }

    fn segment(&self, guest: bool, at: usize, length: usize) -> Segment {
        let view = if guest { &self.guest } else { &self.own };
        assert!(at + length <= view.region.len());
        // SAFETY: within the region, which outlives all requests; see the module's comment for who changes it.
        unsafe { Segment::new(view.region.start().add(at), length as u32, view.id) }
    }

    /// Changes some bytes of the guest's memory.
    fn scribble(&self, random: &mut Random) {
        for _ in 0..64 {
            scribble(self.guest.region.start(), DEPTH * ROOM, random);
        }
    }
}

fn scribble(start: NonNull<u8>, length: usize, random: &mut Random) {
    let word = random.below(length as u64 / 8) as usize;
    // SAFETY: within the memory, of which nobody has a reference.
    unsafe { start.cast::<u64>().add(word).write_volatile(random.next()) };
}

/// A client whose payloads lie in such memory.
struct Guest<'a> {
    daemon: &'a Daemon,
    memory: &'a Memory,
    channel: Channel,
    free: Vec<usize>,
    completions: Completions,
    scatter: Box<[[Segment; 2]; DEPTH]>,
}

impl<'a> Guest<'a> {
    fn open(daemon: &'a Daemon, memory: &'a Memory) -> Guest<'a> {
        let device = daemon.mirror().expect("the mirror");
        Guest {
            daemon,
            memory,
            channel: device.open_channel(&daemon.cx, DEPTH as u32).unwrap(),
            free: (0..DEPTH).collect(),
            completions: Completions::with_capacity(DEPTH),
            scatter: Box::new([[Segment::EMPTY; 2]; DEPTH]),
        }
    }

    fn send(&mut self, request: Request) {
        self.daemon.cx.turn();
        assert_eq!(self.channel.submit(&mut [request]), 1);
    }

    /// Sends a request whose payload is one segment.
    fn transfer(&mut self, opcode: Opcode, guest: bool, lba: u64, blocks: usize) {
        let slot = self.free.pop().expect("a slot");
        let payload = self.memory.segment(guest, slot * ROOM, blocks * BLOCK);
        self.send(Request::new(opcode, Lba(lba), blocks as u32, payload, slot as u64));
    }

    /// Writes somewhere, from one piece of memory or two.
    fn write_somewhere(&mut self, random: &mut Random, span: usize) {
        let Some(slot) = self.free.pop() else { return };
        let blocks = 1 + random.below(BLOCKS_MAX as u64) as usize;
        let lba = random.below((span - blocks) as u64);
        let length = blocks * BLOCK;
        let first = 512 * (1 + random.below(length as u64 / 512 - 1)) as usize;
        self.scatter[slot] = match random.below(4) {
            // The daemon's memory in front, or behind.
            0 => [(false, 0, first), (true, first, length - first)],
            1 => [(true, 0, first), (false, first, length - first)],
            _ => [(true, 0, first), (true, first, length - first)],
        }
        .map(|(guest, at, length)| self.memory.segment(guest, slot * ROOM + at, length));
        // SAFETY: the slot's list stays until the request has completed.
        let request = unsafe {
            Request::scattered(
                Opcode::Write,
                Lba(lba),
                blocks as u32,
                &self.scatter[slot],
                slot as u64,
            )
        };
        self.send(request);
    }

    /// How many have completed.
    fn poll(&mut self) -> usize {
        self.daemon.cx.turn();
        self.completions.clear();
        self.channel.poll(&mut self.completions);
        for completion in self.completions.as_slice() {
            assert_eq!(completion.status, Status::SUCCESS);
            self.free.push(completion.token as usize);
        }
        self.completions.len()
    }

    fn drain(&mut self, mut meanwhile: impl FnMut()) {
        self.daemon.until("the last completion", || {
            meanwhile();
            self.poll();
            self.free.len() == DEPTH
        });
    }

    fn taken(&self) -> u64 {
        self.daemon.cx.pool().stats().taken
    }
}

/// Whatever a guest does to its buffers while they are written, also during a rebuild: the legs end up
/// the same.
#[test]
fn legs_are_equal_whatever_the_guest_does_meanwhile() {
    for seed in 1..=6 {
        let legs = 2 + seed as usize % 2;
        let disks = disks(legs, seed);
        let daemon = Daemon::boot();
        let memory = Memory::new(daemon.cx.pool().registry());
        plug_all(&daemon, &disks);
        let names: Vec<String> = (0..legs).map(|index| format!("Disk{index}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        daemon.create(&names, false).unwrap();
        let span = daemon.mirror().unwrap().geometry().blocks.0 as usize;
        let mut random = Random(seed * 77 + 1);
        let mut guest = Guest::open(&daemon, &memory);
        let start = Shared(memory.guest.region.start());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (stop, start) = (&stop, &start);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !stop.load(Ordering::Relaxed) {
                    scribble(start.0, DEPTH * ROOM, &mut random);
                }
            });
            for round in 0..600 {
                if round == 200 {
                    // Its place is taken by a leg that knows nothing.
                    let remove = daemon.raids.remove_base(names[0]);
                    daemon.cx.block_on(run_beside(remove, &mut guest, &mut random));
                    let add = daemon.raids.add_base(MIRROR, names[0]);
                    daemon.cx.block_on(run_beside(add, &mut guest, &mut random));
                }
                guest.write_somewhere(&mut random, span);
                if random.chance(50) {
                    guest.poll();
                }
                memory.scribble(&mut random);
            }
            daemon.until("the rebuild", || {
                guest.write_somewhere(&mut random, span);
                guest.poll();
                memory.scribble(&mut random);
                in_sync(&daemon, legs as u32)
            });
            for _ in 0..200 {
                guest.write_somewhere(&mut random, span);
                guest.poll();
                memory.scribble(&mut random);
            }
            guest.drain(|| memory.scribble(&mut random));
            stop.store(true, Ordering::Relaxed);
        });
        drop(guest);
        assert_equal(&disks, 0);
        daemon.shut_down();
    }
}

/// Makes a mirror of the first two disks, and lets everything that reads it come to rest.
fn mirror_of(daemon: &Daemon, disks: &[Disk]) {
    plug_all(daemon, disks);
    daemon.create(&["Disk0", "Disk1"], false).unwrap();
    daemon.cx.block_on(daemon.registry.wait_for_examine());
}

struct Shared(NonNull<u8>);
// SAFETY: an address that all may write to.
unsafe impl Sync for Shared {}

/// Completes when `work` has, and lets the guest have its completions meanwhile.
async fn run_beside<F: Future<Output = weft::base::Result<()>>>(
    work: F,
    guest: &mut Guest<'_>,
    random: &mut Random,
) {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        guest.completions.clear();
        guest.channel.poll(&mut guest.completions);
        for completion in guest.completions.as_slice() {
            guest.free.push(completion.token as usize);
        }
        guest.memory.scribble(random);
        cx.waker().wake_by_ref();
        work.as_mut().poll(cx)
    })
    .await
    .unwrap();
}

/// What is captured costs memory and time; all else must not.
#[test]
fn nothing_but_writes_of_foreign_memory_to_several_legs_is_captured() {
    let disks = disks(2, 30);
    let daemon = Daemon::boot();
    let memory = Memory::new(daemon.cx.pool().registry());
    mirror_of(&daemon, &disks);
    let mut guest = Guest::open(&daemon, &memory);
    let takes = |guest: &mut Guest<'_>, opcode: Opcode, foreign: bool| {
        let before = guest.taken();
        if matches!(opcode, Opcode::Read | Opcode::Write) {
            guest.transfer(opcode, foreign, 7, 3);
        } else {
            let slot = guest.free.pop().unwrap();
            guest.send(Request::bare(opcode, Lba(7), 3, slot as u64));
        }
        guest.drain(|| ());
        guest.taken() - before
    };
    assert_eq!(takes(&mut guest, Opcode::Write, true), 1);
    assert_eq!(takes(&mut guest, Opcode::Write, false), 0);
    assert_eq!(takes(&mut guest, Opcode::Read, true), 0);
    assert_eq!(takes(&mut guest, Opcode::WriteZeroes, true), 0);
    assert_eq!(takes(&mut guest, Opcode::Unmap, true), 0);
    assert_eq!(daemon.cx.pool().stats().in_use, 0);
    // One leg reads the payload once.
    daemon.cx.block_on(daemon.raids.remove_base("Disk1")).unwrap();
    assert_eq!(takes(&mut guest, Opcode::Write, true), 0);
    daemon.cx.block_on(daemon.raids.add_base(MIRROR, "Disk1")).unwrap();
    daemon.until("the rebuild", || in_sync(&daemon, 2));
    // The guest's memory goes, and memory of our own takes its number.
    let place = memory.guest.id;
    daemon.cx.pool().registry().remove(place);
    let own = Region::allocate(ROOM, HugePages::Never).unwrap();
    let own = daemon.cx.pool().registry().add(Arc::new(own)).unwrap();
    assert_eq!(own.id.slot(), place.slot());
    let before = guest.taken();
    let slot = guest.free.pop().unwrap();
    // SAFETY: within the region, which outlives the request.
    let payload = unsafe { Segment::new(own.region.start(), BLOCK as u32, own.id) };
    guest.send(Request::new(Opcode::Write, Lba(0), 1, payload, slot as u64));
    guest.drain(|| ());
    assert_eq!(guest.taken(), before);
    drop(guest);
    daemon.shut_down();
}

/// A daemon whose reactor may have 4 MiB of buffers, with a mirror and two disks.
fn boot_short_of_memory(disks: &[Disk]) -> Daemon {
    let bytes = ByteCount(4 << 20);
    let options = PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() };
    let daemon = Daemon::boot_with(PoolOptions { grow: bytes, max: bytes, ..options });
    mirror_of(&daemon, disks);
    daemon
}

/// All buffers that the pool has left, longest first.
fn take_all(daemon: &Daemon) -> Vec<Buffer> {
    let mut buffers = Vec::new();
    for length in [2 << 20, 1 << 20, 256 << 10, 64 << 10, 16 << 10, 4 << 10] {
        while let Ok(buffer) = daemon.cx.pool().take(length) {
            buffers.push(buffer);
        }
    }
    buffers
}

/// A write whose payload there is no memory to capture in waits, in order, and what needs none passes it.
#[test]
fn a_write_waits_for_memory() {
    let disks = disks(2, 31);
    let daemon = boot_short_of_memory(&disks);
    let memory = Memory::new(daemon.cx.pool().registry());
    let mut guest = Guest::open(&daemon, &memory);
    let mut random = Random(5);
    let mut buffers = take_all(&daemon);
    assert!(buffers.len() >= 2 && daemon.cx.pool().take(1).is_err());
    guest.transfer(Opcode::Write, true, 10, 5);
    guest.transfer(Opcode::Write, true, 20, 1);
    let waiting = guest.free.len();
    guest.transfer(Opcode::Write, false, 30, 2);
    guest.transfer(Opcode::Read, true, 40, 2);
    daemon.until("what needs no memory", || {
        memory.scribble(&mut random);
        guest.poll();
        guest.free.len() == waiting
    });
    for _ in 0..100 {
        assert_eq!(guest.poll(), 0);
    }
    assert!(disks[0].block(10).iter().all(|&byte| byte == 0), "it was sent");
    // The longest: it goes to the long payload, which came first, and then to the short one.
    buffers.swap_remove(0);
    guest.drain(|| memory.scribble(&mut random));
    assert!(disks[0].block(10).iter().any(|&byte| byte != 0));
    assert_eq!(daemon.cx.pool().stats().in_use, buffers.len() as u64);
    // A leg less, and no memory is needed any more.
    buffers.extend(take_all(&daemon));
    guest.transfer(Opcode::Write, true, 50, 5);
    assert_eq!(guest.poll(), 0);
    let remove = daemon.raids.remove_base("Disk1");
    daemon.cx.block_on(run_beside(remove, &mut guest, &mut random));
    guest.drain(|| ());
    drop(guest);
    drop(buffers);
    daemon.shut_down();
}

/// Where the pool has short buffers only, a long payload takes several, and the other way round.
#[test]
fn a_write_takes_what_buffers_there_are() {
    let disks = disks(2, 32);
    let daemon = boot_short_of_memory(&disks);
    let memory = Memory::new(daemon.cx.pool().registry());
    let short: Vec<Buffer> =
        (0..BLOCKS_MAX).map(|_| daemon.cx.pool().take(BLOCK).unwrap()).collect();
    let mut long = take_all(&daemon);
    let mut guest = Guest::open(&daemon, &memory);
    drop(short);
    let before = guest.taken();
    let mut random = Random(6);
    memory.scribble(&mut random);
    guest.transfer(Opcode::Write, true, 0, BLOCKS_MAX);
    guest.drain(|| memory.scribble(&mut random));
    assert_eq!(guest.taken() - before, BLOCKS_MAX as u64);
    assert!(disks[0].block(BLOCKS_MAX - 1).iter().any(|&byte| byte != 0));
    assert_equal(&disks, 0);
    let short = take_all(&daemon);
    long.truncate(long.len() - 1);
    guest.transfer(Opcode::Write, true, 100, 1);
    guest.drain(|| memory.scribble(&mut random));
    assert_equal(&disks, 0);
    drop(guest);
    drop((short, long));
    daemon.shut_down();
}

/// What lies in no region is the daemon's own.
#[test]
fn memory_in_no_region_is_our_own() {
    let disks = disks(2, 33);
    let daemon = Daemon::boot();
    let memory = Memory::new(daemon.cx.pool().registry());
    mirror_of(&daemon, &disks);
    let mut guest = Guest::open(&daemon, &memory);
    let mut bytes = vec![3_u8; BLOCK];
    let address = NonNull::new(bytes.as_mut_ptr()).unwrap();
    // SAFETY: the bytes stay until the request has completed.
    let payload = unsafe { Segment::new(address, BLOCK as u32, RegionId::NONE) };
    let (before, slot) = (guest.taken(), guest.free.pop().unwrap());
    guest.send(Request::new(Opcode::Write, Lba(0), 1, payload, slot as u64));
    guest.drain(|| ());
    assert_eq!(guest.taken(), before);
    drop(guest);
    daemon.shut_down();
}
