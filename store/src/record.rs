//! What is kept of a message, and the questions that are asked about it.

use std::path::PathBuf;

use barrage_router::{Class, RoomKey};
use bytes::Bytes;
use smallvec::SmallVec;

use crate::clock::{Redate, UnixClock};

/// A place in a room's history. Epochs come before numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which life of the room.
    pub epoch: u64,
    /// The number within it.
    pub seq: u64,
}

/// A message of a room, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub room: RoomKey,
    /// Its place. Per room, places rise from append to append.
    pub at: Position,
    /// When it was said, in Unix milliseconds; raised to the room's last time if it is below it.
    pub time_ms: u64,
    /// Whose retention it falls under.
    pub category: u16,
    /// What it gives way to.
    pub class: Class,
    /// Whether it may not be left out for a slow reader.
    pub never_drop: bool,
    /// The encoded frame. Empty: the message itself is not kept, only that it was.
    pub frame: Bytes,
    /// Idempotency keys that it answers for. They do not come back from a load.
    pub keys: SmallVec<[u128; 1]>,
}

/// How long a category is kept, over the whole store. Whichever bound is reached first counts;
/// 0 is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Seconds since the record's time.
    pub age_s: u64,
    /// Records.
    pub count: u64,
    /// Bytes of records with their keys, before compression.
    pub bytes: u64,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it lives; made when it is missing.
    pub dir: PathBuf,
    /// How many clients are wanted, one for each shard.
    pub shards: usize,
    /// Commands that may wait per client, and answers that it may have open.
    pub queue_max: usize,
    /// Bounds by category; a category without one is kept forever.
    pub retention: Vec<(u16, Retention)>,
    /// Memory for the newest records of rooms that were read or written lately.
    pub cache_bytes: usize,
    /// What records are dated by, and notes with moments in them.
    pub clock: UnixClock,
    /// How such notes are dated anew.
    pub redate: Redate,
    /// Begin anew where a history was and is not any more. What is left of it is moved aside.
    pub accept_lost: bool,
}

/// What was stored and is gone: damage, not an accident that the store is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Messages; also those that retention would have taken away since.
    pub records: u64,
    /// Commits, each of messages or notes or both.
    pub commits: u64,
    /// Nothing is left.
    pub all: bool,
}

/// What a directory held when it was opened.
#[derive(Debug)]
pub struct Found {
    /// The last user closed it properly, so nothing that was appended is missing. Also when there
    /// was no last user.
    pub clean: bool,
    /// What was stored and is gone.
    pub lost: Option<Lost>,
    /// The clock of the options, or one that is ahead of it: it never begins before the newest record.
    pub clock: UnixClock,
    /// Every room with its last position and time. The position is the last one that is known to
    /// be used: stored, or lost in a hole.
    pub rooms: Vec<(RoomKey, Position, u64)>,
    /// The highest epoch that any room ever had, rooms that are forgotten included.
    pub epoch_max: u64,
    /// The newest idempotency keys, oldest first, with the number of the message in its room.
    pub keys: Vec<(RoomKey, u128, u64)>,
    /// Every note: space, key, value.
    pub notes: Vec<(u8, Vec<u8>, Vec<u8>)>,
}

/// A question for a part of a room's history.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The room.
    pub room: RoomKey,
    /// Where to begin.
    pub from: From,
    /// At most this many records.
    pub frames_max: usize,
    /// At most this many bytes of frames, but one record at least.
    pub bytes_max: usize,
}

/// Where a load begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Right behind this place.
    After(Position),
    /// With the first record of this time, in Unix milliseconds, or a later one.
    Since(u64),
}

/// A part of a room's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Records in order, without their keys.
    pub records: Vec<Record>,
    /// There are records behind the last of these.
    pub more: bool,
    /// Behind this place nothing of the room is missing. Above `end` when the last ones were lost.
    pub floor: Position,
    /// The last place that is stored.
    pub end: Position,
    /// The epoch asked about is one of the room's latest. Always true of `Since`.
    pub known: bool,
}
