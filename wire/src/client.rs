//! What a client says.

use crate::codec::{List, Tail, Text};
use crate::limits::{RESUME_CURSORS_MAX, TOKEN_BYTES_MAX};
use crate::messages::{code, messages, record};

record! {
    /// How far a client has read a room: what it wants to go on from.
    pub struct Cursor {
        /// The room.
        room: u64,
        /// The epoch in which `seq` counts; 0 when the client has none.
        epoch: u64,
        /// The last sequence number that the client has.
        seq: u64,
    }
}

code! {
    /// What the client runs on. A user may hold so many connections per platform.
    pub enum Platform: u8 {
        /// Not said.
        Unknown = 0,
        /// iOS.
        Ios = 1,
        /// Android.
        Android = 2,
        /// A browser.
        Web = 3,
        /// A desktop program.
        Desktop = 4,
        /// A program without a user in front of it.
        Bot = 5,
    }
}

messages! {
    /// Frames from a client to the gateway.
    pub enum ClientFrame<'a> {
        /// The first frame of a connection.
        1 => Hello {
            /// `limits::PROTOCOL_VERSION` of the client.
            version: u16,
            /// The tenant.
            app: u32,
            /// Names the device among the user's.
            device: u64,
            /// What the client runs on.
            platform: Platform,
            /// Rooms to join at once, each from where the client left off.
            resume: List<'a, Cursor, RESUME_CURSORS_MAX>,
            /// Says who the user is.
            token: Text<'a, TOKEN_BYTES_MAX>,
        }
        /// Become a member of a room; answered by `Joined` or `Reply`.
        2 => Join {
            /// Comes back in the answer.
            request: u32,
            /// The room, and where to go on from (epoch 0: from now).
            cursor: Cursor,
        }
        /// Stop being a member; answered by `Reply`.
        3 => Leave {
            /// Comes back in the answer.
            request: u32,
            /// The room.
            room: u64,
        }
        /// Say something in a room that the client is a member of; answered by `Reply`.
        4 => Publish {
            /// Comes back in the answer.
            request: u32,
            /// The room's alias, from `Joined`.
            alias: u32,
            /// Where it is shown; see the policy.
            category: u16,
            /// The application's own type.
            kind: u16,
            /// The message.
            payload: Tail<'a>,
        }
        /// Say something to the upstream of a channel; answered by `Reply`.
        5 => Uplink {
            /// Comes back in the answer.
            request: u32,
            /// The channel.
            channel: u16,
            /// The application's own type.
            kind: u16,
            /// The message.
            payload: Tail<'a>,
        }
        /// Everything up to this inbox sequence number has arrived.
        6 => Ack {
            /// The highest that has arrived. One that was skipped is gone and not waited for.
            inbox_seq: u64,
        }
        /// Asks for a `Pong`, and keeps the connection alive.
        7 => Ping {
            /// Comes back in the `Pong`.
            nonce: u64,
        }
        /// Asks for messages of a room that the client is a member of, as they were; answered by
        /// up to `count` `Past` and then one `PastEnd`.
        8 => History {
            /// Comes back in every frame of the answer.
            request: u32,
            /// The room.
            room: u64,
            /// The epoch in which `from` counts; 0: begin by time.
            epoch: u64,
            /// The first number that is wanted; without an epoch it means nothing.
            from: u64,
            /// Without an epoch: begin with the first message at or after this Unix time in
            /// milliseconds; 0: with the oldest that there is.
            since_ms: u64,
            /// Messages wanted at most; more than `limits::HISTORY_PAGE_MAX` is taken as that.
            count: u16,
        }
    }
}
