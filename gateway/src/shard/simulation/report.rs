//! What happened in a run, so that a run in which nothing did is noticed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use barrage_wire::server::{CloseReason, Code};

/// See the module.
#[derive(Debug, Default)]
pub struct Report {
    pub frames: u64,
    pub joins: u64,
    pub messages: u64,
    /// Of rooms, and of users and apps.
    pub sheds: u64,
    pub sheds_direct: u64,
    pub resets: u64,
    pub replies: u64,
    pub directs: u64,
    pub combos: u64,
    pub states: u64,
    pub snapshots: u64,
    /// Messages of inboxes, and those that came again.
    pub kept: u64,
    pub repeats: u64,
    /// Rooms of which every frame was heard, and values that members show in the end.
    pub rooms_checked: u64,
    pub values_checked: u64,
    pub policies: u64,
    /// How publishes ended.
    pub codes: BTreeMap<&'static str, u64>,
    pub uplinks: u64,
    pub events: u64,
    pub duplicates: u64,
    pub short_sends: u64,
    pub failed_sends: u64,
    pub cut_sends: u64,
    pub closes: BTreeMap<&'static str, u64>,
    /// A hash of everything that peers have read, in order.
    pub trace: u64,
}

impl Report {
    pub fn hash(&mut self, what: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        (self.trace, what).hash(&mut hasher);
        self.trace = hasher.finish();
    }

    /// A publish was answered.
    pub fn count(&mut self, code: Code) {
        *self.codes.entry(code.name()).or_default() += 1;
    }

    pub fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.joins += other.joins;
        self.messages += other.messages;
        self.sheds += other.sheds;
        self.sheds_direct += other.sheds_direct;
        self.resets += other.resets;
        self.replies += other.replies;
        self.directs += other.directs;
        self.combos += other.combos;
        self.states += other.states;
        self.snapshots += other.snapshots;
        self.kept += other.kept;
        self.repeats += other.repeats;
        self.rooms_checked += other.rooms_checked;
        self.values_checked += other.values_checked;
        self.policies += other.policies;
        self.uplinks += other.uplinks;
        self.events += other.events;
        self.duplicates += other.duplicates;
        self.short_sends += other.short_sends;
        self.failed_sends += other.failed_sends;
        self.cut_sends += other.cut_sends;
        for (reason, count) in other.closes {
            *self.closes.entry(reason).or_default() += count;
        }
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
        self.trace ^= other.trace;
    }

    /// How often the rarest kind of thing happened; sheds are for scenarios of their own.
    pub fn rarest(&self) -> u64 {
        let client = self.joins.min(self.messages).min(self.resets).min(self.replies);
        let upstream = self.directs.min(self.uplinks).min(self.events).min(self.duplicates);
        let sends = self.short_sends.min(self.failed_sends).min(self.cut_sends);
        let merged = self.combos.min(self.states).min(self.snapshots).min(self.values_checked);
        let others = self.kept.min(self.repeats).min(self.rooms_checked).min(self.policies);
        let code = |code: Code| self.codes.get(code.name()).copied().unwrap_or(0);
        let codes = [Code::Ok, Code::Merged, Code::Limited, Code::Muted, Code::Kept].map(code);
        let codes = codes.into_iter().min().unwrap_or(0);
        let close = |reason: CloseReason| self.closes.get(reason.name()).copied().unwrap_or(0);
        let closes = close(CloseReason::Banned).min(close(CloseReason::Replaced));
        client.min(upstream).min(sends).min(merged).min(others).min(codes).min(closes)
    }
}
