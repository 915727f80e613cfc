//! A client's end of one connection: checks every frame that it gets.

use std::collections::{BTreeMap, BTreeSet};

use barrage_wire::server::{CLASSES, CloseReason, Code};
use barrage_wire::{RawFrame, ServerFrame};

use super::model::{Range, Sequence, Target, Truth};
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
    pub left_out: [u64; CLASSES],
    pub close: Option<CloseReason>,
    /// It has sent what is not the protocol.
    pub garbage: bool,
    pub gone: bool,
}

impl Session {
    pub fn new(link: usize, number: u64, stream: Stream) -> Self {
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
            ServerFrame::Combo { .. }
            | ServerFrame::State { .. }
            | ServerFrame::Snapshot { .. } => panic!("nothing is merged in this policy"),
            ServerFrame::Past { .. } | ServerFrame::PastEnd { .. } => {
                panic!("nobody asks for the history")
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
