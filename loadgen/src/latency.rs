//! Latencies: recorded per delivery in microseconds, told as percentiles.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency that is told apart; longer ones count as this one.
const LATENCY_US_MAX: u64 = 600_000_000;
const DIGITS: u8 = 3;
const NS_PER_US: u64 = 1000;

/// Latencies of many deliveries.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(empty())
    }
}

/// A histogram with the bounds of all.
pub fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS).expect("the bounds are valid constants")
}

/// The figures of a histogram; none when nothing was recorded.
pub fn summary(times: &Histogram<u64>) -> Option<Summary> {
    let at = |quantile| times.value_at_quantile(quantile);
    (!times.is_empty()).then(|| Summary {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: times.max(),
    })
}

impl Latencies {
    /// One more, in nanoseconds.
    #[inline]
    pub fn record_ns(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns / NS_PER_US);
    }

    /// The figures; none when nothing was recorded.
    pub fn summary(&self) -> Option<Summary> {
        summary(&self.0)
    }
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Half of them took no longer.
    pub p50: u64,
    /// Nine in ten.
    pub p90: u64,
    /// 99 in a hundred.
    pub p99: u64,
    /// 999 in a thousand.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_three_digits() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), None);
        (1..=1000).for_each(|us| latencies.record_ns(us * 1000));
        latencies.record_ns(u64::MAX);
        let summary = latencies.summary().expect("a thousand were recorded");
        assert_eq!((summary.p50, summary.p90, summary.p99), (501, 901, 991));
        assert!(summary.max >= LATENCY_US_MAX, "too long is as long as can be told");
    }
}
