//! What other replicas of the group ask of this one.

use super::Replica;
use crate::mesh::disk::DiskOperation;
use crate::mesh::message::{CopyResult, Left, Message, PeerKey, Run, Sender, ToPeer};
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::payload::Payload;
use crate::mesh::picture::ReplicaState;
use crate::mesh::target::effect::{Effect, Port};
use crate::mesh::target::pending::Purpose;

impl<P: Payload> Replica<P> {
    /// A message of another replica's target.
    pub fn peer(
        &mut self,
        port: &mut Port<'_, P>,
        from: Sender,
        message: ToPeer,
        payload: Option<P>,
    ) {
        match message {
            ToPeer::AskMap { key, written } => self.lend_map(port, from, key, written),
            ToPeer::Map { key, words } => self.take_map(port, key, words),
            ToPeer::AskCopy { key, run } if self.serves_round(&key) => {
                self.lend(port, from, key, run, false)
            }
            ToPeer::AskCopy { .. } => {}
            ToPeer::Copy { key, run, result } => self.take_copy(port, key, run, result, payload),
            ToPeer::Progress { key, left } => self.take_progress(port, key, left),
            ToPeer::Hurry { key, run } => self.hurry(port, key, run),
            ToPeer::AskRepair { key, run } => {
                if self.serves_repair(&key) {
                    self.lend(port, from, key, run, true);
                } else {
                    self.lend_answer(port, from, key, run, true, CopyResult::NotNow, None);
                }
            }
            ToPeer::Repair { key, run, result } => {
                self.take_repair(port, key, run, result, payload)
            }
        }
    }

    /// Whether this replica has applied the round that a joiner asks in, holds every acknowledged write, and has nothing of earlier epochs on
    /// its way to the drive.
    fn serves_round(&self, key: &PeerKey) -> bool {
        let joins = |peer: &crate::mesh::target::facts::Peer| {
            peer.replica == key.joiner
                && peer.state.round() == Some(key.round)
                && peer.incarnation == Some(key.incarnation)
        };
        self.loading.is_none()
            && key.holder == self.facts.replica
            && self.facts.state.is_holder()
            && self.facts.peers.iter().any(joins)
            && (self.old == 0 || !kept(Rule::SourceDrains))
    }

    fn serves_repair(&self, key: &PeerKey) -> bool {
        self.loading.is_none()
            && key.round.epoch == self.facts.epoch
            && key.holder == self.facts.replica
            && self.facts.state == ReplicaState::InSync
            && self.facts.reconciling.is_none()
            && self.old == 0
    }

    fn lend_map(&mut self, port: &mut Port<'_, P>, to: Sender, key: PeerKey, written: bool) {
        if !self.serves_round(&key) {
            return;
        }
        let words = if written { self.regions.written() } else { self.regions.intent() };
        let message = Message::ToPeer(ToPeer::Map { key, words: words.to_vec() });
        port.out.push(Effect::Send {
            to: to.node,
            route: to.route.reversed(),
            message,
            payload: None,
        });
    }

    fn lend(&mut self, port: &mut Port<'_, P>, to: Sender, key: PeerKey, run: Run, repair: bool) {
        let Some(region) = self.region_of(&run) else { return };
        if !self.regions.is_written(region) {
            return self.lend_answer(port, to, key, run, repair, CopyResult::Zeroes, None);
        }
        let Some(block) = self.facts.place.data(run.first) else { return };
        let operation = DiskOperation::Read { block, blocks: run.blocks };
        self.start(port, Purpose::Lend { to, key, run, repair }, operation);
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn lend_answer(
        &mut self,
        port: &mut Port<'_, P>,
        to: Sender,
        key: PeerKey,
        run: Run,
        repair: bool,
        result: CopyResult,
        payload: Option<P>,
    ) {
        let message = if repair {
            ToPeer::Repair { key, run, result }
        } else {
            ToPeer::Copy { key, run, result }
        };
        let (to, route) = (to.node, to.route.reversed());
        port.out.push(Effect::Send { to, route, message: Message::ToPeer(message), payload });
    }

    /// A joiner says how far it is: readers may go on.
    fn take_progress(&mut self, port: &mut Port<'_, P>, key: PeerKey, mut left: Left) {
        if let Left::Regions(words) = &mut left {
            words.resize(self.regions.layout().words(), 0);
        }
        if let Some(sourcing) = &mut self.sourcing {
            sourcing.progress(port.now, key.joiner, key.incarnation, key.round, left);
            self.proceed(port);
        }
    }
}
