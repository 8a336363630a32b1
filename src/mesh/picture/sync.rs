//! How a replica comes and goes: left behind, being filled, up to date again.

use super::change::{Change, Entry};
use super::command::{Eviction, Evidence, Refusal, SyncEnd, SyncStart};
use super::state::{Group, Node, Replica, ReplicaState, Round};
use super::tables::Picture;
use crate::mesh::ids::{DriveId, GroupId, Incarnation, Index, NodeId, ReplicaId};
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::route::{ROUTES_TRIED, Route};

impl Picture {
    fn find(&self, group: GroupId, replica: ReplicaId) -> Result<(&Group, &Replica), Refusal> {
        let group = self.groups.get(group).ok_or(Refusal::Unknown)?;
        Ok((group, group.replica(replica).ok_or(Refusal::Unknown)?))
    }

    /// Leaves one replica behind.
    pub(super) fn evict(
        &mut self,
        proposer: NodeId,
        eviction: &Eviction,
        entry: &mut Entry<'_>,
    ) -> Result<(), Refusal> {
        let (group, replica) = self.find(eviction.group, eviction.replica)?;
        if group.epoch != eviction.epoch && kept(Rule::S16) {
            return Err(Refusal::Superseded);
        }
        if !replica.state.is_written() {
            return Err(Refusal::State);
        }
        let is_needed = replica.state.is_holder() && !self.has_serving_holder(group, replica.id);
        if is_needed && kept(Rule::LastHolder) {
            return Err(Refusal::LastHolder);
        }
        let drive = self.drives.get(replica.drive).ok_or(Refusal::Unknown)?;
        let target = self.nodes.get(drive.node).ok_or(Refusal::Unknown)?;
        self.weigh(proposer, target, &eviction.evidence)?;
        if let Some(group) = self.groups.get_mut(eviction.group) {
            group.begin_epoch(entry.index);
        }
        self.leave_behind(eviction.group, eviction.replica, entry);
        Ok(())
    }

    /// Whether the evidence against a target is good enough (L5 to L8).
    fn weigh(&self, proposer: NodeId, target: &Node, evidence: &Evidence) -> Result<(), Refusal> {
        match evidence {
            Evidence::Device | Evidence::Round | Evidence::Operator => Ok(()),
            Evidence::NotServing { since } if target.last_tick > *since => Err(Refusal::Alive),
            Evidence::NotServing { .. } => Ok(()),
            Evidence::Unreachable { tried, since } => {
                if target.missed_ms > self.totals.timing.lease_ms {
                    return Ok(());
                }
                self.check_tried(proposer, target.id, tried)?;
                if was_heard_anew(target, *since) { Err(Refusal::Alive) } else { Ok(()) }
            }
        }
    }

    /// Only ways without or with one relay must have been tried: those with more are there when nothing else is.
    fn check_tried(&self, from: NodeId, to: NodeId, tried: &[Route]) -> Result<(), Refusal> {
        let mut routes = [Route::DIRECT; ROUTES_TRIED];
        let count = self.routes(from, to, &mut routes);
        let untried =
            routes[..count].iter().any(|route| route.relays().len() <= 1 && !tried.contains(route));
        if untried { Err(Refusal::RouteUntried) } else { Ok(()) }
    }

    /// Checks that this is the drive's current opening, and that its node serves it.
    fn check_open(&self, drive: DriveId, incarnation: Incarnation) -> Result<&Node, Refusal> {
        let drive = self.drives.get(drive).ok_or(Refusal::Unknown)?;
        if drive.incarnation != Some(incarnation) && kept(Rule::IncarnationCheck) {
            return Err(Refusal::Superseded);
        }
        if !self.is_open(drive) {
            return Err(Refusal::State);
        }
        self.nodes.get(drive.node).ok_or(Refusal::Unknown)
    }

    /// Begins to fill one stale replica.
    pub(super) fn begin_sync(
        &mut self,
        sync: &SyncStart,
        entry: &mut Entry<'_>,
    ) -> Result<(), Refusal> {
        let (group, replica) = self.find(sync.group, sync.replica)?;
        if group.epoch != sync.epoch {
            return Err(Refusal::Superseded);
        }
        if replica.state != ReplicaState::Stale {
            return Err(Refusal::State);
        }
        let node = self.check_open(replica.drive, sync.incarnation)?;
        if node.missed_ms > self.totals.timing.lease_ms {
            return Err(Refusal::State);
        }
        let volume = self.volumes.get(group.volume).ok_or(Refusal::Unknown)?;
        let reached = |client: NodeId| self.has_route(client, node.id);
        if !volume.attachments.iter().all(|attachment| reached(attachment.node)) {
            return Err(Refusal::NoRoute);
        }
        let source = self.best_source(group, None, Some(node.id)).ok_or(Refusal::State)?;
        let is_served = group
            .replica(source)
            .and_then(|source| self.drives.get(source.drive))
            .is_some_and(|drive| drive.incarnation.is_some());
        if !is_served {
            return Err(Refusal::State);
        }
        if let Some(group) = self.groups.get_mut(sync.group) {
            group.begin_epoch(entry.index);
            let round = Round { epoch: group.epoch, source };
            if let Some(replica) = group.replica_mut(sync.replica) {
                replica.state = ReplicaState::Syncing(round);
            }
        }
        entry.changed(Change::Group(sync.group));
        Ok(())
    }

    /// Takes one replica for up to date.
    pub(super) fn finish_sync(
        &mut self,
        sync: &SyncEnd,
        entry: &mut Entry<'_>,
    ) -> Result<(), Refusal> {
        let (_, replica) = self.find(sync.group, sync.replica)?;
        let round = replica.state.round().ok_or(Refusal::State)?;
        if round.epoch != sync.round && kept(Rule::S16) {
            return Err(Refusal::Superseded);
        }
        let drive = self.drives.get(replica.drive).ok_or(Refusal::Unknown)?;
        if drive.incarnation != Some(sync.incarnation) && kept(Rule::IncarnationCheck) {
            return Err(Refusal::Superseded);
        }
        let mut replaced = None;
        if let Some(group) = self.groups.get_mut(sync.group) {
            group.begin_epoch(entry.index);
            if let Some(replica) = group.replica_mut(sync.replica) {
                replica.state = ReplicaState::InSync;
                replica.blank = false;
                replaced = replica.replaces.take();
            }
        }
        if let Some(replaced) = replaced {
            self.drop_replica(sync.group, replaced, entry);
        }
        entry.changed(Change::Group(sync.group));
        Ok(())
    }
}

/// Whether the evidence is from before the present unbroken run of heartbeats: what was silent then is not silent now.
fn was_heard_anew(target: &Node, since: Index) -> bool {
    target.last_tick > since && since < target.run_start
}
