//! Commands that are held, freezing and thawing around a reset of the controller, and its death.

use super::{Mode, QueuePair};
use crate::base::Status;
use crate::nvme::slots::{Kind, Place};
use crate::nvme::trouble::{Expired, Outstanding};

impl QueuePair {
    /// Sends, or ends, what is held and due.
    #[cold]
    pub(super) fn send_held(&mut self, now: u64) {
        if self.mode != Mode::Live {
            return;
        }
        let mut ended: Option<u16> = None;
        for (index, slot) in self.slots.iter() {
            match slot.place {
                Place::Here if slot.since <= now => {
                    slot.place = Place::Device;
                    slot.since = now;
                    self.held -= 1;
                    self.parts.submission.push(&slot.command);
                    self.stats.submitted += 1;
                    self.stats.retries += 1;
                }
                // One at a time: they are few, and the slots are borrowed.
                Place::Ending(_) if slot.since <= now && ended.is_none() => ended = Some(index),
                _ => {}
            }
        }
        if let Some(index) = ended
            && let Some(Place::Ending(status)) = self.slots.get(index).map(|slot| slot.place)
        {
            self.held -= 1;
            self.give_back(index, status);
        }
        self.flush();
    }

    /// Ends a command and leaves it for its owner.
    fn give_back(&mut self, index: u16, status: Status) {
        let (owner, done) = self.end(index, status, 0);
        self.owners[usize::from(owner.0)].done.push_back(done);
    }

    /// From now on the device is not touched. What is outstanding stays.
    pub(in crate::nvme) fn freeze(&mut self) {
        self.mode = Mode::Frozen;
    }

    /// Starts over on fresh queues, after the controller was reset; the doorbells are not told of anything yet.
    pub(in crate::nvme) fn start_over(&mut self) {
        self.parts.submission.reset();
        self.parts.completion.reset();
        self.parts.submission_bell.reset();
        self.parts.completion_bell.reset();
        self.told = 0;
        self.rung = false;
    }

    /// Goes on after [`QueuePair::start_over`].
    pub(in crate::nvme) fn thaw(&mut self, outstanding: Outstanding, now: u64) {
        if self.mode != Mode::Frozen {
            return;
        }
        self.mode = Mode::Live;
        self.take_from_device(outstanding, now);
        self.send_held(now);
    }

    /// Decides about every command that the device had.
    fn take_from_device(&mut self, outstanding: Outstanding, now: u64) {
        let limit = self.parts.retry.count;
        let mut held = Vec::new();
        let mut ended = Vec::new();
        for (index, slot) in self.slots.iter() {
            let with_device = slot.is_with_device() || matches!(slot.place, Place::Half(_));
            if !with_device {
                continue;
            }
            // Nobody knows whether a passthrough command or a compare-and-write took effect: to do it
            // twice may be wrong.
            let repeatable = matches!(slot.kind, Kind::Plain | Kind::ZeroThenDeallocate);
            match outstanding {
                Outstanding::Retried if repeatable && slot.retries < limit => held.push(index),
                Outstanding::Retried => ended.push((index, slot.kind, Status::ABORTED_BY_REQUEST)),
                Outstanding::Ended(status) => ended.push((index, slot.kind, status)),
            }
        }
        for index in held {
            self.hold(index, now);
        }
        for (index, kind, status) in ended {
            match kind {
                // The tag is with the other half.
                Kind::FusedFirst => drop(self.end(index, status, 0)),
                Kind::Injected(injected) => self.give_back(index, injected),
                _ => self.give_back(index, status),
            }
        }
    }

    /// The controller is gone for good: everything outstanding ends with `status`, and all that comes.
    pub(in crate::nvme) fn die(&mut self, status: Status) {
        self.mode = Mode::Dead(status);
        self.take_from_device(Outstanding::Ended(status), 0);
        let held: Vec<u16> = self.slots.iter().map(|(index, _)| index).collect();
        for index in held {
            self.give_back(index, status);
        }
        self.held = 0;
    }

    /// Commands that the device has had since before `limit` (in TSC ticks): those that it was not asked to abort
    /// yet, and whether there are any that it was. They count as asked from now on.
    pub(in crate::nvme) fn expired(&mut self, limit: u64, now: u64) -> Expired {
        let mut expired = Expired { queue: self.parts.id, commands: Vec::new(), hung: false };
        for (index, slot) in self.slots.iter() {
            if slot.since > limit {
                continue;
            }
            match slot.place {
                Place::Device => {
                    slot.place = Place::Aborting;
                    slot.since = now;
                    expired.commands.push(index);
                }
                Place::Aborting => expired.hung = true,
                Place::Here | Place::Ending(_) | Place::Half(_) => {}
            }
        }
        expired
    }
}
