//! Frames out of received bytes, on either transport. Only an unfinished frame is kept.

use barrage_wire::limits::{SERVER_BODY_BYTES_MAX, WS_MESSAGE_BYTES_MAX};
use barrage_wire::ws::{Inbound, Incoming, Role};
use barrage_wire::{DecodeError, FRAME_HEADER_BYTES, RawFrame, frame};

/// What is wrong with the gateway's bytes, in words.
pub type Fault = String;

/// The first byte of a WebSocket frame that is a whole binary message.
const WS_BINARY_WHOLE: u8 = 0x82;
/// The bit of the first byte that control frames have and messages have not.
const WS_CONTROL_BIT: u8 = 0x08;
/// Lengths under this one are in the second byte of a WebSocket frame.
const WS_LENGTH_IN_2: u8 = 126;
const WS_LENGTH_IN_8: u8 = 127;

const _: () = assert!(SERVER_BODY_BYTES_MAX + FRAME_HEADER_BYTES <= WS_MESSAGE_BYTES_MAX);
const _: () = assert!(u16::MAX as usize <= WS_MESSAGE_BYTES_MAX, "the fast path asks no further");

/// What came of a WebSocket frame that is not a message.
pub enum Control<'a> {
    /// To be answered.
    Ping(&'a [u8]),
    /// The gateway ends the connection, with this code.
    Close(u16),
}

/// Fragments of WebSocket messages. The gateway sends none, so this is nearly always unused.
#[derive(Default)]
pub struct WsInbound {
    inbound: Inbound,
    used: bool,
}

impl WsInbound {
    /// Whether nothing is kept in it.
    pub fn is_unused(&self) -> bool {
        !self.used
    }
}

/// Who is told what the bytes hold.
pub trait Sink {
    /// A frame has come.
    fn frame(&mut self, frame: RawFrame<'_>) -> Result<(), Fault>;
    /// Something about the WebSocket itself has come.
    fn control(&mut self, control: Control<'_>);
}

/// Feeds bytes of a raw stream. `partial` holds what was unfinished before, and then what is now.
#[inline]
pub fn feed_tcp(partial: &mut Vec<u8>, bytes: &[u8], sink: &mut impl Sink) -> Result<(), Fault> {
    let mut rest = bytes;
    if !partial.is_empty() {
        if !complete(partial, &mut rest, tcp_length)? {
            return Ok(());
        }
        frames_apart(partial, sink)?;
        partial.clear();
    }
    let left = frames_apart(rest, sink)?;
    partial.extend_from_slice(left);
    Ok(())
}

/// Feeds bytes of a WebSocket stream after its handshake.
#[inline]
pub fn feed_ws(
    partial: &mut Vec<u8>,
    inbound: &mut WsInbound,
    bytes: &mut [u8],
    sink: &mut impl Sink,
) -> Result<(), Fault> {
    let mut taken = 0;
    if !partial.is_empty() {
        let mut rest = &bytes[..];
        if !complete(partial, &mut rest, ws_length)? {
            return Ok(());
        }
        taken = bytes.len() - rest.len();
        ws_frames_apart(inbound, partial, sink)?;
        partial.clear();
    }
    let rest = &mut bytes[taken..];
    let used = ws_frames(inbound, rest, sink)?;
    partial.extend_from_slice(&rest[used..]);
    Ok(())
}

/// Moves bytes from `rest` to `partial` until that is one whole frame; says whether it is.
fn complete(
    partial: &mut Vec<u8>,
    rest: &mut &[u8],
    length: impl Fn(&[u8]) -> Result<Option<usize>, Fault>,
) -> Result<bool, Fault> {
    loop {
        // Headers are short and rarely cut, so their bytes may come one by one.
        let want = length(partial)?.unwrap_or(partial.len() + 1);
        if want == partial.len() {
            return Ok(true);
        }
        let count = (want - partial.len()).min(rest.len());
        if count == 0 {
            return Ok(false);
        }
        partial.extend_from_slice(&rest[..count]);
        *rest = &rest[count..];
    }
}

fn tcp_length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    frame::peek(bytes, SERVER_BODY_BYTES_MAX).map_err(fault)
}

/// The length of the server's WebSocket frame that starts `bytes`.
#[inline]
fn ws_length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let [_, second, extended @ ..] = bytes else { return Ok(None) };
    let (header, payload) = match *second & 0x7f {
        WS_LENGTH_IN_2 => match extended.first_chunk() {
            Some(length) => (4, u16::from_be_bytes(*length).into()),
            None => return Ok(None),
        },
        WS_LENGTH_IN_8 => match extended.first_chunk() {
            Some(length) => (10, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        length => (2, length.into()),
    };
    if payload > WS_MESSAGE_BYTES_MAX as u64 {
        return Err(format!("the gateway sends a WebSocket frame of {payload} bytes"));
    }
    Ok(Some(header + payload as usize))
}

/// The same as `frames`, as a loop of its own: part of something larger, it has too few registers.
#[inline(never)]
fn frames_apart<'a>(bytes: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], Fault> {
    frames(bytes, sink)
}

/// Hands out the whole frames in front of `bytes` and returns what is left.
#[inline(always)]
fn frames<'a>(mut bytes: &'a [u8], sink: &mut impl Sink) -> Result<&'a [u8], Fault> {
    loop {
        // A frame is put together from its fields. Copied whole, its padding goes through memory in
        // two halves that overlap, and waits there longer than all the rest takes.
        match frame::split(&mut bytes, SERVER_BODY_BYTES_MAX) {
            Ok(Some(RawFrame { kind, body })) => sink.frame(RawFrame { kind, body })?,
            Ok(None) => return Ok(bytes),
            Err(error) => return Err(fault(error)),
        }
    }
}

/// The same as `ws_frames`, for where few come through.
#[cold]
#[inline(never)]
fn ws_frames_apart(
    inbound: &mut WsInbound,
    bytes: &mut [u8],
    sink: &mut impl Sink,
) -> Result<usize, Fault> {
    ws_frames(inbound, bytes, sink)
}

/// Hands out what the whole WebSocket frames in front of `bytes` hold; returns their length.
#[inline]
fn ws_frames(
    inbound: &mut WsInbound,
    bytes: &mut [u8],
    sink: &mut impl Sink,
) -> Result<usize, Fault> {
    let mut at = 0;
    loop {
        if let Some((payload, length)) = ws_message(&bytes[at..]) {
            message(payload, sink)?;
            at += length;
            continue;
        }
        let Some(length) = ws_length(&bytes[at..])? else { return Ok(at) };
        let Some(frame) = bytes.get_mut(at..at + length) else { return Ok(at) };
        ws_frame_slow(inbound, frame, sink)?;
        at += length;
    }
}

/// What the gateway's fast path sends, if that is in front of `bytes`: a whole binary message with
/// one of the shorter lengths. Says its payload, and how long it is with its header.
#[inline(always)]
fn ws_message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let [WS_BINARY_WHOLE, second, extended @ ..] = bytes else { return None };
    let (payload, header) = match *second {
        WS_LENGTH_IN_2 => {
            let (length, rest) = extended.split_first_chunk()?;
            (rest.get(..u16::from_be_bytes(*length).into())?, 4)
        }
        length if length < WS_LENGTH_IN_2 => (extended.get(..length.into())?, 2),
        _ => return None,
    };
    Some((payload, header + payload.len()))
}

/// What the gateway never sends on its fast path, by the book.
#[cold]
fn ws_frame_slow(
    inbound: &mut WsInbound,
    frame: &mut [u8],
    sink: &mut impl Sink,
) -> Result<(), Fault> {
    // A control frame leaves nothing behind.
    inbound.used |= frame[0] & WS_CONTROL_BIT == 0;
    let (_, incoming) = inbound
        .inbound
        .next(Role::Client, frame)
        .map_err(|error| format!("the gateway breaks the WebSocket protocol: {error}"))?;
    match incoming {
        Some(Incoming::Message(payload)) => message(payload, sink)?,
        Some(Incoming::Ping(payload)) => sink.control(Control::Ping(payload)),
        Some(Incoming::Close(code)) => sink.control(Control::Close(code)),
        Some(Incoming::Pong) | None => {}
    }
    Ok(())
}

/// A WebSocket message holds whole frames.
#[inline(always)]
fn message(payload: &[u8], sink: &mut impl Sink) -> Result<(), Fault> {
    let left = frames(payload, sink)?;
    if left.is_empty() { Ok(()) } else { Err(unfinished(left.len())) }
}

#[cold]
fn unfinished(bytes: usize) -> Fault {
    format!("a WebSocket message ends with {bytes} bytes of a frame")
}

#[cold]
fn fault(error: DecodeError) -> Fault {
    format!("the gateway breaks the protocol: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_wire::ServerFrame;
    use barrage_wire::ws::{put_ping, server_header};

    #[derive(Default)]
    struct Nonces {
        seen: Vec<u64>,
        pings: usize,
    }

    impl Sink for Nonces {
        fn frame(&mut self, frame: RawFrame<'_>) -> Result<(), Fault> {
            match ServerFrame::decode(frame) {
                Ok(ServerFrame::Pong { nonce }) => self.seen.push(nonce),
                Ok(ServerFrame::Message { seq, .. }) => self.seen.push(seq),
                other => return Err(format!("{other:?}")),
            }
            Ok(())
        }
        fn control(&mut self, control: Control<'_>) {
            match control {
                Control::Ping(payload) => assert_eq!(payload, b"hey"),
                Control::Close(code) => panic!("closed with {code}"),
            }
            self.pings += 1;
        }
    }

    fn sample(number: u64) -> Vec<u8> {
        if !number.is_multiple_of(3) {
            return ServerFrame::Pong { nonce: number }.to_vec();
        }
        let payload = barrage_wire::Tail(&[9; 300]);
        ServerFrame::Message { alias: 1, seq: number, category: 4, kind: 0, payload }.to_vec()
    }

    /// Feeds `bytes` in pieces of every size and expects frames 0 to 9.
    fn check(
        bytes: &[u8],
        pings: usize,
        mut feed: impl FnMut(&mut Vec<u8>, &mut [u8], &mut Nonces),
    ) {
        for piece in 1..=bytes.len() {
            let (mut partial, mut sink) = (Vec::new(), Nonces::default());
            let mut bytes = bytes.to_vec();
            for piece in bytes.chunks_mut(piece) {
                feed(&mut partial, piece, &mut sink);
            }
            assert_eq!(sink.seen, (0..10).collect::<Vec<_>>(), "in pieces of {piece}");
            assert_eq!(sink.pings, pings);
            assert!(partial.is_empty(), "only unfinished frames are kept");
        }
    }

    #[test]
    fn any_split_of_a_raw_stream_gives_the_same_frames() {
        let bytes: Vec<u8> = (0..10).flat_map(sample).collect();
        check(&bytes, 0, |partial, piece, sink| {
            feed_tcp(partial, piece, sink).expect("whole frames");
        });
    }

    #[test]
    fn any_split_of_a_web_socket_stream_gives_the_same_frames() {
        let mut bytes = Vec::new();
        for number in (0..10).step_by(2) {
            // Two frames in one message, and something else between messages.
            let frames = [sample(number), sample(number + 1)].concat();
            let (header, used) = server_header(frames.len());
            bytes.extend_from_slice(&header[..used]);
            bytes.extend_from_slice(&frames);
            put_ping(&mut bytes, None, b"hey");
        }
        let mut inbound = WsInbound::default();
        check(&bytes, 5, |partial, piece, sink| {
            feed_ws(partial, &mut inbound, piece, sink).expect("whole frames");
        });
    }

    #[test]
    fn a_frame_that_is_too_long_is_a_fault() {
        let mut sink = Nonces::default();
        assert!(feed_tcp(&mut Vec::new(), &[0xff; 8], &mut sink).is_err());
        let mut inbound = WsInbound::default();
        let mut long = [0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert!(feed_ws(&mut Vec::new(), &mut inbound, &mut long, &mut sink).is_err());
    }
}
