//! Virtual devices whose base is not there yet.
//!
//! A configuration may name a virtual device before its base: it is remembered and made when a bdev of
//! that name is registered. (Raids have a table of their own, [`Raids`](super::Raids).)
//!
//! Owned by the control reactor.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use serde_json::json;
use tracing::{error, info};

use super::delay::{self, Latencies};
use super::split::{self, SplitSpec};
use super::{error as error_device, passthru};
use crate::base::{Error, ErrorKind, Result, Uuid};
use crate::bdev::{ConfigEntry, DeviceState, Registry};

/// A virtual device over one base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VirtualSpec {
    /// See [`passthru`].
    Passthru {
        /// Its name.
        name: String,
        /// Name of the base.
        base: String,
        /// Its UUID, or any.
        uuid: Option<Uuid>,
    },
    /// See [`error`](super::error).
    Error {
        /// Name of the base.
        base: String,
        /// Its UUID, or the one that follows from the base's.
        uuid: Option<Uuid>,
    },
    /// See [`delay`].
    Delay {
        /// Its name.
        name: String,
        /// Name of the base.
        base: String,
        /// Its UUID, or any.
        uuid: Option<Uuid>,
        /// The latencies.
        latencies: Latencies,
    },
    /// See [`split`].
    Split(SplitSpec),
}

impl VirtualSpec {
    /// Name of the base.
    pub fn base(&self) -> &str {
        match self {
            VirtualSpec::Passthru { base, .. }
            | VirtualSpec::Error { base, .. }
            | VirtualSpec::Delay { base, .. } => base,
            VirtualSpec::Split(spec) => &spec.base,
        }
    }

    /// The name of the device, or, for a split, of the first part.
    pub fn name(&self) -> String {
        match self {
            VirtualSpec::Passthru { name, .. } | VirtualSpec::Delay { name, .. } => name.clone(),
            VirtualSpec::Error { base, .. } => error_device::name_over(base),
            VirtualSpec::Split(spec) => split::part_name(&spec.base, 0),
        }
    }

    /// Makes the device; returns the names of what was made.
    fn make(&self, registry: &Registry) -> Result<Vec<String>> {
        let made = match self {
            VirtualSpec::Passthru { name, base, uuid } => {
                vec![passthru::create(registry, name, base, *uuid)?]
            }
            VirtualSpec::Error { base, uuid } => vec![error_device::create(registry, base, *uuid)?],
            VirtualSpec::Delay { name, base, uuid, latencies } => {
                vec![delay::create(registry, name, base, *uuid, *latencies)?]
            }
            VirtualSpec::Split(spec) => split::create(registry, spec)?,
        };
        Ok(made.iter().map(|device| device.name().to_owned()).collect())
    }

    /// The call that makes it.
    fn config(&self) -> ConfigEntry {
        let (method, mut params, uuid) = match self {
            VirtualSpec::Passthru { name, base, uuid } => {
                ("bdev_passthru_create", json!({ "base_bdev_name": base, "name": name }), uuid)
            }
            VirtualSpec::Error { base, uuid } => {
                ("bdev_error_create", json!({ "base_name": base }), uuid)
            }
            VirtualSpec::Delay { name, base, uuid, latencies } => (
                "bdev_delay_create",
                json!({
                    "name": name,
                    "base_bdev_name": base,
                    "avg_read_latency": latencies[0],
                    "p99_read_latency": latencies[1],
                    "avg_write_latency": latencies[2],
                    "p99_write_latency": latencies[3],
                }),
                uuid,
            ),
            VirtualSpec::Split(spec) => return spec.config(),
        };
        if let Some(uuid) = uuid {
            params["uuid"] = uuid.to_string().into();
        }
        ConfigEntry { method, params }
    }
}

/// The devices that wait for a base. Cloning gives another handle.
#[derive(Clone)]
pub struct WaitingList(Rc<Inner>);

struct Inner {
    registry: Registry,
    waiting: RefCell<Vec<VirtualSpec>>,
}

impl WaitingList {
    /// An empty list.
    pub fn new(registry: &Registry) -> WaitingList {
        let inner = Rc::new(Inner { registry: registry.clone(), waiting: RefCell::default() });
        let weak = Rc::downgrade(&inner);
        registry.add_examiner(move |device| {
            let weak = Weak::clone(&weak);
            Box::pin(async move {
                if let Some(inner) = weak.upgrade() {
                    inner.appeared(device.name());
                }
            })
        });
        WaitingList(inner)
    }

    /// Makes a device now, or, when there is no base of its name, as soon as there is. Returns the names
    /// of what was made now.
    ///
    /// # Errors
    /// `Exists` when one of the same name is waiting; else whatever keeps the device from being made.
    pub fn create(&self, spec: VirtualSpec) -> Result<Vec<String>> {
        let base = self.0.registry.find(spec.base());
        if base.is_some_and(|base| base.state() == DeviceState::Online) {
            return spec.make(&self.0.registry);
        }
        let mut waiting = self.0.waiting.borrow_mut();
        let (base, name) = (spec.base(), spec.name());
        if waiting.iter().any(|other| other.name() == name) {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("'{name}' waits for its base '{base}' already"),
            ));
        }
        info!("'{name}' waits for its base '{base}'");
        waiting.push(spec);
        Ok(Vec::new())
    }

    /// Takes the device of this [name](VirtualSpec::name) off the list (all parts of a split, by that of
    /// the first). Returns whether it was on it.
    pub fn forget(&self, name: &str) -> bool {
        let mut waiting = self.0.waiting.borrow_mut();
        let before = waiting.len();
        waiting.retain(|spec| spec.name() != name);
        waiting.len() < before
    }

    /// The calls that make the devices on the list.
    pub fn config(&self) -> Vec<ConfigEntry> {
        self.0.waiting.borrow().iter().map(VirtualSpec::config).collect()
    }
}

impl Inner {
    fn appeared(&self, base: &str) {
        let ready: Vec<VirtualSpec> =
            self.waiting.borrow_mut().extract_if(.., |spec| spec.base() == base).collect();
        for spec in ready {
            if let Err(error) = spec.make(&self.registry) {
                error!("'{}' is not made over '{base}': {error}", spec.name());
            }
        }
    }
}
