//! A queue pair for I/O: a submission ring, a completion ring, and the commands between them.
//!
//! Owned by one reactor. Several users on that reactor may share it (a controller has few queues, and a user
//! opens a queue on each namespace): each is an *owner*, and gets the completions of its own commands.
//!
//! The device is not trusted. A completion that names no outstanding command, another queue, or a head that the
//! controller cannot have reached breaks the pair: nothing more is read from it, the controller is
//! told, and resets itself. Every command that was pushed comes back exactly once, whatever happens.

mod reap;
mod recover;

use std::collections::VecDeque;

use super::bell::Bell;
use super::payload::{
    Lists, NO_LIST, Pointed, Refusal, RegionTable, Scatter, Want, point, point_one, point_value,
};
use super::ring::{CompletionRing, SubmissionRing};
use super::slots::{Kind, OwnerId, Place, Slots, Tag};
use super::spec::{DsmRange, SubmissionEntry};
use super::transport::Iova;
use super::trouble::{Injection, Injections, PairStats, RetryPolicy, Trouble, TroubleSender};
use crate::base::Status;
use crate::memory::{RegionId, RegionView, Segment};

/// Whether a pair does I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It does.
    Live,
    /// The device is not to be touched: the controller is being reset.
    Frozen,
    /// The controller is gone for good; commands end with this status.
    Dead(Status),
}

/// Whether a command was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It was.
    Taken,
    /// No room now.
    Full,
    /// It cannot be sent, and ends with this status.
    Refused(Status),
}

/// Who sends a command, when, and what comes back with its completion.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    pub(super) owner: OwnerId,
    pub(super) now: u64,
    pub(super) tag: Tag,
}

/// A command that ended.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// As it was given.
    pub tag: Tag,
    /// How it ended.
    pub status: Status,
    /// Dword 0 of the completion.
    pub result: u32,
}

/// One of those who share the pair.
struct Owner {
    open: bool,
    /// What ended while others polled.
    done: VecDeque<Done>,
}

/// What a queue pair is made of.
pub(super) struct Parts {
    pub(super) id: u16,
    pub(super) submission: SubmissionRing,
    pub(super) completion: CompletionRing,
    pub(super) submission_bell: Bell,
    pub(super) completion_bell: Bell,
    pub(super) lists: Lists,
    pub(super) scatter: Scatter,
    pub(super) regions: RegionTable,
    pub(super) retry: RetryPolicy,
    pub(super) trouble: TroubleSender,
}

/// The queue pair.
pub(super) struct QueuePair {
    mode: Mode,
    parts: Parts,
    slots: Slots,
    /// How many slots are in [`Place::Here`] or [`Place::Ending`].
    held: u32,
    /// The submission doorbell was rung since the last poll: what comes now waits for the next.
    rung: bool,
    /// How many completions may be taken before the doorbell says so.
    untold_max: u32,
    /// [`CompletionRing::taken`] when the doorbell was rung last.
    told: u32,
    /// The region that the controller was asked to map, and whether it has answered.
    asked: Option<(RegionId, bool)>,
    injections: Injections,
    owners: Vec<Owner>,
    stats: PairStats,
}

impl QueuePair {
    /// A pair of these parts. The completion ring is at least as large as the submission ring.
    pub(super) fn new(parts: Parts) -> QueuePair {
        // One place stays free, so that a full ring differs from an empty one.
        let slots = (parts.submission.size() - 1) as u16;
        // Each outstanding command needs a place in the completion ring. Places beyond that may be taken
        // without telling the controller: it has room all the same, and a doorbell is saved.
        let spare = parts.completion.size() - 1 - u32::from(slots);
        QueuePair {
            mode: Mode::Live,
            slots: Slots::new(slots),
            held: 0,
            rung: false,
            untold_max: spare.max(1),
            told: 0,
            asked: None,
            injections: Injections::default(),
            owners: Vec::new(),
            stats: PairStats::default(),
            parts,
        }
    }

    /// The queue identifier.
    pub(super) fn id(&self) -> u16 {
        self.parts.id
    }

    /// Rings and doorbells, for the controller that creates the queues.
    pub(super) fn parts(&mut self) -> &mut Parts {
        &mut self.parts
    }

    /// Statistics since the start.
    pub(super) fn stats(&self) -> PairStats {
        self.stats
    }

    /// A new owner.
    pub(super) fn add_owner(&mut self) -> OwnerId {
        let owner = Owner { open: true, done: VecDeque::with_capacity(self.slots.len()) };
        let index = match self.owners.iter().position(|owner| !owner.open) {
            Some(index) => {
                self.owners[index] = owner;
                index
            }
            None => {
                self.owners.push(owner);
                self.owners.len() - 1
            }
        };
        OwnerId(index as u16)
    }

    /// An owner goes; it is owed nothing.
    pub(super) fn remove_owner(&mut self, owner: OwnerId) {
        self.owners[usize::from(owner.0)] = Owner { open: false, done: VecDeque::new() };
    }

    /// Whether an owner has commands outstanding.
    pub(super) fn owes(&self, owner: OwnerId) -> bool {
        self.slots.any_of(owner)
    }

    /// Adds or (with a count of 0) removes an injected error.
    pub(super) fn inject(&mut self, injection: Injection) {
        self.injections.add(injection);
    }

    /// Takes up what the controller says of a region; `None` when the device cannot reach it.
    pub(super) fn set_region(&mut self, view: &RegionView, iova: Option<&Iova>) {
        self.parts.regions.set(view, iova);
    }

    /// The controller has told of all regions that there are.
    pub(super) fn regions_told(&mut self) {
        if let Some((_, answered)) = &mut self.asked {
            *answered = true;
        }
    }

    /// A region goes.
    pub(super) fn clear_region(&mut self, id: RegionId) {
        self.parts.regions.clear(id);
    }

    /// Pushes a command. Its payload is in `segments`, `first` of `count`.
    #[inline]
    pub(super) fn push(
        &mut self,
        sender: Sender,
        mut kind: Kind,
        mut command: SubmissionEntry,
        (count, first): (usize, Segment),
        segments: impl Iterator<Item = Segment> + Clone,
    ) -> Push {
        if self.mode != Mode::Live || !self.injections.is_empty() {
            match self.look_twice(sender, kind, &command) {
                Ok(changed) => kind = changed,
                Err(push) => return push,
            }
        }
        if self.slots.room() == 0 {
            return Push::Full;
        }
        let mut list = NO_LIST;
        if count > 0 {
            let in_command = match count {
                1 => point_one(&self.parts.regions, first),
                _ => Ok(None),
            };
            let pointed = match in_command {
                Ok(Some(data)) => Ok(Pointed { data, flags: 0, list: NO_LIST }),
                Ok(None) => self.point(segments),
                Err(refusal) => Err(refusal),
            };
            match pointed {
                Ok(pointed) => {
                    command.data = pointed.data;
                    command.flags |= pointed.flags;
                    list = pointed.list;
                }
                Err(refusal) => return self.refuse(refusal),
            }
        }
        self.send(sender, kind, command, list);
        Push::Taken
    }

    /// Pushes both halves of a fused operation, which the controller executes as one (Base Specification, section
    /// 3.4.2): compare with `compared`, write `written`. The tag comes back when both have ended.
    pub(super) fn push_fused(
        &mut self,
        sender: Sender,
        commands: [SubmissionEntry; 2],
        payloads: [impl Iterator<Item = Segment> + Clone; 2],
    ) -> Push {
        if self.mode != Mode::Live {
            return match self.look_twice(sender, Kind::FusedFirst, &commands[0]) {
                Ok(_) => Push::Full,
                Err(push) => push,
            };
        }
        if self.slots.room() < 2 {
            return Push::Full;
        }
        let mut lists = [NO_LIST; 2];
        let mut commands = commands;
        for (index, payload) in payloads.into_iter().enumerate() {
            match self.point(payload) {
                Ok(pointed) => {
                    commands[index].data = pointed.data;
                    commands[index].flags |= pointed.flags;
                    lists[index] = pointed.list;
                }
                Err(refusal) => {
                    self.parts.lists.give_back(lists[0]);
                    return self.refuse(refusal);
                }
            }
        }
        commands[0].flags |= SubmissionEntry::FUSE_FIRST;
        commands[1].flags |= SubmissionEntry::FUSE_SECOND;
        let first = self.send(sender, Kind::FusedFirst, commands[0], lists[0]);
        let second = self.send(sender, Kind::FusedSecond, commands[1], lists[1]);
        for (half, other) in [(first, second), (second, first)] {
            if let Some(slot) = self.slots.get(half) {
                slot.partner = other;
            }
        }
        Push::Taken
    }

    /// Pushes a command whose data are a range of Dataset Management.
    pub(super) fn push_range(
        &mut self,
        sender: Sender,
        kind: Kind,
        mut command: SubmissionEntry,
        range: DsmRange,
    ) -> Push {
        if self.mode != Mode::Live || self.slots.room() == 0 {
            return match self.look_twice(sender, kind, &command) {
                Ok(_) => Push::Full,
                Err(push) => push,
            };
        }
        match point_value(&mut self.parts.lists, range) {
            Ok(pointed) => {
                command.data = pointed.data;
                self.send(sender, kind, command, pointed.list);
                Push::Taken
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Rings the doorbell for what was pushed: at the end of each batch.
    ///
    /// Rung once between two polls; the rest of what is pushed in a round goes with the next poll, which comes
    /// right after.
    #[inline]
    pub(super) fn flush(&mut self) {
        if !self.rung {
            self.rung = true;
            self.ring_submission();
        }
    }

    #[inline]
    fn ring_submission(&mut self) {
        let tail = self.parts.submission.tail();
        if tail != self.parts.submission_bell.told() && self.mode == Mode::Live {
            self.parts.submission_bell.ring(tail);
            self.stats.submission_doorbells += 1;
        }
    }

    #[inline(never)]
    fn point(
        &mut self,
        segments: impl Iterator<Item = Segment> + Clone,
    ) -> Result<Pointed, Refusal> {
        let Parts { regions, lists, scatter, .. } = &mut self.parts;
        point(regions, lists, *scatter, segments)
    }

    /// Gives a command a slot, and the ring the command. There is room.
    #[inline]
    fn send(&mut self, sender: Sender, kind: Kind, mut command: SubmissionEntry, list: u16) -> u16 {
        let (index, slot) = self.slots.take(sender.owner).expect("there is room");
        command.command_id = index;
        slot.command = command;
        slot.tag = sender.tag;
        slot.since = sender.now;
        slot.list = list;
        slot.retries = 0;
        slot.kind = kind;
        slot.place = Place::Device;
        self.parts.submission.push(&command);
        self.stats.submitted += 1;
        index
    }

    #[cold]
    fn refuse(&mut self, refusal: Refusal) -> Push {
        match refusal {
            Refusal::Status(status) => Push::Refused(status),
            Refusal::Later(Want::List) => {
                self.stats.queued += 1;
                Push::Full
            }
            // Asked for, answered, and still not in the table: there is no such region.
            Refusal::Later(Want::Region(id)) if self.asked == Some((id, true)) => {
                Push::Refused(Status::DATA_TRANSFER_ERROR)
            }
            Refusal::Later(Want::Region(id)) => {
                if self.asked.is_none_or(|(other, answered)| answered || other != id) {
                    self.asked = Some((id, false));
                    self.parts.trouble.send(Trouble::RegionsBehind);
                }
                Push::Full
            }
        }
    }

    /// What becomes of a command while the pair is not live, or errors are injected: it goes on with
    /// this kind, or it does not go on.
    #[cold]
    fn look_twice(
        &mut self,
        sender: Sender,
        kind: Kind,
        command: &SubmissionEntry,
    ) -> Result<Kind, Push> {
        match self.mode {
            Mode::Frozen => return Err(Push::Full),
            Mode::Dead(status) => return Err(Push::Refused(status)),
            Mode::Live if self.slots.room() == 0 => return Err(Push::Full),
            Mode::Live => {}
        }
        let Some(injected) = self.injections.take(command.opcode) else { return Ok(kind) };
        if !injected.do_not_submit {
            return Ok(Kind::Injected(injected.status));
        }
        let (_, slot) = self.slots.take(sender.owner).expect("there is room");
        slot.command = *command;
        slot.tag = sender.tag;
        slot.since = sender.now.saturating_add(injected.delay);
        slot.list = NO_LIST;
        slot.retries = 0;
        slot.kind = Kind::Injected(injected.status);
        slot.place = Place::Ending(injected.status);
        self.held += 1;
        Err(Push::Taken)
    }
}
