//! What one delivered frame costs, from received bytes to a recorded latency. As a test it checks
//! the counts with a small input; the figure is printed by
//! `FRAMES=20000000 cargo test --release -p barrage-loadgen --test hot_path -- --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use barrage_loadgen::ledger::Membership;
use barrage_loadgen::plan::{Places, Plan, TOKEN_OPEN, Transport};
use barrage_loadgen::session::{Client, Phase, Session};
use barrage_loadgen::sources::Sources;
use barrage_loadgen::stamp::Stamp;
use barrage_loadgen::stream::{WsInbound, feed_tcp, feed_ws};
use barrage_loadgen::world::World;
use barrage_sys::ConnId;
use barrage_wire::ws::server_header;
use barrage_wire::{ServerFrame, Tail};

const FRAMES_DEFAULT: u64 = 20_000;
const PAYLOAD_BYTES: usize = 128;
/// As a receive buffer of the network thread.
const PIECE_BYTES: usize = 16 * 1024;
/// Frames of one round; sequence numbers go on, so the bytes are made anew for each.
const ROUND: u64 = 10_000;

fn world() -> World {
    let target = "127.0.0.1:1".parse().expect("an address");
    World::new(Arc::new(Plan {
        transport: Transport::Tcp,
        target,
        sources: Sources::plan(&[], target, 1, 28_000).expect("sources"),
        ws: None,
        dialect: None,
        first: 0,
        clients: 1,
        app: 1,
        token: TOKEN_OPEN.to_owned(),
        rooms: Places::Given(Vec::new()),
        joins_later: false,
        watched: false,
        timed_kind: None,
        uplinks: None,
        paced: false,
        returns: false,
        clock_offset_ns: 0,
        core: None,
    }))
}

fn frames(first: u64, now_ns: u64, ws: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seq in first..first + ROUND {
        let mut payload = [0; PAYLOAD_BYTES];
        let intended_ns = now_ns - seq % 1000 * 50_000;
        Stamp { intended_ns, index: seq as u32, lag_us: 0 }.write(&mut payload);
        let payload = Tail(&payload);
        let frame = ServerFrame::Message { alias: 1, seq, category: 7, kind: 0, payload }.to_vec();
        if ws {
            let (header, used) = server_header(frame.len());
            bytes.extend_from_slice(&header[..used]);
        }
        bytes.extend_from_slice(&frame);
    }
    bytes
}

fn check(ws: bool) {
    let total: u64 = std::env::var("FRAMES")
        .map_or(FRAMES_DEFAULT, |text| text.parse().expect("FRAMES is a number"));
    let mut world = world();
    (world.from_ns, world.now_ns) = (0, 1 << 40);
    let conn = ConnId { index: 0, generation: 0 };
    let mut client = Client { phase: Phase::Ready, ..Client::new(conn) };
    let mut memberships = [Membership::default()];
    memberships[0].join(1, 0);
    let (mut partial, mut inbound) = (Vec::new(), WsInbound::default());
    let mut spent = std::time::Duration::ZERO;
    for round in 0..total / ROUND {
        let mut bytes = frames(1 + round * ROUND, world.now_ns, ws);
        let started = Instant::now();
        for piece in bytes.chunks_mut(PIECE_BYTES) {
            let (client, memberships) = (&mut client, &mut memberships[..]);
            let mut session = Session { number: 0, client, memberships, world: &mut world };
            let fed = match ws {
                true => feed_ws(&mut partial, &mut inbound, piece, &mut session),
                false => feed_tcp(&mut partial, piece, &mut session),
            };
            fed.expect("whole frames");
        }
        spent += started.elapsed();
    }
    assert_eq!(world.tally.delivered, total / ROUND * ROUND);
    assert_eq!(world.tally.accounted(), world.tally.delivered);
    assert!(!world.timings.corrected.is_empty());
    let ns = spent.as_nanos() as f64 / world.tally.delivered as f64;
    println!("{}: {ns:.1} ns a frame", if ws { "ws" } else { "tcp" });
}

#[test]
fn a_raw_frame_is_cheap() {
    check(false);
}

#[test]
fn a_web_socket_frame_is_cheap() {
    check(true);
}
