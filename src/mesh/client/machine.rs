//! The client of one attached volume: its state, and what its user calls.

use super::effect::Effect;
use super::flight::WINDOW;
use super::group::Group;
use super::layout::Layout;
use super::path::Path;
use super::piece::{Kind, Outcome, Pending, Piece, Work};
use super::slab::{NONE, Slab};
use super::view::View;
use crate::base::Time;
use crate::mesh::ids::{Generation, GroupId, Index, NodeId, VolumeId};
use crate::mesh::message::{Run, SessionKey};
use crate::mesh::payload::Payload;
use crate::mesh::picture::{AttachMode, Timing};
use crate::mesh::request::{Completion, Request, Token};
use crate::mesh::story;

/// Slots for requests and pieces that are there from the start.
const SLOTS: usize = 2 * WINDOW;

/// Where an attachment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// In use.
    Attached,
    /// No new requests; when all have ended it is given up, and at this time again.
    Detaching(Time),
    /// Gone from the picture.
    Ended,
}

/// One node's use of one attached volume, for as long as the attachment lasts.
pub struct Client<P> {
    pub(super) node: NodeId,
    pub(super) volume: VolumeId,
    pub(super) generation: Generation,
    pub(super) mode: AttachMode,
    pub(super) write_back: bool,
    pub(super) timing: Timing,
    pub(super) applied: Index,
    pub(super) layout: Layout,
    pub(super) groups: Vec<Group>,
    /// Places of the groups, by number.
    pub(super) places: Vec<(GroupId, u32)>,
    pub(super) paths: Vec<Path>,
    pub(super) requests: Slab<Pending>,
    pub(super) pieces: Slab<Piece<P>>,
    /// Flushes that wait for the writes before them, in order.
    pub(super) flushes: Vec<u32>,
    pub(super) writes: usize,
    /// The last number that a request or a piece got.
    pub(super) orders: u64,
    /// The last number that a session got.
    pub(super) sessions: u64,
    /// The last number that pings got.
    pub(super) probes: u64,
    pub(super) life: Life,
    /// Groups with timers.
    pub(super) busy: Vec<u32>,
    /// No timer is due before this.
    pub(super) wake: Time,
    /// Lists of reads that were given back.
    spare: Vec<Vec<P>>,
}

impl<P: Payload> Client<P> {
    /// A client of an attachment that the picture has, made by `node`; `None` if it has none of this number.
    pub fn new(
        node: NodeId,
        volume: VolumeId,
        generation: Generation,
        picture: &impl View,
        now: Time,
        effects: &mut Vec<Effect<P>>,
    ) -> Option<Client<P>> {
        let facts = picture.volume(volume)?;
        let attachment = facts.attachment(generation).filter(|made| made.node == node)?;
        let mut client = Client {
            node,
            volume,
            generation,
            mode: attachment.mode,
            write_back: facts.spec.write_back,
            timing: *picture.timing(),
            applied: picture.applied(),
            layout: Layout::default(),
            groups: Vec::new(),
            places: Vec::new(),
            paths: Vec::new(),
            requests: Slab::with_capacity(SLOTS),
            pieces: Slab::with_capacity(SLOTS),
            flushes: Vec::with_capacity(WINDOW),
            writes: 0,
            orders: 0,
            sessions: 0,
            probes: 0,
            life: Life::Attached,
            busy: Vec::new(),
            wake: Time::NEVER,
            spare: Vec::new(),
        };
        effects.push(Effect::Story(story::Event::Attached { volume, generation }));
        client.follow_layout(now, picture, effects);
        Some(client)
    }

    /// Takes a request. It ends with [`Effect::Complete`], now or later.
    pub fn submit(
        &mut self,
        now: Time,
        token: Token,
        request: Request<P>,
        effects: &mut Vec<Effect<P>>,
    ) {
        if self.life != Life::Attached {
            effects.push(Effect::Complete { token, completion: Completion::Detached });
            return;
        }
        let (work, run, payload) = match request {
            Request::Read(run) => (Work::Read, run, None),
            Request::Write(run, payload) => (Work::Write, run, Some(payload)),
            Request::Zero { run, unmap } => (Work::Zero { unmap }, run, None),
            Request::Flush => return self.submit_flush(now, token, effects),
        };
        let may_write = self.mode != AttachMode::SharedRead;
        let fits = payload.as_ref().is_none_or(|payload| payload.blocks() == run.blocks);
        if !fits || !self.layout.contains(run) || (work.is_write() && !may_write) {
            effects.push(Effect::Complete { token, completion: Completion::Invalid });
            return;
        }
        let kind = if work.is_write() { Kind::Write } else { Kind::Read };
        let request = self.add_request(now, token, kind);
        self.writes += usize::from(kind == Kind::Write);
        self.split(request, work, run, payload);
        self.enqueue_all(now, request, effects);
    }

    /// Entries up to here have been applied, though nothing may have changed for this volume: evidence of what is seen from here on counts from
    /// here.
    pub fn applied(&mut self, applied: Index) {
        self.applied = applied;
    }

    /// Takes no requests any more, and gives up the attachment when what it has is done.
    pub fn detach(&mut self, now: Time, effects: &mut Vec<Effect<P>>) {
        if self.life == Life::Attached {
            self.life = Life::Detaching(now);
            self.give_up(now, effects);
        }
    }

    /// Takes back the list of a [`Completion::Data`] that has been used up, so that a later read does not allocate one.
    pub fn recycle(&mut self, mut list: Vec<P>) {
        if self.spare.len() < WINDOW {
            list.clear();
            self.spare.push(list);
        }
    }

    /// When [`Client::timer`] is wanted. Costs nothing.
    pub fn next_timer(&self) -> Time {
        self.wake
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The attachment.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.pieces.is_empty()
    }

    /// Whether the attachment is gone.
    pub fn has_ended(&self) -> bool {
        self.life == Life::Ended
    }

    pub(super) fn add_request(&mut self, now: Time, token: Token, kind: Kind) -> u32 {
        let order = self.next_order();
        self.requests.insert(Pending {
            token,
            order,
            submitted: now,
            kind,
            left: 0,
            first: NONE,
            outcome: Outcome::Done,
        })
    }

    pub(super) fn next_order(&mut self) -> u64 {
        self.orders += 1;
        self.orders
    }

    /// Cuts a request at the borders of groups and strips.
    fn split(&mut self, request: u32, work: Work, mut run: Run, payload: Option<P>) {
        let mut done = 0;
        let mut last = NONE;
        while run.blocks > 0 {
            let Some(extent) = self.layout.first_extent(run) else { return };
            let count = extent.run.blocks;
            let part = payload.as_ref().map(|payload| match done == 0 && count == run.blocks {
                true => payload.clone(),
                false => payload.part(done, count),
            });
            last = self.add_piece(request, last, extent.group, work, extent.run, part);
            run = Run { first: run.first + u64::from(count), blocks: run.blocks - count };
            done += count;
        }
    }

    /// Adds a piece to a request, behind its last one.
    pub(super) fn add_piece(
        &mut self,
        request: u32,
        last: u32,
        group: u32,
        work: Work,
        run: Run,
        payload: Option<P>,
    ) -> u32 {
        let order = self.next_order();
        let mut piece = Piece::new(order, group, work, run, payload);
        piece.request = request;
        let slot = self.pieces.insert(piece);
        if let Some(last) = self.pieces.get_mut(last) {
            last.next = slot;
        }
        if let Some(pending) = self.requests.get_mut(request) {
            pending.left += 1;
            if pending.first == NONE {
                pending.first = slot;
            }
        }
        slot
    }

    /// A list with room for what a read gives.
    pub(super) fn list(&mut self) -> Vec<P> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn key(&self, group: usize, link: usize) -> SessionKey {
        let group = &self.groups[group];
        SessionKey {
            group: group.id,
            replica: group.links[link].replica,
            generation: self.generation,
        }
    }

    /// Has the timers of a group looked at, at this time or before.
    pub(super) fn wake_at(&mut self, group: usize, time: Time) {
        if time == Time::NEVER {
            return;
        }
        self.wake = self.wake.min(time);
        if !self.groups[group].is_busy {
            self.groups[group].is_busy = true;
            self.busy.push(group as u32);
        }
    }
}
