//! Which connections a user has, at the user's home shard.

use ahash::RandomState;
use barrage_router::{Device, ShardIndex, UserKey};
use barrage_sys::ConnId;
use barrage_wire::client::Platform;
use hashbrown::HashTable;

use crate::limits::SHARDS_MAX;
use crate::mail::ConnRef;

/// Users by their connections. An entry is one connection, so that the common user with one device
/// costs one entry and no list. Entries stand close together: a table of their places has gaps, and
/// is smaller than one of entries would be.
pub struct Directory {
    entries: Vec<Entry>,
    places: HashTable<u32>,
    hasher: RandomState,
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Entry {
    user: u64,
    /// As the client names it. It is needed at once when something is put into the user's inbox:
    /// else one device could acknowledge it before another one was known.
    name: u64,
    app: u32,
    index: u32,
    /// The connection's generation, and above its bits the shard.
    generation_shard: u32,
    /// The platform, and above its bits the place in the order in which the user's connections came.
    order_platform: u8,
}

const GENERATION_BITS: u32 = 24;
const PLATFORM_BITS: u32 = 3;
/// Connections of one user whose order is known; what comes after them counts as equally new.
const ORDER_MAX: u8 = u8::MAX >> PLATFORM_BITS;
const _: () = assert!(size_of::<Entry>() == 29, "a million users hold one each");
const _: () = assert!(Platform::ALL.len() <= 1 << PLATFORM_BITS);
const _: () = assert!(SHARDS_MAX as u64 <= 1 << (32 - GENERATION_BITS));

impl Entry {
    fn new(user: UserKey, who: ConnRef, name: u64, platform: Platform) -> Self {
        Self {
            user: user.user.0,
            name,
            app: user.app.0,
            index: who.conn.index,
            generation_shard: u32::from(who.shard.0) << GENERATION_BITS | who.conn.generation,
            order_platform: platform as u8,
        }
    }

    fn hash(&self, hasher: &RandomState) -> u64 {
        let (user, app) = (self.user, self.app);
        hasher.hash_one((user, app))
    }

    fn order(&self) -> u8 {
        self.order_platform >> PLATFORM_BITS
    }

    fn set_order(&mut self, order: u8) {
        let platform = self.order_platform & ((1 << PLATFORM_BITS) - 1);
        self.order_platform = order << PLATFORM_BITS | platform;
    }

    fn device(&self) -> Device {
        let platform = usize::from(self.order_platform & ((1 << PLATFORM_BITS) - 1));
        Device { platform: Platform::ALL[platform], arrived: u64::from(self.order()) }
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
        Self { entries: Vec::new(), places: HashTable::new(), hasher }
    }

    fn hash(&self, user: UserKey) -> u64 {
        self.hasher.hash_one((user.user.0, user.app.0))
    }

    /// A connection of the user has come, from the device that the client names.
    pub fn insert(&mut self, user: UserKey, who: ConnRef, device: u64, platform: Platform) {
        let hash = self.hash(user);
        let mut entry = Entry::new(user, who, device, platform);
        let newest = self.of(hash, user).map(Entry::order).max();
        let order = match newest {
            None => 0,
            Some(ORDER_MAX) => self.close_ranks(hash, user),
            Some(newest) => newest + 1,
        };
        entry.set_order(order);
        let Self { entries, places, hasher } = self;
        let place = entries.len() as u32;
        entries.push(entry);
        places.insert_unique(hash, place, |&place| entries[place as usize].hash(hasher));
    }

    fn of(&self, hash: u64, user: UserKey) -> impl Iterator<Item = &Entry> {
        let entries = self.places.iter_hash(hash).map(|&place| &self.entries[place as usize]);
        entries.filter(move |entry| entry.is_of(user))
    }

    /// Numbers the user's connections anew, without the gaps of those that have gone; returns the
    /// next number.
    fn close_ranks(&mut self, hash: u64, user: UserKey) -> u8 {
        let mut orders: Vec<u8> = self.of(hash, user).map(Entry::order).collect();
        orders.sort_unstable();
        orders.dedup();
        for &place in self.places.iter_hash(hash) {
            let entry = &mut self.entries[place as usize];
            if entry.is_of(user) {
                let order = entry.order();
                let rank = orders.partition_point(|&other| other < order) as u8;
                entry.set_order(rank);
            }
        }
        (orders.len() as u8).min(ORDER_MAX)
    }

    /// A connection of the user has gone.
    pub fn remove(&mut self, user: UserKey, who: ConnRef) {
        let hash = self.hash(user);
        let Self { entries, places, hasher } = self;
        let is_gone = |&place: &u32| {
            let entry = &entries[place as usize];
            entry.is_of(user) && entry.who() == who
        };
        let Ok(found) = places.find_entry(hash, is_gone) else { return };
        let (place, _) = found.remove();
        entries.swap_remove(place as usize);
        // The last one has moved into the gap, unless it was the last one that went.
        if let Some(moved) = entries.get(place as usize) {
            let last = entries.len() as u32;
            let found = places.find_mut(moved.hash(hasher), |&other| other == last);
            *found.expect("every entry has its place") = place;
        }
    }

    /// The user's connections, each with its platform and its place in the order in which they came.
    pub fn in_order(&self, user: UserKey) -> impl Iterator<Item = (Device, ConnRef)> {
        self.of(self.hash(user), user).map(|entry| (entry.device(), entry.who()))
    }

    /// The user's connections with the names of their devices, in the order in which they came.
    pub fn names(&self, user: UserKey) -> impl Iterator<Item = (u64, ConnRef)> {
        let mut entries: Vec<_> = self.of(self.hash(user), user).collect();
        entries.sort_by_key(|entry| entry.order());
        entries.into_iter().map(|entry| (entry.name, entry.who()))
    }

    /// The user's connections.
    pub fn find(&self, user: UserKey) -> impl Iterator<Item = ConnRef> {
        self.of(self.hash(user), user).map(Entry::who)
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
            directory.insert(user(id / 2), who(id as u32), id, Platform::Web);
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

    #[test]
    fn the_order_of_a_users_connections_outlives_many_of_them() {
        let mut directory = Directory::new();
        let user = UserKey { app: AppId(1), user: UserId(1) };
        let who = |index| ConnRef { shard: ShardIndex(2), conn: ConnId { index, generation: 7 } };
        for index in 0..1000 {
            let platform = if index % 3 == 0 { Platform::Ios } else { Platform::Web };
            directory.insert(user, who(index), u64::from(index), platform);
            if let Some(old) = index.checked_sub(6) {
                directory.remove(user, who(old));
            }
            let mut present: Vec<_> = directory.in_order(user).collect();
            present.sort_unstable_by_key(|(device, _)| device.arrived);
            let came: Vec<u32> = present.iter().map(|(_, who)| who.conn.index).collect();
            assert!(came.is_sorted(), "{came:?} after {index}");
            let names: Vec<_> = directory.names(user).map(|(name, _)| name as u32).collect();
            assert_eq!(names, came);
            assert_eq!(came.len(), 6.min(index as usize + 1));
            assert_eq!(present.last().map(|(device, _)| device.platform), Some(platform));
        }
    }
}
