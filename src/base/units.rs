//! Quantities that are easily confused each have a type; conversions go through [`Geometry`].

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::limits;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(0);
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

quantity! {
    /// A logical block address: the number of a block on one device, from 0
    /// (NVM Command Set Specification, section 2.1).
    Lba
}
quantity! {
    /// A number of logical blocks.
    BlockCount
}
quantity! {
    /// A position in bytes from the start of a device or file.
    ByteOffset
}
quantity! {
    /// A number of bytes.
    ByteCount
}

impl Add<BlockCount> for Lba {
    type Output = Lba;
    #[inline]
    fn add(self, count: BlockCount) -> Lba {
        Lba(self.0 + count.0)
    }
}

impl Sub<Lba> for Lba {
    type Output = BlockCount;
    #[inline]
    fn sub(self, start: Lba) -> BlockCount {
        BlockCount(self.0 - start.0)
    }
}

impl Add for BlockCount {
    type Output = BlockCount;
    #[inline]
    fn add(self, other: BlockCount) -> BlockCount {
        BlockCount(self.0 + other.0)
    }
}

impl AddAssign for BlockCount {
    #[inline]
    fn add_assign(&mut self, other: BlockCount) {
        self.0 += other.0;
    }
}

impl Sub for BlockCount {
    type Output = BlockCount;
    #[inline]
    fn sub(self, other: BlockCount) -> BlockCount {
        BlockCount(self.0 - other.0)
    }
}

impl Add<ByteCount> for ByteOffset {
    type Output = ByteOffset;
    #[inline]
    fn add(self, count: ByteCount) -> ByteOffset {
        ByteOffset(self.0 + count.0)
    }
}

impl Add for ByteCount {
    type Output = ByteCount;
    #[inline]
    fn add(self, other: ByteCount) -> ByteCount {
        ByteCount(self.0 + other.0)
    }
}

/// The size of a logical block: a power of two from 512 B to 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize {
    shift: u8,
}

impl BlockSize {
    /// 512 bytes.
    pub const B512: Self = Self { shift: 9 };
    /// 4096 bytes.
    pub const B4096: Self = Self { shift: 12 };

    /// A block size of `bytes`.
    ///
    /// # Errors
    /// `Invalid` when `bytes` is not a power of two within [`limits::BLOCK_SIZE_MIN`] and
    /// [`limits::BLOCK_SIZE_MAX`].
    pub fn new(bytes: u64) -> Result<Self> {
        let fits = (limits::BLOCK_SIZE_MIN..=limits::BLOCK_SIZE_MAX).contains(&bytes);
        if !fits || !bytes.is_power_of_two() {
            return Err(Error::invalid(format!(
                "block size {bytes} is not a power of two from {} to {}",
                limits::BLOCK_SIZE_MIN,
                limits::BLOCK_SIZE_MAX
            )));
        }
        Ok(Self { shift: bytes.trailing_zeros() as u8 })
    }

    /// The size in bytes.
    #[inline]
    pub const fn bytes(self) -> u32 {
        1 << self.shift
    }

    /// The base-2 logarithm of the size in bytes (the LBADS field of NVMe).
    #[inline]
    pub const fn shift(self) -> u32 {
        self.shift as u32
    }
}

/// Block size and number of blocks of a device: what turns blocks into bytes and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of one logical block.
    pub block_size: BlockSize,
    /// Capacity in logical blocks.
    pub blocks: BlockCount,
}

impl Geometry {
    /// A geometry.
    ///
    /// # Errors
    /// `Invalid` when the capacity in bytes does not fit in 63 bits, so that no byte offset
    /// computed from a checked LBA can overflow.
    pub fn new(block_size: BlockSize, blocks: BlockCount) -> Result<Self> {
        if blocks.0 > (i64::MAX as u64) >> block_size.shift() {
            return Err(Error::invalid(format!(
                "{blocks} blocks of {} bytes are more than 2^63 bytes",
                block_size.bytes()
            )));
        }
        Ok(Self { block_size, blocks })
    }

    /// Capacity in bytes.
    #[inline]
    pub fn capacity(self) -> ByteCount {
        self.bytes_of(self.blocks)
    }

    /// Where block `lba` starts.
    #[inline]
    pub fn offset_of(self, lba: Lba) -> ByteOffset {
        ByteOffset(lba.0 << self.block_size.shift())
    }

    /// The length of `count` blocks.
    #[inline]
    pub fn bytes_of(self, count: BlockCount) -> ByteCount {
        ByteCount(count.0 << self.block_size.shift())
    }

    /// How many whole blocks `bytes` holds.
    #[inline]
    pub fn blocks_in(self, bytes: ByteCount) -> BlockCount {
        BlockCount(bytes.0 >> self.block_size.shift())
    }

    /// Whether blocks `lba .. lba + count` all exist.
    #[inline]
    pub fn contains(self, lba: Lba, count: BlockCount) -> bool {
        // `count <= blocks` first, so that the subtraction cannot wrap.
        count.0 <= self.blocks.0 && lba.0 <= self.blocks.0 - count.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_powers_of_two_in_range() {
        assert_eq!(BlockSize::new(512).unwrap(), BlockSize::B512);
        assert_eq!(BlockSize::new(4096).unwrap().bytes(), 4096);
        for bad in [0, 1, 256, 520, 4097, 131_072, u64::MAX] {
            assert!(BlockSize::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn contains_does_not_wrap() {
        let geometry = Geometry::new(BlockSize::B512, BlockCount(100)).unwrap();
        assert!(geometry.contains(Lba(0), BlockCount(100)));
        assert!(geometry.contains(Lba(100), BlockCount(0)));
        assert!(!geometry.contains(Lba(1), BlockCount(100)));
        assert!(!geometry.contains(Lba(u64::MAX), BlockCount(2)));
        assert!(!geometry.contains(Lba(2), BlockCount(u64::MAX)));
    }

    #[test]
    fn capacity_fits_in_63_bits() {
        assert!(Geometry::new(BlockSize::B4096, BlockCount(u64::MAX >> 12)).is_err());
        assert!(Geometry::new(BlockSize::B4096, BlockCount((i64::MAX as u64) >> 12)).is_ok());
    }
}
