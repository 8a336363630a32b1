//! The block device (VIRTIO 5.2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sectors, in which requests count, are this long whatever the block size (5.2.6).
pub const SECTOR_SIZE: u32 = 512;
/// `log2` of that.
pub const SECTOR_SHIFT: u32 = 9;
/// Length of what a request for the serial number returns, in bytes (5.2.6).
pub const ID_LENGTH: usize = 20;

/// What a request asks for (5.2.6, `type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RequestType {
    /// Device to memory.
    In = 0,
    /// Memory to device.
    Out = 1,
    /// Writes are to be durable.
    Flush = 4,
    /// The serial number.
    GetId = 8,
    /// Sectors are no longer needed.
    Discard = 11,
    /// Sectors are to read as zeros.
    WriteZeroes = 13,
    /// Sectors are to be erased beyond recovery.
    SecureErase = 14,
}

impl RequestType {
    /// The type of this number, if it is one of these.
    #[inline]
    pub const fn from_number(number: u32) -> Option<RequestType> {
        Some(match number {
            0 => RequestType::In,
            1 => RequestType::Out,
            4 => RequestType::Flush,
            8 => RequestType::GetId,
            11 => RequestType::Discard,
            13 => RequestType::WriteZeroes,
            14 => RequestType::SecureErase,
            _ => return None,
        })
    }
}

/// What a request starts with (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RequestHeader {
    /// A [`RequestType`].
    pub kind: u32,
    /// Reserved.
    pub reserved: u32,
    /// First sector, for reads and writes.
    pub sector: u64,
}

const _: () = assert!(size_of::<RequestHeader>() == 16);

/// The last byte of a request: how it ended (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestStatus {
    /// Done.
    Ok = 0,
    /// Failed.
    IoError = 1,
    /// The device does not do this.
    Unsupported = 2,
}

/// A range to discard, to zero or to erase (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RangeDescriptor {
    /// First sector.
    pub sector: u64,
    /// How many sectors.
    pub sectors: u32,
    /// Bit 0: the range may be unmapped (write zeroes only).
    pub flags: u32,
}

impl RangeDescriptor {
    /// In `flags`: zeroed sectors may be deallocated.
    pub const UNMAP: u32 = 1;
}

const _: () = assert!(size_of::<RangeDescriptor>() == 16);

/// The configuration space (5.2.4), up to the fields of secure erase.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Config {
    /// In sectors.
    pub capacity: u64,
    /// Longest segment, in bytes.
    pub size_max: u32,
    /// Most segments of a request's data.
    pub seg_max: u32,
    /// Geometry, of no meaning here.
    pub cylinders: u16,
    /// Geometry.
    pub heads: u8,
    /// Geometry.
    pub sectors: u8,
    /// Block size in bytes.
    pub blk_size: u32,
    /// Blocks in a physical block, as a power of two.
    pub physical_block_exp: u8,
    /// Where the first aligned block is.
    pub alignment_offset: u8,
    /// Shortest transfer that performs well, in blocks.
    pub min_io_size: u16,
    /// Best transfer size, in blocks.
    pub opt_io_size: u32,
    /// 1: writes may stay in a cache until a flush. The driver may write it.
    pub writeback: u8,
    /// Unused.
    pub unused0: u8,
    /// How many virtqueues there are.
    pub num_queues: u16,
    /// Longest range of a discard, in sectors.
    pub max_discard_sectors: u32,
    /// Most ranges of a discard.
    pub max_discard_seg: u32,
    /// Alignment of discards, in sectors.
    pub discard_sector_alignment: u32,
    /// Longest range of a write zeroes, in sectors.
    pub max_write_zeroes_sectors: u32,
    /// Most ranges of a write zeroes.
    pub max_write_zeroes_seg: u32,
    /// 1: a write zeroes may unmap.
    pub write_zeroes_may_unmap: u8,
    /// Unused.
    pub unused1: [u8; 3],
    /// Longest range of a secure erase, in sectors.
    pub max_secure_erase_sectors: u32,
    /// Most ranges of a secure erase.
    pub max_secure_erase_seg: u32,
    /// Alignment of secure erases, in sectors.
    pub secure_erase_sector_alignment: u32,
}

const _: () = assert!(size_of::<Config>() == 72);
const _: () = assert!(std::mem::offset_of!(Config, writeback) == Config::WRITEBACK_OFFSET);

impl Config {
    /// Where `writeback` is: the one field that a driver writes.
    pub const WRITEBACK_OFFSET: usize = 32;
}
