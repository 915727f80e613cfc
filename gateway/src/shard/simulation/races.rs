//! Mail of several shards that crosses on its way, said step by step.

use barrage_router::{AppId, ShardIndex, UserId, UserKey, home_of_user};
use barrage_wire::upstream::SECONDS_FOREVER;

use super::client::Client;
use super::model::Target;
use super::orders::About;
use super::rules::Kind;
use super::upstream::Upstream;
use super::world::World;
use crate::fake_ring::Random;
use crate::room_log::Transport;

const SYSTEM: u16 = 0;

/// A user of app 1 whose home is the first shard.
fn user_of_first(shards: u16) -> u64 {
    let shards = shards.try_into().expect("some");
    let key = |user| UserKey { app: AppId(1), user: UserId(user) };
    (1..).find(|&user| home_of_user(key(user), shards) == ShardIndex(0)).expect("somebody")
}

fn client(name: usize, shard: usize, user: u64) -> Client {
    let mut client = Client::told(name, shard, Transport::Tcp, usize::MAX);
    client.user = user;
    client
}

/// Lets time pass for one shard only, and for a client on it that acknowledges at once.
fn run_alone(world: &mut World, shard: usize, client: Option<usize>, ms: u64) {
    for _ in 0..ms {
        world.now_us += 1_000;
        world.step(shard);
        if let Some(at) = client {
            world.hear_client(at);
            world.clients[at].ack_all(&mut world.shards[shard].ring);
        }
    }
}

/// One device has its message and has acknowledged it while the other's shard does nothing.
#[test]
fn a_device_on_a_slow_shard_gets_what_the_other_one_has_acknowledged() {
    let user = user_of_first(2);
    let clients = vec![client(0, 0, user), client(1, 1, user)];
    let kind = Kind { inboxes: true, ..Kind::PLAIN };
    let mut world = World::calm_with(2, clients, kind);
    world.publish(&Target::Users(vec![user]), &[SYSTEM], 10);
    run_alone(&mut world, 0, Some(0), 20);
    assert_eq!(world.report.kept, 1, "the first one has it");
    world.settle();
    assert_eq!(world.report.kept, 2, "and so has the other one");
    world.check_rest();
}

/// A connection that goes before its shard has said which device it is does not lose what was
/// published while it was there.
#[test]
fn a_device_that_goes_at_once_gets_its_messages_when_it_comes_back() {
    let user = user_of_first(2);
    let clients = vec![client(0, 0, user), client(1, 1, user)];
    let kind = Kind { inboxes: true, ..Kind::PLAIN };
    let mut world = World::calm_with(2, clients, kind);
    world.publish(&Target::Users(vec![user]), &[SYSTEM], 10);
    run_alone(&mut world, 0, None, 20);
    world.clients[1].hang_up(&mut world.shards[1].ring, crate::fake_ring::ECONNRESET);
    world.settle();
    assert_eq!(world.report.kept, 1, "the first one has it");
    world.connect(1);
    world.settle();
    assert_eq!(world.report.kept, 2, "and so has the other one");
}

/// HELLO passes at a shard that does not know of the ban yet, and is at the user's home in the same
/// step as the ban.
#[test]
fn a_ban_and_a_hello_that_cross_leave_nobody_connected() {
    let user = user_of_first(3);
    let clients = vec![client(0, 2, user)];
    let mut world = World::calm_with(3, clients, Kind { orders: true, ..Kind::PLAIN });
    world.clients[0].hang_up(&mut world.shards[2].ring, crate::fake_ring::ECONNRESET);
    world.settle();
    let mut service = Upstream::new(1, 1, 1, "", Random(2));
    service.always_reply();
    service.connect(&mut world.shards[1].ring);
    world.upstreams.push(service);
    world.run_ms(10);
    world.connect(0);
    run_alone(&mut world, 2, None, 5);
    let ring = &mut world.shards[1].ring;
    world.upstreams[1].say_order(ring, &mut world.truth, user, About::Ban, SECONDS_FOREVER);
    run_alone(&mut world, 1, None, 5);
    world.settle();
    assert!(world.clients[0].session.is_none(), "it is closed");
    assert_eq!(world.report.closes.get("Banned"), Some(&1));
    world.check_rest();
}
