//! Sets of regions, and sets of blocks in regions.

use std::collections::BTreeMap;

use crate::mesh::message::Run;

/// Whether bit `at` is set.
pub(super) fn has(words: &[u64], at: u32) -> bool {
    words.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 != 0)
}

/// Sets bit `at`.
pub(super) fn insert(words: &mut [u64], at: u32) {
    words[at as usize / 64] |= 1 << (at % 64);
}

/// Takes bit `at` out.
pub(super) fn remove(words: &mut [u64], at: u32) {
    words[at as usize / 64] &= !(1 << (at % 64));
}

/// The lowest bit that is set, from `from` on.
pub(super) fn next(words: &[u64], from: u32) -> Option<u32> {
    let first = from as usize / 64;
    let masked = words.get(first)? & (u64::MAX << (from % 64));
    let rest = words.iter().enumerate().skip(first + 1).map(|(at, word)| (at, *word));
    let (at, word) = std::iter::once((first, masked)).chain(rest).find(|(_, word)| *word != 0)?;
    Some(at as u32 * 64 + word.trailing_zeros())
}

/// Adds the bits of `other`, as far as there are words for them.
pub(super) fn unite(words: &mut [u64], other: &[u64]) {
    words.iter_mut().zip(other).for_each(|(word, other)| *word |= other);
}

/// Sets of blocks, kept for the regions that have some of them. Memory is two bits a byte for every touched region only.
#[derive(Clone, Debug)]
pub(super) struct BlockSets {
    region_blocks: u64,
    /// Blocks of the whole group: the last region may be shorter.
    blocks: u64,
    regions: BTreeMap<u32, Box<[u64]>>,
}

impl BlockSets {
    pub fn new(region_blocks: u64, blocks: u64) -> BlockSets {
        BlockSets { region_blocks, blocks, regions: BTreeMap::new() }
    }

    fn region(&self, block: u64) -> u32 {
        (block / self.region_blocks) as u32
    }

    /// The region that a run lies in.
    pub fn region_of(&self, run: Run) -> u32 {
        self.region(run.first)
    }

    /// How many blocks a region has.
    fn length(&self, region: u32) -> u64 {
        let first = u64::from(region) * self.region_blocks;
        self.region_blocks.min(self.blocks - first)
    }

    /// Adds a run, which lies in one region.
    pub fn insert(&mut self, run: Run) {
        let words = self.region_blocks.div_ceil(64) as usize;
        let region = self.region(run.first);
        let set = self.regions.entry(region).or_insert_with(|| vec![0; words].into());
        let first = run.first - u64::from(region) * self.region_blocks;
        (first..first + u64::from(run.blocks)).for_each(|block| insert(set, block as u32));
    }

    /// Whether all blocks of a run, which lies in one region, are in it.
    pub fn contains(&self, run: Run) -> bool {
        let region = self.region(run.first);
        let first = run.first - u64::from(region) * self.region_blocks;
        let Some(set) = self.regions.get(&region) else { return false };
        (first..first + u64::from(run.blocks)).all(|block| has(set, block as u32))
    }

    /// Whether all blocks of a region are in it.
    pub fn is_full(&self, region: u32) -> bool {
        let first = u64::from(region) * self.region_blocks;
        self.contains(Run { first, blocks: self.length(region) as u32 })
    }

    /// Forgets a region.
    pub fn forget(&mut self, region: u32) {
        self.regions.remove(&region);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.regions.clear();
    }

    /// Keeps only the regions of a set.
    pub fn keep(&mut self, words: &[u64]) {
        self.regions.retain(|region, _| has(words, *region));
    }

    /// The first run of blocks of a region that are not in it, at most `longest`.
    pub fn gap(&self, region: u32, longest: u32) -> Option<Run> {
        let base = u64::from(region) * self.region_blocks;
        let length = self.length(region);
        let set = self.regions.get(&region);
        let missing = |block: &u64| set.is_none_or(|set| !has(set, *block as u32));
        let first = (0..length).find(missing)?;
        let end = (first..length.min(first + u64::from(longest))).take_while(missing).count();
        Some(Run { first: base + first, blocks: end as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_not_there_and_the_last_region_is_shorter() {
        let mut sets = BlockSets::new(16, 40);
        assert_eq!(sets.gap(2, 16), Some(Run { first: 32, blocks: 8 }));
        sets.insert(Run { first: 32, blocks: 3 });
        sets.insert(Run { first: 38, blocks: 2 });
        assert_eq!(sets.gap(2, 16), Some(Run { first: 35, blocks: 3 }));
        assert_eq!(sets.gap(2, 2), Some(Run { first: 35, blocks: 2 }));
        assert!(!sets.is_full(2));
        sets.insert(Run { first: 35, blocks: 3 });
        assert!(sets.is_full(2) && sets.gap(2, 16).is_none());
        assert!(
            sets.contains(Run { first: 33, blocks: 7 })
                && !sets.contains(Run { first: 0, blocks: 1 })
        );
    }

    #[test]
    fn bits_are_found_across_words() {
        let mut words = [0u64; 3];
        insert(&mut words, 3);
        insert(&mut words, 130);
        assert_eq!(
            (next(&words, 0), next(&words, 4), next(&words, 131)),
            (Some(3), Some(130), None)
        );
        remove(&mut words, 3);
        assert_eq!(next(&words, 0), Some(130));
        assert_eq!(next(&words, 500), None);
    }
}
