//! What a run is made of: the mesh, its users, and what is done to it and when. Drawn from a seed, or written by hand.

mod act;
pub mod draw;
mod faults;
mod narrow;

use weft::mesh::picture::{AttachMode, Layout, Spread, Timing, VolumeSpec};

pub use act::{Act, Wish};

use crate::world::drive::{BLOCK_BYTES, Speed};
use crate::world::network::Quality;

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000 * MS;

/// log2 of the bytes of a block.
pub const BLOCK_SHIFT: u8 = BLOCK_BYTES.trailing_zeros() as u8;
/// log2 of the bytes of a region: small, so that I/O crosses regions now and then.
pub const REGION_SHIFT: u8 = 16;
/// Blocks of an extent.
pub const EXTENT_BLOCKS: u64 = 64;
/// Extents of a drive.
pub const EXTENTS: u32 = 64;

/// A drive that is in the mesh from the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrivePlan {
    /// The host that it is in.
    pub host: usize,
    /// Its class: volumes can ask for it.
    pub class: String,
    /// How fast it is.
    pub speed: Speed,
}

/// Shares of what a client does; of what is left over it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Writes, of 100.
    pub writes: u8,
    /// Zeroing, half of it by unmapping, of 100.
    pub zeroes: u8,
    /// Flushes, of 100.
    pub flushes: u8,
    /// Requests that go to few blocks at the beginning of the volume, of 100.
    pub hot: u8,
    /// How many blocks that are.
    pub hot_blocks: u64,
    /// Writes whose guest changes the buffer while they are in flight, of 100.
    pub scribbled: u8,
}

impl Mix {
    /// Something of everything.
    pub const USUAL: Mix =
        Mix { writes: 45, zeroes: 3, flushes: 2, hot: 70, hot_blocks: 24, scribbled: 3 };
    /// Writes only, to all of the volume.
    pub const WRITES: Mix =
        Mix { writes: 100, zeroes: 0, flushes: 0, hot: 0, hot_blocks: 1, scribbled: 0 };
}

/// A client: an application on a host that uses one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// Its host.
    pub host: usize,
    /// Its volume.
    pub volume: usize,
    /// How it attaches it.
    pub mode: AttachMode,
    /// Whether it attaches by itself, at the beginning and whenever it has lost its attachment.
    pub attaches: bool,
    /// Requests in flight at most.
    pub depth: usize,
    /// Time from one request to the next, in nanoseconds, around this; `None` asks only what it is told to.
    pub pause: Option<u64>,
    /// What it does.
    pub mix: Mix,
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it is called, or the mix of faults that it was drawn from.
    pub name: String,
    /// The seed of all chance in the run.
    pub seed: u64,
    /// How many hosts.
    pub hosts: usize,
    /// How many of them, the first ones, are members.
    pub members: usize,
    /// The drives.
    pub drives: Vec<DrivePlan>,
    /// The volumes.
    pub volumes: Vec<VolumeSpec>,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// The timing constants.
    pub timing: Timing,
    /// How links behave in good times.
    pub network: Quality,
    /// How many millionths each host's clock gains.
    pub clocks: Vec<i32>,
    /// What is done, and how long after the beginning of the busy part, in nanoseconds. In order of time.
    pub acts: Vec<(u64, Act)>,
    /// How long the busy part is, in nanoseconds.
    pub length: u64,
    /// How long the mesh may take to be whole again after it, in nanoseconds.
    pub recovery: u64,
    /// What else must hold.
    pub expects: Expectations,
}

/// What must hold of one run, besides what must hold of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expectations {
    /// An I/O must not take longer than this, in nanoseconds.
    pub stall_max: Option<u64>,
    /// No replica may be left behind.
    pub keeps_replicas: bool,
}

/// A volume of this size, with this many copies on different hosts.
pub fn volume(blocks: u64, copies: u8) -> VolumeSpec {
    VolumeSpec {
        block_shift: BLOCK_SHIFT,
        blocks,
        copies,
        layout: Layout::Concatenated,
        spread: Spread::Host,
        class: String::new(),
        tags: Default::default(),
        region_shift: REGION_SHIFT,
        write_back: false,
    }
}
