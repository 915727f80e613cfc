//! What was published before, so that a repeat is answered and not published again.

use std::collections::VecDeque;

use ahash::{AHashMap, RandomState};
use barrage_wire::server::Code;

use crate::ids::AppId;

/// Fixed, so that the same calls take the same steps.
const HASH_SEEDS: [u64; 4] = [0x6261_7272, 0x6167_6500, 0x7365_656e, 0x6b65_7973];

/// Whom a message with an idempotency key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A room, by id.
    Room(u64),
    /// A user, by id.
    User(u64),
    /// A part of a list of users, by its place.
    Users(u32),
    /// A whole app.
    App,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    app: AppId,
    target: Target,
    key: u128,
}

/// The outcomes of the latest publishes that carried an idempotency key. At most `capacity` are
/// remembered; the oldest is forgotten first.
///
/// One key is another one for another target. Key 0 means that there is none, and is the caller's to check.
pub struct Seen {
    /// None for what was forgotten before its time.
    outcomes: AHashMap<Key, Option<(Code, u64)>>,
    /// The keys of `outcomes`, the oldest in front.
    order: VecDeque<Key>,
    capacity: usize,
}

impl Seen {
    /// Remembers nothing yet, and allocates nothing.
    pub fn new(capacity: usize) -> Self {
        let [a, b, c, d] = HASH_SEEDS;
        let outcomes = AHashMap::with_hasher(RandomState::with_seeds(a, b, c, d));
        Self { outcomes, order: VecDeque::new(), capacity }
    }

    /// How the publish with this key ended, and its sequence number.
    pub fn lookup(&self, app: AppId, target: Target, key: u128) -> Option<(Code, u64)> {
        debug_assert_ne!(key, 0, "key 0 means that there is none");
        *self.outcomes.get(&Key { app, target, key })?
    }

    /// Remembers how a publish ended. A key that is known keeps its age and gets the new outcome.
    pub fn remember(&mut self, app: AppId, target: Target, key: u128, code: Code, seq: u64) {
        debug_assert_ne!(key, 0, "key 0 means that there is none");
        let key = Key { app, target, key };
        if let Some(outcome) = self.outcomes.get_mut(&key) {
            *outcome = Some((code, seq));
            return;
        }
        if self.capacity == 0 {
            return;
        }
        if self.order.len() == self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.outcomes.remove(&oldest);
        }
        self.outcomes.insert(key, Some((code, seq)));
        self.order.push_back(key);
        assert_eq!(self.order.len(), self.outcomes.len(), "each key is in both or in neither");
    }

    /// Forgets how a publish ended: it did not, and may be tried again.
    pub fn forget(&mut self, app: AppId, target: Target, key: u128) {
        if let Some(outcome) = self.outcomes.get_mut(&Key { app, target, key }) {
            *outcome = None;
        }
    }

    /// How many outcomes are remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId(1);

    /// Remembers `keys` in order, each with its place as sequence number, then checks all that is
    /// known of keys 1 to 9.
    fn check(capacity: usize, keys: &[u128], expected: &[(u128, u64)]) {
        let mut seen = Seen::new(capacity);
        for (seq, &key) in (1..).zip(keys) {
            seen.remember(APP, Target::Room(7), key, Code::Ok, seq);
            assert!(seen.len() <= capacity);
        }
        let known = |key| seen.lookup(APP, Target::Room(7), key).map(|(_, seq)| (key, seq));
        let known: Vec<_> = (1..10).filter_map(known).collect();
        assert_eq!(known, expected, "capacity {capacity}, {keys:?}");
        assert_eq!(seen.len(), expected.len());
    }

    #[test]
    fn the_oldest_key_is_forgotten_first() {
        check(3, &[], &[]);
        check(3, &[1, 2, 3], &[(1, 1), (2, 2), (3, 3)]);
        check(3, &[1, 2, 3, 4], &[(2, 2), (3, 3), (4, 4)]);
        check(3, &[1, 2, 1, 3, 4], &[(2, 2), (3, 4), (4, 5)]);
        check(1, &[1, 2, 1], &[(1, 3)]);
        check(0, &[1, 2], &[]);
    }

    #[test]
    fn apps_and_scopes_do_not_share_keys() {
        let mut seen = Seen::new(8);
        seen.remember(APP, Target::Room(7), 1, Code::Limited, 0);
        assert_eq!(seen.lookup(APP, Target::Room(7), 1), Some((Code::Limited, 0)));
        assert_eq!(seen.lookup(APP, Target::User(7), 1), None);
        assert_eq!(seen.lookup(AppId(2), Target::Room(7), 1), None);
    }

    #[test]
    fn what_was_forgotten_can_be_remembered_again() {
        let mut seen = Seen::new(2);
        seen.remember(APP, Target::App, 1, Code::Unstored, 0);
        seen.forget(APP, Target::App, 1);
        seen.forget(APP, Target::App, 9);
        assert_eq!(seen.lookup(APP, Target::App, 1), None);
        seen.remember(APP, Target::App, 2, Code::Ok, 2);
        seen.remember(APP, Target::App, 1, Code::Ok, 1);
        assert_eq!(seen.lookup(APP, Target::App, 1), Some((Code::Ok, 1)));
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn tables_stop_growing_under_endless_keys() {
        const CAPACITY: usize = 1_000;
        let mut seen = Seen::new(CAPACITY);
        for key in 1..=20_000 {
            seen.remember(APP, Target::Room(7), key, Code::Ok, 0);
        }
        assert_eq!(seen.len(), CAPACITY);
        assert!(seen.outcomes.capacity() <= 4 * CAPACITY, "{}", seen.outcomes.capacity());
        assert!(seen.order.capacity() <= 2 * CAPACITY);
    }
}
