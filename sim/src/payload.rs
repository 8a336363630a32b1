//! What blocks hold in the simulated world: a number each.
//!
//! Every write writes numbers of its own, so that whoever reads one knows which write it is from.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use weft::mesh::payload::Payload;

/// What a block of zeroes holds.
pub const ZERO: u64 = 0;
/// Set in the numbers of blocks that nobody of this run has written: what a drive held before it came into the mesh.
pub const GARBAGE: u64 = 1 << 63;

/// Set in the numbers that a guest puts into its buffer while it is being written.
pub const SCRIBBLED: u64 = 1 << 62;

/// What a number becomes when its guest changes the buffer.
pub fn scribbled(value: u64) -> u64 {
    value | SCRIBBLED
}

/// Bits of a block's number that are the low bits of its place in the volume, so that a block in the wrong place is noticed.
const PLACE_BITS: u32 = 16;

/// The number that write `write` (from 1) leaves in block `block` of its volume.
pub fn value_of(write: u64, block: u64) -> u64 {
    (write << PLACE_BITS | block & ((1 << PLACE_BITS) - 1)) & !(GARBAGE | SCRIBBLED)
}

/// For people: which write a number is from.
pub fn describe(value: u64) -> String {
    match value {
        ZERO => "zeroes".into(),
        garbage if garbage & GARBAGE != 0 => format!("garbage {:#x}", garbage & !GARBAGE),
        value => {
            let changed = if value & SCRIBBLED == 0 { "" } else { " changed" };
            let written = value & !SCRIBBLED;
            format!("#{}({}){changed}", written >> PLACE_BITS, written & ((1 << PLACE_BITS) - 1))
        }
    }
}

/// The blocks of a write or a read: a view of a buffer, which a guest may go on to change.
#[derive(Clone, PartialEq, Eq)]
pub struct Blocks {
    buffer: Rc<[Cell<u64>]>,
    first: u32,
    count: u32,
}

impl Blocks {
    /// A buffer of these numbers.
    pub fn new(values: impl IntoIterator<Item = u64>) -> Blocks {
        let buffer: Rc<[Cell<u64>]> = values.into_iter().map(Cell::new).collect();
        Blocks { first: 0, count: buffer.len() as u32, buffer }
    }

    /// Their numbers, as they are now.
    pub fn values(&self) -> impl Iterator<Item = u64> {
        let view = &self.buffer[self.first as usize..(self.first + self.count) as usize];
        view.iter().map(Cell::get)
    }

    /// The guest changes its buffer.
    pub fn scribble(&self, change: impl Fn(u64) -> u64) {
        for cell in &*self.buffer {
            cell.set(change(cell.get()));
        }
    }
}

impl Payload for Blocks {
    fn blocks(&self) -> u32 {
        self.count
    }

    fn part(&self, first: u32, count: u32) -> Blocks {
        assert!(first + count <= self.count, "part {first}+{count} of {} blocks", self.count);
        Blocks { buffer: Rc::clone(&self.buffer), first: self.first + first, count }
    }

    fn zeroes(count: u32) -> Blocks {
        Blocks::new((0..count).map(|_| ZERO))
    }

    fn capture(&self) -> Blocks {
        Blocks::new(self.values())
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values().map(describe)).finish()
    }
}
