//! Which connections a user has, at the user's home shard.

use ahash::RandomState;
use barrage_router::{ShardIndex, UserKey};
use barrage_sys::ConnId;
use hashbrown::HashTable;

use crate::limits::SHARDS_MAX;
use crate::mail::ConnRef;

/// Users by their connections. An entry is one connection, so that the common user with one device
/// costs one entry and no list.
pub struct Directory {
    entries: HashTable<Entry>,
    hasher: RandomState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(4))]
struct Entry {
    user: u64,
    app: u32,
    index: u32,
    /// The connection's generation, and above its bits the shard.
    generation_shard: u32,
}

const GENERATION_BITS: u32 = 24;
const _: () = assert!(size_of::<Entry>() == 20, "a million users hold one each");
const _: () = assert!(SHARDS_MAX as u64 <= 1 << (32 - GENERATION_BITS));

impl Entry {
    fn new(user: UserKey, who: ConnRef) -> Self {
        Self {
            user: user.user.0,
            app: user.app.0,
            index: who.conn.index,
            generation_shard: u32::from(who.shard.0) << GENERATION_BITS | who.conn.generation,
        }
    }

    fn is_of(&self, user: UserKey) -> bool {
        let (id, app) = (self.user, self.app);
        id == user.user.0 && app == user.app.0
    }

    fn who(&self) -> ConnRef {
        let generation = self.generation_shard & ((1 << GENERATION_BITS) - 1);
        let shard = ShardIndex((self.generation_shard >> GENERATION_BITS) as u16);
        ConnRef { shard, conn: ConnId { index: self.index, generation } }
    }
}

impl Directory {
    /// Nobody is here.
    pub fn new() -> Self {
        // Random, since clients choose their users. It decides in which order the connections of one
        // user are found, so the simulation fixes it: a seed is to fail again as it has failed.
        let hasher =
            if cfg!(test) { RandomState::with_seeds(1, 2, 3, 4) } else { RandomState::new() };
        Self { entries: HashTable::new(), hasher }
    }

    fn hash(&self, user: UserKey) -> u64 {
        self.hasher.hash_one((user.user.0, user.app.0))
    }

    /// A connection of the user has come.
    pub fn insert(&mut self, user: UserKey, who: ConnRef) {
        let Self { entries, hasher } = self;
        let hash = hasher.hash_one((user.user.0, user.app.0));
        entries.insert_unique(hash, Entry::new(user, who), |entry| {
            let (user, app) = (entry.user, entry.app);
            hasher.hash_one((user, app))
        });
    }

    /// A connection of the user has gone.
    pub fn remove(&mut self, user: UserKey, who: ConnRef) {
        let gone = Entry::new(user, who);
        let hash = self.hash(user);
        if let Ok(entry) = self.entries.find_entry(hash, |entry| *entry == gone) {
            entry.remove();
        }
    }

    /// The user's connections.
    pub fn find(&self, user: UserKey) -> impl Iterator<Item = ConnRef> {
        let entries = self.entries.iter_hash(self.hash(user));
        entries.filter(move |entry| entry.is_of(user)).map(Entry::who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_router::{AppId, UserId};

    #[test]
    fn a_user_has_every_connection_that_came_and_did_not_go() {
        let mut directory = Directory::new();
        let user = |id| UserKey { app: AppId(1), user: UserId(id) };
        let who = |index| ConnRef { shard: ShardIndex(2), conn: ConnId { index, generation: 7 } };
        for id in 0..1000 {
            directory.insert(user(id / 2), who(id as u32));
        }
        directory.remove(user(250), who(500));
        directory.remove(user(250), who(9999));
        let found = |id| {
            let mut all: Vec<_> = directory.find(user(id)).map(|who| who.conn.index).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(found(17), [34, 35]);
        assert_eq!(found(250), [501]);
        assert_eq!(found(500), Vec::<u32>::new());
        let other_app = UserKey { app: AppId(2), user: UserId(17) };
        assert_eq!(directory.find(other_app).count(), 0);
    }
}
