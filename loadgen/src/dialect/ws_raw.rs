//! WebSocket messages without a protocol of their own, text or binary.

use barrage_wire::limits::WS_CONTROL_BYTES_MAX;
use barrage_wire::ws::parse_response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::nats::shown;
use super::{FRAME_BYTES_MAX, Fault, HEAD_BYTES_STEP, Item, Step};

/// What the server's answer has to fit to. It need not differ: nothing here is cached.
const KEY: [u8; 16] = *b"barrage-loadgen!";

/// The first byte of a frame that is a whole message.
const TEXT_WHOLE: u8 = 0x81;
const BINARY_WHOLE: u8 = 0x82;
/// The first byte: this is the last frame of its message.
const LAST_BIT: u8 = 0x80;
/// The first byte: bits that only extensions may set.
const RESERVED_BITS: u8 = 0x70;
/// The first byte: what the frame is.
const OPCODE: u8 = 0x0f;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The second byte: a mask follows, which only clients use.
const MASKED_BIT: u8 = 0x80;
const LENGTH_IN_2: u8 = 126;
const LENGTH_IN_8: u8 = 127;

/// Appends the request of the handshake.
pub(super) fn hello(host: &str, path: &str, out: &mut Vec<u8>) {
    let key = STANDARD.encode(KEY);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    out.extend_from_slice(request.as_bytes());
}

/// Takes the answer to the handshake, or else one frame, off the front of `bytes`.
#[inline]
pub(super) fn next(ready: bool, bytes: &[u8]) -> Result<Step<'_>, Fault> {
    if !ready {
        return handshake(bytes);
    }
    let Some((head, length)) = head(bytes)? else {
        return Ok(Step::Short(bytes.len() + 1));
    };
    let whole = head + length;
    let Some(payload) = bytes.get(head..whole) else { return Ok(Step::Short(whole)) };
    let item = match bytes[0] {
        TEXT_WHOLE | BINARY_WHOLE => Item::Message(payload),
        first => other(first, payload)?,
    };
    Ok(Step::Whole(whole, item))
}

#[cold]
fn handshake(bytes: &[u8]) -> Result<Step<'_>, Fault> {
    match parse_response(bytes, KEY) {
        Ok(Some(length)) => Ok(Step::Whole(length, Item::Ready)),
        Ok(None) => Ok(Step::Short(bytes.len() + HEAD_BYTES_STEP)),
        Err(error) => Err(format!("the server refuses the WebSocket: {error}")),
    }
}

/// The lengths of a frame's head and payload, once they are known.
#[inline]
fn head(bytes: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let [_, second, extended @ ..] = bytes else { return Ok(None) };
    if second & MASKED_BIT != 0 {
        return Err("the server masks a WebSocket frame".to_owned());
    }
    let (head, length) = match *second {
        LENGTH_IN_2 => match extended.first_chunk() {
            Some(length) => (4, u16::from_be_bytes(*length).into()),
            None => return Ok(None),
        },
        LENGTH_IN_8 => match extended.first_chunk() {
            Some(length) => (10, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        length => (2, length.into()),
    };
    match usize::try_from(length) {
        Ok(length) if length <= FRAME_BYTES_MAX => Ok(Some((head, length))),
        _ => Err(format!("the server sends a WebSocket frame of {length} bytes")),
    }
}

#[cold]
fn other(first: u8, payload: &[u8]) -> Result<Item<'_>, Fault> {
    let last = first & LAST_BIT != 0;
    let short = last && payload.len() <= WS_CONTROL_BYTES_MAX;
    match first & OPCODE {
        _ if first & RESERVED_BITS != 0 => {
            Err("the server uses a WebSocket extension that nobody asked for".to_owned())
        }
        TEXT | BINARY | CONTINUATION => Ok(Item::Fragment(payload, last)),
        PING if short => Ok(Item::WsPing(payload)),
        PONG if short => Ok(Item::Nothing),
        CLOSE if short => Err(closed(payload)),
        opcode => Err(format!("the server sends a WebSocket frame of type {opcode}")),
    }
}

fn closed(payload: &[u8]) -> Fault {
    let (code, why) = match payload.split_first_chunk() {
        Some((code, why)) => (u16::from_be_bytes(*code).to_string(), why),
        None => ("no code".to_owned(), payload),
    };
    format!("the server closes the WebSocket: {code} {}", shown(why))
}
