//! What can be asked of the mesh log. Each command names what it depends on and is refused when that has changed.

use serde::{Deserialize, Serialize};

use super::spec::{AttachMode, Domains, DriveSpec, VolumeSpec};
use super::timing::Timing;
use crate::base::Uuid;
use crate::mesh::ids::{
    DriveId, Epoch, Generation, GroupId, Incarnation, Index, NodeId, ReplicaId, VolumeId,
};
use crate::mesh::route::Route;

/// A command of the mesh log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are what the line above each command says.
pub enum Command {
    /// A secret of this digest admits `uses` more nodes.
    AddToken { digest: [u8; 32], uses: u32 },
    /// The secret admits nobody any more.
    RemoveToken { digest: [u8; 32] },
    /// A host joins. The number is free, or belongs to the same UUID. Without a token only as the first node.
    AddNode { node: NodeId, uuid: Uuid, domains: Domains, token: Option<[u8; 32]> },
    /// A daemon has started. Ends the attachments of the node's earlier incarnations.
    StartNode {
        node: NodeId,
        uuid: Uuid,
        origin: u64,
        addresses: Vec<String>,
        domains: Domains,
        store: Option<Uuid>,
    },
    /// No new replica comes to the node's drives, and those there are moved away; or they may again.
    DrainNode { node: NodeId, drain: bool },
    /// The host is no part of the mesh any more. Refused while it has drives.
    RemoveNode { node: NodeId },
    /// A drive becomes part of the mesh.
    AddDrive { node: NodeId, uuid: Uuid, spec: DriveSpec },
    /// A daemon has opened the drive, and serves it from here on (a new incarnation of the drive).
    OpenDrive(OpenDrive),
    /// The daemon that opened the drive with this nonce has let go of it: another node may open it at once. Its replicas stay what they are.
    CloseDrive { uuid: Uuid, node: NodeId, nonce: u64 },
    /// No new replica comes to the drive, and those there are moved away; or they may again.
    DrainDrive { drive: DriveId, drain: bool },
    /// The drive is no part of the mesh any more; its replicas are given up where another holder exists. Refused otherwise, unless
    /// `lose` accepts that groups lose their last copy.
    RemoveDrive { drive: DriveId, lose: bool },
    /// Makes a volume.
    CreateVolume { name: String, spec: VolumeSpec },
    /// Adds blocks at the end of a volume.
    ExtendVolume { volume: VolumeId, blocks: u64 },
    /// Removes a volume. Refused while it is attached.
    DeleteVolume { volume: VolumeId },
    /// A replica is to be on another drive: a new one is filled, then the old one is dropped. `None`: a drive of the mesh's choice.
    MoveReplica { group: GroupId, replica: ReplicaId, to: Option<DriveId> },
    /// Starts at most `moves` moves that a drained drive or node, a lost drive, or an uneven load call for.
    Rebalance { moves: u32 },
    /// A node attaches a volume. `preempt` revokes the attachments that are in the way.
    Attach {
        volume: VolumeId,
        node: NodeId,
        incarnation: Incarnation,
        mode: AttachMode,
        preempt: bool,
    },
    /// A node gives up its attachment, with nothing in flight.
    Detach { volume: VolumeId, generation: Generation },
    /// Ends an attachment, whatever it has in flight.
    Revoke { volume: VolumeId, generation: Generation },
    /// Replicas that cannot be written to are left behind.
    Evict { proposer: NodeId, evictions: Vec<Eviction> },
    /// Stale replicas come back and are to be brought up to date.
    BeginSync { proposer: NodeId, syncs: Vec<SyncStart> },
    /// Replicas are up to date.
    FinishSync { proposer: NodeId, syncs: Vec<SyncEnd> },
    /// Heartbeats that the leader has got since its last tick.
    Tick(Tick),
    /// Whom a node hears and is heard by.
    Report { node: NodeId, incarnation: Incarnation, reach: Vec<NodeId>, load: u32 },
    /// Changes the timing constants.
    SetTiming(Timing),
}

/// See [`Command::OpenDrive`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenDrive {
    /// UUID in the drive's label.
    pub uuid: Uuid,
    /// The node that opened it, and its incarnation.
    pub node: NodeId,
    /// Incarnation of the node.
    pub incarnation: Incarnation,
    /// The open count in the label, after this opening. Must be higher than any that the log knows.
    pub open_count: u64,
    /// What the device itself says it is: a digest of its serial number or world-wide name; 0 if it has none. A label can be copied to
    /// another device, this cannot: what comes up as another device is not believed to hold what the one before held.
    pub identity: u64,
    /// Random number that this opening wrote into the label.
    pub nonce: u64,
    /// Random numbers of the openings before, as the label has them, the newest first. The one that the log knows must be among them: an image
    /// from before that opening has older ones only. (The log need not know the last ones: a daemon may have died before they were decided.)
    pub previous: Vec<u64>,
}

/// A replica to be left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// Its group.
    pub group: GroupId,
    /// The group's epoch that this rests on.
    pub epoch: Epoch,
    /// Which replica.
    pub replica: ReplicaId,
    /// Why.
    pub evidence: Evidence,
}

/// Why a replica is to be left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are what the line above each kind says.
pub enum Evidence {
    /// Its drive fails or hangs: its target says so, or an I/O came back with a device error.
    Device,
    /// It gives no sign of life over these routes. The first attempt that counts began when the proposer had applied `since`.
    Unreachable { tried: Vec<Route>, since: Index },
    /// Its target answers, but has no lease or lags behind, in every attempt from `since` on.
    NotServing { since: Index },
    /// A partner in a round cannot go on with it.
    Round,
    /// An operator's wish.
    Operator,
}

/// A stale replica that comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStart {
    /// Its group.
    pub group: GroupId,
    /// The group's epoch that this rests on.
    pub epoch: Epoch,
    /// Which replica.
    pub replica: ReplicaId,
    /// The incarnation of its drive that asks.
    pub incarnation: Incarnation,
}

/// A replica that is up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncEnd {
    /// Its group.
    pub group: GroupId,
    /// Which replica.
    pub replica: ReplicaId,
    /// The epoch that started its round.
    pub round: Epoch,
    /// The incarnation of its drive that did the work.
    pub incarnation: Incarnation,
}

/// Heartbeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// Milliseconds since the leader's last tick was decided; `None` from a leader that has not had one decided.
    pub elapsed_ms: Option<u32>,
    /// One of each node that was heard, the newest.
    pub beats: Vec<Beat>,
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who sent it.
    pub node: NodeId,
    /// Incarnation of the node; a beat of another than the current one counts for nothing.
    pub incarnation: Incarnation,
    /// A number that the node has never used before, in any incarnation.
    pub nonce: Nonce,
    /// The node acts on all entries up to this one, and has drained what it had accepted before them.
    pub applied: Index,
}

/// A number that is used once: the random number of a daemon's start, and a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nonce {
    /// Random number of the daemon's start.
    pub origin: u64,
    /// Counts up.
    pub counter: u64,
}

/// What a command that was accepted gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing but the change.
    Done,
    /// The new incarnation of a node or a drive.
    Incarnation(Incarnation),
    /// The new drive.
    Drive(DriveId),
    /// The new volume.
    Volume(VolumeId),
    /// The new attachment.
    Generation(Generation),
    /// One result for each item of a batch, in its order.
    Items(Vec<Result<(), Refusal>>),
    /// How many moves were started.
    Moves(u32),
}

/// Why a command, or an item of one, was refused. The picture is unchanged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    Unknown,
    /// The name, number or UUID is in use.
    Exists,
    /// The epoch, generation or incarnation that it rests on is not the current one.
    Superseded,
    /// It does not fit the state that the thing is in.
    State,
    /// The last holder of a group, or the last that can serve, is never left behind.
    LastHolder,
    /// A route exists that the proposer has not tried.
    RouteUntried,
    /// The target was alive after the evidence.
    Alive,
    /// No route from an attached client to the replica.
    NoRoute,
    /// No drives with enough room on different failure domains.
    NoRoom,
    /// Attached, and not to be preempted.
    Attached,
    /// The token is unknown or used up.
    Token,
    /// A value outside its limits.
    Invalid,
    /// The drive's label is older than what the log knows of it.
    OldImage,
    /// It may have been decided: this node has caught up by a snapshot and has not seen the entries one by one.
    Unclear,
}
