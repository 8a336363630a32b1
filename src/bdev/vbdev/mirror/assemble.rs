//! Finding mirrors by the labels on their legs.
//!
//! A mirror is started as soon as it is certain that what is there is current. The label with the highest event among
//! those found says which legs were in sync then. A later event can only have been recorded on one of
//! these, so:
//!
//! - when all of them are there, there is no later event, and the mirror starts. Legs that were not in sync
//!   join it and are brought up to date, now or when they appear.
//! - when one of them is not there, it may be the one that went on without the others. The mirror waits
//!   (`configuring`) until it appears, or until an operator says that it will not come, by removing it
//!   (`bdev_raid_remove_base_bdev`, under the name that it had).
//!
//! A leg whose event count is behind is never believed, whatever its label says of itself: it is brought up to date, from
//! the map if it is known how it came to be behind, completely otherwise. Two devices that
//! carry the same leg's label (a clone) are both left alone.
//!
//! After that, regions whose intent bit is set on any leg may differ: see `rebuild` for how they are made equal.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tracing::{error, info, warn};

use super::control::{Command, Control};
use super::leg_io::LegIo;
use super::metadata;
use super::options::RaidOptions;
use super::raid::{Built, MirrorRaid, OpenLeg, open_with_hook, register, wipe};
use super::shared::lock;
use crate::base::{BlockCount, Error, ErrorKind, Result, Uuid};
use crate::bdev::intent::IntentMap;
use crate::bdev::label::{Label, MemberState};
use crate::bdev::vbdev::raid::{
    Raid, RaidBase, RaidFuture, RaidLevel, RaidSpec, RaidState, RaidSummary,
};
use crate::bdev::vbdev::raids::Raids;
use crate::bdev::{Claim, Device, Event, Registry, WeakRegistry};
use crate::reactor::Context;

/// Mirrors that run, and mirrors that wait for legs, by the UUID of the set.
pub(super) struct Assemblies {
    registry: WeakRegistry,
    cx: Context,
    raids: Raids,
    options: Rc<Cell<RaidOptions>>,
    running: RefCell<Vec<Weak<Control>>>,
    waiting: RefCell<Vec<Rc<Waiting>>>,
}

/// A leg that was found.
struct Found {
    name: String,
    label: Label,
    copy: usize,
    leg: OpenLeg,
}

/// A mirror that waits for legs.
struct Waiting {
    set: Uuid,
    found: RefCell<Vec<Found>>,
    /// Places whose leg will not come, by the word of an operator.
    given_up: RefCell<Vec<usize>>,
    starting: Cell<bool>,
    started: RefCell<Option<Rc<MirrorRaid>>>,
}

impl Assemblies {
    pub fn start(
        registry: &Registry,
        raids: &Raids,
        options: &Rc<Cell<RaidOptions>>,
    ) -> Rc<Assemblies> {
        let assemblies = Rc::new(Assemblies {
            registry: registry.downgrade(),
            cx: registry.context().clone(),
            raids: raids.clone(),
            options: Rc::clone(options),
            running: RefCell::default(),
            waiting: RefCell::default(),
        });
        let weak = Rc::downgrade(&assemblies);
        registry.add_examiner(move |device| {
            let weak = Weak::clone(&weak);
            Box::pin(async move {
                if let Some(assemblies) = weak.upgrade() {
                    assemblies.examine(&device).await;
                }
            })
        });
        assemblies
    }

    /// A mirror runs: legs of it that appear are its own to take back.
    pub fn started(&self, control: &Rc<Control>) {
        let mut running = self.running.borrow_mut();
        running.retain(|control| control.upgrade().is_some_and(|c| !c.shared.is_stopped()));
        running.push(Rc::downgrade(control));
    }

    fn running(&self, set: Uuid) -> Option<Rc<Control>> {
        let running = self.running.borrow();
        let mut live = running.iter().filter_map(Weak::upgrade);
        live.find(|control| control.set == set && !control.shared.is_stopping())
    }

    async fn examine(self: &Rc<Self>, device: &Arc<Device>) {
        let Some(registry) = self.registry.upgrade() else { return };
        let name = device.name();
        let (label, copy) = match self.look(&registry, name).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => {
                warn!(bdev = name, %error, "not usable as a leg of a mirror");
                return;
            }
        };
        if let Some(control) = self.running(label.set) {
            self.come_back(&control, name, &label).await;
            return;
        }
        if let Err(error) = self.found(&registry, name, label, copy).await {
            error!(bdev = name, %error, "cannot be taken into its mirror");
        }
    }

    /// The label of a bdev, if it carries one of a mirror.
    async fn look(&self, registry: &Registry, name: &str) -> Result<Option<(Label, usize)>> {
        if registry.claimed_by(name).is_some() {
            return Ok(None);
        }
        let descriptor = registry.open(name, Claim::Read, |_: &Event| ())?;
        let io = LegIo::open(descriptor.device(), &self.cx)?;
        let found = metadata::read_label(&io).await;
        let geometry = io.geometry();
        drop(io);
        drop(descriptor);
        let (label, copy) = match found {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if label.kind != metadata::KIND {
            return Ok(None);
        }
        metadata::layout_of(&label)?;
        let end = label.geometry.blocks.0 + (label.places.data >> geometry.block_size.shift());
        if geometry.block_size != label.geometry.block_size || geometry.blocks < BlockCount(end) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the label is of a device with other or more blocks",
            ));
        }
        Ok(Some((label, copy)))
    }

    /// A leg of a mirror that runs has appeared.
    async fn come_back(&self, control: &Rc<Control>, name: &str, label: &Label) {
        let own = label.own_member().uuid;
        let is_awaited = control
            .places
            .borrow()
            .iter()
            .any(|place| place.member.uuid == own && place.attached.is_none());
        if !is_awaited {
            warn!(bdev = name, mirror = label.name, "is no leg that the mirror waits for");
            return;
        }
        let (reply, receiver) = futures_channel::oneshot::channel();
        control.command(Command::Add(name.to_owned(), reply));
        if let Ok(Err(error)) = receiver.await {
            warn!(bdev = name, mirror = label.name, %error, "does not come back");
        }
    }

    async fn found(
        self: &Rc<Self>,
        registry: &Registry,
        name: &str,
        label: Label,
        copy: usize,
    ) -> Result<()> {
        let set = label.set;
        let leg = open_with_hook(registry, name)?;
        let waiting = self.waiting.borrow().iter().find(|waiting| waiting.set == set).cloned();
        let waiting = match waiting {
            Some(waiting) => waiting,
            None => {
                let waiting = Rc::new(Waiting {
                    set,
                    found: RefCell::default(),
                    given_up: RefCell::default(),
                    starting: Cell::new(false),
                    started: RefCell::default(),
                });
                self.waiting.borrow_mut().push(Rc::clone(&waiting));
                waiting
            }
        };
        {
            let (weak, name) = (Rc::downgrade(&waiting), name.to_owned());
            let cx = self.cx.clone();
            *leg.hook.borrow_mut() = Some(Box::new(move || {
                let (weak, name) = (Weak::clone(&weak), name.clone());
                // The descriptor is dropped outside of the event's call.
                cx.spawn(async move {
                    if let Some(waiting) = weak.upgrade()
                        && !waiting.starting.get()
                    {
                        let gone = waiting.take(&name);
                        drop(gone);
                    }
                });
            }));
        }
        let is_first = waiting.found.borrow().is_empty();
        waiting.found.borrow_mut().push(Found { name: name.to_owned(), label, copy, leg });
        if is_first && waiting.started.borrow().is_none() {
            let raid =
                AssemblingRaid { assemblies: Rc::downgrade(self), waiting: Rc::clone(&waiting) };
            if let Err(error) = self.raids.adopt(Rc::new(raid))
                && error.kind() != ErrorKind::Exists
            {
                warn!(bdev = name, %error, "a mirror cannot be listed");
            }
        }
        self.start_if_certain(&waiting).await
    }

    /// Starts the mirror if what was found is certain to be current.
    async fn start_if_certain(self: &Rc<Self>, waiting: &Rc<Waiting>) -> Result<()> {
        if waiting.starting.get() {
            return Ok(());
        }
        let Some(newest) = waiting.newest() else { return Ok(()) };
        let missing = waiting.missing(&newest)?;
        if !missing.is_empty() {
            info!(mirror = newest.name, ?missing, "waits for legs that may know more");
            return Ok(());
        }
        let Some(registry) = self.registry.upgrade() else { return Ok(()) };
        waiting.starting.set(true);
        let result = self.assemble(&registry, waiting, newest).await;
        waiting.starting.set(false);
        let (control, mut late) = result?;
        *waiting.started.borrow_mut() = Some(Rc::new(MirrorRaid::running(Rc::clone(&control))));
        self.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, waiting));
        self.started(&control);
        // Those that appeared while it was being assembled; their claims are dropped.
        late.extend(waiting.found.take().into_iter().map(|found| found.name));
        for name in late {
            let (reply, receiver) = futures_channel::oneshot::channel();
            control.command(Command::Add(name.clone(), reply));
            if let Ok(Err(error)) = receiver.await {
                warn!(bdev = name, mirror = control.spec.name, %error, "does not come back");
            }
        }
        Ok(())
    }

    /// Starts the mirror that `newest` describes. Returns it, and the legs that are to join it.
    async fn assemble(
        &self,
        registry: &Registry,
        waiting: &Waiting,
        newest: Label,
    ) -> Result<(Rc<Control>, Vec<String>)> {
        let spec = RaidSpec {
            name: newest.name.clone(),
            uuid: newest.set,
            level: RaidLevel::Raid1,
            strip_size_kb: 0,
            base_bdevs: newest.members.iter().map(|member| member.name.clone()).collect(),
            superblock: true,
        };
        let (places, event) = (newest.places, newest.event);
        let options = self.options.get();
        let mut built = Built::new(registry, spec, newest.geometry, Some(places), options, event)?;
        let mut map = IntentMap::new(built.layout, newest.set, true);
        let mut found = std::mem::take(&mut *waiting.found.borrow_mut());
        let mut in_sync = 0;
        for mut member in newest.members {
            let position =
                found.iter().position(|found| found.label.own_member().uuid == member.uuid);
            let own_event = position.map(|position| found[position].label.event);
            if member.state == MemberState::InSync && own_event.is_some_and(|own| own + 1 == event)
            {
                // The crash came while this event was being recorded: all that the leg can lack is in the map.
                // (An image from before the last start is two events behind: see below.)
                member.last_event = event - 1;
            }
            let position = position
                .filter(|_| member.state == MemberState::InSync && own_event == Some(event));
            let leg = match position {
                Some(position) => {
                    let Found { name, copy, leg, .. } = found.swap_remove(position);
                    let io = Rc::new(LegIo::open(leg.descriptor.device(), &self.cx)?);
                    let unknown = metadata::load_map(&io, places, newest.set, &mut map).await;
                    if unknown > 0 {
                        warn!(
                            mirror = newest.name,
                            leg = name,
                            unknown,
                            "pages of its map are lost"
                        );
                    }
                    in_sync += 1;
                    Some((leg, io, copy))
                }
                None => {
                    // Every round ends with its daemon, and starts over.
                    member.state = match member.state {
                        MemberState::InSync | MemberState::SyncingDelta | MemberState::Stale => {
                            MemberState::Stale
                        }
                        MemberState::SyncingFull | MemberState::Absent => MemberState::Absent,
                    };
                    None
                }
            };
            built.legs.push((member, leg));
        }
        let dirty: u32 = map.intent().iter().map(|word| word.count_ones()).sum();
        let unresolved = in_sync > 1 && dirty > 0;
        let control = built.control(map, unresolved)?;
        info!(mirror = newest.name, in_sync, dirty, event, "a mirror is assembled");
        // Two events of its own: an image of a leg from before is told from a leg that missed one event in a
        // crash.
        for _ in 0..2 {
            let failed = control.record().await;
            if failed != 0 {
                control.drop_legs(failed, "its label cannot be written").await;
            }
            if !control.is_recorded() {
                return Err(Error::new(ErrorKind::Io, "no label can be written"));
            }
        }
        // Each leg's map is to say what all of them together say.
        lock(&control.shared.map).touch_all();
        control.write_pages().await;
        register(registry, &control)?;
        // Whoever is left was not in sync: its claim is dropped, and it joins as any leg does.
        let late = found.into_iter().map(|found| found.name).collect();
        Ok((control, late))
    }
}

impl Waiting {
    fn take(&self, name: &str) -> Option<Found> {
        let mut found = self.found.borrow_mut();
        let position = found.iter().position(|found| found.name == name)?;
        Some(found.swap_remove(position))
    }

    /// The label that knows most.
    fn newest(&self) -> Option<Label> {
        self.found
            .borrow()
            .iter()
            .map(|found| &found.label)
            .max_by_key(|label| label.event)
            .cloned()
    }

    /// The names of legs that were in sync at `newest` and are not there.
    fn missing(&self, newest: &Label) -> Result<Vec<String>> {
        let found = self.found.borrow();
        let given_up = self.given_up.borrow();
        let mut missing = Vec::new();
        for (index, member) in newest.members.iter().enumerate() {
            let have = found.iter().filter(|f| f.label.own_member().uuid == member.uuid).count();
            if have > 1 && member.state != MemberState::Absent {
                return Err(Error::new(
                    ErrorKind::Exists,
                    format!(
                        "{have} devices carry the label of leg {index} of raid '{}': take the \
                         clones away",
                        newest.name
                    ),
                ));
            }
            let needed = member.state == MemberState::InSync && !given_up.contains(&index);
            if needed && have == 0 {
                missing.push(member.name.clone());
            }
        }
        // Somebody must have the data.
        let has_data = newest.members.iter().any(|member| {
            member.state == MemberState::InSync
                && found.iter().any(|found| {
                    found.label.own_member().uuid == member.uuid
                        && found.label.event == newest.event
                })
        });
        if !has_data && missing.is_empty() {
            missing.push("any leg that is in sync".into());
        }
        Ok(missing)
    }
}

/// A mirror that was found, in the table of raids: waiting first, then running.
struct AssemblingRaid {
    assemblies: Weak<Assemblies>,
    waiting: Rc<Waiting>,
}

impl AssemblingRaid {
    fn started(&self) -> Option<Rc<MirrorRaid>> {
        self.waiting.started.borrow().clone()
    }
}

impl Raid for AssemblingRaid {
    fn summary(&self) -> RaidSummary {
        if let Some(raid) = self.started() {
            return raid.summary();
        }
        let found = self.waiting.found.borrow();
        let newest = self.waiting.newest();
        let members = newest.as_ref().map(|label| label.members.as_slice()).unwrap_or_default();
        let bases = members.iter().map(|member| {
            let found = found.iter().find(|found| found.label.own_member().uuid == member.uuid);
            match found {
                Some(found) => {
                    let device = found.leg.descriptor.device();
                    let shift = device.geometry().block_size.shift();
                    let label = &found.label;
                    RaidBase::configured(
                        device,
                        label.places.data >> shift,
                        label.geometry.blocks.0,
                    )
                }
                None => RaidBase::missing(Some(member.name.clone())),
            }
        });
        let bases: Vec<RaidBase> = bases.collect();
        let spec = RaidSpec {
            name: newest.as_ref().map_or_else(String::new, |label| label.name.clone()),
            uuid: self.waiting.set,
            level: RaidLevel::Raid1,
            strip_size_kb: 0,
            base_bdevs: Vec::new(),
            superblock: true,
        };
        RaidSummary::new(&spec, RaidState::Configuring, bases)
    }

    fn add_base<'a>(&'a self, name: &'a str) -> RaidFuture<'a, ()> {
        Box::pin(async move {
            match self.started() {
                Some(raid) => raid.add_base(name).await,
                None => Err(Error::new(
                    ErrorKind::Busy,
                    "the raid waits for its own legs; remove those that will not come first",
                )),
            }
        })
    }

    fn remove_base<'a>(&'a self, name: &'a str) -> RaidFuture<'a, bool> {
        Box::pin(async move {
            if let Some(raid) = self.started() {
                return raid.remove_base(name).await;
            }
            let newest = self.waiting.newest();
            let gone = self.waiting.take(name);
            drop(gone);
            if let Some(label) = newest {
                let place = label.members.iter().position(|member| member.name == name);
                self.waiting.given_up.borrow_mut().extend(place);
            }
            if let Some(assemblies) = self.assemblies.upgrade() {
                assemblies.start_if_certain(&self.waiting).await?;
            }
            Ok(true)
        })
    }

    fn deleted(&self, clear_superblock: bool) -> RaidFuture<'_, ()> {
        Box::pin(async move {
            if let Some(raid) = self.started() {
                return raid.deleted(clear_superblock).await;
            }
            let Some(assemblies) = self.assemblies.upgrade() else { return Ok(()) };
            assemblies.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.waiting));
            let found = std::mem::take(&mut *self.waiting.found.borrow_mut());
            let names: Vec<String> = found.iter().map(|found| found.name.clone()).collect();
            drop(found);
            let Some(registry) = assemblies.registry.upgrade() else { return Ok(()) };
            if clear_superblock {
                for name in names {
                    wipe(&registry, &name, self.waiting.set).await?;
                }
            }
            Ok(())
        })
    }
}
