//! Changes of replica states: what every eviction, revocation, restart and end of a round does to a group. Whoever changes a state
//! begins an epoch first, and every round that starts over does so under that epoch.

use super::change::{Change, Entry};
use super::state::{Group, Replica, ReplicaState, Round, Unfenced};
use super::tables::Picture;
use crate::mesh::ids::{GroupId, Index, NodeId, ReplicaId};
use crate::mesh::mutations::{Rule, kept};

impl Group {
    /// Ends the current epoch.
    pub(super) fn begin_epoch(&mut self, index: Index) {
        self.epoch = self.epoch.next();
        self.since = index;
    }

    pub(super) fn replica_mut(&mut self, id: ReplicaId) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| replica.id == id)
    }

    /// Whether another replica than this one holds every acknowledged write.
    pub(super) fn has_other_holder(&self, id: ReplicaId) -> bool {
        self.holders().any(|replica| replica.id != id)
    }

    /// Gives the rounds of a source that is gone another one, from which they start over (S4).
    fn change_source(&mut self, gone: ReplicaId, successor: Option<ReplicaId>) {
        let Some(source) = successor else { return };
        let round = Round { epoch: self.epoch, source };
        for replica in &mut self.replicas {
            if replica.state.round().is_none_or(|old| old.source != gone) {
                continue;
            }
            replica.state = match replica.state {
                ReplicaState::Reconciling(_) if replica.id == source => ReplicaState::InSync,
                ReplicaState::Reconciling(_) => ReplicaState::Reconciling(round),
                _ => ReplicaState::Syncing(round),
            };
        }
    }

    /// Makes every other holder equal to `source`, because a writer may have left them different.
    fn reconcile(&mut self, source: ReplicaId) {
        let round = Round { epoch: self.epoch, source };
        for replica in &mut self.replicas {
            replica.state = match replica.state {
                ReplicaState::InSync | ReplicaState::Reconciling(_) if replica.id == source => {
                    ReplicaState::InSync
                }
                ReplicaState::InSync | ReplicaState::Reconciling(_) => {
                    ReplicaState::Reconciling(round)
                }
                ReplicaState::Syncing(_) if kept(Rule::S3) => ReplicaState::Syncing(round),
                other => other,
            };
        }
    }

    /// Starts the running reconciliation over, from the same source, if this replica has a part in it (S7).
    pub(super) fn restart_reconciling(&mut self, restarted: ReplicaId) -> bool {
        let Some(running) = self.reconciling_from() else { return false };
        let has_part = running.source == restarted
            || self.replicas.iter().any(|replica| {
                replica.id == restarted && matches!(replica.state, ReplicaState::Reconciling(_))
            });
        if has_part {
            let round = Round { epoch: self.epoch, source: running.source };
            for replica in &mut self.replicas {
                if let ReplicaState::Reconciling(old) = &mut replica.state {
                    *old = round;
                }
            }
        }
        has_part
    }
}

impl Picture {
    /// Whether the node was in the ticks of the last T/2.
    fn is_recent(&self, id: NodeId) -> bool {
        self.nodes
            .get(id)
            .is_some_and(|node| u64::from(node.missed_ms) * 2 <= self.totals.timing.lease_ms.into())
    }

    /// The holder that a round is best run from, other than `except`: in sync rather than reconciling, in recent ticks, open, within
    /// reach of the node that is to copy from it; then the lowest number.
    pub(super) fn best_source(
        &self,
        group: &Group,
        except: Option<ReplicaId>,
        reader: Option<NodeId>,
    ) -> Option<ReplicaId> {
        group
            .holders()
            .filter(|replica| Some(replica.id) != except)
            .min_by_key(|replica| {
                let drive = self.drives.get(replica.drive);
                let node = drive.map(|drive| drive.node);
                (
                    replica.state != ReplicaState::InSync,
                    !node.is_some_and(|node| self.is_recent(node)),
                    !drive.is_some_and(|drive| self.is_open(drive)),
                    !node.zip(reader).is_none_or(|(from, to)| self.has_route(from, to)),
                    replica.id,
                )
            })
            .map(|replica| replica.id)
    }

    /// Whether another holder than this one can serve: its drive is open, and its node has not missed ticks for longer than T. One that
    /// cannot may never come back, and nothing goes on without this one meanwhile: it is no reason to leave this one behind.
    pub(super) fn has_serving_holder(&self, group: &Group, except: ReplicaId) -> bool {
        let serves = |replica: &Replica| {
            let drive = self.drives.get(replica.drive).filter(|drive| self.is_open(drive));
            let node = drive.and_then(|drive| self.nodes.get(drive.node));
            node.is_some_and(|node| node.missed_ms <= self.totals.timing.lease_ms)
        };
        group.holders().any(|replica| replica.id != except && serves(replica))
    }

    /// Whether there is any way between two nodes.
    pub(super) fn has_route(&self, from: NodeId, to: NodeId) -> bool {
        self.matrix.has_route(from, to)
    }

    /// Notes that a replica stops being one that could serve reads.
    fn add_unfenced(&mut self, group: GroupId, replica: ReplicaId, index: Index) {
        let Some(entry) = self.groups.get(group) else { return };
        let Some(replica) = entry.replica(replica) else { return };
        let Some(drive) = self.drives.get(replica.drive) else { return };
        // A drive that was never opened has served nothing.
        if drive.incarnation.is_none() {
            return;
        }
        let unfenced = Unfenced {
            replica: replica.id,
            drive: drive.id,
            node: drive.node,
            incarnation: drive.incarnation,
            at: index,
        };
        self.unfenced_on.entry(unfenced.node).or_default().insert(group);
        if let Some(group) = self.groups.get_mut(group) {
            // Who has applied this entry has applied the earlier one.
            group.unfenced.retain(|other| other.replica != unfenced.replica);
            group.unfenced.push(unfenced);
        }
    }

    /// Leaves a replica behind, in the epoch that the caller has begun.
    pub(super) fn leave_behind(&mut self, id: GroupId, replica: ReplicaId, entry: &mut Entry<'_>) {
        let Some(group) = self.groups.get(id) else { return };
        let was_holder = group.replica(replica).is_some_and(|replica| replica.state.is_holder());
        let successor = self.best_source(group, Some(replica), None);
        if was_holder {
            self.add_unfenced(id, replica, entry.index);
        }
        let Some(group) = self.groups.get_mut(id) else { return };
        if let Some(replica) = group.replica_mut(replica) {
            replica.state = ReplicaState::Stale;
        }
        group.change_source(replica, successor);
        entry.changed(Change::Group(id));
    }

    /// Takes a replica out of its group for good, in the epoch that the caller has begun.
    pub(super) fn drop_replica(&mut self, id: GroupId, replica: ReplicaId, entry: &mut Entry<'_>) {
        self.leave_behind(id, replica, entry);
        let Some(group) = self.groups.get_mut(id) else { return };
        let Some(at) = group.replicas.iter().position(|other| other.id == replica) else { return };
        let dropped = group.replicas.remove(at);
        for other in &mut group.replicas {
            if other.replaces == Some(replica) {
                other.replaces = None;
            }
        }
        self.free_replica(id, &dropped, entry);
    }

    /// Gives back the room of a replica that is in its group no more.
    pub(super) fn free_replica(
        &mut self,
        group: GroupId,
        dropped: &Replica,
        entry: &mut Entry<'_>,
    ) {
        if let Some(replicas) = self.on_drives.get_mut(&dropped.drive) {
            replicas.remove(&(group, dropped.id));
        }
        if let Some(drive) = self.drives.get_mut(dropped.drive) {
            drive.release(&dropped.extents);
            entry.changed(Change::Drive(drive.id));
        }
    }

    /// A writer of the group is gone, whatever it had in flight: the holders may differ now.
    pub(super) fn begin_reconciling(&mut self, id: GroupId, entry: &mut Entry<'_>) {
        let source = self.groups.get(id).and_then(|group| self.best_source(group, None, None));
        let Some(group) = self.groups.get_mut(id) else { return };
        group.begin_epoch(entry.index);
        if let Some(source) = source {
            group.reconcile(source);
        }
        entry.changed(Change::Group(id));
    }

    /// Forgets those of a node's unfenced replicas that `is_fenced` says are none any more.
    pub(super) fn fence(
        &mut self,
        node: NodeId,
        entry: &mut Entry<'_>,
        is_fenced: impl Fn(&Unfenced) -> bool,
    ) {
        let Some(groups) = self.unfenced_on.get_mut(&node) else { return };
        groups.retain(|&id| {
            let is_ours = |unfenced: &Unfenced| unfenced.node == node;
            let Some(group) = self.groups.get(id) else { return false };
            if group.unfenced.iter().any(|unfenced| is_ours(unfenced) && is_fenced(unfenced))
                && let Some(group) = self.groups.get_mut(id)
            {
                group.unfenced.retain(|unfenced| !(is_ours(unfenced) && is_fenced(unfenced)));
                entry.changed(Change::Fenced(id));
            }
            self.groups.get(id).is_some_and(|group| group.unfenced.iter().any(is_ours))
        });
        if groups.is_empty() {
            self.unfenced_on.remove(&node);
        }
    }
}
