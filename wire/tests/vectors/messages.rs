//! One vector at least for every message; the matches name every field, so that a new one without
//! a vector does not compile.

use barrage_wire::client::{Cursor, Platform};
use barrage_wire::codec::DecodeError;
use barrage_wire::frame::{RawFrame, split};
use barrage_wire::fuzz::Direction;
use barrage_wire::server::{
    COMBO_FINAL, CloseReason, Code, DIRECT_ACK, DIRECT_REPEAT, PAST_COMBO, PAST_MESSAGE, PAST_STATE,
};
use barrage_wire::upstream::{
    AckMode, EventKind, PublishHead, PublishReply, SECONDS_FOREVER, events,
};
use barrage_wire::{ClientFrame, GatewayFrame, List, ServerFrame, Tail, Text, UpstreamFrame};
use serde_json::{Value, json};

use super::json::{field, from_hex, hex};

pub fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Client => "client to gateway",
        Direction::Server => "gateway to client",
        Direction::Upstream => "upstream to gateway",
        Direction::Gateway => "gateway to upstream",
    }
}

pub fn all() -> Vec<Value> {
    let mut vectors: Vec<Value> = client().iter().map(client_vector).collect();
    vectors.extend(server().iter().map(server_vector));
    vectors.extend(upstream().iter().map(upstream_vector));
    vectors.extend(gateway().iter().map(gateway_vector));
    vectors
}

/// The enumerations, so that an SDK can check its names, too.
pub fn codes() -> Vec<Value> {
    macro_rules! codes {
        ($($name:ident),*) => {
            vec![$(json!({
                "enum": stringify!($name),
                "values": $name::ALL.iter().map(|value| json!([value.name(), *value as u16]))
                    .collect::<Vec<_>>(),
            })),*]
        };
    }
    codes!(Platform, AckMode, EventKind, Code, CloseReason)
}

/// A function that makes an entry of a message: its name, fields in wire order, and bytes, after
/// checking that the bytes decode to the message.
macro_rules! vector {
    ($function:ident, $enum:ident, $direction:expr, {
        $($variant:ident { $($field:ident),* })*
    }) => {
        fn $function(message: &$enum<'_>) -> Value {
            let fields: Vec<Value> = match message {
                $($enum::$variant { $($field),* } => {
                    vec![$(field(stringify!($field), $field)),*]
                })*
            };
            let bytes = message.to_vec();
            let text = hex(&bytes);
            let stored = from_hex(&text);
            let decoded: Result<$enum<'_>, DecodeError> = $enum::decode(only(&stored, $direction));
            assert_eq!(decoded.as_ref(), Ok(message), "it decodes to what was encoded");
            json!({
                "direction": direction_name($direction),
                "message": message.name(),
                "kind": bytes[4],
                "fields": fields,
                "hex": text,
            })
        }
    };
}

fn only(bytes: &[u8], direction: Direction) -> RawFrame<'_> {
    let mut rest = bytes;
    let frame = split(&mut rest, direction.body_bytes_max()).unwrap().unwrap();
    assert!(rest.is_empty(), "one frame and nothing else");
    frame
}

vector!(client_vector, ClientFrame, Direction::Client, {
    Hello { version, app, device, platform, resume, token }
    Join { request, cursor }
    Leave { request, room }
    Publish { request, alias, category, kind, payload }
    Uplink { request, channel, kind, payload }
    Ack { inbox_seq }
    Ping { nonce }
    History { request, room, epoch, from, since_ms, count }
});

vector!(server_vector, ServerFrame, Direction::Server, {
    Welcome { version, heartbeat_s, connection, user, body_bytes_max, rooms_max, resume }
    Joined { request, alias, room, epoch, head, level, members }
    Message { alias, seq, category, kind, payload }
    Shed { alias, first, last, counts }
    Reset { alias, epoch, oldest, head }
    Reply { request, code, seq, payload }
    Direct { inbox_seq, category, kind, flags, payload }
    Redirect { delay_ms, addresses }
    Close { reason, retry_after_ms, text }
    Pong { nonce }
    Combo { alias, seq, category, kind, flags, sender, key, count, total, payload }
    State { alias, seq, category, kind, key, payload }
    Snapshot { alias, seq, category, kind, key, payload }
    Past {
        request, epoch, seq, time_ms, frame, category, kind, flags, sender, key, count, total,
        payload
    }
    PastEnd { request, code, epoch, oldest, head, next_epoch, next }
});

vector!(upstream_vector, UpstreamFrame, Direction::Upstream, {
    Hello { version, app, token, name }
    PublishRoom { head, room, payload }
    PublishUser { head, user, payload }
    PublishUsers { head, users, payload }
    PublishApp { head, payload }
    Subscribe { events, group, channels }
    UplinkReply { ticket, code, payload }
    Kick { request, user, text }
    Ping { nonce }
    PublishFrom { head, room, sender, count, payload }
    Mute { request, user, room, seconds }
    Ban { request, user, seconds, text }
    History { request, room, epoch, from, since_ms, count }
});

vector!(gateway_vector, GatewayFrame, Direction::Gateway, {
    Welcome { version, heartbeat_s, credits }
    Replies { replies, silent }
    Event { event, connection, user, device, platform, room, address, port, reason }
    Uplink { ticket, connection, user, channel, kind, payload }
    Lost { events, uplinks }
    Pong { nonce }
    Close { reason, text }
    Past {
        request, epoch, seq, time_ms, frame, category, kind, flags, sender, key, count, total,
        payload
    }
    PastEnd { request, code, epoch, oldest, head, next_epoch, next }
    Flagged { connection, user, room, channel, category, kind, payload }
});

/// Over 2^53, so that an SDK that keeps it in a double fails.
const ROOM: u64 = 9_007_199_254_740_993;
const EPOCH: u64 = 0x0102_0304_0506_0708;
const CURSOR: Cursor = Cursor { room: ROOM, epoch: EPOCH, seq: 41 };
const FRESH: Cursor = Cursor { room: 7, epoch: 0, seq: 0 };
const HEAD: PublishHead = PublishHead {
    request: 11,
    ack: AckMode::Accepted,
    category: 3,
    kind: 1001,
    ttl_ms: 5_000,
    merge_key: 0xfeed,
    idempotency_key: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
};
const QUIET: PublishHead = PublishHead {
    request: 0,
    ack: AckMode::None,
    category: 1,
    kind: 0,
    ttl_ms: 0,
    merge_key: 0,
    idempotency_key: 0,
};
const STORED: PublishHead = PublishHead { ack: AckMode::Stored, ..HEAD };
const CHAT: Tail<'static> = Tail("弹幕".as_bytes());
/// In July 2025.
const NOW_MS: u64 = 1_753_000_000_123;
/// 2001:db8::1 and 192.0.2.1 mapped into IPv6.
const ADDRESS_6: u128 = 0x2001_0db8_0000_0000_0000_0000_0000_0001;
const ADDRESS_4: u128 = 0xffff_c000_0201;

/// A message of the history; clients and services get the same fields.
macro_rules! past {
    ($enum:ident, $seq:expr, $frame:expr, $flags:expr, $sender:expr, $key:expr, $count:expr,
        $total:expr) => {
        $enum::Past {
            request: 7,
            epoch: EPOCH,
            seq: $seq,
            time_ms: NOW_MS,
            frame: $frame,
            category: 3,
            kind: 1001,
            flags: $flags,
            sender: $sender,
            key: $key,
            count: $count,
            total: $total,
            payload: CHAT,
        }
    };
}

fn client() -> Vec<ClientFrame<'static>> {
    vec![
        ClientFrame::Hello {
            version: 1,
            app: 1,
            device: 5,
            platform: Platform::Web,
            resume: List::new(&[]),
            token: Text("open:1001"),
        },
        ClientFrame::Hello {
            version: 1,
            app: 0xdead_beef,
            device: u64::MAX,
            platform: Platform::Android,
            resume: List::new(&[CURSOR, FRESH]),
            token: Text("open:18446744073709551615"),
        },
        ClientFrame::Join { request: 1, cursor: FRESH },
        ClientFrame::Join { request: 2, cursor: CURSOR },
        ClientFrame::Leave { request: 3, room: ROOM },
        ClientFrame::Publish { request: 4, alias: 2, category: 3, kind: 1001, payload: CHAT },
        ClientFrame::Publish { request: 5, alias: 2, category: 3, kind: 0, payload: Tail(&[]) },
        ClientFrame::Uplink { request: 6, channel: 9, kind: 77, payload: Tail(&[0, 255, 10]) },
        ClientFrame::Ack { inbox_seq: ROOM },
        ClientFrame::Ping { nonce: 0x1122_3344_5566_7788 },
        ClientFrame::History {
            request: 7,
            room: ROOM,
            epoch: EPOCH,
            from: 42,
            since_ms: 0,
            count: 50,
        },
        ClientFrame::History {
            request: 8,
            room: 7,
            epoch: 0,
            from: 0,
            since_ms: NOW_MS,
            count: 1_000,
        },
    ]
}

fn server() -> Vec<ServerFrame<'static>> {
    const ADDRESSES: &[Text<'static>] = &[Text("192.0.2.1:7000"), Text("[2001:db8::1]:7000")];
    vec![
        ServerFrame::Welcome {
            version: 1,
            heartbeat_s: 120,
            connection: EPOCH,
            user: 1001,
            body_bytes_max: 16_512,
            rooms_max: 64,
            resume: Text(""),
        },
        ServerFrame::Joined {
            request: 1,
            alias: 2,
            room: ROOM,
            epoch: EPOCH,
            head: 41,
            level: 1,
            members: 2_000,
        },
        ServerFrame::Message { alias: 2, seq: 42, category: 3, kind: 1001, payload: CHAT },
        ServerFrame::Shed { alias: 2, first: 43, last: 50, counts: [0, 0, 2, 5] },
        ServerFrame::Reset { alias: 2, epoch: EPOCH + 1, oldest: 1, head: 9 },
        ServerFrame::Reply { request: 4, code: Code::Ok, seq: 42, payload: Tail(&[]) },
        ServerFrame::Reply { request: 6, code: Code::Refused, seq: 0, payload: Tail(b"no") },
        ServerFrame::Direct { inbox_seq: 1, category: 2, kind: 5, flags: 1, payload: CHAT },
        ServerFrame::Redirect { delay_ms: 3_000, addresses: List::new(ADDRESSES) },
        ServerFrame::Redirect { delay_ms: 0, addresses: List::new(&[]) },
        ServerFrame::Close {
            reason: CloseReason::SlowReader,
            retry_after_ms: 1_000,
            text: Text("读得太慢"),
        },
        ServerFrame::Pong { nonce: 0x1122_3344_5566_7788 },
        ServerFrame::Reply { request: 5, code: Code::Limited, seq: 1_500, payload: Tail(&[]) },
        ServerFrame::Reply { request: 5, code: Code::Muted, seq: 0, payload: Tail(&[]) },
        ServerFrame::Direct {
            inbox_seq: ROOM,
            category: 2,
            kind: 5,
            flags: DIRECT_ACK | DIRECT_REPEAT,
            payload: CHAT,
        },
        ServerFrame::Close { reason: CloseReason::Banned, retry_after_ms: 0, text: Text("banned") },
        combo(43, 0, 5, 5),
        combo(44, COMBO_FINAL, 2, 7),
        ServerFrame::State { alias: 2, seq: 45, category: 6, kind: 30, key: 9, payload: CHAT },
        ServerFrame::State { alias: 2, seq: 46, category: 6, kind: 30, key: 9, payload: Tail(&[]) },
        ServerFrame::Snapshot { alias: 2, seq: 45, category: 6, kind: 30, key: 9, payload: CHAT },
        past!(ServerFrame, 42, PAST_MESSAGE, 0, 0, 0, 0, 0),
        past!(ServerFrame, 44, PAST_COMBO, COMBO_FINAL, 1001, 0xfeed, 2, 7),
        past!(ServerFrame, 45, PAST_STATE, 0, 0, 9, 0, 0),
        ServerFrame::PastEnd {
            request: 7,
            code: Code::Ok,
            epoch: EPOCH + 1,
            oldest: 1,
            head: 90,
            next_epoch: EPOCH,
            next: 46,
        },
        ServerFrame::PastEnd {
            request: 8,
            code: Code::NotMember,
            epoch: 0,
            oldest: 0,
            head: 0,
            next_epoch: 0,
            next: 0,
        },
    ]
}

/// A run of one gift: first some, then the rest of it.
fn combo(seq: u64, flags: u8, count: u32, total: u64) -> ServerFrame<'static> {
    ServerFrame::Combo {
        alias: 2,
        seq,
        category: 3,
        kind: 1001,
        flags,
        sender: 1001,
        key: 0xfeed,
        count,
        total,
        payload: Tail(b"rose"),
    }
}

fn upstream() -> Vec<UpstreamFrame<'static>> {
    vec![
        UpstreamFrame::Hello { version: 1, app: 1, token: Text("open"), name: Text("chat-1") },
        UpstreamFrame::PublishRoom { head: HEAD, room: ROOM, payload: CHAT },
        UpstreamFrame::PublishRoom { head: QUIET, room: 7, payload: Tail(&[]) },
        UpstreamFrame::PublishRoom { head: STORED, room: 7, payload: Tail(b"gift") },
        UpstreamFrame::PublishUser { head: HEAD, user: 1001, payload: CHAT },
        UpstreamFrame::PublishUsers {
            head: HEAD,
            users: List::new(&[1001, 1002, u64::MAX]),
            payload: CHAT,
        },
        UpstreamFrame::PublishApp { head: HEAD, payload: CHAT },
        UpstreamFrame::Subscribe {
            events: events::CONNECT | events::DISCONNECT | events::JOIN | events::LEAVE,
            group: Text("moderation"),
            channels: List::new(&[1, 9, 65_535]),
        },
        UpstreamFrame::Subscribe { events: events::ALL, group: Text(""), channels: List::new(&[]) },
        UpstreamFrame::UplinkReply {
            ticket: HEAD.idempotency_key,
            code: Code::Ok,
            payload: Tail(b"done"),
        },
        UpstreamFrame::Kick { request: 12, user: 1001, text: Text("banned") },
        UpstreamFrame::Ping { nonce: 1 },
        UpstreamFrame::PublishFrom {
            head: HEAD,
            room: ROOM,
            sender: 1001,
            count: 5,
            payload: Tail(b"rose"),
        },
        UpstreamFrame::PublishFrom {
            head: QUIET,
            room: 7,
            sender: u64::MAX,
            count: 0,
            payload: Tail(&[]),
        },
        UpstreamFrame::Mute { request: 13, user: 1001, room: ROOM, seconds: 600 },
        UpstreamFrame::Mute { request: 14, user: 1001, room: 0, seconds: 0 },
        UpstreamFrame::Ban {
            request: 15,
            user: 1001,
            seconds: SECONDS_FOREVER,
            text: Text("再见"),
        },
        UpstreamFrame::History {
            request: 16,
            room: ROOM,
            epoch: EPOCH,
            from: 42,
            since_ms: 0,
            count: 1_000,
        },
    ]
}

fn gateway() -> Vec<GatewayFrame<'static>> {
    const REPLIES: &[PublishReply] = &[
        PublishReply { request: 11, code: Code::Ok, seq: 42 },
        PublishReply { request: 12, code: Code::Duplicate, seq: 42 },
        PublishReply { request: 13, code: Code::Unsupported, seq: 0 },
    ];
    const LATER: &[PublishReply] = &[
        PublishReply { request: 17, code: Code::Merged, seq: 43 },
        PublishReply { request: 18, code: Code::Limited, seq: 1_500 },
        PublishReply { request: 19, code: Code::Unstored, seq: 0 },
        PublishReply { request: 20, code: Code::Kept, seq: 0 },
    ];
    vec![
        GatewayFrame::Welcome { version: 1, heartbeat_s: 120, credits: 16_384 },
        GatewayFrame::Replies { replies: List::new(REPLIES), silent: 64 },
        GatewayFrame::Replies { replies: List::new(&[]), silent: 1 },
        GatewayFrame::Event {
            event: EventKind::Join,
            connection: EPOCH,
            user: 1001,
            device: 5,
            platform: Platform::Web as u8,
            room: ROOM,
            address: ADDRESS_6,
            port: 50_000,
            reason: CloseReason::PeerClosed,
        },
        GatewayFrame::Event {
            event: EventKind::Disconnect,
            connection: EPOCH,
            user: 1001,
            device: 5,
            platform: Platform::Web as u8,
            room: 0,
            address: ADDRESS_4,
            port: 50_000,
            reason: CloseReason::Idle,
        },
        GatewayFrame::Uplink {
            ticket: HEAD.idempotency_key,
            connection: EPOCH,
            user: 1001,
            channel: 9,
            kind: 77,
            payload: Tail(&[0, 255, 10]),
        },
        GatewayFrame::Lost { events: 3, uplinks: 1 },
        GatewayFrame::Pong { nonce: 1 },
        GatewayFrame::Close { reason: CloseReason::Credits, text: Text("too many unanswered") },
        GatewayFrame::Replies { replies: List::new(LATER), silent: 0 },
        past!(GatewayFrame, 44, PAST_COMBO, COMBO_FINAL, 1001, 0xfeed, 2, 7),
        GatewayFrame::PastEnd {
            request: 16,
            code: Code::Ok,
            epoch: EPOCH,
            oldest: 1,
            head: 44,
            next_epoch: 0,
            next: 0,
        },
        GatewayFrame::Flagged {
            connection: EPOCH,
            user: 1001,
            room: ROOM,
            channel: 0,
            category: 4,
            kind: 1001,
            payload: CHAT,
        },
        GatewayFrame::Flagged {
            connection: EPOCH,
            user: 1001,
            room: 0,
            channel: 9,
            category: 0,
            kind: 77,
            payload: CHAT,
        },
    ]
}
