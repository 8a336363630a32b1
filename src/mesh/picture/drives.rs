//! Drives: added, opened, removed.

use super::change::{Change, Entry};
use super::command::{OpenDrive, Refusal, Reply};
use super::limits;
use super::spec::DriveSpec;
use super::state::{Drive, ReplicaState};
use super::tables::Picture;
use crate::base::Uuid;
use crate::mesh::ids::{DriveId, GroupId, Incarnation, NodeId, ReplicaId};
use crate::mesh::mutations::{Rule, kept};

impl Picture {
    pub(super) fn add_drive(
        &mut self,
        node: NodeId,
        uuid: Uuid,
        spec: &DriveSpec,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        limits::drive(spec)?;
        self.nodes.get(node).ok_or(Refusal::Unknown)?;
        if self.drive_uuids.contains_key(&uuid) {
            return Err(Refusal::Exists);
        }
        let next = self.totals.last_drive.checked_add(1).ok_or(Refusal::Invalid)?;
        self.totals.last_drive = next;
        let id = DriveId(next);
        self.drives.insert(Drive {
            id,
            uuid,
            node,
            spec: spec.clone(),
            incarnation: None,
            open_count: 0,
            nonce: 0,
            identity: 0,
            closed: false,
            draining: false,
            free: vec![(0, spec.extents)],
        });
        self.drive_uuids.insert(uuid, id);
        entry.changed(Change::Drive(id));
        Ok(Reply::Drive(id))
    }

    pub(super) fn close_drive(
        &mut self,
        uuid: Uuid,
        node: NodeId,
        nonce: u64,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        let drive = self.drive_by_uuid(uuid).ok_or(Refusal::Unknown)?;
        if (drive.node, drive.nonce) != (node, nonce) {
            return Err(Refusal::Superseded);
        }
        let id = drive.id;
        if let Some(drive) = self.drives.get_mut(id) {
            drive.closed = true;
        }
        entry.changed(Change::Drive(id));
        Ok(Reply::Done)
    }

    pub(super) fn open_drive(
        &mut self,
        open: &OpenDrive,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        let drive = self.drive_by_uuid(open.uuid).ok_or(Refusal::Unknown)?;
        let (id, old_node) = (drive.id, drive.node);
        self.check_incarnation(open.node, open.incarnation)?;
        if kept(Rule::S18) {
            let is_next = drive.incarnation.is_none() || open.previous.contains(&drive.nonce);
            if open.open_count <= drive.open_count || !is_next {
                return Err(Refusal::OldImage);
            }
        }
        if old_node != open.node && self.is_open(drive) && self.may_serve(old_node) {
            return Err(Refusal::State);
        }
        // The same device, or one that has stayed where it was and has no name of its own.
        let is_same = match drive.identity {
            0 => old_node == open.node,
            identity => identity == open.identity,
        };
        let is_believed = drive.incarnation.is_none() || is_same || !kept(Rule::S18);
        let replicas: Vec<(GroupId, ReplicaId)> = self.replicas_on(id).collect();
        for (group, replica) in replicas {
            self.reopened(group, replica, is_believed, entry);
        }
        // Nothing of the new incarnation serves an epoch of the old one.
        self.fence(old_node, entry, |unfenced| unfenced.drive == id);
        let incarnation = Incarnation(entry.index.0);
        if let Some(drive) = self.drives.get_mut(id) {
            drive.node = open.node;
            drive.incarnation = Some(incarnation);
            drive.open_count = open.open_count;
            drive.nonce = open.nonce;
            drive.identity = open.identity;
            drive.closed = false;
        }
        entry.changed(Change::Drive(id));
        Ok(Reply::Incarnation(incarnation))
    }

    /// Whether the node was in a tick that its lease may still run from.
    fn may_serve(&self, node: NodeId) -> bool {
        let wait_ms = self.totals.timing.fence().as_millis();
        self.nodes.get(node).is_some_and(|node| u128::from(node.missed_ms) <= wait_ms)
    }

    /// What becomes of a replica whose drive was closed in between: what its target had in memory is gone.
    /// Of a device that is not believed to be the one before, nothing counts while another replica has what it should have.
    fn reopened(
        &mut self,
        id: GroupId,
        replica: ReplicaId,
        is_believed: bool,
        entry: &mut Entry<'_>,
    ) {
        if !is_believed
            && let Some(group) = self.groups.get_mut(id)
            && group.has_other_holder(replica)
            && let Some(own) = group.replicas.iter_mut().find(|own| own.id == replica)
        {
            own.blank = true;
        }
        let Some(group) = self.groups.get(id) else { return };
        let Some(state) = group.replica(replica).map(|replica| replica.state) else { return };
        let is_write_back =
            self.volumes.get(group.volume).is_some_and(|volume| volume.spec.write_back);
        let is_lost = match state {
            ReplicaState::Stale => return,
            ReplicaState::Syncing(_) => kept(Rule::S7),
            // What it had acknowledged may have been in a volatile cache.
            ReplicaState::InSync | ReplicaState::Reconciling(_) => {
                (is_write_back || !is_believed) && group.has_other_holder(replica)
            }
        };
        let Some(group) = self.groups.get_mut(id) else { return };
        let mut changed = group.clone();
        changed.begin_epoch(entry.index);
        if is_lost {
            *group = changed;
            self.leave_behind(id, replica, entry);
        } else if kept(Rule::S7) && changed.restart_reconciling(replica) {
            *group = changed;
            entry.changed(Change::Group(id));
        }
    }

    pub(super) fn drain_drive(
        &mut self,
        id: DriveId,
        drain: bool,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        self.drives.get_mut(id).ok_or(Refusal::Unknown)?.draining = drain;
        entry.changed(Change::Drive(id));
        Ok(Reply::Done)
    }

    /// Takes a drive out of the mesh, with what is on it.
    pub(super) fn remove_drive(
        &mut self,
        id: DriveId,
        lose: bool,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        let drive = self.drives.get(id).ok_or(Refusal::Unknown)?;
        let uuid = drive.uuid;
        let replicas: Vec<(GroupId, ReplicaId)> = self.replicas_on(id).collect();
        let is_last = |&(group, replica): &(GroupId, ReplicaId)| {
            self.groups.get(group).is_some_and(|group| !group.has_other_holder(replica))
        };
        if !lose && replicas.iter().any(is_last) {
            return Err(Refusal::LastHolder);
        }
        for (group, replica) in replicas {
            if let Some(group) = self.groups.get_mut(group) {
                group.begin_epoch(entry.index);
            }
            self.drop_replica(group, replica, entry);
        }
        self.drives.remove(id);
        self.drive_uuids.remove(&uuid);
        self.on_drives.remove(&id);
        entry.changed(Change::Drive(id));
        Ok(Reply::Done)
    }
}
