//! Opening and ending sessions, and what comes in them.

use super::Replica;
use super::{TICK, WINDOW};
use crate::mesh::ids::{Generation, NodeId, Sequence, SessionNumber, WriteNumber};
use crate::mesh::message::{
    Io, IoResult, Message, Open, Operation, Refused, Sender, SessionKey, ToClient,
};
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::payload::Payload;
use crate::mesh::target::effect::{Effect, Port};
use crate::mesh::target::pending::Verdict;
use crate::mesh::target::session::{Accepted, Session, Unconfirmed};

impl<P: Payload> Replica<P> {
    pub(super) fn end_sessions(
        &mut self,
        port: &mut Port<'_, P>,
        which: impl Fn(&Session) -> bool,
        why: Refused,
    ) {
        let mut at = 0;
        while at < self.sessions.len() {
            if which(&self.sessions[at]) {
                let session = self.sessions.swap_remove(at);
                self.end_session(port, &session, why);
            } else {
                at += 1;
            }
        }
    }

    /// Nothing of the session is executed from here on, but what the drive works on. That is waited for before the next session.
    pub(super) fn end_session(&mut self, port: &mut Port<'_, P>, session: &Session, why: Refused) {
        let of_session = |accepted: &Accepted<P>| {
            accepted.io.key.generation == session.generation
                && accepted.io.session == session.number
        };
        for (_, accepted) in self.accepted.iter_mut().filter(|(_, accepted)| of_session(accepted)) {
            accepted.orphan = true;
        }
        let accepted = &mut self.accepted;
        self.waiting.retain(|slot| {
            let orphan = accepted.get(*slot).is_none_or(|accepted| accepted.orphan);
            if orphan && accepted.contains(*slot) {
                accepted.remove(*slot);
            }
            !orphan
        });
        self.refuse(port, session.client, session.generation, session.number, why);
    }

    pub(super) fn refuse(
        &mut self,
        port: &mut Port<'_, P>,
        to: Sender,
        generation: Generation,
        session: SessionNumber,
        why: Refused,
    ) {
        let key = self.key(generation);
        port.answer(to, ToClient::Refused { key, session, why, applied: self.facts.applied }, None);
    }

    pub(super) fn key(&self, generation: Generation) -> SessionKey {
        let (group, replica) = (self.facts.group, self.facts.replica);
        SessionKey { group, replica, generation }
    }

    /// A client wants a session.
    pub fn open(&mut self, port: &mut Port<'_, P>, from: Sender, open: Open) {
        let (generation, number) = (open.key.generation, open.session);
        if let Some(session) = self.session(generation) {
            if session.number > number {
                return;
            }
            if session.number == number {
                let live = session.live;
                session.client = from;
                if live {
                    port.answer(from, ToClient::Opened { key: open.key, session: number }, None);
                }
                return;
            }
        }
        if let Some(why) = self.objection(port, from.node, &open) {
            return self.refuse(port, from, generation, number, why);
        }
        if let Some(at) = self.sessions.iter().position(|session| session.generation == generation)
        {
            let session = self.sessions.swap_remove(at);
            self.end_session(port, &session, Refused::OldSession);
        }
        let shared = self.facts.is_shared_write();
        let (before, others) = std::mem::take(&mut self.unconfirmed)
            .into_iter()
            .partition(|entry| entry.generation == generation);
        self.unconfirmed = others;
        let before: Vec<Unconfirmed> = before;
        for &(number, run) in &open.unconfirmed {
            let Some(region) = self.region_of(&run) else { continue };
            self.regions.note(generation, number, region);
            if shared && kept(Rule::S10) {
                let done = before.iter().any(|entry| entry.number == number && entry.done);
                self.unconfirmed.push(Unconfirmed { generation, number, run, done });
            }
        }
        let next = Sequence(1);
        let watermark = open.watermark;
        self.sessions.push(Session {
            generation,
            client: from,
            number,
            live: false,
            next,
            watermark,
        });
        self.proceed(port);
    }

    /// Why a session cannot be opened now.
    pub(super) fn objection(
        &self,
        port: &Port<'_, P>,
        node: NodeId,
        open: &Open,
    ) -> Option<Refused> {
        let facts = &self.facts;
        if !port.lease {
            return Some(Refused::NoLease);
        }
        if kept(Rule::EpochCheck) && open.epoch != facts.epoch {
            return Some(if open.epoch > facts.epoch {
                Refused::Behind
            } else {
                Refused::StaleEpoch
            });
        }
        if open.incarnation != facts.incarnation && kept(Rule::IncarnationCheck) {
            return Some(if open.incarnation > facts.incarnation {
                Refused::Behind
            } else {
                Refused::StaleEpoch
            });
        }
        match facts.attachment(open.key.generation) {
            Some(attachment) if attachment.node == node => {}
            _ if open.key.generation.index() > facts.applied => return Some(Refused::Behind),
            _ => return Some(Refused::NotAttached),
        }
        let ready = self.loading.is_none() && facts.state.is_written();
        (!ready).then_some(Refused::NotServed)
    }

    pub(super) fn session(&mut self, generation: Generation) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.generation == generation)
    }

    /// A client's I/O.
    pub fn io(&mut self, port: &mut Port<'_, P>, from: Sender, io: Io, payload: Option<P>) {
        let (generation, number) = (io.key.generation, io.session);
        let Some(session) = self.session(generation) else {
            return self.refuse(port, from, generation, number, Refused::OldSession);
        };
        if number < session.number && kept(Rule::S2) {
            // The client has moved on.
            return;
        }
        if number > session.number {
            return self.refuse(port, from, generation, number, Refused::OldSession);
        }
        if !session.live || io.sequence < session.next && kept(Rule::S2) {
            return;
        }
        if io.sequence > session.next && kept(Rule::S2) {
            // Something on the way was lost: what has come before is executed, this and what follows is not.
            return self.close(port, generation, Refused::OldSession);
        }
        session.next.0 = io.sequence.0 + 1;
        session.watermark = session.watermark.max(io.watermark);
        let region = match io.operation.run() {
            Some(run) => self.region_of(&run),
            None => Some(0),
        };
        let complete = match (&io.operation, &payload) {
            (Operation::Write { run, .. }, Some(payload)) => payload.blocks() == run.blocks,
            (Operation::Write { .. }, None) => false,
            _ => true,
        };
        let Some(region) = region.filter(|_| complete) else {
            return self.done(port, from, &io, IoResult::Invalid, None);
        };
        if self.waiting.len() >= WINDOW {
            return self.close(port, generation, Refused::OldSession);
        }
        self.last_client_io = port.now;
        let held = port.now;
        let accepted = Accepted {
            io,
            from,
            payload,
            region,
            held,
            on_drive: false,
            round: None,
            orphan: false,
        };
        let slot = self.accepted.insert(accepted);
        self.tick = self.tick.min(port.now + TICK);
        if let Verdict::Waits = self.try_start(port, slot) {
            self.waiting.push(slot);
        }
        self.write_pages(port);
    }

    /// Everything up to this write of the attachment is on every copy.
    pub fn watermark(
        &mut self,
        generation: Generation,
        number: SessionNumber,
        through: WriteNumber,
    ) {
        if let Some(session) = self.session(generation)
            && session.number == number
        {
            session.watermark = session.watermark.max(through);
        }
    }

    pub(super) fn close(&mut self, port: &mut Port<'_, P>, generation: Generation, why: Refused) {
        if let Some(at) = self.sessions.iter().position(|session| session.generation == generation)
        {
            let session = self.sessions.swap_remove(at);
            self.end_session(port, &session, why);
        }
    }

    /// Tells clients of I/O that takes its time: they would take silence for a broken way.
    pub(super) fn tell_held(&mut self, port: &mut Port<'_, P>) {
        let pause = port.timing.io_timeout() / 3;
        let late = |accepted: &&mut Accepted<P>| {
            !accepted.orphan && port.now.since(accepted.held) >= pause
        };
        for accepted in self.accepted.iter_mut().map(|(_, accepted)| accepted).filter(late) {
            accepted.held = port.now;
            let (key, session, sequence) =
                (accepted.io.key, accepted.io.session, accepted.io.sequence);
            let (to, route) = (accepted.from.node, accepted.from.route.reversed());
            let message = Message::ToClient(ToClient::Held { key, session, sequence });
            port.out.push(Effect::Send { to, route, message, payload: None });
        }
    }

    /// Sessions are open once nothing of earlier ones is under way.
    pub(super) fn go_live(&mut self, port: &mut Port<'_, P>) {
        if self.old > 0 {
            return;
        }
        for at in 0..self.sessions.len() {
            let (generation, number) = (self.sessions[at].generation, self.sessions[at].number);
            let earlier = |accepted: &Accepted<P>| {
                accepted.io.key.generation == generation && accepted.io.session < number
            };
            if self.sessions[at].live || self.accepted.iter().any(|(_, accepted)| earlier(accepted))
            {
                continue;
            }
            self.sessions[at].live = true;
            let (key, to) = (self.key(generation), self.sessions[at].client);
            port.answer(to, ToClient::Opened { key, session: number }, None);
        }
    }
}
