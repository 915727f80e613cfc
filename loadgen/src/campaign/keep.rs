//! Where a run's record goes, or that none is kept.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::record::Interval;
use crate::record::kept::{Clock, Event, Head, Summary, TargetSample};
use crate::record::writer::Writer;

/// Records go here when nobody says where.
const RUNS_DIR: &str = "barrage-runs";
/// What `--out` says for no record.
const NONE: &str = "none";

/// A record that is being written, or none.
pub struct Keep(Option<(Writer, PathBuf)>);

impl Keep {
    /// Begins a record in `out`, or in a directory named after the scenario and the moment.
    pub fn create(out: Option<&str>, head: &Head) -> Result<Self> {
        let dir = match out {
            Some(NONE) => return Ok(Self(None)),
            Some(dir) => PathBuf::from(dir),
            None => Path::new(RUNS_DIR).join(format!("{}-{}", head.scenario, stamp(head))),
        };
        let writer = Writer::create(&dir, head)
            .with_context(|| format!("cannot begin a record in {}", dir.display()))?;
        Ok(Self(Some((writer, dir))))
    }

    /// Where it is.
    pub fn dir(&self) -> Option<&Path> {
        self.0.as_ref().map(|(_, dir)| dir.as_path())
    }

    /// Adds an interval.
    pub fn interval(&mut self, interval: &Interval) -> Result<()> {
        self.write(|writer| writer.interval(interval))
    }

    /// Adds what was seen of the target.
    pub fn target(&mut self, sample: &TargetSample) -> Result<()> {
        self.write(|writer| writer.target(sample))
    }

    /// Adds what happened.
    pub fn event(&mut self, event: &Event) -> Result<()> {
        self.write(|writer| writer.event(event))
    }

    /// Ends it, with what is known by then of other machines' clocks.
    pub fn finish(self, clocks: &[Clock], summary: &Summary) -> Result<()> {
        let Some((mut writer, dir)) = self.0 else { return Ok(()) };
        writer.set_clocks(clocks);
        let ended = writer.finish(summary);
        ended.with_context(|| format!("cannot end the record in {}", dir.display()))
    }

    fn write(&mut self, write: impl FnOnce(&mut Writer) -> Result<()>) -> Result<()> {
        match &mut self.0 {
            Some((writer, dir)) => write(writer)
                .with_context(|| format!("cannot write the record in {}", dir.display())),
            None => Ok(()),
        }
    }
}

/// The moment as a name, in UTC, that sorts as time goes.
fn stamp(head: &Head) -> String {
    let seconds = head.began_unix_ms / 1000;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The date of a day since 1970, by the civil calendar; years begin in March meanwhile, so that the
/// odd day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_moment_in_utc() {
        for (unix_s, name) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (4_102_444_800, "21000101T000000Z"),
        ] {
            let head = Head { began_unix_ms: unix_s * 1000 + 999, ..Head::default() };
            assert_eq!(stamp(&head), name);
        }
    }

    #[test]
    fn nothing_is_kept_when_nobody_wants_it() {
        let keep = Keep::create(Some("none"), &Head::default()).unwrap();
        assert_eq!(keep.dir(), None);
    }
}
