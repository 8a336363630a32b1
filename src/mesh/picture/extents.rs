//! The free extents of a drive.

use super::state::Drive;

impl Drive {
    /// Extents that no replica has.
    pub fn free_extents(&self) -> u64 {
        self.free.iter().map(|&(_, count)| u64::from(count)).sum()
    }

    /// Takes `count` extents: in one run where one is long enough (the shortest such), else the first that there are. `None`, and
    /// nothing is taken, when there are not enough.
    pub(super) fn take(&mut self, count: u32) -> Option<Vec<(u32, u32)>> {
        if u64::from(count) > self.free_extents() {
            return None;
        }
        let fits = self.free.iter().enumerate().filter(|(_, run)| run.1 >= count);
        let start = fits.min_by_key(|(at, run)| (run.1, *at)).map_or(0, |(at, _)| at);
        let mut taken = Vec::new();
        let mut left = count;
        while left > 0 {
            let (first, length) = self.free.get_mut(start)?;
            let part = left.min(*length);
            taken.push((*first, part));
            *first += part;
            *length -= part;
            left -= part;
            if *length == 0 {
                self.free.remove(start);
            }
        }
        Some(taken)
    }

    /// Gives extents back.
    pub(super) fn release(&mut self, runs: &[(u32, u32)]) {
        for &(first, count) in runs {
            let at = self.free.partition_point(|run| run.0 < first);
            self.free.insert(at, (first, count));
            self.join(at);
            if let Some(before) = at.checked_sub(1) {
                self.join(before);
            }
        }
    }

    /// Makes one run of the one at this place and the next, if they touch.
    fn join(&mut self, at: usize) {
        let Some(&[(first, count), (next, more)]) = self.free.get(at..at + 2) else { return };
        if first + count == next {
            self.free[at] = (first, count + more);
            self.free.remove(at + 1);
        }
    }
}
