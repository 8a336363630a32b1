//! The devices that are attached, by the names of their bdevs.
//!
//! Owned by the control reactor.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use serde_json::json;
use tracing::debug;

use super::device::VirtioBdev;
use super::options::VirtioOptions;
use super::session::{Notice, Session, Watcher};
use crate::base::{Error, ErrorKind, Result, Uuid, limits};
use crate::bdev::device::ConfigEntry;
use crate::bdev::registry::Registry;
use crate::reactor::{Reactors, Readiness};

/// How often a detach looks whether the bdev has gone.
const LOOK: Duration = Duration::from_millis(1);

/// All attached devices. Cloning gives another handle.
#[derive(Clone)]
pub struct Controllers(Rc<Inner>);

struct Inner {
    registry: Registry,
    reactors: Option<Reactors>,
    /// Made for the first device.
    readiness: OnceCell<Readiness>,
    /// By name; `None` while it is being attached.
    attached: RefCell<BTreeMap<String, Option<Rc<Session>>>>,
}

impl Controllers {
    /// No devices yet. `reactors` are those that do I/O.
    pub fn new(registry: &Registry, reactors: Option<Reactors>) -> Controllers {
        Controllers(Rc::new(Inner {
            registry: registry.clone(),
            reactors,
            readiness: OnceCell::new(),
            attached: RefCell::default(),
        }))
    }

    /// Attaches the device behind a socket and registers it as the bdev `name`.
    ///
    /// # Errors
    /// `Exists` when the name or the socket is taken; when there is no back end, it does not agree, or its device
    /// cannot be a bdev.
    pub async fn attach(&self, name: &str, options: VirtioOptions) -> Result<()> {
        let inner = &self.0;
        inner.check_free(name, &options)?;
        let readiness = inner.readiness()?;
        inner.attached.borrow_mut().insert(name.to_owned(), None);
        let watcher = watcher(Rc::downgrade(inner), name);
        let cx = inner.registry.context();
        let reactors = inner.reactors.clone();
        let session = match Session::attach(cx, &readiness, reactors, options, watcher).await {
            Ok(session) => session,
            Err(error) => {
                inner.attached.borrow_mut().remove(name);
                return Err(error);
            }
        };
        let url = format!("vhost-user:{}", session.options().socket.display());
        let uuid = Uuid::new_v5(&Uuid::NAMESPACE_URL, url.as_bytes());
        let description = session.description();
        let bdev = VirtioBdev::new(name, uuid, session.facts(), session.link(), description);
        if let Err(error) = inner.registry.register(bdev, Vec::new()) {
            session.detach().await;
            inner.attached.borrow_mut().remove(name);
            return Err(error);
        }
        inner.attached.borrow_mut().insert(name.to_owned(), Some(session));
        Ok(())
    }

    /// Detaches a device: its bdev goes, then its back end is left in order.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name; `Busy` when it is being attached.
    pub async fn detach(&self, name: &str) -> Result<()> {
        let found = self.0.attached.borrow().get(name).cloned();
        match found {
            None => {
                Err(Error::new(ErrorKind::NoDevice, format!("no virtio device is named '{name}'")))
            }
            Some(None) => Err(Error::new(ErrorKind::Busy, format!("'{name}' is being attached"))),
            Some(Some(session)) => {
                self.0.remove(name, &session).await;
                Ok(())
            }
        }
    }

    /// Detaches all devices.
    pub async fn detach_all(&self) {
        let names: Vec<String> = self.0.attached.borrow().keys().cloned().collect();
        for name in names {
            if let Err(error) = self.detach(&name).await {
                debug!(%error, "detach");
            }
        }
    }

    /// The calls that attach the devices again.
    pub fn config(&self) -> Vec<ConfigEntry> {
        let attached = self.0.attached.borrow();
        let entry = |(name, session): (&String, &Option<Rc<Session>>)| {
            let options = session.as_ref()?.options();
            let params = json!({
                "name": name,
                "trtype": "user",
                "traddr": options.socket.display().to_string(),
                "dev_type": "blk",
                "vq_count": options.queues,
                "vq_size": options.queue_size,
                "packed_ring": options.packed == Some(true),
                "reconnect_timeout_sec": options.reconnect.as_secs(),
            });
            Some(ConfigEntry { method: "bdev_virtio_attach_controller", params })
        };
        attached.iter().filter_map(entry).collect()
    }
}

/// What deals with a device's notices. It only starts what takes time: the device's task must be free to deal with
/// what the removal of a bdev waits for.
fn watcher(inner: Weak<Inner>, name: &str) -> Watcher {
    let name = name.to_owned();
    Box::new(move |notice| {
        let Some(inner) = inner.upgrade() else { return };
        match notice {
            Notice::Resized(blocks) => {
                if let Err(error) = inner.registry.resize(&name, blocks) {
                    debug!(%error, "resize");
                }
            }
            Notice::Lost => {
                let session = inner.attached.borrow().get(&name).cloned().flatten();
                let Some(session) = session else { return };
                let (cx, name) = (inner.registry.context().clone(), name.clone());
                cx.spawn(async move { inner.remove(&name, &session).await });
            }
        }
    })
}

impl Inner {
    fn readiness(&self) -> Result<Readiness> {
        if let Some(readiness) = self.readiness.get() {
            return Ok(readiness.clone());
        }
        let made = Readiness::new(self.registry.context())?;
        Ok(self.readiness.get_or_init(|| made).clone())
    }

    fn check_free(&self, name: &str, options: &VirtioOptions) -> Result<()> {
        if name.is_empty() || name.len() > limits::NAME_LENGTH_MAX {
            return Err(Error::invalid(format!(
                "a virtio device's name of {} bytes (1 to {} are possible)",
                name.len(),
                limits::NAME_LENGTH_MAX
            )));
        }
        let attached = self.attached.borrow();
        if attached.contains_key(name) || self.registry.find(name).is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("'{name}' is there already")));
        }
        let same = |session: &&Rc<Session>| session.options().socket == options.socket;
        match attached.values().flatten().find(same) {
            None => Ok(()),
            Some(_) => Err(Error::new(
                ErrorKind::Exists,
                format!("the back end at {} is attached already", options.socket.display()),
            )),
        }
    }

    /// Removes a device's bdev, waits until it is gone, and ends its session.
    async fn remove(&self, name: &str, session: &Rc<Session>) {
        let ours = || {
            let device = self.registry.find(name);
            device.filter(|device| {
                device.driver::<VirtioBdev>().is_some_and(|bdev| bdev.is_on(session.link()))
            })
        };
        if ours().is_some()
            && let Err(error) = self.registry.unregister(name).await
        {
            debug!(%error, "a bdev goes");
        }
        while ours().is_some() {
            self.registry.context().sleep(LOOK).await;
        }
        session.detach().await;
        let mut attached = self.attached.borrow_mut();
        let same = attached.get(name).and_then(Option::as_ref);
        if same.is_some_and(|other| Rc::ptr_eq(other, session)) {
            attached.remove(name);
        }
    }
}
