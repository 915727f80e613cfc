//! A service on the upstream socket.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use barrage_wire::codec::{List, Tail, Text};
use barrage_wire::limits::{PROTOCOL_VERSION, UPSTREAM_BODY_BYTES_MAX};
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::upstream::{AckMode, EventKind, PublishHead, PublishReply};
use barrage_wire::{GatewayFrame, UpstreamFrame, split};

use super::socket::Socket;
use super::{APP, CHAT, SOON};

/// A frame from the gateway, with its own copy of what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Welcome {
        version: u16,
        credits: u32,
    },
    Replies {
        replies: Vec<PublishReply>,
        silent: u32,
    },
    Event(Event),
    Uplink(Uplink),
    Lost {
        events: u64,
        uplinks: u64,
    },
    Past {
        request: u32,
        epoch: u64,
        seq: u64,
        time_ms: u64,
        frame: u8,
        category: u16,
        flags: u8,
        sender: u64,
        key: u64,
        count: u32,
        total: u64,
        payload: Vec<u8>,
    },
    PastEnd {
        request: u32,
        code: Code,
        epoch: u64,
        oldest: u64,
        head: u64,
        next: (u64, u64),
    },
    Flagged {
        user: u64,
        room: u64,
        channel: u16,
        category: u16,
        payload: Vec<u8>,
    },
    Pong {
        nonce: u64,
    },
    Close {
        reason: CloseReason,
        text: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub event: EventKind,
    pub connection: u64,
    pub user: u64,
    pub device: u64,
    pub platform: u8,
    pub room: u64,
    pub address: u128,
    pub port: u16,
    pub reason: CloseReason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub ticket: u128,
    pub connection: u64,
    pub user: u64,
    pub channel: u16,
    pub kind: u16,
    pub payload: Vec<u8>,
}

impl From<GatewayFrame<'_>> for Told {
    fn from(frame: GatewayFrame<'_>) -> Self {
        match frame {
            GatewayFrame::Welcome { version, credits, .. } => Self::Welcome { version, credits },
            GatewayFrame::Replies { replies, silent } => {
                Self::Replies { replies: replies.iter().collect(), silent }
            }
            GatewayFrame::Event {
                event,
                connection,
                user,
                device,
                platform,
                room,
                address,
                port,
                reason,
            } => Self::Event(Event {
                event,
                connection,
                user,
                device,
                platform,
                room,
                address,
                port,
                reason,
            }),
            GatewayFrame::Uplink { ticket, connection, user, channel, kind, payload } => {
                let payload = payload.0.to_vec();
                Self::Uplink(Uplink { ticket, connection, user, channel, kind, payload })
            }
            GatewayFrame::Past {
                request,
                epoch,
                seq,
                time_ms,
                frame,
                category,
                flags,
                sender,
                key,
                count,
                total,
                payload,
                ..
            } => Self::Past {
                request,
                epoch,
                seq,
                time_ms,
                frame,
                category,
                flags,
                sender,
                key,
                count,
                total,
                payload: payload.0.to_vec(),
            },
            GatewayFrame::PastEnd { request, code, epoch, oldest, head, next_epoch, next } => {
                Self::PastEnd { request, code, epoch, oldest, head, next: (next_epoch, next) }
            }
            GatewayFrame::Flagged { user, room, channel, category, payload, .. } => {
                Self::Flagged { user, room, channel, category, payload: payload.0.to_vec() }
            }
            GatewayFrame::Lost { events, uplinks } => Self::Lost { events, uplinks },
            GatewayFrame::Pong { nonce } => Self::Pong { nonce },
            GatewayFrame::Close { reason, text } => Self::Close { reason, text: text.0.to_owned() },
        }
    }
}

/// See the module.
pub struct Upstream {
    pub socket: Socket,
    bytes: Vec<u8>,
    told: VecDeque<Told>,
    /// Events and uplinks that came while replies were waited for.
    aside: VecDeque<Told>,
    ended: bool,
    request: u32,
    pub credits: u32,
}

impl Upstream {
    /// On a connection on which nothing was said.
    pub fn on(socket: Socket) -> Self {
        let (bytes, told, aside) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Self { socket, bytes, told, aside, ended: false, request: 0, credits: 0 }
    }

    /// Says HELLO.
    pub fn come(socket: Socket) -> Self {
        let mut upstream = Self::on(socket);
        upstream.hello(APP);
        upstream
    }

    pub fn hello(&mut self, app: u32) {
        self.socket.write(&hello(PROTOCOL_VERSION, app, "open"));
        match self.hear() {
            Told::Welcome { version, credits } => {
                assert_eq!(version, PROTOCOL_VERSION);
                self.credits = credits;
            }
            other => panic!("not welcome: {other:?}"),
        }
    }

    pub fn send(&mut self, frame: &UpstreamFrame<'_>) {
        self.socket.write(&frame.to_vec());
    }

    /// The next frame; it must come soon.
    pub fn hear(&mut self) -> Told {
        let told = self.hear_until(Instant::now() + SOON);
        told.unwrap_or_else(|| panic!("nothing was told; closed: {}", self.ended))
    }

    /// The next frame, or `None` when the connection has ended or the deadline has passed.
    pub fn hear_until(&mut self, until: Instant) -> Option<Told> {
        loop {
            if let Some(told) = self.told.pop_front() {
                return Some(told);
            }
            let mut rest = &self.bytes[..];
            while let Some(frame) =
                split(&mut rest, UPSTREAM_BODY_BYTES_MAX).expect("the gateway keeps to the limits")
            {
                let frame = GatewayFrame::decode(frame).expect("the gateway speaks the protocol");
                self.told.push_back(frame.into());
            }
            let used = self.bytes.len() - rest.len();
            self.bytes.drain(..used);
            if !self.told.is_empty() {
                continue;
            }
            if self.ended || self.socket.read(&mut self.bytes, until)? == 0 {
                self.ended = true;
                return None;
            }
        }
    }

    /// Whether the connection has ended and everything was heard.
    pub fn has_ended(&self) -> bool {
        self.ended && self.told.is_empty()
    }

    /// The reason of the `Close` that must come, past whatever is told before it.
    pub fn hear_close(&mut self) -> (CloseReason, String) {
        loop {
            if let Told::Close { reason, text } = self.hear() {
                assert_eq!(self.hear_until(Instant::now() + SOON), None);
                assert!(self.ended, "the connection ends after Close");
                return (reason, text);
            }
        }
    }

    pub fn next_request(&mut self) -> u32 {
        self.request += 1;
        self.request
    }

    /// About a chat message that is to be answered.
    pub fn head(&mut self) -> PublishHead {
        let request = self.next_request();
        PublishHead { request, ack: AckMode::Accepted, category: CHAT, ..PublishHead::default() }
    }

    /// The replies to so many requests, in the order they come. Events and uplinks are put aside.
    pub fn replies(&mut self, count: usize) -> Vec<PublishReply> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.hear() {
                Told::Replies { replies, .. } => all.extend(replies),
                told @ (Told::Event(_) | Told::Uplink(_) | Told::Flagged { .. }) => {
                    self.aside.push_back(told);
                }
                other => panic!("{} of {count} replies, then {other:?}", all.len()),
            }
        }
        assert_eq!(all.len(), count, "one reply to each request");
        all
    }

    fn reply(&mut self, request: u32) -> (Code, u64) {
        let reply = self.replies(1)[0];
        assert_eq!(reply.request, request);
        (reply.code, reply.seq)
    }

    /// Publishes to a room and waits for the reply.
    pub fn say_to_room(&mut self, room: u64, payload: &[u8]) -> (Code, u64) {
        let head = self.head();
        self.publish_to_room(head, room, payload)
    }

    pub fn publish_to_room(&mut self, head: PublishHead, room: u64, payload: &[u8]) -> (Code, u64) {
        self.send(&UpstreamFrame::PublishRoom { head, room, payload: Tail(payload) });
        self.reply(head.request)
    }

    /// Publishes to a room on behalf of a user and waits for the reply.
    pub fn publish_from(
        &mut self,
        head: PublishHead,
        room: u64,
        sender: u64,
        count: u32,
        payload: &[u8],
    ) -> (Code, u64) {
        let payload = Tail(payload);
        self.send(&UpstreamFrame::PublishFrom { head, room, sender, count, payload });
        self.reply(head.request)
    }

    pub fn say_to_user(&mut self, user: u64, payload: &[u8]) -> (Code, u64) {
        let head = self.head();
        self.publish_to_user(head, user, payload)
    }

    pub fn publish_to_user(&mut self, head: PublishHead, user: u64, payload: &[u8]) -> (Code, u64) {
        self.send(&UpstreamFrame::PublishUser { head, user, payload: Tail(payload) });
        self.reply(head.request)
    }

    pub fn say_to_users(&mut self, users: &[u64], payload: &[u8]) -> (Code, u64) {
        let head = self.head();
        self.publish_to_users(head, users, payload)
    }

    pub fn publish_to_users(
        &mut self,
        head: PublishHead,
        users: &[u64],
        payload: &[u8],
    ) -> (Code, u64) {
        let (users, payload) = (List::new(users), Tail(payload));
        self.send(&UpstreamFrame::PublishUsers { head, users, payload });
        self.reply(head.request)
    }

    pub fn say_to_app(&mut self, payload: &[u8]) -> (Code, u64) {
        let head = self.head();
        self.publish_to_app(head, payload)
    }

    pub fn publish_to_app(&mut self, head: PublishHead, payload: &[u8]) -> (Code, u64) {
        self.send(&UpstreamFrame::PublishApp { head, payload: Tail(payload) });
        self.reply(head.request)
    }

    pub fn kick(&mut self, user: u64, text: &str) -> (Code, u64) {
        let request = self.next_request();
        self.send(&UpstreamFrame::Kick { request, user, text: Text(text) });
        self.reply(request)
    }

    pub fn mute(&mut self, user: u64, room: u64, seconds: u32) -> (Code, u64) {
        let request = self.next_request();
        self.send(&UpstreamFrame::Mute { request, user, room, seconds });
        self.reply(request)
    }

    pub fn ban(&mut self, user: u64, seconds: u32, text: &str) -> (Code, u64) {
        let request = self.next_request();
        self.send(&UpstreamFrame::Ban { request, user, seconds, text: Text(text) });
        self.reply(request)
    }

    pub fn answer(&mut self, ticket: u128, code: Code, payload: &[u8]) {
        self.send(&UpstreamFrame::UplinkReply { ticket, code, payload: Tail(payload) });
    }

    /// Subscribes, and waits until every shard knows: publishes to users who are not there visit
    /// each shard behind the subscription.
    pub fn subscribe(&mut self, events: u16, group: &str, channels: &[u16]) {
        let (group, channels) = (Text(group), List::new(channels));
        self.send(&UpstreamFrame::Subscribe { events, group, channels });
        self.visit_all_shards();
    }

    /// Waits until every shard has read the mail that this service's shard sent it before.
    pub fn visit_all_shards(&mut self) {
        let nobody: Vec<u64> = (1 << 60..(1 << 60) + 64).collect();
        assert_eq!(self.say_to_users(&nobody, b""), (Code::Offline, 0));
    }

    /// Waits until the user's home knows of so many connections. It learns of them by mail, which
    /// can be behind the `Welcome` that the client has got.
    pub fn until_user_has(&mut self, user: u64, connections: u64) {
        let until = Instant::now() + SOON;
        while self.say_to_user(user, PROBE).1 != connections {
            assert!(Instant::now() < until, "user {user} never had {connections} connections");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next event, which must come before any uplink.
    pub fn event(&mut self) -> Event {
        match self.next_aside() {
            Told::Event(event) => event,
            other => panic!("an event was to come, not {other:?}"),
        }
    }

    /// The next uplink, which must come before any event.
    pub fn uplink(&mut self) -> Uplink {
        match self.next_aside() {
            Told::Uplink(uplink) => uplink,
            other => panic!("an uplink was to come, not {other:?}"),
        }
    }

    fn next_aside(&mut self) -> Told {
        self.aside.pop_front().unwrap_or_else(|| self.hear())
    }

    /// Pings, and returns everything that came before the pong, and what was put aside.
    pub fn ping(&mut self) -> Vec<Told> {
        let nonce = u64::from(self.next_request());
        self.send(&UpstreamFrame::Ping { nonce });
        let mut before = Vec::from(std::mem::take(&mut self.aside));
        loop {
            match self.hear() {
                Told::Pong { nonce: answered } => {
                    assert_eq!(answered, nonce);
                    return before;
                }
                told => before.push(told),
            }
        }
    }
}

/// What `until_user_has` sends; whoever counts messages passes it by.
pub const PROBE: &[u8] = b"are you there?";

/// The bytes of a HELLO.
pub fn hello(version: u16, app: u32, token: &str) -> Vec<u8> {
    UpstreamFrame::Hello { version, app, token: Text(token), name: Text("test") }.to_vec()
}
