//! A room, as its home sees it.

use barrage_wire::limits::PAYLOAD_BYTES_MAX;
use bytes::Bytes;

use crate::agenda::Turn;
use crate::category::{Aggregation, Category};
use crate::flow::Flow;
use crate::frame::{Frame, MergeId};
use crate::history::{History, HistoryLimits};
use crate::ids::{Alias, Millis, RoomKey, ShardIndex};
use crate::level::Level;
use crate::policy::Policy;
use crate::writer::{Label, Writer};

/// How long a room without members is kept after anything has happened in it. Members that lost
/// their connection resume well within it.
pub const ROOM_IDLE_MS: u64 = 10 * 60 * 1000;
/// The same for a room in which nothing was ever said: there is nothing to come back to. Its home may
/// forget it with its last member; this is for one that never had any.
pub const ROOM_UNUSED_MS: u64 = 10 * 1000;

/// How far a member has read: everything up to `seq` of `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch in which `seq` counts.
    pub epoch: u64,
    /// The last message read; 0 before the first.
    pub seq: u64,
}

impl Cursor {
    /// What a client says about where it left off, if it does: epoch 0 means that it has no cursor.
    pub fn from_wire(cursor: &barrage_wire::client::Cursor) -> Option<Self> {
        (cursor.epoch != 0).then_some(Self { epoch: cursor.epoch, seq: cursor.seq })
    }
}

/// What to tell somebody who has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The room's short name.
    pub alias: Alias,
    /// The epoch of its sequence.
    pub epoch: u64,
    /// The newest message. Frames after it will be mailed to the member's shard.
    pub head: u64,
    /// The size band, 1 to 4.
    pub level: u8,
    /// Members, the new one included.
    pub members: u32,
    /// How the member gets from its cursor to `head`.
    pub catch_up: CatchUp,
    /// The value of every state key as of `head`, each an encoded `Snapshot`. To be told after what
    /// was missed.
    pub snapshot: Vec<Bytes>,
}

/// How a member gets from its cursor to the room's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Nothing was missed, or nothing was asked for.
    Live,
    /// Exactly these, from the one after the cursor to the head.
    Missed(Vec<Frame>),
    /// The cursor cannot be gone on from: another epoch, or too long ago. The member is told, and
    /// goes on from the head.
    Reset {
        /// The oldest message that is remembered; one past the head when none is.
        oldest: u64,
    },
}

/// A message that somebody wants to say.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// Where it is shown.
    pub category: &'a Category,
    /// The application's own type.
    pub kind: u16,
    /// At most `PAYLOAD_BYTES_MAX`. As a state, an empty one removes its key: it is sent like any
    /// other value, and then forgotten.
    pub payload: &'a [u8],
    /// On whose behalf, where repeats are combined; 0 is a sender like another.
    pub sender: u64,
    /// What repeats are recognised by: the gift, where 0 is combined with nothing, or what the
    /// payload is the latest value of.
    pub key: u64,
    /// How many of the gift; 0 is taken as 1. Only combined messages have it.
    pub count: u32,
}

impl Publish<'_> {
    /// What it may be merged with, if anything.
    pub fn merge_id(&self) -> Option<MergeId> {
        let Self { category: &Category { id: category, aggregation, .. }, sender, key, .. } = *self;
        match aggregation {
            Aggregation::Combo if key != 0 => Some(MergeId { category, sender, key }),
            Aggregation::Latest => Some(MergeId { category, sender: 0, key }),
            Aggregation::Combo | Aggregation::None => None,
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "whoever published wants to know"]
pub enum Admission {
    /// It is part of the room now.
    Admitted {
        /// The frame that carries it, one of those that were appended.
        seq: u64,
    },
    /// It waits to go out with others, in a frame of a later call: the next one that has its
    /// `MergeId`. None of those that were appended has.
    Merged,
    /// Its category's limit is reached, and nothing has changed.
    Limited {
        /// It stands a chance after this long.
        retry_after_ms: u32,
    },
}

/// A room at its home: its sequence, its members by shard, and what it remembers.
///
/// Numbers start at 1 and have no gaps within an epoch. Whoever makes a room anew, after its home
/// forgot it or was restarted without its history, gives it an epoch that it never had before.
#[derive(Debug)]
pub struct Room {
    key: RoomKey,
    epoch: u64,
    head: u64,
    /// When somebody last joined, left or said something.
    touched: Millis,
    history: History,
    /// Members by shard, sorted; a shard without members is not in it. It is walked for every
    /// message and changed by every join, and seldom longer than the machine has cores.
    members_by_shard: Vec<(ShardIndex, u32)>,
    members: u32,
    alias: Alias,
    level: Level,
    /// Only while something is limited or merged, so that a million silent rooms do without.
    flow: Option<Box<Flow>>,
}

impl Room {
    /// An empty room. `epoch` is not 0, which on the wire means that a client has no cursor.
    pub fn new(key: RoomKey, alias: Alias, epoch: u64, history: HistoryLimits) -> Self {
        Self::resume(key, alias, epoch, 0, history)
    }

    /// A room that goes on after a restart: its numbers follow `head`, and it remembers nothing.
    pub fn resume(
        key: RoomKey,
        alias: Alias,
        epoch: u64,
        head: u64,
        history: HistoryLimits,
    ) -> Self {
        assert_ne!(epoch, 0, "epoch 0 says that there is none");
        Self {
            key,
            epoch,
            head,
            touched: Millis(0),
            history: History::new(history),
            members_by_shard: Vec::new(),
            members: 0,
            alias,
            level: Level::L1,
            flow: None,
        }
    }

    /// A member on `shard` joins; counts it, and returns what to tell it.
    pub fn join(
        &mut self,
        now: Millis,
        rules: &Policy,
        shard: ShardIndex,
        cursor: Option<Cursor>,
    ) -> Joined {
        self.touched = now;
        self.members += 1;
        match self.members_by_shard.binary_search_by_key(&shard, |&(shard, _)| shard) {
            Ok(place) => self.members_by_shard[place].1 += 1,
            Err(place) => self.members_by_shard.insert(place, (shard, 1)),
        }
        self.observe_level(now, rules);
        let catch_up = cursor.map_or(CatchUp::Live, |cursor| self.catch_up(cursor));
        Joined {
            alias: self.alias,
            epoch: self.epoch,
            head: self.head,
            level: self.level.number(),
            members: self.members,
            catch_up,
            // Also for who goes on from a cursor: it may have gone before its first snapshot came.
            snapshot: self.snapshot(),
        }
    }

    /// A member on `shard` is gone. It must have joined: shards mail joins and leaves in order.
    pub fn leave(&mut self, now: Millis, rules: &Policy, shard: ShardIndex) {
        self.touched = now;
        let place = self
            .members_by_shard
            .binary_search_by_key(&shard, |&(shard, _)| shard)
            .expect("only a shard with members has one that leaves");
        self.members -= 1;
        self.members_by_shard[place].1 -= 1;
        if self.members_by_shard[place].1 == 0 {
            self.members_by_shard.remove(place);
        }
        self.observe_level(now, rules);
        self.forget_flow(now);
    }

    /// Admits a message, merges it with others, or refuses it. What goes out is appended to `out`:
    /// each frame has the next number, is encoded once for everybody, and is remembered. Frames
    /// that are due go out with it, as in `tick`.
    pub fn publish(
        &mut self,
        now: Millis,
        rules: &Policy,
        message: Publish<'_>,
        out: &mut Vec<Frame>,
    ) -> Admission {
        let Publish { category, kind, payload, .. } = message;
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "payloads are checked when they are decoded");
        if self.flow.is_none() {
            let limit = category.limit(self.level);
            if limit.is_unlimited() && message.merge_id().is_none() {
                self.touched = now;
                let (_, mut writer) = self.parts(out);
                let seq = writer.message(Label::from(category), kind, payload);
                return Admission::Admitted { seq };
            }
            self.flow = Some(Box::default());
        }
        if self.due().is_some_and(|due| due <= now) {
            self.observe_level(now, rules);
        }
        let level = self.level;
        let (flow, writer) = self.parts(out);
        let flow = flow.expect("it was made above");
        let admission = flow.publish(&message, &mut Turn { now, rules, level, writer });
        if !matches!(admission, Admission::Limited { .. }) {
            self.touched = now;
        }
        admission
    }

    /// Sends what is due, and lets the level fall when it is time. Whoever replaces the rules ticks
    /// every room once, since `due` knows only those of the last call.
    pub fn tick(&mut self, now: Millis, rules: &Policy, out: &mut Vec<Frame>) {
        self.observe_level(now, rules);
        let level = self.level;
        if let (Some(flow), writer) = self.parts(out) {
            // Rules or level may be others than when those who wait were told how long.
            flow.agenda.wake_all();
            flow.advance(&mut Turn { now, rules, level, writer });
        }
        self.forget_flow(now);
    }

    /// When `tick` has something to do next.
    pub fn due(&self) -> Option<Millis> {
        self.flow.as_ref()?.due()
    }

    /// Sends everything that waits for its moment, and ends every run: the room goes, or its home.
    pub fn close(&mut self, now: Millis, rules: &Policy, out: &mut Vec<Frame>) {
        let level = self.level;
        if let (Some(flow), writer) = self.parts(out) {
            flow.close(&mut Turn { now, rules, level, writer });
        }
        self.forget_flow(now);
    }

    /// The value of every state key as of the head, each an encoded `Snapshot`; the same memory for
    /// all who ask before the next message.
    pub fn snapshot(&mut self) -> Vec<Bytes> {
        let (alias, head) = (self.alias, self.head);
        self.flow.as_mut().map_or_else(Vec::new, |flow| flow.states.snapshot(alias, head))
    }

    /// Whether memory alone can take somebody from `cursor` to the head.
    pub fn knows(&self, cursor: Cursor) -> bool {
        cursor.epoch == self.epoch
            && (cursor.seq == self.head || self.history.since(cursor.seq).is_some())
    }

    /// Shards with members, sorted: whom to mail each frame.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = ShardIndex> {
        self.members_by_shard.iter().map(|&(shard, _)| shard)
    }

    /// Members on all shards.
    pub fn members(&self) -> u32 {
        self.members
    }

    /// The size band: what the members make it, or a higher one that it has yet to fall from.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Which room it is.
    pub fn key(&self) -> RoomKey {
        self.key
    }

    /// Its short name.
    pub fn alias(&self) -> Alias {
        self.alias
    }

    /// The epoch of its sequence.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The newest message's number; 0 before the first.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Gives the memory of what it has said back. Who comes back to it is reset, unless the caller knows
    /// more.
    pub fn forget_history(&mut self) {
        self.history.clear();
    }

    /// What it remembers.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Whether its home may forget it: no members, and nothing has happened for `ROOM_IDLE_MS`, or
    /// `ROOM_UNUSED_MS` when nothing was ever said. Never while something is still to go out.
    pub fn is_idle(&self, now: Millis) -> bool {
        let keep_ms = if self.head == 0 { ROOM_UNUSED_MS } else { ROOM_IDLE_MS };
        now.since(self.touched) >= keep_ms && self.is_vacant()
    }

    /// Whether it has no members, and nothing that is still to go out.
    pub fn is_vacant(&self) -> bool {
        self.members == 0 && !self.flow.as_ref().is_some_and(|flow| flow.is_pending())
    }

    /// The members may be others, or time has passed.
    fn observe_level(&mut self, now: Millis, rules: &Policy) {
        let before = self.level;
        let wanted = Level::of(self.members, &rules.levels);
        if self.flow.is_none() && wanted >= before {
            self.level = wanted;
            return;
        }
        let flow = self.flow.get_or_insert_default();
        self.level = flow.descent.observe(now, &rules.levels, self.members, before);
        if self.level != before {
            flow.agenda.wake_all();
        }
    }

    fn forget_flow(&mut self, now: Millis) {
        if self.flow.as_ref().is_some_and(|flow| flow.is_forgettable(now)) {
            self.flow = None;
        }
    }

    /// Whether it takes no more memory than a room in which nothing was ever limited or merged.
    #[cfg(test)]
    pub(crate) fn flow_is_forgotten(&self) -> bool {
        self.flow.is_none()
    }

    /// What merges and limits, and what writes, to be used at the same time.
    fn parts<'a>(&'a mut self, out: &'a mut Vec<Frame>) -> (Option<&'a mut Flow>, Writer<'a>) {
        let Self { alias, head, history, flow, .. } = self;
        (flow.as_deref_mut(), Writer { alias: *alias, head, history, out })
    }

    fn catch_up(&self, cursor: Cursor) -> CatchUp {
        if cursor.epoch == self.epoch {
            if cursor.seq == self.head {
                return CatchUp::Live;
            }
            if let Some(missed) = self.history.since(cursor.seq) {
                return CatchUp::Missed(missed.cloned().collect());
            }
        }
        CatchUp::Reset { oldest: self.history.oldest().unwrap_or(self.head + 1) }
    }
}

#[cfg(test)]
mod tests;
