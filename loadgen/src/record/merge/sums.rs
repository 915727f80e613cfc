//! What has come of several runs together.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::exit::Exit;
use crate::record::kept::{Figures, Objective, Summary, Verdict};
use crate::record::{Counts, Merged, Record};

/// What came of all records, with percentiles from the merged one; none if a run was cut off.
pub fn summary(records: &[Record], merged: &Record) -> Result<Option<Summary>> {
    let each = records.iter().map(|record| record.summary.as_ref());
    let Some(each) = each.collect::<Option<Vec<_>>>() else { return Ok(None) };
    let all = merged.merged()?;
    let phases = merged.head.phases.iter().enumerate().filter_map(|(place, name)| {
        let parts = records.iter().zip(&each).flat_map(|(record, summary)| {
            let named = summary.phases.iter().filter(|figures| figures.name == *name);
            named.map(|figures| Part::new(record, figures))
        });
        let parts = parts.collect::<Vec<_>>();
        (!parts.is_empty()).then(|| figures(name, &parts, &all, Some(place)))
    });
    let measured = records.iter().zip(&each);
    let measured = measured.map(|(record, summary)| Part::new(record, &summary.measured));
    let measured = figures("measured", &measured.collect::<Vec<_>>(), &all, None);
    let slow = each.iter().filter_map(|summary| summary.slow.as_ref());
    let slow = slow.copied().reduce(|mut sum, other| {
        sum.add(&other);
        sum
    });
    Ok(Some(Summary {
        verdict: verdict(&each),
        totals: add(each.iter().map(|summary| &summary.totals)),
        slow,
        measured,
        phases: phases.collect(),
        ended: added(each.iter().flat_map(|summary| &summary.ended)),
        refused: added(each.iter().flat_map(|summary| &summary.refused)),
        target_bytes_per_client: per_client(&each, |summary| summary.target_bytes_per_client),
        system_bytes_per_client: per_client(&each, |summary| summary.system_bytes_per_client),
        generator_bytes_per_client: per_client(&each, |summary| summary.generator_bytes_per_client),
        reconnect_s: each.iter().filter_map(|summary| summary.reconnect_s).reduce(f64::max),
    }))
}

/// One record's figures, and when they were, by the wall clock.
struct Part<'a> {
    from_ns: u128,
    to_ns: u128,
    figures: &'a Figures,
}

impl<'a> Part<'a> {
    fn new(record: &Record, figures: &'a Figures) -> Self {
        let wall = |at_ns: u64| {
            let since = at_ns.saturating_sub(record.head.began_ns);
            u128::from(record.head.began_unix_ms) * 1_000_000 + u128::from(since)
        };
        Self { from_ns: wall(figures.from_ns), to_ns: wall(figures.to_ns), figures }
    }

    fn seconds(&self) -> f64 {
        self.to_ns.saturating_sub(self.from_ns) as f64 / 1e9
    }
}

fn figures(name: &str, parts: &[Part<'_>], merged: &Merged, phase: Option<usize>) -> Figures {
    let all = match phase {
        Some(phase) => merged.phases().get(phase).cloned().unwrap_or_default(),
        None => merged.all(),
    };
    let cpu = parts.iter().filter_map(|part| part.figures.target_cpu_s);
    let target_cpu_s = cpu.reduce(|sum, other| sum + other);
    let for_cpu = parts.iter().filter_map(|part| {
        Some(part.figures.target_cpu_s? * part.figures.deliveries_per_target_cpu_s?)
    });
    let for_cpu = for_cpu.reduce(|sum, other| sum + other);
    let efficiency = for_cpu.zip(target_cpu_s.filter(|cpu_s| *cpu_s > 0.0));
    Figures {
        counts: add(parts.iter().map(|part| &part.figures.counts)),
        deliveries_per_s: rate(parts, |figures| figures.deliveries_per_s),
        admitted_per_s: rate(parts, |figures| figures.admitted_per_s),
        connects_per_s: rate(parts, |figures| figures.connects_per_s),
        target_cpu_s,
        deliveries_per_target_cpu_s: efficiency.map(|(deliveries, cpu_s)| deliveries / cpu_s),
        busy: parts.iter().map(|part| part.figures.busy).fold(0.0, f64::max),
        ..all.figures(name)
    }
}

/// A rate over all parts: what they did together, in the time in which any of them was at it.
fn rate(parts: &[Part<'_>], of: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
    let mut told = parts.iter().filter_map(|part| Some((part, of(part.figures)?)));
    let mut spans = told.clone().map(|(part, _)| (part.from_ns, part.to_ns)).collect::<Vec<_>>();
    spans.sort_unstable();
    let (mut covered_ns, mut end) = (0, 0);
    for (from, to) in spans {
        covered_ns += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    match covered_ns {
        0 => told.next().map(|(_, rate)| rate),
        _ => {
            let done = told.map(|(part, rate)| rate * part.seconds()).sum::<f64>();
            Some(done / (covered_ns as f64 / 1e9))
        }
    }
}

fn verdict(each: &[&Summary]) -> Verdict {
    // The first of these that any run has said is what they say together.
    let order = [Exit::Faulty, Exit::TargetLost, Exit::Invalid, Exit::Usage, Exit::Regression];
    let order = order.into_iter().chain([Exit::Missed, Exit::Pass]);
    let said = |exit: &Exit| each.iter().any(|summary| summary.verdict.exit == *exit);
    let numbered = |texts: &dyn Fn(&Verdict) -> Vec<String>| {
        let each = each.iter().enumerate();
        let texts = each.flat_map(|(place, summary)| {
            let texts = texts(&summary.verdict).into_iter();
            texts.map(move |text| format!("{text} (run {})", place + 1))
        });
        texts.collect::<Vec<_>>()
    };
    let objectives = each.iter().enumerate().flat_map(|(place, summary)| {
        summary.verdict.objectives.iter().map(move |objective| Objective {
            name: format!("{} (run {})", objective.name, place + 1),
            ..objective.clone()
        })
    });
    let aborted = numbered(&|verdict| verdict.aborted.clone().into_iter().collect());
    Verdict {
        exit: order.into_iter().find(said).unwrap_or(Exit::Pass),
        why: numbered(&|verdict| vec![verdict.why.clone()]).join("; "),
        objectives: objectives.collect(),
        invalid_reasons: numbered(&|verdict| verdict.invalid_reasons.clone()),
        faults: numbered(&|verdict| verdict.faults.clone()),
        aborted: (!aborted.is_empty()).then(|| aborted.join("; ")),
    }
}

fn add<'a>(counts: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::default();
    counts.for_each(|other| sum.add(other));
    sum
}

fn added<'a>(counted: impl Iterator<Item = &'a (String, u64)>) -> Vec<(String, u64)> {
    let mut sums = BTreeMap::<&str, u64>::new();
    counted.for_each(|(name, count)| *sums.entry(name).or_default() += count);
    sums.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// A figure per client over all runs: each counts by its clients.
fn per_client(each: &[&Summary], of: impl Fn(&Summary) -> Option<f64>) -> Option<f64> {
    let weight = |summary: &Summary| summary.totals.connected.max(1) as f64;
    let told = each.iter().filter_map(|summary| Some((of(summary)?, weight(summary))));
    let (sum, weights) = told.fold((0.0, 0.0), |(sum, weights), (bytes, weight)| {
        (sum + bytes * weight, weights + weight)
    });
    (weights > 0.0).then(|| sum / weights)
}
