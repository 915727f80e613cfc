//! What holds for all protocols: splits, garbage, refusals.

use super::*;
use crate::random::Random;

/// What came of bytes.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    ready: u32,
    messages: Vec<Vec<u8>>,
    said: Vec<u8>,
}

impl Heard for Seen {
    fn ready(&mut self) {
        self.ready += 1;
    }
    fn message(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.messages.push(payload.to_vec());
        Ok(())
    }
    fn say(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
    }
}

fn all() -> [Dialect; 4] {
    let (host, path) = ("h:1".to_owned(), "/sub/{room}".to_owned());
    [Dialect::WsRaw { host, path }, Dialect::Mqtt, Dialect::Nats, Dialect::Redis]
}

/// Payloads that a careless reader would stumble over.
fn payloads() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        (0..=255).collect(),
        b"\r\n$3\r\nMSG PING\r\n".to_vec(),
        vec![0; 125],
        vec![b'\n'; 126],
        vec![0xff; 16_384],
        vec![b' '; 1],
    ]
}

/// What a server says to a subscriber that it sends these messages to.
fn served(dialect: &Dialect, payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    match dialect {
        Dialect::WsRaw { .. } => {
            // The answer to the key that the client always gives.
            out.extend_from_slice(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\nSec-WebSocket-Accept: ",
            );
            out.extend_from_slice(accept().as_bytes());
            out.extend_from_slice(b"\r\n\r\n");
        }
        Dialect::Mqtt => out.extend([0x20, 2, 0, 0, 0x90, 3, 0, 1, 0]),
        Dialect::Nats => out.extend_from_slice(b"INFO {\"max_payload\":1}\r\n+OK\r\nPONG\r\n"),
        Dialect::Redis => {
            out.extend_from_slice(b"*3\r\n$9\r\nsubscribe\r\n$6\r\nroom:7\r\n:1\r\n");
        }
    }
    for (at, payload) in payloads.iter().enumerate() {
        message(dialect, at, payload, &mut out);
    }
    out
}

fn message(dialect: &Dialect, at: usize, payload: &[u8], out: &mut Vec<u8>) {
    let length = payload.len();
    match dialect {
        Dialect::WsRaw { .. } if !at.is_multiple_of(2) => fragments(payload, out),
        Dialect::WsRaw { .. } => {
            let (header, used) = barrage_wire::ws::server_header(length);
            out.extend_from_slice(&header[..used]);
            out.extend_from_slice(payload);
        }
        Dialect::Mqtt => {
            out.extend([0xd0, 0]);
            mqtt::publish(7, payload, out);
        }
        Dialect::Nats => {
            let reply = if at.is_multiple_of(2) { "" } else { " reply.to" };
            out.extend_from_slice(format!("MSG room.7 1{reply} {length}\r\n").as_bytes());
            out.extend_from_slice(payload);
            out.extend_from_slice(b"\r\nPING\r\n");
        }
        Dialect::Redis => {
            let head = format!("*3\r\n$7\r\nmessage\r\n$6\r\nroom:7\r\n${length}\r\n");
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(payload);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A text message in three frames, with a ping between them.
fn fragments(payload: &[u8], out: &mut Vec<u8>) {
    let third = payload.len() / 3;
    let parts = [&payload[..third], &payload[third..2 * third], &payload[2 * third..]];
    for (first, part) in [0x01, 0x00, 0x80].into_iter().zip(parts) {
        let (header, used) = barrage_wire::ws::server_header(part.len());
        out.push(first);
        out.extend_from_slice(&header[1..used]);
        out.extend_from_slice(part);
        if first == 0 {
            barrage_wire::ws::put_ping(out, None, b"hey");
        }
    }
}

/// What has to be answered to the key that the client gives, taken from a server of our own.
fn accept() -> String {
    let mut request = Vec::new();
    ws_raw::hello("h", "/", &mut request);
    let text = String::from_utf8(request).expect("a request is text");
    let text = text.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: barrage.v1\r\n\r\n");
    let request = barrage_wire::ws::parse_request(text.as_bytes()).expect("it is one");
    let mut response = Vec::new();
    barrage_wire::ws::write_response(&request.expect("it is whole"), &mut response);
    let response = String::from_utf8(response).expect("a response is text");
    let (_, rest) = response.split_once("Sec-WebSocket-Accept: ").expect("it has one");
    rest.split_once('\r').expect("lines end").0.to_owned()
}

/// Feeds bytes in pieces of these sizes, in turn.
fn feed(dialect: &Dialect, bytes: &[u8], sizes: &[usize]) -> (Result<(), Fault>, Seen, Vec<u8>) {
    let (mut state, mut partial) = (DialectState::default(), Vec::new());
    let (mut seen, mut rest, mut end) = (Seen::default(), bytes, Ok(()));
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() && end.is_ok() {
        let size = *sizes.next().expect("there are sizes");
        let (piece, after) = rest.split_at(size.min(rest.len()));
        end = dialect.feed(&mut state, &mut partial, piece, &mut seen);
        rest = after;
        assert!(partial.len() <= 2 * FRAME_BYTES_MAX + bytes.len(), "what is kept is bounded");
    }
    (end, seen, partial)
}

#[test]
fn any_split_of_the_bytes_gives_the_same_messages() {
    for dialect in all() {
        let expected = payloads();
        let bytes = served(&dialect, &expected);
        let sizes = (1..400).map(|size| vec![size]);
        let odd = [vec![bytes.len()], vec![3, 1000, 1], vec![16_500, 2], vec![70_000]];
        for sizes in sizes.chain(odd) {
            let (end, seen, partial) = feed(&dialect, &bytes, &sizes);
            assert_eq!(end, Ok(()), "{dialect:?} in pieces of {sizes:?}");
            assert_eq!(seen.ready, 1, "{dialect:?} in pieces of {sizes:?}");
            assert!(seen.messages == expected, "{dialect:?} in pieces of {sizes:?}");
            assert!(partial.is_empty(), "only what is unfinished is kept");
            let said = match dialect {
                Dialect::WsRaw { .. } => 3 * (2 + 4 + 3),
                Dialect::Nats => expected.len() * "PONG\r\n".len(),
                Dialect::Mqtt | Dialect::Redis => 0,
            };
            assert_eq!(seen.said.len(), said, "{dialect:?} in pieces of {sizes:?}");
        }
    }
}

#[test]
fn one_split_anywhere_gives_the_same_messages() {
    for dialect in all() {
        let expected = vec![vec![1; 16], vec![2; 200], vec![3; 16]];
        let bytes = served(&dialect, &expected);
        for at in 0..bytes.len() {
            let (end, seen, _) = feed(&dialect, &bytes, &[at.max(1), bytes.len()]);
            assert_eq!((end, seen.messages), (Ok(()), expected.clone()), "{dialect:?} at {at}");
        }
    }
}

#[test]
fn garbage_is_a_fault_or_nothing_and_what_is_kept_is_bounded() {
    let mut random = Random::new(7);
    for round in 0..4000 {
        for dialect in all() {
            let mut bytes = served(&dialect, &[vec![9; 40], vec![8; 300], vec![7; 3]]);
            let begin = if round % 4 == 0 { 0 } else { bytes.len() / 4 };
            for _ in 0..1 + random.below(6) {
                let at = begin + random.below((bytes.len() - begin) as u64) as usize;
                bytes[at] = random.below(256) as u8;
            }
            let sizes = [1 + random.below(50) as usize, 1 + random.below(900) as usize];
            // What it says is open; that it comes back is what counts.
            let _ = feed(&dialect, &bytes, &sizes);
        }
    }
}

#[test]
fn what_is_too_long_is_a_fault_before_it_is_kept() {
    let check = |dialect: &Dialect, bytes: &[u8]| {
        let mut whole = served(dialect, &[]);
        whole.extend_from_slice(bytes);
        let (end, _, partial) = feed(dialect, &whole, &[1000]);
        assert!(end.is_err(), "{dialect:?}");
        assert!(partial.len() <= FRAME_BYTES_MAX + 1000, "{dialect:?} keeps {}", partial.len());
    };
    let [ws, mqtt, nats, redis] = all();
    check(&ws, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    check(&ws, &[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let fragment = [&[0x02, 126, 0xff, 0xff][..], &[0; 65_535], &[0x80, 1, 0]].concat();
    check(&ws, &fragment);
    check(&mqtt, &[0x30, 0x80, 0x80, 0x04]);
    check(&mqtt, &[0x30, 0xff, 0xff, 0xff, 0xff]);
    check(&nats, &[b'x'; 70_000]);
    check(&nats, b"MSG room.7 1 65536\r\n");
    check(&redis, b"*3\r\n$7\r\nmessage\r\n$6\r\nroom:7\r\n$65536\r\n");
    check(&redis, b"*3\r\n$7\r\nmessage\r\n$99999999999999999999999");
}

#[test]
fn what_a_server_refuses_is_told_in_words() {
    let check = |dialect: &Dialect, bytes: &[u8], part: &str| {
        let (end, seen, _) = feed(dialect, bytes, &[5]);
        assert!(end.as_ref().is_err_and(|why| why.contains(part)), "{end:?}");
        assert_eq!(seen, Seen::default());
    };
    let [ws, mqtt, nats, redis] = all();
    check(&ws, b"HTTP/1.1 403 Forbidden\r\n\r\n", "403");
    check(&ws, b"SSH-2.0\r\n\r\n", "refuses the WebSocket");
    check(&mqtt, &[0x20, 2, 0, 5], "allow_anonymous");
    check(&mqtt, &[0x20, 2, 0, 0, 0x90, 3, 0, 1, 0x80], "refuses the subscription");
    check(&nats, b"-ERR 'Authorization Violation'\r\n", "Authorization Violation");
    check(&nats, b"HTTP/1.1 400\r\n", "does not speak NATS");
    check(&redis, b"-NOAUTH Authentication required.\r\n", "NOAUTH");
    check(&redis, b"HTTP/1.1 400\r\n", "does not speak RESP2");
    let (end, _, _) = feed(&ws, &[served(&ws, &[]), b"\x88\x02\x03\xe9".to_vec()].concat(), &[9]);
    assert!(end.is_err_and(|why| why.contains("closes the WebSocket: 1001")));
}

#[test]
fn a_message_before_the_confirmation_says_that_the_subscription_is_in_force() {
    let mut bytes = vec![0x20, 2, 0, 0];
    mqtt::publish(7, b"early", &mut bytes);
    bytes.extend([0x90, 3, 0, 1, 0]);
    let (end, seen, _) = feed(&Dialect::Mqtt, &bytes, &[bytes.len()]);
    assert_eq!((end, seen.ready, seen.messages), (Ok(()), 1, vec![b"early".to_vec()]));
}

#[test]
fn clients_begin_as_the_protocols_want() {
    let hello = |dialect: &Dialect| {
        let mut out = Vec::new();
        dialect.hello(3, 7, &mut out);
        out
    };
    let [ws, mqtt, nats, redis] = all();
    let text = |dialect| String::from_utf8(hello(dialect)).expect("it is text");
    assert!(text(&ws).starts_with("GET /sub/7 HTTP/1.1\r\nHost: h:1\r\nUpgrade: websocket\r\n"));
    assert!(text(&nats).ends_with("}\r\nSUB room.7 1\r\nPING\r\n"));
    assert_eq!(text(&redis), "*2\r\n$9\r\nSUBSCRIBE\r\n$6\r\nroom:7\r\n");
    let connect = b"\x10\x1d\0\x04MQTT\x04\x02\0\x78\0\x11barrage-loadgen-3";
    let subscribe = b"\x82\x0b\0\x01\0\x06room/7\0";
    assert_eq!(hello(&mqtt), [&connect[..], subscribe].concat());
}
