//! Blocks that the drive could not read are taken from another replica that is in sync, and written again.
//!
//! Reads and writes of the blocks wait meanwhile, so that what is taken from the other replica is not older than what is here. A write of the
//! same client is not under way: it would not have read them. One of a client that died is the business of a round, and while one
//! runs nothing is mended.

use super::{Replica, TICK};
use crate::mesh::disk::DiskOperation;
use crate::mesh::message::{CopyResult, PeerKey, Run, ToPeer};
use crate::mesh::payload::Payload;
use crate::mesh::picture::{ReplicaState, Round};
use crate::mesh::story;
use crate::mesh::target::effect::Port;
use crate::mesh::target::facts::Peer;
use crate::mesh::target::pending::{Mending, Purpose};

impl<P: Payload> Replica<P> {
    /// A read of these blocks has failed.
    pub(super) fn mend(&mut self, port: &mut Port<'_, P>, run: Run) {
        let facts = &self.facts;
        let calm =
            facts.state == ReplicaState::InSync && facts.reconciling.is_none() && self.old == 0;
        let written = |accepted: &crate::mesh::target::session::Accepted<P>| {
            accepted.on_drive
                && accepted.io.operation.write().is_some()
                && accepted.io.operation.run().is_some_and(|other| other.overlaps(&run))
        };
        let has_peer = facts.peers.iter().any(|peer| peer.state == ReplicaState::InSync);
        let under_way = self.accepted.iter().any(|(_, accepted)| written(accepted));
        let claimed = self.unconfirmed.iter().any(|entry| entry.run.overlaps(&run));
        if calm && has_peer && !under_way && !claimed && self.mending.is_none() {
            self.mending = Some(Mending { run, from: 0, asked: port.now, writing: false });
            self.ask_for_repair(port);
        }
    }

    fn ask_for_repair(&mut self, port: &mut Port<'_, P>) {
        let Some(mending) = &mut self.mending else { return };
        let in_sync = |peer: &&Peer| peer.state == ReplicaState::InSync;
        let Some(holder) =
            self.facts.peers.iter().filter(in_sync).nth(mending.from).map(|peer| peer.replica)
        else {
            // Nobody has them: they stay unreadable, and nobody waits any longer.
            self.mending = None;
            return;
        };
        mending.asked = port.now;
        let run = mending.run;
        self.tick = self.tick.min(port.now + TICK);
        let (group, joiner, incarnation) =
            (self.facts.group, self.facts.replica, self.facts.incarnation);
        let round = Round { epoch: self.facts.epoch, source: holder };
        let key = PeerKey { group, round, joiner, holder, incarnation };
        self.tell(port, holder, ToPeer::AskRepair { key, run }, None);
    }

    /// The blocks from another replica, or not.
    pub(super) fn take_repair(
        &mut self,
        port: &mut Port<'_, P>,
        key: PeerKey,
        run: Run,
        result: CopyResult,
        payload: Option<P>,
    ) {
        let current =
            key.round.epoch == self.facts.epoch && key.incarnation == self.facts.incarnation;
        let Some(mending) =
            self.mending.as_mut().filter(|mending| mending.run == run && !mending.writing)
        else {
            return;
        };
        let complete = payload.as_ref().is_some_and(|payload| payload.blocks() == run.blocks);
        let (Some(block), Some(payload), true) =
            (self.facts.place.data(run.first), payload, current && complete)
        else {
            if result != CopyResult::Data {
                mending.from += 1;
                self.ask_for_repair(port);
                self.proceed(port);
            }
            return;
        };
        mending.writing = true;
        // No intent bit is needed: if the blocks differ between copies, a write that is under way has seen to it that the bit is set where they
        // came from.
        self.start(port, Purpose::Mend(run), DiskOperation::Write { block, payload, stable: true });
    }

    pub(super) fn mend_ended(&mut self, port: &mut Port<'_, P>, run: Run, done: bool) {
        self.mending.take_if(|mending| mending.run == run);
        port.story(story::Event::Mended { replica: self.facts.replica, lost: !done });
    }

    /// A new epoch: what another replica says of the old one does not count.
    pub(super) fn stop_mending(&mut self) {
        self.mending.take_if(|mending| !mending.writing);
    }

    pub(super) fn look_after_mending(&mut self, port: &mut Port<'_, P>) {
        let late = |mending: &Mending| {
            !mending.writing && port.now.since(mending.asked) > port.timing.io_timeout()
        };
        if self.mending.as_ref().is_some_and(late) {
            if let Some(mending) = &mut self.mending {
                mending.from += 1;
            }
            self.ask_for_repair(port);
        }
    }
}
