//! What was said, who may hear it, and what was left out for whom: kept for ever, and searched.

use std::collections::{BTreeMap, BTreeSet};

use barrage_router::Policy;
use barrage_wire::ServerFrame;
use barrage_wire::server::{CLASSES, COMBO_FINAL, Code};

use super::orders::{About, Orders};
use super::rules::{GIFT_SMALL, Kind, STATE};

/// A room within its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence {
    pub app: u32,
    pub room: u64,
    pub epoch: u64,
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Room(u64),
    Users(Vec<u64>),
    App,
}

/// A message as it was published. Its payload is made of its id, so that whoever gets it can check
/// every byte.
pub struct Said {
    pub app: u32,
    pub target: Target,
    pub category: u16,
    pub kind: u16,
    pub bytes: usize,
    pub tap: Tap,
    /// Its number, once somebody has learned it.
    pub seq: Option<u64>,
    /// When it was published first, and how often in all.
    pub at_us: u64,
    pub tries: u32,
    /// The connection that has published it first.
    pub by: (usize, u64),
    /// Tries without an answer.
    open: u32,
    /// When it was answered that it is published or will be.
    pub accepted_us: Option<u64>,
}

/// On whose behalf a message is published, and what it may be merged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    pub sender: u64,
    pub key: u64,
    pub count: u32,
}

impl Tap {
    /// A service speaks for itself.
    pub const NONE: Self = Self { sender: 0, key: 0, count: 1 };
}

/// A numbered frame, as it was first heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub id: u64,
    pub shown: Shown,
}

/// What kind of frame it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Message,
    Combo { sender: u64, key: u64, count: u64, total: u64, last: bool },
    State { key: u64 },
}

/// A range that was declared as shed, and what of it arrived all the same.
pub struct Range {
    pub of: Sequence,
    pub first: u64,
    pub last: u64,
    pub counts: [u32; CLASSES],
    pub arrived: BTreeSet<u64>,
}

/// See the module.
pub struct Truth {
    policy: Policy,
    said: Vec<Said>,
    /// What was heard in each room, and when first.
    pub rooms: BTreeMap<Sequence, BTreeMap<u64, (Heard, u64)>>,
    pub ranges: Vec<Range>,
    pub kind: Kind,
    pub orders: Orders,
    pub now_us: u64,
}

impl Truth {
    pub fn new(kind: Kind) -> Self {
        let (said, rooms) = (Vec::new(), BTreeMap::new());
        let (policy, orders) = (Policy::builtin(), Orders::default());
        Self { policy, said, rooms, ranges: Vec::new(), kind, orders, now_us: 0 }
    }

    /// A new message of a service that speaks for itself; returns its id.
    pub fn say(&mut self, app: u32, target: Target, category: u16, bytes: usize) -> u64 {
        let kind = self.said.len() as u16;
        self.say_as(app, target, category, bytes, kind, Tap::NONE)
    }

    /// A new message; returns its id.
    pub fn say_as(
        &mut self,
        app: u32,
        target: Target,
        category: u16,
        bytes: usize,
        kind: u16,
        tap: Tap,
    ) -> u64 {
        self.said.push(Said {
            app,
            target,
            category,
            kind,
            bytes: bytes.max(8),
            tap,
            seq: None,
            at_us: self.now_us,
            tries: 0,
            by: (0, 0),
            open: 0,
            accepted_us: None,
        });
        self.said.len() as u64 - 1
    }

    /// It is published, perhaps not for the first time.
    pub fn tried(&mut self, id: u64, by: (usize, u64)) {
        let now_us = self.now_us;
        let said = &mut self.said[id as usize];
        if said.tries == 0 {
            (said.by, said.at_us) = (by, now_us);
        }
        said.tries += 1;
        said.open += 1;
    }

    /// How a try of a message for a room has ended.
    pub fn answered(&mut self, id: u64, code: Code, seq: u64) {
        let now_us = self.now_us;
        let never_drop = self.never_drop(id);
        let said = &mut self.said[id as usize];
        said.open -= 1;
        match code {
            Code::Ok | Code::Merged => {
                assert!(said.accepted_us.is_none() || said.tries > 1, "one answer");
                said.accepted_us.get_or_insert(now_us);
            }
            Code::Duplicate => _ = said.accepted_us.get_or_insert(now_us),
            Code::Limited => assert!(!never_drop, "message {id} may not be limited"),
            _ => {}
        }
        if seq > 0 && matches!(code, Code::Ok | Code::Duplicate) {
            self.numbered(id, seq);
        }
        self.check_muted(id, code);
    }

    fn check_muted(&self, id: u64, code: Code) {
        let (said, user) = (self.said(id), self.said(id).tap.sender);
        let Target::Room(room) = said.target else { return };
        let about = [About::Mute(room), About::Mute(0), About::Ban];
        let mut about = about.into_iter();
        if code == Code::Muted {
            assert!(about.any(|it| self.orders.any(said.app, user, it)), "nobody silenced {user}");
        } else if said.tries == 1 && matches!(code, Code::Ok | Code::Merged | Code::Limited) {
            let held = |it| self.orders.held(said.app, user, it, said.at_us, self.now_us);
            assert!(!about.any(held), "message {id} of {user}, who may not speak: {code:?}");
        }
    }

    /// Whether it was answered for good that nothing comes of it.
    pub fn is_refused(&self, id: u64) -> bool {
        let said = self.said(id);
        said.tries > 0 && said.open == 0 && said.accepted_us.is_none()
    }

    /// Every message, with its id.
    pub fn all(&self) -> impl Iterator<Item = (u64, &Said)> {
        (0..).zip(&self.said)
    }

    pub fn said(&self, id: u64) -> &Said {
        &self.said[id as usize]
    }

    pub fn payload(&self, id: u64) -> Vec<u8> {
        let mut payload = id.to_le_bytes().to_vec();
        payload.resize(self.said(id).bytes, id as u8 ^ 0x5a);
        payload
    }

    /// The id of a message that somebody got, which must be as it was published.
    pub fn id_of(&self, app: u32, category: u16, kind: u16, payload: &[u8]) -> u64 {
        let id = u64::from_le_bytes(*payload.first_chunk().expect("payloads hold an id"));
        let said = self.said.get(id as usize).expect("somebody has said it");
        assert_eq!((said.app, said.category, said.kind), (app, category, kind), "message {id}");
        assert!(payload == self.payload(id), "message {id}: the payload was changed");
        id
    }

    /// The message that a numbered frame carries. None: it is not one.
    pub fn numbered_frame(&self, app: u32, frame: &ServerFrame<'_>) -> Option<(u64, Heard)> {
        let (seq, category, kind, payload, shown) = match *frame {
            ServerFrame::Message { seq, category, kind, payload, .. } => {
                (seq, category, kind, payload, Shown::Message)
            }
            ServerFrame::State { seq, category, kind, key, payload, .. } => {
                (seq, category, kind, payload, Shown::State { key })
            }
            ServerFrame::Combo { seq, category, kind, flags, payload, .. } => {
                let ServerFrame::Combo { sender, key, count, total, .. } = *frame else {
                    unreachable!("it was one")
                };
                let (count, last) = (u64::from(count), flags & COMBO_FINAL != 0);
                (seq, category, kind, payload, Shown::Combo { sender, key, count, total, last })
            }
            _ => return None,
        };
        let id = self.id_of(app, category, kind, payload.0);
        Some((seq, Heard { id, shown }))
    }

    /// Somebody got a room's message.
    pub fn heard(&mut self, of: Sequence, seq: u64, heard: Heard) {
        let (id, now_us) = (heard.id, self.now_us);
        let said = self.said(id);
        assert_eq!(said.target, Target::Room(of.room), "message {id} is for another room");
        let tap = said.tap;
        match heard.shown {
            Shown::Message => {}
            Shown::State { key } => assert_eq!(key, tap.key),
            Shown::Combo { sender, key, .. } => assert_eq!((sender, key), (tap.sender, tap.key)),
        }
        let before = self.rooms.entry(of).or_default().entry(seq).or_insert((heard, now_us));
        assert_eq!(before.0, heard, "{of:?} {seq}: not the same for all");
        // A tap's payload may be that of several frames of its run.
        if !matches!(heard.shown, Shown::Combo { .. }) {
            self.numbered(id, seq);
        }
    }

    /// Somebody learned a message's number. It has only one: a repeat with its key is not published.
    pub fn numbered(&mut self, id: u64, seq: u64) {
        let known = self.said[id as usize].seq.get_or_insert(seq);
        assert_eq!(*known, seq, "message {id} was published twice");
    }

    /// Whether it waits in the inboxes of its users.
    pub fn is_inboxed(&self, id: u64) -> bool {
        let said = self.said(id);
        matches!(said.target, Target::Users(_)) && self.kind.is_kept(said.category)
    }

    /// Whether clients may be refused it, as long as some policy of the run merges its category.
    pub fn is_for_services(&self, id: u64) -> bool {
        let category = self.said(id).category;
        self.never_drop(id) || self.kind.merges && [GIFT_SMALL, STATE].contains(&category)
    }

    pub fn never_drop(&self, id: u64) -> bool {
        self.policy.category(self.said(id).category).is_some_and(|category| category.never_drop)
    }

    pub fn class(&self, id: u64) -> usize {
        let category = self.policy.category(self.said(id).category);
        category.expect("what was delivered has a category").class.index()
    }

    /// Compares every declared range with what is known in the end. Returns how many there were.
    pub fn check_ranges(&self) -> usize {
        for range in &self.ranges {
            let known = self.rooms.get(&range.of);
            let mut left = range.counts;
            let missing = (range.first..=range.last).filter(|seq| !range.arrived.contains(seq));
            for seq in missing {
                // Nobody may have got it, and its publisher may be gone.
                let Some(&(Heard { id, .. }, _)) = known.and_then(|known| known.get(&seq)) else {
                    continue;
                };
                assert!(!self.never_drop(id), "{:?} {seq} may not be dropped", range.of);
                let count = &mut left[self.class(id)];
                *count = count.checked_sub(1).expect("a class is left out as often as declared");
            }
        }
        self.ranges.len()
    }
}
