//! What a namespace of the model holds: blocks, sparse, with a volatile cache in front.

use std::collections::BTreeMap;

type Block = Box<[u8]>;

/// Blocks by address. One that is in neither map was never written, or was deallocated; it reads as zeros.
#[derive(Default)]
pub(super) struct Store {
    block_bytes: usize,
    medium: BTreeMap<u64, Block>,
    /// Written or deallocated (`None`), and not on the medium yet.
    cache: BTreeMap<u64, Option<Block>>,
}

impl Store {
    pub(super) fn new(block_bytes: usize) -> Store {
        Store { block_bytes, ..Store::default() }
    }

    /// Copies blocks from `start` on.
    pub(super) fn read(&self, start: u64, out: &mut [u8]) {
        for (lba, out) in (start..).zip(out.chunks_exact_mut(self.block_bytes)) {
            let block = match self.cache.get(&lba) {
                Some(cached) => cached.as_ref(),
                None => self.medium.get(&lba),
            };
            match block {
                Some(block) => out.copy_from_slice(block),
                None => out.fill(0),
            }
        }
    }

    /// Writes blocks, `through` to the medium or into the cache.
    pub(super) fn write(&mut self, start: u64, data: &[u8], through: bool) {
        for (lba, data) in (start..).zip(data.chunks_exact(self.block_bytes)) {
            self.put(lba, Some(data.into()), through);
        }
    }

    pub(super) fn deallocate(&mut self, start: u64, blocks: u64, through: bool) {
        // Only what is there: a range may be the whole namespace.
        let range = start..start.saturating_add(blocks);
        let there: Vec<u64> = self
            .medium
            .range(range.clone())
            .map(|(&lba, _)| lba)
            .chain(self.cache.range(range).map(|(&lba, _)| lba))
            .collect();
        for lba in there {
            self.put(lba, None, through);
        }
    }

    fn put(&mut self, lba: u64, block: Option<Block>, through: bool) {
        if !through {
            self.cache.insert(lba, block);
            return;
        }
        self.cache.remove(&lba);
        match block {
            Some(block) => self.medium.insert(lba, block),
            None => self.medium.remove(&lba),
        };
    }

    /// Brings the cache to the medium.
    pub(super) fn flush(&mut self) {
        for (lba, block) in std::mem::take(&mut self.cache) {
            self.put(lba, block, true);
        }
    }

    /// Loses the cache, but for the blocks that `keep` says had been written back by themselves.
    pub(super) fn lose_power(&mut self, mut keep: impl FnMut(u64) -> bool) {
        self.cache.retain(|&lba, _| keep(lba));
        self.flush();
    }

    /// Forgets blocks from `blocks` on: the namespace became smaller.
    pub(super) fn truncate(&mut self, blocks: u64) {
        self.medium.split_off(&blocks);
        self.cache.split_off(&blocks);
    }

    /// How many blocks are allocated.
    pub(super) fn allocated(&self) -> u64 {
        let cached = self.cache.iter().filter(|(_, block)| block.is_some()).count();
        let medium = self.medium.keys().filter(|lba| !self.cache.contains_key(lba)).count();
        (cached + medium) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(store: &Store, lba: u64) -> u8 {
        let mut out = [0xee; 4];
        store.read(lba, &mut out);
        out[3]
    }

    #[test]
    fn power_loss_takes_what_was_not_flushed() {
        let mut store = Store::new(4);
        store.write(5, &[1; 8], false);
        store.flush();
        store.write(5, &[2; 4], false);
        store.write(6, &[3; 4], true);
        store.deallocate(0, 6, false);
        store.write(9, &[4; 4], false);
        assert_eq!([5, 6, 9].map(|lba| block(&store, lba)), [0, 3, 4]);
        assert_eq!(store.allocated(), 2);
        store.lose_power(|_| false);
        assert_eq!([5, 6, 9].map(|lba| block(&store, lba)), [1, 3, 0]);
        store.write(5, &[7; 8], false);
        store.lose_power(|lba| lba == 6);
        assert_eq!([5, 6].map(|lba| block(&store, lba)), [1, 7]);
        store.truncate(6);
        assert_eq!([5, 6].map(|lba| block(&store, lba)), [1, 0]);
    }

    #[test]
    fn writing_through_leaves_nothing_stale_in_the_cache() {
        let mut store = Store::new(4);
        store.write(1, &[1; 4], false);
        store.write(1, &[2; 4], true);
        store.flush();
        assert_eq!(block(&store, 1), 2);
        store.deallocate(0, u64::MAX, true);
        assert_eq!((block(&store, 1), store.allocated()), (0, 0));
    }
}
