//! Adds up what everybody reports, by phase. Pure.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::clock::SECOND_NS;
use crate::latency::Summary as Percentiles;
use crate::record::kept::{Figures, TargetSample};
use crate::record::totals::is_odd;
use crate::record::{Counts, Interval, Timings};

/// Of odd clients those who are accounted for.
const SLOW: &str = "slow";
const PUBLISHER: &str = "publisher";

/// What a phase is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Clients connect.
    Ramp,
    /// Something is measured, and nothing is published.
    #[default]
    Quiet,
    /// Something is published and measured; by a window when not paced.
    Publishing {
        /// Whether every message has a moment at which it is due.
        paced: bool,
    },
}

/// When a phase was, and what of it is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub began_ns: u64,
    /// Its end.
    pub ended_ns: u64,
    /// The beginning of what is measured …
    pub from_ns: u64,
    /// … and its end; the same as its beginning: nothing is.
    pub to_ns: u64,
}

impl Span {
    /// Seconds that are measured.
    pub fn measured_s(&self) -> f64 {
        self.to_ns.saturating_sub(self.from_ns) as f64 / SECOND_NS as f64
    }

    fn lasted_s(&self) -> f64 {
        self.ended_ns.saturating_sub(self.began_ns) as f64 / SECOND_NS as f64
    }
}

/// Everything that was reported.
pub struct Books {
    phases: Vec<PhaseBook>,
    is_all_timed: bool,
    /// Everything that was counted, odd clients' apart.
    pub running: Counts,
    /// What the slow readers counted.
    pub slow: Counts,
    /// Processor and memory of the target, in order.
    pub samples: Vec<TargetSample>,
}

#[derive(Default)]
struct PhaseBook {
    name: String,
    sort: Sort,
    span: Span,
    counts: Counts,
    timings: Timings,
    inside: BTreeMap<String, Inside>,
}

/// What one source has seen while measuring. Of an interval that is measured in part its part
/// counts, as if everything in it had come evenly.
#[derive(Clone, Copy, Default)]
struct Inside {
    ns: f64,
    busy_ns: f64,
    waited_ns: f64,
    delivered: f64,
    admitted: f64,
}

impl Inside {
    fn add(&mut self, other: &Self) {
        self.ns += other.ns;
        self.busy_ns += other.busy_ns;
        self.waited_ns += other.waited_ns;
        self.delivered += other.delivered;
        self.admitted += other.admitted;
    }
}

impl Books {
    /// Of phases with these names. If all deliveries are timed, their number says how many came of
    /// what was measured.
    pub fn new(phases: impl Iterator<Item = (String, Sort)>, is_all_timed: bool) -> Self {
        let phases =
            phases.map(|(name, sort)| PhaseBook { name, sort, ..PhaseBook::default() }).collect();
        let (running, slow) = (Counts::default(), Counts::default());
        Self { phases, is_all_timed, running, slow, samples: Vec::new() }
    }

    /// When a phase is, or was.
    pub fn span(&mut self, phase: usize) -> &mut Span {
        &mut self.phases[phase].span
    }

    /// Adds an interval.
    pub fn add(&mut self, interval: &Interval) {
        if is_odd(&interval.source) {
            if interval.source.ends_with(SLOW) {
                self.slow.add(&interval.counts);
            }
            return;
        }
        self.running.add(&interval.counts);
        let Some(phase) = self.phases.get_mut(interval.phase) else { return };
        phase.counts.add(&interval.counts);
        phase.timings.add(&interval.timings);
        let Span { from_ns, to_ns, .. } = phase.span;
        let ns = interval.to_ns.min(to_ns).saturating_sub(interval.from_ns.max(from_ns)) as f64;
        let all_ns = interval.to_ns.saturating_sub(interval.from_ns) as f64;
        if ns > 0.0 {
            let inside = phase.inside.entry(interval.source.clone()).or_default();
            inside.add(&Inside {
                ns,
                busy_ns: interval.busy * ns,
                waited_ns: interval.waited() * ns,
                delivered: interval.counts.delivered as f64 * ns / all_ns,
                admitted: interval.counts.admitted as f64 * ns / all_ns,
            });
        }
    }

    /// The figures of one phase.
    pub fn figures(&self, phase: usize) -> Figures {
        self.figures_of(&[&self.phases[phase]], &self.phases[phase].name)
    }

    /// Those of all measured phases together, and how many seconds they were.
    pub fn measured(&self) -> (Figures, f64) {
        let all: Vec<&PhaseBook> = self.all_measured().collect();
        let seconds = all.iter().map(|phase| phase.span.measured_s()).sum();
        (self.figures_of(&all, "measured"), seconds)
    }

    /// The figures of each measured phase in which messages were due.
    pub fn paced(&self) -> Vec<Figures> {
        let is_paced = |phase: &&PhaseBook| phase.sort == Sort::Publishing { paced: true };
        let paced = self.all_measured().filter(is_paced);
        paced.map(|phase| self.figures_of(&[phase], &phase.name)).collect()
    }

    /// The end of what is measured.
    pub fn measured_to_ns(&self) -> u64 {
        self.all_measured().map(|phase| phase.span.to_ns).max().unwrap_or_default()
    }

    /// Share of a measured phase that the worker waited for a core that waited the longest in any.
    pub fn waited(&self) -> f64 {
        self.worst(|part| part.waited_ns)
    }

    /// The same for how busy it was. A quiet phase does not make up for a busy one.
    pub fn busy(&self) -> f64 {
        self.worst(|part| part.busy_ns)
    }

    fn worst(&self, of: fn(&Inside) -> f64) -> f64 {
        let each = self.all_measured().map(|phase| share(&inside([phase].into_iter()), of));
        each.fold(0.0, f64::max)
    }

    fn all_measured(&self) -> impl Iterator<Item = &PhaseBook> {
        self.phases.iter().filter(|phase| phase.span.measured_s() > 0.0)
    }

    /// Clients that got ready in a second, over all ramps.
    pub fn connects_per_s(&self) -> Option<f64> {
        let ramps = || self.phases.iter().filter(|phase| phase.sort == Sort::Ramp);
        let seconds: f64 = ramps().map(|ramp| ramp.span.lasted_s()).sum();
        let connected: u64 = ramps().map(|ramp| ramp.counts.connected).sum();
        (seconds > 0.0).then(|| connected as f64 / seconds)
    }

    /// Growth of the target's memory over the first ramp, per client that got ready in it.
    pub fn target_bytes_per_client(&self) -> Option<f64> {
        let ramp = self.phases.iter().find(|phase| phase.sort == Sort::Ramp)?;
        let known = || self.samples.iter().filter_map(|look| Some((look.at_ns, look.rss_bytes?)));
        let before = known().take_while(|(at_ns, _)| *at_ns <= ramp.span.began_ns).last();
        let after = known().find(|(at_ns, _)| *at_ns >= ramp.span.ended_ns);
        // A ramp that is hardly over has been looked at a moment before its end.
        let after =
            after.or_else(|| known().next_back().filter(|(at_ns, _)| *at_ns > before_ns(before)));
        let ((_, first), (_, last)) = (before?, after?);
        let clients = ramp.counts.connected;
        (clients > 0).then(|| (last as f64 - first as f64) / clients as f64)
    }

    /// All latencies that were measured so far.
    pub fn latency(&self) -> Option<Percentiles> {
        let mut all = crate::record::no_times();
        for phase in &self.phases {
            all.add(&phase.timings.corrected).expect("all have the same bounds");
        }
        percentiles(&all)
    }
}

/// Percentiles of some times; none of none.
pub fn percentiles(times: &Histogram<u64>) -> Option<Percentiles> {
    let at = |quantile| times.value_at_quantile(quantile);
    (!times.is_empty()).then(|| Percentiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: times.max(),
    })
}

type Sources<'a> = BTreeMap<&'a str, Inside>;

/// What each source has seen in these phases.
fn inside<'a>(phases: impl Iterator<Item = &'a PhaseBook>) -> Sources<'a> {
    let mut inside = Sources::new();
    for (source, part) in phases.flat_map(|phase| &phase.inside) {
        inside.entry(source).or_default().add(part);
    }
    inside
}

/// The largest share of a worker's time.
fn share(inside: &Sources<'_>, of: fn(&Inside) -> f64) -> f64 {
    let workers = inside.iter().filter(|(source, _)| **source != PUBLISHER);
    workers.map(|(_, part)| of(part) / part.ns).fold(0.0, f64::max)
}

impl Books {
    fn figures_of(&self, phases: &[&PhaseBook], name: &str) -> Figures {
        let (mut counts, mut timings) = (Counts::default(), Timings::default());
        for phase in phases {
            counts.add(&phase.counts);
            timings.add(&phase.timings);
        }
        // In a pause nobody delivers, and that says nothing of how fast it goes.
        let loud = loud(phases);
        let inside_loud = inside(loud.iter().copied());
        let seconds: f64 = loud.iter().map(|phase| phase.span.measured_s()).sum();
        let per_s = |of: fn(&Inside) -> f64| -> f64 {
            inside_loud.values().map(|part| of(part) * SECOND_NS as f64 / part.ns).sum()
        };
        let deliveries_per_s = match self.is_all_timed {
            true => {
                loud.iter().map(|phase| phase.timings.corrected.len()).sum::<u64>() as f64 / seconds
            }
            false => per_s(|part| part.delivered),
        };
        let deliveries_per_s = (seconds > 0.0).then_some(deliveries_per_s);
        let cpu_of = |phases: &[&PhaseBook]| -> Option<f64> {
            phases.iter().map(|phase| cpu_s(&self.samples, &phase.span)).sum()
        };
        let lasted_s: f64 = phases.iter().map(|phase| phase.span.lasted_s()).sum();
        Figures {
            name: name.to_owned(),
            from_ns: phases.first().map_or(0, |phase| phase.span.began_ns),
            to_ns: phases.last().map_or(0, |phase| phase.span.ended_ns),
            counts,
            latency_us: percentiles(&timings.corrected),
            uncorrected_us: percentiles(&timings.uncorrected),
            lag_us: percentiles(&timings.lag),
            answer_us: percentiles(&timings.answer),
            connect_us: percentiles(&timings.connect),
            deliveries_per_s,
            admitted_per_s: inside_loud
                .contains_key(PUBLISHER)
                .then(|| per_s(|part| part.admitted)),
            connects_per_s: (counts.connected > 0 && lasted_s > 0.0)
                .then(|| counts.connected as f64 / lasted_s),
            target_cpu_s: cpu_of(phases).filter(|_| seconds > 0.0),
            deliveries_per_target_cpu_s: match (deliveries_per_s, cpu_of(&loud)) {
                (Some(per_s), Some(cpu_s)) if cpu_s > 0.0 => Some(per_s * seconds / cpu_s),
                _ => None,
            },
            busy: share(&inside(phases.iter().copied()), |part| part.busy_ns),
        }
    }
}

/// Of some phases those in which something is published; all, if it is in none.
fn loud<'a>(phases: &[&'a PhaseBook]) -> Vec<&'a PhaseBook> {
    let is_loud = |phase: &&&PhaseBook| match phase.sort {
        Sort::Publishing { .. } => phase.span.measured_s() > 0.0,
        Sort::Ramp | Sort::Quiet => false,
    };
    let loud: Vec<_> = phases.iter().filter(is_loud).copied().collect();
    if loud.is_empty() { phases.to_vec() } else { loud }
}

/// The moment of a look; none was before everything.
fn before_ns(look: Option<(u64, u64)>) -> u64 {
    look.map_or(0, |(at_ns, _)| at_ns)
}

/// Processor seconds in what is measured of a span. The target is looked at when that begins and
/// when it ends; what is between two looks is taken to be even.
fn cpu_s(samples: &[TargetSample], span: &Span) -> Option<f64> {
    if span.measured_s() == 0.0 {
        return Some(0.0);
    }
    let looks = samples.iter().filter_map(|look| Some((look.at_ns, look.cpu_s?)));
    let looks: Vec<(u64, f64)> = looks.collect();
    let inside = |(at_ns, _): &&(u64, f64)| (span.from_ns..=span.to_ns).contains(at_ns);
    // Without a look beside the span the nearest one in it says how it went.
    let first = at(&looks, span.from_ns).or_else(|| looks.iter().find(inside).copied())?;
    let last = at(&looks, span.to_ns).or_else(|| looks.iter().rfind(inside).copied())?;
    let ns = last.0.checked_sub(first.0).filter(|ns| *ns > 0)?;
    Some((last.1 - first.1) * SECOND_NS as f64 / ns as f64 * span.measured_s())
}

/// What a look at that moment would have said, if there is one before it and one after it.
fn at(looks: &[(u64, f64)], at_ns: u64) -> Option<(u64, f64)> {
    let next = looks.partition_point(|(look_ns, _)| *look_ns < at_ns);
    let &(after_ns, after) = looks.get(next)?;
    if after_ns == at_ns {
        return Some((after_ns, after));
    }
    let &(before_ns, before) = looks.get(next.checked_sub(1)?)?;
    let part = (at_ns - before_ns) as f64 / (after_ns - before_ns) as f64;
    Some((at_ns, before + (after - before) * part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(source: &str, from_s: u64, delivered: u64, busy: f64) -> Interval {
        Interval {
            source: source.to_owned(),
            phase: 0,
            from_ns: from_s * SECOND_NS,
            to_ns: (from_s + 1) * SECOND_NS,
            ready: 1,
            busy,
            counts: Counts { delivered, ..Counts::default() },
            timings: Timings::default(),
        }
    }

    #[test]
    fn rates_are_of_what_is_measured_and_counts_of_everything() {
        let mut books = Books::new([("steady".to_owned(), Sort::Quiet)].into_iter(), false);
        let (from_ns, to_ns) = (SECOND_NS, 3 * SECOND_NS);
        *books.span(0) = Span { began_ns: 0, ended_ns: to_ns, from_ns, to_ns };
        for (from_s, delivered, busy) in [(0, 500, 0.9), (1, 100, 0.2), (2, 300, 0.4)] {
            books.add(&interval("worker-0", from_s, delivered, busy));
            books.add(&interval("worker-1", from_s, 7, 0.1));
            books.add(&interval("slow", from_s, 1000, 1.0));
        }
        let (measured, seconds) = books.measured();
        assert_eq!(seconds, 2.0);
        assert_eq!(measured.deliveries_per_s, Some(207.0));
        assert_eq!(measured.counts.delivered, 921);
        assert!((measured.busy - 0.3).abs() < 1e-9, "the busiest: {}", measured.busy);
        assert_eq!((books.running.delivered, books.slow.delivered), (921, 3000));
    }

    #[test]
    fn the_target_s_time_is_that_of_the_samples_inside() {
        let sample = |at_s: u64, cpu_s: f64, rss: u64| TargetSample {
            at_ns: at_s * SECOND_NS,
            cpu_s: Some(cpu_s),
            rss_bytes: Some(rss),
            ..TargetSample::default()
        };
        let names = [("up".to_owned(), Sort::Ramp), ("on".to_owned(), Sort::Quiet)];
        let mut books = Books::new(names.into_iter(), false);
        let s = SECOND_NS;
        *books.span(0) = Span { began_ns: s, ended_ns: 3 * s, ..Span::default() };
        *books.span(1) = Span { began_ns: 3 * s, ended_ns: 8 * s, from_ns: 4 * s, to_ns: 8 * s };
        let mut up = interval("worker-0", 1, 0, 0.0);
        up.counts.connected = 10;
        books.add(&up);
        let look = |books: &mut Books, looks: &[(u64, f64, u64)]| {
            books.samples =
                looks.iter().map(|&(at_s, cpu_s, rss)| sample(at_s, cpu_s, rss)).collect();
            (books.measured().0.target_cpu_s, books.target_bytes_per_client())
        };
        let all = [(1, 0.0, 1000), (3, 5.0, 3000), (5, 6.0, 9000), (7, 7.0, 0), (9, 9.0, 0)];
        assert_eq!(look(&mut books, &all), (Some(2.5), Some(200.0)), "from 5.5 to 8.0");
        assert_eq!(look(&mut books, &all[..4]).0, Some(2.0), "1.5 in 3 s of 4");
        assert_eq!(look(&mut books, &all[..3]).0, Some(2.0), "0.5 in the only second");
        assert_eq!(look(&mut books, &all[2..3]), (None, None), "one look tells nothing");
        assert_eq!(look(&mut books, &[(0, 0.0, 500), (4, 0.0, 1500), (8, 1.0, 0)]).1, Some(100.0));
        assert_eq!(books.connects_per_s(), Some(5.0));
    }

    #[test]
    fn a_pause_does_not_make_the_others_slower_nor_better() {
        let loud = Sort::Publishing { paced: true };
        let sorts = [Sort::Ramp, loud, Sort::Quiet, Sort::Publishing { paced: false }, loud];
        for is_all_timed in [true, false] {
            let names = sorts.iter().enumerate().map(|(nth, &sort)| (nth.to_string(), sort));
            let mut books = Books::new(names, is_all_timed);
            let sample = |at_s: u64| TargetSample {
                at_ns: at_s * SECOND_NS,
                cpu_s: Some(at_s as f64 / 2.0),
                ..TargetSample::default()
            };
            books.samples = (0..=5).map(sample).collect();
            for phase in 0..sorts.len() {
                let (from_ns, to_ns) = (phase as u64 * SECOND_NS, (phase as u64 + 1) * SECOND_NS);
                let measured_ns = if phase == 0 { (0, 0) } else { (from_ns, to_ns) };
                *books.span(phase) = Span {
                    began_ns: from_ns,
                    ended_ns: to_ns,
                    from_ns: measured_ns.0,
                    to_ns: measured_ns.1,
                };
                let delivered = [0, 90, 0, 60, 30][phase];
                let mut part = interval("worker-0", phase as u64, delivered, 0.1);
                part.phase = phase;
                part.timings.corrected.record_n(500, delivered).expect("within the bounds");
                part.counts.offered = delivered;
                books.add(&part);
            }
            let (measured, seconds) = books.measured();
            assert_eq!((seconds, measured.deliveries_per_s), (4.0, Some(60.0)));
            assert_eq!(measured.target_cpu_s, Some(2.0));
            assert_eq!(measured.deliveries_per_target_cpu_s, Some(120.0));
            let paced: Vec<_> =
                books.paced().into_iter().map(|each| (each.name, each.counts.offered)).collect();
            assert_eq!(paced, [("1".to_owned(), 90), ("4".to_owned(), 30)]);
            assert_eq!(books.figures(2).deliveries_per_s, Some(0.0));
        }
    }

    #[test]
    fn a_phase_that_no_interval_lies_within_has_its_part_of_them() {
        let mut books = Books::new([("short".to_owned(), Sort::Quiet)].into_iter(), true);
        let (from_ns, to_ns) = (SECOND_NS / 2, 3 * SECOND_NS / 2);
        *books.span(0) = Span { began_ns: from_ns, ended_ns: to_ns, from_ns, to_ns };
        for (from_s, delivered, busy) in [(0, 100, 0.2), (1, 300, 0.6), (2, 1000, 1.0)] {
            let mut part = interval("worker-0", from_s, delivered, busy);
            part.counts.admitted = delivered;
            part.counts.waited_us = 100_000 * from_s;
            part.timings.corrected.record_n(500, 80).expect("it is within the bounds");
            books.add(&Interval { source: PUBLISHER.to_owned(), ..part.clone() });
            part.timings = Timings::default();
            part.counts.admitted = 0;
            books.add(&part);
        }
        let (measured, _) = books.measured();
        assert!((measured.busy - 0.4).abs() < 1e-9, "{}", measured.busy);
        assert!((books.waited() - 0.05).abs() < 1e-9, "{}", books.waited());
        assert_eq!(measured.deliveries_per_s, Some(240.0), "as many as were timed");
        assert_eq!(measured.admitted_per_s, Some(200.0));
    }
}
