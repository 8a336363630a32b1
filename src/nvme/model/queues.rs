//! Submission and completion queues on the controller's side.

use std::collections::VecDeque;

use super::dma::{Dma, NotMapped, Window};
use crate::base::Status;
use crate::nvme::spec::{CompletionEntry, SubmissionEntry};

const SUBMISSION_BYTES: usize = size_of::<SubmissionEntry>();
const COMPLETION_BYTES: usize = size_of::<CompletionEntry>();

/// A failed command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) status: Status,
    pub(super) do_not_retry: bool,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        // What a later attempt may get over, a device leaves open.
        let do_not_retry = !matches!(
            status,
            Status::DATA_TRANSFER_ERROR
                | Status::INTERNAL_ERROR
                | Status::ABORTED_BY_REQUEST
                | Status::ABORTED_SQ_DELETION
                | Status::ABORTED_FAILED_FUSED
                | Status::ABORTED_MISSING_FUSED
                | Status::COMMAND_INTERRUPTED
                | Status::NAMESPACE_NOT_READY
        );
        Failure { status, do_not_retry }
    }
}

/// How a command ended: dword 0 of its completion, or a failure.
pub(super) type Outcome = Result<u32, Failure>;

/// The first command of a fused operation, which waits for the second.
pub(super) struct FusedFirst {
    pub(super) entry: SubmissionEntry,
    /// The script wants it to fail so.
    pub(super) failure: Option<Failure>,
}

pub(super) struct SubmissionQueue {
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) completion_queue: u16,
    /// With shadow doorbells: whether the controller looks at the shadow, or waits for the register.
    pub(super) awake: bool,
    pub(super) fused: Option<FusedFirst>,
    /// The second command of a fused operation shares what the script did to the first.
    pub(super) hold_second: Option<Option<u64>>,
    base: u64,
    window: Window,
}

impl SubmissionQueue {
    pub(super) fn new(
        dma: &mut Dma,
        base: u64,
        entries: u32,
        completion_queue: u16,
    ) -> Result<SubmissionQueue, NotMapped> {
        Ok(SubmissionQueue {
            entries,
            head: 0,
            tail: 0,
            completion_queue,
            awake: true,
            fused: None,
            hold_second: None,
            base,
            window: dma.window(base, entries as usize * SUBMISSION_BYTES)?,
        })
    }

    /// Sees to it that the queue's memory is mapped still.
    pub(super) fn check(&mut self, dma: &mut Dma) -> Result<(), NotMapped> {
        if !dma.is_current(&self.window) {
            self.window = dma.window(self.base, self.entries as usize * SUBMISSION_BYTES)?;
        }
        Ok(())
    }

    /// Takes the next command.
    #[inline]
    pub(super) fn fetch(&mut self) -> Option<SubmissionEntry> {
        if self.head == self.tail {
            return None;
        }
        let entry = self.window.load(self.head as usize * SUBMISSION_BYTES);
        self.advance();
        Some(entry)
    }

    /// Opcode and command identifier of the next command.
    #[inline]
    pub(super) fn peek(&self) -> Option<(u8, u16)> {
        if self.head == self.tail {
            return None;
        }
        let word: u32 = self.window.load(self.head as usize * SUBMISSION_BYTES);
        Some((word as u8, (word >> 16) as u16))
    }

    #[inline]
    pub(super) fn advance(&mut self) {
        self.head = if self.head + 1 == self.entries { 0 } else { self.head + 1 };
    }
}

pub(super) struct CompletionQueue {
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    phase: bool,
    /// Submission queues that complete here.
    pub(super) users: u32,
    /// Completions that there was no room for.
    pub(super) waiting: VecDeque<CompletionEntry>,
    base: u64,
    window: Window,
}

impl CompletionQueue {
    pub(super) fn new(
        dma: &mut Dma,
        base: u64,
        entries: u32,
    ) -> Result<CompletionQueue, NotMapped> {
        Ok(CompletionQueue {
            entries,
            head: 0,
            tail: 0,
            phase: true,
            users: 0,
            waiting: VecDeque::new(),
            base,
            window: dma.window(base, entries as usize * COMPLETION_BYTES)?,
        })
    }

    /// Sees to it that the queue's memory is mapped still.
    pub(super) fn check(&mut self, dma: &mut Dma) -> Result<(), NotMapped> {
        if !dma.is_current(&self.window) {
            self.window = dma.window(self.base, self.entries as usize * COMPLETION_BYTES)?;
        }
        Ok(())
    }

    /// Entries that the host has not taken yet.
    pub(super) fn unread(&self) -> u32 {
        (self.tail + self.entries - self.head) % self.entries
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        let next = if self.tail + 1 == self.entries { 0 } else { self.tail + 1 };
        next == self.head
    }

    /// Posts an entry: its phase tag, which is the flaw if it is set, is put right. There must be room.
    #[inline]
    pub(super) fn post(&mut self, mut entry: CompletionEntry) {
        entry.status ^= u16::from(self.phase);
        self.window.post(self.tail, entry);
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }
}
