//! What the fuzz targets, the property tests and the seeded smoke run have in common. Each body
//! takes any bytes, and panics when a promise of this crate is broken.

mod schema;

pub use schema::{Direction, Part, put_message};

use crate::boundary::{Boundary, tcp_boundary, ws_boundary};
use crate::frame::{FRAME_HEADER_BYTES, peek, split};
use crate::limits::{WS_CONTROL_BYTES_MAX, WS_MESSAGE_BYTES_MAX};
use crate::ws::{
    HandshakeError, Inbound, Incoming, Opcode, Role, WsError, parse_request, parse_response,
    put_frame, server_header, write_refusal, write_request, write_response,
};

/// Reads decisions off the input; zeros when it has ended, so that every input means something.
pub struct Source<'a>(pub &'a [u8]);

impl Source<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        byte
    }

    /// A number under `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let wide = u32::from_le_bytes([self.byte(), self.byte(), 0, 0]);
        wide as usize % limit
    }

    /// A length up to `max`: mostly short, at times the longest.
    pub fn length(&mut self, max: usize) -> usize {
        match self.byte() {
            255 => max,
            254 => self.below(max + 1),
            short => (short as usize % 8).min(max),
        }
    }
}

/// Any bytes as a stream of frames of every direction: a message that decodes encodes to the same
/// body, and what the stream gives does not depend on how much of it has arrived.
pub fn frames(data: &[u8]) {
    for direction in Direction::ALL {
        let max = direction.body_bytes_max();
        let mut rest = data;
        loop {
            let before = rest;
            match split(&mut rest, max) {
                Ok(Some(frame)) => {
                    let total = before.len() - rest.len();
                    assert_eq!(total, FRAME_HEADER_BYTES + frame.body.len());
                    assert_eq!(peek(before, max), Ok(Some(total)));
                    assert_eq!(split(&mut &before[..total - 1], max), Ok(None), "one byte short");
                    if let Ok(encoded) = direction.recode(frame) {
                        assert_eq!(encoded[FRAME_HEADER_BYTES..], *frame.body);
                        assert_eq!(encoded[4], frame.kind);
                    }
                }
                Ok(None) => break assert_eq!(rest, before, "an incomplete frame is left alone"),
                Err(_) => break assert!(peek(before, max).is_err()),
            }
        }
    }
    let sent = data.len() / 2;
    for Boundary { frames, end } in [tcp_boundary(data, sent), ws_boundary(data, sent)] {
        assert!(frames <= sent && (sent..=data.len()).contains(&end));
    }
}

/// Any bytes as WebSocket frames: the events do not depend on how the bytes were cut.
pub fn websocket(data: &[u8]) {
    let mut source = Source(data);
    let role = if source.byte() & 1 == 0 { Role::Server } else { Role::Client };
    let seed = source.byte();
    let bytes = source.0;
    let whole = events(role, bytes, |_| usize::MAX);
    // One byte at a time is quadratic, so long inputs are cut into longer pieces.
    let step = 1 + bytes.len() / 256;
    assert_eq!(whole, events(role, bytes, |_| step), "the same bytes in equal pieces");
    let uneven = |at: usize| step + at.wrapping_mul(seed as usize) % 61;
    assert_eq!(whole, events(role, bytes, uneven), "the same bytes in uneven pieces");
}

/// Any bytes as a request and as a response; the same bytes as a key of a handshake that works.
pub fn handshake(data: &[u8]) {
    let whole = parse_request(data);
    for cut in [data.len() / 3, data.len() / 2, data.len().saturating_sub(1)] {
        match (parse_request(&data[..cut]), whole) {
            (Ok(None), _) => {}
            (part, whole) => assert_eq!(part, whole, "more bytes do not change an answer"),
        }
    }
    match whole {
        Ok(Some(request)) => {
            assert!(request.consumed <= data.len());
            let mut response = Vec::new();
            write_response(&request, &mut response);
            // The key is not known here, but everything else about the response is right.
            assert_eq!(parse_response(&response, [0; 16]), Err(HandshakeError::Accept));
        }
        Ok(None) => {}
        Err(error) => {
            let mut refusal = Vec::new();
            write_refusal(&error, &mut refusal);
            let status = parse_response(&refusal, [0; 16]);
            assert!(matches!(status, Err(HandshakeError::Status(400..=499))), "{status:?}");
        }
    }
    if let Ok(Some(consumed)) = parse_response(data, [0; 16]) {
        assert!(consumed <= data.len());
    }
    let mut source = Source(data);
    let key = std::array::from_fn(|_| source.byte());
    let (mut bytes, mut response) = (Vec::new(), Vec::new());
    write_request("localhost:7001", "/", key, &mut bytes);
    let length = bytes.len();
    bytes.extend_from_slice(data);
    let request = parse_request(&bytes).ok().flatten().expect("our own request is right");
    assert_eq!((request.consumed, request.subprotocol), (length, true));
    write_response(&request, &mut response);
    let length = response.len();
    response.extend_from_slice(data);
    assert_eq!(parse_response(&response, key), Ok(Some(length)), "our own response is right");
}

/// A session decoded from the data: messages are made, wrapped in WebSocket frames with control
/// frames between them, cut anywhere, read back and compared.
pub fn operations(data: &[u8]) {
    let mut source = Source(data);
    let (mut from_client, mut expected) = (Vec::new(), Vec::new());
    let (mut tcp, mut tcp_ends) = (Vec::new(), Vec::new());
    let (mut ws, mut ws_ends) = (Vec::new(), Vec::new());
    let step = 1 + source.below(700);
    for _ in 0..1 + source.below(12) {
        let mut message = Vec::new();
        for _ in 0..1 + source.below(3) {
            put_message(Direction::Client, &mut source, &mut message);
        }
        check_frames(Direction::Client, &message);
        assert!(message.len() <= WS_MESSAGE_BYTES_MAX, "three client frames fit a message");
        wrap(&message, &mut source, &mut from_client, &mut expected);

        let mut frame = Vec::new();
        put_message(Direction::Server, &mut source, &mut frame);
        check_frames(Direction::Server, &frame);
        tcp.extend_from_slice(&frame);
        tcp_ends.push(tcp.len());
        let (header, used) = server_header(frame.len());
        ws.extend_from_slice(&header[..used]);
        ws.extend_from_slice(&frame);
        ws_ends.push(ws.len());

        for direction in [Direction::Upstream, Direction::Gateway] {
            let mut frame = Vec::new();
            put_message(direction, &mut source, &mut frame);
            check_frames(direction, &frame);
        }
    }
    assert_eq!(events(Role::Server, &from_client, |_| step), (expected, None));
    for _ in 0..4 {
        let (tcp_sent, ws_sent) = (source.below(tcp.len() + 1), source.below(ws.len() + 1));
        assert_eq!(tcp_boundary(&tcp, tcp_sent), naive_boundary(&tcp_ends, tcp_sent));
        assert_eq!(ws_boundary(&ws, ws_sent), naive_boundary(&ws_ends, ws_sent));
    }
}

/// What `Inbound` gave, with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole message.
    Message(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// A close.
    Close(u16),
}

/// Feeds `bytes` in pieces, each of the length that `piece` gives for its start, and collects what
/// comes out, up to the first error.
pub fn events(
    role: Role,
    bytes: &[u8],
    piece: impl Fn(usize) -> usize,
) -> (Vec<Event>, Option<WsError>) {
    let mut inbound = Inbound::default();
    let (mut buffer, mut events) = (Vec::new(), Vec::new());
    let mut fed = 0;
    while fed < bytes.len() {
        let count = piece(fed).clamp(1, bytes.len() - fed);
        buffer.extend_from_slice(&bytes[fed..fed + count]);
        fed += count;
        let mut at = 0;
        loop {
            let available = buffer.len() - at;
            let (used, incoming) = match inbound.next(role, &mut buffer[at..]) {
                Ok(taken) => taken,
                Err(error) => {
                    assert!(matches!(error.close_code(), 1002 | 1003 | 1007 | 1009));
                    return (events, Some(error));
                }
            };
            assert!(used <= available, "more was taken than there is");
            assert!(used > 0 || incoming.is_none(), "something came of nothing");
            events.extend(incoming.map(|incoming| match incoming {
                Incoming::Message(bytes) => Event::Message(bytes.to_vec()),
                Incoming::Ping(bytes) => Event::Ping(bytes.to_vec()),
                Incoming::Pong => Event::Pong,
                Incoming::Close(code) => Event::Close(code),
            }));
            if used == 0 {
                break;
            }
            at += used;
        }
        buffer.drain(..at);
    }
    (events, None)
}

/// Appends a client's message in one to four fragments, with control frames in between.
fn wrap(message: &[u8], source: &mut Source<'_>, out: &mut Vec<u8>, expected: &mut Vec<Event>) {
    let mut rest = message;
    let mut opcode = Opcode::Binary;
    for left in (0..1 + source.below(4)).rev() {
        let count = if left == 0 { rest.len() } else { source.below(rest.len() + 1) };
        let (fragment, after) = rest.split_at(count);
        let mut mask = || std::array::from_fn(|_| source.byte());
        put_frame(out, opcode, left == 0, Some(mask()), fragment);
        (rest, opcode) = (after, Opcode::Continuation);
        if left == 0 {
            expected.push(Event::Message(message.to_vec()));
        }
        let mask = Some(mask());
        match source.below(6) {
            0 => {
                let payload = vec![source.byte(); source.below(WS_CONTROL_BYTES_MAX + 1)];
                put_frame(out, Opcode::Ping, true, mask, &payload);
                expected.push(Event::Ping(payload));
            }
            1 => {
                put_frame(out, Opcode::Pong, true, mask, &[]);
                expected.push(Event::Pong);
            }
            _ => {}
        }
    }
}

/// Every frame of `bytes` is right, and its message encodes to the same bytes.
fn check_frames(direction: Direction, bytes: &[u8]) {
    let mut rest = bytes;
    let mut again = Vec::new();
    while let Some(frame) = split(&mut rest, direction.body_bytes_max()).expect("within limits") {
        again.extend(direction.recode(frame).expect("the schema and the code agree"));
    }
    assert_eq!(again, bytes);
}

fn naive_boundary(ends: &[usize], sent: usize) -> Boundary {
    let frames = ends.iter().filter(|&&end| end <= sent).count();
    let whole = sent == 0 || ends.contains(&sent);
    Boundary { frames, end: if whole { sent } else { ends[frames] } }
}
