//! What was published and how it was answered. Pure.

use std::collections::BTreeMap;

use barrage_wire::server::Code;

use super::schedule::What;
use super::{Let, Published};
use crate::record::Counts;

/// Reasons for refusals that are told apart, as targets put them into words of their own.
const REASONS_MAX: usize = 32;
const OTHER_REASON: &str = "another reason";

/// What a publish was that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Its room, from 0.
    pub room: u32,
    /// Which it is in its room.
    pub index: u32,
    /// What it says.
    pub what: Word,
    /// When it was to be sent.
    pub intended_ns: u64,
    /// Whether it is measured.
    pub measured: bool,
}

/// What a publish says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Something that was asked for.
    Said(What),
    /// The end of the room's books.
    End,
}

/// The books of all rooms.
#[derive(Debug)]
pub struct Books {
    rooms: Vec<Room>,
    /// Everything that was counted.
    pub counts: Counts,
    refused: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Room {
    admitted: Let,
    /// How many were published; the last one's index.
    published: u32,
    /// Whether the message that ends its books has got its number.
    ended: bool,
}

impl Books {
    /// Of so many rooms.
    pub fn new(rooms: u32) -> Self {
        let rooms = vec![Room::default(); rooms as usize];
        Self { rooms, counts: Counts::default(), refused: BTreeMap::new() }
    }

    /// One more is published in a room: its index there, from 1.
    pub fn publish(&mut self, room: u32) -> u32 {
        self.counts.published += 1;
        let room = &mut self.rooms[room as usize];
        // After four thousand million messages of one room its indices begin again.
        room.published = room.published.wrapping_add(1);
        room.published
    }

    /// The target has taken it and says no more: its index is its number.
    pub fn written(&mut self, room: u32, index: u32) {
        self.counts.admitted += 1;
        let admitted = &mut self.rooms[room as usize].admitted;
        admitted.admitted += 1;
        admitted.last_seq = admitted.last_seq.max(u64::from(index));
    }

    /// The target has refused it, in its own words.
    pub fn refuse(&mut self, why: &str) {
        self.counts.refused += 1;
        self.refused(why);
    }

    fn refused(&mut self, why: &str) {
        let known = self.refused.len() < REASONS_MAX || self.refused.contains_key(why);
        let why = if known { why } else { OTHER_REASON };
        *self.refused.entry(why.to_owned()).or_default() += 1;
    }

    /// An answer of Barrage has come.
    pub fn reply(&mut self, sent: &Sent, code: Code, seq: u64) {
        let room = &mut self.rooms[sent.room as usize];
        let what = match sent.what {
            Word::Said(what) => what,
            Word::End => {
                // An end that is refused is said again.
                if code == Code::Ok {
                    room.ended = true;
                    room.admitted.last_seq = room.admitted.last_seq.max(seq);
                }
                return;
            }
        };
        let admitted = &mut room.admitted;
        match code {
            Code::Ok => {
                self.counts.admitted += 1;
                admitted.admitted += 1;
            }
            Code::Merged => self.counts.merged += 1,
            Code::Limited => {
                self.counts.limited += 1;
                return self.refused(code.name());
            }
            code => return self.refuse(code.name()),
        }
        admitted.last_seq = admitted.last_seq.max(seq);
        match what {
            What::Message => {}
            What::Tap { .. } => admitted.taps += 1,
            What::State { .. } => admitted.last_state = admitted.last_state.max(sent.index),
        }
    }

    /// Rooms that something was published in and that have no end yet.
    pub fn open(&self) -> Vec<u32> {
        let rooms = (0..).zip(&self.rooms);
        let open = rooms.filter(|(_, room)| room.published > 0 && !room.ended);
        open.map(|(room, _)| room).collect()
    }

    /// How many were published that may still be heard by somebody.
    pub fn sent(&self) -> u64 {
        self.counts.published - self.counts.merged - self.counts.limited - self.counts.refused
    }

    /// What was published and has no answer yet.
    pub fn unanswered(&self) -> u64 {
        self.sent() - self.counts.admitted
    }

    /// The end of it. The rooms' books are open if they `need` an end and have none.
    pub fn close(mut self, need_ends: bool, broken: Option<String>) -> Published {
        self.counts.unanswered = self.unanswered();
        let open = if need_ends { self.open().len() as u64 } else { 0 };
        Published {
            refused: self.refused,
            rooms: self.rooms.iter().map(|room| room.admitted).collect(),
            counts: self.counts,
            open,
            broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(books: &mut Books, room: u32, what: What) -> Sent {
        let index = books.publish(room);
        Sent { room, index, what: Word::Said(what), intended_ns: 0, measured: true }
    }

    #[test]
    fn every_publish_is_answered_once_in_one_way() {
        let mut books = Books::new(2);
        let answers = [
            (Code::Ok, 1),
            (Code::Merged, 0),
            (Code::Limited, 900),
            (Code::Muted, 0),
            (Code::Overloaded, 0),
            (Code::Ok, 2),
        ];
        for (code, seq) in answers {
            let sent = say(&mut books, 1, What::Message);
            books.reply(&sent, code, seq);
        }
        say(&mut books, 0, What::Message);
        let published = books.close(false, None);
        let counts = Counts {
            published: 7,
            admitted: 2,
            merged: 1,
            limited: 1,
            refused: 2,
            unanswered: 1,
            ..Counts::default()
        };
        assert_eq!(published.counts, counts);
        let last = Let { last_seq: 2, admitted: 2, ..Let::default() };
        assert_eq!(published.rooms, [Let::default(), last], "a waiting time is no number");
        assert_eq!(published.refused["Limited"], 1);
        assert_eq!(published.refused.values().sum::<u64>(), 3);
    }

    #[test]
    fn taps_and_values_count_when_they_were_let_in() {
        let mut books = Books::new(1);
        let (tap, state) = (What::Tap { giver: 0, gift: 1 }, What::State { key: 1 });
        let all = [
            (tap, Code::Ok, 1),
            (tap, Code::Merged, 0),
            (tap, Code::Limited, 5),
            (state, Code::Ok, 2),
            (state, Code::Merged, 0),
            (state, Code::Overloaded, 0),
        ];
        let sent = all.map(|(what, ..)| say(&mut books, 0, what));
        // The latest value is the one of the highest index, whichever is answered last.
        for (sent, (_, code, seq)) in sent.iter().zip(all).rev() {
            books.reply(sent, code, seq);
        }
        let expected = Let { last_seq: 2, admitted: 2, taps: 2, last_state: 5 };
        assert_eq!(books.close(false, None).rooms, [expected]);
    }

    #[test]
    fn a_room_is_open_until_its_end_has_a_number() {
        let mut books = Books::new(3);
        for room in [0, 2] {
            let sent = say(&mut books, room, What::Message);
            books.reply(&sent, Code::Ok, 1);
        }
        assert_eq!(books.open(), [0, 2], "nothing was said in the other");
        let end = |room| Sent { room, index: 0, what: Word::End, intended_ns: 0, measured: false };
        books.reply(&end(0), Code::Overloaded, 0);
        books.reply(&end(2), Code::Ok, 9);
        assert_eq!(books.open(), [0]);
        let published = books.close(true, None);
        assert_eq!((published.open, published.counts.admitted), (1, 2));
        assert_eq!([0, 2].map(|room| published.rooms[room].last_seq), [1, 9]);
    }

    #[test]
    fn what_is_only_written_is_numbered_by_its_index() {
        let mut books = Books::new(2);
        for room in [1, 0, 1] {
            let index = books.publish(room);
            books.written(room, index);
        }
        let published = books.close(false, None);
        assert_eq!([0, 1].map(|room| published.rooms[room].last_seq), [1, 2]);
        assert_eq!((published.counts.admitted, published.counts.unanswered), (3, 0));
    }
}
