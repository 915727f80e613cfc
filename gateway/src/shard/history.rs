//! What a shard does with the durable history: what its rooms say goes in, what somebody has missed
//! or wants to see again comes out, and answers wait until what they promise is true.

use ahash::AHashMap;
use barrage_router::{
    Cursor, Frame, InboxDevice, InboxMessage, Keep, Order, Room, RoomKey, Target, UserKey,
};
use barrage_store::{Client, Done, From, Load, Page, Position, Record, State};
use barrage_wire::server::{CLASSES, Code};
use barrage_wire::{FRAME_HEADER_BYTES, ServerFrame};
use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::core::Core;
use super::publish::Waiter;
use crate::limits::{
    HISTORY_QUEUE_RESERVE, PAGE_BYTES_MAX, RESUME_BYTES_MAX, RESUME_FRAMES_MAX, ROOMS_KNOWN_MAX,
};
use crate::mail::{ConnRef, Earlier, HistoryAsk, Mail, TallyId};
use crate::note::{DeviceNote, MessageNote};
use crate::past;

/// Marks the tokens of loads among those of what is stored.
const LOAD: u64 = 1 << 63;
/// How often a resume asks the disk again because its room went on meanwhile.
const RESUME_ROUNDS_MAX: u8 = 4;

/// The shard's end of the durable history.
pub struct History {
    client: Client,
    /// Whether the disk takes what it is given.
    failing: bool,
    /// Rooms that were said something in and are not in memory: where they go on.
    known: AHashMap<RoomKey, Position>,
    storing: Slab<Storing>,
    /// Pages that were asked for. None: nobody waits for it any more.
    loading: Slab<Option<Loading>>,
}

/// Answers that wait for the disk.
enum Storing {
    /// Of the publishes that became one frame.
    Frame { key: RoomKey, seq: u64, waiters: Vec<Waiter> },
    /// One part of a tally.
    Part { tally: TallyId, code: Code, count: u64 },
}

enum Loading {
    Resume(Resume),
    Page { who: ConnRef, request: u32, key: RoomKey, by_upstream: bool },
}

/// Somebody who comes back and has missed more than the room remembers.
pub(super) struct Resume {
    who: ConnRef,
    request: u32,
    key: RoomKey,
    cursor: Cursor,
    /// What the disk has given so far, and how far that goes.
    frames: Vec<Record>,
    at: Position,
    rounds: u8,
}

impl Resume {
    pub fn new(who: ConnRef, request: u32, key: RoomKey, cursor: Cursor) -> Self {
        let at = Position { epoch: cursor.epoch, seq: cursor.seq };
        Self { who, request, key, cursor, frames: Vec::new(), at, rounds: 0 }
    }
}

impl History {
    /// With the rooms that go on where they were when the gateway was last told to end.
    pub fn new(client: Client, known: impl IntoIterator<Item = (RoomKey, Position)>) -> Self {
        let known = known.into_iter().collect();
        Self { client, failing: false, known, storing: Slab::new(), loading: Slab::new() }
    }
}

/// What was on disk when the gateway started and is this shard's to know, beside its rooms.
#[derive(Default)]
pub struct Restored {
    /// What was published with idempotency keys, the oldest first.
    pub keys: Vec<(RoomKey, u128, u64)>,
    /// Messages that wait in inboxes.
    pub messages: Vec<(UserKey, u64, MessageNote)>,
    /// How far users' devices have ACKed.
    pub devices: Vec<(UserKey, u64, DeviceNote)>,
    /// Bans and mutes; every shard has all of them.
    pub orders: Vec<Order>,
}

impl Core {
    /// Takes up what was left.
    pub(super) fn restore(&mut self, history: History, restored: Restored) {
        self.history = Some(history);
        for (room, key, seq) in restored.keys {
            self.homes.seen.remember(room.app, Target::Room(room.room.0), key, Code::Ok, seq);
        }
        restored.orders.into_iter().for_each(|order| self.restore_order(order));
        let unix_ms = self.config.unix_ms;
        let mut inboxes: AHashMap<UserKey, (Vec<InboxMessage>, Vec<InboxDevice>)> = AHashMap::new();
        for (user, seq, note) in restored.messages {
            if note.idempotency_key != 0 {
                let target = Target::User(user.user.0);
                self.homes.seen.remember(user.app, target, note.idempotency_key, Code::Ok, 0);
            }
            inboxes.entry(user).or_default().0.push(note.message(seq, unix_ms));
        }
        for (user, device, note) in restored.devices {
            inboxes.entry(user).or_default().1.push(note.device(device, unix_ms));
        }
        for (user, (messages, devices)) in inboxes {
            self.restore_inbox(user, messages, devices);
        }
    }

    /// Whether a message can be promised to be stored.
    pub(super) fn stores(&self) -> bool {
        self.history.as_ref().is_some_and(|history| !history.failing)
    }

    /// Whether the disk keeps up.
    pub(super) fn history_has_room(&self) -> bool {
        let enough = |history: &History| history.client.room() >= HISTORY_QUEUE_RESERVE;
        self.history.as_ref().is_none_or(enough)
    }

    /// Whether answers still wait for the disk.
    pub(super) fn is_storing(&self) -> bool {
        self.history.as_ref().is_some_and(|history| !history.storing.is_empty())
    }

    /// Where a room goes on that is not in memory.
    pub(super) fn known_room(&mut self, key: RoomKey) -> Option<Position> {
        self.history.as_mut()?.known.remove(&key)
    }

    /// A room goes out of memory: it goes on where it is when it is needed again.
    pub(super) fn keep_known(&mut self, room: &Room) {
        if let Some(history) = &mut self.history
            && room.head() > 0
            && history.known.len() < ROOMS_KNOWN_MAX
        {
            let at = Position { epoch: room.epoch(), seq: room.head() };
            history.known.insert(room.key(), at);
        }
    }

    /// A frame goes to the disk; whoever waits for that is told when it is there.
    pub(super) fn store_frame(&mut self, index: u32, frame: &Frame, waiters: Vec<Waiter>) {
        let Some(history) = &mut self.history else { return };
        let room = &self.homes.rooms[index as usize].room;
        let category = self.config.rules.policy.category(frame.category);
        let is_kept = category.is_some_and(|category| category.keep == Keep::Disk);
        let keys = waiters.iter().map(|waiter| waiter.idempotency_key).filter(|&key| key != 0);
        let key = room.key();
        let record = Record {
            room: key,
            at: Position { epoch: room.epoch(), seq: frame.seq },
            time_ms: self.config.unix_ms + self.clock.us / 1000,
            category: frame.category,
            class: frame.class,
            never_drop: frame.never_drop,
            frame: if is_kept { frame.bytes.clone() } else { Bytes::new() },
            keys: keys.collect(),
        };
        let token = waiters.iter().any(|waiter| waiter.unanswered).then(|| {
            history.storing.insert(Storing::Frame { key, seq: frame.seq, waiters }) as u64
        });
        if history.client.append(record, token).is_err() {
            self.metrics.unstored_total += 1;
            if let Some(token) = token {
                self.stored(token, false);
            }
        }
    }

    /// A small thing goes to the disk; with a tally, its part is counted when it is there.
    pub(super) fn put_note(
        &mut self,
        space: u8,
        key: &[u8],
        value: &[u8],
        then: Option<(TallyId, Code, u64)>,
    ) {
        let Some(history) = &mut self.history else { return };
        let token = then.map(|(tally, code, count)| {
            history.storing.insert(Storing::Part { tally, code, count }) as u64
        });
        if history.client.put_note(space, key, value, token).is_err() {
            self.metrics.unstored_total += 1;
            if let Some(token) = token {
                self.stored(token, false);
            }
        }
    }

    pub(super) fn delete_note(&mut self, space: u8, key: &[u8]) {
        if let Some(history) = &mut self.history
            && history.client.delete_note(space, key).is_err()
        {
            self.metrics.unstored_total += 1;
        }
    }

    /// What the disk has done. Says whether it was anything.
    pub(super) fn hear_history(&mut self) -> bool {
        let mut heard = false;
        while let Some(done) = self.history.as_mut().and_then(|history| history.client.done()) {
            heard = true;
            match done {
                Done::Stored { token } => self.stored(token, true),
                Done::Failed { token } => self.failed(token),
                Done::Loaded { token, page } => self.loaded(token, page),
                Done::State(state) => {
                    if let Some(history) = &mut self.history {
                        history.failing = state != State::Ok;
                    }
                }
            }
        }
        heard
    }

    fn stored(&mut self, token: u64, is_stored: bool) {
        let Some(history) = &mut self.history else { return };
        match history.storing.remove(token as usize) {
            Storing::Frame { key, seq, waiters } => {
                for waiter in waiters {
                    self.stored_for(key, seq, waiter, is_stored);
                }
            }
            Storing::Part { tally, code, count } => {
                let (code, count) = if is_stored { (code, count) } else { (Code::Unstored, 0) };
                self.post.send(tally.shard, Mail::Tallied { tally, code, count, parts: 1 });
            }
        }
    }

    fn stored_for(&mut self, key: RoomKey, seq: u64, waiter: Waiter, is_stored: bool) {
        let Waiter { origin, unanswered, code, idempotency_key } = waiter;
        let target = Target::Room(key.room.0);
        let code = if is_stored { code } else { Code::Unstored };
        if unanswered && idempotency_key != 0 {
            if is_stored {
                self.homes.seen.remember(key.app, target, idempotency_key, code, seq);
            } else {
                // It is to be published again: a repeat must not be told that it was done.
                self.homes.seen.forget(key.app, target, idempotency_key);
            }
        }
        if unanswered {
            let seq = if is_stored { seq } else { 0 };
            self.answer(origin, code, seq);
        }
    }

    /// Asks the disk for what somebody has missed.
    pub(super) fn load_missed(&mut self, resume: Resume) {
        let Some(history) = &mut self.history else { return };
        let load = Load {
            room: resume.key,
            from: From::After(resume.at),
            frames_max: RESUME_FRAMES_MAX.saturating_sub(resume.frames.len()),
            bytes_max: RESUME_BYTES_MAX,
        };
        let (who, request) = (resume.who, resume.request);
        let token = history.loading.insert(Some(Loading::Resume(resume)));
        if history.client.load(LOAD | token as u64, load).is_err() {
            history.loading.remove(token);
            self.refuse_join(who, request);
        }
    }

    /// Somebody leaves a room before the JOIN has come back from the disk.
    pub(super) fn abandon_resume(&mut self, who: ConnRef, key: RoomKey) {
        let Some(history) = &mut self.history else { return };
        let waits = |loading: &Option<Loading>| matches!(loading, Some(Loading::Resume(it)) if it.who == who && it.key == key);
        let found = history.loading.iter_mut().find(|(_, loading)| waits(loading));
        if let Some(Loading::Resume(resume)) = found.and_then(|(_, loading)| loading.take()) {
            let origin = crate::mail::Origin { at: who, request: resume.request, silent: false };
            self.answer(origin, Code::NotMember, 0);
        }
    }

    /// The disk could not do it.
    fn failed(&mut self, token: u64) {
        if token & LOAD == 0 {
            return self.stored(token, false);
        }
        let Some(history) = &mut self.history else { return };
        match history.loading.remove((token & !LOAD) as usize) {
            None => {}
            Some(Loading::Resume(resume)) => self.finish_from_memory(resume),
            Some(Loading::Page { who, request, by_upstream, .. }) => {
                self.refuse_page(who, request, by_upstream, Code::Unstored);
            }
        }
    }

    fn loaded(&mut self, token: u64, page: Page) {
        let Some(history) = &mut self.history else { return };
        match history.loading.remove((token & !LOAD) as usize) {
            None => {}
            Some(Loading::Resume(resume)) => self.resumed(resume, page),
            Some(Loading::Page { who, request, key, by_upstream }) => {
                self.send_page(who, request, key, by_upstream, &page);
            }
        }
    }

    /// The disk has what somebody has missed, or not all of it.
    fn resumed(&mut self, mut resume: Resume, page: Page) {
        let exact = page.known && page.floor <= resume.at && !page.more;
        let Some(index) = self.home_room(resume.key).filter(|_| exact) else {
            return self.finish_from_memory(resume);
        };
        resume.frames.extend(page.records);
        if let Some(last) = resume.frames.last() {
            resume.at = last.at;
        }
        let room = &self.homes.rooms[index as usize].room;
        let epoch = room.epoch();
        let seq = if resume.at.epoch == epoch { resume.at.seq } else { 0 };
        let cursor = Cursor { epoch, seq };
        resume.rounds += 1;
        if room.knows(cursor) {
            let earlier = Box::new(earlier(room, &resume));
            self.metrics.resumed_from_disk_total += 1;
            let Resume { who, request, key, .. } = resume;
            self.finish_join(who, request, key, Some(cursor), Some(earlier));
        } else if resume.rounds < RESUME_ROUNDS_MAX && resume.frames.len() < RESUME_FRAMES_MAX {
            self.load_missed(resume);
        } else {
            self.finish_from_memory(resume);
        }
    }

    /// The disk does not have it all: the member is told where the room is.
    fn finish_from_memory(&mut self, resume: Resume) {
        let Resume { who, request, key, cursor, .. } = resume;
        self.finish_join(who, request, key, Some(cursor), None);
    }

    /// Somebody wants to see what was said.
    pub(super) fn home_history(
        &mut self,
        who: ConnRef,
        request: u32,
        key: RoomKey,
        ask: HistoryAsk,
        by_upstream: bool,
    ) {
        let refused = if self.history.is_none() { Code::Unstored } else { Code::Overloaded };
        let loading = Loading::Page { who, request, key, by_upstream };
        let asked = self.history.as_mut().is_some_and(|history| {
            let from = match ask.epoch {
                0 => From::Since(ask.since_ms),
                epoch => From::After(Position { epoch, seq: ask.from.saturating_sub(1) }),
            };
            let frames_max = usize::from(ask.count);
            let token = history.loading.insert(Some(loading));
            let load = Load { room: key, from, frames_max, bytes_max: PAGE_BYTES_MAX };
            let asked = history.client.load(LOAD | token as u64, load).is_ok();
            if !asked {
                history.loading.remove(token);
            }
            asked
        });
        if !asked {
            self.refuse_page(who, request, by_upstream, refused);
        }
    }

    fn refuse_page(&mut self, who: ConnRef, request: u32, by_upstream: bool, code: Code) {
        let end = past::End { code, ..past::End::default() };
        let frames = vec![past::encode_end(request, &end, by_upstream)];
        self.post.send(who.shard, Mail::Page { conn: who.conn, frames });
    }

    fn send_page(
        &mut self,
        who: ConnRef,
        request: u32,
        key: RoomKey,
        by_upstream: bool,
        page: &Page,
    ) {
        let room = self.home_room(key).map(|index| &self.homes.rooms[index as usize].room);
        let epoch = room.map_or(page.end.epoch, Room::epoch);
        let next = page.records.last().filter(|_| page.more).map(|last| last.at);
        let end = past::End {
            code: Code::Ok,
            epoch,
            oldest: if page.floor.epoch == epoch { page.floor.seq.max(1) } else { 1 },
            head: room.map_or(page.end.seq, Room::head),
            next: next.map(|at| Position { epoch: at.epoch, seq: at.seq + 1 }),
        };
        let said = page.records.iter().filter_map(|it| past::encode(request, it, by_upstream));
        let mut frames: Vec<Bytes> = said.collect();
        frames.push(past::encode_end(request, &end, by_upstream));
        self.post.send(who.shard, Mail::Page { conn: who.conn, frames });
    }
}

/// What somebody has missed before what the room remembers, as frames.
fn earlier(room: &Room, resume: &Resume) -> Earlier {
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
            frames.push(under_alias(&record.frame, alias));
        }
    }
    gone.declare(alias, &mut frames);
    let of_cursor = resume.frames.iter().rev().find(|it| it.at.epoch == resume.cursor.epoch);
    let head = of_cursor.map_or(resume.cursor.seq, |last| last.at.seq);
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

/// The frame under the room's present name: it may have had another one when it was said.
fn under_alias(frame: &Bytes, alias: u32) -> Bytes {
    let (at, alias) = (FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + 4, alias.to_le_bytes());
    if frame.get(at.clone()).is_none_or(|bytes| *bytes == alias) {
        return frame.clone();
    }
    let mut renamed = BytesMut::from(&frame[..]);
    renamed[at].copy_from_slice(&alias);
    renamed.freeze()
}
