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
    /// The phase that it belongs to, by its place in the scenario.
    pub phase: usize,
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

/// Whether members may have got what was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It went to nobody.
    Sure,
    /// Nobody knows: whoever refused it may have passed it on before.
    Unsure,
}

/// The books of all rooms.
#[derive(Debug)]
pub struct Books {
    rooms: Vec<Room>,
    /// Everything that was counted.
    counts: Counts,
    /// The same by phase: an answer belongs to the phase of its publish, whenever it comes.
    phases: Vec<Counts>,
    refused: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Room {
    admitted: Let,
    /// How many were published; the last one's index.
    published: u32,
    /// The latest publish that is known to have a number of its own: its index, and the number.
    head: Option<(u32, u64)>,
    /// The first number that was given to us; none once numbers began again.
    first_seq: Option<u64>,
    /// So many of another server's latest answers were refusals: it is not known yet whether
    /// anything was taken behind them.
    refused: u32,
    /// Whether it is not known which numbers its members are to have got.
    unsure: bool,
    /// Whether the message that ends its books has got its number.
    ended: bool,
}

impl Room {
    /// A publish has got a number of its own. Answers do not tell the room's epoch, and need not:
    /// a room handles one connection's messages in their order, so a later publish with a number
    /// that is no higher says that numbers began again in between.
    fn number(&mut self, index: u32, seq: u64) {
        let (head, highest) = self.head.unwrap_or((index.wrapping_sub(1), 0));
        let first = if self.head.is_none() { Some(seq) } else { self.first_seq };
        self.first_seq = first.map(|first| first.min(seq));
        let is_later = is_later(index, head);
        let began_again = if is_later { seq <= highest } else { seq > highest };
        if is_later {
            self.head = Some((index, seq));
        }
        let last_seq = &mut self.admitted.last_seq;
        if began_again {
            self.first_seq = None;
        }
        match (is_later, began_again) {
            (true, true) => *last_seq = seq,
            (true, false) | (false, false) => *last_seq = seq.max(*last_seq),
            // An answer from before they began again.
            (false, true) => {}
        }
    }

    /// Numbers between the first and the last of ours that nobody of us got: somebody else has
    /// published here. Not known once numbers began again.
    fn others(&self) -> u64 {
        let Some(first) = self.first_seq.filter(|_| !self.ended) else { return 0 };
        let numbers = (self.admitted.last_seq + 1).saturating_sub(first);
        numbers.saturating_sub(self.admitted.admitted)
    }

    /// Whether something was published in it, and it has no end yet.
    fn is_open(&self) -> bool {
        self.published > 0 && !self.ended
    }
}

/// Whether one index comes after another; after four thousand million of them they begin again.
fn is_later(index: u32, other: u32) -> bool {
    index.wrapping_sub(other).cast_signed() > 0
}

impl Books {
    /// Of so many rooms and phases.
    pub fn new(rooms: u32, phases: usize) -> Self {
        Self {
            rooms: vec![Room::default(); rooms as usize],
            counts: Counts::default(),
            phases: vec![Counts::default(); phases],
            refused: BTreeMap::new(),
        }
    }

    /// What was counted, by phase.
    pub fn phases(&self) -> &[Counts] {
        &self.phases
    }

    fn count(&mut self, phase: usize, count: impl Fn(&mut Counts)) {
        count(&mut self.counts);
        count(&mut self.phases[phase]);
    }

    /// So many were due in a phase, sent or not.
    pub fn offer(&mut self, phase: usize, offered: u64) {
        let before = self.phases[phase].offered;
        self.count(phase, |counts| counts.offered = counts.offered - before + offered);
    }

    /// One more is published in a room: its index there, from 1.
    pub fn publish(&mut self, phase: usize, room: u32) -> u32 {
        self.count(phase, |counts| counts.published += 1);
        let room = &mut self.rooms[room as usize];
        room.published = room.published.wrapping_add(1);
        room.published
    }

    /// Another server has taken it: its index is its number.
    pub fn taken(&mut self, sent: &Sent) {
        self.count(sent.phase, |counts| counts.admitted += 1);
        let room = &mut self.rooms[sent.room as usize];
        // What was refused before it leaves a hole that members cannot tell from a loss.
        room.unsure |= std::mem::take(&mut room.refused) > 0;
        room.admitted.admitted += 1;
        room.admitted.last_seq = room.admitted.last_seq.max(u64::from(sent.index));
    }

    /// Another server has refused it, in its own words. Its index is given to the next publish of
    /// the room, if none was sent with a later one and surely nobody has got it.
    pub fn refuse(&mut self, sent: &Sent, why: &str, refusal: Refusal) {
        self.count(sent.phase, |counts| counts.refused += 1);
        self.name_refusal(why);
        let room = &mut self.rooms[sent.room as usize];
        match refusal {
            Refusal::Unsure => room.unsure = true,
            Refusal::Sure => room.refused += 1,
        }
        if room.published == sent.index {
            room.published = room.published.wrapping_sub(std::mem::take(&mut room.refused));
        }
    }

    fn name_refusal(&mut self, why: &str) {
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
                    // Nothing is numbered after it, in whichever epoch the room is now.
                    room.admitted.last_seq = seq;
                }
                return;
            }
        };
        match code {
            Code::Ok => {
                room.admitted.admitted += 1;
                room.number(sent.index, seq);
                self.count(sent.phase, |counts| counts.admitted += 1);
            }
            // It is not on disk, and members may have got it all the same: a number says so.
            Code::Unstored if seq > 0 => {
                room.admitted.admitted += 1;
                room.number(sent.index, seq);
                self.count(sent.phase, |counts| counts.admitted += 1);
                self.name_refusal(code.name());
            }
            Code::Merged => {
                // The number is of the message that carried it, and so may be higher than those of
                // later ones.
                room.admitted.last_seq = room.admitted.last_seq.max(seq);
                self.count(sent.phase, |counts| counts.merged += 1);
            }
            Code::Limited => {
                self.count(sent.phase, |counts| counts.limited += 1);
                return self.name_refusal(code.name());
            }
            code => {
                // While a disk begins to fail this is said of what members have seen, too.
                room.unsure |= code == Code::Unstored;
                self.count(sent.phase, |counts| counts.refused += 1);
                return self.name_refusal(code.name());
            }
        }
        let admitted = &mut self.rooms[sent.room as usize].admitted;
        match what {
            What::Message => {}
            What::Tap { .. } => admitted.taps += 1,
            What::State { .. } => admitted.last_state = admitted.last_state.max(sent.index),
        }
    }

    /// Rooms that something was published in and that have no end yet.
    pub fn open(&self) -> Vec<u32> {
        let rooms = (0..).zip(&self.rooms);
        let open = rooms.filter(|(_, room)| room.is_open());
        open.map(|(room, _)| room).collect()
    }

    /// How many were published that may still be heard by somebody.
    pub fn sent(&self) -> u64 {
        sent(&self.counts)
    }

    /// Nothing more will be answered.
    pub fn settle(&mut self) {
        for counts in self.phases.iter_mut().chain([&mut self.counts]) {
            counts.unanswered = sent(counts) - counts.admitted;
        }
    }

    /// The end of it. The rooms' books are open if they `need` an end and have none, or if it is
    /// not known what their members are to have got.
    pub fn close(mut self, need_ends: bool) -> Published {
        self.settle();
        // What was merged has a number that is told to several, or to nobody; so may have what was
        // never answered.
        let is_plain = self.counts.merged == 0 && self.counts.unanswered == 0;
        let others = self.rooms.iter().filter(|room| is_plain && !room.unsure).map(Room::others);
        let is_unsure = |room: &&Room| room.unsure || room.refused > 0;
        let is_open = |room: &&Room| is_unsure(room) || (need_ends && room.is_open());
        Published {
            open: self.rooms.iter().filter(is_open).count() as u64,
            unsure: self.rooms.iter().filter(is_unsure).count() as u64,
            others: others.sum(),
            rooms: self.rooms.iter().map(|room| room.admitted).collect(),
            refused: self.refused,
            counts: self.counts,
            broken: None,
            target_lost: false,
        }
    }
}

fn sent(counts: &Counts) -> u64 {
    counts.published - counts.merged - counts.limited - counts.refused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(books: &mut Books, room: u32, what: What) -> Sent {
        let index = books.publish(0, room);
        Sent { phase: 0, room, index, what: Word::Said(what), intended_ns: 0, measured: true }
    }

    #[test]
    fn numbers_that_are_not_ours_are_somebody_elses() {
        let check = |numbers: &[u64], expected| {
            let mut books = Books::new(1, 1);
            let sent: Vec<Sent> =
                numbers.iter().map(|_| say(&mut books, 0, What::Message)).collect();
            for (sent, &seq) in sent.iter().zip(numbers) {
                books.reply(sent, Code::Ok, seq);
            }
            assert_eq!(books.close(false).others, expected, "{numbers:?}");
        };
        check(&[], 0);
        check(&[7, 8, 9], 0);
        check(&[7, 9, 12], 3);
        // Numbers began again: whose the others were is not known.
        check(&[7, 9, 1, 2], 0);
    }

    #[test]
    fn every_publish_is_answered_once_in_one_way() {
        let mut books = Books::new(2, 1);
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
        let published = books.close(false);
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
        let mut books = Books::new(1, 1);
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
        assert_eq!(books.close(false).rooms, [expected]);
    }

    #[test]
    fn a_room_is_open_until_its_end_has_a_number() {
        let mut books = Books::new(3, 1);
        for room in [0, 2] {
            let sent = say(&mut books, room, What::Message);
            books.reply(&sent, Code::Ok, 1);
        }
        assert_eq!(books.open(), [0, 2], "nothing was said in the other");
        let (phase, index, what, intended_ns, measured) = (0, 0, Word::End, 0, false);
        let end = |room| Sent { phase, room, index, what, intended_ns, measured };
        books.reply(&end(0), Code::Overloaded, 0);
        books.reply(&end(2), Code::Ok, 9);
        assert_eq!(books.open(), [0]);
        let published = books.close(true);
        assert_eq!((published.open, published.counts.admitted), (1, 2));
        assert_eq!([0, 2].map(|room| published.rooms[room].last_seq), [1, 9]);
    }

    #[test]
    fn what_is_only_taken_is_numbered_by_its_index() {
        let mut books = Books::new(2, 1);
        for room in [1, 0, 1] {
            let sent = say(&mut books, room, What::Message);
            books.taken(&sent);
        }
        let published = books.close(false);
        assert_eq!([0, 1].map(|room| published.rooms[room].last_seq), [1, 2]);
        assert_eq!((published.counts.admitted, published.counts.unanswered), (3, 0));
        assert_eq!((published.open, published.unsure), (0, 0));
    }

    #[test]
    fn an_answer_belongs_to_the_phase_of_its_publish() {
        let mut books = Books::new(1, 2);
        let early = say(&mut books, 0, What::Message);
        let late = Sent { phase: 1, index: books.publish(1, 0), ..early };
        books.offer(0, 5);
        books.offer(1, 1);
        books.offer(0, 4);
        books.reply(&late, Code::Limited, 0);
        books.reply(&early, Code::Ok, 1);
        books.settle();
        let one = Counts { offered: 4, published: 1, admitted: 1, ..Counts::default() };
        let two = Counts { offered: 1, published: 1, limited: 1, ..Counts::default() };
        assert_eq!(books.phases(), [one, two]);
        let all = Counts { offered: 5, published: 2, admitted: 1, limited: 1, ..Counts::default() };
        assert_eq!(books.close(false).counts, all);
    }

    #[test]
    fn what_is_unstored_was_let_in_if_it_has_a_number_and_else_nobody_knows() {
        let mut books = Books::new(2, 1);
        for (room, seq) in [(0, 1), (1, 0)] {
            let sent = say(&mut books, room, What::Tap { giver: 0, gift: 1 });
            books.reply(&sent, Code::Unstored, seq);
        }
        let published = books.close(false);
        let letting = Let { last_seq: 1, admitted: 1, taps: 1, last_state: 0 };
        assert_eq!(published.rooms, [letting, Let::default()]);
        assert_eq!((published.counts.admitted, published.counts.refused), (1, 1));
        assert_eq!((published.unsure, published.open, published.refused["Unstored"]), (1, 1, 2));
    }

    /// What is the last number after answers to publishes with these indices.
    fn last_seq(answers: &[(u32, Code, u64)]) -> u64 {
        let mut books = Books::new(1, 1);
        for &(index, code, seq) in answers {
            let sent = say(&mut books, 0, What::Message);
            books.reply(&Sent { index, ..sent }, code, seq);
        }
        books.close(false).rooms[0].last_seq
    }

    #[test]
    fn the_last_number_is_that_of_the_present_epoch() {
        use Code::{Merged, Ok};
        let check =
            |answers: &[_], expected| assert_eq!(last_seq(answers), expected, "{answers:?}");
        check(&[(1, Ok, 40), (2, Ok, 41)], 41);
        check(&[(2, Ok, 41), (1, Ok, 40)], 41);
        check(&[(1, Ok, 40), (2, Ok, 1)], 1);
        check(&[(1, Ok, 40), (2, Ok, 1), (3, Ok, 2)], 2);
        check(&[(1, Ok, 7), (2, Ok, 7)], 7);
        // It was answered late: it is from before the numbers began again.
        check(&[(1, Ok, 40), (3, Ok, 1), (2, Ok, 41)], 1);
        // What carried it came later than what was said after it.
        check(&[(1, Merged, 9), (2, Ok, 5)], 9);
        check(&[(u32::MAX, Ok, 40), (1, Ok, 41)], 41);
        check(&[(u32::MAX, Ok, 40), (1, Ok, 3)], 3);
    }

    #[test]
    fn an_end_has_the_last_number_whatever_was_before() {
        let mut books = Books::new(1, 1);
        let sent = say(&mut books, 0, What::Message);
        books.reply(&sent, Code::Ok, 40);
        books.reply(&Sent { index: 0, what: Word::End, ..sent }, Code::Ok, 2);
        assert_eq!(books.close(true).rooms[0].last_seq, 2);
    }

    /// Publishes (`p`) in one room of another server, which takes (`t`) or refuses (`r`; `?`:
    /// perhaps) the first one without an answer. All indices, the last one that was taken, and
    /// whether it is unsure.
    fn script(script: &str) -> (Vec<u32>, u64, bool) {
        let mut books = Books::new(1, 1);
        let (mut all, mut open) = (Vec::new(), std::collections::VecDeque::new());
        for letter in script.chars() {
            if letter == 'p' {
                open.push_back(say(&mut books, 0, What::Message));
                all.extend(open.back().map(|sent| sent.index));
                continue;
            }
            let sent = open.pop_front().expect("it was published");
            match letter {
                't' => books.taken(&sent),
                'r' => books.refuse(&sent, "no", Refusal::Sure),
                _ => books.refuse(&sent, "perhaps", Refusal::Unsure),
            }
        }
        let published = books.close(false);
        assert_eq!(published.open, published.unsure);
        (all, published.rooms[0].last_seq, published.unsure == 1)
    }

    #[test]
    fn a_refused_index_is_given_again_unless_a_later_one_is_taken() {
        let check = |text: &str, all: &[u32], last, unsure| {
            assert_eq!(script(text), (all.to_vec(), last, unsure), "{text}");
        };
        check("ptprpt", &[1, 2, 2], 2, false);
        check("pppptrrrpt", &[1, 2, 3, 4, 2], 2, false);
        check("pprtpt", &[1, 2, 3], 3, true);
        check("pprrpprt", &[1, 2, 1, 2], 2, true);
        check("prprprpt", &[1, 1, 1, 1], 1, false);
        check("ppr", &[1, 2], 0, true);
        check("ppprrpttprpt", &[1, 2, 3, 4, 5, 5], 5, true);
        check("ptp?pt", &[1, 2, 3], 3, true);
        check("ptp?", &[1, 2], 1, true);
    }
}
