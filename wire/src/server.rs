//! What the gateway says to a client.

use crate::codec::{List, Tail, Text};
use crate::frame::FRAME_HEADER_BYTES;
use crate::limits::REDIRECT_ADDRESSES_MAX;
use crate::messages::{code, messages};

/// How many classes there are: P0, P1, P2, P3.
pub const CLASSES: usize = 4;

/// Bytes of a `Message` frame in front of its payload, the frame header included.
pub const MESSAGE_OVERHEAD_BYTES: usize = FRAME_HEADER_BYTES + 16;

code! {
    /// How a request ended.
    #[derive(Default)]
    pub enum Code: u16 {
        /// It was done.
        #[default]
        Ok = 0,
        /// It was done before: the idempotency key was seen.
        Duplicate = 1,
        /// The category's limit is reached; try again later.
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
            /// The oldest message that there is.
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
            /// The sequence number that a published message got, else 0.
            seq: u64,
            /// What the upstream answered.
            payload: Tail<'a>,
        }
        /// A message for the user.
        70 => Direct {
            /// Its place in the user's inbox; 0 when it has none.
            inbox_seq: u64,
            /// Where it is shown.
            category: u16,
            /// The application's own type.
            kind: u16,
            /// Bit 0: the client must `Ack` it.
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
    }
}
