//! Hot plug: drives that are given to vfio-pci are attached by themselves.
//!
//! That a drive goes away needs no help from here: its transport notices.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use serde_json::json;
use tracing::{info, warn};

use super::controllers::Controllers;
use crate::base::Result;
use crate::bdev::device::ConfigEntry;
use crate::nvme::Place;
use crate::nvme::pci::{HostPaths, PciAddress, PciEvents, VFIO_DRIVER, unattached};
use crate::reactor::Context;

/// How often drives are looked for where nothing else is said, as SPDK does.
pub const PERIOD_DEFAULT: Duration = Duration::from_millis(100);
/// How often at the least.
pub const PERIOD_MAX: Duration = Duration::from_secs(10);

/// Attaches drives that appear.
#[derive(Clone)]
pub struct Hotplug(Rc<Inner>);

struct Inner {
    controllers: Controllers,
    cx: Context,
    paths: HostPaths,
    /// How often to look; `None` when it is off.
    period: Cell<Option<Duration>>,
    running: Cell<bool>,
    /// Drives that could not be attached: not tried again before they change.
    refused: RefCell<Vec<PciAddress>>,
}

impl Hotplug {
    /// Off at first.
    pub fn new(cx: &Context, controllers: &Controllers) -> Hotplug {
        Hotplug(Rc::new(Inner {
            controllers: controllers.clone(),
            cx: cx.clone(),
            paths: HostPaths::system(),
            period: Cell::new(None),
            running: Cell::new(false),
            refused: RefCell::default(),
        }))
    }

    /// How often drives are looked for; `None` when it is off.
    pub fn period(&self) -> Option<Duration> {
        self.0.period.get()
    }

    /// The call that switches it on again, if it is on.
    pub fn config(&self) -> Option<ConfigEntry> {
        let params = json!({ "enable": true, "period_us": self.period()?.as_micros() as u64 });
        Some(ConfigEntry { method: "bdev_nvme_set_hotplug", params })
    }

    /// Switches it on, or off with `None`.
    pub fn set(&self, period: Option<Duration>) {
        let inner = &self.0;
        inner.period.set(period);
        if period.is_some() && !inner.running.replace(true) {
            let weak = Rc::downgrade(inner);
            inner.cx.spawn(async move { watch(weak).await });
        }
    }
}

async fn watch(weak: Weak<Inner>) {
    let Some(inner) = weak.upgrade() else { return };
    let mut events = PciEvents::new(inner.paths.clone());
    // Drives that were there before are attached, too.
    inner.attach_all().await;
    drop(inner);
    loop {
        let Some(inner) = weak.upgrade() else { return };
        let Some(period) = inner.period.get() else {
            inner.running.set(false);
            return;
        };
        let mut changed = false;
        while let Some(event) = events.poll() {
            inner.refused.borrow_mut().retain(|address| *address != event.address);
            changed = true;
        }
        if changed {
            inner.attach_all().await;
        }
        let sleep = inner.cx.sleep(period);
        drop(inner);
        sleep.await;
    }
}

impl Inner {
    async fn attach_all(&self) {
        let attached: Vec<String> = self
            .controllers
            .list()
            .iter()
            .map(|attached| attached.controller.transport().address().to_owned())
            .collect();
        let is_attached = |address: PciAddress| attached.contains(&address.to_string());
        for address in unattached(&self.paths, VFIO_DRIVER, is_attached) {
            if self.refused.borrow().contains(&address) {
                continue;
            }
            match self.attach(address).await {
                Ok(name) => info!(%address, name, "hot-plugged drive attached"),
                Err(error) => {
                    warn!(%error, %address, "a hot-plugged drive cannot be attached");
                    self.refused.borrow_mut().push(address);
                }
            }
        }
    }

    async fn attach(&self, address: PciAddress) -> Result<String> {
        let taken: Vec<String> =
            self.controllers.list().into_iter().map(|attached| attached.name).collect();
        let mut names = (0..).map(|number| format!("HotInNvme{number}"));
        let name = names.find(|name| !taken.contains(name)).unwrap_or_default();
        let config = ConfigEntry {
            method: "bdev_nvme_attach_controller",
            params: json!({ "name": name, "trtype": "PCIe", "traddr": address.to_string() }),
        };
        let options = self.controllers.options();
        self.controllers.attach(&name, &Place::Pcie(address), options, config).await?;
        Ok(name)
    }
}
