//! Stripe (raid0): strips of a fixed length go round the bases.
//!
//! Strip `s` of the device is strip `s / n` of base `s % n`. Every base counts with the capacity of the
//! smallest, rounded down to whole strips.

use std::rc::Rc;
use std::sync::Arc;

use super::raid::{RaidKind, RaidLevel, RaidSpec};
use super::spread::{self, Built, Layout, Place, SpreadKind};
use crate::base::{Error, Result};
use crate::bdev::{Device, Registry};

/// Which base a block is on.
#[derive(Clone, Copy, Debug)]
struct StripeLayout {
    children: u64,
    /// `2^64 / children`, rounded up: the high half of a product with it is the quotient.
    reciprocal: u64,
    /// Base-2 logarithm of the strip length in blocks.
    shift: u32,
    /// Strip length in blocks, less one.
    mask: u64,
}

impl StripeLayout {
    fn new(children: u64, strip_blocks: u64) -> StripeLayout {
        debug_assert!(strip_blocks.is_power_of_two());
        if children == 1 {
            // One endless strip: every block is in strip 0, whatever the reciprocal.
            return StripeLayout { children, reciprocal: 0, shift: 63, mask: (1 << 63) - 1 };
        }
        StripeLayout {
            children,
            reciprocal: (u64::MAX / children) + 1,
            shift: strip_blocks.trailing_zeros(),
            mask: strip_blocks - 1,
        }
    }

    /// `strip / children` and the remainder.
    ///
    /// The reciprocal is too large by less than `children / 2^64`, so the quotient is exact as long as
    /// `strip * children < 2^64`; there are less than 2^54 blocks (63 bits of bytes in blocks of
    /// 512), and 2^6 children.
    #[inline]
    fn divide(&self, strip: u64) -> (u64, u64) {
        let row = ((u128::from(strip) * u128::from(self.reciprocal)) >> 64) as u64;
        (row, strip - row * self.children)
    }
}

impl Layout for StripeLayout {
    #[inline]
    fn locate(&self, lba: u64) -> Place {
        let (row, child) = self.divide(lba >> self.shift);
        let offset = lba & self.mask;
        Place {
            child: child as usize,
            lba: (row << self.shift) + offset,
            run: self.mask + 1 - offset,
        }
    }

    fn pieces(&self, lba: u64, blocks: u64) -> u64 {
        ((lba + blocks - 1) >> self.shift) - (lba >> self.shift) + 1
    }

    fn pieces_max(&self, blocks: u64) -> u64 {
        (blocks >> self.shift) + 2
    }

    fn share(&self, child: usize, lba: u64, blocks: u64) -> Option<(u64, u64)> {
        let child = child as u64;
        let end = lba + blocks;
        let (first, last) = (lba >> self.shift, (end - 1) >> self.shift);
        // The first strip of the child from `first` on, and its last one up to `last`.
        let ahead = (child + self.children - self.divide(first).1) % self.children;
        let behind = (self.divide(last).1 + self.children - child) % self.children;
        if first + ahead > last {
            return None;
        }
        let (from, to) = (first + ahead, last - behind);
        let start =
            (self.divide(from).0 << self.shift) + if from == first { lba & self.mask } else { 0 };
        let stop = (self.divide(to).0 << self.shift)
            + if to == last { ((end - 1) & self.mask) + 1 } else { self.mask + 1 };
        Some((start, stop - start))
    }
}

/// Blocks per strip.
fn strip_blocks(spec: &RaidSpec, block_size: u32) -> Result<u64> {
    let bytes = u64::from(spec.strip_size_kb) << 10;
    if bytes < u64::from(block_size) {
        return Err(Error::invalid(format!(
            "raid '{}': a strip of {} KiB is smaller than a block of {block_size} bytes",
            spec.name, spec.strip_size_kb
        )));
    }
    Ok(bytes / u64::from(block_size))
}

fn check(spec: &RaidSpec) -> Result<()> {
    if !spec.strip_size_kb.is_power_of_two() {
        return Err(Error::invalid(format!(
            "raid '{}': strip size {} KiB is not a power of two",
            spec.name, spec.strip_size_kb
        )));
    }
    Ok(())
}

fn build(registry: &Registry, spec: RaidSpec) -> Result<Built> {
    check(&spec)?;
    spread::create(registry, spec.clone(), "Raid Volume", |capacities, block_size| {
        let strip = strip_blocks(&spec, block_size)?;
        let smallest = capacities.iter().copied().min().unwrap_or(0);
        let used = smallest - smallest % strip;
        let layout = StripeLayout::new(capacities.len() as u64, strip);
        Ok((layout, vec![used; capacities.len()]))
    })
}

/// Makes a stripe over bdevs that are all there. (To wait for those that are not, see
/// [`Raids`](super::Raids).)
///
/// # Errors
/// `Invalid` when the strip size is no power of two, or less than a block, or block sizes differ;
/// `NoDevice`, `NotPermitted` and `Exists` as the registry has them.
pub fn create(registry: &Registry, spec: RaidSpec) -> Result<Arc<Device>> {
    build(registry, spec).map(|(device, _)| device)
}

/// The level raid0 for the table of raids.
pub fn kind() -> Rc<dyn RaidKind> {
    Rc::new(SpreadKind { level: RaidLevel::Raid0, check, build })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every block has one place, the inverse leads back, and runs and shares agree with the places of
        /// their blocks one by one.
        #[test]
        fn runs_and_shares_agree_with_single_blocks(
            children in 1_u64..=64,
            shift in 0_u32..6,
            lba in 0_u64..5000,
            blocks in 1_u64..400,
        ) {
            let layout = StripeLayout::new(children, 1 << shift);
            let mut shares = vec![Vec::new(); children as usize];
            let mut pieces = 0;
            let mut run_end = lba;
            for block in lba..lba + blocks {
                let place = layout.locate(block);
                if children > 1 {
                    let strip = block >> shift;
                    prop_assert_eq!(place.child as u64, strip % children);
                    prop_assert_eq!(place.lba >> shift, strip / children);
                }
                if block == run_end {
                    pieces += 1;
                    run_end = block + place.run;
                }
                shares[place.child].push(place.lba);
            }
            prop_assert_eq!(layout.pieces(lba, blocks), pieces);
            for (child, expected) in shares.iter().enumerate() {
                match layout.share(child, lba, blocks) {
                    None => prop_assert!(expected.is_empty()),
                    Some((start, count)) => {
                        prop_assert_eq!(&(start..start + count).collect::<Vec<_>>(), expected);
                    }
                }
            }
        }

        #[test]
        fn the_reciprocal_divides_exactly(children in 2_u64..=64, strip in 0_u64..1 << 54) {
            let layout = StripeLayout::new(children, 8);
            prop_assert_eq!(layout.divide(strip), (strip / children, strip % children));
        }
    }
}
