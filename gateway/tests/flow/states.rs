//! The latest value of a key: what is in between may be left out, the last one never is.

use std::collections::BTreeMap;

use barrage_wire::UpstreamFrame;
use barrage_wire::client::Cursor;
use barrage_wire::codec::Tail;
use barrage_wire::server::Code;
use barrage_wire::upstream::AckMode;

use super::common::client::from_now;
use super::common::{CHAT, Client, Gateway, Receiver, Said, Socket, Upstream, Via};
use super::{ROOM, STATE, head, with_policy};

const POLICY: &str = "[merge]\nstate-every = \"200ms\"\n";
const KEYS: u64 = 3;

/// Says what the values of a key are now, in one go; what each was answered with.
fn put(upstream: &mut Upstream, key: u64, values: &[String]) -> Vec<Code> {
    for value in values {
        let head = head(upstream, STATE, key, AckMode::Accepted);
        let payload = Tail(value.as_bytes());
        upstream.send(&UpstreamFrame::PublishRoom { head, room: ROOM, payload });
    }
    upstream.replies(values.len()).iter().map(|reply| reply.code).collect()
}

/// What a client shows that keeps to the rules of the protocol.
#[derive(Default)]
struct Shown {
    values: BTreeMap<u64, (u64, String)>,
    states: usize,
}

impl Shown {
    fn hear(&mut self, said: &Said) {
        let (seq, key, payload, newer) = match said {
            Said::State { seq, key, payload, .. } => {
                self.states += 1;
                (*seq, *key, payload, self.values.get(key).is_none_or(|kept| kept.0 < *seq))
            }
            Said::Snapshot { seq, key, payload, .. } => {
                (*seq, *key, payload, self.values.get(key).is_none_or(|kept| kept.0 <= *seq))
            }
            _ => return,
        };
        if newer {
            let value = String::from_utf8(payload.clone()).expect("text");
            self.values.insert(key, (seq, value));
        }
    }

    fn shows(&self) -> Vec<(u64, &str)> {
        let shown = self.values.iter().filter(|(_, (_, value))| !value.is_empty());
        shown.map(|(key, (_, value))| (*key, value.as_str())).collect()
    }

    fn hear_until(&mut self, client: &mut Client, shows: &[(u64, &str)]) {
        while self.shows() != shows {
            self.hear(&client.hear());
        }
    }
}

/// What comes right behind `Joined`, and what is shown then. Everything comes before the numbered
/// frames that follow.
fn snapshot(client: &mut Client, reset: bool) -> Shown {
    let mut shown = Shown::default();
    if reset {
        let said = client.hear();
        assert!(matches!(said, Said::Reset { .. }), "{said:?}");
    }
    for _ in 0..KEYS {
        let said = client.hear();
        assert!(matches!(said, Said::Snapshot { .. }), "{said:?}");
        shown.hear(&said);
    }
    shown
}

fn values(of: &str, count: u32) -> Vec<String> {
    (1..=count).map(|n| format!("{of}{n}")).collect()
}

const LAST: [(u64, &str); 3] = [(0, "a50"), (1, "b50"), (2, "c50")];

#[test]
fn values_replace_each_other_and_the_last_one_goes_out() {
    with_policy(POLICY, |gateway| {
        let mut upstream = gateway.upstream();
        let mut member = gateway.client(Via::Tcp, 1);
        member.join(ROOM);
        for (key, of) in [(0, "a"), (1, "b"), (2, "c")] {
            let codes = put(&mut upstream, key, &values(of, 50));
            assert_eq!(codes[0], Code::Ok, "the first one goes out at once");
            let merged = codes.iter().filter(|&&code| code == Code::Merged).count();
            assert!(merged >= 45, "{codes:?}");
        }
        let mut shown = Shown::default();
        shown.hear_until(&mut member, &LAST);
        assert!(shown.states <= 15, "{} frames of 150 values", shown.states);
        // Later: alone, and at once.
        assert_eq!(put(&mut upstream, 0, &["a51".into()]).len(), 1);
        shown.hear_until(&mut member, &[(0, "a51"), LAST[1], LAST[2]]);
        // An empty value takes the key away, for those who come as well.
        put(&mut upstream, 0, &[String::new()]);
        shown.hear_until(&mut member, &LAST[1..]);
        put(&mut upstream, 1, &[String::new()]);
        shown.hear_until(&mut member, &LAST[2..]);
        let mut late = gateway.client(Via::WebSocket, 2);
        late.join(ROOM);
        let mut shown = Shown::default();
        late.ping().iter().for_each(|said| shown.hear(said));
        assert_eq!((shown.shows(), shown.states), (LAST[2..].to_vec(), 0));
    });
}

#[test]
fn who_joins_is_told_the_present_values() {
    // The second values would go out in a minute: those who come know them at once.
    with_policy("[merge]\nstate-every = \"1m\"\n", |gateway| {
        let mut upstream = gateway.upstream();
        for (key, of) in [(0, "a"), (1, "b"), (2, "c")] {
            let codes = put(&mut upstream, key, &values(of, 50));
            assert_eq!((codes[0], codes[49]), (Code::Ok, Code::Merged));
        }
        for via in Via::BOTH {
            let mut client = gateway.client(via, 1);
            let room = client.join(ROOM);
            assert_eq!(snapshot(&mut client, false).shows(), LAST);
            assert_eq!(client.ping(), [], "each value once");
            // Who resumes may have gone before they came: they are told again, behind what was
            // missed.
            for missed in 0..2 {
                let mut back = gateway.client(via, 1);
                back.join_at(room.at(room.head - missed));
                for _ in 0..missed {
                    let said = back.hear();
                    assert!(matches!(said, Said::State { .. }), "{said:?}");
                }
                assert_eq!(snapshot(&mut back, false).shows(), LAST);
                assert_eq!(back.ping(), []);
            }
            // And so is who is reset.
            for cursor in [
                Cursor { room: ROOM, epoch: 12345, seq: 6 },
                Cursor { room: ROOM, epoch: room.epoch, seq: room.head + 100 },
            ] {
                let mut lost = gateway.client(via, 1);
                lost.join_at(cursor);
                assert_eq!(snapshot(&mut lost, true).shows(), LAST);
            }
        }
        // In front of what follows, also when that is said at the same time.
        let mut client = gateway.client(Via::Tcp, 1);
        client.ask_to_join(from_now(ROOM));
        assert_eq!(upstream.say_to_room(ROOM, b"chat").0, Code::Ok);
        let (mut kinds, mut shown) = (Vec::new(), Shown::default());
        let mut said = vec![client.hear()];
        said.extend(client.ping());
        for said in &said {
            shown.hear(said);
            kinds.push(match said {
                Said::Joined { .. } => 0,
                Said::Snapshot { .. } => 1,
                _ => 2,
            });
        }
        assert!(kinds.is_sorted(), "{said:?}");
        assert_eq!(shown.shows(), LAST);
    });
}

/// What a slow reader misses of states is declared, and it ends with the newest value of each.
#[test]
fn a_slow_reader_gets_the_newest_values() {
    const ROUNDS: u64 = 400;
    let check = |gateway: &Gateway, via| {
        let mut slow = Client::on(Socket::tcp_narrow(gateway.address(via)), via);
        slow.hello(1, &[]);
        let room = slow.join(ROOM);
        let mut upstream = gateway.upstream();
        let mut last = 0;
        // Ten megabytes: more than fits the window of a room and what sockets take.
        for round in 1..=ROUNDS {
            if round <= ROUNDS / 2 {
                for key in 0..KEYS {
                    put(&mut upstream, key, &[format!("{key} is {round}")]);
                }
            }
            let payload = vec![b'x'; 16_000];
            for _ in 0..2 {
                let head = head(&mut upstream, CHAT, 0, AckMode::Accepted);
                let (code, seq) = upstream.publish_to_room(head, ROOM, &payload);
                assert_eq!(code, Code::Ok);
                last = seq;
            }
        }
        let final_value = ROUNDS / 2;
        let expected: Vec<String> =
            (0..KEYS).map(|key| format!("{key} is {final_value}")).collect();
        let expected: Vec<(u64, &str)> = (0..).zip(expected.iter().map(String::as_str)).collect();
        let (mut shown, mut receiver) = (Shown::default(), Receiver::new(&room));
        while receiver.knows_up_to().is_none_or(|seq| seq < last) {
            let said = slow.hear();
            assert!(!matches!(said, Said::Close { .. }), "{said:?}");
            shown.hear(&said);
            receiver.hear(&said);
        }
        assert!(receiver.declared > 0, "it was too slow for something");
        assert_eq!(shown.shows(), expected);
    };
    with_policy("[merge]\nstate-every = \"10ms\"\n", |gateway| {
        Via::BOTH.into_iter().for_each(|via| check(gateway, via));
    });
}
