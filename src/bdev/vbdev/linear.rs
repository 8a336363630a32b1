//! Linear (concat): one base after the other.
//!
//! With a strip size, every base counts with its capacity rounded down to whole strips; the order of the
//! blocks does not depend on it.

use std::rc::Rc;
use std::sync::Arc;

use super::raid::{RaidKind, RaidLevel, RaidSpec};
use super::spread::{self, Built, Layout, Place, SpreadKind};
use crate::base::{Error, Result, limits};
use crate::bdev::{Device, Registry};

/// Where each base begins and ends on the device.
#[derive(Clone, Copy, Debug)]
struct LinearLayout {
    children: usize,
    /// The block after the last one of each child; beyond the children, the end of the device.
    ends: [u64; limits::CHILDREN_MAX],
}

impl LinearLayout {
    fn new(lengths: &[u64]) -> LinearLayout {
        let mut ends = [0; limits::CHILDREN_MAX];
        let mut end = 0;
        for (index, slot) in ends.iter_mut().enumerate() {
            end += lengths.get(index).copied().unwrap_or(0);
            *slot = end;
        }
        LinearLayout { children: lengths.len(), ends }
    }

    fn start(&self, child: usize) -> u64 {
        if child == 0 { 0 } else { self.ends[child - 1] }
    }
}

impl Layout for LinearLayout {
    #[inline]
    fn locate(&self, lba: u64) -> Place {
        let ends = &self.ends[..self.children];
        let child = ends.partition_point(|&end| end <= lba).min(self.children - 1);
        Place { child, lba: lba - self.start(child), run: self.ends[child].saturating_sub(lba) }
    }

    fn pieces(&self, lba: u64, blocks: u64) -> u64 {
        let last = self.locate(lba + blocks - 1).child;
        (last - self.locate(lba).child) as u64 + 1
    }

    fn pieces_max(&self, _blocks: u64) -> u64 {
        self.children as u64
    }

    fn share(&self, child: usize, lba: u64, blocks: u64) -> Option<(u64, u64)> {
        let start = self.start(child);
        let (from, to) = (lba.max(start), (lba + blocks).min(self.ends[child]));
        (from < to).then(|| (from - start, to - from))
    }
}

fn check(spec: &RaidSpec) -> Result<()> {
    if spec.strip_size_kb != 0 && !spec.strip_size_kb.is_power_of_two() {
        return Err(Error::invalid(format!(
            "raid '{}': strip size {} KiB is not a power of two",
            spec.name, spec.strip_size_kb
        )));
    }
    Ok(())
}

fn build(registry: &Registry, spec: RaidSpec) -> Result<Built> {
    check(&spec)?;
    let strip_bytes = u64::from(spec.strip_size_kb) << 10;
    spread::create(registry, spec, "Raid Volume", |capacities, block_size| {
        let strip = (strip_bytes / u64::from(block_size)).max(1);
        let used: Vec<u64> = capacities.iter().map(|blocks| blocks - blocks % strip).collect();
        Ok((LinearLayout::new(&used), used))
    })
}

/// Makes a linear device over bdevs that are all there. (To wait for those that are not, see
/// [`Raids`](super::Raids).)
///
/// # Errors
/// `Invalid` when the strip size is neither 0 nor a power of two, or block sizes differ; `NoDevice`,
/// `NotPermitted` and `Exists` as the registry has them.
pub fn create(registry: &Registry, spec: RaidSpec) -> Result<Arc<Device>> {
    build(registry, spec).map(|(device, _)| device)
}

/// The level concat for the table of raids.
pub fn kind() -> Rc<dyn RaidKind> {
    Rc::new(SpreadKind { level: RaidLevel::Concat, check, build })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_and_shares_agree_with_single_blocks(
            lengths in prop::collection::vec(0_u64..50, 1..6),
            lba in 0_u64..100,
            blocks in 1_u64..100,
        ) {
            let total: u64 = lengths.iter().sum();
            prop_assume!(lba + blocks <= total);
            let layout = LinearLayout::new(&lengths);
            let all: Vec<(usize, u64)> = lengths
                .iter()
                .enumerate()
                .flat_map(|(child, &length)| (0..length).map(move |block| (child, block)))
                .collect();
            for block in lba..lba + blocks {
                let place = layout.locate(block);
                prop_assert_eq!((place.child, place.lba), all[block as usize]);
                prop_assert_eq!(place.run, lengths[place.child] - place.lba);
            }
            let range = &all[lba as usize..(lba + blocks) as usize];
            let crossed = range.windows(2).any(|pair| pair[0].0 != pair[1].0);
            prop_assert_eq!(layout.pieces(lba, blocks) == 1, !crossed);
            for child in 0..lengths.len() {
                let expected: Vec<u64> =
                    range.iter().filter(|place| place.0 == child).map(|place| place.1).collect();
                match layout.share(child, lba, blocks) {
                    None => prop_assert!(expected.is_empty()),
                    Some((start, count)) => {
                        prop_assert_eq!((start..start + count).collect::<Vec<_>>(), expected);
                    }
                }
            }
        }
    }
}
