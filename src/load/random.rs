//! Random numbers for the hot path: a generator, bounded values without division, and a
//! pseudo-random permutation of `0..n`. Deterministic: the same seed gives the same run.

/// xoshiro256++ (Blackman and Vigna), seeded by SplitMix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64: a bijection in which every input bit moves every output bit.
#[inline]
pub fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Random {
    /// Stream number `stream` of `seed`: each worker has its own.
    pub fn new(seed: u64, stream: u64) -> Random {
        let mut counter = mix(seed).wrapping_add(mix(stream.wrapping_mul(GOLDEN_GAMMA)));
        let state = std::array::from_fn(|_| {
            counter = counter.wrapping_add(GOLDEN_GAMMA);
            mix(counter)
        });
        Random { state }
    }

    /// 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }
}

/// Scales 64 random bits to `0..bound` by a multiplication (Lemire, without the rejection step:
/// the bias is below `bound / 2^64`).
#[inline]
pub fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// A pseudo-random permutation of `0..n`, computed and not stored.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    n: u64,
    mask: u64,
    shift: u32,
    add: u64,
    multipliers: [u64; 2],
}

impl Permutation {
    /// A permutation of `0..n`, picked by `seed`. `n` is at least 1 and at most 2^63.
    pub fn new(n: u64, seed: u64) -> Permutation {
        debug_assert!((1..=1 << 63).contains(&n));
        let size = n.next_power_of_two();
        let mut random = Random::new(seed, n);
        Permutation {
            n,
            mask: size - 1,
            shift: (size.trailing_zeros() / 2).max(1),
            add: random.next_u64(),
            multipliers: [random.next_u64() | 1, random.next_u64() | 1],
        }
    }

    /// Where `index` goes. `index` is below `n`.
    #[inline]
    pub fn apply(&self, index: u64) -> u64 {
        let mut value = index;
        // Each step is a bijection on the numbers below the next power of two; walking on until
        // the value is below `n` keeps it one on `0..n`. Two walks at most on average.
        loop {
            value = value.wrapping_add(self.add) & self.mask;
            for multiplier in self.multipliers {
                value = value.wrapping_mul(multiplier) & self.mask;
                value ^= value >> self.shift;
            }
            if value < self.n {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_generator_is_xoshiro256_plus_plus() {
        // Reference values of the published C code from the state 1, 2, 3, 4.
        let mut random = Random { state: [1, 2, 3, 4] };
        let first: Vec<u64> = (0..4).map(|_| random.next_u64()).collect();
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn streams_differ_and_repeat() {
        let take = |stream| {
            let mut random = Random::new(7, stream);
            (0..8).map(|_| random.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    proptest! {
        #[test]
        fn below_stays_below(random: u64, bound in 1..u64::MAX) {
            prop_assert!(below(random, bound) < bound);
        }

        #[test]
        fn a_permutation_meets_every_number_once(n in 1_u64..5000, seed: u64) {
            let permutation = Permutation::new(n, seed);
            let mut seen = vec![false; n as usize];
            for index in 0..n {
                let at = permutation.apply(index) as usize;
                prop_assert!(!std::mem::replace(&mut seen[at], true));
            }
        }
    }

    #[test]
    fn a_permutation_scatters() {
        let permutation = Permutation::new(1 << 16, 3);
        let neighbours = (1..1_u64 << 16)
            .filter(|&i| permutation.apply(i).abs_diff(permutation.apply(i - 1)) == 1)
            .count();
        assert!(neighbours < 100, "{neighbours} of 65535 steps go to the next position");
    }
}
