//! The command line.

use std::net::{IpAddr, SocketAddr};

use barrage_wire::limits::PAYLOAD_BYTES_MAX;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::plan::{Transport, UPLINK_BYTES_MAX};
use crate::record::{compare, merge, page};
use crate::stamp::STAMP_BYTES;
use crate::upstream::{UpstreamAddress, parse_address};
use crate::{
    agent, calibrate, campaign, capture, doctor, faults, forecast, probe, search, sources,
};

/// The most clients of a run.
const CLIENTS_MAX: i64 = 4_000_000;

/// Load generator for the Barrage gateway.
///
/// Connects clients, publishes to them, accounts for every message at every member, and says
/// whether the figures can be trusted. Ctrl-C ends a run early and still reports.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Rooms that a gateway lets one connection join.
const ROOMS_PER_CLIENT_MAX: i64 = 64;
/// The category of the built-in policy that has no limit and may be dropped.
pub const CATEGORY_STREAM: u16 = 7;

const EXIT_CODES: &str = "Exit codes:
  0  pass: the run is valid, everything is accounted for, every objective was met
  1  an objective of the scenario was missed
  2  wrong usage, or what was asked cannot be done here
  3  messages are missing without explanation, or came twice or out of order, or totals are wrong
  4  the run is invalid: its figures say more about the generator than about the target
  5  worse than the baseline
  6  the target could not be reached, or has gone
  7  what is planned needs more than this machine has
130  ended at once by a second Ctrl-C; the record of a run up to there can be read";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One room: publish to all its members and time every delivery.
    Room(RoomArgs),
    /// Connections: how fast they are made, what they cost, whether they last.
    Connect(ConnectArgs),
    /// Client to upstream and back: requests a second and their latency.
    Uplink(UplinkArgs),
    /// PK rooms in a storm of gifts: what the policy makes of it, and whether every tap counts.
    Storm(StormArgs),
    /// This machine's ceiling: one bare send(2) per delivery, without any gateway.
    Limit(LimitArgs),
    /// A campaign by a scenario: a file, or one of the library.
    Run(campaign::RunArgs),
    /// What a scenario will need; sends nothing.
    Plan(forecast::PlanArgs),
    /// What of this machine would spoil a campaign, and how to mend it.
    Doctor(doctor::DoctorArgs),
    /// The most that this machine can prove, against a built-in sink.
    Calibrate(calibrate::CalibrateArgs),
    /// The highest rate that meets a scenario's objectives.
    Search(search::SearchArgs),
    /// Work for the leader of a campaign on another machine.
    Agent(agent::AgentArgs),
    /// A page with charts of a run.
    Report(page::ReportArgs),
    /// Make one record of several, without loss.
    Merge(merge::MergeArgs),
    /// A baseline against something new, with the noise of repeats.
    Compare(compare::CompareArgs),
    /// Write down live traffic.
    Capture(capture::record::CaptureArgs),
    /// Publish a capture again.
    Replay(capture::replay::ReplayArgs),
    /// What a proxy costs, in connects and pushes.
    Probe(probe::ProbeArgs),
    /// A proxy that does what a network or a gateway can do wrong, to see that it is noticed.
    Faults(faults::FaultsArgs),
}

/// The gateway's client listener.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// The gateway's TCP listener, HOST:PORT.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub tcp: Option<SocketAddr>,
    /// The gateway's WebSocket listener, HOST:PORT.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub ws: Option<SocketAddr>,
}

impl Target {
    /// What to speak, and where.
    pub fn transport(&self) -> (Transport, SocketAddr) {
        match (self.tcp, self.ws) {
            (Some(address), _) => (Transport::Tcp, address),
            (None, Some(address)) => (Transport::Ws, address),
            (None, None) => unreachable!("clap requires one of the two"),
        }
    }
}

/// Options of every command that connects clients to a gateway.
#[derive(Debug, Args)]
pub struct Clients {
    #[command(flatten)]
    /// Where to connect.
    pub target: Target,
    /// The tenant of clients and upstream.
    #[arg(long, default_value_t = 1)]
    pub app: u32,
    /// Source addresses of the connections: addresses and networks with commas between. For a
    /// loopback target the default is 127.1.0.1 and on, one per 10,000 connections or so.
    #[arg(long, value_name = "LIST", value_parser = parse_sources)]
    pub source: Option<SourceList>,
    /// Core of the network thread [default: the highest, if there are two].
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,
    /// Core of the upstream thread [default: any].
    #[arg(long, value_name = "N")]
    pub upstream_core: Option<usize>,
    /// Process id of the gateway: its processor time and memory are then reported.
    #[arg(long, value_name = "P")]
    pub gateway_pid: Option<u32>,
    /// The gateway's HTTP address: its /metrics say how many sends it made.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub metrics: Option<SocketAddr>,
}

/// Addresses that connections come from.
#[derive(Clone, Debug)]
pub struct SourceList(pub Vec<IpAddr>);

fn parse_sources(text: &str) -> Result<SourceList, String> {
    sources::parse_list(text).map(SourceList)
}

/// How to report.
#[derive(Clone, Copy, Debug, Args)]
pub struct Reporting {
    /// One JSON object on stdout instead of a summary for people.
    #[arg(long)]
    pub json: bool,
    /// No progress on stderr.
    #[arg(long, short)]
    pub quiet: bool,
}

/// `room`.
#[derive(Debug, Args)]
pub struct RoomArgs {
    /// Where and who.
    #[command(flatten)]
    pub clients: Clients,
    /// The gateway's upstream listener, HOST:PORT or unix:PATH.
    #[arg(long, value_name = "ADDR", value_parser = UpstreamAddress::parse)]
    pub upstream: UpstreamAddress,
    /// Members of the room.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub members: u32,
    /// Messages a second; 0: as fast as a bounded window allows.
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub rate: f64,
    /// Bytes of a payload; the first 16 are a time stamp.
    #[arg(long, value_name = "B", value_parser = parse_size)]
    pub size: usize,
    /// Seconds to measure, after the warm-up.
    #[arg(long, value_name = "S", value_parser = parse_secs)]
    pub secs: f64,
    /// Seconds to send before measuring; accounted for, and not in the other figures.
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_secs_or_0)]
    pub warmup: f64,
    /// Messages that may be published and not yet everywhere delivered, with --rate 0
    /// [default: 512 KiB of frames, at least 64].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub window: Option<u64>,
    /// The room.
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub room: u64,
    /// Rooms: that one and those that follow. Members and messages are spread over them.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// The category of the messages. 7 is stream of the built-in policy: in class P3 like chat, but
    /// without a limit and not stored, so that the gateway admits whatever is published. In 4, which
    /// is chat, a room of 1,000 members or more admits 400 a second.
    #[arg(long, value_name = "ID", default_value_t = CATEGORY_STREAM)]
    pub category: u16,
    /// When the gateway is to answer: when a message has its number, or when it is on disk, for
    /// which the gateway needs --data and the category one that is kept there, such as 4.
    #[arg(long, value_enum, default_value_t = Ack::Accepted)]
    pub ack: Ack,
    /// How to report.
    #[command(flatten)]
    pub reporting: Reporting,
}

/// What an answer is to promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ack {
    /// The message has its number.
    Accepted,
    /// The message is on disk.
    Stored,
}

/// `connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// Where and who.
    #[command(flatten)]
    pub clients: Clients,
    /// Connections.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub count: u32,
    /// Seconds to hold them, pinging as the gateway asks.
    #[arg(long, value_name = "S", value_parser = parse_secs_or_0)]
    pub hold: f64,
    /// Connections a second, at most; 0: as fast as it goes, 512 at a time.
    #[arg(long, value_name = "R", default_value = "0", value_parser = parse_rate)]
    pub rate: f64,
    /// Rooms that the clients are spread over; each joins one [default: one per 50 clients].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: Option<u32>,
    /// Each client joins so many different rooms, after all have connected and half of the hold,
    /// and leaves them after the other half: what rooms cost. Then --rooms are as many as clients
    /// times this, unless given.
    #[arg(long, value_name = "K", conflicts_with_all = ["one_room", "then_broadcast"],
          value_parser = clap::value_parser!(u32).range(1..=ROOMS_PER_CLIENT_MAX))]
    pub rooms_per_client: Option<u32>,
    /// The first room's id; the others follow.
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub room: u64,
    /// Each client also joins one room of all clients: the one after the others.
    #[arg(long)]
    pub one_room: bool,
    /// After the ramp, publish one message to all (implies --one-room) and time it.
    #[arg(long, requires = "upstream")]
    pub then_broadcast: bool,
    /// The gateway's upstream listener, HOST:PORT or unix:PATH, for --then-broadcast.
    #[arg(long, value_name = "ADDR", value_parser = UpstreamAddress::parse)]
    pub upstream: Option<UpstreamAddress>,
    /// Bytes of the broadcast's payload.
    #[arg(long, value_name = "B", default_value = "128", value_parser = parse_size)]
    pub size: usize,
    /// The category of the broadcast. 7 is stream of the built-in policy, which has no limit.
    #[arg(long, value_name = "ID", default_value_t = CATEGORY_STREAM)]
    pub category: u16,
    /// How to report.
    #[command(flatten)]
    pub reporting: Reporting,
}

/// `uplink`.
#[derive(Debug, Args)]
pub struct UplinkArgs {
    /// Where and who.
    #[command(flatten)]
    pub connections: Clients,
    /// The gateway's upstream listener, HOST:PORT or unix:PATH.
    #[arg(long, value_name = "ADDR", value_parser = UpstreamAddress::parse)]
    pub upstream: UpstreamAddress,
    /// Clients that send. A gateway bounds what one client may send in a second: use enough.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub clients: u32,
    /// Bytes of a payload; the first 16 are a time stamp.
    #[arg(long, value_name = "B", value_parser = parse_size)]
    pub size: usize,
    /// Seconds to measure, after the warm-up.
    #[arg(long, value_name = "S", value_parser = parse_secs)]
    pub secs: f64,
    /// Seconds to send before measuring.
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_secs_or_0)]
    pub warmup: f64,
    /// Unanswered uplinks per client.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub window: u16,
    /// The channel.
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub channel: u16,
    /// How to report.
    #[command(flatten)]
    pub reporting: Reporting,
}

impl UplinkArgs {
    /// What clap cannot check.
    pub fn check(&self) -> Result<(), String> {
        let frame = self.size + barrage_wire::limits::MESSAGE_HEAD_BYTES_MAX;
        let window_max = UPLINK_BYTES_MAX / frame;
        if usize::from(self.window) > window_max {
            return Err(format!(
                "--window {} of {} bytes each does not fit one message: at most {window_max}",
                self.window, self.size
            ));
        }
        Ok(())
    }
}

/// `storm`.
#[derive(Debug, Args)]
pub struct StormArgs {
    /// Where and who.
    #[command(flatten)]
    pub clients: Clients,
    /// The gateway's upstream listener, HOST:PORT or unix:PATH.
    #[arg(long, value_name = "ADDR", value_parser = UpstreamAddress::parse)]
    pub upstream: UpstreamAddress,
    /// Pairs of rooms that play against each other.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rooms: u32,
    /// Members of each room.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub members: u32,
    /// Members of each room who give.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub senders: u32,
    /// Taps a second of each while they give, give or take a sixth.
    #[arg(long, value_name = "R", default_value = "6", value_parser = parse_rate_over_0)]
    pub taps: f64,
    /// Seconds that one gives the same gift without a pause.
    #[arg(long, value_name = "S", default_value = "4", value_parser = parse_secs)]
    pub burst_secs: f64,
    /// Seconds of a pause.
    #[arg(long, value_name = "S", default_value = "2", value_parser = parse_secs_or_0)]
    pub pause_secs: f64,
    /// Different gifts.
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub gifts: u32,
    /// How often a second a pair's score is told, to both of its rooms.
    #[arg(long, value_name = "R", default_value = "5", value_parser = parse_rate)]
    pub bar_rate: f64,
    /// Chat messages a second in each room.
    #[arg(long, value_name = "R", default_value = "20", value_parser = parse_rate)]
    pub chat_rate: f64,
    /// Bytes of a payload; the first 16 are a time stamp.
    #[arg(long, value_name = "B", default_value = "128", value_parser = parse_size)]
    pub size: usize,
    /// Seconds of storm.
    #[arg(long, value_name = "S", value_parser = parse_secs)]
    pub secs: f64,
    /// Seconds of silence after which all runs are taken to have ended: more than the policy's
    /// combo-gap and state-every.
    #[arg(long, value_name = "S", default_value = "3", value_parser = parse_secs)]
    pub settle_secs: f64,
    /// The same seed makes the same storm.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The first room; the others follow, the two of a pair next to each other.
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub room: u64,
    /// The category of gifts: 3 merges combos.
    #[arg(long, value_name = "ID", default_value_t = 3)]
    pub category_gift: u16,
    /// The category of scores: 6 keeps the latest.
    #[arg(long, value_name = "ID", default_value_t = 6)]
    pub category_state: u16,
    /// The category of chat.
    #[arg(long, value_name = "ID", default_value_t = 4)]
    pub category_chat: u16,
    /// Everything in category 7, stream, which neither merges nor limits: what the storm is like
    /// without a policy.
    #[arg(long, conflicts_with_all = ["category_gift", "category_state", "category_chat"])]
    pub no_merge: bool,
    /// How to report.
    #[command(flatten)]
    pub reporting: Reporting,
}

impl StormArgs {
    /// What clap cannot check.
    pub fn check(&self) -> Result<(), String> {
        let clients = i64::from(self.rooms) * 2 * i64::from(self.members);
        if clients > CLIENTS_MAX {
            return Err(format!("{clients} members in all are more than {CLIENTS_MAX}"));
        }
        if self.senders > self.members {
            let Self { senders, members, .. } = self;
            return Err(format!("--senders {senders} are members, and there are {members}"));
        }
        let rooms = u64::from(self.rooms) * 2;
        if self.room.checked_add(rooms).is_none() {
            return Err(format!("--room {} leaves no ids for {rooms} rooms", self.room));
        }
        Ok(())
    }

    /// The categories of gifts, scores and chat.
    pub fn categories(&self) -> [u16; 3] {
        match self.no_merge {
            true => [CATEGORY_STREAM; 3],
            false => [self.category_gift, self.category_state, self.category_chat],
        }
    }
}

/// `limit`.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Connections to send to.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub members: u32,
    /// Bytes of a room message's payload; as much is sent as such a message takes.
    #[arg(long, value_name = "B", value_parser = parse_size)]
    pub size: usize,
    /// Seconds to send.
    #[arg(long, value_name = "S", value_parser = parse_secs)]
    pub secs: f64,
    /// Core of the receiving thread [default: the highest, if there are two].
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,
    /// Core of the sending thread.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sender_core: usize,
    /// How to report.
    #[command(flatten)]
    pub reporting: Reporting,
}

fn parse_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (STAMP_BYTES..=PAYLOAD_BYTES_MAX).contains(&size) => Ok(size),
        _ => Err(format!("give {STAMP_BYTES} to {PAYLOAD_BYTES_MAX} bytes")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1e8).ok_or_else(|| "give a number per second, or 0".to_owned())
}

fn parse_rate_over_0(text: &str) -> Result<f64, String> {
    number(text, 0.01, 1e4).ok_or_else(|| "give a number per second, 0.01 to 10000".to_owned())
}

fn parse_secs(text: &str) -> Result<f64, String> {
    number(text, 0.01, 1e6).ok_or_else(|| "give seconds, 0.01 or more".to_owned())
}

fn parse_secs_or_0(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1e6).ok_or_else(|| "give seconds, 0 or more".to_owned())
}

fn number(text: &str, min: f64, max: f64) -> Option<f64> {
    text.parse().ok().filter(|number| (min..=max).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The first line of the error that `line` gives, or nothing.
    fn usage(line: &str) -> String {
        let words = std::iter::once("barrage-loadgen").chain(line.split_whitespace());
        match Cli::try_parse_from(words) {
            Ok(_) => String::new(),
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_the_design_promises_is_understood() {
        let room = "--members 10 --rate 150 --size 128 --secs 8";
        for line in [
            format!("room --tcp 127.0.0.1:1 --upstream 127.0.0.1:2 {room} --gateway-pid 1 --json"),
            format!("room --ws 127.0.0.1:1 --upstream unix:/tmp/x {room} --quiet --window 9"),
            "room --tcp [::1]:1 --upstream 127.0.0.1:2 --members 1 --rate 0 --size 16 --secs 1"
                .to_owned(),
            "connect --tcp 127.0.0.1:1 --count 1000000 --hold 30 --gateway-pid 1 --json".to_owned(),
            "connect --ws 127.0.0.1:1 --count 5 --hold 0 --one-room --rooms 3 --rate 100 \
             --upstream 127.0.0.1:2 --then-broadcast --source 10.0.0.0/28"
                .to_owned(),
            "uplink --tcp 127.0.0.1:1 --upstream 127.0.0.1:2 --clients 9 --size 64 --secs 2"
                .to_owned(),
            format!("room --tcp 127.0.0.1:1 --upstream 127.0.0.1:2 {room} --ack stored --rooms 9"),
            "connect --tcp 127.0.0.1:1 --count 20000 --rooms-per-client 50 --hold 2".to_owned(),
            "storm --tcp 127.0.0.1:1 --upstream 127.0.0.1:2 --rooms 5 --members 500 --senders 50 \
             --secs 8 --no-merge"
                .to_owned(),
            "limit --members 2000 --size 128 --secs 8 --json".to_owned(),
        ] {
            assert_eq!(usage(&line), "", "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let limit = "limit --members 1 --secs 1";
        let says = |line: &str, part: &str| {
            assert!(usage(line).contains(part), "{line}: {}", usage(line));
        };
        says(&format!("{limit} --size 15"), "give 16 to 16384 bytes");
        says(&format!("{limit} --size 99999"), "give 16 to 16384 bytes");
        says("limit --members 0 --size 16 --secs 1", "0 is not in");
        says("limit --members 1 --size 16 --secs 0", "give seconds, 0.01 or more");
        says("connect --count 1 --hold 1", "required arguments were not provided");
        says(
            "connect --tcp 127.0.0.1:1 --ws 127.0.0.1:2 --count 1 --hold 1",
            "cannot be used with",
        );
        says("connect --tcp 127.0.0.1 --count 1 --hold 1", "give an address and a port");
        says("connect --tcp 127.0.0.1:1 --count 1 --hold 1 --then-broadcast", "required arguments");
        says("connect --tcp 127.0.0.1:1 --count 1 --hold 1 --source x", "not an IP address");
        let connect = "connect --tcp 127.0.0.1:1 --count 1 --hold 1 --rooms-per-client";
        says(&format!("{connect} 65"), "65 is not in");
        says(&format!("{connect} 5 --one-room"), "cannot be used with");
        let storm = "storm --tcp 127.0.0.1:1 --upstream 127.0.0.1:2 --members 1 --senders 1";
        says(&format!("{storm} --secs 1 --taps 0"), "give a number per second");
        says(&format!("{storm} --secs 1 --no-merge --category-gift 3"), "cannot be used with");
    }
}
