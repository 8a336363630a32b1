//! What a worker asks for next: the [`Load`] trait and the ordinary loads. (`verify` is another.)

mod generator;
mod sizes;
mod zipf;

use weft::base::limits;
use weft::bdev::{Completion, Request};

use crate::findings::Findings;
use crate::payload::Payloads;
use crate::shape::Shape;

pub use generator::Generator;
pub use sizes::{SizeMix, parse_size_mix};

/// A token names the slot of a request, and above it when the request started, in ticks from the
/// start of its worker.
const SLOT_BITS: u32 = 12;
const _: () = assert!(limits::QUEUE_DEPTH_MAX <= 1 << SLOT_BITS);

/// When a request started, in ticks from the start of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start(pub u64);

impl Start {
    /// That of the request with this token.
    #[inline]
    pub fn of(token: u64) -> Start {
        Start(token >> SLOT_BITS)
    }

    /// The token of a request in `slot`.
    #[inline]
    pub fn token(self, slot: usize) -> u64 {
        self.0 << SLOT_BITS | slot as u64
    }
}

/// The slot of the request with this token.
#[inline]
pub fn slot_of(token: u64) -> usize {
    (token & ((1 << SLOT_BITS) - 1)) as usize
}

/// What a load says when it is asked for the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This one.
    Issue(Shape),
    /// None before all that are in flight have completed.
    Wait,
    /// No more.
    End,
}

/// Where a worker's requests come from. Called on the hot path: nothing here allocates.
pub trait Load: Sized {
    /// Whether the load wants to see each completion.
    const CHECKS: bool;

    /// The next request, which goes out in `slot`; the load may fill the slot's payload.
    fn next(&mut self, slot: usize, payloads: &mut Payloads) -> Next;

    /// Requests for many slots at once: those in `tokens` that this load fills go to `batch` under
    /// the same slots, started at `start`. Returns how many of the front it filled; for the rest
    /// the worker asks one by one. Loads that are to be fast fill all.
    fn refill(
        &mut self,
        _done: &[Completion],
        _start: Start,
        _payloads: &mut Payloads,
        _batch: &mut Vec<Request>,
    ) -> usize {
        0
    }

    /// A request has come back, well or not. Only with [`Load::CHECKS`].
    fn completed(&mut self, slot: usize, completion: &Completion, payloads: &Payloads);

    /// The measured time is over: whether the load ends now, whatever is left of it.
    fn time_is_over(&mut self) -> bool;

    /// What it found, if it looked for anything.
    fn into_findings(self) -> Option<Findings>;
}
