//! Rounds: making legs equal, beside running I/O.
//!
//! A *rebuild* brings a leg that was added or came back up to date: it copies the regions of the intent map if the
//! leg held everything else, or all regions ever written if it is new. A *resolution* makes the legs equal after
//! a crash in the regions where they may differ; reads there wait, and have their region done first. Progress is worth
//! nothing beyond the round: a leg that goes starts over when it comes back.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use tracing::{error, info};

use super::control::{Command, Control};
use super::copy::{Copier, CopyError, regions_of};
use super::leg_io::LegIo;
use super::progress::{Outcome, Progress, Work};
use super::shared::{LegRole, lock};
use crate::base::Result;
use crate::bdev::label::MemberState;
use crate::bdev::vbdev::raid::RaidProcessEnd;

/// Sources and targets.
type Legs = (Vec<Rc<LegIo>>, Vec<Rc<LegIo>>);

impl Control {
    /// Starts the next copy, if there is something to copy and nothing is being copied.
    pub fn start_copy(self: &Rc<Self>) {
        if self.copying.borrow().is_some() || self.shared.is_stopping() {
            return;
        }
        let work = if self.shared.view().unresolved {
            Work::Resolve
        } else {
            let syncing = self.places.borrow().iter().enumerate().find_map(|(place, slot)| {
                let leg = slot.attached.as_ref().filter(|leg| leg.role == LegRole::Syncing)?;
                Some(Work::Rebuild { place, since: leg.since })
            });
            let Some(work) = syncing else { return };
            work
        };
        let progress = Rc::new(Progress::new(work));
        *self.copying.borrow_mut() = Some(Rc::clone(&progress));
        let control = Rc::clone(self);
        self.cx.spawn(async move {
            let result = control.copy(&progress).await.unwrap_or_else(|error| {
                error!(mirror = control.shared.name, %error, "copying cannot begin");
                Ok(false)
            });
            control.command(Command::Copied(Outcome { work, result }));
        });
    }

    async fn copy(&self, progress: &Progress) -> Result<std::result::Result<bool, CopyError>> {
        let resolving = progress.work == Work::Resolve;
        let mut copier = Copier::new(&self.cx, &self.shared, self.options, resolving)?;
        let mut bitmap = self.regions_to_copy(progress.work);
        let blocks = |region: u32| {
            let length = self.shared.tracker.layout().region_blocks();
            let start = u64::from(region) * length;
            (start, (start + length).min(self.shared.geometry.blocks.0))
        };
        let length_of = |region| blocks(region).1 - blocks(region).0;
        progress.blocks_total.set(regions_of(&bitmap).map(length_of).sum());
        loop {
            let awaited = if resolving { self.shared.next_awaited() } else { None };
            let is_left = |region: &u32| bitmap[*region as usize / 64] >> (region % 64) & 1 != 0;
            let next = awaited.filter(is_left).or_else(|| regions_of(&bitmap).next());
            let Some(region) = next else { return Ok(Ok(true)) };
            let (start, end) = blocks(region);
            let legs = || self.legs_for(progress);
            let done = |blocks| progress.blocks_done.set(progress.blocks_done.get() + blocks);
            match copier.copy(start, end, legs, done).await {
                Ok(true) => (),
                other => return Ok(other),
            }
            let bit = 1 << (region % 64);
            bitmap[region as usize / 64] &= !bit;
            if resolving {
                self.shared.unresolved[region as usize / 64].fetch_and(!bit, Ordering::AcqRel);
            }
        }
    }

    fn regions_to_copy(&self, work: Work) -> Vec<u64> {
        match work {
            Work::Resolve => {
                self.shared.unresolved.iter().map(|word| word.load(Ordering::Acquire)).collect()
            }
            Work::Rebuild { place, .. } => {
                let delta = self.places.borrow()[place].member.state == MemberState::SyncingDelta;
                let map = lock(&self.shared.map);
                let ever = map.written().iter().zip(map.intent()).map(|(w, i)| w | i);
                if delta { map.intent().to_vec() } else { ever.collect() }
            }
        }
    }

    /// Who takes part, at this moment; `None` when the work is called off.
    fn legs_for(&self, progress: &Progress) -> Option<Legs> {
        if progress.is_canceled() {
            return None;
        }
        let in_sync: Vec<Rc<LegIo>> = self
            .legs_that(|_, leg| leg.role == LegRole::InSync)
            .into_iter()
            .map(|(_, io)| io)
            .collect();
        match progress.work {
            Work::Resolve => Some((in_sync.clone(), in_sync)),
            Work::Rebuild { place, since } => {
                let target = self.legs_that(|index, leg| index == place && leg.since == since);
                let (_, target) = target.into_iter().next()?;
                Some((in_sync, vec![target]))
            }
        }
    }

    /// A copy has ended.
    pub async fn copied(&self, outcome: Outcome) {
        let ended = self.copying.borrow_mut().take();
        if let Some(progress) = ended {
            let (kind, target) = self.describe(progress.work, &self.places.borrow());
            let completed = matches!(outcome.result, Ok(true));
            let blocks = progress.blocks_done.get();
            *self.last_copy.borrow_mut() = Some(RaidProcessEnd { kind, target, blocks, completed });
        }
        let name = self.shared.name.as_str();
        match (outcome.work, outcome.result) {
            (Work::Resolve, Ok(true)) => {
                info!(mirror = name, "all legs are equal again");
                let generation = self.shared.publish(|view| view.unresolved = false);
                self.settle(generation).await;
            }
            (Work::Resolve, Err(CopyError::Target { index, status })) => {
                // Targets are the legs in sync, in the order of their places.
                let legs = self.legs_that(|_, leg| leg.role == LegRole::InSync);
                error!(mirror = name, %status, "a leg fails writes while legs are made equal");
                if legs.len() > 1
                    && let Some((place, _)) = legs.get(index)
                {
                    self.drop_legs(1 << place, "it failed a write").await;
                }
            }
            (Work::Resolve, Ok(false) | Err(_)) => (),
            (Work::Rebuild { place, since }, result) => {
                self.rebuilt(place, since, result).await;
            }
        }
    }

    async fn rebuilt(
        &self,
        place: usize,
        since: u64,
        result: std::result::Result<bool, CopyError>,
    ) {
        let name = self.shared.name.as_str();
        let leg = self.legs_that(|index, leg| index == place && leg.since == since);
        let Some((_, io)) = leg.into_iter().next() else { return };
        match result {
            Ok(true) if io.flush().await.is_success() => {
                {
                    let mut places = self.places.borrow_mut();
                    places[place].member.state = MemberState::InSync;
                    if let Some(attached) = &mut places[place].attached {
                        attached.role = LegRole::InSync;
                    }
                }
                drop(io);
                let failed = self.record().await;
                if failed != 0 {
                    self.drop_legs(failed, "its label cannot be written").await;
                } else {
                    self.publish().await;
                }
                info!(mirror = name, place, "a leg is in sync again");
            }
            Ok(false) => (),
            Ok(true) => {
                drop(io);
                self.drop_legs(1 << place, "it failed a flush").await;
            }
            Err(CopyError::Target { status, .. }) => {
                drop(io);
                error!(mirror = name, place, %status, "the leg that is being rebuilt failed a write");
                self.drop_legs(1 << place, "it failed a write").await;
            }
            Err(CopyError::Unreadable { lba, status }) => {
                drop(io);
                error!(
                    mirror = name, place, %lba, %status,
                    "no leg can read a block: the rebuild cannot be completed"
                );
                self.drop_legs(1 << place, "its source cannot be read").await;
            }
        }
    }
}
