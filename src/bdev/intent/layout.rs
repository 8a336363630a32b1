//! Which region a block is in, and which page of the map a region is in.

use crate::base::{Error, Geometry, Lba, Result};

/// Bytes in front of the bitmaps of a page.
pub const HEADER_BYTES: usize = 64;
/// Smallest page of the map.
pub const PAGE_BYTES_MIN: u32 = 4096;

/// Shape of an intent map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLayout {
    region_shift: u32,
    block_shift: u32,
    regions: u32,
    page_bytes: u32,
}

/// Base-2 logarithm of the bytes of a region, where nothing else is asked for: 1 MiB.
const REGION_SHIFT_DEFAULT: u32 = 20;
/// Smallest and largest region: no smaller than the largest block, no larger than a copy window can be.
const REGION_SHIFT_RANGE: std::ops::RangeInclusive<u32> = 16..=40;
/// Most regions of a map: two bits each in memory, and in the pages.
const REGIONS_MAX: u64 = 1 << 24;

impl MapLayout {
    /// The layout for a device of this geometry. Regions are 1 MiB, or as much larger as keeps their number
    /// at 2^24 or less. A page is a block, or 4096 bytes if a block is smaller.
    ///
    /// # Errors
    /// `Invalid` for a device without blocks, or one that no region size fits.
    pub fn new(geometry: Geometry) -> Result<MapLayout> {
        let bytes = geometry.capacity().0;
        let shift = (REGION_SHIFT_DEFAULT..=*REGION_SHIFT_RANGE.end())
            .find(|shift| bytes.div_ceil(1 << shift) <= REGIONS_MAX)
            .ok_or_else(|| {
                Error::invalid(format!("{bytes} bytes are too many for an intent map"))
            })?;
        let page_bytes = geometry.block_size.bytes().max(PAGE_BYTES_MIN);
        Self::with_shift(geometry, shift, page_bytes)
    }

    /// The layout with regions of `1 << region_shift` bytes and pages of `page_bytes` bytes, as a label
    /// names them.
    ///
    /// # Errors
    /// `Invalid` when they do not fit each other or the geometry.
    pub fn with_shift(geometry: Geometry, region_shift: u32, page_bytes: u32) -> Result<MapLayout> {
        let bytes = geometry.capacity().0;
        let block_bytes = geometry.block_size.bytes();
        let invalid = |what: String| Err(Error::invalid(format!("intent map: {what}")));
        if !REGION_SHIFT_RANGE.contains(&region_shift) {
            return invalid(format!("regions of 2^{region_shift} bytes"));
        }
        if !page_bytes.is_power_of_two() || page_bytes < block_bytes.max(PAGE_BYTES_MIN) {
            return invalid(format!("pages of {page_bytes} bytes on blocks of {block_bytes}"));
        }
        if page_bytes > 1 << 16 {
            return invalid(format!("pages of {page_bytes} bytes"));
        }
        let regions = bytes.div_ceil(1 << region_shift);
        if regions == 0 || regions > REGIONS_MAX {
            return invalid(format!("{regions} regions"));
        }
        Ok(MapLayout {
            region_shift,
            block_shift: geometry.block_size.shift(),
            regions: regions as u32,
            page_bytes,
        })
    }

    /// Number of regions.
    pub fn regions(&self) -> u32 {
        self.regions
    }

    /// Base-2 logarithm of the bytes of a region.
    pub fn region_shift(&self) -> u32 {
        self.region_shift
    }

    /// Blocks of a region.
    pub fn region_blocks(&self) -> u64 {
        1 << (self.region_shift - self.block_shift)
    }

    /// The region that block `lba` is in.
    #[inline]
    pub fn region_of(&self, lba: Lba) -> u32 {
        (lba.0 >> (self.region_shift - self.block_shift)) as u32
    }

    /// First and last region of `blocks` blocks, at least one, from `lba` on.
    #[inline]
    pub fn regions_of(&self, lba: Lba, blocks: u64) -> (u32, u32) {
        (self.region_of(lba), self.region_of(Lba(lba.0 + blocks.max(1) - 1)))
    }

    /// Words of 64 regions that a bitmap of all regions has.
    pub fn words(&self) -> usize {
        self.regions.div_ceil(64) as usize
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// Words of each of the two bitmaps that a page holds.
    pub fn words_per_page(&self) -> usize {
        (self.page_bytes as usize - HEADER_BYTES) / 2 / 8
    }

    /// Number of pages.
    pub fn pages(&self) -> u32 {
        self.words().div_ceil(self.words_per_page()) as u32
    }

    /// The page that a region is in.
    #[inline]
    pub fn page_of(&self, region: u32) -> u32 {
        (region as usize / 64 / self.words_per_page()) as u32
    }

    /// The words of page `page`.
    pub fn words_of(&self, page: u32) -> std::ops::Range<usize> {
        let start = page as usize * self.words_per_page();
        start..(start + self.words_per_page()).min(self.words())
    }

    /// Bytes that the map takes on a medium: two copies of each page.
    pub fn medium_bytes(&self) -> u64 {
        u64::from(self.pages()) * 2 * u64::from(self.page_bytes)
    }

    /// Where copy `copy` (0 or 1) of page `page` starts, in bytes from the start of the map.
    pub fn page_offset(&self, page: u32, copy: u32) -> u64 {
        (u64::from(page) * 2 + u64::from(copy & 1)) * u64::from(self.page_bytes)
    }

    /// The bits of `word` that stand for regions that exist.
    pub fn valid_bits(&self, word: usize) -> u64 {
        let left = (self.regions as usize).saturating_sub(word * 64);
        if left >= 64 { u64::MAX } else { (1 << left) - 1 }
    }
}
