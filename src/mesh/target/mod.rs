//! The target's side: the replicas on this node's drives.
//!
//! A [`Target`] has the node's serve lease and its open drives. Each replica is a machine of its own that shares nothing with the others, so
//! that a daemon can keep them on different cores.

mod bits;
mod effect;
mod facts;
mod joining;
mod lease;
mod loading;
mod pending;
mod regions;
mod replica;
mod session;
mod sourcing;

use std::collections::{BTreeMap, BTreeSet};

pub use effect::Effect;
use effect::Port;
use facts::Facts;
pub use lease::Lease;
use replica::Replica;

use super::disk::{DiskResult, Ticket};
use super::ids::{DriveId, Index, NodeId, ReplicaId};
use super::message::{Message, Sender, ToClient, ToPeer, ToTarget};
use super::mutations::{Rule, kept};
use super::payload::Payload;
use super::picture::{Change, Picture, Timing};
use crate::base::{Time, Uuid};

/// A drive that this daemon has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenDrive {
    uuid: Uuid,
    /// What this opening wrote into the label.
    nonce: u64,
}

/// The replicas of a node.
pub struct Target<P> {
    node: NodeId,
    lease: Lease,
    timing: Timing,
    drives: Vec<OpenDrive>,
    replicas: BTreeMap<ReplicaId, Replica<P>>,
    /// Replicas that are here no longer, but for which the drive is still at work: nobody else gets their blocks before.
    leaving: BTreeMap<ReplicaId, (DriveId, Replica<P>)>,
    timers: BTreeSet<(Time, ReplicaId)>,
    /// Counts the replicas that were taken up, so that an answer to an earlier life of one is told from those to its present one.
    lives: u32,
    applied: Index,
}

impl<P: Payload> Target<P> {
    /// A target without drives and without a lease.
    pub fn new(node: NodeId) -> Target<P> {
        Target {
            node,
            lease: Lease::default(),
            timing: Timing::default(),
            drives: Vec::new(),
            replicas: BTreeMap::new(),
            leaving: BTreeMap::new(),
            timers: BTreeSet::new(),
            lives: 0,
            applied: Index(0),
        }
    }

    /// The node's lease.
    pub fn lease(&mut self) -> &mut Lease {
        &mut self.lease
    }

    /// Whether I/O may be served at `now`.
    pub fn has_lease(&self, now: Time) -> bool {
        self.lease.is_valid(now)
    }

    /// A drive has been opened, and its label rewritten with this nonce.
    pub fn open_drive(&mut self, uuid: Uuid, nonce: u64) {
        self.lose_drive(uuid);
        self.drives.push(OpenDrive { uuid, nonce });
    }

    /// A drive is gone, and what was asked of it is over.
    pub fn lose_drive(&mut self, uuid: Uuid) {
        self.drives.retain(|drive| drive.uuid != uuid);
        self.leaving.retain(|_, (_, replica)| replica.facts.place.drive_uuid != uuid);
        let here = |replica: &&mut Replica<P>| replica.facts.place.drive_uuid == uuid;
        self.replicas.values_mut().filter(here).for_each(Replica::forget_operations);
    }

    /// Everything up to here is acted on, and nothing that was accepted before it is under way: what a heartbeat says.
    pub fn confirmed(&self) -> Index {
        let undrained = self.replicas.values().filter(|replica| !replica.is_drained());
        let undrained = undrained.map(|replica| Index(replica.facts.since.0.saturating_sub(1)));
        let leaving = self.leaving.values().map(|(_, replica)| Index(replica.facts.applied.0));
        undrained.chain(leaving).chain([self.applied]).min().unwrap_or_default()
    }

    /// Entries up to here have been applied.
    pub fn applied(&mut self, applied: Index) {
        self.applied = applied;
    }

    /// The picture has changed; `now` is taken after the change was applied.
    pub fn picture_changed(
        &mut self,
        now: Time,
        picture: &Picture,
        changes: &[Change],
        out: &mut Vec<Effect<P>>,
    ) {
        self.timing = *picture.timing();
        self.applied = picture.applied();
        let mut groups = BTreeSet::new();
        for change in changes {
            match *change {
                Change::Group(group) => {
                    groups.insert(group);
                }
                Change::Volume(volume) => {
                    groups.extend(
                        picture.volume(volume).into_iter().flat_map(|volume| volume.groups()),
                    );
                }
                Change::Drive(drive) => {
                    groups.extend(picture.replicas_on(drive).map(|(group, _)| group))
                }
                Change::Routes | Change::Node(_) | Change::Timing => {
                    groups.extend(self.replicas.values().map(|replica| replica.facts.group));
                }
                Change::Fenced(_) => {}
            }
        }
        let here: Vec<ReplicaId> = self
            .replicas
            .values()
            .filter(|replica| groups.contains(&replica.facts.group))
            .map(|replica| replica.facts.replica)
            .collect();
        let mut wanted = BTreeMap::new();
        for group in groups.iter().filter_map(|group| picture.group(*group)) {
            for replica in
                group.replicas.iter().filter(|replica| self.serves(picture, replica.drive))
            {
                if let Some(facts) = Facts::of(picture, self.node, group, replica.id) {
                    wanted.insert(replica.id, facts);
                }
            }
        }
        for id in here {
            // Another opening of the drive is another life of the replica.
            let same = |facts: &Facts| facts.incarnation == self.replicas[&id].facts.incarnation;
            if !wanted.get(&id).is_some_and(same) {
                self.drop_replica(now, id, out);
            }
        }
        for (id, facts) in wanted {
            self.with_port(now, out, |target, port| match target.replicas.get_mut(&id) {
                Some(replica) => replica.change(port, facts),
                None if target.leaving.values().any(|(drive, _)| *drive == facts.drive) => {}
                None => {
                    target.lives += 1;
                    target.replicas.insert(id, Replica::new(facts, target.lives, port));
                }
            });
            self.set_timer(id);
        }
    }

    /// Looks at everything again, as after a start or when a snapshot was installed.
    pub fn picture_replaced(&mut self, now: Time, picture: &Picture, out: &mut Vec<Effect<P>>) {
        let gone: Vec<_> =
            self.replicas.values().map(|replica| Change::Group(replica.facts.group)).collect();
        let all = picture
            .drives()
            .filter(|drive| drive.node == self.node)
            .map(|drive| Change::Drive(drive.id));
        let changes: Vec<Change> = gone.into_iter().chain(all).collect();
        self.picture_changed(now, picture, &changes, out);
    }

    /// Whether this daemon has opened a drive, and the log names this opening.
    fn serves(&self, picture: &Picture, drive: DriveId) -> bool {
        picture.drive(drive).is_some_and(|drive| {
            let ours = |open: &OpenDrive| {
                open.uuid == drive.uuid && (open.nonce == drive.nonce || !kept(Rule::S18))
            };
            drive.node == self.node && self.drives.iter().any(ours)
        })
    }

    fn drop_replica(&mut self, now: Time, id: ReplicaId, out: &mut Vec<Effect<P>>) {
        let Some(mut replica) = self.replicas.remove(&id) else { return };
        self.timers.remove(&(replica.timer_set, id));
        self.with_port(now, out, |_, port| replica.leave(port));
        if !replica.is_quiet() {
            self.leaving.insert(id, (replica.facts.drive, replica));
        }
    }

    fn with_port<R>(
        &mut self,
        now: Time,
        out: &mut Vec<Effect<P>>,
        act: impl FnOnce(&mut Self, &mut Port<'_, P>) -> R,
    ) -> R {
        let lease = self.lease.is_valid(now) || !kept(Rule::LeaseCheck);
        let mut port = Port { node: self.node, now, lease, timing: self.timing, out };
        act(self, &mut port)
    }

    fn with_replica(
        &mut self,
        now: Time,
        id: ReplicaId,
        out: &mut Vec<Effect<P>>,
        act: impl FnOnce(&mut Replica<P>, &mut Port<'_, P>),
    ) -> bool {
        let known = self.with_port(now, out, |target, port| {
            target.replicas.get_mut(&id).map(|replica| act(replica, port)).is_some()
        });
        if known {
            self.set_timer(id);
        }
        known
    }

    fn set_timer(&mut self, id: ReplicaId) {
        if let Some(replica) = self.replicas.get_mut(&id) {
            let (before, now) = (replica.timer_set, replica.next_timer());
            if before != now {
                self.timers.remove(&(before, id));
                replica.timer_set = now;
                if now != Time::NEVER {
                    self.timers.insert((now, id));
                }
            }
        }
    }

    /// A message of a client.
    pub fn client_message(
        &mut self,
        now: Time,
        from: Sender,
        message: ToTarget,
        payload: Option<P>,
        out: &mut Vec<Effect<P>>,
    ) {
        let id = match &message {
            ToTarget::Open(open) => open.key.replica,
            ToTarget::Io(io) => io.key.replica,
            ToTarget::Watermark { key, .. } => key.replica,
            ToTarget::Ping { key, probe } => {
                let message = Message::ToClient(ToClient::Pong { key: *key, probe: *probe });
                out.push(Effect::Send {
                    to: from.node,
                    route: from.route.reversed(),
                    message,
                    payload: None,
                });
                return;
            }
        };
        let applied = self.applied;
        let refusal = match &message {
            ToTarget::Open(open) => Some((open.key, open.session)),
            ToTarget::Io(io) => Some((io.key, io.session)),
            _ => None,
        };
        let known = self.with_replica(now, id, out, |replica, port| match message {
            ToTarget::Open(open) => replica.open(port, from, open),
            ToTarget::Io(io) => replica.io(port, from, io, payload),
            ToTarget::Watermark { key, session, through } => {
                replica.watermark(key.generation, session, through)
            }
            ToTarget::Ping { .. } => {}
        });
        if let (false, Some((key, session))) = (known, refusal) {
            let why = super::message::Refused::NotServed;
            let message = Message::ToClient(ToClient::Refused { key, session, why, applied });
            out.push(Effect::Send {
                to: from.node,
                route: from.route.reversed(),
                message,
                payload: None,
            });
        }
    }

    /// A message of another target.
    pub fn peer_message(
        &mut self,
        now: Time,
        from: Sender,
        message: ToPeer,
        payload: Option<P>,
        out: &mut Vec<Effect<P>>,
    ) {
        let id = message.addressee();
        self.with_replica(now, id, out, |replica, port| replica.peer(port, from, message, payload));
    }

    /// An operation of a drive has ended.
    pub fn disk(
        &mut self,
        now: Time,
        picture: &Picture,
        ticket: Ticket,
        result: DiskResult<P>,
        out: &mut Vec<Effect<P>>,
    ) {
        let id = ticket.replica();
        let leaves = self.leaving.contains_key(&id);
        if !leaves {
            self.with_replica(now, id, out, |replica, port| replica.disk(port, ticket, result));
            return;
        }
        let quiet = self.with_port(now, out, |target, port| {
            let (_, replica) = target.leaving.get_mut(&id)?;
            replica.disk_while_leaving(ticket);
            let _ = port;
            replica.is_quiet().then_some(())
        });
        if quiet.is_some()
            && let Some((drive, _)) = self.leaving.remove(&id)
        {
            self.picture_changed(now, picture, &[Change::Drive(drive)], out);
        }
    }

    /// When [`Target::timer`] is wanted.
    pub fn next_timer(&self) -> Time {
        self.timers.first().map_or(Time::NEVER, |(time, _)| *time)
    }

    /// Does what is due.
    pub fn timer(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        while let Some(&(time, id)) = self.timers.first()
            && time <= now
        {
            self.with_replica(now, id, out, |replica, port| replica.timer(port));
        }
    }
}
