//! The control task of a mirror: the one owner of which leg is what.
//!
//! It takes one event at a time (reports of failed writes, commands, the end of a copy, a tick), and leaves
//! everything consistent before the next. A change of a leg's state goes in this order: it is recorded on
//! the labels of the legs that stay; the view without (or with) the leg is published; every queue goes by it; only
//! then is anything acknowledged that rests on it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_channel::oneshot;
use tracing::{error, info, warn};

use super::device::Facts;
use super::leg_io::LegIo;
use super::metadata;
use super::options::RaidOptions;
use super::progress::{Outcome, Progress};
use super::shared::{Leg, LegRole, LegSet, Report, Shared, lock};
use crate::base::{Result, Uuid};
use crate::bdev::intent::Tracker;
use crate::bdev::label::{Label, Member, MemberState, Places};
use crate::bdev::vbdev::raid::{RaidProcessEnd, RaidSpec};
use crate::bdev::{Descriptor, Device, OpClass, WeakRegistry};
use crate::reactor::Context;

/// How often intent bits that nobody needs any more are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How often a change is looked at whether it has reached every queue.
pub(super) const SETTLE: Duration = Duration::from_micros(100);

/// What others ask of the control task.
pub(super) enum Command {
    /// Take the bdev of this name into service.
    Add(String, oneshot::Sender<Result<()>>),
    /// Let go of the bdev of this name; false when the mirror cannot do without it.
    Remove(String, oneshot::Sender<Result<bool>>),
    /// The bdev in this place, that came with this view, goes away.
    Gone(usize, u64),
    /// A copy has ended.
    Copied(Outcome),
    /// Look for intent bits to clear.
    Tick,
}

/// A leg in service, as the control task has it.
pub(super) struct Attached {
    pub descriptor: Descriptor,
    pub io: Rc<LegIo>,
    pub role: LegRole,
    /// The view that it came with.
    pub since: u64,
    /// Which copy of its label is the newest.
    pub label_copy: usize,
}

/// A place for a leg.
pub(super) struct Place {
    /// What the label says of it.
    pub member: Member,
    pub attached: Option<Attached>,
    /// What was there last.
    pub left: Option<Left>,
}

/// A device that was a leg.
pub(super) struct Left {
    pub device: Weak<Device>,
    /// How often it was written to when it was closed; `u64::MAX` before.
    pub writes: Rc<Cell<u64>>,
}

/// How often a device was written to.
pub(super) fn writes_of(device: &Device) -> u64 {
    let stat = device.iostat();
    stat.class(OpClass::Write).ops + stat.class(OpClass::Unmap).ops
}

/// The control task's state. Lives on the control reactor.
pub(super) struct Control {
    pub cx: Context,
    pub registry: WeakRegistry,
    pub shared: Arc<Shared>,
    pub facts: Arc<Mutex<Facts>>,
    pub spec: RaidSpec,
    pub options: RaidOptions,
    /// Where things are on a leg; none without labels.
    pub places_on_leg: Option<Places>,
    pub set: Uuid,
    pub event: Cell<u64>,
    pub places: RefCell<Vec<Place>>,
    commands: RefCell<VecDeque<Command>>,
    waker: RefCell<Option<Waker>>,
    /// The loss of these legs could not be recorded.
    unrecorded: Cell<bool>,
    /// Devices of legs that are out of service and not yet let go of.
    pub closing: Rc<RefCell<Vec<String>>>,
    pub copying: RefCell<Option<Rc<Progress>>>,
    /// The last copy that ended, for the operator.
    pub last_copy: RefCell<Option<RaidProcessEnd>>,
    stopped: Cell<bool>,
}

enum Event {
    Reports(Vec<Report>, u64),
    Command(Command),
    Stop,
}

#[expect(clippy::too_many_arguments, reason = "made in one place")]
impl Control {
    pub fn new(
        registry: WeakRegistry,
        cx: &Context,
        shared: Arc<Shared>,
        spec: RaidSpec,
        options: RaidOptions,
        places_on_leg: Option<Places>,
        event: u64,
        places: Vec<Place>,
    ) -> Rc<Control> {
        Rc::new(Control {
            cx: cx.clone(),
            registry,
            shared,
            facts: Arc::default(),
            set: spec.uuid,
            spec,
            options,
            places_on_leg,
            event: Cell::new(event),
            places: RefCell::new(places),
            commands: RefCell::default(),
            waker: RefCell::default(),
            unrecorded: Cell::new(false),
            closing: Rc::default(),
            copying: RefCell::default(),
            last_copy: RefCell::default(),
            stopped: Cell::new(false),
        })
    }

    /// Starts the task, and its clock.
    pub fn start(self: &Rc<Self>) {
        self.update_facts();
        let control = Rc::clone(self);
        self.cx.spawn(async move { control.run().await });
        let weak = Rc::downgrade(self);
        let cx = self.cx.clone();
        self.cx.spawn(async move {
            loop {
                cx.sleep(TICK).await;
                match weak.upgrade() {
                    Some(control) if !control.stopped.get() => control.command(Command::Tick),
                    _ => return,
                }
            }
        });
    }

    /// Puts a command into the queue.
    pub fn command(&self, command: Command) {
        self.commands.borrow_mut().push_back(command);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    async fn next(&self) -> Event {
        poll_fn(|cx| {
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            // Failed writes first: somebody waits for them.
            if let Some((reports, upto)) = self.shared.collect(Some(cx)) {
                return Poll::Ready(Event::Reports(reports, upto));
            }
            if let Some(command) = self.commands.borrow_mut().pop_front() {
                return Poll::Ready(Event::Command(command));
            }
            if self.shared.is_stopping() {
                return Poll::Ready(Event::Stop);
            }
            Poll::Pending
        })
        .await
    }

    async fn run(self: Rc<Self>) {
        loop {
            match self.next().await {
                Event::Reports(reports, upto) => self.judge(&reports, upto).await,
                Event::Command(Command::Add(name, reply)) => {
                    let _ = reply.send(self.add(&name).await);
                }
                Event::Command(Command::Remove(name, reply)) => {
                    let _ = reply.send(self.remove(&name).await);
                }
                Event::Command(Command::Gone(place, since)) => self.gone(place, since).await,
                Event::Command(Command::Copied(outcome)) => self.copied(outcome).await,
                Event::Command(Command::Tick) => self.tick().await,
                Event::Stop => break,
            }
            self.start_copy();
            self.update_facts();
        }
        self.stop().await;
    }

    /// Whether the legs in service are recorded on themselves.
    pub fn is_recorded(&self) -> bool {
        !self.unrecorded.get()
    }

    /// Whether all legs that there are places for are in sync, and the same everywhere.
    pub fn is_whole(&self) -> bool {
        let in_sync =
            |place: &Place| place.attached.as_ref().is_some_and(|leg| leg.role == LegRole::InSync);
        self.places.borrow().iter().all(in_sync) && !self.shared.view().unresolved
    }

    /// The control channels of the legs in service for which `test` holds, with their places.
    pub fn legs_that(&self, test: impl Fn(usize, &Attached) -> bool) -> Vec<(usize, Rc<LegIo>)> {
        let places = self.places.borrow();
        let attached = places.iter().enumerate().filter_map(|(index, place)| {
            let leg = place.attached.as_ref()?;
            test(index, leg).then(|| (index, Rc::clone(&leg.io)))
        });
        attached.collect()
    }

    /// The legs in service with a role for which `test` holds, as a set.
    fn set_of(&self, test: impl Fn(&Attached) -> bool) -> LegSet {
        self.legs_that(|_, leg| test(leg)).iter().map(|(index, _)| 1 << index).sum()
    }

    /// Deals with failed writes: takes the legs that failed out of service, but never the last one.
    async fn judge(&self, reports: &[Report], upto: u64) {
        let mut failed = 0;
        for report in reports {
            let took_part = self.set_of(|leg| leg.since <= report.generation) & !failed;
            let in_sync = self.set_of(|leg| leg.role == LegRole::InSync) & !failed;
            let mut drop = report.failed & took_part;
            if in_sync & !drop == 0 {
                // All would be gone: one stays, and the request ends with its error. The others are not
                // certain to hold the same, so they do not.
                let stays = in_sync & report.succeeded;
                let stays = if stays != 0 { stays } else { in_sync };
                drop &= !(stays & stays.wrapping_neg());
            }
            if report.failed & in_sync & !drop != 0 {
                // What the request changed on a leg that is being copied to, the source may lack.
                drop |= self.set_of(|leg| leg.role == LegRole::Syncing);
            }
            failed |= drop;
        }
        if failed != 0 {
            self.drop_legs(failed, "it failed a write").await;
        } else if self.unrecorded.get() {
            self.drop_legs(0, "").await;
        }
        self.shared.give_verdicts(upto);
    }

    /// Takes legs out of service. At least one that is in sync stays.
    pub async fn drop_legs(&self, legs: LegSet, why: &str) {
        let mut dropped = legs;
        loop {
            self.mark_dropped(dropped, why);
            // Those that cannot record it go too, if another can.
            let failed = self.record().await;
            let in_sync = self.set_of(|leg| leg.role == LegRole::InSync);
            if failed & in_sync == in_sync && failed != 0 {
                self.unrecorded.set(true);
                error!(
                    mirror = self.shared.name,
                    "the loss of a leg cannot be recorded on any other: writes are refused"
                );
                break;
            }
            if failed == 0 {
                self.unrecorded.set(false);
                break;
            }
            dropped = failed;
        }
        self.publish().await;
    }

    /// Notes that legs go, in memory.
    fn mark_dropped(&self, legs: LegSet, why: &str) {
        let mut going = Vec::new();
        for (index, place) in self.places.borrow_mut().iter_mut().enumerate() {
            if legs >> index & 1 == 0 {
                continue;
            }
            let Some(attached) = place.attached.take() else { continue };
            let device = attached.descriptor.device();
            warn!(mirror = self.shared.name, leg = device.name(), why, "a leg is out of service");
            place.member.state = match place.member.state {
                MemberState::InSync | MemberState::SyncingDelta => MemberState::Stale,
                _ => MemberState::Absent,
            };
            let writes = Rc::new(Cell::new(u64::MAX));
            place.left = Some(Left { device: Arc::downgrade(device), writes: Rc::clone(&writes) });
            going.push((index, attached, writes));
        }
        for (index, attached, writes) in going {
            self.close_leg(index, attached, writes);
        }
    }

    /// Lets go of a leg when no queue has it open any more.
    fn close_leg(&self, index: usize, attached: Attached, writes: Rc<Cell<u64>>) {
        // The view that leaves it out is the next one.
        let generation = self.shared.generation() + 1;
        let (cx, shared) = (self.cx.clone(), Arc::clone(&self.shared));
        let closing = Rc::clone(&self.closing);
        closing.borrow_mut().push(attached.io.name());
        self.cx.spawn(async move {
            while shared.generation() < generation || !shared.is_closed(generation) {
                shared.wake_queues();
                cx.sleep(SETTLE).await;
            }
            let Attached { descriptor, io, .. } = attached;
            // A copy may still hold it.
            while Rc::strong_count(&io) > 1 {
                cx.sleep(SETTLE).await;
            }
            let name = descriptor.device().name().to_owned();
            drop(io);
            writes.set(writes_of(descriptor.device()));
            drop(descriptor);
            closing.borrow_mut().retain(|other| *other != name);
            info!(mirror = shared.name, leg = name, place = index, "a leg is closed");
        });
    }

    /// The label as it is to be on the leg in place `own`.
    fn label(&self, own: usize, places_on_leg: Places) -> Label {
        Label {
            set: self.set,
            name: self.spec.name.clone(),
            kind: metadata::KIND,
            event: self.event.get(),
            geometry: self.shared.geometry,
            places: places_on_leg,
            own,
            members: self.places.borrow().iter().map(|place| place.member.clone()).collect(),
        }
    }

    /// Records the present state as a new event on the labels of all legs in service. Returns those that
    /// failed. Nothing to do without labels.
    pub async fn record(&self) -> LegSet {
        let Some(places_on_leg) = self.places_on_leg else { return 0 };
        self.event.set(self.event.get() + 1);
        for place in self.places.borrow_mut().iter_mut() {
            if let Some(attached) = &place.attached {
                place.member.last_event = self.event.get();
                place.member.name = attached.io.name();
            }
        }
        let mut failed = 0;
        // Those in sync first: if the event gets anywhere, it gets to one that has the data.
        let mut legs = self.legs_that(|_, leg| leg.role == LegRole::InSync);
        legs.extend(self.legs_that(|_, leg| leg.role == LegRole::Syncing));
        for (index, io) in legs {
            let label = self.label(index, places_on_leg);
            let copy =
                self.places.borrow()[index].attached.as_ref().map_or(0, |a| 1 - a.label_copy);
            match metadata::write_label(&self.cx, &io, copy, &label).await {
                Ok(()) => {
                    if let Some(attached) = &mut self.places.borrow_mut()[index].attached {
                        attached.label_copy = copy;
                    }
                }
                Err(error) => {
                    warn!(mirror = self.shared.name, %error, "a label cannot be written");
                    failed |= 1 << index;
                }
            }
        }
        failed
    }

    /// Publishes the legs in service, and waits until every queue goes by that.
    pub async fn publish(&self) {
        let leg_of = |place: &Place| {
            let attached = place.attached.as_ref()?;
            let device = Arc::clone(attached.descriptor.device());
            Some(Leg { role: attached.role, device, since: attached.since })
        };
        let legs: Vec<Option<Leg>> = self.places.borrow().iter().map(leg_of).collect();
        let refuse_writes = self.unrecorded.get();
        let generation = self.shared.publish(|view| {
            for (slot, leg) in view.legs.iter_mut().zip(legs) {
                *slot = leg;
            }
            view.refuse_writes = refuse_writes;
        });
        self.settle(generation).await;
    }

    /// Waits until every queue goes by view `generation`.
    pub async fn settle(&self, generation: u64) {
        while !self.shared.is_in_force(generation) {
            self.cx.sleep(SETTLE).await;
        }
    }

    async fn gone(&self, place: usize, since: u64) {
        let is_there = {
            let places = self.places.borrow();
            places[place].attached.as_ref().is_some_and(|leg| leg.since == since)
        };
        if !is_there {
            return;
        }
        let others = self.set_of(|leg| leg.role == LegRole::InSync) & !(1 << place);
        if others != 0 {
            self.drop_legs(1 << place, "its device was removed").await;
            return;
        }
        // The last leg: the mirror goes with it.
        let Some(registry) = self.registry.upgrade() else { return };
        let name = self.shared.name.clone();
        error!(mirror = name, "the last leg is being removed, and the mirror with it");
        self.cx.spawn(async move {
            if let Err(error) = registry.unregister(&name).await {
                warn!(mirror = name, %error, "cannot be removed");
            }
        });
    }

    fn forget_absent(&self, name: &str) {
        let mut places = self.places.borrow_mut();
        let absent = |place: &&mut Place| place.member.name == name && place.attached.is_none();
        if let Some(place) = places.iter_mut().find(absent) {
            place.member = Member::absent();
            place.left = None;
        }
    }

    async fn remove(&self, name: &str) -> Result<bool> {
        let found = self.legs_that(|_, leg| leg.descriptor.device().name() == name);
        let Some((index, _)) = found.first() else {
            // A leg that is not in service: its place becomes an empty one.
            self.forget_absent(name);
            self.drop_legs(0, "").await;
            return Ok(true);
        };
        let others = self.set_of(|leg| leg.role == LegRole::InSync) & !(1 << index);
        if others == 0 {
            return Ok(false);
        }
        self.drop_legs(1 << index, "it was asked for").await;
        Ok(true)
    }

    /// Clears intent bits that nobody needs: not while a leg is missing, stale or syncing.
    async fn tick(&self) {
        if self.unrecorded.get() {
            self.drop_legs(0, "").await;
        }
        if self.is_whole() {
            self.shared.tracker.advance();
            let unused = self.shared.tracker.unused();
            self.clear_intent(unused).await;
        }
    }

    /// Clears bits that are found unused, once what was written there is durable on all legs.
    async fn clear_intent(&self, mut bits: Vec<(usize, u64)>) {
        if bits.is_empty() {
            return;
        }
        for (index, io) in self.legs_that(|_, _| true) {
            let status = io.flush().await;
            if !status.is_success() {
                warn!(mirror = self.shared.name, leg = io.name(), %status, place = index, "flush failed");
                return;
            }
        }
        {
            let mut map = lock(&self.shared.map);
            let tracker: &Tracker = &self.shared.tracker;
            tracker.withdraw(&mut bits);
            for &(word, bits) in &bits {
                map.clear(word, bits);
            }
        }
        self.write_pages().await;
    }

    /// Brings the map on all legs up to date; legs that fail that are taken out of service.
    pub async fn write_pages(&self) {
        if self.places_on_leg.is_none() {
            return;
        }
        loop {
            let legs = self.legs_that(|_, _| true);
            let ios: Vec<Rc<LegIo>> = legs.iter().map(|(_, io)| Rc::clone(io)).collect();
            let failed = metadata::write_pages(&self.cx, &self.shared, &ios).await;
            if failed.is_empty() {
                return;
            }
            let failed: LegSet = failed.iter().map(|&at| 1 << legs[at].0).sum();
            let in_sync = self.set_of(|leg| leg.role == LegRole::InSync);
            if in_sync & !failed == 0 {
                // The last one stays; its writes fail as they come.
                return;
            }
            self.drop_legs(failed, "a page of its intent map cannot be written").await;
        }
    }

    /// The device goes: all queues are closed. Leaves no bit set that is not needed.
    async fn stop(&self) {
        if let Some(progress) = self.copying.borrow().as_ref() {
            progress.cancel();
        }
        while self.copying.borrow().is_some() {
            let outcome = self.commands.borrow_mut().pop_front();
            match outcome {
                Some(Command::Copied(_)) => *self.copying.borrow_mut() = None,
                Some(_) => (),
                None => self.cx.sleep(SETTLE).await,
            }
        }
        if self.is_whole() && !self.unrecorded.get() {
            let bits = self.shared.tracker.unused_of_all();
            self.clear_intent(bits).await;
        }
        self.stopped.set(true);
        for place in self.places.borrow_mut().iter_mut() {
            place.left = None;
        }
        let going: Vec<Attached> =
            self.places.borrow_mut().iter_mut().filter_map(|place| place.attached.take()).collect();
        for Attached { descriptor, io, .. } in going {
            drop(io);
            drop(descriptor);
        }
        self.shared.set_stopped();
    }
}
