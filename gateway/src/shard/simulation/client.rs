//! A client: does what clients do, and checks every frame that it gets.

use std::collections::{BTreeMap, BTreeSet};

use barrage_sys::Peer;
use barrage_wire::client::{ClientFrame, Cursor, Platform};
use barrage_wire::codec::{List, Tail, Text};
use barrage_wire::limits::PROTOCOL_VERSION;
use barrage_wire::server::{CLASSES, CloseReason, Code};
use barrage_wire::{RawFrame, ServerFrame};

use super::model::{Range, Sequence, Target, Truth};
use super::report::Report;
use super::stream::Stream;
use crate::fake_ring::{FakeRing, Random};
use crate::room_log::Transport;

pub const ROOMS: u64 = 4;
pub const CHANNELS: u16 = 3;
/// Room categories: one that is unknown, and two that clients may not use.
const CATEGORIES: [u16; 7] = [1, 3, 4, 4, 5, 6, 99];

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Join { room: u64, cursor: Option<(u64, u64)> },
    Leave { room: u64 },
    Publish { id: u64 },
    Uplink { id: u64 },
}

/// A room as its member sees it: the receiver's rule of PROTOCOL.md, word for word.
struct View {
    of: Sequence,
    n: u64,
    left: u64,
    range: Option<Range>,
}

/// One connection of a client.
pub struct Session {
    pub link: usize,
    pub number: u64,
    stream: Stream,
    pub welcome: bool,
    rooms: BTreeMap<u32, View>,
    asked: BTreeMap<u32, Ask>,
    /// Resume cursors that were not answered, by room.
    resumed: BTreeMap<u64, (u64, u64)>,
    pings: BTreeSet<u64>,
    got: BTreeSet<u64>,
    /// Messages for the user or app that its publisher was told of.
    pub owed: BTreeSet<u64>,
    left_out: [u64; CLASSES],
    pub close: Option<CloseReason>,
    /// It has sent what is not the protocol.
    garbage: bool,
    gone: bool,
}

/// See the module.
pub struct Client {
    pub name: usize,
    pub app: u32,
    pub user: u64,
    pub shard: usize,
    transport: Transport,
    random: Random,
    requests: u32,
    cursors: BTreeMap<u64, (u64, u64)>,
    pub session: Option<Session>,
    /// Steps for which it does not read.
    pub deaf: u32,
    /// Payload bytes of what it says.
    bytes_max: usize,
}

impl Client {
    pub fn new(name: usize, app: u32, user: u64, shard: usize, mut random: Random) -> Self {
        let transport = random.pick(&[Transport::Tcp, Transport::WebSocket]);
        let bytes_max = random.pick(&[8, 40, 300, 3000]);
        let cursors = BTreeMap::new();
        let (requests, session, deaf) = (0, None, 0);
        Self {
            name,
            app,
            user,
            shard,
            transport,
            random,
            requests,
            cursors,
            session,
            deaf,
            bytes_max,
        }
    }

    /// Of the listeners that the world has.
    fn listener(&self) -> usize {
        self.transport as usize
    }

    /// Connects, says HELLO with the cursors that it has.
    pub fn connect(&mut self, ring: &mut FakeRing, number: u64) {
        let peer = Peer::Ip(([10, 0, 0, self.name as u8], number as u16).into());
        let socket_bytes = self.random.pick(&[200, 5_000, 100_000]);
        let Some(link) = ring.accept(self.listener(), peer, socket_bytes) else { return };
        let mut session = Session {
            link,
            number,
            stream: Stream::new(self.transport),
            welcome: false,
            rooms: BTreeMap::new(),
            asked: BTreeMap::new(),
            resumed: BTreeMap::new(),
            pings: BTreeSet::new(),
            got: BTreeSet::new(),
            owed: BTreeSet::new(),
            left_out: [0; CLASSES],
            close: None,
            garbage: false,
            gone: false,
        };
        let opening = session.stream.opening();
        ring.write(link, &opening);
        // Some never say anything.
        if self.random.percent(95) {
            if self.random.percent(70) {
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
                device: self.name as u64,
                platform: Platform::Bot,
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
                if let Some(session) = &self.session
                    && !frames.is_empty()
                    && !session.garbage
                {
                    ring.write(link, &session.stream.wrap(&mut self.random, &frames));
                }
            }
        }
    }

    pub fn hang_up(&mut self, ring: &mut FakeRing, errno: i32) {
        if let Some(session) = &mut self.session {
            session.gone = true;
            ring.hang_up(session.link, errno);
        }
    }

    fn frame(&mut self, truth: &mut Truth) -> Option<Vec<u8>> {
        let session = self.session.as_mut().filter(|session| !session.garbage)?;
        self.requests += 1;
        let request = self.requests;
        let room = 1 + self.random.below(ROOMS as usize) as u64;
        let frame = match self.random.below(100) {
            0..25 => {
                let cursor = self.cursors.get(&room).copied().filter(|_| self.random.percent(60));
                session.asked.insert(request, Ask::Join { room, cursor });
                let (epoch, seq) = cursor.unwrap_or((0, 0));
                ClientFrame::Join { request, cursor: Cursor { room, epoch, seq } }.to_vec()
            }
            25..35 => {
                session.asked.insert(request, Ask::Leave { room });
                ClientFrame::Leave { request, room }.to_vec()
            }
            35..75 => {
                let (&alias, view) = session.rooms.iter().next()?;
                let category = self.random.pick(&CATEGORIES);
                let bytes = self.random.below(self.bytes_max);
                let id = truth.say(self.app, Target::Room(view.of.room), category, bytes);
                session.asked.insert(request, Ask::Publish { id });
                let kind = truth.said(id).kind;
                let payload = &truth.payload(id);
                let payload = Tail(payload);
                ClientFrame::Publish { request, alias, category, kind, payload }.to_vec()
            }
            75..85 => {
                let channel = self.random.below(usize::from(CHANNELS)) as u16;
                let id = u64::from(request);
                session.asked.insert(request, Ask::Uplink { id });
                let payload = &id.to_le_bytes();
                ClientFrame::Uplink { request, channel, kind: 1, payload: Tail(payload) }.to_vec()
            }
            _ => {
                session.pings.insert(u64::from(request));
                ClientFrame::Ping { nonce: u64::from(request) }.to_vec()
            }
        };
        Some(frame)
    }

    /// Reads what has come. Returns true when it has got its WELCOME.
    pub fn hear(&mut self, ring: &mut FakeRing, truth: &mut Truth, report: &mut Report) -> bool {
        let Some(session) = &mut self.session else { return false };
        let most = self.random.pick(&[1, 30, 1000, usize::MAX]);
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
        let Some(session) = self.session.take() else { return };
        // Some do not close their side, and are cut.
        if self.random.percent(50) {
            ring.hang_up(session.link, 0);
        }
        if ring.is_finished(session.link) && session.stream.is_open() {
            assert!(session.close.is_some(), "a gateway that ends says why");
            assert!(!session.stream.is_cut(), "and says it whole");
            assert_eq!(session.stream.ws_closed, self.transport == Transport::WebSocket);
        }
        if let Some(reason) = session.close {
            *report.closes.entry(reason.name()).or_default() += 1;
            let fault = matches!(reason, CloseReason::Protocol | CloseReason::Token);
            assert!(!fault || session.garbage, "{reason:?} without a fault");
        }
    }

    /// All is quiet: what must have come by now has come. `head` knows rooms' newest messages.
    pub fn check_rest(&self, head: impl Fn(Sequence) -> Option<u64>, uplinks_lost: bool) {
        let Some(session) = self.session.as_ref().filter(|session| session.is_live()) else {
            return;
        };
        for view in session.rooms.values() {
            assert_eq!(Some(view.n), head(view.of), "{:?} has everything", view.of);
            assert_eq!(view.left, 0, "what is not shed follows");
        }
        let is_open = |ask: &&Ask| !uplinks_lost || !matches!(ask, Ask::Uplink { .. });
        let open: Vec<_> = session.asked.values().filter(is_open).collect();
        assert!(open.is_empty(), "client {} waits for {open:?}", self.name);
        assert!(session.resumed.is_empty(), "every cursor is answered: {:?}", session.resumed);
        assert!(session.pings.is_empty(), "every ping is answered");
    }

    /// Messages for the user arrive, or are declared.
    pub fn check_owed(&self, truth: &Truth) {
        let Some(session) = self.session.as_ref().filter(|session| session.is_live()) else {
            return;
        };
        let mut left_out = session.left_out;
        for &id in session.owed.difference(&session.got) {
            assert!(!truth.never_drop(id), "message {id} may not be dropped");
            let left = &mut left_out[truth.class(id)];
            *left = left.checked_sub(1).unwrap_or_else(|| {
                panic!("client {}: message {id} was lost without a word", self.name)
            });
        }
    }
}

impl Session {
    /// It said HELLO, nothing has ended it, and it speaks the protocol.
    pub fn is_live(&self) -> bool {
        self.welcome && !self.gone && self.close.is_none() && !self.garbage
    }

    fn frame(
        &mut self,
        frame: RawFrame<'_>,
        app: u32,
        user: u64,
        truth: &mut Truth,
        report: &mut Report,
    ) {
        assert_eq!(self.close, None, "nothing follows CLOSE");
        let frame = ServerFrame::decode(frame).expect("a frame of the protocol");
        let first = matches!(frame, ServerFrame::Welcome { .. } | ServerFrame::Close { .. });
        assert!(first || self.welcome, "{frame:?} before WELCOME");
        report.frames += 1;
        match frame {
            ServerFrame::Welcome { user: told, .. } => {
                assert!(!self.welcome, "one WELCOME");
                assert_eq!(told, user);
                self.welcome = true;
            }
            ServerFrame::Joined { request, alias, room, epoch, head, .. } => {
                let cursor = match request {
                    0 => self.resumed.remove(&room),
                    _ => match self.asked.remove(&request) {
                        Some(Ask::Join { room: asked, cursor }) if asked == room => cursor,
                        other => panic!("JOINED {room} answers {other:?}"),
                    },
                };
                let n = cursor.filter(|cursor| cursor.0 == epoch).map_or(head, |cursor| cursor.1);
                let of = Sequence { app, room, epoch };
                let before = self.rooms.insert(alias, View { of, n, left: 0, range: None });
                assert!(before.is_none(), "an alias names one room");
                report.joins += 1;
            }
            ServerFrame::Message { alias, seq, category, kind, payload } => {
                let id = truth.id_of(app, category, kind, payload.0);
                let view = self.rooms.get_mut(&alias).expect("a room that was joined");
                truth.heard(view.of, seq, id);
                view.message(seq, truth);
                report.messages += 1;
            }
            ServerFrame::Shed { alias: 0, first, last, counts } => {
                assert_eq!((first, last), (0, 0), "messages of a user have no numbers");
                for (sum, count) in self.left_out.iter_mut().zip(counts) {
                    *sum += u64::from(count);
                }
                report.sheds += 1;
            }
            ServerFrame::Shed { alias, first, last, counts } => {
                let view = self.rooms.get_mut(&alias).expect("a room that was joined");
                view.shed(first, last, counts, truth);
                report.sheds += 1;
            }
            ServerFrame::Reset { alias, epoch, head, oldest } => {
                let view = self.rooms.get_mut(&alias).expect("a room that was joined");
                assert_eq!(view.of.epoch, epoch, "JOINED has told it");
                assert!(oldest <= head + 1);
                (view.n, view.left, view.range) = (head, 0, None);
                report.resets += 1;
            }
            ServerFrame::Reply { request: 0, code, .. } => panic!("{code:?} to a cursor"),
            ServerFrame::Reply { request, code, seq, payload } => {
                self.reply(request, code, seq, payload.0, truth, report);
            }
            ServerFrame::Direct { category, kind, payload, .. } => {
                let id = truth.id_of(app, category, kind, payload.0);
                match &truth.said(id).target {
                    Target::Users(users) => assert!(users.contains(&user), "for somebody else"),
                    Target::App => {}
                    Target::Room(room) => panic!("message {id} is for room {room}"),
                }
                assert!(self.got.insert(id), "message {id} came twice");
                report.directs += 1;
            }
            ServerFrame::Redirect { .. } => panic!("nobody redirects"),
            ServerFrame::Close { reason, .. } => self.close = Some(reason),
            ServerFrame::Pong { nonce } => assert!(self.pings.remove(&nonce), "nobody asked"),
        }
    }

    fn reply(
        &mut self,
        request: u32,
        code: Code,
        seq: u64,
        payload: &[u8],
        truth: &mut Truth,
        report: &mut Report,
    ) {
        let ask = self.asked.remove(&request).expect("an answer to an open request");
        report.replies += 1;
        match ask {
            Ask::Join { .. } => assert_eq!(code, Code::AlreadyMember),
            Ask::Leave { room } if code == Code::Ok => {
                self.rooms.retain(|_, view| view.of.room != room);
            }
            Ask::Leave { .. } => assert_eq!(code, Code::NotMember),
            Ask::Publish { id } => match code {
                Code::Ok => truth.numbered(id, seq),
                Code::NotMember => {}
                Code::UnknownCategory => assert_eq!(truth.said(id).category, 99),
                Code::Forbidden => assert!(truth.never_drop(id)),
                other => panic!("{other:?} to a publish"),
            },
            Ask::Uplink { id } => match code {
                Code::Ok | Code::Refused => {
                    assert_eq!(payload, id.to_le_bytes(), "another question's answer");
                    report.uplinks += 1;
                }
                Code::NoUpstream | Code::NoAnswer | Code::Overloaded => {}
                other => panic!("{other:?} to an uplink"),
            },
        }
    }
}

impl View {
    fn message(&mut self, seq: u64, truth: &mut Truth) {
        if self.left == 0 {
            assert_eq!(seq, self.n + 1, "{:?}: a gap that was not declared", self.of);
            self.n = seq;
            return;
        }
        let range = self.range.as_mut().expect("a range is open");
        assert!(self.n < seq && seq <= range.last, "out of order or out of range");
        range.arrived.insert(seq);
        self.n = seq;
        self.left -= 1;
        if self.left == 0 {
            self.close_range(truth);
        }
    }

    fn shed(&mut self, first: u64, last: u64, counts: [u32; CLASSES], truth: &mut Truth) {
        assert_eq!((self.left, first), (0, self.n + 1), "{:?}: a gap before SHED", self.of);
        assert!(last >= first);
        let shed: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        assert!(shed > 0, "nothing was left out");
        self.left = (last - self.n).checked_sub(shed).expect("no more than the range");
        let arrived = BTreeSet::new();
        self.range = Some(Range { of: self.of, first, last, counts, arrived });
        if self.left == 0 {
            self.close_range(truth);
        }
    }

    fn close_range(&mut self, truth: &mut Truth) {
        if let Some(range) = self.range.take() {
            self.n = range.last;
            truth.ranges.push(range);
        }
    }
}
