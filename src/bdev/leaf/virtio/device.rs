//! A virtio-blk device as a bdev.

use std::sync::Arc;

use serde_json::{Value, json};

use super::facts::Facts;
use super::link::{Link, QueueHandle};
use super::queue::VirtioQueue;
use crate::base::{Result, Uuid};
use crate::bdev::device::{Bdev, Info};
use crate::bdev::queue::Queue;
use crate::reactor::Context;

/// SPDK's name for such a bdev.
pub(super) const PRODUCT: &str = "VirtioBlk Disk";

/// The bdev.
pub struct VirtioBdev {
    info: Info,
    link: Arc<Link>,
    description: Value,
}

impl VirtioBdev {
    /// The bdev `name` of the device behind `link`.
    pub(super) fn new(
        name: &str,
        uuid: Uuid,
        facts: &Facts,
        link: &Arc<Link>,
        description: Value,
    ) -> Arc<VirtioBdev> {
        let mut info = Info::new(name, PRODUCT, facts.geometry);
        info.uuid = uuid;
        info.native = facts.native;
        info.limits = facts.limits;
        info.volatile_write_cache = facts.volatile_write_cache;
        info.physical_block_size = facts.physical_block_size;
        Arc::new(VirtioBdev { info, link: Arc::clone(link), description })
    }

    /// Whether this is the device behind `link`.
    pub(super) fn is_on(&self, link: &Arc<Link>) -> bool {
        Arc::ptr_eq(&self.link, link)
    }
}

impl Bdev for VirtioBdev {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(VirtioQueue::new(QueueHandle::open(&self.link, cx)?, depth)))
    }

    fn driver_specific(&self) -> Value {
        json!({ "virtio": self.description })
    }
}
