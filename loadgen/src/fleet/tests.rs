//! Clients fed by hand.

use barrage_wire::limits::PROTOCOL_VERSION;
use barrage_wire::ws::{parse_request, put_ping, server_header, write_response};
use barrage_wire::{ServerFrame, Tail, Text};

use super::*;
use crate::ledger::Tally;
use crate::plan::{Places, Rooms};
use crate::scenario::{Churn, Disconnect};
use crate::stamp::{STAMP_BYTES, Stamp};

const ROOM: u64 = 8;
const EPOCH: u64 = 3;

fn plan(clients: u32) -> Plan {
    Plan::of_test(Places::Given(vec![Rooms::One(ROOM)]), clients)
}

fn conn(index: u32) -> ConnId {
    ConnId { index, generation: 0 }
}

/// With all its clients connected, before any of them has heard anything.
fn fleet(plan: Plan) -> Fleet {
    let clients = plan.clients;
    let mut fleet = Fleet::new(Arc::new(plan));
    for index in 0..clients {
        fleet.add(Ok(conn(index)));
        fleet.on(Event::Connected { conn: conn(index) });
    }
    fleet
}

/// With all its clients ready in their room, whose head is 0.
fn ready(clients: u32) -> Fleet {
    let mut fleet = fleet(plan(clients));
    (0..clients).for_each(|index| join(&mut fleet, index, 0));
    assert_eq!(fleet.world.counts.here, u64::from(clients));
    fleet
}

fn join(fleet: &mut Fleet, index: u32, head: u64) {
    hear(fleet, index, &[welcome(), joined(head)]);
}

fn hear(fleet: &mut Fleet, index: u32, frames: &[Vec<u8>]) {
    fleet.on(Event::Received { conn: conn(index), bytes: &mut frames.concat() });
}

fn welcome() -> Vec<u8> {
    let frame = ServerFrame::Welcome {
        version: PROTOCOL_VERSION,
        heartbeat_s: 30,
        connection: 1,
        user: 1,
        body_bytes_max: 1000,
        rooms_max: 8,
        resume: Text(""),
    };
    frame.to_vec()
}

fn joined(head: u64) -> Vec<u8> {
    let (request, alias, level, members) = (1, 1, 1, 1);
    ServerFrame::Joined { request, alias, room: ROOM, epoch: EPOCH, head, level, members }.to_vec()
}

fn message(seq: u64) -> Vec<u8> {
    ServerFrame::Message { alias: 1, seq, category: 4, kind: 1, payload: Tail(b"") }.to_vec()
}

fn storm(resume: bool) -> Disconnect {
    Disconnect { percent: 100.0, away_ns: SECOND_NS, resume, per_s: 0.0 }
}

/// The client comes back on another connection.
fn come_back(fleet: &mut Fleet, number: usize, index: u32) {
    fleet.take(number, conn(index));
    fleet.on(Event::Connected { conn: conn(index) });
}

#[test]
fn who_was_to_come_back_and_has_not_is_counted() {
    for resume in [false, true] {
        let mut fleet = ready(4);
        fleet.disconnect(storm(resume));
        come_back(&mut fleet, 0, 10);
        join(&mut fleet, 10, 0);
        // Number 1 is on its way, and the others are still away.
        come_back(&mut fleet, 1, 11);
        fleet.come_home();
        assert!(!fleet.is_complete(&[0]), "they are waited for, resume {resume}");
        fleet.finish(&[0]);
        let counts = fleet.world.counts;
        assert_eq!((counts.here, counts.unreturned), (1, 3), "resume {resume}");
        assert_eq!(fleet.world.totals().failed, 3);
        assert_eq!(fleet.world.faults["did not come back before the end"], 3);
    }
}

#[test]
fn who_has_gone_for_good_is_not_missed() {
    let mut fleet = ready(4);
    fleet.set_churn(Some(Churn {
        clients_per_s: 1e9,
        away_ns: SECOND_NS,
        resume: false,
        abrupt_percent: 0.0,
    }));
    fleet.world.now_ns += 100;
    fleet.churn();
    assert_eq!(fleet.world.counts.here, 0);
    // One has tried in vain.
    come_back(&mut fleet, 2, 10);
    fleet.on(Event::Ended { conn: conn(10), errno: 0 });
    fleet.come_home();
    fleet.finish(&[0]);
    assert_eq!(fleet.world.counts.unreturned, 1);
}

#[test]
fn a_client_is_awaited_once() {
    let mut fleet = ready(2);
    hear(&mut fleet, 0, &[message(1)]);
    fleet.disconnect(storm(true));
    assert_eq!(fleet.awaited(), 2);
    come_back(&mut fleet, 0, 10);
    join(&mut fleet, 10, 5);
    assert_eq!(fleet.awaited(), 2, "it has to hear up to 5");
    fleet.disconnect(storm(true));
    assert_eq!(fleet.awaited(), 2);
    come_back(&mut fleet, 0, 20);
    join(&mut fleet, 20, 3);
    hear(&mut fleet, 20, &[message(2)]);
    assert_eq!(fleet.awaited(), 2);
    hear(&mut fleet, 20, &[message(3)]);
    assert_eq!(fleet.awaited(), 1);
    come_back(&mut fleet, 1, 21);
    join(&mut fleet, 21, 0);
    assert_eq!(fleet.awaited(), 0);
}

#[test]
fn a_reset_is_the_end_of_catching_up() {
    let mut fleet = ready(1);
    fleet.disconnect(storm(true));
    come_back(&mut fleet, 0, 10);
    join(&mut fleet, 10, 100);
    assert_eq!(fleet.awaited(), 1);
    let reset = ServerFrame::Reset { alias: 1, epoch: EPOCH + 1, head: 2, oldest: 1 };
    hear(&mut fleet, 10, &[reset.to_vec()]);
    assert_eq!(fleet.awaited(), 0, "100 was a number of another epoch");
}

#[test]
fn a_handshake_that_is_answered_before_it_is_known_to_be_sent_loses_no_hello() {
    let (mut fleet, mut answer) = shaking();
    // The beginning of a frame comes along and has to be kept.
    answer.push(0x82);
    fleet.on(Event::Received { conn: conn(0), bytes: &mut answer });
    assert_eq!(fleet.sends.len(), 0, "the request is still in flight");
    sent(&mut fleet, &request());
    let [(_, hello)] = &fleet.sends[..] else { panic!("HELLO is not said") };
    assert!(hello.len() > 32, "HELLO and JOIN");
    let (mut bytes, frames) = (Vec::new(), [welcome(), joined(0)].concat());
    let (header, used) = server_header(frames.len());
    bytes.extend_from_slice(&header[1..used]);
    bytes.extend_from_slice(&frames);
    fleet.on(Event::Received { conn: conn(0), bytes: &mut bytes });
    assert_eq!(fleet.world.counts.here, 1);
}

#[test]
fn who_pings_and_reads_nothing_is_left() {
    let (mut fleet, mut answer) = shaking();
    fleet.on(Event::Received { conn: conn(0), bytes: &mut answer });
    let mut pings = Vec::new();
    (0..100).for_each(|_| put_ping(&mut pings, None, &[7; 100]));
    let mut rounds = 0;
    while fleet.clients[0].phase != Phase::Gone {
        rounds += 1;
        let waits = fleet.clients[0].rare.as_ref().map_or(0, |rare| rare.outgoing.len());
        assert!(waits <= OUTGOING_BYTES_MAX && rounds < 100, "{waits} bytes wait");
        fleet.on(Event::Received { conn: conn(0), bytes: &mut pings.clone() });
    }
    assert!(rounds > 5, "some are answered");
    assert_eq!(fleet.world.faults["the target asks and does not read the answers"], 1);
}

/// A client of WebSocket whose request is in flight, and the answer to it.
fn shaking() -> (Fleet, Vec<u8>) {
    let mut fleet = fleet(Plan { transport: Transport::Ws, ..plan(1) });
    assert_eq!(fleet.sends.len(), 1);
    fleet.sends.clear();
    let mut answer = Vec::new();
    let request = request();
    let request = parse_request(&request).expect("a request").expect("a whole one");
    write_response(&request, &mut answer);
    (fleet, answer)
}

fn request() -> Vec<u8> {
    let mut request = Vec::new();
    write_request("127.0.0.1:1", WS_PATH, ws_key(0), &mut request);
    request
}

fn sent(fleet: &mut Fleet, bytes: &[u8]) {
    let slice = SendSlice::from_vec(bytes.to_vec());
    fleet.on(Event::Sent { conn: conn(0), slice, result: Ok(bytes.len()) });
}

/// Clients of Redis of whom the second subscribes when something may have been published.
#[test]
fn a_late_subscriber_begins_with_what_it_hears_first() {
    let plan = Plan { dialect: Some(Dialect::Redis), ..plan(2) };
    let mut fleet = fleet(plan);
    let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$6\r\nroom:8\r\n:1\r\n".to_vec();
    let say = |fleet: &mut Fleet, index, number| {
        let mut payload = [0; STAMP_BYTES];
        Stamp { intended_ns: 1, index: number, lag_us: 0 }.write(&mut payload);
        let head = b"*3\r\n$7\r\nmessage\r\n$6\r\nroom:8\r\n$16\r\n";
        hear(fleet, index, &[head.to_vec(), payload.to_vec(), b"\r\n".to_vec()]);
    };
    hear(&mut fleet, 0, std::slice::from_ref(&subscribed));
    fleet.world.publishing = true;
    hear(&mut fleet, 1, &[subscribed]);
    assert_eq!(fleet.world.counts.here, 2);
    // The second is ready before anything of the room is heard here, and yet not at its beginning.
    say(&mut fleet, 1, 5);
    say(&mut fleet, 0, 2);
    fleet.finish(&[5]);
    let Tally { delivered, unexplained, .. } = fleet.world.tally;
    assert_eq!((delivered, unexplained), (2, 4), "of the first 1, 3, 4 and 5 are missing");
}

#[test]
fn a_survey_weighs_messages_and_not_members() {
    // Three of room 20 and one each of 21 and 22, and nobody of 23.
    let layout = [20, 20, 20, 21, 22];
    let rooms = Places::Given(vec![Rooms::spread(20, 4)]);
    let mut fleet = fleet(Plan::of_test(rooms, 3 * 4));
    for index in 0..3 * 4 {
        let at = u64::from(index % 4);
        let is_member = at == 0 || (index < 4 && at < 3);
        if is_member {
            join(&mut fleet, index, 0);
        }
    }
    assert_eq!(fleet.world.counts.here, layout.len() as u64);
    let survey = |fleet: &mut Fleet| {
        (0..10).for_each(|_| fleet.survey());
        fleet.world.progress()
    };
    assert_eq!(survey(&mut fleet), 0);
    for index in [0, 4, 8] {
        let messages: Vec<_> = (1..=30).map(message).collect();
        hear(&mut fleet, index, &messages);
    }
    assert_eq!(survey(&mut fleet), 30, "thirty messages of one room, however many hear them");
    hear(&mut fleet, 1, &[message(1), message(2)]);
    assert_eq!(survey(&mut fleet), 32);
    hear(&mut fleet, 2, &[message(1)]);
    assert_eq!(survey(&mut fleet), 33 + 1, "room 23 is supposed to be as far as 22");
    hear(&mut fleet, 4, &[message(31)]);
    assert_eq!(survey(&mut fleet), 34, "only one of three knows it");
}
