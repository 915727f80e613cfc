//! What a room should do, said as plainly as possible: everything is kept, everything is searched.

use barrage_router::{
    Admission, Aggregation, CatchUp, Category, Cursor, Frame, HistoryLimits, Joined, Level, Policy,
    Publish, ROOM_IDLE_MS, ROOM_UNUSED_MS, Rate, Room,
};
use barrage_wire::ServerFrame;
use barrage_wire::codec::Tail;
use barrage_wire::limits::SERVER_BODY_BYTES_MAX;
use bytes::Bytes;

use crate::limits::Limits;
use crate::merges::{Merges, Pass};

/// A room that forgets nothing, not even its former epochs.
pub struct Model {
    pub alias: u32,
    pub limits: HistoryLimits,
    /// Every message as it is on the wire, by epoch (from 1) and sequence number (from 1).
    epochs: Vec<Vec<Bytes>>,
    /// Whether the home holds the room at present.
    alive: bool,
    /// The first number that the home's memory may have: it forgets all when it restarts.
    memory_from: u64,
    members: Vec<u32>,
    touched: u64,
    pub merges: Merges,
    passed: Limits,
    level: Level,
    /// Since when the members have been too few for the level.
    under: Option<u64>,
}

impl Model {
    pub fn new(alias: u32, limits: HistoryLimits, shards: usize) -> Self {
        Self {
            alias,
            limits,
            epochs: Vec::new(),
            alive: false,
            memory_from: 1,
            members: vec![0; shards],
            touched: 0,
            merges: Merges::default(),
            passed: Limits::default(),
            level: Level::L1,
            under: None,
        }
    }

    /// Something is asked of the room; a forgotten one begins a new epoch.
    pub fn wake(&mut self) {
        if !self.alive {
            self.epochs.push(Vec::new());
            self.memory_from = 1;
            self.restart();
        }
    }

    pub fn touch(&mut self, now: u64) {
        self.touched = now;
    }

    pub fn is_idle(&self, now: u64) -> bool {
        let keep_ms = if self.head() == 0 { ROOM_UNUSED_MS } else { ROOM_IDLE_MS };
        let untouched = now - self.touched >= keep_ms;
        self.members() == 0 && untouched && !self.merges.is_pending(now)
    }

    pub fn forget(&mut self) {
        assert!(self.merges.has_said_all(), "a room with something to say is not forgotten");
        self.alive = false;
    }

    /// The home was closed and goes on with the same numbers, and nothing else.
    pub fn resume(&mut self) {
        self.memory_from = self.head() + 1;
        self.restart();
    }

    fn restart(&mut self) {
        self.alive = true;
        (self.touched, self.level, self.under) = (0, Level::L1, None);
        (self.merges, self.passed) = (Merges::default(), Limits::default());
    }

    /// Holds an answer and the frames that came with it against what was asked.
    pub fn published(
        &mut self,
        now: u64,
        rules: &Policy,
        message: &Publish<'_>,
        admission: Admission,
        out: &[Frame],
    ) {
        let (category, merge) = (message.category, &rules.merge);
        let rate = self.rate(rules, category.id);
        let is_combo = category.aggregation == Aggregation::Combo;
        let id = message.merge_id();
        let goes_on = is_combo && id.is_some_and(|id| self.merges.goes_on(now, id));
        match admission {
            Admission::Admitted { seq } => {
                let place = out.iter().position(|frame| frame.seq == seq).expect("it is in `out`");
                let overflows = goes_on && id.is_some_and(|id| self.merges.overflows(id, message));
                self.frames(now, rules, &out[..place], overflows);
                match id {
                    Some(id) if is_combo => self.merges.tap(now, merge, id, message),
                    Some(id) => self.merges.put(id, message),
                    None => self.check_plain(message, &out[place]),
                }
                self.frames(now, rules, &out[place..=place], overflows || category.never_drop);
                self.frames(now, rules, &out[place + 1..], false);
            }
            Admission::Merged => {
                let id = id.expect("only what has an id is merged");
                assert!(!category.never_drop && (goes_on || !is_combo));
                let carries = |frame: &&Frame| {
                    let combo = matches!(decode(&frame.bytes), ServerFrame::Combo { .. });
                    (frame.merged, combo) == (Some(id), is_combo)
                };
                assert_eq!(out.iter().find(carries), None, "a later frame carries it");
                self.frames(now, rules, out, false);
                match is_combo {
                    true => self.merges.tap(now, merge, id, message),
                    false => self.merges.put(id, message),
                }
            }
            Admission::Limited { retry_after_ms } => {
                assert!(!category.never_drop, "what is never dropped is never refused");
                assert!(!goes_on && (id.is_none() || is_combo), "what is merged is free");
                self.frames(now, rules, out, false);
                self.passed.refused(now, category.id, rate, retry_after_ms);
                return;
            }
        }
        self.touch(now);
    }

    /// Checks frames, and remembers them. `hurried`: they need not wait for their moment.
    pub fn frames(&mut self, now: u64, rules: &Policy, frames: &[Frame], hurried: bool) {
        for frame in frames {
            assert_eq!(frame.seq, self.head() + 1, "numbers have no gaps");
            let decoded = decode(&frame.bytes);
            let (alias, seq, category) = match decoded {
                ServerFrame::Message { alias, seq, category, .. }
                | ServerFrame::Combo { alias, seq, category, .. }
                | ServerFrame::State { alias, seq, category, .. } => (alias, seq, category),
                other => panic!("a room does not say {other:?}"),
            };
            assert_eq!((alias, seq, category), (self.alias, frame.seq, frame.category));
            let pass = match frame.merged {
                Some(id) => self.merges.check(now, &rules.merge, id, &decoded, hurried),
                None => Pass::Asked,
            };
            let rate = self.rate(rules, frame.category);
            match pass {
                Pass::Asked => self.passed.passed(now, frame.category, rate),
                Pass::Forced => self.passed.forced(frame.category, rate),
            }
            self.log().push(frame.bytes.clone());
        }
    }

    /// The room was ticked, and what it sent was looked at.
    pub fn check_ticked(&self, now: u64, rules: &Policy) {
        self.merges.check_ticked(now, |category| self.rate(rules, category).is_unlimited());
    }

    fn check_plain(&self, message: &Publish<'_>, frame: &Frame) {
        let Publish { category: &Category { id, class, never_drop, .. }, kind, payload, .. } =
            *message;
        assert_eq!((frame.class, frame.never_drop, frame.merged), (class, never_drop, None));
        let (alias, seq, category, payload) = (self.alias, frame.seq, id, Tail(payload));
        let expected = ServerFrame::Message { alias, seq, category, kind, payload };
        assert_eq!(frame.bytes, expected.to_vec());
    }

    pub fn join(&mut self, shard: usize) {
        self.members[shard] += 1;
    }

    pub fn leave(&mut self, shard: usize) {
        self.members[shard] -= 1;
    }

    /// Checks the room's level after each call, before frames are looked at.
    pub fn observe_level(&mut self, now: u64, rules: &Policy, room: &Room, ticked: bool) {
        let (before, level, levels) = (self.level, room.level(), &rules.levels);
        let wanted = Level::of(self.members(), levels);
        let under_ms = self.under.map_or(0, |under| now - under);
        if level > before {
            assert_eq!(level, wanted, "it rises to what the members are");
        } else if level < before {
            assert_eq!(level, wanted, "it falls to what the members are");
            let at_once = levels.dwell_ms == 0;
            assert!(at_once || self.under.is_some() && under_ms >= u64::from(levels.dwell_ms));
        }
        let overdue = ticked && under_ms >= u64::from(levels.dwell_max_ms.max(levels.dwell_ms));
        assert!(level >= wanted && !(overdue && level > wanted), "it falls in the end");
        self.level = level;
        let is_under = level > wanted;
        self.under = is_under.then(|| self.under.unwrap_or(now));
    }

    pub fn epoch(&self) -> u64 {
        self.epochs.len() as u64
    }

    pub fn head(&self) -> u64 {
        self.epochs.last().map_or(0, |log| log.len() as u64)
    }

    pub fn members(&self) -> u32 {
        self.members.iter().sum()
    }

    pub fn shards(&self) -> impl Iterator<Item = u16> {
        (0u16..).zip(&self.members).filter(|&(_, &members)| members > 0).map(|(shard, _)| shard)
    }

    /// The wire form of a message of any epoch.
    pub fn frame(&self, epoch: u64, seq: u64) -> &[u8] {
        &self.epochs[epoch as usize - 1][seq as usize - 1]
    }

    /// The oldest message that the room may still know: all from there on fit the limits.
    pub fn oldest(&self) -> u64 {
        let log = self.epochs.last().expect("the room was touched");
        let (mut oldest, mut bytes) = (self.head() + 1, 0);
        while oldest > self.memory_from {
            bytes += log[oldest as usize - 2].len();
            let frames = self.head() + 2 - oldest;
            if frames > u64::from(self.limits.frames_max) || bytes > self.limits.bytes_max as usize
            {
                break;
            }
            oldest -= 1;
        }
        oldest
    }

    /// Checks what a new member, counted already, is told.
    pub fn check_joined(&self, cursor: Option<Cursor>, joined: &Joined) {
        let told = (joined.alias.0, joined.epoch, joined.head, joined.level, joined.members);
        let level = self.level.number();
        assert_eq!(told, (self.alias, self.epoch(), self.head(), level, self.members()));
        let (head, oldest) = (self.head(), self.oldest());
        let expected = match cursor {
            None => Some(head),
            Some(cursor) if cursor.epoch != self.epoch() || cursor.seq > head => None,
            Some(cursor) if cursor.seq == head => Some(head),
            Some(cursor) => (cursor.seq + 1 >= oldest).then_some(cursor.seq),
        };
        match (&joined.catch_up, expected) {
            (CatchUp::Live, Some(from)) => assert_eq!(from, head, "{cursor:?} has missed some"),
            (CatchUp::Missed(frames), Some(from)) => {
                assert!(from < head, "nothing was missed");
                let numbers = frames.iter().map(|frame| frame.seq);
                assert!(numbers.eq(from + 1..=head), "{cursor:?}: {frames:?}");
            }
            (CatchUp::Reset { oldest: told }, None) => assert_eq!(*told, oldest),
            (told, _) => panic!("{cursor:?} at {}/{head}, {oldest}: {told:?}", self.epoch()),
        }
        self.check_snapshot(&joined.snapshot);
    }

    /// Every key that has a value, once, with the latest one, as of the head.
    fn check_snapshot(&self, snapshot: &[Bytes]) {
        let present = self.merges.values().filter_map(|(id, value)| Some((id, value?)));
        let expected = present.map(|(id, (kind, payload))| {
            let (alias, seq, payload) = (self.alias, self.head(), Tail(payload));
            let (category, key) = (id.category, id.key);
            ServerFrame::Snapshot { alias, seq, category, kind, key, payload }.to_vec()
        });
        assert!(expected.eq(snapshot.iter().map(|bytes| bytes.to_vec())), "{snapshot:?}");
    }

    fn rate(&self, rules: &Policy, category: u16) -> Rate {
        rules.category(category).map_or(Rate::UNLIMITED, |category| category.limit(self.level))
    }

    fn log(&mut self) -> &mut Vec<Bytes> {
        self.epochs.last_mut().expect("the room was touched")
    }
}

/// The one frame that these bytes are.
pub fn decode(mut bytes: &[u8]) -> ServerFrame<'_> {
    let raw = barrage_wire::split(&mut bytes, SERVER_BODY_BYTES_MAX).expect("it is well formed");
    let raw = raw.expect("it is whole");
    assert!(bytes.is_empty(), "one frame and nothing else");
    ServerFrame::decode(raw).expect("it is one of ours")
}
