//! What a shard does with the durable history: what its rooms say goes in, what somebody has missed
//! comes out, and answers wait until what they promise is true.

use ahash::AHashMap;
use barrage_router::{
    Cursor, Frame, InboxDevice, InboxMessage, Keep, Order, Room, RoomKey, Target, UserKey,
};
use barrage_store::{Client, Done, From, Load, Page, Position, Record, State};
use barrage_wire::server::Code;
use bytes::Bytes;
use slab::Slab;

use super::core::Core;
use super::lifecycle::ticks;
use super::missed::{Before, Resume, Resumes, Turn, earlier};
use super::pages::{PageAsk, Pages};
use super::publish::Waiter;
use crate::limits::{
    HISTORY_QUEUE_RESERVE, RESUME_BYTES_MAX, RESUME_FRAMES_MAX, RESUME_WAIT_MAX, ROOMS_KNOWN_MAX,
};
use crate::mail::{ConnRef, Mail, Origin, TallyId};
use crate::note::{DeviceNote, MessageNote};

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
    /// Where rooms were when the gateway was last ended, though not in order: their present epochs
    /// are others.
    broken_off: AHashMap<RoomKey, Position>,
    storing: Slab<Storing>,
    /// Pages that were asked for.
    loading: Slab<Loading>,
    resumes: Resumes,
    pub(super) pages: Pages,
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
    Page(PageAsk),
}

impl History {
    /// With the rooms as they were when the gateway ended: if that was in order, they go on there.
    pub fn new(client: Client, rooms: Vec<(RoomKey, Position)>, in_order: bool) -> Self {
        let rooms = rooms.into_iter().collect();
        let (known, broken_off) =
            if in_order { (rooms, AHashMap::new()) } else { (AHashMap::new(), rooms) };
        Self {
            client,
            failing: false,
            known,
            broken_off,
            storing: Slab::new(),
            loading: Slab::new(),
            resumes: Resumes::default(),
            pages: Pages::default(),
        }
    }

    /// Whether something was said in a room that is not in memory.
    pub(super) fn has_room_of(&self, key: RoomKey) -> bool {
        self.known.contains_key(&key) || self.broken_off.contains_key(&key)
    }

    /// Asks the disk for a page. False when it takes nothing more.
    pub(super) fn load_page(&mut self, load: Load, ask: PageAsk) -> bool {
        let token = self.loading.insert(Loading::Page(ask));
        let asked = self.client.load(LOAD | token as u64, load).is_ok();
        if !asked {
            self.loading.remove(token);
        }
        asked
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
                let target = note.part.map_or(Target::User(user.user.0), Target::Users);
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

    /// A room goes out of memory in which something was said: it goes on where it is when it is needed
    /// again. False when nobody remembers where that is.
    pub(super) fn keep_known(&mut self, room: &Room) -> bool {
        let history = self.history.as_mut();
        let Some(history) = history.filter(|it| it.known.len() < ROOMS_KNOWN_MAX) else {
            return false;
        };
        let at = Position { epoch: room.epoch(), seq: room.head() };
        history.known.insert(room.key(), at);
        true
    }

    /// A frame goes to the disk; whoever waits for that is told when it is there.
    pub(super) fn store_frame(&mut self, index: u32, frame: &Frame, waiters: Vec<Waiter>) {
        let Some(history) = &mut self.history else { return };
        let room = &self.homes.rooms[index as usize].room;
        let category = self.config.rules.policy.category(frame.category);
        let is_promised = waiters.iter().any(|waiter| waiter.unanswered);
        // What was promised is kept, even if the policy is another one by now.
        let is_kept = is_promised || category.is_some_and(|category| category.keep == Keep::Disk);
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
        let token = is_promised.then(|| {
            history.storing.insert(Storing::Frame { key, seq: frame.seq, waiters }) as u64
        });
        if history.client.append(record, token).is_err() {
            self.metrics.unstored_total += 1;
            if let Some(token) = token {
                self.stored(token, false);
            }
        }
    }

    /// A small thing goes to the disk; with a tally, its part is counted when it is there. False when
    /// there was no place for it.
    pub(super) fn put_note(
        &mut self,
        space: u8,
        key: &[u8],
        value: &[u8],
        then: Option<(TallyId, Code, u64)>,
    ) -> bool {
        let Some(history) = &mut self.history else { return true };
        let token = then.map(|(tally, code, count)| {
            history.storing.insert(Storing::Part { tally, code, count }) as u64
        });
        let taken = history.client.put_note(space, key, value, token).is_ok();
        if !taken {
            self.metrics.unstored_total += 1;
            if let Some(token) = token {
                self.stored(token, false);
            }
        }
        taken
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
        self.next_resumes();
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

    /// Somebody comes back and has missed more than its room remembers.
    pub(super) fn resume(&mut self, resume: Resume) {
        let Some(history) = &mut self.history else { return };
        let (who, request) = (resume.who, resume.request);
        match history.resumes.begin(resume) {
            Turn::Now(resume) => self.load_missed(resume),
            Turn::Waits => {}
            Turn::Twice => {
                let origin = Origin { at: who, request, silent: false };
                self.answer(origin, Code::AlreadyMember, 0);
            }
            Turn::Full => self.refuse_join(who, request),
        }
    }

    /// Asks the disk for what somebody has missed.
    fn load_missed(&mut self, resume: Resume) {
        let Some(history) = &mut self.history else { return };
        let bytes: usize = resume.frames.iter().map(|record| record.frame.len()).sum();
        let load = Load {
            room: resume.key,
            from: From::After(resume.at),
            frames_max: RESUME_FRAMES_MAX.saturating_sub(resume.frames.len()),
            bytes_max: RESUME_BYTES_MAX.saturating_sub(bytes),
        };
        let (who, request, key) = (resume.who, resume.request, resume.key);
        let token = history.loading.insert(Loading::Resume(resume));
        if history.client.load(LOAD | token as u64, load).is_err() {
            history.loading.remove(token);
            history.resumes.end(who, key, request);
            self.refuse_join(who, request);
        }
    }

    /// The turn of those has come who wait for the disk.
    pub(super) fn next_resumes(&mut self) {
        while let Some(history) = &mut self.history
            && let Some(next) = history.resumes.next()
        {
            let waited = self.clock.tick.wrapping_sub(next.since);
            if waited >= ticks(RESUME_WAIT_MAX) {
                // It has come again meanwhile, or is about to.
                history.resumes.end(next.who, next.key, next.request);
                self.refuse_join(next.who, next.request);
            } else {
                self.load_missed(next);
            }
        }
    }

    /// Somebody leaves a room before the JOIN has come back from the disk.
    pub(super) fn abandon_resume(&mut self, who: ConnRef, key: RoomKey) {
        let history = self.history.as_mut();
        if let Some(request) = history.and_then(|history| history.resumes.abandon(who, key)) {
            let origin = Origin { at: who, request, silent: false };
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
            Loading::Resume(resume) => self.finish_from_memory(resume, Before::Nothing),
            Loading::Page(PageAsk { who, request, by_upstream, .. }) => {
                self.refuse_page(who, request, by_upstream, Code::Unstored);
                self.end_page();
            }
        }
    }

    fn loaded(&mut self, token: u64, page: Page) {
        let Some(history) = &mut self.history else { return };
        match history.loading.remove((token & !LOAD) as usize) {
            Loading::Resume(resume) => self.resumed(resume, page),
            Loading::Page(ask) => {
                self.send_page(ask, page);
                self.end_page();
            }
        }
    }

    /// The disk has what somebody has missed, or not all of it.
    fn resumed(&mut self, mut resume: Resume, page: Page) {
        let Some(index) = self.home_room(resume.key) else {
            return self.finish_from_memory(resume, Before::Nothing);
        };
        let room = &self.homes.rooms[index as usize].room;
        let epoch = room.epoch();
        let gone = Before::Gone { oldest: oldest(&page, epoch) };
        if !page.known || page.floor > resume.at || page.more {
            return self.finish_from_memory(resume, gone);
        }
        resume.frames.extend(page.records);
        if let Some(last) = resume.frames.last() {
            resume.at = last.at;
        }
        let seq = if resume.at.epoch == epoch { resume.at.seq } else { 0 };
        let cursor = Cursor { epoch, seq };
        resume.rounds += 1;
        if room.knows(cursor) {
            let broken_off = self.history.as_ref().and_then(|it| it.broken_off.get(&resume.key));
            let earlier = Box::new(earlier(room, &resume, broken_off));
            self.metrics.resumed_from_disk_total += 1;
            self.finish_resume(resume, cursor, Before::Earlier(earlier));
        } else if resume.rounds < RESUME_ROUNDS_MAX && resume.frames.len() < RESUME_FRAMES_MAX {
            self.load_missed(resume);
        } else {
            self.finish_from_memory(resume, gone);
        }
    }

    /// The disk does not have it all: the member is told where the room is.
    fn finish_from_memory(&mut self, resume: Resume, before: Before) {
        let cursor = resume.cursor;
        self.finish_resume(resume, cursor, before);
    }

    fn finish_resume(&mut self, resume: Resume, cursor: Cursor, before: Before) {
        let history = self.history.as_ref();
        let is_open = history.is_some_and(|history| history.resumes.is_open(&resume));
        let Resume { who, request, key, .. } = resume;
        if is_open {
            self.finish_join(who, request, key, Some(cursor), before);
        }
        if let Some(history) = &mut self.history {
            history.resumes.end(who, key, request);
        }
    }
}

/// The first number of the room's epoch from which on the disk has everything.
pub(super) fn oldest(page: &Page, epoch: u64) -> u64 {
    if page.floor.epoch == epoch { page.floor.seq + 1 } else { 1 }
}
