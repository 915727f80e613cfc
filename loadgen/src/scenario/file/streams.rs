//! The `[streams.NAME]` tables.

use barrage_wire::limits::PAYLOAD_BYTES_MAX;

use super::source::{Source, Table};
use super::value::{Kind, Value};
use super::values::{check_name, describe, list, number, one_of, seconds, whole};
use crate::cli::CATEGORY_STREAM;
use crate::scenario::{Ack, Arrival, Rate, Stream, StreamKind, To};
use crate::stamp::STAMP_BYTES;

/// What a stream may name in a second.
const RATE_MAX: f64 = 1e8;
/// The slowest that makes sense: one in 10,000 seconds.
const RATE_MIN: f64 = 1e-4;
/// Messages on their way at any time.
const WINDOW_MAX: i64 = 1_000_000;
const STREAMS_MAX: usize = 64;
const CATEGORIES_MAX: usize = 64;
/// The built-in policy's category of combos, and that of values of which the latest counts.
const CATEGORY_GIFT: u16 = 3;
const CATEGORY_STATE: u16 = 6;

#[derive(Clone, Copy)]
enum Sort {
    Messages,
    Gifts,
    States,
}

const SORTS: [(&str, Sort); 3] =
    [("messages", Sort::Messages), ("gifts", Sort::Gifts), ("states", Sort::States)];

pub(super) fn read(source: &mut Source<'_>, root: &mut Table<'_>) -> Vec<Stream> {
    let Some(value) = root.take("streams") else { return Vec::new() };
    let Kind::Table(fields) = &value.kind else {
        source.problem("streams", "give each stream a table and a name: [streams.chat]");
        return Vec::new();
    };
    if fields.len() > STREAMS_MAX {
        source.problem("streams", format!("{} are too many: at most {STREAMS_MAX}", fields.len()));
    }
    fields.iter().filter_map(|(name, value)| stream(source, name, value)).collect()
}

fn stream(source: &mut Source<'_>, name: &str, value: &Value) -> Option<Stream> {
    let path = format!("streams.{name}");
    if let Err(says) = check_name(name) {
        source.problem(&path, says);
    }
    let Kind::Table(_) = value.kind else {
        source.problem(&path, format!("{} is not a table", describe(value)));
        return None;
    };
    let mut table = Table::new(path, value);
    let sort = table.or(source, "kind", Sort::Messages, one_of("a kind", &SORTS));
    let (kind, category) = match sort {
        Sort::Messages => (messages(source, &mut table), CATEGORY_STREAM),
        Sort::Gifts => (gifts(source, &mut table), CATEGORY_GIFT),
        Sort::States => (states(source, &mut table), CATEGORY_STATE),
    };
    let categories = categories(source, &mut table, category);
    let size = table.or(source, "size", (128, 128), size);
    let acks = [("accepted", Ack::Accepted), ("stored", Ack::Stored)];
    let ack = table.or(source, "ack", Ack::Accepted, one_of("an answer", &acks));
    if !matches!(sort, Sort::Messages) {
        if categories.len() > 1 {
            source.problem(&table.path("categories"), "only messages are mixed; give `category`");
        }
        if ack == Ack::Stored {
            let says = "what is merged is not stored one by one; leave this out";
            source.problem(&table.path("ack"), says);
        }
    }
    table.end(source);
    Some(Stream { name: name.to_owned(), kind, categories, size, ack })
}

fn messages(source: &mut Source<'_>, table: &mut Table<'_>) -> StreamKind {
    let per_s = number(RATE_MIN..=RATE_MAX);
    let given = ["messages_per_s", "deliveries_per_s", "window"].map(|field| table.has(field));
    let messages = table.read(source, "messages_per_s", &per_s);
    let deliveries = table.read(source, "deliveries_per_s", &per_s);
    let window = table.read(source, "window", whole(1..=WINDOW_MAX));
    if given.into_iter().filter(|given| *given).count() != 1 {
        let says = "give exactly one of messages_per_s, deliveries_per_s and window";
        source.problem(&table.path("messages_per_s"), says);
    }
    let rate = messages
        .map(Rate::Messages)
        .or(deliveries.map(Rate::Deliveries))
        .or(window.map(Rate::Window))
        .unwrap_or(Rate::Messages(1.0));
    let arrivals = [("fixed", Arrival::Fixed), ("poisson", Arrival::Poisson)];
    let arrival = table.or(source, "arrival", Arrival::Fixed, one_of("an arrival", &arrivals));
    if table.has("arrival") && given[2] {
        source.problem(&table.path("arrival"), "a window has no times; leave this out");
    }
    let targets = [("even", To::Even), ("members", To::Members), ("hot", To::Hot)];
    let to = table.or(source, "to", To::Even, one_of("a way to choose rooms", &targets));
    StreamKind::Messages { rate, arrival, to }
}

fn gifts(source: &mut Source<'_>, table: &mut Table<'_>) -> StreamKind {
    StreamKind::Gifts {
        givers_per_room: table.need(source, "givers_per_room", 1, whole(1..=4_000_000)),
        taps_per_s: table.or(source, "taps_per_s", 6.0, number(0.01..=10_000.0)),
        burst_ns: table.or(source, "burst_s", seconds_of(4.0), seconds(0.01)),
        pause_ns: table.or(source, "pause_s", seconds_of(2.0), seconds(0.0)),
        gifts: table.or(source, "gifts", 20, whole(1..=1_000_000)),
    }
}

fn states(source: &mut Source<'_>, table: &mut Table<'_>) -> StreamKind {
    StreamKind::States {
        per_s: table.or(source, "updates_per_s", 5.0, number(RATE_MIN..=10_000.0)),
        keys: table.or(source, "keys", 1, whole(1..=10_000)),
    }
}

fn categories(source: &mut Source<'_>, table: &mut Table<'_>, default: u16) -> Vec<(u16, f64)> {
    let id = whole::<u16>(0..=i64::from(u8::MAX));
    if table.has("category") && table.has("categories") {
        let says = "give `category` or `categories`, not both";
        source.problem(&table.path("categories"), says);
    }
    let one = table.or(source, "category", default, &id);
    let path = table.path("categories");
    let Some(value) = table.take("categories") else { return vec![(one, 1.0)] };
    let items = match &value.kind {
        Kind::List(items) if (1..=CATEGORIES_MAX).contains(&items.len()) => items,
        _ => {
            let says = format!("give a list of 1 to {CATEGORIES_MAX}: [{{ id = 4, weight = 3 }}]");
            source.problem(&path, says);
            return vec![(one, 1.0)];
        }
    };
    let categories = (1..).zip(items).map(|(nth, item): (usize, _)| {
        let mut table = Table::new(format!("{path}.{nth}"), item);
        let id = table.need(source, "id", default, &id);
        let weight = table.or(source, "weight", 1.0, number(1e-6..=1e6));
        table.end(source);
        (id, weight)
    });
    categories.collect()
}

/// One size, or from and to.
fn size(value: &Value) -> Result<(usize, usize), String> {
    let one = whole::<usize>(STAMP_BYTES as i64..=PAYLOAD_BYTES_MAX as i64);
    match &value.kind {
        Kind::List(_) => match list(one)(value)?[..] {
            [from, to] if from <= to => Ok((from, to)),
            _ => Err("give one size, or two that rise: [64, 256]".to_owned()),
        },
        _ => one(value).map(|size| (size, size)),
    }
}

fn seconds_of(seconds: f64) -> u64 {
    crate::clock::seconds_ns(seconds)
}
