//! What an entry changes, and the entry that is being applied.

use crate::mesh::ids::{DriveId, GroupId, Index, NodeId, VolumeId};

/// What an entry has changed, for who serves or uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The group's epoch, or a replica of it, or its volume's attachments; also that it is gone.
    Group(GroupId),
    /// The volume's size or attachments; also that it is gone.
    Volume(VolumeId),
    /// The drive's incarnation, place or state.
    Drive(DriveId),
    /// The node's incarnation or addresses.
    Node(NodeId),
    /// Who reaches whom.
    Routes,
    /// The timing constants.
    Timing,
    /// Replicas that may still serve reads became fewer in this group.
    Fenced(GroupId),
}

/// The entry that is being applied.
pub struct Entry<'a> {
    /// Its place in the log.
    pub index: Index,
    changes: &'a mut Vec<Change>,
    start: usize,
}

impl<'a> Entry<'a> {
    /// The entry of this index, whose changes are added to `changes`.
    pub fn new(index: Index, changes: &'a mut Vec<Change>) -> Entry<'a> {
        let start = changes.len();
        Entry { index, changes, start }
    }

    /// Notes a change.
    pub fn changed(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Leaves every change once, in order.
    pub fn finish(self) {
        if self.changes.len() > self.start + 1 {
            let mut own = self.changes.split_off(self.start);
            own.sort_unstable();
            own.dedup();
            self.changes.append(&mut own);
        }
    }
}
