use super::*;
use crate::ids::{AppId, RoomId};
use crate::policy::LevelRules;
use barrage_wire::ServerFrame;
use barrage_wire::codec::Tail;
use barrage_wire::limits::SERVER_BODY_BYTES_MAX;

const EPOCH: u64 = 5;
const LIMITS: HistoryLimits = HistoryLimits { frames_max: 4, bytes_max: 1_000 };
const NOW: Millis = Millis(1_000);
const CHAT: u16 = 4;

fn room() -> Room {
    let key = RoomKey { app: AppId(1), room: RoomId(2) };
    Room::new(key, Alias(3), EPOCH, LIMITS)
}

fn say(room: &mut Room, category: u16, payload: &[u8]) -> Frame {
    let policy = Policy::builtin();
    let category = policy.category(category).unwrap();
    let mut out = Vec::new();
    let message = Publish { category, kind: 9, payload, sender: 0, key: 0, count: 0 };
    let answer = room.publish(NOW, &policy, message, &mut out);
    let frame = out.pop().unwrap();
    assert_eq!(answer, Admission::Admitted { seq: frame.seq });
    assert_eq!((out, frame.category, frame.merged), (vec![], category.id, None));
    frame
}

/// Somebody joins with `cursor` (epoch, seq) a room in which `said` messages were said.
fn check(said: usize, cursor: Option<(u64, u64)>, expected: &str) {
    let mut room = room();
    (0..said).for_each(|_| drop(say(&mut room, CHAT, b"hello")));
    let cursor = cursor.map(|(epoch, seq)| Cursor { epoch, seq });
    let joined = room.join(NOW, &Policy::builtin(), ShardIndex(0), cursor);
    assert_eq!((joined.epoch, joined.head), (EPOCH, said as u64));
    let answer = match joined.catch_up {
        CatchUp::Live => "live".to_owned(),
        CatchUp::Missed(frames) => {
            let numbers: Vec<_> = frames.iter().map(|frame| frame.seq).collect();
            format!("missed {numbers:?}")
        }
        CatchUp::Reset { oldest } => format!("reset {oldest}"),
    };
    assert_eq!(answer, expected, "{said} said, cursor {cursor:?}");
}

#[test]
fn without_a_cursor_one_starts_live() {
    check(0, None, "live");
    check(9, None, "live");
}

#[test]
fn a_cursor_in_reach_gets_exactly_what_was_missed() {
    check(0, Some((EPOCH, 0)), "live");
    check(3, Some((EPOCH, 3)), "live");
    check(3, Some((EPOCH, 0)), "missed [1, 2, 3]");
    check(9, Some((EPOCH, 8)), "missed [9]");
    check(9, Some((EPOCH, 5)), "missed [6, 7, 8, 9]");
}

#[test]
fn a_cursor_out_of_reach_is_reset() {
    check(9, Some((EPOCH, 4)), "reset 6");
    check(9, Some((EPOCH, 0)), "reset 6");
    check(9, Some((EPOCH, 10)), "reset 6");
    check(9, Some((EPOCH, u64::MAX)), "reset 6");
    check(9, Some((EPOCH - 1, 9)), "reset 6");
    check(0, Some((EPOCH - 1, 0)), "reset 1");
    check(0, Some((EPOCH, 1)), "reset 1");
}

#[test]
fn memory_knows_what_it_can_go_on_from() {
    let mut room = room();
    (0..9).for_each(|_| drop(say(&mut room, CHAT, b"hello")));
    let knows = [4, 5, 9, 10].map(|seq| room.knows(Cursor { epoch: EPOCH, seq }));
    assert_eq!(knows, [false, true, true, false]);
    assert!(!room.knows(Cursor { epoch: EPOCH - 1, seq: 9 }));
}

#[test]
fn a_resumed_room_goes_on_with_its_numbers() {
    let mut room = Room::resume(room().key(), Alias(3), EPOCH, 41, LIMITS);
    assert!(room.knows(Cursor { epoch: EPOCH, seq: 41 }));
    assert!(!room.knows(Cursor { epoch: EPOCH, seq: 40 }));
    assert_eq!(say(&mut room, CHAT, b"next").seq, 42);
    assert!(room.knows(Cursor { epoch: EPOCH, seq: 41 }));
}

#[test]
fn a_message_is_encoded_once_and_as_the_protocol_says() {
    let mut room = room();
    let payload = [7; PAYLOAD_BYTES_MAX];
    for payload in [&b""[..], b"hello", &payload] {
        let frame = say(&mut room, 1, payload);
        assert_eq!((frame.class, frame.never_drop), (crate::Class::P1, true));
        let mut bytes = &frame.bytes[..];
        let raw = barrage_wire::split(&mut bytes, SERVER_BODY_BYTES_MAX).unwrap().unwrap();
        let expected = ServerFrame::Message {
            alias: 3,
            seq: frame.seq,
            category: 1,
            kind: 9,
            payload: Tail(payload),
        };
        assert_eq!(ServerFrame::decode(raw), Ok(expected));
        assert!(bytes.is_empty(), "one frame and nothing else");
    }
    let frame = say(&mut room, CHAT, b"again");
    let remembered = room.history().since(frame.seq - 1).unwrap().next().unwrap();
    assert_eq!(remembered.bytes.as_ptr(), frame.bytes.as_ptr(), "the same memory");
}

#[test]
fn members_are_counted_by_shard() {
    let mut room = room();
    let mut shards_after = |joins: &[u16], leaves: &[u16]| {
        joins
            .iter()
            .for_each(|&shard| drop(room.join(NOW, &Policy::builtin(), ShardIndex(shard), None)));
        leaves.iter().for_each(|&shard| room.leave(NOW, &Policy::builtin(), ShardIndex(shard)));
        (room.members(), room.shards().map(|shard| shard.0).collect::<Vec<_>>())
    };
    assert_eq!(shards_after(&[], &[]), (0, vec![]));
    assert_eq!(shards_after(&[3, 1, 3, 2], &[]), (4, vec![1, 2, 3]));
    assert_eq!(shards_after(&[], &[3, 1]), (2, vec![2, 3]));
    assert_eq!(shards_after(&[0], &[3, 2]), (1, vec![0]));
    assert_eq!(shards_after(&[], &[0]), (0, vec![]));
}

#[test]
#[should_panic(expected = "only a shard with members")]
fn a_leave_without_a_join_is_our_bug() {
    room().leave(NOW, &Policy::builtin(), ShardIndex(0));
}

#[test]
fn a_room_is_idle_when_empty_and_untouched_for_long() {
    let later = |ms| Millis(NOW.0 + ms);
    let mut room = room();
    room.join(NOW, &Policy::builtin(), ShardIndex(0), None);
    assert!(!room.is_idle(later(ROOM_UNUSED_MS)), "somebody is here");
    room.leave(NOW, &Policy::builtin(), ShardIndex(0));
    assert!(!room.is_idle(later(ROOM_UNUSED_MS - 1)));
    assert!(room.is_idle(later(ROOM_UNUSED_MS)), "nothing was ever said");
    room.join(NOW, &Policy::builtin(), ShardIndex(0), None);
    say(&mut room, CHAT, b"");
    assert!(!room.is_idle(later(ROOM_IDLE_MS)), "somebody is here");
    room.leave(NOW, &Policy::builtin(), ShardIndex(0));
    assert!(!room.is_idle(later(ROOM_IDLE_MS - 1)));
    assert!(room.is_idle(later(ROOM_IDLE_MS)));
    assert!(!room.is_idle(Millis(0)), "a clock that steps back makes nothing idle");
}

/// Memory of a million silent rooms: their own size, and nothing on the heap.
#[test]
fn a_silent_room_is_small() {
    const ROOM_BYTES_MAX: usize = 192;
    println!("size_of::<Room>() = {}", size_of::<Room>());
    assert!(size_of::<Room>() <= ROOM_BYTES_MAX);
    let room = room();
    assert_eq!(room.members_by_shard.capacity(), 0);
    assert_eq!(room.history().memory_bytes(), 0);
    assert!(room.flow.is_none());
}

#[test]
fn a_level_falls_when_it_is_due_and_limits_follow_it() {
    let mut rules = Policy::builtin();
    rules.levels = LevelRules { from: [2, 9, 9], dwell_ms: 100, dwell_max_ms: 100 };
    let (mut room, mut out) = (room(), Vec::new());
    room.join(NOW, &rules, ShardIndex(0), None);
    assert_eq!(room.join(NOW, &rules, ShardIndex(0), None).level, 2);
    room.leave(NOW, &rules, ShardIndex(0));
    assert_eq!((room.level(), room.due()), (Level::L2, Some(Millis(NOW.0 + 100))));
    room.tick(Millis(NOW.0 + 99), &rules, &mut out);
    assert_eq!(room.level(), Level::L2);
    room.tick(Millis(NOW.0 + 100), &rules, &mut out);
    assert_eq!((room.level(), room.due()), (Level::L1, None));
    room.tick(Millis(NOW.0 + 200), &rules, &mut out);
    assert!(out.is_empty() && room.flow_is_forgotten());
}

#[test]
fn a_message_is_held_to_the_level_of_its_moment() {
    let mut rules = Policy::builtin();
    rules.levels = LevelRules { from: [1, 9, 9], dwell_ms: 100, dwell_max_ms: 100 };
    let (mut room, mut out) = (room(), Vec::new());
    room.join(NOW, &rules, ShardIndex(0), None);
    room.leave(NOW, &rules, ShardIndex(0));
    let category = *rules.category(CHAT).unwrap();
    let message =
        Publish { category: &category, kind: 0, payload: b"", sender: 0, key: 0, count: 0 };
    let mut passed = |ms| {
        let tries = (0..1_000).map(|_| room.publish(Millis(NOW.0 + ms), &rules, message, &mut out));
        tries.filter(|answer| matches!(answer, Admission::Admitted { .. })).count()
    };
    assert_eq!(passed(99), 400, "as an L2 room, which it has not ceased to be");
    assert_eq!(passed(100), 1_000, "as an L1 room, though nobody has ticked it");
}
