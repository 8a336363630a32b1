//! The commands of one queue pair that are outstanding, by command identifier.

use super::payload::{ListIndex, NO_LIST};
use super::spec::SubmissionEntry;
use crate::base::Status;

/// What the submitter gets back with a completion, as it was given: the driver does not look at it.
pub type Tag = [u64; 3];

/// One of those who share a queue pair on a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnerId(pub(super) u16);

impl OwnerId {
    /// Nobody: the slot is free.
    const NOBODY: OwnerId = OwnerId(u16::MAX);
}

/// What is special about a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: nearly every command.
    Plain,
    /// Given by a user as it is: never sent twice, since we do not know what it does.
    Passthrough,
    /// First half of a fused pair (the compare); the other half is in `partner`.
    FusedFirst,
    /// Second half (the write); the operation's tag is here.
    FusedSecond,
    /// Write Zeroes that Dataset Management follows, so that the space is given back.
    ZeroThenDeallocate,
    /// An injected error: the command ends with it, whatever the device says.
    Injected(Status),
}

/// Where an outstanding command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the hands of the device.
    Device,
    /// There too, after it took too long: an Abort was sent for it.
    Aborting,
    /// Here: to be sent (again), at the earliest at the time in `since`.
    Here,
    /// Here: it ends with this status at the time in `since` (an injected error).
    Ending(Status),
    /// Here: the other half of a fused operation is still with the device; this one ended so.
    Half(Status),
}

/// An outstanding command.
#[repr(C, align(64))]
pub(super) struct Slot {
    /// As it was sent, to be sent again.
    pub(super) command: SubmissionEntry,
    pub(super) tag: Tag,
    /// When it was sent, or is due, in TSC ticks.
    pub(super) since: u64,
    owner: OwnerId,
    pub(super) list: ListIndex,
    /// Of a fused operation: the other half.
    pub(super) partner: u16,
    pub(super) retries: u8,
    pub(super) kind: Kind,
    pub(super) place: Place,
}

/// All slots of a queue pair. A command's identifier is its slot's index.
pub(super) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
}

impl Slots {
    /// `count` free slots.
    pub(super) fn new(count: u16) -> Slots {
        let slots = (0..count)
            .map(|_| Slot {
                command: SubmissionEntry::default(),
                tag: [0; 3],
                since: 0,
                owner: OwnerId::NOBODY,
                list: NO_LIST,
                partner: 0,
                retries: 0,
                kind: Kind::Plain,
                place: Place::Here,
            })
            .collect();
        Slots { slots, free: (0..count).rev().collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many more commands fit.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    /// How many commands are outstanding.
    #[inline]
    pub(super) fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a free slot for a command of `owner`.
    #[inline]
    pub(super) fn take(&mut self, owner: OwnerId) -> Option<(u16, &mut Slot)> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        slot.owner = owner;
        Some((index, slot))
    }

    /// Frees a slot; returns whose it was.
    #[inline]
    pub(super) fn release(&mut self, index: u16) -> OwnerId {
        let slot = &mut self.slots[usize::from(index)];
        debug_assert!(slot.owner != OwnerId::NOBODY);
        self.free.push(index);
        std::mem::replace(&mut slot.owner, OwnerId::NOBODY)
    }

    /// The outstanding command of this identifier, which may be any number.
    #[inline]
    pub(super) fn get(&mut self, index: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index)).filter(|slot| slot.owner != OwnerId::NOBODY)
    }

    /// All outstanding commands.
    pub(super) fn iter(&mut self) -> impl Iterator<Item = (u16, &mut Slot)> {
        let slots = self.slots.iter_mut().enumerate();
        slots
            .filter(|(_, slot)| slot.owner != OwnerId::NOBODY)
            .map(|(index, slot)| (index as u16, slot))
    }

    /// Whether `owner` has commands outstanding.
    pub(super) fn any_of(&self, owner: OwnerId) -> bool {
        self.slots.iter().any(|slot| slot.owner == owner)
    }
}

impl Slot {
    /// Whether the device has the command.
    #[inline]
    pub(super) fn is_with_device(&self) -> bool {
        matches!(self.place, Place::Device | Place::Aborting)
    }
}
