//! What somebody has missed who comes back, as far as the disk has it.

use std::collections::VecDeque;

use ahash::AHashMap;
use barrage_router::{Cursor, Room, RoomKey};
use barrage_store::{Position, Record};
use barrage_wire::ServerFrame;
use barrage_wire::server::CLASSES;
use bytes::Bytes;

use crate::limits::{RESUMES_AT_ONCE_MAX, RESUMES_WAITING_MAX};
use crate::mail::{ConnRef, Earlier};

/// Somebody who comes back and has missed more than the room remembers.
pub(super) struct Resume {
    pub who: ConnRef,
    pub request: u32,
    pub key: RoomKey,
    pub cursor: Cursor,
    /// What the disk has given so far, and how far that goes.
    pub frames: Vec<Record>,
    pub at: Position,
    pub rounds: u8,
    /// The tick at which it came.
    pub since: u32,
}

impl Resume {
    pub fn new(who: ConnRef, request: u32, key: RoomKey, cursor: Cursor, since: u32) -> Self {
        let at = Position { epoch: cursor.epoch, seq: cursor.seq };
        Self { who, request, key, cursor, frames: Vec::new(), at, rounds: 0, since }
    }
}

/// Everybody for whom the disk is asked. So many are asked for at once; the others wait, each in a few
/// words, since what the disk brings for one may be megabytes.
#[derive(Default)]
pub(super) struct Resumes {
    /// The request of each who is to be answered. None: it has left the room meanwhile, and was told.
    open: AHashMap<(ConnRef, RoomKey), Option<u32>>,
    waiting: VecDeque<Resume>,
    loading: usize,
}

/// What becomes of somebody who comes back.
pub(super) enum Turn {
    /// The disk is asked now.
    Now(Resume),
    /// Its turn comes.
    Waits,
    /// It has asked already, and that was not answered yet.
    Twice,
    /// Too many wait.
    Full,
}

impl Resumes {
    pub fn begin(&mut self, resume: Resume) -> Turn {
        let who = (resume.who, resume.key);
        // One that was abandoned has told so already, and ends by itself.
        if let Some(Some(_)) = self.open.get(&who) {
            return Turn::Twice;
        }
        if self.waiting.len() >= RESUMES_WAITING_MAX {
            return Turn::Full;
        }
        self.open.insert(who, Some(resume.request));
        if self.loading < RESUMES_AT_ONCE_MAX {
            self.loading += 1;
            return Turn::Now(resume);
        }
        self.waiting.push_back(resume);
        Turn::Waits
    }

    /// It was answered, or cannot be.
    pub fn end(&mut self, who: ConnRef, key: RoomKey, request: u32) {
        self.loading -= 1;
        self.close(who, key, request);
    }

    /// Whose turn it is.
    pub fn next(&mut self) -> Option<Resume> {
        while self.loading < RESUMES_AT_ONCE_MAX {
            let next = self.waiting.pop_front()?;
            if self.is_open(&next) {
                self.loading += 1;
                return Some(next);
            }
            self.close(next.who, next.key, next.request);
        }
        None
    }

    /// Another one of the same member may have taken its place.
    fn close(&mut self, who: ConnRef, key: RoomKey, request: u32) {
        let open = self.open.get(&(who, key));
        if open.is_some_and(|open| open.is_none_or(|open| open == request)) {
            self.open.remove(&(who, key));
        }
    }

    /// It leaves the room before it was answered. The request that is to be told so.
    pub fn abandon(&mut self, who: ConnRef, key: RoomKey) -> Option<u32> {
        self.open.get_mut(&(who, key))?.take()
    }

    /// Whether it is still to be answered.
    pub fn is_open(&self, resume: &Resume) -> bool {
        self.open.get(&(resume.who, resume.key)) == Some(&Some(resume.request))
    }
}

/// What there is for a member between its cursor and what the room remembers.
pub(super) enum Before {
    /// Nothing, as far as the room knows.
    Nothing,
    /// All of it.
    Earlier(Box<Earlier>),
    /// Not all of it: the room's epoch is whole from this number on.
    Gone { oldest: u64 },
}

/// What somebody has missed before what the room remembers, as frames.
pub(super) fn earlier(room: &Room, resume: &Resume, broken_off: Option<&Position>) -> Earlier {
    let alias = room.alias().0;
    let mut frames = Vec::new();
    let mut epoch = resume.cursor.epoch;
    let begin = |epoch, frames: &mut Vec<Bytes>| {
        let reset = ServerFrame::Reset { alias, epoch, oldest: 1, head: 0 };
        frames.push(Bytes::from(reset.to_vec()));
    };
    let mut gone = Gone::default();
    for record in &resume.frames {
        if record.at.epoch != epoch {
            gone.declare(alias, &mut frames);
            epoch = record.at.epoch;
            begin(epoch, &mut frames);
        }
        if record.frame.is_empty() {
            gone.add(record);
        } else {
            gone.declare(alias, &mut frames);
            // Under the name that the room had then; it is told under its present one.
            frames.push(record.frame.clone());
        }
    }
    gone.declare(alias, &mut frames);
    let of_cursor = resume.frames.iter().rev().map(|it| it.at);
    // The member may know numbers that the disk never got.
    let mut of_cursor = of_cursor.chain(broken_off.copied());
    let of_cursor = of_cursor.find(|at| at.epoch == resume.cursor.epoch);
    let head = of_cursor.map_or(resume.cursor.seq, |last| last.seq);
    if epoch != room.epoch() {
        begin(room.epoch(), &mut frames);
    }
    let same = resume.cursor.epoch == room.epoch();
    let head = if same { room.head() } else { head };
    Earlier { epoch: resume.cursor.epoch, head, frames }
}

/// Messages in a row that were not kept.
#[derive(Default)]
struct Gone {
    first: u64,
    last: u64,
    counts: [u32; CLASSES],
}

impl Gone {
    fn add(&mut self, record: &Record) {
        if self.counts == [0; CLASSES] {
            self.first = record.at.seq;
        }
        self.last = record.at.seq;
        self.counts[record.class.index()] += 1;
    }

    fn declare(&mut self, alias: u32, frames: &mut Vec<Bytes>) {
        let Self { first, last, counts } = std::mem::take(self);
        if counts != [0; CLASSES] {
            let shed = ServerFrame::Shed { alias, first, last, counts };
            frames.push(Bytes::from(shed.to_vec()));
        }
    }
}
