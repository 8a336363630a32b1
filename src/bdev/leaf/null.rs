//! A device that does nothing: writes vanish, reads leave the payload as it was. It shows what the
//! layers above cost.

use std::sync::Arc;

use serde_json::json;

use crate::base::{Geometry, Result, Status, Uuid};
use crate::bdev::{
    Bdev, Completion, Completions, ConfigEntry, Info, Opcode, OpcodeSet, Queue, Request,
};
use crate::reactor::{Activity, Context};

/// A null device.
pub struct Null {
    info: Info,
}

impl Null {
    /// A null device of this capacity.
    pub fn create(name: &str, uuid: Option<Uuid>, geometry: Geometry) -> Arc<Null> {
        let mut info = Info::new(name, "Null disk", geometry);
        if let Some(uuid) = uuid {
            info.uuid = uuid;
        }
        // Nothing is stored, so there is nothing to compare with.
        info.native = OpcodeSet::BLOCK.without(Opcode::Compare).without(Opcode::CompareAndWrite);
        Arc::new(Null { info })
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
        let geometry = self.info.geometry;
        vec![ConfigEntry {
            method: "bdev_null_create",
            params: json!({
                "name": self.info.name,
                "num_blocks": geometry.blocks.0,
                "block_size": geometry.block_size.bytes(),
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
