//! One user's share of a virtqueue, on one reactor.

use super::link::QueueHandle;
use crate::bdev::queue::Queue;
use crate::bdev::request::{Completion, Completions, Request};
use crate::reactor::Activity;

/// The queue of a bdev.
pub(super) struct VirtioQueue {
    handle: QueueHandle,
    /// Requests that ended without having been sent.
    refused: Vec<Completion>,
}

impl VirtioQueue {
    pub(super) fn new(handle: QueueHandle, depth: u32) -> VirtioQueue {
        VirtioQueue { handle, refused: Vec::with_capacity(depth as usize) }
    }
}

impl Queue for VirtioQueue {
    #[inline]
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        self.handle.get().submit(self.handle.owner(), requests, &mut self.refused)
    }

    #[inline]
    fn poll(&mut self, completions: &mut Completions) -> Activity {
        let refused = completions.take_from(&mut self.refused);
        let polled = self.handle.get().poll(self.handle.owner(), completions);
        refused.max(polled)
    }
}
