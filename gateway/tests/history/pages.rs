//! Messages as they were, for those who ask.

use barrage_wire::server::Code;
use barrage_wire::upstream::PublishHead;
use barrage_wire::{ClientFrame, UpstreamFrame};

use crate::common::{Client, GIFT_LARGE, Gateway, Said, TempDir, Told, Upstream, Via};
use crate::{
    Ask, Asks, End, GIFT_SMALL, OLDEST, Past, Reader, STATE, STREAM, accepted, member,
    on_one_and_two, publish_from, say_numbers, say_stored, stored, words,
};

const ROOM: u64 = 7;

/// Has a room with two epochs in which everything was said that there is.
fn gateway_with_a_past(data: &TempDir, cores: &str) -> Gateway {
    let gateway = Gateway::start_in(data, cores, &[]);
    let mut upstream = gateway.upstream();
    say_stored(&mut upstream, ROOM, 0, &["one"]);
    for (word, answer) in [("tap", (Code::Ok, 2)), ("tap again", (Code::Merged, 3))] {
        let about = stored(&mut upstream);
        let head = PublishHead { category: GIFT_SMALL, merge_key: 5, ..about };
        let answered = publish_from(&mut upstream, head, ROOM, 11, word.as_bytes());
        assert_eq!(answered, answer);
    }
    let about = stored(&mut upstream);
    let head = PublishHead { category: STATE, merge_key: 6, ..about };
    // The run of taps ends two seconds after the last, perhaps before this.
    let answered = upstream.publish_to_room(head, ROOM, b"42");
    assert!(answered == (Code::Ok, 4) || answered == (Code::Ok, 5), "{answered:?}");
    let head = accepted(&mut upstream, STREAM);
    assert_eq!(upstream.publish_to_room(head, ROOM, b"not kept").0, Code::Ok);
    let about = stored(&mut upstream);
    assert_eq!(upstream.publish_to_room(about, ROOM, b"two").0, Code::Ok);
    gateway.kill();
    let gateway = Gateway::start_in(data, cores, &[]);
    say_stored(&mut gateway.upstream(), ROOM, 0, &["three", "four"]);
    gateway
}

#[test]
fn pages_lead_through_everything_once() {
    on_one_and_two(|cores| {
        let data = TempDir::new("pages");
        let gateway = gateway_with_a_past(&data, cores);
        let mut client = member(&gateway, ROOM);
        let mut upstream = gateway.upstream();
        let (all, end) = upstream.walk(ROOM, OLDEST);
        check_past(&all, &end);
        for count in 1..=9 {
            let ask = Ask { count, ..OLDEST };
            assert_eq!(upstream.walk(ROOM, ask), (all.clone(), end), "by {count}");
            assert_eq!(client.walk(ROOM, ask), (all.clone(), end), "by {count}, for a client");
        }
        for (index, past) in all.iter().enumerate() {
            let ask = Ask { epoch: past.epoch, from: past.seq, ..OLDEST };
            assert_eq!(upstream.walk(ROOM, ask).0, all[index..], "from {past:?}");
            let ask = Ask { since_ms: past.time_ms, ..OLDEST };
            let first = all.partition_point(|it| it.time_ms < past.time_ms);
            assert_eq!(client.walk(ROOM, ask).0, all[first..], "since {past:?}");
        }
        let last = all.last().expect("there are some");
        for ask in [
            Ask { epoch: last.epoch, from: last.seq + 1, ..OLDEST },
            Ask { since_ms: last.time_ms + 1, ..OLDEST },
            Ask { epoch: u64::MAX, from: u64::MAX, ..OLDEST },
        ] {
            assert_eq!(upstream.walk(ROOM, ask), (Vec::new(), end), "{ask:?}");
        }
        let (page, nothing) = upstream.page(ROOM, Ask { count: 0, ..OLDEST });
        // No page follows one that never ends.
        assert_eq!((page, nothing), (Vec::new(), end));
    });
}

fn check_past(all: &[Past], end: &End) {
    let said: Vec<_> = all.iter().map(|past| (past.frame, past.category, past.run)).collect();
    let message = (66, 4, (0, 0, 0, 0, 0));
    let mut expected = vec![
        message,
        (74, GIFT_SMALL, (0, 11, 5, 1, 1)),
        (74, GIFT_SMALL, (0, 11, 5, 1, 2)),
        (75, STATE, (0, 0, 6, 0, 0)),
        message,
        message,
        message,
    ];
    // The end of the run comes when its time has.
    if let Some(place) = said.iter().position(|said| said.2.0 == 1) {
        expected.insert(place, (74, GIFT_SMALL, (1, 11, 5, 0, 2)));
    }
    assert_eq!(said, expected);
    let spoken: Vec<_> = words(all).into_iter().filter(|word| !word.starts_with("tap")).collect();
    assert_eq!(spoken, ["one", "42", "two", "three", "four"]);
    let last = all.last().expect("there are some");
    let expected = End { code: Code::Ok, epoch: last.epoch, oldest: 1, head: 2, next: (0, 0) };
    assert_eq!(*end, expected);
    assert!(all[0].epoch < last.epoch);
}

#[test]
fn a_page_is_no_longer_than_the_protocol_says() {
    let data = TempDir::new("long");
    let gateway = Gateway::start_in(&data, "0", &[]);
    let mut upstream = gateway.upstream();
    say_numbers(&mut upstream, ROOM, 1..=2500);
    let (page, end) = upstream.page(ROOM, Ask { count: u16::MAX, ..OLDEST });
    assert_eq!((page.len(), end.next.1), (1000, 1001));
    let (all, _) = upstream.walk(ROOM, Ask { count: u16::MAX, ..OLDEST });
    let seqs: Vec<u64> = all.iter().map(|past| past.seq).collect();
    assert_eq!(seqs, (1..=2500).collect::<Vec<_>>());
}

fn refused(code: Code) -> (Vec<Past>, End) {
    (Vec::new(), End { code, epoch: 0, oldest: 0, head: 0, next: (0, 0) })
}

#[test]
fn clients_see_the_past_of_rooms_that_they_are_in() {
    on_one_and_two(|cores| {
        let data = TempDir::new("members");
        let gateway = Gateway::start_in(&data, cores, &[]);
        say_stored(&mut gateway.upstream(), ROOM, 0, &["one", "two"]);
        for via in Via::BOTH {
            let mut client = gateway.client(via, 1);
            for room in [ROOM, 0] {
                assert_eq!(client.page(room, OLDEST), refused(Code::NotMember));
            }
            client.join(ROOM);
            assert_eq!(words(&client.page(ROOM, OLDEST).0), ["one", "two"]);
            let leave = client.leave(ROOM);
            assert_eq!(client.reply(leave).0, Code::Ok);
            assert_eq!(client.page(ROOM, OLDEST), refused(Code::NotMember));
        }
    });
}

#[test]
fn a_client_reads_one_page_at_a_time() {
    let data = TempDir::new("one-page");
    let gateway = Gateway::start_in(&data, "0-1", &[]);
    say_numbers(&mut gateway.upstream(), ROOM, 1..=100);
    let mut client = member(&gateway, ROOM);
    let ask = |request| {
        let Ask { epoch, from, since_ms, count } = OLDEST;
        ClientFrame::History { request, room: ROOM, epoch, from, since_ms, count }.to_vec()
    };
    client.send_bytes(&[ask(1), ask(2)].concat());
    let mut past = 0;
    let mut ends = Vec::new();
    while ends.len() < 2 {
        match client.hear() {
            Said::Past { request: 1, .. } => past += 1,
            Said::PastEnd { request, code, .. } => ends.push((request, code)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(past, 100);
    assert_eq!(ends, [(2, Code::Overloaded), (1, Code::Ok)]);
    client.ask_for_page(ROOM, OLDEST);
    let again = std::iter::from_fn(|| Some(client.hear()));
    let again = again.take_while(|said| matches!(said, Said::Past { .. })).count();
    assert_eq!(again, 100, "it has come, so another may be asked for");
}

#[test]
fn services_may_ask_for_many_pages_at_once_and_get_their_credits_back() {
    let data = TempDir::new("credits");
    let gateway = Gateway::start_in(&data, "0-1", &[]);
    let mut upstream = gateway.upstream();
    say_stored(&mut upstream, ROOM, 0, &["one"]);
    let rounds = 2 * upstream.credits / 1000 + 1;
    for round in 0..rounds {
        for request in 0..1000 {
            let request = round * 1000 + request;
            let Ask { epoch, from, since_ms, count } = OLDEST;
            let room = ROOM;
            let frame = UpstreamFrame::History { request, room, epoch, from, since_ms, count };
            upstream.send(&frame);
        }
        let mut ends = 0;
        while ends < 1000 {
            match upstream.hear() {
                Told::Past { .. } => {}
                Told::PastEnd { code: Code::Ok, .. } => ends += 1,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn without_a_directory_there_is_no_past() {
    on_one_and_two(|cores| {
        let gateway = Gateway::start(cores, &[]);
        let mut upstream: Upstream = gateway.upstream();
        let head = stored(&mut upstream);
        assert_eq!(upstream.publish_to_room(head, ROOM, b"no"), (Code::Unstored, 0));
        assert_eq!(upstream.say_to_room(ROOM, b"yes"), (Code::Ok, 1), "nothing was published");
        assert_eq!(upstream.page(ROOM, OLDEST), refused(Code::Unstored));
        let mut client: Client = member(&gateway, ROOM);
        assert_eq!(client.page(ROOM, OLDEST), refused(Code::Unstored));
    });
}

#[test]
fn a_page_waits_until_there_are_bytes_to_spare() {
    let (data, rules) = (TempDir::new("spare"), TempDir::new("spare-rules"));
    let policy = rules.file("policy.toml", "[egress]\nbytes-per-second = \"400KB\"\n");
    let gateway = Gateway::start_in(&data, "0", &["--policy", &policy]);
    let mut client = member(&gateway, ROOM);
    let mut upstream = gateway.upstream();
    let mut ask = || {
        let asked = client.ask_for_page(ROOM, Ask { count: 1, ..OLDEST });
        loop {
            if let Said::PastEnd { request, code, .. } = client.hear()
                && request == asked
            {
                return code;
            }
        }
    };
    let refused = (0..20).any(|_| {
        // What may not be dropped passes, and leaves nothing for those who look back.
        for _ in 0..30 {
            let head = accepted(&mut upstream, GIFT_LARGE);
            assert_eq!(upstream.publish_to_room(head, ROOM, &[7; 16_000]).0, Code::Ok);
        }
        ask() == Code::Overloaded
    });
    assert!(refused, "a budget that is used up refuses pages");
    gateway.until_metric("egress_fullness_permille", |fullness| fullness == 1000);
    assert_eq!(ask(), Code::Ok, "it was refused, and nothing is on its way");
}
