//! What a replica takes of its drive: first its intent map, then its data.

use super::state::Replica;
use crate::base::{BlockCount, BlockSize, Geometry};
use crate::bdev::intent::MapLayout;

/// Smallest page of an intent map, in bytes.
const PAGE_BYTES: u32 = 4096;

/// The intent map of a replica of `group_blocks` blocks. `None` when no map fits such numbers.
pub fn map_layout(group_blocks: u64, block_shift: u8, region_shift: u8) -> Option<MapLayout> {
    let block_bytes = 1_u64.checked_shl(block_shift.into())?;
    let block_size = BlockSize::new(block_bytes).ok()?;
    let geometry = Geometry::new(block_size, BlockCount(group_blocks)).ok()?;
    let page_bytes = block_size.bytes().max(PAGE_BYTES);
    MapLayout::with_shift(geometry, region_shift.into(), page_bytes).ok()
}

/// The block of a replica where its data begins: what is before it is the map, and room for regions to begin where regions of the drive
/// do, so that none lies in two extents. `u64::MAX` when no map fits such numbers.
pub fn data_offset(group_blocks: u64, block_shift: u8, region_shift: u8) -> u64 {
    map_layout(group_blocks, block_shift, region_shift).map_or(u64::MAX, |map| {
        map.medium_bytes().div_ceil(1 << block_shift).next_multiple_of(map.region_blocks())
    })
}

/// Blocks that a replica of a group takes, its map included. `u64::MAX`, which no drive has, when no map fits such numbers.
pub fn replica_blocks(group_blocks: u64, block_shift: u8, region_shift: u8) -> u64 {
    data_offset(group_blocks, block_shift, region_shift).saturating_add(group_blocks)
}

impl Replica {
    /// Where a block of the replica, counted from the start of its map, is on its drive, and how many blocks from there on belong to
    /// the replica in order. `None` beyond its extents.
    pub fn locate(&self, extent_blocks: u64, block: u64) -> Option<(u64, u64)> {
        let mut left = block;
        for &(first, count) in &self.extents {
            let blocks = extent_blocks.checked_mul(count.into())?;
            if left < blocks {
                let start = extent_blocks.checked_mul(first.into())?.checked_add(left)?;
                return Some((start, blocks - left));
            }
            left -= blocks;
        }
        None
    }
}
