//! What a session makes of frames, as they should be and as they should not.

use std::sync::Arc;

use super::*;
use crate::plan::{Places, Plan, Rooms};

#[test]
fn a_numbered_frame_is_where_the_hot_path_looks_for_it() {
    let (alias, seq, category, kind) = (0x0a0b_0c0d, 1 << 40, 3, 4);
    let (flags, sender, key, count, total) = (1, 5, 6, 7, 8);
    let payload = Tail(b"payload");
    let message = ServerFrame::Message { alias, seq, category, kind, payload };
    #[rustfmt::skip]
    let combo = ServerFrame::Combo {
        alias, seq, category, kind, flags, sender, key, count, total, payload,
    };
    let state = ServerFrame::State { alias, seq, category, kind, key, payload };
    for (frame, kind_byte, overhead) in [
        (message, PAST_MESSAGE, MESSAGE_OVERHEAD_BYTES),
        (combo, PAST_COMBO, COMBO_OVERHEAD_BYTES),
        (state, PAST_STATE, STATE_OVERHEAD_BYTES),
    ] {
        let frame = frame.to_vec();
        assert_eq!(frame[4], kind_byte);
        let body = &frame[FRAME_HEADER_BYTES..];
        let fields = u128::from_le_bytes(*body.first_chunk().expect("sixteen bytes"));
        assert_eq!((fields as u32, (fields >> 32) as u64), (alias, seq));
        assert_eq!(((fields >> 96) as u16, (fields >> 112) as u16), (category, kind));
        assert_eq!(&frame[overhead..], b"payload");
    }
}

/// A client that has said HELLO and asked for two rooms; it watches them.
struct One {
    world: World,
    client: Client,
    memberships: [Membership; 2],
}

impl One {
    fn new() -> Self {
        let rooms = Places::Given(vec![Rooms::One(8), Rooms::One(9)]);
        let plan = Plan { watched: true, ..Plan::of_test(rooms, 1) };
        let client = Client::new(ConnId { index: 0, generation: 0 });
        let client = Client { phase: Phase::Hello, ..client };
        let mut one =
            Self { world: World::new(Arc::new(plan)), client, memberships: Default::default() };
        one.world.counts.in_flight = 1;
        one
    }

    fn ready() -> Self {
        let mut one = Self::new();
        for frame in [welcome(), joined(1, 5), joined(2, 7)] {
            one.hear(&frame).expect("a good gateway");
        }
        assert_eq!((one.client.phase, one.world.counts.here), (Phase::Ready, 1));
        one
    }

    fn hear(&mut self, frame: &ServerFrame<'_>) -> Result<(), Fault> {
        let bytes = frame.to_vec();
        let (client, memberships) = (&mut self.client, &mut self.memberships[..]);
        let mut session = Session { number: 0, client, memberships, world: &mut self.world };
        crate::stream::feed_tcp(&mut Vec::new(), &bytes, &mut session)
    }
}

fn welcome() -> ServerFrame<'static> {
    ServerFrame::Welcome {
        version: barrage_wire::limits::PROTOCOL_VERSION,
        heartbeat_s: 30,
        connection: 1,
        user: 1,
        body_bytes_max: 1000,
        rooms_max: 8,
        resume: barrage_wire::Text(""),
    }
}

fn joined(request: u32, head: u64) -> ServerFrame<'static> {
    let (alias, room) = (request, 7 + u64::from(request));
    ServerFrame::Joined { request, alias, room, epoch: 3, head, level: 1, members: 1 }
}

fn message(alias: u32, seq: u64) -> ServerFrame<'static> {
    ServerFrame::Message { alias, seq, category: 4, kind: 1, payload: Tail(b"") }
}

#[test]
fn an_answer_comes_once() {
    let mut one = One::ready();
    let why = one.hear(&welcome()).expect_err("a second WELCOME");
    assert!(why.contains("WELCOME twice"), "{why}");
    assert_eq!(one.world.counts.here, 1);
    // It would hide that 6 is missing.
    let why = one.hear(&joined(1, 6)).expect_err("a second JOINED");
    assert!(why.contains("JOIN twice"), "{why}");
    assert_eq!(one.memberships[0].reached(), 5);
    let mut early = One::new();
    early.hear(&joined(1, 5)).expect("the first");
    assert!(early.hear(&joined(1, 6)).is_err(), "before WELCOME, too");
}

#[test]
fn a_number_that_no_room_can_have_is_a_fault() {
    for seq in [SEQ_MAX + 1, u64::MAX - 1, u64::MAX] {
        let counts = [0, 0, 0, 1];
        for frame in [
            message(1, seq),
            ServerFrame::Shed { alias: 1, first: 6, last: seq, counts },
            ServerFrame::Shed { alias: 1, first: seq, last: 6, counts },
            ServerFrame::Reset { alias: 1, epoch: 3, head: seq, oldest: 1 },
        ] {
            let mut one = One::ready();
            let why = one.hear(&frame).expect_err("too high");
            assert!(why.contains(&format!("counts up to {seq}")), "{why}");
            assert_eq!(one.world.tally, Tally::default());
        }
        assert!(One::new().hear(&joined(1, seq)).is_err());
    }
    let mut one = One::ready();
    one.hear(&message(1, SEQ_MAX)).expect("the highest");
    assert_eq!(one.world.tally.unexplained, SEQ_MAX - 6);
}

#[test]
fn a_watch_knows_where_it_began() {
    let one = One::ready();
    let heads: Vec<_> = one.world.watches.values().map(|watch| watch.joined_head).collect();
    assert_eq!(heads, [Some(7)], "of the room that is accounted for");
}

#[test]
fn a_reset_ends_what_was_to_be_heard() {
    let mut one = One::ready();
    one.world.catching = vec![(0, 100), (1, 90)];
    let reset = ServerFrame::Reset { alias: 1, epoch: 4, head: 2, oldest: 1 };
    one.hear(&reset).expect("a good gateway");
    assert_eq!(one.world.catching, [(1, 90), (0, 2)]);
}
