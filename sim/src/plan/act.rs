//! What can be done to a mesh.

use std::fmt;

use weft::mesh::picture::{Timing, VolumeSpec};

use super::MS;
use crate::world::drive::Ailment;
use crate::world::host::Rest;
use crate::world::network::Quality;

/// Something that is done to the mesh. Hosts, drives, volumes and clients are numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Packets from one host to the other do not arrive any more.
    Cut { from: usize, to: usize },
    /// They do again.
    Mend { from: usize, to: usize },
    /// A link behaves otherwise.
    Link { from: usize, to: usize, quality: Quality },
    /// A daemon dies; with `power`, its host and its drives lose power.
    Crash { host: usize, power: bool },
    /// A daemon starts, if it is down.
    Start { host: usize },
    /// A daemon rests, for so many nanoseconds.
    Rest { host: usize, rest: Rest, length: u64 },
    /// A clock gains so many millionths.
    ClockRate { host: usize, ppm: i32 },
    /// Something is wrong with a drive, or nothing any more.
    Ailing { drive: usize, ailment: Ailment },
    /// A block of a volume cannot be read any more on one of its replicas.
    Spoil { volume: usize, block: u64, replica: usize },
    /// A drive is moved to another host.
    MoveDrive { drive: usize, to: usize },
    /// A drive is taken out; an empty one takes its place, and the mesh is told.
    ReplaceDrive { drive: usize },
    /// A copy of a drive appears in a host.
    CloneDrive { drive: usize, into: usize },
    /// What a drive holds is remembered.
    SaveDrive { drive: usize },
    /// A drive is what it was when it was remembered. Its host's daemon restarts.
    RestoreDrive { drive: usize },
    /// The next batch of a store fails.
    StoreFails { host: usize },
    /// What a store holds is remembered.
    SaveStore { host: usize },
    /// A store is what it was when it was remembered. The daemon restarts.
    RestoreStore { host: usize },
    /// A store is lost. The daemon restarts with an empty one.
    WipeStore { host: usize },
    /// A client attaches its volume, and takes it from others if so told.
    Attach { client: usize, preempt: bool },
    /// A client detaches.
    Detach { client: usize },
    /// A client asks for one thing now.
    Submit { client: usize, wish: Wish },
    /// A volume is extended by so many blocks.
    Extend { volume: usize, blocks: u64 },
    /// Another volume is made, and deleted after so many nanoseconds.
    Passing { spec: VolumeSpec, after: u64 },
    /// A replica of a volume's first group is moved to another drive.
    MoveReplica { volume: usize, replica: usize },
    /// A drive is emptied, or may be filled again.
    Drain { drive: usize, drain: bool },
    /// The mesh starts what moves are called for.
    Rebalance,
    /// These hosts are the members from now on.
    Members { hosts: Vec<usize> },
    /// The timing constants change.
    SetTiming { timing: Timing },
    /// For the story.
    Say { text: String },
}

/// What a scripted client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To read blocks.
    Read { first: u64, blocks: u32 },
    /// To write them.
    Write { first: u64, blocks: u32 },
    /// To zero them.
    Zero { first: u64, blocks: u32, unmap: bool },
}

fn name(host: usize) -> String {
    format!("n{}", host + 1)
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ailment { hung: true, .. } => f.write_str("hangs"),
            Ailment { failing: true, .. } => f.write_str("fails"),
            Ailment { full: true, .. } => f.write_str("is full"),
            Ailment { slow: 0 | 1, .. } => f.write_str("is well"),
            Ailment { slow, .. } => write!(f, "is {slow} times slower"),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Cut { from, to } => write!(f, "cut {} → {}", name(*from), name(*to)),
            Act::Mend { from, to } => write!(f, "mended {} → {}", name(*from), name(*to)),
            Act::Link { from, to, quality } => {
                let (from, to) = (name(*from), name(*to));
                write!(f, "{from} → {to}: {} µs, ", quality.latency / 1000)?;
                write!(f, "{} % lost, {} % late", quality.loss / 10_000, quality.overtaken / 10_000)
            }
            Act::Crash { host, power: true } => write!(f, "{} loses power", name(*host)),
            Act::Crash { host, power: false } => write!(f, "{}'s daemon dies", name(*host)),
            Act::Start { host } => write!(f, "{} starts", name(*host)),
            Act::Rest { host, rest, length } => {
                write!(f, "{} is {rest} for {} ms", name(*host), length / MS)
            }
            Act::ClockRate { host, ppm } => write!(f, "{}'s clock gains {ppm} ppm", name(*host)),
            Act::Ailing { drive, ailment } => write!(f, "drive {drive} {ailment}"),
            Act::MoveDrive { drive, to } => write!(f, "drive {drive} is moved to {}", name(*to)),
            Act::ReplaceDrive { drive } => write!(f, "drive {drive} is replaced"),
            Act::CloneDrive { drive, into } => {
                write!(f, "a clone of drive {drive} appears in {}", name(*into))
            }
            Act::SaveDrive { drive } => write!(f, "drive {drive} is imaged"),
            Act::RestoreDrive { drive } => write!(f, "drive {drive} falls back to its image"),
            Act::StoreFails { host } => write!(f, "the store of {} fails", name(*host)),
            Act::SaveStore { host } => write!(f, "the store of {} is imaged", name(*host)),
            Act::RestoreStore { host } => {
                write!(f, "the store of {} falls back to its image", name(*host))
            }
            Act::WipeStore { host } => write!(f, "the store of {} is lost", name(*host)),
            Act::Members { hosts } => {
                let names: Vec<String> = hosts.iter().map(|host| name(*host)).collect();
                write!(f, "members are to be {}", names.join(" "))
            }
            Act::SetTiming { timing } => write!(f, "T is to be {} ms", timing.lease_ms),
            Act::Say { text } => f.write_str(text),
            other => write!(f, "{other:?}"),
        }
    }
}
