//! Which device addresses of a container are taken.
//!
//! A region's device address is its address in this process where the IOMMU can have it, which needs no
//! bookkeeping beyond this and makes traces easy to read; else the first gap that fits.

use std::collections::BTreeMap;

/// The addresses of a container: what the IOMMU allows, and what is taken of it.
#[derive(Debug, Default)]
pub(super) struct AddressSpace {
    /// First and last address of each range, in order.
    allowed: Vec<(u64, u64)>,
    /// First to last address of each taken stretch; they do not overlap.
    taken: BTreeMap<u64, u64>,
}

impl AddressSpace {
    /// Sets what is allowed; what was taken before stays so.
    pub(super) fn allow(&mut self, mut ranges: Vec<(u64, u64)>) {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        self.allowed = ranges;
    }

    /// Takes `length` bytes: at `wanted` if they are free there, else at an address that is as
    /// far from a multiple of `alignment` as `wanted` is. `None` when there is no room.
    pub(super) fn take(&mut self, wanted: u64, length: u64, alignment: u64) -> Option<u64> {
        assert!(alignment.is_power_of_two(), "alignment of device addresses");
        let last = wanted.checked_add(length.checked_sub(1)?)?;
        let start = if self.is_free(wanted, last) {
            wanted
        } else {
            self.gap(length, wanted % alignment, alignment)?
        };
        self.taken.insert(start, start + (length - 1));
        Some(start)
    }

    /// Gives back what [`AddressSpace::take`] gave.
    pub(super) fn release(&mut self, start: u64) {
        self.taken.remove(&start);
    }

    fn is_free(&self, first: u64, last: u64) -> bool {
        self.allowed.iter().any(|&(from, to)| from <= first && last <= to)
            && self.taken.range(..=last).next_back().is_none_or(|(_, &end)| end < first)
    }

    fn gap(&self, length: u64, remainder: u64, alignment: u64) -> Option<u64> {
        let place = |from: u64| {
            // The first address at or above `from` that leaves `remainder`.
            from.checked_add(remainder.wrapping_sub(from) & (alignment - 1))
        };
        for &(from, to) in &self.allowed {
            // Address 0 is allowed, but looks like a mistake in every trace.
            let Some(mut start) = place(from.max(alignment)) else { continue };
            while let Some(last) = start.checked_add(length - 1).filter(|&last| last <= to) {
                match self.taken.range(..=last).next_back() {
                    Some((_, &end)) if end >= start => match end.checked_add(1).and_then(place) {
                        Some(next) => start = next,
                        None => break,
                    },
                    _ => return Some(start),
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 0x1000;

    fn space(ranges: &[(u64, u64)]) -> AddressSpace {
        let mut space = AddressSpace::default();
        space.allow(ranges.to_vec());
        space
    }

    #[test]
    fn an_address_of_the_process_is_kept_where_it_can_be() {
        let mut space = space(&[(0, 0xfedf_ffff), (0xfef0_0000, (1 << 47) - 1)]);
        assert_eq!(space.take(0x7f00_0000_0000, PAGE, PAGE), Some(0x7f00_0000_0000));
        // Taken, across the hole, and beyond the end.
        for wanted in [0x7f00_0000_0000, 0xfedf_f000 - PAGE, (1 << 47) - PAGE, 1 << 47] {
            let found = space.take(wanted, 4 * PAGE, PAGE).unwrap();
            assert_ne!(found, wanted);
        }
    }

    #[test]
    fn a_gap_keeps_the_place_within_a_huge_page() {
        let mut space = space(&[(0, 0x7f_ffff)]);
        let found = space.take(0x7f00_0001_3000, 0x1000, 0x20_0000).unwrap();
        assert_eq!(found % 0x20_0000, 0x1_3000);
    }

    #[test]
    fn a_full_space_says_so_and_released_room_comes_back() {
        let mut space = space(&[(0x1000, 0x4fff), (0x8000, 0x8fff)]);
        assert_eq!(space.take(0x1000, 4 * PAGE, PAGE), Some(0x1000));
        assert_eq!(space.take(0, PAGE, PAGE), Some(0x8000));
        assert_eq!(space.take(0, PAGE, PAGE), None);
        space.release(0x1000);
        assert_eq!(space.take(0, 4 * PAGE, PAGE), Some(0x1000));
        assert_eq!(space.take(0x1000, 0, PAGE), None);
        assert_eq!(space.take(u64::MAX, 2, PAGE), None);
    }

    #[test]
    fn the_last_address_can_be_taken() {
        let mut space = space(&[(u64::MAX - 0xfff, u64::MAX)]);
        assert_eq!(space.take(0, PAGE, PAGE), Some(u64::MAX - 0xfff));
        assert_eq!(space.take(0, PAGE, PAGE), None);
    }

    proptest! {
        #[test]
        fn what_is_taken_lies_in_the_ranges_and_apart(
            ranges in prop::collection::vec((0u64..64, 1u64..16), 1..4),
            steps in prop::collection::vec((any::<bool>(), 0u64..80, 1u64..12, 0u32..3), 1..60),
        ) {
            let ranges: Vec<_> =
                ranges.iter().map(|&(from, pages)| (from * PAGE, (from + pages) * PAGE - 1)).collect();
            let mut space = space(&ranges);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (give_back, wanted, pages, order) in steps {
                if give_back && !taken.is_empty() {
                    let (start, _) = taken.swap_remove(wanted as usize % taken.len());
                    space.release(start);
                    continue;
                }
                let (length, alignment) = (pages * PAGE, PAGE << order);
                let Some(start) = space.take(wanted * PAGE, length, alignment) else { continue };
                let last = start + length - 1;
                prop_assert_eq!(start % alignment, wanted * PAGE % alignment);
                prop_assert!(ranges.iter().any(|&(from, to)| from <= start && last <= to));
                prop_assert!(taken.iter().all(|&(from, to)| last < from || to < start));
                taken.push((start, last));
            }
        }
    }
}
