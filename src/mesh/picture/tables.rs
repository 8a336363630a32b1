//! The picture itself: its tables, and what is looked up in them. What changes it is in the files of the commands.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::matrix::Matrix;
use super::state::{Drive, Group, Node, Unfenced, Volume};
use super::table::{Entity, Table, mix};
use super::timing::Timing;
use crate::base::Uuid;
use crate::mesh::ids::{DriveId, GroupId, Index, NodeId, ReplicaId, VolumeId};
use crate::mesh::route::Route;

impl Entity for Node {
    type Key = NodeId;
    const KIND: u64 = 1;
    fn key(&self) -> NodeId {
        self.id
    }
}

impl Entity for Drive {
    type Key = DriveId;
    const KIND: u64 = 2;
    fn key(&self) -> DriveId {
        self.id
    }
}

impl Entity for Volume {
    type Key = VolumeId;
    const KIND: u64 = 3;
    fn key(&self) -> VolumeId {
        self.id
    }
}

impl Entity for Group {
    type Key = GroupId;
    const KIND: u64 = 4;
    fn key(&self) -> GroupId {
        self.id
    }
}

/// A secret that admits nodes, by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Digest of the secret.
    pub digest: [u8; 32],
    /// How many more nodes it admits.
    pub uses: u32,
}

impl Entity for Admission {
    type Key = [u8; 32];
    const KIND: u64 = 5;
    fn key(&self) -> [u8; 32] {
        self.digest
    }
}

/// What the picture holds beside its tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The last entry applied.
    pub applied: Index,
    /// The number that the last drive got. Numbers are never used again.
    pub last_drive: u32,
    /// The number that the last volume got.
    pub last_volume: u32,
    /// The number that the last group got.
    pub last_group: u32,
    /// The number that the last replica got.
    pub last_replica: u32,
    /// The timing constants.
    pub timing: Timing,
    /// The last tick.
    pub last_tick: Index,
    /// The entry that lowered the length of leases last.
    pub lowered: Index,
    /// Milliseconds that ticks have counted since then.
    pub since_lowered_ms: u64,
}

/// The picture of the mesh. [`Picture::apply`] is the only way to change it.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub(super) totals: Totals,
    pub(super) nodes: Table<Node>,
    pub(super) drives: Table<Drive>,
    pub(super) volumes: Table<Volume>,
    pub(super) groups: Table<Group>,
    pub(super) tokens: Table<Admission>,
    // From here on: what follows from the tables, for look-ups. No part of the digest or of snapshots.
    pub(super) matrix: Matrix,
    pub(super) drive_uuids: BTreeMap<Uuid, DriveId>,
    pub(super) volume_names: BTreeMap<String, VolumeId>,
    pub(super) on_drives: BTreeMap<DriveId, BTreeSet<(GroupId, ReplicaId)>>,
    /// Volumes that a node has attached.
    pub(super) attached_by: BTreeMap<NodeId, BTreeSet<VolumeId>>,
    /// Groups with an unfenced replica of a node.
    pub(super) unfenced_on: BTreeMap<NodeId, BTreeSet<GroupId>>,
}

impl Picture {
    /// The last entry applied.
    pub fn applied(&self) -> Index {
        self.totals.applied
    }

    /// The timing constants.
    pub fn timing(&self) -> &Timing {
        &self.totals.timing
    }

    /// The node of this number.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// The drive of this number.
    pub fn drive(&self, id: DriveId) -> Option<&Drive> {
        self.drives.get(id)
    }

    /// The drive with this UUID in its label.
    pub fn drive_by_uuid(&self, uuid: Uuid) -> Option<&Drive> {
        self.drives.get(*self.drive_uuids.get(&uuid)?)
    }

    /// The volume of this number.
    pub fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(id)
    }

    /// The volume of this name.
    pub fn volume_by_name(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(*self.volume_names.get(name)?)
    }

    /// The group of this number.
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id)
    }

    /// All nodes, by number.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// All drives, by number.
    pub fn drives(&self) -> impl Iterator<Item = &Drive> {
        self.drives.values()
    }

    /// All volumes, by number.
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values()
    }

    /// All groups, by number.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// The replicas on a drive.
    pub fn replicas_on(&self, drive: DriveId) -> impl Iterator<Item = (GroupId, ReplicaId)> {
        self.on_drives.get(&drive).into_iter().flatten().copied()
    }

    /// The volumes that a node has attached.
    pub fn attached_by(&self, node: NodeId) -> impl Iterator<Item = VolumeId> {
        self.attached_by.get(&node).into_iter().flatten().copied()
    }

    /// Whether a link is up: both of its ends say so.
    pub fn is_linked(&self, one: NodeId, other: NodeId) -> bool {
        self.matrix.is_linked(one, other)
    }

    /// The ways from one node to another by what nodes have reported, the best first: fewest relays, then the least load of the busiest
    /// relay, then the lowest ids. A node reaches itself directly. At most `routes.len()`; gives how many.
    pub fn routes(&self, from: NodeId, to: NodeId, routes: &mut [Route]) -> usize {
        self.matrix.routes(from, to, routes)
    }

    /// A digest of everything, the same on all nodes that have applied the same prefix. O(1).
    pub fn digest(&self) -> u64 {
        let Totals {
            applied,
            last_drive,
            last_volume,
            last_group,
            last_replica,
            timing,
            last_tick,
            lowered,
            since_lowered_ms,
        } = self.totals;
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        [
            applied.0,
            last_tick.0,
            lowered.0,
            since_lowered_ms,
            pair(last_drive, last_volume),
            pair(last_group, last_replica),
            pair(timing.lease_ms, timing.drift_ppm),
            pair(timing.io_timeout_ms, timing.drive_timeout_ms),
            pair(timing.revoke_ms, timing.lease_before_ms),
            self.nodes.digest(),
            self.drives.digest(),
            self.volumes.digest(),
            self.groups.digest(),
            self.tokens.digest(),
        ]
        .into_iter()
        .fold(0, |digest, word| mix(digest ^ word))
    }

    /// Brings the digest up to date with the tables.
    pub(super) fn settle(&mut self) {
        self.nodes.settle();
        self.drives.settle();
        self.volumes.settle();
        self.groups.settle();
        self.tokens.settle();
    }

    /// Makes everything that follows from the tables.
    pub(super) fn index_all(&mut self) {
        self.matrix = Matrix::new(self.nodes.values());
        self.drive_uuids = self.drives.values().map(|drive| (drive.uuid, drive.id)).collect();
        self.volume_names =
            self.volumes.values().map(|volume| (volume.name.clone(), volume.id)).collect();
        self.on_drives.clear();
        self.unfenced_on.clear();
        self.attached_by.clear();
        for group in self.groups.values() {
            for replica in &group.replicas {
                self.on_drives.entry(replica.drive).or_default().insert((group.id, replica.id));
            }
            for Unfenced { node, .. } in &group.unfenced {
                self.unfenced_on.entry(*node).or_default().insert(group.id);
            }
        }
        for volume in self.volumes.values() {
            for attachment in &volume.attachments {
                self.attached_by.entry(attachment.node).or_default().insert(volume.id);
            }
        }
    }

    /// Whether the drive is open, as far as the log tells: opened in the present start of its node, and not let go
    /// of since.
    pub fn is_open(&self, drive: &Drive) -> bool {
        let node = self.nodes.get(drive.node).and_then(|node| node.incarnation);
        node.is_some() && drive.incarnation > node && !drive.closed
    }
}
