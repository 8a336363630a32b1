//! Where replicas go: on different failure domains, on drives of the right kind, the emptiest and least used first.

use std::collections::{BTreeMap, BTreeSet};

use super::footprint::replica_blocks;
use super::spec::{Spread, VolumeSpec};
use super::state::{Drive, Replica, ReplicaState};
use super::tables::Picture;
use crate::mesh::ids::{DriveId, GroupId, NodeId, ReplicaId};

/// Of what two copies must not have the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain {
    Drive(DriveId),
    Host(NodeId),
    Named(String),
}

/// How good a drive is for another replica: the share of it that is taken, in 65536ths, then how many replicas use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    taken: u64,
    replicas: u32,
    drive: DriveId,
}

/// A drive that may be chosen.
struct Candidate {
    domain: Domain,
    extent_blocks: u64,
    extents: u32,
    free: u64,
    replicas: u32,
}

/// The drives that a volume's replicas can go to, kept in order of preference while they fill up.
pub struct Candidates {
    drives: BTreeMap<DriveId, Candidate>,
    order: BTreeSet<Score>,
}

impl Candidate {
    fn score(&self, drive: DriveId) -> Score {
        let extents = u64::from(self.extents).max(1);
        let taken = ((extents.saturating_sub(self.free)) << 16) / extents;
        Score { taken, replicas: self.replicas, drive }
    }

    /// Extents for so many blocks.
    fn extents_for(&self, blocks: u64) -> u64 {
        blocks.div_ceil(self.extent_blocks.max(1))
    }
}

impl Candidates {
    /// Chooses `copies` drives on different domains for replicas of so many blocks, and counts them as used. `None` when there are not
    /// enough; what was chosen of this volume before is in vain then.
    pub fn choose(&mut self, blocks: u64, copies: usize, taken: &[Domain]) -> Option<Vec<DriveId>> {
        let mut chosen: Vec<DriveId> = Vec::with_capacity(copies);
        let mut domains: Vec<Domain> = taken.to_vec();
        for score in &self.order {
            if chosen.len() == copies {
                break;
            }
            let Some(candidate) = self.drives.get(&score.drive) else { continue };
            if candidate.extents_for(blocks) <= candidate.free
                && !domains.contains(&candidate.domain)
            {
                domains.push(candidate.domain.clone());
                chosen.push(score.drive);
            }
        }
        if chosen.len() < copies {
            return None;
        }
        for &drive in &chosen {
            let Some(candidate) = self.drives.get_mut(&drive) else { continue };
            self.order.remove(&candidate.score(drive));
            candidate.free = candidate.free.saturating_sub(candidate.extents_for(blocks));
            candidate.replicas = candidate.replicas.saturating_add(1);
            self.order.insert(candidate.score(drive));
        }
        Some(chosen)
    }

    /// Blocks of the smallest drive, and of the largest extent.
    pub fn sizes(&self) -> Option<(u64, u64)> {
        let blocks = |drive: &Candidate| drive.extent_blocks.saturating_mul(drive.extents.into());
        let smallest = self.drives.values().map(blocks).min()?;
        Some((smallest, self.drives.values().map(|drive| drive.extent_blocks).max()?))
    }

    /// Leaves only drives that `is_wanted` wants.
    pub fn retain(&mut self, is_wanted: impl Fn(DriveId) -> bool) {
        self.drives.retain(|&drive, _| is_wanted(drive));
        self.order.retain(|score| is_wanted(score.drive));
    }
}

impl Picture {
    /// The domain of a drive, of which copies spread this way have one each.
    pub(super) fn domain_of(&self, drive: &Drive, spread: Spread) -> Domain {
        let domains = self.nodes.get(drive.node).map(|node| &node.domains);
        let named = match spread {
            Spread::Drive => return Domain::Drive(drive.id),
            Spread::Host => None,
            Spread::Rack => domains.map(|domains| &domains.rack),
            Spread::Zone => domains.map(|domains| &domains.zone),
        };
        match named.filter(|name| !name.is_empty()) {
            Some(name) => Domain::Named(name.clone()),
            None => Domain::Host(drive.node),
        }
    }

    /// Whether a drive takes new replicas of such a volume, room apart: of the right kind, not draining, opened, on a started node.
    pub(super) fn takes(&self, drive: &Drive, spec: &VolumeSpec) -> bool {
        let is_there = self
            .nodes
            .get(drive.node)
            .is_some_and(|node| node.incarnation.is_some() && !node.draining);
        is_there
            && !drive.draining
            && drive.incarnation.is_some()
            && drive.spec.block_shift == spec.block_shift
            && (spec.class.is_empty() || spec.class == drive.spec.class)
            && spec.tags.is_subset(&drive.spec.tags)
    }

    /// The drives that replicas of such a volume can go to.
    pub(super) fn candidates(&self, spec: &VolumeSpec) -> Candidates {
        let drives: BTreeMap<DriveId, Candidate> = self
            .drives
            .values()
            .filter(|drive| self.takes(drive, spec))
            .map(|drive| {
                let candidate = Candidate {
                    domain: self.domain_of(drive, spec.spread),
                    extent_blocks: drive.spec.extent_blocks,
                    extents: drive.spec.extents,
                    free: drive.free_extents(),
                    replicas: self.on_drives.get(&drive.id).map_or(0, |on| on.len() as u32),
                };
                (drive.id, candidate)
            })
            .collect();
        let order = drives.iter().map(|(&drive, candidate)| candidate.score(drive)).collect();
        Candidates { drives, order }
    }

    /// Makes a replica of a group on a drive that has room for it.
    pub(super) fn make_replica(
        &mut self,
        group: GroupId,
        group_blocks: u64,
        spec: &VolumeSpec,
        drive: DriveId,
        state: ReplicaState,
    ) -> Option<Replica> {
        let blocks = replica_blocks(group_blocks, spec.block_shift, spec.region_shift);
        let place = self.drives.get_mut(drive)?;
        let count = blocks.div_ceil(place.spec.extent_blocks.max(1));
        let extents = place.take(u32::try_from(count).ok()?)?;
        self.totals.last_replica += 1;
        let id = ReplicaId(self.totals.last_replica);
        self.on_drives.entry(drive).or_default().insert((group, id));
        let blank = state == ReplicaState::Stale;
        Some(Replica { id, drive, extents, state, blank, replaces: None })
    }
}
