//! The page's text: what the run was, what came of it, and tables of figures.

use std::fmt::Write;

use anyhow::Result;

use crate::exit::Exit;
use crate::machine::utc;
use crate::record::kept::{Figures, Head};
use crate::record::page::chart::escape;
use crate::record::page::{bytes, micros, percent, plain};
use crate::record::{Counts, Record};

/// The most events that are told.
const EVENTS_MAX: usize = 500;

/// What the run was, and what came of it.
pub fn header(record: &Record) -> String {
    let Head { scenario, about, target, began_unix_ms, version, machine, .. } = &record.head;
    let began = utc(began_unix_ms / 1000);
    let (class, word, why) = match &record.summary {
        None => ("bad", "Cut off", "what came of it was never written"),
        Some(summary) => {
            let (class, word) = verdict(summary.verdict.exit);
            (class, word, summary.verdict.why.as_str())
        }
    };
    format!(
        "<h1>{}</h1>\n<p class=\"quiet\">{}</p>\n\
         <p class=\"verdict {class}\">{word}</p><p>{}</p>\n\
         <p class=\"quiet\">{} · {began} · generator {} · {}</p>\n",
        escape(scenario),
        escape(about),
        escape(why),
        escape(target),
        escape(version),
        escape(machine),
    )
}

fn verdict(exit: Exit) -> (&'static str, &'static str) {
    match exit {
        Exit::Pass => ("good", "Pass"),
        Exit::Missed => ("bad", "Objective missed"),
        Exit::Usage | Exit::DoesNotFit => ("bad", "Not run"),
        Exit::Faulty => ("bad", "Correctness violated"),
        Exit::Invalid => ("bad", "Invalid: the generator was the limit"),
        Exit::Regression => ("bad", "Regression"),
        Exit::TargetLost => ("bad", "Target lost"),
    }
}

/// What is wrong with the target, the figures or the record.
pub fn notes(record: &Record) -> String {
    let mut text = list("Notes on the record", &record.notes);
    if let Some(summary) = &record.summary {
        let aborted = summary.verdict.aborted.iter().cloned().collect::<Vec<_>>();
        text += &list("Given up because", &aborted);
        text += &list("Why the figures cannot be trusted", &summary.verdict.invalid_reasons);
        text += &list("Faults of the target", &summary.verdict.faults);
    }
    let clocks = record.head.clocks.iter().map(|clock| {
        let error = micros(clock.error_ns as f64 / 1000.0);
        format!("{}: off by {error} at most", clock.agent)
    });
    text + &list("Other machines' clocks", &clocks.collect::<Vec<_>>())
}

/// What was asked for.
pub fn objectives(record: &Record) -> String {
    let objectives = record.summary.iter().flat_map(|summary| &summary.verdict.objectives);
    let rows = objectives.map(|objective| {
        let found = objective.found.map_or("not measured".to_owned(), number);
        let (class, met) = if objective.met { ("good", "met") } else { ("bad", "missed") };
        format!(
            "<tr><td>{}</td><td>{}</td><td>{found}</td><td class=\"{class}\">{met}</td></tr>\n",
            escape(&objective.name),
            escape(&objective.wanted),
        )
    });
    let rows = rows.collect::<String>();
    section("Objectives", &["objective", "wanted", "found", ""], &rows)
}

/// The figures of all phases.
pub fn phases(record: &Record) -> Result<String> {
    let figures = match &record.summary {
        Some(summary) => summary.phases.iter().chain([&summary.measured]).cloned().collect(),
        None => {
            let merged = record.merged()?;
            let phases = merged.phases().iter().enumerate();
            let told = phases.filter(|(_, totals)| totals.intervals > 0);
            told.map(|(place, totals)| totals.figures(&record.phase_name(place))).collect()
        }
    };
    let figures: Vec<Figures> = figures;
    let mut rows = String::new();
    for one in &figures {
        write!(rows, "<tr><td>{}</td>", escape(&one.name))?;
        let seconds = one.to_ns.saturating_sub(one.from_ns) as f64 / 1e9;
        write!(rows, "<td>{seconds:.1} s</td>")?;
        for cell in told(one) {
            write!(rows, "<td>{cell}</td>")?;
        }
        rows.push_str("</tr>\n");
    }
    let mut heads = vec!["phase", "time"];
    heads.extend(TOLD);
    Ok(section("Phases", &heads, &rows))
}

const TOLD: [&str; 11] = [
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "p99 uncorrected",
    "deliveries/s",
    "admitted/s",
    "connects/s",
    "target CPU",
    "busiest",
];

fn told(figures: &Figures) -> [String; 11] {
    let none = || "–".to_owned();
    let us = |value: Option<u64>| value.map_or_else(none, |us| micros(us as f64));
    let rate = |value: Option<f64>| value.map_or_else(none, plain);
    let latency = figures.latency_us;
    [
        us(latency.map(|us| us.p50)),
        us(latency.map(|us| us.p90)),
        us(latency.map(|us| us.p99)),
        us(latency.map(|us| us.p999)),
        us(latency.map(|us| us.max)),
        us(figures.uncorrected_us.map(|us| us.p99)),
        rate(figures.deliveries_per_s),
        rate(figures.admitted_per_s),
        rate(figures.connects_per_s),
        figures.target_cpu_s.map_or_else(none, |cpu_s| format!("{cpu_s:.1} s")),
        percent(figures.busy * 100.0),
    ]
}

/// The measured figures of two runs, side by side.
pub fn beside(record: &Record, other: &Record) -> String {
    let (Some(one), Some(two)) = (&record.summary, &other.summary) else { return String::new() };
    let pairs = told(&one.measured).into_iter().zip(told(&two.measured));
    let rows = TOLD.iter().zip(pairs).map(|(name, (one, two))| {
        format!("<tr><td>{name}</td><td>{one}</td><td>{two}</td></tr>\n")
    });
    let name = escape(&other.dir.display().to_string());
    section("Beside another run", &["measured", "this run", &name], &rows.collect::<String>())
}

/// Everything that was counted, and what it costs.
pub fn counts(record: &Record) -> String {
    let Some(summary) = &record.summary else { return String::new() };
    let values = summary.totals.values();
    let slow = summary.slow.as_ref().map(Counts::values);
    let mut rows = String::new();
    for (place, name) in Counts::NAMES.iter().enumerate() {
        let slow = slow.as_ref().map(|slow| slow[place]);
        if values[place] == 0 && slow.unwrap_or(0) == 0 {
            continue;
        }
        let slow = slow.map(|slow| format!("<td>{slow}</td>")).unwrap_or_default();
        rows += &format!("<tr><td>{name}</td><td>{}</td>{slow}</tr>\n", values[place]);
    }
    let heads: &[&str] =
        if slow.is_some() { &["count", "clients", "slow readers"] } else { &["count", "clients"] };
    let mut text = section("Counts (those that are not here are 0)", heads, &rows);
    let costs = [
        ("target, per connection", summary.target_bytes_per_client),
        ("both ends and kernel, per connection", summary.system_bytes_per_client),
        ("generator, per connection", summary.generator_bytes_per_client),
    ];
    let rows = costs.into_iter().filter_map(|(name, value)| {
        Some(format!("<tr><td>{name}</td><td>{}</td></tr>\n", bytes(value?)))
    });
    text += &section("Memory", &["of", "bytes"], &rows.collect::<String>());
    text += &counted("Why connections ended", &summary.ended);
    text + &counted("Why publishes were refused", &summary.refused)
}

/// What happened.
pub fn events(record: &Record) -> String {
    let rows = record.events.iter().take(EVENTS_MAX).map(|event| {
        let at = event.at_ns.saturating_sub(record.head.began_ns) as f64 / 1e9;
        let (kind, text) = (escape(&event.kind), escape(&event.text));
        format!("<tr><td>{at:.1} s</td><td>{kind}</td><td class=\"text\">{text}</td></tr>\n")
    });
    section("Events", &["at", "sort", "what"], &rows.collect::<String>())
}

/// The scenario, as it was read.
pub fn scenario(record: &Record) -> String {
    let Head { text, settings, .. } = &record.head;
    if text.is_empty() && settings.is_empty() {
        return String::new();
    }
    let settings = list("Settings beside it", settings);
    let text = escape(text);
    let heading = "<h2>Scenario</h2>\n<details><summary>as it was read</summary>";
    format!("{heading}<pre>{text}</pre></details>\n{settings}")
}

fn counted(title: &str, counted: &[(String, u64)]) -> String {
    let rows = counted.iter().map(|(name, count)| {
        format!("<tr><td class=\"text\">{}</td><td>{count}</td></tr>\n", escape(name))
    });
    section(title, &["why", "how many"], &rows.collect::<String>())
}

/// A table with its title; nothing if it has no rows.
fn section(title: &str, heads: &[&str], rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heads = heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>"));
    let heads = heads.collect::<String>();
    format!(
        "<h2>{title}</h2>\n<div class=\"wide\"><table><thead><tr>{heads}</tr></thead>\n\
         <tbody>{rows}</tbody></table></div>\n"
    )
}

fn list(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let items = lines.iter().map(|line| format!("<li>{}</li>\n", escape(line)));
    format!("<h2>{title}</h2>\n<ul>{}</ul>\n", items.collect::<String>())
}

fn number(value: f64) -> String {
    let digits = if value.abs() < 100.0 { 2 } else { 0 };
    format!("{value:.digits$}")
}
