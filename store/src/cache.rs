//! The newest records of rooms that were read or written lately, so that many who come back at
//! once read the disk once.

use std::collections::{BTreeMap, VecDeque};

use ahash::AHashMap;
use barrage_router::RoomKey;

use crate::record::{From, Position, Record};

/// Tails by room, the least recently used going first.
pub(crate) struct Cache {
    tails: AHashMap<RoomKey, Tail>,
    /// Rooms by when they were used last.
    order: BTreeMap<u64, RoomKey>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
}

/// Every stored record of a room behind a place.
struct Tail {
    behind: Position,
    end: Position,
    records: VecDeque<Record>,
    bytes: usize,
    used: u64,
}

/// A room's tail may take this part of the cache.
const TAIL_SHARE: usize = 4;

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let (tails, order) = (AHashMap::new(), BTreeMap::new());
        Self { tails, order, uses: 0, bytes: 0, bytes_max }
    }

    /// Adds a record that was stored right behind `before`.
    pub(crate) fn write(&mut self, before: Position, record: Record) {
        let key = record.room;
        if self.tails.get(&key).is_none_or(|tail| tail.end != before) {
            self.remove(key);
        }
        let tail = self.tails.entry(key).or_insert_with(|| {
            self.bytes += size_of::<Tail>();
            Tail::new(before)
        });
        self.bytes += tail.push(record);
        while tail.bytes > self.bytes_max / TAIL_SHARE {
            let Some(freed) = tail.pop() else { break };
            self.bytes -= freed;
        }
        self.touch(key);
        self.evict();
    }

    /// Keeps what was read from behind `behind` to the room's end.
    pub(crate) fn keep(&mut self, key: RoomKey, behind: Position, end: Position, read: &[Record]) {
        self.remove(key);
        let mut tail = Tail::new(behind);
        read.iter().for_each(|record| {
            tail.push(record.clone());
        });
        tail.end = end;
        if tail.bytes <= self.bytes_max / TAIL_SHARE {
            self.bytes += tail.bytes;
            self.tails.insert(key, tail);
            self.touch(key);
            self.evict();
        }
    }

    /// The records from a place on, when all of them are here. What is at or below `floor` may
    /// have been removed from the disk, so it is not answered from here.
    pub(crate) fn find(
        &mut self,
        key: RoomKey,
        from: From,
        floor: Position,
        end: Position,
    ) -> Option<impl Iterator<Item = &Record>> {
        if self.tails.get(&key)?.end != end {
            // A batch was left out of the cache.
            self.remove(key);
            return None;
        }
        self.touch(key);
        let tail = self.tails.get_mut(&key)?;
        while tail.behind < floor {
            match tail.records.front() {
                Some(oldest) if oldest.at <= floor => self.bytes -= tail.pop()?,
                _ => tail.behind = floor,
            }
        }
        let skip = match from {
            From::After(at) if at >= tail.behind => tail.records.partition_point(|r| r.at <= at),
            From::Since(ms) if tail.records.front()?.time_ms < ms => {
                tail.records.partition_point(|record| record.time_ms < ms)
            }
            From::After(_) | From::Since(_) => return None,
        };
        Some(tail.records.range(skip..))
    }

    fn touch(&mut self, key: RoomKey) {
        self.uses += 1;
        if let Some(tail) = self.tails.get_mut(&key) {
            self.order.remove(&tail.used);
            tail.used = self.uses;
            self.order.insert(self.uses, key);
        }
    }

    fn remove(&mut self, key: RoomKey) {
        if let Some(tail) = self.tails.remove(&key) {
            self.order.remove(&tail.used);
            self.bytes -= tail.bytes;
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            let Some((_, key)) = self.order.pop_first() else { break };
            self.remove(key);
        }
    }
}

impl Tail {
    fn new(behind: Position) -> Self {
        let (records, bytes) = (VecDeque::new(), size_of::<Self>());
        Self { behind, end: behind, records, bytes, used: 0 }
    }

    fn push(&mut self, record: Record) -> usize {
        let bytes = memory_bytes(&record);
        self.end = record.at;
        self.bytes += bytes;
        self.records.push_back(record);
        bytes
    }

    fn pop(&mut self) -> Option<usize> {
        let record = self.records.pop_front()?;
        let bytes = memory_bytes(&record);
        self.behind = record.at;
        self.bytes -= bytes;
        Some(bytes)
    }
}

fn memory_bytes(record: &Record) -> usize {
    size_of::<Record>() + record.frame.len()
}
