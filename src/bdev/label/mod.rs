//! The label of a device that belongs to a set: which set, which member it is, what the set knew
//! of each member when this label was written, and where things lie on the device.
//!
//! It is written twice, to two places in turn, so that a torn write leaves the one before. The number of
//! events says which of several labels knows more: every change of a member's state, and every time
//! that the set is taken into service, is an event, recorded on all members that are in sync.
//!
//! It knows nothing of what the set is for, and does no I/O: bytes in, bytes out. Any bytes give a label
//! or an error, never a panic.

mod codec;

#[cfg(test)]
mod tests;

pub use codec::{decode, encode, newest};

use crate::base::{Geometry, Uuid};

/// Bytes of one copy.
pub const LABEL_BYTES: usize = 4096;
/// Where the two copies are, in bytes from the start of the device: each in a block of its own, whatever the
/// block size.
pub const COPY_OFFSETS: [u64; 2] = [0, 65_536];
/// First byte after the labels.
pub const LABELS_END: u64 = 131_072;
/// Most members of a set.
pub const MEMBERS_MAX: usize = 8;

const _: () = {
    assert!(COPY_OFFSETS[1] >= crate::base::limits::BLOCK_SIZE_MAX);
    assert!(LABELS_END >= COPY_OFFSETS[1] + crate::base::limits::BLOCK_SIZE_MAX);
    assert!(crate::base::limits::MIRROR_LEGS_MAX <= MEMBERS_MAX);
};

/// What a set knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemberState {
    /// There is none, or one that never was complete.
    Absent = 0,
    /// Has everything.
    InSync = 1,
    /// Was complete once, went away, and is being brought up to date from the map of what differs.
    SyncingDelta = 2,
    /// Never was complete, and is being made so.
    SyncingFull = 3,
    /// Was complete once, and lacks what was written since.
    Stale = 4,
}

impl MemberState {
    fn from_byte(byte: u8) -> Option<MemberState> {
        Some(match byte {
            0 => MemberState::Absent,
            1 => MemberState::InSync,
            2 => MemberState::SyncingDelta,
            3 => MemberState::SyncingFull,
            4 => MemberState::Stale,
            _ => return None,
        })
    }
}

/// One member of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its own UUID, made when it became a member; nil for an empty place.
    pub uuid: Uuid,
    /// What is known of it.
    pub state: MemberState,
    /// The last event that was recorded on it.
    pub last_event: u64,
    /// The name that its device had last: a hint for people.
    pub name: String,
}

impl Member {
    /// An empty place.
    pub fn absent() -> Member {
        Member { uuid: Uuid::nil(), state: MemberState::Absent, last_event: 0, name: String::new() }
    }
}

/// Where things lie on a member, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// First byte of the data.
    pub data: u64,
    /// First byte of the intent map.
    pub map: u64,
    /// Bytes of a page of the map.
    pub map_page: u32,
    /// Base-2 logarithm of the bytes of a region.
    pub region_shift: u32,
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// UUID of the set.
    pub set: Uuid,
    /// Name of the set's device.
    pub name: String,
    /// What kind of set: a number that the owner of the label gives a meaning.
    pub kind: u32,
    /// Grows with every event.
    pub event: u64,
    /// Block size and capacity of the set's device.
    pub geometry: Geometry,
    /// Where things lie.
    pub places: Places,
    /// Which member the device is that this label is on.
    pub own: usize,
    /// All members.
    pub members: Vec<Member>,
}

impl Label {
    /// The member that the device is that this label is on.
    pub fn own_member(&self) -> &Member {
        &self.members[self.own]
    }
}
