//! From a publish to the frames that it makes: who may say it, what becomes of it, who waits for
//! what.

use barrage_router::{
    Admission, Aggregation, Category, Frame, Keep, Millis, Publish, RoomKey, Target, UserId,
    UserKey, home_of_room,
};
use barrage_wire::server::{COMBO_OVERHEAD_BYTES, Code, PAST_COMBO, PAST_STATE};
use bytes::Bytes;

use super::core::{Core, Homes};
use super::said::is_for_services;
use crate::limits::{HISTORIES_BYTES_MAX, ROOMS_DUE_MAX};
use crate::mail::{Head, Mail, Origin};
use crate::room_log::FRAME_KIND_AT;

/// A publish that is to be told, or at least remembered, when what it became is in the history.
#[derive(Debug)]
pub(super) struct Waiter {
    pub origin: Origin,
    /// Its answer waits; else it was answered when it was admitted.
    pub unanswered: bool,
    /// What it is answered.
    pub code: Code,
    pub idempotency_key: u128,
}

impl Homes {
    /// The room has something to do at that moment, and not before.
    pub fn arm_at(&mut self, index: u32, at: Option<Millis>) {
        let place = &mut self.rooms[index as usize];
        let before = std::mem::replace(&mut place.armed, at);
        if before != at {
            before.map(|before| self.due.remove(&(before, index)));
            self.due.extend(at.map(|at| (at, index)));
        }
    }

    /// The room has said something: counts what it remembers. False when all remember too much, and it
    /// had to forget.
    fn count_history(&mut self, index: u32) -> bool {
        let place = &mut self.rooms[index as usize];
        let bytes = place.room.history().memory_bytes();
        self.history_bytes = self.history_bytes - place.counted_bytes + bytes;
        place.counted_bytes = bytes;
        let fits = self.history_bytes <= HISTORIES_BYTES_MAX;
        if !fits {
            place.room.forget_history();
            self.history_bytes -= bytes;
            place.counted_bytes = 0;
        }
        fits
    }
}

impl Core {
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
            let head = Box::new(head);
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
        if let Some((code, seq)) = self.admit(origin, key, head, payload) {
            self.answer(origin, code, seq);
        }
    }

    /// Tells whoever has asked how it ended.
    pub(super) fn answer(&mut self, origin: Origin, code: Code, seq: u64) {
        if origin.at.shard == self.me() {
            self.published(origin, code, seq);
        } else {
            self.post.send(origin.at.shard, Mail::Published { origin, code, seq });
        }
    }

    /// Lets a message into its room, or says why not. None: the answer waits for the disk.
    fn admit(
        &mut self,
        origin: Origin,
        key: RoomKey,
        head: &Head,
        payload: &[u8],
    ) -> Option<(Code, u64)> {
        let target = Target::Room(key.room.0);
        if let Some(done) = self.seen(key.app, target, head) {
            return Some(done);
        }
        if self.is_expired(head) {
            return Some((Code::Expired, 0));
        }
        // The policy may have changed since the message was taken in elsewhere.
        let Some(category) = self.config.rules.policy.category(head.category).copied() else {
            return Some((Code::UnknownCategory, 0));
        };
        if head.by_client && is_for_services(&category) {
            return Some((Code::Forbidden, 0));
        }
        if head.stored && !(self.stores() && category.keep == Keep::Disk) {
            return Some((Code::Unstored, 0));
        }
        let Some(index) = self.home_room(key).filter(|&index| self.can_number(index)) else {
            self.metrics.overloaded_total += 1;
            return Some((Code::Overloaded, 0));
        };
        if let Err(refused) = self.may_say(index, key, &category, head, payload.len()) {
            self.metrics.category(category.id).limited += u64::from(refused.0 == Code::Limited);
            return Some(refused);
        }
        self.say_in_room(index, origin, key, &category, head, payload)
    }

    fn say_in_room(
        &mut self,
        index: u32,
        origin: Origin,
        key: RoomKey,
        category: &Category,
        head: &Head,
        payload: &[u8],
    ) -> Option<(Code, u64)> {
        let (now, target) = (self.clock.millis(), Target::Room(key.room.0));
        let message = Publish {
            category,
            kind: head.kind,
            payload,
            sender: head.sender,
            key: head.key,
            count: head.count,
        };
        let merge_id = message.merge_id();
        let mut frames = std::mem::take(&mut self.frames);
        let room = &mut self.homes.rooms[index as usize].room;
        let admission = room.publish(now, &self.config.rules.policy, message, &mut frames);
        let (code, seq) = match admission {
            Admission::Admitted { seq } => (Code::Ok, seq),
            Admission::Merged => (Code::Merged, 0),
            Admission::Limited { retry_after_ms } => (Code::Limited, u64::from(retry_after_ms)),
        };
        let counts = self.metrics.category(category.id);
        match admission {
            Admission::Admitted { .. } => counts.admitted += 1,
            Admission::Merged => counts.merged += 1,
            Admission::Limited { .. } => counts.limited += 1,
        }
        let admitted = !matches!(admission, Admission::Limited { .. });
        let durable = self.history.is_some() && (head.stored || head.idempotency_key != 0);
        let mut own = (admitted && durable).then_some(Waiter {
            origin,
            unanswered: head.stored,
            code,
            idempotency_key: head.idempotency_key,
        });
        if admission == Admission::Merged
            && let (Some(id), Some(waiter)) = (merge_id, own.take())
        {
            let frame_kind = match category.aggregation {
                Aggregation::Combo => PAST_COMBO,
                Aggregation::Latest | Aggregation::None => PAST_STATE,
            };
            self.homes.merged.entry((index, id, frame_kind)).or_default().push(waiter);
        }
        if admitted {
            self.spend_quotas(key, head);
            // Until it is stored, a repeat is told to come again: nothing may say that it is done.
            let code = if head.stored { Code::Unstored } else { code };
            self.remember(key.app, target, head, code, seq);
        }
        let own_seq = (admission != Admission::Merged && admitted).then_some(seq);
        self.send_frames(index, &mut frames, own_seq, own);
        self.frames = frames;
        self.arm(index);
        (!admitted || !head.stored).then_some((code, seq))
    }

    /// Whether what the room says next would be lost nowhere: else it is not given a number.
    fn can_number(&self, index: u32) -> bool {
        let room = &self.homes.rooms[index as usize].room;
        let congested =
            self.post.any_congested() && room.shards().any(|shard| self.post.congested(shard));
        !self.is_draining() && !congested && self.history_has_room()
    }

    /// Mutes, quotas and the egress budget.
    fn may_say(
        &mut self,
        index: u32,
        key: RoomKey,
        category: &Category,
        head: &Head,
        payload_bytes: usize,
    ) -> Result<(), (Code, u64)> {
        let limited = |retry_after_ms: u32| (Code::Limited, u64::from(retry_after_ms));
        let (now, unix_ms) = (self.clock.millis(), self.unix_ms());
        let user = UserKey { app: key.app, user: UserId(head.sender) };
        let moderation = &self.guards.moderation;
        let is_silenced = head.sender != 0
            && (moderation.is_muted(unix_ms, user, key.room).is_some()
                || moderation.is_banned(unix_ms, user).is_some());
        if is_silenced {
            self.metrics.muted_total += 1;
            return Err((Code::Muted, 0));
        }
        let (quotas, shards) = (self.config.rules.policy.quotas, u32::from(self.post.shards()));
        if !category.never_drop {
            if head.sender != 0 {
                self.guards.users.check(now, user, quotas.user).map_err(limited)?;
            }
            self.guards.check_app(now, key.app, quotas.app, shards).map_err(limited)?;
        }
        let room = &self.homes.rooms[index as usize].room;
        let bytes = u64::from(room.members()) * (COMBO_OVERHEAD_BYTES + payload_bytes) as u64;
        self.guards.ask_egress(bytes);
        let (class, never_drop) = (category.class, category.never_drop);
        let admitted = self.guards.egress.admit(now, class, never_drop, room.level(), bytes);
        admitted.map_err(|retry_after_ms| {
            self.metrics.egress_refused_total += 1;
            limited(retry_after_ms)
        })
    }

    fn spend_quotas(&mut self, key: RoomKey, head: &Head) {
        let (now, quotas) = (self.clock.millis(), self.config.rules.policy.quotas);
        if head.sender != 0 {
            let user = UserKey { app: key.app, user: UserId(head.sender) };
            self.guards.users.take(now, user, quotas.user);
        }
        let shards = u32::from(self.post.shards());
        self.guards.take_app(now, key.app, quotas.app, shards);
    }

    /// Sends what a room has numbered to every shard with members, and to the history. `waiter` waits
    /// for the frame with the number `own_seq`.
    fn send_frames(
        &mut self,
        index: u32,
        frames: &mut Vec<Frame>,
        own_seq: Option<u64>,
        mut waiter: Option<Waiter>,
    ) {
        if !frames.is_empty() && !self.homes.count_history(index) {
            self.metrics.rooms_forgot_total += 1;
        }
        for frame in frames.drain(..) {
            let kind = frame.bytes.get(FRAME_KIND_AT).copied().unwrap_or(0);
            let carried = frame.merged.and_then(|id| self.homes.merged.remove(&(index, id, kind)));
            let mut waiters = carried.unwrap_or_default();
            let is_own = own_seq == Some(frame.seq);
            waiters.extend(waiter.take_if(|_| is_own));
            self.metrics.published_total += 1;
            self.store_frame(index, &frame, waiters);
            let room = &self.homes.rooms[index as usize].room;
            let bytes = u64::from(room.members()) * frame.bytes.len() as u64;
            let now = self.clock.millis();
            // What was merged has to go out now, whatever its category.
            let owed = frame.never_drop || !is_own;
            self.guards.egress.spend(now, frame.class, owed, bytes);
            let (alias, mut here) = (room.alias().0, false);
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
        }
    }

    /// Looks at the room again when it has something to do.
    pub(super) fn arm(&mut self, index: u32) {
        let due = self.homes.rooms[index as usize].room.due();
        self.homes.arm_at(index, due);
    }

    /// Rooms whose moment has come say what they have kept back.
    pub(super) fn tick_rooms(&mut self) {
        let now = self.clock.millis();
        for _ in 0..ROOMS_DUE_MAX {
            let Some(&(due, index)) = self.homes.due.first() else { return };
            if due > now {
                return;
            }
            if self.can_number(index) {
                let mut frames = std::mem::take(&mut self.frames);
                let room = &mut self.homes.rooms[index as usize].room;
                room.tick(now, &self.config.rules.policy, &mut frames);
                self.send_frames(index, &mut frames, None, None);
                self.frames = frames;
                self.arm(index);
            } else {
                self.homes.arm_at(index, Some(now.plus(CONGESTED_RETRY_MS)));
            }
        }
    }

    /// In a drain, rooms say what they have kept back, as the disk takes it: nothing is admitted after it.
    pub(super) fn close_rooms(&mut self) {
        let now = self.clock.millis();
        while self.history_has_room()
            && let Some(index) = self.draining.as_mut().and_then(|drain| drain.rooms.pop())
        {
            let Some(place) = self.homes.rooms.get_mut(index as usize) else { continue };
            let mut frames = std::mem::take(&mut self.frames);
            place.room.close(now, &self.config.rules.policy, &mut frames);
            self.send_frames(index, &mut frames, None, None);
            self.frames = frames;
        }
    }
}

/// How soon a room is looked at again that could not speak because a shard or the disk is behind.
const CONGESTED_RETRY_MS: u64 = 20;
