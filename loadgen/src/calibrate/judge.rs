//! What of a step counts, and which step comes next. Pure.

use serde::{Deserialize, Serialize};

use crate::scenario::Validity;

/// The first step, in deliveries a second.
const FIRST_PER_S: f64 = 50_000.0;
/// Each step is so many times the one before it.
const FACTOR: f64 = 1.4;
/// No machine gets there.
const STEPS_MAX: usize = 24;

/// What was measured at one rate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Deliveries a second that were asked for.
    pub offered_per_s: f64,
    /// Deliveries a second that were made.
    pub deliveries_per_s: f64,
    /// Share of its core that the generator used.
    pub busy: f64,
    /// Share of its core that the sink used.
    pub sink_busy: f64,
    /// 99 in a hundred batches were sent no later than this.
    pub lag_p99_us: u64,
    /// Due messages that were sent, in percent.
    pub sent_percent: f64,
    /// Median latency from the intended time of sending.
    pub p50_us: u64,
    /// 99 in a hundred took no longer.
    pub p99_us: u64,
    /// Messages that did not arrive while the step lasted.
    pub missing: u64,
    /// Why it does not count; empty: it does.
    pub limits: Vec<Limit>,
}

/// Why a step does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The generator's thread was busier than is valid.
    GeneratorBusy,
    /// Messages were sent later than is valid.
    SinkLate,
    /// Fewer messages were sent than is valid.
    SinkShort,
    /// Messages had not arrived when they should have.
    Missing,
}

impl Limit {
    /// In words.
    pub fn says(self) -> &'static str {
        match self {
            Self::GeneratorBusy => "the generator's thread is too busy",
            Self::SinkLate => "the sink sends too late",
            Self::SinkShort => "the sink does not send all",
            Self::Missing => "messages have not arrived in time",
        }
    }

    /// Why a step does not count.
    pub fn of(step: &Step, validity: &Validity) -> Vec<Self> {
        let rules = [
            (step.busy * 100.0 > validity.busy_percent, Self::GeneratorBusy),
            (step.lag_p99_us as f64 / 1000.0 > validity.lag_p99_ms, Self::SinkLate),
            (step.sent_percent < validity.published_percent, Self::SinkShort),
            (step.missing > 0, Self::Missing),
        ];
        rules.into_iter().filter_map(|(broken, limit)| broken.then_some(limit)).collect()
    }
}

/// Steps up, until one does not count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ladder {
    /// All steps that were made.
    pub steps: Vec<Step>,
}

impl Ladder {
    /// Deliveries a second of the next step; none: the top is known. A step that does not count is
    /// made again, in case something else has disturbed it.
    pub fn next(&self) -> Option<f64> {
        if self.steps.len() >= STEPS_MAX {
            return None;
        }
        let [before, last] = match &self.steps[..] {
            [] => return Some(FIRST_PER_S),
            [only] => [None, Some(only)],
            [.., before, last] => [Some(before), Some(last)],
        };
        let failed = |step: Option<&Step>| step.is_some_and(|step| !step.limits.is_empty());
        let offered_per_s = last.map_or(FIRST_PER_S, |last| last.offered_per_s);
        match (failed(last), failed(before)) {
            (false, _) => Some(offered_per_s * FACTOR),
            (true, false) => Some(offered_per_s),
            (true, true) => None,
        }
    }

    /// The highest step that counts.
    pub fn top(&self) -> Option<&Step> {
        self.steps.iter().rfind(|step| step.limits.is_empty())
    }

    /// The step that did not count, and did not the second time.
    pub fn over(&self) -> Option<&Step> {
        self.steps.last().filter(|last| !last.limits.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::course::validity;

    fn good() -> Step {
        Step { busy: 0.5, lag_p99_us: 100, sent_percent: 100.0, ..Step::default() }
    }

    #[test]
    fn a_step_counts_within_the_bounds_of_every_run() {
        let check = |step: Step, limits: &[Limit]| {
            assert_eq!(Limit::of(&step, &validity()), limits, "{step:?}");
        };
        check(good(), &[]);
        check(Step { busy: 0.95, ..good() }, &[Limit::GeneratorBusy]);
        check(Step { lag_p99_us: 2001, ..good() }, &[Limit::SinkLate]);
        check(Step { sent_percent: 98.9, ..good() }, &[Limit::SinkShort]);
        let both = Step { sent_percent: 10.0, missing: 1, ..good() };
        check(both, &[Limit::SinkShort, Limit::Missing]);
    }

    #[test]
    fn a_ladder_ends_above_its_top_when_the_next_step_fails_twice() {
        let mut ladder = Ladder::default();
        let mut rates = Vec::new();
        while let Some(rate) = ladder.next() {
            rates.push(rate);
            // The second step is disturbed once; the fourth is too much.
            let disturbed = rates.len() == 2 || rate > FIRST_PER_S * FACTOR * FACTOR * 1.1;
            let limits = if disturbed { vec![Limit::Missing] } else { Vec::new() };
            ladder.steps.push(Step { offered_per_s: rate, limits, ..good() });
        }
        assert_eq!(rates.len(), 6);
        assert_eq!((rates[1], rates[4]), (rates[2], rates[5]), "both were made again");
        assert_eq!(ladder.top().map(|step| step.offered_per_s), Some(rates[3]));
        assert_eq!(ladder.over().map(|step| step.offered_per_s), Some(rates[4]));
    }
}
