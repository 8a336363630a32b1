//! Scatter lists for child requests that gather several pieces of one payload.
//!
//! A fixed number of rows, each long enough for the longest scatter list there is. A row belongs to one
//! child request from its submission until its completion.

use std::mem::MaybeUninit;

use crate::base::limits;
use crate::memory::Segment;

/// Entries from one row to the next: a few more than a row can hold, so that the starts of the rows do
/// not all fall into the same sets of the processor's caches.
const STRIDE: usize = limits::SEGMENTS_MAX + 4;

/// Rows of segments.
///
/// # Invariant
/// The first `lengths[row]` entries of each row are initialised.
pub(super) struct Rows {
    /// Not initialised at first, so that rows that are never used cost no memory.
    entries: Box<[MaybeUninit<Segment>]>,
    lengths: Box<[u16]>,
    /// Last in, first out: the row used last is the one in the cache.
    free: Vec<u32>,
}

impl Rows {
    pub(super) fn new(count: usize) -> Rows {
        Rows {
            entries: Box::new_uninit_slice(count * STRIDE),
            lengths: vec![0; count].into_boxed_slice(),
            free: (0..count as u32).rev().collect(),
        }
    }

    /// How many are free.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// An empty row.
    pub(super) fn take(&mut self) -> Option<u32> {
        let row = self.free.pop()?;
        self.lengths[row as usize] = 0;
        Some(row)
    }

    pub(super) fn release(&mut self, row: u32) {
        debug_assert!(!self.free.contains(&row), "a row released twice");
        self.free.push(row);
    }

    /// Adds a segment to a row.
    ///
    /// # Panics
    /// When the row holds [`limits::SEGMENTS_MAX`] already.
    pub(super) fn push(&mut self, row: u32, segment: Segment) {
        let length = &mut self.lengths[row as usize];
        let index = usize::from(*length);
        assert!(index < limits::SEGMENTS_MAX, "a row of segments is full");
        self.entries[row as usize * STRIDE + index].write(segment);
        *length += 1;
    }

    /// The segments in a row.
    pub(super) fn segments(&self, row: u32) -> &[Segment] {
        let start = row as usize * STRIDE;
        let filled = &self.entries[start..start + usize::from(self.lengths[row as usize])];
        // SAFETY: by the invariant these are initialised, and `MaybeUninit<T>` has the layout of `T`.
        unsafe { &*(std::ptr::from_ref(filled) as *const [Segment]) }
    }
}
