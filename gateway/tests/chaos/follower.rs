//! What one member knows of one room: the receiver's rule of PROTOCOL.md, and an account of all
//! that came and all that was declared.

use std::collections::BTreeMap;

use barrage_wire::client::Cursor;

use crate::common::Said;
use crate::{Place, STATE};

/// A numbered message, however it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The kind of its frame: 66, 74 or 75.
    pub frame: u8,
    pub category: u16,
    pub flags: u8,
    pub sender: u64,
    pub key: u64,
    pub count: u32,
    pub total: u64,
    pub payload: Vec<u8>,
}

/// A range of which so many of each class were left out.
#[derive(Clone, Debug)]
pub struct Shed {
    pub epoch: u64,
    pub first: u64,
    pub last: u64,
    pub counts: [u32; 4],
    /// The connection ended in the middle of what is not left out of it.
    pub is_cut: bool,
}

impl Shed {
    pub fn covers(&self, (epoch, seq): Place) -> bool {
        epoch == self.epoch && (self.first..=self.last).contains(&seq)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Follower {
    /// Names the member and the room in messages of failures.
    pub name: String,
    pub room: u64,
    alias: u32,
    epoch: u64,
    n: u64,
    end: u64,
    left: u64,
    /// The place from which on everything is owed.
    pub since: Place,
    pub came: BTreeMap<Place, Numbered>,
    pub sheds: Vec<Shed>,
    /// Places between which a `Reset` has passed over messages.
    pub gaps: Vec<(Place, Place)>,
    /// The latest value of each key, and the number that it came with.
    pub states: BTreeMap<u64, (u64, Vec<u8>)>,
}

impl Follower {
    pub fn new(name: String, room: u64) -> Self {
        Self { name, room, ..Self::default() }
    }

    pub fn cursor(&self) -> Cursor {
        Cursor { room: self.room, epoch: self.epoch, seq: self.n }
    }

    /// Everything up to here came or was declared. None: in the middle of a range.
    pub fn place(&self) -> Option<Place> {
        (self.left == 0).then_some((self.epoch, self.n))
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.alias = 0;
        if std::mem::take(&mut self.left) > 0
            && let Some(shed) = self.sheds.last_mut()
        {
            // It goes on behind the last message that came.
            (shed.last, shed.is_cut) = (self.n, true);
        }
    }

    /// Takes a frame; says whether it was for this room.
    pub fn hear(&mut self, said: &Said) -> bool {
        match said {
            Said::Joined { room, alias, epoch, head, .. } if *room == self.room => {
                self.alias = *alias;
                self.joined(*epoch, *head);
                return true;
            }
            _ => {}
        }
        match said {
            Said::Message { alias, .. }
            | Said::Combo { alias, .. }
            | Said::State { alias, .. }
            | Said::Snapshot { alias, .. }
            | Said::Shed { alias, .. }
            | Said::Reset { alias, .. }
                if *alias == self.alias && self.alias != 0 =>
            {
                self.hear_own(said);
                true
            }
            _ => false,
        }
    }

    fn hear_own(&mut self, said: &Said) {
        let name = &self.name;
        match said {
            &Said::Shed { first, last, counts, .. } => {
                let at = (self.epoch, self.n);
                assert_eq!(self.left, 0, "{name}: a range in a range at {at:?}: {said:?}");
                assert_eq!(first, self.n + 1, "{name}: at {at:?} comes {said:?}");
                let out: u64 = counts.iter().map(|&count| u64::from(count)).sum();
                assert!(last >= first && out > 0, "{name}: nothing is left out: {said:?}");
                self.end = last;
                let left = (last - self.n).checked_sub(out);
                self.left = left.unwrap_or_else(|| panic!("{name}: more than it has: {said:?}"));
                if self.left == 0 {
                    self.n = last;
                }
                let epoch = self.epoch;
                self.sheds.push(Shed { epoch, first, last, counts, is_cut: false });
            }
            &Said::Reset { epoch, oldest, head, .. } => {
                assert!(epoch >= self.epoch, "{name}: back to an earlier epoch: {said:?}");
                if head > 0 && (epoch, head) != (self.epoch, self.n) {
                    self.gaps.push(((self.epoch, self.n), (epoch, head)));
                } else if head == 0 {
                    assert_eq!(oldest, 1, "{name}: nothing was said: {said:?}");
                }
                (self.epoch, self.n, self.left) = (epoch, head, 0);
                self.states.clear();
            }
            Said::Snapshot { seq, key, payload, .. } => {
                if self.states.get(key).is_none_or(|kept| *seq >= kept.0) {
                    self.states.insert(*key, (*seq, payload.clone()));
                }
            }
            _ => {
                let (seq, numbered) = numbered(said);
                self.number(seq, numbered);
            }
        }
    }

    fn joined(&mut self, epoch: u64, head: u64) {
        if self.epoch == 0 {
            (self.epoch, self.n, self.since) = (epoch, head, (epoch, head));
        } else if epoch == self.epoch {
            // Numbers that were seen and are not stored are nobody's.
            self.came.retain(|&(of, seq), _| of != epoch || seq <= head);
        } else {
            // A Reset follows. Of what was between, the past is asked in the end.
            assert!(epoch > self.epoch, "{}: joined an earlier epoch", self.name);
            self.gaps.push(((self.epoch, self.n), (epoch, head)));
            (self.epoch, self.n) = (epoch, head);
            self.states.clear();
        }
    }

    fn number(&mut self, seq: u64, numbered: Numbered) {
        let (name, at) = (&self.name, (self.epoch, self.n));
        if self.left > 0 {
            let within = self.n < seq && seq <= self.end;
            assert!(within, "{name}: at {at:?} of a range up to {} comes {seq}", self.end);
            (self.n, self.left) = (seq, self.left - 1);
            if self.left == 0 {
                self.n = self.end;
            }
        } else {
            assert_eq!(seq, self.n + 1, "{name}: a gap or a repeat at {at:?}: {numbered:?}");
            self.n = seq;
        }
        if numbered.frame == 75 && self.states.get(&numbered.key).is_none_or(|kept| seq > kept.0) {
            self.states.insert(numbered.key, (seq, numbered.payload.clone()));
        }
        let before = self.came.insert((self.epoch, seq), numbered);
        assert_eq!(before, None, "{name}: ({}, {seq}) came twice", self.epoch);
    }

    /// Takes what was asked of the past.
    pub fn fill(&mut self, place: Place, numbered: Numbered) {
        let name = &self.name;
        let before = self.came.entry(place).or_insert_with(|| numbered.clone());
        assert_eq!(*before, numbered, "{name}: {place:?} was not said like this");
    }
}

fn numbered(said: &Said) -> (u64, Numbered) {
    let none = Numbered {
        frame: 66,
        category: 0,
        flags: 0,
        sender: 0,
        key: 0,
        count: 0,
        total: 0,
        payload: Vec::new(),
    };
    match said.clone() {
        Said::Message { seq, category, payload, .. } => {
            (seq, Numbered { category, payload, ..none })
        }
        Said::Combo { seq, category, flags, sender, key, count, total, payload, .. } => {
            let frame = 74;
            (seq, Numbered { frame, category, flags, sender, key, count, total, payload })
        }
        Said::State { seq, key, payload, .. } => {
            (seq, Numbered { frame: 75, category: STATE, key, payload, ..none })
        }
        other => panic!("not a numbered frame: {other:?}"),
    }
}
