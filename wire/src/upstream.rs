//! The upstream socket: what services say to the gateway and hear from it.

use crate::codec::{List, Tail, Text};
use crate::limits::{MULTICAST_USERS_MAX, REPLIES_MAX, SUBSCRIBE_CHANNELS_MAX, TOKEN_BYTES_MAX};
use crate::messages::{code, messages, record};
use crate::server::{CloseReason, Code};

/// Bytes of one `PublishReply`.
pub const PUBLISH_REPLY_BYTES: usize = 14;

/// Bits of `Subscribe::events`.
pub mod events {
    /// A client said HELLO.
    pub const CONNECT: u16 = 1;
    /// A client's connection ended.
    pub const DISCONNECT: u16 = 2;
    /// A client became a member of a room.
    pub const JOIN: u16 = 4;
    /// A client stopped being a member.
    pub const LEAVE: u16 = 8;
    /// All of them.
    pub const ALL: u16 = CONNECT | DISCONNECT | JOIN | LEAVE;
}

code! {
    /// When a publish is answered, and so what the answer promises.
    #[derive(Default)]
    pub enum AckMode: u8 {
        /// Never. It still counts against the credits until it is handled.
        None = 0,
        /// When the home has admitted and sequenced it, in memory.
        #[default]
        Accepted = 1,
        /// When it is in the history log, flushed by the stated policy.
        Stored = 2,
    }
}

code! {
    /// What happened to a client.
    pub enum EventKind: u8 {
        /// Said HELLO.
        Connect = 1,
        /// Connection ended.
        Disconnect = 2,
        /// Became a member.
        Join = 3,
        /// Stopped being a member.
        Leave = 4,
    }
}

record! {
    /// What every publish says about its message.
    pub struct PublishHead {
        /// Comes back in the reply.
        request: u32,
        /// When to reply.
        ack: AckMode,
        /// Where clients show it, and with that its class.
        category: u16,
        /// The application's own type.
        kind: u16,
        /// Not to be admitted later than this after it arrived, in milliseconds; 0: no limit.
        ttl_ms: u32,
        /// Messages of one merge key may be merged, by the category's rule; 0: none.
        merge_key: u64,
        /// A repeat with the same key is answered and not published again; 0: none.
        idempotency_key: u128,
    }
}

record! {
    /// How one publish ended.
    pub struct PublishReply {
        /// The request.
        request: u32,
        /// How it ended.
        code: Code,
        /// Room: the sequence number. User, users and app: the connections it was handed to.
        seq: u64,
    }
}

messages! {
    /// Frames from an upstream service to the gateway.
    pub enum UpstreamFrame<'a> {
        /// The first frame of a connection.
        128 => Hello {
            /// `limits::PROTOCOL_VERSION` of the service.
            version: u16,
            /// The tenant.
            app: u32,
            /// Says that the service may speak for the tenant.
            token: Text<'a, TOKEN_BYTES_MAX>,
            /// The service's name, for logs.
            name: Text<'a>,
        }
        /// To the members of a room.
        129 => PublishRoom {
            /// About the message.
            head: PublishHead,
            /// The room.
            room: u64,
            /// The message.
            payload: Tail<'a>,
        }
        /// To every connection of a user.
        130 => PublishUser {
            /// About the message.
            head: PublishHead,
            /// The user.
            user: u64,
            /// The message.
            payload: Tail<'a>,
        }
        /// To every connection of each user of a list.
        131 => PublishUsers {
            /// About the message.
            head: PublishHead,
            /// The users.
            users: List<'a, u64, MULTICAST_USERS_MAX>,
            /// The message.
            payload: Tail<'a>,
        }
        /// To every connection of the app.
        132 => PublishApp {
            /// About the message.
            head: PublishHead,
            /// The message.
            payload: Tail<'a>,
        }
        /// Asks for events and uplinks. The latest one counts.
        133 => Subscribe {
            /// Bits of `events`.
            events: u16,
            /// Subscribers of one group share uplinks and events; empty: each gets all events,
            /// and uplinks are shared among the subscribers without a group.
            group: Text<'a>,
            /// Uplink channels that are served here.
            channels: List<'a, u16, SUBSCRIBE_CHANNELS_MAX>,
        }
        /// Answers an `Uplink`.
        134 => UplinkReply {
            /// From the `Uplink`.
            ticket: u128,
            /// How it ended.
            code: Code,
            /// For the client.
            payload: Tail<'a>,
        }
        /// Closes every connection of a user.
        135 => Kick {
            /// Comes back in the reply.
            request: u32,
            /// The user.
            user: u64,
            /// For the client to show.
            text: Text<'a>,
        }
        /// Asks for a `Pong`, and keeps the connection alive.
        136 => Ping {
            /// Comes back in the `Pong`.
            nonce: u64,
        }
    }
}

messages! {
    /// Frames from the gateway to an upstream service.
    pub enum GatewayFrame<'a> {
        /// The answer to `Hello`.
        192 => Welcome {
            /// The version that the gateway speaks.
            version: u16,
            /// Silence for longer than this many seconds, and somebody should ping.
            heartbeat_s: u16,
            /// Publishes that may be unanswered at any time.
            credits: u32,
        }
        /// How publishes ended. Each gives one credit back.
        193 => Replies {
            /// In the order they were finished in.
            replies: List<'a, PublishReply, REPLIES_MAX>,
            /// Credits given back for publishes with `AckMode::None`.
            silent: u32,
        }
        /// Something happened to a client.
        194 => Event {
            /// What.
            event: EventKind,
            /// Names the connection.
            connection: u64,
            /// The user.
            user: u64,
            /// The device.
            device: u64,
            /// The platform.
            platform: u8,
            /// The room of a join or leave, else 0.
            room: u64,
            /// The client's address: IPv6, or IPv4 mapped into it.
            address: u128,
            /// The client's port.
            port: u16,
            /// Why, for a disconnect.
            reason: CloseReason,
        }
        /// A client says something on a channel.
        195 => Uplink {
            /// To be given back in `UplinkReply`.
            ticket: u128,
            /// Names the connection.
            connection: u64,
            /// The user.
            user: u64,
            /// The channel.
            channel: u16,
            /// The application's own type.
            kind: u16,
            /// The message.
            payload: Tail<'a>,
        }
        /// Events and uplinks that were left out because this subscriber did not read.
        196 => Lost {
            /// Events since the last `Lost`.
            events: u64,
            /// Uplinks since the last `Lost`; each client was answered `Overloaded`.
            uplinks: u64,
        }
        /// The answer to `Ping`.
        197 => Pong {
            /// From the `Ping`.
            nonce: u64,
        }
        /// The last frame of a connection.
        198 => Close {
            /// Why.
            reason: CloseReason,
            /// For a person to read.
            text: Text<'a>,
        }
    }
}
