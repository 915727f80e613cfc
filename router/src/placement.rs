//! Which shard is home to a room or a user.
//!
//! The answer is part of what nodes of different versions have to agree on, so it must never
//! change. It is the jump consistent hash of Lamping and Veach ("A Fast, Minimal Memory, Consistent
//! Hash Algorithm", 2014) over a 64-bit mix of the key:
//!
//! ```text
//! mix(x)  = SplitMix64's finalizer of x + 0x9e3779b97f4a7c15
//! hash    = mix(mix(domain << 32 | app) ^ id)      domain: 1 rooms, 2 users
//! shard   = jump(hash, shards)
//! ```
//! All arithmetic wraps at 64 bits. `ahash` would not do: its results differ between machines.

use std::num::NonZeroU16;

use crate::ids::{RoomKey, ShardIndex, UserKey};

/// Keeps a user and a room of the same number from always sharing a shard.
const DOMAIN_ROOM: u64 = 1;
const DOMAIN_USER: u64 = 2;

/// The shard that sequences a room's messages.
pub fn home_of_room(key: RoomKey, shards: NonZeroU16) -> ShardIndex {
    jump(hash(DOMAIN_ROOM, key.app.0, key.room.0), shards)
}

/// The shard that knows where a user is connected.
pub fn home_of_user(key: UserKey, shards: NonZeroU16) -> ShardIndex {
    jump(hash(DOMAIN_USER, key.app.0, key.user.0), shards)
}

fn hash(domain: u64, app: u32, id: u64) -> u64 {
    mix(mix(domain << 32 | u64::from(app)) ^ id)
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The paper's function. Its one division is exact enough to be the same on every IEEE machine.
fn jump(mut hash: u64, shards: NonZeroU16) -> ShardIndex {
    let shards = i64::from(shards.get());
    let (mut chosen, mut next) = (0, 0);
    while next < shards {
        chosen = next;
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let draw = ((hash >> 33) + 1) as f64;
        next = ((chosen + 1) as f64 * ((1u64 << 31) as f64 / draw)) as i64;
    }
    ShardIndex(chosen as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AppId, RoomId, UserId};

    const ROOMS: u64 = 10_000;

    fn room(app: u32, room: u64) -> RoomKey {
        RoomKey { app: AppId(app), room: RoomId(room) }
    }

    fn homes(count: u16) -> Vec<u16> {
        let shards = NonZeroU16::new(count).unwrap();
        (0..ROOMS).map(|id| home_of_room(room(1, id), shards).0).collect()
    }

    /// Computed by another implementation of the text at the top of this file.
    #[test]
    fn placement_is_the_same_for_ever() {
        let table = [
            (0, 0, 8, 2, 7),
            (1, 1, 2, 1, 1),
            (1, 1, 8, 5, 1),
            (1, 2, 64, 56, 7),
            (7, 123_456_789, 64, 27, 35),
            (u32::MAX, u64::MAX, u16::MAX, 51_740, 42_654),
        ];
        for (app, id, shards, of_room, of_user) in table {
            let shards = NonZeroU16::new(shards).unwrap();
            let user = UserKey { app: AppId(app), user: UserId(id) };
            let homes = (home_of_room(room(app, id), shards).0, home_of_user(user, shards).0);
            assert_eq!(homes, (of_room, of_user), "app {app}, id {id}, {shards} shards");
        }
    }

    #[test]
    fn rooms_spread_evenly() {
        for count in [1, 2, 3, 8, 64] {
            let mut per_shard = vec![0u64; usize::from(count)];
            homes(count).into_iter().for_each(|shard| per_shard[usize::from(shard)] += 1);
            let mean = ROOMS / u64::from(count);
            for rooms in per_shard {
                let most = mean + mean / 2;
                assert!((mean / 2..=most).contains(&rooms), "{rooms} of {ROOMS} on {count}");
            }
        }
    }

    #[test]
    fn a_new_shard_takes_its_share_and_nothing_else_moves() {
        for count in [1, 2, 7, 63] {
            let pairs = homes(count).into_iter().zip(homes(count + 1));
            let moved: Vec<_> = pairs.filter(|(before, after)| before != after).collect();
            assert!(moved.iter().all(|(_, after)| *after == count), "moves go to the new shard");
            let share = ROOMS / u64::from(count + 1);
            assert!((moved.len() as u64) < share + share / 2, "{} moved to {count}", moved.len());
        }
    }

    #[test]
    fn apps_and_users_are_spread_apart() {
        let shards = NonZeroU16::new(64).unwrap();
        let user = |id| home_of_user(UserKey { app: AppId(1), user: UserId(id) }, shards);
        let same = |other: &dyn Fn(u64) -> ShardIndex| {
            (0..ROOMS).filter(|&id| home_of_room(room(1, id), shards) == other(id)).count() as u64
        };
        let chance = ROOMS / 64;
        assert!(same(&|id| home_of_room(room(2, id), shards)) < 2 * chance);
        assert!(same(&user) < 2 * chance);
    }
}
