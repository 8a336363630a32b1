//! A page of the intent map as bytes. All numbers are little-endian.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `WEFTMAP` and a zero byte |
//! | 8 | 4 | CRC-32C (iSCSI) of the page with this field zero |
//! | 12 | 4 | format version: 1 |
//! | 16 | 16 | UUID of the set that the map belongs to |
//! | 32 | 8 | generation: each write of a page has a higher one; it goes to copy generation mod 2 |
//! | 40 | 4 | number of the page |
//! | 44 | 4 | number of regions of the whole map |
//! | 48 | 4 | base-2 logarithm of the bytes of a region |
//! | 52 | 12 | zero |
//! | 64 | (page − 64) / 2 | one bit per region: intent. Bit 0 of byte 0 is the page's first region |
//! | then | (page − 64) / 2 | one bit per region: ever written |

use crc_fast::{CrcAlgorithm, checksum};

use super::layout::{HEADER_BYTES, MapLayout};
use crate::base::{Error, ErrorKind, Result, Uuid};

const MAGIC: [u8; 8] = *b"WEFTMAP\0";
const VERSION: u32 = 1;

/// What a page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Grows with each write of the page.
    pub generation: u64,
    /// Intent bits, 64 regions a word.
    pub intent: Vec<u64>,
    /// Bits of regions that were written ever.
    pub written: Vec<u64>,
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[offset + i]))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[offset + i]))
}

fn checksum_of(bytes: &mut [u8]) -> u32 {
    let stored: [u8; 4] = std::array::from_fn(|i| bytes[8 + i]);
    put(bytes, 8, &[0; 4]);
    let sum = checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    put(bytes, 8, &stored);
    sum
}

/// Writes page `index` into `bytes`, which is a page long.
///
/// # Panics
/// When `bytes` is not a page long, or the bitmaps are longer than a page holds.
pub fn encode(
    layout: &MapLayout,
    set: Uuid,
    index: u32,
    generation: u64,
    intent: &[u64],
    written: &[u64],
    bytes: &mut [u8],
) {
    assert!(bytes.len() == layout.page_bytes() as usize);
    assert!(intent.len() <= layout.words_per_page() && written.len() <= layout.words_per_page());
    bytes.fill(0);
    put(bytes, 0, &MAGIC);
    put(bytes, 12, &VERSION.to_le_bytes());
    put(bytes, 16, set.as_bytes());
    put(bytes, 32, &generation.to_le_bytes());
    put(bytes, 40, &index.to_le_bytes());
    put(bytes, 44, &layout.regions().to_le_bytes());
    put(bytes, 48, &layout.region_shift().to_le_bytes());
    for (bitmap, start) in [(intent, 0), (written, layout.words_per_page() * 8)] {
        for (index, word) in bitmap.iter().enumerate() {
            put(bytes, HEADER_BYTES + start + index * 8, &word.to_le_bytes());
        }
    }
    let sum = checksum_of(bytes);
    put(bytes, 8, &sum.to_le_bytes());
}

/// Reads page `index` of the map of `set` from any bytes. (They are changed while their sum is
/// computed, and are as before when this returns.)
///
/// # Errors
/// `NotFound` when there is no page at all, or one of another map; `Corrupt` when there is one that is damaged.
pub fn decode(layout: &MapLayout, set: Uuid, index: u32, bytes: &mut [u8]) -> Result<Page> {
    let corrupt = |what: String| {
        Err(Error::new(ErrorKind::Corrupt, format!("page {index} of the intent map: {what}")))
    };
    if bytes.len() != layout.page_bytes() as usize {
        return corrupt(format!("{} bytes instead of {}", bytes.len(), layout.page_bytes()));
    }
    if bytes[..8] != MAGIC {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("page {index} of the intent map was never written"),
        ));
    }
    if checksum_of(bytes) != u32_at(bytes, 8) {
        return corrupt("wrong checksum".into());
    }
    let version = u32_at(bytes, 12);
    if version != VERSION {
        return corrupt(format!("format version {version} (this program reads {VERSION})"));
    }
    if bytes[16..32] != *set.as_bytes() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("page {index} of the intent map belongs to another set"),
        ));
    }
    let found = (u32_at(bytes, 40), u32_at(bytes, 44), u32_at(bytes, 48));
    let expected = (index, layout.regions(), layout.region_shift());
    if found != expected {
        return corrupt(format!(
            "page, regions and region size are {found:?} instead of {expected:?}"
        ));
    }
    let words = layout.words_of(index);
    let bitmap = |start: usize| {
        let word = |(at, word)| u64_at(bytes, start + at * 8) & layout.valid_bits(word);
        words.clone().enumerate().map(word).collect()
    };
    Ok(Page {
        generation: u64_at(bytes, 32),
        intent: bitmap(HEADER_BYTES),
        written: bitmap(HEADER_BYTES + layout.words_per_page() * 8),
    })
}

/// The newer of the two copies of page `index` that is intact.
///
/// # Errors
/// `NotFound` when neither copy was ever written; `Corrupt` when none is intact and at least one is
/// damaged: then nothing is known about its regions, and all of them must count as set.
pub fn newest(layout: &MapLayout, set: Uuid, index: u32, copies: [&mut [u8]; 2]) -> Result<Page> {
    let [one, two] = copies.map(|bytes| decode(layout, set, index, bytes));
    match (one, two) {
        (Ok(one), Ok(two)) => Ok(if one.generation >= two.generation { one } else { two }),
        (Ok(page), Err(_)) | (Err(_), Ok(page)) => Ok(page),
        (Err(one), Err(two)) => Err(if one.kind() == ErrorKind::Corrupt { one } else { two }),
    }
}
