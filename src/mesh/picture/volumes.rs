//! Volumes: made, extended, deleted.

use super::change::{Change, Entry};
use super::command::{Refusal, Reply};
use super::footprint::{data_offset, replica_blocks};
use super::limits;
use super::placement::Candidates;
use super::spec::{Layout, VolumeSpec};
use super::state::{Group, Part, ReplicaState, Volume};
use super::tables::Picture;
use crate::mesh::ids::{DriveId, Epoch, GroupId, VolumeId};

/// Most extents of a group of a concatenated volume, where drives are large.
const GROUP_EXTENTS_MAX: u64 = 1024;
/// A group of a concatenated volume takes no more than this part of the smallest drive.
const DRIVE_PART: u64 = 4;

/// A part that has its place.
struct Plan {
    strip_blocks: u64,
    /// Blocks and drives of each group.
    groups: Vec<(u64, Vec<DriveId>)>,
}

impl Picture {
    pub(super) fn create_volume(
        &mut self,
        name: &str,
        spec: &VolumeSpec,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        limits::name(name)?;
        limits::volume(spec)?;
        limits::size(spec, 0, spec.blocks)?;
        if self.volume_names.contains_key(name) {
            return Err(Refusal::Exists);
        }
        let next = self.totals.last_volume.checked_add(1).ok_or(Refusal::Invalid)?;
        let plan = self.plan(spec, spec.blocks)?;
        self.totals.last_volume = next;
        let id = VolumeId(next);
        let part = self.make_part(id, spec, spec.blocks, plan, entry);
        self.volume_names.insert(name.to_string(), id);
        self.volumes.insert(Volume {
            id,
            name: name.to_string(),
            spec: spec.clone(),
            parts: vec![part],
            attachments: Vec::new(),
        });
        entry.changed(Change::Volume(id));
        Ok(Reply::Volume(id))
    }

    pub(super) fn extend_volume(
        &mut self,
        id: VolumeId,
        blocks: u64,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        let volume = self.volumes.get(id).ok_or(Refusal::Unknown)?;
        if volume.parts.len() >= limits::PARTS_MAX {
            return Err(Refusal::Invalid);
        }
        let spec = volume.spec.clone();
        limits::size(&spec, spec.blocks, blocks)?;
        let plan = self.plan(&spec, blocks)?;
        let part = self.make_part(id, &spec, blocks, plan, entry);
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.parts.push(part);
            volume.spec.blocks += blocks;
        }
        entry.changed(Change::Volume(id));
        Ok(Reply::Done)
    }

    pub(super) fn delete_volume(
        &mut self,
        id: VolumeId,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        let volume = self.volumes.get(id).ok_or(Refusal::Unknown)?;
        if !volume.attachments.is_empty() {
            return Err(Refusal::Attached);
        }
        if let Some(volume) = self.volumes.remove(id) {
            self.volume_names.remove(&volume.name);
            for group in volume.groups() {
                self.delete_group(group, entry);
            }
        }
        entry.changed(Change::Volume(id));
        Ok(Reply::Done)
    }

    fn delete_group(&mut self, id: GroupId, entry: &mut Entry<'_>) {
        let Some(group) = self.groups.remove(id) else { return };
        for replica in &group.replicas {
            self.free_replica(id, replica, entry);
        }
        for unfenced in &group.unfenced {
            if let Some(groups) = self.unfenced_on.get_mut(&unfenced.node) {
                groups.remove(&id);
                if groups.is_empty() {
                    self.unfenced_on.remove(&unfenced.node);
                }
            }
        }
        entry.changed(Change::Group(id));
    }

    /// Finds a place for so many more blocks of such a volume.
    fn plan(&self, spec: &VolumeSpec, blocks: u64) -> Result<Plan, Refusal> {
        let mut candidates = self.candidates(spec);
        let (strip_blocks, sizes) = match spec.layout {
            Layout::Striped { width, strip_blocks } => {
                let width = u64::from(width);
                (u64::from(strip_blocks), vec![blocks / width; width as usize])
            }
            Layout::Concatenated => {
                let most = group_blocks_max(&candidates, spec, blocks)?;
                let sizes = (0..blocks.div_ceil(most)).map(|at| most.min(blocks - at * most));
                (most, sizes.collect())
            }
        };
        let ids = u64::from(self.totals.last_replica) + sizes.len() as u64 * u64::from(spec.copies);
        let groups = u64::from(self.totals.last_group) + sizes.len() as u64;
        if ids.max(groups) > u32::MAX.into() {
            return Err(Refusal::Invalid);
        }
        let mut groups = Vec::with_capacity(sizes.len());
        for blocks in sizes {
            let replica = replica_blocks(blocks, spec.block_shift, spec.region_shift);
            let drives = candidates.choose(replica, spec.copies.into(), &[]);
            groups.push((blocks, drives.ok_or(Refusal::NoRoom)?));
        }
        Ok(Plan { strip_blocks, groups })
    }

    fn make_part(
        &mut self,
        volume: VolumeId,
        spec: &VolumeSpec,
        blocks: u64,
        plan: Plan,
        entry: &mut Entry<'_>,
    ) -> Part {
        let mut groups = Vec::with_capacity(plan.groups.len());
        for (group_blocks, drives) in plan.groups {
            self.totals.last_group += 1;
            let id = GroupId(self.totals.last_group);
            let replicas = drives
                .into_iter()
                .filter_map(|drive| {
                    entry.changed(Change::Drive(drive));
                    self.make_replica(id, group_blocks, spec, drive, ReplicaState::InSync)
                })
                .collect();
            self.groups.insert(Group {
                id,
                volume,
                blocks: group_blocks,
                epoch: Epoch(1),
                since: entry.index,
                replicas,
                unfenced: Vec::new(),
            });
            entry.changed(Change::Group(id));
            groups.push(id);
        }
        Part { blocks, strip_blocks: plan.strip_blocks, groups }
    }
}

/// How large the groups of a concatenated part are: small beside the drives, so that they can be spread and moved, and whole
/// extents together with their maps.
fn group_blocks_max(
    candidates: &Candidates,
    spec: &VolumeSpec,
    blocks: u64,
) -> Result<u64, Refusal> {
    let (smallest_drive, extent) = candidates.sizes().ok_or(Refusal::NoRoom)?;
    let extents = (smallest_drive / DRIVE_PART / extent).clamp(1, GROUP_EXTENTS_MAX);
    let room = extents * extent;
    let map = data_offset(room, spec.block_shift, spec.region_shift);
    let most = if map < room { room - map } else { room };
    if blocks.div_ceil(most) > limits::PART_GROUPS_MAX {
        return Ok(blocks.div_ceil(limits::PART_GROUPS_MAX));
    }
    Ok(most)
}
