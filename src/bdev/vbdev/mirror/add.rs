//! Taking a leg into service: one that is new, or one that comes back.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::control::{Attached, Command, Control, SETTLE, writes_of};
use super::leg_io::LegIo;
use super::metadata;
use super::shared::{LegRole, lock};
use crate::base::{BlockCount, Error, ErrorKind, Result, Uuid};
use crate::bdev::label::{Label, MemberState};
use crate::bdev::vbdev::raids::RAID_CLAIM;
use crate::bdev::{Descriptor, Device, Event, Registry};
use crate::reactor::Tsc;

/// How long a leg that is added waits for one that went.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Opens the device of a leg. `on_gone` gets to know when it goes.
pub(super) fn open_leg(
    registry: &Registry,
    name: &str,
    on_gone: impl Fn() + 'static,
) -> Result<Descriptor> {
    let mirror_leg = name.to_owned();
    registry.open(name, RAID_CLAIM, move |event| match event {
        Event::Removing => on_gone(),
        Event::Resized(blocks) => {
            info!(leg = mirror_leg, %blocks, "a leg has another size now; the mirror keeps its own");
        }
    })
}

/// How a leg is to be brought up to date.
struct Joining {
    place: usize,
    state: MemberState,
    uuid: Uuid,
    label_copy: usize,
}

impl Control {
    /// Takes the bdev `name` into service; it is brought up to date from then on.
    pub async fn add(self: &Rc<Self>, name: &str) -> Result<()> {
        let doing = format!("add '{name}' to mirror '{}'", self.shared.name);
        self.try_add(name).await.map_err(|error| error.context(doing))
    }

    async fn try_add(self: &Rc<Self>, name: &str) -> Result<()> {
        let Some(registry) = self.registry.upgrade() else {
            return Err(Error::new(ErrorKind::Canceled, "the daemon is stopping"));
        };
        self.wait_for_close(name).await?;
        let since = self.shared.generation() + 1;
        let place_of_leg = Rc::new(RefCell::new(None));
        let descriptor = {
            let (control, place) = (Rc::downgrade(self), Rc::clone(&place_of_leg));
            open_leg(&registry, name, move || {
                if let (Some(control), Some(place)) = (control.upgrade(), *place.borrow()) {
                    control.command(Command::Gone(place, since));
                }
            })?
        };
        self.check_size(descriptor.device())?;
        self.check_cache(&registry, descriptor.device())?;
        let io = LegIo::open(descriptor.device(), &self.cx)?;
        let joining = self.joining(descriptor.device(), &io).await?;
        let place = joining.place;
        *place_of_leg.borrow_mut() = Some(place);
        {
            let mut places = self.places.borrow_mut();
            let slot = &mut places[place];
            slot.member.uuid = joining.uuid;
            slot.member.state = joining.state;
            slot.member.name = name.to_owned();
            slot.left = None;
            slot.attached = Some(Attached {
                descriptor,
                io: Rc::new(io),
                role: LegRole::Syncing,
                since,
                label_copy: joining.label_copy,
            });
        }
        let delta = joining.state == MemberState::SyncingDelta;
        info!(mirror = self.shared.name, leg = name, place, delta, "a leg is taken into service");
        // Its label says that it is not complete before anything is copied to it.
        let failed = self.record().await;
        if failed != 0 {
            self.drop_legs(failed, "its label cannot be written").await;
        } else {
            self.publish().await;
        }
        if self.places_on_leg.is_some() {
            // Its map is to say what the others say, before it counts for anything.
            lock(&self.shared.map).touch_all();
            self.write_pages().await;
        }
        let stays = self.legs_that(|index, leg| index == place && leg.since == since);
        if stays.is_empty() {
            return Err(Error::new(ErrorKind::Io, "its label or intent map cannot be written"));
        }
        Ok(())
    }

    /// Waits until legs that went out of service are closed: their places and devices are free then.
    async fn wait_for_close(&self, name: &str) -> Result<()> {
        let is_free = || {
            !self.closing.borrow().iter().any(|closing| closing == name)
                && self.shared.is_closed(self.shared.generation())
        };
        let begun = Tsc::read();
        while !is_free() {
            if Tsc::read().0.wrapping_sub(begun.0) > Tsc::ticks(CLOSE_MAX) {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "a leg that went out of service has requests outstanding still; try again later",
                ));
            }
            self.shared.wake_queues();
            self.cx.sleep(SETTLE).await;
        }
        Ok(())
    }

    fn check_size(&self, device: &Arc<Device>) -> Result<()> {
        let (have, need) = (device.geometry(), self.shared.geometry);
        if have.block_size != need.block_size {
            return Err(Error::invalid(format!(
                "it has blocks of {} bytes, the mirror has {}",
                have.block_size.bytes(),
                need.block_size.bytes()
            )));
        }
        let need = BlockCount(need.blocks.0 + self.shared.offsets.data);
        if have.blocks < need {
            return Err(Error::invalid(format!(
                "it has {} blocks, {need} are needed",
                have.blocks
            )));
        }
        Ok(())
    }

    /// A mirror that says that its writes are durable at once cannot take a leg whose are not: nobody would
    /// flush it.
    fn check_cache(&self, registry: &Registry, device: &Device) -> Result<()> {
        let flushed = registry
            .find(&self.shared.name)
            .is_none_or(|mirror| mirror.info().volatile_write_cache);
        if device.info().volatile_write_cache && !flushed {
            return Err(Error::invalid(
                "it has a volatile write cache, and the mirror was made of legs without one",
            ));
        }
        Ok(())
    }

    /// Which place a leg takes, and what it lacks.
    async fn joining(&self, device: &Arc<Device>, io: &LegIo) -> Result<Joining> {
        let mut label_copy = 1;
        if self.places_on_leg.is_some() {
            match metadata::read_label(io).await {
                Ok((label, copy)) => {
                    label_copy = copy;
                    if let Some(joining) = self.returning(&label, copy) {
                        return Ok(joining);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(_) => (),
            }
        } else if let Some(place) = self.same_device(device) {
            let state = MemberState::SyncingDelta;
            return Ok(Joining { place, state, uuid: Uuid::new_v4(), label_copy });
        }
        let places = self.places.borrow();
        let empty = |state: MemberState| {
            let free = |place: &super::control::Place| {
                place.attached.is_none() && place.member.state == state
            };
            places.iter().position(free)
        };
        // A place that nobody has comes before one whose leg may come back.
        let place = empty(MemberState::Absent).or_else(|| empty(MemberState::Stale));
        let Some(place) = place else {
            return Err(Error::invalid("all its places are taken"));
        };
        let state = MemberState::SyncingFull;
        Ok(Joining { place, state, uuid: Uuid::new_v4(), label_copy })
    }

    /// The place of a leg that was here before, by its label.
    fn returning(&self, label: &Label, label_copy: usize) -> Option<Joining> {
        if label.set != self.set {
            return None;
        }
        let own = label.own_member();
        let places = self.places.borrow();
        let place = places
            .iter()
            .position(|place| place.member.uuid == own.uuid && place.attached.is_none())?;
        let member = &places[place].member;
        // Complete once, and nothing happened to it that the others do not know: then all that it lacks is in
        // the map, of which nothing is cleared while it is away. An older image of it lacks more.
        let known = member.state == MemberState::Stale && member.last_event == label.event;
        let complete = matches!(own.state, MemberState::InSync | MemberState::SyncingDelta);
        let state =
            if known && complete { MemberState::SyncingDelta } else { MemberState::SyncingFull };
        Some(Joining { place, state, uuid: own.uuid, label_copy })
    }

    /// The place of a leg that went out of service and that nobody wrote to since, without a label to tell.
    fn same_device(&self, device: &Arc<Device>) -> Option<usize> {
        self.places.borrow().iter().position(|place| {
            place.attached.is_none()
                && place.member.state == MemberState::Stale
                && place.left.as_ref().is_some_and(|left| {
                    left.device.upgrade().is_some_and(|known| Arc::ptr_eq(&known, device))
                        && left.writes.get() == writes_of(device)
                })
        })
    }
}
