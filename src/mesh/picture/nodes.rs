//! Nodes: how they join, start, report and leave; and the timing constants, which bind all of them.

use std::collections::BTreeSet;

use super::change::{Change, Entry};
use super::command::{Command, Refusal, Reply};
use super::limits;
use super::matrix::Matrix;
use super::spec::Domains;
use super::state::Node;
use super::tables::{Admission, Picture};
use super::timing::Timing;
use crate::base::Uuid;
use crate::mesh::ids::{Incarnation, Index, NodeId};
use crate::mesh::mutations::{Rule, kept};

impl Picture {
    /// Checks that this is the node's current start.
    pub(super) fn check_incarnation(
        &self,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Result<&Node, Refusal> {
        let node = self.nodes.get(node).ok_or(Refusal::Unknown)?;
        if node.incarnation == Some(incarnation) { Ok(node) } else { Err(Refusal::Superseded) }
    }

    pub(super) fn add_token(&mut self, digest: [u8; 32], uses: u32) -> Result<Reply, Refusal> {
        if uses == 0 || self.tokens.len() >= limits::TOKENS_MAX {
            return Err(Refusal::Invalid);
        }
        if self.tokens.get(digest).is_some() {
            return Err(Refusal::Exists);
        }
        self.tokens.insert(Admission { digest, uses });
        Ok(Reply::Done)
    }

    pub(super) fn remove_token(&mut self, digest: [u8; 32]) -> Result<Reply, Refusal> {
        self.tokens.remove(digest).map(|_| Reply::Done).ok_or(Refusal::Unknown)
    }

    pub(super) fn add_node(
        &mut self,
        id: NodeId,
        uuid: Uuid,
        domains: &Domains,
        token: Option<[u8; 32]>,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        limits::domains(domains)?;
        if self.nodes.get(id).is_some_and(|node| node.uuid == uuid) {
            // It has asked twice.
            return Ok(Reply::Done);
        }
        if self.nodes.values().any(|node| node.id == id || node.uuid == uuid) {
            return Err(Refusal::Exists);
        }
        if self.nodes.len() >= limits::NODES_MAX {
            return Err(Refusal::Invalid);
        }
        if self.nodes.len() > 0 {
            self.admit(token.ok_or(Refusal::Token)?)?;
        }
        self.nodes.insert(Node {
            id,
            uuid,
            domains: domains.clone(),
            addresses: Vec::new(),
            incarnation: None,
            origin: 0,
            store: None,
            draining: false,
            applied: Index(0),
            last_tick: Index(0),
            run_start: Index(0),
            missed_ms: 0,
            reach: BTreeSet::new(),
            load: 0,
        });
        self.matrix = Matrix::new(self.nodes.values());
        entry.changed(Change::Node(id));
        Ok(Reply::Done)
    }

    /// Uses a token once.
    fn admit(&mut self, token: [u8; 32]) -> Result<(), Refusal> {
        let admission = self.tokens.get_mut(token).ok_or(Refusal::Token)?;
        admission.uses = admission.uses.saturating_sub(1);
        if admission.uses == 0 {
            self.tokens.remove(token);
        }
        Ok(())
    }

    /// A daemon has started: what the one before it had attached is revoked, and its heartbeats count for nothing.
    pub(super) fn start_node(
        &mut self,
        id: NodeId,
        uuid: Uuid,
        origin: u64,
        addresses: &[String],
        domains: &Domains,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        limits::domains(domains)?;
        limits::addresses(addresses)?;
        let known = self.nodes.get(id).ok_or(Refusal::Unknown)?;
        if known.uuid != uuid {
            return Err(Refusal::Superseded);
        }
        if let Some(incarnation) = known.incarnation.filter(|_| known.origin == origin) {
            // It has asked twice.
            return Ok(Reply::Incarnation(incarnation));
        }
        let incarnation = Incarnation(entry.index.0);
        if let Some(node) = self.nodes.get_mut(id) {
            node.incarnation = Some(incarnation);
            node.origin = origin;
            node.addresses = addresses.to_vec();
            node.domains = domains.clone();
            node.applied = Index(0);
            node.last_tick = Index(0);
            node.run_start = Index(0);
            node.missed_ms = 0;
        }
        // Its drives are not open any more: the rounds that follow find their sources elsewhere if they can.
        if kept(Rule::StartRevokes) {
            self.end_attachments_of(id, entry);
        }
        entry.changed(Change::Node(id));
        for drive in self.drives.values().filter(|drive| drive.node == id) {
            entry.changed(Change::Drive(drive.id));
        }
        Ok(Reply::Incarnation(incarnation))
    }

    /// The store that a node came up with: what it could be a member of the quorum with.
    pub(super) fn set_store(&mut self, id: NodeId, store: Option<Uuid>) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.store = store;
        }
    }

    pub(super) fn drain_node(
        &mut self,
        id: NodeId,
        drain: bool,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        self.nodes.get_mut(id).ok_or(Refusal::Unknown)?.draining = drain;
        entry.changed(Change::Node(id));
        Ok(Reply::Done)
    }

    pub(super) fn remove_node(
        &mut self,
        id: NodeId,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        self.nodes.get(id).ok_or(Refusal::Unknown)?;
        if self.drives.values().any(|drive| drive.node == id) {
            return Err(Refusal::State);
        }
        self.end_attachments_of(id, entry);
        self.nodes.remove(id);
        let reporters: Vec<NodeId> = self.nodes.values().map(|node| node.id).collect();
        for reporter in reporters {
            // A node that gets this number later has to be heard anew.
            if self.nodes.get(reporter).is_some_and(|node| node.reach.contains(&id))
                && let Some(node) = self.nodes.get_mut(reporter)
            {
                node.reach.remove(&id);
            }
        }
        self.matrix = Matrix::new(self.nodes.values());
        entry.changed(Change::Node(id));
        entry.changed(Change::Routes);
        Ok(Reply::Done)
    }

    pub(super) fn report(
        &mut self,
        command: &Command,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        let Command::Report { node: id, incarnation, reach, load } = command else {
            return Err(Refusal::Invalid);
        };
        self.check_incarnation(*id, *incarnation)?;
        if reach.len() > limits::NODES_MAX {
            return Err(Refusal::Invalid);
        }
        let reach: BTreeSet<NodeId> = reach.iter().copied().filter(|peer| peer != id).collect();
        if let Some(node) = self.nodes.get_mut(*id) {
            if node.reach != reach {
                entry.changed(Change::Routes);
            }
            node.reach = reach;
            node.load = *load;
            self.matrix.report(node);
        }
        Ok(Reply::Done)
    }

    /// Changes the timing constants. A longer lease from before is kept in mind until it must have run out.
    pub(super) fn set_timing(
        &mut self,
        timing: &Timing,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        limits::timing(timing)?;
        let old = self.totals.timing;
        let longest = old.lease_ms.max(old.lease_before_ms);
        let is_lowered = timing.lease_ms < longest;
        self.totals.timing =
            Timing { lease_before_ms: if is_lowered { longest } else { 0 }, ..*timing };
        if is_lowered {
            self.totals.lowered = entry.index;
            self.totals.since_lowered_ms = 0;
        }
        entry.changed(Change::Timing);
        Ok(Reply::Done)
    }
}
