//! What the gateway says to a client.

use crate::codec::{List, Tail, Text};
use crate::frame::FRAME_HEADER_BYTES;
use crate::limits::REDIRECT_ADDRESSES_MAX;
use crate::messages::{code, messages};

/// How many classes there are: P0, P1, P2, P3.
pub const CLASSES: usize = 4;

/// Bytes of a `Message` frame in front of its payload, the frame header included.
pub const MESSAGE_OVERHEAD_BYTES: usize = FRAME_HEADER_BYTES + 16;
/// Bytes of a `Combo` frame in front of its payload, the frame header included.
pub const COMBO_OVERHEAD_BYTES: usize = FRAME_HEADER_BYTES + 45;
/// Bytes of a `State` or `Snapshot` frame in front of its payload, the frame header included.
pub const STATE_OVERHEAD_BYTES: usize = FRAME_HEADER_BYTES + 24;
/// Bytes of a `Past` frame in front of its payload, the frame header included.
pub const PAST_OVERHEAD_BYTES: usize = FRAME_HEADER_BYTES + 62;

/// Bit of `Combo::flags`: the run has ended.
pub const COMBO_FINAL: u8 = 1;
/// Bit of `Direct::flags`: the client must `Ack` it.
pub const DIRECT_ACK: u8 = 1;
/// Bit of `Direct::flags`: it was sent before, so the client may have it already.
pub const DIRECT_REPEAT: u8 = 2;

/// `Past::frame` of what was sent as `Message`.
pub const PAST_MESSAGE: u8 = 66;
/// `Past::frame` of what was sent as `Combo`.
pub const PAST_COMBO: u8 = 74;
/// `Past::frame` of what was sent as `State`.
pub const PAST_STATE: u8 = 75;

code! {
    /// How a request ended.
    #[derive(Default)]
    pub enum Code: u16 {
        /// It was done.
        #[default]
        Ok = 0,
        /// It was done before: the idempotency key was seen.
        Duplicate = 1,
        /// The category's limit is reached; `seq` says in how many milliseconds another try
        /// stands a chance.
        Limited = 2,
        /// The gateway is too busy; try again later.
        Overloaded = 3,
        /// The client is not a member of that room.
        NotMember = 4,
        /// The client is a member already.
        AlreadyMember = 5,
        /// The client is a member of as many rooms as it may be.
        TooManyRooms = 6,
        /// The token does not allow it.
        Forbidden = 7,
        /// Nobody upstream serves this channel.
        NoUpstream = 8,
        /// The upstream did not answer in time, or went away.
        NoAnswer = 9,
        /// The policy has no such category.
        UnknownCategory = 10,
        /// The user has no connection here.
        Offline = 11,
        /// This version of the gateway does not do that yet.
        Unsupported = 12,
        /// The message outlived its time to live before it could be sent.
        Expired = 13,
        /// The upstream refused; the payload says why.
        Refused = 14,
        /// It is part of a message that goes out later, or went out.
        Merged = 15,
        /// The user may not speak here for now.
        Muted = 16,
        /// It is not in the history, which cannot take it now or at all.
        Unstored = 17,
        /// The user has no connection; it waits in the inbox.
        Kept = 18,
    }
}

code! {
    /// Why the gateway closes a connection.
    pub enum CloseReason: u16 {
        /// The peer went away.
        PeerClosed = 0,
        /// The peer's bytes are not the protocol.
        Protocol = 1,
        /// The peer speaks another version.
        Version = 2,
        /// The token is not good.
        Token = 3,
        /// No HELLO in time.
        HelloTimeout = 4,
        /// A frame was not finished in time.
        FrameTimeout = 5,
        /// Nothing was heard for too long.
        Idle = 6,
        /// The peer does not read what it is sent.
        SlowReader = 7,
        /// The gateway is going away; connect again elsewhere.
        Draining = 8,
        /// The gateway has no place for another connection.
        Full = 9,
        /// More requests are outstanding than the credits allow.
        Credits = 10,
        /// The same user has connected from a newer device.
        Replaced = 11,
        /// An operator or an upstream has closed the connection.
        Kicked = 12,
        /// The socket failed.
        Socket = 13,
        /// The peer sends more than it may.
        RateLimited = 14,
        /// The user is banned.
        Banned = 15,
    }
}

messages! {
    /// Frames from the gateway to a client.
    pub enum ServerFrame<'a> {
        /// The answer to `Hello`.
        64 => Welcome {
            /// The version that the gateway speaks.
            version: u16,
            /// Silence for longer than this many seconds, and somebody should ping.
            heartbeat_s: u16,
            /// Names the connection in logs and events.
            connection: u64,
            /// Who the token says the user is.
            user: u64,
            /// Largest body that the client may send.
            body_bytes_max: u32,
            /// Rooms that one connection may join.
            rooms_max: u16,
            /// Hand this in at the next HELLO to go on where this connection ended.
            resume: Text<'a>,
        }
        /// The client is a member now.
        65 => Joined {
            /// The request that asked for it; 0 for a resume cursor of the HELLO.
            request: u32,
            /// The room's short name from here on.
            alias: u32,
            /// The room.
            room: u64,
            /// The epoch of the room's sequence.
            epoch: u64,
            /// Messages after this one follow.
            head: u64,
            /// The room's size band, 1 to 4.
            level: u8,
            /// Members at this moment.
            members: u32,
        }
        /// A message of a room.
        66 => Message {
            /// The room.
            alias: u32,
            /// One more than the message before it.
            seq: u64,
            /// Where it is shown.
            category: u16,
            /// The application's own type.
            kind: u16,
            /// The message.
            payload: Tail<'a>,
        }
        /// Messages that were left out for this client.
        67 => Shed {
            /// The room.
            alias: u32,
            /// The first of the range.
            first: u64,
            /// The last of the range.
            last: u64,
            /// How many of the range are left out, per class; the others follow.
            counts: [u32; CLASSES],
        }
        /// The client's cursor cannot be gone on from.
        68 => Reset {
            /// The room.
            alias: u32,
            /// The epoch now.
            epoch: u64,
            /// From this message of the epoch on nothing is missing, in memory or for `History`.
            oldest: u64,
            /// Messages after this one follow.
            head: u64,
        }
        /// The answer to a request.
        69 => Reply {
            /// The request.
            request: u32,
            /// How it ended.
            code: Code,
            /// The sequence number that a published message got, also for `Duplicate`; with
            /// `Limited`, in how many milliseconds another try stands a chance; with `Merged`, 0;
            /// else 0.
            seq: u64,
            /// What the upstream answered.
            payload: Tail<'a>,
        }
        /// A message for the user.
        70 => Direct {
            /// Its place in the user's inbox, one more than the one before; 0 when it has none.
            inbox_seq: u64,
            /// Where it is shown.
            category: u16,
            /// The application's own type.
            kind: u16,
            /// `DIRECT_ACK` and `DIRECT_REPEAT`.
            flags: u8,
            /// The message.
            payload: Tail<'a>,
        }
        /// Connect elsewhere.
        71 => Redirect {
            /// Spread over this long.
            delay_ms: u32,
            /// Where to; empty: ask the dispatcher.
            addresses: List<'a, Text<'a>, REDIRECT_ADDRESSES_MAX>,
        }
        /// The last frame of a connection.
        72 => Close {
            /// Why.
            reason: CloseReason,
            /// Do not come back sooner; 0: at once.
            retry_after_ms: u32,
            /// For a person to read.
            text: Text<'a>,
        }
        /// The answer to `Ping`.
        73 => Pong {
            /// From the `Ping`.
            nonce: u64,
        }
        /// Gifts that one sender has given one after the other. Numbered like `Message`.
        74 => Combo {
            /// The room.
            alias: u32,
            /// One more than the numbered frame before it.
            seq: u64,
            /// Where it is shown.
            category: u16,
            /// The application's own type.
            kind: u16,
            /// `COMBO_FINAL`.
            flags: u8,
            /// The user who gives.
            sender: u64,
            /// The gift: with `category` and `sender` it names the run.
            key: u64,
            /// How many this frame adds.
            count: u32,
            /// How many the run has so far, these included.
            total: u64,
            /// The message.
            payload: Tail<'a>,
        }
        /// The latest value of a key; values in between may have been left out. An empty one takes
        /// the key away. Numbered like `Message`.
        75 => State {
            /// The room.
            alias: u32,
            /// One more than the numbered frame before it.
            seq: u64,
            /// Where it is shown.
            category: u16,
            /// The application's own type.
            kind: u16,
            /// What it is the value of, within the category.
            key: u64,
            /// The value.
            payload: Tail<'a>,
        }
        /// The present value of a key, for somebody who cannot have followed it. Not numbered.
        76 => Snapshot {
            /// The room.
            alias: u32,
            /// The message as of which it is the value.
            seq: u64,
            /// Where it is shown.
            category: u16,
            /// The application's own type.
            kind: u16,
            /// What it is the value of, within the category.
            key: u64,
            /// The value.
            payload: Tail<'a>,
        }
        /// One message of the history, as it was. Not numbered among the room's frames.
        77 => Past {
            /// The `History` that asked for it.
            request: u32,
            /// The epoch in which `seq` counts.
            epoch: u64,
            /// Its number.
            seq: u64,
            /// When the room said it: Unix time in milliseconds.
            time_ms: u64,
            /// The kind that it was sent as: `PAST_MESSAGE`, `PAST_COMBO` or `PAST_STATE`.
            /// Fields which that frame lacks are 0.
            frame: u8,
            /// Where it is shown.
            category: u16,
            /// The application's own type.
            kind: u16,
            /// Of a `Combo`.
            flags: u8,
            /// Of a `Combo`.
            sender: u64,
            /// Of a `Combo` or a `State`.
            key: u64,
            /// Of a `Combo`.
            count: u32,
            /// Of a `Combo`.
            total: u64,
            /// The message.
            payload: Tail<'a>,
        }
        /// Ends a page of the history.
        78 => PastEnd {
            /// The `History` that it answers.
            request: u32,
            /// How it ended.
            code: Code,
            /// The room's epoch now.
            epoch: u64,
            /// The number of that epoch from which on nothing is missing.
            oldest: u64,
            /// The newest number of that epoch.
            head: u64,
            /// The epoch in which the next page begins; 0: there is no more.
            next_epoch: u64,
            /// The number at which the next page begins.
            next: u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: ServerFrame<'_>, overhead_bytes: usize, past: Option<u8>) {
        let bytes = frame.to_vec();
        assert_eq!(bytes.len(), overhead_bytes, "{}", frame.name());
        if let Some(kind) = past {
            assert_eq!(bytes[4], kind, "{}", frame.name());
        }
    }

    #[test]
    fn overheads_and_kinds_are_those_of_the_encodings() {
        let (alias, seq, category, kind) = (1, 2, 3, 4);
        let (flags, sender, key, count, total) = (COMBO_FINAL, 5, 6, 7, 8);
        let (request, epoch, time_ms, frame) = (9, 10, 11, PAST_COMBO);
        let payload = Tail(&[]);
        let message = ServerFrame::Message { alias, seq, category, kind, payload };
        check(message, MESSAGE_OVERHEAD_BYTES, Some(PAST_MESSAGE));
        #[rustfmt::skip]
        let combo = ServerFrame::Combo {
            alias, seq, category, kind, flags, sender, key, count, total, payload,
        };
        check(combo, COMBO_OVERHEAD_BYTES, Some(PAST_COMBO));
        let state = ServerFrame::State { alias, seq, category, kind, key, payload };
        check(state, STATE_OVERHEAD_BYTES, Some(PAST_STATE));
        let snapshot = ServerFrame::Snapshot { alias, seq, category, kind, key, payload };
        check(snapshot, STATE_OVERHEAD_BYTES, None);
        #[rustfmt::skip]
        let past = ServerFrame::Past {
            request, epoch, seq, time_ms, frame, category, kind, flags, sender, key, count, total,
            payload,
        };
        check(past, PAST_OVERHEAD_BYTES, None);
    }
}
