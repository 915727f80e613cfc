//! How long messages wait for each other, in steps of the shard.

use super::client::Client;
use super::directed::{BOTH, CHAT, GIFT_LARGE, SYSTEM};
use super::model::Target;
use super::world::World;

/// Members of the busy room: several steps' worth of sends.
const BUSY: usize = 200;
/// Steps until a message is at a member of a quiet room: one to hear it, one to send it, and one in
/// which the fake network hands it over.
const STEPS_MAX: u64 = 3;

/// Somebody in room 2 beside a room 1 that is told something at every step. One step takes one
/// millisecond.
fn quiet_beside_busy() -> World {
    let one = |at| Client::told(at, 0, BOTH[at % 2], usize::MAX);
    let mut world = World::calm(1, (0..=BUSY).map(one).collect());
    for at in 0..=BUSY {
        let room = if at == BUSY { 2 } else { 1 };
        world.say(at, |client, _| vec![client.join(room, false)]);
    }
    world.run_ms(20);
    world
}

fn heard(world: &World, room: u64, at: usize) -> u64 {
    let session = world.clients[at].session.as_ref().expect("it is connected");
    session.room(room).expect("it is a member").1.n
}

#[test]
fn a_quiet_room_is_served_whatever_class_its_neighbour_is_told() {
    for class in [CHAT, GIFT_LARGE, SYSTEM] {
        let mut world = quiet_beside_busy();
        for _ in 0..20 {
            world.publish(&Target::Room(1), &[CHAT], 100);
            world.run_ms(1);
        }
        // From now on the walk of the busy room never ends.
        for round in 1..=30 {
            world.publish(&Target::Room(1), &[class; 3], 100);
            world.publish(&Target::Room(2), &[CHAT], 100);
            let mut steps = 0;
            while heard(&world, 2, BUSY) < round {
                steps += 1;
                assert!(steps <= STEPS_MAX, "category {class}: message {round} waits");
                world.publish(&Target::Room(1), &[CHAT], 100);
                world.run_ms(1);
            }
        }
        world.settle();
        world.check_rest();
        world.leave();
        world.check_empty();
    }
}

#[test]
fn many_small_rooms_do_not_hold_up_a_large_one() {
    let mut world = quiet_beside_busy();
    // Each of the busy room's members is alone in a room of its own, too.
    for at in 0..BUSY {
        world.say(at, |client, _| vec![client.join(10 + at as u64, false)]);
    }
    world.run_ms(50);
    for round in 1..=5 {
        world.publish(&Target::Room(1), &[CHAT], 100);
        let mut steps = 0;
        while (0..BUSY).any(|at| heard(&world, 1, at) < round) {
            steps += 1;
            assert!(steps <= 60, "message {round} of the large room waits");
            for small in 0..BUSY as u64 {
                world.publish(&Target::Room(10 + small), &[CHAT], 100);
            }
            world.run_ms(1);
        }
    }
    world.settle();
    world.check_rest();
    world.leave();
    world.check_empty();
}
