//! How a controller is driven.

use std::time::Duration;

/// What to do about a command that takes longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// Log it.
    None,
    /// Abort it; when it outlives that, reset the controller; when that fails, give the controller up.
    #[default]
    Abort,
    /// Reset the controller at once.
    Reset,
}

impl TimeoutAction {
    /// SPDK's name of it.
    pub fn name(self) -> &'static str {
        match self {
            TimeoutAction::None => "none",
            TimeoutAction::Abort => "abort",
            TimeoutAction::Reset => "reset",
        }
    }
}

/// What becomes of the I/O that a reset of the controller found outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ResetPolicy {
    /// It is sent again, within its number of retries.
    #[default]
    Retry,
    /// It fails.
    Fail,
}

/// Options of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerOptions {
    /// How many I/O queue pairs to ask for; one per reactor when it is not said.
    pub io_queues: Option<u32>,
    /// Entries of an I/O submission queue, at most; the controller may allow fewer.
    pub io_queue_size: u32,
    /// How long an I/O command may take; zero for ever.
    pub timeout: Duration,
    /// How long an admin command may take.
    pub admin_timeout: Duration,
    /// What to do then.
    pub timeout_action: TimeoutAction,
    /// How often a command that failed for a transient reason is sent again.
    pub retries: u8,
    /// What a reset does to outstanding I/O.
    pub reset_policy: ResetPolicy,
    /// How often the admin queue is looked at for events.
    pub admin_poll_period: Duration,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        ControllerOptions {
            io_queues: None,
            io_queue_size: 1024,
            // As long as Linux gives a drive (nvme_core.io_timeout).
            timeout: Duration::from_secs(30),
            admin_timeout: Duration::from_secs(60),
            timeout_action: TimeoutAction::Abort,
            retries: 4,
            reset_policy: ResetPolicy::Retry,
            admin_poll_period: Duration::from_millis(10),
        }
    }
}
