//! The virtqueues of a session: what the front end has said of each, and their starts and stops.
//!
//! A queue is polled from the moment that all is known of it until the front end asks where it stands.

use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::{Error, ErrorKind, Result};
use crate::vhost::queue::{QueueHandle, SharedFd};
use crate::virtio::memory::{GuestMemory, GuestRegion};
use crate::virtio::ring::device::RingPlace;
use crate::virtio::spec::Features;
use crate::virtio::spec::ring::{
    PACKED_EVENT_AREA, descriptor_area, split_device_area, split_driver_area,
};
use crate::virtio::vhost_user::VringAddresses;

/// How a front end notifies of new buffers.
#[derive(Clone, Debug)]
pub enum Kick {
    /// Through an eventfd.
    Descriptor(SharedFd),
    /// Not at all: it expects to be polled.
    Polled,
}

impl Kick {
    /// The eventfd, if there is one.
    pub fn descriptor(&self) -> SharedFd {
        match self {
            Kick::Descriptor(descriptor) => descriptor.clone(),
            Kick::Polled => None,
        }
    }
}

/// One virtqueue, as far as the front end has described it.
#[derive(Default)]
pub struct Vring {
    /// How many descriptors.
    pub size: u16,
    /// Where it is, in the front end's addresses.
    pub addresses: Option<VringAddresses>,
    /// Where it starts.
    pub base: u32,
    /// With it, the queue starts.
    pub kick: Option<Kick>,
    /// Where interrupts go.
    pub call: SharedFd,
    /// Where a fault is signalled.
    pub error: SharedFd,
    /// Whether requests are taken, if the front end has said so.
    pub enabled: Option<bool>,
    /// It is polled.
    pub running: Option<Rc<QueueHandle>>,
}

/// Where a ring is here, and what keeps it there.
pub struct Placed {
    /// The place.
    pub place: RingPlace,
    /// The guest's memory that it is in.
    pub regions: Vec<Arc<GuestRegion>>,
}

impl Vring {
    /// Whether requests are taken. Without protocol features, a queue is enabled from the start ("Ring states").
    pub fn is_enabled(&self, features: Features) -> bool {
        self.enabled.unwrap_or(!features.has(Features::PROTOCOL_FEATURES))
    }

    /// Where the ring is in `memory`; `None` while it is not known.
    ///
    /// # Errors
    /// `Invalid` when it is not in the guest's memory, or of a size that no queue has.
    pub fn place(&self, memory: &GuestMemory, features: Features) -> Result<Option<Placed>> {
        let Some(addresses) = &self.addresses else { return Ok(None) };
        let size = self.size;
        if size == 0 {
            return Ok(None);
        }
        let packed = features.has(Features::RING_PACKED);
        let (driver, device) = if packed {
            (PACKED_EVENT_AREA, PACKED_EVENT_AREA)
        } else {
            (split_driver_area(size), split_device_area(size))
        };
        let mut regions = Vec::with_capacity(3);
        let mut find = |what: &str, address: u64, length: usize| -> Result<NonNull<u8>> {
            let found = memory.translate_user(address, length as u64);
            let (place, region) = found.ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("the {what} area at {address:#x} is not in the guest's memory"),
                )
            })?;
            regions.push(Arc::clone(region));
            Ok(place)
        };
        let place = RingPlace {
            size,
            descriptors: find("descriptor", addresses.descriptors, descriptor_area(size))?,
            driver: find("driver", addresses.available, driver)?,
            device: find("device", addresses.used, device)?,
            features,
            base: self.base,
        };
        Ok(Some(Placed { place, regions }))
    }
}
