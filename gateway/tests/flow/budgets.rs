//! What users, apps and the whole gateway may say.

use std::time::{Duration, Instant};

use barrage_wire::UpstreamFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::Code;
use barrage_wire::upstream::{AckMode, PublishReply};

use super::common::{CHAT, GIFT_LARGE, Gateway, SOON, SYSTEM, TempDir, Upstream, Via};
use super::{ROOM, head, with_policy};

fn ok(code: Code) -> bool {
    assert!(matches!(code, Code::Ok | Code::Limited), "{code:?}");
    code == Code::Ok
}

/// The most that a rate lets through in this time, with its burst.
fn most(per_second: u64, burst: u64, time: Duration) -> u64 {
    // One more, since a gateway counts milliseconds that it has begun.
    burst + (time.as_secs_f64() * per_second as f64) as u64 + 1
}

#[test]
fn a_user_says_no_more_than_the_quota() {
    const REQUESTS: usize = 60;
    with_policy("[quotas]\nuser = \"10/s\"\nuser-burst = 5\n", |gateway| {
        let mut client = gateway.client(Via::Tcp, 1);
        let mut other = gateway.client(Via::Tcp, 2);
        let (here, there) = (client.join(ROOM), other.join(ROOM));
        let since = Instant::now();
        let say = |_| client.publish(here.alias, CHAT, b"x");
        let requests: Vec<u32> = (0..REQUESTS).map(say).collect();
        let answers: Vec<_> = requests.into_iter().map(|request| client.reply(request)).collect();
        let admitted = answers.iter().filter(|(code, ..)| ok(*code)).count() as u64;
        assert!((5..=most(10, 5, since.elapsed())).contains(&admitted), "{admitted}");
        let told = answers.iter().filter(|(code, ..)| *code == Code::Limited);
        assert!(told.clone().all(|(_, wait_ms, _)| (1..=100).contains(wait_ms)), "{answers:?}");
        assert_eq!(gateway.category_metric("limited", "chat"), told.count() as u64);
        // Others and services have their own, and what is never dropped is not refused.
        let request = other.publish(there.alias, CHAT, b"x");
        assert_eq!(other.reply(request).0, Code::Ok);
        let mut upstream = gateway.upstream();
        let since = Instant::now();
        for _ in 0..50 {
            assert_eq!(upstream.say_to_room(ROOM, b"x").0, Code::Ok);
            let head = head(&mut upstream, GIFT_LARGE, 0, AckMode::Accepted);
            assert_eq!(upstream.publish_from(head, ROOM, 1, 1, b"gift").0, Code::Ok);
        }
        // Those count: there is nothing left for the user.
        let request = client.publish(here.alias, CHAT, b"x");
        let (code, wait_ms, _) = client.reply(request);
        let passed_ms = since.elapsed().as_millis() as u64;
        assert!(code == Code::Limited || passed_ms > 4000, "{code:?} after {passed_ms} ms");
        assert!(passed_ms + wait_ms > 4000, "fifty gifts are five seconds: {wait_ms} ms");
    });
}

/// Says so many things in rooms of all shards; how many were admitted.
fn say_many(upstream: &mut Upstream, rooms: u64, count: u64) -> u64 {
    for n in 0..count {
        let head = head(upstream, CHAT, 0, AckMode::Accepted);
        let room = 1 + n % rooms;
        upstream.send(&UpstreamFrame::PublishRoom { head, room, payload: Tail(b"x") });
    }
    let admitted = |reply: &&PublishReply| ok(reply.code);
    upstream.replies(count as usize).iter().filter(admitted).count() as u64
}

#[test]
fn an_app_says_no_more_than_its_quota() {
    let dir = TempDir::new("app-quota");
    let policy = dir.file("policy.toml", "[quotas]\napp = \"200/s\"\napp-burst = 20\n");
    for (cores, rooms) in [("0", 16), ("0-1", 16), ("0-1", 1)] {
        let gateway = Gateway::start(cores, &["--policy", &policy]);
        let mut upstream = gateway.upstream();
        let since = Instant::now();
        let mut admitted = 0;
        while admitted < 500 {
            admitted += say_many(&mut upstream, rooms, 64);
            assert!(since.elapsed() < SOON, "{admitted} admitted, cores {cores}, {rooms} rooms");
        }
        let exact = most(200, 20, since.elapsed());
        // Shares follow demands with a tick's delay, and more than one shard may begin with its
        // even share.
        let max = if gateway.shards == 1 { exact } else { exact * 3 / 2 };
        assert!(admitted <= max, "{admitted} of {max}, cores {cores}, {rooms} rooms");
        for _ in 0..20 {
            let head = head(&mut upstream, SYSTEM, 0, AckMode::Accepted);
            assert_eq!(upstream.publish_to_room(head, ROOM, b"system").0, Code::Ok);
        }
        // Another app is not in debt.
        let mut other = Upstream::on(gateway.upstream_socket());
        other.hello(super::common::APP + 1);
        assert_eq!(other.say_to_room(ROOM, b"x").0, Code::Ok);
    }
}

/// Ten members, and a budget that is used up by a few messages.
#[test]
fn when_bytes_run_short_what_may_be_dropped_gives_way() {
    const MEMBERS: u64 = 10;
    let dir = TempDir::new("egress");
    let policy = dir.file("policy.toml", "[egress]\nbytes-per-second = \"400KB\"\n");
    for cores in ["0", "0-1"] {
        let gateway = Gateway::start(cores, &["--policy", &policy]);
        let mut members: Vec<_> =
            (0..MEMBERS).map(|n| gateway.client(Via::BOTH[n as usize % 2], n + 1)).collect();
        for member in &mut members {
            member.join(ROOM);
        }
        let mut upstream = gateway.upstream();
        let payload = vec![b'x'; 1000];
        let say = |upstream: &mut Upstream, category| {
            let head = head(upstream, category, 0, AckMode::Accepted);
            upstream.publish_to_room(head, ROOM, &payload)
        };
        // Ten kilobytes each: forty of them are a second's budget.
        let since = Instant::now();
        let mut admitted = 0;
        let mut refused = 0;
        let full = 1000 * gateway.shards as u64;
        let fullness = || gateway.metric("egress_fullness_permille");
        let mut least = full;
        while refused < 20 {
            let (code, wait_ms) = say(&mut upstream, CHAT);
            if ok(code) {
                admitted += 1;
            } else {
                refused += 1;
                assert!((1..=5000).contains(&wait_ms), "{wait_ms}");
                least = least.min(fullness());
            }
        }
        assert!(admitted <= most(40, 40, since.elapsed()), "{admitted}");
        assert!(admitted >= 5, "{admitted}");
        assert_eq!(gateway.metric("egress_refused_total"), refused);
        assert_eq!(gateway.category_metric("limited", "chat"), refused);
        assert!(least < full, "{least}");
        // What may not be dropped passes, and more than the budget allows.
        let since = Instant::now();
        for n in 0..100 {
            let category = if n % 2 == 0 { GIFT_LARGE } else { SYSTEM };
            assert_eq!(say(&mut upstream, category).0, Code::Ok);
        }
        let (code, _) = say(&mut upstream, CHAT);
        assert!(code == Code::Limited || since.elapsed() > Duration::from_millis(500));
        // Then there is silence, and the bucket is full again.
        gateway.until_metric("egress_fullness_permille", |fullness| fullness == full);
        assert_eq!(say(&mut upstream, CHAT).0, Code::Ok);
        for member in &mut members {
            assert!(!member.ping().is_empty(), "everybody is served");
        }
        // Without a budget there is none, and it does not come back with an old share.
        dir.file("policy.toml", "");
        assert_eq!(gateway.post("/policy/reload").0, 200);
        for _ in 0..100 {
            assert_eq!(say(&mut upstream, CHAT).0, Code::Ok);
        }
        dir.file("policy.toml", "[egress]\nbytes-per-second = \"400KB\"\n");
    }
}
