//! The rule by which the blocks of a device are spread over its children.

/// Where a block of the device lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Place {
    /// Index of the child.
    pub child: usize,
    /// Block of the child.
    pub lba: u64,
    /// How many blocks, from this one on, follow each other there.
    pub run: u64,
}

/// How the blocks of a device are spread over its children: in the order of the device on each child,
/// without gaps. Asked only for blocks of the device.
pub(in super::super) trait Layout: Copy + Send + Sync + 'static {
    /// Where block `lba` lies.
    fn locate(&self, lba: u64) -> Place;

    /// In how many runs the range lies, at most: 1 only if it is in one.
    fn pieces(&self, lba: u64, blocks: u64) -> u64;

    /// In how many runs any range of this length can lie, at most.
    fn pieces_max(&self, blocks: u64) -> u64;

    /// The blocks of the range that lie on `child`: first block and number. A range of the device is a
    /// range of every child.
    fn share(&self, child: usize, lba: u64, blocks: u64) -> Option<(u64, u64)>;
}
