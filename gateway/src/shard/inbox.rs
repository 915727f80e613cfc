//! What a shard does as the home of users: who is connected where, and what waits in their inboxes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ahash::AHashMap;
use barrage_router::{
    AppId, Gone, Inbox, InboxDevice, InboxMessage, InboxOutput, InboxPush, Millis, Target, UserId,
    UserKey, home_of_user,
};
use barrage_sys::ConnId;
use barrage_wire::ServerFrame;
use barrage_wire::client::Platform;
use barrage_wire::codec::Tail;
use barrage_wire::server::{CloseReason, Code};
use bytes::Bytes;

use super::core::Core;
use crate::limits::INBOXES_MAX;
use crate::mail::{ConnRef, Direct, Mail, TallyId, ToUser};
use crate::note::{DeviceNote, MessageNote, NOTE_DEVICE, NOTE_MESSAGE};

/// Inboxes of the users whose home this is.
#[derive(Default)]
pub(super) struct Inboxes {
    by_user: AHashMap<UserKey, Place>,
    /// Inboxes that have something to do at some moment. An entry that is not what its inbox is
    /// armed for is stale.
    due: BinaryHeap<Reverse<(Millis, UserKey)>>,
    outputs: Vec<InboxOutput<ConnRef>>,
}

struct Place {
    inbox: Inbox<ConnRef>,
    armed: Option<Millis>,
}

/// Makes a number that no inbox of this user has used before.
const SEQS_PER_MS_BITS: u32 = 10;

impl Inboxes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_user.len()
    }
}

impl Core {
    pub(super) fn home_user_on(
        &mut self,
        user: UserKey,
        who: ConnRef,
        device: u64,
        platform: Platform,
    ) {
        // A ban may have overtaken the connection on its way here.
        if let Some((until_ms, text)) = self.guards.moderation.is_banned(self.unix_ms(), user) {
            let text = super::moderation::banned_text(until_ms, text);
            let reason = CloseReason::Banned;
            self.post.send(who.shard, Mail::KickConn { conn: who.conn, reason, text });
        }
        self.replace_devices(user, platform);
        self.homes.users.insert(user, who, platform);
        self.with_inbox(user, |inbox, now, rules, out| {
            inbox.device_on(now, rules, device, who, out);
        });
    }

    pub(super) fn home_user_off(&mut self, user: UserKey, who: ConnRef, device: u64) {
        self.homes.users.remove(user, who);
        self.with_inbox(user, |inbox, now, rules, out| {
            inbox.device_off(now, rules, device, who, out);
        });
    }

    /// The user's home has something for this connection's device, and does not know which it is.
    pub(super) fn which_device(&mut self, id: ConnId) {
        let who = self.here(id);
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_open()) else { return };
        let user = UserKey { app: AppId(conn.app), user: UserId(conn.user) };
        let device = conn.device;
        let home = home_of_user(user, self.shards());
        self.post.send(home, Mail::Device { user, who, device });
    }

    pub(super) fn home_device(&mut self, user: UserKey, who: ConnRef, device: u64) {
        self.with_inbox(user, |inbox, now, rules, out| {
            inbox.device_on(now, rules, device, who, out);
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
        let (mut reached, mut kept) = (0, false);
        for (place, &user) in users.iter().enumerate() {
            let user = UserKey { app: AppId(app), user: UserId(user) };
            let is_last = place + 1 == users.len();
            if !keeps {
                reached += self.hand_to_user(user, &direct);
            } else if self.homes.inboxes.by_user.len() < INBOXES_MAX
                || self.homes.inboxes.by_user.contains_key(&user)
            {
                kept = true;
                // What one shard gives to the disk is stored in order: the last one tells for all.
                let then = (head.stored && is_last).then_some(tally);
                reached += self.push_inbox(user, message, then);
            } else {
                self.metrics.inbox_full_total += 1;
            }
        }
        let code = match (reached, kept) {
            (0, false) => Code::Offline,
            (0, true) => Code::Kept,
            _ => Code::Ok,
        };
        // A user who is offline may be back when the same message is tried again.
        if code != Code::Offline {
            self.remember(AppId(app), target, head, code, reached);
        }
        if !(head.stored && kept) {
            self.post.send(tally.shard, Mail::Tallied { tally, code, count: reached, parts: 1 });
        }
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
        if far || (keeps && !self.history_has_room()) {
            self.metrics.overloaded_total += 1;
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

    /// Puts a message into a user's inbox; says how many connections get it now. With a tally, its
    /// part is counted when the message is on disk.
    fn push_inbox(&mut self, user: UserKey, message: &ToUser, then: Option<TallyId>) -> u64 {
        let reached = self.homes.users.find(user).count() as u64;
        if !self.homes.inboxes.by_user.contains_key(&user) {
            let inbox = Inbox::new(self.unix_ms() << SEQS_PER_MS_BITS);
            self.homes.inboxes.by_user.insert(user, Place { inbox, armed: None });
            // The answers pull what is put in now.
            for who in self.homes.users.find(user) {
                self.post.send(who.shard, Mail::WhichDevice { conn: who.conn });
            }
        }
        let head = &message.head;
        let mut kept = None;
        self.with_inbox(user, |inbox, now, rules, out| {
            let push = InboxPush {
                category: head.category,
                class: head.class,
                kind: head.kind,
                payload: &message.payload,
                ttl_ms: message.ttl_ms,
            };
            let pushed = inbox.push(now, rules, push, out);
            kept = inbox.messages().next_back().filter(|message| message.seq == pushed.seq);
        });
        if let Some(kept) = kept {
            let target_key = head.idempotency_key;
            let note = MessageNote::new(&kept, self.to_unix(kept.expires), target_key);
            let code = if reached > 0 { Code::Ok } else { Code::Kept };
            let then = then.map(|tally| (tally, code, reached));
            self.put_note(NOTE_MESSAGE, &MessageNote::key(user, kept.seq), &note.to_vec(), then);
        }
        reached
    }

    /// Does something with a user's inbox, if there is one, and then what follows from it.
    fn with_inbox(
        &mut self,
        user: UserKey,
        act: impl FnOnce(
            &mut Inbox<ConnRef>,
            Millis,
            &barrage_router::InboxRules,
            &mut Vec<InboxOutput<ConnRef>>,
        ),
    ) {
        let Some(place) = self.homes.inboxes.by_user.get_mut(&user) else { return };
        let (now, rules) = (self.clock.millis(), &self.config.rules.policy.inbox);
        let mut outputs = std::mem::take(&mut self.homes.inboxes.outputs);
        act(&mut place.inbox, now, rules, &mut outputs);
        if place.inbox.is_idle() {
            self.homes.inboxes.by_user.remove(&user);
        } else if let Some(due) = place.inbox.due()
            && place.armed.is_none_or(|armed| due < armed)
        {
            place.armed = Some(due);
            self.homes.inboxes.due.push(Reverse((due, user)));
        }
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
        while let Some(&Reverse((due, user))) = self.homes.inboxes.due.peek()
            && due <= now
        {
            self.homes.inboxes.due.pop();
            let Some(place) = self.homes.inboxes.by_user.get_mut(&user) else { continue };
            if place.armed == Some(due) {
                place.armed = None;
                self.with_inbox(user, |inbox, now, rules, out| inbox.tick(now, rules, out));
            }
        }
    }

    /// When an inbox has something to do next.
    pub(super) fn inboxes_due(&self) -> Option<Millis> {
        self.homes.inboxes.due.peek().map(|&Reverse((due, _))| due)
    }

    /// Puts back what was in a user's inbox when the gateway ended.
    pub fn restore_inbox(
        &mut self,
        user: UserKey,
        messages: Vec<InboxMessage>,
        devices: Vec<InboxDevice>,
    ) {
        let first = self.unix_ms() << SEQS_PER_MS_BITS;
        let inbox = Inbox::restore(first, messages, devices);
        self.homes.inboxes.by_user.insert(user, Place { inbox, armed: None });
        self.with_inbox(user, |inbox, now, rules, out| inbox.tick(now, rules, out));
    }

    fn to_unix(&self, at: Millis) -> u64 {
        self.config.unix_ms + at.0
    }
}
