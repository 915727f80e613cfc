//! What must hold of combos and states, seen from outside: every tap is counted once, the last value
//! is the last, and nothing comes sooner than it may.

use std::collections::BTreeMap;

use super::model::{Heard, Said, Sequence, Shown, Target, Truth};
use super::report::Report;
use super::rules::STATE;

/// A run's latest frame.
struct Run {
    total: u64,
    id: u64,
    last: bool,
}

impl Truth {
    /// Looks at everything that was heard. `heads` are the rooms that never lost their memory.
    pub fn check_merges(&self, heads: &BTreeMap<Sequence, u64>, report: &mut Report) {
        for (&of, heard) in &self.rooms {
            self.check_pace(of, heard);
            for (seq, (Heard { id, .. }, _)) in heard {
                assert!(!self.is_refused(*id), "{of:?} {seq}: message {id} was refused");
            }
            // What nobody has heard may be the one that is missing.
            if heads.get(&of) == Some(&(heard.len() as u64)) {
                self.check_numbers(of, heard);
                self.check_sums(of, heard);
                self.check_last_values(of, heard);
                report.rooms_checked += 1;
            }
        }
    }

    /// A frame of a run or a key comes so long after the one before it.
    fn check_pace(&self, of: Sequence, heard: &BTreeMap<u64, (Heard, u64)>) {
        let mut runs = BTreeMap::<_, Run>::new();
        let mut values = BTreeMap::<_, u64>::new();
        let soonest = |id: u64, every_ms: u32| self.said(id).at_us + u64::from(every_ms) * 1_000;
        // Clocks of shards count milliseconds.
        let slack = 1_000;
        for (seq, &(Heard { id, shown }, at_us)) in heard {
            let category = self.said(id).category;
            match shown {
                Shown::Message => {}
                Shown::State { key } => {
                    if let Some(before) = values.insert((category, key), id) {
                        let soonest = soonest(before, self.kind.times.state_every_ms);
                        assert!(at_us + slack >= soonest, "{of:?} {seq}: too soon for a state");
                    }
                }
                Shown::Combo { sender, key, count, total, last } => {
                    let run = Run { total, id, last };
                    let before = runs.insert((category, sender, key), run);
                    if total == count {
                        continue;
                    }
                    let Some(before) = before else { continue };
                    if heard.len() as u64 == *heard.keys().next_back().unwrap_or(&0) {
                        assert!(!before.last, "{of:?} {seq}: a run goes on after its end");
                        assert_eq!(before.total + count, total, "{of:?} {seq}");
                    }
                    let soonest = soonest(before.id, self.kind.times.combo_every_ms);
                    // What one frame cannot count goes out in two.
                    let split = total > u64::from(u32::MAX);
                    let paced = last || split || at_us + slack >= soonest;
                    assert!(paced, "{of:?} {seq}: too soon for a combo");
                }
            }
        }
    }

    /// What was answered with a number has it.
    fn check_numbers(&self, of: Sequence, heard: &BTreeMap<u64, (Heard, u64)>) {
        for (id, said) in self.said_in(of) {
            if let Some(seq) = said.seq {
                assert_eq!(heard.get(&seq).map(|(it, _)| it.id), Some(id), "{of:?} {seq}");
            }
        }
    }

    /// Taps that were taken are counted, and others are not.
    fn check_sums(&self, of: Sequence, heard: &BTreeMap<u64, (Heard, u64)>) {
        let mut sums = BTreeMap::<_, u64>::new();
        let mut alone = std::collections::BTreeSet::new();
        for &(Heard { id, shown }, _) in heard.values() {
            match shown {
                Shown::Combo { sender, key, count, .. } => {
                    *sums.entry((self.said(id).category, sender, key)).or_default() += count;
                }
                Shown::Message | Shown::State { .. } => _ = alone.insert(id),
            }
        }
        let mut taken = BTreeMap::<_, (u64, u64)>::new();
        for (id, said) in self.said_in(of).filter(|(id, _)| !alone.contains(id)) {
            let count = u64::from(said.tap.count.max(1));
            let run = (said.category, said.tap.sender, said.tap.key);
            let is_taken = said.accepted_us.is_some();
            if is_taken && !(sums.contains_key(&run) || said.category == STATE) {
                panic!("{of:?}: message {id} was taken and is nowhere");
            }
            let (least, most) = taken.entry(run).or_default();
            *least += if is_taken { count } else { 0 };
            *most += if is_taken || !self.is_refused(id) { count } else { 0 };
        }
        for (run, sum) in sums {
            let (least, most) = taken[&run];
            assert!((least..=most).contains(&sum), "{of:?} {run:?}: {sum} is not {least}..={most}");
        }
    }

    /// The last value of a key that went out is the last that was taken.
    fn check_last_values(&self, of: Sequence, heard: &BTreeMap<u64, (Heard, u64)>) {
        let mut last = BTreeMap::new();
        let mut messages = std::collections::BTreeSet::new();
        for &(Heard { id, shown }, _) in heard.values() {
            match shown {
                Shown::State { key } => _ = last.insert((self.said(id).category, key), id),
                Shown::Message => _ = messages.insert(id),
                Shown::Combo { .. } => {}
            }
        }
        for (id, said) in self.said_in(of).filter(|(id, _)| !messages.contains(id)) {
            if said.category != STATE || said.accepted_us.is_none() {
                continue;
            }
            let Some(&end) = last.get(&(said.category, said.tap.key)) else {
                panic!("{of:?}: value {id} was taken, and no value went out")
            };
            let ended = self.said(end);
            let after = ended.accepted_us.is_some_and(|answered| answered < said.at_us)
                || (ended.by == said.by && ended.tries == 1 && said.tries == 1 && end < id);
            assert!(end == id || !after, "{of:?}: value {id} came after {end} and is lost");
        }
    }

    fn said_in(&self, of: Sequence) -> impl Iterator<Item = (u64, &Said)> {
        let there = move |(_, said): &(u64, &Said)| {
            said.app == of.app && said.target == Target::Room(of.room)
        };
        self.all().filter(there)
    }
}
