//! Bans, mutes and device rules: they hold on every shard when they are answered, end when they
//! should, and outlive the gateway.

mod common;

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use barrage_wire::client::Platform;
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::upstream::{PublishHead, SECONDS_FOREVER};

use common::{
    CHAT, Client, GIFT_LARGE, Gateway, SOON, Said, TempDir, Upstream, Via, on_one_and_two_shards,
};

const USER: u64 = 1;
/// Long enough that no test sees the end of it.
const HOUR: u32 = 3600;
/// What is left of it, in milliseconds, while a test runs.
const IN_AN_HOUR: RangeInclusive<u32> = (HOUR - 600) * 1000..=HOUR * 1000;

/// What a HELLO of this user is answered with at once: nothing, or that it is to go, for so long at
/// least.
fn refusal(gateway: &Gateway, via: Via, user: u64) -> Option<(CloseReason, u32, String)> {
    let mut client = Client::connect(gateway.address(via), via);
    client.hello_from(user, 0, Platform::Web, &[]);
    match client.hear() {
        Said::Welcome { .. } => None,
        Said::Close { reason, retry_after_ms, text } => Some((reason, retry_after_ms, text)),
        other => panic!("neither welcome nor refused: {other:?}"),
    }
}

fn assert_banned(gateway: &Gateway, user: u64, text: &str) {
    // Enough connections that each shard gets some.
    for n in 0..8 {
        let refused = refusal(gateway, Via::BOTH[n % 2], user);
        let (reason, _, said) = refused.unwrap_or_else(|| panic!("user {user} was let in"));
        assert_eq!((reason, said.as_str()), (CloseReason::Banned, text));
    }
}

#[test]
fn a_ban_closes_every_connection_and_refuses_new_ones_until_it_is_lifted() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut bystander = gateway.client(Via::Tcp, USER + 1);
        let mut banned: Vec<_> = (0..8).map(|n| gateway.client(Via::BOTH[n % 2], USER)).collect();
        upstream.until_user_has(USER, 8);
        assert_eq!(upstream.ban(USER, HOUR, "rude"), (Code::Ok, 0));
        assert_banned(gateway, USER, "rude");
        for client in &mut banned {
            match client.hear_all().pop() {
                Some(Said::Close { reason: CloseReason::Banned, retry_after_ms, text }) => {
                    assert!(IN_AN_HOUR.contains(&retry_after_ms), "{retry_after_ms} ms");
                    assert_eq!(text, "rude");
                }
                other => panic!("it is banned, and hears {other:?}"),
            }
            assert!(client.via == Via::Tcp || client.close_code == Some(1008), "a browser's code");
        }
        assert_eq!(upstream.ban(USER, 0, ""), (Code::Ok, 0));
        for n in 0..8 {
            assert_eq!(refusal(gateway, Via::BOTH[n % 2], USER), None, "it was lifted");
        }
        let long = "é".repeat(128);
        let mut check = |seconds, text: &str, told: &str, away: RangeInclusive<u32>| {
            assert_eq!(upstream.ban(USER, seconds, text), (Code::Ok, 0));
            let (_, ms, said) = refusal(gateway, Via::Tcp, USER).expect("the user is banned");
            assert_eq!(said, told);
            assert!(away.contains(&ms), "{ms} ms, for {seconds} s");
        };
        let longest = u32::MAX..=u32::MAX;
        check(SECONDS_FOREVER, "for ever", "for ever", longest.clone());
        check(50 * 24 * HOUR, "", "you are banned", longest);
        check(HOUR, "", "you are banned", IN_AN_HOUR);
        check(HOUR, &long, &long, IN_AN_HOUR);
        assert!(bystander.ping().is_empty(), "nobody else has noticed");
    });
}

/// A connection that comes while its user is banned is refused or closed, wherever it is and
/// whatever has overtaken what: it never stays.
#[test]
fn nobody_slips_in_while_a_ban_is_on_its_way() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        for user in 100..130 {
            let mut coming: Vec<_> =
                (0..6).map(|_| Client::connect(gateway.tcp, Via::Tcp)).collect();
            let (first, last) = coming.split_at_mut(3);
            first.iter_mut().for_each(|client| client.hello_from(user, 0, Platform::Web, &[]));
            let request = upstream.next_request();
            let text = barrage_wire::codec::Text("out");
            let ban = barrage_wire::UpstreamFrame::Ban { request, user, seconds: HOUR, text };
            upstream.send(&ban);
            last.iter_mut().for_each(|client| client.hello_from(user, 0, Platform::Web, &[]));
            assert_eq!(upstream.replies(1)[0].code, Code::Ok);
            for client in &mut coming {
                assert_eq!(client.hear_close().0, CloseReason::Banned, "user {user}");
            }
        }
    });
}

/// Says something until it is no longer answered with `code`; what it is answered with then.
fn until_other_than(code: Code, mut say: impl FnMut() -> Code) -> Code {
    let until = Instant::now() + SOON;
    loop {
        match say() {
            same if same == code => assert!(Instant::now() < until, "it is {code:?} for ever"),
            other => return other,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn bans_and_mutes_end_by_themselves() {
    const SECONDS: u32 = 2;
    /// Shards look at the time once in a step.
    const AT_LEAST: Duration = Duration::from_millis(1900);
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut client = gateway.client(Via::Tcp, USER);
        let room = client.join(7);
        let since = Instant::now();
        assert_eq!(upstream.mute(USER, 7, SECONDS), (Code::Ok, 0));
        assert_eq!(upstream.ban(USER + 1, SECONDS, "for a moment"), (Code::Ok, 0));
        let muted = until_other_than(Code::Muted, || {
            let request = client.publish(room.alias, CHAT, b"hello?");
            client.reply(request).0
        });
        assert_eq!(muted, Code::Ok);
        assert!(since.elapsed() >= AT_LEAST, "muted for {:?}", since.elapsed());
        let until = Instant::now() + SOON;
        while refusal(gateway, Via::Tcp, USER + 1).is_some() {
            assert!(Instant::now() < until, "the ban does not end");
        }
        assert!(since.elapsed() >= AT_LEAST, "banned for {:?}", since.elapsed());
    });
}

/// What each way to say something is answered with, for a user who is a member of rooms.
struct Speaker {
    client: Client,
    aliases: Vec<(u64, u32)>,
}

impl Speaker {
    fn new(gateway: &Gateway, user: u64, rooms: std::ops::Range<u64>) -> Self {
        let mut client = gateway.client(Via::WebSocket, user);
        let aliases = rooms.map(|room| (room, client.join(room).alias)).collect();
        Self { client, aliases }
    }

    fn says(&mut self, room: u64) -> Code {
        let (_, alias) = *self.aliases.iter().find(|(of, _)| *of == room).expect("a member");
        let request = self.client.publish(alias, CHAT, b"me");
        self.client.reply(request).0
    }
}

#[test]
fn a_mute_is_for_one_user_and_one_room_or_for_all_of_them() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut muted = Speaker::new(gateway, USER, 7..9);
        let mut other = Speaker::new(gateway, USER + 1, 7..9);
        let mut check = |upstream: &mut Upstream, in_7, in_8| {
            assert_eq!((muted.says(7), muted.says(8)), (in_7, in_8));
            assert_eq!((other.says(7), other.says(8)), (Code::Ok, Code::Ok), "others may speak");
            for (room, code) in [(7, in_7), (8, in_8)] {
                for category in [CHAT, GIFT_LARGE] {
                    let head = PublishHead { category, ..upstream.head() };
                    let (told, _) = upstream.publish_from(head, room, USER, 1, b"on behalf");
                    assert_eq!(told, code, "room {room}, category {category}");
                }
                assert_eq!(upstream.say_to_room(room, b"a service").0, Code::Ok);
            }
        };
        check(&mut upstream, Code::Ok, Code::Ok);
        assert_eq!(upstream.mute(USER, 7, HOUR), (Code::Ok, 0));
        check(&mut upstream, Code::Muted, Code::Ok);
        assert_eq!(upstream.mute(USER, 0, SECONDS_FOREVER), (Code::Ok, 0));
        check(&mut upstream, Code::Muted, Code::Muted);
        assert_eq!(upstream.mute(USER, 0, 0), (Code::Ok, 0));
        check(&mut upstream, Code::Muted, Code::Ok);
        assert_eq!(upstream.mute(USER, 7, 0), (Code::Ok, 0));
        check(&mut upstream, Code::Ok, Code::Ok);
        assert_eq!(upstream.mute(USER, 7, 0), (Code::Ok, 0), "lifting nothing is no mistake");
        // 3 in the first round, 6 in the second, 3 in the third, of each room that was muted.
        assert_eq!(gateway.metric("muted_total"), 3 + 6 + 3);
        // In each round two others speak, and the user three times if that is allowed.
        let heads = [7, 8].map(|room| gateway.client(Via::Tcp, USER + 2).join(room).head);
        assert_eq!(heads, [5 * 2 + 2 * 3, 5 * 2 + 4 * 3], "what was refused has no number");
    });
}

/// Not even a service speaks for somebody who is banned.
#[test]
fn who_is_banned_says_nothing_by_way_of_a_service() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        for (seconds, code) in [(HOUR, Code::Muted), (0, Code::Ok)] {
            assert_eq!(upstream.ban(USER, seconds, "out"), (Code::Ok, 0));
            for room in 1..9 {
                let head = upstream.head();
                let (told, _) = upstream.publish_from(head, room, USER, 1, b"on behalf");
                assert_eq!(told, code, "room {room}");
                let head = upstream.head();
                let (told, _) = upstream.publish_from(head, room, USER + 1, 1, b"another's");
                assert_eq!(told, Code::Ok);
            }
        }
    });
}

/// The answer comes when it holds everywhere: what is said after it, in any room, is refused.
#[test]
fn a_mute_holds_in_every_room_when_it_is_answered() {
    const ROOMS: std::ops::Range<u64> = 1..33;
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut speaker = Speaker::new(gateway, USER, ROOMS);
        for (seconds, code) in [(HOUR, Code::Muted), (0, Code::Ok), (HOUR, Code::Muted)] {
            assert_eq!(upstream.mute(USER, 0, seconds), (Code::Ok, 0));
            for room in ROOMS {
                assert_eq!(speaker.says(room), code, "room {room}");
            }
        }
    });
}

#[test]
fn bans_and_mutes_outlive_the_gateway_and_what_was_lifted_does_not_come_back() {
    for cores in ["0", "0-1"] {
        let data = TempDir::new("orders");
        let mut gateway = Gateway::start_in(&data, cores, &[]);
        for round in 0..3 {
            if round > 0 {
                // At first without a warning, then in order.
                if round == 1 {
                    gateway.kill()
                } else {
                    gateway.end()
                }
                gateway = Gateway::start_in(&data, cores, &[]);
            }
            let mut upstream = gateway.upstream();
            if round == 0 {
                for user in 10..20 {
                    assert_eq!(upstream.ban(user, HOUR, "stays"), (Code::Ok, 0));
                    assert_eq!(upstream.mute(user + 10, 7, SECONDS_FOREVER), (Code::Ok, 0));
                    assert_eq!(upstream.ban(user + 20, HOUR, "goes"), (Code::Ok, 0));
                    assert_eq!(upstream.ban(user + 20, 0, ""), (Code::Ok, 0));
                    assert_eq!(upstream.mute(user + 20, 0, HOUR), (Code::Ok, 0));
                    assert_eq!(upstream.mute(user + 20, 0, 0), (Code::Ok, 0));
                }
                assert_eq!(upstream.ban(99, 1, "is over when it is looked for"), (Code::Ok, 0));
            }
            for user in 10..20 {
                let (reason, ms, text) = refusal(&gateway, Via::Tcp, user).expect("banned");
                assert_eq!((reason, text.as_str()), (CloseReason::Banned, "stays"));
                assert!(IN_AN_HOUR.contains(&ms), "{ms} ms");
                let mut muted = Speaker::new(&gateway, user + 10, 7..9);
                assert_eq!((muted.says(7), muted.says(8)), (Code::Muted, Code::Ok));
                let mut free = Speaker::new(&gateway, user + 20, 7..8);
                assert_eq!(free.says(7), Code::Ok);
            }
            if round > 0 {
                let until = Instant::now() + SOON;
                while refusal(&gateway, Via::Tcp, 99).is_some() {
                    assert!(Instant::now() < until, "the ban does not end");
                }
            }
        }
    }
}

/// A connection of a device without a name on this platform, when the user's home knows of it.
fn come_on(gateway: &Gateway, upstream: &mut Upstream, on: Platform, connections: u64) -> Client {
    let client = Client::come_from(gateway.tcp, Via::Tcp, USER, 0, on);
    upstream.until_user_has(USER, connections);
    client
}

#[test]
fn one_device_too_many_replaces_the_oldest_of_its_platform() {
    let dir = TempDir::new("devices");
    let policy = dir.file("policy.toml", "[devices]\nweb = 2\nios = 1\n");
    for cores in ["0", "0-1"] {
        let gateway = Gateway::start(cores, &["--policy", &policy]);
        let mut upstream = gateway.upstream();
        let mut come = |on, connections| come_on(&gateway, &mut upstream, on, connections);
        let mut other = gateway.client(Via::Tcp, USER + 1);
        let mut phone = come(Platform::Ios, 1);
        let mut webs = vec![come(Platform::Web, 2), come(Platform::Web, 3)];
        let mut desktops: Vec<_> = (4..9).map(|n| come(Platform::Desktop, n)).collect();
        for replaced in 1..=6 {
            webs.push(come(Platform::Web, 8));
            let (reason, text) = webs.remove(0).hear_close();
            assert_eq!(reason, CloseReason::Replaced);
            assert!(text.contains("at most 2"), "{text:?}");
            assert_eq!(gateway.metric("replaced_total"), replaced);
        }
        let mut newer = come(Platform::Ios, 8);
        assert_eq!(phone.hear_close().0, CloseReason::Replaced);
        // Who has gone by itself makes room.
        drop(webs.remove(0));
        upstream.until_user_has(USER, 7);
        webs.push(come_on(&gateway, &mut upstream, Platform::Web, 8));
        for client in webs.iter_mut().chain(&mut desktops).chain([&mut newer]) {
            let said = client.ping();
            assert!(!said.iter().any(|said| matches!(said, Said::Close { .. })), "{said:?}");
        }
        assert!(other.ping().is_empty());
        assert_eq!(gateway.metric("replaced_total"), 7);
    }
}

/// A device that is back before its last connection was found to be dead takes that one's place, and
/// nobody else's.
#[test]
fn a_device_that_comes_again_replaces_itself_first() {
    let dir = TempDir::new("same-device");
    let policy = dir.file("policy.toml", "[devices]\nweb = 2\n");
    for cores in ["0", "0-1"] {
        let gateway = Gateway::start(cores, &["--policy", &policy]);
        let mut upstream = gateway.upstream();
        let mut come = |device, connections| {
            let client = Client::come_from(gateway.tcp, Via::Tcp, USER, device, Platform::Web);
            upstream.until_user_has(USER, connections);
            client
        };
        let mut first = come(1, 1);
        let mut lingering = come(2, 2);
        let mut back = come(2, 2);
        assert_eq!(lingering.hear_close().0, CloseReason::Replaced);
        for client in [&mut first, &mut back] {
            let said = client.ping();
            assert!(!said.iter().any(|said| matches!(said, Said::Close { .. })), "{said:?}");
        }
        let _third = come(3, 2);
        assert_eq!(first.hear_close().0, CloseReason::Replaced, "now it is the oldest");
    }
}

/// With a stricter policy those who are there stay, until another one comes.
#[test]
fn fewer_devices_hold_for_those_who_come() {
    let dir = TempDir::new("fewer-devices");
    let policy = dir.file("policy.toml", "");
    let gateway = Gateway::start("0-1", &["--policy", &policy]);
    let mut upstream = gateway.upstream();
    let mut old: Vec<_> =
        (1..=4).map(|n| come_on(&gateway, &mut upstream, Platform::Bot, n)).collect();
    dir.file("policy.toml", "[devices]\nbot = 2\n");
    assert_eq!(gateway.post("/policy/reload").0, 200);
    upstream.until_user_has(USER, 4);
    let mut newest = come_on(&gateway, &mut upstream, Platform::Bot, 2);
    for client in &mut old[..3] {
        assert_eq!(client.hear_close().0, CloseReason::Replaced);
    }
    for client in [&mut old[3], &mut newest] {
        let said = client.ping();
        assert!(!said.iter().any(|said| matches!(said, Said::Close { .. })), "{said:?}");
    }
}
