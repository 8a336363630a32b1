//! What always holds in a picture: checked before a snapshot is believed, and by tests after every entry.

use std::collections::BTreeMap;

use super::limits;
use super::state::{Drive, Group, ReplicaState};
use super::tables::Picture;
use crate::mesh::ids::DriveId;

/// No counter comes near to this one by counting.
const COUNT_MAX: u64 = 1 << 62;

type Check = Result<(), String>;

fn check(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

impl Picture {
    /// Checks that the tables fit each other: extents are free or in one replica, what is referred to exists, rounds have a source that
    /// can be one, numbers are within their limits.
    ///
    /// # Errors
    /// The first thing that is wrong, in words.
    pub fn check_sound(&self) -> Check {
        let totals = &self.totals;
        check(totals.applied.0 < COUNT_MAX, || "the index".to_string())?;
        check(limits::timing(&totals.timing).is_ok(), || "timing constants".to_string())?;
        check(totals.timing.lease_before_ms <= limits::LEASE_MS_MAX, || "old lease".to_string())?;
        for volume in self.volumes.values() {
            let is_valid = limits::volume(&volume.spec).is_ok()
                && limits::name(&volume.name).is_ok()
                && volume.id.0 <= totals.last_volume;
            check(is_valid, || format!("{}: its limits", volume.id))?;
            let blocks =
                volume.parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.blocks));
            check(blocks == Some(volume.spec.blocks), || format!("{}: its size", volume.id))?;
            for id in volume.groups() {
                let of = self.groups.get(id).map(|group| group.volume);
                check(of == Some(volume.id), || format!("{}: its {id}", volume.id))?;
            }
        }
        let mut runs: BTreeMap<DriveId, Vec<(u32, u32)>> = BTreeMap::new();
        for group in self.groups.values() {
            self.check_group(group)?;
            for replica in &group.replicas {
                runs.entry(replica.drive).or_default().extend(&replica.extents);
            }
        }
        for drive in self.drives.values() {
            let is_valid = limits::drive(&drive.spec).is_ok()
                && self.nodes.get(drive.node).is_some()
                && drive.id.0 <= totals.last_drive;
            check(is_valid, || format!("{}: its limits", drive.id))?;
            check_extents(drive, runs.remove(&drive.id).unwrap_or_default())?;
        }
        check(runs.is_empty(), || "a replica on no drive".to_string())
    }

    fn check_group(&self, group: &Group) -> Check {
        let wrong = |what: &str| Err(format!("{}: {what}", group.id));
        if group.epoch.0 == 0 || group.epoch.0 >= COUNT_MAX || group.since > self.totals.applied {
            return wrong("its epoch");
        }
        if group.id.0 > self.totals.last_group || self.volumes.get(group.volume).is_none() {
            return wrong("what it is of");
        }
        if !group.replicas.is_sorted_by(|one, other| one.id < other.id) {
            return wrong("the order of its replicas");
        }
        for replica in &group.replicas {
            if replica.id.0 > self.totals.last_replica {
                return wrong("a replica's number");
            }
            let Some(round) = replica.state.round() else { continue };
            if round.epoch > group.epoch {
                return wrong("a round of a later epoch");
            }
            let Some(source) = group.replica(round.source) else {
                return wrong("a round without a source");
            };
            let is_right = match replica.state {
                ReplicaState::Reconciling(_) => source.state == ReplicaState::InSync,
                _ => source.state.is_holder(),
            };
            if !is_right || source.id == replica.id {
                return wrong("a source that cannot be one");
            }
        }
        Ok(())
    }
}

/// Checks that free runs and those of replicas cover the drive exactly once, and that the free ones are joined.
fn check_extents(drive: &Drive, mut runs: Vec<(u32, u32)>) -> Check {
    let is_joined =
        |pair: &[(u32, u32)]| u64::from(pair[0].0) + u64::from(pair[0].1) < u64::from(pair[1].0);
    let joined = drive.free.windows(2).all(is_joined);
    runs.extend(&drive.free);
    runs.sort_unstable();
    let mut next = 0_u64;
    for &(first, count) in &runs {
        check(u64::from(first) == next && count > 0, || format!("{}: its extents", drive.id))?;
        next += u64::from(count);
    }
    check(joined && next == u64::from(drive.spec.extents), || format!("{}: its extents", drive.id))
}
