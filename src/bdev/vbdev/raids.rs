//! The table of raids: which exist, which wait for base bdevs, which are offline.
//!
//! A raid whose base bdevs are not all there waits (`configuring`): it claims those that are there, is
//! told of every new bdev, and is built when the last one has come. A raid that loses a base bdev
//! which it cannot do without goes `offline` and stays in the table until it is deleted; its other base
//! bdevs are free again.
//!
//! Owned by the control reactor. The table knows levels only as [`RaidKind`]s that were added to it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tracing::{error, info, warn};

use super::raid::{Raid, RaidBase, RaidKind, RaidLevel, RaidSpec, RaidState, RaidSummary};
use crate::base::{Error, ErrorKind, Result, limits};
use crate::bdev::{Claim, ConfigEntry, Descriptor, Device, DeviceState, Event, Registry};

/// Who claims the base bdevs of a raid.
pub const RAID_CLAIM: Claim = Claim::Exclusive("raid");

/// The table of raids. Cloning gives another handle.
#[derive(Clone)]
pub struct Raids(Rc<Table>);

struct Table {
    registry: Registry,
    kinds: RefCell<BTreeMap<RaidLevel, Rc<dyn RaidKind>>>,
    entries: RefCell<Vec<Entry>>,
}

struct Entry {
    name: String,
    stage: Stage,
}

enum Stage {
    /// Waits for base bdevs.
    Configuring { spec: RaidSpec, slots: Vec<Slot> },
    /// All base bdevs are there and the device is being made.
    Creating(RaidSpec),
    /// Built. Whether it is online or offline, the registry knows.
    Built(Rc<dyn Raid>),
    /// Could not be built when its base bdevs had come.
    Failed(RaidSpec),
}

struct Slot {
    name: Option<String>,
    claim: Option<Descriptor>,
}

impl Stage {
    fn summary(&self, registry: &Registry) -> RaidSummary {
        let missing = |spec: &RaidSpec, state| {
            let bases = spec.base_bdevs.iter().map(|name| RaidBase::missing(Some(name.clone())));
            RaidSummary::new(spec, state, bases.collect())
        };
        match self {
            Stage::Configuring { spec, slots } => {
                let bases = slots.iter().map(|slot| match &slot.claim {
                    Some(claim) => {
                        RaidBase::configured(claim.device(), 0, claim.device().geometry().blocks.0)
                    }
                    None => RaidBase::missing(slot.name.clone()),
                });
                RaidSummary::new(spec, RaidState::Configuring, bases.collect())
            }
            Stage::Creating(spec) => missing(spec, RaidState::Configuring),
            Stage::Failed(spec) => missing(spec, RaidState::Offline),
            Stage::Built(raid) => {
                let mut summary = raid.summary();
                let serves = registry
                    .find(&summary.name)
                    .is_some_and(|device| device.state() == DeviceState::Online);
                if summary.info.state == RaidState::Online && !serves {
                    summary.info.state = RaidState::Offline;
                    summary.info.num_base_bdevs_discovered = 0;
                    for base in &mut summary.info.base_bdevs_list {
                        base.is_configured = false;
                    }
                }
                summary
            }
        }
    }
}

fn no_such_raid(name: &str) -> Error {
    Error::new(ErrorKind::NoDevice, format!("no raid is named '{name}'"))
}

fn is_named(device: &Device, name: &str) -> bool {
    device.name() == name
        || name.parse().is_ok_and(|uuid: crate::base::Uuid| uuid == device.info().uuid)
}

impl Raids {
    /// An empty table that knows no level yet.
    pub fn new(registry: &Registry) -> Raids {
        let table = Rc::new(Table {
            registry: registry.clone(),
            kinds: RefCell::default(),
            entries: RefCell::default(),
        });
        let weak = Rc::downgrade(&table);
        registry.add_examiner(move |device| {
            let weak = Weak::clone(&weak);
            Box::pin(async move {
                if let Some(table) = weak.upgrade() {
                    Raids(table).appeared(&device).await;
                }
            })
        });
        Raids(table)
    }

    /// Lets the table make raids of another level.
    pub fn add_kind(&self, kind: Rc<dyn RaidKind>) {
        self.0.kinds.borrow_mut().insert(kind.level(), kind);
    }

    fn kind(&self, level: RaidLevel) -> Result<Rc<dyn RaidKind>> {
        self.0.kinds.borrow().get(&level).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("{} is not built in", level.name()))
        })
    }

    /// Makes a raid; when base bdevs are missing, it waits for them.
    ///
    /// # Errors
    /// `Invalid` for a specification that cannot be met; `Exists` when the name is taken; whatever keeps
    /// a base bdev from being claimed, or the device from being made.
    pub async fn create(&self, spec: RaidSpec) -> Result<()> {
        self.check(&spec)?;
        let name = spec.name.clone();
        let slots: Vec<Slot> = spec
            .base_bdevs
            .iter()
            .map(|base| Slot { name: Some(base.clone()), claim: None })
            .collect();
        let bases = spec.base_bdevs.clone();
        self.0
            .entries
            .borrow_mut()
            .push(Entry { name: name.clone(), stage: Stage::Configuring { spec, slots } });
        for base in &bases {
            match self.claim(&name, base) {
                Ok(()) => (),
                Err(error) if error.kind() == ErrorKind::NoDevice => {
                    info!("raid '{name}' waits for base bdev '{base}'");
                }
                Err(error) => {
                    self.forget(&name);
                    return Err(error.context(format_args!("create raid '{name}'")));
                }
            }
        }
        let made = self.build_if_complete(&name).await;
        if made.is_err() {
            self.forget(&name);
        }
        made
    }

    fn check(&self, spec: &RaidSpec) -> Result<()> {
        let name = &spec.name;
        let invalid = |what: String| Err(Error::invalid(format!("raid '{name}': {what}")));
        if name.is_empty() || name.len() > limits::NAME_LENGTH_MAX {
            return invalid(format!("a name of 1 to {} bytes is needed", limits::NAME_LENGTH_MAX));
        }
        let count = spec.base_bdevs.len();
        if count == 0 || count > limits::CHILDREN_MAX {
            return invalid(format!(
                "{count} base bdevs (1 to {} are possible)",
                limits::CHILDREN_MAX
            ));
        }
        for (index, base) in spec.base_bdevs.iter().enumerate() {
            if base.is_empty() {
                return invalid("the name of a base bdev is empty".into());
            }
            if spec.base_bdevs[..index].contains(base) {
                return invalid(format!("base bdev '{base}' is named twice"));
            }
        }
        self.kind(spec.level)?.check(spec)?;
        if self.position(name).is_some() || self.0.registry.find(name).is_some() {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("a raid or bdev named '{name}' exists"),
            ));
        }
        Ok(())
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.0.entries.borrow().iter().position(|entry| entry.name == name)
    }

    /// Takes the entry out, and with it its claims (without a borrow: their drop looks into the
    /// registry only, but costs nothing to keep apart).
    fn forget(&self, name: &str) {
        let position = self.position(name);
        let entry = position.map(|position| self.0.entries.borrow_mut().remove(position));
        drop(entry);
    }

    /// Claims a base bdev for a raid that waits for it.
    fn claim(&self, raid: &str, base: &str) -> Result<()> {
        let weak = Rc::downgrade(&self.0);
        let context = self.0.registry.context().clone();
        let (raid_name, base_name) = (raid.to_owned(), base.to_owned());
        let descriptor = self.0.registry.open(base, RAID_CLAIM, move |event| {
            if *event == Event::Removing {
                let (weak, raid, base) = (Weak::clone(&weak), raid_name.clone(), base_name.clone());
                context.spawn(async move {
                    if let Some(table) = weak.upgrade() {
                        Raids(table).release(&raid, &base);
                    }
                });
            }
        })?;
        let mut entries = self.0.entries.borrow_mut();
        let entry = entries.iter_mut().find(|entry| entry.name == raid);
        if let Some(Entry { stage: Stage::Configuring { slots, .. }, .. }) = entry
            && let Some(slot) = slots.iter_mut().find(|slot| slot.name.as_deref() == Some(base))
        {
            slot.claim = Some(descriptor);
        }
        Ok(())
    }

    /// A base bdev that a waiting raid had claimed goes away.
    fn release(&self, raid: &str, base: &str) {
        let mut entries = self.0.entries.borrow_mut();
        let entry = entries.iter_mut().find(|entry| entry.name == raid);
        let claim = match entry {
            Some(Entry { stage: Stage::Configuring { slots, .. }, .. }) => slots
                .iter_mut()
                .find(|slot| slot.name.as_deref() == Some(base))
                .and_then(|slot| slot.claim.take()),
            _ => None,
        };
        drop(entries);
        drop(claim);
    }

    /// Builds the raid when it has all its base bdevs.
    async fn build_if_complete(&self, name: &str) -> Result<()> {
        let spec = {
            let mut entries = self.0.entries.borrow_mut();
            let Some(entry) = entries.iter_mut().find(|entry| entry.name == name) else {
                return Ok(());
            };
            let Stage::Configuring { spec, slots } = &entry.stage else { return Ok(()) };
            if slots.iter().any(|slot| slot.claim.is_none()) {
                return Ok(());
            }
            let mut spec = spec.clone();
            spec.base_bdevs = slots.iter().filter_map(|slot| slot.name.clone()).collect();
            let claims = std::mem::replace(&mut entry.stage, Stage::Creating(spec.clone()));
            drop(entries);
            drop(claims);
            spec
        };
        let result = match self.kind(spec.level) {
            Ok(kind) => kind.create(self.0.registry.clone(), spec.clone()).await,
            Err(error) => Err(error),
        };
        let (stage, result) = match result {
            Ok(raid) => (Stage::Built(raid), Ok(())),
            Err(error) => (Stage::Failed(spec), Err(error)),
        };
        if let Some(entry) = self.0.entries.borrow_mut().iter_mut().find(|entry| entry.name == name)
        {
            entry.stage = stage;
        }
        result
    }

    /// A bdev was registered: perhaps a raid waits for it.
    async fn appeared(&self, device: &Arc<Device>) {
        let waiting = self.0.entries.borrow().iter().find_map(|entry| match &entry.stage {
            Stage::Configuring { slots, .. } => slots
                .iter()
                .filter(|slot| slot.claim.is_none())
                .filter_map(|slot| slot.name.as_deref())
                .find(|name| is_named(device, name))
                .map(|base| (entry.name.clone(), base.to_owned())),
            _ => None,
        });
        let Some((raid, base)) = waiting else { return };
        if let Err(error) = self.claim(&raid, &base) {
            warn!("raid '{raid}' goes on waiting for base bdev '{base}': {error}");
            return;
        }
        match self.build_if_complete(&raid).await {
            Ok(()) => (),
            Err(error) => error!("raid '{raid}' is offline: {error}"),
        }
    }

    /// Puts a raid into the table that was found by the labels of its base bdevs.
    ///
    /// # Errors
    /// `Exists` when a raid of this name is there.
    pub fn adopt(&self, raid: Rc<dyn Raid>) -> Result<()> {
        let name = raid.summary().name;
        if self.position(&name).is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("a raid named '{name}' exists")));
        }
        self.0.entries.borrow_mut().push(Entry { name, stage: Stage::Built(raid) });
        Ok(())
    }

    /// All raids in `state`, or all there are.
    pub fn list(&self, state: Option<RaidState>) -> Vec<RaidSummary> {
        let entries = self.0.entries.borrow();
        let all = entries.iter().map(|entry| entry.stage.summary(&self.0.registry));
        all.filter(|summary| state.is_none_or(|state| summary.info.state == state)).collect()
    }

    /// The calls that make the raids again that are not registered as bdevs (those that are say so
    /// themselves).
    pub fn config(&self) -> Vec<ConfigEntry> {
        let entries = self.0.entries.borrow();
        let specs = entries.iter().filter_map(|entry| match &entry.stage {
            Stage::Configuring { spec, .. } | Stage::Creating(spec) => Some(spec),
            Stage::Built(_) | Stage::Failed(_) => None,
        });
        specs.flat_map(RaidSpec::config).collect()
    }

    fn built(&self, name: &str) -> Option<Rc<dyn Raid>> {
        self.0.entries.borrow().iter().find_map(|entry| match &entry.stage {
            Stage::Built(raid) if entry.name == name => Some(Rc::clone(raid)),
            _ => None,
        })
    }

    async fn unregister(&self, name: &str) -> Result<()> {
        match self.0.registry.unregister(name).await {
            Err(error) if error.kind() == ErrorKind::NoDevice => Ok(()),
            result => result,
        }
    }

    /// Deletes a raid, whatever its state.
    ///
    /// # Errors
    /// `NoDevice` when there is none of this name; `Busy` while it is being made or deleted.
    pub async fn delete(&self, name: &str, clear_superblock: bool) -> Result<()> {
        let Some(position) = self.position(name) else { return Err(no_such_raid(name)) };
        if let Stage::Creating(_) = self.0.entries.borrow()[position].stage {
            return Err(Error::new(ErrorKind::Busy, format!("raid '{name}' is being created")));
        }
        let Some(raid) = self.built(name) else {
            self.forget(name);
            return Ok(());
        };
        self.unregister(name).await?;
        self.forget(name);
        raid.deleted(clear_superblock).await
    }

    /// Adds a base bdev to an empty slot of a raid.
    ///
    /// # Errors
    /// `NoDevice` when there is no such raid or base bdev; `Unsupported` when the level has no empty
    /// slots; `Busy` while the raid is being made; whatever the level says.
    pub async fn add_base(&self, raid: &str, base: &str) -> Result<()> {
        if let Some(built) = self.built(raid) {
            return built.add_base(base).await;
        }
        {
            let mut entries = self.0.entries.borrow_mut();
            let Some(entry) = entries.iter_mut().find(|entry| entry.name == raid) else {
                return Err(no_such_raid(raid));
            };
            let Stage::Configuring { slots, .. } = &mut entry.stage else {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("raid '{raid}' is neither online nor waiting for base bdevs"),
                ));
            };
            self.0.registry.get(base)?;
            let Some(slot) = slots.iter_mut().find(|slot| slot.name.is_none()) else {
                return Err(Error::invalid(format!("raid '{raid}' has no empty slot")));
            };
            slot.name = Some(base.into());
        }
        if let Err(error) = self.claim(raid, base) {
            self.empty_slot(raid, base);
            return Err(error);
        }
        self.build_if_complete(raid).await
    }

    /// Empties the slot of a base bdev in a raid that waits. Returns whether there was one.
    fn empty_slot(&self, raid: &str, base: &str) -> bool {
        self.release(raid, base);
        let mut entries = self.0.entries.borrow_mut();
        let entry = entries.iter_mut().find(|entry| entry.name == raid);
        if let Some(Entry { stage: Stage::Configuring { slots, .. }, .. }) = entry
            && let Some(slot) = slots.iter_mut().find(|slot| slot.name.as_deref() == Some(base))
        {
            slot.name = None;
            return true;
        }
        false
    }

    /// Takes a base bdev out of the raid that it belongs to. A raid that cannot do without it goes
    /// offline.
    ///
    /// # Errors
    /// `NoDevice` when no raid has this base bdev; whatever the level says.
    pub async fn remove_base(&self, base: &str) -> Result<()> {
        let owner = self.list(None).into_iter().find(|summary| {
            summary.info.base_bdevs_list.iter().any(|slot| slot.name.as_deref() == Some(base))
        });
        let Some(raid) = owner.map(|summary| summary.name) else {
            return Err(Error::new(
                ErrorKind::NoDevice,
                format!("bdev '{base}' is not a base bdev of any raid"),
            ));
        };
        if let Some(built) = self.built(&raid) {
            if !built.remove_base(base).await? {
                warn!("raid '{raid}' goes offline: its base bdev '{base}' is removed");
                self.unregister(&raid).await?;
            }
            return Ok(());
        }
        if self.empty_slot(&raid, base) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Busy, format!("raid '{raid}' is being created")))
    }
}
