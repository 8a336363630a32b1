//! How long the records are. What is where in them, the modules of the two kinds say.

/// What kind of queues the records are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflightLayout {
    /// Split.
    Split,
    /// Packed.
    Packed,
}

/// Where the entries of a split queue's records start, and how long each is.
pub(super) const SPLIT_ENTRIES: usize = 16;
pub(super) const SPLIT_ENTRY: usize = 16;

/// Where the entries of a packed queue's records start, and how long each is.
pub(super) const PACKED_ENTRIES: usize = 32;
pub(super) const PACKED_ENTRY: usize = 32;

/// Each queue's records start at a multiple of this. The protocol does not say; other back ends do the same.
const ALIGNMENT: usize = 64;

impl InflightLayout {
    /// Bytes of one queue's records, if it has `size` descriptors at most.
    pub(super) const fn queue_length(self, size: u16) -> usize {
        let size = size as usize;
        let length = match self {
            InflightLayout::Split => SPLIT_ENTRIES + SPLIT_ENTRY * size,
            InflightLayout::Packed => PACKED_ENTRIES + PACKED_ENTRY * size,
        };
        length.next_multiple_of(ALIGNMENT)
    }
}
