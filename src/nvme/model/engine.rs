//! One step of the model: doorbells, commands, completions.

use super::dma::Fault;
use super::doorbells::Doorbells;
use super::queues::{FusedFirst, Outcome};
use super::script::Action;
use super::state::{Controller, Held, Late};
use crate::base::Status;
use crate::nvme::spec::{
    AsyncError, AsyncEvent, AsyncEventKind, CompletionEntry, IoOpcode, LogPage, SubmissionEntry,
};

/// Completions that come out of order are late by fewer steps than this.
const REORDER_STEPS: u64 = 4;

/// What the script wants wrong with a completion.
enum Flaw {
    None,
    Twice,
    CommandId(u16),
    QueueId(u16),
    Head(u16),
    Phase,
    Raw(CompletionEntry),
}

impl Controller {
    /// Looks at the doorbells, executes what was submitted, posts what is done. Returns how many
    /// completions were posted.
    pub(super) fn run(&mut self, doorbells: &Doorbells) -> usize {
        self.step += 1;
        self.posted = 0;
        if !self.is_running() {
            return 0;
        }
        self.ring_all(doorbells);
        for queue in 0..self.submission.len() {
            self.process(queue as u16);
        }
        if !self.held.is_empty() || !self.late.is_empty() {
            self.release_due();
        }
        self.deliver_events();
        for queue in 0..self.completion.len() {
            self.post_waiting(queue as u16);
        }
        self.posted
    }

    fn ring_all(&mut self, doorbells: &Doorbells) {
        let count = doorbells.count().min(self.submission.len() as u32 * 2);
        for index in 0..count {
            if let Some(value) = doorbells.take(index) {
                self.ring(index, value);
            }
        }
    }

    fn ring(&mut self, index: u32, value: u32) {
        let queue = (index / 2) as usize;
        let shadowed = self.shadow.is_some() && queue != 0;
        let wrong = if index.is_multiple_of(2) {
            match self.submission.get_mut(queue).and_then(Option::as_mut) {
                Some(queue) if value < queue.entries => {
                    queue.awake = true;
                    if !shadowed {
                        queue.tail = value;
                    }
                    return;
                }
                found => found.is_some(),
            }
        } else {
            match self.completion.get_mut(queue).and_then(Option::as_mut) {
                Some(queue) if value < queue.entries => {
                    let taken = (value + queue.entries - queue.head) % queue.entries;
                    if taken <= queue.unread() {
                        queue.head = value;
                        return;
                    }
                    true
                }
                found => found.is_some(),
            }
        };
        let (fault, error) = if wrong {
            (Fault::DoorbellValue { index, value }, AsyncError::InvalidDoorbellValue)
        } else {
            (Fault::DoorbellRegister { index }, AsyncError::InvalidDoorbellRegister)
        };
        self.dma.record(fault);
        self.raise(AsyncEvent { kind: AsyncEventKind::Error(error), log_page: LogPage::ERROR });
    }

    fn process(&mut self, id: u16) {
        let Some(queue) = &mut self.submission[usize::from(id)] else { return };
        if self.shadow.is_none() && queue.head == queue.tail {
            return;
        }
        if queue.check(&mut self.dma).is_err() {
            return self.fail();
        }
        if self.options.fast && id != 0 && self.script.is_empty() && self.process_fast(id) {
            return;
        }
        let mut budget = self.submission[usize::from(id)].as_ref().map_or(0, |queue| queue.entries);
        while budget > 0 {
            budget -= 1;
            if !self.is_running() || self.is_congested(id) {
                return;
            }
            self.refresh_tail(id);
            // The queue may delete itself.
            let Some(queue) = &mut self.submission[usize::from(id)] else { return };
            let Some(entry) = queue.fetch() else { break };
            self.commands += 1;
            self.dispatch(id, entry);
        }
        self.settle_fused(id);
    }

    /// With shadow doorbells, the tail is in memory; a queue that runs dry asks for the register at the next entry.
    fn refresh_tail(&mut self, id: u16) {
        let Some(shadow) = &mut self.shadow else { return };
        let Some(queue) = self.submission[usize::from(id)].as_mut().filter(|_| id != 0) else {
            return;
        };
        if queue.head != queue.tail || !queue.awake {
            return;
        }
        if !self.dma.is_current(&shadow.doorbells) {
            let (doorbells, event_indexes) = shadow.addresses;
            let page = self.registers.cc.page_size() as usize;
            match (self.dma.window(doorbells, page), self.dma.window(event_indexes, page)) {
                (Ok(doorbells), Ok(event_indexes)) => {
                    shadow.doorbells = doorbells;
                    shadow.event_indexes = event_indexes;
                }
                _ => return self.fail(),
            }
        }
        let offset = (usize::from(id) * 2 * 4) << self.options.doorbell_stride_log2;
        let mut tail = shadow.doorbells.load_word(offset);
        if tail == queue.head {
            // Nothing more: from now on the register is to be written. A tail that moved before the host could
            // see that is found by the second look.
            shadow.event_indexes.store_word(offset, tail);
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            tail = shadow.doorbells.load_word(offset);
            queue.awake = tail != queue.head;
        }
        if tail >= queue.entries {
            let index = u32::from(id) * 2;
            self.dma.record(Fault::DoorbellValue { index, value: tail });
            queue.awake = false;
            return;
        }
        queue.tail = tail;
    }

    /// Whether completions have piled up for a queue that the host does not read.
    fn is_congested(&self, id: u16) -> bool {
        let Some(queue) = &self.submission[usize::from(id)] else { return false };
        self.completion[usize::from(queue.completion_queue)]
            .as_ref()
            .is_some_and(|completion| completion.waiting.len() >= completion.entries as usize)
    }

    /// Completes reads and writes without looking at them. Whether nothing else is left to do.
    fn process_fast(&mut self, id: u16) -> bool {
        self.refresh_tail(id);
        let Some(queue) = &mut self.submission[usize::from(id)] else { return true };
        let Some(completion) = &mut self.completion[usize::from(queue.completion_queue)] else {
            return true;
        };
        if completion.check(&mut self.dma).is_err() {
            return false;
        }
        while let Some((opcode, command_id)) = queue.peek() {
            if !matches!(opcode, IoOpcode::READ | IoOpcode::WRITE)
                || completion.is_full()
                || !completion.waiting.is_empty()
            {
                return false;
            }
            queue.advance();
            completion.post(CompletionEntry {
                sq_head: queue.head as u16,
                sq_id: id,
                command_id,
                ..CompletionEntry::default()
            });
            self.posted += 1;
            self.commands += 1;
        }
        self.shadow.is_none()
    }

    fn dispatch(&mut self, id: u16, entry: SubmissionEntry) {
        let fuse = entry.flags & 0b11;
        if let Some(queue) = &mut self.submission[usize::from(id)]
            && let Some(due) = queue.hold_second.take()
            && fuse == SubmissionEntry::FUSE_SECOND
        {
            self.held.push(Held { queue: id, entry, due });
            return;
        }
        let action = match self.script.is_empty() {
            true => None,
            false => self.script.decide(id, &entry),
        };
        let flaw = match action {
            None => Flaw::None,
            Some(Action::Fail { status, do_not_retry }) => {
                let failure = super::queues::Failure { status, do_not_retry };
                return self.execute(id, entry, Some(failure), Flaw::None);
            }
            Some(Action::FailAfter { status, do_not_retry }) => {
                if self.outcome(id, &entry).is_some() {
                    let failure = super::queues::Failure { status, do_not_retry };
                    self.finish(id, &entry, Err(failure), Flaw::None);
                }
                return;
            }
            Some(Action::Hold) => return self.hold(id, entry, None),
            Some(Action::Delay(steps)) => {
                return self.hold(id, entry, Some(self.step.saturating_add(steps)));
            }
            Some(Action::Twice) => Flaw::Twice,
            Some(Action::WrongCommandId(wrong)) => Flaw::CommandId(wrong),
            Some(Action::WrongQueueId(wrong)) => Flaw::QueueId(wrong),
            Some(Action::WrongHead(wrong)) => Flaw::Head(wrong),
            Some(Action::WrongPhase) => Flaw::Phase,
            Some(Action::Raw(raw)) => Flaw::Raw(raw),
            Some(Action::Fatal) => return self.fail(),
            Some(Action::Unplug) => {
                self.unplugged = true;
                return;
            }
        };
        self.execute(id, entry, None, flaw);
    }

    fn hold(&mut self, id: u16, entry: SubmissionEntry, due: Option<u64>) {
        if let Some(queue) = &mut self.submission[usize::from(id)]
            && id != 0
            && entry.flags & 0b11 == SubmissionEntry::FUSE_FIRST
        {
            queue.hold_second = Some(due);
        }
        self.held.push(Held { queue: id, entry, due });
    }

    /// Executes a command, or fails it as the script wants, with its part in a fused operation (Base Specification,
    /// section 3.4.1 (6.2 in older revisions)).
    fn execute(
        &mut self,
        id: u16,
        entry: SubmissionEntry,
        failure: Option<super::queues::Failure>,
        flaw: Flaw,
    ) {
        let fuse = if id == 0 { 0 } else { entry.flags & 0b11 };
        if fuse != SubmissionEntry::FUSE_SECOND {
            self.settle_fused(id);
        }
        let outcome = match fuse {
            0 => match failure {
                Some(failure) => Some(Err(failure)),
                None => self.outcome(id, &entry),
            },
            SubmissionEntry::FUSE_FIRST => {
                if let Some(queue) = &mut self.submission[usize::from(id)] {
                    queue.fused = Some(FusedFirst { entry, failure });
                }
                return;
            }
            SubmissionEntry::FUSE_SECOND => Some(self.execute_fused(id, &entry, failure)),
            _ => Some(Err(Status::INVALID_FIELD.into())),
        };
        if let Some(outcome) = outcome {
            self.finish(id, &entry, outcome, flaw);
        }
    }

    /// Both commands of a fused operation; finishes the first and returns the outcome of the second.
    fn execute_fused(
        &mut self,
        id: u16,
        second: &SubmissionEntry,
        failure: Option<super::queues::Failure>,
    ) -> Outcome {
        let queue = self.submission[usize::from(id)].as_mut();
        let Some(first) = queue.and_then(|queue| queue.fused.take()) else {
            return Err(Status::ABORTED_MISSING_FUSED.into());
        };
        let range =
            |entry: &SubmissionEntry| (entry.nsid, entry.cdw10, entry.cdw11, entry.cdw12 & 0xffff);
        let outcome = if let Some(failure) = first.failure {
            Err(failure)
        } else if failure.is_some() {
            Err(Status::ABORTED_FAILED_FUSED.into())
        } else if !self.options.fused
            || first.entry.opcode != IoOpcode::COMPARE
            || second.opcode != IoOpcode::WRITE
            || range(&first.entry) != range(second)
        {
            Err(Status::INVALID_FIELD.into())
        } else {
            self.execute_io(&first.entry)
        };
        self.finish(id, &first.entry, outcome, Flaw::None);
        match (outcome, failure) {
            (_, Some(failure)) => Err(failure),
            (Ok(_), None) => self.execute_io(second),
            (Err(_), None) => Err(Status::ABORTED_FAILED_FUSED.into()),
        }
    }

    /// A first command whose second did not follow.
    fn settle_fused(&mut self, id: u16) {
        if let Some(queue) = &mut self.submission[usize::from(id)]
            && let Some(first) = queue.fused.take()
        {
            self.finish(id, &first.entry, Err(Status::ABORTED_MISSING_FUSED.into()), Flaw::None);
        }
    }

    /// Executes a command. `None`: it completes later, by itself.
    fn outcome(&mut self, id: u16, entry: &SubmissionEntry) -> Option<Outcome> {
        if id == 0 { self.execute_admin(entry) } else { Some(self.execute_io(entry)) }
    }

    /// Completes a command whose work is done.
    pub(super) fn complete(&mut self, id: u16, entry: &SubmissionEntry, outcome: Outcome) {
        self.finish(id, entry, outcome, Flaw::None);
    }

    fn finish(&mut self, id: u16, command: &SubmissionEntry, outcome: Outcome, flaw: Flaw) {
        self.count(id, command, outcome);
        let Some(queue) = &self.submission[usize::from(id)] else { return };
        let completion_queue = queue.completion_queue;
        let (dw0, status) = match outcome {
            Ok(dw0) => (dw0, 0),
            Err(failure) => {
                (0, CompletionEntry::status_field(failure.status, failure.do_not_retry))
            }
        };
        let mut entry = CompletionEntry {
            dw0,
            dw1: 0,
            sq_head: queue.head as u16,
            sq_id: id,
            command_id: command.command_id,
            status,
        };
        let own_head = !matches!(flaw, Flaw::Head(_) | Flaw::Raw(_));
        match flaw {
            Flaw::None => {}
            Flaw::Twice => self.queue_completion(id, completion_queue, entry, true),
            Flaw::CommandId(wrong) => entry.command_id = wrong,
            Flaw::QueueId(wrong) => entry.sq_id = wrong,
            Flaw::Head(wrong) => entry.sq_head = wrong,
            Flaw::Phase => entry.status ^= 1,
            Flaw::Raw(raw) => {
                entry = raw;
                entry.status &= !1;
            }
        }
        self.queue_completion(id, completion_queue, entry, own_head);
    }

    fn queue_completion(
        &mut self,
        submission_queue: u16,
        completion_queue: u16,
        entry: CompletionEntry,
        own_head: bool,
    ) {
        if self.options.reorder.is_some() {
            let due = self.step + self.random() % REORDER_STEPS;
            self.late.push(Late { due, submission_queue, completion_queue, entry, own_head });
            return;
        }
        if let Some(queue) = &mut self.completion[usize::from(completion_queue)] {
            queue.waiting.push_back(entry);
        }
    }

    /// Posts an entry as it is, but for its phase tag. Whether the queue exists.
    pub(super) fn post_raw(&mut self, completion_queue: u16, mut entry: CompletionEntry) -> bool {
        entry.status &= !1;
        let queue = self.completion.get_mut(usize::from(completion_queue)).and_then(Option::as_mut);
        queue.map(|queue| queue.waiting.push_back(entry)).is_some()
    }

    /// What the script had held back, and is due now.
    fn release_due(&mut self) {
        let step = self.step;
        let due = |held: &mut Held| held.due.is_some_and(|due| due <= step);
        let mut settled = None;
        for held in self.held.extract_if(.., due).collect::<Vec<_>>() {
            if self.submission.get(usize::from(held.queue)).is_some_and(Option::is_some) {
                self.execute(held.queue, held.entry, None, Flaw::None);
                settled = Some(held.queue);
            }
        }
        if let Some(queue) = settled {
            self.settle_fused(queue);
        }
        for late in self.late.extract_if(.., |late| late.due <= step).collect::<Vec<_>>() {
            self.post_late(late);
        }
    }

    fn post_late(&mut self, mut late: Late) {
        if let Some(Some(queue)) = self.submission.get(usize::from(late.submission_queue))
            && late.own_head
        {
            // The head as it is when the entry is posted: it never goes back.
            late.entry.sq_head = queue.head as u16;
        }
        let queue = self.completion.get_mut(usize::from(late.completion_queue));
        if let Some(queue) = queue.and_then(Option::as_mut) {
            queue.waiting.push_back(late.entry);
        }
    }

    /// Lets go of everything that the script holds for ever.
    pub(super) fn release_held(&mut self) {
        for held in &mut self.held {
            held.due = Some(0);
        }
    }

    /// Ends the commands of a submission queue that are outstanding: it is deleted.
    pub(super) fn abort_queue(&mut self, id: u16) {
        for held in self.held.extract_if(.., |held| held.queue == id).collect::<Vec<_>>() {
            self.finish(id, &held.entry, Err(Status::ABORTED_SQ_DELETION.into()), Flaw::None);
        }
        // Its completions come before that of the deletion.
        for late in self.late.extract_if(.., |late| late.submission_queue == id).collect::<Vec<_>>()
        {
            self.post_late(late);
        }
    }

    /// Aborts one command. Whether it was found.
    pub(super) fn abort_command(&mut self, queue: u16, command_id: u16) -> bool {
        let found = self
            .held
            .iter()
            .position(|held| held.queue == queue && held.entry.command_id == command_id);
        if let Some(at) = found {
            let held = self.held.remove(at);
            self.finish(queue, &held.entry, Err(Status::ABORTED_BY_REQUEST.into()), Flaw::None);
        }
        found.is_some()
    }

    fn post_waiting(&mut self, id: u16) {
        let Some(queue) = &mut self.completion[usize::from(id)] else { return };
        if queue.waiting.is_empty() {
            return;
        }
        if queue.check(&mut self.dma).is_err() {
            return self.fail();
        }
        loop {
            if queue.is_full()
                && id != 0
                && let Some(shadow) = &self.shadow
                && self.dma.is_current(&shadow.doorbells)
            {
                // The head is in memory; the register is to be written when it moves from here.
                let offset = ((usize::from(id) * 2 + 1) * 4) << self.options.doorbell_stride_log2;
                shadow.event_indexes.store_word(offset, queue.head);
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                let head = shadow.doorbells.load_word(offset);
                if head < queue.entries
                    && (head + queue.entries - queue.head) % queue.entries <= queue.unread()
                {
                    queue.head = head;
                }
            }
            if queue.is_full() {
                return;
            }
            let Some(entry) = queue.waiting.pop_front() else { return };
            queue.post(entry);
            self.posted += 1;
        }
    }
}
