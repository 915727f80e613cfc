//! Two rows of samples side by side, and how sure their difference is. Pure.

use serde::Serialize;

use crate::random::Random;

/// Fewer samples than this say nothing about a difference.
pub const SAMPLES_MIN: usize = 20;
/// How often the samples are drawn again.
const DRAWS: usize = 2000;
/// Draws that are left out at each end, in a hundred: 95 in a hundred are in between.
const TAIL_PERCENT: f64 = 2.5;
const NS_PER_US: f64 = 1e3;

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Row {
    /// How many samples there are.
    pub samples: usize,
    /// The shortest.
    pub min: f64,
    /// Half of them took no longer.
    pub p50: f64,
    /// Nine in ten.
    pub p90: f64,
    /// 99 in a hundred.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// The figures of samples in nanoseconds; none without samples.
pub fn row(samples_ns: &[u64]) -> Option<Row> {
    let mut sorted = samples_ns.to_vec();
    sorted.sort_unstable();
    let us = |ns: &u64| *ns as f64 / NS_PER_US;
    let at = |share: f64| us(&sorted[rank(sorted.len(), share)]);
    Some(Row {
        samples: sorted.len(),
        min: sorted.first().map(us)?,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: sorted.last().map(us)?,
    })
}

/// How much longer one path takes than the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Difference of the medians, in microseconds.
    pub median: f64,
    /// With 95 % confidence, it is not under this …
    pub low: f64,
    /// … nor over this.
    pub high: f64,
    /// Whether it can be told from no difference at all.
    pub sure: bool,
}

/// The difference of the medians of two rows, second minus first, with its interval by the
/// percentile bootstrap; none when there are too few samples for that.
pub fn difference(first_ns: &[u64], second_ns: &[u64], seed: u64) -> Option<Difference> {
    if first_ns.len().min(second_ns.len()) < SAMPLES_MIN {
        return None;
    }
    let mut random = Random::new(seed);
    let mut draws: Vec<f64> = (0..DRAWS)
        .map(|_| drawn_median(second_ns, &mut random) - drawn_median(first_ns, &mut random))
        .collect();
    draws.sort_unstable_by(f64::total_cmp);
    let at = |percent: f64| draws[rank(DRAWS, percent / 100.0)] / NS_PER_US;
    let (low, high) = (at(TAIL_PERCENT), at(100.0 - TAIL_PERCENT));
    let median = (median(&mut second_ns.to_vec()) - median(&mut first_ns.to_vec())) / NS_PER_US;
    Some(Difference { median, low, high, sure: low > 0.0 || high < 0.0 })
}

fn drawn_median(samples_ns: &[u64], random: &mut Random) -> f64 {
    let count = samples_ns.len() as u64;
    let mut drawn: Vec<u64> =
        samples_ns.iter().map(|_| samples_ns[random.below(count) as usize]).collect();
    median(&mut drawn)
}

fn median(samples_ns: &mut [u64]) -> f64 {
    let middle = rank(samples_ns.len(), 0.5);
    *samples_ns.select_nth_unstable(middle).1 as f64
}

/// The place of the least sample that such a share is not over.
fn rank(count: usize, share: f64) -> usize {
    ((count as f64 * share).ceil() as usize).clamp(1, count) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples around a centre, in nanoseconds.
    fn around(centre: u64, width: u64, count: usize, seed: u64) -> Vec<u64> {
        let mut random = Random::new(seed);
        (0..count).map(|_| centre - width / 2 + random.below(width)).collect()
    }

    #[test]
    fn a_row_has_its_percentiles() {
        let samples: Vec<u64> = (1..=100).rev().map(|us| us * 1000).collect();
        let row = row(&samples).expect("a hundred samples");
        let told = [row.min, row.p50, row.p90, row.p99, row.max];
        assert_eq!(told, [1.0, 50.0, 90.0, 99.0, 100.0]);
        assert_eq!(super::row(&[]), None);
    }

    #[test]
    fn a_difference_is_found_where_there_is_one() {
        let (first, second) = (around(100_000, 40_000, 200, 1), around(150_000, 40_000, 200, 2));
        let found = difference(&first, &second, 7).expect("enough samples");
        assert!(found.sure && found.low < 50.0 && 50.0 < found.high, "{found:?}");
        assert!(found.high - found.low < 20.0, "{found:?}");
        let back = difference(&second, &first, 7).expect("enough samples");
        assert!(back.sure && back.median == -found.median, "{back:?}");
    }

    #[test]
    fn equal_paths_are_told_to_differ_no_more_often_than_promised() {
        let wrong = (0..200).filter(|&seed| {
            let first = around(100_000, 40_000, 60, seed);
            let second = around(100_000, 40_000, 60, seed + 1000);
            difference(&first, &second, seed).expect("enough samples").sure
        });
        // 5 in a hundred on average: 10.
        assert!(wrong.count() <= 22);
    }

    #[test]
    fn few_samples_say_nothing() {
        let few = around(100, 10, SAMPLES_MIN - 1, 1);
        assert_eq!(difference(&few, &around(100, 10, 50, 1), 1), None);
    }
}
