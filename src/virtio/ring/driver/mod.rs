//! The driver's side of a virtqueue, polled, for a block device.
//!
//! All that a request needs is laid out when the queue is made ([`memory::Layout`]): each *slot* has its descriptors, header
//! and status byte at a fixed place in memory that the device shares, written beforehand as far as they never change. A
//! request fills in an address, a length, a type and a sector, in one cache line, and is published with its
//! batch.
//!
//! The device is not trusted. What it writes is read once, as an atomic access, and compared with what is outstanding;
//! what cannot be is a [`DeviceFault`], after which the queue does not look at the ring any more. What is outstanding
//! then is still there, to be given back or, over a new connection, sent again.
//!
//! A polling driver wants no interrupts, and says so once. Whether the device wants a notification is looked at right
//! after publishing, without the memory barrier that would make the answer certain, and again with it when the queue
//! is next found idle ([`DriverRing::recheck`]): a device that goes to sleep meanwhile is woken then, and a busy
//! queue pays for no barrier.

mod cells;
mod frame;
pub mod memory;
pub mod packed;
mod slots;
pub mod split;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::memory::Segment;
use crate::virtio::spec::Features;
use crate::virtio::spec::block::{RangeDescriptor, RequestType};

/// What a submitter gets back with a completion, as it was given.
pub type Tag = [u64; 3];

/// Who sends a request, for those who share a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sender {
    /// Comes back.
    pub tag: Tag,
    /// One of those who share the queue. Comes back.
    pub owner: u16,
    /// What the queue's user wants to know of the request. Comes back.
    pub mark: u16,
}

/// What a queue is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingOptions {
    /// How many descriptors.
    pub size: u16,
    /// What was agreed on: RING_PACKED, INDIRECT_DESC, EVENT_IDX.
    pub features: Features,
    /// Every request is one descriptor that points to a table, so that as many fit as there are descriptors. Else only
    /// those with several segments are. Needs INDIRECT_DESC.
    pub tables: bool,
    /// Most segments of a request; without INDIRECT_DESC there is one.
    pub segments_max: u16,
}

/// Where the device finds a ring: addresses of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// The descriptor area.
    pub descriptors: u64,
    /// The driver area.
    pub driver: u64,
    /// The device area.
    pub device: u64,
}

/// Type and first sector of a request.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// What it asks for.
    pub kind: RequestType,
    /// First sector of a read or a write.
    pub sector: u64,
}

/// A request that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// As it was given.
    pub sender: Sender,
    /// The status byte: a [`RequestStatus`](crate::virtio::spec::block::RequestStatus), or whatever the device wrote.
    pub status: u8,
}

/// Something that a device did and that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// The used index says that more was used than is outstanding.
    UsedIndex(u16),
    /// It used a buffer that was not given to it.
    NotOutstanding(u32),
    /// It says that it wrote more than there was to write.
    Length(u32),
}

impl fmt::Display for DeviceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceFault::UsedIndex(index) => {
                write!(f, "the used index jumped to {index}, beyond what is outstanding")
            }
            DeviceFault::NotOutstanding(id) => {
                write!(f, "buffer {id} was used, which is not outstanding")
            }
            DeviceFault::Length(length) => {
                write!(f, "{length} bytes were written to a buffer that is shorter")
            }
        }
    }
}

/// The driver's side of a virtqueue.
///
/// Requests that were pushed are outstanding; the device sees them after [`publish`](DriverRing::publish), and each
/// comes back exactly once: from [`reap`](DriverRing::reap), or from [`give_up`](DriverRing::give_up).
///
/// No push fails while there is room; without room it returns false and does nothing.
pub trait DriverRing: Send {
    /// Where the device finds it.
    fn addresses(&self) -> RingAddresses;

    /// How many more requests fit.
    fn room(&self) -> usize;

    /// How many requests are outstanding.
    fn outstanding(&self) -> usize;

    /// Adds a request with one piece of data, of at most `u32::MAX - 1` bytes. `to_memory`: the device writes it.
    fn push(&mut self, sender: Sender, header: Header, data: Segment, to_memory: bool) -> bool;

    /// Adds a request without data.
    fn push_bare(&mut self, sender: Sender, header: Header) -> bool;

    /// Adds a request whose data are a range.
    fn push_range(&mut self, sender: Sender, header: Header, range: RangeDescriptor) -> bool;

    /// Adds a request with several pieces of data. False also when there are more than the options allowed.
    fn push_scattered(
        &mut self,
        sender: Sender,
        header: Header,
        data: impl Iterator<Item = Segment>,
        to_memory: bool,
    ) -> bool;

    /// Shows the device what was pushed. True when it is likely to want a notification.
    fn publish(&mut self) -> bool;

    /// To be called when nothing was reaped: true when the device wants a notification for what was published.
    fn recheck(&mut self) -> bool;

    /// Gives up to `room` requests that ended to `deliver`, and says how many.
    ///
    /// # Errors
    /// When the device did what cannot be. Those that were delivered before are done; the ring is not to be used
    /// again before a [`restart`](DriverRing::restart).
    fn reap(&mut self, room: usize, deliver: impl FnMut(Done)) -> Result<usize, DeviceFault>;

    /// Makes all that is outstanding available to a new device that knows of nothing, which is to
    /// start at base 0 (or its packed form), and publishes it.
    fn restart(&mut self);

    /// Where a new device goes on that knows, from its predecessor, what was in flight: behind the last that was
    /// used, in the form of vhost-user's SET_VRING_BASE. All that was used has been reaped.
    fn base(&self) -> u32;

    /// Takes back one request that is outstanding, if there is one. No device looks at the ring any more.
    fn give_up(&mut self) -> Option<Sender>;

    /// Whether any request of `owner` is outstanding.
    fn owes(&self, owner: u16) -> bool;
}

/// Whether an event index lies in `(old, new]`, modulo 2^16 (VIRTIO 2.7.10.1).
#[inline]
const fn wants_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
