//! Latency histograms in SPDK's layout, so that its tools read ours.
//!
//! Job: the layout (which bucket counts which latency), the live counters of one channel, and the merged
//! result. The channel's reactor alone writes its [`Histogram`] with plain loads and stores; anybody
//! may read. It does not decide which completions are recorded; the channel does.
//!
//! Layout: a *range* is a power of two of ticks, cut into `2^granularity` buckets of equal width. Range 0
//! covers `0 .. 2^granularity`, range `r > 0` covers `2^(granularity + r - 1) .. 2^(granularity + r)`.
//! Only ranges `min_range ..= max_range` are kept; what lies below counts in the first bucket, what
//! lies beyond in the last.

use std::sync::atomic::{AtomicU64, Ordering};

use super::request::{Completion, OpcodeSet};
use crate::base::{Error, Result};
use crate::reactor::Tsc;

/// Finest granularity: 2^12 buckets a range is 32 KiB, and up to 53 ranges.
const GRANULARITY_MAX: u8 = 12;

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistogramOptions {
    /// Opcodes that are recorded.
    pub opcodes: OpcodeSet,
    /// Base-2 logarithm of the number of buckets in a range.
    pub granularity: u8,
    /// Latencies of less are not told apart, in nanoseconds.
    pub min_nsec: u64,
    /// Latencies of more are not told apart, in nanoseconds.
    pub max_nsec: u64,
}

impl Default for HistogramOptions {
    fn default() -> Self {
        HistogramOptions {
            opcodes: OpcodeSet::ALL,
            granularity: 7,
            min_nsec: 1_000,
            max_nsec: 120_000_000_000,
        }
    }
}

/// Which bucket counts which latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistogramLayout {
    granularity: u8,
    min_range: u8,
    max_range: u8,
}

impl HistogramLayout {
    /// The layout that covers `options` where the clock has `tick_rate` ticks per second.
    ///
    /// # Errors
    /// `Invalid` for a granularity of 0 or beyond 12, or an empty interval of latencies.
    pub fn new(options: &HistogramOptions, tick_rate: u64) -> Result<HistogramLayout> {
        let granularity = options.granularity;
        if granularity == 0 || granularity > GRANULARITY_MAX {
            return Err(Error::invalid(format!(
                "histogram granularity {granularity} (1 to {GRANULARITY_MAX} is possible)"
            )));
        }
        if options.min_nsec >= options.max_nsec {
            return Err(Error::invalid(format!(
                "histogram from {} ns to {} ns: the minimum must be less than the maximum",
                options.min_nsec, options.max_nsec
            )));
        }
        if options.opcodes == OpcodeSet::EMPTY {
            return Err(Error::invalid("a histogram of no opcode"));
        }
        let ticks = |nsec: u64| {
            let ticks = u128::from(nsec) * u128::from(tick_rate) / 1_000_000_000;
            u64::try_from(ticks).unwrap_or(u64::MAX)
        };
        let last = ticks(options.max_nsec).saturating_sub(1);
        Ok(HistogramLayout {
            granularity,
            min_range: range_of(granularity, ticks(options.min_nsec)),
            max_range: range_of(granularity, last),
        })
    }

    /// Base-2 logarithm of the number of buckets in a range.
    pub fn granularity(self) -> u8 {
        self.granularity
    }

    /// The first range kept.
    pub fn min_range(self) -> u8 {
        self.min_range
    }

    /// The last range kept.
    pub fn max_range(self) -> u8 {
        self.max_range
    }

    /// How many buckets there are.
    pub fn buckets(self) -> usize {
        usize::from(self.max_range - self.min_range + 1) << self.granularity
    }

    /// The bucket that counts a latency of `ticks`.
    #[inline]
    pub fn bucket_of(self, ticks: u64) -> usize {
        let range = range_of(self.granularity, ticks);
        if range < self.min_range {
            return 0;
        }
        if range > self.max_range {
            return self.buckets() - 1;
        }
        let mask = (1 << self.granularity) - 1;
        let index = (ticks >> range.saturating_sub(1)) & mask;
        (usize::from(range - self.min_range) << self.granularity) + index as usize
    }

    /// The first latency beyond bucket `bucket`, in ticks.
    pub fn bucket_end(self, bucket: usize) -> u64 {
        let range = (bucket >> self.granularity) as u32 + u32::from(self.min_range);
        let index = (bucket & ((1 << self.granularity) - 1)) as u128 + 1;
        let end = match range.checked_sub(1) {
            None => index,
            Some(shift) => (1u128 << (shift + u32::from(self.granularity))) + (index << shift),
        };
        u64::try_from(end).unwrap_or(u64::MAX)
    }
}

#[inline]
fn range_of(granularity: u8, ticks: u64) -> u8 {
    let bits = (u64::BITS - ticks.leading_zeros()) as u8;
    bits.saturating_sub(granularity)
}

/// The live counters of one channel.
#[derive(Debug)]
pub(super) struct Histogram {
    layout: HistogramLayout,
    opcodes: OpcodeSet,
    buckets: Box<[AtomicU64]>,
}

impl Histogram {
    /// All zero.
    pub(super) fn new(layout: HistogramLayout, opcodes: OpcodeSet) -> Histogram {
        let buckets = (0..layout.buckets()).map(|_| AtomicU64::new(0)).collect();
        Histogram { layout, opcodes, buckets }
    }

    /// Records those of `completions` that succeeded, at `now`. Only the owner calls this.
    pub(super) fn count(&self, completions: &[Completion], now: Tsc) {
        for completion in completions {
            if completion.status.is_success() && self.opcodes.contains(completion.opcode) {
                self.record(now.0.wrapping_sub(completion.stamp));
            }
        }
    }

    /// Records a latency of `ticks`. Only the owner calls this.
    #[inline]
    fn record(&self, ticks: u64) {
        let bucket = &self.buckets[self.layout.bucket_of(ticks)];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// Counters read at one moment, summed over channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramData {
    layout: HistogramLayout,
    counts: Vec<u64>,
}

impl HistogramData {
    /// All zero.
    pub fn new(layout: HistogramLayout) -> HistogramData {
        HistogramData { layout, counts: vec![0; layout.buckets()] }
    }

    /// Which bucket counts what.
    pub fn layout(&self) -> HistogramLayout {
        self.layout
    }

    /// The counters, by bucket.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many latencies were recorded.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The counters as little-endian bytes, which is what RPC sends in base64.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.counts.iter().flat_map(|count| count.to_le_bytes()).collect()
    }

    /// Adds a channel's counters; one of another layout (made before the last change of options)
    /// adds nothing.
    pub(super) fn add(&mut self, channel: &Histogram) {
        if channel.layout != self.layout {
            return;
        }
        for (sum, bucket) in self.counts.iter_mut().zip(&channel.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
    }

    /// For each of `borders` (in ticks, ascending) how many latencies were recorded in buckets up to
    /// the one that holds the border, and the total at the end.
    pub fn counts_up_to(&self, borders: &[u64]) -> Vec<u64> {
        let mut result = Vec::with_capacity(borders.len() + 1);
        let (mut sum, mut bucket) = (0, 0);
        for &border in borders {
            let end = self.layout.bucket_of(border) + 1;
            sum += self.counts.get(bucket..end).unwrap_or_default().iter().sum::<u64>();
            bucket = bucket.max(end);
            result.push(sum);
        }
        result.push(self.total());
        result
    }

    /// The latency that `fraction` (0 to 1) of those recorded do not exceed: the end of its bucket, in
    /// ticks. `None` when nothing was recorded.
    pub fn percentile(&self, fraction: f64) -> Option<u64> {
        let total = self.total();
        let rank = ((total as f64 * fraction).ceil() as u64).clamp(1, total.max(1));
        let mut sum = 0;
        let bucket = self.counts.iter().position(|&count| {
            sum += count;
            sum >= rank
        })?;
        Some(self.layout.bucket_end(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(granularity: u8) -> HistogramLayout {
        HistogramLayout { granularity, min_range: 0, max_range: 64 - granularity }
    }

    #[test]
    fn every_latency_lies_in_its_bucket() {
        for granularity in [1, 7, 12] {
            let layout = full(granularity);
            for shift in 0..64 {
                for ticks in [1u64 << shift, (1u64 << shift) - 1, (1u64 << shift) + 3] {
                    let bucket = layout.bucket_of(ticks);
                    let last = bucket == layout.buckets() - 1;
                    assert!(ticks < layout.bucket_end(bucket) || last, "{ticks}");
                    assert!(bucket == 0 || ticks >= layout.bucket_end(bucket - 1), "{ticks}");
                }
            }
        }
        assert_eq!(full(7).buckets(), 58 * 128);
    }

    #[test]
    fn ranges_cover_what_was_asked() {
        // 2.6 GHz: 1 us is 2600 ticks, in range 5 of granularity 7 (2048 to 4095).
        let layout = HistogramLayout::new(&HistogramOptions::default(), 2_600_000_000).unwrap();
        assert_eq!((layout.granularity(), layout.min_range()), (7, 5));
        // 120 s are 3.12e11 ticks, in range 32 (2^38 to 2^39).
        assert_eq!(layout.max_range(), 32);
        assert_eq!(layout.buckets(), 28 * 128);
        assert_eq!(layout.bucket_of(0), 0);
        assert_eq!(layout.bucket_of(2047), 0);
        assert_eq!(layout.bucket_of(2048 + 16), 1);
        assert_eq!(layout.bucket_of(u64::MAX), layout.buckets() - 1);
        assert_eq!(layout.bucket_of(1 << 39), layout.buckets() - 1);
    }

    #[test]
    fn bad_options_are_refused() {
        let good = HistogramOptions::default();
        for bad in [
            HistogramOptions { granularity: 0, ..good },
            HistogramOptions { granularity: 13, ..good },
            HistogramOptions { min_nsec: 10, max_nsec: 10, ..good },
            HistogramOptions { opcodes: OpcodeSet::EMPTY, ..good },
        ] {
            assert!(HistogramLayout::new(&bad, 1_000_000_000).is_err(), "{bad:?}");
        }
        let widest = HistogramOptions { min_nsec: 0, max_nsec: u64::MAX, ..good };
        let layout = HistogramLayout::new(&widest, 3_000_000_000).unwrap();
        assert_eq!((layout.min_range(), layout.max_range()), (0, 57));
    }

    #[test]
    fn borders_count_up_to_the_bucket_that_holds_them() {
        let layout = full(7);
        let live = Histogram::new(layout, OpcodeSet::ALL);
        for ticks in (0..1 << 16).chain(1000..10000) {
            live.record(ticks);
        }
        let mut data = HistogramData::new(layout);
        data.add(&live);
        // 1000 lies in 1000..1004, 10000 and 10011 in 9984..10048, 30000 in 29952..30080.
        let counts = data.counts_up_to(&[1000, 10000, 10011, 30000]);
        let twice = |end: u64| end + 9000;
        assert_eq!(counts, [1004 + 4, twice(10048), twice(10048), twice(30080), twice(65536)]);
        assert_eq!(data.to_bytes().len(), data.counts().len() * 8);
    }

    #[test]
    fn percentiles() {
        let layout = full(7);
        let live = Histogram::new(layout, OpcodeSet::ALL);
        let mut data = HistogramData::new(layout);
        assert_eq!(data.percentile(0.5), None);
        for ticks in 1..=100 {
            live.record(ticks);
        }
        data.add(&live);
        assert_eq!(data.percentile(0.5), Some(51));
        assert_eq!(data.percentile(1.0), Some(101));
        assert_eq!(data.percentile(0.0), Some(2));
    }
}
