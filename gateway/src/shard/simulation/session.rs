//! A client's end of one connection: checks every frame that it gets.

use std::collections::{BTreeMap, BTreeSet};

use barrage_wire::server::{CLASSES, CloseReason, Code, DIRECT_ACK, DIRECT_REPEAT};
use barrage_wire::{RawFrame, ServerFrame};

use super::device::{Memory, Value};
use super::model::{Heard, Range, Sequence, Shown, Target, Truth};
use super::orders::About;
use super::report::Report;
use super::stream::Stream;

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Join { room: u64, cursor: Option<(u64, u64)> },
    Leave { room: u64 },
    Publish { id: u64 },
    Uplink { id: u64 },
}

/// A room as its member sees it: the receiver's rule of PROTOCOL.md, word for word.
pub struct View {
    pub of: Sequence,
    /// The last message that was seen or told of.
    pub n: u64,
    /// Those of an open range that follow.
    pub left: u64,
    range: Option<Range>,
}

/// One connection of a client.
pub struct Session {
    pub link: usize,
    pub number: u64,
    pub stream: Stream,
    pub welcome: bool,
    pub rooms: BTreeMap<u32, View>,
    pub asked: BTreeMap<u32, Ask>,
    /// Resume cursors that were not answered, by room.
    pub resumed: BTreeMap<u64, (u64, u64)>,
    pub pings: BTreeSet<u64>,
    pub got: BTreeSet<u64>,
    /// Messages for the user or app that its publisher was told of.
    pub owed: BTreeSet<u64>,
    /// What it came with, and goes with.
    pub memory: Memory,
    /// Something of the inbox has come since the last ACK.
    pub unacked: bool,
    /// When it said HELLO.
    pub hello_us: u64,
    pub left_out: [u64; CLASSES],
    pub close: Option<CloseReason>,
    /// It has sent what is not the protocol.
    pub garbage: bool,
    pub gone: bool,
}

impl Session {
    pub fn new(link: usize, number: u64, stream: Stream, memory: Memory) -> Self {
        Self {
            link,
            number,
            stream,
            welcome: false,
            rooms: BTreeMap::new(),
            asked: BTreeMap::new(),
            resumed: BTreeMap::new(),
            pings: BTreeSet::new(),
            got: BTreeSet::new(),
            owed: BTreeSet::new(),
            memory,
            unacked: false,
            hello_us: 0,
            left_out: [0; CLASSES],
            close: None,
            garbage: false,
            gone: false,
        }
    }

    /// The alias and the view of a room that it is a member of.
    pub fn room(&self, room: u64) -> Option<(u32, &View)> {
        let mut rooms = self.rooms.iter();
        rooms.find(|(_, view)| view.of.room == room).map(|(&alias, view)| (alias, view))
    }

    /// It said HELLO, nothing has ended it, and it speaks the protocol.
    pub fn is_live(&self) -> bool {
        self.welcome && !self.gone && self.close.is_none() && !self.garbage
    }

    pub fn frame(
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
                let banned = truth.orders.held(app, user, About::Ban, self.hello_us, truth.now_us);
                assert!(!banned, "user {user} is banned and let in");
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
                self.memory.joined(of);
                let before = self.rooms.insert(alias, View { of, n, left: 0, range: None });
                assert!(before.is_none(), "an alias names one room");
                report.joins += 1;
            }
            ServerFrame::Message { alias, .. }
            | ServerFrame::Combo { alias, .. }
            | ServerFrame::State { alias, .. } => {
                let (seq, heard) = truth.numbered_frame(app, &frame).expect("a numbered frame");
                self.numbered(alias, seq, heard, truth, report);
            }
            ServerFrame::Snapshot { alias, seq, category, kind, key, payload } => {
                let view = self.rooms.get_mut(&alias).expect("a room that was joined");
                let id = truth.id_of(app, category, kind, payload.0);
                let said = truth.said(id);
                assert_eq!((&said.target, said.tap.key), (&Target::Room(view.of.room), key));
                self.memory.value(view.of, category, key, Value { seq, id }, true);
                report.snapshots += 1;
            }
            ServerFrame::Shed { alias: 0, first, last, counts } => {
                assert_eq!((first, last), (0, 0), "messages of a user have no numbers");
                for (sum, count) in self.left_out.iter_mut().zip(counts) {
                    *sum += u64::from(count);
                }
                report.sheds_direct += 1;
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
                self.memory.forget_room(app, view.of.room);
                report.resets += 1;
            }
            ServerFrame::Reply { request: 0, code, .. } => panic!("{code:?} to a cursor"),
            ServerFrame::Reply { request, code, seq, payload } => {
                self.reply(request, code, seq, payload.0, truth, report);
            }
            ServerFrame::Direct { inbox_seq, category, kind, flags, payload } => {
                let id = truth.id_of(app, category, kind, payload.0);
                self.direct(user, id, inbox_seq, flags, truth, report);
            }
            ServerFrame::Past { .. } | ServerFrame::PastEnd { .. } => {
                panic!("nobody asks for the history")
            }
            ServerFrame::Redirect { .. } => panic!("nobody redirects"),
            ServerFrame::Close { reason, .. } => {
                let banned = reason == CloseReason::Banned;
                assert!(!banned || truth.orders.any(app, user, About::Ban), "nobody banned {user}");
                self.close = Some(reason);
            }
            ServerFrame::Pong { nonce } => assert!(self.pings.remove(&nonce), "nobody asked"),
        }
    }

    fn numbered(
        &mut self,
        alias: u32,
        seq: u64,
        heard: Heard,
        truth: &mut Truth,
        report: &mut Report,
    ) {
        let view = self.rooms.get_mut(&alias).expect("a room that was joined");
        truth.heard(view.of, seq, heard);
        view.message(seq, truth);
        match heard.shown {
            Shown::Message => {}
            Shown::Combo { .. } => report.combos += 1,
            Shown::State { key } => {
                let (category, value) =
                    (truth.said(heard.id).category, Value { seq, id: heard.id });
                self.memory.value(view.of, category, key, value, false);
                report.states += 1;
            }
        }
        report.messages += 1;
    }

    fn direct(
        &mut self,
        user: u64,
        id: u64,
        inbox_seq: u64,
        flags: u8,
        truth: &Truth,
        report: &mut Report,
    ) {
        match &truth.said(id).target {
            Target::Users(users) => assert!(users.contains(&user), "for somebody else"),
            Target::App => {}
            Target::Room(room) => panic!("message {id} is for room {room}"),
        }
        let kept = truth.is_inboxed(id);
        assert_eq!((inbox_seq != 0, flags & DIRECT_ACK != 0), (kept, kept));
        self.unacked |= kept;
        if kept && !self.memory.inbox.take(inbox_seq, id) {
            // Who has sent garbage acknowledges nothing any more.
            report.repeats += u64::from(!self.garbage);
            return;
        }
        // It may be a repeat to an earlier connection, which has not got it.
        assert!(kept || flags & DIRECT_REPEAT == 0);
        report.kept += u64::from(kept);
        assert!(self.got.insert(id), "message {id} came twice");
        report.directs += 1;
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
            Ask::Publish { id } => {
                truth.answered(id, code, seq);
                match code {
                    Code::Ok | Code::NotMember | Code::Muted => {}
                    Code::Merged => assert!(truth.kind.merges),
                    Code::Limited => assert!(truth.kind.refuses()),
                    Code::UnknownCategory => assert_eq!(truth.said(id).category, 99),
                    Code::Forbidden => assert!(truth.is_for_services(id)),
                    other => panic!("{other:?} to a publish"),
                }
                report.count(code);
            }
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
