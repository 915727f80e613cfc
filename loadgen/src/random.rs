//! Chance from a seed: the same seed, the same numbers.

/// SplitMix64: small, fast, and good enough for schedules.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits. Not an iterator: it never ends.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to 1, without 1.
    pub fn share(&mut self) -> f64 {
        share_of(self.next())
    }

    /// From -1 to 1.
    pub fn around(&mut self) -> f64 {
        self.share() * 2.0 - 1.0
    }

    /// From 0 to `count`, without it; 0 when that is 0.
    pub fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(count)) >> 64) as u64
    }

    /// A waiting time of so many on average, of events that know nothing of each other.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.share()).ln()
    }
}

/// 64 bits that look nothing like those of `number + 1`.
pub fn mix(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Random bits as a number from 0 to 1, without 1.
pub fn share_of(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_fair_and_repeats_itself() {
        let mut random = Random::new(7);
        let mean = |of: &mut dyn FnMut() -> f64| (0..10_000).map(|_| of()).sum::<f64>() / 10_000.0;
        assert!((mean(&mut || random.share()) - 0.5).abs() < 0.02);
        assert!((mean(&mut || random.exponential(3.0)) - 3.0).abs() < 0.15);
        assert!((mean(&mut || random.below(10) as f64) - 4.5).abs() < 0.15);
        assert_eq!(random.below(0), 0);
        assert_eq!(Random::new(1).next(), Random::new(1).next());
    }
}
