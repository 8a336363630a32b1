//! The controllers that are attached, by name, and the bdevs of their namespaces.
//!
//! Owned by the control reactor. A namespace of controller `Nvme0` is the bdev `Nvme0n1`, `Nvme0n2`, …; bdevs
//! come, go and change size with their namespaces.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tracing::{debug, warn};

use super::namespace::NvmeBdev;
use crate::base::{Error, ErrorKind, Result, limits};
use crate::bdev::device::ConfigEntry;
use crate::bdev::registry::Registry;
use crate::nvme::vfio::VfioOptions;
use crate::nvme::{
    Controller, ControllerOptions, Namespace, Notice, Place, State, Transport, Watcher,
};
use crate::reactor::Reactors;

/// How often a detach looks whether the bdevs have gone.
const LOOK: Duration = Duration::from_millis(1);

/// Longest name of a controller, in bytes: with the namespace's number it is a bdev's name.
const NAME_MAX: usize = limits::NAME_LENGTH_MAX - 11;

/// An attached controller.
#[derive(Clone)]
pub struct Attached {
    /// Its name.
    pub name: String,
    /// The controller.
    pub controller: Rc<Controller>,
    /// The call that attaches it, for the saved configuration.
    pub config: ConfigEntry,
}

/// All controllers. Cloning gives another handle.
#[derive(Clone)]
pub struct Controllers(Rc<Inner>);

struct Inner {
    registry: Registry,
    reactors: Option<Reactors>,
    /// By name; `None` while it is being attached.
    attached: RefCell<BTreeMap<String, Option<Attached>>>,
    options: RefCell<ControllerOptions>,
    vfio: VfioOptions,
}

impl Controllers {
    /// No controllers yet. `reactors` are those that do I/O.
    pub fn new(registry: &Registry, reactors: Option<Reactors>, vfio: VfioOptions) -> Controllers {
        Controllers(Rc::new(Inner {
            registry: registry.clone(),
            reactors,
            attached: RefCell::default(),
            options: RefCell::default(),
            vfio,
        }))
    }

    /// How controllers are driven that are attached from now on.
    pub fn options(&self) -> ControllerOptions {
        self.0.options.borrow().clone()
    }

    /// Changes that, and the time-outs of those that are attached.
    pub fn set_options(&self, options: ControllerOptions) {
        for attached in self.list() {
            attached.controller.set_timeouts(&options);
        }
        *self.0.options.borrow_mut() = options;
    }

    /// Attaches the controller at `place` as `name` and registers its namespaces. Returns the bdevs' names.
    ///
    /// # Errors
    /// `Exists` when the name or the device is taken; otherwise as [`Place::open`] and [`Controller::attach`].
    pub async fn attach(
        &self,
        name: &str,
        place: &Place,
        options: ControllerOptions,
        config: ConfigEntry,
    ) -> Result<Vec<String>> {
        self.check_free(name, &place.to_string())?;
        let transport = place.open(self.0.registry.context(), self.0.vfio).await?;
        self.attach_transport(name, transport, options, config).await
    }

    fn check_free(&self, name: &str, address: &str) -> Result<()> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Error::invalid(format!(
                "an NVMe controller's name of {} bytes (1 to {NAME_MAX} are possible)",
                name.len()
            )));
        }
        if self.0.attached.borrow().contains_key(name) {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("an NVMe controller is named '{name}' already"),
            ));
        }
        let same = |other: &&Attached| other.controller.transport().address() == address;
        match self.list().iter().find(same) {
            None => Ok(()),
            Some(other) => Err(Error::new(
                ErrorKind::Exists,
                format!("{address} is attached already, as '{}'", other.name),
            )),
        }
    }

    /// As [`Controllers::attach`], over a transport that is open.
    ///
    /// # Errors
    /// As [`Controllers::attach`].
    pub async fn attach_transport(
        &self,
        name: &str,
        transport: Arc<dyn Transport>,
        options: ControllerOptions,
        config: ConfigEntry,
    ) -> Result<Vec<String>> {
        self.check_free(name, transport.address())?;
        let inner = &self.0;
        inner.attached.borrow_mut().insert(name.to_owned(), None);
        let watcher = watcher(Rc::downgrade(inner), name);
        let cx = inner.registry.context();
        let attach = Controller::attach(cx, inner.reactors.clone(), transport, options, watcher);
        let controller = match attach.await {
            Ok(controller) => controller,
            Err(error) => {
                inner.attached.borrow_mut().remove(name);
                return Err(error);
            }
        };
        let attached = Attached { name: name.to_owned(), controller, config };
        inner.attached.borrow_mut().insert(name.to_owned(), Some(attached.clone()));
        let namespaces = attached.controller.namespaces();
        let names = namespaces.iter().filter_map(|namespace| inner.add(&attached, namespace));
        Ok(names.collect())
    }

    /// Detaches a controller: its bdevs go, then it is shut down.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name.
    pub async fn detach(&self, name: &str) -> Result<()> {
        let attached = self.get(name)?;
        self.0.remove_bdevs(&attached).await;
        // When it is gone already, it goes by itself.
        let detached = attached.controller.request_detach().await;
        if let Err(error) = detached {
            debug!(%error, "detach");
        }
        self.0.attached.borrow_mut().remove(name);
        Ok(())
    }

    /// Detaches all controllers.
    pub async fn detach_all(&self) {
        for attached in self.list() {
            if let Err(error) = self.detach(&attached.name).await {
                warn!(%error, "detach");
            }
        }
    }

    /// The controller of this name.
    ///
    /// # Errors
    /// `NoDevice` when there is none.
    pub fn get(&self, name: &str) -> Result<Attached> {
        self.0.attached.borrow().get(name).cloned().flatten().ok_or_else(|| {
            Error::new(ErrorKind::NoDevice, format!("no NVMe controller is named '{name}'"))
        })
    }

    /// The calls that bring back the options and the controllers.
    pub fn config(&self) -> Vec<ConfigEntry> {
        let mut entries = Vec::new();
        let options = self.options();
        if options != ControllerOptions::default() {
            let micros = |duration: Duration| duration.as_micros() as u64;
            let params = json!({
                "action_on_timeout": options.timeout_action.name(),
                "timeout_us": micros(options.timeout),
                "timeout_admin_us": micros(options.admin_timeout),
                "nvme_adminq_poll_period_us": micros(options.admin_poll_period),
                "bdev_retry_count": options.retries,
                "io_queue_requests": options.io_queue_size,
            });
            entries.push(ConfigEntry { method: "bdev_nvme_set_options", params });
        }
        entries.extend(self.list().into_iter().map(|attached| attached.config));
        entries
    }

    /// All controllers, by name.
    pub fn list(&self) -> Vec<Attached> {
        self.0.attached.borrow().values().flatten().cloned().collect()
    }
}

/// What deals with the controller's notices. It only starts what takes time: the controller's task must be
/// free to deal with what the removal of a bdev waits for.
fn watcher(inner: Weak<Inner>, name: &str) -> Watcher {
    let name = name.to_owned();
    Rc::new(move |notice| {
        let found = inner.upgrade().and_then(|inner| {
            let attached = inner.attached.borrow().get(&name).cloned().flatten()?;
            Some((inner, attached))
        });
        // While it is being attached, whoever attaches it looks at the namespaces afterwards.
        if let Some((inner, attached)) = found {
            inner.take_notice(attached, notice);
        }
        Box::pin(std::future::ready(()))
    })
}

impl Inner {
    fn take_notice(self: Rc<Self>, attached: Attached, notice: Notice) {
        match notice {
            Notice::Added(namespace) => {
                self.add(&attached, &namespace);
            }
            Notice::Removed(namespace) => {
                let name = bdev_name(&attached.name, &namespace);
                let cx = self.registry.context().clone();
                cx.spawn(async move { self.remove(&name).await });
            }
            Notice::Resized(namespace) => {
                let name = bdev_name(&attached.name, &namespace);
                if let Err(error) = self.registry.resize(&name, namespace.geometry.blocks) {
                    warn!(%error, "resize");
                }
            }
            Notice::State(State::Removed) => {
                let cx = self.registry.context().clone();
                cx.spawn(async move {
                    self.remove_bdevs(&attached).await;
                    // It ends its task; there is nothing else left of it.
                    if attached.controller.request_detach().await.is_ok() {
                        self.attached.borrow_mut().remove(&attached.name);
                    }
                });
            }
            Notice::State(state) => debug!(name = attached.name, ?state, "NVMe controller"),
        }
    }

    fn add(&self, attached: &Attached, namespace: &Arc<Namespace>) -> Option<String> {
        let name = bdev_name(&attached.name, namespace);
        let bdev = NvmeBdev::new(&name, &attached.controller, namespace);
        match self.registry.register(bdev, Vec::new()) {
            Ok(_) => Some(name),
            Err(error) => {
                warn!(%error, "a namespace has no bdev");
                None
            }
        }
    }

    async fn remove(&self, name: &str) {
        if let Err(error) = self.registry.unregister(name).await {
            debug!(%error, "a bdev goes");
        }
    }

    /// Removes the bdevs of a controller, and waits until they are gone.
    async fn remove_bdevs(&self, attached: &Attached) {
        let address = attached.controller.transport().address().to_owned();
        let of_controller = || -> Vec<String> {
            let devices = self.registry.list();
            let own = devices.iter().filter(|device| {
                device.driver::<NvmeBdev>().is_some_and(|bdev| bdev.controller() == address)
            });
            own.map(|device| device.name().to_owned()).collect()
        };
        for name in of_controller() {
            self.remove(&name).await;
        }
        while !of_controller().is_empty() {
            self.registry.context().sleep(LOOK).await;
        }
    }
}

fn bdev_name(controller: &str, namespace: &Namespace) -> String {
    format!("{controller}n{}", namespace.nsid)
}
