//! What a session knows of its front end.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::debug;

use super::rings::Vring;
use crate::virtio::dirty_log::DirtyLog;
use crate::virtio::inflight::InflightArea;
use crate::virtio::memory::GuestMemory;
use crate::virtio::ring::device::RingLog;
use crate::virtio::spec::{DeviceStatus, Features};
use crate::virtio::vhost_user::{BackendRequest, MessageStream, ProtocolFeatures};

/// All of it.
#[derive(Default)]
pub struct State {
    /// Features in use.
    pub features: Features,
    /// Protocol features in use.
    pub protocol: ProtocolFeatures,
    /// The device status, as the front end tells it.
    pub status: DeviceStatus,
    /// The guest's memory.
    pub memory: Arc<GuestMemory>,
    /// The virtqueues that anything was said of.
    pub vrings: BTreeMap<u16, Vring>,
    /// Where requests in flight are recorded.
    pub inflight: Option<InflightArea>,
    /// Where dirty pages are logged.
    pub log: Option<Arc<DirtyLog>>,
    /// What is asked of the front end goes there.
    pub backend_requests: Option<MessageStream>,
    /// Why the driver must reset the device.
    pub fault: Option<String>,
}

impl State {
    /// The device status, with what the device itself adds.
    pub fn device_status(&self) -> DeviceStatus {
        match self.fault {
            Some(_) => self.status.with(DeviceStatus::DEVICE_NEEDS_RESET),
            None => self.status,
        }
    }

    /// Where a queue is to log its writes, if it is to.
    pub fn log_of(&self, vring: &Vring) -> Option<RingLog> {
        let log = self.log.as_ref().filter(|_| self.features.has(Features::LOG_ALL))?;
        let addresses = vring.addresses.as_ref()?;
        // Where the areas are in the guest is for us to find out; the address that came with them is that of one of them only.
        let guest = |user: u64| {
            let (address, _) = self.memory.translate_user(user, 1)?;
            self.memory.guest_address(address.as_ptr())
        };
        Some(RingLog {
            log: Arc::clone(log),
            descriptors: guest(addresses.descriptors)?,
            device: guest(addresses.used)?,
        })
    }

    /// Notes that a driver broke its queue, and tells the front end. News of a queue that was stopped meanwhile are old.
    pub fn fail(&mut self, queue: u16, text: String) {
        let Some(vring) = self.vrings.get(&queue).filter(|vring| vring.running.is_some()) else {
            return;
        };
        if let Some(error) = &vring.error {
            // A descriptor that is no eventfd is the front end's own loss.
            let _ = rustix::io::write(&**error, &1_u64.to_ne_bytes());
        }
        self.fault.get_or_insert(text);
        // The driver finds the status changed when it hears that the configuration has (VIRTIO 2.1.2).
        self.notify_config_change();
    }

    /// The queues that a driver broke are stopped: it may begin anew.
    pub fn forget_fault(&mut self) {
        if self.fault.take().is_some() {
            // Buffers that were taken when it broke are on record as in flight, and will never be completed.
            self.inflight = None;
        }
    }

    /// Tells the front end that the configuration space has changed, if it wants to hear such things.
    pub fn notify_config_change(&mut self) {
        let Some(stream) = &mut self.backend_requests else { return };
        // Notices of the same thing do not pile up before one who does not read.
        if stream.has_unsent() {
            return;
        }
        if let Err(error) = stream.send(BackendRequest::ConfigChange.encode()) {
            debug!("a front end closed its socket for requests: {error}");
            self.backend_requests = None;
        }
    }
}
