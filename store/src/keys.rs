//! How rows are named and written. Names are big-endian, so that their order is that of what they
//! name; the first byte is the kind of row. Everything shares one keyspace: whatever a crash cuts
//! off, what is left of all kinds of rows ends with the same batch.

use barrage_router::{AppId, Class, RoomId, RoomKey};
use bytes::Bytes;
use smallvec::SmallVec;

use crate::error::Fault;
use crate::record::{Position, Record};

/// The row about the store itself.
pub(crate) const META: [u8; 1] = [0];
/// The row about clocks.
pub(crate) const CLOCKS: [u8; 2] = [0, 1];
/// The first byte of each kind of row.
pub(crate) const RECORD: u8 = 1;
/// Which records of a category came in what order, some hundred to a row.
pub(crate) const CHUNK: u8 = 2;
/// What is known of a room.
pub(crate) const ROOM: u8 = 3;
/// What is known of a category.
pub(crate) const SHELF: u8 = 4;
/// A slot of the ring of idempotency keys.
pub(crate) const KEY: u8 = 5;
/// A note.
pub(crate) const NOTE: u8 = 6;

pub(crate) const ROOM_NAME_BYTES: usize = 13;
pub(crate) const RECORD_NAME_BYTES: usize = ROOM_NAME_BYTES + 16;

pub(crate) fn room_name(kind: u8, room: RoomKey) -> [u8; ROOM_NAME_BYTES] {
    let mut name = [kind; ROOM_NAME_BYTES];
    name[1..5].copy_from_slice(&room.app.0.to_be_bytes());
    name[5..].copy_from_slice(&room.room.0.to_be_bytes());
    name
}

pub(crate) fn record_name(room: RoomKey, at: Position) -> [u8; RECORD_NAME_BYTES] {
    let mut name = [0; RECORD_NAME_BYTES];
    name[..ROOM_NAME_BYTES].copy_from_slice(&room_name(RECORD, room));
    name[13..21].copy_from_slice(&at.epoch.to_be_bytes());
    name[21..].copy_from_slice(&at.seq.to_be_bytes());
    name
}

pub(crate) fn chunk_name(category: u16, number: u64) -> [u8; 11] {
    let mut name = [CHUNK; 11];
    name[1..3].copy_from_slice(&category.to_be_bytes());
    name[3..].copy_from_slice(&number.to_be_bytes());
    name
}

pub(crate) fn shelf_name(category: u16) -> [u8; 3] {
    let [high, low] = category.to_be_bytes();
    [SHELF, high, low]
}

pub(crate) fn key_name(slot: u32) -> [u8; 5] {
    let [a, b, c, d] = slot.to_be_bytes();
    [KEY, a, b, c, d]
}

pub(crate) fn note_name(space: u8, key: &[u8]) -> SmallVec<[u8; 64]> {
    let mut name = SmallVec::from_slice(&[NOTE, space]);
    name.extend_from_slice(key);
    name
}

/// Takes a row apart from its front; an end that comes too early is damage, not a panic.
pub(crate) struct Row<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Row<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Fault::Damaged(self.what))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Fault> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Fault> {
        self.array().map(u128::from_be_bytes)
    }

    pub(crate) fn room(&mut self) -> Result<RoomKey, Fault> {
        Ok(RoomKey { app: AppId(self.u32()?), room: RoomId(self.u64()?) })
    }

    pub(crate) fn position(&mut self) -> Result<Position, Fault> {
        Ok(Position { epoch: self.u64()?, seq: self.u64()? })
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Builds a row; the counterpart of `Row`.
pub(crate) trait Write {
    fn u64(&mut self, value: u64);
    fn room(&mut self, room: RoomKey);
    fn position(&mut self, at: Position);
}

impl Write for Vec<u8> {
    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn room(&mut self, room: RoomKey) {
        self.extend_from_slice(&room.app.0.to_be_bytes());
        self.u64(room.room.0);
    }

    fn position(&mut self, at: Position) {
        self.u64(at.epoch);
        self.u64(at.seq);
    }
}

const NEVER_DROP: u8 = 0x80;

pub(crate) fn encode_record(record: &Record, row: &mut Vec<u8>) {
    row.clear();
    row.u64(record.time_ms);
    row.extend_from_slice(&record.category.to_be_bytes());
    let never_drop = if record.never_drop { NEVER_DROP } else { 0 };
    // The second byte is for a later way to write frames.
    row.extend_from_slice(&[record.class as u8 | never_drop, 0]);
    row.extend_from_slice(&record.frame);
}

/// A record without its frame, and the frame's bytes.
pub(crate) fn decode_record<'a>(name: &[u8], row: &'a [u8]) -> Result<(Record, &'a [u8]), Fault> {
    let (_, name) = name.split_first().ok_or(Fault::Damaged("records"))?;
    let mut name = Row::new("records", name);
    let mut row = Row::new("records", row);
    let (room, at) = (name.room()?, name.position()?);
    let (time_ms, category) = (row.u64()?, row.u16()?);
    let (kind, way) = (row.u8()?, row.u8()?);
    let class = Class::ALL.get(usize::from(kind & !NEVER_DROP));
    let (Some(&class), 0) = (class, way) else { return Err(Fault::Damaged("records")) };
    let never_drop = kind & NEVER_DROP != 0;
    let (frame, keys) = (Bytes::new(), SmallVec::new());
    Ok((Record { room, at, time_ms, category, class, never_drop, frame, keys }, row.rest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_part_of_it_is_damage() {
        let room = RoomKey { app: AppId(1), room: RoomId(u64::MAX) };
        let at = Position { epoch: 3, seq: 4 };
        let (frame, keys) = (Bytes::from_static(b"frame"), SmallVec::new());
        let (time_ms, category, class, never_drop) = (9, 700, Class::P2, true);
        let record = Record { room, at, time_ms, category, class, never_drop, frame, keys };
        let (name, mut row) = (record_name(room, at), Vec::new());
        encode_record(&record, &mut row);
        let (mut back, frame) = decode_record(&name, &row).unwrap();
        back.frame = Bytes::copy_from_slice(frame);
        assert_eq!(back, record);
        for end in 0..crate::limits::RECORD_HEADER_BYTES {
            assert!(decode_record(&name, &row[..end]).is_err(), "{end} bytes of the row");
        }
        for end in 0..name.len() {
            assert!(decode_record(&name[..end], &row).is_err(), "{end} bytes of the name");
        }
    }
}
