//! The admin queue: commands of control work, one future each.
//!
//! Owned by the control reactor. Data go through buffers of the reactor's pool, which the queue keeps for as long as the
//! device may write to them: a caller that has stopped waiting leaves its buffer here.

use std::cell::RefCell;
use std::time::Duration;

use tracing::warn;

use super::bell::Bell;
use super::payload::{Lists, NO_LIST, Refusal, RegionTable, Scatter, point};
use super::ring::{CompletionRing, SubmissionRing};
use super::spec::{AdminOpcode, CompletionEntry, SubmissionEntry};
use super::trouble::{Injection, Injections};
use crate::base::{Error, ErrorKind, Result};
use crate::memory::{Buffer, Segment};
use crate::reactor::{Context, Tsc};

/// For how long a command is polled for in every round; after that, every now and then.
const SPIN: Duration = Duration::from_millis(2);
/// How often after that.
const NAP: Duration = Duration::from_micros(500);

/// The answer to an admin command.
pub(super) struct Answer {
    /// Its completion.
    pub(super) entry: CompletionEntry,
    /// The data that came with the command, and what the device made of it.
    pub(super) data: Option<Buffer>,
}

/// Where an admin command is.
enum Slot {
    Free,
    /// With the device; somebody waits, or not any more.
    Sent {
        data: Option<Buffer>,
        list: u16,
        awaited: bool,
    },
    /// An asynchronous event request.
    Event,
    /// Done, and not collected.
    Done(Answer),
    /// The controller was reset under it.
    Lost,
}

/// The admin queue.
pub(super) struct AdminQueue(RefCell<Inner>);

struct Inner {
    address: String,
    submission: SubmissionRing,
    completion: CompletionRing,
    submission_bell: Bell,
    completion_bell: Bell,
    lists: Lists,
    regions: RegionTable,
    slots: Vec<Slot>,
    /// Dword 0 of asynchronous events that nobody has looked at.
    events: Vec<u32>,
    /// The controller refused to take a request for events: it is not asked again.
    no_events: bool,
    injections: Injections,
    /// Whether the controller processes commands.
    live: bool,
    /// A completion made no sense.
    violated: bool,
}

impl AdminQueue {
    pub(super) fn new(
        address: &str,
        submission: SubmissionRing,
        completion: CompletionRing,
        bells: (Bell, Bell),
        lists: Lists,
    ) -> AdminQueue {
        let slots = (0..submission.size() - 1).map(|_| Slot::Free).collect();
        AdminQueue(RefCell::new(Inner {
            address: address.to_owned(),
            submission,
            completion,
            submission_bell: bells.0,
            completion_bell: bells.1,
            lists,
            regions: RegionTable::default(),
            slots,
            events: Vec::new(),
            no_events: false,
            injections: Injections::default(),
            live: false,
            violated: false,
        }))
    }

    /// Sizes and addresses of the two rings, for the controller's registers.
    pub(super) fn rings(&self) -> (u32, u64, u32, u64) {
        let inner = self.0.borrow();
        let (submission, completion) = (&inner.submission, &inner.completion);
        (submission.size(), submission.iova(), completion.size(), completion.iova())
    }

    /// Changes the table of regions.
    pub(super) fn with_regions(&self, change: impl FnOnce(&mut RegionTable)) {
        change(&mut self.0.borrow_mut().regions);
    }

    /// Changes the injected errors.
    pub(super) fn inject(&self, injection: Injection) {
        self.0.borrow_mut().injections.add(injection);
    }

    /// The controller is (not) enabled. Disabled, it has let go of all memory, and every command is lost.
    pub(super) fn set_live(&self, live: bool) {
        let inner = &mut *self.0.borrow_mut();
        inner.live = live;
        if live {
            return;
        }
        inner.violated = false;
        inner.no_events = false;
        inner.submission.reset();
        inner.completion.reset();
        inner.submission_bell.reset();
        inner.completion_bell.reset();
        for slot in &mut inner.slots {
            match slot {
                Slot::Sent { awaited, list, .. } => {
                    inner.lists.give_back(*list);
                    *slot = if *awaited { Slot::Lost } else { Slot::Free };
                }
                Slot::Event => *slot = Slot::Free,
                Slot::Free | Slot::Done(_) | Slot::Lost => {}
            }
        }
    }

    /// Executes a command with (or without) data of `length` bytes in `data`, and waits for its completion.
    ///
    /// # Errors
    /// `Canceled` when the controller is reset or not enabled; `TimedOut` after `patience`; `Invalid` for data that the
    /// device cannot reach.
    pub(super) async fn execute(
        &self,
        cx: &Context,
        command: SubmissionEntry,
        data: Option<(Buffer, u32)>,
        patience: Duration,
    ) -> Result<Answer> {
        let start = Tsc::read();
        let deadline = start.after(Tsc::ticks(patience));
        let spin_until = start.after(Tsc::ticks(SPIN));
        let mut data = Some(data);
        let index = loop {
            match self.0.borrow_mut().send(command, &mut data)? {
                Sent::At(index) => break index,
                Sent::Injected(answer) => return Ok(answer),
                Sent::Full => {}
            }
            if Tsc::read() > deadline {
                return Err(self.0.borrow().timed_out(&command, patience));
            }
            cx.sleep(NAP).await;
        };
        let waiting = Waiting { queue: self, index };
        loop {
            if let Some(outcome) = self.collect(index) {
                std::mem::forget(waiting);
                return outcome;
            }
            let now = Tsc::read();
            if now > deadline {
                return Err(self.0.borrow().timed_out(&command, patience));
            }
            if now < spin_until {
                cx.yield_now().await;
            } else {
                cx.sleep(NAP).await;
            }
        }
    }

    fn collect(&self, index: u16) -> Option<Result<Answer>> {
        let inner = &mut *self.0.borrow_mut();
        inner.reap();
        let slot = &mut inner.slots[usize::from(index)];
        match std::mem::replace(slot, Slot::Free) {
            Slot::Done(answer) => Some(Ok(answer)),
            Slot::Lost => Some(Err(inner.not_enabled())),
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Asks for asynchronous events, `count` at a time at most.
    pub(super) fn request_events(&self, count: usize) {
        let inner = &mut *self.0.borrow_mut();
        let asked = inner.slots.iter().filter(|slot| matches!(slot, Slot::Event)).count();
        for _ in asked..count {
            if !inner.live || inner.no_events {
                return;
            }
            let Some(index) = inner.free_slot() else { return };
            let command = SubmissionEntry {
                command_id: index,
                ..SubmissionEntry::new(AdminOpcode::ASYNC_EVENT_REQUEST, 0)
            };
            inner.slots[usize::from(index)] = Slot::Event;
            inner.push(&command);
        }
    }

    /// Asynchronous events (dword 0 of each) since the last call.
    pub(super) fn take_events(&self) -> Vec<u32> {
        let inner = &mut *self.0.borrow_mut();
        inner.reap();
        std::mem::take(&mut inner.events)
    }

    /// Whether a completion came that makes no sense.
    pub(super) fn is_violated(&self) -> bool {
        self.0.borrow().violated
    }
}

/// Somebody who waits. When the wait is given up, what the command still needs stays in its slot.
struct Waiting<'a> {
    queue: &'a AdminQueue,
    index: u16,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let slot = &mut self.queue.0.borrow_mut().slots[usize::from(self.index)];
        match slot {
            Slot::Sent { awaited, .. } => *awaited = false,
            Slot::Done(_) | Slot::Lost => *slot = Slot::Free,
            Slot::Free | Slot::Event => {}
        }
    }
}

enum Sent {
    At(u16),
    Injected(Answer),
    Full,
}

impl Inner {
    fn free_slot(&self) -> Option<u16> {
        let index = self.slots.iter().position(|slot| matches!(slot, Slot::Free))?;
        Some(index as u16)
    }

    fn not_enabled(&self) -> Error {
        Error::new(
            ErrorKind::Canceled,
            format!("{}: the controller was reset or is not enabled", self.address),
        )
    }

    fn timed_out(&self, command: &SubmissionEntry, patience: Duration) -> Error {
        Error::new(
            ErrorKind::TimedOut,
            format!(
                "{}: admin command {:#04x} has no answer after {patience:?}",
                self.address, command.opcode
            ),
        )
    }

    fn push(&mut self, command: &SubmissionEntry) {
        self.submission.push(command);
        self.submission_bell.ring(self.submission.tail());
    }

    /// Sends a command; `data` is taken when it went.
    fn send(
        &mut self,
        mut command: SubmissionEntry,
        data: &mut Option<Option<(Buffer, u32)>>,
    ) -> Result<Sent> {
        if !self.live {
            return Err(self.not_enabled());
        }
        let Some(index) = self.free_slot() else { return Ok(Sent::Full) };
        let mut list = NO_LIST;
        if let Some(Some((buffer, length))) = &data {
            // SAFETY: the buffer moves to the slot below and stays there until the device is done with it.
            let segment: Segment = unsafe { buffer.segment(*length) };
            match point(&self.regions, &mut self.lists, Scatter::Prp, std::iter::once(segment)) {
                Ok(pointed) => {
                    command.data = pointed.data;
                    list = pointed.list;
                }
                Err(Refusal::Later(_)) => return Ok(Sent::Full),
                Err(Refusal::Status(status)) => {
                    return Err(Error::invalid(format!(
                        "{}: the device cannot reach the data of an admin command: {status}",
                        self.address
                    )));
                }
            }
        }
        let buffer = data.take().flatten().map(|(buffer, _)| buffer);
        if !self.injections.is_empty()
            && let Some(injected) = self.injections.take(command.opcode)
        {
            self.lists.give_back(list);
            let entry = CompletionEntry {
                status: CompletionEntry::status_field(injected.status, true),
                ..CompletionEntry::default()
            };
            return Ok(Sent::Injected(Answer { entry, data: buffer }));
        }
        command.command_id = index;
        self.slots[usize::from(index)] = Slot::Sent { data: buffer, list, awaited: true };
        self.push(&command);
        Ok(Sent::At(index))
    }

    fn reap(&mut self) {
        if !self.live || self.violated {
            return;
        }
        let mut taken = false;
        while let Some(entry) = self.completion.pop() {
            taken = true;
            let sensible = entry.sq_id == 0 && self.submission.advance_head(entry.sq_head);
            let slot = self.slots.get_mut(usize::from(entry.command_id));
            let (Some(slot), true) = (slot, sensible) else {
                self.refuse(&entry);
                return;
            };
            match std::mem::replace(slot, Slot::Free) {
                Slot::Sent { data, list, awaited } => {
                    self.lists.give_back(list);
                    if awaited {
                        *slot = Slot::Done(Answer { entry, data });
                    }
                }
                Slot::Event if entry.status().is_success() => self.events.push(entry.dw0),
                // Refused: asking again would be refused again.
                Slot::Event => self.no_events = true,
                other => {
                    *slot = other;
                    self.refuse(&entry);
                    return;
                }
            }
        }
        if taken {
            self.completion_bell.ring(self.completion.head());
        }
    }

    /// The device posted what it cannot have to post: nothing more is read before a reset.
    fn refuse(&mut self, entry: &CompletionEntry) {
        warn!(
            controller = self.address,
            ?entry,
            "an admin completion that belongs to no command: the controller is reset"
        );
        self.violated = true;
    }
}
