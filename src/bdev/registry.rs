//! The registry of devices: names, openers, claims and events.
//!
//! Control work only, owned by the control reactor (the process's first) and never shared between
//! threads: no locks. The I/O path never comes here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use super::device::{Bdev, Device, DeviceState};
use crate::base::{BlockCount, Error, ErrorKind, Result, Uuid, limits};
use crate::reactor::Context;

/// What an opener wants to do, and keeps others from doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Reads only; excludes nobody.
    Read,
    /// Reads and writes; other writers that do the same are welcome.
    Write,
    /// The only writer; the text names who, in SPDK's words for the module ("raid").
    Exclusive(&'static str),
}

/// What happens to an open device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The device is going away: close all channels, then drop the descriptor.
    Removing,
    /// The capacity changed.
    Resized(BlockCount),
}

type EventHandler = Rc<dyn Fn(&Event)>;
type Examination = Pin<Box<dyn Future<Output = ()>>>;
type Examiner = Rc<dyn Fn(Arc<Device>) -> Examination>;

/// One notification, as `notify_get_notifications` lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Number of the notification, from 0.
    pub id: u64,
    /// What happened: one of [`Registry::NOTIFICATION_TYPES`].
    pub kind: &'static str,
    /// The device's name.
    pub context: String,
}

/// Most notifications that are kept.
const NOTIFICATIONS_KEPT: usize = 1024;

/// How often a removal looks whether the last channel has closed.
const REMOVAL_POLL: Duration = Duration::from_micros(500);

/// All devices by name. Cloning gives another handle.
#[derive(Clone)]
pub struct Registry(Rc<Inner>);

/// A handle that does not keep the registry alive: for what the registry itself holds, such as the event
/// handlers of its devices' openers.
#[derive(Clone)]
pub struct WeakRegistry(Weak<Inner>);

impl WeakRegistry {
    /// The registry, if it is still there.
    pub fn upgrade(&self) -> Option<Registry> {
        self.0.upgrade().map(Registry)
    }
}

struct Inner {
    cx: Context,
    entries: RefCell<BTreeMap<String, Entry>>,
    order: RefCell<Vec<String>>,
    next_opener: RefCell<u64>,
    examiners: RefCell<Vec<Examiner>>,
    auto_examine: Cell<bool>,
    examinations: RefCell<usize>,
    notifications: RefCell<(u64, VecDeque<Notification>)>,
}

struct Entry {
    device: Arc<Device>,
    openers: BTreeMap<u64, Opener>,
    /// Descriptors of the base bdevs, for a virtual bdev that keeps the same ones all its life.
    #[expect(dead_code, reason = "held for their drop")]
    bases: Vec<Descriptor>,
}

struct Opener {
    claim: Claim,
    on_event: EventHandler,
}

/// The right to open channels on a device. Dropping it ends the right: close the channels first.
pub struct Descriptor {
    registry: Weak<Inner>,
    device: Arc<Device>,
    id: u64,
}

impl Descriptor {
    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade()
            && let Some(entry) = registry.entries.borrow_mut().get_mut(self.device.name())
            && Arc::ptr_eq(&entry.device, &self.device)
        {
            entry.openers.remove(&self.id);
        }
    }
}

impl Registry {
    /// The types of notifications.
    pub const NOTIFICATION_TYPES: [&'static str; 3] =
        ["bdev_register", "bdev_unregister", "bdev_resize"];

    /// An empty registry that does its control work on the reactor of `cx`.
    pub fn new(cx: &Context) -> Registry {
        Registry(Rc::new(Inner {
            cx: cx.clone(),
            entries: RefCell::default(),
            order: RefCell::default(),
            next_opener: RefCell::default(),
            examiners: RefCell::default(),
            auto_examine: Cell::new(true),
            examinations: RefCell::default(),
            notifications: RefCell::default(),
        }))
    }

    /// A handle that does not keep the registry alive.
    pub fn downgrade(&self) -> WeakRegistry {
        WeakRegistry(Rc::downgrade(&self.0))
    }

    /// The control reactor.
    pub fn context(&self) -> &Context {
        &self.0.cx
    }

    /// Gives `bdev` its place under its name, and lets the examiners look at it. `bases` are kept
    /// open for as long as it lives.
    ///
    /// # Errors
    /// `Exists` when the name, or the UUID, is taken; `Invalid` for an empty or overlong name.
    pub fn register(&self, bdev: Arc<dyn Bdev>, bases: Vec<Descriptor>) -> Result<Arc<Device>> {
        let info = bdev.info();
        let name = info.name.clone();
        if name.is_empty() || name.len() > limits::NAME_LENGTH_MAX {
            return Err(Error::invalid(format!(
                "a bdev name of {} bytes (1 to {} is possible)",
                name.len(),
                limits::NAME_LENGTH_MAX
            )));
        }
        if self.find(&name).is_some() || self.find(&info.uuid.to_string()).is_some() {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("a bdev with the name '{name}' or the UUID {} exists", info.uuid),
            ));
        }
        let device = Device::new(bdev);
        let entry = Entry { device: Arc::clone(&device), openers: BTreeMap::new(), bases };
        self.0.entries.borrow_mut().insert(name.clone(), entry);
        self.0.order.borrow_mut().push(name.clone());
        self.notify("bdev_register", &name);
        if self.0.auto_examine.get() {
            self.examine(&device);
        }
        Ok(device)
    }

    /// The device of this name or UUID.
    pub fn find(&self, name: &str) -> Option<Arc<Device>> {
        let entries = self.0.entries.borrow();
        if let Some(entry) = entries.get(name) {
            return Some(Arc::clone(&entry.device));
        }
        let uuid: Uuid = name.parse().ok()?;
        let by_uuid = entries.values().find(|entry| entry.device.info().uuid == uuid)?;
        Some(Arc::clone(&by_uuid.device))
    }

    /// The device of this name or UUID.
    ///
    /// # Errors
    /// `NoDevice` when there is none.
    pub fn get(&self, name: &str) -> Result<Arc<Device>> {
        self.find(name)
            .ok_or_else(|| Error::new(ErrorKind::NoDevice, format!("no bdev is named '{name}'")))
    }

    /// All devices, in the order of their registration.
    pub fn list(&self) -> Vec<Arc<Device>> {
        let entries = self.0.entries.borrow();
        let order = self.0.order.borrow();
        order.iter().filter_map(|name| Some(Arc::clone(&entries.get(name)?.device))).collect()
    }

    /// Who holds the exclusive claim on a device.
    pub fn claimed_by(&self, name: &str) -> Option<&'static str> {
        self.0.entries.borrow().get(name)?.openers.values().find_map(|opener| match opener.claim {
            Claim::Exclusive(owner) => Some(owner),
            Claim::Read | Claim::Write => None,
        })
    }

    /// Opens a device. `on_event` is called on the control reactor; it must be brief and must not
    /// open, close or remove devices itself (it may spawn what does).
    ///
    /// # Errors
    /// `NoDevice` when there is none or it is going away; `NotPermitted` when the claims of others
    /// exclude this one.
    pub fn open(
        &self,
        name: &str,
        claim: Claim,
        on_event: impl Fn(&Event) + 'static,
    ) -> Result<Descriptor> {
        let device = self.get(name)?;
        let name = device.name();
        if device.state() != DeviceState::Online {
            return Err(Error::new(ErrorKind::NoDevice, format!("bdev '{name}' is being removed")));
        }
        let mut entries = self.0.entries.borrow_mut();
        let entry = entries.get_mut(name).expect("found above");
        for opener in entry.openers.values() {
            let conflict = match (claim, opener.claim) {
                (Claim::Read, _) | (_, Claim::Read) | (Claim::Write, Claim::Write) => None,
                (_, Claim::Exclusive(owner)) => Some(owner),
                (Claim::Exclusive(_), Claim::Write) => Some("a writer"),
            };
            if let Some(owner) = conflict {
                return Err(Error::new(
                    ErrorKind::NotPermitted,
                    format!("bdev '{name}' is claimed by {owner}"),
                ));
            }
        }
        let mut next = self.0.next_opener.borrow_mut();
        let id = *next;
        *next += 1;
        entry.openers.insert(id, Opener { claim, on_event: Rc::new(on_event) });
        Ok(Descriptor { registry: Rc::downgrade(&self.0), device: Arc::clone(&device), id })
    }

    fn tell_openers(&self, name: &str, event: &Event) {
        // The handlers are called without a borrow, since they may look into the registry.
        let handlers: Vec<EventHandler> = match self.0.entries.borrow().get(name) {
            Some(entry) => entry.openers.values().map(|o| Rc::clone(&o.on_event)).collect(),
            None => return,
        };
        for handler in handlers {
            handler(event);
        }
    }

    /// Records a new capacity and tells the openers.
    ///
    /// # Errors
    /// `NoDevice` when there is no such device.
    pub fn resize(&self, name: &str, blocks: BlockCount) -> Result<()> {
        let device = self.get(name)?;
        if device.geometry().blocks == blocks {
            return Ok(());
        }
        device.set_blocks(blocks);
        self.notify("bdev_resize", device.name());
        self.tell_openers(device.name(), &Event::Resized(blocks));
        Ok(())
    }

    /// Removes a device: new requests are refused from now on, openers are told, and the removal
    /// completes when the last channel and the last descriptor are closed.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name; `Busy` when its removal is under way already.
    pub async fn unregister(&self, name: &str) -> Result<()> {
        let device = self.get(name)?;
        let name = device.name();
        if device.state() != DeviceState::Online {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("bdev '{name}' is being removed already"),
            ));
        }
        device.start_closing();
        self.tell_openers(name, &Event::Removing);
        let in_use = || {
            let entries = self.0.entries.borrow();
            device.open_channels() > 0
                || entries.get(name).is_some_and(|entry| !entry.openers.is_empty())
        };
        while in_use() {
            self.0.cx.sleep(REMOVAL_POLL).await;
        }
        device.bdev().close(&self.0.cx).await;
        let entry = self.0.entries.borrow_mut().remove(name);
        self.0.order.borrow_mut().retain(|other| other != name);
        // The bases' descriptors go without a borrow: their drop comes back here.
        drop(entry);
        self.notify("bdev_unregister", name);
        Ok(())
    }

    /// Lets `examiner` look at every device that is registered from now on, for labels of its own.
    pub fn add_examiner(&self, examiner: impl Fn(Arc<Device>) -> Examination + 'static) {
        self.0.examiners.borrow_mut().push(Rc::new(examiner));
    }

    /// Whether each new device is examined by itself, or only when [`Registry::examine`] is called.
    pub fn set_auto_examine(&self, on: bool) {
        self.0.auto_examine.set(on);
    }

    /// Lets the examiners look at `device` (again).
    pub fn examine(&self, device: &Arc<Device>) {
        let examiners = self.0.examiners.borrow().clone();
        for examiner in examiners {
            let inner = Rc::clone(&self.0);
            let examination = examiner(Arc::clone(device));
            *inner.examinations.borrow_mut() += 1;
            self.0.cx.spawn(async move {
                examination.await;
                *inner.examinations.borrow_mut() -= 1;
            });
        }
    }

    /// Completes when no examination is running.
    pub async fn wait_for_examine(&self) {
        while *self.0.examinations.borrow() > 0 {
            self.0.cx.sleep(REMOVAL_POLL).await;
        }
    }

    fn notify(&self, kind: &'static str, context: &str) {
        let mut notifications = self.0.notifications.borrow_mut();
        let (next, kept) = &mut *notifications;
        if kept.len() == NOTIFICATIONS_KEPT {
            kept.pop_front();
        }
        kept.push_back(Notification { id: *next, kind, context: context.into() });
        *next += 1;
    }

    /// Up to `max` notifications from number `id` on (those that are still kept).
    pub fn notifications(&self, id: u64, max: usize) -> Vec<Notification> {
        let notifications = self.0.notifications.borrow();
        notifications.1.iter().filter(|n| n.id >= id).take(max).cloned().collect()
    }
}
