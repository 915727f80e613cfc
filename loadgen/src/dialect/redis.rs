//! Redis publish and subscribe in RESP2: lengths in lines, bytes behind them.

use super::nats::{number, shown};
use super::{FRAME_BYTES_MAX, Fault, HEAD_BYTES_STEP, Item, Step, too_long};

const LINE_END: &[u8] = b"\r\n";
/// What every message begins with, up to the length of its channel's name.
const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$";
/// The same of a subscription's confirmation.
const SUBSCRIBED: &[u8] = b"*3\r\n$9\r\nsubscribe\r\n$";
/// Digits of a length, and its line end.
const LENGTH_BYTES_MAX: usize = 16;

/// Appends SUBSCRIBE.
pub(super) fn hello(room: u64, out: &mut Vec<u8>) {
    command(&[b"SUBSCRIBE", channel(room).as_bytes()], out);
}

/// Appends PING.
pub(super) fn connect(out: &mut Vec<u8>) {
    command(&[b"PING"], out);
}

/// Appends PUBLISH.
pub(super) fn publish(room: u64, payload: &[u8], out: &mut Vec<u8>) {
    command(&[b"PUBLISH", channel(room).as_bytes(), payload], out);
}

fn channel(room: u64) -> String {
    format!("room:{room}")
}

fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(LINE_END);
    }
}

/// Takes one message or confirmation off the front of `bytes`.
#[inline]
pub(super) fn next(bytes: &[u8]) -> Result<Step<'_>, Fault> {
    if let Some(rest) = bytes.strip_prefix(MESSAGE) {
        return message(bytes, rest);
    }
    if let Some(rest) = bytes.strip_prefix(SUBSCRIBED) {
        return subscribed(bytes, rest);
    }
    let begun = |whole: &[u8]| whole.starts_with(bytes);
    // An error is told when its line is there.
    let error = bytes.starts_with(b"-") && !bytes.contains(&b'\n');
    if begun(MESSAGE) || begun(SUBSCRIBED) || error && bytes.len() < FRAME_BYTES_MAX {
        return Ok(Step::Short(bytes.len() + HEAD_BYTES_STEP));
    }
    Err(refusal(bytes))
}

/// `rest` begins with the length of the channel's name.
#[inline]
fn message<'a>(bytes: &'a [u8], rest: &'a [u8]) -> Result<Step<'a>, Fault> {
    let Some(rest) = behind_text(rest)? else {
        return Ok(Step::Short(bytes.len() + HEAD_BYTES_STEP));
    };
    let Some((&sort, rest)) = rest.split_first() else {
        return Ok(Step::Short(bytes.len() + HEAD_BYTES_STEP));
    };
    if sort != b'$' {
        return Err(format!("the server sends a message without a payload: {}", shown(bytes)));
    }
    let Some((size, after)) = length(rest)? else {
        return Ok(Step::Short(bytes.len() + LENGTH_BYTES_MAX));
    };
    let whole = bytes.len() - after.len() + size + LINE_END.len();
    let Some(body) = after.get(..size + LINE_END.len()) else { return Ok(Step::Short(whole)) };
    match body.split_at(size) {
        (payload, LINE_END) => Ok(Step::Whole(whole, Item::Message(payload))),
        _ => Err(format!("the server sends a message that is longer than its {size} bytes")),
    }
}

/// `rest` begins with the length of the channel's name; the count of subscriptions follows it.
fn subscribed<'a>(bytes: &'a [u8], rest: &'a [u8]) -> Result<Step<'a>, Fault> {
    let short = Ok(Step::Short(bytes.len() + HEAD_BYTES_STEP));
    let Some(rest) = behind_text(rest)? else { return short };
    let Some(rest) = rest.strip_prefix(b":") else {
        return if rest.is_empty() { short } else { Err(refusal(bytes)) };
    };
    let Some((_, after)) = length(rest)? else { return short };
    Ok(Step::Whole(bytes.len() - after.len(), Item::Ready))
}

/// What follows a text behind its length; nothing while it is not all there.
#[inline]
fn behind_text(bytes: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let Some((size, after)) = length(bytes)? else { return Ok(None) };
    match after.get(size..).and_then(|rest| rest.split_first_chunk()) {
        None => Ok(None),
        Some((b"\r\n", rest)) => Ok(Some(rest)),
        Some(_) => Err(format!("the server sends a name that is longer than its {size} bytes")),
    }
}

/// A number in a line, and what follows; nothing while it is not all there.
#[inline]
fn length(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Fault> {
    let line = &bytes[..bytes.len().min(LENGTH_BYTES_MAX)];
    let Some(end) = line.iter().position(|&byte| byte == b'\n') else {
        return match line.len() < LENGTH_BYTES_MAX {
            true => Ok(None),
            false => Err(format!("the server sends a length without an end: {}", shown(line))),
        };
    };
    match number(line[..end].trim_ascii_end()) {
        Some(size) if size <= FRAME_BYTES_MAX => Ok(Some((size, &bytes[end + 1..]))),
        Some(size) => Err(too_long("a text", size)),
        None => Err(format!("the server sends a length that is none: {}", shown(&line[..end]))),
    }
}

/// What the server says instead of what it should.
fn refusal(bytes: &[u8]) -> Fault {
    let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
    match line.strip_prefix(b"-") {
        Some(error) => format!("the server says {}", shown(error)),
        None => format!("the server does not speak RESP2: {}", shown(line)),
    }
}

/// What an answer to a command says.
pub(super) enum Reply<'a> {
    /// It was done.
    Done,
    /// It was not.
    Refused(&'a [u8]),
}

/// Takes one answer to PING or PUBLISH off the front of `bytes`; nothing while it is not all there.
pub(super) fn reply(bytes: &[u8]) -> Result<Option<(usize, Reply<'_>)>, Fault> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return match bytes.len() > FRAME_BYTES_MAX {
            true => Err(too_long("a line", bytes.len())),
            false => Ok(None),
        };
    };
    let line = bytes[..end].trim_ascii_end();
    let reply = match line.split_first() {
        Some((b':' | b'+', _)) => Reply::Done,
        Some((b'-', error)) => Reply::Refused(error),
        _ => return Err(refusal(line)),
    };
    Ok(Some((end + 1, reply)))
}
