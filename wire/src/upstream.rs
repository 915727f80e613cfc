//! The upstream socket: what services say to the gateway and hear from it.

use crate::codec::{List, Tail, Text};
use crate::limits::{MULTICAST_USERS_MAX, REPLIES_MAX, SUBSCRIBE_CHANNELS_MAX, TOKEN_BYTES_MAX};
use crate::messages::{code, messages, record};
use crate::server::{CloseReason, Code};

/// Bytes of one `PublishReply`.
pub const PUBLISH_REPLY_BYTES: usize = 14;

/// `seconds` of a `Mute` or `Ban` that does not end by itself.
pub const SECONDS_FOREVER: u32 = u32::MAX;

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
    /// The word list has flagged a client's message and let it pass; comes as `Flagged`.
    pub const FLAGGED: u16 = 16;
    /// All of them.
    pub const ALL: u16 = CONNECT | DISCONNECT | JOIN | LEAVE | FLAGGED;
}

code! {
    /// When a publish is answered, and so what the answer promises.
    #[derive(Default)]
    pub enum AckMode: u8 {
        /// Never. It still counts against the credits until it is handled.
        None = 0,
        /// When the room's home has admitted and sequenced it, in memory: it survives everything
        /// but the end of the process.
        #[default]
        Accepted = 1,
        /// When it is on disk: written and synced (fdatasync) with everything that the room said
        /// before it. True after kill -9, and after a power cut as far as the disk keeps its word.
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
        /// With `Limited`: in how many milliseconds another try stands a chance. With `Merged`:
        /// 0 while it waits; with `AckMode::Stored`, the number of the message that carried it.
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
        /// To the members of a room, on behalf of a user: that user's mutes and quotas apply.
        137 => PublishFrom {
            /// About the message. Where combos are merged, `merge_key` is the gift.
            head: PublishHead,
            /// The room.
            room: u64,
            /// The user. Where combos are merged, with the gift it names the run.
            sender: u64,
            /// How many it adds to the run; 0 is taken as 1.
            count: u32,
            /// The message.
            payload: Tail<'a>,
        }
        /// Lets a user speak no more for a while.
        138 => Mute {
            /// Comes back in the reply.
            request: u32,
            /// The user.
            user: u64,
            /// The room; 0: the whole app.
            room: u64,
            /// How long; 0 lifts it, `SECONDS_FOREVER` never ends.
            seconds: u32,
        }
        /// Closes every connection of a user with `Banned`, and refuses new ones for a while.
        139 => Ban {
            /// Comes back in the reply.
            request: u32,
            /// The user.
            user: u64,
            /// As in `Mute`.
            seconds: u32,
            /// For the client to show.
            text: Text<'a>,
        }
        /// Asks for messages of any room of the app, as they were; answered by up to `count`
        /// `Past` and then one `PastEnd`, which gives the credit back.
        140 => History {
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
        /// One message of the history, as it was. Not numbered among the room's frames.
        199 => Past {
            /// The `History` that asked for it.
            request: u32,
            /// The epoch in which `seq` counts.
            epoch: u64,
            /// Its number.
            seq: u64,
            /// When the room said it: Unix time in milliseconds.
            time_ms: u64,
            /// The kind that it was sent as: `server::PAST_MESSAGE`, `PAST_COMBO` or
            /// `PAST_STATE`. Fields which that frame lacks are 0.
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
        /// Ends a page of the history and gives back the credit.
        200 => PastEnd {
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
        /// A client's message that the word list has flagged and let pass. To subscribers with
        /// the bit `events::FLAGGED`.
        201 => Flagged {
            /// Names the connection.
            connection: u64,
            /// The user.
            user: u64,
            /// The room; 0 for an uplink.
            room: u64,
            /// The channel of an uplink, else 0.
            channel: u16,
            /// Where it is shown; 0 for an uplink.
            category: u16,
            /// The application's own type.
            kind: u16,
            /// The message.
            payload: Tail<'a>,
        }
    }
}
