//! A heap of timers: what is due at which tick.
//!
//! Adding and cancelling take O(log n) and, once the heap has had its largest size, no memory. Timers
//! that are due at the same tick come in the order in which they were added.
//!
//! Invariant: `heap` is a binary min-heap by `(due, sequence)`, and `slots[node.slot]` is the occupied
//! slot that knows the node's place in it.

use super::clock::Tsc;

/// Names a timer; stays unique after its slot is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerId {
    slot: usize,
    sequence: u64,
}

pub(super) struct TimerHeap<T> {
    heap: Vec<Node>,
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    next_sequence: u64,
}

#[derive(Clone, Copy)]
struct Node {
    due: Tsc,
    sequence: u64,
    slot: usize,
}

impl Node {
    fn key(&self) -> (Tsc, u64) {
        (self.due, self.sequence)
    }
}

struct Slot<T> {
    sequence: u64,
    place: usize,
    item: Option<T>,
}

impl<T> Default for TimerHeap<T> {
    fn default() -> Self {
        Self { heap: Vec::new(), slots: Vec::new(), free: Vec::new(), next_sequence: 0 }
    }
}

impl<T> TimerHeap<T> {
    /// Adds a timer.
    pub(super) fn add(&mut self, due: Tsc, item: T) -> TimerId {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let place = self.heap.len();
        let entry = Slot { sequence, place, item: Some(item) };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                self.slots.len() - 1
            }
        };
        self.heap.push(Node { due, sequence, slot });
        self.sift_up(place);
        TimerId { slot, sequence }
    }

    /// Takes a timer away; `None` when it is gone already.
    pub(super) fn cancel(&mut self, id: TimerId) -> Option<T> {
        let slot = self.slots.get(id.slot)?;
        if slot.sequence != id.sequence || slot.item.is_none() {
            return None;
        }
        self.remove_at(slot.place)
    }

    /// What a timer holds.
    pub(super) fn get_mut(&mut self, id: TimerId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.slot)?;
        if slot.sequence == id.sequence { slot.item.as_mut() } else { None }
    }

    /// When the first timer is due.
    pub(super) fn next_due(&self) -> Option<Tsc> {
        self.heap.first().map(|node| node.due)
    }

    /// Takes the first timer if it is due at `now`.
    pub(super) fn pop_due(&mut self, now: Tsc) -> Option<(Tsc, T)> {
        let due = self.next_due().filter(|&due| due <= now)?;
        self.remove_at(0).map(|item| (due, item))
    }

    fn remove_at(&mut self, place: usize) -> Option<T> {
        let last = self.heap.len().checked_sub(1)?;
        self.swap(place, last);
        let node = self.heap.pop()?;
        if place < last {
            self.sift_up(place);
            self.sift_down(place);
        }
        self.free.push(node.slot);
        self.slots[node.slot].item.take()
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for place in [a, b] {
            self.slots[self.heap[place].slot].place = place;
        }
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].key() <= self.heap[place].key() {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.heap[child].key()) else { break };
            if self.heap[place].key() <= self.heap[least].key() {
                break;
            }
            self.swap(place, least);
            place = least;
        }
    }
}

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_times_keep_their_order() {
        let mut timers = TimerHeap::default();
        for name in ["a", "b", "c"] {
            timers.add(Tsc(7), name);
        }
        assert_eq!(timers.pop_due(Tsc(6)), None);
        let order: Vec<_> = std::iter::from_fn(|| timers.pop_due(Tsc(7))).collect();
        assert_eq!(order, [(Tsc(7), "a"), (Tsc(7), "b"), (Tsc(7), "c")]);
    }

    #[test]
    fn an_old_id_does_not_reach_the_next_user_of_the_slot() {
        let mut timers = TimerHeap::default();
        let old = timers.add(Tsc(1), 'a');
        assert_eq!(timers.cancel(old), Some('a'));
        let new = timers.add(Tsc(2), 'b');
        assert_eq!(timers.cancel(old), None);
        assert_eq!(timers.get_mut(old), None);
        assert_eq!(timers.get_mut(new), Some(&mut 'b'));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u64),
        Cancel(prop::sample::Index),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u64..100).prop_map(Step::Add),
            1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
            1 => (0_u64..30).prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(steps in prop::collection::vec(step(), 0..200)) {
            let mut timers = TimerHeap::default();
            let mut model = BTreeMap::new();
            let mut ids = Vec::new();
            let mut now = 0;
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Add(wait) => {
                        ids.push((timers.add(Tsc(now + wait), number), (now + wait, number)));
                        model.insert((now + wait, number), ());
                    }
                    Step::Cancel(index) if !ids.is_empty() => {
                        let (id, key) = *index.get(&ids);
                        let expected = model.remove(&key).map(|()| key.1);
                        prop_assert_eq!(timers.cancel(id), expected);
                    }
                    Step::Cancel(_) => {}
                    Step::Advance(ticks) => {
                        now += ticks;
                        while let Some((due, item)) = timers.pop_due(Tsc(now)) {
                            let first = model.pop_first().map(|(key, ())| key);
                            prop_assert_eq!(first, Some((due.0, item)));
                        }
                        prop_assert!(model.first_key_value().is_none_or(|((due, _), ())| *due > now));
                    }
                }
                let next = model.first_key_value().map(|((due, _), ())| Tsc(*due));
                prop_assert_eq!(timers.next_due(), next);
            }
        }
    }
}
