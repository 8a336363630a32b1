//! A bdev as the specification's block device: the features that it is offered with, its configuration space, and
//! how sectors become blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::{BlockSize, limits};
use crate::bdev::{Device, Opcode};
use crate::virtio::spec::Features;
use crate::virtio::spec::block::{Config, ID_LENGTH, SECTOR_SHIFT};

/// Most virtqueues of a disk.
pub const QUEUES_MAX: u16 = 256;

/// Most data segments of a request: with header and status they fit in a queue of 128 descriptors, QEMU's default, without
/// indirect tables.
const SEGMENTS_MAX: u32 = 126;

/// Longest segment, in bytes.
const SEGMENT_SIZE_MAX: u32 = 256 << 10;

/// Most ranges of a discard, a write zeroes or a secure erase.
pub const RANGES_MAX: usize = 256;

/// Longest of these ranges, in sectors: 2 GiB. The channel cuts it into pieces that the device takes.
pub const RANGE_SECTORS_MAX: u32 = 4 << 20;

const _: () = {
    assert!(SEGMENTS_MAX as usize <= limits::SEGMENTS_MAX);
    assert!(SEGMENTS_MAX as u64 * SEGMENT_SIZE_MAX as u64 <= limits::TRANSFER_MAX);
};

/// A bdev, as one controller shows it. Shared by the reactors that poll its queues.
pub struct Disk {
    device: Arc<Device>,
    block_size: BlockSize,
    read_only: bool,
    erases: bool,
    /// Whether the device may keep a completed write in a cache.
    has_cache: bool,
    serial: [u8; ID_LENGTH],
    /// Whether a completed write may stay in that until a flush: the driver's choice.
    write_back: AtomicBool,
}

impl Disk {
    /// The disk that shows `device`.
    pub fn new(device: &Arc<Device>, read_only: bool) -> Disk {
        let erases = device.info().erases && device.supports(Opcode::WriteZeroes);
        let has_cache = device.info().volatile_write_cache;
        Disk {
            device: Arc::clone(device),
            block_size: device.geometry().block_size,
            read_only,
            erases,
            has_cache,
            serial: serial_of(device),
            write_back: AtomicBool::new(has_cache),
        }
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Whether writes are refused.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether it takes secure erases.
    #[inline]
    pub fn erases(&self) -> bool {
        self.erases
    }

    /// What a request for the id returns: the device's name where it fits, else the start of its UUID, which is as
    /// good as unique where the start of a name is not.
    pub fn serial(&self) -> &[u8; ID_LENGTH] {
        &self.serial
    }

    /// Block size.
    #[inline]
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Whether the driver counts on a write to be durable when it completes, and the device has to be told.
    #[inline]
    pub fn writes_through(&self) -> bool {
        self.has_cache && !self.write_back.load(Ordering::Relaxed)
    }

    /// Lets completed writes stay in the device's cache until a flush, or not.
    pub fn set_write_back(&self, on: bool) {
        self.write_back.store(on, Ordering::Relaxed);
    }

    /// What a front end hears of the device before it has said anything: whether there is a cache.
    pub fn reset_write_cache(&self) {
        self.set_write_back(self.has_cache);
    }

    /// The features of the block device itself.
    pub fn features(&self) -> Features {
        let writable = !self.read_only;
        Features::NONE
            .with(Features::BLOCK_SIZE_MAX)
            .with(Features::BLOCK_SEG_MAX)
            .with(Features::BLOCK_BLK_SIZE)
            .with(Features::BLOCK_TOPOLOGY)
            .with(Features::BLOCK_MQ)
            .with(Features::BLOCK_FLUSH)
            .with(Features::BLOCK_CONFIG_WCE)
            .with_if(self.read_only, Features::BLOCK_READ_ONLY)
            .with_if(writable && self.device.supports(Opcode::Unmap), Features::BLOCK_DISCARD)
            .with_if(
                writable && self.device.supports(Opcode::WriteZeroes),
                Features::BLOCK_WRITE_ZEROES,
            )
            .with_if(writable && self.erases, Features::BLOCK_SECURE_ERASE)
    }

    /// The configuration space as it is now.
    pub fn config(&self) -> Config {
        let info = self.device.info();
        let geometry = self.device.geometry();
        let block = geometry.block_size.bytes();
        let sectors_of_block = block >> SECTOR_SHIFT;
        let physical = info.physical_block_size.max(block);
        let features = self.features();
        let if_has = |feature: Features, value: u32| if features.has(feature) { value } else { 0 };
        let ranges = RANGES_MAX as u32;

        Config {
            capacity: geometry.capacity().0 >> SECTOR_SHIFT,
            size_max: SEGMENT_SIZE_MAX,
            seg_max: SEGMENTS_MAX,
            blk_size: block,
            physical_block_exp: (physical / block).max(1).ilog2() as u8,
            min_io_size: ((physical / block).max(1)) as u16,
            // A device that wants its I/O not to cross boundaries does best with as much.
            // A device that wants no I/O across boundaries does best with as much.
            opt_io_size: info.limits.boundary,
            writeback: u8::from(self.write_back.load(Ordering::Relaxed)),
            num_queues: QUEUES_MAX,
            max_discard_sectors: if_has(Features::BLOCK_DISCARD, RANGE_SECTORS_MAX),
            max_discard_seg: if_has(Features::BLOCK_DISCARD, ranges),
            discard_sector_alignment: if_has(Features::BLOCK_DISCARD, sectors_of_block),
            max_write_zeroes_sectors: if_has(Features::BLOCK_WRITE_ZEROES, RANGE_SECTORS_MAX),
            max_write_zeroes_seg: if_has(Features::BLOCK_WRITE_ZEROES, ranges),
            write_zeroes_may_unmap: if_has(Features::BLOCK_WRITE_ZEROES, 1) as u8,
            max_secure_erase_sectors: if_has(Features::BLOCK_SECURE_ERASE, RANGE_SECTORS_MAX),
            max_secure_erase_seg: if_has(Features::BLOCK_SECURE_ERASE, ranges),
            secure_erase_sector_alignment: if_has(Features::BLOCK_SECURE_ERASE, sectors_of_block),
            ..Config::default()
        }
    }
}

fn serial_of(device: &Device) -> [u8; ID_LENGTH] {
    let mut serial = [0; ID_LENGTH];
    let name = device.name();
    let text = if name.len() <= ID_LENGTH {
        name.to_owned()
    } else {
        device.info().uuid.simple().to_string()
    };
    let length = text.len().min(ID_LENGTH);
    serial[..length].copy_from_slice(&text.as_bytes()[..length]);
    serial
}
