//! One user's clients, their connections, the store, and the inbox between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use barrage_router::{
    Class, Gone, Inbox, InboxDevice, InboxMessage, InboxOutput, InboxPush, InboxRules, Millis,
};
use barrage_wire::limits::{PAYLOAD_BYTES_MAX, SERVER_BODY_BYTES_MAX};
use barrage_wire::server::{DIRECT_ACK, DIRECT_REPEAT};
use barrage_wire::{FRAME_HEADER_BYTES, ServerFrame, split};
use bytes::Bytes;

use crate::model::Model;
use crate::report::Report;

/// What happens in a run, before everything is mended.
const STEPS: u32 = 80;
/// Bytes of a `Direct` in front of its payload.
const DIRECT_OVERHEAD_BYTES: usize = FRAME_HEADER_BYTES + 13;
/// Clock readings begin here, so that a clock can be set back.
const CLOCK_START: u64 = 1 << 50;
/// Messages that are kept in a large run: more than a window.
const LARGE: u16 = 60;
const DAY_MS: u64 = 24 * 3_600_000;

/// SplitMix64: small, and the same everywhere for ever.
struct Random(u64);

impl Random {
    /// Under `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A client.
#[derive(Default)]
struct Phone {
    device: u64,
    link: Option<Link>,
    /// What it has taken, without what it had before.
    got: Vec<u64>,
    /// What the gateway knows that it has sent it.
    sent: BTreeSet<u64>,
}

/// A connection, and what is under way on it; that is lost with it.
struct Link {
    at: u32,
    inbound: VecDeque<Bytes>,
}

pub struct World {
    random: Random,
    inbox: Inbox<u32>,
    model: Model,
    /// What the clock shows when the model's time is 0.
    clock: u64,
    phones: Vec<Phone>,
    next_at: u32,
    /// Connections that are gone without the inbox having been told.
    lingering: Vec<(u64, u32)>,
    /// ACKs under way: device, connection, number.
    acks: Vec<(u64, u32, u64)>,
    ack_loss_percent: u64,
    /// What a store holds; moments are the model's.
    messages: BTreeMap<u64, InboxMessage>,
    devices: BTreeMap<u64, InboxDevice>,
    out: Vec<InboxOutput<u32>>,
    trace: DefaultHasher,
    report: Report,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        // Most runs are small, so that there can be many.
        let is_large = random.below(40) == 0;
        let is_crowd = random.below(20) == 0;
        let rules = InboxRules {
            retry_after_ms: random.pick(&[1, 100, 18_000]),
            tries: random.pick(&[1, 2, 3, 3]),
            ttl_s: random.pick(&[1, 60, 7 * 24 * 3_600]),
            messages_max: if is_large { LARGE } else { random.pick(&[1, 3, 8]) },
        };
        let phones: u64 = if is_crowd { 24 } else { random.pick(&[1, 2, 3, 4]) };
        let phone = |n| {
            let device = if random.below(4) == 0 { 0 } else { n + 1 };
            Phone { device, ..Phone::default() }
        };
        Self {
            phones: (0..phones).map(phone).collect(),
            ack_loss_percent: random.pick(&[0, 20, 60, 100]),
            inbox: Inbox::new(1),
            model: Model::new(rules, 1),
            clock: CLOCK_START,
            next_at: 1,
            lingering: Vec::new(),
            acks: Vec::new(),
            messages: BTreeMap::new(),
            devices: BTreeMap::new(),
            out: Vec::new(),
            trace: DefaultHasher::new(),
            report: Report::default(),
            random,
        }
    }

    pub fn run(mut self) -> Report {
        for _ in 0..STEPS {
            self.act();
            self.check_state();
        }
        self.mend();
        self.leave();
        (self.report.evicted, self.report.aged) = (self.model.evicted, self.model.aged);
        self.report.trace = self.trace.finish();
        self.report
    }

    fn act(&mut self) {
        let phone = self.random.below(self.phones.len() as u64) as usize;
        match self.random.below(100) {
            0..20 => self.push(),
            20..23 => {
                let most = u64::from(self.model.rules.messages_max);
                (0..self.random.below(most)).for_each(|_| self.push());
            }
            23..45 => {
                let frames = 1 + self.random.below(20);
                let lost = self.random.below(100) < self.ack_loss_percent;
                self.read(phone, frames, lost);
            }
            45..60 if !self.acks.is_empty() => {
                let ack = self.random.below(self.acks.len() as u64) as usize;
                let (device, at, seq) = self.acks.swap_remove(ack);
                self.ack(device, at, seq);
            }
            60..75 => self.connect(phone),
            75..80 => self.disconnect(phone),
            80..85 if !self.lingering.is_empty() => {
                let gone = self.random.below(self.lingering.len() as u64) as usize;
                self.tell_off(gone);
            }
            85..96 => self.wait(phone),
            96 => self.nonsense(phone),
            97 => self.restart(),
            98 => {
                self.clock -= self.random.below(DAY_MS);
                self.report.set_back += 1;
                self.tick();
            }
            _ => self.forget_idle(),
        }
    }

    fn push(&mut self) {
        let ttl_ms = self.random.pick(&[0, 0, 0, 1, 500, 100_000]);
        let small = self.random.below(20) as usize;
        let is_large = self.model.rules.messages_max == LARGE && self.random.below(4) == 0;
        let payload = vec![7; if is_large { PAYLOAD_BYTES_MAX } else { small }];
        let (category, class, kind) = (1, Class::P1, 9);
        let push = InboxPush { category, class, kind, payload: &payload, ttl_ms };
        let pushed = self.inbox.push(self.now(), &self.model.rules, push, &mut self.out);
        let seq = self.model.push(ttl_ms, DIRECT_OVERHEAD_BYTES + payload.len());
        let expires = self.model_time(pushed.expires);
        let sends = self.out.iter().filter(|output| is_send_of(output, seq));
        assert_eq!((pushed.seq, pushed.sent_to), (seq, sends.count()));
        let payload = payload.into();
        let message = InboxMessage { seq, category, class, kind, payload, expires };
        self.messages.insert(seq, message);
        self.check();
    }

    fn read(&mut self, phone: usize, frames: u64, ack_is_lost: bool) {
        let Phone { device, link: Some(link), got, .. } = &mut self.phones[phone] else { return };
        let mut arrived = None;
        for frame in link.inbound.drain(..link.inbound.len().min(frames as usize)) {
            let (inbox_seq, _) = decode(&frame);
            // This is all that a client has to do to take each message once and in order.
            if got.last().is_none_or(|&last| inbox_seq > last) {
                got.push(inbox_seq);
                self.report.received += 1;
            } else {
                self.report.duplicates += 1;
            }
            arrived = got.last().copied();
        }
        let Some(last) = arrived else { return };
        if ack_is_lost {
            self.report.acks_lost += 1;
        } else {
            self.acks.push((*device, link.at, last));
        }
    }

    fn ack(&mut self, device: u64, at: u32, seq: u64) {
        self.inbox.ack(self.now(), &self.model.rules, device, at, seq, &mut self.out);
        self.model.ack(device, at, seq);
        self.check();
    }

    /// An ACK that no client has reason to send.
    fn nonsense(&mut self, phone: usize) {
        let device = self.random.pick(&[self.phones[phone].device, 0, 999]);
        let at = self.phones[phone].link.as_ref().map_or(0, |link| link.at);
        let last = self.phones[phone].got.last().copied().unwrap_or(0);
        let past = self.random.below(last + 1);
        let future = self.model.next_seq + self.random.below(100);
        let is_its_own = device == self.phones[phone].device;
        let past = if is_its_own { past } else { 0 };
        let seq = self.random.pick(&[0, past, future, u64::MAX]);
        self.ack(device, at, seq);
    }

    /// Connects, whether or not the connection before is known to be gone.
    fn connect(&mut self, phone: usize) {
        if self.phones[phone].link.is_some() {
            self.disconnect(phone);
            self.report.replaced += 1;
        }
        let (device, at) = (self.phones[phone].device, self.next_at);
        self.next_at += 1;
        if self.is_confused_with_itself(device) {
            self.phones[phone].sent.clear();
        }
        self.phones[phone].link = Some(Link { at, inbound: VecDeque::new() });
        self.inbox.device_on(self.now(), &self.model.rules, device, at, &mut self.out);
        self.model.on(device, phone, at);
        self.check();
    }

    /// Whether a connection of a client without a name lingers: nobody can know that the next one
    /// is the same client's, and that it was sent anything.
    fn is_confused_with_itself(&self, device: u64) -> bool {
        device == 0 && self.lingering.iter().any(|(lingering, _)| *lingering == 0)
    }

    fn disconnect(&mut self, phone: usize) {
        if let Some(Link { at, .. }) = self.phones[phone].link.take() {
            self.lingering.push((self.phones[phone].device, at));
        }
    }

    fn tell_off(&mut self, gone: usize) {
        let (device, at) = self.lingering.swap_remove(gone);
        self.inbox.device_off(self.now(), &self.model.rules, device, at, &mut self.out);
        self.model.off(device, at);
        self.check();
    }

    /// Time passes: a little, or as the inbox asks for it, or a lot.
    fn wait(&mut self, phone: usize) {
        let due_ms = self.inbox.due().map_or(1, |due| due.since(self.now()));
        let ms = match self.random.below(10) {
            0..3 => self.random.below(2_000),
            3..9 => due_ms,
            _ => self.random.below(8 * DAY_MS),
        };
        if ms >= due_ms && due_ms > 1 {
            self.model.time += due_ms - 1;
            self.tick();
            self.model.time += ms - (due_ms - 1);
        } else {
            self.model.time += ms;
        }
        // Something else may come before the tick does.
        match self.random.below(4) {
            0 => self.push(),
            1 => self.connect(phone),
            _ => self.tick(),
        }
    }

    /// A tick does something when it is due, and only then.
    fn tick(&mut self) {
        let is_due = self.inbox.due().is_some_and(|due| due <= self.now());
        self.inbox.tick(self.now(), &self.model.rules, &mut self.out);
        self.model.settle();
        assert_eq!(!self.out.is_empty(), is_due, "{:?}", self.out);
        self.check();
    }

    fn restart(&mut self) {
        (0..self.phones.len()).for_each(|phone| self.disconnect(phone));
        self.lingering.clear();
        let next_seq = self.model.next_seq + self.random.below(1_000);
        let back = |moment: Millis| Millis(moment.0 + self.clock);
        let messages = self.messages.values().map(|message| {
            let expires = back(message.expires);
            InboxMessage { expires, ..message.clone() }
        });
        let devices = self.devices.values().map(|known| {
            let until = back(known.until);
            InboxDevice { until, ..*known }
        });
        self.inbox = Inbox::restore(next_seq, messages, devices);
        self.model.restart(next_seq);
        self.report.restarts += 1;
        self.inbox.tick(self.now(), &self.model.rules, &mut self.out);
        self.model.settle();
        self.check();
    }

    fn forget_idle(&mut self) {
        if self.inbox.is_idle() {
            let next_seq = self.model.next_seq + self.random.below(1_000);
            (self.inbox, self.model.next_seq) = (Inbox::new(next_seq), next_seq);
        }
    }

    /// Nothing is lost any more: everybody gets everything.
    fn mend(&mut self) {
        (0..self.phones.len()).for_each(|phone| self.connect(phone));
        while !self.lingering.is_empty() {
            self.tell_off(0);
        }
        while self.phones.iter().flat_map(|phone| &phone.link).any(|link| !link.inbound.is_empty())
        {
            (0..self.phones.len()).for_each(|phone| self.read(phone, u64::MAX, false));
            for (device, at, seq) in std::mem::take(&mut self.acks) {
                self.ack(device, at, seq);
            }
        }
        assert_eq!(self.inbox.messages().count(), 0, "all have everything");
    }

    /// Everybody goes for good, and nothing is left of it.
    fn leave(&mut self) {
        (0..self.phones.len()).for_each(|phone| self.disconnect(phone));
        while !self.lingering.is_empty() {
            self.tell_off(0);
        }
        while let Some(due) = self.inbox.due() {
            self.model.time += due.since(self.now());
            self.tick();
        }
        assert!(self.inbox.is_idle() && self.messages.is_empty() && self.devices.is_empty());
    }

    /// Takes what the inbox has said in a call, and compares it with the model.
    fn check(&mut self) {
        let mut gone = Vec::new();
        for output in std::mem::take(&mut self.out) {
            match output {
                InboxOutput::Send { to, seq, repeat, frame, .. } => {
                    (to, seq, repeat).hash(&mut self.trace);
                    self.send(to, seq, repeat, frame);
                }
                InboxOutput::Gone { seq, cause } => {
                    self.messages.remove(&seq).expect("it is stored");
                    gone.push((seq, cause));
                }
                InboxOutput::Device(known) => {
                    let until = self.model_time(known.until);
                    self.devices.insert(known.device, InboxDevice { until, ..known });
                }
                InboxOutput::Forgotten { device } => {
                    self.devices.remove(&device).expect("it is stored");
                    let phone = self.phones.iter_mut().find(|phone| phone.device == device);
                    phone.expect("it is somebody's").sent.clear();
                }
            }
        }
        self.check_gone(&gone);
    }

    fn send(&mut self, to: u32, seq: u64, repeat: bool, frame: Bytes) {
        let phone = self.model.check_send(to, seq, repeat);
        let is_known = !self.is_confused_with_itself(self.phones[phone].device);
        let Phone { link, sent, .. } = &mut self.phones[phone];
        assert!(!is_known || sent.insert(seq) || repeat, "{seq} is a repeat and does not say so");
        let flags = if repeat { DIRECT_ACK | DIRECT_REPEAT } else { DIRECT_ACK };
        assert_eq!(decode(&frame), (seq, flags));
        if let Some(link) = link.as_mut().filter(|link| link.at == to) {
            link.inbound.push_back(frame);
        }
    }

    fn check_gone(&mut self, gone: &[(u64, Gone)]) {
        assert_eq!(gone, std::mem::take(&mut self.model.gone));
        for (seq, cause) in gone {
            match cause {
                Gone::Expired => self.report.expired += 1,
                Gone::Crowded => self.report.crowded += 1,
                Gone::Delivered => {
                    self.report.delivered += 1;
                    for known in &self.model.known {
                        let got = &self.phones[known.phone].got;
                        assert!(got.binary_search(seq).is_ok(), "{} lacks {seq}", known.phone);
                    }
                }
            }
        }
    }

    fn check_state(&mut self) {
        let clock = self.clock;
        let kept = self.inbox.messages().map(|message| {
            let expires = Millis(message.expires.0 - clock);
            InboxMessage { expires, ..message }
        });
        assert!(kept.eq(self.messages.values().cloned()), "what is stored is what is kept");
        assert!(self.messages.keys().eq(self.model.messages.keys()));
        let in_model_time = |known: InboxDevice| {
            let until = self.model_time(known.until);
            InboxDevice { until, ..known }
        };
        let mut devices: Vec<InboxDevice> = self.inbox.devices().map(in_model_time).collect();
        devices.sort_unstable_by_key(|known| known.device);
        assert!(self.devices.values().eq(&devices), "what is stored is what is known");
        let mut expected: Vec<InboxDevice> = self.model.devices().collect();
        expected.sort_unstable_by_key(|known| known.device);
        assert_eq!(devices, expected);
        let connections = self.model.known.iter().filter(|known| known.at.is_some()).count();
        assert_eq!(self.inbox.connections(), connections);
        let due = self.model.check_rest().map(|due| Millis(due + self.clock));
        assert_eq!(self.inbox.due(), due);
        let is_idle = self.model.messages.is_empty() && self.model.known.is_empty();
        assert_eq!(self.inbox.is_idle(), is_idle);
        let (full, tried) = self.model.stuck();
        self.report.full_windows += full as u64;
        self.report.given_up += tried as u64;
        self.report.idle += u64::from(is_idle);
    }

    fn now(&self) -> Millis {
        Millis(self.clock + self.model.time)
    }

    fn model_time(&self, moment: Millis) -> Millis {
        Millis(moment.0 - self.clock)
    }
}

/// The number and the flags of a message.
fn decode(mut frame: &[u8]) -> (u64, u8) {
    let raw = split(&mut frame, SERVER_BODY_BYTES_MAX).expect("it is a frame");
    match ServerFrame::decode(raw.expect("it is whole")) {
        Ok(ServerFrame::Direct { inbox_seq, flags, .. }) => (inbox_seq, flags),
        other => panic!("{other:?} is no message for a user"),
    }
}

fn is_send_of(output: &InboxOutput<u32>, message: u64) -> bool {
    matches!(output, InboxOutput::Send { seq, .. } if *seq == message)
}
