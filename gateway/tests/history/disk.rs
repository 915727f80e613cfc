//! A disk that takes nothing for a while.

use std::time::{Duration, Instant};

use barrage_wire::server::Code;
use barrage_wire::upstream::PublishHead;

use crate::common::{CHAT, Gateway, SOON, Socket, TempDir, Via};
use crate::{
    Brief, OLDEST, Reader, accepted, cursor, on_one_and_two, say_numbers, say_stored, stored, words,
};

const ROOM: u64 = 7;

#[test]
fn a_full_disk_refuses_promises_and_loses_none() {
    on_one_and_two(|cores| {
        let data = TempDir::new("full");
        let mut brief = Brief::default();
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        let mut client = gateway.client(Via::Tcp, 1);
        let room = client.join(ROOM);
        brief.epoch(room.epoch);
        say_numbers(&mut upstream, ROOM, 1..=300);
        (1..=300).for_each(|seq| assert_eq!(client.message(room.alias).0, seq));

        gateway.limit_files(Some(1));
        let head = PublishHead { idempotency_key: 9, ..stored(&mut upstream) };
        let lost = upstream.publish_to_room(head, ROOM, b"lost");
        assert_eq!(lost, (Code::Unstored, 0), "what was admitted when it began to fail");
        brief.check(&mut client, &["301 lost"]);
        let refused = stored(&mut upstream);
        let refused = upstream.publish_to_room(refused, ROOM, b"refused");
        assert_eq!(refused, (Code::Unstored, 0));
        let head = accepted(&mut upstream, CHAT);
        assert_eq!(upstream.publish_to_room(head, ROOM, b"live"), (Code::Ok, 302));
        brief.check(&mut client, &["302 live"]);
        let (status, health) = gateway.page("/healthz").expect("it serves all the same");
        assert_eq!(status, 200);
        assert!(health.contains("the history is failing") && health.contains(data.text()));
        assert!(gateway.metric("history_failing") > 0);
        // What is on disk and what is in memory is there.
        let mut other = gateway.client(Via::Tcp, 2);
        other.ask_to_join(cursor(ROOM, room.epoch, 299));
        brief.check(&mut other, &["joined a at 302", "300 300", "301 lost", "302 live"]);
        assert_eq!(upstream.walk(ROOM, OLDEST).0.len(), 300);

        gateway.limit_files(None);
        until_healthy(&gateway);
        let head = PublishHead { idempotency_key: 9, ..stored(&mut upstream) };
        assert_eq!(upstream.publish_to_room(head, ROOM, b"once more"), (Code::Ok, 303));
        say_numbers(&mut upstream, ROOM, 304..=700);
        // 301 and 302 are lost; nobody is told that nothing is missing.
        let mut late = gateway.client(Via::Tcp, 3);
        late.ask_to_join(cursor(ROOM, room.epoch, 299));
        brief.check(&mut late, &["joined a at 700", "reset to a from 303 at 700"]);
        let mut late = gateway.client(Via::Tcp, 3);
        late.ask_to_join(cursor(ROOM, room.epoch, 302));
        brief.check(&mut late, &["joined a at 700", "303 once more", "304 304"]);
        gateway.kill();

        let gateway = Gateway::start_in(&data, cores, &[]);
        let (all, _) = gateway.upstream().walk(ROOM, OLDEST);
        let numbers: Vec<String> = (1..=300).chain(304..=700).map(|seq| seq.to_string()).collect();
        let mut expected: Vec<&str> = numbers.iter().map(String::as_str).collect();
        expected.insert(300, "once more");
        assert_eq!(words(&all), expected);
        assert!(all.iter().all(|past| past.epoch == room.epoch));
    });
}

#[test]
fn a_disk_that_is_full_at_the_end_makes_the_next_start_begin_another_epoch() {
    let data = TempDir::new("full-end");
    let mut gateway = Gateway::start_in(&data, "0", &[]);
    let mut upstream = gateway.upstream();
    say_stored(&mut upstream, ROOM, 0, &["one"]);
    gateway.limit_files(Some(1));
    let head = accepted(&mut upstream, CHAT);
    assert_eq!(upstream.publish_to_room(head, ROOM, b"lost"), (Code::Ok, 2));
    drop(upstream);
    gateway.terminate();
    let status = gateway.wait(Instant::now() + 2 * SOON);
    assert!(status.success(), "it was drained, and every promise is kept");
    let log = gateway.end_of_log();
    assert!(log.contains("ERROR") && log.contains("could not be written"), "{log}");

    let gateway = Gateway::start_in(&data, "0", &[]);
    let mut upstream = gateway.upstream();
    let (all, end) = upstream.walk(ROOM, OLDEST);
    assert_eq!(words(&all), ["one"]);
    assert!(end.epoch > all[0].epoch);
    say_stored(&mut upstream, ROOM, 0, &["two"]);
}

fn until_healthy(gateway: &Gateway) {
    let until = Instant::now() + SOON;
    while gateway.page("/healthz").expect("it serves").1 != "ok\n"
        || gateway.metric("history_failing") > 0
    {
        assert!(Instant::now() < until, "it does not recover: {:?}", gateway.page("/healthz"));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn requests_that_are_not_finished_take_no_descriptor_from_the_history() {
    const REQUESTS: usize = 300;
    on_one_and_two(|cores| {
        let data = TempDir::new("descriptors");
        let gateway = Gateway::start_in(&data, cores, &[]);
        gateway.limit_descriptors(256);
        let mut upstream = gateway.upstream();
        let open: Vec<_> = (0..REQUESTS)
            .map(|_| {
                let mut socket = Socket::tcp(gateway.http);
                socket.write(b"GET /healthz HT");
                socket
            })
            .collect();
        // It has taken as many of them as it will.
        assert_eq!(gateway.page("/healthz"), Some((200, "ok\n".to_owned())));
        say_numbers(&mut upstream, ROOM, 1..=2000);
        assert_eq!(gateway.metric("history_failing"), 0);
        drop(open);
    });
}
