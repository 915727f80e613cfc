//! `calibrate`: the most that this machine can prove, against a sink of our own.
//!
//! A [`sink`] on one core greets clients and sends them messages on time; a worker on another core is
//! what campaigns have. How far the two get together within the bounds of a valid run is what a
//! figure of this machine can be believed up to.

pub mod bench;
pub mod course;
pub mod judge;
pub mod replies;
pub mod sink;
pub mod timer;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::exit::{Ended, Exit};
use crate::latency::Summary;
use crate::orders::Books;
use crate::procfs;
use crate::record::Times;

use bench::{Bench, Cores};
use judge::{Ladder, Limit, Step};

/// Members of the room in which deliveries are measured, at most.
const MEMBERS_MAX: u32 = 1000;
/// Messages of a batch.
const BATCH: u32 = 16;
/// Bytes of a payload.
const SIZE: usize = 128;
/// Messages a second of an idle sink.
const IDLE_PER_S: f64 = 200.0;
/// The most clients: the sink holds them, too.
const CLIENTS_MAX: i64 = 1_000_000;

/// `calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// Clients that connect, for the rate of connects and the memory of one.
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub clients: u32,
    /// Seconds of each step of the ladders.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = parse_secs)]
    pub secs: f64,
    /// Also write the figures as JSON into this file.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// One JSON object on stdout instead of lines for people.
    #[arg(long)]
    pub json: bool,
}

fn parse_secs(text: &str) -> Result<f64, String> {
    let secs: Option<f64> = text.parse().ok().filter(|secs| (0.1..=60.0).contains(secs));
    secs.ok_or(format!("{text}: give seconds from 0.1 to 60"))
}

/// What this machine can prove.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The version of the generator.
    pub version: String,
    /// Cores of the machine that the process may use.
    pub cores: usize,
    /// Clients that were connected.
    pub clients: u32,
    /// Connects a second, to the sink.
    pub connects_per_s: f64,
    /// Share of its core that the generator used for them.
    pub connects_busy: f64,
    /// How long a connect took, in microseconds.
    pub connect_us: Option<Summary>,
    /// One message at a time: each delivery is a send of its own.
    pub single: Ladder,
    /// Several messages of one send.
    pub batched: Ladder,
    /// Latency through an idle sink and an idle generator, in microseconds: none can be told that is
    /// shorter.
    pub floor_us: Option<Summary>,
    /// How late a sender wakes, in microseconds.
    pub timer_us: Option<Summary>,
    /// Bytes that the generator keeps for one client.
    pub user_bytes_per_client: u64,
    /// Bytes of the machine's memory for one connection, with both ends and the sink.
    pub system_bytes_per_client: Option<f64>,
    /// Clients that fit in the available memory, with the target on this machine.
    pub clients_with_target: Option<u64>,
    /// The same with the target elsewhere: half of the memory is the other end's.
    pub clients_alone: Option<u64>,
    /// What the generator has counted wrong; empty: nothing.
    pub faults: Vec<String>,
    /// It was stopped before its time, and some of this was not measured.
    #[serde(default)]
    pub stopped: bool,
}

/// Runs the command.
pub fn run(args: &CalibrateArgs, stop: &Arc<AtomicBool>) -> Result<Ended> {
    let found = calibrate(args, stop)?;
    let json = serde_json::to_string(&found).context("the figures cannot be written")?;
    if let Some(path) = &args.out {
        std::fs::write(path, format!("{json}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = if args.json { format!("{json}\n") } else { lines(&found) };
    Ok(Ended { text, exit: exit(&found) })
}

/// A machine on which no rate counts can prove nothing, and half a calibration is none.
fn exit(found: &Calibration) -> Exit {
    let proves = [&found.single, &found.batched].iter().all(|ladder| ladder.top().is_some());
    match (found.faults.is_empty(), proves && !found.stopped) {
        (false, _) => Exit::Faulty,
        (true, true) => Exit::Pass,
        (true, false) => Exit::Invalid,
    }
}

fn calibrate(args: &CalibrateArgs, stop: &Arc<AtomicBool>) -> Result<Calibration> {
    let mut found = Calibration {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cores: barrage_sys::cores_online().len(),
        clients: args.clients,
        timer_us: summary(&timer::lateness()?),
        ..Calibration::default()
    };
    match measure(&mut found, args, stop) {
        // What was found until then is worth having.
        Err(_) if stop.load(Ordering::Relaxed) && found.connects_per_s > 0.0 => {
            found.stopped = true;
            Ok(found)
        }
        measured => measured.map(|()| found),
    }
}

/// Measures one thing after the other, each written down as soon as it is known.
fn measure(found: &mut Calibration, args: &CalibrateArgs, stop: &Arc<AtomicBool>) -> Result<()> {
    let online = barrage_sys::cores_online();
    let cores = Cores { sink: online.first().copied(), worker: online.last().copied() };
    go_on(stop)?;
    connect(found, args.clients, cores, stop)?;
    go_on(stop)?;
    floor(found, cores, args.secs, stop)?;
    climb(&mut found.single, &mut found.faults, args, 1, cores, stop)?;
    climb(&mut found.batched, &mut found.faults, args, BATCH, cores, stop)
}

/// Fails when the calibration is to end.
fn go_on(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        bail!("stopped before anything was known");
    }
    Ok(())
}

/// Connects many, and sees what one costs.
fn connect(
    found: &mut Calibration,
    clients: u32,
    cores: Cores,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let before = procfs::available_bytes()?;
    let mut bench = Bench::start(clients, cores, stop)?;
    let seen = bench.ramp()?;
    let after = procfs::available_bytes()?;
    let books = bench.end()?;
    found.connects_per_s = f64::from(clients) / seen.seconds;
    found.connects_busy = seen.busy;
    found.connect_us = summary(&seen.timings.connect);
    found.user_bytes_per_client = books.bytes_per_client;
    // Other programs may have given back more than this took.
    let taken = before.saturating_sub(after);
    if taken > 0 {
        let each = taken as f64 / f64::from(clients);
        found.system_bytes_per_client = Some(each);
        found.clients_with_target = Some((before as f64 / each) as u64);
        let alone = each / 2.0 + books.bytes_per_client as f64 / 2.0;
        found.clients_alone = Some((before as f64 / alone) as u64);
    }
    check(&mut found.faults, "connecting", &books);
    Ok(())
}

/// Times messages while nobody has anything to do.
fn floor(found: &mut Calibration, cores: Cores, secs: f64, stop: &Arc<AtomicBool>) -> Result<()> {
    let mut bench = Bench::start(1, cores, stop)?;
    bench.ramp()?;
    let (_, seen) = bench.play(IDLE_PER_S, 1, SIZE, secs)?;
    found.floor_us = summary(&seen.timings.corrected);
    let books = bench.end()?;
    check(&mut found.faults, "listening to an idle sink", &books);
    Ok(())
}

/// Raises the rate until a step does not count any more.
fn climb(
    ladder: &mut Ladder,
    faults: &mut Vec<String>,
    args: &CalibrateArgs,
    batch: u32,
    cores: Cores,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let members = args.clients.min(MEMBERS_MAX);
    let mut bench = Bench::start(members, cores, stop)?;
    bench.ramp()?;
    while let Some(per_s) = ladder.next() {
        go_on(stop)?;
        ladder.steps.push(step(&mut bench, per_s, members, batch, args.secs)?);
    }
    let books = bench.end()?;
    check(faults, "listening", &books);
    Ok(())
}

fn step(
    bench: &mut Bench,
    offered_per_s: f64,
    members: u32,
    batch: u32,
    secs: f64,
) -> Result<Step> {
    let (played, seen) = bench.play(offered_per_s / f64::from(members), batch, SIZE, secs)?;
    let latency = summary(&seen.timings.corrected).unwrap_or_default();
    let expected = played.sent * u64::from(members);
    let mut step = Step {
        offered_per_s,
        deliveries_per_s: seen.counts.delivered as f64 / seen.seconds,
        busy: seen.busy,
        sink_busy: played.busy,
        lag_p99_us: summary(&played.lag).unwrap_or_default().p99,
        sent_percent: played.sent as f64 * 100.0 / played.due.max(1) as f64,
        p50_us: latency.p50,
        p99_us: latency.p99,
        missing: expected.saturating_sub(seen.counts.delivered),
        limits: Vec::new(),
    };
    step.limits = Limit::of(&step, &course::validity());
    Ok(step)
}

/// The sink loses nothing and says nothing twice; whatever was counted otherwise is our fault.
fn check(faults: &mut Vec<String>, what: &str, books: &Books) {
    let counts = books.counts;
    for (count, name) in [
        (counts.unexplained, "missing"),
        (counts.duplicate, "doubled"),
        (counts.reordered, "out of order"),
        (counts.stray, "stray"),
        (counts.lost, "lost connections"),
    ] {
        if count > 0 {
            faults.push(format!("{what}: {count} {name}"));
        }
    }
}

fn summary(times: &Times) -> Option<Summary> {
    let at = |quantile| times.value_at_quantile(quantile);
    let max = times.max();
    let all = || Summary { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max };
    (!times.is_empty()).then(all)
}

fn lines(found: &Calibration) -> String {
    let mut text = format!("What this machine can prove ({} cores)\n\n", found.cores);
    let _ = writeln!(
        text,
        "connects      {:.0} a second; the generator's core was {:.0} % busy",
        found.connects_per_s,
        found.connects_busy * 100.0
    );
    for (name, ladder) in [("single", &found.single), ("batched", &found.batched)] {
        ladder_lines(&mut text, name, ladder);
    }
    for (name, times) in [
        ("floor", &found.floor_us),
        ("timer", &found.timer_us),
        ("connect time", &found.connect_us),
    ] {
        if let Some(Summary { p50, p99, max, .. }) = times {
            let _ = writeln!(text, "{name:<13} p50 {p50} µs, p99 {p99} µs, longest {max} µs");
        }
    }
    let _ = write!(text, "memory        {} B for a client here", found.user_bytes_per_client);
    if let Some(system) = found.system_bytes_per_client {
        let _ = write!(text, ", {system:.0} B with the kernel's and the sink's side");
    }
    if let (Some(with), Some(alone)) = (found.clients_with_target, found.clients_alone) {
        let _ = write!(text, "\nclients       {with} fit with the target here, {alone} without");
    }
    text.push('\n');
    if found.stopped {
        text += "STOPPED       before its time: what is missing was not measured\n";
    }
    for fault in &found.faults {
        let _ = writeln!(text, "WRONG         {fault}: the generator cannot be trusted");
    }
    text
}

fn ladder_lines(text: &mut String, name: &str, ladder: &Ladder) {
    match ladder.top() {
        None => {
            let _ = writeln!(text, "{name:<13} no rate counts");
        }
        Some(Step { deliveries_per_s, busy, sink_busy, p50_us, p99_us, .. }) => {
            let _ = writeln!(
                text,
                "{name:<13} {deliveries_per_s:.0} deliveries a second at p50 {p50_us} µs, p99 \
                 {p99_us} µs; generator {:.0} %, sink {:.0} % busy",
                busy * 100.0,
                sink_busy * 100.0
            );
        }
    }
    if let Some(over) = ladder.over() {
        let why: Vec<&str> = over.limits.iter().map(|limit| limit.says()).collect();
        let _ = writeln!(
            text,
            "              at {:.0} offered: {} (generator {:.0} %, sink {:.0} % busy)",
            over.offered_per_s,
            why.join(", "),
            over.busy * 100.0,
            over.sink_busy * 100.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proves_nothing_is_invalid() {
        let ladder = Ladder { steps: vec![Step::default()] };
        let proven =
            Calibration { single: ladder.clone(), batched: ladder, ..Calibration::default() };
        assert_eq!(exit(&proven), Exit::Pass);
        let half = Calibration { batched: Ladder::default(), ..proven.clone() };
        assert_eq!(exit(&half), Exit::Invalid);
        let stopped = Calibration { stopped: true, ..proven.clone() };
        assert_eq!(exit(&stopped), Exit::Invalid);
        assert!(lines(&stopped).contains("STOPPED"));
        let wrong = Calibration { faults: vec!["3 missing".to_owned()], ..half };
        assert_eq!(exit(&wrong), Exit::Faulty);
    }

    #[test]
    fn figures_can_be_read_again_and_are_told() {
        let top = Step { deliveries_per_s: 300_000.0, ..Step::default() };
        let over = Step { limits: vec![Limit::GeneratorBusy], busy: 0.97, ..Step::default() };
        let found = Calibration {
            single: Ladder { steps: vec![top, over] },
            floor_us: Some(Summary { p50: 21, ..Summary::default() }),
            faults: vec!["listening: 3 missing".to_owned()],
            ..Calibration::default()
        };
        let json = serde_json::to_string(&found).expect("it can be written");
        assert_eq!(serde_json::from_str::<Calibration>(&json).expect("and read"), found);
        let text = lines(&found);
        for part in [
            "300000 deliveries a second",
            "too busy (generator 97 %",
            "batched       no rate counts",
            "floor         p50 21 µs",
            "WRONG         listening: 3 missing",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
