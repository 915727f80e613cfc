//! `faults`: a proxy in front of a gateway's client listener that does what a network or a gateway
//! can do wrong, and counts it: what a load generator finds must be what was done.
//!
//! [`mischief`] is what happens to frames and [`weather`] what happens to connections, both without
//! a clock or a socket; `link` is one connection and `proxy` the loop around all.

pub mod counts;
mod link;
pub mod mischief;
mod proxy;
pub mod weather;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde::Serialize;

use crate::clock::{now_ns, seconds_ns};
use crate::exit::{Ended, Exit};
use crate::faults::counts::Counts;
use crate::faults::mischief::{Dose, Frames, Which};
use crate::faults::proxy::{Proxy, Wishes};
use crate::upstream::parse_address;

/// How often the command looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);
const MS_NS: f64 = 1e6;

/// `faults`.
#[derive(Debug, Args)]
pub struct FaultsArgs {
    /// Where clients connect, HOST:PORT; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Where the target listens for clients, HOST:PORT.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub to: SocketAddr,
    /// The target does not speak Barrage's frames over TCP: only what can be done to bytes is done
    /// to it, which is --delay-ms, --stall-secs, --reset-at, --resets-per-s and --split.
    #[arg(long, conflicts_with_all = ["drop", "drop_nth", "duplicate", "duplicate_nth", "reorder",
          "reorder_nth", "corrupt", "corrupt_nth", "only"])]
    pub bytes: bool,
    /// The share of numbered frames (Message, Combo and State) that is left out, 0 to 1.
    #[arg(long, value_name = "P", default_value = "0", value_parser = parse_share)]
    pub drop: f64,
    /// Leaves out exactly these numbered frames of each connection, counted from 1.
    #[arg(long, value_name = "N,…", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(1..))]
    pub drop_nth: Vec<u64>,
    /// The share of numbered frames that is sent twice.
    #[arg(long, value_name = "P", default_value = "0", value_parser = parse_share)]
    pub duplicate: f64,
    /// Sends exactly these twice.
    #[arg(long, value_name = "N,…", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(1..))]
    pub duplicate_nth: Vec<u64>,
    /// The share of numbered frames that change places with the next one of their room.
    #[arg(long, value_name = "P", default_value = "0", value_parser = parse_share)]
    pub reorder: f64,
    /// Changes places of exactly these with the next.
    #[arg(long, value_name = "N,…", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(1..))]
    pub reorder_nth: Vec<u64>,
    /// The share of numbered frames in which one bit of the length, kind, alias or sequence number
    /// is changed.
    #[arg(long, value_name = "P", default_value = "0", value_parser = parse_share)]
    pub corrupt: f64,
    /// Changes a bit of exactly these.
    #[arg(long, value_name = "N,…", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(1..))]
    pub corrupt_nth: Vec<u64>,
    /// Does all that to frames of one kind only, and counts only these.
    #[arg(long, value_enum)]
    pub only: Option<Which>,
    /// Everything for clients comes so much later.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = parse_ms)]
    pub delay_ms: f64,
    /// And up to so much more, by chance, without overtaking.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = parse_ms)]
    pub jitter_ms: f64,
    /// Nothing is forwarded for so long, in either direction.
    #[arg(long, value_name = "S", default_value = "0", value_parser = parse_secs)]
    pub stall_secs: f64,
    /// When that begins, in seconds after the first message.
    #[arg(long, value_name = "S", default_value = "0", value_parser = parse_secs)]
    pub stall_at: f64,
    /// It begins again so many seconds after it began [default: it happens once].
    #[arg(long, value_name = "S", value_parser = parse_secs)]
    pub stall_every: Option<f64>,
    /// Resets every connection so many seconds after the first message.
    #[arg(long, value_name = "S", value_parser = parse_secs)]
    pub reset_at: Option<f64>,
    /// Resets so many connections in a second, by chance.
    #[arg(long, value_name = "R", default_value = "0", value_parser = parse_rate)]
    pub resets_per_s: f64,
    /// Writes to clients in pieces of 1 to N bytes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub split: Option<u32>,
    /// The same seed does the same to the n-th connection.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Ends after so many seconds [default: when it is told to].
    #[arg(long, value_name = "S", value_parser = parse_secs)]
    pub secs: Option<f64>,
    /// One JSON object on stdout at the end instead of lines for people.
    #[arg(long)]
    pub json: bool,
}

impl FaultsArgs {
    /// What is to be done.
    pub fn faults(&self) -> Faults {
        let dose = |share, nth: &[u64]| Dose { share, nth: nth.to_vec() };
        Faults {
            frames: Frames {
                drop: dose(self.drop, &self.drop_nth),
                duplicate: dose(self.duplicate, &self.duplicate_nth),
                reorder: dose(self.reorder, &self.reorder_nth),
                corrupt: dose(self.corrupt, &self.corrupt_nth),
                only: self.only,
            },
            weather: weather::Plan {
                stall_ns: seconds_ns(self.stall_secs),
                stall_at_ns: seconds_ns(self.stall_at),
                stall_every_ns: self.stall_every.map(seconds_ns),
                reset_at_ns: self.reset_at.map(seconds_ns),
                resets_per_s: self.resets_per_s,
            },
            delay_ns: (self.delay_ms * MS_NS) as u64,
            jitter_ns: (self.jitter_ms * MS_NS) as u64,
            split: self.split.map(|most| most as usize),
            bytes_only: self.bytes,
        }
    }
}

/// Everything that is done wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// To numbered frames.
    pub frames: Frames,
    /// To connections.
    pub weather: weather::Plan,
    /// By how much everything for clients is late.
    pub delay_ns: u64,
    /// By how much more, at most.
    pub jitter_ns: u64,
    /// The longest piece that is written to a client at once.
    pub split: Option<usize>,
    /// The bytes are not to be taken for frames.
    pub bytes_only: bool,
}

/// A proxy and what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect; port 0: any.
    pub listen: SocketAddr,
    /// Where the target listens.
    pub to: SocketAddr,
    /// What is done wrong.
    pub faults: Faults,
    /// Where chance begins.
    pub seed: u64,
}

/// A running proxy. It ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Handle {
    /// Where it listens.
    pub address: SocketAddr,
    wishes: Arc<Wishes>,
    thread: Option<JoinHandle<Result<Counts>>>,
}

impl Handle {
    /// Lets nothing through for a while, from now on.
    pub fn stall(&self, time: Duration) {
        self.wishes.stall_ns.store(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Resets every connection.
    pub fn reset_all(&self) {
        self.wishes.reset_all.store(true, Ordering::Relaxed);
    }

    /// Ends it; what it did.
    pub fn stop(mut self) -> Result<Counts> {
        self.wishes.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the proxy was stopped before")?;
        thread.join().map_err(|_| anyhow!("the proxy's thread panicked"))?
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.wishes.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Nobody asks any more what it did.
            let _ = thread.join();
        }
    }
}

/// Starts a proxy.
pub fn spawn(config: Config) -> Result<Handle> {
    let wishes = Arc::new(Wishes::default());
    let Config { listen, to, faults, seed } = config;
    let proxy = Proxy::new(listen, to, faults, seed, Arc::clone(&wishes))?;
    let address = proxy.address()?;
    let thread = std::thread::Builder::new()
        .name("faults".to_owned())
        .spawn(move || proxy.run())
        .context("cannot start the proxy's thread")?;
    Ok(Handle { address, wishes, thread: Some(thread) })
}

/// Runs the command.
pub fn run(args: &FaultsArgs, stop: &Arc<AtomicBool>) -> Result<Ended> {
    let (listen, to, seed) = (args.listen, args.to, args.seed);
    let handle = spawn(Config { listen, to, faults: args.faults(), seed })?;
    let address = handle.address;
    eprintln!("faults: listening on {address}");
    let end_ns = args.secs.map_or(u64::MAX, |secs| now_ns() + seconds_ns(secs));
    while !stop.load(Ordering::Relaxed) && now_ns() < end_ns {
        std::thread::sleep(LOOK);
    }
    let counts = handle.stop()?;
    let text = if args.json { json(address, to, &counts) } else { summary(address, to, &counts) };
    Ok(Ended { text, exit: Exit::Pass })
}

fn json(listen: SocketAddr, to: SocketAddr, counts: &Counts) -> String {
    #[derive(Serialize)]
    struct Told<'a> {
        command: &'static str,
        listen: SocketAddr,
        to: SocketAddr,
        #[serde(flatten)]
        counts: &'a Counts,
    }
    let told = Told { command: "faults", listen, to, counts };
    serde_json::to_string(&told).expect("counts have nothing that JSON cannot say") + "\n"
}

fn summary(listen: SocketAddr, to: SocketAddr, counts: &Counts) -> String {
    format!("{:<18}{listen} to {to}\n{}", "faults", counts.text())
}

fn parse_share(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1.0).ok_or_else(|| "give a share, 0 to 1".to_owned())
}

fn parse_ms(text: &str) -> Result<f64, String> {
    number(text, 0.0, 600_000.0).ok_or_else(|| "give milliseconds, 0 to 600000".to_owned())
}

fn parse_secs(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1e6).ok_or_else(|| "give seconds, 0 or more".to_owned())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1e6).ok_or_else(|| "give a number per second, or 0".to_owned())
}

fn number(text: &str, min: f64, max: f64) -> Option<f64> {
    text.parse().ok().filter(|number| (min..=max).contains(number))
}
