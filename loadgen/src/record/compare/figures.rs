//! The figures that are compared, of a whole run and of parts of it.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::record::compare::stats::Side;
use crate::record::kept::{Summary, TargetSample};
use crate::record::totals::is_odd;
use crate::record::{Record, Times, no_times};

/// Parts into which the measured time of a run is cut: enough to see how they differ, and so long
/// that neighbours have little to do with each other.
const PARTS: usize = 10;
/// Times beyond a percentile that there must be, for it to mean anything.
const BEYOND_MIN: f64 = 10.0;
/// Ramps that take no longer than this say little about how fast connections are made.
const RAMP_S_MIN: f64 = 0.5;
/// Memory comes from the kernel in pieces of some megabytes: less growth says nothing of a client's
/// part.
const GROWTH_BYTES_MIN: f64 = 16.0 * 1024.0 * 1024.0;
const NS_PER_S: f64 = 1e9;

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Half of the latencies are no longer.
    P50,
    /// 99 in a hundred.
    P99,
    /// 999 in a thousand.
    P999,
    /// Deliveries in a second.
    Deliveries,
    /// Processor time of the target for each delivery.
    TargetCpu,
    /// Memory of the target for each client.
    TargetBytes,
    /// Clients that got ready in a second.
    Connects,
}

impl Figure {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::P50,
        Self::P99,
        Self::P999,
        Self::Deliveries,
        Self::TargetCpu,
        Self::TargetBytes,
        Self::Connects,
    ];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
            Self::P999 => "p999_us",
            Self::Deliveries => "deliveries_per_s",
            Self::TargetCpu => "target_cpu_us_per_delivery",
            Self::TargetBytes => "target_bytes_per_client",
            Self::Connects => "connects_per_s",
        }
    }

    /// Whether more of it is better.
    pub fn more_is_better(self) -> bool {
        match self {
            Self::Deliveries | Self::Connects => true,
            Self::P50 | Self::P99 | Self::P999 | Self::TargetCpu | Self::TargetBytes => false,
        }
    }

    /// Whether it is a latency.
    pub fn is_latency(self) -> bool {
        self.quantile().is_some()
    }

    fn quantile(self) -> Option<f64> {
        match self {
            Self::P50 => Some(0.5),
            Self::P99 => Some(0.99),
            Self::P999 => Some(0.999),
            Self::Deliveries | Self::TargetCpu | Self::TargetBytes | Self::Connects => None,
        }
    }

    /// Of a whole run.
    fn of(self, summary: &Summary, times: &Times) -> Option<f64> {
        let measured = &summary.measured;
        match self {
            Self::P50 | Self::P99 | Self::P999 => quantile(times, self.quantile()?),
            Self::Deliveries => measured.deliveries_per_s,
            Self::TargetCpu => {
                measured.deliveries_per_target_cpu_s.filter(|per| *per > 0.0).map(|per| 1e6 / per)
            }
            Self::TargetBytes => {
                let clients = summary.totals.connected as f64;
                let grown = |bytes: &f64| bytes * clients >= GROWTH_BYTES_MIN;
                summary.target_bytes_per_client.filter(grown)
            }
            Self::Connects => connects_per_s(summary),
        }
    }

    /// Of a part of a run.
    fn of_part(self, part: &Part) -> Option<f64> {
        let deliveries = part.times.len() as f64;
        match self {
            Self::P50 | Self::P99 | Self::P999 => quantile(&part.times, self.quantile()?),
            Self::Deliveries => (part.seconds > 0.0).then(|| deliveries / part.seconds),
            Self::TargetCpu => {
                part.cpu_s.filter(|_| deliveries > 0.0).map(|cpu_s| cpu_s * 1e6 / deliveries)
            }
            Self::TargetBytes | Self::Connects => None,
        }
    }
}

/// All figures of some repeats. All of them have ended.
pub fn sides(records: &[Record]) -> Result<BTreeMap<Figure, Side>> {
    let mut sides = BTreeMap::<Figure, Side>::new();
    for record in records {
        let Some(summary) = &record.summary else { continue };
        let times = record.times("corrected")?;
        let parts = parts(record)?;
        for figure in Figure::ALL {
            let side = sides.entry(figure).or_default();
            if let Some(value) = figure.of(summary, &times) {
                side.runs.push(value);
                side.parts.push(parts.iter().filter_map(|part| figure.of_part(part)).collect());
            }
        }
    }
    Ok(sides)
}

/// Clients that got ready in a second of the phases in which any did for the first time: nobody does
/// while measuring.
fn connects_per_s(summary: &Summary) -> Option<f64> {
    let rates = summary.phases.iter().map(|phase| (phase.counts.connected, phase.connects_per_s));
    let ramps = rates.filter_map(|(count, rate)| Some((count as f64, rate?)));
    let (count, seconds) = ramps
        .filter(|(_, rate)| *rate > 0.0)
        .fold((0.0, 0.0), |(all, seconds), (count, rate)| (all + count, seconds + count / rate));
    (seconds >= RAMP_S_MIN).then(|| count / seconds)
}

/// A percentile, if there are enough times beyond it.
fn quantile(times: &Times, quantile: f64) -> Option<f64> {
    let beyond = times.len() as f64 * (1.0 - quantile);
    (beyond >= BEYOND_MIN).then(|| times.value_at_quantile(quantile) as f64)
}

/// A part of a run's measured time.
struct Part {
    seconds: f64,
    times: Times,
    cpu_s: Option<f64>,
}

/// Cuts the seconds of a run in which deliveries were timed into consecutive parts.
fn parts(record: &Record) -> Result<Vec<Part>> {
    let mut seconds = BTreeMap::<u64, Vec<usize>>::new();
    for (place, row) in record.rows.iter().enumerate() {
        let timed = row.line.logged.iter().any(|kind| kind == "corrected");
        if timed && !is_odd(&row.line.source) {
            let since = row.line.from_ns.saturating_sub(record.head.began_ns);
            seconds.entry(since / NS_PER_S as u64).or_default().push(place);
        }
    }
    let seconds = seconds.into_values().collect::<Vec<_>>();
    let each = seconds.len().div_ceil(PARTS).max(1);
    seconds.chunks(each).map(|rows| part(record, rows)).collect()
}

fn part(record: &Record, seconds: &[Vec<usize>]) -> Result<Part> {
    let mut part = Part { seconds: 0.0, times: no_times(), cpu_s: Some(0.0) };
    for places in seconds {
        let (mut from, mut to) = (u64::MAX, 0);
        for place in places {
            let row = &record.rows[*place];
            (from, to) = (from.min(row.line.from_ns), to.max(row.line.to_ns));
            if let Some(times) = row.times("corrected")? {
                part.times.add(&times)?;
            }
        }
        part.seconds += to.saturating_sub(from) as f64 / NS_PER_S;
        let cpu = cpu_at(&record.target, to).zip(cpu_at(&record.target, from));
        part.cpu_s = part.cpu_s.zip(cpu).map(|(sum, (end, begin))| sum + (end - begin).max(0.0));
    }
    Ok(part)
}

/// The processor time of the target at a moment between two samples.
pub fn cpu_at(samples: &[TargetSample], at_ns: u64) -> Option<f64> {
    let after = samples.partition_point(|sample| sample.at_ns < at_ns);
    let (Some(end), before) = (samples.get(after), after.checked_sub(1)) else { return None };
    let Some(begin) = before.and_then(|before| samples.get(before)) else {
        return (end.at_ns == at_ns).then_some(end.cpu_s).flatten();
    };
    let share = (at_ns - begin.at_ns) as f64 / (end.at_ns - begin.at_ns) as f64;
    let (from, to) = (begin.cpu_s?, end.cpu_s?);
    Some(from + (to - from) * share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples::{Made, place};

    /// What a made-up run of two measured phases says, which begins with a ramp of three seconds.
    #[test]
    fn figures_are_those_of_the_run_and_of_its_parts() {
        let dir = place("figures");
        let made = Made::default();
        made.write(&dir, true);
        let record = Record::read(&dir).expect("it is one");
        let sides = sides(std::slice::from_ref(&record)).expect("its times can be read");
        let side = |figure| &sides[&figure];
        let parts = |figure| side(figure).parts[0].len();
        let connects = (made.members / 3 * made.sources.len() as u64) as f64;
        assert!((side(Figure::Connects).runs[0] - connects).abs() < 1e-9, "{sides:?}");
        for figure in [Figure::P50, Figure::P99, Figure::P999, Figure::Deliveries] {
            assert_eq!((side(figure).runs.len(), parts(figure)), (1, PARTS), "{figure:?}");
        }
        let (cpu, at) = (side(Figure::TargetCpu), Figure::TargetCpu);
        // A tenth of a second in each, and in the second that follows the last sample none is known.
        assert_eq!(parts(at), PARTS - 1);
        let deliveries = side(Figure::Deliveries).parts[0][0];
        assert!((cpu.parts[0][0] * deliveries / 1e5 - 1.0).abs() < 1e-6, "{cpu:?}");
        assert_eq!(parts(Figure::Connects), 0);
        // 96 clients are too few to tell what one takes.
        assert!(side(Figure::TargetBytes).runs.is_empty(), "{sides:?}");
    }

    #[test]
    fn a_percentile_needs_times_beyond_it() {
        let of = |count: u64, at| {
            let mut times = no_times();
            (0..count).for_each(|us| times.saturating_record(us));
            quantile(&times, at).is_some()
        };
        assert_eq!([of(999, 0.99), of(1001, 0.99), of(1001, 0.999)], [false, true, false]);
    }

    #[test]
    fn processor_time_is_told_between_samples_only() {
        let sample = |at_ns, cpu_s| TargetSample { at_ns, cpu_s, ..TargetSample::default() };
        let samples = [sample(10, Some(1.0)), sample(20, Some(2.0)), sample(30, None)];
        let check = |at_ns, wanted| assert_eq!(cpu_at(&samples, at_ns), wanted, "{at_ns}");
        check(9, None);
        check(10, Some(1.0));
        check(15, Some(1.5));
        check(20, Some(2.0));
        check(21, None);
        check(31, None);
    }
}
