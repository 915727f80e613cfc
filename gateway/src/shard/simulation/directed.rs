//! What chance seldom brings about, said step by step.

use barrage_wire::server::CloseReason;

use super::client::Client;
use super::model::Target;
use super::world::World;
use crate::fake_ring::Random;
use crate::limits::{LINGER_MAX, LOG_WINDOW_BYTES, SEND_STALL_MAX, STEP_WALK_WORK, WORK_PER_SEND};
use crate::room_log::Transport;

pub const BOTH: [Transport; 2] = [Transport::Tcp, Transport::WebSocket];
pub const CHAT: u16 = 4;
pub const GIFT_LARGE: u16 = 1;
pub const SYSTEM: u16 = 0;
/// Bytes of a large message; so many of them fill a window and more.
const LARGE: usize = 16_000;
const WINDOW: usize = 2 * LOG_WINDOW_BYTES / LARGE;
const ROOM: Target = Target::Room(1);

/// The first client reads slowly, from a socket of a few bytes; the second one keeps up. Both are
/// members of room 1.
fn slow_and_fast(shards: usize, transport: Transport) -> World {
    let slow = Client::told(0, 0, transport, 3_000);
    let fast = Client::told(1, shards - 1, transport, usize::MAX);
    let mut world = World::calm(shards, vec![slow, fast]);
    for at in 0..2 {
        world.say(at, |client, _| vec![client.join(1, false)]);
    }
    world.run_ms(10);
    world
}

/// Everybody reads, has what was promised, and leaves nothing behind.
fn end(mut world: World) -> World {
    world.clients.iter_mut().for_each(|client| client.deaf = 0);
    world.settle();
    world.check_rest();
    world.leave();
    world.check_empty();
    world
}

fn n(world: &World, at: usize, room: u64) -> u64 {
    let session = world.clients[at].session.as_ref().expect("it is connected");
    session.room(room).expect("it is a member").1.n
}

/// Every tenth is never dropped, and all of those fit what a log keeps.
fn mixed(count: usize) -> Vec<u16> {
    (0..count).map(|at| if at % 10 == 5 { GIFT_LARGE } else { CHAT }).collect()
}

#[test]
fn who_is_stuck_in_a_frame_while_the_window_moves_on_finishes_it_and_is_told() {
    for (transport, shards) in BOTH.into_iter().flat_map(|kind| [(kind, 1), (kind, 2)]) {
        let mut world = slow_and_fast(shards, transport);
        world.clients[0].deaf = 1;
        world.publish(&ROOM, &mixed(WINDOW), LARGE);
        world.run_ms(400);
        assert_eq!((n(&world, 0, 1), n(&world, 1, 1)), (0, WINDOW as u64));
        let world = end(world);
        assert_eq!(world.report.sheds, 1, "{transport:?}");
        assert_eq!(world.truth.check_ranges(), 1);
    }
}

#[test]
fn who_falls_out_of_the_window_again_is_told_again() {
    let mut world = slow_and_fast(2, Transport::Tcp);
    for _ in 0..3 {
        world.clients[0].deaf = 1;
        world.publish(&ROOM, &mixed(WINDOW), LARGE);
        world.run_ms(400);
        world.clients[0].deaf = 0;
        world.run_ms(1_000);
        assert_eq!(n(&world, 0, 1), n(&world, 1, 1));
    }
    assert_eq!(end(world).report.sheds, 3);
}

#[test]
fn who_would_lose_what_was_paid_for_is_closed_and_comes_back() {
    for transport in BOTH {
        let mut world = slow_and_fast(1, transport);
        world.clients[0].deaf = 1;
        world.publish(&ROOM, &[GIFT_LARGE; WINDOW], LARGE);
        world.run_ms(400);
        world.clients[0].deaf = 0;
        world.run_ms(100);
        assert!(world.clients[0].session.is_none());
        assert_eq!(world.report.closes["SlowReader"], 1);
        world.connect(0);
        world.run_ms(100);
        assert_eq!(n(&world, 0, 1), WINDOW as u64, "it goes on from the head");
        assert_eq!(end(world).report.resets, 1);
    }
}

#[test]
fn a_room_is_left_while_its_frames_are_in_flight() {
    for transport in BOTH {
        let mut world = slow_and_fast(1, transport);
        world.clients[0].deaf = 1;
        world.publish(&ROOM, &[CHAT; 3], LARGE);
        world.run_ms(20);
        world.say(0, |client, _| vec![client.leave(1)]);
        world.run_ms(20);
        world.publish(&ROOM, &[CHAT; 3], LARGE);
        world.run_ms(20);
        assert!(world.clients[0].session.as_ref().is_some_and(|session| session.room(1).is_some()));
        world.clients[0].deaf = 0;
        world.run_ms(200);
        assert!(world.clients[0].session.as_ref().is_some_and(|session| session.room(1).is_none()));
        end(world);
    }
}

/// The only member leaves while a send is in flight, and joins another room or the same one again,
/// which gets the old one's index.
#[test]
fn a_rooms_index_is_used_again_while_a_send_of_the_old_one_is_in_flight() {
    for (transport, next) in BOTH.into_iter().flat_map(|kind| [(kind, 2), (kind, 1)]) {
        let mut world = World::calm(1, vec![Client::told(0, 0, transport, 3_000)]);
        world.say(0, |client, _| vec![client.join(1, false)]);
        world.run_ms(10);
        world.clients[0].deaf = 1;
        world.publish(&ROOM, &[CHAT; 3], LARGE);
        world.run_ms(20);
        let index = |world: &World| {
            let rooms = world.shards[0].core.local.rooms.iter();
            rooms.map(|(index, room)| (index, room.key.room.0)).max_by_key(|&(_, room)| room)
        };
        let before = index(&world).expect("the room").0;
        world.say(0, |client, _| vec![client.leave(1), client.join(next, false)]);
        world.run_ms(20);
        assert_eq!(index(&world), Some((before, next)));
        world.publish(&Target::Room(next), &[CHAT; 5], LARGE);
        world.run_ms(20);
        world.clients[0].deaf = 0;
        world.run_ms(400);
        assert_eq!(n(&world, 0, next), if next == 1 { 8 } else { 5 });
        end(world);
    }
}

#[test]
fn a_peer_that_never_reads_is_cut_in_time_and_leaves_nothing() {
    for transport in BOTH {
        let mut world = slow_and_fast(1, transport);
        world.clients[0].deaf = 1;
        world.publish(&ROOM, &[CHAT; 3], LARGE);
        world.run_ms(20);
        let since = world.now_us;
        let seconds = |world: &World| (world.now_us - since) / 1_000_000;
        while world.shards[0].core.metrics.slow_readers_total == 0 {
            world.run_ms(100);
        }
        // A send is looked at every 30 seconds.
        assert!((30..=61).contains(&seconds(&world)), "{} s", seconds(&world));
        assert!(SEND_STALL_MAX.as_secs() == 30, "the times here follow from it");
        assert_eq!(world.shards[0].metrics().log_bytes, 0, "it holds no log back");
        let told = world.now_us;
        while world.shards[0].core.metrics.closed_total == 0 {
            world.run_ms(10);
        }
        let linger = LINGER_MAX.as_micros() as u64;
        assert!((linger - 100_000..linger + 300_000).contains(&(world.now_us - told)));
        assert_eq!(world.clients[1].session.as_ref().and_then(|session| session.close), None);
        world.clients[0].deaf = 0;
        world.run_ms(20);
        assert!(world.clients[0].session.is_none());
        end(world);
    }
}

#[test]
fn two_rooms_on_one_connection_take_turns() {
    for transport in BOTH {
        let mut world = slow_and_fast(2, transport);
        world.say(0, |client, _| vec![client.join(2, false)]);
        world.run_ms(10);
        world.clients[0].deaf = 1;
        world.publish(&ROOM, &[CHAT; 20], LARGE);
        world.run_ms(50);
        world.publish(&Target::Room(2), &[SYSTEM; 20], 1_000);
        world.run_ms(50);
        world.clients[0].deaf = 0;
        let mut urgent_first = None;
        while urgent_first.is_none() {
            world.run_ms(1);
            let left = (n(&world, 0, 1), n(&world, 0, 2));
            urgent_first = match left {
                (20, 0..20) => Some(false),
                (_, 20) => Some(true),
                _ => None,
            };
        }
        assert_eq!(urgent_first, Some(true), "what is urgent goes first");
        end(world);
    }
}

#[test]
fn messages_for_a_user_that_does_not_read_are_shed_and_declared() {
    let mut world = slow_and_fast(2, Transport::WebSocket);
    world.clients[0].deaf = 1;
    let target = Target::Users(vec![1, 2]);
    for _ in 0..40 {
        world.publish(&target, &[CHAT], LARGE);
        world.run_ms(5);
    }
    world.publish(&target, &[GIFT_LARGE; 3], LARGE);
    world.run_ms(100);
    let before = world.report.directs;
    assert_eq!(before, 43, "the other one has them all");
    world.clients[0].deaf = 0;
    world.run_ms(500);
    let world = end(world);
    let shed = world.shards.iter().map(|shard| shard.core.metrics.shed_p3_total).sum::<u64>();
    assert!(shed > 0 && world.report.directs - before == 43 - shed, "{shed} are declared");
}

#[test]
fn what_the_whole_app_is_told_is_shed_and_declared_like_a_rooms() {
    let mut world = slow_and_fast(2, Transport::Tcp);
    world.clients[0].deaf = 1;
    world.publish(&Target::App, &mixed(WINDOW), LARGE);
    world.run_ms(400);
    world.clients[0].deaf = 0;
    world.run_ms(100);
    let world = end(world);
    let shed = world.shards.iter().map(|shard| shard.core.metrics.shed_p3_total).sum::<u64>();
    assert!(shed > 0 && world.report.directs == 2 * WINDOW as u64 - shed);
}

/// What is closed in the middle of a frame gets the rest of it before it is told why.
#[test]
fn who_reads_too_slowly_what_may_not_be_dropped_is_told_between_frames() {
    for transport in BOTH {
        let mut world = slow_and_fast(2, transport);
        for _ in 0..100 {
            world.publish(&Target::Users(vec![1]), &[SYSTEM], LARGE);
            world.run_ms(1);
        }
        assert_eq!(world.report.closes.get("SlowReader"), Some(&1));
        end(world);
    }
}

/// A walk that takes several steps, during which members come, leave, and are lost.
#[test]
fn everybody_in_a_large_room_is_served_whoever_comes_and_goes() {
    const MEMBERS: usize = 3 * (STEP_WALK_WORK / WORK_PER_SEND) as usize;
    let one = |at| Client::told(at, 0, BOTH[at % 2], 5_000);
    let mut world = World::calm(1, (0..MEMBERS).map(one).collect());
    world.run_ms(20);
    for at in 0..MEMBERS {
        world.say(at, |client, _| vec![client.join(1, false)]);
    }
    world.run_ms(20);
    let mut random = Random(5);
    for _ in 0..15 {
        let category = random.pick(&[CHAT, SYSTEM]);
        world.publish(&ROOM, &[category], 100 + random.below(2_000));
        world.run_ms(1);
        let room = world.shards[0].core.local.rooms.iter().find(|(_, room)| room.alias != 0);
        assert!(room.is_some_and(|(_, room)| room.urgency().is_some()), "it takes several steps");
        for _ in 0..5 {
            let at = random.below(MEMBERS);
            let room = world.clients[at].session.as_ref().and_then(|session| session.room(1));
            match (room.is_some(), random.below(3)) {
                (true, 0) => world.clients[at].hang_up(&mut world.shards[0].ring, 0),
                (true, _) => world.say(at, |client, _| vec![client.leave(1)]),
                (false, _) => world.say(at, |client, _| vec![client.join(1, true)]),
            }
        }
        // Nothing more is said that would make it walk again.
        world.settle();
        world.check_rest();
    }
    assert!(end(world).report.messages > 10 * MEMBERS as u64);
}

/// A client that comes back to several busy rooms gets what all of them remember.
#[test]
fn several_busy_rooms_are_resumed_at_once() {
    for transport in BOTH {
        let mut world = World::calm(2, vec![Client::told(0, 0, transport, 100_000)]);
        for room in 1..=4 {
            world.say(0, |client, _| vec![client.join(room, false)]);
            world.run_ms(10);
            world.publish(&Target::Room(room), &[CHAT], 10);
        }
        world.run_ms(50);
        let ring = &mut world.shards[0].ring;
        world.clients[0].hang_up(ring, 0);
        world.run_ms(50);
        for room in 1..=4 {
            world.publish(&Target::Room(room), &[CHAT; 15], LARGE);
        }
        world.run_ms(50);
        world.connect(0);
        world.run_ms(500);
        assert_eq!(world.report.closes.get(CloseReason::SlowReader.name()), None);
        assert_eq!([1, 2, 3, 4].map(|room| n(&world, 0, room)), [16; 4]);
        end(world);
    }
}

/// A burst that is longer than a window waits at its sender until it was walked, and does not pass
/// by those who keep up.
#[test]
fn a_burst_does_not_close_those_who_keep_up() {
    let mut world = slow_and_fast(1, Transport::Tcp);
    world.shards[0].ring.calm();
    world.publish(&ROOM, &[GIFT_LARGE; WINDOW], LARGE);
    world.run_ms(400);
    assert_eq!(world.report.closes.get(CloseReason::SlowReader.name()), None);
    end(world);
}
