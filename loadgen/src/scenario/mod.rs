//! A scenario: what a campaign does to which target, and what has to come of it. This is the model;
//! [`mod@file`] reads it from TOML, [`library`] has ready ones, [`layout`] says who is in which
//! room.

pub mod file;
pub mod layout;
pub mod library;

use std::net::{IpAddr, SocketAddr};

use crate::dialect::Protocol;
use crate::upstream::UpstreamAddress;

/// Everything about a campaign.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it is for, in a sentence.
    pub about: String,
    /// Where all chance begins.
    pub seed: u64,
    /// What it is done to.
    pub target: Target,
    /// Who connects.
    pub clients: Clients,
    /// Which rooms there are, and who is in which.
    pub rooms: Rooms,
    /// What is published, by name; phases say when.
    pub streams: Vec<Stream>,
    /// What happens one after the other.
    pub phases: Vec<Phase>,
    /// What has to come of it.
    pub slo: Slo,
    /// When the figures count.
    pub validity: Validity,
    /// When to give up.
    pub abort: Abort,
    /// The generator's own threads.
    pub generator: Generator,
}

/// What a campaign is done to.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its listener for clients of TCP; for other protocols the one for all clients.
    pub tcp: Option<SocketAddr>,
    /// Its listener for WebSocket clients.
    pub ws: Option<SocketAddr>,
    /// Where messages are published.
    pub upstream: Option<UpstreamAddress>,
    /// Its HTTP listener with `/metrics`, for processor time and memory.
    pub metrics: Option<SocketAddr>,
    /// Its process, if it runs on this machine: the same without `/metrics`.
    pub pid: Option<u32>,
    /// The tenant.
    pub app: u32,
    /// The path of a room's subscription, for `ws-raw`; `{room}` stands for its number.
    pub subscribe_path: String,
    /// The path that publishes to a room by HTTP, for `ws-raw`; `{room}` stands for its number.
    pub publish_path: String,
}

/// Who connects.
#[derive(Clone, Debug, PartialEq)]
pub struct Clients {
    /// How many, without the odd ones.
    pub count: u32,
    /// How many in a hundred speak WebSocket; the others TCP.
    pub ws_percent: f64,
    /// Where they come from; empty: loopback addresses for a loopback target, else the kernel's choice.
    pub sources: Vec<IpAddr>,
    /// What they show; `{user}` stands for the client's number from 1.
    pub token: String,
    /// Those who read slowly.
    pub slow: Option<SlowReaders>,
    /// Those who do what no client should.
    pub misbehaving: Option<Misbehaving>,
}

/// Clients who read slowly. They are beside the others and are accounted for on their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowReaders {
    /// How many.
    pub count: u32,
    /// Bytes that each reads in a second.
    pub bytes_per_s: u32,
    /// The receive buffer that each asks the kernel for.
    pub buffer_bytes: u32,
}

/// Clients who do what no client should. Each comes back after it was thrown out.
#[derive(Clone, Debug, PartialEq)]
pub struct Misbehaving {
    /// How many.
    pub count: u32,
    /// How often each acts in a second.
    pub acts_per_s: f64,
    /// What they do, in turn.
    pub kinds: Vec<Mischief>,
}

/// One thing that no client should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// Connects and says nothing.
    Mute,
    /// Says random bytes.
    Garbage,
    /// Says HELLO with a token that is none.
    BadToken,
    /// Announces a frame that is longer than any may be.
    Huge,
    /// Says half a frame and no more.
    Half,
    /// Joins and leaves as fast as it can.
    JoinFlood,
    /// Publishes and pings as fast as it can.
    Flood,
    /// Resets the connection in the middle of a frame.
    Reset,
}

/// Rooms, and who is in which.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rooms {
    /// The first room's id; the others follow.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// How many each client joins.
    pub per_client: u32,
    /// How clients are spread over them.
    pub spread: Spread,
    /// How many in a hundred clients join the first room, whatever the spread says of them.
    pub hot_percent: f64,
}

/// How clients are spread over rooms, or messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// Evenly.
    Even,
    /// Room `n` has a share of `1 / n^exponent`.
    Zipf {
        /// How steep.
        exponent: f64,
    },
}

/// Something that is published again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// What it says, and how fast.
    pub kind: StreamKind,
    /// The categories, each with its weight.
    pub categories: Vec<(u16, f64)>,
    /// Bytes of a payload: from and to.
    pub size: (usize, usize),
    /// When a publish is answered.
    pub ack: Ack,
}

/// What a stream says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StreamKind {
    /// Messages.
    Messages {
        /// How fast, over all rooms.
        rate: Rate,
        /// When.
        arrival: Arrival,
        /// To which rooms.
        to: To,
    },
    /// Gift combos: in every room some tap the same gift again and again.
    Gifts {
        /// Who give, in each room.
        givers_per_room: u32,
        /// Taps of each in a second while it gives.
        taps_per_s: f64,
        /// How long one gives the same gift.
        burst_ns: u64,
        /// How long the pause after it is.
        pause_ns: u64,
        /// How many gifts there are.
        gifts: u32,
    },
    /// Values of keys: in every room each key is told so often a second.
    States {
        /// Updates a second of each key.
        per_s: f64,
        /// Keys in each room.
        keys: u32,
    },
}

/// How fast a stream is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Messages in a second.
    Messages(f64),
    /// Deliveries in a second: as many messages as make them, by the members that the rooms have.
    Deliveries(f64),
    /// As fast as it goes, with so many messages on their way at any time.
    Window(u64),
}

/// When messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Evenly.
    Fixed,
    /// As if they knew nothing of each other.
    Poisson,
}

/// To which rooms messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// One after the other.
    Even,
    /// As clients are spread: a room with more members hears more.
    Members,
    /// The first room.
    Hot,
}

/// When a publish is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// When it has its number.
    Accepted,
    /// When it is on disk.
    Stored,
}

/// A part of a campaign.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: PhaseKind,
    /// How long; for a ramp the longest that it may take, 0: as long as it moves.
    pub ns: u64,
    /// How much of it passes before anything is measured.
    pub warmup_ns: u64,
    /// Streams that publish, by their place in the scenario.
    pub streams: Vec<usize>,
    /// What their rates are multiplied by.
    pub rate_factor: f64,
    /// Clients who go and come back all the time.
    pub churn: Option<Churn>,
    /// Clients who lose their connection when it begins.
    pub disconnect: Option<Disconnect>,
}

/// What a phase is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PhaseKind {
    /// Clients connect until so many are there; nothing is timed but that.
    Ramp {
        /// How many are to be connected at its end.
        to: u32,
        /// How many in a second; 0: as fast as it goes.
        per_s: f64,
    },
    /// Everything goes on as it is, for some time, and is measured.
    Steady,
    /// The same in bad weather: timed on its own.
    Storm,
}

/// Clients who go and come back all the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// How many go in a second.
    pub clients_per_s: f64,
    /// How long they stay away.
    pub away_ns: u64,
    /// Whether they go on where they were.
    pub resume: bool,
    /// How many in a hundred go without a word, by a reset.
    pub abrupt_percent: f64,
}

/// Clients who lose their connection at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disconnect {
    /// How many in a hundred.
    pub percent: f64,
    /// How long they stay away.
    pub away_ns: u64,
    /// Whether they go on where they were.
    pub resume: bool,
    /// How many come back in a second; 0: all at once.
    pub per_s: f64,
}

/// What has to come of a campaign. What is not given is not asked for, but for correctness: that
/// nothing is missing unexplained, doubled or out of order is asked for always.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slo {
    /// Latency from the intended time of sending over all measured phases, in milliseconds: 50th …
    pub p50_ms: Option<f64>,
    /// … 90th …
    pub p90_ms: Option<f64>,
    /// … 99th …
    pub p99_ms: Option<f64>,
    /// … 99.9th percentile …
    pub p999_ms: Option<f64>,
    /// … and the longest.
    pub max_ms: Option<f64>,
    /// Least deliveries in a second.
    pub deliveries_per_s_min: Option<f64>,
    /// Least connects in a second, over the ramps.
    pub connects_per_s_min: Option<f64>,
    /// Longest until everybody who was disconnected is back and has heard what was missed.
    pub reconnect_s: Option<f64>,
    /// Most clients in a hundred that never got ready.
    pub failed_percent: f64,
    /// Most clients in a hundred that lost their connection without being asked to.
    pub lost_percent: f64,
    /// Most expected deliveries in a hundred that were left out and declared.
    pub shed_percent: Option<f64>,
    /// Most processor time of the target while measuring, in percent of a core.
    pub target_cpu_percent: Option<f64>,
    /// Most memory of the target per connection.
    pub target_bytes_per_client: Option<f64>,
}

/// When the figures count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validity {
    /// Busiest that a thread of the generator may be, in percent of its core.
    pub busy_percent: f64,
    /// Latest that one message in a hundred may be sent, in milliseconds.
    pub lag_p99_ms: f64,
    /// The same in percent of the 99th percentile of the latency.
    pub lag_percent: f64,
    /// Least of the due messages that must have been sent in time, in percent.
    pub published_percent: f64,
    /// Most that another machine's clock may be off, in percent of the 50th percentile of the latency.
    pub clock_percent: f64,
}

/// When to give up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Abort {
    /// So many clients in a hundred have failed or are lost.
    pub lost_percent: Option<f64>,
    /// The 99th percentile of an interval's latency is over this, in milliseconds …
    pub p99_ms: Option<f64>,
    /// … so many intervals in a row.
    pub intervals: u32,
    /// So many messages are missing unexplained.
    pub unexplained: Option<u64>,
}

/// The generator's own threads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generator {
    /// Network threads; 0: one per core that is left to them.
    pub workers: u32,
    /// The cores of the network threads; empty: the highest ones.
    pub cores: Vec<usize>,
    /// The core of the publishing thread.
    pub publisher_core: Option<usize>,
}
