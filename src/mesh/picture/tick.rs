//! Heartbeats: who is there, who has applied what, and what follows when somebody stays away.

use super::change::{Change, Entry};
use super::command::{Beat, Reply, Tick};
use super::spec::AttachMode;
use super::state::Node;
use super::tables::Picture;
use crate::mesh::ids::{Index, NodeId, VolumeId};

impl Picture {
    pub(super) fn tick(&mut self, tick: &Tick, entry: &mut Entry<'_>) -> Reply {
        let lease_ms = self.totals.timing.lease_ms;
        // Between ticks that are so far apart nobody could be heard: they tell nothing of who was silent (L6).
        let counted = tick.elapsed_ms.filter(|&elapsed| elapsed <= lease_ms);
        let mut beats: Vec<&Beat> = tick.beats.iter().collect();
        beats.sort_by_key(|beat| (beat.node, beat.incarnation, beat.applied));
        let mut overdue: Vec<NodeId> = Vec::new();
        let mut heard: Vec<(NodeId, Index)> = Vec::new();
        for node in self.nodes.values_mut() {
            match newest(&beats, node) {
                Some(beat) => {
                    node.take_beat(beat, entry.index, counted.is_none(), lease_ms);
                    heard.push((node.id, node.applied));
                }
                None => {
                    node.missed_ms = node.missed_ms.saturating_add(counted.unwrap_or(0));
                    if node.missed_ms > self.totals.timing.revoke_ms {
                        overdue.push(node.id);
                    }
                }
            }
        }
        if !self.unfenced_on.is_empty() {
            for (node, applied) in heard {
                self.fence(node, entry, |unfenced| unfenced.at <= applied);
            }
        }
        for node in overdue {
            self.end_shared_writes(node, entry);
        }
        self.count_lowered(tick, entry);
        self.totals.last_tick = entry.index;
        Reply::Done
    }

    /// Revokes the shared-write attachments of a node that has been silent for too long: others wait for its unconfirmed writes.
    fn end_shared_writes(&mut self, node: NodeId, entry: &mut Entry<'_>) {
        let volumes: Vec<VolumeId> = self.attached_by(node).collect();
        for id in volumes {
            let generations = self.generations(id, |attachment| {
                attachment.node == node && attachment.mode == AttachMode::SharedWrite
            });
            self.end_attachments(id, &generations, entry);
        }
    }

    /// Forgets the longer leases of an earlier timing when they must have run out.
    fn count_lowered(&mut self, tick: &Tick, entry: &mut Entry<'_>) {
        let totals = &mut self.totals;
        // The time up to the first tick after the change may lie before the change.
        if totals.timing.lease_before_ms == 0 || totals.last_tick <= totals.lowered {
            return;
        }
        totals.since_lowered_ms =
            totals.since_lowered_ms.saturating_add(tick.elapsed_ms.unwrap_or(0).into());
        if u128::from(totals.since_lowered_ms) > totals.timing.fence().as_millis() {
            totals.timing.lease_before_ms = 0;
            entry.changed(Change::Timing);
        }
    }
}

/// The newest beat of the node's current start, out of those in order.
fn newest<'a>(beats: &[&'a Beat], node: &Node) -> Option<&'a Beat> {
    let incarnation = node.incarnation?;
    let after =
        beats.partition_point(|beat| (beat.node, beat.incarnation) <= (node.id, incarnation));
    let beat = *beats.get(after.checked_sub(1)?)?;
    (beat.node == node.id && beat.incarnation == incarnation).then_some(beat)
}

impl Node {
    fn take_beat(&mut self, beat: &Beat, index: Index, is_gap: bool, lease_ms: u32) {
        let is_new_run = is_gap || self.last_tick == Index(0) || self.missed_ms > lease_ms;
        if is_new_run {
            self.run_start = index;
        }
        self.last_tick = index;
        self.missed_ms = 0;
        // What a beat from the future says is no more than what there is.
        self.applied = self.applied.max(beat.applied).min(index);
    }
}
