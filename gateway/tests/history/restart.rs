//! What a gateway that is started again knows.

use barrage_wire::server::Code;
use barrage_wire::upstream::PublishHead;

use crate::common::gateway::run;
use crate::common::{CHAT, Client, Gateway, Said, TempDir, Via};
use crate::{
    Brief, GIFT_SMALL, OLDEST, Reader, STREAM, accepted, cursor, on_one_and_two, publish_from,
    say_numbers, say_stored, stored, words,
};

const ROOM: u64 = 7;

#[test]
fn what_was_stored_is_there_after_a_kill() {
    on_one_and_two(|cores| {
        let data = TempDir::new("kill");
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        for room in 1..=8 {
            say_stored(&mut upstream, room, 0, &["one", "two", "three"]);
        }
        gateway.kill();
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        for room in 1..=8 {
            let (page, end) = upstream.walk(room, OLDEST);
            assert_eq!(words(&page), ["one", "two", "three"], "room {room}");
            assert_eq!((end.oldest, end.head), (1, 0), "the present epoch is another");
            assert!(end.epoch > page[0].epoch);
            say_stored(&mut upstream, room, 0, &["four"]);
        }
    });
}

#[test]
fn a_restart_in_order_goes_on_in_the_same_epoch() {
    on_one_and_two(|cores| {
        let data = TempDir::new("clean");
        let mut brief = Brief::default();
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        let mut client = gateway.client(Via::Tcp, 1);
        let epoch = client.join(ROOM).epoch;
        brief.epoch(epoch);
        say_stored(&mut upstream, ROOM, 0, &["one", "two", "three"]);
        brief.check(&mut client, &["1 one", "2 two", "3 three"]);
        drop(client);
        // What was not asked to be stored is stored as well.
        for word in ["four", "five"] {
            let head = accepted(&mut upstream, CHAT);
            let (code, _) = upstream.publish_to_room(head, ROOM, word.as_bytes());
            assert_eq!(code, Code::Ok);
        }
        gateway.end();

        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        let mut client = gateway.client(Via::WebSocket, 1);
        client.ask_to_join(cursor(ROOM, epoch, 3));
        brief.check(&mut client, &["joined a at 5", "4 four", "5 five"]);
        let mut other = gateway.client(Via::Tcp, 2);
        other.ask_to_join(cursor(ROOM, epoch, 5));
        brief.check(&mut other, &["joined a at 5"]);
        say_stored(&mut upstream, ROOM, 5, &["six"]);
        brief.check(&mut client, &["6 six"]);
        brief.check(&mut other, &["6 six"]);
        assert_eq!(client.ping(), [], "and nothing else");
        gateway.end();

        // The other way to come back, twice restarted and with nothing said in between.
        Gateway::start_in(&data, cores, &[]).end();
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut client = gateway.client(Via::Tcp, 1);
        client.ask_to_join(cursor(ROOM, epoch, 4));
        brief.check(&mut client, &["joined a at 6", "5 five", "6 six"]);
    });
}

#[test]
fn after_a_kill_a_cursor_gets_the_rest_of_its_epoch_and_then_the_next_ones() {
    on_one_and_two(|cores| {
        let data = TempDir::new("epochs");
        let mut brief = Brief::default();
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        let epoch = gateway.client(Via::Tcp, 1).join(ROOM).epoch;
        brief.epoch(epoch);
        say_stored(&mut upstream, ROOM, 0, &["one", "two", "three"]);
        gateway.kill();

        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        // Nothing was said in the new epoch yet, and the second one knows a number that was lost.
        let mut first = gateway.client(Via::Tcp, 1);
        first.ask_to_join(cursor(ROOM, epoch, 1));
        let start = ["joined a at 3", "2 two", "3 three", "reset to b from 1 at 0"];
        brief.check(&mut first, &start);
        let mut beyond = gateway.client(Via::WebSocket, 2);
        beyond.ask_to_join(cursor(ROOM, epoch, 9));
        brief.check(&mut beyond, &["joined a at 3", "reset to b from 1 at 0"]);
        say_stored(&mut upstream, ROOM, 0, &["four", "five"]);
        for client in [&mut first, &mut beyond] {
            brief.check(client, &["1 four", "2 five"]);
            assert_eq!(client.ping(), []);
        }
        gateway.kill();

        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        say_stored(&mut upstream, ROOM, 0, &["six"]);
        let mut client = gateway.client(Via::Tcp, 1);
        client.ask_to_join(cursor(ROOM, epoch, 2));
        let rest = ["joined a at 3", "3 three", "reset to b from 1 at 0", "1 four", "2 five"];
        brief.check(&mut client, &rest);
        let rest = ["reset to c from 1 at 0", "1 six"];
        brief.check(&mut client, &rest);
        let mut nobody_knows = gateway.client(Via::Tcp, 2);
        nobody_knows.ask_to_join(cursor(ROOM, epoch - 1, 2));
        let rest = ["joined c at 1", "reset to c from 1 at 1"];
        brief.check(&mut nobody_knows, &rest);
        say_stored(&mut upstream, ROOM, 1, &["seven"]);
        brief.check(&mut client, &["2 seven"]);
        brief.check(&mut nobody_knows, &["2 seven"]);
    });
}

#[test]
fn what_is_kept_in_memory_only_comes_back_as_shed() {
    let data = TempDir::new("memory");
    let mut brief = Brief::default();
    let gateway = Gateway::start_in(&data, "0-1", &[]);
    let mut upstream = gateway.upstream();
    let epoch = gateway.client(Via::Tcp, 1).join(ROOM).epoch;
    brief.epoch(epoch);
    let says =
        [(CHAT, "one"), (STREAM, "two"), (STREAM, "three"), (CHAT, "four"), (STREAM, "five")];
    for (category, word) in says {
        let head = accepted(&mut upstream, category);
        assert_eq!(upstream.publish_to_room(head, ROOM, word.as_bytes()).0, Code::Ok);
    }
    let head = PublishHead { category: STREAM, ..stored(&mut upstream) };
    let refused = upstream.publish_to_room(head, ROOM, b"no");
    assert_eq!(refused, (Code::Unstored, 0), "it is not kept there");
    let mut client = gateway.client(Via::Tcp, 1);
    client.ask_to_join(cursor(ROOM, epoch, 1));
    let rest = ["joined a at 5", "2 two", "3 three", "4 four", "5 five"];
    brief.check(&mut client, &rest);
    gateway.end();

    let gateway = Gateway::start_in(&data, "0-1", &[]);
    let mut client = gateway.client(Via::Tcp, 1);
    client.ask_to_join(cursor(ROOM, epoch, 0));
    let rest = ["joined a at 5", "1 one", "shed 2-3 [0, 0, 0, 2]", "4 four"];
    brief.check(&mut client, &rest);
    brief.check(&mut client, &["shed 5-5 [0, 0, 0, 1]"]);
    let mut client = gateway.client(Via::Tcp, 2);
    client.ask_to_join(cursor(ROOM, epoch, 2));
    brief.check(&mut client, &["joined a at 5", "shed 3-3 [0, 0, 0, 1]", "4 four"]);
    let (page, end) = client_pages(client);
    assert_eq!(page, ["one", "four"]);
    assert_eq!((end.oldest, end.head), (1, 5));
}

fn client_pages(mut client: Client) -> (Vec<String>, crate::End) {
    assert!(matches!(client.hear(), Said::Shed { first: 5, last: 5, .. }));
    let (page, end) = client.walk(ROOM, OLDEST);
    (page.into_iter().map(|past| past.payload).collect(), end)
}

#[test]
fn idempotency_keys_outlive_a_kill() {
    on_one_and_two(|cores| {
        let data = TempDir::new("keys");
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        say_stored(&mut upstream, ROOM, 0, &["zero"]);
        let head = PublishHead { idempotency_key: 77, ..stored(&mut upstream) };
        assert_eq!(upstream.publish_to_room(head, ROOM, b"once"), (Code::Ok, 2));
        assert_eq!(upstream.publish_to_room(head, ROOM, b"once"), (Code::Duplicate, 2));
        // Its number is that of the message that carries it.
        let about = stored(&mut upstream);
        let tap = PublishHead { category: GIFT_SMALL, merge_key: 5, ..about };
        let first = PublishHead { idempotency_key: 78, ..tap };
        assert_eq!(publish_from(&mut upstream, first, ROOM, 1, b"tap"), (Code::Ok, 3));
        let request = upstream.next_request();
        let second = PublishHead { request, idempotency_key: 79, ..tap };
        assert_eq!(publish_from(&mut upstream, second, ROOM, 1, b"tap"), (Code::Merged, 4));
        // Whoever does not ask for the promise has its key kept as well, once something later is.
        let head = accepted(&mut upstream, CHAT);
        let head = PublishHead { idempotency_key: 80, ..head };
        let (code, seq) = upstream.publish_to_room(head, ROOM, b"twice");
        assert_eq!(code, Code::Ok);
        let about = stored(&mut upstream);
        assert_eq!(upstream.publish_to_room(about, ROOM, b"later").0, Code::Ok);
        gateway.kill();

        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        for (key, seq) in [(77, 2), (78, 3), (79, 4), (80, seq)] {
            let head = PublishHead { idempotency_key: key, ..stored(&mut upstream) };
            let answer = upstream.publish_to_room(head, ROOM, b"again");
            assert_eq!(answer, (Code::Duplicate, seq), "key {key}");
        }
        let head = PublishHead { idempotency_key: 77, ..stored(&mut upstream) };
        let elsewhere = upstream.publish_to_room(head, ROOM + 1, b"another room");
        assert_eq!(elsewhere, (Code::Ok, 1), "a key is one room's");
    });
}

#[test]
fn another_count_of_cores_finds_every_room() {
    let data = TempDir::new("cores");
    let rooms = 1..=16;
    let mut heads = 0;
    for (cores, goes_on) in [("0", true), ("0-1", true), ("0", false), ("0-1", false)] {
        let gateway = Gateway::start_in(&data, cores, &[]);
        let mut upstream = gateway.upstream();
        for room in rooms.clone() {
            let (page, end) = upstream.walk(room, OLDEST);
            assert_eq!(page.len() as u64, heads, "room {room} on cores {cores}");
            let head = end.head;
            say_numbers(&mut upstream, room, head + 1..=head + 3);
        }
        heads += 3;
        if goes_on { gateway.end() } else { gateway.kill() }
    }
}

#[test]
fn a_directory_is_one_gateways() {
    let data = TempDir::new("one");
    let first = Gateway::start_in(&data, "0", &[]);
    let options = ["--tcp", "--ws", "--upstream", "--http"].map(|option| [option, "127.0.0.1:0"]);
    let options = [&["--cores", "0", "--data", data.text()], options.as_flattened()].concat();
    let (status, stdout, log) = run(&options);
    assert!(!status.success());
    assert_eq!(stdout, "", "it was never ready");
    assert!(log.contains(data.text()) && log.contains("another"), "{log}");
    let mut upstream = first.upstream();
    say_stored(&mut upstream, ROOM, 0, &["the first one goes on"]);
}
