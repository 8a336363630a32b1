//! What is asked of drives.

use std::sync::Arc;

use super::ids::ReplicaId;

/// What a drive is asked. Addresses are blocks from the start of the part of the drive that extents are cut from (extent `n` begins at
/// block `n * extent_blocks`). Operations of a drive may end in any order; whoever wants an order waits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the text of a variant tells of its fields")]
pub enum DiskOperation<P> {
    /// Reads blocks.
    Read { block: u64, blocks: u32 },
    /// Writes a payload. With `stable` it survives a loss of power once it has ended (FUA, or a medium that is power-protected).
    Write { block: u64, payload: P, stable: bool },
    /// Writes zeroes, or deallocates where that reads as zeroes. `stable` as for a write.
    Zero { block: u64, blocks: u32, unmap: bool, stable: bool },
    /// Makes these blocks unreadable until they are written: what they held is lost on every copy.
    Poison { block: u64, blocks: u32 },
    /// Makes stable what has ended.
    Flush,
    /// Reads bytes of metadata: whole blocks.
    ReadMeta { block: u64, blocks: u32 },
    /// Writes bytes of metadata, whole blocks, stable. Torn at block boundaries by a loss of power.
    WriteMeta { block: u64, bytes: Arc<[u8]> },
}

/// How an operation of a drive ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskResult<P> {
    /// Done.
    Done,
    /// What was read.
    Data(P),
    /// The metadata that was read.
    Meta(Arc<[u8]>),
    /// These blocks, or some of them, cannot be read; others can.
    Unreadable,
    /// The operation failed, and others are likely to.
    Failed,
}

/// Says which operation has ended: given out by who asked, never used twice by the same daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

const SLOT_BITS: u32 = 20;

impl Ticket {
    /// The ticket of an operation of a replica in a life of it.
    pub(super) fn of(replica: ReplicaId, life: u32, slot: usize) -> Ticket {
        debug_assert!(slot < 1 << SLOT_BITS);
        let life = u64::from(life) << SLOT_BITS & u64::from(u32::MAX);
        Ticket(u64::from(replica.0) << 32 | life | slot as u64)
    }

    /// The replica that asked.
    pub(super) fn replica(self) -> ReplicaId {
        ReplicaId((self.0 >> 32) as u32)
    }

    /// Its slot, if it is of this life (as far as 12 bits tell).
    pub(super) fn slot(self, life: u32) -> Option<usize> {
        let slot = self.0 & ((1 << SLOT_BITS) - 1);
        let ours = Ticket::of(self.replica(), life, slot as usize) == self;
        ours.then_some(slot as usize)
    }
}
