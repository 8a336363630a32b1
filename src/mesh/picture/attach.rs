//! Attachments: who may use a volume, and what is left when one of them ends without having said so.

use super::change::{Change, Entry};
use super::command::{Refusal, Reply};
use super::spec::AttachMode;
use super::state::Attachment;
use super::tables::Picture;
use crate::mesh::ids::{Generation, GroupId, Incarnation, NodeId, VolumeId};
use crate::mesh::mutations::{Rule, kept};

/// What a node asks for.
pub struct Wish {
    pub volume: VolumeId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub mode: AttachMode,
    pub preempt: bool,
}

impl Wish {
    /// Whether it cannot be had beside this attachment.
    fn conflicts_with(&self, other: &Attachment) -> bool {
        other.mode != self.mode || self.mode == AttachMode::Exclusive || other.node == self.node
    }
}

impl Picture {
    pub(super) fn attach(&mut self, wish: &Wish, entry: &mut Entry<'_>) -> Result<Reply, Refusal> {
        let volume = self.volumes.get(wish.volume).ok_or(Refusal::Unknown)?;
        self.check_incarnation(wish.node, wish.incarnation)?;
        let in_the_way: Vec<Generation> = volume
            .attachments
            .iter()
            .filter(|other| wish.conflicts_with(other))
            .map(|other| other.generation)
            .collect();
        if !in_the_way.is_empty() && !wish.preempt {
            return Err(Refusal::Attached);
        }
        self.end_attachments(wish.volume, &in_the_way, entry);
        let generation = Generation(entry.index.0);
        if let Some(volume) = self.volumes.get_mut(wish.volume) {
            volume.attachments.push(Attachment {
                generation,
                node: wish.node,
                incarnation: wish.incarnation,
                mode: wish.mode,
            });
        }
        self.attached_by.entry(wish.node).or_default().insert(wish.volume);
        self.attachments_changed(wish.volume, entry);
        Ok(Reply::Generation(generation))
    }

    /// Ends an attachment that has nothing in flight: the replicas are as equal as they were.
    pub(super) fn detach(
        &mut self,
        id: VolumeId,
        generation: Generation,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        self.check_attachment(id, generation)?;
        self.forget_attachments(id, &[generation]);
        self.attachments_changed(id, entry);
        Ok(Reply::Done)
    }

    /// Ends an attachment, whatever it has in flight.
    pub(super) fn revoke(
        &mut self,
        id: VolumeId,
        generation: Generation,
        entry: &mut Entry<'_>,
    ) -> Result<Reply, Refusal> {
        self.check_attachment(id, generation)?;
        self.end_attachments(id, &[generation], entry);
        Ok(Reply::Done)
    }

    fn check_attachment(&self, id: VolumeId, generation: Generation) -> Result<(), Refusal> {
        let volume = self.volumes.get(id).ok_or(Refusal::Unknown)?;
        volume.attachment(generation).map(|_| ()).ok_or(Refusal::Superseded)
    }

    /// Revokes every attachment of a node, whose daemon is not the one that made them any more.
    pub(super) fn end_attachments_of(&mut self, node: NodeId, entry: &mut Entry<'_>) {
        let volumes: Vec<VolumeId> = self.attached_by(node).collect();
        for id in volumes {
            let generations = self.generations(id, |attachment| attachment.node == node);
            self.end_attachments(id, &generations, entry);
        }
    }

    /// The attachments of a volume that are of a kind.
    pub(super) fn generations(
        &self,
        id: VolumeId,
        is_meant: impl Fn(&Attachment) -> bool,
    ) -> Vec<Generation> {
        let attachments = self.volumes.get(id).map(|volume| volume.attachments.as_slice());
        let meant = attachments.unwrap_or_default().iter().filter(|other| is_meant(other));
        meant.map(|attachment| attachment.generation).collect()
    }

    /// Ends attachments that may have writes in flight: of all groups of the volume, whatever their epochs are (S14).
    pub(super) fn end_attachments(
        &mut self,
        id: VolumeId,
        generations: &[Generation],
        entry: &mut Entry<'_>,
    ) {
        let Some(volume) = self.volumes.get(id) else { return };
        if generations.is_empty() {
            return;
        }
        let has_writer = volume.attachments.iter().any(|attachment| {
            generations.contains(&attachment.generation) && attachment.mode.may_write()
        });
        let mut groups: Vec<GroupId> = volume.groups().collect();
        if !kept(Rule::S14) {
            groups.truncate(1);
        }
        for group in groups {
            if has_writer {
                self.begin_reconciling(group, entry);
            } else if let Some(group) = self.groups.get_mut(group) {
                // Its sessions end with the epoch; a reader leaves nothing behind.
                group.begin_epoch(entry.index);
            }
        }
        self.forget_attachments(id, generations);
        self.attachments_changed(id, entry);
    }

    fn forget_attachments(&mut self, id: VolumeId, generations: &[Generation]) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        let (gone, left) = std::mem::take(&mut volume.attachments)
            .into_iter()
            .partition::<Vec<_>, _>(|attachment| generations.contains(&attachment.generation));
        volume.attachments = left;
        for Attachment { node, .. } in gone {
            if volume.attachments.iter().all(|attachment| attachment.node != node)
                && let Some(volumes) = self.attached_by.get_mut(&node)
            {
                volumes.remove(&id);
                if volumes.is_empty() {
                    self.attached_by.remove(&node);
                }
            }
        }
    }

    fn attachments_changed(&self, id: VolumeId, entry: &mut Entry<'_>) {
        entry.changed(Change::Volume(id));
        for group in self.volumes.get(id).into_iter().flat_map(|volume| volume.groups()) {
            entry.changed(Change::Group(group));
        }
    }
}
