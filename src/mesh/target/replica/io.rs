//! The checks of an I/O, and its way onto the drive and back.

use super::Replica;
use crate::mesh::disk::{DiskOperation, DiskResult};
use crate::mesh::ids::{Generation, WriteNumber};
use crate::mesh::message::{
    Io, IoResult, Operation, PeerKey, Refused, Run, Sender, ToClient, ToPeer, may_write,
};
use crate::mesh::mutations::{Rule, kept};
use crate::mesh::payload::Payload;
use crate::mesh::picture::{AttachMode, ReplicaState};
use crate::mesh::target::effect::Port;
use crate::mesh::target::pending::{Purpose, Verdict};
use crate::mesh::target::session::{Accepted, Unconfirmed};

impl<P: Payload> Replica<P> {
    /// The region that a run lies in; `None` when it is empty, in several, or outside.
    pub(super) fn region_of(&self, run: &Run) -> Option<u32> {
        let blocks = self.facts.place.layout.region_blocks();
        let inside = run.blocks > 0 && run.end() <= self.facts.blocks;
        (inside && run.first / blocks == (run.end() - 1) / blocks)
            .then(|| (run.first / blocks) as u32)
    }

    pub(super) fn done(
        &mut self,
        port: &mut Port<'_, P>,
        to: Sender,
        io: &Io,
        result: IoResult,
        payload: Option<P>,
    ) {
        let (key, session, sequence) = (io.key, io.session, io.sequence);
        port.answer(to, ToClient::Done { key, session, sequence, result }, payload);
    }

    pub(super) fn end(
        &mut self,
        port: &mut Port<'_, P>,
        slot: usize,
        result: IoResult,
        payload: Option<P>,
    ) {
        let accepted = self.accepted.remove(slot);
        if !accepted.orphan {
            self.done(port, accepted.from, &accepted.io, result, payload);
        }
    }

    /// All checks of an I/O, and if it may go on, the step onto the drive.
    pub(super) fn try_start(&mut self, port: &mut Port<'_, P>, slot: usize) -> Verdict {
        let (io, region) = (self.accepted[slot].io, self.accepted[slot].region);
        let generation = io.key.generation;
        if !port.lease {
            self.accepted.remove(slot);
            self.close(port, generation, Refused::NoLease);
            return Verdict::Goes;
        }
        let Some(mode) = self.facts.attachment(generation).map(|attachment| attachment.mode) else {
            self.end(port, slot, IoResult::Refused(Refused::NotAttached), None);
            return Verdict::Goes;
        };
        match io.operation {
            Operation::Read(run) => self.try_read(port, slot, run, region, mode),
            Operation::Write { run, number } | Operation::Zero { run, number, .. } => {
                if !may_write(mode) {
                    self.end(port, slot, IoResult::Invalid, None);
                    return Verdict::Goes;
                }
                self.try_write(port, slot, run, region, number, mode)
            }
            Operation::Flush => {
                self.put_on_drive(port, slot, DiskOperation::Flush);
                Verdict::Goes
            }
            Operation::Confirm { number } => {
                self.unconfirmed
                    .retain(|entry| (entry.generation, entry.number) != (generation, number));
                self.end(port, slot, IoResult::Done, None);
                self.tick = port.now;
                Verdict::Goes
            }
        }
    }

    /// In shared-write mode the first replica lets nobody in before every attachment has said what it has under way, and keeps others away from
    /// blocks with an unconfirmed write. `number`: of the write that wants to go on.
    fn must_queue(
        &self,
        generation: Generation,
        run: &Run,
        mode: AttachMode,
        number: Option<WriteNumber>,
    ) -> bool {
        if mode != AttachMode::SharedWrite || !self.facts.first || !kept(Rule::S10) {
            return false;
        }
        let all_here = self.facts.attachments.iter().all(|attachment| {
            self.sessions
                .iter()
                .any(|session| session.live && session.generation == attachment.generation)
        });
        let own =
            |entry: &Unconfirmed| entry.generation == generation && Some(entry.number) == number;
        let is_declared = self.unconfirmed.iter().any(own);
        let taken = |entry: &Unconfirmed| {
            entry.generation != generation
                && entry.run.overlaps(run)
                && (entry.done || !is_declared)
        };
        // A read that the drive is at would give away what is written now, before anybody knows whether it stays.
        let is_read = |accepted: &Accepted<P>| {
            accepted.on_drive
                && !accepted.orphan
                && matches!(accepted.io.operation, Operation::Read(read) if read.overlaps(run))
        };
        !all_here
            || self.unconfirmed.iter().any(taken)
            || number.is_some() && self.accepted.iter().any(|(_, accepted)| is_read(accepted))
    }

    pub(super) fn try_read(
        &mut self,
        port: &mut Port<'_, P>,
        slot: usize,
        run: Run,
        region: u32,
        mode: AttachMode,
    ) -> Verdict {
        let generation = self.accepted[slot].io.key.generation;
        let readable = self.facts.is_readable()
            || !kept(Rule::S10) && self.facts.state == ReplicaState::InSync;
        if !readable {
            self.end(port, slot, IoResult::NotReadable, None);
            return Verdict::Goes;
        }
        let mended = self
            .mending
            .as_ref()
            .is_some_and(|mending| mending.run.overlaps(&run) && kept(Rule::S11));
        if mended || self.must_queue(generation, &run, mode, None) {
            return Verdict::Waits;
        }
        if !self.is_equal_everywhere(port, run) {
            return Verdict::Waits;
        }
        if !self.regions.is_written(region) {
            self.end(port, slot, IoResult::Done, None);
            return Verdict::Goes;
        }
        let Some(block) = self.facts.place.data(run.first) else {
            self.end(port, slot, IoResult::Invalid, None);
            return Verdict::Goes;
        };
        self.put_on_drive(port, slot, DiskOperation::Read { block, blocks: run.blocks });
        Verdict::Goes
    }

    /// Whether a run may be read as far as a running round is concerned; asks the joiners for it if not.
    pub(super) fn is_equal_everywhere(&mut self, port: &mut Port<'_, P>, run: Run) -> bool {
        let Some(sourcing) = &mut self.sourcing else { return true };
        if !kept(Rule::S4) {
            return true;
        }
        // What earlier epochs left on its way to the drive can still change it.
        if self.old > 0 {
            return false;
        }
        if sourcing.is_equal(run) {
            return true;
        }
        if sourcing.want(port.now, run) {
            let behind: Vec<_> = sourcing.behind(run).collect();
            for (joiner, incarnation, round) in behind {
                let (group, holder) = (self.facts.group, self.facts.replica);
                let key = PeerKey { group, round, joiner, holder, incarnation };
                self.tell(port, joiner, ToPeer::Hurry { key, run }, None);
            }
        }
        false
    }

    pub(super) fn try_write(
        &mut self,
        port: &mut Port<'_, P>,
        slot: usize,
        run: Run,
        region: u32,
        number: WriteNumber,
        mode: AttachMode,
    ) -> Verdict {
        let generation = self.accepted[slot].io.key.generation;
        let held = self.joining.as_ref().is_some_and(|joining| joining.holds(&run))
            || self
                .mending
                .as_ref()
                .is_some_and(|mending| mending.run.overlaps(&run) && kept(Rule::S11));
        if held || self.must_queue(generation, &run, mode, Some(number)) {
            return Verdict::Waits;
        }
        let zero = matches!(self.accepted[slot].io.operation, Operation::Zero { .. });
        // Zeroes on their way to the region would land on top of what is written now.
        if self.zeroing.contains(&region) {
            return Verdict::Waits;
        }
        if !self.regions.is_durable(region) && (kept(Rule::S17) || !zero) {
            self.warm(port, region);
            return Verdict::Waits;
        }
        self.regions.note(generation, number, region);
        if let Some(joining) = &mut self.joining {
            joining.write_begins(run);
            self.accepted[slot].round = Some(joining.round);
        }
        if mode == AttachMode::SharedWrite && kept(Rule::S10) {
            let own =
                |entry: &&mut Unconfirmed| (entry.generation, entry.number) == (generation, number);
            match self.unconfirmed.iter_mut().find(own) {
                Some(entry) => entry.done = true,
                None => self.unconfirmed.push(Unconfirmed { generation, number, run, done: true }),
            }
        }
        let Some(block) = self.facts.place.data(run.first) else {
            self.end(port, slot, IoResult::Invalid, None);
            return Verdict::Goes;
        };
        let stable = !self.facts.write_back && kept(Rule::S6);
        let operation =
            match (self.accepted[slot].io.operation, self.accepted[slot].payload.clone()) {
                (Operation::Zero { unmap, .. }, _) => {
                    DiskOperation::Zero { block, blocks: run.blocks, unmap, stable }
                }
                (_, Some(payload)) => DiskOperation::Write { block, payload, stable },
                (_, None) => {
                    self.end(port, slot, IoResult::Invalid, None);
                    return Verdict::Goes;
                }
            };
        self.put_on_drive(port, slot, operation);
        Verdict::Goes
    }

    /// The first write to a region for a while: its bit has to become durable, and if it was never written, its other blocks have to read
    /// as zeroes. A joiner that is being filled gets those blocks by copying.
    pub(super) fn warm(&mut self, port: &mut Port<'_, P>, region: u32) {
        if self.regions.is_written(region) {
            return self.regions.want(region);
        }
        if !self.zeroing.insert(region) {
            return;
        }
        let blocks = self.facts.place.layout.region_blocks();
        let first = u64::from(region) * blocks;
        let Some(block) = self.facts.place.data(first) else { return };
        let blocks = blocks.min(self.facts.blocks - first) as u32;
        let operation = DiskOperation::Zero { block, blocks, unmap: true, stable: true };
        self.start(port, Purpose::ZeroRegion(region), operation);
    }

    pub(super) fn io_ended(&mut self, port: &mut Port<'_, P>, slot: usize, result: DiskResult<P>) {
        self.tell_round(slot, matches!(result, DiskResult::Done));
        let read = match self.accepted[slot].io.operation {
            Operation::Read(run) => Some(run),
            _ => None,
        };
        match result {
            DiskResult::Done if read.is_none() => self.end(port, slot, IoResult::Done, None),
            DiskResult::Data(payload) if read.is_some() => {
                self.end(port, slot, IoResult::Done, Some(payload))
            }
            DiskResult::Unreadable if read.is_some() => {
                read.into_iter().for_each(|run| self.mend(port, run));
                self.end(port, slot, IoResult::Unreadable, None);
            }
            _ => {
                self.end(port, slot, IoResult::DeviceError, None);
                self.give_up(port);
            }
        }
    }

    /// The round that a write was handed to the drive in learns of its end.
    fn tell_round(&mut self, slot: usize, done: bool) {
        let accepted = &self.accepted[slot];
        let (Some(round), Some(run)) = (accepted.round, accepted.io.operation.run()) else {
            return;
        };
        if let Some(joining) = self.joining.as_mut().filter(|joining| joining.round == round) {
            // In a write-back volume it is not stable yet, but then a loss of power makes the replica stale in any case.
            joining.write_ended(run, done);
        }
    }
}
