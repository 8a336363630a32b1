//! What a client looks at in the picture.

use crate::mesh::ids::{DriveId, GroupId, Index, NodeId, VolumeId};
use crate::mesh::picture::{Drive, Group, Picture, Timing, Volume};
use crate::mesh::route::Route;

/// The part of the picture that a client follows. It copies what it needs, whenever an entry has changed it.
pub trait View {
    /// The last entry applied.
    fn applied(&self) -> Index;
    /// The timing constants.
    fn timing(&self) -> &Timing;
    /// A volume, unless it is gone.
    fn volume(&self, id: VolumeId) -> Option<&Volume>;
    /// A group, unless it is gone.
    fn group(&self, id: GroupId) -> Option<&Group>;
    /// A drive, unless it is gone.
    fn drive(&self, id: DriveId) -> Option<&Drive>;
    /// The ways from one node to another, the best first; gives how many.
    fn routes(&self, from: NodeId, to: NodeId, routes: &mut [Route]) -> usize;
}

impl View for Picture {
    fn applied(&self) -> Index {
        Picture::applied(self)
    }

    fn timing(&self) -> &Timing {
        Picture::timing(self)
    }

    fn volume(&self, id: VolumeId) -> Option<&Volume> {
        Picture::volume(self, id)
    }

    fn group(&self, id: GroupId) -> Option<&Group> {
        Picture::group(self, id)
    }

    fn drive(&self, id: DriveId) -> Option<&Drive> {
        Picture::drive(self, id)
    }

    fn routes(&self, from: NodeId, to: NodeId, routes: &mut [Route]) -> usize {
        Picture::routes(self, from, to, routes)
    }
}
