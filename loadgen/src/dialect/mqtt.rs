//! MQTT 3.1.1, QoS 0.

use std::time::Duration;

use super::{FRAME_BYTES_MAX, Fault, Item, KeepAlive, Step, too_long};

/// The seconds of silence after which a server gives a subscriber up, but for half as much again.
const KEEP_ALIVE_S: u16 = 120;
/// What a subscriber says before that.
pub(super) const KEEP_ALIVE: KeepAlive =
    KeepAlive { bytes: &[PINGREQ << 4, 0], every: Duration::from_secs(KEEP_ALIVE_S as u64 / 2) };
/// Nothing is to be said at all.
pub(super) const NO_KEEP_ALIVE: u16 = 0;

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;
/// The flags of a SUBSCRIBE, fixed by the standard.
const SUBSCRIBE_FLAGS: u8 = 2;
/// The flags of a PUBLISH that tell its QoS.
const QOS: u8 = 0b0110;
const CLEAN_SESSION: u8 = 2;
const PROTOCOL_LEVEL: u8 = 4;
const SUBSCRIPTION_REFUSED: u8 = 0x80;
/// Bytes that a packet's length may take, seven bits in each.
const LENGTH_BYTES_MAX: usize = 4;

/// Appends CONNECT and, without waiting for the answer, as the standard allows, SUBSCRIBE.
pub(super) fn hello(client: &str, room: u64, out: &mut Vec<u8>) {
    connect(client, KEEP_ALIVE_S, out);
    let mut body = vec![0, 1];
    put_text(&topic(room), &mut body);
    body.push(0);
    put_packet(SUBSCRIBE << 4 | SUBSCRIBE_FLAGS, &[&body], out);
}

/// Appends CONNECT.
pub(super) fn connect(client: &str, keep_alive_s: u16, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    put_text("MQTT", &mut body);
    body.extend([PROTOCOL_LEVEL, CLEAN_SESSION]);
    body.extend(keep_alive_s.to_be_bytes());
    put_text(client, &mut body);
    put_packet(CONNECT << 4, &[&body], out);
}

/// Appends PUBLISH with QoS 0.
pub(super) fn publish(room: u64, payload: &[u8], out: &mut Vec<u8>) {
    let mut head = Vec::with_capacity(32);
    put_text(&topic(room), &mut head);
    put_packet(PUBLISH << 4, &[&head, payload], out);
}

fn topic(room: u64) -> String {
    format!("room/{room}")
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).expect("names are of our own making, and short");
    out.extend(length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_packet(first: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    out.push(first);
    let mut left: usize = parts.iter().map(|part| part.len()).sum();
    loop {
        let more = if left > 0x7f { 0x80 } else { 0 };
        out.push((left & 0x7f) as u8 | more);
        left >>= 7;
        if left == 0 {
            break;
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Takes one packet off the front of `bytes`.
#[inline]
pub(super) fn next(bytes: &[u8]) -> Result<Step<'_>, Fault> {
    let Some((head, length)) = head(bytes)? else {
        return Ok(Step::Short(bytes.len() + 1));
    };
    let whole = head + length;
    let Some(body) = bytes.get(head..whole) else { return Ok(Step::Short(whole)) };
    let first = bytes[0];
    let item = match first >> 4 {
        PUBLISH => message(first, body)?,
        CONNACK => connected(body)?,
        SUBACK => subscribed(body)?,
        PINGRESP => Item::Nothing,
        kind => return Err(format!("the server sends an MQTT packet of type {kind}")),
    };
    Ok(Step::Whole(whole, item))
}

/// The lengths of a packet's head and body, once they are known.
#[inline]
fn head(bytes: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let mut length = 0;
    for at in 0..LENGTH_BYTES_MAX {
        let Some(&byte) = bytes.get(1 + at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return match length > FRAME_BYTES_MAX {
                true => Err(too_long("an MQTT packet", length)),
                false => Ok(Some((2 + at, length))),
            };
        }
    }
    Err("the server sends an MQTT packet whose length has more than four bytes".to_owned())
}

#[inline]
fn message(first: u8, body: &[u8]) -> Result<Item<'_>, Fault> {
    if first & QOS != 0 {
        return Err("the server sends a message with a QoS that nobody asked for".to_owned());
    }
    let payload = body.split_first_chunk().and_then(|(length, rest)| {
        let topic = usize::from(u16::from_be_bytes(*length));
        rest.get(topic..)
    });
    payload.map(Item::Message).ok_or_else(|| "the server sends half an MQTT message".to_owned())
}

fn connected(body: &[u8]) -> Result<Item<'_>, Fault> {
    let why = match body {
        [_, 0] => return Ok(Item::Connected),
        [_, 1] => "it does not speak MQTT 3.1.1",
        [_, 2] => "it does not like the client's name",
        [_, 3] => "it is not available",
        [_, 4] => "it wants another user name or password",
        [_, 5] => "nobody may connect without being known; with mosquitto: allow_anonymous true",
        _ => "its answer makes no sense",
    };
    Err(format!("the server refuses the connection: {why}"))
}

fn subscribed(body: &[u8]) -> Result<Item<'_>, Fault> {
    match body {
        [_, _, SUBSCRIPTION_REFUSED] => Err("the server refuses the subscription".to_owned()),
        [_, _, 0..=2] => Ok(Item::Ready),
        _ => Err("the server's answer to the subscription makes no sense".to_owned()),
    }
}
