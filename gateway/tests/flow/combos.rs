//! Taps of one gift by one sender become one message now and then, and no count is lost.

use std::collections::BTreeMap;
use std::time::Instant;

use barrage_wire::UpstreamFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::{COMBO_FINAL, CloseReason, Code};
use barrage_wire::upstream::{AckMode, PublishReply};

use super::common::client::Room;
use super::common::{Client, Gateway, Random, SOON, Said, TempDir, Upstream, Via};
use super::{GIFT_SMALL, ROOM, head, with_policy};

const POLICY: &str = "[merge]\ncombo-gap = \"400ms\"\ncombo-every = \"100ms\"\n";
/// Nothing that is merged goes out by itself.
const PATIENT: &str = "[merge]\ncombo-gap = \"1m\"\ncombo-every = \"1m\"\n";

/// A sender and a gift.
type Run = (u64, u64);

/// Sends a tap; it is not waited for.
fn tap(upstream: &mut Upstream, ack: AckMode, room: u64, (sender, gift): Run, count: u32) -> u32 {
    let head = head(upstream, GIFT_SMALL, gift, ack);
    let payload = Tail(b"rose");
    upstream.send(&UpstreamFrame::PublishFrom { head, room, sender, count, payload });
    head.request
}

/// What somebody adds up who reads all frames of a room, by the rules of the protocol.
#[derive(Default)]
struct Sums {
    head: u64,
    /// Of each run: the sum, the total of the frame before, and whether it was final.
    runs: BTreeMap<Run, (u64, u64, bool)>,
    /// What each frame added.
    by_seq: BTreeMap<u64, u64>,
    flags: Vec<u8>,
}

impl Sums {
    fn hear(&mut self, said: &Said) {
        let Said::Combo { seq, flags, sender, key, count, total, ref payload, .. } = *said else {
            return;
        };
        assert_eq!(seq, self.head + 1, "a gap");
        assert_eq!(payload, b"rose");
        self.head = seq;
        self.flags.push(flags);
        self.by_seq.insert(seq, u64::from(count));
        let (sum, before, is_final) = self.runs.entry((sender, key)).or_default();
        *sum += u64::from(count);
        let begins = total == u64::from(count);
        assert!(begins || total == *before + u64::from(count), "{said:?} after {before}");
        assert!(begins || !*is_final, "a run goes on after its end: {said:?}");
        (*before, *is_final) = (total, flags & COMBO_FINAL != 0);
    }

    /// Reads until the sums are these and every run that had a second tap has ended.
    fn hear_until(&mut self, client: &mut Client, expected: &BTreeMap<Run, u64>) {
        let is_there = |sums: &Self| {
            let same = |(run, sum)| sums.runs.get(run).is_some_and(|(heard, ..)| heard == sum);
            expected.iter().all(same) && sums.runs.values().all(|(_, _, is_final)| *is_final)
        };
        while !is_there(self) {
            self.hear(&client.hear());
        }
    }

    fn sums(&self) -> BTreeMap<Run, u64> {
        self.runs.iter().map(|(run, (sum, ..))| (*run, *sum)).collect()
    }
}

#[test]
fn the_first_tap_goes_out_at_once_and_the_others_together() {
    with_policy(POLICY, |gateway| {
        let mut client = gateway.client(Via::Tcp, 1);
        client.join(ROOM);
        let mut upstream = gateway.upstream();
        let run = (5, 9);
        // In one go, so that the gateway has them in one step.
        for count in [2, 3, 0, 4] {
            tap(&mut upstream, AckMode::Accepted, ROOM, run, count);
        }
        let replies = upstream.replies(4);
        let told: Vec<_> = replies.iter().map(|reply| (reply.code, reply.seq)).collect();
        assert_eq!(told[0], (Code::Ok, 1));
        assert_eq!(told[1..], [(Code::Merged, 0); 3]);
        let mut sums = Sums::default();
        sums.hear_until(&mut client, &BTreeMap::from([(run, 10)]));
        assert_eq!(sums.by_seq[&1], 2, "the first one on its own");
        // At most one in the middle with all that was added, and the end.
        assert!(sums.flags.len() <= 3, "{:?}", sums.by_seq);
        assert_eq!(sums.flags.last(), Some(&COMBO_FINAL));
        assert_eq!(gateway.category_metric("merged", "gift_small"), 3);

        // A tap after the end begins another run; a single one has no end. A tap without a gift is
        // a message like any other.
        tap(&mut upstream, AckMode::Accepted, ROOM, run, 7);
        assert_eq!(upstream.replies(1)[0].code, Code::Ok);
        tap(&mut upstream, AckMode::Accepted, ROOM, (5, 0), 7);
        assert_eq!(upstream.replies(1)[0].code, Code::Ok);
        let said = [client.hear(), client.hear()];
        let is_new = |said: &Said| matches!(said, Said::Combo { flags: 0, count: 7, total: 7, .. });
        assert!(is_new(&said[0]), "{said:?}");
        assert!(matches!(said[1], Said::Message { category: GIFT_SMALL, .. }), "{said:?}");
    });
}

/// Two services tap for the same senders and gifts at once, among single taps.
#[test]
fn sums_are_exact_whoever_taps_and_however() {
    with_policy(POLICY, |gateway| {
        let mut members: Vec<_> = Via::BOTH.map(|via| gateway.client(via, 1)).into();
        for member in &mut members {
            member.join(ROOM);
        }
        let mut services = [gateway.upstream(), gateway.upstream()];
        let (mut random, mut given) = (Random(3), BTreeMap::<Run, u64>::new());
        for _ in 0..30 {
            for service in &mut services {
                for _ in 0..20 {
                    let run = (1 + random.next() % 2, 1 + random.next() % 3);
                    let count = 1 + (random.next() % 50) as u32;
                    tap(service, AckMode::Accepted, ROOM, run, count);
                    *given.entry(run).or_default() += u64::from(count);
                }
            }
            for service in &mut services {
                let fine = |reply: &PublishReply| matches!(reply.code, Code::Ok | Code::Merged);
                assert!(service.replies(20).iter().all(fine));
            }
        }
        for member in &mut members {
            let mut sums = Sums::default();
            sums.hear_until(member, &given);
            assert_eq!(sums.sums(), given);
            let more = member.ping();
            assert!(!more.iter().any(|said| matches!(said, Said::Combo { .. })), "{more:?}");
        }
        let (admitted, merged) = ("admitted", "merged");
        let taps = [admitted, merged].map(|it| gateway.category_metric(it, "gift_small"));
        assert_eq!(taps.iter().sum::<u64>(), 1200);
    });
}

/// With `Stored`, a tap is answered with the number of the frame that carries it.
#[test]
fn a_stored_tap_is_answered_with_the_frame_that_carries_it() {
    let dir = TempDir::new("stored-combos");
    let policy = dir.file("policy.toml", POLICY);
    for cores in ["0", "0-1"] {
        let data = TempDir::new("stored-combos-data");
        let gateway = Gateway::start_in(&data, cores, &["--policy", &policy]);
        for room in ROOM..ROOM + 4 {
            let mut client = gateway.client(Via::WebSocket, 1);
            client.join(room);
            let mut upstream = gateway.upstream();
            let runs = [(5, 9), (5, 8), (6, 9)];
            let (mut counts, mut given) = (BTreeMap::new(), BTreeMap::<Run, u64>::new());
            for count in 1..=60 {
                let run = runs[count as usize % runs.len()];
                let request = tap(&mut upstream, AckMode::Stored, room, run, count);
                counts.insert(request, u64::from(count));
                *given.entry(run).or_default() += u64::from(count);
            }
            let mut carried = BTreeMap::<u64, u64>::new();
            for reply in upstream.replies(60) {
                assert!(matches!(reply.code, Code::Ok | Code::Merged), "{reply:?}");
                *carried.entry(reply.seq).or_default() += counts[&reply.request];
            }
            let mut sums = Sums::default();
            sums.hear_until(&mut client, &given);
            sums.by_seq.retain(|_, count| *count > 0);
            assert_eq!(sums.by_seq, carried, "each frame has what was answered with its number");
        }
    }
}

/// What waits when the gateway is told to end is said before anybody is told to go.
#[test]
fn what_was_merged_goes_out_before_the_gateway_ends() {
    const ROOMS: u64 = 8;
    let dir = TempDir::new("combos-at-the-end");
    let policy = dir.file("policy.toml", PATIENT);
    for (cores, round) in [("0", 0), ("0-1", 1), ("0-1", 2), ("0-1", 3)] {
        let data = TempDir::new("combos-at-the-end-data");
        let mut gateway = Gateway::start_in(&data, cores, &["--policy", &policy]);
        let mut members: Vec<(Client, Room)> = Vec::new();
        for room in 1..=ROOMS {
            for via in Via::BOTH {
                let mut client = gateway.client(via, 1);
                let joined = client.join(room);
                members.push((client, joined));
            }
        }
        let mut upstream = gateway.upstream();
        for room in 1..=ROOMS {
            // In every other round somebody waits for the disk.
            for (count, ack) in
                [(1, AckMode::Accepted), (2, AckMode::Accepted), (4, AckMode::Stored)]
            {
                let ack = if round % 2 == 0 { AckMode::Accepted } else { ack };
                tap(&mut upstream, ack, room, (5, 9), count);
            }
        }
        let at_once = ROOMS as usize * if round % 2 == 0 { 3 } else { 2 };
        upstream.replies(at_once);
        if round % 2 == 1 {
            // Those that wait for the disk are merged before it is said that the gateway ends.
            gateway.until_metric("mails_total", |_| {
                gateway.category_metric("merged", "gift_small") == 2 * ROOMS
            });
        }
        gateway.terminate();
        for (client, room) in &mut members {
            let mut said = client.hear_all();
            let last = said.pop();
            let draining = matches!(last, Some(Said::Close { reason: CloseReason::Draining, .. }));
            assert!(draining, "{last:?}");
            let mut sums = Sums::default();
            said.iter().for_each(|said| sums.hear(said));
            assert_eq!(sums.sums(), BTreeMap::from([((5, 9), 7)]), "room {}", room.room);
        }
        if round % 2 == 1 {
            let replies = upstream.replies(ROOMS as usize);
            assert!(replies.iter().all(|it| (it.code, it.seq) == (Code::Merged, 2)), "{replies:?}");
        }
        assert_eq!(upstream.hear_close().0, CloseReason::Draining);
        drop((members, upstream));
        assert!(gateway.wait(Instant::now() + SOON).success());
    }
}
