//! From requests to pieces that have started, in an order in which no two that overlap are under way at once, and back to completions.
//!
//! Each group has one list of its unfinished pieces in the order of their submission, at most [`WINDOW`] long, and each piece counts
//! those before it that it has to wait for. Coming and going cost one pass over the list: at a depth of 128 about 5 KB of memory, read
//! in order. First come, first served: whoever waits keeps later ones waiting.

use super::effect::Effect;
use super::flight::WINDOW;
use super::group::{Access, Entry};
use super::machine::{Client, Life};
use super::piece::{Kind, Outcome, Pending, Stage, Work};
use super::slab::NONE;
use crate::base::Time;
use crate::mesh::ids::WriteNumber;
use crate::mesh::message::Run;
use crate::mesh::payload::Payload;
use crate::mesh::request::{Completion, Token};
use crate::mesh::story;

impl<P: Payload> Client<P> {
    /// Queues the pieces of a request.
    pub(super) fn enqueue_all(&mut self, now: Time, request: u32, effects: &mut Vec<Effect<P>>) {
        let mut slot = self.requests.get(request).map_or(NONE, |pending| pending.first);
        // No piece ends here: what is sent is answered later.
        while let Some(piece) = self.pieces.get(slot) {
            let (next, group) = (piece.next, piece.group as usize);
            if self.groups[group].queue.len() < WINDOW && self.groups[group].backlog.is_empty() {
                self.admit(now, group, slot, effects);
            } else {
                self.groups[group].backlog.push_back(slot);
            }
            slot = next;
        }
    }

    /// Takes a piece into the order of its group, and starts it unless it has to wait.
    fn admit(&mut self, now: Time, g: usize, slot: u32, effects: &mut Vec<Effect<P>>) {
        let Some(piece) = self.pieces.get_mut(slot) else { return };
        let entry = Entry { piece: slot, access: Access::of(piece.work), run: piece.run };
        let queue = &mut self.groups[g].queue;
        piece.blockers = queue.iter().filter(|earlier| earlier.conflicts(&entry)).count() as u32;
        if queue.capacity() == 0 {
            queue.reserve_exact(WINDOW);
        }
        queue.push(entry);
        if piece.blockers == 0 {
            self.start(now, g, slot, effects);
        }
    }

    fn start(&mut self, now: Time, g: usize, slot: u32, effects: &mut Vec<Effect<P>>) {
        let Some(piece) = self.pieces.get_mut(slot) else { return };
        piece.stage = Stage::Running;
        if piece.work.is_write() {
            self.groups[g].numbers += 1;
            piece.number = WriteNumber(self.groups[g].numbers);
        }
        if !self.groups[g].is_used {
            self.groups[g].is_used = true;
            self.open_all(now, g, effects);
        }
        self.advance(now, g, slot, effects);
    }

    /// What waited for the entry at this place need not any more. With `leave` the entry goes; else it stays and keeps nobody waiting.
    pub(super) fn release(
        &mut self,
        now: Time,
        g: usize,
        place: usize,
        leave: bool,
        effects: &mut Vec<Effect<P>>,
    ) {
        let entry = self.groups[g].queue[place];
        self.groups[g].queue[place].access = Access::None;
        let mut at = place + 1;
        if leave {
            self.groups[g].queue.remove(place);
            at = place;
        }
        while let Some(later) = self.groups[g].queue.get(at).copied() {
            at += 1;
            if !entry.conflicts(&later) {
                continue;
            }
            let Some(piece) = self.pieces.get_mut(later.piece) else { continue };
            piece.blockers = piece.blockers.saturating_sub(1);
            if piece.blockers == 0 && piece.stage == Stage::Waiting {
                self.start(now, g, later.piece, effects);
            }
        }
        while self.groups[g].queue.len() < WINDOW {
            let Some(slot) = self.groups[g].backlog.pop_front() else { break };
            self.admit(now, g, slot, effects);
        }
    }

    /// A piece has ended for its request.
    pub(super) fn piece_ended(
        &mut self,
        now: Time,
        slot: u32,
        outcome: Outcome,
        effects: &mut Vec<Effect<P>>,
    ) {
        let confirms = self.mode_confirms();
        let Some(piece) = self.pieces.get_mut(slot) else { return };
        let request = piece.request;
        if piece.work == Work::Confirm || piece.stage == Stage::Ended {
            return;
        }
        if confirms && piece.work.is_write() {
            piece.payload = None;
            piece.work = Work::Confirm;
            piece.sent = 0;
            piece.answered = 0;
        } else {
            piece.stage = Stage::Ended;
        }
        let Some(pending) = self.requests.get_mut(request) else { return };
        pending.outcome = pending.outcome.max(outcome);
        pending.left -= 1;
        if pending.left == 0 {
            self.complete(now, request, effects);
        }
    }

    /// All pieces of a request have ended.
    fn complete(&mut self, now: Time, request: u32, effects: &mut Vec<Effect<P>>) {
        let Some(pending) = self.requests.remove(request) else { return };
        let mut data = match pending.kind {
            Kind::Read => self.list(),
            Kind::Write | Kind::Flush => Vec::new(),
        };
        let mut slot = pending.first;
        let mut group = 0;
        while let Some(piece) = self.pieces.get_mut(slot) {
            let next = piece.next;
            group = piece.group;
            if pending.kind == Kind::Read {
                data.extend(piece.payload.take());
            }
            piece.request = NONE;
            if piece.stage == Stage::Ended {
                self.pieces.remove(slot);
            }
            slot = next;
        }
        let took = now.since(pending.submitted);
        if took > self.timing.io_timeout() && pending.first != NONE {
            let (volume, group) = (self.volume, self.groups[group as usize].id);
            effects.push(Effect::Story(story::Event::Stalled { volume, group, took }));
        }
        effects.push(Effect::Complete {
            token: pending.token,
            completion: completion(pending.outcome, pending.kind, data),
        });
        if pending.kind == Kind::Write {
            self.writes -= 1;
            self.write_ended(now, &pending, effects);
        }
        self.give_up(now, effects);
    }

    /// Takes a flush. What a write-through volume has answered is stable: a flush waits for the writes before it, no more.
    pub(super) fn submit_flush(&mut self, now: Time, token: Token, effects: &mut Vec<Effect<P>>) {
        let writes = self.writes;
        let request = self.add_request(now, token, Kind::Flush);
        if let Some(pending) = self.requests.get_mut(request) {
            pending.left = writes;
        }
        if writes > 0 {
            self.flushes.push(request);
        } else {
            self.flush(now, request, effects);
        }
    }

    /// A write has ended: flushes that came after it need not wait for it any more.
    fn write_ended(&mut self, now: Time, write: &Pending, effects: &mut Vec<Effect<P>>) {
        let mut place = 0;
        while let Some(&request) = self.flushes.get(place) {
            place += 1;
            let Some(flush) = self.requests.get_mut(request) else { continue };
            if flush.order < write.order {
                continue;
            }
            flush.left -= 1;
            if flush.left == 0 {
                place -= 1;
                self.flushes.remove(place);
                self.flush(now, request, effects);
            }
        }
    }

    /// The writes before a flush have ended. In a write-back volume the groups that were written to since are flushed.
    fn flush(&mut self, now: Time, request: u32, effects: &mut Vec<Effect<P>>) {
        let mut last = NONE;
        for g in 0..self.groups.len() {
            let through = self.groups[g].numbers;
            if self.write_back && through > self.groups[g].flushed {
                let (work, run) = (Work::Flush { through }, Run { first: 0, blocks: 0 });
                last = self.add_piece(request, last, g as u32, work, run, None);
            }
        }
        if last == NONE {
            self.complete(now, request, effects);
        } else {
            self.enqueue_all(now, request, effects);
        }
    }

    /// The attachment is gone: all requests end.
    pub(super) fn end(&mut self, effects: &mut Vec<Effect<P>>) {
        self.life = Life::Ended;
        self.wake = Time::NEVER;
        let completion = |pending: &Pending| Effect::Complete {
            token: pending.token,
            completion: Completion::Detached,
        };
        effects.extend(self.requests.iter().map(completion));
        self.requests.clear();
        self.pieces.clear();
        self.flushes.clear();
        self.busy.clear();
        self.groups.clear();
        self.places.clear();
        let (volume, generation) = (self.volume, self.generation);
        effects.push(Effect::Story(story::Event::Detached { volume, generation }));
        effects.push(Effect::Ended);
    }
}

fn completion<P>(outcome: Outcome, kind: Kind, data: Vec<P>) -> Completion<P> {
    match (outcome, kind) {
        (Outcome::Done, Kind::Read) => Completion::Data(data),
        (Outcome::Done, Kind::Write | Kind::Flush) => Completion::Done,
        (Outcome::Unreadable, _) => Completion::Unreadable,
        (Outcome::Invalid, _) => Completion::Invalid,
        (Outcome::Detached, _) => Completion::Detached,
    }
}
