//! A queue without a device: requests complete in the next poll. What a worker costs over it is the
//! tool's own cost.

use weft::base::Status;
use weft::bdev::{Completion, Completions, Queue, Request};
use weft::reactor::Activity;

/// The empty queue.
pub struct EmptyQueue {
    done: Vec<Completion>,
}

impl EmptyQueue {
    /// With room for `depth` requests.
    pub fn new(depth: u32) -> EmptyQueue {
        EmptyQueue { done: Vec::with_capacity(depth as usize) }
    }
}

impl Queue for EmptyQueue {
    fn submit(&mut self, requests: &mut [Request]) -> usize {
        let taken = requests.len().min(self.done.capacity() - self.done.len());
        self.done.extend(requests[..taken].iter().map(|request| request.complete(Status::SUCCESS)));
        taken
    }

    fn poll(&mut self, completions: &mut Completions) -> Activity {
        completions.take_from(&mut self.done)
    }
}
