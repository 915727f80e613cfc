//! The sections of a scenario's file, but for streams and phases.

use std::net::{Ipv4Addr, SocketAddr};

use barrage_wire::limits::{RESUME_CURSORS_MAX, TOKEN_BYTES_MAX};

use super::source::{Source, Table};
use super::values::{
    address, address_or_none, list, name, number, one_of, percent, source_list, text, upstream,
    whole,
};
use super::{phases, streams};
use crate::dialect::Protocol;
use crate::scenario::{
    Abort, Clients, Generator, Misbehaving, Mischief, Rooms, Scenario, Slo, SlowReaders, Spread,
    Target, Validity,
};
use crate::upstream::UpstreamAddress;

/// The most clients of a scenario.
pub(super) const CLIENTS_MAX: i64 = 4_000_000;
/// The most slow readers, and the most misbehaving clients: one thread has all of them.
const ODD_CLIENTS_MAX: i64 = 1000;
/// Bytes of the sentence that says what a scenario is for.
const ABOUT_BYTES_MAX: usize = 1000;
/// Bytes of a path of HTTP.
const PATH_BYTES_MAX: usize = 500;
/// Milliseconds that an objective may name: ten minutes, which is the longest that is timed.
const TIMED_MS_MAX: f64 = 600_000.0;
/// More than any count, rate or size that an objective can name.
const FIGURE_MAX: f64 = 1e12;
const CORES_MAX: i64 = 4096;

pub(super) const PROTOCOLS: [(&str, Protocol); 5] = [
    ("barrage", Protocol::Barrage),
    ("ws-raw", Protocol::WsRaw),
    ("mqtt", Protocol::Mqtt),
    ("nats", Protocol::Nats),
    ("redis", Protocol::Redis),
];

const KINDS: [(&str, Mischief); 8] = [
    ("mute", Mischief::Mute),
    ("garbage", Mischief::Garbage),
    ("bad-token", Mischief::BadToken),
    ("huge", Mischief::Huge),
    ("half", Mischief::Half),
    ("join-flood", Mischief::JoinFlood),
    ("flood", Mischief::Flood),
    ("reset", Mischief::Reset),
];

/// Reads everything. Where something is wrong there is something else in its place, and a problem.
pub(super) fn read(source: &mut Source<'_>) -> Scenario {
    let mut root = source.table();
    let name = root.need(source, "name", String::new(), name);
    let about = root.or(source, "about", String::new(), text(ABOUT_BYTES_MAX));
    let seed = root.or(source, "seed", 1, whole(0..=i64::MAX));
    let target = target(source, &mut root);
    let clients = clients(source, &mut root);
    let rooms = rooms(source, &mut root);
    let streams = streams::read(source, &mut root);
    let phases = phases::read(source, &mut root, &streams, clients.count, target.protocol);
    let slo = slo(source, &mut root);
    let validity = validity(source, &mut root);
    let abort = abort(source, &mut root);
    let generator = generator(source, &mut root);
    root.end(source);
    #[rustfmt::skip]
    let scenario = Scenario {
        name, about, seed, target, clients, rooms, streams, phases, slo, validity, abort, generator,
    };
    scenario
}

fn target(source: &mut Source<'_>, root: &mut Table<'_>) -> Target {
    let mut table = root.section(source, "target");
    let protocol = table.or(source, "protocol", Protocol::Barrage, one_of("known", &PROTOCOLS));
    let barrage = protocol == Protocol::Barrage;
    let host = table.or(source, "host", Ipv4Addr::LOCALHOST.into(), |value| {
        let host = text(usize::MAX)(value)?;
        let with_port = if host.contains(':') { format!("[{host}]:0") } else { host + ":0" };
        crate::upstream::parse_address(&with_port)
            .map(|address| address.ip())
            .map_err(|_| "give a name or an address without a port".to_owned())
    });
    let at = |port| SocketAddr::new(host, port);
    let port = match protocol {
        Protocol::Barrage => 7400,
        Protocol::WsRaw => 80,
        Protocol::Mqtt => 1883,
        Protocol::Nats => 4222,
        Protocol::Redis => 6379,
    };
    let tcp = table.or(source, "tcp", at(port), address);
    let ws = table.or(source, "ws", barrage.then(|| at(7401)), |value| address(value).map(Some));
    let publish_at = if barrage { at(7402) } else { tcp };
    let upstream = table.or(source, "upstream", UpstreamAddress::Tcp(publish_at), upstream);
    let metrics = table.or(source, "metrics", barrage.then(|| at(7403)), address_or_none);
    let pid = table.read(source, "pid", whole(1..=i64::from(i32::MAX)));
    let app = table.or(source, "app", 1, whole(1..=i64::from(u32::MAX)));
    let path = |value: &_| {
        let path = text(PATH_BYTES_MAX)(value)?;
        match path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(path),
            false => Err("a path begins with / and has no spaces".to_owned()),
        }
    };
    let subscribe_path = table.or(source, "subscribe_path", "/sub/{room}".to_owned(), path);
    let publish_path = table.or(source, "publish_path", "/pub/{room}".to_owned(), path);
    table.end(source);
    let (tcp, upstream) = (Some(tcp), Some(upstream));
    Target { protocol, tcp, ws, upstream, metrics, pid, app, subscribe_path, publish_path }
}

fn clients(source: &mut Source<'_>, root: &mut Table<'_>) -> Clients {
    let mut table = root.section(source, "clients");
    let count = table.need(source, "count", 1, whole(1..=CLIENTS_MAX));
    let ws_percent = table.or(source, "ws_percent", 0.0, percent);
    let sources = table.or(source, "source", Vec::new(), source_list);
    let token = table.or(source, "token", "open:{user}".to_owned(), text(TOKEN_BYTES_MAX / 2));
    let slow = table.table(source, "slow").map(|mut table| {
        let count = table.need(source, "count", 1, whole(1..=ODD_CLIENTS_MAX));
        let bytes_per_s = table.or(source, "bytes_per_s", 4096, whole(1..=1_000_000_000));
        let buffer_bytes = table.or(source, "buffer_bytes", 4096, whole(1024..=16 << 20));
        table.end(source);
        SlowReaders { count, bytes_per_s, buffer_bytes }
    });
    let misbehaving = table.table(source, "misbehaving").map(|mut table| {
        let count = table.need(source, "count", 1, whole(1..=ODD_CLIENTS_MAX));
        let acts_per_s = table.or(source, "acts_per_s", 1.0, number(0.01..=1000.0));
        let all = KINDS.map(|(_, kind)| kind).to_vec();
        let kinds = table.or(source, "kinds", all, list(one_of("a kind", &KINDS)));
        if kinds.is_empty() {
            source.problem(&table.path("kinds"), "name at least one, or leave it out for all");
        }
        table.end(source);
        Misbehaving { count, acts_per_s, kinds }
    });
    table.end(source);
    Clients { count, ws_percent, sources, token, slow, misbehaving }
}

fn rooms(source: &mut Source<'_>, root: &mut Table<'_>) -> Rooms {
    let mut table = root.section(source, "rooms");
    let first = table.or(source, "first", 1, whole(1..=i64::MAX));
    let count = table.or(source, "count", 1, whole(1..=CLIENTS_MAX));
    let per_client = table.or(source, "per_client", 1, whole(1..=RESUME_CURSORS_MAX as i64));
    let spreads = [("even", false), ("zipf", true)];
    let zipf = table.or(source, "spread", false, one_of("a spread", &spreads));
    let exponent = table.or(source, "exponent", 1.0, number(0.01..=10.0));
    if table.has("exponent") && !zipf {
        source.conflict(&["rooms.exponent", "rooms.spread"], "it needs spread = \"zipf\"");
    }
    let spread = if zipf { Spread::Zipf { exponent } } else { Spread::Even };
    let hot_percent = table.or(source, "hot_percent", 0.0, percent);
    table.end(source);
    Rooms { first, count, per_client, spread, hot_percent }
}

fn slo(source: &mut Source<'_>, root: &mut Table<'_>) -> Slo {
    let mut table = root.section(source, "slo");
    let mut some = |table: &mut Table<'_>, name, most| table.read(source, name, number(0.0..=most));
    let slo = Slo {
        p50_ms: some(&mut table, "p50_ms", TIMED_MS_MAX),
        p90_ms: some(&mut table, "p90_ms", TIMED_MS_MAX),
        p99_ms: some(&mut table, "p99_ms", TIMED_MS_MAX),
        p999_ms: some(&mut table, "p999_ms", TIMED_MS_MAX),
        max_ms: some(&mut table, "max_ms", TIMED_MS_MAX),
        deliveries_per_s_min: some(&mut table, "deliveries_per_s_min", FIGURE_MAX),
        connects_per_s_min: some(&mut table, "connects_per_s_min", FIGURE_MAX),
        reconnect_s: some(&mut table, "reconnect_s", FIGURE_MAX),
        failed_percent: some(&mut table, "failed_percent", 100.0).unwrap_or(0.0),
        lost_percent: some(&mut table, "lost_percent", 100.0).unwrap_or(0.0),
        shed_percent: some(&mut table, "shed_percent", 100.0),
        target_cpu_percent: some(&mut table, "target_cpu_percent", FIGURE_MAX),
        target_bytes_per_client: some(&mut table, "target_bytes_per_client", FIGURE_MAX),
    };
    table.end(source);
    slo
}

fn validity(source: &mut Source<'_>, root: &mut Table<'_>) -> Validity {
    let mut table = root.section(source, "validity");
    let validity = Validity {
        busy_percent: table.or(source, "busy_percent", 95.0, percent),
        lag_p99_ms: table.or(source, "lag_p99_ms", 5.0, number(0.0..=TIMED_MS_MAX)),
        lag_percent: table.or(source, "lag_percent", 10.0, percent),
        published_percent: table.or(source, "published_percent", 99.0, percent),
        clock_percent: table.or(source, "clock_percent", 10.0, percent),
    };
    table.end(source);
    validity
}

fn abort(source: &mut Source<'_>, root: &mut Table<'_>) -> Abort {
    let mut table = root.section(source, "abort");
    let abort = Abort {
        lost_percent: table.read(source, "lost_percent", percent),
        p99_ms: table.read(source, "p99_ms", number(0.0..=TIMED_MS_MAX)),
        intervals: table.or(source, "intervals", 3, whole(1..=100_000)),
        unexplained: table.read(source, "unexplained", whole(1..=i64::MAX)),
    };
    if table.has("intervals") && !table.has("p99_ms") {
        source.problem("abort.intervals", "it goes with p99_ms, which is not given");
    }
    table.end(source);
    abort
}

fn generator(source: &mut Source<'_>, root: &mut Table<'_>) -> Generator {
    let mut table = root.section(source, "generator");
    let workers = table.or(source, "workers", 0, whole(0..=256));
    let cores: Vec<usize> = table.or(source, "cores", Vec::new(), list(whole(0..=CORES_MAX)));
    if !cores.is_empty() && workers as usize > cores.len() {
        let says = format!("{workers} workers need a core each, and {} are given", cores.len());
        source.conflict(&["generator.cores", "generator.workers"], says);
    }
    let publisher_core = table.read(source, "publisher_core", whole(0..=CORES_MAX));
    table.end(source);
    Generator { workers, cores, publisher_core }
}
