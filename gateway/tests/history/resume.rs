//! Who has missed more than the room remembers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use barrage_wire::server::Code;

use crate::common::client::Room;
use crate::common::{Client, Gateway, Receiver, SOON, Said, TempDir, Upstream, Via};
use crate::{Brief, OLDEST, Reader, cursor, on_one_and_two, say_numbers, stored};

const ROOM: u64 = 7;

/// Comes back with a cursor, and reads until `seq` is here: every message once, none in between
/// missing, and each is its number.
fn check_resume(client: &mut Client, from: &Room, after: u64, until: impl Fn(&Room) -> u64) {
    client.ask_to_join(cursor(ROOM, from.epoch, after));
    let (_, joined) = client.hear_joined();
    assert_eq!(joined.epoch, from.epoch);
    let mut receiver = Receiver::new(&Room { head: after, ..joined });
    let until = until(&joined);
    while receiver.knows_up_to() != Some(until) {
        let said = client.hear();
        receiver.hear(&said);
        let Said::Message { seq, payload, .. } = said else { panic!("not {said:?}") };
        assert_eq!(payload, seq.to_string().as_bytes());
    }
    assert_eq!(receiver.declared, 0);
}

#[test]
fn more_than_the_memory_of_a_room_comes_from_disk() {
    on_one_and_two(|cores| {
        let data = TempDir::new("disk");
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        let room = gateway.client(Via::Tcp, 1).join(ROOM);
        say_numbers(&mut upstream, ROOM, 1..=1500);
        for (after, via) in [(0, Via::Tcp), (100, Via::WebSocket), (1243, Via::Tcp)] {
            let mut client = gateway.client(via, 2);
            check_resume(&mut client, &room, after, |joined| joined.head);
            assert_eq!(client.ping(), []);
        }
        assert_eq!(gateway.metric("resumed_from_disk_total"), 3);
        let mut client = gateway.client(Via::Tcp, 2);
        check_resume(&mut client, &room, 1300, |joined| joined.head);
        assert_eq!(gateway.metric("resumed_from_disk_total"), 3, "that was remembered");
    });
}

#[test]
fn a_room_that_goes_on_talking_leaves_no_gap() {
    on_one_and_two(|cores| {
        let data = TempDir::new("talking");
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        let room = gateway.client(Via::Tcp, 1).join(ROOM);
        say_numbers(&mut upstream, ROOM, 1..=600);
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let talks = scope.spawn(|| {
                let mut head = 600;
                while !enough.load(Ordering::Relaxed) {
                    say_numbers(&mut upstream, ROOM, head + 1..=head + 50);
                    head += 50;
                }
                head
            });
            let readers: Vec<_> = (0..4)
                .map(|reader: usize| {
                    let (gateway, room) = (&gateway, &room);
                    scope.spawn(move || {
                        for round in 0..5 {
                            let mut client = gateway.client(Via::BOTH[reader % 2], 2);
                            let after = round * 100 + reader as u64;
                            check_resume(&mut client, room, after, |joined| joined.head + 200);
                        }
                    })
                })
                .collect();
            let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
            enough.store(true, Ordering::Relaxed);
            assert!(ended.iter().all(Result::is_ok), "see the reader's panic");
            assert!(talks.join().expect("it says why") > 600);
        });
        assert!(gateway.metric("resumed_from_disk_total") > 0);
    });
}

const KEEPS_500: &str = "
    [[category]]
    id = 4
    name = \"chat\"
    class = \"P3\"
    keep-count = 500
";

#[test]
fn who_comes_too_late_is_told_what_there_is() {
    let (data, files) = (TempDir::new("late"), TempDir::new("late-policy"));
    let policy = files.file("policy.toml", KEEPS_500);
    let gateway = Gateway::start_in(&data, "0-1", &["--policy", &policy]);
    let mut upstream = gateway.upstream();
    let room = gateway.client(Via::Tcp, 1).join(ROOM);
    say_numbers(&mut upstream, ROOM, 1..=3000);
    let before = until_oldest(&mut upstream, 1000);
    let mut late = gateway.client(Via::Tcp, 2);
    late.ask_to_join(cursor(ROOM, room.epoch, 5));
    let (_, joined) = late.hear_joined();
    assert_eq!((joined.epoch, joined.head), (room.epoch, 3000));
    let Said::Reset { epoch, oldest, head, .. } = late.hear() else { panic!("a Reset is next") };
    assert_eq!((epoch, head), (room.epoch, 3000));
    let after = until_oldest(&mut upstream, 1000);
    assert!((before..=after).contains(&oldest), "{oldest} is not in {before} to {after}");
    let (page, end) = late.walk(ROOM, crate::Ask { epoch, from: oldest, ..OLDEST });
    let seqs: Vec<u64> = page.iter().map(|past| past.seq).collect();
    assert_eq!(seqs, (end.oldest.max(oldest)..=3000).collect::<Vec<_>>());
    assert!(seqs.len() >= 500, "so many are kept");
    // Who is not too late misses nothing, although the room's memory does not go that far back.
    check_resume(&mut gateway.client(Via::Tcp, 3), &room, 2510, |joined| joined.head);
}

/// Waits until the oldest number that is kept is past this one.
fn until_oldest(upstream: &mut Upstream, past: u64) -> u64 {
    let until = Instant::now() + SOON;
    loop {
        let (_, end) = upstream.page(ROOM, crate::Ask { count: 1, ..OLDEST });
        if end.oldest > past {
            return end.oldest;
        }
        assert!(Instant::now() < until, "nothing goes: {end:?}");
        std::thread::yield_now();
    }
}

#[test]
fn who_has_missed_too_much_is_reset_and_pages() {
    const HEAD: u64 = 16_700;
    let data = TempDir::new("much");
    let gateway = Gateway::start_in(&data, "0", &[]);
    let mut upstream = gateway.upstream();
    let room = gateway.client(Via::Tcp, 1).join(ROOM);
    say_numbers(&mut upstream, ROOM, 1..=HEAD);
    let mut brief = Brief::default();
    brief.epoch(room.epoch);
    let mut client = gateway.client(Via::WebSocket, 2);
    client.ask_to_join(cursor(ROOM, room.epoch, 10));
    brief.check(&mut client, &["joined a at 16700", "reset to a from 1 at 16700"]);
    let (page, _) = client.walk(ROOM, crate::Ask { epoch: room.epoch, from: 11, ..OLDEST });
    let seqs: Vec<u64> = page.iter().map(|past| past.seq).collect();
    assert_eq!(seqs, (11..=HEAD).collect::<Vec<_>>());
    let mut client = gateway.client(Via::Tcp, 3);
    check_resume(&mut client, &room, HEAD - 16_384, |joined| joined.head);
}

#[test]
fn who_has_missed_too_many_bytes_is_told_that_none_are_lost() {
    let data = TempDir::new("bytes");
    let gateway = Gateway::start_in(&data, "0-1", &[]);
    let mut upstream = gateway.upstream();
    let room = gateway.client(Via::Tcp, 1).join(ROOM);
    for seq in 1..=300 {
        let (head, payload) = (stored(&mut upstream), vec![seq as u8; 16_000]);
        assert_eq!(upstream.publish_to_room(head, ROOM, &payload), (Code::Ok, seq));
    }
    let mut brief = Brief::default();
    brief.epoch(room.epoch);
    let mut client = gateway.client(Via::Tcp, 2);
    client.ask_to_join(cursor(ROOM, room.epoch, 10));
    brief.check(&mut client, &["joined a at 300", "reset to a from 1 at 300"]);
    let (page, _) = client.walk(ROOM, crate::Ask { epoch: room.epoch, from: 11, ..OLDEST });
    assert!(page.iter().map(|past| past.seq).eq(11..=300));
}
