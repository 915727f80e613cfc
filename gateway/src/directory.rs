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
    /// When it came, and below its bits the platform.
    arrived_platform: u64,
    app: u32,
    index: u32,
    /// The connection's generation, and above its bits the shard.
    generation_shard: u32,
}

const GENERATION_BITS: u32 = 24;
const PLATFORM_BITS: u32 = 3;
const _: () = assert!(size_of::<Entry>() == 36, "a million users hold one each");
const _: () = assert!(Platform::ALL.len() <= 1 << PLATFORM_BITS);
const _: () = assert!(SHARDS_MAX as u64 <= 1 << (32 - GENERATION_BITS));

impl Entry {
    fn new(user: UserKey, who: ConnRef, device: Device) -> Self {
        Self {
            user: user.user.0,
            name: device.name,
            arrived_platform: device.arrived << PLATFORM_BITS | device.platform as u64,
            app: user.app.0,
            index: who.conn.index,
            generation_shard: u32::from(who.shard.0) << GENERATION_BITS | who.conn.generation,
        }
    }

    fn hash(&self, hasher: &RandomState) -> u64 {
        let (user, app) = (self.user, self.app);
        hasher.hash_one((user, app))
    }

    fn device(&self) -> Device {
        let platform = self.arrived_platform & ((1 << PLATFORM_BITS) - 1);
        let platform = Platform::ALL[platform as usize];
        Device { name: self.name, platform, arrived: self.arrived_platform >> PLATFORM_BITS }
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

    /// A connection of the user has come.
    pub fn insert(&mut self, user: UserKey, who: ConnRef, device: Device) {
        let hash = self.hash(user);
        let Self { entries, places, hasher } = self;
        let place = entries.len() as u32;
        entries.push(Entry::new(user, who, device));
        places.insert_unique(hash, place, |&place| entries[place as usize].hash(hasher));
    }

    fn of(&self, user: UserKey) -> impl Iterator<Item = &Entry> {
        let places = self.places.iter_hash(self.hash(user));
        let entries = places.map(|&place| &self.entries[place as usize]);
        entries.filter(move |entry| entry.is_of(user))
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

    /// The user's connections, each with its device, in any order.
    pub fn devices(&self, user: UserKey) -> impl Iterator<Item = (Device, ConnRef)> {
        self.of(user).map(|entry| (entry.device(), entry.who()))
    }

    /// The user's connections.
    pub fn find(&self, user: UserKey) -> impl Iterator<Item = ConnRef> {
        self.of(user).map(Entry::who)
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
            let device = Device { name: id, platform: Platform::Web, arrived: id };
            directory.insert(user(id / 2), who(id as u32), device);
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
    fn a_device_is_told_as_it_came() {
        let mut directory = Directory::new();
        let user = UserKey { app: AppId(1), user: UserId(1) };
        let who = |index| ConnRef { shard: ShardIndex(2), conn: ConnId { index, generation: 7 } };
        let device = |index: u32| {
            let platform = Platform::ALL[index as usize % Platform::ALL.len()];
            Device { name: u64::MAX - u64::from(index), platform, arrived: u64::from(index) << 30 }
        };
        for index in 0..1000 {
            directory.insert(user, who(index), device(index));
            if let Some(old) = index.checked_sub(6) {
                directory.remove(user, who(old));
            }
            let mut present: Vec<_> = directory.devices(user).collect();
            present.sort_unstable_by_key(|(device, _)| device.arrived);
            let came = (index.saturating_sub(5)..=index).map(|index| (device(index), who(index)));
            assert!(present.into_iter().eq(came), "after {index}");
        }
    }
}
