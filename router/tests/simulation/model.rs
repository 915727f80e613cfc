//! What a room should do, said as plainly as possible: everything is kept, everything is searched.

use barrage_router::{
    CatchUp, Category, Cursor, HistoryLimits, Joined, ROOM_IDLE_MS, ROOM_UNUSED_MS,
};
use barrage_wire::ServerFrame;
use barrage_wire::codec::Tail;

/// A room that forgets nothing, not even its former epochs.
pub struct Model {
    pub alias: u32,
    pub limits: HistoryLimits,
    /// Every message as it should be on the wire, by epoch (from 1) and sequence number (from 1).
    epochs: Vec<Vec<Vec<u8>>>,
    /// Whether the home holds the room at present.
    alive: bool,
    members: Vec<u32>,
    touched: u64,
}

impl Model {
    pub fn new(alias: u32, limits: HistoryLimits, shards: usize) -> Self {
        let members = vec![0; shards];
        Self { alias, limits, epochs: Vec::new(), alive: false, members, touched: 0 }
    }

    /// Something is asked of the room; a forgotten one begins a new epoch.
    pub fn touch(&mut self, now: u64) {
        if !self.alive {
            self.epochs.push(Vec::new());
            self.alive = true;
        }
        self.touched = now;
    }

    pub fn is_idle(&self, now: u64) -> bool {
        let keep_ms = match self.epochs.last() {
            Some(said) if !said.is_empty() => ROOM_IDLE_MS,
            _ => ROOM_UNUSED_MS,
        };
        self.members() == 0 && now - self.touched >= keep_ms
    }

    pub fn forget(&mut self) {
        self.alive = false;
    }

    pub fn publish(&mut self, category: &Category, kind: u16, payload: &[u8]) {
        let (alias, seq, category, payload) =
            (self.alias, self.head() + 1, category.id, Tail(payload));
        let frame = ServerFrame::Message { alias, seq, category, kind, payload }.to_vec();
        self.epochs.last_mut().expect("the room was touched").push(frame);
    }

    pub fn join(&mut self, shard: usize) {
        self.members[shard] += 1;
    }

    pub fn leave(&mut self, shard: usize) {
        self.members[shard] -= 1;
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
        let fits = |&oldest: &u64| {
            let rest = &log[oldest as usize - 1..];
            rest.len() <= self.limits.frames_max as usize
                && rest.iter().map(Vec::len).sum::<usize>() <= self.limits.bytes_max as usize
        };
        (1..=self.head()).find(fits).unwrap_or(self.head() + 1)
    }

    /// Checks what a new member, counted already, is told.
    pub fn check_joined(&self, cursor: Option<Cursor>, joined: &Joined) {
        let told = (joined.alias.0, joined.epoch, joined.head, joined.level, joined.members);
        assert_eq!(told, (self.alias, self.epoch(), self.head(), 1, self.members()));
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
    }
}
