//! What is said of pollers: what a run found, and which one it is.

/// What a run of a poller found. The greater of several is what they found together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    /// Nothing to do, and nothing is awaited that would not wake the reactor (see
    /// [`Context::wake_on`](super::Context::wake_on)).
    Idle,
    /// Nothing to do now, but something is awaited that can only be noticed by polling (a device
    /// without a file descriptor): an adaptive reactor keeps spinning, or naps very briefly.
    Waiting,
    /// Did something.
    Busy,
}

/// Names a poller of one reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PollerId(pub u64);
