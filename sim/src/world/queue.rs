//! What is going to happen, in order of time; at the same time in the order in which it was put there.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events that are still to come. The heap holds one integer for each (time, order, place), which compares fast; what happens lies
/// aside and does not move.
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<u128>>,
    places: Vec<Option<E>>,
    free: Vec<u32>,
    order: u64,
}

/// Bits of a key that say where the event lies, and those that keep the order.
const PLACE_BITS: u32 = 24;
const ORDER_BITS: u32 = 40;

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue { heap: BinaryHeap::new(), places: Vec::new(), free: Vec::new(), order: 0 }
    }
}

impl<E> Queue<E> {
    /// Adds an event at `time`, in nanoseconds.
    pub fn push(&mut self, time: u64, event: E) {
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(event);
                place
            }
            None => {
                self.places.push(Some(event));
                self.places.len() as u32 - 1
            }
        };
        assert!(place < 1 << PLACE_BITS && self.order < 1 << ORDER_BITS, "too many events");
        let key = u128::from(time) << 64 | u128::from(self.order) << PLACE_BITS | u128::from(place);
        self.order += 1;
        self.heap.push(Reverse(key));
    }

    /// Takes the next event out.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse(key) = self.heap.pop()?;
        let place = key as u32 & ((1 << PLACE_BITS) - 1);
        self.free.push(place);
        let event = self.places[place as usize].take()?;
        Some(((key >> 64) as u64, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_order() {
        let mut queue = Queue::default();
        for (time, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b'), (u64::MAX, 'e')] {
            queue.push(time, name);
        }
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, name)| name).collect();
        assert_eq!(order, "abcde");
    }
}
