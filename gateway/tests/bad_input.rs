//! Peers that break the rules, by fault or on purpose, and those who must not notice.

mod common;

use std::time::{Duration, Instant};

use barrage_wire::client::Cursor;
use barrage_wire::codec::{List, Text};
use barrage_wire::limits::{CLIENT_BODY_BYTES_MAX, PROTOCOL_VERSION, WS_MESSAGE_BYTES_MAX};
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::ws::{self, Opcode};
use barrage_wire::{ClientFrame, UpstreamFrame};

use common::client::{from_now, hello};
use common::{
    APP, CHAT, Client, Gateway, Random, SOON, Said, Socket, Upstream, Via, on_one_and_two_shards,
    upstream,
};

/// What a peer has 10 seconds for must end it within this time.
const TEN_SECONDS: std::ops::Range<Duration> =
    Duration::from_millis(9_500)..Duration::from_secs(13);

const MASK: [u8; 4] = [9, 8, 7, 6];

fn ok_hello() -> Vec<u8> {
    hello(PROTOCOL_VERSION, APP, "open:1", &[])
}

fn ping(nonce: u64) -> Vec<u8> {
    ClientFrame::Ping { nonce }.to_vec()
}

/// A frame with this header and this body.
fn frame(length: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes()[..], &[kind, 0, 0, 0], body].concat()
}

/// Two clients in one room and a service that speaks there: whatever others do, they miss nothing.
struct Bystanders {
    members: Vec<(Client, u32, u64)>,
    upstream: Upstream,
    said: u64,
}

impl Bystanders {
    fn come(gateway: &Gateway) -> Self {
        let members = Via::BOTH.map(|via| {
            let mut client = gateway.client(via, 900);
            let alias = client.join(900).alias;
            (client, alias, 0)
        });
        Self { members: members.into(), upstream: gateway.upstream(), said: 0 }
    }

    fn connections(&self) -> u64 {
        self.members.len() as u64 + 1
    }

    /// Something is said, and everybody hears it.
    fn check(&mut self) {
        for _ in 0..5 {
            self.said += 1;
            let payload = self.said.to_le_bytes();
            assert_eq!(self.upstream.say_to_room(900, &payload), (Code::Ok, self.said));
        }
        for (client, alias, heard) in &mut self.members {
            while *heard < self.said {
                *heard += 1;
                assert_eq!(client.message(*alias), (*heard, heard.to_le_bytes().to_vec()));
            }
        }
    }
}

#[test]
fn a_client_that_breaks_the_protocol_is_told_and_closed() {
    let cursors = vec![Cursor { room: 1, epoch: 1, seq: 1 }; 64];
    let many = hello(PROTOCOL_VERSION, APP, "open:1", &cursors);
    let mut too_many = many.clone();
    too_many[8 + 2 + 4 + 8 + 1] = 65;
    let not_utf8 = {
        let mut bytes = ok_hello();
        *bytes.last_mut().expect("a token") = 0xff;
        bytes
    };
    let platform = {
        let mut bytes = ok_hello();
        bytes[8 + 2 + 4 + 8] = 77;
        bytes
    };
    let token = |token: &str| hello(PROTOCOL_VERSION, APP, token, &[]);
    let greeted = |then: &[u8]| [&ok_hello()[..], then].concat();
    let length = CLIENT_BODY_BYTES_MAX as u32;
    use CloseReason::{Protocol, RateLimited, Token, Version};
    let cases: Vec<(&str, Vec<u8>, CloseReason)> = vec![
        ("4 GiB", frame(u32::MAX, 1, b""), Protocol),
        ("one byte over the limit", frame(length + 1, 1, b""), Protocol),
        ("unknown kind", frame(0, 99, b""), Protocol),
        ("kind 0", frame(0, 0, b""), Protocol),
        ("a frame of the gateway", frame(8, 73, &[0; 8]), Protocol),
        ("garbage", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Protocol),
        ("PING before HELLO", ping(1), Protocol),
        ("JOIN before HELLO", frame(28, 2, &[0; 28]), Protocol),
        ("a body that ends early", frame(5, 1, &[1, 0, 1, 0, 0]), Protocol),
        ("a byte too many", frame(9, 7, &[0; 9]), Protocol),
        ("65 cursors", too_many, Protocol),
        ("a token that is not UTF-8", not_utf8, Protocol),
        ("an unknown platform", platform, Protocol),
        ("version 0", hello(0, APP, "open:1", &[]), Version),
        ("version 2", hello(2, APP, "open:1", &[]), Version),
        ("version 2 in another layout", frame(3, 1, &[2, 0, 9]), Version),
        ("a version of one byte", frame(1, 1, &[2]), Protocol),
        ("no token", token(""), Token),
        ("another mode's token", token("eyJhbGciOi"), Token),
        ("user 0", token("open:0"), Token),
        ("a user with a sign", token("open:+5"), Token),
        ("a user by another spelling", token("open:05"), Token),
        ("app 0", hello(PROTOCOL_VERSION, 0, "open:1", &[]), Token),
        ("a user over 64 bits", token("open:18446744073709551616"), Token),
        ("a second HELLO", greeted(&ok_hello()), Protocol),
        ("4 GiB after HELLO", greeted(&frame(u32::MAX, 4, b"")), Protocol),
        ("unknown kind after HELLO", greeted(&frame(3, 200, b"abc")), Protocol),
        ("a short JOIN", greeted(&frame(27, 2, &[0; 27])), Protocol),
        ("too many frames", greeted(&ping(1).repeat(2002)), RateLimited),
    ];
    on_one_and_two_shards(|gateway| {
        let mut bystanders = Bystanders::come(gateway);
        for via in Via::BOTH {
            for (what, bytes, expected) in &cases {
                let mut client = Client::connect(gateway.address(via), via);
                let bytes = client.framed(bytes);
                // It may close before it has read all.
                let _ = client.socket.try_write(&bytes);
                let (reason, text) = client.hear_close();
                assert_eq!(reason, *expected, "{what} over {via:?}: {text}");
                assert!(!text.is_empty(), "{what}: a person is told what was wrong");
                if via == Via::WebSocket {
                    assert!(client.close_code.is_some(), "{what}: it is told twice");
                }
            }
            bystanders.check();
        }
        let mut client = Client::connect(gateway.tcp, Via::Tcp);
        client.send_bytes(&many);
        assert!(matches!(client.hear(), Said::Welcome { .. }), "64 cursors are allowed");
        drop(client);
        let expected = bystanders.connections();
        gateway.until_metric("connections", |connections| connections == expected);
        bystanders.check();
    });
}

#[test]
fn a_service_that_breaks_the_protocol_is_told_and_closed() {
    let ok = upstream::hello(PROTOCOL_VERSION, APP, "open");
    let greeted = |then: &[u8]| [&ok[..], then].concat();
    let channels: Vec<u16> = (0..256).collect();
    let subscribe = |group: &str| {
        let (group, channels) = (Text(group), List::new(&channels[..]));
        UpstreamFrame::Subscribe { events: u16::MAX, group, channels }.to_vec()
    };
    let mut too_many = subscribe("g");
    too_many[8 + 2 + 3..][..2].copy_from_slice(&257u16.to_le_bytes());
    use CloseReason::{Protocol, Token, Version};
    let cases: Vec<(&str, Vec<u8>, CloseReason)> = vec![
        ("4 GiB", frame(u32::MAX, 128, b""), Protocol),
        ("unknown kind", frame(0, 99, b""), Protocol),
        ("a client's HELLO", ok_hello(), Protocol),
        ("PING before HELLO", UpstreamFrame::Ping { nonce: 1 }.to_vec(), Protocol),
        ("version 7", upstream::hello(7, APP, "open"), Version),
        ("version 7 in another layout", frame(2, 128, &[7, 0]), Version),
        ("app 0", upstream::hello(1, 0, "open"), Token),
        ("a client's token", upstream::hello(1, APP, "open:1"), Token),
        ("a second HELLO", greeted(&ok), Protocol),
        ("a publish that ends early", greeted(&frame(10, 129, &[0; 10])), Protocol),
        ("257 channels", greeted(&too_many), Protocol),
        ("garbage after HELLO", greeted(&[0xee; 64]), Protocol),
    ];
    on_one_and_two_shards(|gateway| {
        let mut bystanders = Bystanders::come(gateway);
        for (what, bytes, expected) in &cases {
            let mut peer = Upstream::on(gateway.upstream_socket());
            // It may close before it has read all.
            let _ = peer.socket.try_write(bytes);
            let closes = std::iter::from_fn(|| peer.hear_until(Instant::now() + SOON));
            match closes.last() {
                Some(common::Told::Close { reason, text }) => {
                    assert_eq!(reason, *expected, "{what}: {text}");
                }
                other => panic!("{what}: no Close at the end, but {other:?}"),
            }
        }
        let mut peer = gateway.upstream();
        peer.socket.write(&subscribe("g"));
        assert!(peer.ping().is_empty(), "256 channels are allowed");
        drop(peer);
        let expected = bystanders.connections();
        gateway.until_metric("connections", |connections| connections == expected);
        bystanders.check();
    });
}

/// The answer to a handshake: its status and everything else.
fn http(gateway: &Gateway, request: &[u8]) -> (u16, String) {
    let mut socket = Socket::tcp(gateway.ws);
    socket.write(request);
    let answer = socket.read_to_end(Instant::now() + SOON);
    let answer = String::from_utf8(answer).expect("HTTP");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("not HTTP: {answer:?}")), answer)
}

#[test]
fn a_handshake_that_cannot_be_granted_is_refused_in_http() {
    let gateway = Gateway::start("0", &[]);
    let good = "GET /any HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let check = |what: &str, request: String, status: u16| {
        let (answered, text) = http(&gateway, request.as_bytes());
        assert_eq!(answered, status, "{what}: {text}");
        let (_, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(body.len() > 10, "{what}: it says what to do");
    };
    check("another method", good.replace("GET", "POST"), 405);
    check("no upgrade", "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426);
    check("another version", good.replace(": 13", ": 8"), 426);
    check("no key", good.replace("Sec-WebSocket-Key", "X-Key"), 400);
    check("a short key", good.replace("AAAA==", "=="), 400);
    check("HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0"), 400);
    check("not HTTP", "\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), 400);
    let long = format!("X-Long: {}\r\nHost:", "x".repeat(9000));
    check("a long head", good.replace("Host:", &long), 431);
    let many: String = (0..70).map(|n| format!("X-{n}: 1\r\n")).collect();
    check("many headers", good.replace("Host:", &format!("{many}Host:")), 431);
    let (status, text) = http_then_close(&gateway, good);
    assert_eq!(status, "HTTP/1.1 101", "{text}");
    assert!(text.contains("Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI="), "{text}");
    gateway.until_metric("connections", |connections| connections == 0);
}

fn http_then_close(gateway: &Gateway, request: &str) -> (String, String) {
    let mut socket = Socket::tcp(gateway.ws);
    socket.write(request.as_bytes());
    let mut answer = Vec::new();
    let until = Instant::now() + SOON;
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(matches!(socket.read(&mut answer, until), Some(1..)), "the handshake is granted");
    }
    let text = String::from_utf8(answer).expect("HTTP");
    (text[..12].to_owned(), text)
}

fn ws_frame(opcode: Opcode, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ws::put_frame(&mut out, opcode, last, Some(MASK), payload);
    out
}

#[test]
fn what_breaks_websocket_is_closed_with_the_code_for_it() {
    let mut unmasked = Vec::new();
    ws::put_frame(&mut unmasked, Opcode::Binary, true, None, &ping(1));
    let mut announced = vec![0x82, 0x80 | 127];
    announced.extend_from_slice(&(WS_MESSAGE_BYTES_MAX as u64 + 1).to_be_bytes());
    let mut endless = announced[..2].to_vec();
    endless.extend_from_slice(&u64::MAX.to_be_bytes());
    let fragments = |kind: Opcode, pieces: &[&[u8]]| {
        let mut all = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let kind = if index == 0 { kind } else { Opcode::Continuation };
            all.extend(ws_frame(kind, index + 1 == pieces.len(), piece));
        }
        all
    };
    let forty = vec![0; 40_000];
    let mut reason_not_utf8 = Vec::new();
    ws::put_frame(&mut reason_not_utf8, Opcode::Close, true, Some(MASK), &[3, 232, 0xff]);
    let whole = ping(1);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", unmasked, 1002),
        ("reserved bits", vec![0xc2, 0x80, 0, 0, 0, 0], 1002),
        ("unknown opcode", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
        ("fragmented ping", ws_frame(Opcode::Ping, false, b"x"), 1002),
        ("long ping", ws_frame(Opcode::Ping, true, &[0; 126]), 1002),
        ("continuation of nothing", ws_frame(Opcode::Continuation, true, b"x"), 1002),
        (
            "a message inside another",
            [ws_frame(Opcode::Binary, false, b"x"), ws_frame(Opcode::Binary, true, b"y")].concat(),
            1002,
        ),
        ("length not minimal", vec![0x82, 0x80 | 126, 0, 5], 1002),
        ("half a close code", ws_frame(Opcode::Close, true, &[3]), 1002),
        ("close code 1005", ws_frame(Opcode::Close, true, &[3, 237]), 1002),
        ("text", ws_frame(Opcode::Text, true, "hello".as_bytes()), 1003),
        ("text that is not UTF-8", ws_frame(Opcode::Text, true, &[0xff, 0xfe]), 1007),
        ("text in fragments", fragments(Opcode::Text, &[b"ab", b"cd"]), 1003),
        ("bad text in fragments", fragments(Opcode::Text, &[b"ab", &[0xc3], b"x"]), 1007),
        ("close reason not UTF-8", reason_not_utf8, 1007),
        ("announced as too long", announced, 1009),
        ("announced as endless", endless, 1009),
        ("too long in fragments", fragments(Opcode::Binary, &[&forty, &forty]), 1009),
        ("half a frame in a message", ws_frame(Opcode::Binary, true, &whole[..9]), 1002),
        ("garbage in a message", ws_frame(Opcode::Binary, true, &[0xff; 100]), 1002),
    ];
    on_one_and_two_shards(|gateway| {
        let mut bystanders = Bystanders::come(gateway);
        for greeted in [false, true] {
            for (what, bytes, code) in &cases {
                let mut client = Client::connect(gateway.ws, Via::WebSocket);
                if greeted {
                    client.hello(1, &[]);
                    client.join(900);
                }
                // It may close before it has read all.
                let _ = client.socket.try_write(bytes);
                let (reason, text) = client.hear_close();
                assert_eq!(client.close_code, Some(*code), "{what}: {reason:?} {text}");
                assert_eq!(reason, CloseReason::Protocol, "{what}");
            }
        }
        let expected = bystanders.connections();
        gateway.until_metric("connections", |connections| connections == expected);
        bystanders.check();
    });
}

#[test]
fn fragments_pings_and_the_close_handshake_work_as_the_standard_says() {
    let gateway = Gateway::start("0", &[]);
    let mut client = Client::connect(gateway.ws, Via::WebSocket);
    let hello = ok_hello();
    // A message in four fragments, with a ping between them, that holds two frames.
    let both = [&hello[..], &ping(5)].concat();
    let mut bytes = ws_frame(Opcode::Binary, false, &both[..1]);
    bytes.extend(ws_frame(Opcode::Continuation, false, &both[1..20]));
    bytes.extend(ws_frame(Opcode::Ping, true, b"are you there"));
    bytes.extend(ws_frame(Opcode::Continuation, false, &[]));
    bytes.extend(ws_frame(Opcode::Continuation, true, &both[20..]));
    client.socket.write(&bytes);
    assert!(matches!(client.hear(), Said::Welcome { .. }));
    assert_eq!(client.hear(), Said::Pong { nonce: 5 });
    assert_eq!(client.pongs, 1);
    // An empty message and a pong that nobody asked for are nothing.
    client.socket.write(&ws_frame(Opcode::Binary, true, &[]));
    client.socket.write(&ws_frame(Opcode::Pong, true, b"?"));
    client.socket.write(&ws_frame(Opcode::Ping, true, &[7; 125]));
    assert!(client.ping().is_empty());
    assert_eq!(client.pongs, 2);
    let mut goodbye = Vec::new();
    ws::put_close(&mut goodbye, Some(MASK), 1000, "bye");
    client.socket.write(&goodbye);
    client.hear_all();
    assert_eq!(client.close_code, Some(1000), "a close is answered by a close");
    gateway.until_metric("connections", |connections| connections == 0);

    // The payload of a pong is that of its ping.
    let mut raw = Client::connect(gateway.ws, Via::WebSocket).socket;
    raw.write(&ws_frame(Opcode::Ping, true, b"payload"));
    let mut answer = Vec::new();
    while answer.len() < 9 {
        assert!(matches!(raw.read(&mut answer, Instant::now() + SOON), Some(1..)));
    }
    assert_eq!(answer, b"\x8a\x07payload");
}

#[test]
fn whoever_goes_in_the_middle_of_something_leaves_nothing_behind() {
    on_one_and_two_shards(|gateway| {
        let mut bystanders = Bystanders::come(gateway);
        let mut publish = ok_hello();
        ClientFrame::Join { request: 1, cursor: from_now(900) }.encode(&mut publish);
        publish.extend(frame(1000, 4, &[0; 500]));
        for round in 0..40 {
            let mut socket = Socket::tcp(gateway.tcp);
            let cut = if round % 2 == 0 { ok_hello().len() / 2 } else { publish.len() };
            socket.write(&publish[..cut]);
            if round % 4 < 2 {
                // Says that it is done, and hears the end.
                socket.finish();
                socket.read_to_end(Instant::now() + SOON);
            }
            let mut socket = Client::connect(gateway.ws, Via::WebSocket).socket;
            let message = ws_frame(Opcode::Binary, round % 3 == 0, &publish);
            socket.write(&message[..message.len() - round]);
            let mut socket = gateway.upstream_socket();
            socket.write(&[0, 1, 2, 3][..1 + round % 3]);
        }
        let expected = bystanders.connections();
        gateway.until_metric("connections", |connections| connections == expected);
        gateway.until_metric("memberships", |memberships| memberships == 4);
        bystanders.check();
    });
}

/// Reads until the gateway closes; says how long that took and what was said.
fn until_closed(mut client: Client, since: Instant) -> (Duration, Vec<Said>) {
    let until = Instant::now() + 2 * SOON;
    let said: Vec<_> = std::iter::from_fn(|| client.hear_until(until)).collect();
    (since.elapsed(), said)
}

fn reason(said: &[Said]) -> Option<CloseReason> {
    match said.last() {
        Some(Said::Close { reason, .. }) => Some(*reason),
        _ => None,
    }
}

/// Everything that takes ten seconds, at the same time.
#[test]
fn whoever_is_silent_or_dribbles_is_closed_in_time() {
    let gateway = &Gateway::start("0-1", &[]);
    let mut bystanders = Bystanders::come(gateway);
    let in_time = |what: &str, took: Duration| {
        assert!(TEN_SECONDS.contains(&took), "{what} was closed after {took:?}");
    };
    std::thread::scope(|scope| {
        for via in Via::BOTH {
            scope.spawn(move || {
                let since = Instant::now();
                let client = Client::connect(gateway.address(via), via);
                let (took, said) = until_closed(client, since);
                assert_eq!(reason(&said), Some(CloseReason::HelloTimeout), "{via:?} {said:?}");
                in_time("a silent client", took);
            });
            scope.spawn(move || {
                let since = Instant::now();
                let mut client = Client::connect(gateway.address(via), via);
                let bytes = client.framed(&ok_hello());
                client.socket.write(&bytes[..bytes.len() - 1]);
                let (took, said) = until_closed(client, since);
                assert_eq!(reason(&said), Some(CloseReason::HelloTimeout), "{via:?} {said:?}");
                in_time("a truncated HELLO", took);
            });
            scope.spawn(move || {
                let client = gateway.client(via, 1);
                let since = Instant::now();
                let bytes = client.framed(&frame(10_000, 4, &[0; 200]));
                let mut socket = client.socket.share();
                scope.spawn(move || {
                    // This pause is the case itself: bytes that come, but too slowly.
                    for byte in bytes {
                        if socket.try_write(&[byte]).is_err() {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(100));
                    }
                });
                let (took, said) = until_closed(client, since);
                assert_eq!(reason(&said), Some(CloseReason::FrameTimeout), "{via:?} {said:?}");
                in_time("a dribbled frame", took);
            });
        }
        scope.spawn(move || {
            let mut client = gateway.client(Via::WebSocket, 1);
            let since = Instant::now();
            client.socket.write(&ws_frame(Opcode::Binary, false, &ping(1)));
            let (took, said) = until_closed(client, since);
            assert_eq!(reason(&said), Some(CloseReason::FrameTimeout), "{said:?}");
            in_time("a message that is not finished", took);
        });
        scope.spawn(move || {
            let since = Instant::now();
            let mut socket = Socket::tcp(gateway.ws);
            socket.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: webso");
            socket.read_to_end(Instant::now() + 2 * SOON);
            in_time("half a handshake", since.elapsed());
        });
        scope.spawn(move || {
            let since = Instant::now();
            let mut peer = Upstream::on(gateway.upstream_socket());
            let told = peer.hear_until(Instant::now() + 2 * SOON);
            let reason = CloseReason::HelloTimeout;
            assert!(
                matches!(&told, Some(common::Told::Close { reason: told, .. }) if *told == reason),
                "{told:?}"
            );
            in_time("a silent service", since.elapsed());
        });
        // A client that pauses between whole frames is not one of them.
        scope.spawn(move || {
            let mut client = gateway.client(Via::Tcp, 1);
            let until = Instant::now() + TEN_SECONDS.end;
            assert_eq!(client.hear_until(until), None, "it is not closed");
            assert!(client.ping().is_empty());
        });
        bystanders.check();
    });
    let expected = bystanders.connections();
    gateway.until_metric("connections", |connections| connections == expected);
    assert_eq!(gateway.metric("timeouts_total"), 9);
    bystanders.check();
}

/// Bytes that look like the protocol in places, so that they get further than noise does.
fn garbage(random: &mut Random, listener: usize) -> Vec<u8> {
    let mut bytes = match random.below(4) {
        0 => Vec::new(),
        1 => random.bytes(3),
        _ => match listener {
            0 => ok_hello(),
            1 => ws_frame(Opcode::Binary, true, &ok_hello()),
            _ => upstream::hello(PROTOCOL_VERSION, APP, "open"),
        },
    };
    for _ in 0..random.below(6) {
        match random.below(6) {
            0 => {
                let count = random.below(300);
                bytes.extend(random.bytes(count));
            }
            1 | 2 => {
                let first = [1, 64, 128, 192][random.below(4)];
                let kind = first + random.below(9) as u8;
                let count = random.below(60);
                let body = random.bytes(count);
                let whole = frame(count as u32, kind, &body);
                match listener {
                    1 => bytes.extend(ws_frame(Opcode::Binary, random.below(3) > 0, &whole)),
                    _ => bytes.extend(whole),
                }
            }
            3 => bytes.extend(ws_frame(Opcode::Ping, true, b"x")),
            4 => bytes.extend(ping(random.next())),
            _ => {
                let room = random.below(3) as u64;
                let cursor = Cursor { room, epoch: random.next(), seq: random.next() };
                let join = ClientFrame::Join { request: 1, cursor }.to_vec();
                match listener {
                    1 => bytes.extend(ws_frame(Opcode::Binary, true, &join)),
                    _ => bytes.extend(join),
                }
            }
        }
    }
    for _ in 0..random.below(3) {
        if !bytes.is_empty() {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
    }
    bytes
}

#[test]
fn garbage_harms_nobody_but_the_one_who_sends_it() {
    const CONNECTIONS: usize = 900;
    for (cores, seed) in [("0", 1), ("0-1", 2)] {
        let mut gateway = Gateway::start(cores, &[]);
        let mut bystanders = Bystanders::come(&gateway);
        bystanders.check();
        let mut random = Random(seed);
        // What is allocated once and then kept is allocated by the first of them.
        let mut rss_before = 0;
        for round in 0..CONNECTIONS {
            let listener = round % 3;
            let mut socket = match listener {
                0 => Socket::tcp(gateway.tcp),
                1 if random.below(8) == 0 => Socket::tcp(gateway.ws),
                1 => Client::connect(gateway.ws, Via::WebSocket).socket,
                _ => gateway.upstream_socket(),
            };
            for piece in garbage(&mut random, listener).chunks(1 + random.below(200)) {
                if socket.try_write(piece).is_err() {
                    break;
                }
            }
            match random.below(3) {
                0 => {}
                1 => socket.finish(),
                _ => {
                    socket.finish();
                    socket.read_to_end(Instant::now() + SOON);
                }
            }
            if round % 50 == 0 {
                gateway.assert_alive();
                bystanders.check();
            }
            if round == CONNECTIONS / 3 {
                rss_before = gateway.rss_bytes();
            }
        }
        gateway.assert_alive();
        let expected = bystanders.connections();
        gateway.until_metric("connections", |connections| connections == expected);
        gateway.until_metric("clients", |clients| clients == expected - 1);
        gateway.until_metric("upstreams", |upstreams| upstreams == 1);
        // Each of the two is a member of the room and of the app.
        gateway.until_metric("memberships", |memberships| memberships == 4);
        bystanders.check();
        let rss = gateway.rss_bytes();
        assert!(rss < rss_before + (8 << 20), "{rss_before} bytes grew to {rss}");
        let mut client = gateway.client(Via::Tcp, 1);
        let room = client.join(901);
        let request = client.publish(room.alias, CHAT, b"still here");
        assert_eq!(client.reply(request).0, Code::Ok);
    }
}
