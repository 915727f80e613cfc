//! Rooms that nothing happens in for so long that their home forgets them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use barrage_router::{AppId, ROOM_IDLE_MS, RoomId, RoomKey};
use barrage_store::{Keeper, Options, UnixClock, Wake};

use super::client::Client;
use super::model::Target;
use super::world::World;
use crate::fake_ring::ECONNRESET;
use crate::room_log::Transport;
use crate::shard::history::{History, Restored};

const CHAT: u16 = 4;
const ROOM: Target = Target::Room(1);

/// A directory of its own, which goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("barrage-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Gives the only shard a durable history.
fn store_in(world: &mut World, dir: &Dir) -> Keeper {
    let options = Options {
        dir: dir.0.clone(),
        shards: 1,
        queue_max: crate::limits::HISTORY_QUEUE_MAX,
        retention: Vec::new(),
        cache_bytes: 1 << 20,
        clock: UnixClock::start(),
        redate: crate::note::redate,
        accept_lost: false,
    };
    let wake: Wake = Box::new(|| {});
    let (clients, keeper, _) = barrage_store::open(options, vec![wake]).expect("a new directory");
    for client in clients {
        let history = History::new(client, Vec::new(), true);
        world.shards[0].restore(history, Restored::default());
    }
    keeper
}

/// A member goes, everything is still until the room is forgotten, and the member comes back with
/// its cursor. Returns the epochs before and after, and how often it was reset.
fn come_back(world: &mut World) -> (u64, u64, u64) {
    let epoch = |world: &World| {
        let session = world.clients[0].session.as_ref().expect("it is connected");
        session.room(1).expect("it is a member").1.of.epoch
    };
    world.say(0, |client, _| vec![client.join(1, false)]);
    world.run_ms(10);
    world.publish(&ROOM, &[CHAT; 3], 10);
    world.run_ms(10);
    let before = epoch(world);
    world.clients[0].hang_up(&mut world.shards[0].ring, ECONNRESET);
    // Every room is looked at within a minute.
    world.pass((ROOM_IDLE_MS + 61_000) * 1_000);
    assert_eq!(world.shards[0].metrics().rooms_home, 0, "it is forgotten");
    world.upstreams[0].connect(&mut world.shards[0].ring);
    world.connect(0);
    world.settle();
    world.publish(&ROOM, &[CHAT; 2], 10);
    world.settle();
    (before, epoch(world), world.report.resets)
}

/// Rooms at the only home.
fn rooms(world: &World) -> u64 {
    world.shards[0].metrics().rooms_home
}

/// Whoever comes and goes leaves nothing behind, or a few clients could fill the table of rooms.
#[test]
fn a_room_in_which_nobody_spoke_goes_with_its_last_member() {
    let clients = (0..2).map(|at| Client::told(at, 0, Transport::Tcp, usize::MAX)).collect();
    let mut world = World::calm(1, clients);
    let mut aliases = BTreeSet::new();
    for _ in 0..3 {
        for room in 1..=4 {
            world.say(0, |client, _| vec![client.join(room, false)]);
        }
        world.run_ms(10);
        let session = world.clients[0].session.as_ref().expect("it is connected");
        let given = (1..=4).map(|room| session.room(room).expect("it is a member").0);
        assert_eq!(given.filter(|&alias| aliases.insert(alias)).count(), 4, "each is a new one");
        world.say(1, |client, _| vec![client.join(1, false)]);
        world.run_ms(10);
        for room in 1..=4 {
            world.say(0, |client, _| vec![client.leave(room)]);
        }
        world.run_ms(10);
        assert_eq!(rooms(&world), 1, "somebody is in it");
        world.say(1, |client, _| vec![client.leave(1)]);
        world.run_ms(10);
        assert_eq!(rooms(&world), 0);
    }
    world.say(0, |client, _| vec![client.join(1, false)]);
    world.run_ms(10);
    world.publish(&ROOM, &[CHAT], 10);
    world.run_ms(10);
    world.say(0, |client, _| vec![client.leave(1)]);
    world.run_ms(10);
    assert_eq!(rooms(&world), 1, "there is something to come back to");
}

/// The room is made anew, but for whoever has been there it is the same one.
#[test]
fn who_was_alone_in_a_quiet_room_misses_nothing_when_it_comes_back() {
    let mut world = world();
    world.say(0, |client, _| vec![client.join(1, false)]);
    world.run_ms(10);
    world.clients[0].hang_up(&mut world.shards[0].ring, ECONNRESET);
    world.run_ms(10);
    assert_eq!(rooms(&world), 0);
    world.publish(&ROOM, &[CHAT; 3], 10);
    world.run_ms(10);
    world.connect(0);
    world.run_ms(10);
    assert_eq!((world.report.resets, world.report.messages), (0, 3));
}

/// A cursor for a room in which nobody ever spoke has nothing to wait for, and makes nothing that
/// stays when the JOIN is given up.
#[test]
fn a_cursor_for_a_room_that_never_was_does_not_ask_the_disk() {
    let dir = Dir::new("never-was");
    let mut world = world();
    let keeper = store_in(&mut world, &dir);
    world.clients[0].cursors.insert(3, (77, 5));
    world.say(0, |client, _| vec![client.join(3, true), client.leave(3)]);
    // The disk has not answered anything: no time has passed for it.
    world.run_ms(5);
    assert_eq!((world.report.joins, world.report.resets), (1, 1), "it has joined");
    assert_eq!(rooms(&world), 0, "and left");
    drop(world);
    keeper.close().expect("the disk took everything");
}

/// Rooms that somebody is in keep their place; the others give way, and nobody fills the table for
/// other apps.
#[test]
fn rooms_that_nobody_is_in_give_way() {
    let mut world = world();
    world.shards[0].core.homes.rooms_max = 16;
    let key = |app, room| RoomKey { app: AppId(app), room: RoomId(room) };
    let join = |world: &mut World, room| {
        world.say(0, |client, _| vec![client.join(room, false)]);
        world.run_ms(5);
    };
    (1..=6).for_each(|room| join(&mut world, room));
    for room in 100..120 {
        // It is answered `Ok`, or the upstream would have said so.
        world.publish(&Target::Room(room), &[CHAT], 10);
        world.run_ms(5);
    }
    assert_eq!(rooms(&world), 8, "as many as one app may have");
    (7..=8).for_each(|room| join(&mut world, room));
    assert_eq!(world.report.joins, 8);
    let core = &mut world.shards[0].core;
    assert!((1..=8).all(|room| core.homes.by_key.contains_key(&key(1, room))));
    assert!(core.home_room(key(1, 200)).is_none(), "somebody is in each of them");
    for room in 1..=20 {
        assert!(core.home_room(key(2, room)).is_some(), "another app gets its share");
    }
    assert_eq!(rooms(&world), 16);
}

fn world() -> World {
    World::calm(1, vec![Client::told(0, 0, Transport::Tcp, usize::MAX)])
}

#[test]
fn without_a_history_a_forgotten_room_begins_another_epoch() {
    let mut world = world();
    let (before, after, resets) = come_back(&mut world);
    assert!(after > before, "{after} comes after {before}");
    assert_eq!((resets, world.report.messages), (1, 5), "and says so");
}

#[test]
fn with_a_history_a_forgotten_room_goes_on() {
    let dir = Dir::new("idle-room");
    let mut world = world();
    let keeper = store_in(&mut world, &dir);
    let (before, after, resets) = come_back(&mut world);
    assert_eq!((after, resets, world.report.messages), (before, 0, 5));
    let view = world.clients[0].session.as_ref().and_then(|session| session.room(1));
    assert_eq!(view.map(|(_, view)| view.n), Some(5), "its numbers go on");
    drop(world);
    keeper.close().expect("the disk took everything");
}
