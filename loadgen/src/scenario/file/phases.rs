//! The `[[phases]]` tables.

use super::sections::CLIENTS_MAX;
use super::source::{Source, Table, nearest};
use super::value::{Kind, Value};
use super::values::{describe, flag, name, number, one_of, percent, seconds, whole};
use crate::clock::seconds_ns;
use crate::dialect::Protocol;
use crate::scenario::{Churn, Disconnect, Phase, PhaseKind, Stream};

const PHASES_MAX: usize = 100;
/// Clients that connect, go or come back in a second.
const CLIENTS_PER_S_MAX: f64 = 1e7;
/// The warm-up is a tenth of a phase unless it is said, and at most this.
const WARMUP_NS_MAX: u64 = 2_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Ramp,
    Steady,
    Storm,
}

const SORTS: [(&str, Sort); 3] =
    [("ramp", Sort::Ramp), ("steady", Sort::Steady), ("storm", Sort::Storm)];

/// What phases look up elsewhere.
struct Around<'a> {
    streams: &'a [Stream],
    clients: u32,
    protocol: Protocol,
}

pub(super) fn read(
    source: &mut Source<'_>,
    root: &mut Table<'_>,
    streams: &[Stream],
    clients: u32,
    protocol: Protocol,
) -> Vec<Phase> {
    let Some(value) = root.take("phases") else {
        let says = "missing; give at least [[phases]] with kind = \"ramp\"";
        source.problem("phases", says);
        return Vec::new();
    };
    let items = match &value.kind {
        Kind::List(items) if (1..=PHASES_MAX).contains(&items.len()) => items,
        _ => {
            source.problem("phases", format!("give 1 to {PHASES_MAX} tables: [[phases]]"));
            return Vec::new();
        }
    };
    let around = Around { streams, clients, protocol };
    (1..).zip(items).filter_map(|(nth, item)| phase(source, nth, item, &around)).collect()
}

fn phase(source: &mut Source<'_>, nth: usize, value: &Value, around: &Around<'_>) -> Option<Phase> {
    let known = value.name().map_or_else(|| nth.to_string(), str::to_owned);
    let path = format!("phases.{known}");
    let Kind::Table(_) = value.kind else {
        source.problem(&path, format!("{} is not a table", describe(value)));
        return None;
    };
    let mut table = Table::new(path, value);
    let name = table.need(source, "name", known, name);
    let sort = table.or(source, "kind", Sort::Steady, one_of("a kind", &SORTS));
    let phase = match sort {
        Sort::Ramp => Phase { name, ..ramp(source, &mut table, around) },
        Sort::Steady | Sort::Storm => Phase { name, ..timed(source, &mut table, sort, around) },
    };
    table.end(source);
    Some(phase)
}

fn ramp(source: &mut Source<'_>, table: &mut Table<'_>, around: &Around<'_>) -> Phase {
    let to = table.or(source, "clients", around.clients, whole(1..=CLIENTS_MAX));
    let per_s = table.or(source, "clients_per_s", 0.0, number(0.0..=CLIENTS_PER_S_MAX));
    let ns = table.or(source, "secs", 0, seconds(0.0));
    Phase {
        name: String::new(),
        kind: PhaseKind::Ramp { to, per_s },
        ns,
        warmup_ns: 0,
        streams: Vec::new(),
        rate_factor: 1.0,
        churn: None,
        disconnect: None,
    }
}

fn timed(source: &mut Source<'_>, table: &mut Table<'_>, sort: Sort, around: &Around<'_>) -> Phase {
    let ns = table.need(source, "secs", seconds_ns(1.0), seconds(0.01));
    let streams = publishing(source, table, around.streams);
    let warmup_ns = match sort {
        Sort::Steady if !streams.is_empty() => (ns / 10).min(WARMUP_NS_MAX),
        Sort::Ramp | Sort::Steady | Sort::Storm => 0,
    };
    let warmup_ns = table.or(source, "warmup_s", warmup_ns, seconds(0.0));
    if warmup_ns >= ns {
        let says = "the warm-up is a part of the phase and must leave something to measure";
        source.conflict(&[&table.path("warmup_s"), &table.path("secs")], says);
    }
    let rate_factor = table.or(source, "rate_factor", 1.0, number(0.001..=1000.0));
    let resume = around.protocol == Protocol::Barrage;
    let churn = table.table(source, "churn").map(|mut table| {
        let churn = Churn {
            clients_per_s: table.need(source, "clients_per_s", 1.0, number(0.001..=1e6)),
            away_ns: table.or(source, "away_s", seconds_ns(1.0), seconds(0.0)),
            resume: table.or(source, "resume", resume, flag),
            abrupt_percent: table.or(source, "abrupt_percent", 0.0, percent),
        };
        table.end(source);
        churn
    });
    let disconnect = table.table(source, "disconnect").map(|mut table| {
        let per_s = number(0.0..=CLIENTS_PER_S_MAX);
        let disconnect = Disconnect {
            percent: table.or(source, "percent", 100.0, percent),
            away_ns: table.or(source, "away_s", 0, seconds(0.0)),
            resume: table.or(source, "resume", resume, flag),
            per_s: table.or(source, "clients_per_s", 0.0, per_s),
        };
        table.end(source);
        disconnect
    });
    let kind = if sort == Sort::Storm { PhaseKind::Storm } else { PhaseKind::Steady };
    let name = String::new();
    Phase { name, kind, ns, warmup_ns, streams, rate_factor, churn, disconnect }
}

/// The streams of a phase: those that it names, or else all.
fn publishing(source: &mut Source<'_>, table: &mut Table<'_>, streams: &[Stream]) -> Vec<usize> {
    let path = table.path("streams");
    let Some(value) = table.take("streams") else { return (0..streams.len()).collect() };
    let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
    let Kind::List(items) = &value.kind else {
        source.problem(&path, format!("{} is not a list of streams' names", describe(value)));
        return Vec::new();
    };
    let mut found = Vec::with_capacity(items.len());
    for item in items {
        let name = match &item.kind {
            Kind::Text(name) => name.as_str(),
            _ => "",
        };
        match names.iter().position(|other| *other == name) {
            Some(stream) if found.contains(&stream) => {
                source.problem(&path, format!("{} is there twice", describe(item)));
            }
            Some(stream) => found.push(stream),
            None => source.problem(
                &path,
                match nearest(name, &names) {
                    Some(nearest) => {
                        format!("no stream {}; did you mean `{nearest}`?", describe(item))
                    }
                    None if names.is_empty() => {
                        format!("no stream {}, and no other", describe(item))
                    }
                    None => {
                        let names = names.join("`, `");
                        format!("no stream {}; there are `{names}`", describe(item))
                    }
                },
            ),
        }
    }
    found
}
