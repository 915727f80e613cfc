//! Values of keys: each is told so often, one after the other and evenly.

use super::{What, even_count};
use crate::clock::SECOND_NS;

/// The values of all keys in all rooms.
#[derive(Clone, Debug)]
pub struct States {
    start_ns: u64,
    rooms: u64,
    keys: u64,
    /// Nanoseconds from one to the next; none: none ever comes.
    gap_ns: Option<f64>,
    /// How many were told.
    told: u64,
}

impl States {
    /// Of each key so many in a second.
    pub fn new(start_ns: u64, per_s: f64, rooms: u32, keys: u32) -> Self {
        let (rooms, keys) = (u64::from(rooms), u64::from(keys));
        let per_s = per_s * (rooms * keys) as f64;
        let gap_ns = (per_s > 0.0).then(|| SECOND_NS as f64 / per_s);
        Self { start_ns, rooms, keys, gap_ns, told: 0 }
    }

    /// When the next one is due.
    pub fn next_ns(&self) -> Option<u64> {
        let after_ns = self.told as f64 * self.gap_ns?;
        Some(self.start_ns.saturating_add(after_ns as u64))
    }

    /// Passes over everything that is due before `end_ns`: how many that were.
    pub fn pass(&mut self, end_ns: u64) -> u64 {
        let Some(gap_ns) = self.gap_ns else { return 0 };
        let before = self.told;
        self.told = before.max(even_count(gap_ns, self.start_ns, end_ns));
        self.told - before
    }

    /// Tells the next one, whenever it was due: its room and key.
    pub fn take(&mut self) -> (u32, What) {
        let turn = self.told % (self.rooms * self.keys).max(1);
        self.told += 1;
        let (room, key) = (turn % self.rooms.max(1), turn / self.rooms.max(1));
        (room as u32, What::State { key: key as u32 + 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn each_key_is_told_evenly_and_so_often() {
        let mut states = States::new(7, 5.0, 3, 4);
        let mut times: BTreeMap<(u32, u32), Vec<u64>> = BTreeMap::new();
        while let Some(at_ns) = states.next_ns().filter(|at_ns| *at_ns < 7 + 10 * SECOND_NS) {
            let (room, What::State { key }) = states.take() else { panic!("not a state") };
            times.entry((room, key)).or_default().push(at_ns);
        }
        assert_eq!(times.len(), 12);
        for (who, times) in times {
            assert_eq!(times.len(), 50, "{who:?}");
            let is_even = |pair: &[u64]| (pair[1] - pair[0]).abs_diff(SECOND_NS / 5) <= 1;
            assert!(times.windows(2).all(is_even), "{who:?}");
        }
    }

    #[test]
    fn without_keys_or_a_rate_nothing_is_due() {
        assert_eq!(States::new(0, 5.0, 3, 0).next_ns(), None);
        assert_eq!(States::new(0, 0.0, 3, 4).next_ns(), None);
    }
}
