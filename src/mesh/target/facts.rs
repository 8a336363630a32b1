//! What a replica has to know of the picture, taken out of it when it changes: the I/O path looks at nothing else.

use crate::base::{Time, Uuid};
use crate::bdev::intent::MapLayout;
use crate::mesh::ids::{
    DriveId, Epoch, Generation, GroupId, Incarnation, Index, NodeId, ReplicaId, VolumeId,
};
use crate::mesh::picture::footprint::{data_offset, map_layout};
use crate::mesh::picture::{AttachMode, Attachment, Group, Picture, ReplicaState, Round};
use crate::mesh::route::Route;

/// Most ways to another replica's node that are remembered.
pub(super) const ROUTES: usize = 4;

/// Another replica of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub replica: ReplicaId,
    pub node: NodeId,
    pub state: ReplicaState,
    pub incarnation: Option<Incarnation>,
    /// Its drive is open, as far as the log tells.
    pub open: bool,
    pub routes: Vec<Route>,
}

/// What a replica knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub volume: VolumeId,
    pub group: GroupId,
    pub replica: ReplicaId,
    pub drive: DriveId,
    /// The incarnation of the drive that this daemon opened, if it is the one that the log names.
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    /// The entry that began the epoch.
    pub since: Index,
    pub applied: Index,
    pub state: ReplicaState,
    pub blank: bool,
    pub blocks: u64,
    pub write_back: bool,
    pub copies: usize,
    /// No copy lacks anything.
    pub whole: bool,
    /// The first in-sync replica is this one.
    pub first: bool,
    /// The running round with `Reconciling` joiners.
    pub reconciling: Option<Round>,
    pub attachments: Vec<Attachment>,
    pub peers: Vec<Peer>,
    pub place: Place,
}

/// Where the replica lies on its drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub drive_uuid: Uuid,
    pub extents: Vec<(u32, u32)>,
    pub extent_blocks: u64,
    pub data_offset: u64,
    pub layout: MapLayout,
    pub block_shift: u8,
}

impl Place {
    /// The drive's block for this block of the replica's space (map first, then data).
    fn locate(&self, block: u64) -> Option<u64> {
        let mut extent = block / self.extent_blocks;
        for &(first, count) in &self.extents {
            if extent < u64::from(count) {
                return Some(
                    (u64::from(first) + extent) * self.extent_blocks + block % self.extent_blocks,
                );
            }
            extent -= u64::from(count);
        }
        None
    }

    /// The drive's block for a block of the group. A run within a region lies in one piece from there.
    pub fn data(&self, block: u64) -> Option<u64> {
        self.locate(self.data_offset + block)
    }

    /// Blocks of a page of the map.
    pub fn page_blocks(&self) -> u32 {
        self.layout.page_bytes() >> self.block_shift
    }

    /// The drive's block where a copy of a page of the map begins.
    pub fn page(&self, page: u32, copy: u32) -> Option<u64> {
        self.locate(self.layout.page_offset(page, copy) >> self.block_shift)
    }
}

impl Facts {
    /// What the picture says of a replica of a group that is on a drive which this daemon has opened.
    pub fn of(picture: &Picture, node: NodeId, group: &Group, replica: ReplicaId) -> Option<Facts> {
        let own = group.replica(replica)?;
        let drive = picture.drive(own.drive)?;
        let volume = picture.volume(group.volume)?;
        let peer = |replica: &crate::mesh::picture::Replica| {
            let drive = picture.drive(replica.drive)?;
            let mut routes = [Route::DIRECT; ROUTES];
            let count = picture.routes(node, drive.node, &mut routes);
            Some(Peer {
                replica: replica.id,
                node: drive.node,
                state: replica.state,
                incarnation: drive.incarnation,
                open: picture.is_open(drive),
                routes: routes[..count].to_vec(),
            })
        };
        let others = group.replicas.iter().filter(|other| other.id != replica);
        let (shift, region) = (drive.spec.block_shift, volume.spec.region_shift);
        let layout = map_layout(group.blocks, shift, region)?;
        Some(Facts {
            volume: group.volume,
            group: group.id,
            replica,
            drive: own.drive,
            incarnation: drive.incarnation?,
            epoch: group.epoch,
            since: group.since,
            applied: picture.applied(),
            state: own.state,
            blank: own.blank,
            blocks: group.blocks,
            write_back: volume.spec.write_back,
            copies: group.replicas.len(),
            whole: group.is_whole(),
            first: group.first().is_some_and(|first| first.id == replica),
            reconciling: group.reconciling_from(),
            attachments: volume.attachments.clone(),
            peers: others.filter_map(peer).collect(),
            place: Place {
                drive_uuid: drive.uuid,
                extents: own.extents.clone(),
                extent_blocks: drive.spec.extent_blocks,
                data_offset: data_offset(group.blocks, shift, region),
                layout,
                block_shift: drive.spec.block_shift,
            },
        })
    }

    /// The attachment of this generation.
    pub fn attachment(&self, generation: Generation) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| attachment.generation == generation)
    }

    /// The attachments that write.
    pub fn writers(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.iter().filter(|attachment| attachment.mode != AttachMode::SharedRead)
    }

    /// The other replica of this number.
    pub fn peer(&self, replica: ReplicaId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.replica == replica)
    }

    /// Whether several clients may write.
    pub fn is_shared_write(&self) -> bool {
        self.attachments.iter().any(|attachment| attachment.mode == AttachMode::SharedWrite)
    }

    /// Whether this replica may be read, as far as its state goes.
    pub fn is_readable(&self) -> bool {
        match self.reconciling {
            Some(round) => round.source == self.replica,
            None => self.state == ReplicaState::InSync && (self.first || !self.is_shared_write()),
        }
    }
}

/// When a thing that failed is tried again: soon, then less and less often.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    pub at: Time,
    pub wait_ms: u32,
}

impl BackOff {
    const FIRST_MS: u32 = 20;
    const LAST_MS: u32 = 5000;

    /// From now on.
    pub fn new(now: Time) -> BackOff {
        BackOff { at: now, wait_ms: Self::FIRST_MS }
    }

    /// One more try was made.
    pub fn again(&mut self, now: Time) {
        self.at = now + std::time::Duration::from_millis(self.wait_ms.into());
        self.wait_ms = (self.wait_ms * 2).min(Self::LAST_MS);
    }
}
