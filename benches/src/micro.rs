//! Bodies of the micro benchmarks: what a core does for every message, frame or member.
//!
//! Each is a function of values that [`Wire`] or [`Rooms`] hold, so that a plain test calls it with
//! small inputs, and so that nothing is set up in a measured loop.

use barrage_router::{
    Admission, Alias, AppId, Frame, HistoryLimits, Joined, Millis, Policy, Publish, Room, RoomId,
    RoomKey, ShardIndex,
};
use barrage_wire::client::Cursor;
use barrage_wire::codec::Tail;
use barrage_wire::limits::{CLIENT_BODY_BYTES_MAX, SERVER_BODY_BYTES_MAX};
use barrage_wire::ws;
use barrage_wire::{ClientFrame, ServerFrame, split};

/// Bytes of a payload, as in the figures.
pub const PAYLOAD_BYTES: usize = 128;
/// Bytes that are unmasked at a time.
pub const MASKED_BYTES: usize = 1024;

const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
pub(crate) const ROOM: RoomKey = RoomKey { app: AppId(1), room: RoomId(7) };
pub(crate) const HISTORY: HistoryLimits = HistoryLimits { frames_max: 256, bytes_max: 64 * 1024 };
/// Stream, in the built-in policy: nothing limits or merges it.
const CATEGORY: u16 = 7;

/// Frames to encode and decode, and a buffer that is used again.
#[derive(Debug)]
pub struct Wire {
    payload: Vec<u8>,
    message: Vec<u8>,
    from_client: Vec<u8>,
    masked: Vec<u8>,
    out: Vec<u8>,
}

impl Wire {
    /// With payloads of so many bytes, and so many bytes to unmask.
    pub fn new(payload_bytes: usize, masked_bytes: usize) -> Self {
        let payload = vec![0xa5; payload_bytes];
        let message = message(&payload).to_vec();
        let from_client: Vec<u8> =
            client_frames(&payload).iter().flat_map(|f| f.to_vec()).collect();
        Self { payload, message, from_client, masked: vec![0x5a; masked_bytes], out: Vec::new() }
    }

    /// Encodes a room message; the bytes of the frame.
    pub fn encode_message(&mut self) -> usize {
        self.out.clear();
        message(&self.payload).encode(&mut self.out);
        self.out.len()
    }

    /// Decodes a room message; the bytes of its payload.
    pub fn decode_message(&self) -> usize {
        let mut bytes = &self.message[..];
        let frame = split(&mut bytes, SERVER_BODY_BYTES_MAX).expect("short").expect("whole");
        // All of its fields are wanted, or the compiler would leave out reading them.
        match std::hint::black_box(ServerFrame::decode(frame).expect("we encoded it")) {
            ServerFrame::Message { payload, .. } => payload.0.len(),
            other => unreachable!("we encoded no {}", other.name()),
        }
    }

    /// Encodes one join, publish, uplink and ping; the bytes of the frames.
    pub fn encode_client_frames(&mut self) -> usize {
        self.out.clear();
        for frame in client_frames(&self.payload) {
            frame.encode(&mut self.out);
        }
        self.out.len()
    }

    /// Decodes what `encode_client_frames` makes; how many frames it was.
    pub fn decode_client_frames(&self) -> usize {
        let mut bytes = &self.from_client[..];
        let mut frames = 0;
        while let Some(frame) = split(&mut bytes, CLIENT_BODY_BYTES_MAX).expect("short") {
            std::hint::black_box(ClientFrame::decode(frame).expect("we encoded it"));
            frames += 1;
        }
        frames
    }

    /// Unmasks what a browser sent, or masks it again; its first byte.
    pub fn unmask(&mut self) -> u8 {
        ws::apply_mask(&mut self.masked, MASK);
        self.masked[0]
    }
}

/// A room and what is said in it.
#[derive(Debug)]
pub struct Rooms {
    room: Room,
    policy: Policy,
    payload: Vec<u8>,
    now: Millis,
    out: Vec<Frame>,
}

impl Rooms {
    /// A room with so many members on each of so many shards.
    pub fn new(shards: u16, members_per_shard: u32, payload_bytes: usize) -> Self {
        let policy = Policy::builtin();
        let room = room_of(&policy, shards, members_per_shard);
        let payload = vec![0xa5; payload_bytes];
        Self { room, policy, payload, now: Millis(1), out: Vec::new() }
    }

    /// One message gets its number, is encoded and remembered; its number.
    pub fn publish(&mut self) -> u64 {
        self.now.0 += 1;
        let category = self.policy.category(CATEGORY).expect("the built-in policy has stream");
        let payload = &self.payload;
        let message = Publish { category, kind: 0, payload, sender: 0, key: 0, count: 0 };
        self.out.clear();
        match self.room.publish(self.now, &self.policy, message, &mut self.out) {
            Admission::Admitted { seq } => seq,
            Admission::Merged | Admission::Limited { .. } => 0,
        }
    }

    /// One member comes to the first shard and goes again; the members in between.
    pub fn join_and_leave(&mut self) -> u32 {
        self.now.0 += 1;
        let Joined { members, .. } = self.room.join(self.now, &self.policy, ShardIndex(0), None);
        self.room.leave(self.now, &self.policy, ShardIndex(0));
        members
    }
}

/// A room with so many members on each of so many shards.
pub(crate) fn room_of(policy: &Policy, shards: u16, members_per_shard: u32) -> Room {
    let mut room = Room::new(ROOM, Alias(1), 1, HISTORY);
    for shard in (0..shards).map(ShardIndex) {
        for _ in 0..members_per_shard {
            room.join(Millis(0), policy, shard, None);
        }
    }
    room
}

fn message(payload: &[u8]) -> ServerFrame<'_> {
    ServerFrame::Message { alias: 7, seq: 42, category: CATEGORY, kind: 0, payload: Tail(payload) }
}

fn client_frames(payload: &[u8]) -> [ClientFrame<'_>; 4] {
    let (request, payload) = (1, Tail(payload));
    [
        ClientFrame::Join { request, cursor: Cursor { room: 7, epoch: 0, seq: 0 } },
        ClientFrame::Publish { request, alias: 7, category: CATEGORY, kind: 0, payload },
        ClientFrame::Uplink { request, channel: 1, kind: 0, payload },
        ClientFrame::Ping { nonce: 9 },
    ]
}

#[cfg(test)]
mod tests {
    use barrage_wire::server::MESSAGE_OVERHEAD_BYTES;

    use super::*;

    #[test]
    fn the_wire_bodies_do_what_they_say() {
        let mut wire = Wire::new(16, 33);
        assert_eq!(wire.encode_message(), MESSAGE_OVERHEAD_BYTES + 16);
        assert_eq!(wire.decode_message(), 16);
        assert_eq!(wire.encode_client_frames(), wire.from_client.len());
        assert_eq!(wire.decode_client_frames(), 4);
        assert_eq!(wire.unmask(), 0x5a ^ MASK[0]);
        assert_eq!(wire.unmask(), 0x5a);
    }

    #[test]
    fn the_room_bodies_do_what_they_say() {
        let mut rooms = Rooms::new(3, 2, 16);
        // More than the history holds, so that forgetting is part of it.
        for seq in 1..=u64::from(HISTORY.frames_max) + 5 {
            assert_eq!(rooms.publish(), seq);
        }
        for _ in 0..3 {
            assert_eq!(rooms.join_and_leave(), 7);
        }
        assert_eq!(rooms.room.members(), 6);
    }
}
