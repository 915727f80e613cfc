//! What a client keeps from one connection to the next, as PROTOCOL.md tells it to.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Sequence;

/// See the module.
#[derive(Default)]
pub struct Memory {
    pub inbox: Inbox,
    /// Values of rooms, by category and key.
    values: BTreeMap<Sequence, BTreeMap<(u16, u64), Value>>,
}

/// A state's value, and the number that it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    pub seq: u64,
    pub id: u64,
}

/// What a device has of its user's inbox.
#[derive(Default)]
pub struct Inbox {
    /// The highest number that was taken.
    pub highest: u64,
    taken: BTreeMap<u64, u64>,
    ids: BTreeSet<u64>,
    /// Messages that the device is to have in the end, whatever connections it has.
    pub owed: BTreeSet<u64>,
}

impl Inbox {
    /// A message has come. False when it is one that was taken before.
    pub fn take(&mut self, seq: u64, id: u64) -> bool {
        if seq <= self.highest {
            assert_eq!(self.taken.get(&seq), Some(&id), "number {seq} comes late");
            return false;
        }
        self.highest = seq;
        self.taken.insert(seq, id);
        assert!(self.ids.insert(id), "message {id} has two numbers");
        true
    }

    /// What should have come and has not.
    pub fn missing(&self) -> impl Iterator<Item = &u64> {
        self.owed.difference(&self.ids)
    }
}

impl Memory {
    /// The room has another epoch, or the values are not known to be the latest.
    pub fn forget_room(&mut self, app: u32, room: u64) {
        self.values.retain(|of, _| (of.app, of.room) != (app, room));
    }

    /// JOINED names an epoch: values of another one are worth nothing.
    pub fn joined(&mut self, of: Sequence) {
        self.values.retain(|it, _| (it.app, it.room) != (of.app, of.room) || it.epoch == of.epoch);
    }

    /// A `State` or, `anew`, a `Snapshot`.
    pub fn value(&mut self, of: Sequence, category: u16, key: u64, value: Value, anew: bool) {
        let kept = self.values.entry(of).or_default().entry((category, key)).or_insert(value);
        if value.seq > kept.seq || (anew && value.seq == kept.seq) {
            *kept = value;
        }
    }

    /// What it shows for a key.
    pub fn shown(&self, of: Sequence, category: u16, key: u64) -> Option<Value> {
        self.values.get(&of)?.get(&(category, key)).copied()
    }
}
