//! What waits for a user until each of the user's devices has it.
//!
//! Frames on one connection arrive in order or, once the connection is broken, not at all. So what
//! is sent on one rises, and an ACK of the highest number that arrived covers everything before it.

mod device;
mod kept;

use std::cmp::Reverse;
use std::collections::VecDeque;

use barrage_wire::FRAME_HEADER_BYTES;
use barrage_wire::limits::SERVER_BODY_BYTES_MAX;
use bytes::Bytes;

use self::device::{Device, Online};
use self::kept::Kept;
use crate::class::Class;
use crate::ids::Millis;
use crate::policy::InboxRules;

/// Devices of one user that are known at a time. Those that are connected have a place in any case;
/// of those that are away, the one that is away for longest goes first.
pub const DEVICES_MAX: usize = 16;
/// Messages that a connection is sent ahead of its ACKs; the next go out as ACKs come.
pub const INBOX_WINDOW: usize = 32;
/// Encoded bytes of them, so that a device which comes back to large messages is not flooded.
pub const INBOX_WINDOW_BYTES_MAX: usize = 128 * 1024;

const _: () = assert!(
    FRAME_HEADER_BYTES + SERVER_BODY_BYTES_MAX <= INBOX_WINDOW_BYTES_MAX,
    "every message fits the window"
);

/// The device of a client that gives it no name: each of its connections is a device of its own.
const UNNAMED: u64 = 0;
/// A message to be kept until every device has it.
#[derive(Clone, Copy, Debug)]
pub struct InboxPush<'a> {
    /// Where it is shown.
    pub category: u16,
    /// What it gives way to on its way out.
    pub class: Class,
    /// The application's own type.
    pub kind: u16,
    /// The message.
    pub payload: &'a [u8],
    /// How long it is worth keeping; 0: as long as the rules say.
    pub ttl_ms: u32,
}

/// What became of a message that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its number in the inbox.
    pub seq: u64,
    /// When it is dropped at the latest.
    pub expires: Millis,
    /// Connections that it went out to at once.
    pub sent_to: usize,
}

/// A message that is kept, as a store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxMessage {
    /// Its number in the inbox.
    pub seq: u64,
    /// Where it is shown.
    pub category: u16,
    /// What it gives way to on its way out.
    pub class: Class,
    /// The application's own type.
    pub kind: u16,
    /// The message.
    pub payload: Bytes,
    /// When it is dropped, on the caller's clock: a store wants the time of day instead.
    pub expires: Millis,
}

/// A named device, as a store holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxDevice {
    /// Its name; not 0.
    pub device: u64,
    /// It has every message up to this one.
    pub acked: u64,
    /// When it is forgotten unless it is connected then, on the caller's clock.
    pub until: Millis,
}

/// Why a message is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Every device has it.
    Delivered,
    /// Its time was up.
    Expired,
    /// Newer ones needed the place.
    Crowded,
}

/// What an inbox wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboxOutput<A> {
    /// A frame goes to a connection. If that cannot take it, the connection has to end: a later
    /// frame without this one would be a gap that the client cannot see.
    Send {
        /// The connection.
        to: A,
        /// The message's number.
        seq: u64,
        /// What it gives way to.
        class: Class,
        /// Whether the device may have it already.
        repeat: bool,
        /// The whole `ServerFrame::Direct`, as it goes over TCP.
        frame: Bytes,
    },
    /// A message is no longer kept.
    Gone {
        /// Its number.
        seq: u64,
        /// Why.
        cause: Gone,
    },
    /// A named device is known, or more is known of it.
    Device(InboxDevice),
    /// A named device is no longer known.
    Forgotten {
        /// Its name.
        device: u64,
    },
}

impl<A> InboxOutput<A> {
    fn sends(&self, message: u64) -> bool {
        matches!(self, Self::Send { seq, .. } if *seq == message)
    }
}

/// The messages that wait for one user. `A` is a connection's address and never names another
/// connection later.
///
/// Every call also does what is due, whether or not a tick has come for it.
#[derive(Debug)]
pub struct Inbox<A> {
    /// By rising number, and without memory when there are none.
    messages: VecDeque<Kept>,
    devices: Vec<Device<A>>,
    next_seq: u64,
    /// The latest call's.
    now: Millis,
    /// Up to here a connection that was unnamed, and is gone, was sent messages.
    unnamed_sent: u64,
}

impl<A: Copy + Eq> Inbox<A> {
    /// Keeps nothing yet. Numbers begin at `first_seq`, or at 1: above all that an earlier inbox of
    /// this user can have used, or devices would take new messages for old ones.
    pub fn new(first_seq: u64) -> Self {
        Self {
            messages: VecDeque::new(),
            devices: Vec::new(),
            next_seq: first_seq.max(1),
            now: Millis(0),
            unnamed_sent: 0,
        }
    }

    /// An inbox from what a store holds, in any order. Nobody is connected; numbers go on from
    /// `first_seq` or above the newest message. What was sent before is not known, so that all of
    /// it goes out as a repeat.
    pub fn restore(
        first_seq: u64,
        messages: impl IntoIterator<Item = InboxMessage>,
        devices: impl IntoIterator<Item = InboxDevice>,
    ) -> Self {
        let mut inbox = Self::new(first_seq);
        let mut messages: Vec<InboxMessage> = messages.into_iter().collect();
        messages.sort_by_key(|message| message.seq);
        messages.dedup_by_key(|message| message.seq);
        inbox.messages = messages.iter().map(Kept::new).collect();
        let newest = inbox.messages.back().map_or(0, |kept| kept.seq);
        inbox.next_seq = inbox.next_seq.max(newest.saturating_add(1));
        inbox.unnamed_sent = newest;
        let mut devices: Vec<InboxDevice> =
            devices.into_iter().filter(|known| known.device != UNNAMED).collect();
        devices.sort_by_key(|known| Reverse(known.until));
        // What is put in now is new to every device, whatever the clock says.
        let acked = devices.iter().map(|known| known.acked).max().unwrap_or(0);
        inbox.next_seq = inbox.next_seq.max(acked.saturating_add(1));
        let known = |InboxDevice { device, acked, until }| Device {
            id: device,
            acked,
            sent: newest,
            until,
            online: None,
        };
        inbox.devices = devices.into_iter().map(known).collect();
        inbox
    }

    /// Numbers a message, keeps it, and sends it to every connection that keeps up.
    pub fn push(
        &mut self,
        now: Millis,
        rules: &InboxRules,
        push: InboxPush<'_>,
        out: &mut Vec<InboxOutput<A>>,
    ) -> Pushed {
        self.settle(now, rules, out);
        let ttl_ms = if push.ttl_ms == 0 { ttl_ms(rules) } else { u64::from(push.ttl_ms) };
        let (seq, expires) = (self.next_seq, after(now, ttl_ms));
        self.next_seq += 1;
        // Room is made before it goes in, so that a full queue does not double for one message.
        let before = usize::from(rules.messages_max).saturating_sub(1);
        for oldest in self.messages.drain(..self.messages.len().saturating_sub(before)) {
            out.push(InboxOutput::Gone { seq: oldest.seq, cause: Gone::Crowded });
        }
        self.messages.push_back(Kept::encode(seq, expires, push));
        let before = out.len();
        self.settle(now, rules, out);
        let sent_to = out[before..].iter().filter(|output| output.sends(seq)).count();
        Pushed { seq, expires, sent_to }
    }

    /// A device is connected. It is sent what it has not ACKed, from the oldest on, with fresh
    /// tries. Its connection before, if that lingers, is sent nothing more: whoever calls has it end.
    pub fn device_on(
        &mut self,
        now: Millis,
        rules: &InboxRules,
        device: u64,
        at: A,
        out: &mut Vec<InboxOutput<A>>,
    ) {
        self.turn(now);
        let until = after(now, ttl_ms(rules));
        let place = self.position(device, at).unwrap_or_else(|| self.add(device, until));
        let known = &mut self.devices[place];
        known.until = until;
        if !known.is_at(at) {
            known.online = Some(Online { at, sent: 0, pending: Vec::new() });
        }
        out.extend(known.record().map(InboxOutput::Device));
        self.settle(now, rules, out);
    }

    /// A connection is gone. Its device is waited for unless it has another by now, or no name.
    pub fn device_off(
        &mut self,
        now: Millis,
        rules: &InboxRules,
        device: u64,
        at: A,
        out: &mut Vec<InboxOutput<A>>,
    ) {
        self.turn(now);
        if let Some(place) =
            self.position(device, at).filter(|&place| self.devices[place].is_at(at))
        {
            let known = &mut self.devices[place];
            known.online = None;
            known.until = after(now, ttl_ms(rules));
            match known.record() {
                Some(record) => out.push(InboxOutput::Device(record)),
                None => self.forget(place, out),
            }
        }
        self.settle(now, rules, out);
    }

    /// A device says that it has every message up to `seq`. What was never pushed is not believed,
    /// and what covers nothing that is kept changes nothing, so a client cannot make work with it.
    pub fn ack(
        &mut self,
        now: Millis,
        rules: &InboxRules,
        device: u64,
        at: A,
        seq: u64,
        out: &mut Vec<InboxOutput<A>>,
    ) {
        self.turn(now);
        if let Some(place) = self.position(device, at).filter(|_| seq < self.next_seq) {
            let known = &mut self.devices[place];
            let first = self.messages.partition_point(|kept| kept.seq <= known.acked);
            if self.messages.get(first).is_some_and(|kept| kept.seq <= seq) {
                known.acked = seq;
                known.until = after(now, ttl_ms(rules));
                out.extend(known.record().map(InboxOutput::Device));
            }
        }
        self.settle(now, rules, out);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Millis, rules: &InboxRules, out: &mut Vec<InboxOutput<A>>) {
        self.settle(now, rules, out);
    }

    /// When the next thing is due; every call may change it.
    pub fn due(&self) -> Option<Millis> {
        let messages = self.messages.iter().map(|kept| kept.expires);
        messages.chain(self.devices.iter().filter_map(Device::due)).min()
    }

    /// Whether nothing is kept and no device is known, so that nothing is lost by forgetting it.
    pub fn is_idle(&self) -> bool {
        self.messages.is_empty() && self.devices.is_empty()
    }

    /// Whether nothing is kept and nobody is connected: it may leave the memory of whoever has
    /// stored its devices and restores it for the next message or connection.
    pub fn is_at_rest(&self) -> bool {
        self.messages.is_empty() && self.connections() == 0
    }

    /// Connections that messages go out to.
    pub fn connections(&self) -> usize {
        self.devices.iter().filter(|known| known.online.is_some()).count()
    }

    /// What is kept, the oldest first. Payloads share the memory of the encoded frames.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = InboxMessage> + ExactSizeIterator {
        self.messages.iter().map(Kept::record)
    }

    /// The named devices that are known.
    pub fn devices(&self) -> impl Iterator<Item = InboxDevice> {
        self.devices.iter().filter_map(Device::record)
    }

    /// What it takes now, beside its own size.
    pub fn memory_bytes(&self) -> usize {
        let frames: usize = self.messages.iter().map(|kept| kept.frame.len()).sum();
        let pending = |known: &Device<A>| known.online.as_ref().map_or(0, Online::memory_bytes);
        frames
            + self.messages.capacity() * size_of::<Kept>()
            + self.devices.capacity() * size_of::<Device<A>>()
            + self.devices.iter().map(pending).sum::<usize>()
    }

    /// Everything that has become due, or possible, by `now`.
    fn settle(&mut self, now: Millis, rules: &InboxRules, out: &mut Vec<InboxOutput<A>>) {
        self.turn(now);
        self.drop_messages(Gone::Expired, out, |kept| kept.expires <= now);
        while let Some(place) = self.devices.iter().position(|known| known.is_given_up(now)) {
            self.forget(place, out);
        }
        while self.devices.len() > DEVICES_MAX
            && let Some(place) = self.longest_away()
        {
            self.forget(place, out);
        }
        if let Some(acked) = self.devices.iter().map(|known| known.acked).min() {
            self.drop_messages(Gone::Delivered, out, |kept| kept.seq <= acked);
        }
        for known in &mut self.devices {
            known.serve(now, rules, &self.messages, out);
        }
    }

    /// A clock that was set back takes every moment with it, so that nothing waits longer for it.
    fn turn(&mut self, now: Millis) {
        let back_ms = self.now.since(now);
        self.now = now;
        if back_ms == 0 {
            return;
        }
        let turn = |moment: &mut Millis| moment.0 = moment.0.saturating_sub(back_ms);
        self.messages.iter_mut().for_each(|kept| turn(&mut kept.expires));
        for known in &mut self.devices {
            turn(&mut known.until);
            let pending = known.online.iter_mut().flat_map(|online| &mut online.pending);
            pending.for_each(|pending| turn(&mut pending.retry_at));
        }
    }

    fn drop_messages(
        &mut self,
        cause: Gone,
        out: &mut Vec<InboxOutput<A>>,
        goes: impl Fn(&Kept) -> bool,
    ) {
        self.messages.retain(|kept| {
            let goes = goes(kept);
            if goes {
                out.push(InboxOutput::Gone { seq: kept.seq, cause });
            }
            !goes
        });
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
    }

    /// Where the device is that a connection belongs to.
    fn position(&self, device: u64, at: A) -> Option<usize> {
        let is_it =
            |known: &Device<A>| known.id == device && (device != UNNAMED || known.is_at(at));
        self.devices.iter().position(is_it)
    }

    fn longest_away(&self) -> Option<usize> {
        let devices = self.devices.iter().enumerate();
        let away = devices.filter(|(_, known)| known.online.is_none());
        away.min_by_key(|(_, known)| known.until).map(|(place, _)| place)
    }

    fn add(&mut self, device: u64, until: Millis) -> usize {
        // Most users have one device or two: the usual doubling would begin with four.
        self.devices.reserve_exact(1);
        let sent = if device == UNNAMED { self.unnamed_sent } else { 0 };
        self.devices.push(Device { id: device, acked: 0, sent, until, online: None });
        self.devices.len() - 1
    }

    fn forget(&mut self, place: usize, out: &mut Vec<InboxOutput<A>>) {
        let Device { id, sent, .. } = self.devices.remove(place);
        if id == UNNAMED {
            self.unnamed_sent = self.unnamed_sent.max(sent);
        } else {
            out.push(InboxOutput::Forgotten { device: id });
        }
    }
}

fn ttl_ms(rules: &InboxRules) -> u64 {
    u64::from(rules.ttl_s) * 1_000
}

/// Later than `now` in any case, or what is due would be due again and again.
fn after(now: Millis, ms: u64) -> Millis {
    Millis(now.0.saturating_add(ms.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    /// What users cost who are many: those of whom only a device is known, or one message waits.
    #[test]
    fn an_inbox_is_small() {
        let rules = Policy::builtin().inbox;
        let mut inbox: Inbox<u64> = Inbox::new(1);
        let mut out = Vec::new();
        assert_eq!((size_of_val(&inbox), inbox.memory_bytes()), (80, 0));
        inbox.device_on(Millis(1), &rules, 7, 70, &mut out);
        assert_eq!((size_of::<Device<u64>>(), inbox.memory_bytes()), (72, 72));
        let (class, payload) = (Class::P0, &[0; 100][..]);
        let push = InboxPush { category: 0, class, kind: 0, payload, ttl_ms: 0 };
        let Pushed { seq, .. } = inbox.push(Millis(2), &rules, push, &mut out);
        assert!(inbox.memory_bytes() < 600, "{}", inbox.memory_bytes());
        inbox.ack(Millis(3), &rules, 7, 70, seq, &mut out);
        assert_eq!(inbox.memory_bytes(), 72, "what was delivered leaves nothing behind");
    }
}
