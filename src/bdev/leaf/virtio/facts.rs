//! What a device says of itself, as a bdev has it.

use crate::base::{BlockCount, BlockSize, Error, Geometry, Result, limits};
use crate::bdev::device::IoLimits;
use crate::bdev::request::{Opcode, OpcodeSet};
use crate::virtio::spec::Features;
use crate::virtio::spec::block::{Config, SECTOR_SHIFT};

/// Most segments of a request of ours: what most devices take, and what a slot's table holds.
pub(super) const SEGMENTS_MAX: u16 = 126;

/// Features of a block device that we make use of.
pub(super) const BLOCK_FEATURES: Features = Features::BLOCK_SIZE_MAX
    .with(Features::BLOCK_SEG_MAX)
    .with(Features::BLOCK_READ_ONLY)
    .with(Features::BLOCK_BLK_SIZE)
    .with(Features::BLOCK_FLUSH)
    .with(Features::BLOCK_TOPOLOGY)
    .with(Features::BLOCK_CONFIG_WCE)
    .with(Features::BLOCK_MQ)
    .with(Features::BLOCK_WRITE_ZEROES);

/// The facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) geometry: Geometry,
    pub(super) native: OpcodeSet,
    pub(super) limits: IoLimits,
    pub(super) volatile_write_cache: bool,
    pub(super) read_only: bool,
    pub(super) physical_block_size: u32,
    /// Longest segment, in bytes: longer ones take several descriptors.
    pub(super) size_max: u32,
    /// Zeroed blocks may be unmapped.
    pub(super) unmaps: bool,
}

impl Facts {
    /// What follows from the configuration space and the features that were agreed on. `segments_max` is what the queues take.
    ///
    /// # Errors
    /// `Invalid` for a device that cannot be: without capacity, or with a block size that no bdev has.
    pub(super) fn new(config: &Config, features: Features, segments_max: u16) -> Result<Facts> {
        let bytes = match features.has(Features::BLOCK_BLK_SIZE) {
            true => config.blk_size,
            false => 1 << SECTOR_SHIFT,
        };
        let block_size = BlockSize::new(u64::from(bytes))
            .map_err(|error| error.context("the device's block size"))?;
        let geometry = Geometry::new(block_size, blocks(config, block_size)?)?;
        let read_only = features.has(Features::BLOCK_READ_ONLY);
        let volatile_write_cache = features.has(Features::BLOCK_FLUSH)
            && (!features.has(Features::BLOCK_CONFIG_WCE) || config.writeback != 0);
        let size_max = match features.has(Features::BLOCK_SIZE_MAX) && config.size_max > 0 {
            true => config.size_max,
            false => u32::MAX,
        };
        let seg_max = match features.has(Features::BLOCK_SEG_MAX) && config.seg_max > 0 {
            true => config.seg_max.min(u32::from(segments_max)) as u16,
            false => segments_max,
        };
        let zeroes_max = zeroes_max(config, features, block_size);
        let mut native = OpcodeSet::EMPTY.with(Opcode::Read);
        if !read_only {
            native = native.with(Opcode::Write);
            if zeroes_max > 0 {
                native = native.with(Opcode::WriteZeroes);
            }
        }
        if features.has(Features::BLOCK_FLUSH) {
            native = native.with(Opcode::Flush);
        }
        // Discarded blocks may hold anything afterwards (5.2.6.2), and ours are to read as zeros.
        let unmaps = zeroes_max > 0 && config.write_zeroes_may_unmap != 0;
        if unmaps && !read_only {
            native = native.with(Opcode::Unmap);
        }
        Ok(Facts {
            geometry,
            native,
            limits: io_limits(size_max, seg_max, zeroes_max, block_size),
            volatile_write_cache,
            read_only,
            physical_block_size: physical_block_size(config, features, block_size),
            size_max,
            unmaps,
        })
    }

    /// By how much a block number is shifted to be that of a sector.
    pub(super) fn sector_shift(&self) -> u32 {
        self.geometry.block_size.shift() - SECTOR_SHIFT
    }
}

/// The capacity in blocks. A part of a block at the end is left out.
///
/// # Errors
/// `Invalid` when it is less than a block.
pub(super) fn blocks(config: &Config, block_size: BlockSize) -> Result<BlockCount> {
    match config.capacity >> (block_size.shift() - SECTOR_SHIFT) {
        0 => Err(Error::invalid(format!("a device of {} sectors", config.capacity))),
        blocks => Ok(BlockCount(blocks)),
    }
}

/// Most blocks of a write zeroes; 0 where there is none.
fn zeroes_max(config: &Config, features: Features, block_size: BlockSize) -> u32 {
    if !features.has(Features::BLOCK_WRITE_ZEROES) || config.max_write_zeroes_seg == 0 {
        return 0;
    }
    config.max_write_zeroes_sectors >> (block_size.shift() - SECTOR_SHIFT)
}

fn io_limits(size_max: u32, seg_max: u16, zeroes_max: u32, block_size: BlockSize) -> IoLimits {
    // A segment that is too long takes several descriptors: half of them are for that, so that a request of as many
    // segments as there may be and as many bytes fits.
    let (segments, transfer_max) = match u64::from(size_max) < limits::TRANSFER_MAX {
        true if seg_max > 1 => {
            let half = seg_max / 2;
            (seg_max - half, u64::from(size_max) * u64::from(half))
        }
        true => (1, u64::from(size_max)),
        false => (seg_max, limits::TRANSFER_MAX),
    };
    let transfer_max = transfer_max.min(limits::TRANSFER_MAX) as u32;
    IoLimits {
        transfer_max: (transfer_max & !(block_size.bytes() - 1)).max(block_size.bytes()),
        segments_max: segments,
        range_max: zeroes_max,
        ..IoLimits::NONE
    }
}

fn physical_block_size(config: &Config, features: Features, block_size: BlockSize) -> u32 {
    let bytes = block_size.bytes();
    match features.has(Features::BLOCK_TOPOLOGY) {
        true => bytes
            .checked_shl(u32::from(config.physical_block_exp))
            .filter(|&physical| physical >= bytes && physical <= 1 << 20)
            .unwrap_or(bytes),
        false => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            capacity: 1000,
            size_max: 0x2_0000,
            seg_max: 126,
            blk_size: 4096,
            physical_block_exp: 2,
            max_write_zeroes_sectors: 0x1000,
            max_write_zeroes_seg: 1,
            write_zeroes_may_unmap: 1,
            ..Config::default()
        }
    }

    #[test]
    fn a_whole_device() {
        let facts = Facts::new(&config(), BLOCK_FEATURES.without(Features::BLOCK_READ_ONLY), 126);
        let facts = facts.unwrap();
        assert_eq!(facts.geometry.blocks, BlockCount(125));
        assert_eq!(facts.sector_shift(), 3);
        assert_eq!(facts.limits.segments_max, 63);
        assert_eq!(facts.limits.transfer_max, 63 * 0x2_0000);
        assert_eq!(facts.limits.range_max, 0x200);
        assert_eq!(facts.physical_block_size, 16384);
        assert!(!facts.volatile_write_cache, "writeback is 0");
        for opcode in [Opcode::Write, Opcode::Flush, Opcode::Unmap, Opcode::WriteZeroes] {
            assert!(facts.native.contains(opcode), "{opcode:?}");
        }
    }

    #[test]
    fn a_bare_device() {
        let facts = Facts::new(&config(), Features::NONE, 1).unwrap();
        assert_eq!(facts.geometry.block_size.bytes(), 512);
        assert_eq!(facts.geometry.blocks, BlockCount(1000));
        assert_eq!((facts.size_max, facts.limits.segments_max), (u32::MAX, 1));
        assert!(facts.native == OpcodeSet::READ_WRITE && !facts.volatile_write_cache);
        // Without a switch, a device that can flush has a cache.
        let flush = Facts::new(&config(), Features::BLOCK_FLUSH, 126).unwrap();
        assert!(flush.volatile_write_cache);
    }

    #[test]
    fn a_read_only_device_is_not_written() {
        let facts = Facts::new(&config(), BLOCK_FEATURES, 126).unwrap();
        assert!(facts.read_only);
        assert!(facts.native.iter().all(|opcode| !opcode.is_write()));
    }

    #[test]
    fn nonsense_is_refused() {
        let features = BLOCK_FEATURES;
        for broken in [
            Config { capacity: 7, ..config() },
            Config { blk_size: 0, ..config() },
            Config { blk_size: 1000, ..config() },
            Config { blk_size: 1 << 31, ..config() },
        ] {
            assert!(Facts::new(&broken, features, 126).is_err(), "{broken:?}");
        }
        // Numbers that no device has, but that do no harm.
        let odd = Config { size_max: 1, seg_max: 1, physical_block_exp: 255, ..config() };
        let facts = Facts::new(&odd, features, 126).unwrap();
        assert_eq!(facts.limits.transfer_max, 4096);
        assert_eq!(facts.physical_block_size, 4096);
    }
}
