//! Exclusion between participants: slots that stand for chunks of the device.
//!
//! A slot names its owner and counts the owner's ranges in it. Only the owner changes a slot that has
//! one (plain stores); a free slot is taken by one compare-exchange. Who finds a slot owned by
//! another marks it as wanted: the owner then adds no further ranges, so that it runs empty, and
//! nobody but the one who marked it takes it next.
//!
//! A range takes its slots in ascending order and keeps those it has while it waits for the next.
//! Since every waiter waits for a slot above all that it holds, and whoever is in flight finishes,
//! no circle of waiters can form.

use super::sync::{AtomicU32, AtomicU64, Ordering};

/// Bytes that one slot stands for, as a power of two.
const CHUNK_SHIFT: u32 = 16;
/// Number of slots, as a power of two. 4096 chunks of 64 KiB: 256 MiB until numbers repeat, shifted
/// by a different amount each time, so that streams a power of two apart do not meet.
#[cfg(not(any(weft_loom, test)))]
const SLOTS_SHIFT: u32 = 12;
/// Few slots, so that tests see many meet.
#[cfg(any(weft_loom, test))]
const SLOTS_SHIFT: u32 = 3;
const SLOTS: u64 = 1 << SLOTS_SHIFT;

struct Slot {
    /// Owner << 32 | number of its ranges; 0 when free.
    state: AtomicU64,
    /// Who waits for it; 0 for nobody.
    wanted: AtomicU32,
}

pub(super) struct SlotTable {
    slots: Box<[Slot]>,
    /// Blocks per chunk, as a power of two.
    chunk_shift: u32,
}

/// The slots of a range: up to four runs of them, ascending and apart from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotSet {
    runs: [(u32, u32); 4],
    count: u32,
}

impl SlotSet {
    fn empty() -> SlotSet {
        SlotSet { runs: [(0, 0); 4], count: 0 }
    }

    fn all() -> SlotSet {
        SlotSet { runs: [(0, SLOTS as u32), (0, 0), (0, 0), (0, 0)], count: SLOTS as u32 }
    }

    /// Slots of the chunks `first ..= last`, which lie in one lap of the table.
    fn add_lap(&mut self, first: u64, last: u64) {
        let turn = SlotTable::turn(first);
        let start = (first.wrapping_add(turn) % SLOTS) as u32;
        let length = (last - first + 1) as u32;
        let end = start + length;
        let wrapped = end.saturating_sub(SLOTS as u32);
        self.add_run(0, wrapped);
        self.add_run(start, end - wrapped);
    }

    /// Adds `start .. end`, keeping the runs sorted and apart.
    fn add_run(&mut self, mut start: u32, mut end: u32) {
        if start == end {
            return;
        }
        let mut merged = [(0, 0); 4];
        let mut used = 0;
        let mut placed = false;
        for &(s, e) in self.runs.iter().filter(|run| run.0 < run.1) {
            if e < start {
                merged[used] = (s, e);
                used += 1;
            } else if end < s {
                if !placed {
                    merged[used] = (start, end);
                    used += 1;
                    placed = true;
                }
                merged[used] = (s, e);
                used += 1;
            } else {
                start = start.min(s);
                end = end.max(e);
            }
        }
        if !placed {
            merged[used] = (start, end);
        }
        merged.sort_unstable_by_key(|run| if run.0 < run.1 { run.0 } else { u32::MAX });
        self.runs = merged;
        self.count = merged.iter().map(|run| run.1 - run.0).sum();
    }

    /// How many there are.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.count
    }

    /// The `index`th in ascending order.
    #[inline]
    pub(super) fn get(&self, index: u32) -> u32 {
        let mut index = index;
        for &(start, end) in &self.runs {
            if index < end - start {
                return start + index;
            }
            index -= end - start;
        }
        unreachable!("slot {index} beyond the set")
    }
}

#[inline]
fn owner(state: u64) -> u32 {
    (state >> 32) as u32
}

impl SlotTable {
    pub(super) fn new(block_shift: u32) -> SlotTable {
        let slots = (0..SLOTS)
            .map(|_| Slot { state: AtomicU64::new(0), wanted: AtomicU32::new(0) })
            .collect();
        SlotTable { slots, chunk_shift: CHUNK_SHIFT.saturating_sub(block_shift) }
    }

    /// By how much the lap that `chunk` lies in is shifted.
    #[inline]
    fn turn(chunk: u64) -> u64 {
        (chunk >> SLOTS_SHIFT).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
    }

    /// The slots of blocks `start .. end`; not of an empty range.
    #[inline]
    pub(super) fn slots_of(&self, start: u64, end: u64) -> SlotSet {
        let first = start >> self.chunk_shift;
        let last = (end - 1) >> self.chunk_shift;
        let mut set = SlotSet::empty();
        if first == last {
            let turn = Self::turn(first);
            let slot = (first.wrapping_add(turn) % SLOTS) as u32;
            set.runs[0] = (slot, slot + 1);
            set.count = 1;
            return set;
        }
        let (first_lap, last_lap) = (first >> SLOTS_SHIFT, last >> SLOTS_SHIFT);
        if first_lap == last_lap {
            set.add_lap(first, last);
        } else if first_lap + 1 == last_lap {
            set.add_lap(first, (last_lap << SLOTS_SHIFT) - 1);
            set.add_lap(last_lap << SLOTS_SHIFT, last);
        } else {
            set = SlotSet::all();
        }
        set
    }

    #[inline]
    fn mark(slot: &Slot, wanted: u32, me: u32) {
        if wanted == 0 {
            let _ = slot.wanted.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    #[inline]
    fn unmark(slot: &Slot, wanted: u32, me: u32) {
        if wanted == me {
            slot.wanted.store(0, Ordering::Relaxed);
        }
    }

    /// Adds a range of `me` to slot `index`, unless another owns it or waits for it; then it is marked
    /// as wanted, if it was not.
    #[inline]
    pub(super) fn take(&self, index: u32, me: u32) -> bool {
        let slot = &self.slots[index as usize];
        let state = slot.state.load(Ordering::Relaxed);
        let wanted = slot.wanted.load(Ordering::Relaxed);
        let for_others = wanted != 0 && wanted != me;
        let taken = if for_others {
            false
        } else if owner(state) == me {
            slot.state.store(state + 1, Ordering::Relaxed);
            true
        } else {
            state == 0
                && slot
                    .state
                    .compare_exchange(
                        0,
                        u64::from(me) << 32 | 1,
                        // Acquire: what the last owner wrote, it had finished.
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    )
                    .is_ok()
        };
        if taken {
            Self::unmark(slot, wanted, me);
        } else {
            Self::mark(slot, wanted, me);
        }
        taken
    }

    /// Whether nobody but `me` owns slot `index`; else it is marked as wanted, if it was not.
    #[inline]
    pub(super) fn pass(&self, index: u32, me: u32) -> bool {
        let slot = &self.slots[index as usize];
        let state = slot.state.load(Ordering::Acquire);
        if state == 0 || owner(state) == me {
            // The mark is looked at only by who has waited, in `pass_after_wait`.
            return true;
        }
        Self::mark(slot, slot.wanted.load(Ordering::Relaxed), me);
        false
    }

    /// As [`SlotTable::pass`], and takes the mark of `me` away when it passes.
    pub(super) fn pass_after_wait(&self, index: u32, me: u32) -> bool {
        let passed = self.pass(index, me);
        if passed {
            let slot = &self.slots[index as usize];
            Self::unmark(slot, slot.wanted.load(Ordering::Relaxed), me);
        }
        passed
    }

    /// Takes a range of `me` out of slot `index`.
    #[inline]
    pub(super) fn release(&self, index: u32, me: u32) {
        let slot = &self.slots[index as usize];
        let state = slot.state.load(Ordering::Relaxed);
        debug_assert!(owner(state) == me && state as u32 > 0, "slot {index} is not {me}'s");
        let left = if state as u32 == 1 { 0 } else { state - 1 };
        slot.state.store(left, Ordering::Release);
    }

    /// Takes all marks of `me` away.
    pub(super) fn unmark_all(&self, me: u32) {
        for slot in &self.slots {
            Self::unmark(slot, slot.wanted.load(Ordering::Relaxed), me);
        }
    }

    #[cfg(all(test, not(weft_loom)))]
    pub(super) fn is_clear(&self) -> bool {
        self.slots.iter().all(|slot| {
            slot.state.load(Ordering::Relaxed) == 0 && slot.wanted.load(Ordering::Relaxed) == 0
        })
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// One slot for each chunk of the range, whatever lap it is in, and in ascending order.
    #[test]
    fn slots_of_a_range_are_those_of_its_chunks() {
        let table = SlotTable::new(12);
        let blocks_per_chunk = 1 << (CHUNK_SHIFT - 12);
        for start in 0..200 {
            for length in [1, 2, 15, 16, 17, 40, 130, 300] {
                let set = table.slots_of(start, start + length);
                let got: Vec<u32> = (0..set.len()).map(|i| set.get(i)).collect();
                let wanted: BTreeSet<u32> = (start..start + length)
                    .step_by(1)
                    .map(|block| {
                        let chunk = block / blocks_per_chunk;
                        let one =
                            table.slots_of(chunk * blocks_per_chunk, chunk * blocks_per_chunk + 1);
                        assert_eq!(one.len(), 1);
                        one.get(0)
                    })
                    .collect();
                let wanted: Vec<u32> = wanted.into_iter().collect();
                if length / blocks_per_chunk < 2 * SLOTS {
                    assert!(wanted.iter().all(|slot| got.contains(slot)), "{start}+{length}");
                }
                assert!(got.is_sorted() && got.windows(2).all(|w| w[0] != w[1]), "{got:?}");
                if length <= 130 {
                    assert!(got == wanted || got.len() == SLOTS as usize, "{start}+{length}");
                }
            }
        }
    }

    #[test]
    fn a_marked_slot_goes_to_who_marked_it() {
        let table = SlotTable::new(12);
        assert!(table.take(3, 1) && table.take(3, 1));
        assert!(!table.take(3, 2), "owned by another: marked");
        assert!(!table.take(3, 1), "the owner adds nothing to a marked slot");
        table.release(3, 1);
        table.release(3, 1);
        assert!(!table.take(3, 1) && !table.take(3, 4), "nor does anybody else take it");
        assert!(table.take(3, 2));
        assert!(!table.pass(3, 1) && table.pass(3, 2));
        table.release(3, 2);
        assert!(table.pass_after_wait(3, 1));
        assert!(table.is_clear());
    }
}
