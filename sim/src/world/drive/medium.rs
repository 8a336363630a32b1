//! What a drive holds, and what of it survives a loss of power.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::payload::GARBAGE;
use crate::random::Random;

/// Bytes of a block; what metadata is counted in.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks that are allocated together.
const CHUNK: u64 = 64;

/// What a block holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Data.
    Value(u64),
    /// Metadata: a block of bytes of a longer write, from the byte at this place on.
    Bytes(Arc<[u8]>, usize),
}

/// A state of a block that a loss of power may bring back, and the number of the operation that made it.
type Version = (u64, Content);

/// The blocks of a drive.
#[derive(Clone)]
pub struct Medium {
    blocks: u64,
    /// Makes the garbage of one drive differ from that of another.
    salt: u64,
    chunks: Vec<Option<Box<[u64; CHUNK as usize]>>>,
    bytes: BTreeMap<u64, (Arc<[u8]>, usize)>,
    unreadable: BTreeSet<u64>,
    /// Those of them that went bad by themselves, and that nobody has to know of yet.
    latent: BTreeSet<u64>,
    /// For blocks whose last writes were not stable: all states since the last that was, which comes first.
    volatile: BTreeMap<u64, Vec<Version>>,
}

impl Medium {
    /// A medium full of what someone else has left there.
    pub fn new(blocks: u64, salt: u64) -> Medium {
        Medium {
            blocks,
            salt,
            chunks: vec![None; blocks.div_ceil(CHUNK) as usize],
            bytes: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            latent: BTreeSet::new(),
            volatile: BTreeMap::new(),
        }
    }

    /// Whether these blocks exist.
    pub fn contains(&self, block: u64, blocks: u32) -> bool {
        block.checked_add(blocks.into()).is_some_and(|end| end <= self.blocks)
    }

    fn garbage(&self, block: u64) -> u64 {
        let mixed = (block + 1).wrapping_mul(self.salt | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        GARBAGE | mixed >> 8
    }

    /// The number that a block holds; metadata reads as garbage.
    pub fn value(&self, block: u64) -> u64 {
        match &self.chunks[(block / CHUNK) as usize] {
            Some(chunk) => chunk[(block % CHUNK) as usize],
            None => self.garbage(block),
        }
    }

    /// A block as bytes; zeroes where no metadata is.
    pub fn bytes(&self, block: u64) -> Option<&[u8]> {
        let (bytes, at) = self.bytes.get(&block)?;
        Some(&bytes[*at..bytes.len().min(at + BLOCK_BYTES)])
    }

    fn content(&self, block: u64) -> Content {
        match self.bytes.get(&block) {
            Some((bytes, at)) => Content::Bytes(Arc::clone(bytes), *at),
            None => Content::Value(self.value(block)),
        }
    }

    fn put(&mut self, block: u64, content: Content) {
        if self.unreadable.remove(&block) {
            self.latent.remove(&block);
        }
        let value = match content {
            Content::Value(value) => {
                if !self.bytes.is_empty() {
                    self.bytes.remove(&block);
                }
                value
            }
            Content::Bytes(bytes, at) => {
                self.bytes.insert(block, (bytes, at));
                self.garbage(block)
            }
        };
        let garbage = |first: u64| std::array::from_fn(|at| self.garbage(first + at as u64));
        let place = (block / CHUNK) as usize;
        if self.chunks[place].is_none() {
            self.chunks[place] = Some(Box::new(garbage(place as u64 * CHUNK)));
        }
        if let Some(chunk) = &mut self.chunks[place] {
            chunk[(block % CHUNK) as usize] = value;
        }
    }

    /// Writes a block. Unless `stable`, what it held before may come back until [`Medium::flush`]. `number` rises from one
    /// operation to the next.
    pub fn write(&mut self, block: u64, content: Content, stable: bool, number: u64) {
        if stable {
            if !self.volatile.is_empty() {
                self.volatile.remove(&block);
            }
        } else {
            let before = (0, self.content(block));
            let versions = self.volatile.entry(block).or_insert_with(|| vec![before]);
            versions.push((number, content.clone()));
        }
        self.put(block, content);
    }

    /// Makes stable what operations up to `number` have written.
    pub fn flush(&mut self, number: u64) {
        self.volatile.retain(|_, versions| {
            let last = versions.iter().rposition(|(made, _)| *made <= number).unwrap_or(0);
            versions.drain(..last);
            versions.len() > 1
        });
    }

    /// The power fails: each block that was not stable falls back to any of its states since it was.
    pub fn lose_power(&mut self, random: &mut Random) {
        for (block, mut versions) in std::mem::take(&mut self.volatile) {
            let chosen = random.below(versions.len() as u64) as usize;
            let (_, content) = versions.swap_remove(chosen);
            self.put(block, content);
        }
    }

    /// Whether all of these blocks can be read.
    pub fn is_readable(&self, block: u64, blocks: u32) -> bool {
        self.unreadable.is_empty()
            || self.unreadable.range(block..block + u64::from(blocks)).next().is_none()
    }

    /// A block goes bad by itself: it is unreadable until it is written.
    pub fn spoil(&mut self, block: u64) {
        if self.unreadable.insert(block) {
            self.latent.insert(block);
        }
    }

    /// Makes a block unreadable, as it was told, until it is written.
    pub fn poison(&mut self, block: u64) {
        self.unreadable.insert(block);
        self.latent.remove(&block);
    }

    /// Whether a block went bad by itself, and was not written since.
    pub fn is_latent(&self, block: u64) -> bool {
        self.latent.contains(&block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_flushed_may_be_lost_and_what_was_is_kept() {
        let mut random = Random::new(3);
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            let mut medium = Medium::new(100, 1);
            medium.write(5, Content::Value(1), true, 1);
            medium.write(5, Content::Value(2), false, 2);
            medium.flush(2);
            medium.write(5, Content::Value(3), false, 3);
            medium.write(5, Content::Value(4), false, 4);
            medium.write(6, Content::Value(9), false, 5);
            medium.write(6, Content::Value(10), true, 6);
            assert_eq!(medium.value(5), 4);
            medium.lose_power(&mut random);
            assert_eq!(medium.value(6), 10);
            seen.insert(medium.value(5));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn fresh_drives_hold_garbage_that_differs() {
        let (one, other) = (Medium::new(10, 1), Medium::new(10, 2));
        assert_ne!(one.value(3), other.value(3));
        assert!(one.value(3) & GARBAGE != 0);
    }

    #[test]
    fn a_block_is_readable_again_once_written() {
        let mut medium = Medium::new(10, 1);
        medium.spoil(4);
        assert!(!medium.is_readable(3, 2) && medium.is_readable(5, 5));
        medium.write(4, Content::Bytes(vec![7; BLOCK_BYTES].into(), 0), true, 1);
        assert!(medium.is_readable(0, 10));
        assert_eq!(medium.bytes(4).map(|bytes| bytes[0]), Some(7));
        medium.write(4, Content::Value(1), true, 2);
        assert_eq!(medium.bytes(4), None);
    }
}
