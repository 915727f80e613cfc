//! `compare`: a baseline against something new, with the noise of repeats.

pub mod figures;
pub mod stats;

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use crate::exit::{Ended, Exit};
use crate::record::Record;
use crate::record::compare::figures::{Figure, sides};
use crate::record::compare::stats::{Difference, Method, REPEATS_MAX, REPEATS_MIN, difference};
use crate::record::merge::differences;

/// Chance that is still taken for none, with ranks of repeats. Three repeats on each side that do
/// not overlap have just this.
const P_MAX: f64 = 0.05;
/// A figure whose noise is so many times the threshold says nothing.
const NOISE_FACTOR: f64 = 5.0;
/// What the threshold is multiplied by when the noise is not known.
const UNKNOWN_FACTOR: f64 = 2.0;

/// `compare`.
#[derive(Debug, Args)]
#[command(after_help = HOW)]
pub struct CompareArgs {
    /// Records of the baseline: one of each repeat.
    #[arg(long, required = true, num_args = 1.., value_name = "DIR")]
    pub baseline: Vec<PathBuf>,
    /// Records of what is new: one of each repeat.
    #[arg(long, required = true, num_args = 1.., value_name = "DIR")]
    pub new: Vec<PathBuf>,
    /// Differences up to so many percent are none.
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = percent)]
    pub threshold: f64,
    /// Differences of a latency up to so many microseconds are none.
    #[arg(long, value_name = "US", default_value_t = 100)]
    pub least_us: u32,
    /// Compares runs of different scenarios, too.
    #[arg(long)]
    pub force: bool,
    /// One object of JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

const HOW: &str = "How a difference is judged:
  It counts when it is over the threshold and over the noise. With three repeats or more on each
  side the noise is told by an exact Mann-Whitney test of their ranks: chance alone must make such
  a difference in this direction in at most one case in 20. With fewer, the measured time of each
  run is cut into up to ten parts, and the difference must be over three standard errors; that
  knows nothing of what differs from run to run, so repeat what matters. A figure without parts
  (memory, connects) must differ by twice the threshold then. A figure is unclear when its noise
  is five times the threshold. Connects are left out when the ramps took under half a second,
  memory when the target grew by less than 16 MiB. Interleave the repeats of both sides: what
  else the machine does then meets both. A new run that violates correctness is worse if no run
  of the baseline does.
Exit codes:
  0  the same, or better
  2  a record cannot be read, or the scenarios differ
  4  a run was invalid or did not end, or a figure is unclear
  5  a figure is worse, or correctness";

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Same,
    Improvement,
    Regression,
    Unclear,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Improvement => "improvement",
            Self::Regression => "regression",
            Self::Unclear => "unclear",
        }
    }
}

/// A figure that was compared.
struct Judged {
    figure: Figure,
    difference: Difference,
    outcome: Outcome,
}

/// Runs the command.
pub fn run(args: &CompareArgs, _stop: &Arc<AtomicBool>) -> Result<Ended> {
    let read = |dirs: &[PathBuf]| match dirs.len() {
        0..=REPEATS_MAX => dirs.iter().map(|dir| Record::read(dir)).collect::<Result<Vec<_>>>(),
        many => bail!("{many} repeats are too many: give at most {REPEATS_MAX}"),
    };
    let (baseline, new) = (read(&args.baseline)?, read(&args.new)?);
    let all = || baseline.iter().chain(&new);
    let mut warnings = Vec::new();
    args.each_once()?;
    comparable(&baseline[0], all(), args.force, &mut warnings)?;
    let worse_faults = faulty(&new, &mut warnings) && !faulty(&baseline, &mut warnings);
    let unusable = all().filter_map(unusable).collect::<Vec<_>>();
    let (old, now) = (sides(&baseline)?, sides(&new)?);
    let judged = Figure::ALL.into_iter().filter_map(|figure| {
        let (old, now) = (old.get(&figure)?, now.get(&figure)?);
        if old.runs.len() != baseline.len() || now.runs.len() != new.len() {
            let (name, old, now) = (figure.name(), old.runs.len(), now.runs.len());
            if old + now > 0 {
                warnings.push(format!("only {old} and {now} of the repeats tell {name}"));
            }
        }
        let difference = difference(old, now)?;
        let outcome = judge(figure, &difference, args.threshold / 100.0, f64::from(args.least_us));
        Some(Judged { figure, difference, outcome })
    });
    let judged = judged.collect::<Vec<_>>();
    let any = |outcome| judged.iter().any(|judged| judged.outcome == outcome);
    let exit = if !unusable.is_empty() || judged.is_empty() {
        Exit::Invalid
    } else if worse_faults || any(Outcome::Regression) {
        Exit::Regression
    } else if any(Outcome::Unclear) {
        Exit::Invalid
    } else {
        Exit::Pass
    };
    let word = match exit {
        Exit::Regression => "regression",
        Exit::Pass if any(Outcome::Improvement) => "improvement",
        Exit::Pass => "same",
        _ => "unclear",
    };
    warnings.extend(unusable);
    let text = match args.json {
        true => as_json(args, &judged, &warnings, word),
        false => as_table(args, &judged, &warnings, word)?,
    };
    Ok(Ended { text, exit })
}

impl CompareArgs {
    /// The same run twice is no repeat: it would seem that there is less noise than there is.
    fn each_once(&self) -> Result<()> {
        for side in [&self.baseline, &self.new] {
            let places = side.iter().map(|dir| dir.canonicalize().unwrap_or_else(|_| dir.clone()));
            let places = places.collect::<Vec<_>>();
            let twice = (1..places.len()).find(|&at| places[..at].contains(&places[at]));
            if let Some(at) = twice {
                bail!("{} is given twice: each repeat is a run of its own", side[at].display());
            }
        }
        Ok(())
    }
}

/// Whether correctness was violated in any of these runs; each of them is warned of.
fn faulty(records: &[Record], warnings: &mut Vec<String>) -> bool {
    let before = warnings.len();
    for record in records {
        let verdict = record.summary.as_ref().map(|summary| &summary.verdict);
        if let Some(verdict) = verdict.filter(|verdict| verdict.exit == Exit::Faulty) {
            let name = record.dir.display();
            warnings.push(format!("{name} violates correctness: {}", verdict.why));
        }
    }
    warnings.len() > before
}

/// Whether a figure has changed, and whether for the better.
fn judge(figure: Figure, difference: &Difference, threshold: f64, least_us: f64) -> Outcome {
    let Difference { baseline, new, change, noise, p, method } = *difference;
    let tiny = figure.is_latency() && (new - baseline).abs() <= least_us;
    let (wanted, beyond_noise) = match method {
        Method::Ranks => (threshold, p.is_some_and(|p| p <= P_MAX)),
        Method::Parts => (threshold, noise.is_some_and(|noise| change.abs() > noise)),
        Method::Unknown => (threshold * UNKNOWN_FACTOR, true),
    };
    if tiny {
        return Outcome::Same;
    }
    if change.abs() > wanted && beyond_noise {
        return match (change > 0.0) == figure.more_is_better() {
            true => Outcome::Improvement,
            false => Outcome::Regression,
        };
    }
    match noise.is_some_and(|noise| noise > threshold * NOISE_FACTOR) {
        true => Outcome::Unclear,
        false => Outcome::Same,
    }
}

/// Refuses runs that did different things, unless that is wanted.
fn comparable<'a>(
    first: &Record,
    all: impl Iterator<Item = &'a Record>,
    force: bool,
    warnings: &mut Vec<String>,
) -> Result<()> {
    for record in all {
        let name = record.dir.display();
        warnings.extend(record.notes.iter().map(|note| format!("{name}: {note}")));
        // Where the target listens may differ.
        let plain = |record: &Record| {
            let mut head = record.head.clone();
            head.settings.retain(|setting| !setting.trim_start().starts_with("target."));
            head
        };
        for (what, one, other) in differences(&plain(first), &plain(record)) {
            let text = format!(
                "{name} differs from {} in {what}: {other:?}, {one:?}",
                first.dir.display()
            );
            if !force && what != "the generator's version" {
                bail!("{text}; --force compares them all the same");
            }
            warnings.push(text);
        }
        if first.head.machine != record.head.machine {
            let (one, other) = (&first.head.machine, &record.head.machine);
            warnings.push(format!("{name} is of another machine: {other:?}, {one:?}"));
        }
    }
    Ok(())
}

/// Why a run's figures cannot be used, if they cannot.
fn unusable(record: &Record) -> Option<String> {
    let name = record.dir.display();
    let Some(summary) = &record.summary else {
        return Some(format!("{name} was cut off, and so has no figures to trust"));
    };
    let why = &summary.verdict.why;
    match summary.verdict.exit {
        Exit::Pass | Exit::Missed | Exit::Faulty | Exit::Regression => None,
        Exit::Invalid => Some(format!("{name} is invalid: {why}")),
        Exit::TargetLost => Some(format!("{name} lost its target: {why}")),
        Exit::Usage | Exit::DoesNotFit => Some(format!("{name} did not run: {why}")),
    }
}

fn as_json(args: &CompareArgs, judged: &[Judged], warnings: &[String], word: &str) -> String {
    let figures = judged.iter().map(|judged| {
        let Difference { baseline, new, change, noise, p, method } = judged.difference;
        json!({
            "figure": judged.figure.name(),
            "baseline": baseline,
            "new": new,
            "change_percent": change * 100.0,
            "noise_percent": noise.map(|noise| noise * 100.0),
            "p": p,
            "method": method_name(method),
            "outcome": judged.outcome.name(),
        })
    });
    let value = json!({
        "outcome": word,
        "threshold_percent": args.threshold,
        "least_us": args.least_us,
        "repeats": [args.baseline.len(), args.new.len()],
        "figures": figures.collect::<Vec<_>>(),
        "warnings": warnings,
    });
    format!("{value}\n")
}

fn as_table(
    args: &CompareArgs,
    judged: &[Judged],
    warnings: &[String],
    word: &str,
) -> Result<String> {
    let mut text = String::new();
    for warning in warnings {
        writeln!(text, "warning: {warning}")?;
    }
    writeln!(
        text,
        "{:<27} {:>14} {:>14} {:>9} {:>9}  outcome",
        "figure", "baseline", "new", "change", "noise"
    )?;
    for Judged { figure, difference, outcome } in judged {
        let Difference { baseline, new, change, noise, p, method } = difference;
        let noise = noise.map_or("unknown".to_owned(), |noise| format!("±{:.1}%", noise * 100.0));
        let sure = match (method, p) {
            (Method::Ranks, Some(p)) => format!(" (p = {p:.3})"),
            _ => String::new(),
        };
        writeln!(
            text,
            "{:<27} {:>14} {:>14} {:>+8.1}% {:>9}  {}{sure}",
            figure.name(),
            number(*baseline),
            number(*new),
            change * 100.0,
            noise,
            outcome.name(),
        )?;
    }
    let (old, new) = (args.baseline.len(), args.new.len());
    let how = match old.min(new) >= REPEATS_MIN {
        true => {
            "noise: three standard errors of the repeats; p: an exact Mann-Whitney test of \
                 their ranks"
        }
        false => {
            "noise: three standard errors, from ten parts of each run; it knows nothing of \
                  what differs from run to run: repeat three times or more on each side to be sure"
        }
    };
    let threshold = args.threshold;
    writeln!(text, "{old} and {new} repeats, threshold {threshold} %, {how}")?;
    writeln!(text, "{word}")?;
    Ok(text)
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Ranks => "ranks of repeats",
        Method::Parts => "parts of runs",
        Method::Unknown => "threshold alone",
    }
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        value if value < 10.0 => 3,
        value if value < 1000.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.1..=1000.0).contains(percent));
    percent.ok_or_else(|| "give percent, 0.1 to 1000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples::{Made, place};
    use std::path::Path;

    fn made(dir: &Path, repeats: u64, made: &Made) -> Vec<PathBuf> {
        let write = |repeat: u64| {
            let place = dir.join(format!("{repeat}-{}-{}", made.seed, made.slower));
            Made { seed: made.seed * 100 + repeat, seconds: 5, ..made.clone() }.write(&place, true);
            place
        };
        (0..repeats).map(write).collect()
    }

    fn compared(baseline: Vec<PathBuf>, new: Vec<PathBuf>, force: bool) -> Result<Ended> {
        let (threshold, least_us, json) = (10.0, 100, false);
        let args = CompareArgs { baseline, new, threshold, least_us, force, json };
        run(&args, &Arc::new(AtomicBool::new(false)))
    }

    fn check(name: &str, repeats: u64, slower: f64, exit: Exit, last: &str) {
        let dir = place(name);
        let one = made(&dir, repeats, &Made::default());
        let other = made(&dir, repeats, &Made { slower, seed: 2, ..Made::default() });
        let ended = compared(one, other, false).expect("they can be compared");
        assert_eq!(ended.exit, exit, "{}", ended.text);
        assert!(ended.text.ends_with(&format!("\n{last}\n")), "{}", ended.text);
    }

    #[test]
    fn the_same_is_the_same_and_slower_is_worse() {
        check("compare-same-1", 1, 1.0, Exit::Pass, "same");
        check("compare-same-3", 3, 1.0, Exit::Pass, "same");
        check("compare-slow-1", 1, 2.0, Exit::Regression, "regression");
        check("compare-slow-3", 3, 2.0, Exit::Regression, "regression");
        check("compare-fast-3", 3, 0.5, Exit::Pass, "improvement");
    }

    #[test]
    fn what_cannot_be_trusted_is_not_judged() {
        let dir = place("compare-invalid");
        let good = made(&dir, 1, &Made::default());
        let bad = made(&dir, 1, &Made { exit: Exit::Invalid, seed: 3, ..Made::default() });
        let ended = compared(good.clone(), bad, false).expect("they can be read");
        assert_eq!(ended.exit, Exit::Invalid);
        assert!(ended.text.contains("is invalid"), "{}", ended.text);
        let cut = dir.join("cut");
        Made { seconds: 2, ..Made::default() }.write(&cut, false);
        let ended = compared(good, vec![cut], false).expect("they can be read");
        assert_eq!(ended.exit, Exit::Invalid);
    }

    #[test]
    fn a_correctness_that_is_new_violated_is_a_regression() {
        let dir = place("compare-faulty");
        let good = made(&dir, 1, &Made::default());
        let faulty = |seed| Made { exit: Exit::Faulty, seed, ..Made::default() };
        let bad = made(&dir, 1, &faulty(5));
        let ended = compared(good.clone(), bad.clone(), false).expect("they can be read");
        assert_eq!(ended.exit, Exit::Regression, "{}", ended.text);
        assert!(ended.text.contains("violates correctness"), "{}", ended.text);
        let before = compared(bad.clone(), good, false).expect("they can be read");
        assert_eq!(before.exit, Exit::Pass, "it was so before: {}", before.text);
        let both = compared(bad, made(&dir, 1, &faulty(6)), false).expect("they can be read");
        assert_eq!(both.exit, Exit::Pass, "{}", both.text);
    }

    #[test]
    fn a_run_is_one_repeat() {
        let dir = place("compare-twice");
        let one = made(&dir, 1, &Made::default());
        let twice = vec![one[0].clone(), dir.join(".").join("0-1-1")];
        let error = compared(one.clone(), twice, false).expect_err("they are the same");
        assert!(error.to_string().contains("is given twice"), "{error}");
        let ended = compared(one.clone(), one, false).expect("both sides may be the same");
        assert_eq!(ended.exit, Exit::Pass, "{}", ended.text);
    }

    #[test]
    fn what_some_repeats_do_not_tell_is_warned_of() {
        let dir = place("compare-untold");
        let one = made(&dir, 1, &Made::default());
        let short = made(&dir, 1, &Made { seed: 2, members: 1, ..Made::default() });
        let ended = compared(one, short, false).expect("they can be read");
        let warning = "only 1 and 0 of the repeats tell p999_us";
        assert!(ended.text.contains(warning), "{}", ended.text);
    }

    #[test]
    fn other_scenarios_need_force() {
        let dir = place("compare-others");
        let one = made(&dir, 1, &Made::default());
        let other = made(&dir, 1, &Made { scenario: "other", seed: 4, ..Made::default() });
        let error = compared(one.clone(), other.clone(), false).expect_err("they differ");
        assert!(error.to_string().contains("--force"), "{error}");
        let ended = compared(one, other, true).expect("they are compared");
        assert!(ended.text.contains("differs from"), "{}", ended.text);
    }

    #[test]
    fn a_difference_counts_beyond_threshold_and_noise() {
        let check = |figure, change: f64, noise, p, method, wanted| {
            let (baseline, new) = (1000.0, 1000.0 * (1.0 + change));
            let difference = Difference { baseline, new, change, noise, p, method };
            let found = judge(figure, &difference, 0.1, 40.0);
            assert_eq!(found, wanted, "{difference:?}");
        };
        let (parts, ranks) = (Method::Parts, Method::Ranks);
        check(Figure::P99, 0.2, Some(0.1), None, parts, Outcome::Regression);
        check(Figure::P99, 0.2, Some(0.3), None, parts, Outcome::Same);
        check(Figure::P99, 0.2, Some(0.6), None, parts, Outcome::Unclear);
        check(Figure::P99, 0.09, Some(0.01), None, parts, Outcome::Same);
        check(Figure::P99, -0.2, Some(0.1), None, parts, Outcome::Improvement);
        check(Figure::P99, 0.04, Some(0.6), None, parts, Outcome::Same);
        check(Figure::Deliveries, -0.2, Some(0.1), None, parts, Outcome::Regression);
        check(Figure::P50, 0.2, Some(0.1), Some(0.05), ranks, Outcome::Regression);
        check(Figure::P50, 0.2, Some(0.1), Some(0.1), ranks, Outcome::Same);
        check(Figure::Connects, -0.15, None, None, Method::Unknown, Outcome::Same);
        check(Figure::Connects, -0.25, None, None, Method::Unknown, Outcome::Regression);
    }
}
