//! The mirror as a bdev.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::queue::MirrorQueue;
use super::shared::{Shared, lock};
use crate::base::Result;
use crate::bdev::device::ControlFuture;
use crate::bdev::{Bdev, ConfigEntry, Info, Queue};
use crate::reactor::Context;

/// What an operator sees of a mirror; the control task keeps it up to date.
#[derive(Default)]
pub(super) struct Facts {
    pub driver_specific: Value,
    pub config: Vec<ConfigEntry>,
}

/// A mirror.
pub(super) struct Mirror {
    pub info: Info,
    pub shared: Arc<Shared>,
    pub facts: Arc<Mutex<Facts>>,
}

impl Bdev for Mirror {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(MirrorQueue::open(&self.shared, cx, depth)?))
    }

    fn driver_specific(&self) -> Value {
        lock(&self.facts).driver_specific.clone()
    }

    fn close<'a>(&'a self, cx: &'a Context) -> ControlFuture<'a> {
        Box::pin(async move {
            self.shared.stop();
            while !self.shared.is_stopped() {
                cx.sleep(Duration::from_micros(100)).await;
            }
        })
    }

    fn config(&self) -> Vec<ConfigEntry> {
        lock(&self.facts).config.clone()
    }
}
