//! The ledger held against a model that keeps a set of numbers for each fate.

use std::collections::BTreeMap;

use super::{Membership, Tally};
use crate::random::Random;

const ALIAS: u32 = 3;
const EPOCH: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    Shed,
    Reset,
    Disconnected,
    Unexplained,
}

/// What a receiver would write down that has paper enough: the fate of every number.
#[derive(Default)]
struct Model {
    fates: BTreeMap<u64, Fate>,
    next: u64,
    duplicate: u64,
    reordered: u64,
}

impl Model {
    fn settle(&mut self, upto: u64, fate: Fate) {
        while self.next < upto {
            self.fates.insert(self.next, fate);
            self.next += 1;
        }
    }

    fn message(&mut self, seq: u64) -> bool {
        if seq >= self.next {
            self.settle(seq, Fate::Unexplained);
            self.settle(seq + 1, Fate::Delivered);
            return true;
        }
        if self.fates.get(&seq) == Some(&Fate::Unexplained) {
            self.fates.insert(seq, Fate::Delivered);
            self.reordered += 1;
            return true;
        }
        self.duplicate += 1;
        false
    }

    fn count(&self, fate: Fate) -> u64 {
        self.fates.values().filter(|&&is| is == fate).count() as u64
    }
}

/// Both see the same; `head` is the last number that the room has admitted.
struct Both {
    place: Membership,
    tally: Tally,
    model: Model,
    head: u64,
    resets: u64,
    trace: Vec<String>,
}

impl Both {
    fn new(head: u64) -> Self {
        let mut place = Membership::default();
        place.join_in(ALIAS, EPOCH, head);
        let model = Model { next: head + 1, ..Model::default() };
        Self { place, tally: Tally::default(), model, head, resets: 0, trace: Vec::new() }
    }

    fn message(&mut self, seq: u64) {
        self.trace.push(format!("message {seq}"));
        let (ours, theirs) = (self.place.message(seq, &mut self.tally), self.model.message(seq));
        assert_eq!(ours, theirs, "{:?}", self.trace);
        self.head = self.head.max(seq);
    }

    /// One thing that a gateway, in order or not, may do to a receiver.
    fn step(&mut self, random: &mut Random) {
        let next = self.model.next;
        match random.below(20) {
            0..10 => self.message(next),
            10 => self.message(next + random.below(4)),
            11 => self.message(next + random.below(100)),
            12..15 => {
                // Something of the last 64.
                let back = random.below(64.min(next - self.first())) + 1;
                if back < next && next - back >= self.first() {
                    self.message(next - back);
                }
            }
            15 | 16 => self.shed(next, random),
            17 => {
                let head = next - 1 + random.below(90);
                self.trace.push(format!("reset {head}"));
                self.place.reset_in(EPOCH, head, &mut self.tally);
                self.model.settle(head + 1, Fate::Reset);
                self.resets += 1;
                self.head = self.head.max(head);
            }
            18 => self.reconnect(random.below(2) == 0, random.below(80)),
            _ => self.reconnect(true, 0),
        }
    }

    fn first(&self) -> u64 {
        self.model.fates.keys().next().copied().unwrap_or(self.model.next)
    }

    /// A whole range, or one of which some come, in order.
    fn shed(&mut self, first: u64, random: &mut Random) {
        let last = first + random.below(100);
        let kept: Vec<u64> = (first..=last).filter(|_| random.below(3) == 0).collect();
        let count = last + 1 - first - kept.len() as u64;
        self.trace.push(format!("shed {count} of {first} to {last}"));
        if count == 0 {
            return;
        }
        self.head = self.head.max(last);
        self.place.shed(first, last, count, &mut self.tally);
        for seq in kept {
            self.model.settle(seq, Fate::Shed);
            self.message(seq);
        }
        self.model.settle(last + 1, Fate::Shed);
    }

    fn reconnect(&mut self, resume: bool, meanwhile: u64) {
        self.trace.push(format!("reconnect, resume {resume}, {meanwhile} meanwhile"));
        self.head += meanwhile;
        self.place.leave();
        assert!(!self.place.joined() && self.place.known());
        if resume {
            // The cursor goes on exactly behind what is known.
            assert_eq!(self.place.reached(), self.model.next - 1, "{:?}", self.trace);
            self.place.go_on(ALIAS);
        } else {
            self.place.begin_anew(ALIAS, EPOCH, self.head, &mut self.tally);
            self.model.settle(self.head + 1, Fate::Disconnected);
        }
    }

    fn check(&self) {
        let Tally { delivered, declared_shed, declared_reset, disconnected, .. } = self.tally;
        let ours = [delivered, declared_shed, declared_reset, disconnected, self.tally.unexplained];
        let fates = [Fate::Delivered, Fate::Shed, Fate::Reset, Fate::Disconnected];
        let theirs = fates.map(|fate| self.model.count(fate));
        let unexplained = self.model.count(Fate::Unexplained);
        assert_eq!((&ours[..4], ours[4]), (&theirs[..], unexplained), "{:?}", self.trace);
        let oddities = [self.tally.duplicate, self.tally.reordered, self.tally.resets];
        let expected = [self.model.duplicate, self.model.reordered, self.resets];
        assert_eq!((oddities, self.tally.over_declared), (expected, 0), "{:?}", self.trace);
    }
}

#[test]
fn every_number_has_the_fate_that_a_model_of_sets_gives_it() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let from = random.below(300);
        let mut both = Both::new(from);
        for _ in 0..100 {
            both.step(&mut random);
            both.check();
        }
        let connected = random.below(2) == 0;
        both.head += random.below(100);
        both.trace.push(format!("the end at {}, connected {connected}", both.head));
        both.place.finish_in(EPOCH, both.head, connected, &mut both.tally);
        let fate = if connected { Fate::Unexplained } else { Fate::Disconnected };
        both.model.settle(both.head + 1, fate);
        both.check();
        assert_eq!(both.tally.accounted(), both.head - from, "{:?}", both.trace);
    }
}

#[test]
fn a_new_epoch_is_accounted_for_from_its_first_number() {
    let mut tally = Tally::default();
    let mut place = Membership::default();
    place.join_in(ALIAS, EPOCH, 10);
    assert!((11..=15).all(|seq| place.message(seq, &mut tally)));
    place.leave();
    place.go_on(ALIAS);
    place.reset_in(2, 7, &mut tally);
    assert!((8..=9).all(|seq| place.message(seq, &mut tally)));
    place.leave();
    place.begin_anew(ALIAS, 3, 4, &mut tally);
    assert!(place.message(5, &mut tally));
    place.leave();
    // Nobody was there for the fourth epoch.
    place.finish_in(4, 6, false, &mut tally);
    let expected = Tally {
        delivered: 8,
        declared_reset: 7,
        disconnected: 4 + 6,
        resets: 1,
        ..Tally::default()
    };
    assert_eq!(tally, expected);
}
