//! The map in memory, and which of its pages must be written. No I/O, no clock, no locks: calls say
//! what happened, and [`IntentMap::next_write`] says what is to be done.
//!
//! Invariant: a region is reported as durable (by [`IntentMap::finish_write`]) only when a page with its
//! bit set is on the medium and no page without it has been started since.

use super::layout::MapLayout;
use super::page::{self, Page};
use crate::base::Uuid;

/// A page to be written, to every copy, at [`MapLayout::page_offset`] of `page` and `copy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageWrite {
    /// Number of the page.
    pub page: u32,
    /// Which of its two places: the one that does not hold the newest.
    pub copy: u32,
}

#[derive(Clone, Debug, Default)]
struct PageState {
    /// Of the last write that was started.
    generation: u64,
    /// Changed since the last write was started.
    changed: bool,
    /// A write is under way.
    writing: bool,
    /// The bits of the write that is under way.
    snapshot: Vec<u64>,
}

/// The intent map in memory.
#[derive(Clone, Debug)]
pub struct IntentMap {
    layout: MapLayout,
    set: Uuid,
    /// Whether there are pages at all.
    persistent: bool,
    intent: Vec<u64>,
    written: Vec<u64>,
    pages: Vec<PageState>,
    /// Number of pages with `changed` set.
    changed: usize,
}

impl IntentMap {
    /// An empty map of `set`. One that is not `persistent` has no pages: every bit is as good as durable
    /// at once.
    pub fn new(layout: MapLayout, set: Uuid, persistent: bool) -> IntentMap {
        let pages = if persistent { layout.pages() as usize } else { 0 };
        IntentMap {
            layout,
            set,
            persistent,
            intent: vec![0; layout.words()],
            written: vec![0; layout.words()],
            pages: vec![PageState::default(); pages],
            changed: 0,
        }
    }

    /// Its layout.
    pub fn layout(&self) -> &MapLayout {
        &self.layout
    }

    /// Whether it has pages.
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Intent bits, 64 regions a word.
    pub fn intent(&self) -> &[u64] {
        &self.intent
    }

    /// Bits of regions that were written ever.
    pub fn written(&self) -> &[u64] {
        &self.written
    }

    /// Adds what a page that was read says, or with `None` that nothing is known of its regions: all count
    /// as set. Call it once for each page of each copy; the map is then the union.
    pub fn merge(&mut self, index: u32, page: Option<&Page>) {
        for (at, word) in self.layout.words_of(index).enumerate() {
            let all = self.layout.valid_bits(word);
            let (intent, written) = page.map_or((all, all), |p| (p.intent[at], p.written[at]));
            self.intent[word] |= intent & all;
            self.written[word] |= (written | intent) & all;
        }
        if let (Some(state), Some(page)) = (self.pages.get_mut(index as usize), page) {
            state.generation = state.generation.max(page.generation);
        }
    }

    /// Asks for the bits of regions `first ..= last`. Returns whether all of them are as good as durable
    /// already (the map has no pages); otherwise a page write will report them.
    pub fn set(&mut self, first: u32, last: u32) -> bool {
        for region in first..=last {
            let (word, bit) = (region as usize / 64, 1 << (region % 64));
            let missing = self.intent[word] & bit == 0 || self.written[word] & bit == 0;
            self.intent[word] |= bit;
            self.written[word] |= bit;
            if missing {
                self.touch_page(self.layout.page_of(region));
            }
        }
        !self.persistent
    }

    /// Takes intent bits back. (Who calls this has seen to it that all writes there are stable on all copies.)
    pub fn clear(&mut self, word: usize, bits: u64) {
        if self.intent[word] & bits != 0 {
            self.intent[word] &= !bits;
            self.touch_page(self.layout.page_of(word as u32 * 64));
        }
    }

    /// Asks for all pages to be written again: a copy has come that lacks them.
    pub fn touch_all(&mut self) {
        for page in 0..self.pages.len() {
            self.touch_page(page as u32);
        }
    }

    fn touch_page(&mut self, page: u32) {
        if let Some(state) = self.pages.get_mut(page as usize)
            && !state.changed
        {
            state.changed = true;
            self.changed += 1;
        }
    }

    /// Whether every change is on the medium.
    pub fn is_clean(&self) -> bool {
        self.changed == 0 && self.pages.iter().all(|page| !page.writing)
    }

    /// The next page to be written; `bytes`, a page long, get its contents. Every page that is asked for is to
    /// be written to all copies and then reported with [`IntentMap::finish_write`]. One page is never
    /// written twice at a time.
    pub fn next_write(&mut self, bytes: &mut [u8]) -> Option<PageWrite> {
        if self.changed == 0 {
            return None;
        }
        let index = self.pages.iter().position(|page| page.changed && !page.writing)?;
        Some(self.start_write(index, bytes))
    }

    /// As [`IntentMap::next_write`], for the page that `region` is in.
    pub fn next_write_for(&mut self, region: u32, bytes: &mut [u8]) -> Option<PageWrite> {
        let index = self.layout.page_of(region) as usize;
        let page = self.pages.get(index)?;
        (page.changed && !page.writing).then(|| self.start_write(index, bytes))
    }

    fn start_write(&mut self, index: usize, bytes: &mut [u8]) -> PageWrite {
        let words = self.layout.words_of(index as u32);
        let state = &mut self.pages[index];
        state.changed = false;
        state.writing = true;
        state.generation += 1;
        state.snapshot.clear();
        state.snapshot.extend_from_slice(&self.intent[words.clone()]);
        self.changed -= 1;
        page::encode(
            &self.layout,
            self.set,
            index as u32,
            state.generation,
            &self.intent[words.clone()],
            &self.written[words],
            bytes,
        );
        PageWrite { page: index as u32, copy: (state.generation & 1) as u32 }
    }

    /// The write of a page has ended. If it `succeeded` on every copy, `durable` is told, word by word,
    /// which bits are on the medium now and still wanted. Otherwise the page is to be written again.
    pub fn finish_write(
        &mut self,
        write: PageWrite,
        succeeded: bool,
        mut durable: impl FnMut(usize, u64),
    ) {
        let words = self.layout.words_of(write.page);
        let state = &mut self.pages[write.page as usize];
        debug_assert!(state.writing);
        state.writing = false;
        if !succeeded {
            // The next try goes to the same place: the other one holds what is known to be good.
            state.generation += 1;
            self.touch_page(write.page);
            return;
        }
        for (at, word) in words.enumerate() {
            durable(word, state.snapshot[at] & self.intent[word]);
        }
    }
}
