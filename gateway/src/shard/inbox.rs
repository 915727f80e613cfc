//! What a shard does as the home of users: who is connected where, and what waits in their inboxes.

use std::collections::BTreeSet;

use ahash::AHashMap;
use barrage_router::{
    AppId, Device, Gone, Inbox, InboxDevice, InboxMessage, InboxOutput, InboxPush, InboxRules,
    Millis, Target, UserId, UserKey,
};
use barrage_wire::ServerFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::Code;
use bytes::Bytes;

use super::core::{Core, TallyEnd};
use crate::limits::{
    INBOX_MESSAGE_BYTES, INBOXES_BYTES_MAX, INBOXES_DUE_MAX, INBOXES_MAX, USER_WORK_BYTES,
};
use crate::mail::{ConnRef, Direct, Mail, TallyId, ToUser};
use crate::note::{DeviceNote, MessageNote, NOTE_DEVICE, NOTE_MESSAGE};

/// Inboxes of the users whose home this is.
#[derive(Default)]
pub(super) struct Inboxes {
    by_user: AHashMap<UserKey, Place>,
    /// Inboxes that have something to do at some moment: one entry for each that is armed.
    due: BTreeSet<(Millis, UserKey)>,
    /// What all of them take in memory.
    bytes: usize,
    outputs: Vec<InboxOutput<ConnRef>>,
}

struct Place {
    inbox: Inbox<ConnRef>,
    /// Where it stands in what is due.
    armed: Option<Millis>,
}

/// An inbox, beside what it holds.
const PLACE_BYTES: usize = size_of::<(UserKey, Place)>();

/// Makes a number that no inbox of this user has used before.
const SEQS_PER_MS_BITS: u32 = 10;

impl Inboxes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_user.len()
    }

    /// Whether a message of so many bytes can be kept for all of these users.
    fn can_keep(
        &self,
        payload_bytes: usize,
        users: impl ExactSizeIterator<Item = UserKey>,
    ) -> bool {
        let messages_bytes = users.len() * (payload_bytes + INBOX_MESSAGE_BYTES);
        let made = users.filter(|user| !self.by_user.contains_key(user)).count();
        self.by_user.len() + made <= INBOXES_MAX
            && self.bytes + messages_bytes + made * PLACE_BYTES <= INBOXES_BYTES_MAX
    }

    fn insert(&mut self, user: UserKey, inbox: Inbox<ConnRef>) {
        self.bytes += PLACE_BYTES + inbox.memory_bytes();
        let before = self.by_user.insert(user, Place { inbox, armed: None });
        assert!(before.is_none(), "a user has one inbox");
    }

    /// Something was done with an inbox that took `before` bytes: files it under what it has to do
    /// next, or forgets it.
    fn settle(&mut self, user: UserKey, before: usize) {
        let Some(place) = self.by_user.get_mut(&user) else { return };
        let after = place.inbox.memory_bytes();
        self.bytes = self.bytes + after - before;
        let is_idle = place.inbox.is_idle();
        let due = if is_idle { None } else { place.inbox.due() };
        if due != place.armed {
            if let Some(armed) = place.armed {
                self.due.remove(&(armed, user));
            }
            self.due.extend(due.map(|due| (due, user)));
            place.armed = due;
        }
        if is_idle {
            self.by_user.remove(&user);
            self.bytes -= PLACE_BYTES + after;
        }
    }
}

impl Core {
    pub(super) fn home_user_on(&mut self, user: UserKey, who: ConnRef, device: Device) {
        // A ban may have overtaken the connection on its way here.
        if let Some(banned) = self.banned(user) {
            self.kick(who, banned);
        }
        if !self.replace_devices(user, who, device) {
            return;
        }
        self.homes.users.insert(user, who, device);
        self.with_inbox(user, |inbox, now, rules, out| {
            inbox.device_on(now, rules, device.name, who, out);
        });
    }

    pub(super) fn home_user_off(&mut self, user: UserKey, who: ConnRef, device: u64) {
        self.homes.users.remove(user, who);
        self.with_inbox(user, |inbox, now, rules, out| {
            inbox.device_off(now, rules, device, who, out);
        });
    }

    pub(super) fn home_acked(&mut self, user: UserKey, who: ConnRef, device: u64, seq: u64) {
        self.with_inbox(user, |inbox, now, rules, out| {
            inbox.ack(now, rules, device, who, seq, out);
        });
    }

    pub(super) fn home_to_users(
        &mut self,
        tally: TallyId,
        app: u32,
        users: &[u64],
        target: Target,
        message: &ToUser,
    ) {
        let head = &message.head;
        if let Some((code, count)) = self.refused_for_users(app, users, target, message) {
            return self.post.send(tally.shard, Mail::Tallied { tally, code, count, parts: 1 });
        }
        self.worked_bytes += users.len() * (message.payload.len() + USER_WORK_BYTES);
        let category = self.config.rules.policy.category(head.category);
        let keeps = category.is_some_and(|category| category.inbox);
        let frame = ServerFrame::Direct {
            inbox_seq: 0,
            category: head.category,
            kind: head.kind,
            flags: 0,
            payload: Tail(&message.payload),
        };
        let direct = Direct {
            class: head.class,
            never_drop: head.never_drop,
            frame: if keeps { Bytes::new() } else { Bytes::from(frame.to_vec()) },
        };
        // Until it is stored, a repeat is told to come again: nothing may say that it is done.
        let stored = head.stored.then(|| {
            self.remember(AppId(app), target, head, Code::Unstored, 0);
            self.open_tally(TallyEnd::Part { of: tally, app, target, head: *head }, 1)
        });
        let (mut reached, mut all_noted) = (0, true);
        for (place, &user) in users.iter().enumerate() {
            let user = UserKey { app: AppId(app), user: UserId(user) };
            if keeps {
                // What one shard gives to the disk is stored in order: the last one tells for all.
                let is_last = place + 1 == users.len();
                let then = stored.filter(|_| is_last && all_noted).map(|tally| (tally, reached));
                // Its key stands with the last one: who finds it there finds all of them.
                let part = if let Target::Users(part) = target { Some(part) } else { None };
                let key = if is_last { head.idempotency_key } else { 0 };
                let (connections, noted) = self.push_inbox(user, message, (key, part), then);
                (reached, all_noted) = (reached + connections, all_noted && noted);
            } else {
                reached += self.hand_to_user(user, &direct);
            }
        }
        if let Some(tally) = stored {
            if !all_noted {
                let code = Code::Unstored;
                self.post.send(tally.shard, Mail::Tallied { tally, code, count: 0, parts: 1 });
            }
            return;
        }
        let code = code_for(reached, keeps);
        // A user who is offline may be back when the same message is tried again.
        if code != Code::Offline {
            self.remember(AppId(app), target, head, code, reached);
        }
        self.post.send(tally.shard, Mail::Tallied { tally, code, count: reached, parts: 1 });
    }

    /// Why a message for users goes to none of them.
    fn refused_for_users(
        &mut self,
        app: u32,
        users: &[u64],
        target: Target,
        message: &ToUser,
    ) -> Option<(Code, u64)> {
        let head = &message.head;
        if let Some(done) = self.seen(AppId(app), target, head) {
            return Some(done);
        }
        if self.is_expired(head) {
            return Some((Code::Expired, 0));
        }
        let category = self.config.rules.policy.category(head.category);
        let keeps = category.is_some_and(|category| category.inbox);
        if head.stored && !(keeps && self.stores()) {
            return Some((Code::Unstored, 0));
        }
        // All or nothing: a part that is remembered would never be completed.
        let far = users.iter().any(|&user| self.is_far(app, user));
        if far || self.is_draining() || (keeps && !self.history_has_room()) {
            self.metrics.overloaded_total += 1;
            return Some((Code::Overloaded, 0));
        }
        let users = users.iter().map(|&user| UserKey { app: AppId(app), user: UserId(user) });
        if keeps && !self.homes.inboxes.can_keep(message.payload.len(), users) {
            self.metrics.inbox_full_total += 1;
            return Some((Code::Overloaded, 0));
        }
        None
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

    /// Puts a message into a user's inbox; says how many connections are sent it now, and whether the disk
    /// has a place for it. With a tally, its part, in which so many connections got it before, is
    /// counted when the message is on disk.
    fn push_inbox(
        &mut self,
        user: UserKey,
        message: &ToUser,
        (key, part): (u128, Option<u32>),
        then: Option<(TallyId, u64)>,
    ) -> (u64, bool) {
        let mut devices = Vec::new();
        if !self.homes.inboxes.by_user.contains_key(&user) {
            let inbox = Inbox::new(self.inbox_start());
            self.homes.inboxes.insert(user, inbox);
            // All of them before the message: none is to acknowledge it while another is not known.
            devices.extend(self.homes.users.devices(user));
        }
        let head = &message.head;
        let (mut kept, mut reached) = (None, 0);
        self.with_inbox(user, |inbox, now, rules, out| {
            for (device, who) in devices {
                inbox.device_on(now, rules, device.name, who, out);
            }
            let push = InboxPush {
                category: head.category,
                class: head.class,
                kind: head.kind,
                payload: &message.payload,
                ttl_ms: message.ttl_ms,
            };
            let pushed = inbox.push(now, rules, push, out);
            reached = pushed.sent_to as u64;
            kept = inbox.messages().next_back().filter(|message| message.seq == pushed.seq);
        });
        let then = then.map(|(tally, before)| {
            let reached = before + reached;
            (tally, code_for(reached, true), reached)
        });
        let Some(kept) = kept else {
            // Every device has it already, or its time is up: there is nothing to be stored.
            if let Some((tally, code, count)) = then {
                self.post.send(tally.shard, Mail::Tallied { tally, code, count, parts: 1 });
            }
            return (reached, true);
        };
        let note = MessageNote::new(&kept, self.to_unix(kept.expires), key, part).to_vec();
        let noted = self.put_note(NOTE_MESSAGE, &MessageNote::key(user, kept.seq), &note, then);
        // With a tally, that is told of it.
        (reached, noted || then.is_some())
    }

    /// Where the numbers of a new inbox begin: above all that an earlier one of its user has had. Epochs
    /// do not go back when the clock does, so the start's is what is counted from.
    fn inbox_start(&self) -> u64 {
        let start_ms = self.config.unix_ms.max(self.config.epoch / 1000);
        (start_ms + self.clock.millis().0) << SEQS_PER_MS_BITS
    }

    /// Does something with a user's inbox, if there is one, and then what follows from it.
    fn with_inbox(
        &mut self,
        user: UserKey,
        act: impl FnOnce(&mut Inbox<ConnRef>, Millis, &InboxRules, &mut Vec<InboxOutput<ConnRef>>),
    ) {
        let inboxes = &mut self.homes.inboxes;
        let Some(place) = inboxes.by_user.get_mut(&user) else { return };
        let (now, rules) = (self.clock.millis(), &self.config.rules.policy.inbox);
        let mut outputs = std::mem::take(&mut inboxes.outputs);
        let before = place.inbox.memory_bytes();
        act(&mut place.inbox, now, rules, &mut outputs);
        inboxes.settle(user, before);
        self.metrics.inboxes_bytes = inboxes.bytes as u64;
        for output in outputs.drain(..) {
            self.inbox_output(user, output);
        }
        self.homes.inboxes.outputs = outputs;
    }

    fn inbox_output(&mut self, user: UserKey, output: InboxOutput<ConnRef>) {
        match output {
            InboxOutput::Send { to, class, repeat, frame, .. } => {
                self.metrics.inbox_repeats_total += u64::from(repeat);
                // Never shed: an ACK of a later one would pass over it.
                let direct = Direct { class, never_drop: true, frame };
                self.post.send(to.shard, Mail::ToConn { conn: to.conn, direct });
            }
            InboxOutput::Gone { seq, cause } => {
                match cause {
                    Gone::Delivered => self.metrics.inbox_delivered_total += 1,
                    Gone::Expired => self.metrics.inbox_expired_total += 1,
                    Gone::Crowded => self.metrics.inbox_crowded_total += 1,
                }
                self.delete_note(NOTE_MESSAGE, &MessageNote::key(user, seq));
            }
            InboxOutput::Device(device) => {
                let until_ms = self.to_unix(device.until);
                let note = DeviceNote { acked: device.acked, until_ms };
                let key = DeviceNote::key(user, device.device);
                self.put_note(NOTE_DEVICE, &key, &note.to_vec(), None);
            }
            InboxOutput::Forgotten { device } => {
                self.delete_note(NOTE_DEVICE, &DeviceNote::key(user, device));
            }
        }
    }

    /// Inboxes whose moment has come repeat what was not ACKed.
    pub(super) fn tick_inboxes(&mut self) {
        let now = self.clock.millis();
        for _ in 0..INBOXES_DUE_MAX {
            let Some(&(due, user)) = self.homes.inboxes.due.first() else { return };
            if due > now {
                return;
            }
            self.with_inbox(user, |inbox, now, rules, out| inbox.tick(now, rules, out));
        }
    }

    /// When an inbox has something to do next.
    pub(super) fn inboxes_due(&self) -> Option<Millis> {
        self.homes.inboxes.due.first().map(|&(due, _)| due)
    }

    /// Puts back what was in a user's inbox when the gateway ended.
    pub fn restore_inbox(
        &mut self,
        user: UserKey,
        messages: Vec<InboxMessage>,
        devices: Vec<InboxDevice>,
    ) {
        let first = self.inbox_start();
        self.homes.inboxes.insert(user, Inbox::restore(first, messages, devices));
        self.with_inbox(user, |inbox, now, rules, out| inbox.tick(now, rules, out));
    }

    fn to_unix(&self, at: Millis) -> u64 {
        self.config.unix_ms + at.0
    }
}

/// How a message for users has ended that was handed to so many connections.
fn code_for(reached: u64, keeps: bool) -> Code {
    match reached {
        0 if keeps => Code::Kept,
        0 => Code::Offline,
        _ => Code::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_router::{Class, Policy, ShardIndex};
    use barrage_sys::ConnId;

    fn user(id: u64) -> UserKey {
        UserKey { app: AppId(1), user: UserId(id) }
    }

    fn push(inboxes: &mut Inboxes, id: u64, now: Millis) -> u64 {
        if !inboxes.by_user.contains_key(&user(id)) {
            inboxes.insert(user(id), Inbox::new(1));
        }
        let (class, payload) = (Class::P0, &[7; 1000][..]);
        let push = InboxPush { category: 0, class, kind: 0, payload, ttl_ms: 0 };
        let mut seq = 0;
        with(inboxes, id, |inbox, rules, out| seq = inbox.push(now, rules, push, out).seq);
        seq
    }

    fn with(
        inboxes: &mut Inboxes,
        id: u64,
        act: impl FnOnce(&mut Inbox<ConnRef>, &InboxRules, &mut Vec<InboxOutput<ConnRef>>),
    ) {
        let place = inboxes.by_user.get_mut(&user(id)).expect("the user has one");
        let before = place.inbox.memory_bytes();
        act(&mut place.inbox, &Policy::builtin().inbox, &mut Vec::new());
        inboxes.settle(user(id), before);
    }

    /// What is counted is what there is, whatever was done, and each inbox is filed once.
    #[test]
    fn inboxes_are_counted_and_filed_exactly() {
        let mut inboxes = Inboxes::default();
        let check = |inboxes: &Inboxes| {
            let held = inboxes.by_user.values().map(|place| place.inbox.memory_bytes());
            assert_eq!(inboxes.bytes, held.sum::<usize>() + inboxes.len() * PLACE_BYTES);
            let armed = inboxes.by_user.values().filter(|place| place.armed.is_some());
            assert_eq!(inboxes.due.len(), armed.count());
            for (user, place) in &inboxes.by_user {
                assert_eq!(place.armed, place.inbox.due());
                assert!(place.armed.is_none_or(|due| inboxes.due.contains(&(due, *user))));
            }
        };
        for step in 0..200 {
            let (id, now) = (step % 7, Millis(step * 1000));
            let seq = push(&mut inboxes, id, now);
            check(&inboxes);
            let at =
                ConnRef { shard: ShardIndex(0), conn: ConnId { index: id as u32, generation: 1 } };
            with(&mut inboxes, id, |inbox, rules, out| inbox.device_on(now, rules, id, at, out));
            check(&inboxes);
            if step % 3 == 0 {
                with(&mut inboxes, id, |inbox, rules, out| {
                    inbox.ack(now, rules, id, at, seq, out);
                    inbox.device_off(now, rules, id, at, out);
                });
                check(&inboxes);
            }
        }
        let never = Millis(u64::MAX);
        for id in 0..7 {
            with(&mut inboxes, id, |inbox, rules, out| {
                for index in 0..2 {
                    let conn = ConnId { index: id as u32 + index, generation: 1 };
                    let at = ConnRef { shard: ShardIndex(0), conn };
                    inbox.device_off(Millis(300_000), rules, id, at, out);
                }
                inbox.tick(never, rules, out);
            });
        }
        assert_eq!((inboxes.len(), inboxes.bytes, inboxes.due.len()), (0, 0, 0));
    }

    #[test]
    fn what_would_take_too_much_memory_is_not_kept() {
        let mut inboxes = Inboxes::default();
        let check = |inboxes: &Inboxes, payload_bytes, users: &[u64], can| {
            let users = users.iter().map(|&id| user(id));
            assert_eq!(inboxes.can_keep(payload_bytes, users), can, "{payload_bytes}");
        };
        push(&mut inboxes, 1, Millis(0));
        check(&inboxes, 1000, &[1, 2, 3], true);
        let each = 1000 + INBOX_MESSAGE_BYTES;
        inboxes.bytes = INBOXES_BYTES_MAX - each;
        check(&inboxes, 1000, &[1], true);
        check(&inboxes, 1001, &[1], false);
        check(&inboxes, 1000, &[2], false);
        inboxes.bytes -= PLACE_BYTES;
        check(&inboxes, 1000, &[2], true);
        check(&inboxes, 1000, &[1, 2], false);
        inboxes.bytes -= each;
        check(&inboxes, 1000, &[1, 2], true);
        check(&inboxes, 1000, &[2, 3], false);
    }
}
