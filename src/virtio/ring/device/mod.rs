//! The device's side of a virtqueue.
//!
//! The ring is in memory that its driver can write at any time. So every field is read once, as an atomic or volatile
//! access, checked, and then used from the copy; nothing that the driver writes can make an implementation loop,
//! index beyond its tables, or leave the guest's memory. What cannot be is a [`RingFault`], which ends the queue: its
//! driver has lost its mind, and only a reset helps (VIRTIO 2.1, DEVICE_NEEDS_RESET).

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::virtio::memory::GuestMemory;
use crate::virtio::spec::Features;

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
    pub base: u32,
}

/// Why a queue cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFault {
    /// The available index is further ahead than the queue is long.
    AvailableIndex(u16),
    /// An index beyond the table.
    DescriptorIndex(u16),
    /// A head that is in flight already.
    InFlight(u16),
    /// A chain that is longer than the queue, or loops.
    ChainTooLong(u16),
    /// A table of descriptors that is not a table: empty, of a broken length, within another, or in a chain.
    IndirectTable(u16),
    /// A table of descriptors outside the guest's memory.
    TableAddress(u64),
    /// A buffer that the device reads behind one that it writes.
    Order(u16),
}

impl fmt::Display for RingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingFault::AvailableIndex(index) => {
                write!(f, "the available index jumped to {index}, more than the queue holds")
            }
            RingFault::DescriptorIndex(index) => write!(f, "descriptor {index} does not exist"),
            RingFault::InFlight(id) => write!(f, "buffer {id} was made available twice"),
            RingFault::ChainTooLong(id) => write!(f, "the chain of buffer {id} does not end"),
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

/// The device's side of a virtqueue.
///
/// A buffer goes through it like this: [`fetch`](DeviceRing::fetch) finds that it is available,
/// [`chain`](DeviceRing::chain) says what it consists of, [`complete`](DeviceRing::complete) gives it back, and
/// [`publish`](DeviceRing::publish) lets the driver see all that were given back since. Fetch and chain are apart so
/// that the cache lines of a whole batch are on their way before the first is needed.
pub trait DeviceRing {
    /// Takes note of up to `ids.len()` buffers that are newly available, in their order, and asks the cache for
    /// their descriptors. First come those that were in flight when a predecessor died, in the order in
    /// which that one had taken them. A buffer that was fetched counts as in flight.
    ///
    /// # Errors
    /// When the driver's index or a head cannot be.
    fn fetch(&mut self, ids: &mut [u16]) -> Result<usize, RingFault>;

    /// Puts the pieces of a fetched buffer into `chain` (cleared first; it is as long as the queue at most, and
    /// never grows beyond [`CHAIN_MAX`]): those that the device reads, then those that it writes.
    ///
    /// # Errors
    /// When the chain cannot be.
    fn chain(
        &mut self,
        id: u16,
        memory: &GuestMemory,
        chain: &mut Vec<Piece>,
    ) -> Result<(), RingFault>;

    /// Gives a buffer back, `written` bytes of which (from the start of its writable pieces) were written.
    fn complete(&mut self, id: u16, written: u32);

    /// Shows the driver what was given back.
    fn publish(&mut self);

    /// Whether the driver wants an interrupt for what was published since this last returned true.
    fn take_interrupt(&mut self) -> bool;

    /// Asks the driver to notify when it makes a buffer available. True when there is one already, so that nobody may
    /// go to sleep.
    fn arm(&mut self) -> bool;

    /// Tells the driver that it need not notify. Queues start like this.
    fn disarm(&mut self);

    /// How many buffers are in flight.
    fn in_flight(&self) -> u16;

    /// Where a successor is to start, in the form of [`RingPlace::base`], when nothing is in flight.
    fn base(&self) -> u32;

    /// Logs pages that this side writes in the ring from now on, or stops. `device_area` is the guest address of the
    /// device area (split) or of the descriptor area (packed).
    fn set_log(&mut self, log: Option<(Arc<DirtyLog>, u64)>);
}

/// Most pieces in one chain: those of the longest request, its header and its status.
pub const CHAIN_MAX: usize = crate::base::limits::SEGMENTS_MAX + 2;

/// Placeholder until its module is there.
#[derive(Debug)]
pub struct DirtyLog;
