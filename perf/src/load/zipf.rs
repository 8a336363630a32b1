//! Zipf-distributed ranks without a power or a division per sample.
//!
//! Rank `r` (from 1) of `n` has a weight of `r^-theta`. The first ranks have an entry of their own;
//! the others share entries that span 1/32 of their rank, within which the weight is taken as even
//! (it differs from the true one by at most `theta / 64`). An alias table (Walker, Vose) over
//! the entries, some two thousand at most, gives a sample from two random numbers.

use weft::load::random::{Random, below};

/// Ranks that have an entry of their own.
const EXACT_RANKS: u64 = 256;
/// The others span this part of their rank.
const SPAN_DIVISOR: u64 = 32;

/// A sampler of `0..n`: 0 is the most frequent.
#[derive(Clone, Debug)]
pub struct Zipf {
    entries: Box<[Entry]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// First rank (from 0) and how many.
    first: u64,
    span: u64,
    /// Below this the entry stands for itself, else for `alias`.
    threshold: u64,
    alias: u32,
}

/// The sum of `r^-theta` over the ranks `first .. first + span`, counted from 1.
fn weight(first: u64, span: u64, theta: f64) -> f64 {
    if span == 1 {
        return (first as f64).powf(-theta);
    }
    // The midpoint rule backwards: beyond the exact ranks it is good to seven digits.
    let (from, to) = (first as f64 - 0.5, (first + span) as f64 - 0.5);
    if (theta - 1.0).abs() < 1e-9 {
        (to / from).ln()
    } else {
        (to.powf(1.0 - theta) - from.powf(1.0 - theta)) / (1.0 - theta)
    }
}

impl Zipf {
    /// A sampler of `n` ranks (at least 1) with exponent `theta` (above 0).
    pub fn new(n: u64, theta: f64) -> Zipf {
        let mut entries = Vec::new();
        let mut weights = Vec::new();
        let mut rank = 1;
        while rank <= n {
            let span = if rank <= EXACT_RANKS { 1 } else { rank / SPAN_DIVISOR };
            let span = span.min(n - rank + 1);
            weights.push(weight(rank, span, theta));
            entries.push(Entry { first: rank - 1, span, threshold: u64::MAX, alias: 0 });
            rank += span;
        }
        // Vose: entries that have less than their share are filled up from those with more.
        let sum: f64 = weights.iter().sum();
        let scale = weights.len() as f64 / sum;
        for weight in &mut weights {
            *weight *= scale;
        }
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&index| weights[index] < 1.0);
        while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
            small.pop();
            entries[poor].threshold = (weights[poor] * 2_f64.powi(64)) as u64;
            entries[poor].alias = rich as u32;
            weights[rich] -= 1.0 - weights[poor];
            if weights[rich] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        // What rounding leaves over in either list stands for itself.
        for index in small.into_iter().chain(large) {
            entries[index].threshold = u64::MAX;
            entries[index].alias = index as u32;
        }
        Zipf { entries: entries.into() }
    }

    /// A rank, from 0.
    #[inline]
    pub fn sample(&self, random: &mut Random) -> u64 {
        let product = u128::from(random.next_u64()) * self.entries.len() as u128;
        let mut entry = &self.entries[(product >> 64) as usize];
        if product as u64 > entry.threshold {
            entry = &self.entries[entry.alias as usize];
        }
        if entry.span == 1 {
            entry.first
        } else {
            entry.first + below(random.next_u64(), entry.span)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares of ranges of ranks against the definition.
    fn check(n: u64, theta: f64) {
        const SAMPLES: u64 = 400_000;
        let zipf = Zipf::new(n, theta);
        let mut random = Random::new(11, 0);
        let mut counts = vec![0_u64; n as usize];
        for _ in 0..SAMPLES {
            counts[zipf.sample(&mut random) as usize] += 1;
        }
        let weights: Vec<f64> = (1..=n).map(|r| (r as f64).powf(-theta)).collect();
        let sum: f64 = weights.iter().sum();
        let mut from = 0;
        while from < n as usize {
            let to = (from * 2 + 1).min(n as usize);
            let expected = weights[from..to].iter().sum::<f64>() / sum * SAMPLES as f64;
            let found = counts[from..to].iter().sum::<u64>() as f64;
            // Five standard deviations, and the approximation's share.
            let tolerance = 5.0 * expected.sqrt() + expected * 0.01 + 3.0;
            assert!(
                (found - expected).abs() < tolerance,
                "n {n} theta {theta} ranks {from}..{to}: {found} for {expected:.1}"
            );
            from = to;
        }
    }

    #[test]
    fn shares_follow_the_definition() {
        for theta in [0.5, 0.99, 1.0, 1.2, 2.5] {
            check(1, theta);
            check(10, theta);
            check(300, theta);
            check(20_000, theta);
        }
    }

    #[test]
    fn a_large_range_needs_a_small_table() {
        let zipf = Zipf::new(1 << 50, 0.99);
        assert!(zipf.entries.len() < 2500, "{}", zipf.entries.len());
        let last = zipf.entries.last().unwrap();
        assert_eq!(last.first + last.span, 1 << 50);
    }
}
