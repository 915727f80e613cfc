//! Adds up what everybody reports, by phase. Pure.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::campaign::publisher::Published;
use crate::clock::SECOND_NS;
use crate::latency::Summary as Percentiles;
use crate::orders::Books as Last;
use crate::record::kept::{Figures, TargetSample};
use crate::record::{Counts, Interval, Timings};
use crate::watch::Watch;

/// Sources of intervals whose clients are accounted for apart.
const ODD_SOURCES: [&str; 2] = ["slow", "misbehaving"];
const PUBLISHER: &str = "publisher";

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
    is_ramp: bool,
    span: Span,
    counts: Counts,
    timings: Timings,
    inside: BTreeMap<String, Inside>,
}

/// What one source has seen in intervals that are measured from beginning to end.
#[derive(Clone, Copy, Default)]
struct Inside {
    ns: u64,
    busy_ns: f64,
    delivered: u64,
    admitted: u64,
}

impl Books {
    /// Of phases with these names; whether each is a ramp.
    pub fn new(phases: impl Iterator<Item = (String, bool)>) -> Self {
        let phases = phases
            .map(|(name, is_ramp)| PhaseBook { name, is_ramp, ..PhaseBook::default() })
            .collect();
        let (running, slow) = (Counts::default(), Counts::default());
        Self { phases, running, slow, samples: Vec::new() }
    }

    /// When a phase is, or was.
    pub fn span(&mut self, phase: usize) -> &mut Span {
        &mut self.phases[phase].span
    }

    /// Adds an interval.
    pub fn add(&mut self, interval: &Interval) {
        if ODD_SOURCES.iter().any(|odd| interval.source.ends_with(odd)) {
            if interval.source.ends_with(ODD_SOURCES[0]) {
                self.slow.add(&interval.counts);
            }
            return;
        }
        self.running.add(&interval.counts);
        let Some(phase) = self.phases.get_mut(interval.phase) else { return };
        phase.counts.add(&interval.counts);
        phase.timings.add(&interval.timings);
        let Span { from_ns, to_ns, .. } = phase.span;
        if interval.from_ns >= from_ns && interval.to_ns <= to_ns {
            let ns = interval.to_ns.saturating_sub(interval.from_ns);
            let inside = phase.inside.entry(interval.source.clone()).or_default();
            inside.ns += ns;
            inside.busy_ns += interval.busy * ns as f64;
            inside.delivered += interval.counts.delivered;
            inside.admitted += interval.counts.admitted;
        }
    }

    /// The figures of one phase.
    pub fn figures(&self, phase: usize) -> Figures {
        figures(&[&self.phases[phase]], &self.phases[phase].name, &self.samples)
    }

    /// Those of all measured phases together, and how many seconds they were.
    pub fn measured(&self) -> (Figures, f64) {
        let all: Vec<&PhaseBook> =
            self.phases.iter().filter(|phase| phase.span.measured_s() > 0.0).collect();
        let seconds = all.iter().map(|phase| phase.span.measured_s()).sum();
        (figures(&all, "measured", &self.samples), seconds)
    }

    /// Clients that got ready in a second, over all ramps.
    pub fn connects_per_s(&self) -> Option<f64> {
        let ramps = || self.phases.iter().filter(|phase| phase.is_ramp);
        let seconds: f64 = ramps().map(|ramp| ramp.span.lasted_s()).sum();
        let connected: u64 = ramps().map(|ramp| ramp.counts.connected).sum();
        (seconds > 0.0).then(|| connected as f64 / seconds)
    }

    /// Growth of the target's memory over the first ramp, per client that got ready in it.
    pub fn target_bytes_per_client(&self) -> Option<f64> {
        let ramp = self.phases.iter().find(|phase| phase.is_ramp)?;
        let rss_at = |at_ns: u64| {
            let upto = self.samples.iter().take_while(|sample| sample.at_ns <= at_ns);
            upto.filter_map(|sample| sample.rss_bytes).last()
        };
        let (first, last) = (rss_at(ramp.span.began_ns)?, rss_at(ramp.span.ended_ns)?);
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

fn figures(phases: &[&PhaseBook], name: &str, samples: &[TargetSample]) -> Figures {
    let (mut counts, mut timings) = (Counts::default(), Timings::default());
    let mut inside: BTreeMap<&str, Inside> = BTreeMap::new();
    for phase in phases {
        counts.add(&phase.counts);
        timings.add(&phase.timings);
        for (source, part) in &phase.inside {
            let sum = inside.entry(source).or_default();
            sum.ns += part.ns;
            sum.busy_ns += part.busy_ns;
            sum.delivered += part.delivered;
            sum.admitted += part.admitted;
        }
    }
    let seconds: f64 = phases.iter().map(|phase| phase.span.measured_s()).sum();
    let per_s = |of: fn(&Inside) -> u64| -> f64 {
        let each = inside.values().filter(|part| part.ns > 0);
        each.map(|part| of(part) as f64 * SECOND_NS as f64 / part.ns as f64).sum()
    };
    let timed = timings.corrected.len() as f64;
    let seen = inside.keys().any(|source| *source != PUBLISHER);
    let deliveries_per_s = if seen { per_s(|part| part.delivered) } else { timed / seconds };
    let deliveries_per_s = (seconds > 0.0).then_some(deliveries_per_s);
    let workers = inside.iter().filter(|(source, part)| **source != PUBLISHER && part.ns > 0);
    let busy = workers.map(|(_, part)| part.busy_ns / part.ns as f64).fold(0.0, f64::max);
    let target_cpu_s: Option<f64> =
        phases.iter().map(|phase| cpu_s(samples, &phase.span)).sum::<Option<f64>>();
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
        admitted_per_s: inside.contains_key(PUBLISHER).then(|| per_s(|part| part.admitted)),
        connects_per_s: (counts.connected > 0 && lasted_s > 0.0)
            .then(|| counts.connected as f64 / lasted_s),
        target_cpu_s: target_cpu_s.filter(|_| seconds > 0.0),
        deliveries_per_target_cpu_s: match (deliveries_per_s, target_cpu_s) {
            (Some(per_s), Some(cpu_s)) if cpu_s > 0.0 => Some(per_s * seconds / cpu_s),
            _ => None,
        },
        busy,
    }
}

/// Processor seconds in what is measured of a span, as the samples inside say.
fn cpu_s(samples: &[TargetSample], span: &Span) -> Option<f64> {
    if span.measured_s() == 0.0 {
        return Some(0.0);
    }
    let is_inside = |sample: &&TargetSample| (span.from_ns..=span.to_ns).contains(&sample.at_ns);
    let mut inside = samples.iter().filter(is_inside).filter(|sample| sample.cpu_s.is_some());
    let (first, last) = (inside.next()?, inside.next_back()?);
    let seconds = (last.at_ns - first.at_ns) as f64 / SECOND_NS as f64;
    Some((last.cpu_s? - first.cpu_s?) / seconds * span.measured_s())
}

/// The last words of all workers and of the publisher.
#[derive(Default)]
pub struct Closing {
    /// All counts.
    pub totals: Counts,
    /// Why connections ended.
    pub ended: BTreeMap<String, u64>,
    /// What first clients have seen.
    pub watches: Vec<(u32, Watch)>,
    /// User memory of the generator per client, the most.
    pub bytes_per_client: u64,
}

impl Closing {
    /// A worker's last word.
    pub fn add(&mut self, books: Last) {
        self.totals.add(&books.counts);
        for (why, count) in books.faults {
            *self.ended.entry(why).or_default() += count;
        }
        self.watches.extend(books.watches);
        self.bytes_per_client = self.bytes_per_client.max(books.bytes_per_client);
    }

    /// Counts the rooms whose totals are not what was let in, as far as their first client has
    /// missed nothing; what is more than was let in is wrong in any case. How many could not be
    /// checked is the answer.
    pub fn check_totals(&mut self, published: &Published) -> u64 {
        let totals = &self.totals;
        let missed =
            totals.declared_shed + totals.declared_reset + totals.disconnected + totals.unexplained;
        let (mut wrong, mut unchecked) = (0, 0);
        for (room, watch) in &self.watches {
            let Some(admitted) = published.rooms.get(*room as usize) else { continue };
            let is_complete = watch.ended && (missed == 0 || watch.frames() == admitted.last_seq);
            let is_more = watch.taps > admitted.taps || watch.last_state > admitted.last_state;
            let differs = watch.taps != admitted.taps || watch.last_state != admitted.last_state;
            wrong += u64::from(is_more || (is_complete && differs));
            unchecked += u64::from(!is_complete && admitted.last_seq > 0);
        }
        self.totals.wrong_totals += wrong;
        unchecked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::publisher::Let;

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
        let mut books = Books::new([("steady".to_owned(), false)].into_iter());
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
        let mut books = Books::new([("up".to_owned(), true), ("on".to_owned(), false)].into_iter());
        let s = SECOND_NS;
        *books.span(0) = Span { began_ns: s, ended_ns: 3 * s, ..Span::default() };
        *books.span(1) = Span { began_ns: 3 * s, ended_ns: 8 * s, from_ns: 4 * s, to_ns: 8 * s };
        let mut up = interval("worker-0", 1, 0, 0.0);
        up.counts.connected = 10;
        books.add(&up);
        books.samples = [(1, 0.0, 1000), (3, 5.0, 3000), (5, 6.0, 9000), (7, 7.0, 0)]
            .map(|(at_s, cpu_s, rss)| sample(at_s, cpu_s, rss))
            .to_vec();
        assert_eq!(books.measured().0.target_cpu_s, Some(2.0), "half a core for 4 s");
        assert_eq!(books.target_bytes_per_client(), Some(200.0));
        assert_eq!(books.connects_per_s(), Some(5.0));
        books.samples.truncate(3);
        assert_eq!(books.measured().0.target_cpu_s, None, "one sample tells nothing");
    }

    #[test]
    fn totals_are_wrong_when_nothing_was_missed_and_they_differ() {
        let check = |taps, last_state, ended, shed, expected| {
            let watch = Watch { taps, last_state, ended, combos: 3, ..Watch::default() };
            let mut closing = Closing { watches: vec![(0, watch)], ..Closing::default() };
            closing.totals.declared_shed = shed;
            let room = Let { last_seq: 9, admitted: 3, taps: 5, last_state: 4 };
            let published = Published { rooms: vec![room], ..Published::default() };
            let unchecked = closing.check_totals(&published);
            assert_eq!((closing.totals.wrong_totals, unchecked), expected);
        };
        check(5, 4, true, 0, (0, 0));
        check(4, 4, true, 0, (1, 0));
        check(5, 3, true, 0, (1, 0));
        check(4, 4, true, 1, (0, 1));
        check(6, 4, false, 1, (1, 1));
    }
}
