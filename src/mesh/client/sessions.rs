//! Sessions with replicas: opened, lost, refused, and opened again with a higher number.

use super::effect::Effect;
use super::io::Answer;
use super::link::{Fault, Phase, Silence, Trouble};
use super::machine::Client;
use super::piece::{NOBODY, Outcome, Stage};
use crate::base::Time;
use crate::mesh::ids::{SessionNumber, WriteNumber};
use crate::mesh::message::{IoResult, Open, Refused, Run, Sender, ToClient, ToTarget};
use crate::mesh::payload::Payload;
use crate::mesh::route::Route;
use crate::mesh::story;

impl<P: Payload> Client<P> {
    /// Takes a message of a target. What is not about a current session is passed over.
    pub fn message(
        &mut self,
        now: Time,
        from: Sender,
        message: ToClient,
        payload: Option<P>,
        effects: &mut Vec<Effect<P>>,
    ) {
        let key = match message {
            ToClient::Opened { key, .. }
            | ToClient::Refused { key, .. }
            | ToClient::Done { key, .. }
            | ToClient::Held { key, .. }
            | ToClient::Pong { key, .. } => key,
        };
        if key.generation != self.generation {
            return;
        }
        let Ok(place) = self.places.binary_search_by_key(&key.group, |(id, _)| *id) else { return };
        let g = self.places[place].1 as usize;
        let Some(l) = self.groups[g].link_of(key.replica) else { return };
        let link = &mut self.groups[g].links[l];
        if link.node != from.node {
            return;
        }
        let is_open = link.phase == Phase::Open;
        let is_opening = matches!(link.phase, Phase::Opening(_));
        match message {
            ToClient::Opened { session, .. } if is_opening && session == link.session => {
                self.opened(now, g, l, effects);
            }
            ToClient::Refused { session, why, .. }
                if (is_open || is_opening) && session == link.session =>
            {
                self.refused(now, g, l, why, effects);
            }
            ToClient::Done { session, sequence, result, .. }
                if is_open && session == link.session =>
            {
                let Some(sent) = link.flight.take(sequence) else { return };
                link.sign_of_life(now, self.applied);
                if let IoResult::Refused(why) = result {
                    return self.refused(now, g, l, why, effects);
                }
                self.answered(now, g, l, Answer { sent, result, payload }, effects);
                self.feed(now, g, l, effects);
            }
            ToClient::Held { session, sequence, .. } if is_open && session == link.session => {
                link.flight.held(sequence, now);
                link.sign_of_life(now, self.applied);
            }
            ToClient::Pong { probe, .. } => {
                self.ponged(now, g, l, probe, from.route.reversed(), effects);
            }
            _ => {}
        }
    }

    /// Sends what waited for room in a session.
    fn feed(&mut self, now: Time, g: usize, l: usize, effects: &mut Vec<Effect<P>>) {
        // The answer may have changed the group's links.
        let Some(link) = self.groups.get_mut(g).and_then(|group| group.links.get_mut(l)) else {
            return;
        };
        if link.starved && link.flight.has_room() {
            link.starved = false;
            self.pump(now, g, effects);
        }
    }

    /// Opens a session with each replica of a group that has none.
    pub(super) fn open_all(&mut self, now: Time, g: usize, effects: &mut Vec<Effect<P>>) {
        for l in 0..self.groups[g].links.len() {
            if self.groups[g].links[l].phase == Phase::Closed {
                self.open(now, g, l, effects);
            }
        }
    }

    /// Opens a session, higher than all before, over the way that is preferred now. What the last one had in flight is sent again in it.
    pub(super) fn open(&mut self, now: Time, g: usize, l: usize, effects: &mut Vec<Effect<P>>) {
        self.unsend(g, l);
        self.sessions += 1;
        let again = now + self.timing.io_timeout() / 2;
        let link = &mut self.groups[g].links[l];
        if link.incarnation.is_none() {
            return self.absent(now, g, l);
        }
        link.session = SessionNumber(self.sessions);
        link.route = self.paths[link.path as usize].preferred;
        link.phase = Phase::Opening(again);
        link.expect(now, self.applied);
        self.ask_open(g, l, effects);
        self.wake_at(g, again);
    }

    /// A drive that was never opened, or is gone: there is nobody to ask.
    fn absent(&mut self, now: Time, g: usize, l: usize) {
        self.trouble(now, g, l, Fault::Absent);
        let until = now + self.timing.io_timeout();
        self.groups[g].links[l].phase = Phase::Pausing(until);
        self.wake_at(g, until);
    }

    /// Asks for the session (again).
    pub(super) fn ask_open(&mut self, g: usize, l: usize, effects: &mut Vec<Effect<P>>) {
        let unconfirmed = if self.mode_confirms() { self.unconfirmed(g) } else { Vec::new() };
        let group = &self.groups[g];
        let link = &group.links[l];
        let Some(incarnation) = link.incarnation else { return };
        let message = ToTarget::Open(Open {
            key: self.key(g, l),
            session: link.session,
            epoch: group.epoch,
            incarnation,
            unconfirmed,
            watermark: group.watermark,
        });
        effects.push(Effect::Send { to: link.node, route: link.route, message, payload: None });
    }

    /// Writes that have started and have not been answered by all.
    fn unconfirmed(&self, g: usize) -> Vec<(WriteNumber, Run)> {
        let pieces = self.groups[g].queue.iter().filter_map(|entry| self.pieces.get(entry.piece));
        pieces
            .filter(|piece| piece.work.is_write() && piece.stage == Stage::Running)
            .map(|piece| (piece.number, piece.run))
            .collect()
    }

    /// What the session has in flight counts as not sent.
    pub(super) fn unsend(&mut self, g: usize, l: usize) {
        let group = &mut self.groups[g];
        let link = &mut group.links[l];
        link.starved = false;
        if link.flight.is_empty() {
            return;
        }
        link.flight.forget();
        for entry in &group.queue {
            let Some(piece) = self.pieces.get_mut(entry.piece) else { continue };
            piece.sent &= !(1 << l);
            if piece.reader == l as u8 {
                piece.reader = NOBODY;
            }
        }
    }

    fn opened(&mut self, now: Time, g: usize, l: usize, effects: &mut Vec<Effect<P>>) {
        let group = &mut self.groups[g];
        let link = &mut group.links[l];
        link.phase = Phase::Open;
        link.flight.restart();
        link.refusals = 0;
        link.silence = Silence::NONE;
        link.trouble = link.trouble.take_if(|trouble| trouble.fault == Fault::Device);
        group.is_blocked = false;
        let (replica, epoch) = (link.replica, group.epoch);
        if let Some(incarnation) = link.incarnation
            && !group.opened.contains(&(replica, incarnation))
        {
            group.opened.push((replica, incarnation));
        }
        let group = group.id;
        effects.push(Effect::Story(story::Event::SessionOpen { group, replica, epoch }));
        self.pump(now, g, effects);
        // It may have been what a fence waited for.
        self.settle_all(now, g, effects);
    }

    /// The target does not serve the session, or does not any more.
    fn refused(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        why: Refused,
        effects: &mut Vec<Effect<P>>,
    ) {
        match why {
            Refused::NoLease | Refused::Behind => self.trouble(now, g, l, Fault::NotServing),
            Refused::NotServed => self.trouble(now, g, l, Fault::Absent),
            // The picture will tell.
            Refused::StaleEpoch | Refused::NotAttached | Refused::OldSession => {}
        }
        let refusals = self.groups[g].links[l].refusals;
        self.groups[g].links[l].refusals = refusals.saturating_add(1);
        let pause = self.timing.io_timeout() / 8 * (1 << refusals.min(2));
        self.pause(now, g, l, now + pause, effects);
    }

    /// Ends a session until a moment, and lets reads go elsewhere.
    fn pause(&mut self, now: Time, g: usize, l: usize, until: Time, effects: &mut Vec<Effect<P>>) {
        self.unsend(g, l);
        let link = &mut self.groups[g].links[l];
        link.phase = Phase::Pausing(until);
        link.silence = Silence::NONE;
        self.wake_at(g, until);
        self.pump(now, g, effects);
    }

    /// Notes what is wrong with a replica that answers.
    fn trouble(&mut self, now: Time, g: usize, l: usize, fault: Fault) {
        let due = now + self.timing.io_timeout() + self.timing.lease();
        let link = &mut self.groups[g].links[l];
        if link.trouble.is_none_or(|trouble| trouble.fault != fault) {
            link.trouble = Some(Trouble { fault, index: self.applied, due });
            self.wake_at(g, due);
        }
    }

    /// A replica's drive has failed a write: it is left behind, if it can be.
    pub(super) fn device_failed(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        effects: &mut Vec<Effect<P>>,
    ) {
        let link = &mut self.groups[g].links[l];
        if link.trouble.is_none_or(|trouble| trouble.fault != Fault::Device) {
            link.trouble = Some(Trouble { fault: Fault::Device, index: self.applied, due: now });
        }
        let until = now + self.timing.io_timeout() / 2;
        self.pause(now, g, l, until, effects);
        self.propose_for(now, g, l, effects);
    }

    /// Reaches a replica another way from here on.
    pub(super) fn switch(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        route: Route,
        effects: &mut Vec<Effect<P>>,
    ) {
        let link = &mut self.groups[g].links[l];
        self.paths[link.path as usize].preferred = route;
        link.silence = Silence::NONE;
        let to = link.node;
        effects.push(Effect::Story(story::Event::Routed { to, route }));
        if link.phase == Phase::Open
            && !crate::mesh::mutations::kept(crate::mesh::mutations::Rule::S2)
        {
            link.route = route;
            self.unsend(g, l);
            return self.pump(now, g, effects);
        }
        self.open(now, g, l, effects);
    }

    /// For who looks for what breaks without S13: writes that some replicas have and others lack are given up.
    pub(super) fn drop_half_done(&mut self, now: Time, g: usize, effects: &mut Vec<Effect<P>>) {
        let half_done = |client: &Client<P>| {
            let pieces = client.groups[g].queue.iter();
            let mut pieces = pieces.filter(|entry| {
                client.pieces.get(entry.piece).is_some_and(|piece| {
                    let is_write = piece.work.is_write() && piece.stage == Stage::Running;
                    is_write && piece.answered != 0
                })
            });
            pieces.next().map(|entry| entry.piece)
        };
        while let Some(slot) = half_done(self) {
            self.finish(now, g, slot, Outcome::Detached, effects);
        }
    }
}
