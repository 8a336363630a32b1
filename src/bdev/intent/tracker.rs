//! What every queue sees of the intent map without a lock: which bits are durable, and, the other way,
//! which regions the queues use, so that the bits of others can be cleared.
//!
//! Each queue notes the regions that it writes to in a bitmap of its own, and then looks whether the
//! bit is durable. Who clears bits takes them out of the durable ones, makes every thread pass a
//! barrier, and looks whether a queue has noted one of them: one of the two sees the other.
//!
//! Time is divided into epochs, which the keeper of the map advances. A queue has one bitmap for the epoch that it is
//! in and one for the epoch before. A region that no queue has noted in either, while every write in
//! flight is of one of these two, has no write in flight.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::layout::MapLayout;
use crate::bdev::range_lock::Barrier;

/// Shared by all queues of a device and the keeper of its map.
pub struct Tracker {
    layout: MapLayout,
    durable: Box<[AtomicU64]>,
    epoch: AtomicU64,
    barrier: Barrier,
    writers: Mutex<Vec<Arc<Notes>>>,
}

/// What one queue shows.
#[repr(align(128))]
struct Notes {
    /// The oldest epoch that a write in flight belongs to; `IDLE` when none is in flight.
    oldest: AtomicU64,
    books: [Book; 2],
}

struct Book {
    /// The epoch that it is for.
    epoch: AtomicU64,
    regions: Box<[AtomicU64]>,
}

const IDLE: u64 = u64::MAX;

fn words(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

impl Tracker {
    /// No bit is durable.
    pub fn new(layout: MapLayout) -> Arc<Tracker> {
        Arc::new(Tracker {
            layout,
            durable: words(layout.words()),
            // From 1, so that an unused book, of epoch 0, is never one of the last two when it matters.
            epoch: AtomicU64::new(1),
            barrier: Barrier::new(),
            writers: Mutex::default(),
        })
    }

    /// The layout of the map.
    #[inline]
    pub fn layout(&self) -> &MapLayout {
        &self.layout
    }

    /// Whether the bits of regions `first ..= last` are durable.
    #[inline]
    pub fn is_durable(&self, first: u32, last: u32) -> bool {
        let is_durable = |region: u32| {
            let word = self.durable[region as usize / 64].load(Ordering::Acquire);
            word >> (region % 64) & 1 != 0
        };
        // Nearly every write lies in one region.
        is_durable(first) && (first == last || (first + 1..last + 1).all(is_durable))
    }

    /// How many regions have their bit set: what a copy of this device that missed everything from now on would lack at least.
    pub fn durable_regions(&self) -> u64 {
        self.durable.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// Publishes which bits of a word are durable. Only under the lock of the map that this belongs to.
    pub fn publish(&self, word: usize, bits: u64) {
        self.durable[word].store(bits, Ordering::Release);
    }

    /// Adds to the durable bits of regions `first ..= last`. Only under the lock of the map.
    pub fn publish_range(&self, first: u32, last: u32) {
        for region in first..=last {
            let word = &self.durable[region as usize / 64];
            word.store(word.load(Ordering::Relaxed) | 1 << (region % 64), Ordering::Release);
        }
    }

    /// Adds a queue.
    pub fn join(self: &Arc<Self>) -> Writer {
        let book = || Book { epoch: AtomicU64::new(0), regions: words(self.layout.words()) };
        let notes = Arc::new(Notes { oldest: AtomicU64::new(IDLE), books: [book(), book()] });
        self.lock().push(Arc::clone(&notes));
        Writer { tracker: Arc::clone(self), notes, epoch: 0, book: 0, in_flight: [0; 2] }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Notes>>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the next epoch. For the keeper of the map.
    pub fn advance(&self) {
        self.epoch.store(self.epoch.load(Ordering::Relaxed) + 1, Ordering::Release);
        self.barrier.heavy();
    }

    /// The durable bits of regions without a write in this epoch or the one before, and without one in
    /// flight, word by word; none while a write of an older epoch is in flight. For the keeper of the
    /// map, who then makes stable what was written there, and calls [`Tracker::withdraw`].
    pub fn unused(&self) -> Vec<(usize, u64)> {
        let writers = self.lock();
        let since = self.epoch.load(Ordering::Relaxed).saturating_sub(1);
        self.barrier.heavy();
        if writers.iter().any(|notes| notes.oldest.load(Ordering::Acquire) < since) {
            return Vec::new();
        }
        let unused = |(word, durable): (usize, &AtomicU64)| {
            let durable = durable.load(Ordering::Relaxed);
            let bits = if durable == 0 { 0 } else { durable & !Self::noted(&writers, word, since) };
            (bits != 0).then_some((word, bits))
        };
        self.durable.iter().enumerate().filter_map(unused).collect()
    }

    /// All durable bits, when there are no queues left.
    pub fn unused_of_all(&self) -> Vec<(usize, u64)> {
        if !self.lock().is_empty() {
            return Vec::new();
        }
        let all = self.durable.iter().enumerate();
        all.map(|(word, bits)| (word, bits.load(Ordering::Relaxed)))
            .filter(|(_, bits)| *bits != 0)
            .collect()
    }

    fn noted(writers: &[Arc<Notes>], word: usize, since: u64) -> u64 {
        let books = writers.iter().flat_map(|notes| &notes.books);
        books
            .filter(|book| book.epoch.load(Ordering::Acquire) >= since)
            .fold(0, |bits, book| bits | book.regions[word].load(Ordering::Acquire))
    }

    /// Takes bits, found by [`Tracker::unused`] in this same epoch, out of the durable ones, except those that
    /// came into use since: these are taken out of `bits` instead. Only under the lock of the map.
    pub fn withdraw(&self, bits: &mut Vec<(usize, u64)>) {
        let writers = self.lock();
        let since = self.epoch.load(Ordering::Relaxed).saturating_sub(1);
        for &(word, bits) in &*bits {
            let durable = self.durable[word].load(Ordering::Relaxed);
            self.durable[word].store(durable & !bits, Ordering::Release);
        }
        self.barrier.heavy();
        for (word, bits) in &mut *bits {
            let used = *bits & Self::noted(&writers, *word, since);
            let durable = self.durable[*word].load(Ordering::Relaxed);
            self.durable[*word].store(durable | used, Ordering::Release);
            *bits &= !used;
        }
        bits.retain(|(_, bits)| *bits != 0);
    }
}

/// A queue's side of a [`Tracker`]. Belongs to one thread.
pub struct Writer {
    tracker: Arc<Tracker>,
    notes: Arc<Notes>,
    epoch: u64,
    /// The book of `epoch`.
    book: usize,
    /// Writes in flight, by book.
    in_flight: [u32; 2],
}

/// Remembers which epoch a write belongs to; given back when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u8);

impl Default for Mark {
    fn default() -> Mark {
        Mark(u8::MAX)
    }
}

impl Writer {
    /// The tracker.
    #[inline]
    pub fn tracker(&self) -> &Arc<Tracker> {
        &self.tracker
    }

    /// A write to regions `first ..= last` is about to be issued. Returns its mark, and whether the bits
    /// are durable. If not, it asks the map to set them, and goes on when [`Tracker::is_durable`] says so;
    /// that no bit is cleared before [`Writer::end`] is certain from here on.
    #[inline(always)]
    #[must_use]
    pub fn begin(&mut self, first: u32, last: u32) -> (Mark, bool) {
        if self.in_flight == [0; 2] {
            self.notes.oldest.store(self.epoch, Ordering::Relaxed);
            self.tracker.barrier.light();
        }
        if self.tracker.epoch.load(Ordering::Acquire) != self.epoch {
            self.follow();
        }
        self.in_flight[self.book] += 1;
        self.note(first);
        if first != last {
            (first + 1..last + 1).for_each(|region| self.note(region));
        }
        self.tracker.barrier.light();
        (Mark(self.book as u8), self.tracker.is_durable(first, last))
    }

    /// Notes a region in the book.
    #[inline]
    fn note(&self, region: u32) {
        let word = &self.notes.books[self.book].regions[region as usize / 64];
        let (noted, bit) = (word.load(Ordering::Relaxed), 1 << (region % 64));
        if noted & bit == 0 {
            word.store(noted | bit, Ordering::Release);
        }
    }

    /// The write of this mark has ended, or was not issued.
    #[inline]
    pub fn end(&mut self, mark: Mark) {
        let book = usize::from(mark.0 & 1);
        self.in_flight[book] -= 1;
        if self.in_flight[book] == 0 {
            self.publish_oldest();
        }
    }

    #[inline]
    fn publish_oldest(&self) {
        let epochs = |book: usize| self.notes.books[book].epoch.load(Ordering::Relaxed);
        let oldest = match self.in_flight {
            [0, 0] => IDLE,
            [_, 0] => epochs(0),
            [0, _] => epochs(1),
            _ => epochs(0).min(epochs(1)),
        };
        self.notes.oldest.store(oldest, Ordering::Release);
    }

    /// Moves to the present epoch, or to the one before while writes in flight still need the book of
    /// the present one: what is new then goes to the other book, so that the first runs empty.
    #[cold]
    fn follow(&mut self) {
        let present = self.tracker.epoch.load(Ordering::Acquire);
        let free = |epoch: &u64| self.in_flight[(epoch & 1) as usize] == 0;
        let Some(epoch) = [present, present - 1].into_iter().find(free) else { return };
        if epoch <= self.epoch {
            return;
        }
        let book = (epoch & 1) as usize;
        let notes = &self.notes.books[book];
        for word in &notes.regions {
            word.store(0, Ordering::Relaxed);
        }
        notes.epoch.store(epoch, Ordering::Release);
        self.epoch = epoch;
        self.book = book;
        // One is about to begin, so that `IDLE` would be wrong.
        let other = self.in_flight[1 - book] > 0;
        let oldest =
            if other { self.notes.books[1 - book].epoch.load(Ordering::Relaxed) } else { epoch };
        self.notes.oldest.store(oldest, Ordering::Release);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.tracker.lock().retain(|notes| !Arc::ptr_eq(notes, &self.notes));
    }
}
