//! How often something may happen.

use crate::ids::Millis;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// So many a second, and so many at once after a pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// 0: as many as there are.
    pub per_second: u32,
    /// At once; 0 is taken as 1.
    pub burst: u32,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { per_second: 0, burst: 0 };

    /// Whether there is no limit.
    pub fn is_unlimited(self) -> bool {
        self.per_second == 0
    }

    fn interval_ns(self) -> u64 {
        NS_PER_SECOND / u64::from(self.per_second.max(1))
    }
}

/// How far a rate is used up, as one number: the moment at which all that was let through would be
/// paid for (the generic cell rate algorithm). The rate itself is an argument, so that it can change
/// at any time, and a million of these cost 8 bytes each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    paid_ns: u64,
}

impl Bucket {
    /// Whether one more may pass now; else in how many milliseconds.
    pub fn check(self, rate: Rate, now: Millis) -> Result<(), u32> {
        if rate.is_unlimited() {
            return Ok(());
        }
        let now_ns = now.0.saturating_mul(NS_PER_MS);
        let after = self.paid_ns.max(now_ns).saturating_add(rate.interval_ns());
        let allowed = now_ns.saturating_add(rate.interval_ns() * u64::from(rate.burst.max(1)));
        match after.saturating_sub(allowed) {
            0 => Ok(()),
            over => Err(u32::try_from(over.div_ceil(NS_PER_MS)).unwrap_or(u32::MAX)),
        }
    }

    /// One more has passed, whether it was allowed or had to: what had to makes others wait longer.
    pub fn take(&mut self, rate: Rate, now: Millis) {
        if !rate.is_unlimited() {
            let now_ns = now.0.saturating_mul(NS_PER_MS);
            self.paid_ns = self.paid_ns.max(now_ns).saturating_add(rate.interval_ns());
        }
    }

    /// Whether everything is paid for, so that forgetting the bucket changes nothing.
    pub fn is_full(self, now: Millis) -> bool {
        self.paid_ns <= now.0.saturating_mul(NS_PER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries one at each moment; `+` passes, `-` is refused.
    fn check(per_second: u32, burst: u32, moments: &[u64], expected: &str) {
        let rate = Rate { per_second, burst };
        let mut bucket = Bucket::default();
        let mut passed = String::new();
        for &moment in moments {
            let now = Millis(moment);
            match bucket.check(rate, now) {
                Ok(()) => {
                    bucket.take(rate, now);
                    passed.push('+');
                }
                Err(wait_ms) => {
                    let then = Millis(moment + u64::from(wait_ms));
                    assert_eq!(bucket.check(rate, then), Ok(()), "it was told to try again then");
                    if wait_ms > 1 {
                        assert!(bucket.check(rate, Millis(then.0 - 2)).is_err(), "and no sooner");
                    }
                    passed.push('-');
                }
            }
        }
        assert_eq!(passed, expected, "{rate:?} at {moments:?}");
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        check(10, 2, &[0, 0, 99, 100, 300, 300], "++-+++");
        check(10, 2, &[0, 0, 0, 50, 100, 100], "++--+-");
        check(10, 0, &[0, 0, 100, 100], "+-+-");
        check(1000, 1, &[0, 0, 1, 1, 2], "+-+-+");
        check(0, 0, &[0, 0, 0, 0], "++++");
    }

    #[test]
    fn what_had_to_pass_is_paid_for_later() {
        let rate = Rate { per_second: 10, burst: 1 };
        let mut bucket = Bucket::default();
        (0..5).for_each(|_| bucket.take(rate, Millis(0)));
        assert_eq!(bucket.check(rate, Millis(0)), Err(500));
        assert!(!bucket.is_full(Millis(499)));
        assert!(bucket.is_full(Millis(500)));
        assert_eq!(bucket.check(rate, Millis(500)), Ok(()));
    }

    #[test]
    fn any_moment_and_any_rate_are_taken() {
        let rate = Rate { per_second: u32::MAX, burst: u32::MAX };
        let mut bucket = Bucket::default();
        bucket.take(rate, Millis(u64::MAX));
        assert_eq!(bucket.check(rate, Millis(u64::MAX)), Ok(()));
        assert_eq!(bucket.check(Rate { per_second: 1, burst: 1 }, Millis(0)), Err(u32::MAX));
    }
}
