//! What happened, for people: the log of a daemon, and the stories that the simulator tells.

use std::time::Duration;

use super::ids::{Epoch, Generation, GroupId, Index, NodeId, ReplicaId, VolumeId};
use super::route::Route;

/// Something that a person who wonders what went on would want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the text of a variant tells of its fields")]
pub enum Event {
    /// The node's serve lease is valid again, or has run out.
    Lease { held: bool },
    /// A link is up or down, as this node sees it.
    Link { to: NodeId, up: bool },
    /// A client reaches a target another way now.
    Routed { to: NodeId, route: Route },
    /// A client has found no way to a replica, or none that works.
    Unreachable { replica: ReplicaId },
    /// A replica was left behind.
    Evicted { group: GroupId, epoch: Epoch, replica: ReplicaId },
    /// A client waits until a replica that was left behind serves nothing any more.
    FenceWait { group: GroupId, replica: ReplicaId },
    /// That wait is over; `early` because the replica has confirmed it.
    Fenced { group: GroupId, replica: ReplicaId, waited: Duration, early: bool },
    /// A replica begins to be filled, or repaired.
    RoundBegun { group: GroupId, epoch: Epoch, replica: ReplicaId, source: ReplicaId },
    /// What has to be copied is known: this many blocks.
    UnionKnown { group: GroupId, replica: ReplicaId, blocks: u64 },
    /// A replica is equal again.
    RoundEnded { group: GroupId, replica: ReplicaId, copied: u64 },
    /// A session is open.
    SessionOpen { group: GroupId, replica: ReplicaId, epoch: Epoch },
    /// An I/O took longer than the I/O time-out.
    Stalled { volume: VolumeId, group: GroupId, took: Duration },
    /// A client's volume has no replica that it can go on with.
    Blocked { group: GroupId },
    /// An attachment was made, or has ended.
    Attached { volume: VolumeId, generation: Generation },
    /// An attachment has ended.
    Detached { volume: VolumeId, generation: Generation },
    /// The node has become the leader of the log, or is it no longer.
    Leader { leads: bool },
    /// The node is a member of the quorum by name only: its store was lost, or is an old image. It is to be replaced.
    Amnesiac,
    /// The node has caught up by a snapshot.
    Installed { index: Index },
    /// Blocks could not be read and were mended from another replica, or are lost.
    Mended { replica: ReplicaId, lost: bool },
    /// A drive failed or hung, and its target has given it up.
    DriveGivenUp { replica: ReplicaId },
    /// The node stops.
    Stopping { why: String },
}
