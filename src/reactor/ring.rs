//! A bounded ring between one sender and one receiver, without locks and without atomic
//! read-modify-write.
//!
//! What is pushed is *staged*: the receiver sees it when the sender publishes, once per batch, so
//! that the cache line with the tail crosses over once per batch and not once per item. Each side
//! keeps the last index that it saw of the other and reads the shared one only when that is used up.
//! The receiver takes a batch in place and gives its slots back in one store at the end.
//!
//! Invariants: `head <= published tail <= staged tail <= head + capacity` (indices only grow, and
//! wrap around at the width of `usize`). Slots in `head..published` hold values and belong to the
//! receiver; all others belong to the sender. Items are `Copy`: what is never received is
//! forgotten, not dropped.

use std::cell::Cell;
use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use super::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Next slot that the receiver takes; written by the receiver.
    head: CachePadded<AtomicUsize>,
    /// End of what is published; written by the sender.
    tail: CachePadded<AtomicUsize>,
}

// SAFETY: a slot is reached through `Sender` by one thread and through `Receiver` by one thread, and
// at each moment belongs to one of them, as the module's invariant says; the handover is by a release
// store and an acquire load of the index.
unsafe impl<T: Copy + Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Copy + Send> Sync for Shared<T> {}

/// The side that pushes. Belongs to one thread at a time (its cells are not shareable).
pub(super) struct Sender<T> {
    shared: Arc<Shared<T>>,
    mask: usize,
    /// End of what is staged.
    staged: Cell<usize>,
    published: Cell<usize>,
    /// The receiver's index when last looked at.
    head: Cell<usize>,
}

/// The side that takes. Belongs to one thread at a time (its cells are not shareable).
pub(super) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    mask: usize,
    head: Cell<usize>,
    /// The sender's index when last looked at.
    tail: Cell<usize>,
}

/// A ring of `capacity` items.
///
/// # Panics
/// When `capacity` is not a power of two.
pub(super) fn ring<T: Copy + Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity.is_power_of_two(), "a ring of {capacity} slots: not a power of two");
    let shared = Arc::new(Shared {
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
    });
    let mask = capacity - 1;
    let start = || Cell::new(0);
    let (staged, published, head) = (start(), start(), start());
    let sender = Sender { shared: Arc::clone(&shared), mask, staged, published, head };
    (sender, Receiver { shared, mask, head: start(), tail: start() })
}

impl<T: Copy + Send> Sender<T> {
    /// Stages `item`, or gives it back when the ring is full.
    #[inline]
    pub(super) fn push(&self, item: T) -> Result<(), T> {
        let staged = self.staged.get();
        if staged.wrapping_sub(self.head.get()) > self.mask {
            // Acquire: what the receiver read from the slots, it read before it gave them back.
            self.head.set(self.shared.head.load(Ordering::Acquire));
            if staged.wrapping_sub(self.head.get()) > self.mask {
                return Err(item);
            }
        }
        self.shared.slots[staged & self.mask].with_mut(|slot| {
            // SAFETY: the slot is outside of `head..published`, so it is the sender's, and there is
            // one sender, on one thread.
            unsafe { (*slot).write(item) };
        });
        self.staged.set(staged.wrapping_add(1));
        Ok(())
    }

    /// How many items are staged and not published.
    #[inline]
    pub(super) fn unpublished(&self) -> usize {
        self.staged.get().wrapping_sub(self.published.get())
    }

    /// Makes what is staged visible to the receiver; whether there was anything.
    #[inline]
    pub(super) fn publish(&self) -> bool {
        let staged = self.staged.get();
        if staged == self.published.get() {
            return false;
        }
        // Release: the values are in their slots before the receiver learns of them.
        self.shared.tail.store(staged, Ordering::Release);
        self.published.set(staged);
        true
    }
}

impl<T: Copy + Send> Receiver<T> {
    /// Whether nothing published is left to take.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head.get() == self.shared.tail.load(Ordering::Acquire)
    }

    /// Hands up to `max` items to `take`, oldest first, and says how many.
    #[inline]
    pub(super) fn drain(&self, max: usize, mut take: impl FnMut(T)) -> usize {
        let mut head = self.head.get();
        if head == self.tail.get() {
            // Acquire: pairs with the release in `publish`.
            self.tail.set(self.shared.tail.load(Ordering::Acquire));
        }
        let count = self.tail.get().wrapping_sub(head).min(max);
        if count == 0 {
            return 0;
        }
        for _ in 0..count {
            let item = self.shared.slots[head & self.mask].with(|slot| {
                // SAFETY: the slot is inside `head..published`: it holds a value, and the sender
                // leaves it alone until `head` is stored below. `T` is `Copy`.
                unsafe { (*slot).assume_init_read() }
            });
            head = head.wrapping_add(1);
            take(item);
        }
        self.head.set(head);
        // Release: the slots are read before the sender may write them again.
        self.shared.head.store(head, Ordering::Release);
        count
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use super::*;

    fn take_all<T: Copy + Send>(receiver: &Receiver<T>) -> Vec<T> {
        let mut taken = Vec::new();
        while receiver.drain(usize::MAX, |item| taken.push(item)) > 0 {}
        taken
    }

    #[test]
    fn nothing_is_seen_before_it_is_published() {
        let (sender, receiver) = ring(4);
        sender.push(1).unwrap();
        assert!(receiver.is_empty());
        assert!(take_all(&receiver).is_empty());
        assert_eq!(sender.unpublished(), 1);
        assert!(sender.publish());
        assert!(!sender.publish());
        assert!(!receiver.is_empty());
        assert_eq!(take_all(&receiver), [1]);
    }

    #[test]
    fn a_full_ring_gives_the_item_back() {
        let (sender, receiver) = ring(2);
        sender.push(1).unwrap();
        sender.push(2).unwrap();
        assert_eq!(sender.push(3), Err(3));
        sender.publish();
        assert_eq!(receiver.drain(1, |item| assert_eq!(item, 1)), 1);
        sender.push(3).unwrap();
        assert_eq!(sender.push(4), Err(4));
        sender.publish();
        assert_eq!(take_all(&receiver), [2, 3]);
    }

    #[test]
    fn indices_wrap_around() {
        let (sender, receiver) = ring(4);
        let start = usize::MAX - 5;
        for index in
            [&sender.staged, &sender.published, &sender.head, &receiver.head, &receiver.tail]
        {
            index.set(start);
        }
        sender.shared.head.store(start, Ordering::Relaxed);
        sender.shared.tail.store(start, Ordering::Relaxed);
        for round in 0..5 {
            for item in 0..4 {
                sender.push(round * 4 + item).unwrap();
            }
            assert!(sender.push(99).is_err());
            sender.publish();
            let expected: Vec<i32> = (0..4).map(|item| round * 4 + item).collect();
            assert_eq!(take_all(&receiver), expected);
        }
    }

    #[test]
    fn two_threads_pass_everything_in_order() {
        const ITEMS: u64 = 200_000;
        let (sender, receiver) = ring(64);
        let thread = std::thread::spawn(move || {
            for item in 0..ITEMS {
                while sender.push(item).is_err() {
                    sender.publish();
                    std::thread::yield_now();
                }
                if item % 7 == 0 {
                    sender.publish();
                }
            }
            sender.publish();
        });
        let mut next = 0;
        while next < ITEMS {
            let taken = receiver.drain(16, |item| {
                assert_eq!(item, next);
                next += 1;
            });
            if taken == 0 {
                std::thread::yield_now();
            }
        }
        thread.join().unwrap();
        assert!(receiver.is_empty());
    }
}

#[cfg(all(test, weft_loom))]
mod loom_models {
    use super::*;

    /// Every interleaving (up to three preemptions) of a sender that sends four items, some of them in
    /// batches, through a ring of two, and a receiver that takes them: in order, each once, none lost.
    #[test]
    fn loom_ring_is_first_in_first_out() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            const ITEMS: usize = 4;
            let (sender, receiver) = ring::<usize>(2);
            let thread = loom::thread::spawn(move || {
                for item in 0..ITEMS {
                    while sender.push(item).is_err() {
                        sender.publish();
                        loom::thread::yield_now();
                    }
                    if item % 2 == 1 {
                        sender.publish();
                    }
                }
            });
            let mut next = 0;
            while next < ITEMS {
                let taken = receiver.drain(2, |item| {
                    assert_eq!(item, next);
                    next += 1;
                });
                if taken == 0 {
                    loom::thread::yield_now();
                }
            }
            thread.join().unwrap();
            assert!(receiver.is_empty());
        });
    }
}
