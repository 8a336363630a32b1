//! What a reactor polls.

use super::context::Context;

/// What a run of a poller found. The greater of several is what they found together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    /// Nothing to do, and nothing is awaited that would not wake the reactor (see
    /// [`Context::wake_on`]).
    Idle,
    /// Nothing to do now, but something is awaited that can only be noticed by polling (a device
    /// without a file descriptor): an adaptive reactor keeps spinning, or naps very briefly.
    Waiting,
    /// Did something.
    Busy,
}

/// Something that a reactor runs over and over.
pub trait Poller {
    /// Does what there is to do, briefly, and never blocks.
    fn poll(&mut self, cx: &Context) -> Activity;
}

/// A closure is a poller.
impl<F: FnMut(&Context) -> Activity> Poller for F {
    fn poll(&mut self, cx: &Context) -> Activity {
        self(cx)
    }
}

/// Names a poller of one reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PollerId(pub u64);
