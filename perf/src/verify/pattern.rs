//! What `verify` writes into a block, and how it tells that a block is not what was written.
//!
//! Layout of a block, little endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..8 | magic `WEFTVRFY` |
//! | 8..16 | LBA |
//! | 16..24 | byte offset on the device |
//! | 24..32 | seed |
//! | 32..40 | generation: the pass that wrote it |
//! | 40..48 | CRC-64/NVME over the block without this field |
//! | 48.. | pseudo-random words from seed, LBA and generation |

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

use crate::load::random::mix;

const MAGIC: u64 = u64::from_le_bytes(*b"WEFTVRFY");
const CRC_AT: usize = 40;
const HEADER: usize = 48;

/// What a block should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its address.
    pub lba: u64,
    /// Its position in bytes.
    pub offset: u64,
    /// The run's seed.
    pub seed: u64,
    /// The pass.
    pub generation: u64,
}

/// The field in which a block first differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// It does not begin with the magic: not written by `verify`, or overwritten.
    Magic,
    /// It belongs to another address: a misdirected read or write.
    Lba,
    /// It belongs to another position: the block size was another.
    Offset,
    /// A run with another seed wrote it.
    Seed,
    /// Another pass wrote it: a lost write.
    Generation,
    /// The header is right and the contents are not.
    Crc,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Magic => "magic",
            Field::Lba => "LBA",
            Field::Offset => "byte offset",
            Field::Seed => "seed",
            Field::Generation => "generation",
            Field::Crc => "CRC",
        })
    }
}

/// How a block differs from what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Where it should be.
    pub lba: u64,
    /// The first field that differs.
    pub field: Field,
    /// What should be there.
    pub expected: u64,
    /// What is there.
    pub found: u64,
    /// The first byte of the block that differs.
    pub byte: usize,
    /// The block holds nothing but zeros.
    pub zeros: bool,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LBA {}: {} ", self.lba, self.field)?;
        match self.field {
            Field::Magic | Field::Crc | Field::Seed => {
                write!(f, "expected {:#018x}, found {:#018x}", self.expected, self.found)?;
            }
            _ => write!(f, "expected {}, found {}", self.expected, self.found)?,
        }
        write!(f, " (first difference at byte {} of the block", self.byte)?;
        f.write_str(if self.zeros { "; it is all zeros)" } else { ")" })
    }
}

fn word(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"))
}

fn crc_of(block: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&block[..CRC_AT]);
    digest.update(&block[HEADER..]);
    digest.finalize()
}

impl Stamp {
    /// The header fields in order, with their positions.
    fn fields(&self) -> [(Field, usize, u64); 5] {
        [
            (Field::Magic, 0, MAGIC),
            (Field::Lba, 8, self.lba),
            (Field::Offset, 16, self.offset),
            (Field::Seed, 24, self.seed),
            (Field::Generation, 32, self.generation),
        ]
    }

    /// Fills `block`: at least 512 bytes, a multiple of 8.
    pub fn write(&self, block: &mut [u8]) {
        for (_, at, value) in self.fields() {
            block[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let mut value = mix(self.seed ^ mix(self.lba ^ self.generation.rotate_left(40)));
        for word in block[HEADER..].chunks_exact_mut(8) {
            word.copy_from_slice(&value.to_le_bytes());
            value = value.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        }
        let crc = crc_of(block);
        block[CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
    }

    /// Checks that `block` is what [`Stamp::write`] makes.
    pub fn check(&self, block: &[u8]) -> Option<Mismatch> {
        let crc = crc_of(block);
        let header = self.fields().iter().all(|&(_, at, value)| word(block, at) == value);
        if header && word(block, CRC_AT) == crc {
            return None;
        }
        Some(self.explain(block))
    }

    #[cold]
    fn explain(&self, block: &[u8]) -> Mismatch {
        let mut good = vec![0; block.len()];
        self.write(&mut good);
        let byte = good.iter().zip(block).position(|(a, b)| a != b).unwrap_or(CRC_AT);
        // A header that is right leaves the contents, which the CRC stands for: what it should be
        // against that of what is there.
        let (field, expected, found) = self
            .fields()
            .into_iter()
            .map(|(field, at, value)| (field, value, word(block, at)))
            .find(|(_, expected, found)| expected != found)
            .unwrap_or_else(|| {
                let stored = word(block, CRC_AT);
                let expected = word(&good, CRC_AT);
                let found = if stored == expected { crc_of(block) } else { stored };
                (Field::Crc, expected, found)
            });
        let zeros = block.iter().all(|&byte| byte == 0);
        Mismatch { lba: self.lba, field, expected, found, byte, zeros }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAMP: Stamp = Stamp { lba: 77, offset: 77 * 512, seed: 5, generation: 2 };

    fn block(stamp: Stamp) -> Vec<u8> {
        let mut block = vec![0xa5; 512];
        stamp.write(&mut block);
        block
    }

    #[test]
    fn what_was_written_checks() {
        assert_eq!(STAMP.check(&block(STAMP)), None);
    }

    #[test]
    fn the_wrong_field_is_named() {
        for (other, field, expected, found) in [
            (Stamp { lba: 78, ..STAMP }, Field::Lba, 77, 78),
            (Stamp { offset: 0, ..STAMP }, Field::Offset, 77 * 512, 0),
            (Stamp { seed: 6, ..STAMP }, Field::Seed, 5, 6),
            (Stamp { generation: 1, ..STAMP }, Field::Generation, 2, 1),
        ] {
            let mismatch = STAMP.check(&block(other)).unwrap();
            assert_eq!((mismatch.field, mismatch.expected, mismatch.found), (field, expected, found));
            assert_eq!(mismatch.lba, 77);
        }
        let zeros = STAMP.check(&[0; 512]).unwrap();
        assert!(zeros.zeros && zeros.field == Field::Magic && zeros.byte == 0);
    }

    proptest! {
        #[test]
        fn every_changed_byte_is_found(at in 0_usize..512, flip in 1_u8..) {
            let mut block = block(STAMP);
            block[at] ^= flip;
            let mismatch = STAMP.check(&block).unwrap();
            prop_assert_eq!(mismatch.byte, at);
            prop_assert_ne!(mismatch.expected, mismatch.found);
            if at >= CRC_AT {
                prop_assert_eq!(mismatch.field, Field::Crc);
            }
        }
    }
}
