//! A device that does nothing: writes vanish, reads leave the payload as it was. It shows what the
//! layers above cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::base::{BlockCount, Error, ErrorKind, Geometry, Result, Status, Uuid};
use crate::bdev::{
    Bdev, Completion, Completions, ConfigEntry, Info, Opcode, OpcodeSet, Queue, Registry, Request,
};
use crate::reactor::{Activity, Context};

/// A null device.
pub struct Null {
    info: Info,
    /// Capacity in blocks as it was set last: what a saved configuration is to have.
    blocks: AtomicU64,
}

impl Null {
    /// A null device of this capacity.
    pub fn create(name: &str, uuid: Option<Uuid>, geometry: Geometry) -> Arc<Null> {
        let mut info = Info::new(name, "Null disk", geometry);
        if let Some(uuid) = uuid {
            info.uuid = uuid;
        }
        // Nothing is stored, so there is nothing to compare with, and nothing to erase.
        info.erases = true;
        info.native = OpcodeSet::BLOCK.without(Opcode::Compare).without(Opcode::CompareAndWrite);
        let blocks = AtomicU64::new(geometry.blocks.0);
        Arc::new(Null { info, blocks })
    }

    /// Gives the null device `name` another capacity.
    ///
    /// # Errors
    /// `NoDevice` when no null device has this name; `Invalid` for a capacity of 0 or beyond what a
    /// geometry holds.
    pub fn resize(registry: &Registry, name: &str, blocks: BlockCount) -> Result<()> {
        let device = registry.get(name)?;
        let null = device.driver::<Null>().ok_or_else(|| {
            Error::new(ErrorKind::NoDevice, format!("bdev '{name}' is not a null device"))
        })?;
        if blocks == BlockCount::ZERO {
            return Err(Error::invalid(format!("bdev '{name}': a capacity of 0 blocks")));
        }
        Geometry::new(device.geometry().block_size, blocks)?;
        null.blocks.store(blocks.0, Ordering::Relaxed);
        registry.resize(device.name(), blocks)
    }
}

impl Bdev for Null {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, _cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(NullQueue { done: Vec::with_capacity(depth as usize) }))
    }

    fn config(&self) -> Vec<ConfigEntry> {
        vec![ConfigEntry {
            method: "bdev_null_create",
            params: json!({
                "name": self.info.name,
                "num_blocks": self.blocks.load(Ordering::Relaxed),
                "block_size": self.info.geometry.block_size.bytes(),
                "uuid": self.info.uuid.to_string(),
            }),
        }]
    }
}

struct NullQueue {
    /// Completed and not yet collected.
    done: Vec<Completion>,
}

impl Queue for NullQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        let taken = requests.len().min(self.done.capacity() - self.done.len());
        self.done.extend(requests[..taken].iter().map(|request| request.complete(Status::SUCCESS)));
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        completions.take_from(&mut self.done)
    }
}
