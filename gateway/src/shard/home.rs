//! What a shard does as the home of rooms, users and apps.

use std::num::NonZeroU16;

use barrage_router::{
    Admission, Alias, AppId, Cursor, Publish, Room, RoomId, RoomKey, ShardIndex, Target, UserId,
    UserKey, home_of_room,
};
use barrage_wire::server::{CloseReason, Code};
use bytes::Bytes;

use super::core::{Core, Tally, TallyEnd};
use crate::limits::{ALIAS_ROOM_BITS, ROOMS_PER_HOME_MAX};
use crate::mail::{ConnRef, Direct, Head, Mail, Origin, TallyId};

/// Ticks in which every room is looked at for idleness once.
const SWEEP_TICKS: usize = 600;

impl Core {
    pub(super) fn shards(&self) -> NonZeroU16 {
        NonZeroU16::new(self.post.shards()).unwrap_or(NonZeroU16::MIN)
    }

    /// Publishes to a room: at once when its home is here, else by mail.
    pub(super) fn publish(&mut self, origin: Origin, key: RoomKey, head: Head, payload: &[u8]) {
        let home = home_of_room(key, self.shards());
        if home == self.me() {
            self.home_publish(origin, key, &head, payload);
        } else if self.post.congested(home) {
            self.metrics.overloaded_total += 1;
            self.published(origin, Code::Overloaded, 0);
        } else {
            let payload = Bytes::copy_from_slice(payload);
            self.post.send(home, Mail::Publish { origin, key, head, payload });
        }
    }

    pub(super) fn home_publish(
        &mut self,
        origin: Origin,
        key: RoomKey,
        head: &Head,
        payload: &[u8],
    ) {
        let (code, seq) = self.sequence(key, head, payload);
        if origin.at.shard == self.me() {
            self.published(origin, code, seq);
        } else {
            self.post.send(origin.at.shard, Mail::Published { origin, code, seq });
        }
    }

    fn sequence(&mut self, key: RoomKey, head: &Head, payload: &[u8]) -> (Code, u64) {
        let target = Target::Room(key.room.0);
        if let Some(done) = self.seen(key.app, target, head) {
            return done;
        }
        if self.is_expired(head) {
            return (Code::Expired, 0);
        }
        let (now, draining) = (self.clock.millis(), self.is_draining());
        let index = self.home_room(key);
        let Some(room) = index.and_then(|index| self.homes.rooms.get_mut(index as usize)) else {
            self.metrics.overloaded_total += 1;
            return (Code::Overloaded, 0);
        };
        // Nothing that was given a number may be lost on the way, so it is not given one.
        if draining || room.shards().any(|shard| self.post.congested(shard)) {
            self.metrics.overloaded_total += 1;
            return (Code::Overloaded, 0);
        }
        let message = Publish { category: &head.category, kind: head.kind, payload };
        let frame = match room.publish(now, message) {
            Admission::Admitted(frame) => frame,
            Admission::Limited { .. } => return (Code::Limited, 0),
        };
        self.metrics.published_total += 1;
        let (alias, seq) = (room.alias().0, frame.seq);
        let mut here = false;
        for shard in room.shards() {
            if shard == self.post.me() {
                here = true;
            } else {
                self.post.send(shard, Mail::Frame { alias, frame: frame.clone() });
            }
        }
        if here {
            self.post.send(self.post.me(), Mail::Frame { alias, frame });
        }
        self.remember(key.app, target, head, Code::Ok, seq);
        (Code::Ok, seq)
    }

    /// The room, which is made when there is none. None when there are too many.
    fn home_room(&mut self, key: RoomKey) -> Option<u32> {
        if let Some(&index) = self.homes.by_key.get(&key) {
            return Some(index);
        }
        if self.homes.rooms.len() >= ROOMS_PER_HOME_MAX {
            return None;
        }
        self.homes.made += 1;
        let epoch = self.config.epoch + self.homes.made;
        let entry = self.homes.rooms.vacant_entry();
        let index = entry.key() as u32;
        let alias = u32::from(self.post.me().0) << ALIAS_ROOM_BITS | (index + 1);
        entry.insert(Room::new(key, Alias(alias), epoch, self.config.history));
        self.homes.by_key.insert(key, index);
        Some(index)
    }

    pub(super) fn home_join(
        &mut self,
        who: ConnRef,
        request: u32,
        key: RoomKey,
        cursor: Option<Cursor>,
    ) {
        let now = self.clock.millis();
        let index = self.home_room(key);
        let Some(room) = index.and_then(|index| self.homes.rooms.get_mut(index as usize)) else {
            self.metrics.overloaded_total += 1;
            let origin = Origin { at: who, request, silent: false };
            let refused = Mail::Published { origin, code: Code::Overloaded, seq: 0 };
            return self.post.send(who.shard, refused);
        };
        let joined = room.join(now, who.shard, cursor);
        // In the same queue as the frames: those after `joined.head` come behind it.
        self.post.send(who.shard, Mail::Joined { conn: who.conn, request, key, joined });
    }

    pub(super) fn home_leave(&mut self, shard: ShardIndex, key: RoomKey) {
        let now = self.clock.millis();
        let index = self.homes.by_key.get(&key);
        if let Some(room) = index.and_then(|&index| self.homes.rooms.get_mut(index as usize)) {
            room.leave(now, shard);
        }
    }

    /// Forgets some of the rooms that have been idle for long.
    pub(super) fn sweep_rooms(&mut self) {
        let now = self.clock.millis();
        let capacity = self.homes.rooms.capacity();
        for _ in 0..(capacity / SWEEP_TICKS + 1).min(capacity) {
            self.homes.sweep = (self.homes.sweep + 1) % capacity;
            let index = self.homes.sweep;
            if self.homes.rooms.get(index).is_some_and(|room| room.is_idle(now)) {
                let room = self.homes.rooms.remove(index);
                self.homes.by_key.remove(&room.key());
            }
        }
    }

    pub(super) fn home_to_users(
        &mut self,
        tally: TallyId,
        app: u32,
        users: &[u64],
        target: Target,
        direct: &Direct,
    ) {
        let done = self.seen(AppId(app), target, &direct.head);
        let expired = done.is_none() && self.is_expired(&direct.head);
        let done = done.or(expired.then_some((Code::Expired, 0)));
        // All or nothing: a part that is remembered would never be completed.
        let congested = done.is_none() && users.iter().any(|&user| self.is_far(app, user));
        self.metrics.overloaded_total += u64::from(congested);
        let done = done.or(congested.then_some((Code::Overloaded, 0)));
        let (code, count) = done.unwrap_or_else(|| {
            let mut handed = 0;
            for &user in users {
                handed +=
                    self.hand_to_user(UserKey { app: AppId(app), user: UserId(user) }, direct);
            }
            let code = if handed > 0 { Code::Ok } else { Code::Offline };
            // A user who is offline may be back when the same message is tried again.
            if handed > 0 {
                self.remember(AppId(app), target, &direct.head, code, handed);
            }
            (code, handed)
        });
        self.post.send(tally.shard, Mail::Tallied { tally, code, count, parts: 1 });
    }

    fn hand_to_user(&mut self, user: UserKey, direct: &Direct) -> u64 {
        let mut handed = 0;
        for who in self.homes.users.find(user) {
            self.post.send(who.shard, Mail::ToConn { conn: who.conn, direct: direct.clone() });
            handed += 1;
        }
        handed
    }

    /// Whether a connection of the user is on a shard that takes nothing more.
    fn is_far(&self, app: u32, user: u64) -> bool {
        let user = UserKey { app: AppId(app), user: UserId(user) };
        self.post.any_congested()
            && self.homes.users.find(user).any(|who| self.post.congested(who.shard))
    }

    pub(super) fn home_to_app(&mut self, tally: TallyId, app: u32, direct: &Direct) {
        let refused = if let Some(done) = self.seen(AppId(app), Target::App, &direct.head) {
            Some(done)
        } else if self.is_expired(&direct.head) {
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
        let to = TallyEnd::Part { of: tally, app, head: direct.head };
        let tally = self.open_tally(to, u32::from(self.post.shards()));
        self.remember(AppId(app), Target::App, &direct.head, Code::Ok, 0);
        self.tell_all(|| Mail::ToAppHere { tally, app, direct: direct.clone() });
    }

    pub(super) fn home_kick(&mut self, tally: TallyId, user: UserKey, text: &str) {
        let mut count = 0;
        for who in self.homes.users.find(user) {
            let (reason, text) = (CloseReason::Kicked, text.to_owned());
            self.post.send(who.shard, Mail::KickConn { conn: who.conn, reason, text });
            count += 1;
        }
        let code = if count > 0 { Code::Ok } else { Code::Offline };
        self.post.send(tally.shard, Mail::Tallied { tally, code, count, parts: 1 });
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
    fn seen(&mut self, app: AppId, target: Target, head: &Head) -> Option<(Code, u64)> {
        if head.idempotency_key == 0 {
            return None;
        }
        let (_, seq) = self.homes.seen.lookup(app, target, head.idempotency_key)?;
        self.metrics.duplicates_total += 1;
        Some((Code::Duplicate, seq))
    }

    fn remember(&mut self, app: AppId, target: Target, head: &Head, code: Code, seq: u64) {
        if head.idempotency_key != 0 {
            self.homes.seen.remember(app, target, head.idempotency_key, code, seq);
        }
    }

    fn is_expired(&mut self, head: &Head) -> bool {
        let expired = head.expires_ms != 0 && self.clock.millis().0 > head.expires_ms;
        self.metrics.expired_total += u64::from(expired);
        expired
    }

    /// Opens a collection of `parts` answers to one request.
    pub(super) fn open_tally(&mut self, to: TallyEnd, parts: u32) -> TallyId {
        let tally = Tally { to, code: Code::Offline, count: 0, parts_left: parts };
        TallyId { shard: self.me(), index: self.tallies.insert(tally) as u32 }
    }

    /// So many parts have answered. The best code counts: one connection reached is a success.
    pub(super) fn tallied(&mut self, id: TallyId, code: Code, count: u64, parts: u32) {
        let tally = self.tallies.get_mut(id.index as usize);
        let tally = tally.expect("a tally waits for all its parts");
        tally.count += count;
        tally.parts_left -= parts;
        if tally.code == Code::Offline || code == Code::Ok {
            tally.code = code;
        }
        if tally.parts_left == 0 {
            let tally = self.tallies.remove(id.index as usize);
            let (code, count) = (tally.code, tally.count);
            match tally.to {
                TallyEnd::Origin(origin) => self.published(origin, code, count),
                TallyEnd::Part { of, app, head } => {
                    self.remember(AppId(app), Target::App, &head, code, count);
                    let tallied = Mail::Tallied { tally: of, code, count, parts: 1 };
                    self.post.send(of.shard, tallied);
                }
            }
        }
    }
}
