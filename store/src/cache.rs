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

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_router::{AppId, Class, RoomId};
    use bytes::Bytes;
    use smallvec::SmallVec;

    const START: Position = Position { epoch: 0, seq: 0 };
    const ROOM: RoomKey = RoomKey { app: AppId(1), room: RoomId(1) };

    fn at(seq: u64) -> Position {
        Position { epoch: 0, seq }
    }

    fn record(seq: u64) -> Record {
        let (room, at, time_ms) = (ROOM, at(seq), seq * 10);
        let (category, class, never_drop) = (0, Class::P3, false);
        let (frame, keys) = (Bytes::from(vec![0; 100]), SmallVec::new());
        Record { room, at, time_ms, category, class, never_drop, frame, keys }
    }

    /// Writes records with these numbers, each behind the one before it, except those that do not
    /// reach the cache; then asks. `None`: the disk has to be asked.
    fn check(written: &[u64], missed: &[u64], from: From, floor: u64, expected: Option<&[u64]>) {
        let mut cache = Cache::new(1 << 20);
        let mut before = START;
        for &seq in written {
            if !missed.contains(&seq) {
                cache.write(before, record(seq));
            }
            before = at(seq);
        }
        let found = cache.find(ROOM, from, at(floor), before);
        let found = found.map(|records| records.map(|record| record.at.seq).collect::<Vec<_>>());
        assert_eq!(found.as_deref(), expected, "{written:?} without {missed:?}, {from:?}");
        let bytes = cache.tails.values().map(|tail| tail.bytes).sum::<usize>();
        assert_eq!((cache.bytes, cache.order.len()), (bytes, cache.tails.len()));
    }

    #[test]
    fn it_answers_when_it_has_everything() {
        check(&[1, 2, 3], &[], From::After(START), 0, Some(&[1, 2, 3]));
        check(&[1, 2, 3], &[], From::After(at(2)), 0, Some(&[3]));
        check(&[1, 2, 3], &[], From::Since(15), 0, Some(&[2, 3]));
        // There may be others of the same time before the first one here.
        check(&[1, 2, 3], &[], From::Since(10), 0, None);
    }

    #[test]
    fn a_batch_that_was_left_out_is_noticed() {
        check(&[1, 2, 3], &[3], From::After(START), 0, None);
        check(&[1, 2, 3], &[3], From::After(at(1)), 0, None);
        check(&[1, 2, 3, 4], &[2], From::After(START), 0, None);
        check(&[1, 2, 3, 4], &[2], From::After(at(1)), 0, None);
        check(&[1, 2, 3, 4], &[2], From::After(at(2)), 0, Some(&[3, 4]));
    }

    #[test]
    fn below_the_floor_the_disk_is_asked() {
        check(&[1, 2, 3], &[], From::After(START), 2, None);
        check(&[1, 2, 3], &[], From::After(at(2)), 2, Some(&[3]));
        check(&[1, 2, 3], &[], From::Since(25), 2, None);
        check(&[1, 2, 3], &[], From::After(at(3)), 9, None);
    }

    #[test]
    fn it_stays_within_its_bytes() {
        for bytes_max in [0, 500, 5_000, 50_000] {
            let mut cache = Cache::new(bytes_max);
            for id in 0..100 {
                let mut before = START;
                for seq in 1..=id {
                    let room = RoomKey { room: RoomId(id % 30), ..ROOM };
                    cache.write(before, Record { room, ..record(seq) });
                    before = at(seq);
                    assert!(cache.bytes <= bytes_max, "{} of {bytes_max}", cache.bytes);
                }
            }
        }
    }
}
