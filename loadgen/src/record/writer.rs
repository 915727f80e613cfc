//! Writes a record while its run goes on. Every line goes to its file in one piece as soon as it is
//! known, so that whatever ends the process leaves a record that can be read.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::record::hlog::{self, Entry};
use crate::record::kept::{Clock, Event, Head, Summary, TargetSample};
use crate::record::{Counts, Interval};

/// What a record's `run.json` says it is.
pub const FORMAT: &str = "barrage-record-1";
/// The file that says what the run was.
pub const RUN: &str = "run.json";
/// The file with a line for each interval.
pub const INTERVALS: &str = "intervals.jsonl";
/// The file with a line for each sample of the target.
pub const TARGET: &str = "target.jsonl";
/// The file with a line for each event.
pub const EVENTS: &str = "events.jsonl";
/// How the names of logs end.
pub const LOG_SUFFIX: &str = ".hlog";
/// Sources of a record; each has a log of its own, open all the time.
pub const SOURCES_MAX: usize = 1024;
/// The longest name of a source.
const SOURCE_BYTES_MAX: usize = 128;

/// What stands in `run.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: String,
    /// What the run was.
    pub head: Head,
    /// What came of it, if it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// A line of `intervals.jsonl`: an interval without its times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// As in [`Interval`].
    pub source: String,
    /// As in [`Interval`].
    pub phase: usize,
    /// As in [`Interval`].
    pub from_ns: u64,
    /// As in [`Interval`].
    pub to_ns: u64,
    /// As in [`Interval`].
    pub ready: u64,
    /// As in [`Interval`].
    pub busy: f64,
    /// As in [`Interval`].
    pub counts: Counts,
    /// The kinds of times that the source's log has of it, in their order there.
    pub logged: Vec<String>,
}

/// Writes a record.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    head: Head,
    intervals: File,
    target: File,
    events: File,
    logs: BTreeMap<String, File>,
}

impl Writer {
    /// A new record in a directory that is not there yet, or empty.
    pub fn create(dir: &Path, head: &Head) -> Result<Self> {
        let context = || format!("a record in {}", dir.display());
        fs::create_dir_all(dir).with_context(context)?;
        if fs::read_dir(dir).with_context(context)?.next().is_some() {
            bail!("{} is not empty: give a directory that is not there yet", dir.display());
        }
        let open = |name: &str| open(&dir.join(name));
        let writer = Self {
            dir: dir.to_owned(),
            head: head.clone(),
            intervals: open(INTERVALS)?,
            target: open(TARGET)?,
            events: open(EVENTS)?,
            logs: BTreeMap::new(),
        };
        writer.write_run(None)?;
        Ok(writer)
    }

    /// An interval has been reported.
    pub fn interval(&mut self, interval: &Interval) -> Result<()> {
        let full = || interval.timings.named().into_iter().filter(|(_, times)| !times.is_empty());
        let from = since(self.head.began_ns, interval.from_ns);
        let length = since(interval.from_ns, interval.to_ns);
        let entries = full().map(|(kind, times)| Entry::new(kind, from, length, times));
        let entries = entries.collect::<Vec<_>>();
        self.logged(
            &Line {
                source: interval.source.clone(),
                phase: interval.phase,
                from_ns: interval.from_ns,
                to_ns: interval.to_ns,
                ready: interval.ready,
                busy: interval.busy,
                counts: interval.counts,
                logged: full().map(|(kind, _)| kind.to_owned()).collect(),
            },
            &entries,
        )
    }

    /// An interval whose times are already encoded.
    pub fn logged(&mut self, line: &Line, entries: &[Entry]) -> Result<()> {
        let text = entries.iter().map(Entry::line).collect::<String>();
        // The log comes first: a line of an interval is only there when its times are.
        if !text.is_empty() {
            let log = self.log(&line.source)?;
            log.write_all(text.as_bytes()).with_context(|| format!("{}.hlog", line.source))?;
        }
        write_line(&mut self.intervals, INTERVALS, line)
    }

    /// The target has been looked at.
    pub fn target(&mut self, sample: &TargetSample) -> Result<()> {
        write_line(&mut self.target, TARGET, sample)
    }

    /// Something has happened.
    pub fn event(&mut self, event: &Event) -> Result<()> {
        write_line(&mut self.events, EVENTS, event)
    }

    /// What is known by now of other machines' clocks; it is written when the run has ended.
    pub fn set_clocks(&mut self, clocks: &[Clock]) {
        self.head.clocks = clocks.to_vec();
    }

    /// The run has ended. More events may still be written.
    pub fn finish(&mut self, summary: &Summary) -> Result<()> {
        for file in
            [&self.intervals, &self.target, &self.events].into_iter().chain(self.logs.values())
        {
            file.sync_data().context("the record cannot be brought to the disk")?;
        }
        self.write_run(Some(summary))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn log(&mut self, source: &str) -> Result<&mut File> {
        if !self.logs.contains_key(source) {
            check_source(source)?;
            if self.logs.len() == SOURCES_MAX {
                bail!("{source:?} is one source too many: a record has {SOURCES_MAX}");
            }
            let mut file = open(&self.dir.join(format!("{source}{LOG_SUFFIX}")))?;
            let Head { scenario, began_unix_ms, .. } = &self.head;
            let comment = format!("{scenario}: {source}, times in microseconds");
            file.write_all(hlog::heading(&comment, *began_unix_ms).as_bytes())?;
            self.logs.insert(source.to_owned(), file);
        }
        Ok(self.logs.get_mut(source).expect("it is there or was put there above"))
    }

    /// Puts `run.json` in its place in one step, so that there is always a whole one.
    fn write_run(&self, summary: Option<&Summary>) -> Result<()> {
        let run =
            Run { format: FORMAT.to_owned(), head: self.head.clone(), summary: summary.cloned() };
        let text = serde_json::to_string_pretty(&run)? + "\n";
        let (new, place) = (self.dir.join("run.json.new"), self.dir.join(RUN));
        let written = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &place)
        };
        written().with_context(|| place.display().to_string())
    }
}

/// From one moment to another, none if they are the other way round.
pub fn since(from_ns: u64, to_ns: u64) -> Duration {
    Duration::from_nanos(to_ns.saturating_sub(from_ns))
}

/// A source's name becomes a file's.
pub fn check_source(source: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = source.len() <= SOURCE_BYTES_MAX && source.chars().all(plain);
    if !good || source.is_empty() || source.starts_with('.') {
        bail!("{source:?} is no name of a source: letters, digits, '.', '_' and '-' make one");
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create_new(true).append(true).open(path);
    file.with_context(|| path.display().to_string())
}

fn write_line(file: &mut File, name: &str, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    file.write_all(text.as_bytes()).context(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::reader::Record;
    use crate::record::samples::{Made, place};

    #[test]
    fn clocks_are_kept_as_they_are_known_at_the_end() {
        let dir = place("clocks");
        let mut writer = Writer::create(&dir, &Made::default().head()).expect("a new one");
        let clocks = [Clock { agent: "far".to_owned(), offset_ns: -5, error_ns: 7 }];
        writer.set_clocks(&clocks);
        writer
            .finish(&Made::default().summary(&Made::default().intervals()))
            .expect("it is written");
        assert_eq!(Record::read(&dir).expect("it can be read").head.clocks, clocks);
    }

    #[test]
    fn a_full_directory_is_refused() {
        let dir = place("full");
        let head = Made::default().head();
        let mut writer = Writer::create(&dir, &head).expect("a new one is taken");
        let error = Writer::create(&dir, &head).expect_err("a full one is not");
        assert!(error.to_string().contains("is not empty"), "{error}");
        let mut interval = Made::default().intervals().remove(0);
        interval.source = "../x".to_owned();
        let error = writer.interval(&interval).expect_err("no way out of the directory");
        assert!(error.to_string().contains("no name of a source"), "{error}");
    }
}
