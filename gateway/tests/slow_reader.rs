//! Members that do not read while a room is flooded: nothing is lost without being declared, what
//! may not be dropped is not dropped, and the others do not notice.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use barrage_wire::UpstreamFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::upstream::PublishHead;

use common::client::Room;
use common::{
    CHAT, Client, GIFT_LARGE, Gateway, Receiver, SOON, Said, Socket, TempDir, Told, Upstream, Via,
    on_one_and_two_shards,
};

const ROOM: u64 = 7;
/// Bytes that those who read may be behind, so that they never miss the window of 1 MiB.
const AHEAD_BYTES_MAX: u64 = 256 * 1024;
/// Bytes of a chat message.
const BYTES: usize = 128;
/// Every so many messages, one may not be dropped.
const GIFT_EVERY: u64 = 100;

/// A member whose socket is full soon when it does not read.
fn narrow(gateway: &Gateway, via: Via) -> (Client, Room) {
    let mut client = Client::on(Socket::tcp_narrow(gateway.address(via)), via);
    client.hello(1, &[]);
    let room = client.join(ROOM);
    (client, room)
}

/// Members that read all the time, and how far each is.
struct Readers {
    progress: Vec<AtomicU64>,
}

impl Readers {
    fn new(count: usize) -> Self {
        Self { progress: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    fn start<'s>(&'s self, scope: &'s Scope<'s, '_>, gateway: &Gateway, last: u64) {
        for (index, progress) in self.progress.iter().enumerate() {
            let mut client = gateway.client(Via::BOTH[index % 2], 2);
            let room = client.join(ROOM);
            progress.store(room.head, Ordering::Relaxed);
            scope.spawn(move || {
                for seq in room.head + 1..=last {
                    assert_eq!(client.message(room.alias).0, seq, "those who read miss nothing");
                    progress.store(seq, Ordering::Relaxed);
                }
            });
        }
    }

    fn least(&self) -> u64 {
        let all = self.progress.iter().map(|progress| progress.load(Ordering::Relaxed));
        all.min().unwrap_or(u64::MAX)
    }

    /// Waits until none is more than `ahead` behind `seq`.
    fn keep_up_with(&self, seq: u64, ahead: u64) {
        let until = Instant::now() + SOON;
        while self.least().saturating_add(ahead) < seq {
            assert!(Instant::now() < until, "the readers are stuck at {}", self.least());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Publishes `count` messages, as fast as the readers read.
fn flood(
    upstream: &mut Upstream,
    readers: &Readers,
    count: u64,
    bytes: usize,
    category: impl Fn(u64) -> u16,
) {
    let payload = vec![b'x'; bytes];
    let ahead = AHEAD_BYTES_MAX / bytes as u64;
    let mut replied = 0;
    for seq in 1..=count {
        let head = PublishHead { category: category(seq), ..upstream.head() };
        upstream.send(&UpstreamFrame::PublishRoom { head, room: ROOM, payload: Tail(&payload) });
        if seq.is_multiple_of(ahead / 2) || seq == count {
            for reply in upstream.replies((seq - replied) as usize) {
                replied += 1;
                assert_eq!((reply.code, reply.seq), (Code::Ok, replied));
            }
            readers.keep_up_with(seq, ahead);
        }
    }
}

const POLICY_WITHOUT_INBOXES: &str = r#"
[[category]]
id = 1
name = "gift_large"
class = "P1"
never-drop = true

[[category]]
id = 4
name = "chat"
class = "P3"
"#;

fn mostly_chat(seq: u64) -> u16 {
    if seq.is_multiple_of(GIFT_EVERY) { GIFT_LARGE } else { CHAT }
}

/// Reads until everything up to `last` is here or declared.
fn hear_up_to(client: &mut Client, receiver: &mut Receiver, last: u64) {
    while receiver.knows_up_to() != Some(last) {
        let said = client.hear();
        assert!(!matches!(said, Said::Close { .. }), "{said:?}");
        receiver.hear(&said);
    }
}

fn check_account(receiver: &Receiver, last: u64) {
    let shed: u64 = receiver.shed.iter().sum();
    assert_eq!(receiver.seqs.len() as u64 + shed, last, "delivered and declared are all");
    let gifts: Vec<u64> =
        receiver.seqs.iter().copied().filter(|seq| seq.is_multiple_of(GIFT_EVERY)).collect();
    let expected: Vec<u64> = (1..=last / GIFT_EVERY).map(|gift| gift * GIFT_EVERY).collect();
    assert_eq!(gifts, expected, "what may not be dropped is there once and in order");
}

/// What all members were told of agrees with what the gateway counts.
fn check_metrics(gateway: &Gateway, told: &[&Receiver]) {
    for class in 0..4 {
        let sum: u64 = told.iter().map(|receiver| receiver.shed[class]).sum();
        assert_eq!(gateway.metric(&format!("shed_p{class}_total")), sum, "P{class}");
    }
}

#[test]
fn who_stops_reading_gets_an_exact_account_when_it_reads_again() {
    const MESSAGES: u64 = 40_000;
    on_one_and_two_shards(|gateway| {
        let readers = Readers::new(4);
        let mut slow = Via::BOTH.map(|via| narrow(gateway, via));
        let mut upstream = gateway.upstream();
        std::thread::scope(|scope| {
            readers.start(scope, gateway, MESSAGES);
            flood(&mut upstream, &readers, MESSAGES, BYTES, mostly_chat);
        });
        let receivers = slow.each_mut().map(|(client, room)| {
            let mut receiver = Receiver::new(room);
            hear_up_to(client, &mut receiver, MESSAGES);
            check_account(&receiver, MESSAGES);
            assert!(receiver.declared > 0, "it was too slow");
            assert_eq!(receiver.shed[..3], [0; 3], "only chat was left out");
            receiver
        });
        check_metrics(gateway, &receivers.each_ref());
        // They are members like all others again.
        assert_eq!(upstream.say_to_room(ROOM, b"live").1, MESSAGES + 1);
        for (client, room) in &mut slow {
            assert_eq!(client.message(room.alias), (MESSAGES + 1, b"live".to_vec()));
            assert!(client.ping().is_empty());
        }
        assert_eq!(gateway.metric("slow_readers_total"), 0);
        gateway.until_metric("log_bytes", |bytes| bytes == 0);
    });
}

/// Reads some, waits until the room is far ahead, and so on: it falls out of the window again and
/// again, at whatever point it is.
#[test]
fn who_reads_too_slowly_all_the_time_gets_an_exact_account_of_every_gap() {
    const MESSAGES: u64 = 60_000;
    const PAUSE: u64 = 15_000;
    let gateway = &Gateway::start("0-1", &[]);
    let readers = &Readers::new(2);
    let mut upstream = gateway.upstream();
    let receivers = std::thread::scope(|scope| {
        readers.start(scope, gateway, MESSAGES);
        let slow = Via::BOTH.map(|via| {
            let (mut client, room) = narrow(gateway, via);
            scope.spawn(move || {
                let mut receiver = Receiver::new(&room);
                let mut next_pause = PAUSE;
                while receiver.knows_up_to() != Some(MESSAGES) {
                    // It reads on when the room is a pause further, and so always too late.
                    let until = Instant::now() + 2 * SOON;
                    while readers.least() < next_pause.min(MESSAGES) {
                        assert!(Instant::now() < until, "the room is stuck");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    next_pause += PAUSE;
                    for _ in 0..PAUSE / 3 {
                        if receiver.knows_up_to() == Some(MESSAGES) {
                            break;
                        }
                        let said = client.hear();
                        assert!(!matches!(said, Said::Close { .. }), "{said:?}");
                        receiver.hear(&said);
                    }
                }
                receiver
            })
        });
        flood(&mut upstream, readers, MESSAGES, BYTES, mostly_chat);
        slow.map(|slow| slow.join().expect("the account is exact"))
    });
    for receiver in &receivers {
        check_account(receiver, MESSAGES);
        assert!(receiver.declared > 0, "it was too slow");
    }
    check_metrics(gateway, &receivers.each_ref());
}

#[test]
fn who_is_too_far_behind_for_what_may_not_be_dropped_is_closed_and_can_resume() {
    const MESSAGES: u64 = 8_000;
    on_one_and_two_shards(|gateway| {
        let readers = Readers::new(2);
        let mut slow = Via::BOTH.map(|via| narrow(gateway, via));
        let mut upstream = gateway.upstream();
        std::thread::scope(|scope| {
            readers.start(scope, gateway, MESSAGES);
            flood(&mut upstream, &readers, MESSAGES, 1000, |_| GIFT_LARGE);
        });
        for (head, (client, room)) in (MESSAGES..).zip(&mut slow) {
            let mut receiver = Receiver::new(room);
            let mut said = client.hear_all();
            let last = said.pop();
            assert!(
                matches!(last, Some(Said::Close { reason: CloseReason::SlowReader, .. })),
                "{last:?}"
            );
            said.iter().for_each(|said| receiver.hear(said));
            let count = receiver.seqs.len() as u64;
            assert_eq!(receiver.seqs, (1..=count).collect::<Vec<_>>(), "what it got has no gap");
            assert!(count > 0 && count < MESSAGES);
            let mut again = gateway.client(Via::Tcp, 1);
            let joined = again.join_at(room.at(count));
            let (alias, epoch) = (joined.alias, joined.epoch);
            let Said::Reset { alias: of, epoch: now, head: at, .. } = again.hear() else {
                panic!("what it missed is no longer remembered")
            };
            assert_eq!((of, now, at), (alias, epoch, head));
            let request = again.publish(joined.alias, CHAT, b"here again");
            assert_eq!(again.reply(request).0, Code::Ok);
            let request = again.leave(ROOM);
            assert_eq!(again.reply(request).0, Code::Ok);
        }
        assert_eq!(gateway.metric("slow_readers_total"), 2);
        check_metrics(gateway, &[]);
        gateway.until_metric("log_bytes", |bytes| bytes == 0);
    });
}

/// Messages for a user or the app have no numbers; what is left out of them is declared by a `Shed`
/// of alias 0 that has counts and no range.
#[test]
fn messages_for_users_and_apps_are_accounted_for_as_well() {
    const MESSAGES: u64 = 40_000;
    // Where they wait in no inbox: what does is not sent ahead of its ACKs.
    let dir = TempDir::new("no-inboxes");
    let policy = dir.file("policy.toml", POLICY_WITHOUT_INBOXES);
    for cores in ["0", "0-1"] {
        let gateway = &Gateway::start(cores, &["--policy", &policy]);
        for say_to_app in [false, true] {
            let mut slow = Via::BOTH.map(|via| narrow(gateway, via).0);
            let mut upstream = gateway.upstream();
            upstream.until_user_has(1, 2);
            let before = gateway.metric("shed_p3_total");
            let (payload, mut replied) = ([b'x'; BYTES], 0);
            for n in 1..=MESSAGES {
                let category = mostly_chat(n);
                let head = PublishHead { category, ..upstream.head() };
                let payload = Tail(&payload);
                upstream.send(&match say_to_app {
                    true => UpstreamFrame::PublishApp { head, payload },
                    false => UpstreamFrame::PublishUser { head, user: 1, payload },
                });
                if n.is_multiple_of(1000) {
                    let replies = upstream.replies((n - replied) as usize);
                    replied = n;
                    assert!(replies.iter().all(|reply| (reply.code, reply.seq) == (Code::Ok, 2)));
                }
            }
            let mut declared = 0;
            for client in &mut slow {
                let (mut chat, mut gifts, mut shed) = (0, 0, 0);
                while chat + gifts + shed < MESSAGES {
                    match client.hear() {
                        Said::Direct { payload, .. } if payload.len() != BYTES => {}
                        Said::Direct { category: CHAT, .. } => chat += 1,
                        Said::Direct { category: GIFT_LARGE, .. } => gifts += 1,
                        Said::Shed { alias: 0, first: 0, last: 0, counts: [0, 0, 0, p3] } => {
                            shed += u64::from(p3);
                        }
                        other => panic!("after {chat}, {gifts} and {shed}: {other:?}"),
                    }
                }
                assert_eq!(gifts, MESSAGES / GIFT_EVERY);
                assert!(shed > 0, "it was too slow");
                declared += shed;
                assert!(client.ping().is_empty(), "nothing else is said");
            }
            assert_eq!(gateway.metric("shed_p3_total") - before, declared);
            drop(slow);
            upstream.until_user_has(1, 0);
        }
    }
}

/// A service that does not read its replies and events is no reason for others to wait.
#[test]
fn a_service_that_does_not_read_loses_events_and_is_told_how_many() {
    const CLIENTS: u64 = 150;
    const ROOMS: u64 = 60;
    let gateway = Gateway::start("0-1", &["--client-frames-per-second", "60000"]);
    let mut deaf = gateway.upstream();
    deaf.subscribe(barrage_wire::upstream::events::ALL, "", &[]);
    let mut clients: Vec<_> = (1..=CLIENTS).map(|user| gateway.client(Via::Tcp, user)).collect();
    let mut all = CLIENTS;
    // Joins and leaves until so much waits for the service that events are left out.
    let until = Instant::now() + 2 * SOON;
    while gateway.metric("events_lost_total") == 0 {
        assert!(Instant::now() < until, "{all} events were never too many");
        for client in &mut clients {
            for room in 1..=ROOMS {
                client.ask_to_join(common::client::from_now(room));
            }
        }
        for client in &mut clients {
            (0..ROOMS).for_each(|_| assert!(client.hear_joined().0 > 0));
            (1..=ROOMS).for_each(|room| assert!(client.leave(room) > 0));
        }
        for client in &mut clients {
            assert_eq!(client.ping().len() as u64, ROOMS);
        }
        all += 2 * CLIENTS * ROOMS;
    }
    let (mut events, mut lost) = (0, 0);
    while events + lost < all {
        match deaf.hear() {
            Told::Event(_) => events += 1,
            Told::Lost { events: more, uplinks: 0 } => lost += more,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(events + lost, all, "every event was told or declared");
    assert_eq!(gateway.metric("events_lost_total"), lost);
}

/// Closing needs nothing from a peer that does not even read the goodbye.
#[test]
fn who_never_reads_again_is_gone_soon_after_it_was_closed() {
    let gateway = Gateway::start("0", &[]);
    let slow = Via::BOTH.map(|via| narrow(&gateway, via));
    let mut upstream = gateway.upstream();
    upstream.until_user_has(1, 2);
    for _ in 0..600 {
        assert_eq!(upstream.say_to_room(ROOM, &[0; 16_000]).0, Code::Ok);
    }
    assert_eq!(upstream.kick(1, "enough"), (Code::Ok, 2));
    gateway.until_metric("clients", |clients| clients == 0);
    gateway.until_metric("connections", |connections| connections == 1);
    gateway.until_metric("log_bytes", |bytes| bytes == 0);
    drop(slow);
}
