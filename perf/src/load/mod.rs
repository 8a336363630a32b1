//! What a worker asks for next: the [`Load`] trait and the ordinary loads. (`verify` is another.)

mod generator;
pub mod random;
mod sizes;
mod zipf;

use weft::base::Lba;
use weft::bdev::{Completion, Opcode, RequestFlags};

use crate::payload::Payloads;
use crate::verify::Findings;

pub use generator::Generator;
pub use sizes::{SizeMix, parse_size_mix};

/// One request, but for its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What.
    pub opcode: Opcode,
    /// Modifiers.
    pub flags: RequestFlags,
    /// Where.
    pub lba: Lba,
    /// How many blocks.
    pub blocks: u32,
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

    /// A request has come back, well or not. Only with [`Load::CHECKS`].
    fn completed(&mut self, slot: usize, completion: &Completion, payloads: &Payloads);

    /// The measured time is over: whether the load ends now, whatever is left of it.
    fn time_is_over(&mut self) -> bool;

    /// What it found, if it looked for anything.
    fn into_findings(self) -> Option<Findings>;
}
