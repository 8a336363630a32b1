//! What a model does wrong on purpose: rules that pick commands, and what becomes of those.

use std::ops::Range;

use crate::base::Status;
use crate::nvme::spec::{CompletionEntry, SubmissionEntry};

/// Which commands a rule is for: those that match everything that is given.
#[derive(Clone, Debug, Default)]
pub struct Pick {
    /// Submission queue; `Some(0)` for admin commands. An opcode alone is one of I/O commands.
    pub queue: Option<u16>,
    /// Opcode.
    pub opcode: Option<u8>,
    /// Namespace.
    pub nsid: Option<u32>,
    /// Blocks: the command's range (command dwords 10 to 12) touches these.
    pub blocks: Option<Range<u64>>,
    /// Lets this many pass first.
    pub skip: u64,
    /// Then applies to this many; to all where `None`.
    pub count: Option<u64>,
}

impl Pick {
    /// I/O commands of `opcode`.
    pub fn io(opcode: u8) -> Pick {
        Pick { opcode: Some(opcode), ..Pick::default() }
    }

    /// Admin commands of `opcode`.
    pub fn admin(opcode: u8) -> Pick {
        Pick { queue: Some(0), opcode: Some(opcode), ..Pick::default() }
    }

    /// The same, but only after `skip` matches.
    #[must_use]
    pub fn after(self, skip: u64) -> Pick {
        Pick { skip, ..self }
    }

    /// The same, but at most `count` times.
    #[must_use]
    pub fn times(self, count: u64) -> Pick {
        Pick { count: Some(count), ..self }
    }

    /// The same, but only where the range touches `blocks`.
    #[must_use]
    pub fn on_blocks(self, blocks: Range<u64>) -> Pick {
        Pick { blocks: Some(blocks), ..self }
    }

    fn matches(&self, queue: u16, entry: &SubmissionEntry) -> bool {
        let queue_matches = match self.queue {
            Some(wanted) => wanted == queue,
            None => queue != 0,
        };
        let start = u64::from(entry.cdw11) << 32 | u64::from(entry.cdw10);
        let end = start.saturating_add(u64::from(entry.cdw12 & 0xffff) + 1);
        queue_matches
            && self.opcode.is_none_or(|opcode| opcode == entry.opcode)
            && self.nsid.is_none_or(|nsid| nsid == entry.nsid)
            && self.blocks.as_ref().is_none_or(|blocks| start < blocks.end && blocks.start < end)
    }
}

/// What becomes of a command that a rule picked.
#[derive(Clone, Debug)]
pub enum Action {
    /// It is not executed, and completes with this status.
    Fail {
        /// The status.
        status: Status,
        /// Do Not Retry.
        do_not_retry: bool,
    },
    /// It is executed, but completes with this status all the same.
    FailAfter {
        /// The status.
        status: Status,
        /// Do Not Retry.
        do_not_retry: bool,
    },
    /// It stays outstanding until it is aborted, its queue goes, or [`release`](super::Model::release).
    Hold,
    /// It is executed this many steps later; others overtake it.
    Delay(u64),
    /// It completes twice.
    Twice,
    /// It completes under another command identifier.
    WrongCommandId(u16),
    /// It completes with another submission queue identifier.
    WrongQueueId(u16),
    /// It completes with another submission queue head pointer.
    WrongHead(u16),
    /// Its completion has the phase tag of the pass before.
    WrongPhase,
    /// It completes with these bytes, in which only the phase tag is put right.
    Raw(CompletionEntry),
    /// The controller reports a fatal error and stops.
    Fatal,
    /// The controller is unplugged.
    Unplug,
}

/// The rules, in order; the first that matches decides.
#[derive(Default)]
pub(super) struct Script {
    rules: Vec<(Pick, Action)>,
}

impl Script {
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(super) fn add(&mut self, pick: Pick, action: Action) {
        self.rules.push((pick, action));
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What to do with a command that came in; counts it.
    pub(super) fn decide(&mut self, queue: u16, entry: &SubmissionEntry) -> Option<Action> {
        for (pick, action) in &mut self.rules {
            if !pick.matches(queue, entry) || pick.count == Some(0) {
                continue;
            }
            if pick.skip > 0 {
                pick.skip -= 1;
                continue;
            }
            if let Some(count) = &mut pick.count {
                *count -= 1;
            }
            return Some(action.clone());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::spec::IoOpcode;

    #[test]
    fn rules_count_what_they_match() {
        let mut script = Script::default();
        script.add(Pick::io(IoOpcode::READ).after(1).times(2).on_blocks(8..10), Action::Hold);
        let read = |lba: u32| SubmissionEntry {
            cdw10: lba,
            cdw12: 3,
            ..SubmissionEntry::new(IoOpcode::READ, 1)
        };
        let mut decide = |lba| script.decide(1, &read(lba)).is_some();
        assert!(!decide(4), "blocks 4 to 7");
        assert!(!decide(5), "the first is let through");
        assert!(decide(9) && decide(6) && !decide(9));
        assert!(script.decide(0, &read(9)).is_none(), "not for the admin queue");
    }
}
