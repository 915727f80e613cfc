//! Messages for users that wait in inboxes: each device gets each once, whatever goes away and
//! comes back in between.

mod common;

use std::time::Instant;

use barrage_wire::client::Platform;
use barrage_wire::server::{CloseReason, Code, DIRECT_ACK, DIRECT_REPEAT};
use barrage_wire::upstream::{AckMode, PublishHead};

use common::upstream::PROBE;
use common::{
    CHAT, Client, GIFT_LARGE, Gateway, SOON, SYSTEM, Said, TempDir, Upstream, Via,
    on_one_and_two_shards,
};

const USER: u64 = 1;
const FIRST: u8 = DIRECT_ACK;
const AGAIN: u8 = DIRECT_ACK | DIRECT_REPEAT;

/// Runs a test with a policy on a gateway with one shard, and again on one with two.
fn with_policy(policy: &str, body: impl Fn(&Gateway)) {
    let dir = TempDir::new("inbox");
    let policy = dir.file("policy.toml", policy);
    for cores in ["0", "0-1"] {
        eprintln!("with --cores {cores}");
        body(&Gateway::start(cores, &["--policy", &policy]));
    }
}

fn device(gateway: &Gateway, user: u64, device: u64) -> Client {
    let via = Via::BOTH[device as usize % 2];
    Client::come_from(gateway.address(via), via, user, device, Platform::Unknown)
}

/// About a message that waits in the inbox.
fn head(upstream: &mut Upstream) -> PublishHead {
    PublishHead { category: GIFT_LARGE, ..upstream.head() }
}

fn give(upstream: &mut Upstream, user: u64, payload: &str) -> (Code, u64) {
    let head = head(upstream);
    upstream.publish_to_user(head, user, payload.as_bytes())
}

fn give_stored(upstream: &mut Upstream, user: u64, payload: &str) -> (Code, u64) {
    let head = PublishHead { ack: AckMode::Stored, ..head(upstream) };
    upstream.publish_to_user(head, user, payload.as_bytes())
}

/// The next message of the inbox: its number, its flags and what it says.
fn next(client: &mut Client) -> (u64, u8, String) {
    loop {
        match client.hear() {
            Said::Direct { inbox_seq: 0, payload, .. } if payload == PROBE => {}
            Said::Direct { inbox_seq, flags, payload, .. } => {
                assert!(inbox_seq > 0, "it is to be ACKed");
                return (inbox_seq, flags, String::from_utf8(payload).expect("text"));
            }
            other => panic!("a message was to come, not {other:?}"),
        }
    }
}

/// Hears these, in rising order; returns the last number.
fn hear(client: &mut Client, flags: u8, payloads: &[&str]) -> u64 {
    let mut last = 0;
    for expected in payloads {
        let (seq, how, payload) = next(client);
        assert_eq!((how, payload.as_str()), (flags, *expected));
        assert!(seq > last, "{seq} comes after {last}");
        last = seq;
    }
    last
}

/// What the client was told of its inbox and has not heard yet, when its home knows of it and has
/// told it what waits.
fn left(upstream: &mut Upstream, client: &mut Client, connections: u64) -> Vec<Said> {
    let user = client.user;
    upstream.until_user_has(user, connections);
    // What follows the probe in the same queues has passed it.
    upstream.visit_all_shards();
    let mut said = client.ping();
    said.retain(|said| !matches!(said, Said::Direct { inbox_seq: 0, .. }));
    said
}

#[test]
fn every_device_gets_a_message_until_it_acks() {
    with_policy("[inbox]\nretry-after = \"1s\"\ntries = 3\n", |gateway| {
        let mut upstream = gateway.upstream();
        let (mut one, mut two) = (device(gateway, USER, 1), device(gateway, USER, 2));
        let mut other = device(gateway, USER + 1, 1);
        upstream.until_user_has(USER, 2);
        assert_eq!(give(&mut upstream, USER, "first"), (Code::Ok, 2));
        let seq = hear(&mut one, FIRST, &["first"]);
        one.ack(seq);
        assert_eq!(hear(&mut two, FIRST, &["first"]), seq, "one number for all devices");
        // Three in all: then silence, until the next one does the same.
        assert_eq!(hear(&mut two, AGAIN, &["first"]), seq);
        assert_eq!(hear(&mut two, AGAIN, &["first"]), seq);
        assert_eq!(give(&mut upstream, USER, "second"), (Code::Ok, 2));
        let second = hear(&mut one, FIRST, &["second"]);
        assert_eq!(second, seq + 1, "numbers rise by one");
        one.ack(second);
        hear(&mut two, FIRST, &["second"]);
        hear(&mut two, AGAIN, &["second"]);
        hear(&mut two, AGAIN, &["second"]);
        assert_eq!(gateway.metric("inbox_delivered_total"), 0, "one device has not ACKed");
        two.ack(second);
        gateway.until_metric("inbox_delivered_total", |delivered| delivered == 2);
        assert_eq!(gateway.metric("inbox_repeats_total"), 4);
        for client in [&mut one, &mut two] {
            assert_eq!(left(&mut upstream, client, 2), []);
        }
        assert_eq!(left(&mut upstream, &mut other, 1), [], "it is for one user");
    });
}

#[test]
fn what_came_while_nobody_was_there_is_pulled() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        for payload in ["a", "b", "c", "d", "e"] {
            assert_eq!(give(&mut upstream, USER, payload), (Code::Kept, 0));
        }
        let mut phone = device(gateway, USER, 1);
        let last = hear(&mut phone, FIRST, &["a", "b", "c", "d", "e"]);
        phone.ack(last - 2);
        gateway.until_metric("inbox_delivered_total", |delivered| delivered == 3);
        drop(phone);
        let mut phone = device(gateway, USER, 1);
        assert_eq!(hear(&mut phone, AGAIN, &["d", "e"]), last);
        // Another device is owed what is there, from when it comes.
        let mut tablet = device(gateway, USER, 2);
        assert_eq!(hear(&mut tablet, FIRST, &["d", "e"]), last);
        phone.ack(last);
        // From the past, the future, and nonsense: harmless.
        phone.ack(0);
        phone.ack(last - 1);
        phone.ack(u64::MAX);
        assert_eq!(left(&mut upstream, &mut phone, 2), []);
        assert_eq!(gateway.metric("inbox_delivered_total"), 3, "the tablet has not ACKed");
        drop(tablet);
        let mut tablet = device(gateway, USER, 2);
        assert_eq!(hear(&mut tablet, AGAIN, &["d", "e"]), last);
        tablet.ack(last);
        gateway.until_metric("inbox_delivered_total", |delivered| delivered == 5);
        let mut late = device(gateway, USER, 3);
        assert_eq!(left(&mut upstream, &mut late, 3), [], "everything was delivered");
        // Numbers go on.
        assert_eq!(give(&mut upstream, USER, "f"), (Code::Ok, 3));
        for client in [&mut phone, &mut tablet, &mut late] {
            assert!(hear(client, FIRST, &["f"]) > last);
        }
    });
}

#[test]
fn who_has_no_device_has_each_connection_for_one() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let (mut one, mut two) = (device(gateway, USER, 0), device(gateway, USER, 0));
        upstream.until_user_has(USER, 2);
        assert_eq!(give(&mut upstream, USER, "hello"), (Code::Ok, 2));
        let seq = hear(&mut one, FIRST, &["hello"]);
        hear(&mut two, FIRST, &["hello"]);
        one.ack(seq);
        drop(one);
        upstream.until_user_has(USER, 1);
        assert_eq!(gateway.metric("inbox_delivered_total"), 0, "the other has not ACKed");
        drop(two);
        upstream.until_user_has(USER, 0);
        // The connections are forgotten with what they have ACKed.
        let mut three = device(gateway, USER, 0);
        assert_eq!(hear(&mut three, AGAIN, &["hello"]), seq);
        three.ack(seq);
        gateway.until_metric("inbox_delivered_total", |delivered| delivered == 1);
        drop(three);
        gateway.until_metric("inboxes", |inboxes| inboxes == 0);
        assert_eq!(gateway.metric("inboxes_bytes"), 0, "nothing is left of it");
    });
}

/// Two tabs that name one device, or a connection that lingers while its device is back: the newer
/// one has the inbox, and the other one is told.
#[test]
fn a_device_has_one_connection() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut other = device(gateway, USER, 2);
        let mut older = device(gateway, USER, 1);
        upstream.until_user_has(USER, 2);
        assert_eq!(give(&mut upstream, USER, "a"), (Code::Ok, 2));
        hear(&mut older, FIRST, &["a"]);
        let mut newer = device(gateway, USER, 1);
        let (reason, text) = older.hear_close();
        assert_eq!(reason, CloseReason::Replaced);
        assert!(text.contains("device"), "{text:?}");
        assert_eq!(give(&mut upstream, USER, "b"), (Code::Ok, 2));
        hear(&mut newer, AGAIN, &["a"]);
        let seq = hear(&mut newer, FIRST, &["b"]);
        assert_eq!(hear(&mut other, FIRST, &["a", "b"]), seq);
        newer.ack(seq);
        other.ack(seq);
        gateway.until_metric("inbox_delivered_total", |delivered| delivered == 2);
        drop((newer, other));
        upstream.until_user_has(USER, 0);
        assert_eq!(give(&mut upstream, USER, "c"), (Code::Kept, 0));
        hear(&mut device(gateway, USER, 1), FIRST, &["c"]);
    });
}

/// More devices are connected than an inbox remembers of those that are away.
#[test]
fn every_device_that_is_connected_gets_its_messages() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut here: Vec<_> = (1..=20).map(|name| device(gateway, USER, name)).collect();
        upstream.until_user_has(USER, 20);
        for payload in ["a", "b"] {
            assert_eq!(give(&mut upstream, USER, payload), (Code::Ok, 20));
            for client in &mut here {
                let seq = hear(client, FIRST, &[payload]);
                client.ack(seq);
            }
        }
        gateway.until_metric("inbox_delivered_total", |delivered| delivered == 2);
    });
}

/// The answer counts who was sent the message, not who is connected: a device that ACKs nothing is
/// sent no more than a window of them.
#[test]
fn a_service_is_told_to_how_many_connections_a_message_went() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut silent = device(gateway, USER, 1);
        upstream.until_user_has(USER, 1);
        for _ in 0..32 {
            assert_eq!(give(&mut upstream, USER, "a"), (Code::Ok, 1));
        }
        assert_eq!(give(&mut upstream, USER, "b"), (Code::Kept, 0), "it waits for ACKs");
        let seq = hear(&mut silent, FIRST, &["a"; 32]);
        silent.ack(seq);
        assert_eq!(hear(&mut silent, FIRST, &["b"]), seq + 1);
    });
}

#[test]
fn an_inbox_is_bounded_by_count_and_by_time() {
    with_policy("[inbox]\nmessages = 5\n", |gateway| {
        let mut upstream = gateway.upstream();
        for payload in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            assert_eq!(give(&mut upstream, USER, payload), (Code::Kept, 0));
        }
        assert_eq!(gateway.metric("inbox_crowded_total"), 3);
        hear(&mut device(gateway, USER, 1), FIRST, &["d", "e", "f", "g", "h"]);
        let user = USER + 1;
        for (ttl_ms, payload) in [(50, "short"), (0, "long"), (60_000, "a minute")] {
            let head = PublishHead { ttl_ms, ..head(&mut upstream) };
            let told = upstream.publish_to_user(head, user, payload.as_bytes());
            assert_eq!(told, (Code::Kept, 0));
        }
        gateway.until_metric("inbox_expired_total", |expired| expired == 1);
        let mut client = device(gateway, user, 1);
        hear(&mut client, FIRST, &["long", "a minute"]);
        assert_eq!(left(&mut upstream, &mut client, 1), []);
    });
}

/// A device that comes back to many is not flooded: the next come as it ACKs.
#[test]
fn a_full_inbox_comes_as_it_is_acked() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let payloads: Vec<String> = (0..100).map(|n| format!("{n:04000}")).collect();
        for payload in &payloads {
            assert_eq!(give(&mut upstream, USER, payload), (Code::Kept, 0));
        }
        let mut client = device(gateway, USER, 1);
        let mut window = left(&mut upstream, &mut client, 1);
        assert!(window.len() <= 32, "{} at once", window.len());
        let heard = window.len();
        for (said, expected) in window.drain(..).zip(&payloads) {
            let Said::Direct { inbox_seq, payload, .. } = said else { panic!("{said:?}") };
            assert_eq!(payload, expected.as_bytes());
            client.ack(inbox_seq);
        }
        for expected in &payloads[heard..] {
            let seq = hear(&mut client, FIRST, &[expected]);
            client.ack(seq);
        }
        gateway.until_metric("inbox_delivered_total", |delivered| delivered == 100);
        assert_eq!(left(&mut upstream, &mut client, 1), []);
    });
}

#[test]
fn a_message_for_many_waits_in_each_inbox() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let users: Vec<u64> = (100..164).collect();
        let mut here: Vec<_> = users[..32].iter().map(|&user| device(gateway, user, 1)).collect();
        users[..32].iter().for_each(|&user| upstream.until_user_has(user, 1));
        let head = PublishHead { idempotency_key: 7, ..head(&mut upstream) };
        assert_eq!(upstream.publish_to_users(head, &users, b"all"), (Code::Ok, 32));
        let again = PublishHead { request: upstream.next_request(), ..head };
        assert_eq!(upstream.publish_to_users(again, &users, b"all"), (Code::Duplicate, 32));
        for client in &mut here {
            hear(client, FIRST, &["all"]);
        }
        for &user in &users[32..] {
            let mut client = device(gateway, user, 1);
            hear(&mut client, FIRST, &["all"]);
            assert_eq!(left(&mut upstream, &mut client, 1), [], "once");
        }
        // Other categories wait for nobody.
        let head = PublishHead { category: CHAT, ..upstream.head() };
        assert_eq!(upstream.publish_to_user(head, 99, b"gone"), (Code::Offline, 0));
    });
}

#[test]
fn who_is_kicked_or_banned_finds_it_later() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut client = device(gateway, USER, 1);
        upstream.until_user_has(USER, 1);
        assert_eq!(give(&mut upstream, USER, "a"), (Code::Ok, 1));
        hear(&mut client, FIRST, &["a"]);
        assert_eq!(upstream.kick(USER, "out"), (Code::Ok, 1));
        assert_eq!(client.hear_close().0, CloseReason::Kicked);
        let mut client = device(gateway, USER, 1);
        hear(&mut client, AGAIN, &["a"]);
        assert_eq!(upstream.ban(USER, 3600, "out"), (Code::Ok, 0));
        assert_eq!(client.hear_close().0, CloseReason::Banned);
        upstream.until_user_has(USER, 0);
        assert_eq!(give(&mut upstream, USER, "b"), (Code::Kept, 0));
        assert_eq!(upstream.ban(USER, 0, ""), (Code::Ok, 0));
        let mut client = device(gateway, USER, 1);
        hear(&mut client, AGAIN, &["a"]);
        hear(&mut client, FIRST, &["b"]);
    });
}

/// What was answered is there after the gateway was killed, for those who have not ACKed it; and
/// what was ACKed is not.
#[test]
fn inboxes_outlive_the_gateway() {
    for (cores, then) in [("0", "0-1"), ("0-1", "0-1"), ("0-1", "0")] {
        let data = TempDir::new("inboxes");
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        let (mut phone, mut tablet) = (device(&gateway, USER, 1), device(&gateway, USER, 2));
        upstream.until_user_has(USER, 2);
        assert_eq!(give_stored(&mut upstream, USER, "both"), (Code::Ok, 2));
        let both = hear(&mut phone, FIRST, &["both"]);
        assert_eq!(hear(&mut tablet, FIRST, &["both"]), both);
        phone.ack(both);
        tablet.ack(both);
        gateway.until_metric("inbox_delivered_total", |delivered| delivered == 1);
        assert_eq!(give_stored(&mut upstream, USER, "phone only"), (Code::Ok, 2));
        let seq = hear(&mut phone, FIRST, &["phone only"]);
        phone.ack(seq);
        hear(&mut tablet, FIRST, &["phone only"]);
        // Where the phone's ACK has arrived, a new connection of it is sent nothing.
        let until = Instant::now() + SOON;
        loop {
            phone = device(&gateway, USER, 1);
            if left(&mut upstream, &mut phone, 2).is_empty() {
                break;
            }
            assert!(Instant::now() < until, "the ACK does not arrive");
        }
        // And what is stored behind it says that it is on disk.
        let users: Vec<u64> = (50..66).collect();
        let head = PublishHead { ack: AckMode::Stored, ..head(&mut upstream) };
        assert_eq!(upstream.publish_to_users(head, &users, b"later"), (Code::Kept, 0));
        drop((phone, tablet));
        gateway.kill();

        let gateway = Gateway::start_in(&data, then, &[]);
        let mut upstream = gateway.upstream();
        let mut tablet = device(&gateway, USER, 2);
        let again = hear(&mut tablet, AGAIN, &["phone only"]);
        assert_eq!(again, seq, "a number means one message for ever");
        let mut phone = device(&gateway, USER, 1);
        assert_eq!(left(&mut upstream, &mut phone, 2), [], "what was ACKed does not come again");
        tablet.ack(seq);
        gateway.until_metric("inbox_delivered_total", |delivered| delivered == 1);
        assert_eq!(give(&mut upstream, USER, "new"), (Code::Ok, 2));
        assert!(hear(&mut phone, FIRST, &["new"]) > seq);
        for &user in &users {
            hear(&mut device(&gateway, user, 1), FIRST, &["later"]);
        }
        gateway.end();
        // In order this time, and what nobody ACKed is still there.
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut tablet = device(&gateway, USER, 2);
        hear(&mut tablet, AGAIN, &["new"]);
        hear(&mut device(&gateway, users[3], 1), AGAIN, &["later"]);
    }
}

#[test]
fn stored_is_answered_for_all_of_them_together() {
    for cores in ["0", "0-1"] {
        let data = TempDir::new("stored-for-many");
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        let users: Vec<u64> = (100..116).collect();
        let _here: Vec<_> = users[..8].iter().map(|&user| device(&gateway, user, 1)).collect();
        users[..8].iter().for_each(|&user| upstream.until_user_has(user, 1));
        let mut check = |users: &[u64], category, told| {
            let (ack, request) = (AckMode::Stored, upstream.next_request());
            let head = PublishHead { request, ack, category, ..PublishHead::default() };
            assert_eq!(upstream.publish_to_users(head, users, b"x"), told, "{users:?}");
        };
        check(&users, GIFT_LARGE, (Code::Ok, 8));
        check(&users[7..], SYSTEM, (Code::Ok, 1));
        check(&users[8..], GIFT_LARGE, (Code::Kept, 0));
        check(&users[..1], GIFT_LARGE, (Code::Ok, 1));
        // Only inboxes are on disk.
        check(&users, CHAT, (Code::Unstored, 0));
        // Once it is on disk, and not before, a repeat is told that it was done.
        for told in [(Code::Ok, 1), (Code::Duplicate, 1)] {
            let idempotency_key = 7;
            let head = PublishHead { ack: AckMode::Stored, idempotency_key, ..head(&mut upstream) };
            assert_eq!(upstream.publish_to_user(head, users[0], b"once"), told);
        }
    }
    let gateway = Gateway::start("0", &[]);
    let mut upstream = gateway.upstream();
    assert_eq!(give_stored(&mut upstream, USER, "nowhere"), (Code::Unstored, 0));
    let mut client = device(&gateway, USER, 1);
    assert_eq!(left(&mut upstream, &mut client, 1), [], "nothing was published");
}
