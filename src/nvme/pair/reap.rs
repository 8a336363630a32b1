//! Completions: from the ring, checked, to the owners.

use super::{Done, Mode, QueuePair};
use crate::base::Status;
use crate::nvme::commands;
use crate::nvme::payload::{NO_LIST, point_value};
use crate::nvme::slots::{Kind, OwnerId, Place};
use crate::nvme::spec::{CompletionEntry, DsmRange, IoOpcode};
use crate::nvme::trouble::{RetryPolicy, Trouble, Violation};
use crate::reactor::Activity;

impl QueuePair {
    /// Takes completions off the ring, up to `room` of them for `owner`, which gets each by `deliver`. Those of
    /// other owners wait for their own poll.
    #[inline]
    pub(in crate::nvme) fn poll(
        &mut self,
        owner: OwnerId,
        now: u64,
        mut room: usize,
        mut deliver: impl FnMut(Done),
    ) -> Activity {
        self.stats.polls += 1;
        // What was pushed after the last poll's doorbell goes now.
        self.rung = false;
        self.flush_rest();
        let before = room;
        if !self.owners[usize::from(owner.0)].done.is_empty() {
            self.hand_over(owner, &mut room, &mut deliver);
        }
        if self.held > 0 {
            self.send_held(now);
        }
        while room > 0 && self.mode == Mode::Live {
            let Some(entry) = self.parts.completion.pop() else { break };
            let index = entry.command_id;
            let known = self.slots.get(index);
            let Some(slot) = known.filter(|slot| slot.is_with_device()) else {
                self.violated(Violation::UnknownCommand(index));
                break;
            };
            let plain = slot.kind == Kind::Plain && entry.status >> 1 == 0;
            let (tag, list) = (slot.tag, slot.list);
            if entry.sq_id != self.parts.id {
                self.violated(Violation::WrongQueue(entry.sq_id));
                break;
            }
            if !self.parts.submission.advance_head(entry.sq_head) {
                self.violated(Violation::ImpossibleHead(entry.sq_head));
                break;
            }
            self.stats.completions += 1;
            let (of, done) = if plain {
                self.parts.lists.give_back(list);
                let done = Done { tag, status: Status::SUCCESS, result: entry.dw0 };
                (self.slots.release(index), done)
            } else {
                match self.finish(index, &entry, now) {
                    Some(finished) => finished,
                    None => continue,
                }
            };
            if of == owner {
                deliver(done);
                room -= 1;
            } else {
                self.owners[usize::from(of.0)].done.push_back(done);
            }
        }
        self.tell_taken();
        if before > room {
            return Activity::Busy;
        }
        self.stats.idle_polls += 1;
        if self.slots.outstanding() > 0 { Activity::Waiting } else { Activity::Idle }
    }

    #[inline]
    fn flush_rest(&mut self) {
        if self.parts.submission.tail() != self.parts.submission_bell.told() {
            self.flush();
        }
    }

    /// Tells the controller how far completions were taken, when it must know.
    #[inline]
    fn tell_taken(&mut self) {
        let taken = self.parts.completion.taken();
        if taken.wrapping_sub(self.told) >= self.untold_max && self.mode == Mode::Live {
            self.told = taken;
            self.parts.completion_bell.ring(self.parts.completion.head());
            self.stats.completion_doorbells += 1;
        }
    }

    #[cold]
    fn hand_over(&mut self, owner: OwnerId, room: &mut usize, deliver: &mut impl FnMut(Done)) {
        let done = &mut self.owners[usize::from(owner.0)].done;
        while *room > 0
            && let Some(done) = done.pop_front()
        {
            deliver(done);
            *room -= 1;
        }
    }

    /// The device broke the rules: it is not touched again before the controller has reset it.
    #[cold]
    fn violated(&mut self, violation: Violation) {
        self.mode = Mode::Frozen;
        self.parts.trouble.send(Trouble::Violation(self.parts.id, violation));
    }

    /// A completion that is an error, or of a command with something special about it. `None` when the
    /// operation goes on.
    #[cold]
    fn finish(&mut self, index: u16, entry: &CompletionEntry, now: u64) -> Option<(OwnerId, Done)> {
        let status = entry.status();
        let kind = self.slots.get(index)?.kind;
        match kind {
            Kind::Injected(injected) => Some(self.end(index, injected, entry.dw0)),
            Kind::FusedFirst | Kind::FusedSecond => self.finish_half(index, status),
            Kind::ZeroThenDeallocate if status.is_success() => self.deallocate(index),
            Kind::Plain | Kind::ZeroThenDeallocate if self.may_retry(index, entry) => {
                let due = now.saturating_add(self.parts.retry.delay(entry.retry_delay()));
                self.hold(index, due);
                None
            }
            // That the zeros were written is what counts: to give back their space is a hint.
            Kind::Plain if self.is_deallocation_hint(index) => {
                Some(self.end(index, Status::SUCCESS, entry.dw0))
            }
            Kind::Plain | Kind::Passthrough | Kind::ZeroThenDeallocate => {
                Some(self.end(index, status, entry.dw0))
            }
        }
    }

    fn may_retry(&mut self, index: u16, entry: &CompletionEntry) -> bool {
        let limit = self.parts.retry.count;
        let Some(slot) = self.slots.get(index) else { return false };
        !entry.status().is_success()
            && !entry.do_not_retry()
            && slot.retries < limit
            && RetryPolicy::is_transient(entry.status())
    }

    fn is_deallocation_hint(&mut self, index: u16) -> bool {
        let slot = self.slots.get(index);
        slot.is_some_and(|slot| slot.command.opcode == IoOpcode::DATASET_MANAGEMENT)
    }

    /// Keeps a command to send it again at `due`.
    pub(super) fn hold(&mut self, index: u16, due: u64) {
        if let Some(slot) = self.slots.get(index) {
            slot.retries += 1;
            slot.place = Place::Here;
            slot.since = due;
            self.held += 1;
        }
    }

    /// Half of a fused operation ended; the operation ends with the other.
    fn finish_half(&mut self, index: u16, status: Status) -> Option<(OwnerId, Done)> {
        let slot = self.slots.get(index)?;
        let (partner, kind) = (slot.partner, slot.kind);
        let Place::Half(other) = self.slots.get(partner)?.place else {
            self.slots.get(index)?.place = Place::Half(status);
            return None;
        };
        let (first, second) = match kind {
            Kind::FusedFirst => ((index, status), (partner, other)),
            _ => ((partner, other), (index, status)),
        };
        // When the comparison fails, the write is aborted for that: the comparison's status says why.
        // Should the write be what failed, the comparison may be the one that was aborted for it.
        let status = match first.1 {
            Status::ABORTED_FAILED_FUSED => second.1.or(first.1),
            status => status.or(second.1),
        };
        self.end(first.0, status, 0);
        Some(self.end(second.0, status, 0))
    }

    /// The zeros are written; now their space may go.
    fn deallocate(&mut self, index: u16) -> Option<(OwnerId, Done)> {
        let slot = self.slots.get(index)?;
        let zeroes = slot.command;
        let lba = u64::from(zeroes.cdw11) << 32 | u64::from(zeroes.cdw10);
        let blocks = (zeroes.cdw12 & 0xffff) + 1;
        let range = DsmRange { attributes: 0, blocks, start: lba };
        let Ok(pointed) = point_value(&mut self.parts.lists, range) else {
            return Some(self.end(index, Status::SUCCESS, 0));
        };
        let slot = self.slots.get(index)?;
        slot.command = commands::deallocate(zeroes.nsid, 1);
        slot.command.command_id = index;
        slot.command.data = pointed.data;
        slot.list = pointed.list;
        slot.kind = Kind::Plain;
        let command = slot.command;
        self.parts.submission.push(&command);
        self.stats.submitted += 1;
        self.flush();
        None
    }

    /// Ends a command: its slot and its list are free.
    pub(super) fn end(&mut self, index: u16, status: Status, result: u32) -> (OwnerId, Done) {
        let (tag, list) = match self.slots.get(index) {
            Some(slot) => (slot.tag, slot.list),
            None => ([0; 3], NO_LIST),
        };
        self.parts.lists.give_back(list);
        if !status.is_success() {
            self.stats.errors += 1;
        }
        (self.slots.release(index), Done { tag, status, result })
    }
}
