//! Who has said how much: a bucket for each of those who spoke lately, and for nobody else.

use std::collections::BTreeSet;
use std::hash::Hash;

use ahash::{AHashMap, RandomState};

use crate::ids::Millis;
use crate::rate::{Bucket, Rate};

/// Fixed, so that the same calls take the same steps.
const HASH_SEEDS: [u64; 4] = [0x6261_7272, 0x6167_6500, 0x7175_6f74, 0x6173_0000];
/// Buckets that one `take` may forget. It adds at most one, so those that are paid go sooner than
/// others come.
const FORGET_PER_TAKE: usize = 2;
/// A rate so fine that what it makes one wait is the debt itself.
const FINEST: Rate = Rate { per_second: 1_000_000_000, burst: 1 };

/// A bucket for each key that has used some of its rate and not been given it back by time.
///
/// At most `capacity` are held. When one more comes, the one that is closest to paid is forgotten,
/// because it loses the least: its owner gets back what little was still owed.
pub struct QuotaTable<K> {
    entries: AHashMap<K, Entry>,
    /// The keys of `entries`, the one that is closest to paid first.
    by_paid: BTreeSet<(Millis, K)>,
    capacity: usize,
}

struct Entry {
    bucket: Bucket,
    /// Where the key stands in `by_paid`: the millisecond in which all is paid.
    paid: Millis,
}

impl<K: Copy + Eq + Hash + Ord> QuotaTable<K> {
    /// Holds nobody yet, and allocates nothing. With capacity 0 it never does, and all may pass.
    pub fn new(capacity: usize) -> Self {
        let [a, b, c, d] = HASH_SEEDS;
        let entries = AHashMap::with_hasher(RandomState::with_seeds(a, b, c, d));
        Self { entries, by_paid: BTreeSet::new(), capacity }
    }

    /// Whether one more of this key may pass now; else in how many milliseconds.
    pub fn check(&self, now: Millis, key: K, rate: Rate) -> Result<(), u32> {
        if rate.is_unlimited() {
            return Ok(());
        }
        let bucket = self.entries.get(&key).map_or_else(Bucket::default, |entry| entry.bucket);
        bucket.check(rate, now)
    }

    /// One more of this key has passed, whether it was allowed or had to.
    pub fn take(&mut self, now: Millis, key: K, rate: Rate) {
        if rate.is_unlimited() || self.capacity == 0 {
            return;
        }
        self.forget(now, FORGET_PER_TAKE);
        let mut bucket = match self.entries.get(&key) {
            Some(entry) => {
                self.by_paid.remove(&(entry.paid, key));
                entry.bucket
            }
            None => {
                self.make_room();
                Bucket::default()
            }
        };
        bucket.take(rate, now);
        self.keep(now, key, bucket);
        assert_eq!(self.by_paid.len(), self.entries.len(), "each key is in both or in neither");
        assert!(self.entries.len() <= self.capacity, "room was made");
    }

    /// Forgets up to so many buckets that are paid, so that a table which nobody uses gets empty.
    pub fn forget(&mut self, now: Millis, at_most: usize) {
        for _ in 0..at_most {
            let Some(&(paid, key)) = self.by_paid.first().filter(|(paid, _)| *paid <= now) else {
                return;
            };
            self.by_paid.remove(&(paid, key));
            let bucket = self.entries[&key].bucket;
            if bucket.is_full(now) {
                self.entries.remove(&key);
            } else {
                // A debt of more than `u32::MAX` milliseconds was put down as just that.
                self.keep(now, key, bucket);
            }
        }
    }

    /// How many buckets are held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn make_room(&mut self) {
        if self.entries.len() == self.capacity
            && let Some((_, key)) = self.by_paid.pop_first()
        {
            self.entries.remove(&key);
        }
    }

    fn keep(&mut self, now: Millis, key: K, bucket: Bucket) {
        let debt_ms = bucket.check(FINEST, now).err().unwrap_or(0);
        let paid = Millis(now.0.saturating_add(u64::from(debt_ms)));
        self.entries.insert(key, Entry { bucket, paid });
        self.by_paid.insert((paid, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 2 };

    /// Each in turn tries one at its moment, and takes it if it may; `+` passes, `-` is refused.
    fn check(capacity: usize, tries: &[(u64, u64)], passed: &str, held: &[u64]) {
        let mut table = QuotaTable::new(capacity);
        let outcome = tries.iter().map(|&(moment, key)| {
            let allowed = table.check(Millis(moment), key, RATE).is_ok();
            if allowed {
                table.take(Millis(moment), key, RATE);
            }
            if allowed { '+' } else { '-' }
        });
        assert_eq!(outcome.collect::<String>(), passed, "capacity {capacity}, {tries:?}");
        let mut keys: Vec<_> = table.entries.keys().copied().collect();
        keys.sort_unstable();
        assert_eq!(keys, held, "capacity {capacity}, {tries:?}");
    }

    #[test]
    fn each_key_has_a_rate_of_its_own() {
        check(9, &[(0, 1), (0, 1), (0, 1), (0, 2), (0, 2), (0, 2)], "++-++-", &[1, 2]);
        check(9, &[(0, 1), (0, 1), (99, 1), (100, 1), (100, 1)], "++-+-", &[1]);
    }

    #[test]
    fn who_is_paid_is_forgotten_when_others_speak() {
        check(9, &[(0, 1), (0, 2), (0, 3), (99, 4)], "++++", &[1, 2, 3, 4]);
        check(9, &[(0, 1), (0, 2), (0, 3), (100, 4)], "++++", &[3, 4]);
        check(9, &[(0, 1), (0, 2), (0, 3), (100, 4), (100, 4)], "+++++", &[4]);
        check(9, &[(0, 1), (0, 2), (0, 2), (100, 2), (100, 2)], "++++-", &[2]);
    }

    #[test]
    fn a_full_table_forgets_who_is_closest_to_paid() {
        check(2, &[(0, 1), (0, 1), (0, 2), (0, 3)], "++++", &[1, 3]);
        check(2, &[(0, 1), (5, 2), (5, 3), (5, 1)], "++++", &[1, 3]);
        check(1, &[(0, 1), (0, 1), (0, 2), (0, 1), (0, 1)], "+++++", &[1]);
        check(0, &[(0, 1), (0, 1), (0, 1)], "+++", &[]);
    }

    #[test]
    fn an_idle_table_gets_empty_a_few_at_a_time() {
        let mut table = QuotaTable::new(100);
        (0..10).for_each(|key: u64| table.take(Millis(key), key, RATE));
        let lens = [102, 102, 109, 109, 109].map(|moment| {
            table.forget(Millis(moment), 4);
            table.len()
        });
        assert_eq!(lens, [7, 7, 3, 0, 0]);
    }

    #[test]
    fn no_limit_leaves_no_trace() {
        let mut table = QuotaTable::new(9);
        (0..99).for_each(|_| table.take(Millis(0), 1, Rate::UNLIMITED));
        assert!(table.is_empty());
        assert_eq!(table.check(Millis(0), 1, Rate::UNLIMITED), Ok(()));
    }

    #[test]
    fn any_moment_and_any_debt_are_taken() {
        let slow = Rate { per_second: 1, burst: 1 };
        let mut table = QuotaTable::new(2);
        for moment in [u64::MAX, 0, 5_000, 1, u64::MAX - 1, 0] {
            for key in 0..4 {
                table.take(Millis(moment), key, slow);
                let _ = table.check(Millis(moment), key, slow);
            }
        }
    }

    #[test]
    fn a_debt_of_months_is_not_forgotten_early() {
        const MONTHS_MS: u64 = 2 * u32::MAX as u64;
        let mut bucket = Bucket::default();
        bucket.take(RATE, Millis(MONTHS_MS));
        let mut table = QuotaTable::new(2);
        table.keep(Millis(0), 1, bucket);
        assert_eq!(table.by_paid.first(), Some(&(Millis(u64::from(u32::MAX)), 1)));
        table.forget(Millis(MONTHS_MS), 1);
        assert_eq!(table.by_paid.first(), Some(&(Millis(MONTHS_MS + 100), 1)));
        table.forget(Millis(MONTHS_MS + 100), 1);
        assert!(table.is_empty());
    }
}
