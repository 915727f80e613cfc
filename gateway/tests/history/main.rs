//! The durable history, end to end: what was answered `Stored` is there after whatever ends the
//! gateway, and who comes back gets exactly what it has missed, or is told what it has not got.

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod disk;
mod pages;
mod restart;
mod resume;

use barrage_wire::UpstreamFrame;
use barrage_wire::client::Cursor;
use barrage_wire::codec::Tail;
use barrage_wire::server::Code;
use barrage_wire::upstream::{AckMode, PublishHead};

use common::{Client, Gateway, Said, Told, Upstream};

/// Categories of the built-in policy.
const GIFT_SMALL: u16 = 3;
const STATE: u16 = 6;
const STREAM: u16 = 7;

/// Runs a test on one shard, and again on two.
fn on_one_and_two(body: impl Fn(&str)) {
    for cores in ["0", "0-1"] {
        eprintln!("with --cores {cores}");
        body(cores);
    }
}

/// A chat message that is answered when it is stored.
fn stored(upstream: &mut Upstream) -> PublishHead {
    PublishHead { ack: AckMode::Stored, ..upstream.head() }
}

/// Publishes chat messages whose payloads are these words, each answered when it is stored, and
/// checks that their numbers follow `head`.
fn say_stored(upstream: &mut Upstream, room: u64, head: u64, words: &[&str]) {
    for (word, seq) in words.iter().zip(head + 1..) {
        let about = stored(upstream);
        let answer = upstream.publish_to_room(about, room, word.as_bytes());
        assert_eq!(answer, (Code::Ok, seq), "{word} in room {room}");
    }
}

/// Publishes so many chat messages, whose payloads are their numbers, and waits until all are
/// stored.
fn say_numbers(upstream: &mut Upstream, room: u64, seqs: std::ops::RangeInclusive<u64>) {
    let seqs: Vec<u64> = seqs.collect();
    for part in seqs.chunks(1000) {
        for seq in part {
            let (head, payload) = (stored(upstream), seq.to_string());
            let payload = Tail(payload.as_bytes());
            upstream.send(&UpstreamFrame::PublishRoom { head, room, payload });
        }
        let answers: Vec<_> =
            upstream.replies(part.len()).iter().map(|reply| (reply.code, reply.seq)).collect();
        let expected: Vec<_> = part.iter().map(|&seq| (Code::Ok, seq)).collect();
        assert_eq!(answers, expected);
    }
}

/// A publish on behalf of a user.
fn publish_from(
    upstream: &mut Upstream,
    head: PublishHead,
    room: u64,
    sender: u64,
    payload: &[u8],
) -> (Code, u64) {
    let (count, payload) = (1, Tail(payload));
    upstream.send(&UpstreamFrame::PublishFrom { head, room, sender, count, payload });
    let reply = upstream.replies(1)[0];
    assert_eq!(reply.request, head.request);
    (reply.code, reply.seq)
}

/// What is said, in short. Epochs are called a, b, c in the order in which they are met.
#[derive(Default)]
struct Brief {
    epochs: Vec<u64>,
}

impl Brief {
    fn epoch(&mut self, epoch: u64) -> char {
        let met = self.epochs.iter().position(|&met| met == epoch);
        let place = met.unwrap_or_else(|| {
            self.epochs.push(epoch);
            self.epochs.len() - 1
        });
        char::from(b'a' + place as u8)
    }

    fn of(&mut self, said: &Said) -> String {
        match said {
            Said::Joined { epoch, head, .. } => format!("joined {} at {head}", self.epoch(*epoch)),
            Said::Message { seq, payload, .. } => format!("{seq} {}", text(payload)),
            Said::Combo { seq, sender, key, count, total, flags, payload, .. } => format!(
                "{seq} combo {sender}:{key} +{count}={total}{} {}",
                if *flags == 1 { "!" } else { "" },
                text(payload)
            ),
            Said::State { seq, key, payload, .. } => format!("{seq} state {key} {}", text(payload)),
            Said::Snapshot { seq, key, payload, .. } => {
                format!("snapshot at {seq} of {key} {}", text(payload))
            }
            Said::Shed { first, last, counts, .. } => format!("shed {first}-{last} {counts:?}"),
            Said::Reset { epoch, oldest, head, .. } => {
                format!("reset to {} from {oldest} at {head}", self.epoch(*epoch))
            }
            other => format!("{other:?}"),
        }
    }

    /// The next frames must be these.
    fn check(&mut self, client: &mut Client, expected: &[&str]) {
        for (index, expected) in expected.iter().enumerate() {
            let said = client.hear();
            assert_eq!(self.of(&said), *expected, "frame {index} of what was to be said");
        }
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// One message of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Past {
    epoch: u64,
    seq: u64,
    time_ms: u64,
    frame: u8,
    category: u16,
    /// Flags, sender, key, count, total.
    run: (u8, u64, u64, u32, u64),
    payload: String,
}

/// The end of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    code: Code,
    epoch: u64,
    oldest: u64,
    head: u64,
    next: (u64, u64),
}

/// What a page is asked for: epoch and number, or a time; and how many.
#[derive(Clone, Copy, Debug)]
struct Ask {
    epoch: u64,
    from: u64,
    since_ms: u64,
    count: u16,
}

const OLDEST: Ask = Ask { epoch: 0, from: 0, since_ms: 0, count: 1000 };

/// Somebody who may ask for pages.
trait Reader {
    fn page(&mut self, room: u64, ask: Ask) -> (Vec<Past>, End);

    /// Every page from one on; all that they hold, and the last end.
    fn walk(&mut self, room: u64, mut ask: Ask) -> (Vec<Past>, End) {
        let mut all = Vec::new();
        loop {
            let (page, end) = self.page(room, ask);
            assert!(page.len() <= usize::from(ask.count), "{} of {ask:?}", page.len());
            all.extend(page);
            assert_eq!(end.code, Code::Ok);
            if end.next.0 == 0 {
                let rises = all.windows(2).all(|two| {
                    (two[0].epoch, two[0].seq) < (two[1].epoch, two[1].seq)
                        && two[0].time_ms <= two[1].time_ms
                });
                assert!(rises, "places and times rise: {all:?}");
                return (all, end);
            }
            (ask.epoch, ask.from) = end.next;
        }
    }
}

impl Reader for Upstream {
    fn page(&mut self, room: u64, ask: Ask) -> (Vec<Past>, End) {
        let request = self.next_request();
        let Ask { epoch, from, since_ms, count } = ask;
        self.send(&UpstreamFrame::History { request, room, epoch, from, since_ms, count });
        let mut page = Vec::new();
        loop {
            match self.hear() {
                Told::Past {
                    request: answered,
                    epoch,
                    seq,
                    time_ms,
                    frame,
                    category,
                    flags,
                    sender,
                    key,
                    count,
                    total,
                    payload,
                } => {
                    assert_eq!(answered, request);
                    let (run, payload) = ((flags, sender, key, count, total), text(&payload));
                    page.push(Past { epoch, seq, time_ms, frame, category, run, payload });
                }
                Told::PastEnd { request: answered, code, epoch, oldest, head, next } => {
                    assert_eq!(answered, request);
                    return (page, End { code, epoch, oldest, head, next });
                }
                other => panic!("not a part of a page: {other:?}"),
            }
        }
    }
}

impl Reader for Client {
    fn page(&mut self, room: u64, ask: Ask) -> (Vec<Past>, End) {
        let request = self.ask_for_page(room, ask);
        let mut page = Vec::new();
        loop {
            match self.hear() {
                Said::Past {
                    request: answered,
                    epoch,
                    seq,
                    time_ms,
                    frame,
                    category,
                    flags,
                    sender,
                    key,
                    count,
                    total,
                    payload,
                } => {
                    assert_eq!(answered, request);
                    let (run, payload) = ((flags, sender, key, count, total), text(&payload));
                    page.push(Past { epoch, seq, time_ms, frame, category, run, payload });
                }
                Said::PastEnd {
                    request: answered,
                    code,
                    epoch,
                    oldest,
                    head,
                    next_epoch,
                    next,
                } => {
                    assert_eq!(answered, request);
                    return (page, End { code, epoch, oldest, head, next: (next_epoch, next) });
                }
                other => panic!("not a part of a page: {other:?}"),
            }
        }
    }
}

/// Asking without waiting for the answer.
trait Asks {
    fn ask_for_page(&mut self, room: u64, ask: Ask) -> u32;
}

impl Asks for Client {
    fn ask_for_page(&mut self, room: u64, ask: Ask) -> u32 {
        let request = self.next_request();
        let Ask { epoch, from, since_ms, count } = ask;
        self.send(&barrage_wire::ClientFrame::History {
            request,
            room,
            epoch,
            from,
            since_ms,
            count,
        });
        request
    }
}

/// A cursor from what `Joined` or a page has said.
fn cursor(room: u64, epoch: u64, seq: u64) -> Cursor {
    Cursor { room, epoch, seq }
}

/// A member that is told what it asks for at once.
fn member(gateway: &Gateway, room: u64) -> Client {
    let mut client = gateway.client(common::Via::Tcp, 1);
    client.join(room);
    client
}

/// The words of a page.
fn words(page: &[Past]) -> Vec<&str> {
    page.iter().map(|past| past.payload.as_str()).collect()
}

/// A chat message's head as it is.
fn accepted(upstream: &mut Upstream, category: u16) -> PublishHead {
    PublishHead { category, ..upstream.head() }
}
