//! `capture`: writes down live traffic, or shows what was written down.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use barrage_wire::limits::RESUME_CURSORS_MAX;
use clap::{ArgGroup, Args};
use serde::Serialize;

use crate::capture::file::Source;
use crate::capture::scribe::{self, Pen, Written};
use crate::capture::tap::{Tap, Tapped};
use crate::capture::{member, show};
use crate::clock::{now_ns, seconds_ns};
use crate::exit::{Ended, Exit};
use crate::probe::client::Who;
use crate::report::grouped;
use crate::upstream::{UpstreamAddress, parse_address};

/// Rooms that a gateway lets one connection join.
const ROOMS_MAX: usize = RESUME_CURSORS_MAX;
/// Names our device among the user's, so that a capture kicks nobody out.
const DEVICE: u64 = u64::from_le_bytes(*b"capture\0");

/// `capture`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["upstream_proxy", "tcp", "show"]))]
pub struct CaptureArgs {
    /// Listens here for services, passes everything on to --upstream, and writes down every frame in
    /// both directions: HOST:PORT or unix:PATH. Tokens are left out of the capture.
    #[arg(long, value_name = "ADDR", value_parser = UpstreamAddress::parse,
          requires = "upstream", requires = "out")]
    pub upstream_proxy: Option<UpstreamAddress>,
    /// The gateway's upstream listener, HOST:PORT or unix:PATH.
    #[arg(long, value_name = "ADDR", value_parser = UpstreamAddress::parse)]
    pub upstream: Option<UpstreamAddress>,
    /// Joins --rooms at the gateway's TCP listener, HOST:PORT, and writes down what comes.
    #[arg(long, value_name = "ADDR", value_parser = parse_address,
          requires = "rooms", requires = "out")]
    pub tcp: Option<SocketAddr>,
    /// The rooms to join, at most 64, with commas between.
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub rooms: Vec<u64>,
    /// The tenant of the client.
    #[arg(long, default_value_t = 1)]
    pub app: u32,
    /// What the client shows; a gateway without a token key takes open:USER.
    #[arg(long, default_value = "open:1")]
    pub token: String,
    /// The file to be written; it may not be there yet.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Ends after so many seconds. Services that are connected through --upstream-proxy then go on
    /// unrecorded until they have left, and only then does the command end.
    #[arg(long, value_name = "S", value_parser = parse_secs)]
    pub secs: Option<f64>,
    /// Ends when the file has so many bytes, in the same way.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_bytes: Option<u64>,
    /// Shows what is in a capture.
    #[arg(long, value_name = "FILE")]
    pub show: Option<PathBuf>,
    /// With --show: one line of JSON for each record.
    #[arg(long, requires = "show")]
    pub records: bool,
    /// One JSON object on stdout at the end instead of lines for people.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &CaptureArgs, stop: &Arc<AtomicBool>) -> Result<Ended> {
    if let Some(file) = &args.show {
        return show::run(file, args.records, args.json);
    }
    let Some(out) = &args.out else { bail!("give --out FILE") };
    match (&args.upstream_proxy, &args.upstream, args.tcp) {
        (Some(listen), Some(upstream), _) => tap(args, listen, upstream, out, stop),
        (_, _, Some(address)) => follow(args, address, out, stop),
        (..) => bail!("give --upstream-proxy ADDR and --upstream ADDR, or --tcp ADDR, or --show"),
    }
}

fn tap(
    args: &CaptureArgs,
    listen: &UpstreamAddress,
    upstream: &UpstreamAddress,
    out: &Path,
    stop: &Arc<AtomicBool>,
) -> Result<Ended> {
    let tap = Tap::listen(listen, upstream)?;
    let (pen, scribe) =
        scribe::begin(out, Source::Upstream, &upstream.to_string(), args.max_bytes)?;
    eprintln!("capture: listening on {}", tap.address());
    let clock = Clock::start(args.secs, pen.clone(), Arc::clone(stop))?;
    let tapped = tap.run(pen, stop);
    clock.stop();
    let (tapped, written) = (tapped?, scribe.finish()?);
    let text = told(args, out, written, Some(tapped));
    Ok(Ended { text, exit: Exit::Pass })
}

fn follow(
    args: &CaptureArgs,
    address: SocketAddr,
    out: &Path,
    stop: &Arc<AtomicBool>,
) -> Result<Ended> {
    if args.rooms.len() > ROOMS_MAX {
        bail!("{} rooms are more than one client may join: {ROOMS_MAX}", args.rooms.len());
    }
    let who = Who { app: args.app, token: args.token.clone(), device: DEVICE };
    let (pen, scribe) = scribe::begin(out, Source::Client, &address.to_string(), args.max_bytes)?;
    let until_ns = args.secs.map_or(u64::MAX, |secs| now_ns() + seconds_ns(secs));
    let result = member::follow(address, &who, &args.rooms, &pen, until_ns, stop);
    drop(pen);
    let written = scribe.finish()?;
    let exit = match result {
        Ok(()) => Exit::Pass,
        // What was heard until then is worth having.
        Err(error) if written.records > FRAMES_NONE => {
            eprintln!("capture: {error:#}");
            Exit::of_error(&error)
        }
        Err(error) => {
            // There is nothing in it, and its name may be wanted for the next try.
            let _ = std::fs::remove_file(out);
            return Err(error);
        }
    };
    Ok(Ended { text: told(args, out, written, None), exit })
}

/// Records of a capture in which nothing was heard: start, end, and the connection's two.
const FRAMES_NONE: u64 = 4;

/// Closes the capture when its time is over; what is connected goes on.
struct Clock {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Clock {
    fn start(secs: Option<f64>, pen: Pen, stop: Arc<AtomicBool>) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let Some(secs) = secs else { return Ok(Self { over, thread: None }) };
        let (until_ns, mine) = (now_ns() + seconds_ns(secs), Arc::clone(&over));
        let thread = std::thread::Builder::new().name("clock".to_owned()).spawn(move || {
            let ended = || stop.load(Ordering::Relaxed) || mine.load(Ordering::Relaxed);
            while !ended() && now_ns() < until_ns {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            pen.close();
        })?;
        Ok(Self { over, thread: Some(thread) })
    }

    fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

fn told(args: &CaptureArgs, out: &Path, written: Written, tapped: Option<Tapped>) -> String {
    let Written { records, bytes, missed } = written;
    if args.json {
        #[derive(Serialize)]
        struct Told<'a> {
            command: &'static str,
            out: &'a Path,
            records: u64,
            bytes: u64,
            missed: u64,
            connections: Option<u64>,
            refused: Option<u64>,
        }
        let (connections, refused) = (tapped.map(|t| t.connections), tapped.map(|t| t.refused));
        let told = Told { command: "capture", out, records, bytes, missed, connections, refused };
        return serde_json::to_string(&told).unwrap_or_default() + "\n";
    }
    let line = |name: &str, count: u64| format!("{name:<18}{}\n", grouped(count as f64));
    let mut text = format!("{:<18}{}\n", "capture", out.display());
    text += &line("records", records);
    text += &line("bytes", bytes);
    if let Some(tapped) = tapped {
        text += &line("connections", tapped.connections);
        text += &line("refused", tapped.refused);
    }
    if missed > 0 {
        text += &line("missed", missed);
        text += "                  - the disk was slower than the traffic: the capture has gaps\n";
    }
    text
}

fn parse_secs(text: &str) -> Result<f64, String> {
    let secs = text.parse().ok().filter(|secs| (0.01..=1e6).contains(secs));
    secs.ok_or_else(|| "give seconds, 0.01 or more".to_owned())
}
