//! The path of a piece: sent to those that must have it, and settled when they have answered.

use super::effect::Effect;
use super::flight::Sent;
use super::link::Phase;
use super::machine::Client;
use super::piece::{NOBODY, Outcome, Stage, Work};
use super::slab::NONE;
use crate::base::Time;
use crate::mesh::ids::WriteNumber;
use crate::mesh::message::{Io, IoResult, ToTarget};
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::payload::Payload;
use crate::mesh::picture::AttachMode;

/// How long after the last write the watermark is sent by itself, in milliseconds.
const WATERMARK_MS: u64 = 100;

/// Turns over all replicas after which a read gives up, if one of them cannot read the blocks and the others may not be read.
const TURNS_MAX: u32 = 8;

/// What a replica has answered.
pub(super) struct Answer<P> {
    /// To what.
    pub sent: Sent,
    /// What.
    pub result: IoResult,
    /// What was read.
    pub payload: Option<P>,
}

impl<P: Payload> Client<P> {
    /// Whether other clients wait until this one has confirmed its writes.
    pub(super) fn mode_confirms(&self) -> bool {
        self.mode == AttachMode::SharedWrite
    }

    /// Sends a piece that has started to whom it can be sent now.
    pub(super) fn advance(&mut self, now: Time, g: usize, slot: u32, effects: &mut Vec<Effect<P>>) {
        let Some(piece) = self.pieces.get(slot) else { return };
        if piece.stage != Stage::Running {
            return;
        }
        if piece.work == Work::Read {
            return self.advance_read(now, g, slot, effects);
        }
        let group = &self.groups[g];
        let mut wanted = group.write_mask & !piece.sent & !piece.answered;
        if self.mode_confirms() && piece.work.is_write() && kept(Rule::S10) {
            // The first replica orders the writes of different clients.
            let Some(first) = group.first.map(|first| 1 << first) else { return };
            if piece.answered & first == 0 {
                wanted &= first;
            }
        }
        while wanted != 0 {
            let l = wanted.trailing_zeros() as usize;
            wanted &= wanted - 1;
            self.send(now, g, l, slot, effects);
        }
    }

    /// Sends a piece to a replica, if its session is open and has room. Says whether it did.
    fn send(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        slot: u32,
        effects: &mut Vec<Effect<P>>,
    ) -> bool {
        let (key, applied) = (self.key(g, l), self.applied);
        let Some(piece) = self.pieces.get_mut(slot) else { return false };
        let group = &mut self.groups[g];
        let settled = group.settled(self.write_back);
        let link = &mut group.links[l];
        match link.phase {
            Phase::Closed => {
                self.open(now, g, l, effects);
                return false;
            }
            Phase::Opening(_) | Phase::Pausing(_) => return false,
            Phase::Open => {}
        }
        let is_detour = link.route != self.paths[link.path as usize].preferred;
        if is_detour && link.flight.is_empty() {
            self.open(now, g, l, effects);
            return false;
        }
        if !link.flight.has_room() {
            link.starved = true;
            return false;
        }
        piece.sent |= 1 << l;
        let blocks = piece.run.blocks;
        let sequence =
            link.flight.push(Sent { piece: slot, order: piece.order, heard: now, blocks });
        link.told = settled;
        link.expect(now, applied);
        let probe_at = link.silence.since + self.timing.io_timeout() / 2;
        let io = Io {
            key,
            session: link.session,
            sequence,
            watermark: settled,
            operation: piece.operation(),
        };
        let payload = if piece.work == Work::Write { piece.payload.clone() } else { None };
        let (to, route, message) = (link.node, link.route, ToTarget::Io(io));
        effects.push(Effect::Send { to, route, message, payload });
        // A probe that is due already has its timer.
        if probe_at > now {
            self.wake_at(g, probe_at);
        }
        true
    }

    /// Sends a read to the best replica that has not been tried.
    fn advance_read(&mut self, now: Time, g: usize, slot: u32, effects: &mut Vec<Effect<P>>) {
        let Some(piece) = self.pieces.get(slot) else { return };
        if piece.answered != 0 || piece.reader != NOBODY {
            return;
        }
        if piece.rest > now {
            // The group's rest was over for another piece: this one is to be looked at again as well.
            return self.rest_until(g, piece.rest);
        }
        let group = &self.groups[g];
        let mut candidates = group.read_mask & !piece.tried;
        if candidates == 0 {
            // Those that may not be read now may find that they can.
            candidates = group.holder_mask & !piece.tried;
        }
        if candidates == 0 {
            return self.end_turn(now, g, slot, effects);
        }
        let mut best: Option<(bool, u64, bool, usize)> = None;
        for (l, link) in group.links.iter().enumerate().filter(|(l, _)| candidates >> l & 1 != 0) {
            if link.phase == Phase::Closed || link.phase == Phase::Open {
                let doubtful = link.phase != Phase::Open || link.silence.probe != 0;
                let rank = (doubtful, link.flight.blocks(), link.node != self.node, l);
                best = best.map_or(Some(rank), |best| Some(best.min(rank)));
            }
        }
        let Some((.., l)) = best else { return };
        if self.send(now, g, l, slot, effects)
            && let Some(piece) = self.pieces.get_mut(slot)
        {
            piece.reader = l as u8;
        }
    }

    /// No replica is left that a read could be sent to: it has failed, or begins again after a while.
    fn end_turn(&mut self, now: Time, g: usize, slot: u32, effects: &mut Vec<Effect<P>>) {
        let group = &self.groups[g];
        let Some(piece) = self.pieces.get_mut(slot) else { return };
        let all_bad = group.holder_mask != 0 && group.holder_mask & !piece.bad == 0;
        if all_bad || (piece.bad != 0 && piece.turns >= TURNS_MAX) {
            return self.finish(now, g, slot, Outcome::Unreadable, effects);
        }
        piece.turns += 1;
        piece.tried = piece.bad;
        if piece.turns % 2 == 0 || group.read_mask & !piece.bad == 0 {
            // A replica is mended from another: what it could not read it may read by now.
            piece.tried = 0;
        }
        piece.rest = now + self.timing.io_timeout() / 4;
        let rest = piece.rest;
        self.rest_until(g, rest);
    }

    /// Looks at the pieces of a group that rest at this time, if none is due earlier.
    fn rest_until(&mut self, g: usize, rest: Time) {
        self.groups[g].rest = self.groups[g].rest.min(rest);
        self.wake_at(g, rest);
    }

    /// A replica has answered a piece.
    pub(super) fn answered(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        answer: Answer<P>,
        effects: &mut Vec<Effect<P>>,
    ) {
        let Answer { sent, result, payload } = answer;
        let bit = 1 << l;
        let Some(piece) = self.pieces.get_mut(sent.piece) else { return };
        if piece.order != sent.order || piece.stage != Stage::Running {
            // It was answered by another replica before.
            return;
        }
        match (piece.work, result) {
            (_, IoResult::Invalid) => {
                self.finish(now, g, sent.piece, Outcome::Invalid, effects);
            }
            (Work::Read, IoResult::Done)
                if payload.as_ref().is_none_or(|payload| payload.blocks() == piece.run.blocks) =>
            {
                // Blocks that were never written come without a payload.
                piece.payload = payload.or_else(|| Some(P::zeroes(piece.run.blocks)));
                piece.answered |= bit;
                self.settle(now, g, sent.piece, effects);
            }
            (Work::Read, _) => {
                piece.tried |= bit;
                // A drive that failed may be back, or be left behind; blocks that it cannot read stay so.
                if result == IoResult::Unreadable {
                    piece.bad |= bit;
                }
                if piece.reader == l as u8 {
                    piece.reader = NOBODY;
                    piece.sent &= !bit;
                }
                self.advance(now, g, sent.piece, effects);
            }
            (_, IoResult::Done) => {
                piece.answered |= bit;
                let to_others = self.mode_confirms() && self.groups[g].first == Some(l);
                if to_others {
                    self.advance(now, g, sent.piece, effects);
                }
                self.settle(now, g, sent.piece, effects);
            }
            // A write that a replica would not do for another reason than its session is one that its drive failed.
            (_, _) => self.device_failed(now, g, l, effects),
        }
    }

    /// Ends a piece if all have answered it whose answer it needs.
    pub(super) fn settle(&mut self, now: Time, g: usize, slot: u32, effects: &mut Vec<Effect<P>>) {
        let Some(piece) = self.pieces.get(slot) else { return };
        let mask = self.groups[g].write_mask;
        let all = mask != 0 && piece.answered & mask == mask;
        let is_answered = match piece.work {
            _ if piece.stage != Stage::Running => false,
            Work::Read => piece.answered != 0,
            Work::Write | Work::Zero { .. } => {
                all || (piece.answered != 0 && !kept(Rule::AckByAll))
            }
            Work::Flush { .. } | Work::Confirm => all,
        };
        let must_be_fenced = piece.work == Work::Read || piece.work.is_write();
        if is_answered && (!must_be_fenced || self.is_fenced(now, g, effects)) {
            self.finish(now, g, slot, Outcome::Done, effects);
        }
    }

    /// Ends a piece.
    pub(super) fn finish(
        &mut self,
        now: Time,
        g: usize,
        slot: u32,
        outcome: Outcome,
        effects: &mut Vec<Effect<P>>,
    ) {
        let Some(place) = self.groups[g].place_of(slot) else { return };
        let Some(piece) = self.pieces.get_mut(slot) else { return };
        let (work, number) = (piece.work, piece.number);
        match work {
            Work::Confirm => {
                piece.stage = Stage::Ended;
                if piece.request == NONE {
                    self.pieces.remove(slot);
                }
                let entry = self.leave(g, place, true);
                self.release(now, g, place, entry, effects);
                return self.give_up(now, effects);
            }
            Work::Flush { through } => {
                self.groups[g].flushed = self.groups[g].flushed.max(through);
            }
            Work::Read | Work::Write | Work::Zero { .. } => {}
        }
        if work.is_write() {
            self.raise_watermark(now, g, slot, number);
        }
        let confirms = work.is_write() && self.mode_confirms();
        let entry = self.leave(g, place, !confirms);
        self.piece_ended(now, slot, outcome, effects);
        self.release(now, g, place + usize::from(confirms), entry, effects);
        if confirms {
            self.advance(now, g, slot, effects);
        }
    }

    /// A write has been answered by all: the watermark is below the first that has not.
    fn raise_watermark(&mut self, now: Time, g: usize, ended: u32, number: WriteNumber) {
        let group = &mut self.groups[g];
        if !kept(Rule::S15) {
            group.watermark = group.watermark.max(number);
        } else if number.0 == group.watermark.0 + 1 {
            let others = group.queue.iter().filter(|entry| entry.piece != ended);
            let unfinished = others.filter_map(|entry| self.pieces.get(entry.piece));
            let unfinished = unfinished.filter(|piece| piece.work.is_write() && piece.number.0 > 0);
            let lowest = unfinished.map(|piece| piece.number.0).min();
            group.watermark = WriteNumber(lowest.map_or(group.numbers, |lowest| lowest - 1));
        }
        let due = now + std::time::Duration::from_millis(WATERMARK_MS);
        group.watermark_due = due;
        self.wake_at(g, due);
    }

    /// Sends whatever of a group can be sent.
    pub(super) fn pump(&mut self, now: Time, g: usize, effects: &mut Vec<Effect<P>>) {
        let mut place = 0;
        while let Some(entry) = self.groups[g].queue.get(place).copied() {
            self.advance(now, g, entry.piece, effects);
            // A read that failed has left the queue.
            place += usize::from(
                self.groups[g].queue.get(place).is_some_and(|same| same.piece == entry.piece),
            );
        }
    }

    /// Ends whatever of a group has been answered.
    pub(super) fn settle_all(&mut self, now: Time, g: usize, effects: &mut Vec<Effect<P>>) {
        let mut place = 0;
        while let Some(entry) = self.groups[g].queue.get(place).copied() {
            self.settle(now, g, entry.piece, effects);
            place += usize::from(
                self.groups[g].queue.get(place).is_some_and(|same| same.piece == entry.piece),
            );
        }
    }
}
