//! Where a volume's blocks are. Worked out here once more, so that the product's own way of finding them is checked by another.

use weft::mesh::ids::GroupId;
use weft::mesh::picture::footprint::data_offset;
use weft::mesh::picture::{Group, Picture, Replica, Volume};

/// The group that a block of a volume is in, and which block of it.
pub fn locate(volume: &Volume, block: u64) -> Option<(GroupId, u64)> {
    let mut left = block;
    for part in &volume.parts {
        if left < part.blocks {
            let (strip, within) = (left / part.strip_blocks, left % part.strip_blocks);
            let width = part.groups.len() as u64;
            let group = part.groups[(strip % width) as usize];
            return Some((group, strip / width * part.strip_blocks + within));
        }
        left -= part.blocks;
    }
    None
}

/// The block of the drive on which a replica has this block of its group.
pub fn place(picture: &Picture, group: &Group, replica: &Replica, block: u64) -> Option<u64> {
    let volume = picture.volume(group.volume)?;
    let drive = picture.drive(replica.drive)?;
    let spec = &volume.spec;
    let mut left = block + data_offset(group.blocks, spec.block_shift, spec.region_shift);
    for &(first, count) in &replica.extents {
        let blocks = u64::from(count) * drive.spec.extent_blocks;
        if left < blocks {
            return Some(u64::from(first) * drive.spec.extent_blocks + left);
        }
        left -= blocks;
    }
    None
}
