//! `run`: a campaign by a scenario.
//!
//! The leader ([`lead`], [`close`]) gives orders to its [`crew`] and hears what they report; [`books`]
//! adds that up, [`judge`] says what has come of it, [`view`] shows it on the way.

pub mod books;
pub mod close;
pub mod crew;
pub mod guard;
pub mod judge;
pub mod keep;
pub mod lead;
pub mod publisher;
pub mod scene;
pub mod shares;
pub mod summary;
pub mod target;
pub mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use crate::agent::lead::RemoteClock;
use crate::clock::now_ns;
use crate::exit::{Ended, Exit};
use crate::machine::Machine;
use crate::record::kept::{Head, Summary};
use crate::scenario::file::{self, Loaded};
use crate::scenario::library;

use keep::Keep;
use lead::Leader;
use lead::outside::Here;
use target::{Doors, Sampler};
use view::View;

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A file, or the name of a scenario of the library.
    #[arg(value_name = "SCENARIO", required_unless_present = "list")]
    pub scenario: Option<String>,
    /// Lists the scenarios of the library and ends.
    #[arg(long)]
    pub list: bool,
    /// A value instead of the file's, with dots between names: clients.count=100. May be given
    /// several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Where the record goes, a directory that does not exist yet; `none` keeps none
    /// [default: barrage-runs/NAME-TIME].
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// One JSON object on stdout at the end: `head` and `summary` of the record.
    #[arg(long)]
    pub json: bool,
    /// A JSON object on stdout every second, too: what the view shows.
    #[arg(long)]
    pub json_lines: bool,
    /// No progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// Plain lines on stderr instead of the live view, also on a terminal.
    #[arg(long)]
    pub no_view: bool,
    /// An agent that has the clients instead of this machine, HOST:PORT. May be given several
    /// times; each has as many clients as its cores are of all.
    #[arg(long, value_name = "ADDR")]
    pub agent: Vec<String>,
    /// What the agents know, or @FILE for the first line of a file.
    #[arg(long, value_name = "T", default_value = "", hide_default_value = true)]
    pub token: String,
}

/// Runs the command.
pub fn run(args: &RunArgs, stop: &Arc<AtomicBool>) -> Result<Ended> {
    if args.list {
        return Ok(Ended { text: library::list(), exit: Exit::Pass });
    }
    let Some(name) = &args.scenario else { bail!("which scenario? `run --list` has some") };
    let loaded = file::load(name, &args.set)?;
    let view = View::new(args.quiet, args.no_view, args.json, args.json_lines);
    let help = Help { agents: &args.agent, token: &args.token, out: args.out.as_deref() };
    let outcome = campaign(&loaded, help, view, stop)?;
    let Outcome { head, summary, dir } = &outcome;
    let exit = summary.verdict.exit;
    let text = if args.json || args.json_lines {
        format!("{}\n", json!({ "head": head, "summary": summary, "record": dir }))
    } else {
        summary::text(head, summary, dir.as_deref())
    };
    Ok(Ended { text, exit })
}

/// What a campaign has beside its scenario.
#[derive(Clone, Copy, Debug, Default)]
pub struct Help<'a> {
    /// Agents, HOST:PORT.
    pub agents: &'a [String],
    /// What they know.
    pub token: &'a str,
    /// Where the record goes.
    pub out: Option<&'a str>,
}

/// A campaign that was led to its end.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it was.
    pub head: Head,
    /// What has come of it.
    pub summary: Summary,
    /// Where its record is.
    pub dir: Option<PathBuf>,
}

/// Leads a campaign.
pub fn campaign(
    loaded: &Loaded,
    help: Help<'_>,
    view: View,
    stop: &Arc<AtomicBool>,
) -> Result<Outcome> {
    let scenario = &loaded.scenario;
    // With agents the target may be out of this machine's reach; then theirs counts.
    let doors = if help.agents.is_empty() { Doors::All } else { Doors::Upstream };
    target::reach_by(scenario, doors)?;
    let sampler = Sampler::start(&scenario.target)?;
    let crew = crew::hire(loaded, help.agents, help.token)?;
    let watched = crew.clocks.clone();
    let mut head = head(loaded);
    head.clocks = watched.iter().map(RemoteClock::now).collect();
    let keep = match Keep::create(help.out, &head) {
        Ok(keep) => keep,
        Err(error) => {
            crew.dismiss();
            return Err(error);
        }
    };
    let dir = keep.dir().map(ToOwned::to_owned);
    let here = Box::new(Here { sampler, doors });
    let mut leader = Leader::new(scenario, crew, keep, view, here, stop);
    leader.lead()?;
    head.clocks = watched.iter().map(RemoteClock::now).collect();
    let (summary, keep) = leader.close(&head.clocks)?;
    keep.finish(&head.clocks, &summary)?;
    Ok(Outcome { head, summary, dir })
}

fn head(loaded: &Loaded) -> Head {
    let scenario = &loaded.scenario;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Head {
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        text: loaded.text.clone(),
        settings: loaded.settings.clone(),
        target: target::name(&scenario.target),
        phases: scenario.phases.iter().map(|phase| phase.name.clone()).collect(),
        began_unix_ms: since.as_millis() as u64,
        began_ns: now_ns(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: machine(),
        clocks: Vec::new(),
    }
}

/// The machine in a line.
fn machine() -> String {
    let Machine { cpu, cores, kernel, memory_bytes, files_max } = Machine::here();
    let gib = memory_bytes as f64 / f64::from(1 << 30);
    let files = files_max.map_or("unlimited".to_owned(), |files| files.to_string());
    format!("{cpu}, {cores} cores, Linux {kernel}, {gib:.1} GiB, nofile {files}")
}
