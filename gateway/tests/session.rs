//! Clients: they come, join, speak, hear, leave, and resume.

mod common;

use barrage_wire::ClientFrame;
use barrage_wire::client::Cursor;
use barrage_wire::limits::{PAYLOAD_BYTES_MAX, PROTOCOL_VERSION};
use barrage_wire::server::{CloseReason, Code};

use common::client::{from_now, hello};
use common::{APP, CHAT, Client, Gateway, Said, Via, on_one_and_two_shards};

/// What a room remembers at most.
const HISTORY_FRAMES: u64 = 256;

#[test]
fn hello_is_answered_with_who_the_client_is() {
    on_one_and_two_shards(|gateway| {
        let mut connections = Vec::new();
        for (via, user) in [(Via::Tcp, 1001), (Via::WebSocket, 1002), (Via::Tcp, u64::MAX)] {
            let mut client = Client::connect(gateway.address(via), via);
            client.send_bytes(&hello(PROTOCOL_VERSION, APP, &format!("open:{user}"), &[]));
            let Said::Welcome { version, heartbeat_s, connection, user: named, rooms_max } =
                client.hear()
            else {
                panic!("not welcome")
            };
            assert_eq!((version, heartbeat_s, named, rooms_max), (1, 120, user, 64));
            assert!(client.ping().is_empty(), "nothing else is said");
            connections.push((connection, client));
        }
        assert_ne!(connections[0].0, connections[1].0);
        assert_ne!(connections[0].0, connections[2].0);
    });
}

#[test]
fn every_member_hears_everything_in_order_and_the_speaker_gets_the_number() {
    const MESSAGES: u64 = 300;
    on_one_and_two_shards(|gateway| {
        for speaks in Via::BOTH {
            let room = if speaks == Via::Tcp { 10 } else { 11 };
            let mut members: Vec<_> = (0..8)
                .map(|user| {
                    let via = if user % 2 == 0 { Via::Tcp } else { Via::WebSocket };
                    let mut client = gateway.client(via, 1 + user);
                    let joined = client.join(room);
                    assert_eq!((joined.head, u64::from(joined.members)), (0, user + 1));
                    (client, joined)
                })
                .collect();
            let mut speaker = gateway.client(speaks, 99);
            let joined = speaker.join(room);
            let text = |seq: u64| format!("message {seq}");
            let requests: Vec<_> = (1..=MESSAGES)
                .map(|seq| speaker.publish(joined.alias, CHAT, text(seq).as_bytes()))
                .collect();
            let (mut replied, mut heard) = (1, 1);
            while replied <= MESSAGES || heard <= MESSAGES {
                match speaker.hear() {
                    Said::Reply { request, code: Code::Ok, seq, .. } => {
                        assert_eq!((request, seq), (requests[replied as usize - 1], replied));
                        replied += 1;
                    }
                    Said::Message { alias, seq, category: CHAT, kind: 9, payload } => {
                        assert_eq!((alias, seq), (joined.alias, heard));
                        assert_eq!(payload, text(seq).as_bytes());
                        heard += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            for (client, joined) in &mut members {
                for seq in 1..=MESSAGES {
                    assert_eq!(client.message(joined.alias), (seq, text(seq).into_bytes()));
                }
                assert!(client.ping().is_empty(), "nothing else is said");
            }
        }
    });
}

#[test]
fn one_connection_holds_several_rooms_and_leaves_one_of_them() {
    on_one_and_two_shards(|gateway| {
        for via in Via::BOTH {
            let base = if via == Via::Tcp { 100 } else { 200 };
            let mut client = gateway.client(via, 1);
            let mut other = gateway.client(Via::Tcp, 2);
            let rooms: Vec<_> =
                (0..6).map(|room| (client.join(base + room), other.join(base + room))).collect();
            for (mine, theirs) in &rooms {
                assert_eq!((mine.members, theirs.members), (1, 2));
                let payload = mine.room.to_le_bytes();
                let request = other.publish(theirs.alias, CHAT, &payload);
                assert_eq!(client.message(mine.alias), (1, payload.to_vec()));
                assert_eq!(other.reply(request).0, Code::Ok);
            }
            let (left, theirs) = rooms[2];
            let request = client.leave(left.room);
            assert_eq!(client.reply(request).0, Code::Ok);
            let request = other.publish(theirs.alias, CHAT, b"to a room that was left");
            assert_eq!(other.reply(request), (Code::Ok, 2, Vec::new()));
            let (mine, theirs) = rooms[3];
            other.publish(theirs.alias, CHAT, b"to another");
            let said = client.hear();
            assert!(
                matches!(said, Said::Message { alias, seq: 2, .. } if alias == mine.alias),
                "after LEAVE nothing comes of that room, but {said:?}"
            );
            let request = client.publish(left.alias, CHAT, b"");
            assert_eq!(client.reply(request).0, Code::NotMember);
            assert_eq!(client.join(left.room).head, 2, "it may come back");
        }
    });
}

#[test]
fn a_request_that_cannot_be_is_answered_with_why() {
    on_one_and_two_shards(|gateway| {
        for via in Via::BOTH {
            let mut client = gateway.client(via, 1);
            let room = client.join(7);
            let mut check = |what: &str, frame: &dyn Fn(&mut Client) -> u32, code: Code| {
                let request = frame(&mut client);
                assert_eq!(client.reply(request).0, code, "{what}");
            };
            let publish = |alias, category| {
                move |client: &mut Client| client.publish(alias, category, b"payload")
            };
            check("room 0", &|client| client.ask_to_join(from_now(0)), Code::Forbidden);
            check("joined twice", &|client| client.ask_to_join(from_now(7)), Code::AlreadyMember);
            check("left and never joined", &|client| client.leave(8), Code::NotMember);
            check("room 0 left", &|client| client.leave(0), Code::NotMember);
            check("no such alias", &publish(room.alias + 1, CHAT), Code::NotMember);
            check("alias 0", &publish(0, CHAT), Code::NotMember);
            check("no such category", &publish(room.alias, 99), Code::UnknownCategory);
            check("no such category", &publish(room.alias, u16::MAX), Code::UnknownCategory);
            for never_dropped in 0..=2 {
                check("not for clients", &publish(room.alias, never_dropped), Code::Forbidden);
            }
            check("no upstream", &|client| client.uplink(3, 0, b""), Code::NoUpstream);
            check("what can be", &publish(room.alias, CHAT), Code::Ok);
            let request = client.leave(7);
            assert_eq!(client.reply(request).0, Code::Ok);
            let request = client.leave(7);
            assert_eq!(client.reply(request).0, Code::NotMember);
        }
    });
}

#[test]
fn a_client_is_a_member_of_64_rooms_and_of_no_more() {
    on_one_and_two_shards(|gateway| {
        for via in Via::BOTH {
            let mut client = gateway.client(via, 1);
            let requests: Vec<_> =
                (1..=70).map(|room| client.ask_to_join(from_now(room))).collect();
            let (mut joined, mut refused) = (0, 0);
            while joined + refused < requests.len() {
                match client.hear() {
                    Said::Joined { .. } => joined += 1,
                    Said::Reply { code: Code::TooManyRooms, .. } => refused += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((joined, refused), (64, 6));
            let request = client.ask_to_join(from_now(71));
            assert_eq!(client.reply(request).0, Code::TooManyRooms);
            let mut other = gateway.client(Via::Tcp, 2);
            assert_eq!(other.join(71).members, 1, "who was refused is not counted");
        }
    });
}

#[test]
fn requests_are_answered_however_their_bytes_are_cut() {
    let gateway = Gateway::start("0", &[]);
    for via in Via::BOTH {
        for size in [1, 2, 3, 7, 64, usize::MAX] {
            let mut client = Client::connect(gateway.address(via), via);
            let mut bytes = hello(PROTOCOL_VERSION, APP, "open:17", &[]);
            ClientFrame::Ping { nonce: 1 }.encode(&mut bytes);
            let second = ClientFrame::Join { request: 2, cursor: from_now(5) }.to_vec();
            let third = ClientFrame::Ping { nonce: 3 }.to_vec();
            // Over WebSocket, two frames in the first message.
            let all = [client.framed(&bytes), client.framed(&second), client.framed(&third)];
            for piece in all.concat().chunks(size.min(1 << 20)) {
                client.socket.write(piece);
            }
            assert!(matches!(client.hear(), Said::Welcome { user: 17, .. }));
            assert_eq!(client.hear(), Said::Pong { nonce: 1 });
            let mut rest = [client.hear(), client.hear()];
            rest.sort_by_key(|said| matches!(said, Said::Joined { .. }));
            assert_eq!(rest[0], Said::Pong { nonce: 3 });
            assert!(matches!(rest[1], Said::Joined { request: 2, room: 5, .. }));
        }
    }
}

/// `It need not wait for an answer before it sends the next request.`
#[test]
fn a_join_and_its_leave_can_be_sent_in_one_go() {
    on_one_and_two_shards(|gateway| {
        let mut client = gateway.client(Via::Tcp, 1);
        let mut both = ClientFrame::Join { request: 1, cursor: from_now(5) }.to_vec();
        ClientFrame::Leave { request: 2, room: 5 }.encode(&mut both);
        client.send_bytes(&both);
        assert_eq!(client.reply(2).0, Code::Ok);
        assert_eq!(gateway.client(Via::Tcp, 2).join(5).members, 1, "it has left");
    });
}

#[test]
fn the_largest_payload_arrives_whole() {
    on_one_and_two_shards(|gateway| {
        let payload: Vec<u8> = (0..PAYLOAD_BYTES_MAX).map(|at| (at * 7) as u8).collect();
        let mut members = Via::BOTH.map(|via| gateway.client(via, 1));
        let joined = [0, 1].map(|index: usize| members[index].join(3));
        for seq in 1..=20 {
            let speaker = seq as usize % 2;
            members[speaker].publish(joined[speaker].alias, CHAT, &payload);
            for (member, joined) in members.iter_mut().zip(&joined) {
                assert_eq!(member.message(joined.alias), (seq, payload.clone()));
            }
        }
        for (via, mut member) in Via::BOTH.into_iter().zip(members) {
            let too_long = vec![0; PAYLOAD_BYTES_MAX + 1];
            member.publish(joined[0].alias, CHAT, &too_long);
            assert_eq!(member.hear_close().0, CloseReason::Protocol, "{via:?}");
        }
    });
}

/// Says messages `from..=to` in a room that is at `from - 1`.
fn speak(client: &mut Client, alias: u32, from: u64, to: u64) {
    for seq in from..=to {
        let request = client.publish(alias, CHAT, text(seq).as_bytes());
        assert_eq!(client.reply(request), (Code::Ok, seq, Vec::new()));
    }
}

fn text(seq: u64) -> String {
    format!("this is message {seq}")
}

#[test]
fn a_cursor_brings_exactly_what_was_missed_and_then_what_is_new() {
    on_one_and_two_shards(|gateway| {
        let mut speaker = gateway.client(Via::Tcp, 1);
        let rooms = [speaker.join(31), speaker.join(32)];
        speak(&mut speaker, rooms[0].alias, 1, 10);
        speak(&mut speaker, rooms[1].alias, 1, 20);
        for (via, more) in Via::BOTH.into_iter().zip(0..) {
            let heads = [10 + more, 20 + more];
            let head = heads[0];
            for read in [0, 4, head - 1, head] {
                let mut client = gateway.client(via, 2);
                let joined = client.join_at(rooms[0].at(read));
                assert_eq!((joined.head, joined.epoch), (head, rooms[0].epoch));
                for seq in read + 1..=head {
                    assert_eq!(client.message(joined.alias), (seq, text(seq).into_bytes()));
                }
                assert!(client.ping().is_empty(), "nothing else is said");
            }
            let mut client = Client::connect(gateway.address(via), via);
            client.hello(2, &[rooms[0].at(7), rooms[1].at(15)]);
            let mut missed = vec![Vec::new(); 2];
            for _ in 0..2 + heads[0] - 7 + heads[1] - 15 {
                match client.hear() {
                    Said::Joined { request, room, head, .. } => {
                        let expected = heads[room as usize - 31];
                        assert_eq!((request, head), (0, expected));
                    }
                    Said::Message { alias, seq, .. } => {
                        let index = rooms.iter().position(|room| room.alias == alias);
                        missed[index.expect("one of the rooms")].push(seq);
                    }
                    other => panic!("{other:?}"),
                }
            }
            let expected: [Vec<_>; 2] = [(8..=heads[0]).collect(), (16..=heads[1]).collect()];
            assert_eq!(missed, expected);
            for (room, head) in rooms.iter().zip(heads) {
                speak(&mut speaker, room.alias, head + 1, head + 1);
                assert_eq!(client.message(room.alias).0, head + 1);
            }
        }
        let mut live = gateway.client(Via::WebSocket, 3);
        let joined = live.join_at(rooms[0].at(8));
        speak(&mut speaker, rooms[0].alias, 13, 15);
        let heard: Vec<_> = (9..=15).map(|_| live.message(joined.alias).0).collect();
        assert_eq!(heard, [9, 10, 11, 12, 13, 14, 15]);
    });
}

#[test]
fn a_cursor_that_cannot_be_gone_on_from_is_reset() {
    let elsewhere = Gateway::start("0", &[]).client(Via::Tcp, 1).join(40);
    on_one_and_two_shards(|gateway| {
        let mut speaker = gateway.client(Via::Tcp, 1);
        let room = speaker.join(40);
        assert_ne!(room.epoch, elsewhere.epoch, "another start is another epoch");
        let mut head = HISTORY_FRAMES + 44;
        speak(&mut speaker, room.alias, 1, head);
        for via in Via::BOTH {
            let mut check = |what: &str, cursor: Cursor| {
                let mut client = gateway.client(via, 2);
                let joined = client.join_at(cursor);
                assert_eq!(joined.head, head, "{what}");
                let (alias, epoch) = (joined.alias, room.epoch);
                let oldest = head - HISTORY_FRAMES + 1;
                assert_eq!(client.hear(), Said::Reset { alias, epoch, oldest, head }, "{what}");
                speak(&mut speaker, room.alias, head + 1, head + 1);
                head += 1;
                assert_eq!(client.message(alias), (head, text(head).into_bytes()), "{what}");
                assert!(client.ping().is_empty(), "{what}");
            };
            check("too old", room.at(43));
            check("long ago", room.at(0));
            check("another epoch", Cursor { epoch: elsewhere.epoch, ..room.at(299) });
            check("not said yet", room.at(10_000));
            let mut client = gateway.client(via, 2);
            let joined = client.join_at(room.at(head - HISTORY_FRAMES));
            for seq in head - HISTORY_FRAMES + 1..=head {
                assert_eq!(client.message(joined.alias).0, seq, "the oldest is still there");
            }
            assert!(client.ping().is_empty());
        }
    });
}

#[test]
fn a_cursor_of_a_room_that_nobody_knows_is_reset() {
    let gateway = Gateway::start("0", &[]);
    let mut client = gateway.client(Via::Tcp, 1);
    let cursor = Cursor { room: 50, epoch: 12345, seq: 17 };
    let joined = client.join_at(cursor);
    let Said::Reset { alias, epoch, oldest, head } = client.hear() else { panic!("no reset") };
    assert_eq!((alias, epoch, oldest, head), (joined.alias, joined.epoch, 1, 0));
    speak(&mut client, joined.alias, 1, 1);
}

/// A client that was in many busy rooms has much to catch up with, and reads as fast as it can.
#[test]
fn whoever_resumes_many_full_rooms_gets_all_that_was_missed() {
    const ROOMS: u64 = 8;
    const BYTES: usize = 900;
    let gateway = Gateway::start("0", &[]);
    let mut speaker = gateway.upstream();
    let mut first = gateway.client(Via::Tcp, 1);
    let rooms: Vec<_> = (1..=ROOMS).map(|room| first.join(room)).collect();
    for room in &rooms {
        for _ in 0..HISTORY_FRAMES {
            assert_eq!(speaker.say_to_room(room.room, &[7; BYTES]).0, Code::Ok);
        }
    }
    for via in Via::BOTH {
        let mut client = Client::connect(gateway.address(via), via);
        let cursors: Vec<_> = rooms.iter().map(|room| room.at(0)).collect();
        client.hello(2, &cursors);
        let mut heard = vec![0; ROOMS as usize];
        let all = ROOMS * HISTORY_FRAMES;
        while heard.iter().sum::<u64>() < all {
            match client.hear() {
                Said::Message { alias, seq, .. } => {
                    let index = rooms.iter().position(|room| room.alias == alias);
                    let heard = &mut heard[index.expect("one of the rooms")];
                    *heard += 1;
                    assert_eq!(seq, *heard);
                }
                Said::Joined { .. } => {}
                other => panic!("{via:?}: after {heard:?} of {HISTORY_FRAMES} each: {other:?}"),
            }
        }
    }
}

#[test]
fn members_come_and_go_while_a_room_speaks_and_nobody_misses_anything() {
    const MESSAGES: u64 = 2000;
    on_one_and_two_shards(|gateway| {
        let room = 60;
        let mut stays = Via::BOTH.map(|via| gateway.client(via, 1));
        let joined = [0, 1].map(|index: usize| stays[index].join(room));
        std::thread::scope(|scope| {
            let said = scope.spawn(|| {
                let mut upstream = gateway.upstream();
                for seq in 1..=MESSAGES {
                    assert_eq!(upstream.say_to_room(room, text(seq).as_bytes()), (Code::Ok, seq));
                }
            });
            let mut guests = 0;
            while !said.is_finished() {
                let via = Via::BOTH[guests % 2];
                let mut guest = gateway.client(via, 2);
                let joined = guest.join(room);
                let last = (joined.head + 20).min(MESSAGES);
                for seq in joined.head + 1..=last {
                    assert_eq!(guest.message(joined.alias), (seq, text(seq).into_bytes()));
                }
                if guests.is_multiple_of(3) {
                    let request = guest.leave(room);
                    assert_eq!(guest.reply(request).0, Code::Ok);
                }
                guests += 1;
            }
            assert!(guests > 1, "some came and went");
        });
        for (client, joined) in stays.iter_mut().zip(joined) {
            for seq in 1..=MESSAGES {
                assert_eq!(client.message(joined.alias), (seq, text(seq).into_bytes()));
            }
        }
    });
}

#[test]
fn an_app_does_not_hear_another_one() {
    on_one_and_two_shards(|gateway| {
        let mut here = gateway.client(Via::Tcp, 1);
        let mut there = Client::connect(gateway.tcp, Via::Tcp);
        there.hello_as(APP + 1, 1, &[]);
        let (mine, theirs) = (here.join(7), there.join(7));
        assert_eq!((mine.members, theirs.members), (1, 1), "two rooms");
        let request = here.publish(mine.alias, CHAT, b"here");
        assert_eq!(here.reply(request), (Code::Ok, 1, Vec::new()));
        there.publish(theirs.alias, CHAT, b"there");
        assert_eq!(there.message(theirs.alias), (1, b"there".to_vec()));
        assert!(there.ping().iter().all(|said| !matches!(said, Said::Message { .. })));
    });
}
