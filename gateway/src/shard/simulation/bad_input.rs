//! Peers that are broken or hostile: each is closed for the right reason at the right time, and
//! leaves nothing behind.

use barrage_sys::Peer;
use barrage_wire::client::{ClientFrame, Cursor, Platform};
use barrage_wire::codec::{List, Tail, Text};
use barrage_wire::limits::{CLIENT_BODY_BYTES_MAX, PROTOCOL_VERSION, UPSTREAM_BODY_BYTES_MAX};
use barrage_wire::ws::{self, Opcode};
use barrage_wire::{GatewayFrame, ServerFrame, UpstreamFrame};

use super::stream::Stream;
use super::world::World;
use crate::limits::{CLIENT_OUTBOX_BYTES_MAX, LINGER_MAX};
use crate::room_log::Transport;

const TCP: usize = 0;
const WS: usize = 1;
const UPSTREAM: usize = 2;
const MASK: Option<[u8; 4]> = Some([9, 8, 7, 6]);

/// What a peer does, and when: bytes at a number of milliseconds after it connected.
type Script = Vec<(u64, Vec<u8>)>;

/// A peer that never closes does as the script says. It is told `expected` after `from_ms`, and
/// within about two ticks; a reason, or the status of the handshake's refusal.
fn check(listener: usize, script: Script, expected: &str, from_ms: u64) {
    let mut world = World::calm(1, Vec::new());
    let link = world.shards[0].ring.accept(listener, Peer::Unix, usize::MAX).expect("a place");
    let transport = if listener == WS { Transport::WebSocket } else { Transport::Tcp };
    let mut stream = Stream::new(transport);
    let (mut told, mut script) = (None, script.into_iter().peekable());
    let mut ms = 0;
    while told.is_none() {
        let ring = &mut world.shards[0].ring;
        while let Some((_, bytes)) = script.next_if(|(at, _)| *at <= ms) {
            ring.write(link, &bytes);
        }
        // It is the wheel's business to be on time, however seldom the shard is stepped.
        let step = if ms > 60_000 { 50 } else { 5 };
        world.now_us += step * 1000;
        ms += step;
        world.step(0);
        let bytes = world.shards[0].ring.read(link, usize::MAX);
        told = if bytes.starts_with(b"HTTP/1.1 ") && !bytes.starts_with(b"HTTP/1.1 101") {
            Some(String::from_utf8_lossy(&bytes[9..12]).into_owned())
        } else {
            reason(&mut stream, &bytes, listener)
        };
        assert!(ms < 400_000, "nothing happens: {expected} after {from_ms} ms is expected");
    }
    assert_eq!(told.as_deref(), Some(expected));
    // Time is counted in whole ticks: one sooner, two later, and the time between two steps here.
    let sooner = if from_ms < 10_000 { 0 } else { 100 };
    let times = from_ms - sooner..from_ms + 260;
    assert!(times.contains(&ms), "{expected} at {ms} ms, not {from_ms}");
    let said = world.now_us;
    while !world.shards[0].ring.is_closed(link) {
        world.now_us += 5_000;
        world.step(0);
    }
    let lingered = std::time::Duration::from_micros(world.now_us - said);
    assert!(lingered < LINGER_MAX + std::time::Duration::from_millis(300), "{lingered:?}");
    world.leave();
    world.check_empty();
}

/// The reason of the close frame, when it has come.
fn reason(stream: &mut Stream, bytes: &[u8], listener: usize) -> Option<String> {
    let mut reason = None;
    stream.take(bytes, |frame| {
        assert_eq!(reason, None, "nothing follows CLOSE");
        if listener == UPSTREAM {
            if let Ok(GatewayFrame::Close { reason: why, .. }) = GatewayFrame::decode(frame) {
                reason = Some(why.name().to_owned());
            }
        } else if let Ok(ServerFrame::Close { reason: why, .. }) = ServerFrame::decode(frame) {
            reason = Some(why.name().to_owned());
        }
    });
    assert!(reason.is_none() || listener != WS || stream.ws_closed, "a close frame ends it");
    reason
}

fn hello() -> Vec<u8> {
    hello_as(PROTOCOL_VERSION, "open:7")
}

fn hello_as(version: u16, token: &str) -> Vec<u8> {
    let (resume, token) = (List::new(&[]), Text(token));
    ClientFrame::Hello { version, app: 1, device: 1, platform: Platform::Ios, resume, token }
        .to_vec()
}

fn ping() -> Vec<u8> {
    ClientFrame::Ping { nonce: 1 }.to_vec()
}

fn join() -> Vec<u8> {
    ClientFrame::Join { request: 1, cursor: Cursor { room: 1, epoch: 0, seq: 0 } }.to_vec()
}

/// A byte at a time, from `from_ms` on.
fn dribble(from_ms: u64, every_ms: u64, bytes: &[u8]) -> Script {
    (0..).map(|at| from_ms + at * every_ms).zip(bytes.iter().map(|&byte| vec![byte])).collect()
}

fn after_hello(at_ms: u64, bytes: Vec<u8>) -> Script {
    vec![(0, hello()), (at_ms, bytes)]
}

#[test]
fn clients_that_do_not_speak_the_protocol_are_told_at_once() {
    let too_long = ((CLIENT_BODY_BYTES_MAX + 1) as u32).to_le_bytes().to_vec();
    check(TCP, vec![(40, too_long.clone())], "Protocol", 40);
    check(TCP, vec![(40, b"GET / HTTP/1.1\r\n\r\n".to_vec())], "Protocol", 40);
    check(TCP, vec![(40, join())], "Protocol", 40);
    check(TCP, vec![(40, hello_as(2, "open:7"))], "Version", 40);
    check(TCP, vec![(40, hello_as(1, "open:0"))], "Token", 40);
    check(TCP, after_hello(500, too_long), "Protocol", 500);
    check(TCP, after_hello(500, hello()), "Protocol", 500);
    check(TCP, after_hello(500, vec![0, 0, 0, 0, 99, 0, 0, 0]), "Protocol", 500);
    check(TCP, after_hello(500, vec![0, 0, 0, 0, 7, 0, 0, 0]), "Protocol", 500);
    check(TCP, after_hello(500, [ping().as_slice(), &[0xff; 40]].concat()), "Protocol", 500);
    check(TCP, after_hello(500, ping().repeat(1001)), "RateLimited", 500);
}

#[test]
fn clients_that_are_silent_or_stuck_are_closed_in_time() {
    check(TCP, vec![], "HelloTimeout", 10_000);
    check(TCP, vec![(9_000, hello()[..5].to_vec())], "HelloTimeout", 10_000);
    check(
        TCP,
        dribble(0, 300, &hello_as(1, &format!("open:{}7", "0".repeat(40)))),
        "HelloTimeout",
        10_000,
    );
    // Wherever in a tick it begins: the shard hears it before its wheel has turned, or after.
    for at in (1_200..1_300).step_by(5) {
        check(TCP, after_hello(at, ping()[..9].to_vec()), "FrameTimeout", at + 10_000);
    }
    let publish = ClientFrame::Publish {
        request: 1,
        alias: 1,
        category: 4,
        kind: 1,
        payload: Tail(&[1; 1000]),
    };
    let mut dribbled = vec![(0, hello())];
    dribbled.extend(dribble(3_333, 100, &publish.to_vec()));
    check(TCP, dribbled, "FrameTimeout", 13_300);
    // Whoever finishes what it has begun is not stuck, even if it begins anew at once.
    let (begun, rest) = (ping()[..9].to_vec(), ping()[9..].to_vec());
    let mut halves = vec![(0, hello()), (0, begun.clone())];
    halves.extend((1..10).map(|at| (at * 9_000, [&rest[..], &begun].concat())));
    check(TCP, halves, "FrameTimeout", 91_000);
}

#[test]
fn a_client_that_says_nothing_is_idle() {
    let mut world = World::calm(1, Vec::new());
    let link = world.shards[0].ring.accept(TCP, Peer::Unix, usize::MAX).expect("a place");
    world.shards[0].ring.write(link, &hello());
    world.step(0);
    let mut stream = Stream::new(Transport::Tcp);
    let since = world.now_us;
    loop {
        world.now_us += 100_000;
        world.step(0);
        let bytes = world.shards[0].ring.read(link, usize::MAX);
        if let Some(reason) = reason(&mut stream, &bytes, TCP) {
            assert_eq!(reason, "Idle");
            break;
        }
    }
    // An open connection is looked at every 30 seconds.
    let seconds = (world.now_us - since) / 1_000_000;
    assert!((270..=301).contains(&seconds), "{seconds} s");
}

fn handshake() -> Vec<u8> {
    Stream::new(Transport::WebSocket).opening()
}

fn frame(opcode: Opcode, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ws::put_frame(&mut out, opcode, last, MASK, payload);
    out
}

/// A WebSocket client that has said HELLO.
fn greeted(mut script: Script) -> Script {
    let start = [handshake(), frame(Opcode::Binary, true, &hello())].concat();
    script.insert(0, (0, start));
    script
}

#[test]
fn a_handshake_that_is_none_is_refused_in_http() {
    check(WS, vec![], "503", 10_000);
    check(WS, dribble(0, 100, &handshake()), "503", 10_000);
    check(WS, vec![(40, hello())], "400", 40);
    check(WS, vec![(40, b"GET / HTTP/1.1\r\n\r\n".to_vec())], "426", 40);
    check(WS, vec![(40, b"POST / HTTP/1.1\r\n\r\n".to_vec())], "405", 40);
    let endless = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; 9_000]].concat();
    check(WS, vec![(40, endless)], "431", 40);
    check(WS, vec![(40, handshake())], "HelloTimeout", 10_000);
}

#[test]
fn websocket_clients_that_break_its_rules_are_told() {
    let mut unmasked = Vec::new();
    ws::put_frame(&mut unmasked, Opcode::Binary, true, None, &ping());
    check(WS, greeted(vec![(500, unmasked)]), "Protocol", 500);
    check(WS, greeted(vec![(500, frame(Opcode::Text, true, b"hello"))]), "Protocol", 500);
    check(WS, greeted(vec![(500, frame(Opcode::Continuation, true, b""))]), "Protocol", 500);
    check(WS, greeted(vec![(500, frame(Opcode::Binary, true, &ping()[..9]))]), "Protocol", 500);
    check(WS, greeted(vec![(500, frame(Opcode::Binary, true, &[0xff; 9]))]), "Protocol", 500);
    check(WS, greeted(vec![(500, frame(Opcode::Close, true, b""))]), "PeerClosed", 500);
    check(
        WS,
        greeted(vec![(500, frame(Opcode::Ping, true, b"").repeat(1001))]),
        "RateLimited",
        500,
    );
}

#[test]
fn a_message_in_fragments_must_end_in_time() {
    let begun = frame(Opcode::Binary, false, &ping()[..4]);
    let mut pinged = vec![(1_234, begun.clone())];
    pinged.extend((2..20).map(|at| (at * 1_000, frame(Opcode::Ping, true, b"still here"))));
    check(WS, greeted(pinged), "FrameTimeout", 11_200);
    // Each message is finished after a second, in the same breath in which the next one is begun.
    let ended = frame(Opcode::Continuation, true, &ping()[4..]);
    let mut busy = vec![(0, begun.clone())];
    busy.extend((1..30).map(|at| (at * 1_000, [ended.clone(), begun.clone()].concat())));
    check(WS, greeted(busy), "FrameTimeout", 39_000);
}

#[test]
fn upstreams_are_held_to_the_protocol_too() {
    let hello = |token| {
        let (token, name) = (Text(token), Text("bad"));
        UpstreamFrame::Hello { version: 1, app: 1, token, name }.to_vec()
    };
    let too_long = ((UPSTREAM_BODY_BYTES_MAX + 1) as u32).to_le_bytes().to_vec();
    check(UPSTREAM, vec![], "HelloTimeout", 10_000);
    check(UPSTREAM, vec![(40, hello("closed"))], "Token", 40);
    check(UPSTREAM, vec![(40, UpstreamFrame::Ping { nonce: 1 }.to_vec())], "Protocol", 40);
    check(UPSTREAM, vec![(0, hello("open")), (40, too_long)], "Protocol", 40);
    check(UPSTREAM, vec![(0, hello("open")), (40, vec![1])], "FrameTimeout", 10_000);
}

#[test]
fn peers_that_go_in_the_middle_of_a_frame_leave_nothing() {
    for (listener, bytes) in
        [(TCP, hello()), (WS, greeted(vec![]).remove(0).1), (UPSTREAM, vec![3])]
    {
        for (cut, errno) in (0..bytes.len()).flat_map(|cut| [(cut, 0), (cut, 104)]) {
            let mut world = World::calm(1, Vec::new());
            let ring = &mut world.shards[0].ring;
            let link = ring.accept(listener, Peer::Unix, usize::MAX).expect("a place");
            ring.write(link, &bytes[..cut]);
            world.step(0);
            world.shards[0].ring.hang_up(link, errno);
            world.run_ms(3);
            assert!(world.shards[0].ring.is_closed(link));
            assert_eq!(world.shards[0].metrics().connections, 1, "only the upstream");
        }
    }
}

/// Pongs go past the limits of answers: they must be bounded all the same.
#[test]
fn pings_of_a_client_that_does_not_read_take_bounded_memory() {
    let mut world = World::calm(1, Vec::new());
    let ring = &mut world.shards[0].ring;
    let link = ring.accept(WS, Peer::Unix, 100).expect("a place");
    ring.write(link, &greeted(vec![]).remove(0).1);
    let pings = frame(Opcode::Ping, true, &[1; 125]).repeat(900);
    let mut most = 0;
    for _ in 0..20 {
        world.shards[0].ring.write(link, &pings);
        world.run_ms(1_000);
        let conns = &mut world.shards[0].core.conns;
        let ids: Vec<_> = conns.ids().collect();
        most = ids.iter().map(|id| conns.at(id.index).outbox_bytes()).max().unwrap_or(0).max(most);
    }
    assert!(most <= 2 * CLIENT_OUTBOX_BYTES_MAX + 200, "{most} bytes wait");
}
