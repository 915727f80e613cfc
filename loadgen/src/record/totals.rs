//! Intervals of many sources, added up by phase and in all.

use crate::latency::summary;
use crate::record::kept::Figures;
use crate::record::{Counts, Interval, Timings};

const NS_PER_S: f64 = 1e9;

/// All that some intervals say, without loss.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The earliest beginning; `to_ns` when there are no intervals.
    pub from_ns: u64,
    /// The latest end.
    pub to_ns: u64,
    /// Everything that was counted.
    pub counts: Counts,
    /// Everything that was timed.
    pub timings: Timings,
    /// The busiest that a source was in an interval.
    pub busy: f64,
    /// How many intervals these are.
    pub intervals: u64,
}

impl Totals {
    /// Adds an interval.
    pub fn add(&mut self, interval: &Interval) {
        self.add_counts(interval.from_ns, interval.to_ns, interval.busy, &interval.counts);
        self.timings.add(&interval.timings);
    }

    /// Adds an interval without its times.
    pub fn add_counts(&mut self, from_ns: u64, to_ns: u64, busy: f64, counts: &Counts) {
        self.from_ns = if self.intervals == 0 { from_ns } else { self.from_ns.min(from_ns) };
        self.to_ns = self.to_ns.max(to_ns);
        self.busy = self.busy.max(busy);
        self.counts.add(counts);
        self.intervals += 1;
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        if other.intervals == 0 {
            return;
        }
        self.add_counts(other.from_ns, other.to_ns, other.busy, &other.counts);
        self.intervals += other.intervals - 1;
        self.timings.add(&other.timings);
    }

    /// How long it all took.
    pub fn seconds(&self) -> f64 {
        self.to_ns.saturating_sub(self.from_ns) as f64 / NS_PER_S
    }

    /// Its figures, without those of the target.
    pub fn figures(&self, name: &str) -> Figures {
        let Timings { corrected, uncorrected, lag, answer, connect } = &self.timings;
        let seconds = self.seconds();
        let rate = |count: u64| (seconds > 0.0 && count > 0).then(|| count as f64 / seconds);
        Figures {
            name: name.to_owned(),
            from_ns: self.from_ns,
            to_ns: self.to_ns,
            counts: self.counts,
            latency_us: summary(corrected),
            uncorrected_us: summary(uncorrected),
            lag_us: summary(lag),
            answer_us: summary(answer),
            connect_us: summary(connect),
            deliveries_per_s: rate(self.counts.delivered),
            admitted_per_s: rate(self.counts.admitted),
            connects_per_s: rate(self.counts.connected),
            target_cpu_s: None,
            deliveries_per_target_cpu_s: None,
            busy: self.busy,
        }
    }
}

/// Intervals added up by phase.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    phases: Vec<Totals>,
}

impl Merged {
    /// Adds an interval to its phase.
    pub fn add(&mut self, interval: &Interval) {
        self.phase_mut(interval.phase).add(interval);
    }

    /// A phase, to be added to. There must be a bound on phases where they come from.
    pub fn phase_mut(&mut self, phase: usize) -> &mut Totals {
        if self.phases.len() <= phase {
            self.phases.resize_with(phase + 1, Totals::default);
        }
        &mut self.phases[phase]
    }

    /// The phases, in the scenario's order, up to the last of which anything is known.
    pub fn phases(&self) -> &[Totals] {
        &self.phases
    }

    /// All phases together.
    pub fn all(&self) -> Totals {
        let mut all = Totals::default();
        self.phases.iter().for_each(|phase| all.merge(phase));
        all
    }
}

/// Whether a source's clients are the odd ones, whose times say nothing about the target.
pub fn is_odd(source: &str) -> bool {
    ["slow", "misbehaving"].into_iter().any(|odd| {
        source.strip_suffix(odd).is_some_and(|front| front.is_empty() || front.ends_with('-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(phase: usize, from_ns: u64, us: u64) -> Interval {
        let mut timings = Timings::default();
        timings.corrected.saturating_record(us);
        Interval {
            source: "worker-0".to_owned(),
            phase,
            from_ns,
            to_ns: from_ns + 1_000_000_000,
            ready: 1,
            busy: us as f64 / 1000.0,
            counts: Counts { delivered: us, ..Counts::default() },
            timings,
        }
    }

    #[test]
    fn odd_clients_are_known_by_their_source() {
        let odd = ["slow", "box-slow", "r2-misbehaving"].into_iter().all(is_odd);
        assert!(odd && !["worker-0", "publisher", "yellow", ""].into_iter().any(is_odd));
    }

    #[test]
    fn phases_add_up_to_all() {
        let mut merged = Merged::default();
        for (phase, from_ns, us) in [(1, 3_000_000_000, 30), (1, 2_000_000_000, 10), (3, 9, 50)] {
            merged.add(&interval(phase, from_ns, us));
        }
        let spans = merged.phases().iter().map(|phase| (phase.intervals, phase.seconds()));
        assert_eq!(spans.collect::<Vec<_>>(), [(0, 0.0), (2, 2.0), (0, 0.0), (1, 1.0)]);
        let all = merged.all();
        assert_eq!((all.from_ns, all.to_ns, all.intervals), (9, 4_000_000_000, 3));
        assert_eq!((all.counts.delivered, all.busy, all.timings.corrected.len()), (90, 0.05, 3));
        let figures = all.figures("all");
        assert_eq!(figures.latency_us.map(|us| (us.p50, us.max)), Some((30, 50)));
        assert_eq!(figures.lag_us, None);
    }
}
