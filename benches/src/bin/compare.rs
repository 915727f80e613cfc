//! `compare`: Barrage side by side with public brokers, on this machine, in one go.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use barrage_benches::compare::campaign::Campaign;
use barrage_benches::compare::case::Scale;
use barrage_benches::compare::install::{Installer, version};
use barrage_benches::compare::run::About;
use barrage_benches::compare::{Case, Kind, chart, table};
use barrage_benches::machine::{self, Machine};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Runs the same campaigns against Barrage and public brokers, each on one core, in turns.
///
/// Servers that are not there are installed with apt-get, and NATS with pip. The table goes to
/// stdout and into RESULTS.md, the chart beside it, progress to stderr. A server that loses
/// messages or clients is reported as it is. Ctrl-C ends early, stops the servers, and still
/// reports.
#[derive(Debug, Parser)]
#[command(
    name = "compare",
    version,
    after_help = "Exit codes:\n  \
                  0  everything was run\n  \
                  1  something could not be run\n  \
                  2  wrong usage"
)]
struct Options {
    /// The servers, with commas between [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    servers: Vec<Kind>,
    /// The campaigns, with commas between [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    cases: Vec<Case>,
    /// How often each campaign is run against each server [default: 3; with --quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: Option<u32>,
    /// Seconds that each campaign measures [default: 8; with --quick: 1]
    #[arg(long, value_name = "S", value_parser = parse_secs)]
    secs: Option<f64>,
    /// Everything so small that it takes seconds, and nothing kept: to see that it works
    #[arg(long)]
    quick: bool,
    /// Installs nothing; a server that is missing is an error
    #[arg(long)]
    no_install: bool,
    /// Where barrage-gateway and barrage-loadgen are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where each run is added as a line of JSON [default: benches/results.jsonl; with --quick:
    /// none]
    #[arg(long, value_name = "FILE|none")]
    results: Option<PathBuf>,
    /// Where the table is put between its marks, `<!-- compare -->` and `<!-- end of compare -->`
    /// [default: benches/RESULTS.md; with --quick: none]
    #[arg(long, value_name = "FILE|none")]
    tables: Option<PathBuf>,
    /// Where the chart is written [default: benches/compare.svg; with --quick: none]
    #[arg(long, value_name = "FILE|none")]
    chart: Option<PathBuf>,
}

fn parse_secs(text: &str) -> Result<f64, String> {
    let secs = text.parse().ok().filter(|secs| (0.5..=3600.0).contains(secs));
    secs.ok_or_else(|| "give seconds, 0.5 to 3600".to_owned())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("listening for signals")?;
    }
    let campaign = campaign(options)?;
    let outcome = campaign.run(&stop);
    // Nothing else is in it any more, and a directory that is left says so.
    let _ = std::fs::remove_dir(&campaign.directory);
    let table = table::markdown(&campaign.about, &outcome.runs, &outcome.failures);
    print!("{table}");
    if let Some(path) = place(&options.tables, options.quick, "RESULTS.md") {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        match table::with_section(&text, &table) {
            Some(text) => write(&path, &text)?,
            None => eprintln!("{} has no marks for the table, and stays as it is", path.display()),
        }
    }
    if let Some(path) = place(&options.chart, options.quick, "compare.svg") {
        write(&path, &chart::svg(&campaign.about, &outcome.runs))?;
    }
    Ok(if outcome.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The file that an option names, or the one of this folder; a quick run keeps nothing.
fn place(option: &Option<PathBuf>, quick: bool, name: &str) -> Option<PathBuf> {
    match option {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.clone()),
        None if quick => None,
        None => Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)),
    }
}

fn campaign(options: &Options) -> Result<Campaign> {
    let (mut scale, repeats) = match options.quick {
        false => (Scale::full(), 3),
        true => (Scale::quick(), 1),
    };
    scale.secs = options.secs.unwrap_or(scale.secs);
    let own = std::env::current_exe().context("finding this program")?;
    let beside = own.parent().context("a program is in a directory")?.to_owned();
    let programs = options.bin_dir.clone().unwrap_or_else(|| beside.clone());
    let loadgen = programs.join("barrage-loadgen");
    ensure!(
        loadgen.is_file(),
        "{} is missing: run `cargo build --release` first",
        loadgen.display()
    );
    let directory = beside.join("compare-servers");
    let installer = Installer { programs, directory, allowed: !options.no_install };
    let mut kinds = options.servers.clone();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        kinds = Kind::ALL.to_vec();
    }
    let find = |kind| Ok((kind, installer.program(kind)?));
    let servers = kinds.into_iter().map(find).collect::<Result<Vec<_>>>()?;
    let (machine, commit) =
        (Machine::here(), machine::commit(Path::new(env!("CARGO_MANIFEST_DIR"))));
    let versions = servers.iter().map(|(kind, program)| (*kind, version(*kind, program)));
    let about = About {
        time: machine::now(),
        machine: machine.json(),
        machine_line: machine.line(&commit),
        versions: versions.collect(),
        commit,
    };
    Ok(Campaign {
        servers,
        cases: if options.cases.is_empty() { Case::ALL.to_vec() } else { options.cases.clone() },
        repeats: options.repeat.unwrap_or(repeats),
        scale,
        loadgen,
        directory: std::env::temp_dir().join(format!("barrage-compare-{}", std::process::id())),
        results: place(&options.results, options.quick, "results.jsonl"),
        about,
    })
}
