//! Inputs that must be refused, and as what.

use barrage_wire::frame::split;
use barrage_wire::fuzz::{Direction, events};
use barrage_wire::ws::{Role, parse_request, write_refusal};
use barrage_wire::{ClientFrame, List, ServerFrame, Text};
use serde_json::{Value, json};

use super::handshakes::role_name;
use super::json::{from_hex, hex};
use super::messages::direction_name;

/// An error's name without what it carries.
fn name(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned()
}

pub fn frames() -> Vec<Value> {
    let hello = ClientFrame::Hello {
        version: 1,
        app: 1,
        device: 5,
        platform: barrage_wire::client::Platform::Web,
        resume: List::new(&[]),
        token: Text("open:1"),
    }
    .to_vec();
    let with = |at: usize, value: &[u8]| {
        let mut bytes = hello.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let header = |length: u32, kind: u8| [&length.to_le_bytes()[..], &[kind, 0, 0, 0]].concat();
    let client = Direction::Client;
    let past_end = |code: u8| [&header(46, 78)[..], &[0, 0, 0, 0, code], &[0; 41]].concat();
    let redirect = [&header(6, 71)[..], &[0, 0, 0, 0, 5, 0]].concat();
    // Of the HELLO: its platform is at 22, the count of cursors at 23, the token at 25.
    vec![
        frame("a body over the limit", client, header(16_513, 4), "FrameTooLong"),
        frame("the longest length", client, vec![255; 4], "FrameTooLong"),
        frame(
            "a body over the upstream limit",
            Direction::Upstream,
            header(65_537, 129),
            "FrameTooLong",
        ),
        frame(
            "a kind of the other direction",
            client,
            ServerFrame::Pong { nonce: 1 }.to_vec(),
            "UnknownKind",
        ),
        frame("kind 0", client, header(0, 0), "UnknownKind"),
        frame("an empty body", client, header(0, 1), "Truncated"),
        frame("half a nonce", client, [header(4, 7), vec![0; 4]].concat(), "Truncated"),
        frame("a token that ends early", client, with(25, &[7, 0]), "Truncated"),
        frame("a byte after the token", client, with(25, &[5, 0]), "Trailing"),
        frame("a byte after the nonce", client, [header(9, 7), vec![0; 9]].concat(), "Trailing"),
        frame("65 cursors", client, with(23, &[65, 0]), "TooMany"),
        frame("a token of 2049 bytes", client, with(25, &[1, 8]), "TooMany"),
        frame("five addresses", Direction::Server, redirect, "TooMany"),
        frame(
            "a payload of 16385 bytes",
            client,
            [header(16_397, 4), vec![0; 16_397]].concat(),
            "TooMany",
        ),
        frame("a token that is not UTF-8", client, with(27, &[0xff]), "NotUtf8"),
        frame("a platform without meaning", client, with(22, &[6]), "BadValue"),
        frame("half a count", client, [header(37, 8), vec![0; 37]].concat(), "Truncated"),
        frame(
            "a payload of the history of 16385 bytes",
            Direction::Server,
            [header(16_447, 77), vec![0; 16_447]].concat(),
            "TooMany",
        ),
        frame("a code without meaning", Direction::Server, past_end(19), "BadValue"),
    ]
}

fn frame(what: &str, direction: Direction, bytes: Vec<u8>, expected: &str) -> Value {
    let mut rest = &bytes[..];
    let error = match split(&mut rest, direction.body_bytes_max()) {
        Ok(frame) => direction.recode(frame.expect("a whole frame")).expect_err(what),
        Err(error) => error,
    };
    assert_eq!(name(&error), expected, "{what}");
    // A long run of one byte would fill the file with nothing.
    let zeros =
        bytes.len().saturating_sub(64).min(bytes.iter().rev().take_while(|&&b| b == 0).count());
    let hex = hex(&bytes[..bytes.len() - zeros]);
    json!({
        "name": what,
        "direction": direction_name(direction),
        "hex": hex,
        "then_zero_bytes": zeros,
        "error": expected,
    })
}

pub fn websocket() -> Vec<Value> {
    let long_ping = format!("89fe0080{}", "00".repeat(132));
    [
        ("a reserved bit", Role::Server, "c28000000000", "ReservedBits"),
        ("an unknown data opcode", Role::Server, "838000000000", "UnknownOpcode"),
        ("an unknown control opcode", Role::Server, "8b8000000000", "UnknownOpcode"),
        ("a client's frame without a mask", Role::Server, "820100", "MaskMissing"),
        ("a server's frame with a mask", Role::Client, "82810000000000", "MaskForbidden"),
        ("a fragmented ping", Role::Server, "098000000000", "ControlFragmented"),
        ("a ping of 128 bytes", Role::Server, &long_ping, "ControlTooLong"),
        ("125 in two bytes", Role::Server, "82fe007d", "LengthNotMinimal"),
        ("65535 in eight bytes", Role::Server, "82ff000000000000ffff", "LengthNotMinimal"),
        ("65537 bytes", Role::Server, "82ff0000000000010001", "MessageTooLong"),
        ("the longest length", Role::Server, "82ffffffffffffffffff", "MessageTooLong"),
        (
            "fragments of 65537 bytes",
            Role::Server,
            "028100000000aa80ff0000000000010000",
            "MessageTooLong",
        ),
        ("a continuation of nothing", Role::Server, "808000000000", "NothingToContinue"),
        ("a message inside another", Role::Server, "028000000000828000000000", "Interleaved"),
        ("half a close code", Role::Server, "88810000000003", "CloseTruncated"),
        ("close code 1005", Role::Server, "88820000000003ed", "CloseCode"),
        ("close code 999", Role::Server, "88820000000003e7", "CloseCode"),
        ("close code 5000", Role::Server, "8882000000001388", "CloseCode"),
        ("a reason that is not UTF-8", Role::Server, "88830000000003e8ff", "CloseNotUtf8"),
        ("a text", Role::Server, "81810000000041", "TextRefused"),
        ("a text that is not UTF-8", Role::Server, "818100000000ff", "TextNotUtf8"),
        (
            "a character over two fragments of a text",
            Role::Server,
            "018100000000c3808100000000a9",
            "TextRefused",
        ),
        (
            "a text that ends inside a character",
            Role::Server,
            "01810000000041808100000000c3",
            "TextNotUtf8",
        ),
        (
            "a text that is wrong in its first fragment",
            Role::Server,
            "018200000000ff41",
            "TextNotUtf8",
        ),
    ]
    .into_iter()
    .map(|(what, reader, hex, expected)| {
        let hex = hex.to_owned();
        let error = events(reader, &from_hex(&hex), |_| usize::MAX).1.expect(what);
        assert_eq!(events(reader, &from_hex(&hex), |_| 1).1, Some(error), "{what}, in pieces");
        assert_eq!(name(&error), expected, "{what}");
        json!({
            "name": what,
            "reader": role_name(reader),
            "hex": hex,
            "error": expected,
            "close_code": error.close_code(),
        })
    })
    .collect()
}

pub fn handshakes() -> Vec<Value> {
    const GOOD: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let change = |from: &str, to: &str| GOOD.replace(from, to);
    let many: String = (0..61).map(|at| format!("X-{at}: 1\r\n")).collect();
    let long = format!("X: {}\r\nHost: a\r\n", "y".repeat(8192));
    [
        ("a raw Barrage frame", "\0\0\0\x08\x07\0\0\0\r\n\r\n".into(), "Malformed", 400),
        ("65 headers", change("Host: a\r\n", &many), "TooManyHeaders", 431),
        ("a head over 8192 bytes", change("Host: a\r\n", &long), "HeadTooLong", 431),
        ("POST", change("GET", "POST"), "Method", 405),
        ("HTTP/1.0", change("HTTP/1.1", "HTTP/1.0"), "HttpVersion", 400),
        ("a page visited", change("Upgrade: websocket\r\n", ""), "Upgrade", 426),
        ("another upgrade", change("websocket\r\n", "h2c\r\n"), "Upgrade", 426),
        ("no connection header", change("Connection: Upgrade\r\n", ""), "Connection", 400),
        ("an old version", change("Version: 13", "Version: 8"), "Version", 426),
        ("no key", change(key, ""), "Key", 400),
        ("two keys", change(key, &key.repeat(2)), "Key", 400),
        ("a short key", change("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), "Key", 400),
        ("a key of 17 bytes", change("b25jZQ==", "b25jZWU="), "Key", 400),
        ("a key that is not base64", change("dGhl", "d*hl"), "Key", 400),
    ]
    .into_iter()
    .map(|(what, request, expected, status)| {
        let error = parse_request(request.as_bytes()).expect_err(what);
        assert_eq!(name(&error), expected, "{what}");
        let mut refusal = Vec::new();
        write_refusal(&error, &mut refusal);
        let refusal = String::from_utf8(refusal).unwrap();
        assert!(refusal.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {refusal}");
        assert!(refusal.contains("\r\nConnection: close\r\n"), "{what}: {refusal}");
        json!({ "name": what, "request": request, "error": expected, "status": status })
    })
    .collect()
}
