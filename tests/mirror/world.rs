//! A daemon's worth of bdevs over test disks, clients of a mirror, and what they may see.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft::base::{Lba, Status, Uuid};
use weft::bdev::vbdev::Raids;
use weft::bdev::vbdev::mirror::MirrorKind;
use weft::bdev::vbdev::raid::{RaidLevel, RaidSpec, RaidSummary};
use weft::bdev::{Channel, Completions, Device, Opcode, Queue, Registry, Request};
use weft::memory::{HugePages, PoolOptions, RegionId, Registry as Regions, Segment};
use weft::reactor::Context;

use crate::disk::{BLOCK, Block, Disk, Random};

/// Blocks in front of the data on a labelled leg.
pub const DATA_OFFSET: usize = 256;
pub const MIRROR: &str = "Mirror";

/// One run of a daemon.
pub struct Daemon {
    pub cx: Context,
    pub registry: Registry,
    pub raids: Raids,
}

impl Daemon {
    pub fn boot() -> Daemon {
        Daemon::boot_with(PoolOptions { huge_pages: HugePages::Never, ..PoolOptions::default() })
    }

    pub fn boot_with(pool: PoolOptions) -> Daemon {
        let cx = Context::detached(Regions::new(), pool);
        let registry = Registry::new(&cx);
        let raids = Raids::new(&registry);
        raids.add_kind(MirrorKind::new(&registry, &raids));
        Daemon { cx, registry, raids }
    }

    pub fn plug(&self, name: &str, disk: &Disk) {
        self.registry.register(disk.bdev(name), Vec::new()).unwrap();
        self.cx.block_on(self.registry.wait_for_examine());
    }

    pub fn create(&self, legs: &[&str], superblock: bool) -> weft::base::Result<()> {
        let spec = RaidSpec {
            name: MIRROR.into(),
            uuid: Uuid::new_v4(),
            level: RaidLevel::Raid1,
            strip_size_kb: 0,
            base_bdevs: legs.iter().map(ToString::to_string).collect(),
            superblock,
        };
        self.cx.block_on(self.raids.create(spec))
    }

    pub fn mirror(&self) -> Option<Arc<Device>> {
        self.registry.find(MIRROR)
    }

    pub fn summary(&self) -> RaidSummary {
        self.raids.list(None).into_iter().find(|raid| raid.name == MIRROR).expect("a raid")
    }

    /// Names of the legs in use.
    pub fn legs(&self) -> Vec<String> {
        let bases = self.summary().info.base_bdevs_list;
        bases.into_iter().filter(|base| base.is_configured).filter_map(|base| base.name).collect()
    }

    /// Runs until `done`; panics if that takes forever, which is far longer than a loaded machine needs.
    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(120) {
            if done() {
                return;
            }
            self.cx.turn();
        }
        panic!("{what} does not come");
    }

    /// Stops without a word: what the disks have not got is gone.
    pub fn crash(self, disks: &[Disk]) {
        self.cx.close();
        drop(self);
        disks.iter().for_each(Disk::lose_power);
    }

    pub fn shut_down(self) {
        self.cx.block_on(self.registry.unregister(MIRROR)).unwrap();
        self.cx.close();
    }
}

#[derive(Clone, Copy, Debug)]
struct Write {
    id: u64,
    submitted: u64,
    acknowledged: u64,
    /// Acknowledged before a flush that completed.
    flushed: bool,
}

const NEVER: u64 = u64::MAX;

#[derive(Default)]
struct BlockHistory {
    writes: Vec<Write>,
    /// Value, submission and completion of reads.
    reads: Vec<(u64, u64, u64)>,
}

/// What was written and read, and so what may be read. Every write of a block has a number of its own.
pub struct History {
    blocks: Vec<BlockHistory>,
    now: u64,
    next_id: u64,
}

impl History {
    pub fn new(blocks: usize) -> History {
        let first = Write { id: 0, submitted: 0, acknowledged: 0, flushed: true };
        let block = || BlockHistory { writes: vec![first], reads: Vec::new() };
        History { blocks: (0..blocks).map(|_| block()).collect(), now: 1, next_id: 1 }
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Whether `id` may be what the block holds, given that writes for which `counts` holds are there.
    fn is_possible(&self, block: usize, id: u64, counts: impl Fn(&Write) -> bool) -> bool {
        let writes = &self.blocks[block].writes;
        let Some(write) = writes.iter().find(|write| write.id == id) else { return false };
        !writes.iter().any(|later| counts(later) && later.submitted > write.acknowledged)
    }

    pub fn check_read(&mut self, block: usize, id: u64, submitted: u64) {
        let now = self.tick();
        let done = |write: &Write| write.acknowledged < submitted;
        assert!(
            self.is_possible(block, id, done),
            "block {block} reads as {id} at {submitted}..{now}: {:?}",
            self.blocks[block].writes
        );
        let reads = &self.blocks[block].reads;
        for (value, _, completed) in reads {
            for (newer, newer_submitted, newer_completed) in reads {
                let went_back = *value == id
                    && *newer != id
                    && completed < newer_submitted
                    && *newer_completed < submitted;
                assert!(!went_back, "block {block} read as {id}, then {newer}, then {id}");
            }
        }
        self.blocks[block].reads.push((id, submitted, now));
    }

    /// After a crash: what a block holds is one of what was possible, and from now on no other.
    pub fn settle(&mut self, block: usize, id: u64) {
        assert!(
            self.is_possible(block, id, |write| write.flushed),
            "block {block} holds {id} after the crash: {:?}",
            self.blocks[block].writes
        );
        let now = self.tick();
        let first = Write { id, submitted: now, acknowledged: now, flushed: true };
        self.blocks[block] = BlockHistory { writes: vec![first], reads: Vec::new() };
    }
}

enum Kind {
    Write(Vec<(usize, u64)>),
    Read,
    Flush,
}

struct Sent {
    kind: Kind,
    lba: usize,
    blocks: usize,
    submitted: u64,
    memory: Box<[Block]>,
}

/// A queue on the mirror with random requests in flight.
pub struct Client {
    channel: Channel,
    sent: Vec<Option<Sent>>,
    completions: Completions,
    pub history: Rc<RefCell<History>>,
    pub failures: u64,
    pub done: u64,
}

pub fn stamp(id: u64) -> Block {
    let mut block = [0; BLOCK];
    block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&id.to_le_bytes()));
    block
}

/// The number of a block; panics when it is a mixture.
pub fn id_of(block: &Block) -> u64 {
    let id = u64::from_le_bytes(block[..8].try_into().unwrap());
    assert!(*block == stamp(id), "a block is a mixture");
    id
}

const DEPTH: usize = 16;

impl Client {
    pub fn open(daemon: &Daemon, history: &Rc<RefCell<History>>) -> Client {
        Client::open_on(&daemon.cx, daemon, history)
    }

    /// On another reactor.
    pub fn open_on(cx: &Context, daemon: &Daemon, history: &Rc<RefCell<History>>) -> Client {
        let device = daemon.mirror().expect("the mirror");
        Client {
            channel: device.open_channel(cx, DEPTH as u32).unwrap(),
            sent: (0..DEPTH).map(|_| None).collect(),
            completions: Completions::with_capacity(DEPTH),
            history: Rc::clone(history),
            failures: 0,
            done: 0,
        }
    }

    pub fn in_flight(&self) -> usize {
        self.sent.iter().flatten().count()
    }

    fn send(&mut self, kind: Kind, opcode: Opcode, lba: usize, blocks: usize) {
        let Some(slot) = self.sent.iter().position(Option::is_none) else { return };
        let mut memory = vec![[0; BLOCK]; blocks].into_boxed_slice();
        if let (Kind::Write(ids), Opcode::Write) = (&kind, opcode) {
            for (block, (_, id)) in memory.iter_mut().zip(ids) {
                *block = stamp(*id);
            }
        }
        let submitted = self.history.borrow_mut().tick();
        if let Kind::Write(ids) = &kind {
            let mut history = self.history.borrow_mut();
            for &(block, id) in ids {
                let write = Write { id, submitted, acknowledged: NEVER, flushed: false };
                history.blocks[block].writes.push(write);
            }
        }
        let mut request = if matches!(opcode, Opcode::Read | Opcode::Write) {
            let address = NonNull::new(memory.as_mut_ptr().cast()).unwrap();
            // SAFETY: the memory stays in `sent` until the request has completed, or the disks are gone.
            let segment = unsafe { Segment::new(address, (blocks * BLOCK) as u32, RegionId::NONE) };
            Request::new(opcode, Lba(lba as u64), blocks as u32, segment, slot as u64)
        } else {
            Request::bare(opcode, Lba(lba as u64), blocks as u32, slot as u64)
        };
        self.sent[slot] = Some(Sent { kind, lba, blocks, submitted, memory });
        assert_eq!(self.channel.submit(std::slice::from_mut(&mut request)), 1);
    }

    pub fn write(&mut self, lba: usize, blocks: usize) {
        let ids = {
            let mut history = self.history.borrow_mut();
            let first = history.next_id;
            history.next_id += blocks as u64;
            (0..blocks).map(|index| (lba + index, first + index as u64)).collect()
        };
        self.send(Kind::Write(ids), Opcode::Write, lba, blocks);
    }

    pub fn read(&mut self, lba: usize, blocks: usize) {
        self.send(Kind::Read, Opcode::Read, lba, blocks);
    }

    pub fn flush(&mut self) {
        self.send(Kind::Flush, Opcode::Flush, 0, 0);
    }

    /// Sends a random request to one of the first blocks, so that many overlap.
    pub fn act(&mut self, random: &mut Random, span: usize) {
        let blocks = 1 + random.below(4) as usize;
        // A few hot places in several regions.
        let region = random.below((span / 256) as u64) as usize;
        let lba = (region * 256 + random.below(12) as usize).min(span - blocks);
        match random.below(10) {
            0..=4 => self.write(lba, blocks),
            5..=8 => self.read(lba, blocks),
            _ => self.flush(),
        }
    }

    pub fn poll(&mut self) {
        self.completions.clear();
        self.channel.poll(&mut self.completions);
        for completion in self.completions.as_slice() {
            let sent = self.sent[completion.token as usize].take().expect("a request");
            self.done += 1;
            if completion.status != Status::SUCCESS {
                self.failures += 1;
                continue;
            }
            let mut history = self.history.borrow_mut();
            match sent.kind {
                Kind::Write(ids) => {
                    let now = history.tick();
                    for (block, id) in ids {
                        let writes = &mut history.blocks[block].writes;
                        let write = writes.iter_mut().find(|write| write.id == id).unwrap();
                        write.acknowledged = now;
                    }
                }
                Kind::Read => {
                    for (index, block) in sent.memory.iter().enumerate() {
                        history.check_read(sent.lba + index, id_of(block), sent.submitted);
                    }
                    assert_eq!(sent.memory.len(), sent.blocks);
                }
                Kind::Flush => {
                    for block in &mut history.blocks {
                        for write in &mut block.writes {
                            write.flushed |= write.acknowledged < sent.submitted;
                        }
                    }
                }
            }
        }
    }
}

/// Polls until nothing is in flight.
pub fn drain(daemon: &Daemon, clients: &mut [Client]) {
    daemon.until("the last completion", || {
        clients.iter_mut().for_each(Client::poll);
        clients.iter().all(|client| client.in_flight() == 0)
    });
}

/// Reads single blocks, without a model.
pub struct Reader {
    channel: Channel,
    waiting: Vec<usize>,
    sent: Vec<Option<(usize, Box<Block>)>>,
    completions: Completions,
}

impl Reader {
    pub fn open(daemon: &Daemon, device: &Arc<Device>) -> Reader {
        Reader {
            channel: device.open_channel(&daemon.cx, DEPTH as u32).unwrap(),
            waiting: Vec::new(),
            sent: (0..DEPTH).map(|_| None).collect(),
            completions: Completions::with_capacity(DEPTH),
        }
    }

    pub fn send(&mut self, block: usize) {
        self.waiting.push(block);
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.iter().all(Option::is_none)
    }

    /// What was read since the last call.
    pub fn poll(&mut self) -> Vec<(usize, Box<Block>)> {
        while let Some(slot) = self.sent.iter().position(Option::is_none)
            && let Some(block) = self.waiting.pop()
        {
            let mut memory = Box::new([0; BLOCK]);
            let address = NonNull::new(memory.as_mut_ptr()).unwrap();
            // SAFETY: the memory stays in `sent` until the request has completed.
            let segment = unsafe { Segment::new(address, BLOCK as u32, RegionId::NONE) };
            let mut request =
                Request::new(Opcode::Read, Lba(block as u64), 1, segment, slot as u64);
            self.sent[slot] = Some((block, memory));
            assert_eq!(self.channel.submit(std::slice::from_mut(&mut request)), 1);
        }
        self.completions.clear();
        self.channel.poll(&mut self.completions);
        let done = self.completions.as_slice();
        done.iter()
            .map(|completion| {
                assert!(completion.status.is_success(), "{:?}", completion.status);
                self.sent[completion.token as usize].take().expect("a request")
            })
            .collect()
    }
}
