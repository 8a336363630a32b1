//! Making a device's virtqueues: their memory, their rings, what they signal.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::any_queue::AnyQueue;
use super::facts::{Facts, SEGMENTS_MAX};
use super::options::VirtioOptions;
use super::trouble::TroubleSender;
use super::virtqueue::{Target, Virtqueue};
use crate::base::{Error, Result};
use crate::memory::{Region, RegionId, RegionOptions, Segment, Sharing};
use crate::virtio::ring::driver::memory::{Layout, QueueMemory};
use crate::virtio::ring::driver::packed::PackedRing;
use crate::virtio::ring::driver::split::SplitRing;
use crate::virtio::ring::driver::{RingAddresses, RingOptions};
use crate::virtio::spec::Features;
use crate::virtio::spec::block::ID_LENGTH;

/// What the controller keeps of its queues, which are with reactors.
pub(super) struct Queues {
    /// The memory that all rings are in.
    pub(super) memory: Arc<Region>,
    /// Where the rings are, by index.
    pub(super) addresses: Vec<RingAddresses>,
    /// What the driver signals, by index.
    pub(super) kicks: Vec<Arc<OwnedFd>>,
    /// What devices would signal: nobody listens, but some want one.
    pub(super) call: OwnedFd,
    pub(super) size: u16,
    /// Where in the memory the serial number is put.
    identity: usize,
}

impl Queues {
    /// Memory for the serial number.
    pub(super) fn identity(&self) -> Segment {
        // SAFETY: the offset is within the region, with room behind it; nothing else is there, and the region lives as
        // long as the device is attached.
        unsafe {
            let address = self.memory.start().add(self.identity);
            Segment::new(address, ID_LENGTH as u32, RegionId::NONE)
        }
    }

    /// The serial number that was put there: up to a zero byte, what can be read of it.
    pub(super) fn serial(&self) -> String {
        let mut bytes = [0; ID_LENGTH];
        for (offset, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: within the memory for it, as above; the device may write it, byte by byte, at any time.
            *byte = unsafe { self.memory.start().add(self.identity + offset).read_volatile() };
        }
        let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(ID_LENGTH);
        let text = String::from_utf8_lossy(&bytes[..length]);
        text.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned()
    }
}

/// How the rings of a device are that agreed on `features`.
pub(super) fn ring_options(options: &VirtioOptions, features: Features) -> RingOptions {
    RingOptions {
        size: options.queue_size,
        features,
        tables: features.has(Features::INDIRECT_DESC),
        segments_max: SEGMENTS_MAX,
    }
}

/// Makes the queues of a device.
///
/// # Errors
/// `NoMemory` when the system has none; when the process has no descriptors left.
pub(super) fn make(
    count: u16,
    options: &RingOptions,
    facts: &Facts,
    trouble: &TroubleSender,
) -> Result<(Queues, Vec<AnyQueue>)> {
    let layout = Layout::new(options)?;
    let shared = RegionOptions { sharing: Sharing::Always, ..RegionOptions::default() };
    let length = layout.length() * usize::from(count);
    let memory = Arc::new(Region::allocate(length + ID_LENGTH, shared)?);
    let target = Target::new(facts);
    let (mut queues, mut kicks) = (Vec::new(), Vec::new());
    for index in 0..count {
        let offset = usize::from(index) * layout.length();
        let place = QueueMemory::new(&memory, offset, layout.length())?;
        let kick = Arc::new(new_eventfd()?);
        kicks.push(Arc::clone(&kick));
        let trouble = trouble.clone();
        queues.push(match options.features.has(Features::RING_PACKED) {
            true => {
                let ring = PackedRing::new(place, options)?;
                AnyQueue::Packed(Virtqueue::new(index, ring, target, kick, trouble))
            }
            false => {
                let ring = SplitRing::new(place, options)?;
                AnyQueue::Split(Virtqueue::new(index, ring, target, kick, trouble))
            }
        });
    }
    let addresses = queues.iter().map(AnyQueue::addresses).collect();
    let call = new_eventfd()?;
    Ok((Queues { memory, addresses, kicks, call, size: options.size, identity: length }, queues))
}

fn new_eventfd() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| Error::os("cannot make an eventfd for a virtqueue", errno))
}
