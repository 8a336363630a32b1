//! How a device is driven.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::{Error, Result};
use crate::virtio::spec::ring::QUEUE_SIZE_MAX;

/// Most virtqueues of one device.
pub const QUEUES_MAX: u16 = 256;

/// What a device is to be like. What the back end does not offer is done without, unless it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioOptions {
    /// Where the back end listens.
    pub socket: PathBuf,
    /// How many virtqueues: as many reactors can use the device.
    pub queues: u16,
    /// Descriptors of each: a power of two.
    pub queue_size: u16,
    /// Packed or split rings; split ones where nothing is said.
    pub packed: Option<bool>,
    /// Whether every request is a table of descriptors, so that a queue takes as many as it has descriptors; where
    /// nothing is said, if the device takes tables.
    pub indirect: Option<bool>,
    /// Whether both sides say at which index they want to hear; where nothing is said, if the device does.
    pub event_index: Option<bool>,
    /// How long a back end that is gone is waited for; requests wait with it. Then they fail, and the bdev goes.
    pub reconnect: Duration,
}

impl VirtioOptions {
    /// As SPDK has it where nothing else is said.
    pub fn new(socket: impl Into<PathBuf>) -> VirtioOptions {
        VirtioOptions {
            socket: socket.into(),
            queues: 1,
            queue_size: 512,
            packed: None,
            indirect: None,
            event_index: None,
            reconnect: Duration::ZERO,
        }
    }

    /// Checks what can be checked without the device.
    ///
    /// # Errors
    /// `Invalid` for what no device can be like.
    pub fn check(&self) -> Result<()> {
        if self.queues == 0 || self.queues > QUEUES_MAX {
            return Err(Error::invalid(format!(
                "{} virtqueues (1 to {QUEUES_MAX} are possible)",
                self.queues
            )));
        }
        let size = self.queue_size;
        if !size.is_power_of_two() || !(4..=QUEUE_SIZE_MAX).contains(&size) {
            return Err(Error::invalid(format!(
                "virtqueues of {size} descriptors (a power of two from 4 to {QUEUE_SIZE_MAX} is possible)"
            )));
        }
        if self.socket.as_os_str().is_empty() {
            return Err(Error::invalid(
                "the address of a vhost-user device is the path of a socket",
            ));
        }
        Ok(())
    }
}
