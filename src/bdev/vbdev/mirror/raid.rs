//! A mirror as a raid: making one, and what an operator sees of it and does to it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures_channel::oneshot;

use super::add::open_leg;
use super::control::{Attached, Command, Control, Place};
use super::device::Mirror;
use super::leg_io::LegIo;
use super::metadata;
use super::options::RaidOptions;
use super::progress::Work;
use super::shared::{LEGS, Leg, LegRole, Offsets, Shared, View, lock};
use crate::base::{BlockCount, Error, ErrorKind, Geometry, Result, Uuid, limits};
use crate::bdev::intent::{IntentMap, MapLayout};
use crate::bdev::label::{Member, MemberState, Places};
use crate::bdev::vbdev::bases;
use crate::bdev::vbdev::raid::{
    Raid, RaidBase, RaidFuture, RaidProcess, RaidProgress, RaidSpec, RaidState, RaidSummary,
};
use crate::bdev::vbdev::raids::RAID_CLAIM;
use crate::bdev::{Descriptor, Event, Info, Opcode, Registry};

pub(super) fn check(spec: &RaidSpec) -> Result<()> {
    let invalid = |what: String| Err(Error::invalid(format!("raid '{}': {what}", spec.name)));
    let count = spec.base_bdevs.len();
    if !(limits::MIRROR_LEGS_MIN..=limits::MIRROR_LEGS_MAX).contains(&count) {
        return invalid(format!(
            "raid1 over {count} base bdevs ({} to {} are possible)",
            limits::MIRROR_LEGS_MIN,
            limits::MIRROR_LEGS_MAX
        ));
    }
    if spec.strip_size_kb != 0 {
        return invalid("raid1 has no strips: leave strip_size_kb out".into());
    }
    Ok(())
}

/// A leg's device going away reaches the control task when there is one.
pub(super) type GoneHook = Rc<RefCell<Option<Box<dyn Fn()>>>>;

/// An open leg, before there is a control task.
pub(super) struct OpenLeg {
    pub descriptor: Descriptor,
    pub hook: GoneHook,
}

pub(super) fn open_with_hook(registry: &Registry, name: &str) -> Result<OpenLeg> {
    let hook = GoneHook::default();
    let inner = Rc::clone(&hook);
    let descriptor = open_leg(registry, name, move || {
        if let Some(gone) = &*inner.borrow() {
            gone();
        }
    })?;
    Ok(OpenLeg { descriptor, hook })
}

pub(super) fn open_all(registry: &Registry, spec: &RaidSpec) -> Result<Vec<OpenLeg>> {
    check(spec)?;
    spec.base_bdevs.iter().map(|name| open_with_hook(registry, name)).collect()
}

/// Makes a mirror over bdevs that are all there, as raid `spec`.
pub(super) async fn make(
    registry: &Registry,
    spec: RaidSpec,
    legs: Vec<OpenLeg>,
    options: RaidOptions,
) -> Result<Rc<Control>> {
    let smallest = legs.iter().map(|leg| leg.descriptor.device().geometry().blocks).min();
    let block_size = legs[0].descriptor.device().geometry().block_size;
    let whole = Geometry::new(block_size, smallest.unwrap_or(BlockCount::ZERO))?;
    let (geometry, places_on_leg) = match spec.superblock {
        true => {
            let (geometry, places) = metadata::fit(whole)?;
            (geometry, Some(places))
        }
        false => (whole, None),
    };
    let cx = registry.context();
    let mut built = Built::new(registry, spec, geometry, places_on_leg, options, 0)?;
    for leg in legs {
        let io = LegIo::open(leg.descriptor.device(), cx)?;
        if places_on_leg.is_some() {
            refuse_label(&io).await?;
        }
        let member = Member {
            uuid: Uuid::new_v4(),
            state: MemberState::InSync,
            last_event: 0,
            name: io.name(),
        };
        built.legs.push((member, Some((leg, Rc::new(io), 1))));
    }
    let map = IntentMap::new(built.layout, built.spec.uuid, places_on_leg.is_some());
    let control = built.control(map, false)?;
    if places_on_leg.is_some() {
        // The map before the labels: what a label speaks of is there.
        lock(&control.shared.map).touch_all();
        control.write_pages().await;
        if control.record().await != 0 {
            return Err(Error::new(ErrorKind::Io, "a label cannot be written"));
        }
    }
    register(registry, &control)?;
    Ok(control)
}

async fn refuse_label(io: &LegIo) -> Result<()> {
    match metadata::read_label(io).await {
        Ok((label, _)) => Err(Error::new(
            ErrorKind::Exists,
            format!(
                "bdev '{}' carries the label of raid '{}' ({}): delete that raid with clear_sb first",
                io.name(),
                label.name,
                label.set
            ),
        )),
        Err(error) if error.kind() == ErrorKind::Io => Err(error),
        Err(_) => Ok(()),
    }
}

/// A leg in service, and which copy of its label is the newest.
pub(super) type ServingLeg = (OpenLeg, Rc<LegIo>, usize);

/// A mirror in the making.
pub(super) struct Built {
    registry: Registry,
    pub spec: RaidSpec,
    geometry: Geometry,
    pub layout: MapLayout,
    places_on_leg: Option<Places>,
    options: RaidOptions,
    event: u64,
    /// Each place: what the label says, and the leg, if it is in service.
    pub legs: Vec<(Member, Option<ServingLeg>)>,
}

impl Built {
    pub fn new(
        registry: &Registry,
        spec: RaidSpec,
        geometry: Geometry,
        places_on_leg: Option<Places>,
        options: RaidOptions,
        event: u64,
    ) -> Result<Built> {
        let layout = match places_on_leg {
            Some(places) => MapLayout::with_shift(geometry, places.region_shift, places.map_page)?,
            None => MapLayout::new(geometry)?,
        };
        let legs = Vec::new();
        let registry = registry.clone();
        Ok(Built { registry, spec, geometry, layout, places_on_leg, options, event, legs })
    }

    /// The control task's state, with the device's facts; nothing runs yet.
    pub fn control(self, map: IntentMap, unresolved: bool) -> Result<Rc<Control>> {
        let shift = self.geometry.block_size.shift();
        let offsets = match self.places_on_leg {
            Some(places) => Offsets { data: places.data >> shift, map: places.map >> shift },
            None => Offsets { data: 0, map: 0 },
        };
        let mut view = View { generation: 1, unresolved, ..View::default() };
        let mut hooks = Vec::new();
        let mut places = Vec::new();
        for (index, (member, leg)) in self.legs.into_iter().enumerate().take(LEGS) {
            let attached = leg.map(|(leg, io, label_copy)| {
                let device = Arc::clone(leg.descriptor.device());
                let (role, since) = (LegRole::InSync, 1);
                view.legs[index] = Some(Leg { role, device, since });
                hooks.push((index, leg.hook));
                Attached { descriptor: leg.descriptor, io, role, since, label_copy }
            });
            places.push(Place { member, attached, left: None });
        }
        let intent: Vec<u64> = map.intent().to_vec();
        let shared = Shared::new(&self.spec.name, self.geometry, offsets, map, view);
        if unresolved {
            for (word, bits) in shared.unresolved.iter().zip(intent) {
                word.store(bits, std::sync::atomic::Ordering::Release);
            }
        }
        let control = Control::new(
            self.registry.downgrade(),
            self.registry.context(),
            shared,
            self.spec,
            self.options,
            self.places_on_leg,
            self.event,
            places,
        );
        for (index, hook) in hooks {
            let control = Rc::downgrade(&control);
            *hook.borrow_mut() = Some(Box::new(move || {
                if let Some(control) = control.upgrade() {
                    control.command(Command::Gone(index, 1));
                }
            }));
        }
        Ok(control)
    }
}

/// Registers the device of a mirror, and starts its control task.
pub(super) fn register(registry: &Registry, control: &Rc<Control>) -> Result<()> {
    let info = control.info()?;
    let device =
        Mirror { info, shared: Arc::clone(&control.shared), facts: Arc::clone(&control.facts) };
    registry.register(Arc::new(device), Vec::new())?;
    control.start();
    Ok(())
}

impl Control {
    fn info(&self) -> Result<Info> {
        let places = self.places.borrow();
        let descriptors =
            places.iter().filter_map(|place| Some(&place.attached.as_ref()?.descriptor));
        let descriptors: Vec<&Descriptor> = descriptors.collect();
        let blocks = self.shared.geometry.blocks;
        let mut info = bases::derive_info_of(&self.spec.name, "Raid Volume", &descriptors, blocks)?;
        info.uuid = self.spec.uuid;
        // The channel in front compares and writes under its own lock, once for all legs.
        info.native = info.native.without(Opcode::CompareAndWrite);
        // A leg that was dropped keeps what it held, and one that joins later may erase nothing.
        info.erases = false;
        Ok(info)
    }

    /// How the mirror is now.
    pub fn summary(&self) -> RaidSummary {
        let places = self.places.borrow();
        let offset = self.shared.offsets.data;
        let size = self.shared.geometry.blocks.0;
        let base = |place: &Place| match &place.attached {
            Some(leg) => RaidBase::configured(leg.descriptor.device(), offset, size),
            None => RaidBase::missing(None),
        };
        let bases: Vec<RaidBase> = places.iter().map(base).collect();
        let mut summary = RaidSummary::new(&self.spec, RaidState::Online, bases);
        // A leg that is being brought up to date is there, but nothing is read from it.
        let in_sync =
            |place: &&Place| place.attached.as_ref().is_some_and(|leg| leg.role == LegRole::InSync);
        summary.info.num_base_bdevs_operational = places.iter().filter(in_sync).count() as u32;
        if let Some(progress) = &*self.copying.borrow() {
            let (kind, target) = self.describe(progress.work, &places);
            let percent = progress.percent();
            let progress = RaidProgress { blocks: progress.blocks_done.get(), percent };
            summary.info.process = Some(RaidProcess { kind, target, progress });
        } else if self.shared.view().unresolved {
            // About to start.
            let (kind, target) = self.describe(Work::Resolve, &places);
            let progress = RaidProgress { blocks: 0, percent: 0 };
            summary.info.process = Some(RaidProcess { kind, target, progress });
        }
        summary.info.weft_last_process = self.last_copy.borrow().clone();
        let tracker = &self.shared.tracker;
        let blocks = tracker.durable_regions() * tracker.layout().region_blocks();
        summary.info.weft_intent_blocks = Some(blocks);
        summary
    }

    /// What a piece of background work is called, and what it is done to.
    pub fn describe(&self, work: Work, places: &[Place]) -> (&'static str, String) {
        match work {
            Work::Rebuild { place, .. } => ("rebuild", places[place].member.name.clone()),
            Work::Resolve => ("resync", self.spec.name.clone()),
        }
    }

    /// Tells the device what an operator is to see of it.
    pub fn update_facts(&self) {
        let summary = self.summary();
        let mut spec = self.spec.clone();
        spec.base_bdevs = self
            .legs_that(|_, leg| leg.role == LegRole::InSync)
            .iter()
            .map(|(_, io)| io.name())
            .collect();
        let mut facts = lock(&self.facts);
        facts.driver_specific = summary.driver_specific();
        facts.config = spec.config();
    }
}

/// A mirror in the table of raids.
pub(super) struct MirrorRaid {
    control: Rc<Control>,
}

impl MirrorRaid {
    pub fn running(control: Rc<Control>) -> MirrorRaid {
        MirrorRaid { control }
    }
}

async fn answer<T>(receiver: oneshot::Receiver<Result<T>>) -> Result<T> {
    match receiver.await {
        Ok(result) => result,
        Err(oneshot::Canceled) => {
            Err(Error::new(ErrorKind::NoDevice, "the mirror is being removed"))
        }
    }
}

impl Raid for MirrorRaid {
    fn summary(&self) -> RaidSummary {
        self.control.summary()
    }

    fn add_base<'a>(&'a self, name: &'a str) -> RaidFuture<'a, ()> {
        let (reply, receiver) = oneshot::channel();
        self.control.command(Command::Add(name.to_owned(), reply));
        Box::pin(answer(receiver))
    }

    fn remove_base<'a>(&'a self, name: &'a str) -> RaidFuture<'a, bool> {
        let (reply, receiver) = oneshot::channel();
        self.control.command(Command::Remove(name.to_owned(), reply));
        Box::pin(answer(receiver))
    }

    fn deleted(&self, clear_superblock: bool) -> RaidFuture<'_, ()> {
        Box::pin(async move {
            let control = &self.control;
            let Some(registry) = control.registry.upgrade() else { return Ok(()) };
            if !clear_superblock || control.places_on_leg.is_none() {
                return Ok(());
            }
            let names: Vec<String> =
                control.places.borrow().iter().map(|place| place.member.name.clone()).collect();
            for name in names.iter().filter(|name| registry.find(name).is_some()) {
                wipe(&registry, name, control.set).await?;
            }
            Ok(())
        })
    }
}

/// Wipes the label of set `set` from the bdev `name`.
pub(super) async fn wipe(registry: &Registry, name: &str, set: Uuid) -> Result<()> {
    let descriptor = registry.open(name, RAID_CLAIM, |_: &Event| ())?;
    let io = LegIo::open(descriptor.device(), registry.context())?;
    // What goes by this name may be another device by now.
    if metadata::read_label(&io).await.is_ok_and(|(label, _)| label.set == set) {
        metadata::wipe_label(registry.context(), &io).await?;
    }
    drop(io);
    drop(descriptor);
    Ok(())
}
