//! The protocol of NATS clients: lines, and payloads behind some of them.

use super::{FRAME_BYTES_MAX, Fault, HEAD_BYTES_STEP, Item, Step, too_long};

/// Errors come as messages of their own, and nothing is answered that went well.
const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\
    \"name\":\"barrage-loadgen\",\"lang\":\"rust\",\"version\":\"1\",\"protocol\":0}\r\n";
const PING: &[u8] = b"PING\r\n";
const PONG: &[u8] = b"PONG\r\n";
const LINE_END: &[u8] = b"\r\n";

/// Appends CONNECT, SUB and a PING; its PONG says that all was taken.
pub(super) fn hello(room: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(CONNECT);
    out.extend_from_slice(format!("SUB room.{room} 1\r\n").as_bytes());
    out.extend_from_slice(PING);
}

/// Appends CONNECT and a PING.
pub(super) fn connect(out: &mut Vec<u8>) {
    out.extend_from_slice(CONNECT);
    out.extend_from_slice(PING);
}

/// Appends PUB.
pub(super) fn publish(room: u64, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("PUB room.{room} {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(LINE_END);
}

/// Takes one line, with its payload, off the front of `bytes`.
#[inline]
pub(super) fn next(bytes: &[u8]) -> Result<Step<'_>, Fault> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return match bytes.len() > FRAME_BYTES_MAX {
            true => Err(too_long("a line", bytes.len())),
            false => Ok(Step::Short(bytes.len() + HEAD_BYTES_STEP)),
        };
    };
    let (line, head) = (bytes[..end].trim_ascii_end(), end + 1);
    match line.strip_prefix(b"MSG ") {
        Some(line) => message(bytes, head, line),
        None => Ok(Step::Whole(head, other(line)?)),
    }
}

/// `MSG SUBJECT SID [REPLY-TO] SIZE`; the payload and a line end follow the head.
#[inline]
fn message<'a>(bytes: &'a [u8], head: usize, line: &[u8]) -> Result<Step<'a>, Fault> {
    let size = line.rsplit(|&byte| byte == b' ').next().and_then(number);
    let Some(size) = size else {
        return Err(format!("the server sends a message without a size: {}", shown(line)));
    };
    if size > FRAME_BYTES_MAX {
        return Err(too_long("a message", size));
    }
    let whole = head + size + LINE_END.len();
    let Some(body) = bytes.get(head..whole) else { return Ok(Step::Short(whole)) };
    match body.split_at(size) {
        (payload, LINE_END) => Ok(Step::Whole(whole, Item::Message(payload))),
        _ => Err(format!("the server sends a message that is longer than its {size} bytes")),
    }
}

fn other(line: &[u8]) -> Result<Item<'static>, Fault> {
    let word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    match word {
        b"INFO" | b"+OK" => Ok(Item::Nothing),
        b"PING" => Ok(Item::Say(PONG)),
        b"PONG" => Ok(Item::Ready),
        b"-ERR" => Err(format!("the server says {}", shown(line))),
        _ => Err(format!("the server does not speak NATS: {}", shown(line))),
    }
}

/// A decimal number of nothing but digits.
#[inline]
pub(super) fn number(digits: &[u8]) -> Option<usize> {
    /// Digits of the greatest number that makes sense, and some more.
    const DIGITS_MAX: usize = 9;
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    digits.iter().try_fold(0, |number, &digit| {
        digit.is_ascii_digit().then(|| number * 10 + usize::from(digit - b'0'))
    })
}

/// The beginning of what a server said, for people.
pub(super) fn shown(line: &[u8]) -> String {
    /// Enough for any message that helps.
    const SHOWN_BYTES_MAX: usize = 120;
    let begin = &line[..line.len().min(SHOWN_BYTES_MAX)];
    format!("`{}`", String::from_utf8_lossy(begin).replace(char::is_control, "?"))
}
