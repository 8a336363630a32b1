//! Replicas that go to other drives: a new one is added beside the old one, filled, and takes its place.

use super::change::{Change, Entry};
use super::command::{Refusal, Reply};
use super::footprint::replica_blocks;
use super::placement::Domain;
use super::spec::VolumeSpec;
use super::state::{Drive, Group, Replica, ReplicaState};
use super::tables::Picture;
use crate::mesh::ids::{DriveId, GroupId, ReplicaId};

/// By how much more of it a drive is taken than another before a replica moves for that, in parts of the drive.
const UNEVEN_PARTS: u64 = 10;

impl Picture {
    pub(super) fn move_replica(
        &mut self,
        id: GroupId,
        replica: ReplicaId,
        to: Option<DriveId>,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        let group = self.groups.get(id).ok_or(Refusal::Unknown)?;
        group.replica(replica).ok_or(Refusal::Unknown)?;
        if let Some(to) = to {
            self.drives.get(to).ok_or(Refusal::Unknown)?;
        }
        if is_moving(group) {
            return Err(Refusal::State);
        }
        let to = self.place_for(group, Some(replica), to).ok_or(Refusal::NoRoom)?;
        self.add_replica(id, Some(replica), to, entry)?;
        Ok(Reply::Done)
    }

    /// A drive for another replica of a group, which takes the place of `replaced`: `wanted`, or else the best.
    fn place_for(
        &self,
        group: &Group,
        replaced: Option<ReplicaId>,
        wanted: Option<DriveId>,
    ) -> Option<DriveId> {
        let spec = &self.volumes.get(group.volume)?.spec;
        let taken: Vec<Domain> = group
            .replicas
            .iter()
            .filter(|replica| Some(replica.id) != replaced)
            .filter_map(|replica| self.drives.get(replica.drive))
            .map(|drive| self.domain_of(drive, spec.spread))
            .collect();
        let mut candidates = self.candidates(spec);
        candidates.retain(|drive| {
            wanted.is_none_or(|wanted| wanted == drive)
                && group.replicas.iter().all(|replica| replica.drive != drive)
        });
        let blocks = replica_blocks(group.blocks, spec.block_shift, spec.region_shift);
        candidates.choose(blocks, 1, &taken)?.pop()
    }

    /// Adds an empty replica to a group.
    fn add_replica(
        &mut self,
        id: GroupId,
        replaces: Option<ReplicaId>,
        drive: DriveId,
        entry: &mut Entry<'_>,
    ) -> Result<(), Refusal> {
        if self.totals.last_replica == u32::MAX {
            return Err(Refusal::Invalid);
        }
        let group = self.groups.get(id).ok_or(Refusal::Unknown)?;
        let volume = self.volumes.get(group.volume).ok_or(Refusal::Unknown)?;
        let (blocks, spec): (u64, VolumeSpec) = (group.blocks, volume.spec.clone());
        let replica = self
            .make_replica(id, blocks, &spec, drive, ReplicaState::Stale)
            .ok_or(Refusal::NoRoom)?;
        if let Some(group) = self.groups.get_mut(id) {
            // From this epoch on no intent bit is cleared: the new replica lacks everything.
            group.begin_epoch(entry.index);
            group.replicas.push(Replica { replaces, ..replica });
        }
        entry.changed(Change::Group(id));
        entry.changed(Change::Drive(drive));
        Ok(())
    }

    /// Starts moves that are called for: off what is being drained, to where copies are lacking, from full drives to empty ones.
    pub(super) fn rebalance(&mut self, most: u32, entry: &mut Entry<'_>) -> Result<Reply, Refusal> {
        let mut moves = 0;
        for (group, replica) in self.drained_replicas() {
            if moves == most {
                return Ok(Reply::Moves(moves));
            }
            moves += u32::from(self.move_replica(group, replica, None, entry).is_ok());
        }
        for id in self.lacking_groups() {
            if moves == most {
                return Ok(Reply::Moves(moves));
            }
            moves += u32::from(self.add_copy(id, entry));
        }
        while moves < most && self.even_out(entry) {
            moves += 1;
        }
        Ok(Reply::Moves(moves))
    }

    fn is_draining(&self, drive: &Drive) -> bool {
        drive.draining || self.nodes.get(drive.node).is_some_and(|node| node.draining)
    }

    fn drained_replicas(&self) -> Vec<(GroupId, ReplicaId)> {
        let drives = self.drives.values().filter(|drive| self.is_draining(drive));
        drives.flat_map(|drive| self.replicas_on(drive.id)).collect()
    }

    /// Groups with fewer replicas than their volume has copies, those on the way included.
    fn lacking_groups(&self) -> Vec<GroupId> {
        let is_lacking = |group: &&Group| {
            let moving = group.replicas.iter().filter(|replica| replica.replaces.is_some());
            let copies = self.volumes.get(group.volume).map_or(0, |volume| volume.spec.copies);
            group.holders().next().is_some()
                && group.replicas.len() - moving.count() < usize::from(copies)
        };
        self.groups.values().filter(is_lacking).map(|group| group.id).collect()
    }

    fn add_copy(&mut self, id: GroupId, entry: &mut Entry<'_>) -> bool {
        let place = self.groups.get(id).and_then(|group| self.place_for(group, None, None));
        place.is_some_and(|drive| self.add_replica(id, None, drive, entry).is_ok())
    }

    /// Moves one replica from the fullest drive that has one which fits an emptier drive.
    fn even_out(&mut self, entry: &mut Entry<'_>) -> bool {
        let mut fullest: Vec<(u64, DriveId)> =
            self.drives.values().map(|drive| (taken(drive), drive.id)).collect();
        fullest.sort_unstable_by_key(|&(taken, drive)| (std::cmp::Reverse(taken), drive));
        let Some(&(emptiest, _)) = fullest.last() else { return false };
        let step = (1 << 16) / UNEVEN_PARTS;
        let share = |drive: DriveId, replica: &Replica| {
            let extents: u64 = replica.extents.iter().map(|&(_, count)| u64::from(count)).sum();
            let all =
                self.drives.get(drive).map_or(1, |drive| u64::from(drive.spec.extents).max(1));
            (extents << 16) / all
        };
        let uneven = fullest.iter().take_while(|&&(taken, _)| taken > emptiest + step);
        for &(from_taken, from) in uneven {
            let replicas: Vec<(GroupId, ReplicaId)> = self.replicas_on(from).collect();
            for (id, replica) in replicas {
                let Some(group) = self.groups.get(id).filter(|group| !is_moving(group)) else {
                    continue;
                };
                let Some(to) = self.place_for(group, Some(replica), None) else { continue };
                let Some(moved) = group.replica(replica) else { continue };
                // The drive that it goes to must not be the fuller one afterwards, or it would come back.
                let gains = self.drives.get(to).is_some_and(|there| {
                    taken(there) + step < from_taken
                        && taken(there) + share(to, moved) + share(from, moved) <= from_taken
                });
                if gains {
                    return self.add_replica(id, Some(replica), to, entry).is_ok();
                }
            }
        }
        false
    }
}

/// Whether a replica of the group is on its way: one at a time.
fn is_moving(group: &Group) -> bool {
    group.replicas.iter().any(|replica| replica.replaces.is_some())
}

/// The share of a drive that is taken, in 65536ths.
fn taken(drive: &Drive) -> u64 {
    let extents = u64::from(drive.spec.extents).max(1);
    (extents.saturating_sub(drive.free_extents()) << 16) / extents
}
