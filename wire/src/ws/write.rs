//! WebSocket frames to be sent.

use super::mask::apply_mask;
use super::{FIN, LENGTH_IN_2, LENGTH_IN_8, MASKED, NO_CLOSE_CODE, Opcode};
use crate::limits::WS_CONTROL_BYTES_MAX;

/// Longest header of a frame without a mask.
pub const SERVER_HEADER_BYTES_MAX: usize = 10;

/// The header of an unmasked, whole binary message: the array's first `.1` bytes.
#[inline]
pub fn server_header(payload_bytes: usize) -> ([u8; SERVER_HEADER_BYTES_MAX], usize) {
    header(FIN | Opcode::Binary as u8, 0, payload_bytes)
}

/// Appends the header of an unmasked, unfragmented frame whose payload the caller appends.
#[inline]
pub fn put_header_server(out: &mut Vec<u8>, opcode: Opcode, payload_bytes: usize) {
    let (bytes, used) = header(FIN | opcode as u8, 0, payload_bytes);
    out.extend_from_slice(&bytes[..used]);
}

/// Appends a whole binary message as a client must send it.
#[inline]
pub fn put_masked(out: &mut Vec<u8>, mask: [u8; 4], payload: &[u8]) {
    put_frame(out, Opcode::Binary, true, Some(mask), payload);
}

/// Appends any frame: `last` is false for all but the last fragment of a message, and `mask` is
/// given by a client and by nobody else.
pub fn put_frame(
    out: &mut Vec<u8>,
    opcode: Opcode,
    last: bool,
    mask: Option<[u8; 4]>,
    payload: &[u8],
) {
    let first = opcode as u8 | if last { FIN } else { 0 };
    let (bytes, used) = header(first, if mask.is_some() { MASKED } else { 0 }, payload.len());
    out.extend_from_slice(&bytes[..used]);
    let Some(mask) = mask else {
        return out.extend_from_slice(payload);
    };
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

/// Appends a close frame; `mask` is given by a client. With code 1005 it carries nothing, and a
/// reason that does not fit is cut at a character.
pub fn put_close(out: &mut Vec<u8>, mask: Option<[u8; 4]>, code: u16, reason: &str) {
    if code == NO_CLOSE_CODE {
        return put_frame(out, Opcode::Close, true, mask, &[]);
    }
    let reason = &reason[..reason.floor_char_boundary(WS_CONTROL_BYTES_MAX - 2)];
    let mut payload = [0; WS_CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    put_frame(out, Opcode::Close, true, mask, &payload[..2 + reason.len()]);
}

/// Appends a ping; `mask` is given by a client. A payload that does not fit is cut.
pub fn put_ping(out: &mut Vec<u8>, mask: Option<[u8; 4]>, payload: &[u8]) {
    let payload = &payload[..payload.len().min(WS_CONTROL_BYTES_MAX)];
    put_frame(out, Opcode::Ping, true, mask, payload);
}

/// Appends the answer to a ping, with the ping's payload; `mask` is given by a client.
pub fn put_pong(out: &mut Vec<u8>, mask: Option<[u8; 4]>, payload: &[u8]) {
    let payload = &payload[..payload.len().min(WS_CONTROL_BYTES_MAX)];
    put_frame(out, Opcode::Pong, true, mask, payload);
}

#[inline]
fn header(first: u8, masked: u8, length: usize) -> ([u8; SERVER_HEADER_BYTES_MAX], usize) {
    let mut bytes = [0; SERVER_HEADER_BYTES_MAX];
    bytes[0] = first;
    let used = if length < LENGTH_IN_2 as usize {
        bytes[1] = masked | length as u8;
        2
    } else if let Ok(length) = u16::try_from(length) {
        bytes[1] = masked | LENGTH_IN_2;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        4
    } else {
        bytes[1] = masked | LENGTH_IN_8;
        bytes[2..].copy_from_slice(&(length as u64).to_be_bytes());
        SERVER_HEADER_BYTES_MAX
    };
    (bytes, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_grows_with_the_length() {
        let used = |length| server_header(length).1;
        assert_eq!([0, 125, 126, 65_535, 65_536].map(used), [2, 2, 4, 4, 10]);
        let (bytes, used) = server_header(300);
        assert_eq!(&bytes[..used], [0x82, 126, 1, 44]);
    }

    #[test]
    fn a_close_reason_that_does_not_fit_is_cut_at_a_character() {
        let mut out = Vec::new();
        put_close(&mut out, None, 1000, &"é".repeat(100));
        assert_eq!(&out[..4], [0x88, 124, 0x03, 0xe8]);
        assert_eq!(std::str::from_utf8(&out[4..]), Ok("é".repeat(61).as_str()));
    }
}
