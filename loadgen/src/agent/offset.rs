//! How far another machine's clock is off, from round trips. Pure: moments in, bounds out.
//!
//! A round trip bounds the offset: the question cannot have come before it was sent, nor the answer
//! before it was given. The middle of the two bounds is the estimate, and it is wrong by at most half
//! of the time on the way, however that was divided between there and back. The quickest round trip
//! says the most.

/// One round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// When the question was sent, by the leader's clock.
    pub sent_ns: u64,
    /// When it came, by the agent's.
    pub heard_ns: u64,
    /// When the answer was sent, by the agent's.
    pub answered_ns: u64,
    /// When that came, by the leader's.
    pub back_ns: u64,
}

/// How far a clock is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// What is to be added to the leader's time to get the agent's.
    pub offset_ns: i64,
    /// By how much that is wrong at most.
    pub error_ns: u64,
}

impl RoundTrip {
    /// What it says; none when it cannot have been so.
    pub fn estimate(self) -> Option<Estimate> {
        let Self { sent_ns, heard_ns, answered_ns, back_ns } = self;
        let (whole, there) = (back_ns.checked_sub(sent_ns)?, answered_ns.checked_sub(heard_ns)?);
        let on_the_way = whole.checked_sub(there)?;
        let early = i128::from(heard_ns) - i128::from(sent_ns);
        let late = i128::from(answered_ns) - i128::from(back_ns);
        let offset_ns = i64::try_from((early + late).div_euclid(2)).ok()?;
        Some(Estimate { offset_ns, error_ns: on_the_way.div_ceil(2) })
    }
}

/// Round trips of one time, of which the quickest counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounds {
    /// How many there were.
    pub count: u32,
    /// What the quickest of them says.
    pub best: Option<Estimate>,
}

impl Rounds {
    /// One more.
    pub fn add(&mut self, round: RoundTrip) {
        let Some(estimate) = round.estimate() else { return };
        self.count += 1;
        if self.best.is_none_or(|best| estimate.error_ns < best.error_ns) {
            self.best = Some(estimate);
        }
    }
}

/// A clock whose times are corrected by what was found at the beginning, and that goes on being
/// looked at. Between two looks it is taken to be between what they say.
#[derive(Clone, Copy, Debug)]
pub struct Drift {
    /// What its times are corrected by.
    pub used_ns: i64,
    /// By how much that was wrong at most, of all looks.
    pub error_ns: u64,
    /// How far a later look was from it, at most.
    pub drift_ns: u64,
}

impl Drift {
    /// The beginning.
    pub fn new(estimate: Estimate) -> Self {
        Self { used_ns: estimate.offset_ns, error_ns: estimate.error_ns, drift_ns: 0 }
    }

    /// It was looked at again.
    pub fn look(&mut self, estimate: Estimate) {
        let moved = estimate.offset_ns.abs_diff(self.used_ns);
        self.drift_ns = self.drift_ns.max(moved);
        self.error_ns = self.error_ns.max(moved.saturating_add(estimate.error_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const MS: u64 = 1_000_000;

    /// A link whose ways take `there` and `back`, to a clock that is off by `offset_ns`.
    fn round(at_ns: u64, offset_ns: i64, there: u64, work: u64, back: u64) -> RoundTrip {
        let agents = |leaders: u64| leaders.checked_add_signed(offset_ns).expect("not before 0");
        RoundTrip {
            sent_ns: at_ns,
            heard_ns: agents(at_ns + there),
            answered_ns: agents(at_ns + there + work),
            back_ns: at_ns + there + work + back,
        }
    }

    fn check(rounds: &[RoundTrip], offset_ns: i64, error_ns_max: u64) {
        let mut all = Rounds::default();
        rounds.iter().for_each(|&round| all.add(round));
        let best = all.best.expect("there were some");
        let wrong = best.offset_ns.abs_diff(offset_ns);
        assert!(wrong <= best.error_ns, "{best:?} is wrong by {wrong}");
        assert!(best.error_ns <= error_ns_max, "{best:?}");
    }

    #[test]
    fn an_even_link_is_exact_and_a_lopsided_one_within_its_bound() {
        for offset in [0, 5_000_000_000_i64, -7_000_000_000, 1] {
            let at = 100_000 * MS;
            let exact = round(at, offset, MS, 9 * MS, MS).estimate().expect("it can be so");
            assert_eq!(exact, Estimate { offset_ns: offset, error_ns: MS });
            check(&[round(at, offset, 10 * MS, 0, 0)], offset, 5 * MS);
            check(&[round(at, offset, 0, 0, 10 * MS)], offset, 5 * MS);
            check(&[round(at, offset, 3, 1, 0)], offset, 2);
        }
    }

    #[test]
    fn the_quickest_of_many_on_a_bad_link_counts() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let offset = random.below(20_000 * MS) as i64 - 10_000 * MS as i64;
            let rounds: Vec<RoundTrip> = (0..64)
                .map(|k| {
                    let slow = |random: &mut Random| match random.below(4) {
                        0 => 50_000 + random.below(20_000),
                        _ => 50_000 + random.below(30 * MS),
                    };
                    let (there, back) = (slow(&mut random), slow(&mut random));
                    round(20_000 * MS + k * MS, offset, there, random.below(MS), back)
                })
                .collect();
            check(&rounds, offset, 10 * MS);
        }
    }

    #[test]
    fn what_cannot_have_been_says_nothing() {
        let good = round(50 * MS, 0, MS, MS, MS);
        for bad in [
            RoundTrip { back_ns: good.sent_ns - 1, ..good },
            RoundTrip { answered_ns: good.heard_ns - 1, ..good },
            RoundTrip { answered_ns: good.heard_ns + 4 * MS, ..good },
            RoundTrip { heard_ns: u64::MAX - 1, answered_ns: u64::MAX, ..good },
        ] {
            assert_eq!(bad.estimate(), None, "{bad:?}");
        }
    }

    #[test]
    fn a_clock_that_runs_away_is_told() {
        let mut drift = Drift::new(Estimate { offset_ns: 1000, error_ns: 50 });
        drift.look(Estimate { offset_ns: 1010, error_ns: 30 });
        assert_eq!((drift.error_ns, drift.drift_ns), (50, 10), "inside of what was said");
        drift.look(Estimate { offset_ns: 400, error_ns: 70 });
        assert_eq!((drift.error_ns, drift.drift_ns), (670, 600));
        drift.look(Estimate { offset_ns: 1000, error_ns: 1 });
        assert_eq!((drift.used_ns, drift.error_ns, drift.drift_ns), (1000, 670, 600));
    }
}
