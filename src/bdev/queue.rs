//! The queue pair.

use super::request::{Completions, Request};
use crate::reactor::Activity;

/// One reactor's queue pair on a device: never shared, no locks.
///
/// Contract, for every implementation:
///
/// - [`submit`](Queue::submit) takes a prefix of the batch and says how long it is. What it took
///   completes exactly once, through [`poll`](Queue::poll), with the ticket that it had. What it did
///   not take is still the caller's (no room now; poll, then try again).
/// - Requests may complete in any order. A request that conflicts with one outstanding on the same
///   blocks is ordered by whoever needs the order.
/// - `poll` adds at most [`Completions::room`] completions and never blocks.
/// - A queue is closed by dropping it. Its owner does so when nothing is outstanding; dropped earlier
///   (a process that ends), it returns from the drop only when no device touches payload memory.
/// - Neither call allocates, locks, formats or logs on the way of a request that succeeds.
pub trait Queue {
    /// Takes requests from the front of the batch; returns how many. A channel stamps the time of
    /// entry into each, also into those that it then has no room for: they have been waiting since.
    fn submit(&mut self, requests: &mut [Request]) -> usize;

    /// Reports what finished. Returns whether anything is awaited and how it would be noticed.
    fn poll(&mut self, completions: &mut Completions) -> Activity;
}
