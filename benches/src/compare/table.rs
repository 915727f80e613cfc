//! What the runs come to, for people: Markdown.

use std::fmt::Write as _;

use super::case::Case;
use super::run::{About, Run};
use super::server::Kind;
use crate::table::{Spread, readable};

/// The mark before the table in RESULTS.md.
const BEGIN: &str = "<!-- compare -->\n";
/// The mark behind it.
const END: &str = "<!-- end of compare -->";

/// The mark of figures that may be the load generator's.
const INVALID: &str = "†";

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// For people.
    pub name: &'static str,
    /// Behind the number.
    pub unit: &'static str,
    /// Which campaign it comes from.
    pub case: Case,
    /// Whether more is better.
    pub more_is_better: bool,
    /// How a run gives it; none when the run lacks it.
    pub value: fn(&Run) -> Option<f64>,
}

/// All figures, in the order of the table.
pub const FIGURES: [Figure; 20] = [
    figure("deliveries per server core-second", "", Case::Flood, true, |run| {
        run.summary.measured.deliveries_per_target_cpu_s
    }),
    figure("deliveries per second", "", Case::Flood, true, |run| {
        run.summary.measured.deliveries_per_s
    }),
    figure("delivered", " %", Case::Flood, true, Run::delivered_percent),
    figure("deliveries per second", "", Case::Paced, true, |run| {
        run.summary.measured.deliveries_per_s
    }),
    figure("p50", " ms", Case::Paced, false, |run| {
        Some(run.summary.measured.latency_us?.p50 as f64 / 1e3)
    }),
    figure("p99", " ms", Case::Paced, false, |run| {
        Some(run.summary.measured.latency_us?.p99 as f64 / 1e3)
    }),
    figure("server CPU", " % of a core", Case::Paced, false, Run::cpu_percent),
    figure("delivered", " %", Case::Paced, true, Run::delivered_percent),
    figure("deliveries per server core-second", "", Case::RoomsOfOne, true, |run| {
        run.summary.measured.deliveries_per_target_cpu_s
    }),
    figure("deliveries per second", "", Case::RoomsOfOne, true, |run| {
        run.summary.measured.deliveries_per_s
    }),
    figure("delivered", " %", Case::RoomsOfOne, true, Run::delivered_percent),
    figure("deliveries per server core-second", "", Case::RoomsOf20, true, |run| {
        run.summary.measured.deliveries_per_target_cpu_s
    }),
    figure("deliveries per second", "", Case::RoomsOf20, true, |run| {
        run.summary.measured.deliveries_per_s
    }),
    figure("delivered", " %", Case::RoomsOf20, true, Run::delivered_percent),
    figure("connected", "", Case::Idle, true, |run| Some(run.summary.totals.connected as f64)),
    figure("connects per second", "", Case::Idle, true, |run| {
        run.summary.phases.iter().find_map(|phase| phase.connects_per_s)
    }),
    figure("server memory per connection", " B", Case::Idle, false, Run::bytes_per_connection),
    // What a server sets aside before anybody comes is not in the growth.
    figure("server memory in all", " MB", Case::Idle, false, |run| {
        Some(run.rss_most_bytes? as f64 / 1e6)
    }),
    figure("system memory per connection", " B", Case::Idle, false, |run| {
        run.summary.system_bytes_per_client
    }),
    figure("delivered", " %", Case::Idle, true, Run::delivered_percent),
];

const fn figure(
    name: &'static str,
    unit: &'static str,
    case: Case,
    more_is_better: bool,
    value: fn(&Run) -> Option<f64>,
) -> Figure {
    Figure { name, unit, case, more_is_better, value }
}

impl Figure {
    /// Over all repeats of a server that have it.
    pub fn spread(&self, kind: Kind, runs: &[Run]) -> Option<Spread> {
        let own = runs.iter().filter(|run| run.kind == kind && run.case == self.case);
        let values: Vec<f64> = own.filter_map(self.value).filter(|x| x.is_finite()).collect();
        Spread::of(&values)
    }
}

/// The servers that there are runs of, in order.
pub fn kinds(runs: &[Run]) -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|&kind| runs.iter().any(|run| run.kind == kind)).collect()
}

/// The table: a row for each figure, a column for each server; under it what went wrong.
pub fn markdown(about: &About, runs: &[Run], failures: &[String]) -> String {
    let kinds = kinds(runs);
    let repeats = runs.iter().map(|run| run.repeat).max().unwrap_or(0);
    let versions = kinds.iter().map(|&kind| format!("{} {}", kind.name(), about.version(kind)));
    let versions = versions.collect::<Vec<_>>().join(" · ");
    let mut text = format!("{}, {}\n\n{versions}\n\n", about.machine_line, about.time);
    let _ = writeln!(text, "Median (min–max) of {repeats}; each server on one core.");
    if runs.iter().any(|run| run.case == Case::Flood) {
        let windows = kinds.iter().map(|kind| format!("{} {}", kind.name(), kind.window()));
        let windows = windows.collect::<Vec<_>>().join(" · ");
        let _ = writeln!(text, "Messages on their way, as fast as it goes: {windows}.");
    }
    if runs.iter().any(Run::is_invalid) {
        let _ = writeln!(text, "{INVALID} The load generator was the limit in one of these runs.");
    }
    text += "\n";
    text += "| campaign | figure |";
    kinds.iter().for_each(|kind| text += &format!(" {} |", kind.name()));
    text += "\n|---|---|";
    text += &"---:|".repeat(kinds.len());
    text += "\n";
    for figure in FIGURES {
        let spreads: Vec<_> = kinds.iter().map(|&kind| figure.spread(kind, runs)).collect();
        if spreads.iter().all(Option::is_none) && !runs.iter().any(|run| run.case == figure.case) {
            continue;
        }
        let _ = write!(text, "| {} | {}{} |", figure.case.name(), figure.name, unit(&figure));
        for (kind, spread) in kinds.iter().zip(spreads) {
            let own = |run: &&Run| run.kind == *kind && run.case == figure.case;
            let mark = if runs.iter().filter(own).any(Run::is_invalid) { INVALID } else { "" };
            let _ = write!(text, " {}{mark} |", spread.map_or("not measured".to_owned(), cell));
        }
        text += "\n";
    }
    text + &doubts(runs, failures)
}

fn unit(figure: &Figure) -> String {
    match figure.unit.trim() {
        "" => String::new(),
        unit => format!(", {unit}"),
    }
}

fn cell(spread: Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(readable);
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

/// What went wrong, in all runs.
fn doubts(runs: &[Run], failures: &[String]) -> String {
    let mut text = String::new();
    for run in runs {
        let doubts = run.doubts();
        if !doubts.is_empty() {
            let (kind, case) = (run.kind.name(), run.case.name());
            let said = doubts.join("; ").replace('\n', " ");
            let _ = writeln!(text, "- {kind} {case}, repeat {}: {said}", run.repeat);
        }
    }
    for failure in failures {
        let _ = writeln!(text, "- could not be run: {}", failure.replace('\n', " "));
    }
    match text.is_empty() {
        true => text,
        false => format!("\nWhat went wrong:\n\n{text}"),
    }
}

/// Puts the table between its marks in a text, instead of what is there. Without marks nothing is
/// changed.
pub fn with_section(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

/// What one run has found, in a line.
pub fn progress(run: &Run) -> String {
    let own = FIGURES.iter().filter(|figure| figure.case == run.case);
    let found = own.filter_map(|figure| {
        let value = (figure.value)(run)?;
        Some(format!("{} {}{}", figure.name, readable(value), figure.unit))
    });
    let mut found: Vec<String> = found.collect();
    found.extend(run.doubts());
    found.join("; ")
}

#[cfg(test)]
mod tests {
    use barrage_loadgen::record::Counts;
    use barrage_loadgen::record::kept::Figures;
    use serde_json::Value;

    use super::super::run::tests::run;
    use super::*;

    fn about() -> About {
        About {
            time: "2025-01-31T12:34:56Z".to_owned(),
            commit: "abc".to_owned(),
            machine: Value::Null,
            machine_line: "a machine".to_owned(),
            versions: vec![(Kind::Redis, "7.0".to_owned())],
        }
    }

    fn flood(kind: Kind, repeat: u32, per_cpu_s: f64, unexplained: u64) -> Run {
        let deliveries_per_target_cpu_s = Some(per_cpu_s);
        let measured = Figures { deliveries_per_target_cpu_s, ..Figures::default() };
        let totals = Counts { delivered: 75, unexplained, ..Counts::default() };
        run(kind, Case::Flood, repeat, measured, totals)
    }

    #[test]
    fn a_row_has_a_column_for_each_server_that_was_run() {
        let runs = [
            flood(Kind::Redis, 1, 1e6, 0),
            flood(Kind::Barrage, 1, 9e6, 0),
            flood(Kind::Redis, 2, 3e6, 25),
        ];
        let table = markdown(&about(), &runs, &["nats idle: no".to_owned()]);
        for line in [
            "| campaign | figure | barrage | redis |",
            "| as-fast-as-it-goes | deliveries per server core-second | 9,000,000 | \
             2,000,000 (1,000,000–3,000,000) |",
            "| as-fast-as-it-goes | delivered, % | 100 | 87.5 (75–100) |",
            "| as-fast-as-it-goes | deliveries per second | not measured | not measured |",
            "barrage of unknown version · redis 7.0",
            "- redis as-fast-as-it-goes, repeat 2: 25 deliveries are missing",
            "- could not be run: nats idle: no",
        ] {
            assert!(table.lines().any(|other| other == line), "{line}\n{table}");
        }
        assert!(!table.contains("| idle |") && !table.contains(INVALID), "{table}");
        assert!(table.contains("as fast as it goes: barrage 256 · redis 4096.\n"), "{table}");
    }

    #[test]
    fn figures_of_an_invalid_run_are_marked_as_such() {
        let mut runs = [flood(Kind::Barrage, 1, 9e6, 0), flood(Kind::Redis, 1, 1e6, 0)];
        runs[0].summary.verdict.exit = barrage_loadgen::exit::Exit::Invalid;
        let table = markdown(&about(), &runs, &[]);
        let row = "deliveries per server core-second | 9,000,000† | 1,000,000 |";
        assert!(table.contains(row) && table.contains("† The load generator"), "{table}");
    }

    #[test]
    fn a_table_takes_the_place_of_the_one_before_it() {
        let before = "# R\n<!-- compare -->\nold\n<!-- end of compare -->\nrest\n";
        let after = with_section(before, "new\n").unwrap();
        assert_eq!(after, "# R\n<!-- compare -->\nnew\n<!-- end of compare -->\nrest\n");
        assert_eq!(with_section("none", "new"), None);
    }
}
