//! What the picture holds: nodes, drives, volumes, groups with their replicas, attachments.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::spec::{AttachMode, Domains, DriveSpec, VolumeSpec};
use crate::base::Uuid;
use crate::mesh::ids::{
    DriveId, Epoch, Generation, GroupId, Incarnation, Index, NodeId, ReplicaId, VolumeId,
};

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its lasting name.
    pub uuid: Uuid,
    /// Where it is.
    pub domains: Domains,
    /// Where it can be reached, in the order of its preference.
    pub addresses: Vec<String>,
    /// Its current start; `None` before the first.
    pub incarnation: Option<Incarnation>,
    /// Random number of its current start.
    pub origin: u64,
    /// The store with which it could be a member of the quorum.
    pub store: Option<Uuid>,
    /// No new replicas.
    pub draining: bool,
    /// It acts on all entries up to here.
    pub applied: Index,
    /// The last tick that had a heartbeat of its current incarnation.
    pub last_tick: Index,
    /// The first tick of the unbroken run of heartbeats that `last_tick` belongs to. A run breaks when the node is missing for longer
    /// than T, and when no tick is decided for longer than T, or by another leader.
    pub run_start: Index,
    /// For how long ticks were decided without it, in milliseconds of the leader's clock.
    pub missed_ms: u32,
    /// Whom it hears and is heard by, by its own account.
    pub reach: BTreeSet<NodeId>,
    /// How busy it is as a relay, by its own account.
    pub load: u32,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Its number.
    pub id: DriveId,
    /// UUID in its label.
    pub uuid: Uuid,
    /// The node that it is in, or was last.
    pub node: NodeId,
    /// What it is.
    pub spec: DriveSpec,
    /// Its current opening; `None` before the first.
    pub incarnation: Option<Incarnation>,
    /// Open count of the label at the current opening.
    pub open_count: u64,
    /// Random number of the current opening.
    pub nonce: u64,
    /// What the device itself says it is; 0 if nothing.
    pub identity: u64,
    /// Who opened it has let go of it.
    pub closed: bool,
    /// No new replicas.
    pub draining: bool,
    /// Extents that no replica has, as runs (first, count) in order.
    pub free: Vec<(u32, u32)>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its number.
    pub id: VolumeId,
    /// Its name, unique in the mesh.
    pub name: String,
    /// What it was made as; `blocks` is its present size.
    pub spec: VolumeSpec,
    /// What it consists of, in order.
    pub parts: Vec<Part>,
    /// Who has it attached. More than one only in shared modes, and then all in the same.
    pub attachments: Vec<Attachment>,
}

/// A run of a volume's blocks, that is laid out in one way. Extending adds another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its blocks.
    pub blocks: u64,
    /// Blocks of a strip; the size of a group when it is not striped.
    pub strip_blocks: u64,
    /// Its groups; block `b` of the part is in strip `b / strip_blocks`, which is in group `strip % groups` and is the `strip / groups`th there.
    pub groups: Vec<GroupId>,
}

/// An attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its number.
    pub generation: Generation,
    /// Who.
    pub node: NodeId,
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// How.
    pub mode: AttachMode,
}

/// A group of replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// What it is a part of.
    pub volume: VolumeId,
    /// Its size.
    pub blocks: u64,
    /// The current epoch.
    pub epoch: Epoch,
    /// The entry that began the current epoch.
    pub since: Index,
    /// Its replicas, in the order of their ids.
    pub replicas: Vec<Replica>,
    /// Replicas that could serve reads in an earlier epoch, cannot now, and are not known by all to have learned of it.
    pub unfenced: Vec<Unfenced>,
}

/// A copy of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Its number.
    pub id: ReplicaId,
    /// The drive that it is on.
    pub drive: DriveId,
    /// Its extents there, as runs (first, count) in the order of its blocks.
    pub extents: Vec<(u32, u32)>,
    /// What it is good for.
    pub state: ReplicaState,
    /// It has never held the group's bytes: whatever was ever written must be copied.
    pub blank: bool,
    /// It takes the place of this one, which is dropped when it is in sync.
    pub replaces: Option<ReplicaId>,
}

/// What a replica is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaState {
    /// Holds every acknowledged write; is written and read.
    InSync,
    /// Holds every acknowledged write, but may differ in blocks that were never acknowledged; is written.
    Reconciling(Round),
    /// Is being filled; is written.
    Syncing(Round),
    /// Left behind.
    Stale,
}

/// The work that makes a replica equal to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Round {
    /// The epoch that started it.
    pub epoch: Epoch,
    /// What it is made equal to.
    pub source: ReplicaId,
}

impl ReplicaState {
    /// Whether writes go to it.
    pub fn is_written(&self) -> bool {
        !matches!(self, ReplicaState::Stale)
    }

    /// Whether it holds every acknowledged write.
    pub fn is_holder(&self) -> bool {
        matches!(self, ReplicaState::InSync | ReplicaState::Reconciling(_))
    }

    /// The round that it is a joiner of.
    pub fn round(&self) -> Option<Round> {
        match self {
            ReplicaState::Reconciling(round) | ReplicaState::Syncing(round) => Some(*round),
            ReplicaState::InSync | ReplicaState::Stale => None,
        }
    }
}

/// A replica that may still serve reads of an earlier epoch, as long as its lease lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfenced {
    /// Which.
    pub replica: ReplicaId,
    /// Where it is, or was.
    pub drive: DriveId,
    /// The node that served it.
    pub node: NodeId,
    /// The incarnation of its drive at that time; `None` if it was never opened, which needs no fence.
    pub incarnation: Option<Incarnation>,
    /// The entry that ended its service.
    pub at: Index,
}

impl Group {
    /// The replica of this number.
    pub fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// The replicas that are written to.
    pub fn write_set(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.state.is_written())
    }

    /// The replicas that hold every acknowledged write.
    pub fn holders(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.state.is_holder())
    }

    /// The source of the running round with `Reconciling` joiners, if there is one: while it runs, only the source is read.
    pub fn reconciling_from(&self) -> Option<Round> {
        self.replicas.iter().find_map(|replica| match replica.state {
            ReplicaState::Reconciling(round) => Some(round),
            _ => None,
        })
    }

    /// The first replica that is in sync: in shared-write mode it orders the writes of different clients.
    pub fn first(&self) -> Option<&Replica> {
        match self.reconciling_from() {
            Some(round) => self.replica(round.source),
            None => self.replicas.iter().find(|replica| replica.state == ReplicaState::InSync),
        }
    }

    /// Whether no replica lacks anything: only then may intent bits be cleared.
    pub fn is_whole(&self) -> bool {
        self.replicas.iter().all(|replica| replica.state == ReplicaState::InSync)
    }
}

impl Volume {
    /// The attachment of this number.
    pub fn attachment(&self, generation: Generation) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| attachment.generation == generation)
    }

    /// All its groups in order.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.parts.iter().flat_map(|part| part.groups.iter().copied())
    }
}
