//! What was said, who may hear it, and what was left out for whom: kept for ever, and searched.

use std::collections::{BTreeMap, BTreeSet};

use barrage_router::Policy;
use barrage_wire::server::CLASSES;

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
    /// Its number, once somebody has learned it.
    seq: Option<u64>,
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
    rooms: BTreeMap<Sequence, BTreeMap<u64, u64>>,
    pub ranges: Vec<Range>,
}

impl Truth {
    pub fn new() -> Self {
        let (said, rooms) = (Vec::new(), BTreeMap::new());
        Self { policy: Policy::builtin(), said, rooms, ranges: Vec::new() }
    }

    /// A new message; returns its id.
    pub fn say(&mut self, app: u32, target: Target, category: u16, bytes: usize) -> u64 {
        let kind = self.said.len() as u16;
        let bytes = bytes.max(8);
        self.said.push(Said { app, target, category, kind, bytes, seq: None });
        self.said.len() as u64 - 1
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

    /// Somebody got a room's message.
    pub fn heard(&mut self, of: Sequence, seq: u64, id: u64) {
        assert_eq!(self.said(id).target, Target::Room(of.room), "message {id} is for another room");
        let before = self.rooms.entry(of).or_default().insert(seq, id);
        assert!(before.is_none_or(|before| before == id), "{of:?} {seq}: not the same for all");
        self.numbered(id, seq);
    }

    /// Somebody learned a message's number. It has only one: a repeat with its key is not published.
    pub fn numbered(&mut self, id: u64, seq: u64) {
        let known = self.said[id as usize].seq.get_or_insert(seq);
        assert_eq!(*known, seq, "message {id} was published twice");
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
                let Some(&id) = known.and_then(|known| known.get(&seq)) else { continue };
                assert!(!self.never_drop(id), "{:?} {seq} may not be dropped", range.of);
                let count = &mut left[self.class(id)];
                *count = count.checked_sub(1).expect("a class is left out as often as declared");
            }
        }
        self.ranges.len()
    }
}
