//! Which regions may differ between the copies of a group, as one replica knows it: the intent map on the drive, and who has set which
//! bit.
//!
//! A bit is durable before the first data write to its region. It is taken back when every write that set it is known to be on every
//! copy. That knowledge comes from clients' watermarks and is worth something only for bits that this incarnation has seen being set:
//! a *book* for each attachment notes them. Bits that came from the drive, or from an attachment that has ended, are in no book; these
//! go when all copies are in sync and all attachments have declared what they have under way.
//!
//! A book has two pages of regions. Writes are noted in the newer one. When the watermark has reached the last write that is noted in the older
//! one, that one is done with: the pages change places.

use std::sync::Arc;

use super::bits;
use crate::base::Uuid;
use crate::bdev::intent::page::Page;
use crate::bdev::intent::{IntentMap, MapLayout, PageWrite};
use crate::mesh::ids::{Generation, WriteNumber};
use crate::mesh::mutations::{Rule, kept};

/// What an attachment has written lately.
struct Book {
    generation: Generation,
    /// Regions of writes up to `older_through`.
    older: Box<[u64]>,
    older_through: WriteNumber,
    /// Regions of later writes.
    newer: Box<[u64]>,
    newer_through: WriteNumber,
}

/// The regions of a replica.
pub(super) struct Regions {
    map: IntentMap,
    /// Bits that are on the drive, and wanted.
    durable: Box<[u64]>,
    books: Vec<Book>,
    /// Pages of books that are not in use.
    spare: Vec<Box<[u64]>>,
    page: Vec<u8>,
    /// Page writes under way.
    writing: usize,
}

impl Regions {
    /// Nothing is known yet. `set` is what tells the map's pages from those of others.
    pub fn new(layout: MapLayout, set: Uuid) -> Regions {
        let words = vec![0; layout.words()].into();
        let page = vec![0; layout.page_bytes() as usize];
        Regions {
            map: IntentMap::new(layout, set, true),
            durable: words,
            books: Vec::new(),
            spare: Vec::new(),
            page,
            writing: 0,
        }
    }

    pub fn layout(&self) -> &MapLayout {
        self.map.layout()
    }

    /// Takes in what a page on the drive says; `None` when it can be anything.
    pub fn load(&mut self, page: u32, contents: Option<&Page>) {
        self.map.merge(page, contents);
        if contents.is_some() {
            let words = self.map.layout().words_of(page);
            self.durable[words.clone()].copy_from_slice(&self.map.intent()[words]);
        }
    }

    /// Every page is to be written: there is none yet.
    pub fn format(&mut self) {
        self.map.touch_all();
    }

    /// Whether data may be written to the region.
    pub fn is_durable(&self, region: u32) -> bool {
        bits::has(&self.durable, region) || !kept(Rule::BitBeforeWrite)
    }

    /// Whether the region was ever written. One that was not reads as zeroes whatever is on the drive.
    pub fn is_written(&self, region: u32) -> bool {
        bits::has(self.map.written(), region)
    }

    /// The bits that are on the drive, and wanted.
    pub fn durable(&self) -> &[u64] {
        &self.durable
    }

    /// Asks for the region's bit to become durable.
    pub fn want(&mut self, region: u32) {
        self.map.set(region, region);
    }

    /// A write of an attachment goes to the drive, or is declared to be under way.
    pub fn note(&mut self, generation: Generation, number: WriteNumber, region: u32) {
        let book = match self.books.iter_mut().position(|book| book.generation == generation) {
            Some(at) => &mut self.books[at],
            None => {
                let words = self.durable.len();
                let mut page = || {
                    let mut page = self.spare.pop().unwrap_or_else(|| vec![0; words].into());
                    page.fill(0);
                    page
                };
                let (older, newer) = (page(), page());
                let zero = WriteNumber(0);
                self.books.push(Book {
                    generation,
                    older,
                    older_through: zero,
                    newer,
                    newer_through: zero,
                });
                self.books.last_mut().expect("just added")
            }
        };
        bits::insert(&mut book.newer, region);
        book.newer_through = book.newer_through.max(number);
    }

    /// All writes of the attachment up to this one are on every copy. Only when the group is `whole` a bit is taken back. Asked about
    /// once a second: a region that is written all the time keeps its bit.
    pub fn confirm(&mut self, generation: Generation, through: WriteNumber, whole: bool) {
        if !kept(Rule::S15) {
            // Whatever set a bit: it is taken for settled.
            let durable = self.durable.clone();
            return self.clear(&durable);
        }
        if !whole && kept(Rule::KeepBits) {
            return;
        }
        let Some(at) = self.books.iter().position(|book| book.generation == generation) else {
            return;
        };
        let book = &mut self.books[at];
        if through < book.older_through {
            return;
        }
        let mut done = self.spare.pop().unwrap_or_else(|| vec![0; self.durable.len()].into());
        done.copy_from_slice(&book.older);
        book.older.fill(0);
        std::mem::swap(&mut book.older, &mut book.newer);
        book.older_through = book.newer_through;
        for other in &self.books {
            let noted = other.older.iter().zip(&other.newer).map(|(older, newer)| older | newer);
            done.iter_mut().zip(noted).for_each(|(word, noted)| *word &= !noted);
        }
        self.clear(&done);
        self.spare.push(done);
    }

    /// Whether something would be gained by a confirmation.
    pub fn has_books(&self) -> bool {
        self.books.iter().any(|book| book.older.iter().chain(&book.newer).any(|word| *word != 0))
    }

    /// The attachment has ended: nobody confirms its writes any more. Their bits stay until all copies are known to be equal.
    pub fn close_book(&mut self, generation: Generation) {
        if let Some(at) = self.books.iter().position(|book| book.generation == generation) {
            let book = self.books.swap_remove(at);
            self.spare.extend([book.older, book.newer]);
        }
    }

    /// Takes back the bits that no book has. For when every copy is in sync and every attachment that writes has declared what it has
    /// under way.
    pub fn clear_settled(&mut self) {
        let mut settled = self.durable.clone();
        for book in &self.books {
            let noted = book.older.iter().zip(&book.newer).map(|(older, newer)| older | newer);
            settled.iter_mut().zip(noted).for_each(|(word, noted)| *word &= !noted);
        }
        self.clear(&settled);
    }

    fn clear(&mut self, done: &[u64]) {
        for (word, bits) in done.iter().enumerate().filter(|(_, bits)| **bits != 0) {
            self.durable[word] &= !bits;
            self.map.clear(word, *bits);
        }
    }

    /// The regions that may differ from other copies.
    pub fn intent(&self) -> &[u64] {
        self.map.intent()
    }

    /// The regions that were ever written.
    pub fn written(&self) -> &[u64] {
        self.map.written()
    }

    /// Whether a page is on its way to the drive.
    pub fn is_writing(&self) -> bool {
        self.writing > 0
    }

    /// The next page to write, with its bytes. Pages wait while another write of the same page is under way.
    pub fn next_page(&mut self) -> Option<(PageWrite, Arc<[u8]>)> {
        let write = self.map.next_write(&mut self.page)?;
        self.writing += 1;
        Some((write, self.page.as_slice().into()))
    }

    /// A page was written, or could not be.
    pub fn page_written(&mut self, write: PageWrite, succeeded: bool) {
        self.writing -= 1;
        let durable = &mut self.durable;
        self.map.finish_write(write, succeeded, |word, bits| durable[word] |= bits);
    }

    /// Whether every change is on the drive.
    pub fn is_clean(&self) -> bool {
        self.map.is_clean()
    }
}
