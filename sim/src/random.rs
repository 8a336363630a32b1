//! The one source of chance of a run: xoshiro256++ (Blackman and Vigna, 2019), seeded by SplitMix64.
//!
//! A seed names a run for ever, so this is written out here and never changes: a library may change its streams between versions. Only
//! integers are used, so that every machine draws the same.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

/// A million: chances are given in parts of it.
pub const MILLION: u32 = 1_000_000;

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Random {
    /// The stream of a seed.
    pub fn new(mut seed: u64) -> Random {
        Random { state: std::array::from_fn(|_| split_mix(&mut seed)) }
    }

    /// A stream of its own, so that drawing more from one does not shift another.
    pub fn fork(&mut self) -> Random {
        Random::new(self.draw())
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let drawn = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        drawn
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high - low).saturating_add(1))
    }

    /// True in so many of a million cases.
    pub fn chance(&mut self, of_a_million: u32) -> bool {
        self.below(MILLION.into()) < u64::from(of_a_million)
    }

    /// One of them; there must be one.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Puts them in another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// A length around `mean`: mostly between nothing and twice as long, rarely many times longer.
    pub fn around(&mut self, mean: u64) -> u64 {
        let length = self.below(mean.saturating_mul(2) + 1);
        // One in 64 is four times as long, one in 1024 sixteen times.
        match self.draw() & 1023 {
            0 => length.saturating_mul(16),
            1..16 => length.saturating_mul(4),
            _ => length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut random = Random::new(1);
        let drawn = [random.draw(), random.draw(), random.draw()];
        assert_eq!(drawn, [0xcfc5_d07f_6f03_c29b, 0xbf42_4132_963f_e08d, 0x19a3_7d57_57aa_f520]);
    }

    #[test]
    fn numbers_stay_in_their_limits() {
        let mut random = Random::new(7);
        for _ in 0..10_000 {
            assert!((3..=5).contains(&random.between(3, 5)));
            assert!(random.below(1) == 0);
        }
        // The whole range at once does not overflow.
        random.between(0, u64::MAX);
    }
}
