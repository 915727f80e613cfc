//! A room, as its home sees it.

use barrage_wire::ServerFrame;
use barrage_wire::codec::Tail;
use barrage_wire::limits::PAYLOAD_BYTES_MAX;
use barrage_wire::server::MESSAGE_OVERHEAD_BYTES;
use bytes::Bytes;

use crate::category::Category;
use crate::frame::Frame;
use crate::history::{History, HistoryLimits};
use crate::ids::{Alias, Millis, RoomKey, ShardIndex};
use crate::level::Level;

/// How long a room without members is kept after anything has happened in it. Members that lost
/// their connection resume well within it.
pub const ROOM_IDLE_MS: u64 = 10 * 60 * 1000;
/// The same for a room in which nothing was ever said: there is nothing to come back to. Not at
/// once, so that its alias does not name another room while anybody might still mean this one.
pub const ROOM_UNUSED_MS: u64 = 10 * 1000;

/// How far a member has read: everything up to `seq` of `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch in which `seq` counts.
    pub epoch: u64,
    /// The last message read; 0 before the first.
    pub seq: u64,
}

impl Cursor {
    /// What a client says about where it left off, if it does: epoch 0 means that it has no cursor.
    pub fn from_wire(cursor: &barrage_wire::client::Cursor) -> Option<Self> {
        (cursor.epoch != 0).then_some(Self { epoch: cursor.epoch, seq: cursor.seq })
    }
}

/// What to tell somebody who has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The room's short name.
    pub alias: Alias,
    /// The epoch of its sequence.
    pub epoch: u64,
    /// The newest message. Frames after it will be mailed to the member's shard.
    pub head: u64,
    /// The size band, 1 to 4.
    pub level: u8,
    /// Members, the new one included.
    pub members: u32,
    /// How the member gets from its cursor to `head`.
    pub catch_up: CatchUp,
}

/// How a member gets from its cursor to the room's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Nothing was missed, or nothing was asked for.
    Live,
    /// Exactly these, from the one after the cursor to the head.
    Missed(Vec<Frame>),
    /// The cursor cannot be gone on from: another epoch, or too long ago. The member is told, and
    /// goes on from the head.
    Reset {
        /// The oldest message that is remembered; one past the head when none is.
        oldest: u64,
    },
}

/// A message that somebody wants to say.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// Where it is shown.
    pub category: &'a Category,
    /// The application's own type.
    pub kind: u16,
    /// At most `PAYLOAD_BYTES_MAX`.
    pub payload: &'a [u8],
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an admitted frame is to be mailed to the room's shards"]
pub enum Admission {
    /// It is part of the room now, and to be mailed to `Room::shards`.
    Admitted(Frame),
    /// Its category's limit is reached.
    Limited {
        /// It stands a chance after this long.
        retry_after_ms: u32,
    },
}

/// A room at its home: its sequence, its members by shard, and what it remembers.
///
/// Numbers start at 1 and have no gaps within an epoch. Whoever makes a room anew, after its home
/// forgot it or was restarted without its history, gives it an epoch that it never had before.
#[derive(Debug)]
pub struct Room {
    key: RoomKey,
    epoch: u64,
    head: u64,
    /// When somebody last joined, left or said something.
    touched: Millis,
    history: History,
    /// Members by shard, sorted; a shard without members is not in it. It is walked for every
    /// message and changed by every join, and seldom longer than the machine has cores.
    members_by_shard: Vec<(ShardIndex, u32)>,
    members: u32,
    alias: Alias,
}

impl Room {
    /// An empty room. `epoch` is not 0, which on the wire means that a client has no cursor.
    pub fn new(key: RoomKey, alias: Alias, epoch: u64, history: HistoryLimits) -> Self {
        assert_ne!(epoch, 0, "epoch 0 says that there is none");
        Self {
            key,
            epoch,
            head: 0,
            touched: Millis(0),
            history: History::new(history),
            members_by_shard: Vec::new(),
            members: 0,
            alias,
        }
    }

    /// A member on `shard` joins; counts it, and returns what to tell it.
    pub fn join(&mut self, now: Millis, shard: ShardIndex, cursor: Option<Cursor>) -> Joined {
        self.touched = now;
        self.members += 1;
        match self.members_by_shard.binary_search_by_key(&shard, |&(shard, _)| shard) {
            Ok(place) => self.members_by_shard[place].1 += 1,
            Err(place) => self.members_by_shard.insert(place, (shard, 1)),
        }
        Joined {
            alias: self.alias,
            epoch: self.epoch,
            head: self.head,
            level: self.level().number(),
            members: self.members,
            catch_up: cursor.map_or(CatchUp::Live, |cursor| self.catch_up(cursor)),
        }
    }

    /// A member on `shard` is gone. It must have joined: shards mail joins and leaves in order.
    pub fn leave(&mut self, now: Millis, shard: ShardIndex) {
        self.touched = now;
        let place = self
            .members_by_shard
            .binary_search_by_key(&shard, |&(shard, _)| shard)
            .expect("only a shard with members has one that leaves");
        self.members -= 1;
        self.members_by_shard[place].1 -= 1;
        if self.members_by_shard[place].1 == 0 {
            self.members_by_shard.remove(place);
        }
    }

    /// Admits a message or refuses it. An admitted one gets the next number, is encoded once for
    /// everybody, and is remembered.
    pub fn publish(&mut self, now: Millis, message: Publish<'_>) -> Admission {
        let Publish { category, kind, payload } = message;
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "payloads are checked when they are decoded");
        // Flow control goes here: the one place where a message can be refused, before it has a
        // number, so that a refusal leaves no gap.
        self.touched = now;
        self.head += 1;
        let frame = Frame {
            seq: self.head,
            class: category.class,
            never_drop: category.never_drop,
            bytes: self.encode(category.id, kind, payload),
        };
        self.history.push(frame.clone());
        Admission::Admitted(frame)
    }

    /// Shards with members, sorted: whom to mail each frame.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = ShardIndex> {
        self.members_by_shard.iter().map(|&(shard, _)| shard)
    }

    /// Members on all shards.
    pub fn members(&self) -> u32 {
        self.members
    }

    /// The size band.
    pub fn level(&self) -> Level {
        Level::of(self.members)
    }

    /// Which room it is.
    pub fn key(&self) -> RoomKey {
        self.key
    }

    /// Its short name.
    pub fn alias(&self) -> Alias {
        self.alias
    }

    /// The epoch of its sequence.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The newest message's number; 0 before the first.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// What it remembers.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Whether its home may forget it: no members, and nothing has happened for `ROOM_IDLE_MS`, or
    /// `ROOM_UNUSED_MS` when nothing was ever said.
    pub fn is_idle(&self, now: Millis) -> bool {
        let keep_ms = if self.head == 0 { ROOM_UNUSED_MS } else { ROOM_IDLE_MS };
        self.members == 0 && now.since(self.touched) >= keep_ms
    }

    fn catch_up(&self, cursor: Cursor) -> CatchUp {
        if cursor.epoch == self.epoch {
            if cursor.seq == self.head {
                return CatchUp::Live;
            }
            if let Some(missed) = self.history.since(cursor.seq) {
                return CatchUp::Missed(missed.cloned().collect());
            }
        }
        CatchUp::Reset { oldest: self.history.oldest().unwrap_or(self.head + 1) }
    }

    /// The vector is as long as the frame, so becoming `Bytes` moves it instead of copying it.
    fn encode(&self, category: u16, kind: u16, payload: &[u8]) -> Bytes {
        let frame_bytes = MESSAGE_OVERHEAD_BYTES + payload.len();
        let mut out = Vec::with_capacity(frame_bytes);
        let (alias, seq, payload) = (self.alias.0, self.head, Tail(payload));
        ServerFrame::Message { alias, seq, category, kind, payload }.encode(&mut out);
        debug_assert_eq!(out.len(), frame_bytes, "the wire crate states the overhead");
        Bytes::from(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::category::Policy;
    use crate::ids::{AppId, RoomId};
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
        match room.publish(NOW, Publish { category, kind: 9, payload }) {
            Admission::Admitted(frame) => frame,
            Admission::Limited { .. } => panic!("nothing is limited yet"),
        }
    }

    /// Somebody joins with `cursor` (epoch, seq) a room in which `said` messages were said.
    fn check(said: usize, cursor: Option<(u64, u64)>, expected: &str) {
        let mut room = room();
        (0..said).for_each(|_| drop(say(&mut room, CHAT, b"hello")));
        let cursor = cursor.map(|(epoch, seq)| Cursor { epoch, seq });
        let joined = room.join(NOW, ShardIndex(0), cursor);
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
            joins.iter().for_each(|&shard| drop(room.join(NOW, ShardIndex(shard), None)));
            leaves.iter().for_each(|&shard| room.leave(NOW, ShardIndex(shard)));
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
        room().leave(NOW, ShardIndex(0));
    }

    #[test]
    fn a_room_is_idle_when_empty_and_untouched_for_long() {
        let later = |ms| Millis(NOW.0 + ms);
        let mut room = room();
        room.join(NOW, ShardIndex(0), None);
        assert!(!room.is_idle(later(ROOM_UNUSED_MS)), "somebody is here");
        room.leave(NOW, ShardIndex(0));
        assert!(!room.is_idle(later(ROOM_UNUSED_MS - 1)));
        assert!(room.is_idle(later(ROOM_UNUSED_MS)), "nothing was ever said");
        room.join(NOW, ShardIndex(0), None);
        let policy = Policy::builtin();
        let category = policy.category(4).unwrap();
        let _ = room.publish(NOW, Publish { category, kind: 0, payload: b"" });
        assert!(!room.is_idle(later(ROOM_IDLE_MS)), "somebody is here");
        room.leave(NOW, ShardIndex(0));
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
    }
}
