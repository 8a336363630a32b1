//! A disk with a volatile cache, in memory, that can lose power.
//!
//! What was written and not flushed may or may not survive, block by block, in any version that the block had since.
//! Requests are done in any order, some time after they were submitted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use weft::base::{BlockCount, BlockSize, Geometry, Result, Status, Uuid};
use weft::bdev::{
    Bdev, Completion, Completions, Info, Opcode, OpcodeSet, Queue, Request, RequestFlags,
};
use weft::reactor::{Activity, Context};

pub const BLOCK: usize = 4096;
pub type Block = [u8; BLOCK];

/// Numbers that look random and come from a seed.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 8) % end
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub struct Medium {
    current: Vec<Box<Block>>,
    /// What a block may be after power is lost, besides its last version here, oldest first.
    unflushed: BTreeMap<usize, Vec<Box<Block>>>,
    pub bad_blocks: BTreeSet<usize>,
    /// Writes that are still to succeed before all fail.
    pub writes_left: Option<u64>,
    pub blocks_written: u64,
    pub blocks_read: u64,
    /// Chance in percent that a poll does a request that waits.
    pub speed: u64,
    pub random: Random,
}

/// The disk: what stays when the daemon goes.
#[derive(Clone)]
pub struct Disk(pub Arc<Mutex<Medium>>);

impl Disk {
    pub fn new(blocks: usize, seed: u64) -> Disk {
        Disk(Arc::new(Mutex::new(Medium {
            current: (0..blocks).map(|_| Box::new([0; BLOCK])).collect(),
            unflushed: BTreeMap::new(),
            bad_blocks: BTreeSet::new(),
            writes_left: None,
            blocks_written: 0,
            blocks_read: 0,
            speed: 60,
            random: Random(seed | 1),
        })))
    }

    pub fn with<T>(&self, what: impl FnOnce(&mut Medium) -> T) -> T {
        what(&mut self.0.lock().unwrap())
    }

    /// Loses power: each block that was not flushed becomes any of its versions.
    pub fn lose_power(&self) {
        self.with(|medium| {
            let unflushed = std::mem::take(&mut medium.unflushed);
            for (block, mut versions) in unflushed {
                let pick = medium.random.below(versions.len() as u64 + 1) as usize;
                if pick < versions.len() {
                    medium.current[block] = versions.swap_remove(pick);
                }
            }
        });
    }

    /// The contents from block `from` on.
    pub fn contents(&self, from: usize) -> Vec<Box<Block>> {
        self.with(|medium| medium.current[from..].to_vec())
    }

    pub fn set_block(&self, block: usize, contents: Block) {
        self.with(|medium| *medium.current[block] = contents);
    }

    pub fn block(&self, block: usize) -> Box<Block> {
        self.with(|medium| medium.current[block].clone())
    }

    /// A bdev that is this disk.
    pub fn bdev(&self, name: &str) -> Arc<dyn Bdev> {
        let blocks = self.with(|medium| medium.current.len() as u64);
        let geometry = Geometry::new(BlockSize::B4096, BlockCount(blocks)).unwrap();
        let mut info = Info::new(name, "Test disk", geometry);
        info.uuid = Uuid::new_v4();
        info.native =
            OpcodeSet::READ_WRITE.with(Opcode::Flush).with(Opcode::Unmap).with(Opcode::WriteZeroes);
        info.volatile_write_cache = true;
        Arc::new(DiskBdev { info, disk: self.clone() })
    }
}

impl Medium {
    fn store(&mut self, block: usize, contents: Box<Block>, durable: bool) {
        let old = std::mem::replace(&mut self.current[block], contents);
        self.bad_blocks.remove(&block);
        self.blocks_written += 1;
        if durable {
            self.unflushed.remove(&block);
        } else {
            self.unflushed.entry(block).or_default().push(old);
        }
    }

    fn execute(&mut self, request: &Request) -> Status {
        let first = request.lba.0 as usize;
        let blocks = first..first + request.ticket.blocks as usize;
        if request.opcode().is_write() {
            match &mut self.writes_left {
                Some(0) => return Status::WRITE_FAULT,
                Some(left) => *left -= 1,
                None => (),
            }
        }
        let fua = request.ticket.flags.has(RequestFlags::FUA);
        match request.opcode() {
            Opcode::Flush => {
                if self.writes_left == Some(0) {
                    return Status::WRITE_FAULT;
                }
                self.unflushed.clear();
            }
            Opcode::Unmap | Opcode::WriteZeroes => {
                blocks.for_each(|block| self.store(block, Box::new([0; BLOCK]), fua));
            }
            Opcode::Read => {
                if blocks.clone().any(|block| self.bad_blocks.contains(&block)) {
                    return Status::UNRECOVERED_READ_ERROR;
                }
                self.blocks_read += blocks.len() as u64;
                let bytes: Vec<u8> =
                    blocks.flat_map(|block| self.current[block].iter().copied()).collect();
                let mut at = 0;
                for segment in request.segments() {
                    let length = segment.len() as usize;
                    // SAFETY: the segment's memory is ours until the request completes.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            bytes[at..at + length].as_ptr(),
                            segment.address(),
                            length,
                        );
                    }
                    at += length;
                }
            }
            Opcode::Write => {
                let mut bytes = Vec::new();
                for segment in request.segments() {
                    // SAFETY: as above.
                    bytes.extend_from_slice(unsafe {
                        std::slice::from_raw_parts(segment.address(), segment.len() as usize)
                    });
                }
                for (block, contents) in blocks.zip(bytes.chunks_exact(BLOCK)) {
                    self.store(block, Box::new(contents.try_into().unwrap()), fua);
                }
            }
            other => panic!("{other:?} on a test disk"),
        }
        Status::SUCCESS
    }
}

struct DiskBdev {
    info: Info,
    disk: Disk,
}

impl Bdev for DiskBdev {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, _cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        let (waiting, done) = (Vec::new(), Vec::new());
        Ok(Box::new(DiskQueue { disk: self.disk.clone(), depth: depth as usize, waiting, done }))
    }
}

struct DiskQueue {
    disk: Disk,
    depth: usize,
    waiting: Vec<Request>,
    done: Vec<Completion>,
}

impl Queue for DiskQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        let taken = requests.len().min(self.depth - self.waiting.len() - self.done.len());
        self.waiting.extend_from_slice(&requests[..taken]);
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        self.disk.with(|medium| {
            for _ in 0..self.waiting.len() {
                let speed = medium.speed;
                if medium.random.chance(speed) {
                    let pick = medium.random.below(self.waiting.len() as u64) as usize;
                    let request = self.waiting.swap_remove(pick);
                    let status = medium.execute(&request);
                    self.done.push(request.complete(status));
                }
            }
        });
        completions.take_from(&mut self.done).max(Activity::Waiting)
    }
}
