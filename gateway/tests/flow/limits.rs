//! Limits by level, and levels by members.

use std::time::{Duration, Instant};

use barrage_wire::server::Code;
use barrage_wire::upstream::AckMode;

use super::common::client::from_now;
use super::common::{CHAT, Client, GIFT_LARGE, Gateway, SOON, Said, Via};
use super::{ROOM, head, with_policy};

/// A room of 2, 4 and 6 members is L2, L3 and L4. Chat is the only category that is limited.
const POLICY: &str = r#"
[levels]
from = [2, 4, 6]
dwell = "300ms"
dwell-max = "300ms"

[[category]]
id = 4
name = "chat"
class = "P3"
limits = ["unlimited", "100/s", "50/s", "2/s"]
burst = [0, 0, 0, 1]

[[category]]
id = 1
name = "gift_large"
class = "P1"
never-drop = true
"#;

/// Joins, and says at which level the room is then.
fn level_on_join(client: &mut Client) -> u8 {
    client.ask_to_join(from_now(ROOM));
    loop {
        if let Said::Joined { level, .. } = client.hear() {
            return level;
        }
    }
}

/// A room with six members.
fn crowd(gateway: &Gateway) -> Vec<Client> {
    let mut levels = Vec::new();
    let members = (0..6).map(|n| {
        let mut client = gateway.client(Via::BOTH[n % 2], 1);
        levels.push(level_on_join(&mut client));
        client
    });
    let members = members.collect();
    assert_eq!(levels, [1, 2, 2, 3, 3, 4], "it rises with the members, at once");
    members
}

#[test]
fn what_is_too_much_is_refused_until_it_is_time() {
    with_policy(POLICY, |gateway| {
        let mut members = crowd(gateway);
        let mut upstream = gateway.upstream();
        let mut admitted = 0;
        let mut refused = 0;
        for round in 0..3 {
            // One is admitted, at once or when it was told to come again; then there is none left.
            let mut code = upstream.say_to_room(ROOM, b"chat");
            if round == 0 {
                assert_eq!(code, (Code::Ok, 1));
            }
            while code.0 == Code::Ok {
                admitted += 1;
                assert_eq!(code.1, admitted, "what was refused has no number");
                code = upstream.say_to_room(ROOM, b"chat");
            }
            let (Code::Limited, retry_after_ms @ 1..=500) = code else { panic!("{code:?}") };
            refused += 1;
            std::thread::sleep(Duration::from_millis(retry_after_ms));
            admitted += 1;
            let then = upstream.say_to_room(ROOM, b"chat");
            assert_eq!(then, (Code::Ok, admitted), "it was told to come again then");
        }
        assert_eq!(gateway.category_metric("limited", "chat"), refused);
        assert_eq!(gateway.category_metric("admitted", "chat"), admitted);
        for n in 0..200 {
            let head = head(&mut upstream, GIFT_LARGE, 0, AckMode::Accepted);
            let told = upstream.publish_to_room(head, ROOM, b"gift");
            assert_eq!(told, (Code::Ok, admitted + 1 + n), "it is never refused");
        }
        assert_eq!(gateway.category_metric("limited", "gift_large"), 0);
        // Everybody hears all that was admitted and nothing else.
        let last = admitted + 200;
        for member in &mut members {
            let mut heard = 0;
            while heard < last {
                if let Said::Message { seq, .. } = member.hear() {
                    heard += 1;
                    assert_eq!(seq, heard);
                }
            }
        }
    });
}

/// A client is refused like a service; other rooms have limits of their own.
#[test]
fn a_client_is_told_when_to_come_again() {
    with_policy(POLICY, |gateway| {
        let mut members = crowd(gateway);
        let room = members[0].join(ROOM + 1);
        let mut client = gateway.client(Via::Tcp, 2);
        let here = client.join(ROOM);
        let requests: Vec<u32> = (0..5).map(|_| client.publish(here.alias, CHAT, b"?")).collect();
        let answers: Vec<_> = requests.iter().map(|&it| client.reply(it)).collect();
        assert_eq!(answers[0].0, Code::Ok);
        let limited = answers.iter().filter(|(code, ..)| *code == Code::Limited);
        assert!(limited.clone().count() >= 3, "{answers:?}");
        assert!(limited.clone().all(|(_, wait_ms, _)| (1..=500).contains(wait_ms)), "{answers:?}");
        for _ in 0..20 {
            let request = members[0].publish(room.alias, CHAT, b"a small room");
            assert_eq!(members[0].reply(request).0, Code::Ok);
        }
    });
}

#[test]
fn a_level_falls_when_the_room_has_been_small_for_a_while() {
    with_policy(POLICY, |gateway| {
        let mut members = crowd(gateway);
        let since = Instant::now();
        members.truncate(1);
        // One more makes two, which is L2, and leaves no mark: the room stays under L3.
        let mut client = gateway.client(Via::Tcp, 2);
        let mut levels = Vec::new();
        while levels.last() != Some(&2) {
            assert!(since.elapsed() < SOON, "{levels:?}");
            levels.push(level_on_join(&mut client));
            let request = client.leave(ROOM);
            assert_eq!(client.reply(request).0, Code::Ok);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(levels.is_sorted_by(|a, b| a >= b), "it only falls: {levels:?}");
        assert!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());
        // And limits are those of the level again.
        let mut upstream = gateway.upstream();
        for _ in 0..20 {
            assert_eq!(upstream.say_to_room(ROOM, b"chat").0, Code::Ok);
        }
    });
}
