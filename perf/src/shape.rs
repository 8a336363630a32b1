//! What a request is, before it has a payload and a slot.

use weft::base::Lba;
use weft::bdev::{Opcode, RequestFlags};

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
