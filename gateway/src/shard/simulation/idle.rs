//! Rooms that nothing happens in for so long that their home forgets them.

use std::path::PathBuf;

use barrage_router::ROOM_IDLE_MS;
use barrage_store::{Keeper, Options, Wake};

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
