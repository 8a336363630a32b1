//! How a client follows the picture: its volume, its groups' epochs and replicas, and who may still serve what was.

use std::time::Duration;

use super::effect::Effect;
use super::fence::Fence;
use super::group::Group;
use super::layout::Layout;
use super::link::{Link, Phase, Silence};
use super::machine::{Client, Life};
use super::path::Path;
use super::piece::Stage;
use super::view::View;
use crate::base::Time;
use crate::mesh::ids::{DriveId, NodeId};
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::payload::Payload;
use crate::mesh::picture::{self, AttachMode, Change, ReplicaState};
use crate::mesh::story;

/// Most replicas of a group: the bits of a mask.
const LINKS_MAX: usize = 32;

impl<P: Payload> Client<P> {
    /// Follows the picture, after each batch of entries that was applied; `now` was sampled after applying it.
    pub fn picture_changed(
        &mut self,
        now: Time,
        picture: &impl View,
        changes: &[Change],
        effects: &mut Vec<Effect<P>>,
    ) {
        if self.life == Life::Ended {
            return;
        }
        self.applied = picture.applied();
        let volume = picture.volume(self.volume);
        if volume.is_none_or(|volume| volume.attachment(self.generation).is_none()) {
            return self.end(effects);
        }
        if changes.contains(&Change::Timing) {
            self.timing = *picture.timing();
        }
        let moves_routes = |change: &Change| matches!(change, Change::Routes | Change::Node(_));
        if changes.iter().any(moves_routes) {
            self.follow_routes(now, picture);
        }
        for change in changes {
            match *change {
                Change::Volume(volume) if volume == self.volume => {
                    self.follow_layout(now, picture, effects);
                }
                Change::Group(id) | Change::Fenced(id) => {
                    if let Ok(place) = self.places.binary_search_by_key(&id, |(id, _)| *id) {
                        let g = self.places[place].1 as usize;
                        self.follow_group(now, g, picture, effects);
                    }
                }
                Change::Drive(drive) => self.follow_drive(now, drive, picture, effects),
                Change::Volume(_) | Change::Node(_) | Change::Routes | Change::Timing => {}
            }
        }
    }

    /// Takes the groups of the volume; a volume that was extended has more than before.
    pub(super) fn follow_layout(
        &mut self,
        now: Time,
        picture: &impl View,
        effects: &mut Vec<Effect<P>>,
    ) {
        let Some(volume) = picture.volume(self.volume) else { return };
        let (layout, groups) = Layout::of(volume);
        self.layout = layout;
        for (g, id) in groups.into_iter().enumerate().skip(self.groups.len()) {
            self.groups.push(Group::new(id));
            self.places.push((id, g as u32));
            self.follow_group(now, g, picture, effects);
        }
        self.places.sort_unstable();
    }

    fn follow_routes(&mut self, now: Time, picture: &impl View) {
        for (place, path) in self.paths.iter_mut().enumerate() {
            if !path.refresh(self.node, picture) {
                continue;
            }
            // A way that was not there when the others were tried deserves the same time.
            for link in self.groups.iter_mut().flat_map(|group| &mut group.links) {
                if link.path as usize == place && link.silence.probe != 0 {
                    let failed = link.silence.failed;
                    link.silence = Silence::NONE;
                    link.expect(now, self.applied);
                    link.silence.failed = failed;
                }
            }
        }
    }

    fn follow_group(
        &mut self,
        now: Time,
        g: usize,
        picture: &impl View,
        effects: &mut Vec<Effect<P>>,
    ) {
        let Some(facts) = picture.group(self.groups[g].id) else { return };
        // Who may still serve the past is known before anything of the new epoch is believed.
        self.follow_fences(now, g, facts, effects);
        if facts.epoch != self.groups[g].epoch {
            self.begin_epoch(now, g, facts, picture, effects);
        } else {
            for l in 0..self.groups[g].links.len() {
                self.follow_link(now, g, l, picture, effects);
            }
        }
        self.settle_all(now, g, effects);
    }

    /// A new epoch ends all sessions of the group. What has not ended is sent again to the replicas of the new one.
    fn begin_epoch(
        &mut self,
        now: Time,
        g: usize,
        facts: &picture::Group,
        picture: &impl View,
        effects: &mut Vec<Effect<P>>,
    ) {
        if !kept(Rule::S13) {
            self.drop_half_done(now, g, effects);
        }
        let old = std::mem::take(&mut self.groups[g].links);
        let mut links: Vec<Link> = facts
            .write_set()
            .take(LINKS_MAX)
            .map(|replica| self.link(replica.id, replica.drive, picture))
            .collect();
        for link in &mut links {
            let same = |old: &&Link| {
                (old.replica, old.node, old.incarnation)
                    == (link.replica, link.node, link.incarnation)
            };
            // What was silent is not more alive for the new epoch.
            if let Some(old) = old.iter().find(same) {
                link.silence = old.silence;
                link.trouble = old.trouble;
            }
        }
        let group = &mut self.groups[g];
        group.links = links;
        group.epoch = facts.epoch;
        group.is_blocked = false;
        set_masks(group, facts, self.mode);
        for entry in &group.queue {
            if let Some(piece) = self.pieces.get_mut(entry.piece)
                && piece.stage == Stage::Running
            {
                piece.start_over();
            }
        }
        if group.is_used || self.mode == AttachMode::SharedWrite {
            self.open_all(now, g, effects);
        }
    }

    fn link(
        &mut self,
        replica: crate::mesh::ids::ReplicaId,
        drive: DriveId,
        picture: &impl View,
    ) -> Link {
        let facts = picture.drive(drive);
        let node = facts.map_or(self.node, |facts| facts.node);
        let path = self.path(node, picture);
        let mut link = Link::new(replica, drive, node, path);
        link.incarnation = facts.and_then(|facts| facts.incarnation);
        link
    }

    /// The ways to a node.
    fn path(&mut self, node: NodeId, picture: &impl View) -> u32 {
        let known = self.paths.iter().position(|path| path.node == node);
        let place = known.unwrap_or_else(|| {
            self.paths.push(Path::new(self.node, node, picture));
            self.paths.len() - 1
        });
        place as u32
    }

    fn follow_drive(
        &mut self,
        now: Time,
        drive: DriveId,
        picture: &impl View,
        effects: &mut Vec<Effect<P>>,
    ) {
        for g in 0..self.groups.len() {
            for l in 0..self.groups[g].links.len() {
                if self.groups[g].links[l].drive == drive {
                    self.follow_link(now, g, l, picture, effects);
                }
            }
        }
    }

    /// A drive that was opened again, or is in another node, has no session. What it answered before was stable.
    fn follow_link(
        &mut self,
        now: Time,
        g: usize,
        l: usize,
        picture: &impl View,
        effects: &mut Vec<Effect<P>>,
    ) {
        let link = &self.groups[g].links[l];
        let fresh = self.link(link.replica, link.drive, picture);
        let link = &self.groups[g].links[l];
        if (fresh.node, fresh.incarnation) == (link.node, link.incarnation) {
            return;
        }
        self.unsend(g, l);
        let was_used = self.groups[g].links[l].phase != Phase::Closed;
        self.groups[g].links[l] = fresh;
        if was_used {
            self.open(now, g, l, effects);
        }
        self.pump(now, g, effects);
    }

    fn follow_fences(
        &mut self,
        now: Time,
        g: usize,
        facts: &picture::Group,
        effects: &mut Vec<Effect<P>>,
    ) {
        let group = &mut self.groups[g];
        let id = group.id;
        group.fences.retain(|fence| {
            let stays = facts.unfenced.iter().any(|unfenced| fence.is_for(unfenced));
            if let (false, false, Some(waiting)) = (stays, fence.passed, fence.waiting) {
                effects.push(fenced(id, fence, now.since(waiting), true));
            }
            stays
        });
        for unfenced in &facts.unfenced {
            if !group.fences.iter().any(|fence| fence.is_for(unfenced)) {
                group.fences.push(Fence::new(unfenced, now));
            }
        }
    }

    /// Whether no replica that was left behind can serve what was before (S8). An I/O that was answered in this epoch is kept back until then.
    pub(super) fn is_fenced(&mut self, now: Time, g: usize, effects: &mut Vec<Effect<P>>) -> bool {
        if self.groups[g].fences.is_empty() {
            return true;
        }
        let wait = self.fence_wait();
        let generation = self.generation.index();
        let one_mode = self.mode != AttachMode::SharedWrite;
        let Group { id, fences, opened, proposed, .. } = &mut self.groups[g];
        let mut until = Time::NEVER;
        for fence in fences.iter_mut().filter(|fence| !fence.passed) {
            let is_over = now >= fence.seen + wait;
            // Who has applied this attachment serves nobody but it, or others that only read as well: and this client has applied the removal.
            let knows_us = |incarnation| {
                opened.contains(&(fence.replica, incarnation)) || incarnation.index() > generation
            };
            let is_ours = one_mode && fence.incarnation.is_some_and(knows_us);
            let is_ignored = !kept(Rule::S8) && !proposed.contains(&fence.replica);
            if is_over || is_ours || is_ignored {
                fence.passed = true;
                if let Some(waiting) = fence.waiting {
                    effects.push(fenced(*id, fence, now.since(waiting), !is_over));
                }
                continue;
            }
            until = until.min(fence.seen + wait);
            if fence.waiting.is_none() {
                fence.waiting = Some(now);
                let (group, replica) = (*id, fence.replica);
                effects.push(Effect::Story(story::Event::FenceWait { group, replica }));
            }
        }
        self.wake_at(g, until);
        until == Time::NEVER
    }

    /// How long after applying its removal a replica serves nothing any more.
    pub(super) fn fence_wait(&self) -> Duration {
        match kept(Rule::S9) {
            true => self.timing.fence(),
            false => self.timing.lease() / 2,
        }
    }
}

fn fenced<P>(
    group: crate::mesh::ids::GroupId,
    fence: &Fence,
    waited: Duration,
    early: bool,
) -> Effect<P> {
    let replica = fence.replica;
    Effect::Story(story::Event::Fenced { group, replica, waited, early })
}

/// Who must be written, may be read, and comes first.
fn set_masks(group: &mut Group, facts: &picture::Group, mode: AttachMode) {
    let links = &group.links;
    let mask = |wanted: &dyn Fn(&picture::Replica) -> bool| {
        let replicas = facts.replicas.iter().filter(|replica| wanted(replica));
        let places =
            replicas.filter_map(|replica| links.iter().position(|link| link.replica == replica.id));
        places.fold(0, |mask, place| mask | 1 << place)
    };
    let first = facts.first().map(|replica| replica.id);
    let source = facts.reconciling_from().map(|round| round.source);
    let fills = kept(Rule::WriteToSyncing);
    group.write_mask = mask(&|replica| match replica.state {
        ReplicaState::Syncing(_) => fills,
        state => state.is_written(),
    });
    group.holder_mask = mask(&|replica| replica.state.is_holder());
    group.read_mask = mask(&|replica| {
        if mode == AttachMode::SharedWrite && kept(Rule::S10) {
            return Some(replica.id) == first;
        }
        match source {
            Some(source) => replica.id == source,
            None => replica.state == ReplicaState::InSync,
        }
    });
    group.first = first.and_then(|first| links.iter().position(|link| link.replica == first));
}
