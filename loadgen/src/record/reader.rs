//! Reads a record back: of a run that has ended, or of one that was cut off.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;

use crate::record::hlog::{self, Entry};
use crate::record::kept::{Event, Head, Summary, TargetSample};
use crate::record::totals::is_odd;
use crate::record::writer::{
    EVENTS, FORMAT, INTERVALS, LOG_SUFFIX, Line, RUN, Run, SOURCES_MAX, TARGET, check_source, since,
};
use crate::record::{Merged, Times, no_times};

/// The longest `run.json`.
const RUN_BYTES_MAX: u64 = 64 << 20;
/// The longest line of the other files.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// The most lines of a file.
const LINES_MAX: usize = 4_000_000;
/// The most phases of a scenario.
const PHASES_MAX: usize = 10_000;

/// A record. Times stay encoded, as an interval's take a megabyte when they are not.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it is.
    pub dir: PathBuf,
    /// What the run was.
    pub head: Head,
    /// What came of it; none if it was cut off.
    pub summary: Option<Summary>,
    /// Its intervals, in the order in which they were reported.
    pub rows: Vec<Row>,
    /// The target, over time.
    pub target: Vec<TargetSample>,
    /// What happened.
    pub events: Vec<Event>,
    /// What is not as it should be, and yet can be read.
    pub notes: Vec<String>,
}

/// An interval whose times are still encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The interval without its times.
    pub line: Line,
    /// The times, in the order in which the line names them.
    pub entries: Vec<Entry>,
}

impl Row {
    /// Its times of a kind, if there are any.
    pub fn times(&self, kind: &str) -> Result<Option<Times>> {
        let mut kinds = self.line.logged.iter().zip(&self.entries);
        let Some((_, entry)) = kinds.find(|(logged, _)| *logged == kind) else { return Ok(None) };
        let Line { source, from_ns, .. } = &self.line;
        let context = || format!("{kind} times of {source} from {from_ns} ns");
        hlog::decode(&entry.encoded).map(Some).with_context(context)
    }
}

impl Record {
    /// Reads the record in a directory.
    pub fn read(dir: &Path) -> Result<Self> {
        read(dir).with_context(|| format!("the record in {}", dir.display()))
    }

    /// Everything by phase, without loss, but for the odd clients.
    pub fn merged(&self) -> Result<Merged> {
        let mut merged = Merged::default();
        for row in self.rows.iter().filter(|row| !is_odd(&row.line.source)) {
            let Line { phase, from_ns, to_ns, busy, counts, .. } = &row.line;
            let totals = merged.phase_mut(*phase);
            totals.add_counts(*from_ns, *to_ns, *busy, counts);
            for (kind, all) in totals.timings.named_mut() {
                if let Some(times) = row.times(kind)? {
                    all.add(&times)?;
                }
            }
        }
        Ok(merged)
    }

    /// All times of a kind, but for those of the odd clients.
    pub fn times(&self, kind: &str) -> Result<Times> {
        let mut all = no_times();
        for row in self.rows.iter().filter(|row| !is_odd(&row.line.source)) {
            if let Some(times) = row.times(kind)? {
                all.add(&times)?;
            }
        }
        Ok(all)
    }

    /// The name of a phase.
    pub fn phase_name(&self, phase: usize) -> String {
        self.head.phases.get(phase).cloned().unwrap_or_else(|| format!("phase {phase}"))
    }
}

fn read(dir: &Path) -> Result<Record> {
    let Run { head, summary, .. } = read_run(&dir.join(RUN))?;
    let mut notes = Vec::new();
    if summary.is_none() {
        notes.push("the run was cut off: what came of it was never written".to_owned());
    }
    let lines: Vec<Line> = read_lines(&dir.join(INTERVALS), &mut notes)?;
    let mut target: Vec<TargetSample> = read_lines(&dir.join(TARGET), &mut notes)?;
    // Whoever looks a moment up relies on their order.
    target.sort_by_key(|sample| sample.at_ns);
    let events = read_lines(&dir.join(EVENTS), &mut notes)?;
    let mut logs = Logs { dir, began_ns: head.began_ns, open: BTreeMap::new() };
    let rows = lines.into_iter().map(|line| logs.row(line, &mut notes));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    for (source, entries) in &logs.open {
        if !entries.is_empty() {
            let count = entries.len();
            notes.push(format!("{source}{LOG_SUFFIX} has {count} times of no known interval"));
        }
    }
    Ok(Record { dir: dir.to_owned(), head, summary, rows, target, events, notes })
}

fn read_run(path: &Path) -> Result<Run> {
    let name = || path.display().to_string();
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("{}: is this a record?", name()))?;
    file.take(RUN_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(name)?;
    if bytes.len() as u64 > RUN_BYTES_MAX {
        bail!("{} is longer than {RUN_BYTES_MAX} bytes", name());
    }
    let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(name)?;
    match value.get("format").and_then(|format| format.as_str()) {
        Some(FORMAT) => serde_json::from_value(value).with_context(name),
        Some(other) => bail!("{} has the format {other:?}, and this reads {FORMAT:?}", name()),
        None => bail!("{} is not a record's: it has no format", name()),
    }
}

fn read_lines<T: DeserializeOwned>(path: &Path, notes: &mut Vec<String>) -> Result<Vec<T>> {
    let name = path.display().to_string();
    let mut reader = BufReader::new(File::open(path).with_context(|| name.clone())?);
    let mut values = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        let place = || format!("{name}, line {}", values.len() + 1);
        match line.last() {
            None => return Ok(values),
            Some(b'\n') => {}
            Some(_) if line.len() as u64 == LINE_BYTES_MAX => bail!("{} is too long", place()),
            Some(_) => {
                notes.push(format!("{} was cut off and is left out", place()));
                return Ok(values);
            }
        }
        if values.len() == LINES_MAX {
            bail!("{name} has more than {LINES_MAX} lines");
        }
        let value = serde_json::from_slice(&line).with_context(place)?;
        values.push(value);
    }
}

/// The logs of a record's sources, as far as they have not been used up yet.
struct Logs<'a> {
    dir: &'a Path,
    began_ns: u64,
    open: BTreeMap<String, VecDeque<Entry>>,
}

impl Logs<'_> {
    /// Puts an interval together with its times.
    fn row(&mut self, line: Line, notes: &mut Vec<String>) -> Result<Row> {
        let Line { source, phase, from_ns, to_ns, busy, .. } = &line;
        if *phase >= PHASES_MAX || to_ns < from_ns || !busy.is_finite() {
            bail!("an interval of phase {phase}, {from_ns} to {to_ns}, busy {busy}, cannot be");
        }
        let mut entries = Vec::with_capacity(line.logged.len().min(8));
        let from = since(self.began_ns, *from_ns);
        for kind in &line.logged {
            let log = self.log(source, notes)?;
            let wanted = |entry: &Entry| entry.tag.as_deref() == Some(kind) && entry.from == from;
            let entry = log.pop_front().filter(wanted);
            entries.push(entry.ok_or_else(|| {
                anyhow!("{source}{LOG_SUFFIX} lacks the {kind} times that began after {from:?}")
            })?);
        }
        Ok(Row { line, entries })
    }

    fn log(&mut self, source: &str, notes: &mut Vec<String>) -> Result<&mut VecDeque<Entry>> {
        if !self.open.contains_key(source) {
            check_source(source)?;
            if self.open.len() == SOURCES_MAX {
                bail!("more than {SOURCES_MAX} sources");
            }
            let name = format!("{source}{LOG_SUFFIX}");
            let file = File::open(self.dir.join(&name)).with_context(|| name.clone())?;
            let (log, cut) = hlog::read(file).with_context(|| name.clone())?;
            if cut {
                notes.push(format!("the last line of {name} was cut off and is left out"));
            }
            self.open.insert(source.to_owned(), log.entries.into());
        }
        Ok(self.open.get_mut(source).expect("it is there or was put there above"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples::{Made, place};
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    #[test]
    fn what_was_written_is_read_without_loss() {
        let (dir, made) = (place("whole"), Made::default());
        made.write(&dir, true);
        let record = Record::read(&dir).expect("it is one");
        assert_eq!(record.notes, [""; 0]);
        let intervals = made.intervals();
        assert_eq!(record.head, made.head());
        assert_eq!(record.summary, Some(made.summary(&intervals)));
        assert_eq!((record.rows.len(), record.events.len()), (intervals.len(), 3));
        for (row, interval) in record.rows.iter().zip(&intervals) {
            let Line { source, phase, from_ns, to_ns, counts, .. } = &row.line;
            assert_eq!(
                (source, *phase, *counts),
                (&interval.source, interval.phase, interval.counts)
            );
            assert_eq!((*from_ns, *to_ns), (interval.from_ns, interval.to_ns));
            for (kind, times) in interval.timings.named() {
                let read = row.times(kind).expect("it can be decoded");
                assert_eq!(read.as_ref().unwrap_or(&no_times()), times, "{kind}");
            }
        }
    }

    #[test]
    fn a_run_that_was_killed_can_be_read() {
        let (dir, made) = (place("killed"), Made::default());
        made.write(&dir, false);
        let whole = Record::read(&dir).expect("only its end is missing");
        assert!(whole.summary.is_none());
        for name in [INTERVALS, "worker-0.hlog"] {
            let path = dir.join(name);
            let mut file = OpenOptions::new().append(true).open(path).expect("it is there");
            file.write_all(b"{\"sour").expect("it can be written");
        }
        let record = Record::read(&dir).expect("the rest is there");
        assert_eq!(record.rows, whole.rows);
        let notes = record.notes.join("\n");
        assert!(notes.contains("run was cut off"), "{notes}");
        assert!(
            notes.contains("intervals.jsonl, line") && notes.contains("worker-0.hlog"),
            "{notes}"
        );
    }

    #[test]
    fn samples_of_the_target_are_put_in_order() {
        let dir = place("disorder");
        Made { seconds: 2, ..Made::default() }.write(&dir, true);
        let before = fs::read_to_string(dir.join(TARGET)).expect("it is there");
        let backwards = before.lines().rev().map(|line| format!("{line}\n"));
        fs::write(dir.join(TARGET), backwards.collect::<String>()).expect("it can be written");
        let record = Record::read(&dir).expect("it is one");
        assert!(record.target.len() > 2 && record.target.is_sorted_by_key(|one| one.at_ns));
    }

    #[test]
    fn foreign_and_damaged_files_are_told() {
        let dir = place("damaged");
        Made { seconds: 2, ..Made::default() }.write(&dir, true);
        let check = |name: &str, change: &dyn Fn(&str) -> String, part: &str| {
            let path = dir.join(name);
            let before = fs::read_to_string(&path).expect("it is there");
            fs::write(&path, change(&before)).expect("it can be written");
            let read = Record::read(&dir).and_then(|record| record.merged().map(drop));
            let error = format!("{:#}", read.expect_err(part));
            assert!(error.contains(part) && error.contains(name), "{error}");
            fs::write(&path, before).expect("it can be written");
        };
        check(RUN, &|_| "{}".to_owned(), "it has no format");
        check(RUN, &|text| text.replace(FORMAT, "other-9"), "has the format \"other-9\"");
        check(RUN, &|text| text[..text.len() / 2].to_owned(), "run.json");
        check(INTERVALS, &|text| text.replacen("\"phase\"", "\"fase\"", 1), "line 1");
        check("publisher.hlog", &|_| "hello\n".to_owned(), "not an HdrHistogram interval log");
        check("publisher.hlog", &|text| text.replace("Tag=lag", "Tag=lack"), "lacks the lag times");
        assert!(Record::read(&dir).is_ok(), "all is as it was");
        let error = format!("{:#}", Record::read(&place("none")).expect_err("nothing is there"));
        assert!(error.contains("is this a record?"), "{error}");
    }
}
