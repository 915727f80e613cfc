//! `probe`: what a way to the gateway costs against another, in connects and pushes.

pub mod client;
pub mod stats;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use barrage_wire::upstream::PublishHead;
use barrage_wire::{ServerFrame, Tail, UpstreamFrame};
use clap::Args;
use serde::Serialize;

use crate::cli::CATEGORY_STREAM;
use crate::clock::{now_ns, run_promptly, sleep_precisely, until};
use crate::exit::{Ended, Exit, TargetLost};
use crate::probe::client::{ANSWER_MAX, Client, Who};
use crate::probe::stats::{Difference, Row, SAMPLES_MIN};
use crate::stamp::{STAMP_BYTES, Stamp};
use crate::upstream::{Upstream, UpstreamAddress, parse_address};

/// The longest sleep, so that the command ends soon when it is told to.
const NAP: Duration = Duration::from_millis(50);
/// Names our devices among the user's: two that stay and two that come and go.
const DEVICE: u64 = u64::from_le_bytes(*b"probe\0\0\0");
/// A room that hardly anybody uses for something else.
const ROOM: u64 = DEVICE << 8;

/// `probe`.
///
/// Samples of both ways are taken in turns, so that whatever else goes on meets both alike. Each
/// difference of medians comes with its 95 % confidence interval, by bootstrap.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// The gateway's TCP listener, HOST:PORT, reached directly.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub direct: SocketAddr,
    /// The same through a proxy.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub via: SocketAddr,
    /// The gateway's upstream listener, HOST:PORT or unix:PATH: pushes are then timed, too.
    #[arg(long, value_name = "ADDR", value_parser = UpstreamAddress::parse)]
    pub upstream: Option<UpstreamAddress>,
    /// Samples of each way.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// Milliseconds between samples, at most a minute.
    #[arg(long, value_name = "MS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub pause_ms: u64,
    /// The room that pushes to the direct client go to; those through the proxy go to the next.
    #[arg(long, value_name = "ID", default_value_t = ROOM)]
    pub room: u64,
    /// The category of pushes.
    #[arg(long, value_name = "ID", default_value_t = CATEGORY_STREAM)]
    pub category: u16,
    /// The tenant.
    #[arg(long, default_value_t = 1)]
    pub app: u32,
    /// What clients show; a gateway without a token key takes open:USER.
    #[arg(long, default_value = "open:1")]
    pub token: String,
    /// Missed, with exit code 1, when a median through the proxy is surely more than this above the
    /// direct one, in milliseconds.
    #[arg(long, value_name = "MS")]
    pub max_extra_ms: Option<f64>,
    /// One JSON object on stdout instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Tcp,
    Welcome,
    Joined,
    Push,
}

impl What {
    const ALL: [Self; 4] = [Self::Tcp, Self::Welcome, Self::Joined, Self::Push];

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp connect",
            Self::Welcome => "until WELCOME",
            Self::Joined => "until JOINED",
            Self::Push => "push",
        }
    }
}

/// The samples of one way, in nanoseconds.
#[derive(Debug, Default)]
struct Samples {
    by_what: [Vec<u64>; What::ALL.len()],
    lost_pushes: u64,
}

impl Samples {
    fn of(&self, what: What) -> &[u64] {
        &self.by_what[what as usize]
    }

    fn add(&mut self, what: What, ns: u64) {
        self.by_what[what as usize].push(ns);
    }
}

/// One thing that was timed, both ways.
#[derive(Debug, Serialize)]
struct Line {
    what: &'static str,
    direct_us: Row,
    via_us: Row,
    /// Null: too few samples.
    difference_us: Option<Difference>,
}

/// Pushes that may be lost before the first has come; each is waited for.
const LOST_AT_FIRST_MAX: u64 = 2;

/// Runs the command.
pub fn run(args: &ProbeArgs, stop: &Arc<AtomicBool>) -> Result<Ended> {
    if args.room.checked_add(1).is_none() {
        bail!("--room {} leaves no id for the second room", args.room);
    }
    sleep_precisely();
    run_promptly(true);
    let ways = [args.direct, args.via];
    let mut samples = [Samples::default(), Samples::default()];
    for turn in 0..args.count {
        for way in in_turn(turn) {
            if stop.load(Ordering::Relaxed) {
                bail!("stopped before the samples were taken");
            }
            connect(args, ways[way], way, &mut samples[way])?;
            pause(args, stop);
        }
    }
    if let Some(upstream) = &args.upstream {
        push(args, upstream, ways, &mut samples, stop)?;
    }
    let [direct, via] = &samples;
    let lines: Vec<Line> = What::ALL.into_iter().filter_map(|w| line(w, direct, via)).collect();
    let exit = exit(&lines, direct.lost_pushes + via.lost_pushes, args.max_extra_ms);
    let text =
        if args.json { json(args, &lines, &samples)? } else { table(args, &lines, &samples) };
    Ok(Ended { text, exit })
}

/// Who is first changes all the time.
fn in_turn(turn: u32) -> [usize; 2] {
    if turn.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

/// Sleeps between two samples, but no longer than until `stop`.
fn pause(args: &ProbeArgs, stop: &AtomicBool) {
    let until_ns = now_ns() + Duration::from_millis(args.pause_ms).as_nanos() as u64;
    while !stop.load(Ordering::Relaxed) && now_ns() < until_ns {
        std::thread::sleep(until(until_ns).min(NAP));
    }
}

fn who(args: &ProbeArgs, device: u64) -> Who {
    Who { app: args.app, token: args.token.clone(), device: DEVICE + device }
}

fn connect(args: &ProbeArgs, to: SocketAddr, way: usize, samples: &mut Samples) -> Result<()> {
    let from_ns = now_ns();
    let mut client = Client::connect(to)?;
    samples.add(What::Tcp, now_ns() - from_ns);
    client.hello(&who(args, way as u64))?;
    samples.add(What::Welcome, now_ns() - from_ns);
    client.join(args.room + way as u64)?;
    samples.add(What::Joined, now_ns() - from_ns);
    Ok(())
}

fn push(
    args: &ProbeArgs,
    upstream: &UpstreamAddress,
    ways: [SocketAddr; 2],
    samples: &mut [Samples; 2],
    stop: &AtomicBool,
) -> Result<()> {
    let mut upstream = Upstream::connect(upstream, args.app)
        .map_err(|error| anyhow!(TargetLost(format!("{error:#}"))))?;
    let mut clients = Vec::new();
    for (way, address) in ways.into_iter().enumerate() {
        let mut client = Client::connect(address)?;
        client.hello(&who(args, 2 + way as u64))?;
        client.join(args.room + way as u64)?;
        clients.push(client);
    }
    for turn in 0..args.count {
        for way in in_turn(turn) {
            if stop.load(Ordering::Relaxed) {
                bail!("stopped before the samples were taken");
            }
            let room = args.room + way as u64;
            match push_once(args, &mut upstream, &mut clients[way], room, turn)? {
                Some(ns) => samples[way].add(What::Push, ns),
                None => samples[way].lost_pushes += 1,
            }
            if samples[way].of(What::Push).is_empty()
                && samples[way].lost_pushes >= LOST_AT_FIRST_MAX
            {
                bail!(TargetLost(format!(
                    "no push came through {}: is that the gateway that --upstream leads to?",
                    ways[way]
                )));
            }
            pause(args, stop);
        }
    }
    Ok(())
}

/// From a publish to its delivery; none when it does not come.
fn push_once(
    args: &ProbeArgs,
    upstream: &mut Upstream,
    client: &mut Client,
    room: u64,
    index: u32,
) -> Result<Option<u64>> {
    // Not within what is timed.
    client.keep_alive()?;
    let from_ns = now_ns();
    let stamp = Stamp { intended_ns: from_ns, index, lag_us: 0 };
    let mut payload = [0; STAMP_BYTES];
    stamp.write(&mut payload);
    let head = PublishHead { request: index, category: args.category, ..PublishHead::default() };
    upstream.say(&UpstreamFrame::PublishRoom { head, room, payload: Tail(&payload) });
    upstream.flush()?;
    let until_ns = from_ns + ANSWER_MAX.as_nanos() as u64;
    let came = client.hear(until_ns, &mut |frame, _| match frame {
        ServerFrame::Message { payload, .. } if Stamp::read(payload.0) == Some(stamp) => {
            Ok(Some(now_ns()))
        }
        _ => Ok(None),
    })?;
    // Answers only give credits back.
    upstream.receive(&mut |_| Ok(()))?;
    Ok(came.map(|at_ns| at_ns - from_ns))
}

fn line(what: What, direct: &Samples, via: &Samples) -> Option<Line> {
    let (direct, via) = (direct.of(what), via.of(what));
    Some(Line {
        what: what.name(),
        direct_us: stats::row(direct)?,
        via_us: stats::row(via)?,
        difference_us: stats::difference(direct, via, 1),
    })
}

fn exit(lines: &[Line], lost: u64, max_extra_ms: Option<f64>) -> Exit {
    let over = |line: &Line, max_ms: f64| {
        line.difference_us.is_none_or(|difference| difference.low > max_ms * 1e3)
    };
    match max_extra_ms {
        _ if lost > 0 => Exit::Faulty,
        Some(max_ms) if lines.iter().any(|line| over(line, max_ms)) => Exit::Missed,
        Some(_) | None => Exit::Pass,
    }
}

fn json(args: &ProbeArgs, lines: &[Line], samples: &[Samples; 2]) -> Result<String> {
    let told = serde_json::json!({
        "command": "probe", "direct": args.direct, "via": args.via, "count": args.count,
        "confidence": 0.95, "lines": lines,
        "lost_pushes": { "direct": samples[0].lost_pushes, "via": samples[1].lost_pushes },
    });
    Ok(serde_json::to_string(&told).context("the figures cannot be told")? + "\n")
}

fn table(args: &ProbeArgs, lines: &[Line], samples: &[Samples; 2]) -> String {
    let mut text = format!("{:<18}{} against {}\n", "probe", args.direct, args.via);
    text +=
        &format!("{:<18}{:>11}{:>11}{:>11}{:>11}{:>11}\n", "µs", "min", "p50", "p90", "p99", "max");
    for line in lines {
        for (way, row) in [("direct", line.direct_us), ("via", line.via_us)] {
            let figures = [row.min, row.p50, row.p90, row.p99, row.max];
            let figures = figures.map(|us| format!("{us:>11.1}")).concat();
            let name = if way == "direct" { line.what } else { "" };
            text += &format!("{name:<14}{way:>6}{}\n", &figures[2..]);
        }
        text += &format!("{:<18}{}\n", "", said(line.difference_us));
    }
    for (way, samples) in ["direct", "via"].into_iter().zip(samples) {
        if samples.lost_pushes > 0 {
            let secs = ANSWER_MAX.as_secs();
            let lost = samples.lost_pushes;
            text += &format!("{:<18}{lost} did not come within {secs} s, {way}\n", "lost pushes");
        }
    }
    text
}

fn said(difference: Option<Difference>) -> String {
    let Some(Difference { median, low, high, sure }) = difference else {
        return format!("fewer than {SAMPLES_MIN} samples say nothing about a difference");
    };
    let interval = format!("{low:+.1} to {high:+.1} µs with 95 % confidence");
    match (sure, median > 0.0) {
        (true, true) => format!("via is slower by {median:.1} µs: {interval}"),
        (true, false) => format!("via is faster by {:.1} µs: {interval}", -median),
        (false, _) => format!("no difference can be told: {interval}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(low: f64, sure: bool) -> Line {
        let row = stats::row(&[1000]).expect("a sample");
        let difference = Difference { median: low + 1.0, low, high: low + 2.0, sure };
        Line { what: "push", direct_us: row, via_us: row, difference_us: Some(difference) }
    }

    #[test]
    fn a_probe_ends_as_it_was_asked() {
        let slow = [line_of(2500.0, true)];
        assert_eq!(exit(&slow, 0, None), Exit::Pass);
        assert_eq!(exit(&slow, 0, Some(3.0)), Exit::Pass);
        assert_eq!(exit(&slow, 0, Some(2.0)), Exit::Missed);
        assert_eq!(exit(&slow, 1, Some(3.0)), Exit::Faulty);
        let unknown = [Line { difference_us: None, ..line_of(0.0, false) }];
        assert_eq!(exit(&unknown, 0, Some(3.0)), Exit::Missed, "what is not known is not met");
    }

    #[test]
    fn a_difference_is_said_in_words() {
        let say = |low, sure| said(line_of(low, sure).difference_us);
        assert!(say(5.0, true).starts_with("via is slower by 6.0 µs: +5.0 to +7.0 µs"));
        assert!(say(-9.0, true).starts_with("via is faster by 8.0 µs: -9.0 to -7.0 µs"));
        assert!(say(-1.0, false).starts_with("no difference can be told: -1.0 to +1.0 µs"));
        assert!(said(None).contains("fewer than 20"));
    }
}
