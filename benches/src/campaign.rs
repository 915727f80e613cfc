//! All the runs: every set, every repeat, its cases one after the other.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::case::{Case, Scale, Set, cases};
use crate::figure::figures;
use crate::gateway::Gateway;
use crate::loadgen;
use crate::machine::{self, Machine};
use crate::record::Record;
use crate::table::{Spread, readable};

/// Messages are missing without explanation, or totals are wrong.
const EXIT_FAULTY: u8 = 3;

/// What to run, and with what.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The sets, in order.
    pub sets: Vec<Set>,
    /// How often each case is run.
    pub repeats: u32,
    /// How big.
    pub scale: Scale,
    /// The two programs.
    pub programs: Programs,
    /// Where each run is added to.
    pub results: Option<PathBuf>,
    /// The machine that all runs happen on.
    pub machine: Machine,
    /// The commit that is measured.
    pub commit: String,
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    gateway: PathBuf,
    loadgen: PathBuf,
}

impl Programs {
    /// Both in `directory`.
    pub fn in_directory(directory: &Path) -> Result<Self> {
        let find = |name: &str| {
            let path = directory.join(name);
            if !path.is_file() {
                bail!("{} is missing: run `cargo build --release` first", path.display());
            }
            Ok(path)
        };
        Ok(Self { gateway: find("barrage-gateway")?, loadgen: find("barrage-loadgen")? })
    }
}

/// What has come of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every run that was made.
    pub records: Vec<Record>,
    /// Runs that could not be made.
    pub failures: u32,
}

impl Outcome {
    /// What the process says when it ends. A missed target is a finding and no failure.
    pub fn exit_code(&self) -> ExitCode {
        let faulty = self.records.iter().any(|record| record.faults() > 0);
        match (faulty, self.failures) {
            (true, _) => EXIT_FAULTY.into(),
            (false, 0) => ExitCode::SUCCESS,
            (false, _) => ExitCode::FAILURE,
        }
    }
}

impl Campaign {
    /// Runs everything; what fails is said on stderr and does not keep the rest from running.
    pub fn run(&self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for &set in &self.sets {
            // Cases take turns, so that a machine that gets slower does so for all of them.
            for repeat in 1..=self.repeats {
                for case in cases(set, &self.scale) {
                    match self.one(&case, repeat) {
                        Ok((record, ended)) => {
                            self.keep(&case, &record)?;
                            outcome.records.push(record);
                            if let Err(error) = ended {
                                eprintln!("{} {}: {error:#}", set.name(), case.name);
                                outcome.failures += 1;
                            }
                        }
                        Err(error) => {
                            eprintln!("{} {}: {error:#}", set.name(), case.name);
                            outcome.failures += 1;
                        }
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// What was found, and whether the gateway ended well after that: a bad end takes nothing away
    /// from what was found.
    fn one(&self, case: &Case, repeat: u32) -> Result<(Record, Result<()>)> {
        let Case { set, name, .. } = *case;
        eprintln!("{} {name}, repeat {repeat} of {}: running", set.name(), self.repeats);
        let own = format!("barrage-figures-{}-{}-{name}", std::process::id(), set.name());
        let path = |ending| std::env::temp_dir().join(format!("{own}-{repeat}{ending}"));
        let data = Data(path(".data"));
        let gateway = match case.target {
            None => None,
            Some(target) => {
                Some(Gateway::start(&self.programs.gateway, target, &data.0, path(".log"))?)
            }
        };
        let found = loadgen::run(&self.programs.loadgen, case, gateway.as_ref())?;
        let loadgen::Found { report, hold_cpu_pct } = found;
        let record = Record { set, case: name, repeat, report, hold_cpu_pct };
        eprintln!("{}", progress(&record));
        let ended = gateway.map_or(Ok(()), |gateway| end(gateway, &record));
        Ok((record, ended))
    }

    fn keep(&self, case: &Case, record: &Record) -> Result<()> {
        let Some(path) = &self.results else { return Ok(()) };
        let line = record.json(case, &machine::now(), &self.commit, &self.machine.json());
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        // One write, so that two campaigns do not mix within a line.
        file.write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("writing {}", path.display()))
    }
}

/// A directory that the gateway makes when it is to keep something; removed at the end.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        // Most gateways keep nothing, so that there is no directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ends the gateway; its log stays when there is something to look for in it.
fn end(gateway: Gateway, record: &Record) -> Result<()> {
    let log = gateway.log.clone();
    gateway.end()?;
    if record.faults() > 0 {
        eprintln!("  the gateway's log is {}", log.display());
        return Ok(());
    }
    std::fs::remove_file(&log).with_context(|| format!("removing {}", log.display()))
}

/// What one run has found, in a line.
fn progress(record: &Record) -> String {
    let alone = std::slice::from_ref(record);
    let found = figures(record.set).into_iter().filter_map(|figure| {
        let spread = Spread::of(&figure.values(alone))?;
        Some(format!("{} {}{}", figure.name, readable(spread.median), figure.unit))
    });
    let found: Vec<String> = found.collect();
    let doubt = if record.invalid_reasons().is_empty() { "" } else { "; NOT VALID" };
    format!("  {}{doubt}", found.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(unexplained: u64) -> Record {
        let report = json!({"unexplained": unexplained, "valid": true});
        Record { set: Set::Batched, case: "room", repeat: 1, report, hold_cpu_pct: None }
    }

    #[test]
    fn the_exit_code_tells_faults_from_failures() {
        let code = |unexplained, failures| {
            let outcome = Outcome { records: vec![record(unexplained)], failures };
            format!("{:?}", outcome.exit_code())
        };
        let of = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(0, 0), of(0));
        assert_eq!(code(0, 1), of(1));
        assert_eq!(code(2, 0), of(3));
        assert_eq!(code(2, 1), of(3));
    }

    #[test]
    fn a_line_of_progress_tells_what_was_found() {
        assert_eq!(progress(&record(0)), "  unexplained 0");
    }
}
