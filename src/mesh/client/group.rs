//! What a client keeps of a group.

use std::collections::VecDeque;

use super::fence::Fence;
use super::link::Link;
use super::piece::Work;
use crate::base::Time;
use crate::mesh::ids::{Epoch, GroupId, Incarnation, ReplicaId, WriteNumber};
use crate::mesh::message::Run;
use crate::mesh::mutations::{Rule, kept};

/// A group of the volume.
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// Its epoch; 0 before it was first looked at.
    pub epoch: Epoch,
    /// The replicas that are written to in this epoch; masks are bits by the place in this list.
    pub links: Vec<Link>,
    /// Those that must answer a write.
    pub write_mask: u32,
    /// Those that may be read.
    pub read_mask: u32,
    /// Those that hold every acknowledged write.
    pub holder_mask: u32,
    /// The one that orders the writes of different clients.
    pub first: Option<usize>,
    /// Started pieces, and such that wait for one of them, in the order of their submission; at most [`WINDOW`](super::flight::WINDOW).
    pub queue: Vec<Entry>,
    /// Pieces behind them.
    pub backlog: VecDeque<u32>,
    /// The last number that a write got.
    pub numbers: u64,
    /// The last number that a completed flush covers.
    pub flushed: u64,
    /// This and all lower writes have been answered by all replicas.
    pub watermark: WriteNumber,
    /// When the watermark is sent if nothing carries it on before.
    pub watermark_due: Time,
    /// Replicas that may still serve reads in an earlier epoch.
    pub fences: Vec<Fence>,
    /// Incarnations of replicas that have opened a session with this client: they have applied its attachment.
    pub opened: Vec<(ReplicaId, Incarnation)>,
    /// Replicas whose eviction this client has proposed.
    pub proposed: Vec<ReplicaId>,
    /// It has had I/O, so that its sessions are kept open.
    pub is_used: bool,
    /// Its timers are looked at.
    pub is_busy: bool,
    /// It was said that the group is blocked.
    pub is_blocked: bool,
    /// A read rests until this time.
    pub rest: Time,
}

/// A piece's place in the order of a group.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The piece's slot.
    pub piece: u32,
    /// What others it keeps waiting.
    pub access: Access,
    /// Its blocks.
    pub run: Run,
}

/// How a piece uses its blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Not at all.
    None,
    /// Reads.
    Read,
    /// Writes.
    Write,
}

impl Access {
    /// The access of this work.
    pub fn of(work: Work) -> Access {
        match work {
            Work::Read => Access::Read,
            Work::Write | Work::Zero { .. } => Access::Write,
            Work::Flush { .. } | Work::Confirm => Access::None,
        }
    }
}

impl Entry {
    /// Whether the later of the two has to wait for the earlier.
    pub fn conflicts(&self, other: &Entry) -> bool {
        let is_free = self.access == Access::None || other.access == Access::None;
        let one_writes = self.access == Access::Write || other.access == Access::Write;
        !is_free && one_writes && self.run.overlaps(&other.run) && kept(Rule::OverlapOrder)
    }
}

impl Group {
    /// A group that has not been looked at yet.
    pub fn new(id: GroupId) -> Group {
        Group {
            id,
            epoch: Epoch(0),
            links: Vec::new(),
            write_mask: 0,
            read_mask: 0,
            holder_mask: 0,
            first: None,
            queue: Vec::new(),
            backlog: VecDeque::new(),
            numbers: 0,
            flushed: 0,
            watermark: WriteNumber(0),
            watermark_due: Time::NEVER,
            fences: Vec::new(),
            opened: Vec::new(),
            proposed: Vec::new(),
            is_used: false,
            is_busy: false,
            is_blocked: false,
            rest: Time::NEVER,
        }
    }

    /// The place of a replica in the write set.
    pub fn link_of(&self, replica: ReplicaId) -> Option<usize> {
        self.links.iter().position(|link| link.replica == replica)
    }

    /// The place of a piece in the queue.
    pub fn place_of(&self, piece: u32) -> Option<usize> {
        self.queue.iter().position(|entry| entry.piece == piece)
    }
}
