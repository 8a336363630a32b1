//! The picture of the mesh that follows from a prefix of the log: deterministic, the same on every node that has applied the same prefix.

mod command;
pub mod footprint;
mod spec;
mod state;
mod timing;

pub use command::{
    Beat, Command, Eviction, Evidence, Nonce, OpenDrive, Refusal, Reply, SyncEnd, SyncStart, Tick,
};
pub use spec::{AttachMode, Domains, DriveSpec, Layout, Spread, VolumeSpec};
pub use state::{
    Attachment, Drive, Group, Node, Part, Replica, ReplicaState, Round, Unfenced, Volume,
};
pub use timing::Timing;

use super::ids::{DriveId, GroupId, Index, NodeId, ReplicaId, VolumeId};
use super::route::Route;

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

/// The picture.
#[derive(Clone, Debug, Default)]
pub struct Picture {}

/// A picture that cannot be read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPicture(pub String);

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Picture {
    /// Applies the entry of this index. What was refused has changed nothing.
    pub fn apply(
        &mut self,
        index: Index,
        command: &Command,
        changes: &mut Vec<Change>,
    ) -> Result<Reply, Refusal> {
        todo!()
    }
    /// The last entry applied.
    pub fn applied(&self) -> Index {
        todo!()
    }
    pub fn timing(&self) -> &Timing {
        todo!()
    }
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        todo!()
    }
    pub fn drive(&self, id: DriveId) -> Option<&Drive> {
        todo!()
    }
    pub fn drive_by_uuid(&self, uuid: crate::base::Uuid) -> Option<&Drive> {
        todo!()
    }
    pub fn volume(&self, id: VolumeId) -> Option<&Volume> {
        todo!()
    }
    pub fn volume_by_name(&self, name: &str) -> Option<&Volume> {
        todo!()
    }
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        todo!()
    }
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::empty()
    }
    pub fn drives(&self) -> impl Iterator<Item = &Drive> {
        std::iter::empty()
    }
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        std::iter::empty()
    }
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        std::iter::empty()
    }
    /// The replicas on a drive.
    pub fn replicas_on(&self, drive: DriveId) -> impl Iterator<Item = (GroupId, ReplicaId)> {
        std::iter::empty()
    }
    /// Whether a link is up: both of its ends say so.
    pub fn is_linked(&self, one: NodeId, other: NodeId) -> bool {
        todo!()
    }
    /// The ways from one node to another by what nodes have reported, the best first: fewest relays, then least load, then lowest
    /// ids. At most `routes.len()`; gives how many. The direct way is first if the link is up.
    pub fn routes(&self, from: NodeId, to: NodeId, routes: &mut [Route]) -> usize {
        todo!()
    }
    /// A digest of everything, the same on all nodes that have applied the same prefix. O(1).
    pub fn digest(&self) -> u64 {
        todo!()
    }
    pub fn snapshot(&self) -> Vec<u8> {
        todo!()
    }
    pub fn restore(bytes: &[u8]) -> Result<Picture, BadPicture> {
        todo!()
    }
}
