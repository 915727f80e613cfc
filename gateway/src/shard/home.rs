//! What a shard does as the home of rooms and apps.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use barrage_router::{
    Alias, AppId, CatchUp, Cursor, Room, RoomId, RoomKey, ShardIndex, Target, home_of_room,
};
use barrage_wire::server::Code;

use super::core::{Core, HomeRoom, Homes, Tally, TallyEnd};
use super::missed::{Before, Resume};
use crate::limits::{
    ALIAS_ROOM_BITS, ALIASES_FREE_MIN, EPOCH_COUNTS, ROOMS_PER_APP_SHARE, ROOMS_PER_HOME_MAX,
    ROOMS_SEARCHED_MAX,
};
use crate::mail::{ConnRef, Direct, Head, Mail, Origin, TallyId};

/// Ticks in which every room is looked at for idleness once.
const SWEEP_TICKS: usize = 600;

/// Short names of rooms, as numbers of this home.
#[derive(Default)]
pub(super) struct Aliases {
    /// How many were ever given.
    given: u32,
    /// Those that were given back, the longest unused first.
    back: VecDeque<u32>,
}

impl Aliases {
    fn take(&mut self) -> u32 {
        if self.back.len() > ALIASES_FREE_MIN || self.given as usize >= ROOMS_PER_HOME_MAX {
            return self.back.pop_front().expect("there are more names than rooms");
        }
        self.given += 1;
        self.given
    }
}

/// In which epochs rooms begin. A room that goes before anything was said in it begins in the same one
/// when it is made anew, so that whoever was there misses nothing.
pub(super) struct Epochs {
    first: u64,
    /// How many rooms were forgotten that had said something, by a hash of the room: another room's
    /// epoch rises with it only where they share a count.
    lost: Box<[u32; EPOCH_COUNTS]>,
}

impl Epochs {
    pub fn new(first: u64) -> Self {
        Self { first, lost: Box::new([0; EPOCH_COUNTS]) }
    }

    fn of(&self, key: RoomKey) -> u64 {
        self.first + u64::from(self.lost[Self::place(key)])
    }

    /// The room is forgotten: it never had the epoch that it gets when it is made anew.
    fn lose(&mut self, key: RoomKey) {
        self.lost[Self::place(key)] += 1;
    }

    #[cfg(test)]
    pub fn any_lost(&self) -> bool {
        self.lost.iter().any(|&lost| lost > 0)
    }

    fn place(key: RoomKey) -> usize {
        let mixed = (key.room.0 ^ u64::from(key.app.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize % EPOCH_COUNTS
    }
}

impl Homes {
    /// Where the search for rooms that may be forgotten goes on.
    fn next_to_sweep(&mut self, capacity: usize) -> usize {
        self.sweep = (self.sweep + 1) % capacity;
        self.sweep
    }
}

impl Core {
    pub(super) fn shards(&self) -> NonZeroU16 {
        NonZeroU16::new(self.post.shards()).unwrap_or(NonZeroU16::MIN)
    }

    /// The room, which is made when there is none. None when there are too many.
    pub(super) fn home_room(&mut self, key: RoomKey) -> Option<u32> {
        if let Some(&index) = self.homes.by_key.get(&key) {
            return Some(index);
        }
        if !self.has_place_for(key.app) {
            return None;
        }
        let known = self.known_room(key);
        let number = self.homes.aliases.take();
        let alias = Alias(u32::from(self.post.me().0) << ALIAS_ROOM_BITS | number);
        let limits = self.config.history;
        let room = match known {
            Some(at) => Room::resume(key, alias, at.epoch, at.seq, limits),
            None => Room::new(key, alias, self.homes.epochs.of(key), limits),
        };
        let place = HomeRoom { room, armed: None, counted_bytes: 0 };
        let index = self.homes.rooms.insert(place) as u32;
        self.homes.by_key.insert(key, index);
        *self.homes.by_app.entry(key.app).or_default() += 1;
        Some(index)
    }

    /// Whether an app may have one more room. When there are too many, one that nobody is in makes
    /// place: whoever comes back to it is caught up from disk, or reset.
    fn has_place_for(&mut self, app: AppId) -> bool {
        let of_app = self.homes.by_app.get(&app).copied().unwrap_or(0);
        let app_is_full = of_app >= self.homes.rooms_max / ROOMS_PER_APP_SHARE;
        if !app_is_full && self.homes.rooms.len() < self.homes.rooms_max {
            return true;
        }
        let capacity = self.homes.rooms.capacity();
        for _ in 0..ROOMS_SEARCHED_MAX.min(capacity) {
            let index = self.homes.next_to_sweep(capacity);
            let room = self.homes.rooms.get(index).map(|place| &place.room);
            if room.is_some_and(|it| it.is_vacant() && (!app_is_full || it.key().app == app)) {
                self.forget_room(index as u32);
                self.metrics.rooms_crowded_total += 1;
                return true;
            }
        }
        false
    }

    fn forget_room(&mut self, index: u32) {
        self.homes.arm_at(index, None);
        let HomeRoom { room, counted_bytes, .. } = self.homes.rooms.remove(index as usize);
        self.homes.history_bytes -= counted_bytes;
        self.homes.by_key.remove(&room.key());
        self.homes.aliases.back.push_back(room.alias().0 & ((1 << ALIAS_ROOM_BITS) - 1));
        let app = room.key().app;
        let of_app = self.homes.by_app.get_mut(&app).expect("the rooms of each app are counted");
        *of_app -= 1;
        if *of_app == 0 {
            self.homes.by_app.remove(&app);
        }
        if room.head() > 0 && !self.keep_known(&room) {
            self.homes.epochs.lose(room.key());
        }
    }

    pub(super) fn home_join(
        &mut self,
        who: ConnRef,
        request: u32,
        key: RoomKey,
        cursor: Option<Cursor>,
    ) {
        // A room in which nothing was ever said has missed nothing, and is not made to be waited for.
        let is_known = self.homes.by_key.contains_key(&key)
            || self.history.as_ref().is_some_and(|history| history.has_room_of(key));
        let Some(cursor) = cursor.filter(|_| is_known && self.history.is_some()) else {
            return self.finish_join(who, request, key, cursor, Before::Nothing);
        };
        let Some(index) = self.home_room(key) else {
            return self.refuse_join(who, request);
        };
        if self.homes.rooms[index as usize].room.knows(cursor) {
            self.finish_join(who, request, key, Some(cursor), Before::Nothing);
        } else {
            self.resume(Resume::new(who, request, key, cursor, self.clock.tick));
        }
    }

    /// There are more rooms, or more who come back at once, than there can be.
    pub(super) fn refuse_join(&mut self, who: ConnRef, request: u32) {
        self.metrics.overloaded_total += 1;
        let origin = Origin { at: who, request, silent: false };
        let refused = Mail::Published { origin, code: Code::Overloaded, seq: 0 };
        self.post.send(who.shard, refused);
    }

    pub(super) fn finish_join(
        &mut self,
        who: ConnRef,
        request: u32,
        key: RoomKey,
        cursor: Option<Cursor>,
        before: Before,
    ) {
        let Some(index) = self.home_room(key) else {
            return self.refuse_join(who, request);
        };
        let (now, room) = (self.clock.millis(), &mut self.homes.rooms[index as usize].room);
        let mut joined = Box::new(room.join(now, &self.config.rules.policy, who.shard, cursor));
        let earlier = match before {
            Before::Nothing => None,
            Before::Earlier(earlier) => Some(earlier),
            Before::Gone { oldest: kept } => {
                if let CatchUp::Reset { oldest } = &mut joined.catch_up {
                    *oldest = kept;
                }
                None
            }
        };
        // In the same queue as the frames: those after `joined.head` come behind it.
        self.post.send(who.shard, Mail::Joined { conn: who.conn, request, key, joined, earlier });
        self.arm(index);
    }

    pub(super) fn home_leave(&mut self, shard: ShardIndex, key: RoomKey) {
        let now = self.clock.millis();
        let Some(&index) = self.homes.by_key.get(&key) else { return };
        let room = &mut self.homes.rooms[index as usize].room;
        room.leave(now, &self.config.rules.policy, shard);
        if room.is_vacant() && room.head() == 0 {
            self.forget_room(index);
        } else {
            self.arm(index);
        }
    }

    /// A LEAVE of somebody who is no member goes back behind the JOIN that may have come before it,
    /// and ends one that still waits for the disk.
    pub(super) fn home_leave_asked(&mut self, who: ConnRef, request: u32, key: RoomKey) {
        self.abandon_resume(who, key);
        self.post.send(who.shard, Mail::LeaveAskedBack { conn: who.conn, request, key });
    }

    /// Forgets some of the rooms that have been idle for long.
    pub(super) fn sweep_rooms(&mut self) {
        let now = self.clock.millis();
        let capacity = self.homes.rooms.capacity();
        for _ in 0..(capacity / SWEEP_TICKS + 1).min(capacity) {
            let index = self.homes.next_to_sweep(capacity);
            if self.homes.rooms.get(index).is_some_and(|place| place.room.is_idle(now)) {
                self.forget_room(index as u32);
            }
        }
    }

    pub(super) fn home_to_app(&mut self, tally: TallyId, app: u32, head: &Head, direct: &Direct) {
        let refused = if let Some(done) = self.seen(AppId(app), Target::App, head) {
            Some(done)
        } else if self.is_expired(head) {
            Some((Code::Expired, 0))
        } else if self.post.any_congested() || self.is_draining() {
            self.metrics.overloaded_total += 1;
            Some((Code::Overloaded, 0))
        } else {
            None
        };
        if let Some((code, count)) = refused {
            return self.post.send(tally.shard, Mail::Tallied { tally, code, count, parts: 1 });
        }
        // Summed up here, where the key is remembered with the sum.
        let to = TallyEnd::Part { of: tally, app, target: Target::App, head: *head };
        let tally = self.open_tally(to, u32::from(self.post.shards()));
        self.remember(AppId(app), Target::App, head, Code::Ok, 0);
        self.tell_all(|| Mail::ToAppHere { tally, app, direct: direct.clone() });
    }

    /// The home of an app's broadcasts: the one of its room 0.
    pub(super) fn home_of_app(&self, app: u32) -> ShardIndex {
        home_of_room(RoomKey { app: AppId(app), room: RoomId(0) }, self.shards())
    }

    /// Mails something to every shard.
    pub(super) fn tell_all(&mut self, mail: impl Fn() -> Mail) {
        for shard in 0..self.post.shards() {
            self.post.send(ShardIndex(shard), mail());
        }
    }

    /// How the publish with this key ended, if it was done before.
    pub(super) fn seen(&mut self, app: AppId, target: Target, head: &Head) -> Option<(Code, u64)> {
        if head.idempotency_key == 0 {
            return None;
        }
        let (code, seq) = self.homes.seen.lookup(app, target, head.idempotency_key)?;
        if code == Code::Unstored {
            // The first one is on its way to the disk. Whether it gets there is not known yet.
            return Some((Code::Overloaded, 0));
        }
        self.metrics.duplicates_total += 1;
        Some((Code::Duplicate, seq))
    }

    pub(super) fn remember(
        &mut self,
        app: AppId,
        target: Target,
        head: &Head,
        code: Code,
        seq: u64,
    ) {
        if head.idempotency_key != 0 {
            self.homes.seen.remember(app, target, head.idempotency_key, code, seq);
        }
    }

    pub(super) fn is_expired(&mut self, head: &Head) -> bool {
        let expired = head.expires_ms != 0 && self.clock.millis().0 > head.expires_ms;
        self.metrics.expired_total += u64::from(expired);
        expired
    }

    /// Opens a collection of `parts` answers to one request.
    pub(super) fn open_tally(&mut self, to: TallyEnd, parts: u32) -> TallyId {
        let tally = Tally { to, code: Code::Offline, count: 0, parts_left: parts };
        TallyId { shard: self.me(), index: self.tallies.insert(tally) as u32 }
    }

    /// So many parts have answered.
    pub(super) fn tallied(&mut self, id: TallyId, code: Code, count: u64, parts: u32) {
        let tally = self.tallies.get_mut(id.index as usize);
        let tally = tally.expect("a tally waits for all its parts");
        tally.count += count;
        tally.parts_left -= parts;
        if weight(code) > weight(tally.code) {
            tally.code = code;
        }
        if tally.parts_left == 0 {
            let tally = self.tallies.remove(id.index as usize);
            let (code, count) = (tally.code, tally.count);
            match tally.to {
                TallyEnd::Origin(origin) => self.published(origin, code, count),
                TallyEnd::Part { of, app, target, head } if code == Code::Unstored => {
                    // It is to be published again: a repeat must not be told that it was done.
                    self.homes.seen.forget(AppId(app), target, head.idempotency_key);
                    let tallied = Mail::Tallied { tally: of, code, count, parts: 1 };
                    self.post.send(of.shard, tallied);
                }
                TallyEnd::Part { of, app, target, head } => {
                    self.remember(AppId(app), target, &head, code, count);
                    let tallied = Mail::Tallied { tally: of, code, count, parts: 1 };
                    self.post.send(of.shard, tallied);
                }
            }
        }
    }
}

/// Which of several parts' codes is told: one user reached is a success, but whoever asked has to know
/// of a part that was refused, and may ask again with the same key.
fn weight(code: Code) -> u8 {
    match code {
        Code::Offline => 0,
        Code::Kept => 1,
        Code::Duplicate => 2,
        Code::Ok => 3,
        Code::Merged
        | Code::Limited
        | Code::NotMember
        | Code::AlreadyMember
        | Code::TooManyRooms
        | Code::Forbidden
        | Code::NoUpstream
        | Code::NoAnswer
        | Code::UnknownCategory
        | Code::Unsupported
        | Code::Expired
        | Code::Refused
        | Code::Muted => 4,
        Code::Overloaded => 5,
        Code::Unstored => 6,
    }
}
