//! A counting filter over granules of the device: "does anything overlap?" answered with "no" or
//! "perhaps" in a few instructions.

/// Bytes of a granule, as a power of two: the usual I/O is one or two of them.
const GRANULE_SHIFT: u32 = 12;
/// A range of more granules than this is not counted granule by granule.
const WIDE: u64 = 256;

pub(super) struct Filter {
    counters: Box<[u16]>,
    granule_shift: u32,
    /// Ranges that are not in `counters`.
    wide: u32,
}

impl Filter {
    /// A filter for up to `capacity` ranges at a time, on blocks of `1 << block_shift` bytes.
    pub(super) fn new(block_shift: u32, capacity: u32) -> Filter {
        // Many more counters than ranges, so that "perhaps" is seldom.
        let counters = (capacity.max(1) * 32).next_power_of_two().clamp(1024, 16384) as usize;
        Filter {
            counters: vec![0; counters].into_boxed_slice(),
            granule_shift: GRANULE_SHIFT.saturating_sub(block_shift),
            wide: 0,
        }
    }

    /// First granule, and number of granules, of blocks `start .. end`.
    #[inline]
    fn granules(&self, start: u64, end: u64) -> (u64, u64) {
        let first = start >> self.granule_shift;
        (first, ((end - 1) >> self.granule_shift) - first + 1)
    }

    /// The counters of granules `first .. first + count`, as one or two slices.
    #[inline]
    fn slices(&mut self, first: u64, count: u64) -> (&mut [u16], &mut [u16]) {
        let length = self.counters.len();
        let from = (first & (length as u64 - 1)) as usize;
        let (head, tail) = self.counters.split_at_mut(from);
        let straight = (count as usize).min(tail.len());
        (&mut tail[..straight], &mut head[..count as usize - straight])
    }

    /// Whether a range that was added may overlap blocks `start .. end`.
    #[inline]
    pub(super) fn may_overlap(&self, start: u64, end: u64) -> bool {
        if self.wide > 0 {
            return true;
        }
        let (first, count) = self.granules(start, end);
        let mask = self.counters.len() as u64 - 1;
        if count == 1 {
            return self.counters[(first & mask) as usize] != 0;
        }
        if count > WIDE {
            return true;
        }
        let mut any = 0;
        for granule in first..first + count {
            any |= self.counters[(granule & mask) as usize];
        }
        any != 0
    }

    /// Adds blocks `start .. end`.
    #[inline]
    pub(super) fn add(&mut self, start: u64, end: u64) {
        let (first, count) = self.granules(start, end);
        if count == 1 {
            let mask = self.counters.len() as u64 - 1;
            self.counters[(first & mask) as usize] += 1;
        } else if count > WIDE {
            self.wide += 1;
        } else {
            let (one, two) = self.slices(first, count);
            one.iter_mut().chain(two).for_each(|counter| *counter += 1);
        }
    }

    /// Takes blocks `start .. end` out, which were added.
    #[inline]
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        let (first, count) = self.granules(start, end);
        if count == 1 {
            let mask = self.counters.len() as u64 - 1;
            self.counters[(first & mask) as usize] -= 1;
        } else if count > WIDE {
            self.wide -= 1;
        } else {
            let (one, two) = self.slices(first, count);
            one.iter_mut().chain(two).for_each(|counter| *counter -= 1);
        }
    }
}

const _: () = {
    // A range that is counted wraps around the counters once at most, and a counter holds a count
    // for every range of a queue.
    assert!(WIDE <= 1024);
    assert!(crate::base::limits::QUEUE_DEPTH_MAX < u16::MAX as u32);
};

#[cfg(all(test, not(weft_loom)))]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_to_nothing() {
        let mut filter = Filter::new(9, 4);
        let ranges = [(0, 1), (7, 9), (0, 8 * 1024), (8 * 1000, 8 * 1100), (5, 8 * 5000)];
        for (start, end) in ranges {
            filter.add(start, end);
            assert!(filter.may_overlap(start, start + 1) && filter.may_overlap(end - 1, end));
        }
        for (start, end) in ranges {
            filter.remove(start, end);
        }
        assert!(filter.counters.iter().all(|&count| count == 0) && filter.wide == 0);
        assert!(!filter.may_overlap(0, 8 * 200));
    }
}
