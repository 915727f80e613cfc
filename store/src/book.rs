//! What the writer knows of every room and category, and how a batch changes it.
//!
//! A batch is drafted beside the book: its rows go to the engine first, and only when they are
//! there does the book follow. So the book never says more than the disk.

use ahash::AHashMap;
use barrage_router::RoomKey;
use smallvec::SmallVec;

use crate::clock::UnixClock;
use crate::engine::{Batch, View};
use crate::error::Fault;
use crate::keys::{self, Row, Write};
use crate::limits::{CHUNK_RECORDS_MAX, EPOCHS_MAX, KEYS_MAX, RECORD_HEADER_BYTES};
use crate::record::{Found, Lost, Position, Record};

/// What is known of a room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    /// Behind this place nothing is missing.
    pub(crate) floor: Position,
    /// The last place that is stored.
    pub(crate) end: Position,
    pub(crate) time_ms: u64,
    /// How many of its records are stored.
    pub(crate) records: u64,
    /// Its latest epochs, rising.
    pub(crate) epochs: SmallVec<[u64; 2]>,
    /// It has lost records, and its row does not say so yet.
    pub(crate) hole: bool,
}

/// What is known of a category: its records in the order they came, in numbered chunks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shelf {
    /// The oldest chunk that may be there.
    pub(crate) first: u64,
    /// The chunk that comes next.
    pub(crate) next: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// A line of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) room: RoomKey,
    pub(crate) at: Position,
    pub(crate) time_ms: u64,
    pub(crate) bytes: u32,
}

/// Everything that is known without reading.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) rooms: AHashMap<RoomKey, Room>,
    pub(crate) shelves: AHashMap<u16, Shelf>,
    pub(crate) ever: Ever,
}

/// What was ever written, whatever retention has taken away since. It only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ever {
    /// The highest epoch of any room.
    pub(crate) epoch_max: u64,
    /// Idempotency keys; the next slot of their ring follows.
    pub(crate) keys: u64,
    pub(crate) commits: u64,
    pub(crate) records: u64,
}

/// Changes to a book that are not in it yet.
#[derive(Default)]
pub(crate) struct Draft {
    rooms: AHashMap<RoomKey, Option<Room>>,
    shelves: AHashMap<u16, Shelf>,
    chunks: AHashMap<u16, Vec<Line>>,
    ever: Ever,
    scratch: Vec<u8>,
}

type Notes = Vec<(u8, Vec<u8>, Vec<u8>)>;

/// A record whose place is not behind the room's last one.
pub(crate) struct Refused;

impl Room {
    /// The last place that is known to be used, stored or lost.
    pub(crate) fn last(&self) -> Position {
        self.end.max(self.floor)
    }

    /// Whether a record at `at` leaves no gap behind the last one.
    fn continues(&self, at: Position) -> bool {
        let last = self.last();
        let next = last.seq.checked_add(1) == Some(at.seq);
        next || (at.epoch > last.epoch && at.seq <= 1 && last != Position::default())
    }

    fn enter_epoch(&mut self, epoch: u64) {
        if self.epochs.last() == Some(&epoch) {
            return;
        }
        if self.epochs.len() == EPOCHS_MAX {
            self.epochs.remove(0);
        }
        self.epochs.push(epoch);
    }

    fn encode(&self, row: &mut Vec<u8>) {
        row.clear();
        row.position(self.floor);
        row.position(self.end);
        row.u64(self.time_ms);
        row.u64(self.records);
        self.epochs.iter().for_each(|&epoch| row.u64(epoch));
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, Fault> {
        let mut row = Row::new("rooms", row);
        let (floor, end) = (row.position()?, row.position()?);
        let (time_ms, records) = (row.u64()?, row.u64()?);
        let mut epochs = SmallVec::new();
        while !row.is_empty() && epochs.len() < EPOCHS_MAX {
            epochs.push(row.u64()?);
        }
        Ok(Self { floor, end, time_ms, records, epochs, hole: false })
    }
}

impl Ever {
    fn encode(&self, row: &mut Vec<u8>) {
        row.clear();
        let values = [self.epoch_max, self.keys, self.commits, self.records];
        values.into_iter().for_each(|value| row.u64(value));
    }

    fn decode(row: &[u8]) -> Result<Self, Fault> {
        let mut row = Row::new("the store", row);
        let (epoch_max, keys) = (row.u64()?, row.u64()?);
        // Earlier versions counted neither commits nor records.
        let (commits, records) = if row.is_empty() { (0, 0) } else { (row.u64()?, row.u64()?) };
        Ok(Self { epoch_max, keys, commits, records })
    }
}

impl Shelf {
    fn encode(&self, row: &mut Vec<u8>) {
        row.clear();
        let values = [self.first, self.next, self.records, self.bytes];
        values.into_iter().for_each(|value| row.u64(value));
    }
}

impl Line {
    fn encode(&self, row: &mut Vec<u8>) {
        row.room(self.room);
        row.position(self.at);
        row.u64(self.time_ms);
        row.extend_from_slice(&self.bytes.to_be_bytes());
    }

    pub(crate) fn decode_all(row: &[u8]) -> Result<Vec<Self>, Fault> {
        let mut row = Row::new("categories", row);
        let mut lines = Vec::with_capacity(CHUNK_RECORDS_MAX);
        while !row.is_empty() {
            let (room, at) = (row.room()?, row.position()?);
            lines.push(Self { room, at, time_ms: row.u64()?, bytes: row.u32()? });
        }
        Ok(lines)
    }
}

pub(crate) fn encode_lines(lines: &[Line], row: &mut Vec<u8>) {
    row.clear();
    lines.iter().for_each(|line| line.encode(row));
}

impl Book {
    /// Reads the book that a disk holds, and what else an opener wants to know.
    pub(crate) fn read(view: &View, clock: UnixClock) -> Result<(Self, Found), Fault> {
        let mut book = Self::default();
        if let Some(row) = view.read(&keys::META)? {
            book.ever = Ever::decode(&row)?;
        }
        let mut rooms = Vec::new();
        for row in view.prefix(&[keys::ROOM]) {
            let (name, row) = row?;
            let key = Row::new("rooms", &name[1..]).room()?;
            let room = Room::decode(&row)?;
            rooms.push((key, room.last(), room.time_ms));
            book.rooms.insert(key, room);
        }
        for row in view.prefix(&[keys::SHELF]) {
            let (name, row) = row?;
            let category = Row::new("categories", &name[1..]).u16()?;
            let mut row = Row::new("categories", &row);
            let (first, next) = (row.u64()?, row.u64()?);
            let shelf = Shelf { first, next, records: row.u64()?, bytes: row.u64()? };
            book.shelves.insert(category, shelf);
        }
        let (keys, notes) = (Self::read_keys(view)?, read_notes(view)?);
        let epoch_max = book.ever.epoch_max;
        Ok((book, Found { clean: false, lost: None, clock, rooms, epoch_max, keys, notes }))
    }

    fn read_keys(view: &View) -> Result<Vec<(RoomKey, u128, u64)>, Fault> {
        let mut keys = Vec::new();
        for row in view.prefix(&[keys::KEY]) {
            let (_, row) = row?;
            let mut row = Row::new("idempotency keys", &row);
            let number = row.u64()?;
            keys.push((number, (row.room()?, row.u128()?, row.u64()?)));
        }
        keys.sort_unstable_by_key(|&(number, _)| number);
        Ok(keys.into_iter().map(|(_, key)| key).collect())
    }

    pub(crate) fn draft(&self) -> Draft {
        Draft { ever: self.ever, ..Draft::default() }
    }

    /// Follows a draft whose rows are stored.
    pub(crate) fn apply(&mut self, draft: Draft) {
        for (key, room) in draft.rooms {
            match room {
                Some(room) => self.rooms.insert(key, room),
                None => self.rooms.remove(&key),
            };
        }
        self.shelves.extend(draft.shelves);
        self.ever = draft.ever;
    }

    /// Remembers that a record is not stored.
    pub(crate) fn lose(&mut self, record: &Record) {
        let at = record.at;
        let room = self.rooms.entry(record.room).or_default();
        if at <= room.last() {
            return;
        }
        room.time_ms = room.time_ms.max(record.time_ms);
        room.floor = at;
        room.hole = true;
        room.enter_epoch(at.epoch);
        self.ever.epoch_max = self.ever.epoch_max.max(at.epoch);
    }

    /// The newest moment of any record that is remembered.
    pub(crate) fn newest_ms(&self) -> u64 {
        self.rooms.values().map(|room| room.time_ms).max().unwrap_or_default()
    }

    /// What is gone, when so much had been stored.
    pub(crate) fn lost_since(&self, stored: &Ever) -> Option<Lost> {
        let commits =
            stored.commits.checked_sub(self.ever.commits).filter(|&commits| commits > 0)?;
        let records = stored.records.saturating_sub(self.ever.records);
        Some(Lost { records, commits, all: self.ever.commits == 0 })
    }

    /// Remembers that of any room something may be missing: each is in another epoch from here on,
    /// and nobody is told that nothing is missing before it. Returns the rooms.
    pub(crate) fn doubt_all(&mut self) -> Vec<RoomKey> {
        self.ever.epoch_max += 1;
        let epoch = self.ever.epoch_max;
        for room in self.rooms.values_mut() {
            room.floor = Position { epoch, seq: 0 };
            room.hole = true;
            room.enter_epoch(epoch);
        }
        self.rooms.keys().copied().collect()
    }

    /// Takes over the holes of the book that this one replaces, and those that show because this
    /// one ends earlier; who has one.
    pub(crate) fn inherit_holes(&mut self, before: &Self) -> Vec<RoomKey> {
        let mut holed = Vec::new();
        for (&key, lost) in &before.rooms {
            let end = self.rooms.get(&key).map_or(Position::default(), |room| room.end);
            if !lost.hole && end >= lost.end {
                continue;
            }
            let floor = if end < lost.end { lost.last() } else { lost.floor };
            let room = self.rooms.entry(key).or_default();
            room.floor = room.floor.max(floor);
            room.time_ms = room.time_ms.max(lost.time_ms);
            room.hole = true;
            room.enter_epoch(room.last().epoch);
            holed.push(key);
        }
        self.ever.epoch_max = self.ever.epoch_max.max(before.ever.epoch_max);
        holed
    }

    pub(crate) fn kept(&self) -> (u64, u64) {
        let sum = |(records, bytes), shelf: &Shelf| (records + shelf.records, bytes + shelf.bytes);
        self.shelves.values().fold((0, 0), sum)
    }
}

fn read_notes(view: &View) -> Result<Notes, Fault> {
    let mut notes = Vec::new();
    for row in view.prefix(&[keys::NOTE]) {
        let (name, row) = row?;
        let (&space, key) = name[1..].split_first().ok_or(Fault::Damaged("notes"))?;
        notes.push((space, key.to_vec(), row.to_vec()));
    }
    Ok(notes)
}

impl Draft {
    /// Writes a record, and raises its time if it must be. Answers the room's last stored place
    /// before it.
    pub(crate) fn append(
        &mut self,
        book: &Book,
        batch: &mut Batch,
        record: &mut Record,
    ) -> Result<Position, Refused> {
        let key = record.room;
        let at = record.at;
        let room = self.room(book, key);
        let before = room.end;
        if at <= room.last() {
            return Err(Refused);
        }
        if !room.continues(at) {
            room.floor = Position { epoch: at.epoch, seq: at.seq.saturating_sub(1) };
        }
        record.time_ms = record.time_ms.max(room.time_ms);
        room.time_ms = record.time_ms;
        room.end = at;
        room.records += 1;
        room.enter_epoch(at.epoch);
        self.ever.epoch_max = self.ever.epoch_max.max(at.epoch);
        self.ever.records += 1;
        keys::encode_record(record, &mut self.scratch);
        batch.put(&keys::record_name(key, at), &self.scratch);
        for &idempotency in &record.keys {
            self.put_key(batch, key, idempotency, at.seq);
        }
        let bytes = keys::RECORD_NAME_BYTES + RECORD_HEADER_BYTES + record.frame.len();
        let line = Line { room: key, at, time_ms: record.time_ms, bytes: bytes as u32 };
        self.shelve(book, batch, record.category, line);
        Ok(before)
    }

    fn put_key(&mut self, batch: &mut Batch, room: RoomKey, key: u128, seq: u64) {
        self.scratch.clear();
        self.scratch.u64(self.ever.keys);
        self.scratch.room(room);
        self.scratch.extend_from_slice(&key.to_be_bytes());
        self.scratch.u64(seq);
        let slot = (self.ever.keys % KEYS_MAX as u64) as u32;
        batch.put(&keys::key_name(slot), &self.scratch);
        self.ever.keys += 1;
    }

    fn shelve(&mut self, book: &Book, batch: &mut Batch, category: u16, line: Line) {
        let shelf = self.shelf(book, category);
        shelf.records += 1;
        shelf.bytes += u64::from(line.bytes);
        let lines = self.chunks.entry(category).or_default();
        lines.push(line);
        if lines.len() == CHUNK_RECORDS_MAX {
            self.end_chunk(batch, category);
        }
    }

    fn end_chunk(&mut self, batch: &mut Batch, category: u16) {
        let (Some(lines), Some(shelf)) =
            (self.chunks.get_mut(&category), self.shelves.get_mut(&category))
        else {
            return;
        };
        if !lines.is_empty() {
            encode_lines(lines, &mut self.scratch);
            batch.put(&keys::chunk_name(category, shelf.next), &self.scratch);
            shelf.next += 1;
            lines.clear();
        }
    }

    /// The room as it will be.
    pub(crate) fn room(&mut self, book: &Book, key: RoomKey) -> &mut Room {
        let now = || book.rooms.get(&key).cloned().unwrap_or_default();
        self.rooms.entry(key).or_insert_with(|| Some(now())).get_or_insert_default()
    }

    /// Adds rows that make a disk as it was before this draft, if it has got there although its
    /// commit has failed. `book` is the book that the draft began with.
    pub(crate) fn undo(&self, book: &Book, written: &[(RoomKey, Position)], batch: &mut Batch) {
        let mut row = Vec::new();
        for &(room, at) in written {
            batch.delete(&keys::record_name(room, at));
        }
        for number in book.ever.keys..self.ever.keys {
            batch.delete(&keys::key_name((number % KEYS_MAX as u64) as u32));
        }
        for &key in self.rooms.keys() {
            let name = keys::room_name(keys::ROOM, key);
            match book.rooms.get(&key) {
                Some(room) => {
                    room.encode(&mut row);
                    batch.put(&name, &row);
                }
                None => batch.delete(&name),
            }
        }
        for (&category, shelf) in &self.shelves {
            let before = book.shelves.get(&category).copied().unwrap_or_default();
            for number in before.next..shelf.next {
                batch.delete(&keys::chunk_name(category, number));
            }
            before.encode(&mut row);
            batch.put(&keys::shelf_name(category), &row);
        }
        book.ever.encode(&mut row);
        batch.put(&keys::META, &row);
    }

    /// Writes a room's row again, as the book has it.
    pub(crate) fn rewrite(&mut self, book: &Book, key: RoomKey) {
        self.room(book, key);
    }

    /// Drops a room; it must not be used in the same draft.
    pub(crate) fn forget(&mut self, batch: &mut Batch, key: RoomKey) {
        batch.delete(&keys::room_name(keys::ROOM, key));
        self.rooms.insert(key, None);
    }

    /// Whether the draft changes the room.
    pub(crate) fn touches(&self, key: RoomKey) -> bool {
        self.rooms.contains_key(&key)
    }

    /// The category as it will be.
    pub(crate) fn shelf(&mut self, book: &Book, category: u16) -> &mut Shelf {
        let now = || book.shelves.get(&category).copied().unwrap_or_default();
        self.shelves.entry(category).or_insert_with(now)
    }

    /// Adds the rows about rooms, categories and the store. The draft is complete with it.
    pub(crate) fn seal(&mut self, batch: &mut Batch) {
        let open: SmallVec<[u16; 8]> = self.chunks.keys().copied().collect();
        open.into_iter().for_each(|category| self.end_chunk(batch, category));
        let mut row = std::mem::take(&mut self.scratch);
        for (&key, room) in &mut self.rooms {
            if let Some(room) = room {
                room.hole = false;
                room.encode(&mut row);
                batch.put(&keys::room_name(keys::ROOM, key), &row);
            }
        }
        for (&category, shelf) in &self.shelves {
            shelf.encode(&mut row);
            batch.put(&keys::shelf_name(category), &row);
        }
        self.ever.commits += 1;
        self.ever.encode(&mut row);
        batch.put(&keys::META, &row);
        self.scratch = row;
    }
}
