//! Services: they publish, hear of clients, answer them, and go away.

mod common;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use barrage_wire::UpstreamFrame;
use barrage_wire::client::Platform;
use barrage_wire::codec::Tail;
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::upstream::{AckMode, EventKind, PublishHead, events};

use common::upstream::PROBE;
use common::{
    APP, CHAT, Client, GIFT_LARGE, Gateway, Said, Told, Upstream, Via, on_one_and_two_shards,
};

/// Runs a test over each kind of upstream socket, with one and two shards.
fn over_both_sockets(body: impl Fn(&Gateway)) {
    for cores in ["0", "0-1"] {
        for gateway in [Gateway::start(cores, &[]), Gateway::start_with_unix(cores)] {
            eprintln!("with --cores {cores}, unix: {}", gateway.upstream_unix.is_some());
            body(&gateway);
        }
    }
}

/// The next `Direct` of a client, past probes.
fn direct(client: &mut Client) -> Vec<u8> {
    loop {
        match client.hear() {
            Said::Direct { payload, .. } if payload == PROBE => {}
            Said::Direct { category: CHAT, payload, .. } => return payload,
            other => panic!("a direct message was to come, not {other:?}"),
        }
    }
}

#[test]
fn what_is_published_to_a_room_gets_numbers_and_reaches_all_members() {
    const MESSAGES: u32 = 1000;
    over_both_sockets(|gateway| {
        let mut upstream = gateway.upstream();
        assert_eq!(upstream.say_to_room(7, b"nobody is there"), (Code::Ok, 1));
        let mut members: Vec<_> = (0..4).map(|n| gateway.client(Via::BOTH[n % 2], 1)).collect();
        let joined: Vec<_> = members.iter_mut().map(|member| member.join(7)).collect();
        let mut requests = Vec::new();
        for n in 0..MESSAGES {
            let head = upstream.head();
            requests.push(head.request);
            let payload = n.to_le_bytes();
            upstream.send(&UpstreamFrame::PublishRoom { head, room: 7, payload: Tail(&payload) });
        }
        let replies = upstream.replies(MESSAGES as usize);
        for ((reply, request), seq) in replies.iter().zip(requests).zip(2..) {
            assert_eq!((reply.request, reply.code, reply.seq), (request, Code::Ok, seq));
        }
        for (member, joined) in members.iter_mut().zip(&joined) {
            for n in 0..MESSAGES {
                let expected = (u64::from(n) + 2, n.to_le_bytes().to_vec());
                assert_eq!(member.message(joined.alias), expected);
            }
            assert!(member.ping().is_empty(), "nothing else is said");
        }
        assert!(upstream.ping().is_empty(), "every reply came once");
    });
}

#[test]
fn a_message_for_a_user_comes_on_every_connection_of_the_user_and_on_no_other() {
    over_both_sockets(|gateway| {
        let mut upstream = gateway.upstream();
        assert_eq!(upstream.say_to_user(5, b"?"), (Code::Offline, 0));
        let mut mine: Vec<_> = (0..6).map(|n| gateway.client(Via::BOTH[n % 2], 5)).collect();
        let mut other = gateway.client(Via::Tcp, 6);
        upstream.until_user_has(5, 6);
        upstream.until_user_has(6, 1);
        for n in 0..100u8 {
            assert_eq!(upstream.say_to_user(5, &[n]), (Code::Ok, 6));
        }
        for client in &mut mine {
            for n in 0..100 {
                assert_eq!(direct(client), [n]);
            }
            assert!(client.ping().is_empty());
        }
        let others = other.ping();
        assert!(others.iter().all(|said| matches!(said, Said::Direct { payload, .. }
            if payload == PROBE)));

        assert_eq!(upstream.say_to_users(&[5, 6, 77], b"to both"), (Code::Ok, 7));
        assert_eq!(upstream.say_to_users(&[77, 78], b"to nobody"), (Code::Offline, 0));
        assert_eq!(upstream.say_to_users(&[], b"to nobody"), (Code::Offline, 0));
        assert_eq!(upstream.say_to_app(b"to all"), (Code::Ok, 7));
        for client in mine.iter_mut().chain([&mut other]) {
            let mut heard = [direct(client), direct(client)];
            heard.sort_unstable();
            assert_eq!(heard, [b"to all".to_vec(), b"to both".to_vec()]);
        }
        mine.truncate(1);
        upstream.until_user_has(5, 1);
        drop(mine);
        upstream.until_user_has(5, 0);
    });
}

#[test]
fn an_app_hears_its_own_messages_in_order_and_those_of_no_other_app() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        assert_eq!(upstream.say_to_app(b"?"), (Code::Offline, 0));
        let mut clients: Vec<_> =
            (0..6).map(|n| gateway.client(Via::BOTH[n % 2], 1 + n as u64)).collect();
        let mut foreign = Client::connect(gateway.tcp, Via::Tcp);
        foreign.hello_as(APP + 1, 1, &[]);
        for n in 0..200u8 {
            assert_eq!(upstream.say_to_app(&[n]), (Code::Ok, 6));
        }
        for client in &mut clients {
            for n in 0..200 {
                assert_eq!(direct(client), [n]);
            }
        }
        assert!(foreign.ping().is_empty());
        assert_eq!(upstream.say_to_user(77, b""), (Code::Offline, 0));
    });
}

#[test]
fn a_repeated_key_is_answered_and_not_published_again() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut again = gateway.upstream();
        let mut client = gateway.client(Via::Tcp, 5);
        let rooms = [client.join(21), client.join(22)];
        upstream.until_user_has(5, 1);
        let keyed = |upstream: &mut Upstream, idempotency_key| PublishHead {
            idempotency_key,
            ..upstream.head()
        };
        let first = keyed(&mut upstream, 9);
        assert_eq!(upstream.publish_to_room(first, 21, b"one"), (Code::Ok, 1));
        assert_eq!(upstream.say_to_room(21, b"two"), (Code::Ok, 2));
        for service in [&mut upstream, &mut again] {
            let repeat = keyed(service, 9);
            assert_eq!(service.publish_to_room(repeat, 21, b"one again"), (Code::Duplicate, 1));
        }
        let elsewhere = keyed(&mut upstream, 9);
        assert_eq!(upstream.publish_to_room(elsewhere, 22, b"elsewhere"), (Code::Ok, 1));
        let other = keyed(&mut upstream, 9 << 64);
        assert_eq!(upstream.publish_to_room(other, 21, b"three"), (Code::Ok, 3));
        for (seq, payload) in [(1, "one"), (2, "two"), (3, "three")] {
            assert_eq!(client.message(rooms[0].alias), (seq, payload.as_bytes().to_vec()));
        }
        assert_eq!(gateway.metric("duplicates_total"), 2);

        // Keys of one number for a user, for users and for the app are different ones.
        let head = keyed(&mut upstream, 9);
        assert_eq!(upstream.publish_to_user(head, 77, b"offline"), (Code::Offline, 0));
        let head = keyed(&mut upstream, 9);
        assert_eq!(upstream.publish_to_user(head, 5, b"user"), (Code::Ok, 1));
        let head = keyed(&mut upstream, 9);
        assert_eq!(upstream.publish_to_users(head, &[5, 77], b"users"), (Code::Ok, 1));
        let head = keyed(&mut upstream, 9);
        assert_eq!(upstream.publish_to_app(head, b"app"), (Code::Ok, 1));
        let head = keyed(&mut again, 9);
        assert_eq!(again.publish_to_user(head, 5, b"user again"), (Code::Duplicate, 1));
        let head = keyed(&mut again, 9);
        assert_eq!(again.publish_to_users(head, &[5, 77], b"users again"), (Code::Duplicate, 1));
        let head = keyed(&mut again, 9);
        assert_eq!(again.publish_to_app(head, b"app again").0, Code::Duplicate);
        assert_eq!(upstream.say_to_user(5, b"last"), (Code::Ok, 1));
        let mut heard = Vec::new();
        while heard.last().is_none_or(|payload| payload != b"last") {
            match client.hear() {
                Said::Direct { payload, .. } if payload != PROBE => heard.push(payload),
                Said::Direct { .. } | Said::Message { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        heard.extend(client.ping().into_iter().filter_map(|said| match said {
            Said::Direct { payload, .. } => Some(payload),
            _ => None,
        }));
        heard.sort_unstable();
        assert_eq!(heard, [&b"app"[..], b"last", b"user", b"users"]);
        assert_eq!(gateway.metric("duplicates_total"), 5);
    });
}

#[test]
fn a_repeated_message_for_the_app_is_answered_with_the_first_count() {
    let gateway = Gateway::start("0", &[]);
    let _clients = [gateway.client(Via::Tcp, 1), gateway.client(Via::WebSocket, 2)];
    let mut upstream = gateway.upstream();
    let head = PublishHead { idempotency_key: 9, ..upstream.head() };
    assert_eq!(upstream.publish_to_app(head, b"app"), (Code::Ok, 2));
    let head = PublishHead { idempotency_key: 9, ..upstream.head() };
    assert_eq!(upstream.publish_to_app(head, b"app again"), (Code::Duplicate, 2));
}

#[test]
fn each_mode_of_ack_does_what_it_says() {
    over_both_sockets(|gateway| {
        let mut upstream = gateway.upstream();
        let mut client = gateway.client(Via::WebSocket, 5);
        let room = client.join(7);
        let stored = PublishHead { ack: AckMode::Stored, ..upstream.head() };
        assert_eq!(upstream.publish_to_room(stored, 7, b"stored"), (Code::Unstored, 0));
        let stored = PublishHead { ack: AckMode::Stored, ..upstream.head() };
        assert_eq!(upstream.publish_to_user(stored, 5, b"stored"), (Code::Unstored, 0));
        let stored = PublishHead { ack: AckMode::Stored, ..upstream.head() };
        assert_eq!(upstream.publish_to_app(stored, b"stored"), (Code::Unstored, 0));
        let mut silent = 0;
        for n in 0..300u32 {
            let head = PublishHead { ack: AckMode::None, ..upstream.head() };
            let payload = n.to_le_bytes();
            let payload = Tail(&payload);
            let frame = match n % 3 {
                0 => UpstreamFrame::PublishUser { head, user: 77, payload },
                1 => UpstreamFrame::PublishRoom { head, room: 0, payload },
                _ => UpstreamFrame::PublishRoom { head, room: 7, payload },
            };
            upstream.send(&frame);
        }
        while silent < 300 {
            match upstream.hear() {
                Told::Replies { replies, silent: more } if replies.is_empty() => silent += more,
                other => panic!("no reply was asked for: {other:?}"),
            }
        }
        assert_eq!(silent, 300);
        for seq in 1..=100 {
            assert_eq!(client.message(room.alias).0, seq);
        }
        assert_eq!(upstream.say_to_room(7, b"last"), (Code::Ok, 101));
        assert!(upstream.ping().is_empty());
        assert_eq!(client.message(room.alias), (101, b"last".to_vec()));
    });
}

#[test]
fn a_publish_that_cannot_be_is_answered_with_why() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        let mut client = gateway.client(Via::Tcp, 5);
        let room = client.join(7);
        assert_eq!(upstream.say_to_room(0, b"room 0"), (Code::Forbidden, 0));
        for category in [8, 100, u16::MAX] {
            let head = PublishHead { category, ..upstream.head() };
            assert_eq!(upstream.publish_to_room(head, 7, b""), (Code::UnknownCategory, 0));
            let head = PublishHead { category, ..upstream.head() };
            assert_eq!(upstream.publish_to_user(head, 5, b""), (Code::UnknownCategory, 0));
        }
        for (category, seq) in (0..=5).zip(1..) {
            let (ttl_ms, kind) = (60_000, 500 + category);
            let head = PublishHead { category, kind, ttl_ms, ..upstream.head() };
            assert_eq!(upstream.publish_to_room(head, 7, b"in time"), (Code::Ok, seq));
            let payload = b"in time".to_vec();
            let said = Said::Message { alias: room.alias, seq, category, kind, payload };
            assert_eq!(client.hear(), said);
        }
    });
}

/// Messages for users go by way of mail, of which a shard reads so much in one turn: whoever sends
/// them faster than that has more and more of them unanswered.
#[test]
fn user_0_is_nobody() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        assert_eq!(upstream.say_to_user(0, b"x").0, Code::Forbidden);
        assert_eq!(upstream.say_to_users(&[5, 0], b"x").0, Code::Forbidden);
        let head = upstream.head();
        assert_eq!(upstream.publish_from(head, 7, 0, 1, b"x").0, Code::Forbidden);
        assert_eq!(upstream.mute(0, 7, 60).0, Code::Forbidden);
        assert_eq!(upstream.ban(0, 60, "why").0, Code::Forbidden);
        assert_eq!(upstream.kick(0, "why").0, Code::Forbidden);
        // Whoever says nothing for anybody is not meant by it.
        assert_eq!(upstream.say_to_room(7, b"x"), (Code::Ok, 1));
    });
}

#[test]
fn a_service_that_does_not_count_its_credits_is_closed() {
    const PUBLISHES: u32 = 400_000;
    let gateway = Gateway::start("0", &[]);
    let mut upstream = gateway.upstream();
    assert_eq!(upstream.credits, 16_384);
    let head = PublishHead { ack: AckMode::None, ..upstream.head() };
    let publish = UpstreamFrame::PublishUser { head, user: 77, payload: Tail(b"") };
    let thousand = publish.to_vec().repeat(1000);
    // The gateway may stop reading for a while, so somebody else has to listen meanwhile.
    let mut writer = upstream.socket.share();
    let wrote = std::thread::spawn(move || {
        (0..PUBLISHES / 1000).try_for_each(|_| writer.try_write(&thousand)).is_ok()
    });
    let mut given_back = 0;
    let closed = loop {
        match upstream.hear() {
            Told::Replies { silent, .. } => given_back += silent,
            Told::Close { reason, text } => break Some((reason, text)),
            other => panic!("{other:?}"),
        }
        if given_back == PUBLISHES {
            break None;
        }
    };
    wrote.join().expect("the writer ends");
    // A gateway that keeps up never finds the credits exceeded, and gives every one of them back.
    eprintln!("{given_back} given back, {closed:?}");
    if let Some((reason, text)) = closed {
        assert_eq!(reason, CloseReason::Credits, "{text}");
        assert!(text.contains("16384"), "{text}");
    }
}

#[test]
fn services_hear_how_clients_come_and_go() {
    over_both_sockets(|gateway| {
        let mut upstream = gateway.upstream();
        upstream.subscribe(events::ALL, "", &[]);
        for via in Via::BOTH {
            let address = gateway.address(via);
            let mut client = Client::come_from(address, via, 5, 9, Platform::Web);
            let (connection, port) = (client.connection, client.socket.port());
            let mut check = |event, room, reason| {
                let told = upstream.event();
                assert_eq!((told.event, told.room, told.reason), (event, room, reason));
                assert_eq!((told.connection, told.user), (connection, 5));
                assert_eq!((told.device, told.platform), (9, 3));
                let address = Ipv4Addr::LOCALHOST.to_ipv6_mapped().to_bits();
                assert_eq!((told.address, told.port), (address, port));
            };
            check(EventKind::Connect, 0, CloseReason::PeerClosed);
            client.join(7);
            check(EventKind::Join, 7, CloseReason::PeerClosed);
            client.join(8);
            check(EventKind::Join, 8, CloseReason::PeerClosed);
            let request = client.leave(7);
            assert_eq!(client.reply(request).0, Code::Ok);
            check(EventKind::Leave, 7, CloseReason::PeerClosed);
            drop(client);
            check(EventKind::Leave, 8, CloseReason::PeerClosed);
            check(EventKind::Disconnect, 0, CloseReason::PeerClosed);

            let mut client = gateway.client(via, 6);
            upstream.event();
            client.join(9);
            upstream.event();
            client.send_bytes(&[0, 0, 0, 0, 99, 0, 0, 0]);
            assert_eq!(client.hear_close().0, CloseReason::Protocol);
            let (leave, disconnect) = (upstream.event(), upstream.event());
            assert_eq!((leave.event, leave.room), (EventKind::Leave, 9));
            assert_eq!(leave.reason, CloseReason::PeerClosed, "only a disconnect says why");
            assert_eq!(disconnect.event, EventKind::Disconnect);
            assert_eq!(disconnect.reason, CloseReason::Protocol);
        }
        // The latest subscription counts.
        upstream.subscribe(events::DISCONNECT, "", &[]);
        drop(gateway.client(Via::Tcp, 7));
        assert_eq!(upstream.event().event, EventKind::Disconnect);
        upstream.subscribe(0, "", &[]);
        drop(gateway.client(Via::Tcp, 8));
        gateway.until_metric("clients", |clients| clients == 0);
        upstream.visit_all_shards();
        assert!(upstream.ping().is_empty());
    });
}

#[test]
fn a_group_shares_events_and_the_ungrouped_hear_all() {
    const USERS: u64 = 60;
    on_one_and_two_shards(|gateway| {
        let groups = ["", "", "a", "a", "b"];
        let mut services: Vec<_> = groups.iter().map(|_| gateway.upstream()).collect();
        for (service, group) in services.iter_mut().zip(groups) {
            service.subscribe(events::CONNECT, group, &[]);
        }
        let _clients: Vec<_> =
            (1..=USERS).map(|user| gateway.client(Via::BOTH[user as usize % 2], user)).collect();
        gateway.until_metric("events_total", |events| events >= 4 * USERS);
        let heard: Vec<Vec<u64>> = services
            .iter_mut()
            .map(|service| {
                let told = service.ping().into_iter();
                let users = told.map(|told| match told {
                    Told::Event(event) => event.user,
                    other => panic!("{other:?}"),
                });
                let mut users: Vec<_> = users.collect();
                users.sort_unstable();
                users
            })
            .collect();
        let all: Vec<u64> = (1..=USERS).collect();
        assert_eq!((&heard[0], &heard[1], &heard[4]), (&all, &all, &all));
        assert!(!heard[2].is_empty() && !heard[3].is_empty(), "the group of two shares");
        let mut shared = [&heard[2][..], &heard[3]].concat();
        shared.sort_unstable();
        assert_eq!(shared, all, "each event goes to one of the group");
        assert_eq!(gateway.metric("events_total"), 4 * USERS);
    });
}

#[test]
fn an_uplink_is_answered_by_a_service() {
    over_both_sockets(|gateway| {
        let mut upstream = gateway.upstream();
        for via in Via::BOTH {
            upstream.subscribe(0, "", &[]);
            let mut client = gateway.client(via, 5);
            let mut other = gateway.client(via, 6);
            let request = client.uplink(3, 0, b"");
            assert_eq!(client.reply(request).0, Code::NoUpstream);
            upstream.subscribe(0, "", &[2, 3]);
            let request = client.uplink(4, 0, b"");
            assert_eq!(client.reply(request).0, Code::NoUpstream, "another channel");

            let mine = client.uplink(3, 44, b"a question");
            let told = upstream.uplink();
            assert_eq!((told.user, told.connection), (5, client.connection));
            assert_eq!((told.channel, told.kind), (3, 44));
            assert_eq!(told.payload, b"a question");
            let theirs = other.uplink(2, 1, b"another question");
            let told_too = upstream.uplink();
            assert_eq!((told_too.user, told_too.channel), (6, 2));
            upstream.answer(told_too.ticket, Code::Refused, b"because");
            upstream.answer(told.ticket, Code::Ok, b"an answer");
            assert_eq!(client.reply(mine), (Code::Ok, 0, b"an answer".to_vec()));
            assert_eq!(other.reply(theirs), (Code::Refused, 0, b"because".to_vec()));
            // Tickets of no shard or no connection, or whose client has gone, reach nobody.
            upstream.answer(u128::MAX, Code::Ok, b"");
            upstream.answer(u128::from(u64::MAX) << 32, Code::Ok, b"");
            other.uplink(2, 1, b"goodbye");
            let told = upstream.uplink();
            drop(other);
            gateway.until_metric("clients", |clients| clients == 1);
            upstream.answer(told.ticket, Code::Ok, b"too late");
            assert!(upstream.ping().is_empty());
            assert!(client.ping().is_empty());
            drop(client);
            gateway.until_metric("clients", |clients| clients == 0);
        }
    });
}

/// Services may not reach each other by tickets that they make up.
#[test]
fn a_ticket_that_names_a_service_does_nothing() {
    let gateway = Gateway::start("0", &[]);
    let mut services = [gateway.upstream(), gateway.upstream()];
    for index in 0..8 {
        services[0].answer(index << 32, Code::Ok, b"made up");
    }
    assert!(services.iter_mut().all(|service| service.ping().is_empty()));
}

#[test]
fn services_without_a_group_share_uplinks_and_each_question_is_asked_once() {
    const USERS: u64 = 40;
    on_one_and_two_shards(|gateway| {
        for group in ["", "g"] {
            let mut services = [gateway.upstream(), gateway.upstream()];
            services.iter_mut().for_each(|service| service.subscribe(0, group, &[3]));
            let mut clients: Vec<_> =
                (1..=USERS).map(|user| gateway.client(Via::Tcp, user)).collect();
            let before = gateway.metric("uplinks_total");
            let requests: Vec<_> =
                clients.iter_mut().map(|client| client.uplink(3, 0, b"who?")).collect();
            gateway.until_metric("uplinks_total", |uplinks| uplinks >= before + USERS);
            let mut asked = 0;
            for (service, name) in services.iter_mut().zip([&b"first"[..], b"second"]) {
                let told = service.ping();
                assert!(!told.is_empty(), "both are asked by somebody");
                asked += told.len() as u64;
                for told in told {
                    let Told::Uplink(uplink) = told else { panic!("{told:?}") };
                    service.answer(uplink.ticket, Code::Ok, name);
                }
            }
            assert_eq!(asked, USERS);
            for (client, request) in clients.iter_mut().zip(requests) {
                assert_eq!(client.reply(request).0, Code::Ok);
                assert!(client.ping().is_empty(), "one answer");
            }
            drop(services);
            gateway.until_metric("upstreams", |upstreams| upstreams == 0);
        }
    });
}

#[test]
fn an_uplink_goes_to_one_service_even_when_two_groups_serve_the_channel() {
    let gateway = Gateway::start("0", &[]);
    let mut services = [gateway.upstream(), gateway.upstream()];
    services[0].subscribe(0, "a", &[3]);
    services[1].subscribe(0, "b", &[3]);
    let mut client = gateway.client(Via::Tcp, 1);
    client.uplink(3, 0, b"who?");
    assert!(client.ping().is_empty());
    services.iter_mut().for_each(Upstream::visit_all_shards);
    let asked: usize = services.iter_mut().map(|service| service.ping().len()).sum();
    assert_eq!(asked, 1, "`a client's Uplink goes to one subscriber of its channel`");
}

#[test]
fn a_ticket_is_good_for_one_answer() {
    let gateway = Gateway::start("0", &[]);
    let mut upstream = gateway.upstream();
    upstream.subscribe(0, "", &[3]);
    let mut client = gateway.client(Via::Tcp, 1);
    let request = client.uplink(3, 0, b"?");
    let ticket = upstream.uplink().ticket;
    upstream.answer(ticket, Code::Ok, b"once");
    upstream.answer(ticket, Code::Ok, b"twice");
    // The same client, and a request that it never made.
    upstream.answer(ticket ^ 1 << 20, Code::Ok, b"made up");
    assert!(upstream.ping().is_empty(), "it is told nothing that is meant for clients");
    assert_eq!(client.reply(request), (Code::Ok, 0, b"once".to_vec()));
    assert!(client.ping().is_empty(), "the second answer is not for anybody");
}

#[test]
fn a_ticket_of_another_app_reaches_nobody() {
    let gateway = Gateway::start("0", &[]);
    let mut upstream = gateway.upstream();
    upstream.subscribe(0, "", &[3]);
    let mut foreign = Upstream::on(gateway.upstream_socket());
    foreign.hello(APP + 1);
    foreign.subscribe(0, "", &[4]);
    let mut client = gateway.client(Via::Tcp, 1);
    let request = client.uplink(4, 0, b"?");
    assert_eq!(client.reply(request).0, Code::NoUpstream, "that service is another app's");
    let request = client.uplink(3, 0, b"?");
    let ticket = upstream.uplink().ticket;
    foreign.answer(ticket, Code::Ok, b"forged");
    assert!(foreign.ping().is_empty());
    upstream.answer(ticket, Code::Ok, b"true");
    assert_eq!(client.reply(request), (Code::Ok, 0, b"true".to_vec()));
}

#[test]
fn a_question_to_a_service_that_goes_away_is_answered() {
    on_one_and_two_shards(|gateway| {
        let mut upstream = gateway.upstream();
        upstream.subscribe(0, "", &[3]);
        let mut client = gateway.client(Via::Tcp, 1);
        let request = client.uplink(3, 0, b"?");
        upstream.uplink();
        drop(upstream);
        assert_eq!(client.reply(request).0, Code::NoAnswer);
    });
}

#[test]
fn a_service_that_goes_away_is_forgotten_and_another_takes_over() {
    on_one_and_two_shards(|gateway| {
        let mut services = [gateway.upstream(), gateway.upstream()];
        services.iter_mut().for_each(|service| service.subscribe(0, "g", &[3]));
        let [first, mut second] = services;
        drop(first);
        gateway.until_metric("upstreams", |upstreams| upstreams == 1);
        second.visit_all_shards();
        let mut clients: Vec<_> = (1..=20).map(|user| gateway.client(Via::Tcp, user)).collect();
        for client in &mut clients {
            let request = client.uplink(3, 0, b"?");
            let uplink = second.uplink();
            second.answer(uplink.ticket, Code::Ok, b"");
            assert_eq!(client.reply(request).0, Code::Ok);
        }
        drop(second);
        gateway.until_metric("upstreams", |upstreams| upstreams == 0);
        // The other shard hears of it by mail; a question asked before that is answered as well.
        let code = |client: &mut Client| {
            let request = client.uplink(3, 0, b"?");
            client.reply(request).0
        };
        for client in &mut clients {
            assert!(matches!(code(client), Code::NoUpstream | Code::NoAnswer));
        }
    });
}

#[test]
fn a_kicked_user_is_told_and_gone_on_every_connection() {
    over_both_sockets(|gateway| {
        let mut upstream = gateway.upstream();
        let mut mine: Vec<_> = (0..4).map(|n| gateway.client(Via::BOTH[n % 2], 5)).collect();
        let mut other = gateway.client(Via::Tcp, 6);
        upstream.until_user_has(5, 4);
        upstream.subscribe(events::DISCONNECT, "", &[]);
        assert_eq!(upstream.kick(5, "enough"), (Code::Ok, 4));
        for client in &mut mine {
            assert_eq!(client.hear_close(), (CloseReason::Kicked, "enough".to_owned()));
        }
        for _ in 0..4 {
            let told = upstream.event();
            assert_eq!((told.event, told.user), (EventKind::Disconnect, 5));
            assert_eq!(told.reason, CloseReason::Kicked);
        }
        upstream.until_user_has(5, 0);
        assert_eq!(upstream.kick(5, "again"), (Code::Offline, 0));
        assert!(other.ping().is_empty());
        assert_eq!(mine[1].close_code, Some(1008), "a WebSocket hears it in its own words, too");
    });
}

#[test]
fn two_services_speak_in_one_room_in_one_order() {
    const EACH: u32 = 500;
    on_one_and_two_shards(|gateway| {
        let mut members: Vec<_> = (0..4).map(|n| gateway.client(Via::BOTH[n % 2], 1)).collect();
        let joined: Vec<_> = members.iter_mut().map(|member| member.join(7)).collect();
        let speak = |name: u8| {
            let mut upstream = gateway.upstream();
            let mut payloads = HashMap::new();
            for n in 0..EACH {
                let head = PublishHead { category: GIFT_LARGE, ..upstream.head() };
                let payload = [&[name][..], &n.to_le_bytes()].concat();
                let frame = UpstreamFrame::PublishRoom { head, room: 7, payload: Tail(&payload) };
                upstream.send(&frame);
                payloads.insert(head.request, payload);
            }
            let replies = upstream.replies(EACH as usize).into_iter();
            let numbered = replies.map(|reply| {
                assert_eq!(reply.code, Code::Ok);
                (reply.seq, payloads.remove(&reply.request).expect("our request"))
            });
            numbered.collect::<Vec<_>>()
        };
        let mut all = std::thread::scope(|scope| {
            let first = scope.spawn(|| speak(b'a'));
            let second = speak(b'b');
            [first.join().expect("it speaks"), second].concat()
        });
        all.sort_unstable();
        for (member, joined) in members.iter_mut().zip(&joined) {
            let heard: Vec<_> = (0..2 * EACH).map(|_| member.message(joined.alias)).collect();
            assert!(heard == all, "every member hears what the replies say");
        }
    });
}
