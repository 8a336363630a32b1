//! The device's side of a virtqueue.
//!
//! The ring is in memory that its driver can write at any time. So every field is read once, as an atomic
//! access, checked, and then used from the copy; nothing that the driver writes can make an implementation loop,
//! index beyond its tables, or leave the guest's memory. What cannot be is a [`RingFault`], which ends the queue: its
//! driver has lost its mind, and only a reset helps (VIRTIO 2.1, DEVICE_NEEDS_RESET).

mod indirect;
pub mod packed;
pub(in crate::virtio) mod packed_chains;
mod packed_memory;
pub mod split;
mod split_memory;

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::virtio::dirty_log::DirtyLog;
use crate::virtio::inflight::InflightQueue;
use crate::virtio::memory::GuestMemory;
use crate::virtio::spec::Features;
use crate::virtio::spec::ring::descriptor_flags::{INDIRECT, WRITE};

/// Where a ring is, and what was agreed on about it.
#[derive(Clone, Copy, Debug)]
pub struct RingPlace {
    /// How many descriptors; for a split queue a power of two.
    pub size: u16,
    /// The descriptor area (split: table; packed: ring).
    pub descriptors: NonNull<u8>,
    /// The driver area (split: available ring; packed: driver event suppression).
    pub driver: NonNull<u8>,
    /// The device area (split: used ring; packed: device event suppression).
    pub device: NonNull<u8>,
    /// What was agreed on: INDIRECT_DESC, EVENT_IDX.
    pub features: Features,
    /// Where to start, as vhost-user's SET_VRING_BASE gives it: split, the available index; packed, bits 0-14 the
    /// available index, bit 15 its wrap counter, bits 16-30 the used index, bit 31 its wrap counter.
    ///
    /// In-flight records that an earlier life of the queue left behind know better, and are believed instead.
    pub base: u32,
}

/// Why a queue cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFault {
    /// A queue cannot have this size.
    Size(u16),
    /// An area of the ring is not aligned as it must be.
    Alignment(&'static str),
    /// The place to start is outside the ring.
    Base(u32),
    /// The in-flight records contradict themselves or the ring.
    Inflight(&'static str),
    /// The available index is further ahead than the queue is long, or (packed) more descriptors are available than
    /// the queue has.
    AvailableIndex(u16),
    /// An index beyond the table.
    DescriptorIndex(u16),
    /// A buffer (split: its head; packed: its buffer id) that is in flight already.
    InFlight(u16),
    /// A chain that is longer than the queue or than [`CHAIN_MAX`], or loops.
    ChainTooLong(u16),
    /// A table of descriptors that is not a table: empty, of a broken length, within another, in a chain where none may
    /// be, or not agreed on.
    IndirectTable(u16),
    /// A table of descriptors outside the guest's memory.
    TableAddress(u64),
    /// A buffer that the device reads behind one that it writes.
    Order(u16),
}

impl fmt::Display for RingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingFault::Size(size) => write!(f, "a queue of {size} descriptors cannot be"),
            RingFault::Alignment(area) => write!(f, "the queue's {area} area is not aligned"),
            RingFault::Base(base) => {
                write!(f, "the queue is to start at {base:#x}, which is outside of it")
            }
            RingFault::Inflight(what) => write!(f, "records of requests in flight: {what}"),
            RingFault::AvailableIndex(index) => {
                write!(f, "the available index jumped to {index}, more than the queue holds")
            }
            RingFault::DescriptorIndex(index) => write!(f, "descriptor {index} does not exist"),
            RingFault::InFlight(id) => write!(f, "buffer {id} was made available twice"),
            RingFault::ChainTooLong(id) => {
                write!(f, "the chain of buffer {id} is too long or does not end")
            }
            RingFault::IndirectTable(id) => write!(f, "buffer {id} has a malformed indirect table"),
            RingFault::TableAddress(address) => {
                write!(f, "an indirect table at {address:#x}, which is not the guest's memory")
            }
            RingFault::Order(id) => {
                write!(f, "buffer {id} has a readable part behind a writable one")
            }
        }
    }
}

/// One piece of a chain: guest memory that nobody has looked up yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub length: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

/// Where writes to a ring are logged, and as which guest addresses.
#[derive(Clone, Debug)]
pub struct RingLog {
    /// The log.
    pub log: Arc<DirtyLog>,
    /// Guest address of the descriptor area, which a device writes in a packed queue.
    pub descriptors: u64,
    /// Guest address of the device area (SET_VRING_ADDR calls it the log address).
    pub device: u64,
}

/// The device's side of a virtqueue.
///
/// A buffer goes through it like this: [`fetch`](DeviceRing::fetch) finds that it is available,
/// [`chain`](DeviceRing::chain) says what it consists of, [`complete`](DeviceRing::complete) gives it back, and
/// [`publish`](DeviceRing::publish) lets the driver see all that were given back since. Fetch and chain are apart so
/// that the cache lines of a whole batch are on their way before the first is needed.
///
/// The ring names a buffer by an id below the queue's size, which is its own from fetch to completion. (In a packed queue it is
/// not the driver's buffer id.)
pub trait DeviceRing: Sized {
    /// The ring at `place`, with notifications by the driver [disarmed](DeviceRing::disarm). With `inflight`, what is in flight
    /// is on record there, and what a predecessor left in flight is fetched again.
    ///
    /// # Errors
    /// When the place or the records cannot be.
    ///
    /// # Safety
    /// The place's pointers point at areas of the lengths that [`spec::ring`](crate::virtio::spec::ring) says for the size, mapped, readable
    /// and writable, until the ring is dropped.
    unsafe fn open(place: RingPlace, inflight: Option<InflightQueue>) -> Result<Self, RingFault>;

    /// Takes note of up to `ids.len()` buffers that are newly available, in their order, and asks the cache for
    /// their descriptors. First come those that were in flight when a predecessor died, in the order in
    /// which that one had taken them. A buffer that was fetched counts as in flight.
    ///
    /// # Errors
    /// When the driver's index or the next head cannot be. Nothing was fetched then; what comes before
    /// such a head is fetched first.
    fn fetch(&mut self, ids: &mut [u16]) -> Result<usize, RingFault>;

    /// Puts the pieces of a fetched buffer into `chain`: those that the device reads, then those that it
    /// writes, at least one and [`CHAIN_MAX`] at most. `chain` is cleared first; with that capacity it never grows.
    ///
    /// # Errors
    /// When the chain cannot be.
    fn chain(
        &mut self,
        id: u16,
        memory: &GuestMemory,
        chain: &mut Vec<Piece>,
    ) -> Result<(), RingFault>;

    /// Asks the cache for the indirect table of a fetched buffer, if it has one. Worth a call for each buffer of a batch, before the
    /// first one's chain is asked for; it is a hint, and what it reads is read again.
    fn prefetch(&self, id: u16, memory: &GuestMemory);

    /// Gives a buffer back, `written` bytes of which (from the start of its writable pieces) were written. Its id may be
    /// that of another from the next fetch on.
    fn complete(&mut self, id: u16, written: u32);

    /// Shows the driver what was given back.
    fn publish(&mut self);

    /// Whether the driver wants an interrupt for what was published since this was last asked. Nothing is lost by asking
    /// late: that is how interrupts are coalesced.
    ///
    /// The first answer of a ring is yes, whatever was published: a predecessor may have died, or been stopped, between publishing and
    /// interrupting, so whoever opens a ring must ask once even if there is nothing to do.
    fn take_interrupt(&mut self) -> bool;

    /// Asks the driver to notify when it makes a buffer available. True when there is one already, so that nobody may
    /// go to sleep.
    fn arm(&mut self) -> bool;

    /// Tells the driver that it need not notify. Queues start like this.
    fn disarm(&mut self);

    /// How many buffers are in flight: fetched, or to be fetched again after a predecessor's death, and not completed.
    fn in_flight(&self) -> u16;

    /// Where a successor is to start, in the form of [`RingPlace::base`], when nothing is in flight and everything is
    /// published.
    fn base(&self) -> u32;

    /// Logs what this side writes in the ring from now on, or stops. What it may have written before is logged at once: a
    /// predecessor that wrote under a log may have died before it could say so.
    fn set_log(&mut self, log: Option<RingLog>);
}

/// Most pieces in one chain: those of the longest request, its header and its status.
pub const CHAIN_MAX: usize = crate::base::limits::SEGMENTS_MAX + 2;

/// Adds a buffer to the chain of buffer `id`.
#[inline(always)]
fn add_piece(
    chain: &mut Vec<Piece>,
    id: u16,
    address: u64,
    length: u32,
    flags: u16,
) -> Result<(), RingFault> {
    let writable = flags & WRITE != 0;
    if !writable && chain.last().is_some_and(|piece| piece.writable) {
        return Err(RingFault::Order(id));
    }
    if chain.len() >= CHAIN_MAX {
        return Err(RingFault::ChainTooLong(id));
    }
    debug_assert!(flags & INDIRECT == 0);
    chain.push(Piece { address, length, writable });
    Ok(())
}

#[cfg(test)]
mod tests;
