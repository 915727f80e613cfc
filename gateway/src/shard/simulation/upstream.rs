//! A service: publishes, subscribes, answers uplinks, and counts what it is told.

use std::collections::{BTreeMap, BTreeSet};

use barrage_sys::Peer;
use barrage_wire::codec::{List, Tail, Text};
use barrage_wire::limits::PROTOCOL_VERSION;
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::upstream::{AckMode, PublishHead, PublishReply, SECONDS_FOREVER, events};
use barrage_wire::{GatewayFrame, RawFrame, UpstreamFrame};

use super::client::{CHANNELS, ROOMS};
use super::model::{Tap, Target, Truth};
use super::orders::About;
use super::report::Report;
use super::rules::{GIFT_SMALL, STATE};
use super::stream::Stream;
use super::world::USERS;
use crate::fake_ring::{FakeRing, Random};
use crate::room_log::Transport;

/// A client's connection: whose it is, and which of its connections.
pub type Listener = (usize, u64);

/// A request without an answer.
enum Pending {
    /// The message, and connections that must hear of it when it was done.
    Publish(u64, Vec<Listener>),
    Kick,
    Order(usize),
}

struct Session {
    link: usize,
    stream: Stream,
    welcome: bool,
    pending: BTreeMap<u32, Pending>,
    /// Publishes without an answer to come, and how many of their credits are not back.
    silent: u32,
    pings: BTreeSet<u64>,
    /// Uplinks that were not answered: ticket and payload.
    owing: Vec<(u128, Vec<u8>)>,
    close: Option<CloseReason>,
}

/// See the module.
pub struct Upstream {
    pub app: u32,
    pub shard: usize,
    name: usize,
    random: Random,
    group: &'static str,
    requests: u32,
    session: Option<Session>,
    /// Messages with an idempotency key that may be published again.
    keyed: Vec<u64>,
    pub deaf: u32,
    bytes_max: usize,
    /// Connections that ended, with which uplinks may be lost.
    pub ended: u32,
    plain: bool,
}

impl Upstream {
    pub fn new(
        name: usize,
        app: u32,
        shard: usize,
        group: &'static str,
        mut random: Random,
    ) -> Self {
        let bytes_max = random.pick(&[8, 100, 2000, 16_000]);
        Self {
            app,
            shard,
            name,
            random,
            group,
            requests: 0,
            session: None,
            keyed: Vec::new(),
            deaf: 0,
            bytes_max,
            ended: 0,
            plain: false,
        }
    }

    pub fn link(&self) -> Option<usize> {
        self.session.as_ref().map(|session| session.link)
    }

    pub fn connect(&mut self, ring: &mut FakeRing) {
        let socket_bytes = self.random.pick(&[500, 100_000]);
        let Some(link) = ring.accept(2, Peer::Unix, socket_bytes) else { return };
        let hello = UpstreamFrame::Hello {
            version: PROTOCOL_VERSION,
            app: self.app,
            token: Text("open"),
            name: Text("simulated"),
        };
        ring.write(link, &hello.to_vec());
        ring.write(link, &self.subscribe());
        self.session = Some(Session {
            link,
            stream: Stream::new(Transport::Tcp),
            welcome: false,
            pending: BTreeMap::new(),
            silent: 0,
            pings: BTreeSet::new(),
            owing: Vec::new(),
            close: None,
        });
    }

    fn subscribe(&mut self) -> Vec<u8> {
        let channels: Vec<u16> = (0..CHANNELS).filter(|_| self.random.percent(60)).collect();
        let (group, channels) = (Text(self.group), List::new(&channels));
        let events = self.random.pick(&[0, events::ALL, events::JOIN]);
        UpstreamFrame::Subscribe { events, group, channels }.to_vec()
    }

    /// Does one thing. `audience` knows who must hear a message that is published now.
    pub fn act(
        &mut self,
        ring: &mut FakeRing,
        truth: &mut Truth,
        audience: impl Fn(&Target) -> Vec<Listener>,
    ) {
        let Some(session) = &self.session else { return };
        let link = session.link;
        let bytes = match self.random.below(200) {
            0 => return self.hang_up(ring, 0),
            1..4 => {
                self.deaf = self.random.below(200) as u32;
                return;
            }
            4..8 => self.subscribe(),
            8..10 => self.kick(),
            190.. if truth.kind.orders => self.order(truth),
            10..16 => {
                self.requests += 1;
                let nonce = u64::from(self.requests);
                if let Some(session) = &mut self.session {
                    session.pings.insert(nonce);
                }
                UpstreamFrame::Ping { nonce }.to_vec()
            }
            16..60 => self.answer(),
            _ => self.publish(truth, audience),
        };
        ring.write(link, &bytes);
    }

    pub fn hang_up(&mut self, ring: &mut FakeRing, errno: i32) {
        if let Some(session) = self.session.take() {
            ring.hang_up(session.link, errno);
            self.ended += 1;
        }
    }

    fn kick(&mut self) -> Vec<u8> {
        self.requests += 1;
        let (request, user) = (self.requests, 1 + self.random.below(USERS as usize) as u64);
        if let Some(session) = &mut self.session {
            session.pending.insert(request, Pending::Kick);
        }
        UpstreamFrame::Kick { request, user, text: Text("out") }.to_vec()
    }

    /// Mutes or bans somebody, or takes that back.
    fn order(&mut self, truth: &mut Truth) -> Vec<u8> {
        let user = 1 + self.random.below(USERS as usize) as u64;
        let seconds = self.random.pick(&[0, 0, 0, 1, 10, SECONDS_FOREVER]);
        let room = self.random.below(1 + ROOMS as usize) as u64;
        let is_ban = self.random.percent(40);
        let about = if is_ban { About::Ban } else { About::Mute(room) };
        self.order_for(truth, user, about, seconds)
    }

    /// Gives an order.
    pub fn say_order(
        &mut self,
        ring: &mut FakeRing,
        truth: &mut Truth,
        user: u64,
        about: About,
        seconds: u32,
    ) {
        let bytes = self.order_for(truth, user, about, seconds);
        if let Some(link) = self.link() {
            ring.write(link, &bytes);
        }
    }

    fn order_for(&mut self, truth: &mut Truth, user: u64, about: About, seconds: u32) -> Vec<u8> {
        self.requests += 1;
        let request = self.requests;
        let number = truth.orders.give(self.app, user, about, seconds, truth.now_us);
        if let Some(session) = &mut self.session {
            session.pending.insert(request, Pending::Order(number));
        }
        match about {
            About::Ban => UpstreamFrame::Ban { request, user, seconds, text: Text("no") },
            About::Mute(room) => UpstreamFrame::Mute { request, user, room, seconds },
        }
        .to_vec()
    }

    /// Answers the uplinks that wait.
    pub fn answer(&mut self) -> Vec<u8> {
        let owing = self.session.as_mut().map(|session| std::mem::take(&mut session.owing));
        let mut out = Vec::new();
        for (ticket, payload) in owing.unwrap_or_default() {
            let code = self.random.pick(&[Code::Ok, Code::Refused]);
            UpstreamFrame::UplinkReply { ticket, code, payload: Tail(&payload) }.encode(&mut out);
        }
        out
    }

    /// From now on it wants an answer to every publish, and gives none a time to live.
    pub fn always_reply(&mut self) {
        self.plain = true;
    }

    /// Publishes a message without a key.
    pub fn say(&mut self, ring: &mut FakeRing, truth: &mut Truth, id: u64) {
        let bytes = self.frame(truth, id, 0, Vec::new());
        if let Some(link) = self.link() {
            ring.write(link, &bytes);
        }
    }

    /// Publishes a burst of large messages to one room.
    pub fn flood(&mut self, ring: &mut FakeRing, truth: &mut Truth, room: u64, count: usize) {
        let Some(link) = self.link() else { return };
        for _ in 0..count {
            let category = self.random.pick(&[4, 4, 4, 5, 3, 3, 4, 6, 4, 4, 4, 4, 1]);
            let id = truth.say(self.app, Target::Room(room), category, 16_000);
            let bytes = self.frame(truth, id, 0, Vec::new());
            ring.write(link, &bytes);
        }
    }

    fn publish(
        &mut self,
        truth: &mut Truth,
        audience: impl Fn(&Target) -> Vec<Listener>,
    ) -> Vec<u8> {
        if self.random.percent(10) && !self.keyed.is_empty() {
            let id = self.random.pick(&self.keyed);
            return self.frame(truth, id, u128::from(id) + 1, Vec::new());
        }
        let user = |random: &mut Random| 1 + random.below(USERS as usize) as u64;
        let target = match self.random.below(10) {
            0..6 => Target::Room(1 + self.random.below(ROOMS as usize) as u64),
            6..8 => Target::Users(vec![user(&mut self.random)]),
            8 => Target::Users((1..=USERS).filter(|_| self.random.percent(50)).collect()),
            _ => Target::App,
        };
        let listeners = audience(&target);
        let category = self.random.pick(&[0, 1, 2, GIFT_SMALL, 4, 5, STATE, 4, GIFT_SMALL, 99]);
        let bytes = self.random.below(self.bytes_max);
        let (tap, kind) = match target {
            Target::Room(_) => (self.tap(), self.random.next() as u16),
            Target::Users(_) | Target::App => (Tap::NONE, 0),
        };
        let id = truth.say_as(self.app, target, category, bytes, kind, tap);
        let keyed = self.random.percent(30);
        if keyed {
            self.keyed.push(id);
        }
        self.frame(truth, id, if keyed { u128::from(id) + 1 } else { 0 }, listeners)
    }

    /// Some say for themselves, some for a user.
    fn tap(&mut self) -> Tap {
        let sender = if self.random.percent(60) { 1 + self.random.below(2) as u64 } else { 0 };
        let count = if sender == 0 { 1 } else { self.random.pick(&[0, 1, 1, 2, 7, u32::MAX]) };
        Tap { sender, key: self.random.below(3) as u64, count }
    }

    fn frame(&mut self, truth: &mut Truth, id: u64, key: u128, audience: Vec<Listener>) -> Vec<u8> {
        self.requests += 1;
        let ack = match self.random.below(20) {
            _ if self.plain => AckMode::Accepted,
            0..3 => AckMode::None,
            3 => AckMode::Stored,
            _ => AckMode::Accepted,
        };
        let ttl_ms = if self.plain { 0 } else { self.random.pick(&[0, 0, 1]) };
        // A list has several homes, and what is too late for one may not be for another: the answer
        // is the best of them, so it does not say that everybody was handed it.
        let audience = if ttl_ms == 0 { audience } else { Vec::new() };
        truth.tried(id, (self.name, u64::from(self.ended)));
        if let Some(session) = &mut self.session {
            if ack == AckMode::None {
                session.silent += 1;
            } else {
                session.pending.insert(self.requests, Pending::Publish(id, audience));
            }
        }
        let said = truth.said(id);
        let head = PublishHead {
            request: self.requests,
            ack,
            category: said.category,
            kind: said.kind,
            ttl_ms,
            merge_key: said.tap.key,
            idempotency_key: key,
        };
        let payload = &truth.payload(id);
        let payload = Tail(payload);
        match &said.target {
            Target::Room(room) if said.tap.sender == 0 => {
                UpstreamFrame::PublishRoom { head, room: *room, payload }
            }
            Target::Room(room) => {
                let Tap { sender, count, .. } = said.tap;
                UpstreamFrame::PublishFrom { head, room: *room, sender, count, payload }
            }
            Target::App => UpstreamFrame::PublishApp { head, payload },
            Target::Users(users) => match users[..] {
                [user] => UpstreamFrame::PublishUser { head, user, payload },
                _ => UpstreamFrame::PublishUsers { head, users: List::new(users), payload },
            },
        }
        .to_vec()
    }

    /// Reads what has come. Returns who is owed which message.
    pub fn hear(
        &mut self,
        ring: &mut FakeRing,
        truth: &mut Truth,
        report: &mut Report,
    ) -> Vec<(Listener, u64)> {
        let mut owed = Vec::new();
        let Some(session) = &mut self.session else { return owed };
        let most = self.random.pick(&[1, 100, usize::MAX]);
        let bytes = ring.read(session.link, if self.plain { usize::MAX } else { most });
        report.hash(&(self.name, "upstream", &bytes));
        let mut stream = std::mem::replace(&mut session.stream, Stream::new(Transport::Tcp));
        stream.take(&bytes, |frame| session.frame(frame, truth, report, &mut owed));
        session.stream = stream;
        if ring.is_over(session.link) {
            ring.hang_up(session.link, 0);
            if ring.is_finished(session.link) {
                assert!(session.close.is_some(), "a gateway that ends says why");
            }
            if let Some(reason) = session.close {
                let fault = matches!(reason, CloseReason::Protocol | CloseReason::Token);
                assert!(!fault && reason != CloseReason::Credits, "{reason:?} without a fault");
                *report.closes.entry(reason.name()).or_default() += 1;
            }
            self.session = None;
            self.ended += 1;
        }
        owed
    }

    /// All is quiet: every request was answered.
    pub fn check_rest(&self) {
        let Some(session) = &self.session else { return };
        let pending: Vec<_> = session.pending.keys().collect();
        assert!(pending.is_empty(), "upstream {} waits for {pending:?}", self.name);
        assert_eq!(session.silent, 0, "credits that were not given back");
        assert!(session.pings.is_empty() && session.welcome);
    }
}

impl Session {
    fn frame(
        &mut self,
        frame: RawFrame<'_>,
        truth: &mut Truth,
        report: &mut Report,
        owed: &mut Vec<(Listener, u64)>,
    ) {
        assert_eq!(self.close, None, "nothing follows CLOSE");
        let frame = GatewayFrame::decode(frame).expect("a frame of the protocol");
        let first = matches!(frame, GatewayFrame::Welcome { .. } | GatewayFrame::Close { .. });
        assert!(first || self.welcome, "{frame:?} before WELCOME");
        match frame {
            GatewayFrame::Welcome { .. } => {
                assert!(!self.welcome, "one WELCOME");
                self.welcome = true;
            }
            GatewayFrame::Replies { replies, silent } => {
                assert!(silent > 0 || !replies.is_empty(), "a frame for nothing");
                self.silent = self.silent.checked_sub(silent).expect("credits that were taken");
                for reply in replies.iter() {
                    self.reply(reply, truth, report, owed);
                }
            }
            GatewayFrame::Event { .. } => report.events += 1,
            GatewayFrame::Uplink { ticket, payload, .. } => {
                self.owing.push((ticket, payload.0.to_vec()));
            }
            GatewayFrame::Lost { .. } => panic!("nothing is lost in so little traffic"),
            GatewayFrame::Past { .. } | GatewayFrame::PastEnd { .. } => {
                panic!("nobody asks for the history")
            }
            GatewayFrame::Flagged { .. } => panic!("there are no word lists"),
            GatewayFrame::Pong { nonce } => assert!(self.pings.remove(&nonce), "nobody asked"),
            GatewayFrame::Close { reason, .. } => self.close = Some(reason),
        }
    }

    fn reply(
        &mut self,
        reply: PublishReply,
        truth: &mut Truth,
        report: &mut Report,
        owed: &mut Vec<(Listener, u64)>,
    ) {
        let pending = self.pending.remove(&reply.request).expect("an answer to an open request");
        let (id, audience) = match pending {
            Pending::Kick => {
                return assert!(matches!(reply.code, Code::Ok | Code::Offline), "{:?}", reply.code);
            }
            Pending::Order(number) => {
                assert_eq!(reply.code, Code::Ok);
                return truth.orders.answered(number, truth.now_us);
            }
            Pending::Publish(id, audience) => (id, audience),
        };
        report.duplicates += u64::from(reply.code == Code::Duplicate);
        report.count(reply.code);
        if let Target::Room(_) = truth.said(id).target {
            truth.answered(id, reply.code, reply.seq);
        }
        match (reply.code, &truth.said(id).target) {
            (Code::Ok, Target::Room(_)) => {}
            (Code::Merged, Target::Room(_)) => assert!(truth.kind.merges),
            (Code::Limited, Target::Room(_)) => assert!(truth.kind.refuses()),
            (Code::Muted, Target::Room(_)) => {}
            // Whoever was there before and still is in the end has been handed it.
            (Code::Ok | Code::Offline, Target::Users(_) | Target::App) => {
                owed.extend(audience.into_iter().map(|listener| (listener, id)));
            }
            (Code::Kept, Target::Users(_)) => assert!(truth.is_inboxed(id)),
            (Code::UnknownCategory, _) => assert_eq!(truth.said(id).category, 99),
            (Code::Duplicate | Code::Unstored | Code::Expired, _) => {}
            (other, target) => panic!("{other:?} to a publish for {target:?}"),
        }
    }
}
