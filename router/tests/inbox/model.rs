//! What an inbox should do, said as plainly as possible, in a time that never jumps back.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use barrage_router::{
    DEVICES_MAX, Gone, INBOX_WINDOW, INBOX_WINDOW_BYTES_MAX, InboxDevice, InboxRules, Millis,
};

/// A device that should be known.
pub struct Known {
    pub device: u64,
    /// Which client it is.
    pub phone: usize,
    /// Its connection.
    pub at: Option<u32>,
    pub acked: u64,
    /// When it is forgotten if it is away.
    pub until: u64,
    /// What it was sent on its connection: how often, and when last.
    pub sends: BTreeMap<u64, (u8, u64)>,
}

/// A message that should be kept.
pub struct Kept {
    pub expires: u64,
    /// Of its frame.
    pub bytes: usize,
}

pub struct Model {
    pub rules: InboxRules,
    pub time: u64,
    pub next_seq: u64,
    pub messages: BTreeMap<u64, Kept>,
    pub known: Vec<Known>,
    /// What the call that is being made should drop.
    pub gone: Vec<(u64, Gone)>,
    /// How many devices had to make room, and how many were away for too long.
    pub evicted: u64,
    pub aged: u64,
}

impl Model {
    pub fn new(rules: InboxRules, next_seq: u64) -> Self {
        let (messages, known, gone) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { rules, time: 0, next_seq, messages, known, gone, evicted: 0, aged: 0 }
    }

    pub fn push(&mut self, ttl_ms: u32, bytes: usize) -> u64 {
        self.settle();
        let seq = self.next_seq;
        self.next_seq += 1;
        let ttl_ms = if ttl_ms == 0 { self.ttl_ms() } else { u64::from(ttl_ms) };
        let expires = self.time + ttl_ms;
        self.messages.insert(seq, Kept { expires, bytes });
        while self.messages.len() > usize::from(self.rules.messages_max) {
            let (oldest, _) = self.messages.pop_first().expect("it holds more than one");
            self.gone.push((oldest, Gone::Crowded));
        }
        self.settle();
        seq
    }

    pub fn on(&mut self, device: u64, phone: usize, at: u32) {
        let until = self.time + self.ttl_ms();
        let place = self.position(device, at).unwrap_or_else(|| {
            let sends = BTreeMap::new();
            self.known.push(Known { device, phone, at: None, acked: 0, until, sends });
            self.known.len() - 1
        });
        let known = &mut self.known[place];
        (known.at, known.until) = (Some(at), until);
        known.sends.clear();
        self.settle();
    }

    pub fn off(&mut self, device: u64, at: u32) {
        let until = self.time + self.ttl_ms();
        if let Some(place) = self.known.iter().position(|known| known.at == Some(at)) {
            assert_eq!(self.known[place].device, device);
            (self.known[place].at, self.known[place].until) = (None, until);
            self.known[place].sends.clear();
            self.known.retain(|known| known.device != 0 || known.at.is_some());
        }
        self.settle();
    }

    pub fn ack(&mut self, device: u64, at: u32, seq: u64) {
        let until = self.time + self.ttl_ms();
        if let Some(place) = self.position(device, at) {
            let known = &mut self.known[place];
            if seq < self.next_seq && self.messages.keys().any(|&m| m > known.acked && m <= seq) {
                (known.acked, known.until) = (seq, until);
            }
        }
        self.settle();
    }

    /// The process ends and another begins with what was stored.
    pub fn restart(&mut self, next_seq: u64) {
        self.next_seq = next_seq;
        self.known.retain(|known| known.device != 0);
        self.known.sort_by_key(|known| (Reverse(known.until), known.device));
        for known in &mut self.known {
            known.at = None;
            known.sends.clear();
        }
    }

    /// What follows from the time and the ACKs.
    pub fn settle(&mut self) {
        let expired = self.messages.iter().filter(|(_, kept)| kept.expires <= self.time);
        let expired: Vec<u64> = expired.map(|(seq, _)| *seq).collect();
        self.drop_all(&expired, Gone::Expired);
        let before = self.known.len();
        self.known.retain(|known| known.at.is_some() || known.until > self.time);
        self.aged += (before - self.known.len()) as u64;
        let away = |known: &[Known]| {
            let away = (0..known.len()).filter(|&place| known[place].at.is_none());
            away.min_by_key(|&place| known[place].until)
        };
        while self.known.len() > DEVICES_MAX
            && let Some(longest) = away(&self.known)
        {
            self.known.remove(longest);
            self.evicted += 1;
        }
        let has = |seq: u64| self.known.iter().all(|known| known.acked >= seq);
        let delivered: Vec<u64> = match self.known.len() {
            0 => Vec::new(),
            _ => self.messages.keys().copied().filter(|&seq| has(seq)).collect(),
        };
        self.drop_all(&delivered, Gone::Delivered);
    }

    fn drop_all(&mut self, seqs: &[u64], cause: Gone) {
        for seq in seqs {
            self.messages.remove(seq);
            self.gone.push((*seq, cause));
        }
    }

    /// Checks one send, and remembers it. Returns which client it is for.
    pub fn check_send(&mut self, at: u32, seq: u64, repeat: bool) -> usize {
        let crowded = self.gone.contains(&(seq, Gone::Crowded));
        assert!(self.messages.contains_key(&seq) || crowded, "{seq} is not kept");
        let known = self.known.iter_mut().find(|known| known.at == Some(at));
        let known = known.unwrap_or_else(|| panic!("{at} is nobody's newest connection"));
        assert!(seq > known.acked, "{seq} is ACKed");
        let newest = known.sends.last_key_value().map_or(0, |(seq, _)| *seq);
        let (count, last) = known.sends.entry(seq).or_insert((0, 0));
        if *count == 0 {
            assert!(seq > newest, "{seq} after {newest}");
        } else {
            assert!(repeat, "a repeat says so");
            let since = self.time - *last;
            assert!(since >= u64::from(self.rules.retry_after_ms), "{seq} after {since} ms");
        }
        (*count, *last) = (*count + 1, self.time);
        assert!(*count <= self.rules.tries, "{seq} is sent {count} times");
        known.phone
    }

    /// Checks that nothing is left undone, and returns when there is something to do.
    pub fn check_rest(&self) -> Option<u64> {
        let mut due: Vec<u64> = self.messages.values().map(|kept| kept.expires).collect();
        for known in &self.known {
            if known.at.is_none() {
                due.push(known.until);
                continue;
            }
            let (sent, unsent): (Vec<u64>, Vec<u64>) = self
                .messages
                .range(known.acked + 1..)
                .map(|(seq, _)| *seq)
                .partition(|seq| known.sends.contains_key(seq));
            let bytes: usize = sent.iter().map(|seq| self.messages[seq].bytes).sum();
            let fits = |more: usize, bytes_more: usize| {
                sent.len() + more <= INBOX_WINDOW && bytes + bytes_more <= INBOX_WINDOW_BYTES_MAX
            };
            assert!(fits(0, 0), "{} messages, {bytes} bytes before an ACK", sent.len());
            let could = unsent.first().is_some_and(|seq| fits(1, self.messages[seq].bytes));
            assert!(!could, "{unsent:?} could be sent");
            let tries = sent.iter().map(|seq| known.sends[seq]);
            let again = tries.filter(|(count, _)| *count < self.rules.tries);
            due.extend(again.map(|(_, last)| last + u64::from(self.rules.retry_after_ms)));
        }
        let due = due.into_iter().min();
        assert!(due.is_none_or(|due| due > self.time), "something is overdue");
        due
    }

    /// The devices that a store should hold.
    pub fn devices(&self) -> impl Iterator<Item = InboxDevice> {
        let named = self.known.iter().filter(|known| known.device != 0);
        named.map(|known| {
            let Known { device, acked, until, .. } = *known;
            InboxDevice { device, acked, until: Millis(until) }
        })
    }

    /// Devices that have a full window, and those for whom all tries of a message are used up.
    pub fn stuck(&self) -> (usize, usize) {
        let unacked = |known: &&Known| {
            known
                .sends
                .keys()
                .filter(|seq| **seq > known.acked && self.messages.contains_key(seq))
                .count()
        };
        let full = self.known.iter().filter(|known| unacked(known) == INBOX_WINDOW);
        let tried = self.known.iter().filter(|known| {
            known.sends.iter().any(|(seq, (count, _))| {
                *seq > known.acked && *count == self.rules.tries && self.messages.contains_key(seq)
            })
        });
        (full.count(), tried.count())
    }

    fn position(&self, device: u64, at: u32) -> Option<usize> {
        self.known.iter().position(|known| match device {
            0 => known.at == Some(at),
            _ => known.device == device,
        })
    }

    fn ttl_ms(&self) -> u64 {
        u64::from(self.rules.ttl_s) * 1_000
    }
}
