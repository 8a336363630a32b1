//! The records of a packed queue.

const ENTRIES: usize = 32;
const ENTRY: usize = 32;

/// Bytes of the records of a queue of `size` descriptors.
pub(super) const fn length(size: u16) -> usize {
    ENTRIES + ENTRY * size as usize
}
