//! How decided entries reach every node.
//!
//! A node subscribes to another and gets what that one applies, pushed at once. Members get entries from their engine,
//! and subscribe when others are ahead of them all the same. Nodes tell each other what they have applied, so that one
//! that lags finds who has more. Entries and snapshots before the applied index are left out, so a prefix
//! never moves backwards, whoever the source is.

use std::sync::Arc;

use super::entry::Entry;
use super::event::Effect;
use super::ids::{Index, NodeId};
use super::log::Log;
use super::message::{Body, Status};
use super::peer::Cursor;
use super::role::Role;
use super::source::Fetch;
use crate::base::Time;

/// Entries that a subscriber is sent before it says that it applied some.
const WINDOW_ENTRIES: u64 = 4096;
/// Pieces of a snapshot that are asked for at a time.
const WINDOW_CHUNKS: u64 = 4;
/// Longest snapshot that is taken from another node.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 32;
/// Longest piece that is given.
const CHUNK_BYTES_MAX: u32 = 1 << 20;

impl Log {
    fn own_status(&self, ask: bool) -> Body {
        let (applied, leader, member) = (self.applied, self.leader, self.is_member());
        Body::Status(Status { applied, leader, member, ask })
    }

    /// A link came up: both sides say where they are.
    pub(super) fn link_up(&mut self, now: Time, node: NodeId, effects: &mut Vec<Effect>) {
        if node == self.settings.node {
            return;
        }
        let peer = self.peer(node);
        peer.is_up = true;
        peer.heard = now;
        self.next_status = self.next_status.min(now + self.settings.status);
        Self::send(node, self.own_status(true), effects);
        self.restart_link(node);
    }

    /// A link went down.
    pub(super) fn link_down(&mut self, now: Time, node: NodeId, effects: &mut Vec<Effect>) {
        let peer = self.peer(node);
        peer.is_up = false;
        peer.cursor = None;
        peer.status = None;
        if self.source.node == Some(node) {
            self.source.node = None;
            self.follow(now, effects);
        }
    }

    /// A peer told where it is.
    pub(super) fn status(
        &mut self,
        now: Time,
        from: NodeId,
        status: Status,
        effects: &mut Vec<Effect>,
    ) {
        if status.ask {
            Self::send(from, self.own_status(false), effects);
        }
        let peer = self.peer(from);
        peer.status = Some(status);
        let mut is_served = false;
        if let Some(cursor) = &mut peer.cursor
            && status.applied > cursor.applied
        {
            cursor.applied = status.applied;
            is_served = true;
        }
        if is_served {
            self.push_to(from, effects);
        }
        if status.leader > self.leader {
            self.new_leader(now, status.leader, effects);
        }
        if self.source.node.is_none() && status.applied > self.applied && !self.is_fed() {
            self.follow(now, effects);
        }
    }

    /// Tells where this node is: members to all, others to members and to those that they serve.
    pub(super) fn tell(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let is_lost = self.source.node.is_none() && !self.is_fed();
        let is_member = self.is_member();
        for (node, peer) in &self.peers {
            let is_due = is_member || peer.cursor.is_some() || self.state.is_member(*node);
            if peer.is_up && (is_due || is_lost || self.source.node == Some(*node)) {
                Self::send(*node, self.own_status(is_lost), effects);
            }
        }
        let _ = now;
    }

    /// Whether the engine brings entries.
    fn is_fed(&self) -> bool {
        match &self.role {
            Role::Solo(_) => true,
            Role::Quorum(quorum) => quorum.is_admitted() && quorum.engine.leader().is_some(),
            _ => false,
        }
    }

    /// Looks whether entries come, and looks for another source when they do not.
    pub(super) fn follow(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.is_rolled_back() {
            self.role = Role::Amnesiac;
            effects.push(Effect::Amnesiac);
        }
        let near = self.peers.iter().filter(|(node, _)| self.is_near(now, **node));
        let most = near.map(|(_, peer)| peer.applied()).max().unwrap_or_default();
        let is_late = most > self.applied
            && now.since(self.source.progressed) >= self.settings.status
            && self.source.lagging.is_some();
        self.source.lagging = (most > self.applied).then_some(most);
        self.check_fetch(now, effects);
        if self.is_fed() && !is_late {
            self.drop_source(effects);
            return;
        }
        let current = self.source.node.filter(|node| self.is_near(now, *node));
        let chosen = self.choose_source(now, current, is_late);
        if chosen != current || current.is_none() {
            self.change_source(now, chosen, effects);
        } else if is_late && self.source.fetch.is_none() {
            self.ask_source(now, effects);
        }
    }

    /// A node that decides alone cannot be behind anybody, unless its store is an old image.
    fn is_rolled_back(&self) -> bool {
        let is_believed = self.settings.mutations.accept_old_store_identity;
        let Role::Solo(solo) = &self.role else { return false };
        let is_ahead = |peer: &super::peer::Peer| peer.applied() > solo.last;
        !is_believed && self.peers.values().any(is_ahead)
    }

    /// The best source: one that has more when this node lags; then the leader, the present one, members, whoever is
    /// furthest.
    fn choose_source(&self, now: Time, current: Option<NodeId>, is_late: bool) -> Option<NodeId> {
        let fetching = self.source.fetch.as_ref().map(|fetch| fetch.from);
        let leader = self.leader.map(|leader| leader.node);
        let near = self.peers.iter().filter(|(node, _)| self.is_near(now, **node));
        let known = near.filter_map(|(node, peer)| Some((*node, peer.status?)));
        let rank = |(node, status): &(NodeId, Status)| {
            let has_more = status.applied > self.applied;
            let is_useful = has_more || !is_late;
            let is_level = status.applied >= self.applied;
            let place = (
                fetching == Some(*node),
                leader == Some(*node) && is_level,
                current == Some(*node),
                status.member,
                status.applied,
            );
            (is_useful, place, std::cmp::Reverse(*node))
        };
        known.max_by_key(rank).map(|(node, _)| node)
    }

    fn change_source(&mut self, now: Time, node: Option<NodeId>, effects: &mut Vec<Effect>) {
        if self.source.node != node {
            self.drop_source(effects);
        }
        self.source.node = node;
        if self.source.fetch.as_ref().is_some_and(|fetch| Some(fetch.from) != node) {
            self.source.fetch = None;
        }
        self.ask_source(now, effects);
    }

    fn drop_source(&mut self, effects: &mut Vec<Effect>) {
        if let Some(node) = self.source.node.take() {
            Self::send(node, Body::Unsubscribe, effects);
            self.source.fetch = None;
        }
    }

    fn ask_source(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if let Some(node) = self.source.node {
            self.source.asked = now;
            self.source.told = self.applied;
            Self::send(node, Body::Subscribe { applied: self.applied }, effects);
        }
    }

    /// A node wants entries from here.
    pub(super) fn subscribed(&mut self, from: NodeId, applied: Index, effects: &mut Vec<Effect>) {
        self.peer(from).cursor = Some(Cursor { next: applied.next(), applied });
        self.push_to(from, effects);
    }

    /// Sends what was applied to the subscribers.
    pub(super) fn push(&mut self, effects: &mut Vec<Effect>) {
        let is_behind = |cursor: Cursor| cursor.next <= self.applied;
        let behind: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.cursor.is_some_and(is_behind))
            .map(|(node, _)| *node)
            .collect();
        for node in behind {
            self.push_to(node, effects);
        }
    }

    fn push_to(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(cursor) = &mut peer.cursor else { return };
        while cursor.next <= self.applied {
            let open = WINDOW_ENTRIES.saturating_sub(cursor.next.0 - cursor.applied.0 - 1);
            if open == 0 {
                return;
            }
            let first = cursor.next;
            match self.history.entries(first, open) {
                Some(entries) => {
                    cursor.next.0 += entries.len() as u64;
                    Self::send(node, Body::Entries { first, entries }, effects);
                }
                None => {
                    if let Some((index, bytes)) = self.history.snapshot() {
                        let offer = Body::Offer { index: *index, total: bytes.len() as u64 };
                        Self::send(node, offer, effects);
                    }
                    peer.cursor = None;
                    return;
                }
            }
        }
    }

    /// Entries came.
    pub(super) fn entries(
        &mut self,
        now: Time,
        from: NodeId,
        first: Index,
        entries: Vec<Entry>,
        effects: &mut Vec<Effect>,
    ) {
        if first == Index::ZERO {
            return;
        }
        if first > self.applied.next() {
            let is_asked = now.since(self.source.asked) < self.settings.heartbeat;
            if self.source.node == Some(from) && !is_asked && self.source.fetch.is_none() {
                self.ask_source(now, effects);
            }
            return;
        }
        if self.settings.mutations.apply_backwards {
            self.applied = Index(first.0 - 1);
        }
        let skip = (self.applied.0 + 1 - first.0) as usize;
        for (index, entry) in (first.0..).map(Index).zip(entries).skip(skip) {
            self.learn(now, index, entry, effects);
        }
        if self.applied.0.saturating_sub(self.source.told.0) >= WINDOW_ENTRIES / 4 {
            self.source.told = self.applied;
            Self::send(from, self.own_status(false), effects);
        }
    }

    /// The source has no such old entries, but a snapshot.
    pub(super) fn offered(
        &mut self,
        now: Time,
        from: NodeId,
        index: Index,
        total: u64,
        effects: &mut Vec<Effect>,
    ) {
        let is_new = index > self.applied && total <= SNAPSHOT_BYTES_MAX;
        let is_there = self
            .source
            .fetch
            .as_ref()
            .is_some_and(|fetch| fetch.from == from && fetch.index == index);
        if self.source.node != Some(from) || !is_new || is_there {
            return;
        }
        let bytes = Vec::new();
        self.source.fetch =
            Some(Fetch { from, index, total, bytes, requested: 0, progressed: now });
        self.pull(effects);
    }

    fn pull(&mut self, effects: &mut Vec<Effect>) {
        let length = u64::try_from(self.settings.chunk_bytes.max(1)).unwrap_or(1);
        let length = length.min(u64::from(CHUNK_BYTES_MAX));
        let Some(fetch) = &mut self.source.fetch else { return };
        let limit = fetch.total.min(fetch.bytes.len() as u64 + WINDOW_CHUNKS * length);
        while fetch.requested < limit {
            let (index, offset) = (fetch.index, fetch.requested);
            let body = Body::Pull { index, offset, length: length as u32 };
            Self::send(fetch.from, body, effects);
            fetch.requested += length;
        }
    }

    /// A piece of a snapshot is wanted.
    pub(super) fn pulled(
        &mut self,
        from: NodeId,
        index: Index,
        offset: u64,
        length: u32,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(bytes) = self.history.snapshot_of(index) {
            let total = bytes.len() as u64;
            let end = total.min(offset.saturating_add(u64::from(length.min(CHUNK_BYTES_MAX))));
            let range = offset.min(end) as usize..end as usize;
            let bytes = Arc::from(&bytes[range]);
            Self::send(from, Body::Chunk { index, offset, total, bytes }, effects);
        } else if let Some((index, bytes)) = self.history.snapshot() {
            // That one is gone: begin again with the last.
            let offer = Body::Offer { index: *index, total: bytes.len() as u64 };
            Self::send(from, offer, effects);
        }
    }

    /// A piece of a snapshot came.
    pub(super) fn chunk(
        &mut self,
        now: Time,
        from: NodeId,
        (index, total): (Index, u64),
        offset: u64,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let Some(fetch) = &mut self.source.fetch else { return };
        let is_next = fetch.from == from
            && (fetch.index, fetch.total) == (index, total)
            && fetch.bytes.len() as u64 == offset
            && offset + bytes.len() as u64 <= total;
        if !is_next {
            return;
        }
        fetch.bytes.extend_from_slice(bytes);
        fetch.progressed = now;
        if (fetch.bytes.len() as u64) < total {
            self.pull(effects);
        } else if let Some(fetch) = self.source.fetch.take() {
            self.fetched(now, fetch, effects);
        }
    }

    fn fetched(&mut self, now: Time, fetch: Fetch, effects: &mut Vec<Effect>) {
        let before = self.state.configuration_id();
        let bytes: Arc<[u8]> = fetch.bytes.into();
        if fetch.index <= self.applied
            || self.install(fetch.index, Arc::clone(&bytes), effects).is_none()
        {
            return;
        }
        self.store_snapshot(fetch.index, bytes);
        if let Some((index, configuration)) = self.state.configuration.clone()
            && configuration.id > before
        {
            self.configured(now, index, configuration, effects);
        }
        self.ask_source(now, effects);
    }

    /// Pieces that were lost are asked for again.
    fn check_fetch(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let silence = self.settings.silence;
        if let Some(fetch) = &mut self.source.fetch {
            if fetch.index <= self.applied {
                self.source.fetch = None;
            } else if now.since(fetch.progressed) >= silence {
                fetch.progressed = now;
                fetch.requested = fetch.bytes.len() as u64;
                self.pull(effects);
            }
        }
    }
}
