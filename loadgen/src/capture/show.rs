//! What is in a capture, for people and for machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use anyhow::Result;
use barrage_wire::{FRAME_HEADER_BYTES, GatewayFrame, RawFrame, ServerFrame, UpstreamFrame};
use serde_json::{Value, json};

use crate::capture::file::{Direction, Reader, Record, Source};
use crate::capture::scan::Scan;
use crate::clock::SECOND_NS;
use crate::exit::{Ended, Exit};
use crate::report::grouped;

/// Rooms that are named in a summary: those with the most publishes.
const ROOMS_SHOWN: usize = 10;

/// Shows a file. What is sound is shown even when something behind it is not.
pub fn run(file: &Path, records: bool, as_json: bool) -> Result<Ended> {
    let mut reader = Reader::open(file)?;
    let mut scan = Scan::default();
    let mut out = BufWriter::new(std::io::stdout().lock());
    let damage = loop {
        match reader.read() {
            Ok(Some(record)) => {
                scan.record(&record);
                let line = records.then(|| line(&record, scan.source));
                match line.map_or(Ok(()), |line| writeln!(out, "{line}")) {
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(left()),
                    result => result?,
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(format!("{error:#}")),
        }
    };
    match out.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(left()),
        result => result?,
    }
    let exit = if damage.is_some() { Exit::Usage } else { Exit::Pass };
    let text = match (records, as_json) {
        (true, _) => String::new(),
        (false, true) => summary_json(&scan, &reader, damage.as_deref()).to_string() + "\n",
        (false, false) => summary(file, &scan, &reader, damage.as_deref()),
    };
    if let Some(damage) = damage.filter(|_| records) {
        eprintln!("capture: {damage}");
    }
    Ok(Ended { text, exit })
}

/// Whoever read the records has seen enough.
fn left() -> Ended {
    Ended { text: String::new(), exit: Exit::Pass }
}

/// One record.
fn line(record: &Record, source: Option<Source>) -> Value {
    let at = record.at_ns();
    match record {
        Record::Start { source, unix_ms, target } => {
            json!({"at_ns": at, "record": "start", "source": name(*source), "unix_ms": unix_ms,
                   "target": target})
        }
        Record::Opened { connection, .. } => {
            json!({"at_ns": at, "record": "opened", "connection": connection})
        }
        Record::Closed { connection, .. } => {
            json!({"at_ns": at, "record": "closed", "connection": connection})
        }
        Record::Unframed { connection, direction, .. } => {
            json!({"at_ns": at, "record": "unframed", "connection": connection,
                   "direction": way(*direction)})
        }
        Record::Missed { records, .. } => {
            json!({"at_ns": at, "record": "missed", "records": records})
        }
        Record::End { .. } => json!({"at_ns": at, "record": "end"}),
        Record::Frame { connection, direction, bytes, .. } => {
            let (frame, fields) = frame(source, *direction, bytes);
            json!({"at_ns": at, "record": "frame", "connection": connection,
                   "direction": way(*direction), "bytes": bytes.len(), "frame": frame,
                   "fields": fields})
        }
    }
}

/// A frame's name and its fields, in the words of the protocol.
fn frame(source: Option<Source>, direction: Direction, bytes: &[u8]) -> (String, String) {
    let Some((header, body)) = bytes.split_at_checked(FRAME_HEADER_BYTES) else {
        return ("?".to_owned(), format!("{bytes:?}"));
    };
    let raw = RawFrame { kind: header[4], body };
    let told = match (source, direction) {
        (Some(Source::Upstream), Direction::Up) => {
            UpstreamFrame::decode(raw).map(|frame| (frame.name(), format!("{frame:?}")))
        }
        (Some(Source::Upstream), Direction::Down) => {
            GatewayFrame::decode(raw).map(|frame| (frame.name(), format!("{frame:?}")))
        }
        (Some(Source::Client) | None, Direction::Up | Direction::Down) => {
            ServerFrame::decode(raw).map(|frame| (frame.name(), format!("{frame:?}")))
        }
    };
    match told {
        Ok((name, fields)) => (name.to_owned(), fields),
        Err(error) => (format!("kind {}", raw.kind), error.to_string()),
    }
}

fn name(source: Source) -> &'static str {
    match source {
        Source::Upstream => "upstream",
        Source::Client => "client",
    }
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

fn summary_json(scan: &Scan, reader: &Reader<File>, damage: Option<&str>) -> Value {
    let frames: BTreeMap<String, Value> = scan
        .frames
        .iter()
        .map(|((up, name), frames)| {
            let way = if *up { "up" } else { "down" };
            (format!("{way}.{name}"), json!({"count": frames.count, "bytes": frames.bytes}))
        })
        .collect();
    json!({
        "command": "capture", "source": scan.source.map(name), "target": scan.target,
        "unix_ms": scan.unix_ms, "secs": scan.last_ns as f64 / SECOND_NS as f64,
        "records": scan.records, "connections": scan.connections, "frames": frames,
        "publishes": scan.publishes, "categories": scan.categories, "rooms": scan.rooms.len(),
        "answers": scan.answers, "unanswered_by_wish": scan.silent, "unknown": scan.unknown,
        "unframed": scan.unframed, "missed": scan.missed, "ended": scan.ended,
        "torn_bytes": reader.torn_bytes, "damage": damage,
    })
}

fn summary(file: &Path, scan: &Scan, reader: &Reader<File>, damage: Option<&str>) -> String {
    let mut text = String::new();
    let mut put = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<18}{value}");
    };
    let number = |count: u64| grouped(count as f64);
    put("capture", file.display().to_string());
    put("source", format!("{} of {}", scan.source.map_or("?", name), scan.target));
    put("begun", format!("{} (Unix time)", scan.unix_ms / 1000));
    put("seconds", format!("{:.3}", scan.last_ns as f64 / SECOND_NS as f64));
    put("connections", number(scan.connections));
    for ((up, name), frames) in &scan.frames {
        let way = if *up { "up" } else { "down" };
        let frames = format!("{} × {name}, {} B", number(frames.count), number(frames.bytes));
        put(way, frames);
    }
    put("publishes", number(scan.publishes));
    for (category, count) in &scan.categories {
        put("", format!("{} in category {category}", number(*count)));
    }
    for (code, count) in &scan.answers {
        put("answered", format!("{} × {code}", number(*count)));
    }
    let mut rooms: Vec<(u64, u64)> = scan.rooms.iter().map(|(room, n)| (*n, *room)).collect();
    rooms.sort_unstable_by(|a, b| b.cmp(a));
    put("rooms", number(rooms.len() as u64));
    for (count, room) in rooms.into_iter().take(ROOMS_SHOWN) {
        put("", format!("{} to room {room}", number(count)));
    }
    let trouble = [("unknown frames", scan.unknown), ("unframed", scan.unframed)];
    for (name, count) in trouble.into_iter().filter(|(_, count)| *count > 0) {
        put(name, number(count));
    }
    if scan.missed > 0 {
        put("missed", format!("{} records: the disk was too slow", number(scan.missed)));
    }
    match (damage, scan.ended) {
        (Some(damage), _) => put("damaged", damage.to_owned()),
        (None, true) => put("ended", "in order".to_owned()),
        (None, false) => {
            let torn = reader.torn_bytes;
            put("ended", format!("cut off, with {torn} bytes of a record that is not whole"));
        }
    }
    text
}
