//! What has come of a campaign, for people.

use std::fmt::Write as _;
use std::path::Path;

use crate::exit::Exit;
use crate::latency::Summary as Percentiles;
use crate::record::kept::{Clock, Figures, Head, Summary};
use crate::report::grouped;

/// The summary, with its line ends.
pub fn text(head: &Head, summary: &Summary, dir: Option<&Path>) -> String {
    let mut text = format!("{}: {}\n{}\n\n", head.scenario, head.about, head.target);
    phases(summary, &mut text);
    counts(summary, &mut text);
    clocks(&head.clocks, &mut text);
    objectives(summary, &mut text);
    let verdict = &summary.verdict;
    // Writing to a String does not fail.
    for fault in &verdict.faults {
        let _ = writeln!(text, "FAULT    {fault}");
    }
    match &verdict.invalid_reasons[..] {
        [] => text.push_str("valid    yes\n"),
        reasons => {
            text.push_str("valid    NO\n");
            reasons.iter().for_each(|reason| text += &format!("         - {reason}\n"));
        }
    }
    if let Some(why) = &verdict.aborted {
        let _ = writeln!(text, "aborted  {why}");
    }
    if let Some(dir) = dir {
        let _ = writeln!(text, "record   {}", dir.display());
    }
    let _ = writeln!(text, "{} ({}): {}", name(verdict.exit), verdict.exit.code(), verdict.why);
    text
}

/// A verdict in a word.
pub fn name(exit: Exit) -> &'static str {
    match exit {
        Exit::Pass => "PASS",
        Exit::Missed => "MISSED",
        Exit::Usage => "USAGE",
        Exit::Faulty => "FAULTY",
        Exit::Invalid => "INVALID",
        Exit::Regression => "REGRESSION",
        Exit::TargetLost => "TARGET LOST",
        Exit::DoesNotFit => "DOES NOT FIT",
    }
}

fn phases(summary: &Summary, text: &mut String) {
    let heads = ["phase", "s", "deliveries/s", "p50 ms", "p90", "p99", "p99.9", "max", "uncorr."];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(summary.phases.iter().map(row));
    if summary.phases.len() > 1 {
        rows.push(row(&summary.measured));
    }
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let (first, others) = row.split_at(1);
        let _ = write!(text, "{:<width$}", first[0], width = widths[0]);
        for (cell, width) in others.iter().zip(&widths[1..]) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text.push_str(
        "latency from the intended time of sending; uncorr.: p99 from the actual one\n\n",
    );
}

fn row(figures: &Figures) -> Vec<String> {
    let ms = |us: u64| format!("{:.2}", us as f64 / 1e3);
    let at = |of: fn(&Percentiles) -> u64| {
        figures.latency_us.as_ref().map_or_else(|| "-".to_owned(), |times| ms(of(times)))
    };
    vec![
        figures.name.clone(),
        format!("{:.1}", figures.to_ns.saturating_sub(figures.from_ns) as f64 / 1e9),
        figures.deliveries_per_s.map_or_else(|| "-".to_owned(), grouped),
        at(|times| times.p50),
        at(|times| times.p90),
        at(|times| times.p99),
        at(|times| times.p999),
        at(|times| times.max),
        figures.uncorrected_us.map_or_else(|| "-".to_owned(), |times| ms(times.p99)),
    ]
}

fn counts(summary: &Summary, text: &mut String) {
    let totals = &summary.totals;
    for (name, value) in crate::record::Counts::NAMES.iter().zip(totals.values()) {
        // These are told below, or in other words.
        if ["received_bytes", "waited_us"].contains(name) {
            continue;
        }
        if value > 0 || *name == "unexplained" {
            let _ = writeln!(text, "{name:<18}{}", grouped(value as f64));
        }
    }
    if totals.received_bytes > 0 {
        let megabytes = totals.received_bytes as f64 / 1e6;
        let _ = writeln!(text, "{:<18}{megabytes:.1} MB", "received");
    }
    let measured = &summary.measured;
    let mut figure = |name: &str, found: Option<f64>, unit: &str| {
        if let Some(found) = found {
            let _ = writeln!(text, "{name:<18}{}{unit}", grouped(found));
        }
    };
    let connects = summary.phases.iter().find_map(|phase| phase.connects_per_s);
    figure("connects", connects, "/s in the first ramp");
    figure("target bytes", summary.target_bytes_per_client, " per client");
    figure("system bytes", summary.system_bytes_per_client, " per client, both ends");
    figure("generator bytes", summary.generator_bytes_per_client, " per client");
    // Processor time is of the measured parts of phases, and what it made says how long those were.
    let made = measured.deliveries_per_target_cpu_s.zip(measured.deliveries_per_s);
    let cores = made.filter(|(per_cpu_s, _)| *per_cpu_s > 0.0);
    figure(
        "target busy",
        cores.map(|(per_cpu_s, per_s)| per_s * 100.0 / per_cpu_s),
        " % of a core",
    );
    figure("per target core-s", measured.deliveries_per_target_cpu_s, " deliveries");
    figure("generator busy", Some(measured.busy * 100.0), " %");
    if let Some(seconds) = summary.reconnect_s {
        let _ = writeln!(text, "{:<18}{seconds:.2} s", "all were back in");
    }
    for (what, list) in [("ended", &summary.ended), ("refused", &summary.refused)] {
        for (why, count) in list {
            let _ = writeln!(text, "{what:<18}{} × {why}", grouped(*count as f64));
        }
    }
    text.push('\n');
}

/// How far the agents' clocks may be off: what bounds the latencies that they measure.
fn clocks(clocks: &[Clock], text: &mut String) {
    for Clock { agent, error_ns, .. } in clocks {
        let _ = writeln!(text, "clock {agent} ± {:.0} µs", (*error_ns as f64 / 1e3).ceil());
    }
    if !clocks.is_empty() {
        text.push('\n');
    }
}

fn objectives(summary: &Summary, text: &mut String) {
    for objective in &summary.verdict.objectives {
        let sign = if objective.met { '✓' } else { '✗' };
        let found = match objective.found {
            Some(found) => format!("{found:.3}"),
            None => "could not be measured".to_owned(),
        };
        let _ =
            writeln!(text, "{sign} {:<24} {found} (wanted {})", objective.name, objective.wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_agent_s_clock_has_a_line_with_its_bound() {
        let clock =
            |agent: &str, error_ns| Clock { agent: agent.to_owned(), offset_ns: -5, error_ns };
        let mut text = String::new();
        clocks(&[clock("far", 6_500), clock("near", 900)], &mut text);
        assert_eq!(text, "clock far ± 7 µs\nclock near ± 1 µs\n\n");
        text.clear();
        clocks(&[], &mut text);
        assert_eq!(text, "");
    }
}
