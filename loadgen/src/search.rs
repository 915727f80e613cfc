//! `search`: the highest value of a setting that meets the objectives.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::campaign::summary::name;
use crate::campaign::view::View;
use crate::campaign::{Help, campaign};
use crate::exit::{Ended, Exit};
use crate::report::grouped;
use crate::scenario::file;

/// The file beside the runs' records.
const CURVE_FILE: &str = "search.json";
/// Runs of one search, repeats included.
const RUNS_MAX: u32 = 64;

/// `search`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// A file, or the name of a scenario of the library.
    #[arg(value_name = "SCENARIO")]
    pub scenario: String,
    /// The setting to vary, such as streams.chat.messages_per_s.
    #[arg(long, value_name = "KEY")]
    pub vary: String,
    /// The lowest value, with which the search begins; a whole number where the setting is one.
    #[arg(long, value_name = "N", value_parser = parse_positive)]
    pub from: f64,
    /// The highest value.
    #[arg(long, value_name = "N", value_parser = parse_positive)]
    pub to: f64,
    /// How close the highest value that passes and the lowest that does not are to come, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = parse_positive)]
    pub precision: f64,
    /// How often the highest value has to pass again.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub repeats: u32,
    /// Other values instead of the file's. Shorter phases make a shorter search.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A new directory for the curve and the record of each run; `none` keeps nothing.
    #[arg(long, value_name = "DIR", default_value = "none")]
    pub out: String,
    /// One JSON object on stdout instead of a table.
    #[arg(long)]
    pub json: bool,
    /// No progress.
    #[arg(long, short)]
    pub quiet: bool,
}

fn parse_positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("{text} is not a number over 0"))
}

/// One run of a search.
#[derive(Clone, Debug, Serialize)]
struct Point {
    value: f64,
    exit: Exit,
    why: String,
    deliveries_per_s: Option<f64>,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    target_cpu_s: Option<f64>,
    busy: f64,
}

/// Runs the command.
pub fn run(args: &SearchArgs, stop: &Arc<AtomicBool>) -> Result<Ended> {
    if args.from > args.to {
        bail!("--from {} is over --to {}", args.from, args.to);
    }
    if args.out != "none" {
        std::fs::create_dir(&args.out)
            .with_context(|| format!("cannot make {}: give a new directory", args.out))?;
    }
    let mut search = Search::new(args.from, args.to, args.precision / 100.0, args.repeats);
    let mut points = Vec::new();
    while let Some(value) = search.next_value() {
        if stop.load(Ordering::Relaxed) {
            search.end = Some(Found::Unknown("the search was stopped".to_owned()));
            break;
        }
        if !args.quiet {
            eprintln!("search: {} = {value}", args.vary);
        }
        let point = measure(args, value, points.len(), stop)?;
        search.learn(point.exit, &point.why);
        points.push(point);
    }
    let (exit, text) = search.verdict(&args.vary);
    let told = serde_json::json!({
        "scenario": args.scenario, "vary": args.vary, "exit": exit, "why": text, "points": points,
    });
    if args.out != "none" {
        let path = PathBuf::from(&args.out).join(CURVE_FILE);
        std::fs::write(&path, format!("{told:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = match args.json {
        true => format!("{told}\n"),
        false => format!("{}\n{}: {text}\n", curve(&points), name(exit)),
    };
    Ok(Ended { text, exit })
}

fn measure(args: &SearchArgs, value: f64, nth: usize, stop: &Arc<AtomicBool>) -> Result<Point> {
    let mut settings = args.set.clone();
    settings.push(format!("{}={value}", args.vary));
    let loaded = file::load(&args.scenario, &settings)?;
    let dir = PathBuf::from(&args.out).join(format!("run-{:02}", nth + 1));
    let out = if args.out == "none" { "none".to_owned() } else { dir.display().to_string() };
    let view = View::new(args.quiet, true, false, false);
    let help = Help { out: Some(&out), ..Help::default() };
    let outcome = campaign(&loaded, help, view, stop)?;
    let (measured, verdict) = (outcome.summary.measured, outcome.summary.verdict);
    Ok(Point {
        value,
        exit: verdict.exit,
        why: verdict.why,
        deliveries_per_s: measured.deliveries_per_s,
        p50_us: measured.latency_us.map(|latency| latency.p50),
        p99_us: measured.latency_us.map(|latency| latency.p99),
        target_cpu_s: measured.target_cpu_s,
        busy: measured.busy,
    })
}

fn curve(points: &[Point]) -> String {
    let mut text =
        "       value  deliveries/s    p50 ms    p99 ms  target cpu s   busy  verdict\n".to_owned();
    let mut sorted: Vec<&Point> = points.iter().collect();
    sorted.sort_by(|a, b| a.value.total_cmp(&b.value));
    for point in sorted {
        let ms = |us: Option<u64>| us.map_or("-".into(), |us| format!("{:.2}", us as f64 / 1e3));
        let rate = point.deliveries_per_s.map_or("-".into(), grouped);
        let cpu = point.target_cpu_s.map_or("-".into(), |cpu_s| format!("{cpu_s:.2}"));
        let (p50, p99) = (ms(point.p50_us), ms(point.p99_us));
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{:>12}  {rate:>12}  {p50:>8}  {p99:>8}  {cpu:>12}  {:>3.0} %  {}",
            point.value,
            point.busy * 100.0,
            name(point.exit)
        );
    }
    text
}

/// What a search has found.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    /// The highest value that passes.
    Highest(f64),
    /// Everything passes.
    All(f64),
    /// Not even the lowest passes.
    None(String),
    /// The generator was the limit at this value.
    Generator(f64, String),
    /// A run has failed in a way that no lower rate mends.
    Failed(Exit, String),
    /// It ended before anything was known.
    Unknown(String),
}

/// Which value to try next. Pure: doubles until something does not pass, then halves the gap, then
/// repeats the highest value that passed; one that does not pass again is no longer believed in. A
/// value that is invalid is tried once more.
struct Search {
    from: f64,
    to: f64,
    precision: f64,
    repeats: u32,
    /// Values that have passed, rising: the next lower one is taken when a repeat fails.
    passed: Vec<f64>,
    missed: Option<f64>,
    trying: f64,
    confirmed: u32,
    is_repeat: bool,
    /// A value whose last run was invalid: it is tried once more.
    in_doubt: Option<f64>,
    runs: u32,
    end: Option<Found>,
}

impl Search {
    fn new(from: f64, to: f64, precision: f64, repeats: u32) -> Self {
        Self {
            from,
            to,
            precision,
            repeats,
            passed: Vec::new(),
            missed: None,
            trying: from,
            confirmed: 0,
            is_repeat: false,
            in_doubt: None,
            runs: 0,
            end: None,
        }
    }

    fn next_value(&mut self) -> Option<f64> {
        if self.end.is_some() {
            return None;
        }
        if self.runs == RUNS_MAX {
            self.end = Some(Found::Unknown(format!("{RUNS_MAX} runs did not settle it")));
            return None;
        }
        self.runs += 1;
        if let Some(value) = self.in_doubt {
            return Some(value);
        }
        let whole = self.from.fract() == 0.0 && self.to.fract() == 0.0;
        let round = |value: f64| if whole { value.round() } else { value };
        let highest = self.passed.last().copied();
        let next = match (highest, self.missed) {
            (None, _) => self.from,
            (Some(highest), None) => (highest * 2.0).min(self.to),
            (Some(highest), Some(missed)) => round((highest + missed) / 2.0),
        };
        let is_close = highest.is_some_and(|highest| {
            next <= highest
                || self.missed.is_some_and(|missed| {
                    next >= missed || missed - highest <= highest * self.precision
                })
        });
        self.is_repeat = is_close;
        self.trying = if is_close { highest.unwrap_or(next) } else { next };
        if is_close && self.confirmed == self.repeats {
            self.settle();
            return None;
        }
        Some(self.trying)
    }

    fn settle(&mut self) {
        let highest = self.passed.last().copied().unwrap_or(self.from);
        let all = self.missed.is_none() && highest >= self.to;
        self.end = Some(if all { Found::All(highest) } else { Found::Highest(highest) });
    }

    fn learn(&mut self, exit: Exit, why: &str) {
        let was_in_doubt = self.in_doubt.take().is_some();
        match exit {
            Exit::Pass if self.is_repeat => self.confirmed += 1,
            Exit::Pass => {
                self.passed.push(self.trying);
                self.confirmed = 0;
            }
            Exit::Missed => {
                if self.is_repeat {
                    self.passed.pop();
                }
                self.missed = Some(self.trying);
                self.confirmed = 0;
                if self.passed.is_empty() {
                    self.end = Some(Found::None(why.to_owned()));
                }
            }
            // Something else may have run on this machine for a moment.
            Exit::Invalid if !was_in_doubt => self.in_doubt = Some(self.trying),
            Exit::Invalid => self.end = Some(Found::Generator(self.trying, why.to_owned())),
            exit @ (Exit::Usage
            | Exit::Faulty
            | Exit::Regression
            | Exit::TargetLost
            | Exit::DoesNotFit) => {
                self.end = Some(Found::Failed(exit, why.to_owned()));
            }
        }
    }

    fn verdict(&self, vary: &str) -> (Exit, String) {
        match &self.end {
            Some(Found::Highest(value)) => (
                Exit::Pass,
                format!(
                    "{vary} = {value} is the highest that passes, {} times",
                    self.confirmed + 1
                ),
            ),
            Some(Found::All(value)) => {
                (Exit::Pass, format!("everything up to {vary} = {value} passes: try more"))
            }
            Some(Found::None(why)) => {
                (Exit::Missed, format!("not even {vary} = {} passes: {why}", self.trying))
            }
            Some(Found::Generator(value, why)) => {
                (Exit::Invalid, format!("the generator is the limit at {vary} = {value}: {why}"))
            }
            Some(Found::Failed(exit, why)) => (*exit, why.clone()),
            Some(Found::Unknown(why)) => (Exit::Invalid, why.clone()),
            None => (Exit::Invalid, "nothing was run".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches 10..=1000 for what passes by `judge`; the values tried, and the verdict.
    fn search(judge: impl Fn(f64, usize) -> Exit) -> (Vec<f64>, (Exit, String)) {
        let mut search = Search::new(10.0, 1000.0, 0.05, 2);
        let mut tried = Vec::new();
        while let Some(value) = search.next_value() {
            search.learn(judge(value, tried.len()), "because");
            tried.push(value);
        }
        let verdict = search.verdict("rate");
        (tried, verdict)
    }

    fn upto(limit: f64) -> impl Fn(f64, usize) -> Exit {
        move |value, _| if value <= limit { Exit::Pass } else { Exit::Missed }
    }

    #[test]
    fn the_limit_is_found_and_confirmed() {
        let (tried, (exit, why)) = search(upto(100.0));
        assert_eq!(
            tried,
            [10.0, 20.0, 40.0, 80.0, 160.0, 120.0, 100.0, 110.0, 105.0, 100.0, 100.0]
        );
        assert_eq!(exit, Exit::Pass);
        assert!(why.contains("rate = 100 is the highest that passes, 3 times"), "{why}");
    }

    #[test]
    fn bounds_are_kept() {
        let (tried, (exit, why)) = search(upto(5000.0));
        assert_eq!(tried[tried.len() - 3..], [1000.0; 3]);
        assert!(exit == Exit::Pass && why.contains("try more"), "{why}");
        let (tried, (exit, _)) = search(upto(5.0));
        assert_eq!((tried, exit), (vec![10.0], Exit::Missed));
    }

    #[test]
    fn a_value_that_passes_only_once_is_not_believed() {
        let flaky = |value: f64, nth| match value {
            100.0 if nth > 7 => Exit::Missed,
            value => upto(100.0)(value, nth),
        };
        let (tried, (exit, why)) = search(flaky);
        assert_eq!(exit, Exit::Pass);
        assert!(!why.contains("rate = 100 "), "{why} {tried:?}");
    }

    #[test]
    fn a_value_that_is_invalid_once_is_tried_once_more() {
        let (tried, (exit, why)) = search(|value, nth| match nth {
            3 | 8 => Exit::Invalid,
            nth => upto(100.0)(value, nth),
        });
        assert_eq!(tried[2..6], [40.0, 80.0, 80.0, 160.0]);
        assert_eq!(tried[8], tried[9], "another value has its own second try");
        assert!(exit == Exit::Pass && why.contains("rate = 100 is"), "{why}");
    }

    #[test]
    fn what_no_lower_rate_mends_ends_the_search() {
        let (tried, (exit, why)) =
            search(|value, _| if value > 30.0 { Exit::Invalid } else { Exit::Pass });
        assert_eq!((tried, exit), (vec![10.0, 20.0, 40.0, 40.0], Exit::Invalid));
        assert!(why.contains("the generator is the limit at rate = 40: because"), "{why}");
        assert_eq!(search(|_, _| Exit::Faulty).1.0, Exit::Faulty);
    }
}
