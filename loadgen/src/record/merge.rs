//! `merge`: several records become one, without loss; and so do several interval logs.

mod sums;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::exit::{Ended, Exit};
use crate::record::hlog::{self, Entry};
use crate::record::kept::{Event, Head, TargetSample};
use crate::record::reader::Row;
use crate::record::writer::since;
use crate::record::{Record, Writer};

const NS_PER_MS: u64 = 1_000_000;
/// The most logs or records that are merged at once.
const INPUTS_MAX: usize = 1000;

/// Letters of a line that a warning repeats.
const SHOWN_MAX: usize = 120;

/// `merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Records of one scenario, or interval logs (`*.hlog`).
    ///
    /// Histograms are kept as they are and moments are told by the wall clock of each record's
    /// beginning, so that runs at the same time lie over each other and repeats one after the
    /// other. Counts are added and percentiles made anew from the histograms.
    #[arg(required = true, value_name = "PATH")]
    pub inputs: Vec<PathBuf>,
    /// Where the result goes: a directory that is not there yet, or a file.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
}

/// Runs the command.
pub fn run(args: &MergeArgs, stop: &Arc<AtomicBool>) -> Result<Ended> {
    let MergeArgs { inputs, out } = args;
    if inputs.len() > INPUTS_MAX {
        bail!("{} are too many at once: give at most {INPUTS_MAX}", inputs.len());
    }
    let text = match inputs.iter().filter(|input| input.is_dir()).count() {
        0 => merge_logs(inputs, out, stop)?,
        dirs if dirs == inputs.len() => merge_records(inputs, out, stop)?,
        _ => bail!("give records, which are directories, or interval logs, and not both"),
    };
    Ok(Ended { text, exit: Exit::Pass })
}

fn merge_logs(inputs: &[PathBuf], out: &Path, stop: &AtomicBool) -> Result<String> {
    let mut entries = Vec::new();
    let mut notes = String::new();
    for input in inputs {
        let name = || input.display().to_string();
        let (log, cut) = hlog::read(File::open(input).with_context(name)?).with_context(name)?;
        if cut {
            writeln!(notes, "warning: the last line of {} was cut off", name())?;
        }
        for entry in log.entries {
            check_stop(stop)?;
            hlog::decode_any(&entry.encoded).with_context(name)?;
            let at = log.base.checked_add(entry.from);
            let at = at.ok_or_else(|| anyhow!("{}: a time without end", name()))?;
            entries.push((at, entry));
        }
    }
    entries.sort_by_key(|(at, _)| *at);
    let base_ms = entries.first().map_or(0, |(at, _)| at.as_millis());
    let base_ms = u64::try_from(base_ms).context("a log from a time that will never be")?;
    let comment = format!("{} logs merged", inputs.len());
    let mut text = hlog::heading(&comment, base_ms);
    let mut tags = BTreeMap::<String, u64>::new();
    for (at, entry) in entries {
        *tags.entry(entry.tag.clone().unwrap_or_default()).or_default() += 1;
        let from = at.saturating_sub(Duration::from_millis(base_ms));
        text.push_str(&Entry { from, ..entry }.line());
    }
    let mut file = File::create_new(out).with_context(|| out.display().to_string())?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    for (tag, count) in tags {
        let tag = if tag.is_empty() { "without a tag".to_owned() } else { tag };
        writeln!(notes, "{tag}: {count} intervals")?;
    }
    writeln!(notes, "written to {}", out.display())?;
    Ok(notes)
}

fn merge_records(inputs: &[PathBuf], out: &Path, stop: &AtomicBool) -> Result<String> {
    let mut records = Vec::new();
    for input in inputs {
        check_stop(stop)?;
        records.push(Record::read(input)?);
    }
    let mut said = warnings(&records);
    let phases = phases(&records);
    let head = head(&records, &phases);
    let names = renamed(&records);
    let mut rows = Vec::new();
    let mut events = Vec::new();
    for (place, record) in records.iter().enumerate() {
        let moved = Moved::new(&head, &record.head);
        let names = &names[place];
        let of = |old: usize| phases.iter().position(|name| *name == record.phase_name(old));
        for row in &record.rows {
            let mut row = row.clone();
            row.line.phase = of(row.line.phase).unwrap_or(row.line.phase);
            row.line.source.clone_from(&names[&row.line.source]);
            row.line.from_ns = moved.to(row.line.from_ns);
            row.line.to_ns = moved.to(row.line.to_ns);
            rows.push(row);
        }
        events.extend(record.events.iter().map(|event| Event {
            at_ns: moved.to(event.at_ns),
            text: format!("{} ({})", event.text, place + 1),
            ..event.clone()
        }));
    }
    rows.sort_by_key(|row| (row.line.from_ns, row.line.to_ns));
    events.sort_by_key(|event| event.at_ns);
    let mut writer = Writer::create(out, &head)?;
    for row in rows {
        check_stop(stop)?;
        write_row(&mut writer, &head, row)?;
    }
    events.iter().try_for_each(|event| writer.event(event))?;
    for sample in samples(&records, &head, &mut said) {
        writer.target(&sample)?;
    }
    let merged = Record::read(out)?;
    match sums::summary(&records, &merged)? {
        Some(summary) => writer.finish(&summary)?,
        None => said.push_str("warning: a run was cut off, and so the merged one has no end\n"),
    }
    writeln!(said, "{} records written to {}", records.len(), out.display())?;
    Ok(said)
}

/// Puts a row down with its times, which begin where the row now begins.
fn write_row(writer: &mut Writer, head: &Head, row: Row) -> Result<()> {
    let Row { line, mut entries } = row;
    for entry in &mut entries {
        entry.from = since(head.began_ns, line.from_ns);
    }
    writer.logged(&line, &entries)
}

/// From a record's monotonic clock to that of the merged one, by the wall clock.
struct Moved {
    began_ns: u64,
    new_began_ns: u64,
}

impl Moved {
    fn new(merged: &Head, record: &Head) -> Self {
        let later_ms = record.began_unix_ms.saturating_sub(merged.began_unix_ms);
        let new_began_ns = merged.began_ns.saturating_add(later_ms.saturating_mul(NS_PER_MS));
        Self { began_ns: record.began_ns, new_began_ns }
    }

    fn to(&self, at_ns: u64) -> u64 {
        self.new_began_ns.saturating_add(at_ns.saturating_sub(self.began_ns))
    }
}

fn warnings(records: &[Record]) -> String {
    let mut said = String::new();
    let mut warn = |text: String| {
        said.push_str("warning: ");
        said.push_str(&text);
        said.push('\n');
    };
    let mut first: Option<&Record> = None;
    for record in records {
        let name = record.dir.display();
        record.notes.iter().for_each(|note| warn(format!("{name}: {note}")));
        let Some(first) = first else {
            first = Some(record);
            continue;
        };
        for (what, one, other) in differences(&first.head, &record.head) {
            warn(format!(
                "{name} differs from {} in {what}: {other:?}, {one:?}",
                first.dir.display()
            ));
        }
    }
    said
}

/// In what two runs differ that makes their figures hard to hold side by side.
pub fn differences(one: &Head, other: &Head) -> Vec<(&'static str, String, String)> {
    let facts = |head: &Head| {
        [
            ("its scenario", head.scenario.clone()),
            ("its scenario's text", head.text.clone()),
            ("its settings", head.settings.join(" ")),
            ("its phases", head.phases.join(", ")),
            ("the generator's version", head.version.clone()),
        ]
    };
    let pairs = facts(one).into_iter().zip(facts(other));
    let differ = pairs.filter(|((_, one), (_, other))| one != other);
    let shown = differ.map(|((what, one), (_, other))| {
        let (one, other) = first_difference(&one, &other);
        (what, one, other)
    });
    shown.collect()
}

/// The first lines that differ, as far as they say enough: a scenario's text is long.
fn first_difference(one: &str, other: &str) -> (String, String) {
    let same = one.lines().zip(other.lines()).take_while(|(one, other)| one == other).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("").chars().take(SHOWN_MAX).collect();
    (line(one), line(other))
}

/// All phases, each name once, in the order of the first record that has it.
fn phases(records: &[Record]) -> Vec<String> {
    let mut names = Vec::new();
    for record in records {
        let told = record.rows.iter().map(|row| row.line.phase + 1).max().unwrap_or(0);
        for phase in 0..told.max(record.head.phases.len()) {
            let name = record.phase_name(phase);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn head(records: &[Record], phases: &[String]) -> Head {
    let earliest = records.iter().map(|record| &record.head).min_by_key(|head| head.began_unix_ms);
    let mut head = earliest.cloned().unwrap_or_default();
    head.phases = phases.to_vec();
    let mut machines: Vec<&str> = Vec::new();
    for record in records {
        if !machines.contains(&record.head.machine.as_str()) {
            machines.push(&record.head.machine);
        }
    }
    head.machine = machines.join("; ");
    head.clocks = records.iter().flat_map(|record| record.head.clocks.clone()).collect();
    head
}

/// New names for the sources of each record: their own, but with the record's number if another
/// record has a source of that name, and once more if that is taken, too.
fn renamed(records: &[Record]) -> Vec<BTreeMap<String, String>> {
    let sources = records.iter().map(|record| {
        let names = record.rows.iter().map(|row| row.line.source.as_str());
        names.collect::<BTreeSet<_>>()
    });
    let sources = sources.collect::<Vec<_>>();
    let mut owners = BTreeMap::<&str, usize>::new();
    sources.iter().flatten().for_each(|name| *owners.entry(name).or_default() += 1);
    let mut taken = owners.keys().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let mut rename = |place: usize, name: &str| {
        let mut new = name.to_owned();
        if owners.get(name).is_some_and(|owners| *owners > 1) {
            while !taken.insert(new.clone()) {
                new = format!("r{}-{new}", place + 1);
            }
        }
        (name.to_owned(), new)
    };
    let each = sources.iter().enumerate();
    each.map(|(place, names)| names.iter().map(|name| rename(place, name)).collect()).collect()
}

/// The target over time. Of records that were made at the same time only the first that has
/// samples counts, as they all looked at one target.
fn samples(records: &[Record], head: &Head, said: &mut String) -> Vec<TargetSample> {
    let mut all: Vec<TargetSample> = Vec::new();
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for record in records {
        let moved = Moved::new(head, &record.head);
        let of = |sample: &TargetSample| TargetSample { at_ns: moved.to(sample.at_ns), ..*sample };
        let samples = record.target.iter().map(of).collect::<Vec<_>>();
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else { continue };
        let (from, to) = (first.at_ns, last.at_ns);
        if spans.iter().any(|&(begin, end)| from < end && begin < to) {
            let name = record.dir.display();
            said.push_str(&format!(
                "warning: {name} looked at the target while another did, and is not heard on it\n"
            ));
            continue;
        }
        spans.push((from, to));
        all.extend(samples);
    }
    all.sort_by_key(|sample| sample.at_ns);
    all
}

fn check_stop(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => bail!("stopped: nothing, or not all, was written"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::summary as percentiles;
    use crate::record::samples::{Made, place};
    use crate::record::{Times, no_times};

    fn merged(inputs: Vec<PathBuf>, out: &Path) -> String {
        let args = MergeArgs { inputs, out: out.to_owned() };
        run(&args, &Arc::new(AtomicBool::new(false))).expect("they can be merged").text
    }

    /// Two runs and all their corrected times in one histogram.
    fn two(dir: &Path) -> (Vec<PathBuf>, Times) {
        let mut all = no_times();
        let made = [1, 2].map(|seed| {
            let made = Made { seed, seconds: 3, slower: seed as f64, ..Made::default() };
            let input = dir.join(seed.to_string());
            made.write(&input, true);
            for interval in made.intervals() {
                all.add(&interval.timings.corrected).expect("the bounds are the same");
            }
            input
        });
        (made.to_vec(), all)
    }

    #[test]
    fn records_add_up_without_loss() {
        let dir = place("merge-records");
        let (inputs, all) = two(&dir);
        let parts = inputs.iter().map(|input| Record::read(input).expect("it is one"));
        let parts = parts.collect::<Vec<_>>();
        let out = dir.join("out");
        let said = merged(inputs, &out);
        assert!(said.contains("looked at the target while another did"), "{said}");
        let record = Record::read(&out).expect("it is one");
        assert_eq!(record.notes, [""; 0]);
        assert_eq!(record.times("corrected").expect("they can be read"), all);
        let summary = record.summary.expect("both had ended");
        assert_eq!(summary.measured.latency_us, percentiles(&all));
        let sum = |of: &dyn Fn(&Record) -> u64| parts.iter().map(of).sum::<u64>();
        let delivered =
            |record: &Record| record.summary.as_ref().map_or(0, |summary| summary.totals.delivered);
        assert_eq!(summary.totals.delivered, sum(&delivered));
        let bytes = summary.generator_bytes_per_client.expect("both tell it");
        assert!((bytes - 180.0).abs() < 1e-9, "as each says: {bytes}");
        assert_eq!(record.rows.len() as u64, sum(&|part| part.rows.len() as u64));
        assert!(record.rows.is_sorted_by_key(|row| row.line.from_ns));
        assert!(out.join("r1-worker-0.hlog").exists() && out.join("r2-publisher.hlog").exists());
        let rate = |record: &Record| {
            let summary = record.summary.as_ref().expect("it has ended");
            summary.measured.deliveries_per_s.expect("it delivered")
        };
        let together = parts.iter().map(rate).sum::<f64>();
        let found = summary.measured.deliveries_per_s.expect("both delivered");
        assert!((found / together - 1.0).abs() < 1e-9, "both ran at once: {found}, {together}");
    }

    #[test]
    fn repeats_lie_one_after_the_other() {
        let dir = place("merge-repeats");
        let inputs = [0, 100].map(|later_s| {
            let input = dir.join(later_s.to_string());
            Made { later_s, seconds: 3, ..Made::default() }.write(&input, true);
            input
        });
        let out = dir.join("out");
        let said = merged(inputs.to_vec(), &out);
        assert!(!said.contains("warning"), "{said}");
        let [one, all] = [&inputs[0], &out].map(|dir| Record::read(dir).expect("it is one"));
        let (first, second) = all.rows.split_at(one.rows.len());
        for (first, second) in first.iter().zip(second) {
            assert_eq!(first.line.from_ns + 100_000_000_000, second.line.from_ns);
            assert_eq!(first.line.counts, second.line.counts);
        }
        assert_eq!(all.target.len(), 2 * one.target.len());
        let rates = [one, all].map(|record| {
            let summary = record.summary.expect("it has ended");
            summary.measured.deliveries_per_s.expect("it delivered")
        });
        assert!((rates[1] / rates[0] - 1.0).abs() < 1e-9, "no time between them counts: {rates:?}");
    }

    #[test]
    fn logs_add_up_without_loss() {
        let dir = place("merge-logs");
        let (inputs, all) = two(&dir);
        let workers = ["worker-0.hlog", "worker-1.hlog"];
        let logs = inputs.iter().flat_map(|input| workers.map(|worker| input.join(worker)));
        let out = dir.join("all.hlog");
        let said = merged(logs.collect(), &out);
        assert!(said.contains("corrected: 24 intervals"), "{said}");
        let (log, _) = hlog::read(File::open(&out).expect("it is there")).expect("it is a log");
        assert!(log.entries.is_sorted_by_key(|entry| entry.from));
        let mut sum = no_times();
        for entry in log.entries.iter().filter(|entry| entry.tag.as_deref() == Some("corrected")) {
            sum.add(hlog::decode(&entry.encoded).expect("a histogram")).expect("same bounds");
        }
        assert_eq!(percentiles(&sum), percentiles(&all));
        assert_eq!(sum, all);
    }

    #[test]
    fn sources_stay_apart_when_what_was_merged_is_merged_again() {
        let dir = place("merge-again");
        let (inputs, _) = two(&dir);
        let once = dir.join("once");
        merged(inputs.clone(), &once);
        let out = dir.join("twice");
        merged(vec![once.clone(), inputs[0].clone(), inputs[1].clone()], &out);
        let sources = |dir: &Path| {
            let record = Record::read(dir).expect("it is one");
            let names = record.rows.iter().map(|row| row.line.source.clone());
            names.collect::<BTreeSet<_>>().len()
        };
        let wanted = sources(&once) + sources(&inputs[0]) + sources(&inputs[1]);
        assert_eq!(sources(&out), wanted);
    }

    #[test]
    fn other_scenarios_are_warned_of() {
        let dir = place("merge-others");
        let made = |scenario, name: &str, finished| {
            let input = dir.join(name);
            Made { scenario, seconds: 2, ..Made::default() }.write(&input, finished);
            input
        };
        let inputs = vec![made("one", "a", true), made("two", "b", false)];
        let said = merged(inputs, &dir.join("out"));
        assert!(said.contains("differs from") && said.contains("\"two\", \"one\""), "{said}");
        assert!(said.contains("cut off"), "{said}");
        let record = Record::read(&dir.join("out")).expect("it is one");
        assert!(record.summary.is_none(), "one of them has no end");
    }
}
