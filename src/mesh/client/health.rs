//! What a client does about replicas that give no sign of life, or answer but do not serve; and all that is due at a time.
//!
//! A replica that owes an answer gets half an I/O time-out. Then all ways to it are tried at once. When the time-out is over, the way
//! that works is taken, or the replica's eviction is proposed; and so on with fresh attempts, as long as it lasts.

use super::effect::Effect;
use super::link::{Fault, Phase, Silence};
use super::machine::{Client, Life};
use super::piece::NOBODY;
use crate::base::Time;
use crate::mesh::message::ToTarget;
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::payload::Payload;
use crate::mesh::picture::{Command, Eviction, Evidence};
use crate::mesh::route::Route;
use crate::mesh::story;

impl<P: Payload> Client<P> {
    /// Does what is due. To be called at [`Client::next_timer`] or later; earlier does no harm.
    pub fn timer(&mut self, now: Time, effects: &mut Vec<Effect<P>>) {
        if now < self.wake || self.life == Life::Ended {
            return;
        }
        self.wake = Time::NEVER;
        let mut evictions = Vec::new();
        let looked_at = self.busy.len();
        for place in 0..looked_at {
            let g = self.busy[place] as usize;
            self.check_group(now, g, &mut evictions, effects);
        }
        self.propose(evictions, effects);
        // Groups that came in between are behind the ones looked at.
        let mut kept = 0;
        for place in 0..self.busy.len() {
            let g = self.busy[place];
            let due = self.group_due(g as usize);
            self.wake = self.wake.min(due);
            self.groups[g as usize].is_busy = due != Time::NEVER;
            if due != Time::NEVER {
                self.busy[kept] = g;
                kept += 1;
            }
        }
        self.busy.truncate(kept);
        self.give_up(now, effects);
    }

    fn check_group(
        &mut self,
        now: Time,
        g: usize,
        evictions: &mut Vec<Eviction>,
        effects: &mut Vec<Effect<P>>,
    ) {
        for l in 0..self.groups[g].links.len() {
            self.check_link(now, g, l, evictions, effects);
        }
        if self.groups[g].watermark_due <= now {
            self.tell_watermark(g, effects);
        }
        if self.groups[g].rest <= now {
            self.groups[g].rest = Time::NEVER;
            self.pump(now, g, effects);
        }
        if self.groups[g].fences.iter().any(|fence| fence.waiting.is_some() && !fence.passed) {
            // Also when what waited for it has to be answered again in a new epoch: its time is over all the same.
            self.is_fenced(now, g, effects);
            self.settle_all(now, g, effects);
        }
    }

    fn check_link(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        evictions: &mut Vec<Eviction>,
        effects: &mut Vec<Effect<P>>,
    ) {
        let timeout = self.timing.io_timeout();
        let link = &mut self.groups[g].links[l];
        match link.phase {
            Phase::Opening(again) if again <= now => {
                link.phase = Phase::Opening(now + timeout / 2);
                self.ask_open(g, l, effects);
            }
            Phase::Pausing(until) if until <= now => self.open(now, g, l, effects),
            Phase::Open if link.silence.failed == 0 => {
                let oldest = link.flight.oldest_heard();
                if oldest != Time::NEVER && oldest + timeout * 2 <= now {
                    // The replica lives, and has lost something.
                    self.open(now, g, l, effects);
                }
            }
            _ => {}
        }
        if self.groups[g].links[l].trouble.is_some_and(|trouble| trouble.due <= now) {
            evictions.extend(self.accuse(now, g, l, effects));
        }
        let silence = self.groups[g].links[l].silence;
        if silence.since == Time::NEVER {
            return;
        }
        if silence.since + timeout <= now && silence.probe != 0 {
            self.attempt_failed(now, g, l, evictions, effects);
        } else if silence.since + timeout / 2 <= now && silence.probe == 0 {
            self.probe(g, l, effects);
        }
    }

    /// When something of a group is due.
    fn group_due(&self, g: usize) -> Time {
        let timeout = self.timing.io_timeout();
        let group = &self.groups[g];
        let mut due = group.watermark_due.min(group.rest);
        for link in &group.links {
            due = match link.phase {
                Phase::Opening(time) | Phase::Pausing(time) => due.min(time),
                Phase::Open if link.silence.failed == 0 => {
                    due.min(link.flight.oldest_heard() + timeout * 2)
                }
                Phase::Open | Phase::Closed => due,
            };
            due = due.min(link.trouble.map_or(Time::NEVER, |trouble| trouble.due));
            let patience = if link.silence.probe == 0 { timeout / 2 } else { timeout };
            due = due.min(link.silence.since + patience);
        }
        let fences = group.fences.iter();
        let waited_for = fences.filter(|fence| fence.waiting.is_some() && !fence.passed);
        waited_for.map(|fence| fence.seen + self.fence_wait()).fold(due, Time::min)
    }

    /// Asks over all ways whether the replica's target is there.
    fn probe(&mut self, g: usize, l: usize, effects: &mut Vec<Effect<P>>) {
        self.probes += 1;
        let (key, probe) = (self.key(g, l), self.probes);
        let link = &mut self.groups[g].links[l];
        link.silence.probe = probe;
        let to = link.node;
        for route in self.paths[link.path as usize].worth_a_try(link.route) {
            let message = ToTarget::Ping { key, probe };
            effects.push(Effect::Send { to, route, message, payload: None });
        }
    }

    /// A ping of the present attempt was answered.
    pub(super) fn ponged(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        probe: u64,
        route: Route,
        effects: &mut Vec<Effect<P>>,
    ) {
        let link = &mut self.groups[g].links[l];
        if link.silence.since == Time::NEVER || link.silence.probe != probe || probe == 0 {
            return;
        }
        let was_lost = link.silence.failed > 0;
        match route == link.route {
            // What was sent while it could not be reached is lost.
            true if was_lost => {
                link.silence = Silence::NONE;
                self.paths[link.path as usize].preferred = route;
                self.open(now, g, l, effects);
            }
            true => link.sign_of_life(now, self.applied),
            false if was_lost => self.switch(now, g, l, route, effects),
            false => {
                let other =
                    link.silence.other.filter(|it| it.relays().len() <= route.relays().len());
                link.silence.other = Some(other.unwrap_or(route));
            }
        }
    }

    /// The I/O time-out is over without a sign of life over the way in use.
    fn attempt_failed(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        evictions: &mut Vec<Eviction>,
        effects: &mut Vec<Effect<P>>,
    ) {
        let link = &self.groups[g].links[l];
        if let Some(route) = link.silence.other {
            return self.switch(now, g, l, route, effects);
        }
        let tried = self.paths[link.path as usize].worth_a_try(link.route).collect();
        let evidence = Evidence::Unreachable { tried, since: link.silence.index };
        let failed = link.silence.failed;
        if failed == 0 {
            let replica = link.replica;
            effects.push(Effect::Story(story::Event::Unreachable { replica }));
        }
        evictions.extend(self.eviction(g, l, evidence, effects));
        let index = self.applied;
        self.groups[g].links[l].silence =
            Silence { since: now, index, probe: 0, other: None, failed: failed.saturating_add(1) };
        self.probe(g, l, effects);
        self.move_reads(now, g, l, effects);
        if !kept(Rule::S13) {
            self.drop_half_done(now, g, effects);
        }
    }

    /// Sends the reads that a silent replica has to others, if there are any that are well.
    fn move_reads(&mut self, now: Time, g: usize, l: usize, effects: &mut Vec<Effect<P>>) {
        let group = &self.groups[g];
        let is_well = |(at, link): (usize, &super::link::Link)| {
            let may_be_read = group.read_mask >> at & 1 != 0;
            may_be_read && link.phase == Phase::Open && link.silence.probe == 0
        };
        if !group.links.iter().enumerate().any(is_well) {
            return;
        }
        for entry in &group.queue {
            if let Some(piece) = self.pieces.get_mut(entry.piece)
                && piece.reader == l as u8
            {
                piece.reader = NOBODY;
            }
        }
        self.pump(now, g, effects);
    }

    /// The eviction of a replica that answers and does not serve, which is proposed again after a while.
    fn accuse(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        effects: &mut Vec<Effect<P>>,
    ) -> Option<Eviction> {
        let again = now + self.timing.io_timeout();
        let applied = self.applied;
        let trouble = self.groups[g].links[l].trouble.as_mut()?;
        let evidence = match trouble.fault {
            Fault::NotServing => Evidence::NotServing { since: trouble.index },
            Fault::Absent | Fault::Device => Evidence::Device,
        };
        trouble.due = again;
        trouble.index = applied;
        self.eviction(g, l, evidence, effects)
    }

    /// Proposes at once what is due for a replica.
    pub(super) fn propose_for(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        effects: &mut Vec<Effect<P>>,
    ) {
        if self.groups[g].links[l].trouble.is_some_and(|trouble| trouble.due <= now) {
            let eviction = self.accuse(now, g, l, effects);
            self.propose(eviction.into_iter().collect(), effects);
        }
    }

    /// An eviction, unless it is of the last holder: that is waited for, however long it takes.
    fn eviction(
        &mut self,
        g: usize,
        l: usize,
        evidence: Evidence,
        effects: &mut Vec<Effect<P>>,
    ) -> Option<Eviction> {
        let group = &mut self.groups[g];
        if group.holder_mask == 1 << l {
            if !group.is_blocked {
                group.is_blocked = true;
                effects.push(Effect::Story(story::Event::Blocked { group: group.id }));
            }
            return None;
        }
        let replica = group.links[l].replica;
        if !group.proposed.contains(&replica) {
            group.proposed.push(replica);
        }
        Some(Eviction { group: group.id, epoch: group.epoch, replica, evidence })
    }

    fn propose(&self, evictions: Vec<Eviction>, effects: &mut Vec<Effect<P>>) {
        if !evictions.is_empty() {
            let proposer = self.node;
            effects.push(Effect::Propose(Command::Evict { proposer, evictions }));
        }
    }

    /// Sends the watermark to replicas that do not know it.
    fn tell_watermark(&mut self, g: usize, effects: &mut Vec<Effect<P>>) {
        self.groups[g].watermark_due = Time::NEVER;
        let through = self.groups[g].settled(self.write_back);
        for l in 0..self.groups[g].links.len() {
            let key = self.key(g, l);
            let link = &mut self.groups[g].links[l];
            if link.phase != Phase::Open || link.told >= through {
                continue;
            }
            link.told = through;
            let message = ToTarget::Watermark { key, session: link.session, through };
            effects.push(Effect::Send { to: link.node, route: link.route, message, payload: None });
        }
    }

    /// Gives up the attachment once nothing is in flight, again and again until it is gone.
    pub(super) fn give_up(&mut self, now: Time, effects: &mut Vec<Effect<P>>) {
        let Life::Detaching(due) = self.life else { return };
        if !self.is_idle() {
            return;
        }
        let mut again = due;
        if due <= now {
            for g in 0..self.groups.len() {
                self.tell_watermark(g, effects);
            }
            let (volume, generation) = (self.volume, self.generation);
            effects.push(Effect::Propose(Command::Detach { volume, generation }));
            again = now + self.timing.io_timeout();
            self.life = Life::Detaching(again);
        }
        self.wake = self.wake.min(again);
    }
}
