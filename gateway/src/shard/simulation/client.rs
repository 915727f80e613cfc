//! A client: does what clients do, over one connection after the other.

use std::collections::BTreeMap;

use barrage_sys::Peer;
use barrage_wire::client::{ClientFrame, Cursor, Platform};
use barrage_wire::codec::{List, Tail, Text};
use barrage_wire::limits::PROTOCOL_VERSION;
use barrage_wire::server::CloseReason;

use super::device::{Inbox, Memory};
use super::model::{Sequence, Tap, Target, Truth};
use super::orders::About;
use super::report::Report;
use super::rules::{GIFT_SMALL, STATE};
use super::session::{Ask, Session};
use super::stream::Stream;
use crate::fake_ring::{FakeRing, Random};
use crate::room_log::Transport;

pub const ROOMS: u64 = 4;
pub const CHANNELS: u16 = 3;
/// Room categories: one that is unknown, and one that clients may not use.
const CATEGORIES: [u16; 8] = [1, GIFT_SMALL, GIFT_SMALL, 4, 4, 5, STATE, 99];
/// Kinds of what is merged.
const KINDS: usize = 2;

/// See the module.
pub struct Client {
    pub name: usize,
    pub app: u32,
    pub user: u64,
    pub shard: usize,
    /// 0: it has no name.
    pub device: u64,
    pub platform: Platform,
    pub transport: Transport,
    /// Bytes that its socket holds; random when none.
    pub socket_bytes: Option<usize>,
    /// It does nothing by chance.
    told: bool,
    random: Random,
    requests: u32,
    pub cursors: BTreeMap<u64, (u64, u64)>,
    pub session: Option<Session>,
    /// What it keeps while it has no session.
    memory: Memory,
    /// Steps for which it does not read.
    pub deaf: u32,
    /// Payload bytes of what it says.
    bytes_max: usize,
}

impl Client {
    pub fn new(name: usize, app: u32, user: u64, shard: usize, mut random: Random) -> Self {
        let transport = random.pick(&[Transport::Tcp, Transport::WebSocket]);
        let bytes_max = random.pick(&[8, 40, 300, 3000]);
        let (cursors, memory) = (BTreeMap::new(), Memory::default());
        let device = if random.percent(80) { 1 + name as u64 } else { 0 };
        let platform = random.pick(&[Platform::Ios, Platform::Web]);
        let (requests, session, deaf) = (0, None, 0);
        Self {
            name,
            app,
            user,
            shard,
            device,
            platform,
            transport,
            socket_bytes: None,
            told: false,
            random,
            requests,
            cursors,
            session,
            memory,
            deaf,
            bytes_max,
        }
    }

    /// One that says HELLO and then only what it is told to; its socket holds so many bytes.
    pub fn told(name: usize, shard: usize, transport: Transport, socket_bytes: usize) -> Self {
        let mut client = Self::new(name, 1, 1 + name as u64, shard, Random(name as u64));
        (client.transport, client.socket_bytes, client.told) =
            (transport, Some(socket_bytes), true);
        client.device = 1 + name as u64;
        client
    }

    /// Of the listeners that the world has.
    fn listener(&self) -> usize {
        self.transport as usize
    }

    /// Connects, says HELLO with the cursors that it has.
    pub fn connect(&mut self, ring: &mut FakeRing, number: u64, now_us: u64) {
        let peer = Peer::Ip(([10, 0, 0, self.name as u8], number as u16).into());
        let any = self.random.pick(&[200, 5_000, 100_000]);
        let socket_bytes = self.socket_bytes.unwrap_or(any);
        let Some(link) = ring.accept(self.listener(), peer, socket_bytes) else { return };
        let mut memory = std::mem::take(&mut self.memory);
        if self.device == 0 {
            memory.inbox = Inbox::default();
        }
        let mut session = Session::new(link, number, Stream::new(self.transport), memory);
        session.hello_us = now_us;
        let opening = session.stream.opening();
        ring.write(link, &opening);
        // Some never say anything.
        if self.told || self.random.percent(95) {
            if self.told || self.random.percent(70) {
                session.resumed = self.cursors.clone();
            }
            let resume: Vec<Cursor> = session
                .resumed
                .iter()
                .map(|(&room, &(epoch, seq))| Cursor { room, epoch, seq })
                .collect();
            let hello = ClientFrame::Hello {
                version: PROTOCOL_VERSION,
                app: self.app,
                device: self.device,
                platform: self.platform,
                resume: List::new(&resume),
                token: Text(&format!("open:{}", self.user)),
            };
            let bytes = session.stream.wrap(&mut self.random, &[hello.to_vec()]);
            ring.write(link, &bytes);
        } else {
            session.garbage = true;
        }
        self.session = Some(session);
    }

    /// Does one thing.
    pub fn act(&mut self, ring: &mut FakeRing, truth: &mut Truth) {
        let Some(link) = self.session.as_ref().map(|session| session.link) else { return };
        match self.random.below(100) {
            0..2 => {
                let errno = self.random.pick(&[0, 0, crate::fake_ring::ECONNRESET]);
                self.hang_up(ring, errno);
            }
            2..4 => self.deaf = self.random.below(200) as u32,
            4 if self.random.percent(30) => {
                let garbage: Vec<u8> =
                    (0..1 + self.random.below(40)).map(|_| self.random.next() as u8).collect();
                if let Some(session) = &mut self.session {
                    session.garbage = true;
                }
                ring.write(link, &garbage);
            }
            _ => {
                // A frame may be said before WELCOME is there; it is not necessary to wait.
                let frames: Vec<Vec<u8>> =
                    (0..1 + self.random.below(4)).filter_map(|_| self.frame(truth)).collect();
                self.say(ring, &frames);
            }
        }
    }

    pub fn hang_up(&mut self, ring: &mut FakeRing, errno: i32) {
        if let Some(session) = &mut self.session {
            session.gone = true;
            ring.hang_up(session.link, errno);
        }
    }

    /// Something to say; none when it can say nothing now.
    fn frame(&mut self, truth: &mut Truth) -> Option<Vec<u8>> {
        let session = self.session.as_mut().filter(|session| !session.garbage)?;
        let room = 1 + self.random.below(ROOMS as usize) as u64;
        match self.random.below(100) {
            0..40 if session.unacked => Some(self.ack()),
            0..25 => {
                let resume = self.random.percent(60);
                Some(self.join(room, resume))
            }
            25..35 => Some(self.leave(room)),
            35..75 => {
                let room = session.rooms.values().next()?.of.room;
                let category = self.random.pick(&CATEGORIES);
                let bytes = self.random.below(self.bytes_max);
                self.publish(truth, room, category, bytes)
            }
            75..85 => {
                let channel = self.random.below(usize::from(CHANNELS)) as u16;
                let id = u64::from(self.requests) + 1;
                let request = self.ask(Ask::Uplink { id });
                let payload = &id.to_le_bytes();
                let payload = Tail(payload);
                Some(ClientFrame::Uplink { request, channel, kind: 1, payload }.to_vec())
            }
            _ => {
                self.requests += 1;
                let nonce = u64::from(self.requests);
                session.pings.insert(nonce);
                Some(ClientFrame::Ping { nonce }.to_vec())
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> u32 {
        self.requests += 1;
        if let Some(session) = &mut self.session {
            session.asked.insert(self.requests, ask);
        }
        self.requests
    }

    pub fn join(&mut self, room: u64, resume: bool) -> Vec<u8> {
        let cursor = self.cursors.get(&room).copied().filter(|_| resume);
        let request = self.ask(Ask::Join { room, cursor });
        let (epoch, seq) = cursor.unwrap_or((0, 0));
        ClientFrame::Join { request, cursor: Cursor { room, epoch, seq } }.to_vec()
    }

    pub fn leave(&mut self, room: u64) -> Vec<u8> {
        let request = self.ask(Ask::Leave { room });
        ClientFrame::Leave { request, room }.to_vec()
    }

    /// None when it is not a member.
    pub fn publish(
        &mut self,
        truth: &mut Truth,
        room: u64,
        category: u16,
        bytes: usize,
    ) -> Option<Vec<u8>> {
        let (alias, _) = self.session.as_ref()?.room(room)?;
        let merges = matches!(category, GIFT_SMALL | STATE);
        let any = self.requests as u16;
        let kind = if merges { self.random.below(KINDS) as u16 } else { any };
        // What a client says is of one key when it is of one kind.
        let tap = Tap { sender: self.user, key: u64::from(kind) + 1, count: 1 };
        let id = truth.say_as(self.app, Target::Room(room), category, bytes, kind, tap);
        let number = self.session.as_ref().map_or(0, |session| session.number);
        truth.tried(id, (usize::MAX, number));
        let request = self.ask(Ask::Publish { id });
        let (kind, payload) = (truth.said(id).kind, &truth.payload(id));
        let payload = Tail(payload);
        Some(ClientFrame::Publish { request, alias, category, kind, payload }.to_vec())
    }

    fn ack(&mut self) -> Vec<u8> {
        let session = self.session.as_mut().expect("who has got something has a session");
        session.unacked = false;
        ClientFrame::Ack { inbox_seq: session.memory.inbox.highest }.to_vec()
    }

    /// Acknowledges what has come for the user.
    pub fn ack_all(&mut self, ring: &mut FakeRing) {
        if self.session.as_ref().is_some_and(|session| session.unacked && session.is_live()) {
            let ack = self.ack();
            self.say(ring, &[ack]);
        }
    }

    /// Sends frames.
    pub fn say(&mut self, ring: &mut FakeRing, frames: &[Vec<u8>]) {
        if let Some(session) = &self.session {
            ring.write(session.link, &session.stream.wrap(&mut self.random, frames));
        }
    }

    /// Reads what has come. Returns true when it has got its WELCOME.
    pub fn hear(&mut self, ring: &mut FakeRing, truth: &mut Truth, report: &mut Report) -> bool {
        let Some(session) = &mut self.session else { return false };
        let most = self.random.pick(&[1, 30, 1000, usize::MAX]);
        let most = if self.told { usize::MAX } else { most };
        let bytes = ring.read(session.link, most);
        let welcome = session.welcome;
        report.hash(&(self.name, &bytes));
        let mut stream = std::mem::replace(&mut session.stream, Stream::new(Transport::Tcp));
        stream.take(&bytes, |frame| session.frame(frame, self.app, self.user, truth, report));
        session.stream = stream;
        for view in session.rooms.values() {
            self.cursors.insert(view.of.room, (view.of.epoch, view.n));
        }
        let welcomed = session.welcome && !welcome;
        if ring.is_over(session.link) {
            self.end(ring, report);
        }
        welcomed
    }

    /// The connection is over: was it said why?
    fn end(&mut self, ring: &mut FakeRing, report: &mut Report) {
        let Some(mut session) = self.session.take() else { return };
        self.memory = std::mem::take(&mut session.memory);
        // Some do not close their side, and are cut.
        if self.random.percent(50) {
            ring.hang_up(session.link, 0);
        }
        if ring.is_finished(session.link) && session.stream.is_open() {
            assert!(session.close.is_some(), "a gateway that ends says why");
            assert!(!session.stream.is_cut(), "and says it whole");
            assert_eq!(session.stream.ws_closed, self.transport == Transport::WebSocket);
        } else if ring.is_finished(session.link) {
            assert!(session.stream.refused, "a handshake is answered");
        }
        if let Some(reason) = session.close {
            *report.closes.entry(reason.name()).or_default() += 1;
            let fault = matches!(reason, CloseReason::Protocol | CloseReason::Token);
            assert!(!fault || session.garbage, "{reason:?} without a fault");
        }
    }

    /// All is quiet: what must have come by now has come. `head` knows rooms' newest messages.
    pub fn check_rest(
        &self,
        truth: &Truth,
        head: impl Fn(Sequence) -> Option<u64>,
        uplinks_lost: bool,
    ) {
        let Some(session) = self.session.as_ref().filter(|session| session.is_live()) else {
            return;
        };
        for view in session.rooms.values() {
            assert_eq!(Some(view.n), head(view.of), "{:?} has everything", view.of);
            assert_eq!(view.left, 0, "what is not shed follows");
        }
        self.check_inbox(truth);
        let (user, now_us) = (self.user, truth.now_us);
        let banned = truth.orders.held(self.app, user, About::Ban, session.hello_us, now_us)
            || truth.orders.held(self.app, user, About::Ban, now_us, now_us);
        assert!(!banned, "user {user} is banned and stays");
        let is_open = |ask: &&Ask| !uplinks_lost || !matches!(ask, Ask::Uplink { .. });
        let open: Vec<_> = session.asked.values().filter(is_open).collect();
        assert!(open.is_empty(), "client {} waits for {open:?}", self.name);
        assert!(session.resumed.is_empty(), "every cursor is answered: {:?}", session.resumed);
        assert!(session.pings.is_empty(), "every ping is answered");
    }

    /// The message that it shows as a value of a room. None: it is no member, or cannot know.
    pub fn shown(&self, of: Sequence, category: u16, key: u64) -> Option<Option<u64>> {
        let session = self.session.as_ref().filter(|session| session.is_live())?;
        session.rooms.values().find(|view| view.of == of)?;
        Some(session.memory.shown(of, category, key).map(|value| value.id))
    }

    /// What was kept for the device has come.
    fn check_inbox(&self, truth: &Truth) {
        let Some(session) = &self.session else { return };
        let missing: Vec<_> = session.memory.inbox.missing().collect();
        let crowded = truth.kind.kept_max < 100 || truth.kind.kept_s < 3600;
        let all = missing.is_empty() || crowded;
        assert!(all, "client {}: {missing:?} have not come", self.name);
    }

    /// Messages for the user arrive, or are declared.
    pub fn check_owed(&self, truth: &Truth) {
        let Some(session) = self.session.as_ref().filter(|session| session.is_live()) else {
            return;
        };
        let mut left_out = session.left_out;
        for &id in session.owed.difference(&session.got) {
            if truth.is_inboxed(id) {
                // More than are kept, or too old.
                let crowded = truth.kind.kept_max < 100 || truth.kind.kept_s < 3600;
                assert!(crowded, "client {}: message {id} has not come", self.name);
                continue;
            }
            assert!(!truth.never_drop(id), "message {id} may not be dropped");
            let left = &mut left_out[truth.class(id)];
            *left = left.checked_sub(1).unwrap_or_else(|| {
                panic!("client {}: message {id} was lost without a word", self.name)
            });
        }
    }
}
