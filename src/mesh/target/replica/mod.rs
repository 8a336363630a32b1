//! One replica: sessions, I/O, its intent map, and its part in rounds.
//!
//! Every event is handled at once: the checks of an I/O and handing it to the drive are one step, so that nothing can change in between.
//! What has to wait keeps its place and is checked from the start when it goes on.

mod io;
mod mend;
mod peers;
mod rounds;
mod sessions;

use std::collections::BTreeSet;
use std::time::Duration;

use slab::Slab;

use super::effect::{Effect, Port};
use super::facts::{BackOff, Facts};
use super::joining::Joining;
use super::loading::Loading;
use super::pending::{Mending, Pending, Purpose, Verdict};
use super::regions::Regions;
use super::session::{Accepted, Session, Unconfirmed};
use super::sourcing::Sourcing;
use crate::base::{Time, Uuid};
use crate::mesh::disk::{DiskOperation, DiskResult, Ticket};
use crate::mesh::ids::{Generation, ReplicaId};
use crate::mesh::message::{CopyResult, Refused};
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::payload::Payload;
use crate::mesh::picture::{Command, Eviction, Evidence, ReplicaState, SyncStart};
use crate::mesh::story;

/// How often settled intent bits are looked for.
const CLEAN: Duration = Duration::from_secs(1);
/// How long a drive that failed to write a page of the map is left alone.
const BROKEN: Duration = Duration::from_secs(1);
/// A replica that gave up its drive does not come back before, in milliseconds.
const COMEBACK_OF_BAD_DRIVE_MS: u32 = 5000;
/// How often work that waits is looked at.
const TICK: Duration = Duration::from_millis(50);
/// Most I/O of a session at once; more ends the session.
pub(crate) const WINDOW: usize = 256;

/// One replica.
pub(super) struct Replica<P> {
    pub facts: Facts,
    life: u32,
    loading: Option<Loading>,
    regions: Regions,
    sessions: Vec<Session>,
    accepted: Slab<Accepted<P>>,
    /// Those of `accepted` that are not on the drive, in the order of their arrival.
    waiting: Vec<usize>,
    pending: Slab<Pending>,
    /// Operations of earlier epochs that have not ended.
    old: usize,
    unconfirmed: Vec<Unconfirmed>,
    zeroing: BTreeSet<u32>,
    joining: Option<Joining>,
    sourcing: Option<Sourcing>,
    mending: Option<Mending>,
    comeback: BackOff,
    giving_up: BackOff,
    /// The round waits for somebody who was already proposed to be left behind.
    stalled: bool,
    /// When the source of the round was last told that this joiner lives.
    alive_told: Time,
    /// The drive has failed an operation of the map: until then it is left alone, and nothing that needs a bit is written.
    broken: Option<Time>,
    cleaned: Time,
    last_client_io: Time,
    tick: Time,
    /// The timer that the target has set for it.
    pub timer_set: Time,
}

impl<P: Payload> Replica<P> {
    pub fn new(facts: Facts, life: u32, port: &mut Port<'_, P>) -> Self {
        let set = Uuid::new_v5(&facts.place.drive_uuid, &facts.replica.0.to_le_bytes());
        let layout = facts.place.layout;
        let mut replica = Replica {
            life,
            loading: None,
            regions: Regions::new(layout, set),
            facts,
            sessions: Vec::new(),
            accepted: Slab::new(),
            waiting: Vec::new(),
            pending: Slab::new(),
            old: 0,
            unconfirmed: Vec::new(),
            zeroing: BTreeSet::new(),
            joining: None,
            sourcing: None,
            mending: None,
            comeback: BackOff::new(port.now),
            giving_up: BackOff::new(port.now),
            stalled: false,
            alive_told: port.now,
            broken: None,
            cleaned: port.now,
            last_client_io: Time::ZERO,
            tick: port.now,
            timer_set: Time::NEVER,
        };
        replica.loading = Some(Loading::new(layout, set));
        for page in 0..layout.pages() {
            for copy in 0..2 {
                let Some(block) = replica.facts.place.page(page, copy) else { continue };
                let blocks = replica.facts.place.page_blocks();
                replica.start(
                    port,
                    Purpose::Load { page, copy },
                    DiskOperation::ReadMeta { block, blocks },
                );
            }
        }
        replica.follow_round(port);
        replica
    }

    /// Whether nothing that was accepted in an earlier epoch is under way.
    pub fn is_drained(&self) -> bool {
        self.old == 0
    }

    /// Whether the drive works on anything for it.
    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty()
    }

    pub fn next_timer(&self) -> Time {
        self.tick
    }

    /// It is not here any more.
    pub fn leave(&mut self, port: &mut Port<'_, P>) {
        self.end_sessions(port, |_| true, Refused::NotServed);
    }

    /// An operation has ended for which nobody waits any more.
    pub fn disk_while_leaving(&mut self, ticket: Ticket) {
        ticket.slot(self.life).and_then(|slot| self.pending.try_remove(slot));
    }

    /// The drive was reset: nothing is under way on it, and nobody need wait for it.
    pub fn forget_operations(&mut self) {
        self.pending.clear();
        self.old = 0;
    }

    /// The picture has changed for it.
    pub fn change(&mut self, port: &mut Port<'_, P>, facts: Facts) {
        let epoch_ends = facts.epoch != self.facts.epoch && kept(Rule::EpochCheck);
        let before = std::mem::replace(&mut self.facts, facts);
        if epoch_ends {
            for (_, pending) in &mut self.pending {
                self.old += usize::from(!pending.old);
                pending.old = true;
            }
            self.unconfirmed.clear();
            self.stop_mending();
            self.end_sessions(port, |_| true, Refused::StaleEpoch);
        }
        let facts = &self.facts;
        let gone: Vec<Generation> = before
            .attachments
            .iter()
            .map(|attachment| attachment.generation)
            .filter(|generation| facts.attachment(*generation).is_none())
            .collect();
        if !gone.is_empty() {
            self.unconfirmed.retain(|entry| !gone.contains(&entry.generation));
            self.end_sessions(
                port,
                |session| gone.contains(&session.generation),
                Refused::NotAttached,
            );
            gone.iter().for_each(|generation| self.regions.close_book(*generation));
        }
        self.follow_round(port);
        self.proceed(port);
    }

    fn put_on_drive(&mut self, port: &mut Port<'_, P>, slot: usize, operation: DiskOperation<P>) {
        self.accepted[slot].on_drive = true;
        self.start(port, Purpose::Io(slot), operation);
    }

    fn start(&mut self, port: &mut Port<'_, P>, purpose: Purpose, operation: DiskOperation<P>) {
        let slot = self.pending.insert(Pending { purpose, at: port.now, old: false });
        let ticket = Ticket::of(self.facts.replica, self.life, slot);
        port.out.push(Effect::Disk { drive: self.facts.place.drive_uuid, ticket, operation });
        self.tick = self.tick.min(port.now + TICK);
    }

    fn write_pages(&mut self, port: &mut Port<'_, P>) {
        if self.broken.is_some()
            || self.loading.as_ref().is_some_and(|loading| !loading.is_formatting())
        {
            return;
        }
        let formatting = self.loading.is_some();
        while !(formatting && self.regions.is_writing())
            && let Some((write, bytes)) = self.regions.next_page()
        {
            match self.facts.place.page(write.page, write.copy) {
                Some(block) => self.start(
                    port,
                    Purpose::Page(write),
                    DiskOperation::WriteMeta { block, bytes },
                ),
                None => self.regions.page_written(write, false),
            }
        }
    }

    /// An operation of the drive has ended.
    pub fn disk(&mut self, port: &mut Port<'_, P>, ticket: Ticket, result: DiskResult<P>) {
        let Some(pending) = ticket.slot(self.life).and_then(|slot| self.pending.try_remove(slot))
        else {
            return;
        };
        self.old -= usize::from(pending.old);
        match pending.purpose {
            Purpose::Io(slot) => self.io_ended(port, slot, result),
            Purpose::ZeroRegion(region) => {
                self.zeroing.remove(&region);
                match result {
                    DiskResult::Done => self.regions.want(region),
                    _ => self.give_up(port),
                }
            }
            Purpose::Page(write) => {
                let done = matches!(result, DiskResult::Done);
                self.regions.page_written(write, done);
                if !done {
                    self.broken = Some(port.now + BROKEN);
                    self.give_up(port);
                } else if self.loading.as_ref().is_some_and(Loading::is_formatting)
                    && self.regions.is_clean()
                {
                    self.loading = None;
                }
            }
            Purpose::Load { page, copy } => self.loaded(page, copy, result),
            Purpose::Lend { to, key, run, repair } => {
                let (result, payload) = match result {
                    DiskResult::Data(payload) => (CopyResult::Data, Some(payload)),
                    DiskResult::Unreadable => (CopyResult::Unreadable, None),
                    _ => (CopyResult::NotNow, None),
                };
                self.lend_answer(port, to, key, run, repair, result, payload);
            }
            Purpose::Copy(round) => {
                self.copy_ended(port, round, matches!(result, DiskResult::Done))
            }
            Purpose::Mend(run) => self.mend_ended(port, run, matches!(result, DiskResult::Done)),
        }
        self.proceed(port);
    }

    fn loaded(&mut self, page: u32, copy: u32, result: DiskResult<P>) {
        let Some(loading) = &mut self.loading else { return };
        match result {
            DiskResult::Meta(bytes) => loading.page(page, copy, Some(&bytes)),
            _ => loading.page(page, copy, None),
        }
        match loading.finish(&mut self.regions) {
            Some(true) => self.loading = None,
            Some(false) => self.regions.format(),
            None => {}
        }
    }

    /// The drive is not to be relied on: the replica leaves, if it may.
    fn give_up(&mut self, port: &mut Port<'_, P>) {
        if port.now < self.giving_up.at || !self.facts.state.is_written() {
            return;
        }
        self.giving_up.again(port.now);
        self.comeback.wait_ms = self.comeback.wait_ms.max(COMEBACK_OF_BAD_DRIVE_MS);
        port.story(story::Event::DriveGivenUp { replica: self.facts.replica });
        self.evict(port, self.facts.replica, Evidence::Device);
    }

    fn evict(&mut self, port: &mut Port<'_, P>, replica: ReplicaId, evidence: Evidence) {
        let eviction =
            Eviction { group: self.facts.group, epoch: self.facts.epoch, replica, evidence };
        port.propose(Command::Evict { proposer: port.node, evictions: vec![eviction] });
    }

    /// Goes on with whatever can go on.
    fn proceed(&mut self, port: &mut Port<'_, P>) {
        self.write_pages(port);
        self.go_live(port);
        self.join(port);
        let mut at = 0;
        while at < self.waiting.len() {
            let slot = self.waiting[at];
            let known = self.accepted.contains(slot);
            if known && matches!(self.try_start(port, slot), Verdict::Waits) {
                at += 1;
            } else if let Some(place) = self.waiting.iter().position(|waiting| *waiting == slot) {
                // Its session may have ended just now, and taken others along.
                self.waiting.remove(place);
                at = at.min(place);
            }
        }
        self.write_pages(port);
    }

    /// Looks after what has waited for too long.
    pub fn timer(&mut self, port: &mut Port<'_, P>) {
        let now = port.now;
        if now < self.tick {
            return;
        }
        self.tick = Time::NEVER;
        self.tell_held(port);
        let hangs =
            |(_, pending): (usize, &Pending)| now.since(pending.at) > port.timing.drive_timeout();
        if self.pending.iter().any(hangs) {
            self.give_up(port);
        }
        if let Some(until) = self.broken {
            self.broken.take_if(|until| now >= *until);
            self.tick = self.tick.min(until.max(now + TICK));
        }
        self.clean(port);
        self.come_back(port);
        self.look_after_round(port);
        self.look_after_mending(port);
        self.proceed(port);
        let busy = !self.pending.is_empty()
            || !self.waiting.is_empty()
            || !self.sessions.iter().all(|session| session.live);
        if busy
            || self.joining.is_some()
            || self.sourcing.is_some()
            || self.mending.is_some()
            || self.loading.is_some()
        {
            self.tick = self.tick.min(now + TICK);
        }
    }

    /// Takes back intent bits that nobody needs any more.
    fn clean(&mut self, port: &Port<'_, P>) {
        let dirty = self.regions.has_books() || self.regions.intent().iter().any(|word| *word != 0);
        if !dirty || self.loading.is_some() {
            return;
        }
        let due = self.cleaned + CLEAN;
        if port.now < due {
            self.tick = self.tick.min(due);
            return;
        }
        self.cleaned = port.now;
        self.tick = self.tick.min(port.now + CLEAN);
        if !port.lease && kept(Rule::S15) {
            return;
        }
        let whole = self.facts.whole;
        for session in self.sessions.iter().filter(|session| session.live) {
            self.regions.confirm(session.generation, session.watermark, whole);
        }
        let declared = |generation: Generation| {
            self.sessions.iter().any(|session| session.live && session.generation == generation)
        };
        if whole && self.old == 0 && self.facts.writers().all(|writer| declared(writer.generation))
        {
            self.regions.clear_settled();
        }
    }

    /// A replica that was left behind asks to be brought up to date, once nothing of its earlier life can reach the drive any more.
    fn come_back(&mut self, port: &mut Port<'_, P>) {
        if self.facts.state != ReplicaState::Stale
            || self.broken.is_some()
            || !self.regions.is_clean()
            || self.loading.is_some()
            || !self.pending.is_empty()
        {
            return;
        }
        if port.now >= self.comeback.at {
            self.comeback.again(port.now);
            let facts = &self.facts;
            let start = SyncStart {
                group: facts.group,
                epoch: facts.epoch,
                replica: facts.replica,
                incarnation: facts.incarnation,
            };
            port.propose(Command::BeginSync { proposer: port.node, syncs: vec![start] });
        }
        self.tick = self.tick.min(self.comeback.at);
    }
}
