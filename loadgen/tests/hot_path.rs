//! What one delivered frame costs, from received bytes to a recorded latency. As a test it checks
//! the counts with a small input; the figure, of the median round, is printed by
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
/// Frames of one round. Every round has the same bytes, so the client joins anew before each.
const ROUND: u64 = 10_000;

fn world(paced: bool) -> World {
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
        paced,
        returns: false,
        clock_offset_ns: 0,
        core: None,
    }))
}

fn frames(now_ns: u64, ws: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seq in 1..=ROUND {
        let mut payload = [0; PAYLOAD_BYTES];
        let intended_ns = now_ns - seq % 1000 * 50_000;
        let lag_us = (seq % 7 * 9) as u32;
        Stamp { intended_ns, index: seq as u32, lag_us }.write(&mut payload);
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

fn check(ws: bool, paced: bool) {
    let total: u64 = std::env::var("FRAMES")
        .map_or(FRAMES_DEFAULT, |text| text.parse().expect("FRAMES is a number"));
    let rounds = (total / ROUND).max(1);
    let mut world = world(paced);
    (world.from_ns, world.now_ns) = (0, 1 << 40);
    let conn = ConnId { index: 0, generation: 0 };
    let mut client = Client { phase: Phase::Ready, ..Client::new(conn) };
    let mut memberships = [Membership::default()];
    let (mut partial, mut inbound) = (Vec::new(), WsInbound::default());
    let mut bytes = frames(world.now_ns, ws);
    let mut times = Vec::new();
    for _ in 0..rounds {
        memberships[0].join(1, 0);
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
        times.push(started.elapsed());
    }
    let (tally, timings) = (&world.tally, &world.timings);
    assert_eq!(tally.delivered, rounds * ROUND);
    assert_eq!(tally.accounted(), tally.delivered);
    assert_eq!(timings.corrected.len(), tally.delivered);
    assert_eq!(timings.uncorrected.len(), if paced { tally.delivered } else { 0 });
    times.sort_unstable();
    let ns = times[times.len() / 2].as_nanos() as f64 / ROUND as f64;
    let (transport, pace) = (if ws { "ws" } else { "tcp" }, if paced { "paced" } else { "plain" });
    println!("{transport} {pace}: {ns:.2} ns a frame");
}

#[test]
fn a_raw_frame_is_cheap() {
    check(false, false);
    check(false, true);
}

#[test]
fn a_web_socket_frame_is_cheap() {
    check(true, false);
    check(true, true);
}
