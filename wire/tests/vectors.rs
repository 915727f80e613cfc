//! The golden vectors: `vectors/v1.json` is what every SDK is tested with, byte for byte.
//!
//! `BLESS=1 cargo test -p barrage-wire --test vectors` writes the file anew. When a line that was
//! there before changes, so does the protocol, and that takes a new version.
#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod vectors {
    pub mod handshakes;
    pub mod json;
    pub mod messages;
    pub mod refused;
}

use std::path::Path;

use barrage_wire::fuzz::Direction;
use barrage_wire::limits;
use barrage_wire::server::{COMBO_FINAL, DIRECT_ACK, DIRECT_REPEAT};
use barrage_wire::server::{PAST_COMBO, PAST_MESSAGE, PAST_STATE};
use barrage_wire::upstream::{SECONDS_FOREVER, events};
use serde_json::Value;
use vectors::json::document;
use vectors::{handshakes, messages, refused};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/v1.json");

#[test]
fn the_file_holds_what_the_code_does() {
    let built = document(&[
        ("codes", messages::codes()),
        ("messages", messages::all()),
        ("handshakes", handshakes::good()),
        ("websocket", handshakes::frames()),
        ("bad_frames", refused::frames()),
        ("bad_websocket", refused::websocket()),
        ("bad_handshakes", refused::handshakes()),
    ]);
    serde_json::from_str::<Value>(&built).expect("we write JSON");
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(Path::new(PATH).parent().unwrap()).unwrap();
        std::fs::write(PATH, &built).unwrap();
    }
    let stored = std::fs::read_to_string(PATH).unwrap();
    for (at, (stored, built)) in stored.lines().zip(built.lines()).enumerate() {
        assert_eq!(stored, built, "line {} of {PATH}", at + 1);
    }
    assert_eq!(stored.len(), built.len(), "the file and the code differ at the end");
}

#[test]
fn every_message_has_a_vector() {
    let vectors = messages::all();
    for direction in Direction::ALL {
        let name = messages::direction_name(direction);
        for (kind, message) in direction.kinds() {
            let has = vectors.iter().any(|vector| {
                vector["direction"] == name
                    && vector["kind"] == *kind
                    && vector["message"] == *message
            });
            assert!(has, "no vector for {direction:?} {message}: add one to messages.rs");
        }
    }
}

#[test]
fn protocol_md_has_every_message_with_its_fields_in_order() {
    let text = include_str!("../PROTOCOL.md");
    for vector in messages::all() {
        let (kind, name) = (&vector["kind"], vector["message"].as_str().unwrap());
        let heading = format!("\n### {kind} {name}\n");
        let (_, section) = text.split_once(&heading).expect(&heading);
        let section = section.split("\n#").next().unwrap();
        let rows: Vec<&str> =
            section.lines().filter(|line| line.starts_with("| `")).map(first_two_cells).collect();
        let fields = vector["fields"].as_array().unwrap().iter();
        let fields: Vec<String> = fields
            .map(|field| format!("| {} | {} ", code(&field["name"]), code(&field["type"])))
            .collect();
        assert_eq!(rows, fields, "{kind} {name}");
    }
}

#[test]
fn protocol_md_has_every_code() {
    let text = include_str!("../PROTOCOL.md");
    for table in messages::codes() {
        let heading = format!("\n**{}** (", table["enum"].as_str().unwrap());
        let (_, section) = text.split_once(&heading).expect(&heading);
        let section = section.split("\n**").next().unwrap();
        for value in table["values"].as_array().unwrap() {
            let (name, number) = (code(&value[0]), &value[1]);
            let found = section.contains(&format!("{number} {name}"))
                || section.contains(&format!("\n| {number} | {name} |"));
            assert!(found, "{heading} {name} = {number}");
        }
    }
}

#[test]
fn protocol_md_has_every_limit() {
    let text = include_str!("../PROTOCOL.md");
    macro_rules! check {
        ($($limit:ident)*) => {$({
            let row = format!("| `{}` | {} |", stringify!($limit), limits::$limit);
            assert!(text.contains(&row), "{row}");
        })*};
    }
    check!(PAYLOAD_BYTES_MAX CLIENT_BODY_BYTES_MAX SERVER_BODY_BYTES_MAX UPSTREAM_BODY_BYTES_MAX);
    check!(MULTICAST_USERS_MAX TOKEN_BYTES_MAX TEXT_BYTES_MAX RESUME_CURSORS_MAX);
    check!(REDIRECT_ADDRESSES_MAX SUBSCRIBE_CHANNELS_MAX REPLIES_MAX HISTORY_PAGE_MAX);
    check!(WS_HANDSHAKE_BYTES_MAX WS_HANDSHAKE_HEADERS_MAX);
    check!(WS_CONTROL_BYTES_MAX WS_MESSAGE_BYTES_MAX);
}

#[test]
fn protocol_md_has_every_bit_and_special_number() {
    let text = include_str!("../PROTOCOL.md");
    let bit = u8::trailing_zeros;
    let (ack, repeat) = (bit(DIRECT_ACK), bit(DIRECT_REPEAT));
    let rows = [
        format!("| `flags` | `u8` | bit {}: final, ", bit(COMBO_FINAL)),
        format!(
            "| `flags` | `u8` | bit {ack}: the client must `Ack` it; bit {repeat}: it was sent"
        ),
        format!("{PAST_MESSAGE} `Message`, {PAST_COMBO} `Combo`, {PAST_STATE} `State` |"),
        format!("0: lifts it; {SECONDS_FOREVER}: for ever |"),
        format!(
            "| bits: {} connect, {} disconnect, {} join, {} leave, {} flagged |",
            events::CONNECT,
            events::DISCONNECT,
            events::JOIN,
            events::LEAVE,
            events::FLAGGED,
        ),
    ];
    for row in rows {
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
fn the_bytes_of_the_worked_example_are_vectors() {
    let text = include_str!("../PROTOCOL.md");
    let (_, example) = text.split_once("\n## A worked example").expect("the example");
    let (example, _) = example.split_once("Over WebSocket").expect("its end");
    let vectors = messages::all();
    let blocks: Vec<&str> = example.split("```").skip(1).step_by(2).collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        // The bytes stand in front of the first double space of a line.
        let bytes = block.lines().map(|line| line.trim().split("  ").next().unwrap());
        let hex = bytes.collect::<String>().replace(' ', "");
        assert!(vectors.iter().any(|vector| vector["hex"] == hex), "{block}");
    }
}

fn first_two_cells(row: &str) -> &str {
    let end = row.match_indices('|').nth(2).expect("three cells").0;
    &row[..end]
}

fn code(text: &Value) -> String {
    format!("`{}`", text.as_str().unwrap())
}
