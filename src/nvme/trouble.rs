//! What goes wrong on a queue pair, and what is done about it: retries, injected errors, and the news that
//! only the controller can act on.

use std::fmt;
use std::sync::Arc;

use crate::base::Status;

/// News for the controller, from any reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A command names a region that the pair does not know.
    RegionsBehind,
    /// The device did what no device may do: the pair of this queue identifier is broken.
    Violation(u16, Violation),
}

/// What a device must not do, and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// A completion for a command that is not outstanding.
    UnknownCommand(u16),
    /// A completion in the ring of another queue.
    WrongQueue(u16),
    /// A submission queue head that cannot have been reached.
    ImpossibleHead(u16),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::UnknownCommand(id) => {
                write!(f, "completed command {id}, which is not outstanding")
            }
            Violation::WrongQueue(id) => write!(f, "posted a completion of queue {id}"),
            Violation::ImpossibleHead(head) => {
                write!(f, "reported submission queue head {head}, where it cannot be")
            }
        }
    }
}

/// Takes the news to the controller, on whatever reactor that is.
#[derive(Clone)]
pub(super) struct TroubleSender(Arc<dyn Fn(Trouble) + Send + Sync>);

impl TroubleSender {
    pub(super) fn new(send: impl Fn(Trouble) + Send + Sync + 'static) -> TroubleSender {
        TroubleSender(Arc::new(send))
    }

    #[cold]
    pub(super) fn send(&self, trouble: Trouble) {
        (self.0)(trouble);
    }
}

/// Which commands are sent again, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often one command is sent again at most.
    pub count: u8,
    /// The controller's Command Retry Delay Times 1 to 3, in TSC ticks.
    pub delays: [u64; 3],
}

impl RetryPolicy {
    /// Whether a command that failed with `status` may succeed when it is sent again: the failure
    /// was of the path or of the moment, not of the command or the medium.
    pub(super) fn is_transient(status: Status) -> bool {
        const PATH: u8 = 0x3;
        matches!(
            status,
            Status::COMMAND_INTERRUPTED
                | Status::NAMESPACE_NOT_READY
                | Status::ABORTED_SQ_DELETION
                | Status::ABORTED_BY_REQUEST
        ) || status.sct() == PATH
    }

    /// How long to wait before the command is sent again, in ticks (Base Specification, section 4.2.3.1, CRD).
    pub(super) fn delay(&self, retry_delay: u8) -> u64 {
        match retry_delay {
            0 => 0,
            index => self.delays[usize::from(index).min(3) - 1],
        }
    }
}

/// What becomes of commands that a reset of the controller found outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outstanding {
    /// They are sent again, within their number of retries.
    Retried,
    /// They end with this status.
    Ended(Status),
}

/// What has been outstanding for too long on one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expired {
    pub(super) queue: u16,
    /// Commands to abort.
    pub(super) commands: Vec<u16>,
    /// Whether a command outlived its abort.
    pub(super) hung: bool,
}

/// An error to be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// For commands of this opcode.
    pub opcode: u8,
    /// The command is not given to the device.
    pub do_not_submit: bool,
    /// How long such a command takes, in TSC ticks.
    pub delay: u64,
    /// For how many commands; each takes one away.
    pub count: u32,
    /// The status that they end with.
    pub status: Status,
}

/// The errors to be injected on one queue: at most one entry per opcode.
#[derive(Clone, Debug, Default)]
pub(super) struct Injections(Vec<Injection>);

impl Injections {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one in the place of what there was for the opcode.
    pub(super) fn add(&mut self, injection: Injection) {
        self.remove(injection.opcode);
        if injection.count > 0 {
            self.0.push(injection);
        }
    }

    pub(super) fn remove(&mut self, opcode: u8) {
        self.0.retain(|other| other.opcode != opcode);
    }

    /// The error for a command of this opcode.
    pub(super) fn take(&mut self, opcode: u8) -> Option<Injection> {
        let index = self.0.iter().position(|injection| injection.opcode == opcode)?;
        let injection = self.0[index];
        self.0[index].count -= 1;
        if self.0[index].count == 0 {
            self.0.remove(index);
        }
        Some(injection)
    }
}

/// What a queue pair has done, by SPDK's names where it has them (`bdev_nvme_get_transport_statistics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairStats {
    /// Polls.
    pub polls: u64,
    /// Polls that found nothing.
    pub idle_polls: u64,
    /// Completions.
    pub completions: u64,
    /// Commands sent, those sent again included.
    pub submitted: u64,
    /// Submissions that found the queue full.
    pub queued: u64,
    /// Writes of the submission doorbell,
    pub submission_doorbells: u64,
    /// and of the completion doorbell.
    pub completion_doorbells: u64,
    /// Commands that were sent again.
    pub retries: u64,
    /// Commands that ended with an error.
    pub errors: u64,
}

impl std::ops::AddAssign for PairStats {
    fn add_assign(&mut self, other: PairStats) {
        self.polls += other.polls;
        self.idle_polls += other.idle_polls;
        self.completions += other.completions;
        self.submitted += other.submitted;
        self.queued += other.queued;
        self.submission_doorbells += other.submission_doorbells;
        self.completion_doorbells += other.completion_doorbells;
        self.retries += other.retries;
        self.errors += other.errors;
    }
}
