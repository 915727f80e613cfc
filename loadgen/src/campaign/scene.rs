//! What there is to see of a running campaign, second by second. Pure.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::campaign::books::percentiles;
use crate::clock::SECOND_NS;
use crate::latency::Summary as Percentiles;
use crate::record::kept::TargetSample;
use crate::record::{Counts, Interval, no_times};

/// Seconds that sparklines show.
const HISTORY_MAX: usize = 60;
/// Events that are shown.
const EVENTS_MAX: usize = 4;
/// So many seconds without a word of a source its last rates are still shown.
const QUIET_MAX: u32 = 3;
/// What was heard in less time than this says nothing of a rate; it waits for more.
const RATED_NS_MIN: u64 = SECOND_NS / 4;
const PUBLISHER: &str = "publisher";

/// The campaign at one moment, and in the second before it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Scene {
    /// Seconds since the beginning.
    pub at_s: f64,
    /// The phase's name.
    pub phase: String,
    /// Seconds of it that are over.
    pub phase_s: f64,
    /// Seconds that it lasts; 0: as long as it takes.
    pub phase_max_s: f64,
    /// Clients that there are to be.
    pub clients: u64,
    /// Clients that are ready.
    pub ready: u64,
    /// Everything that was counted so far.
    pub totals: Counts,
    /// Deliveries in a second.
    pub delivered_per_s: f64,
    /// Messages due in a second …
    pub offered_per_s: f64,
    /// … published …
    pub published_per_s: f64,
    /// … and admitted.
    pub admitted_per_s: f64,
    /// Latency in the last second, in microseconds.
    pub latency_us: Option<Percentiles>,
    /// The same so far.
    pub latency_so_far_us: Option<Percentiles>,
    /// How late messages were sent in the last second.
    pub lag_us: Option<Percentiles>,
    /// Share of its core that each of the generator's threads used.
    pub busy: BTreeMap<String, f64>,
    /// Share of the time that each of them waited for a core.
    pub waited: BTreeMap<String, f64>,
    /// The target.
    pub target: Option<TargetSample>,
    /// Processor use of the target, in percent of a core.
    pub target_cpu_percent: Option<f64>,
    /// What makes the run invalid already.
    pub invalid: Option<String>,
    /// The last events.
    pub events: VecDeque<String>,
    /// The p99 of the last seconds, in microseconds.
    #[serde(skip)]
    pub p99_history: VecDeque<u64>,
    /// Deliveries of the last seconds.
    #[serde(skip)]
    pub rate_history: VecDeque<u64>,
}

/// Collects a second. Intervals do not end when seconds do, so rates go by the length of the
/// intervals that came, not by the second in which they came.
pub struct Second {
    began_ns: u64,
    counts: Counts,
    rates: BTreeMap<String, Rates>,
    /// Whether a worker has said anything.
    is_fresh: bool,
    corrected: Histogram<u64>,
    lag: Histogram<u64>,
    all: Histogram<u64>,
}

/// How fast a source is, as its last intervals say.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    /// What came since rates were told last, and in how long.
    counts: Counts,
    ns: u64,
    quiet: u32,
    delivered: f64,
    offered: f64,
    published: f64,
    admitted: f64,
}

impl Rates {
    fn turn(&mut self) {
        if self.ns < RATED_NS_MIN {
            self.quiet += 1;
            if self.quiet > QUIET_MAX {
                *self = Self::default();
            }
            return;
        }
        let Counts { delivered, offered, published, admitted, merged, .. } = self.counts;
        let per_s = |count: u64| count as f64 * SECOND_NS as f64 / self.ns as f64;
        *self = Self {
            delivered: per_s(delivered),
            offered: per_s(offered),
            published: per_s(published),
            admitted: per_s(admitted + merged),
            ..Self::default()
        };
    }
}

/// What was heard in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What was counted.
    pub counts: Counts,
    /// Whether a worker has said anything: if not, its times are those of the second before.
    pub is_fresh: bool,
}

impl Second {
    /// Begins.
    pub fn new(now_ns: u64) -> Self {
        let [corrected, lag, all] = [(); 3].map(|()| no_times());
        let (counts, rates) = (Counts::default(), BTreeMap::new());
        Self { began_ns: now_ns, counts, rates, is_fresh: false, corrected, lag, all }
    }

    /// Adds an interval.
    pub fn add(&mut self, interval: &Interval, scene: &mut Scene) {
        self.counts.add(&interval.counts);
        scene.totals.add(&interval.counts);
        self.is_fresh |= interval.source != PUBLISHER;
        let rates = self.rates.entry(interval.source.clone()).or_default();
        rates.counts.add(&interval.counts);
        let ns = interval.to_ns.saturating_sub(interval.from_ns);
        rates.ns += ns;
        // A short one at the change of a phase says nothing of these.
        if ns >= RATED_NS_MIN || !scene.busy.contains_key(&interval.source) {
            scene.busy.insert(interval.source.clone(), interval.busy);
            scene.waited.insert(interval.source.clone(), interval.waited());
        }
        for (mine, theirs) in [
            (&mut self.corrected, &interval.timings.corrected),
            (&mut self.all, &interval.timings.corrected),
            (&mut self.lag, &interval.timings.lag),
        ] {
            mine.add(theirs).expect("all have the same bounds");
        }
    }

    /// Whether it is over.
    pub fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.began_ns + SECOND_NS
    }

    /// Shows it, and begins the next; what was heard in it is the answer.
    pub fn end(&mut self, now_ns: u64, scene: &mut Scene) -> Heard {
        let counts = std::mem::take(&mut self.counts);
        self.rates.values_mut().for_each(Rates::turn);
        let sum = |of: fn(&Rates) -> f64| self.rates.values().map(of).sum();
        scene.delivered_per_s = sum(|rates| rates.delivered);
        scene.offered_per_s = sum(|rates| rates.offered);
        scene.published_per_s = sum(|rates| rates.published);
        scene.admitted_per_s = sum(|rates| rates.admitted);
        let is_fresh = std::mem::take(&mut self.is_fresh);
        if is_fresh {
            scene.latency_us = percentiles(&self.corrected);
            scene.latency_so_far_us = percentiles(&self.all);
            self.corrected.reset();
        }
        if !self.lag.is_empty() {
            scene.lag_us = percentiles(&self.lag);
            self.lag.reset();
        }
        push(&mut scene.p99_history, scene.latency_us.map_or(0, |latency| latency.p99));
        push(&mut scene.rate_history, scene.delivered_per_s as u64);
        self.began_ns = now_ns;
        Heard { counts, is_fresh }
    }
}

impl Scene {
    /// The target was seen.
    pub fn see(&mut self, sample: TargetSample) {
        let use_of = |earlier: TargetSample| {
            let seconds = sample.at_ns.checked_sub(earlier.at_ns)? as f64 / SECOND_NS as f64;
            Some((sample.cpu_s? - earlier.cpu_s?) * 100.0 / seconds)
        };
        self.target_cpu_percent = self.target.and_then(use_of).filter(|use_of| use_of.is_finite());
        self.target = Some(sample);
    }

    /// Something happened.
    pub fn tell(&mut self, text: String) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(text);
    }

    /// The busiest thread.
    pub fn busiest(&self) -> f64 {
        self.busy.values().copied().fold(0.0, f64::max)
    }
}

fn push(history: &mut VecDeque<u64>, value: u64) {
    if history.len() == HISTORY_MAX {
        history.pop_front();
    }
    history.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Timings;

    #[test]
    fn a_second_is_shown_and_forgotten_and_the_whole_is_not() {
        let (mut second, mut scene) = (Second::new(0), Scene::default());
        let mut interval = Interval {
            source: "worker-0".into(),
            phase: 0,
            from_ns: 0,
            to_ns: SECOND_NS,
            ready: 3,
            busy: 0.25,
            counts: Counts { delivered: 10, ..Counts::default() },
            timings: Timings::default(),
        };
        interval.timings.corrected.record(500).unwrap();
        second.add(&interval, &mut scene);
        assert!(!second.is_over(SECOND_NS - 1) && second.is_over(SECOND_NS));
        assert!(second.end(2 * SECOND_NS, &mut scene).is_fresh);
        assert_eq!((scene.delivered_per_s, scene.latency_us.unwrap().p50), (10.0, 500));
        interval.timings = Timings::default();
        interval.counts.delivered = 0;
        second.add(&interval, &mut scene);
        second.end(3 * SECOND_NS, &mut scene);
        assert_eq!((scene.delivered_per_s, scene.latency_us), (0.0, None));
        assert_eq!((scene.totals.delivered, scene.latency_so_far_us.unwrap().p50), (10, 500));
        assert_eq!(scene.rate_history, [10, 0]);
    }

    #[test]
    fn a_rate_does_not_jump_with_the_second_in_which_an_interval_comes() {
        let (mut second, mut scene) = (Second::new(0), Scene::default());
        let mut told = 0;
        let mut rate_after = |ends_ms: &[u64]| {
            for &end_ms in ends_ms {
                let counts = Counts { delivered: end_ms - told, ..Counts::default() };
                let (from_ns, to_ns) = (told * 1_000_000, end_ms * 1_000_000);
                let (source, timings) = ("worker-0".into(), Timings::default());
                let (phase, ready, busy) = (0, 1, 0.5);
                let interval =
                    Interval { source, phase, from_ns, to_ns, ready, busy, counts, timings };
                second.add(&interval, &mut scene);
                told = end_ms;
            }
            second.end(SECOND_NS, &mut scene);
            scene.delivered_per_s
        };
        assert_eq!(rate_after(&[900]), 1000.0);
        assert_eq!(rate_after(&[]), 1000.0, "none came");
        assert_eq!(rate_after(&[1900, 2900]), 1000.0, "two came");
        assert_eq!(rate_after(&[2901]), 1000.0, "a short one says nothing");
        assert_eq!(rate_after(&[3901]), 1000.0);
        for _ in 0..QUIET_MAX {
            assert_eq!(rate_after(&[]), 1000.0);
        }
        assert_eq!(rate_after(&[]), 0.0, "silence for long is none");
    }

    #[test]
    fn use_of_the_target_is_between_two_looks() {
        let mut scene = Scene::default();
        let at = |at_ns, cpu_s| TargetSample { at_ns, cpu_s, ..TargetSample::default() };
        scene.see(at(0, Some(1.0)));
        assert_eq!(scene.target_cpu_percent, None);
        scene.see(at(2 * SECOND_NS, Some(2.0)));
        assert_eq!(scene.target_cpu_percent, Some(50.0));
    }
}
