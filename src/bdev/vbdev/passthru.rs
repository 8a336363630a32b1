//! A device that hands everything through to its base: the least that a virtual device can be.
//!
//! Its queue is the base's channel itself. It follows the base when that is resized.

use std::sync::Arc;

use serde_json::{Value, json};

use super::bases::{self, OnResize};
use crate::base::{Result, Uuid};
use crate::bdev::{Bdev, ConfigEntry, Device, Info, Queue, Registry};
use crate::reactor::Context;

/// A passthru device.
pub struct Passthru {
    info: Info,
    base: Arc<Device>,
}

/// Makes a passthru device over the bdev `base`.
///
/// # Errors
/// `NoDevice` when there is no such base, `NotPermitted` when it is claimed, `Exists` when the name or
/// UUID is taken.
pub fn create(
    registry: &Registry,
    name: &str,
    base: &str,
    uuid: Option<Uuid>,
) -> Result<Arc<Device>> {
    let bases = bases::open(registry, &[base], "passthru", &[name], OnResize::Follow)?;
    let base = Arc::clone(bases[0].device());
    let mut info = bases::derive_info(name, "passthru", &bases, base.geometry().blocks)?;
    info.native = bases::with_passthrough(info.native, &base);
    if let Some(uuid) = uuid {
        info.uuid = uuid;
    }
    registry.register(Arc::new(Passthru { info, base }), bases)
}

impl Bdev for Passthru {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open_queue(&self, cx: &Context, depth: u32) -> Result<Box<dyn Queue>> {
        Ok(Box::new(self.base.open_channel(cx, depth)?))
    }

    fn driver_specific(&self) -> Value {
        json!({ "passthru": { "name": self.info.name, "base_bdev_name": self.base.name() } })
    }

    fn config(&self) -> Vec<ConfigEntry> {
        vec![ConfigEntry {
            method: "bdev_passthru_create",
            params: json!({
                "base_bdev_name": self.base.name(),
                "name": self.info.name,
                "uuid": self.info.uuid.to_string(),
            }),
        }]
    }
}
