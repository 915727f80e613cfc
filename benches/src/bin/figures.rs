//! `figures`: measures what the project promises, and prints it as a table.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use barrage_benches::campaign::{Campaign, Programs};
use barrage_benches::case::{Scale, Set};
use barrage_benches::machine::{self, Machine};
use barrage_benches::table;
use clap::Parser;

/// Measures the figures that Barrage promises, with the real gateway and the load generator.
///
/// The table goes to stdout, progress to stderr. A missed target is no failure.
#[derive(Debug, Parser)]
#[command(
    name = "figures",
    version,
    after_help = "Exit codes:\n  \
                  0  everything was run\n  \
                  1  something could not be run\n  \
                  2  wrong usage\n  \
                  3  messages are missing without explanation, or totals are wrong"
)]
struct Options {
    /// What to measure [default: all]
    #[arg(value_enum)]
    sets: Vec<Set>,
    /// How often each case is run [default: 3; with --small: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Seconds that each case of messages measures [default: 8; with --small: 1]
    #[arg(long, value_name = "S")]
    secs: Option<f64>,
    /// Connections of `million` [default: 1000000; with --small: 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Everything so small that it takes seconds: to see that it works
    #[arg(long)]
    small: bool,
    /// Where barrage-gateway and barrage-loadgen are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where each run is added as a line of JSON [default: benches/results.jsonl; with --small:
    /// none]
    #[arg(long, value_name = "FILE|none")]
    results: Option<PathBuf>,
    /// Where tables of sets that are marked there are replaced [default: benches/RESULTS.md; with
    /// --small: none]
    #[arg(long, value_name = "FILE|none")]
    tables: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("figures: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let campaign = campaign(options)?;
    let outcome = campaign.run()?;
    let machine = campaign.machine.line(&campaign.commit);
    println!("{machine}\n");
    print!("{}", table::markdown(&campaign.sets, &outcome.records));
    if let Some(path) = place(&options.tables, options.small, "RESULTS.md") {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let text = table::with_sections(&text, &machine, &campaign.sets, &outcome.records);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(outcome.exit_code())
}

/// The file that an option names, or the one of this folder; a small run keeps nothing.
fn place(option: &Option<PathBuf>, small: bool, name: &str) -> Option<PathBuf> {
    match option {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.clone()),
        None if small => None,
        None => Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)),
    }
}

fn campaign(options: &Options) -> Result<Campaign> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut scale, repeats) = match options.small {
        false => (Scale::FULL, 3),
        true => (Scale::SMALL, 1),
    };
    scale.secs = options.secs.unwrap_or(scale.secs);
    scale.million = options.count.unwrap_or(scale.million);
    let programs = match &options.bin_dir {
        Some(directory) => Programs::in_directory(directory)?,
        None => {
            let own = std::env::current_exe().context("finding this program")?;
            Programs::in_directory(own.parent().context("a program is in a directory")?)?
        }
    };
    Ok(Campaign {
        sets: Set::chosen(&options.sets),
        repeats: options.repeat.unwrap_or(repeats),
        scale,
        programs,
        results: place(&options.results, options.small, "results.jsonl"),
        machine: Machine::here(),
        commit: machine::commit(source),
    })
}
