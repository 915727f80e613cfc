//! The publisher against a scripted gateway.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use barrage_wire::limits::{PAYLOAD_BYTES_MAX, PROTOCOL_VERSION, UPSTREAM_BODY_BYTES_MAX};
use barrage_wire::server::Code;
use barrage_wire::upstream::PublishReply;
use barrage_wire::{GatewayFrame, List, UpstreamFrame, split};

use super::fixture::{gifts, messages, scenario_at, states};
use super::*;
use crate::clock::{SECOND_NS, now_ns};
use crate::exit::{Exit, TargetLost};
use crate::orders::What;
use crate::record::{Interval, Timings};
use crate::scenario::{Arrival, Rate, Stream};
use crate::stamp::Stamp;
use crate::watch::kind;

const HUNDRED_MS: u64 = SECOND_NS / 10;

/// One publish, as the gateway has seen it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    room: u64,
    kind: u16,
    merge_key: u64,
    stamp: Stamp,
}

/// What the gateway answers, if at all, to the publish that is the n-th of all, from 0.
type Script = Box<dyn FnMut(u64, &Seen) -> Option<(Code, u64)> + Send>;

/// Serves one upstream; what it has seen comes back when it is gone.
fn gateway(
    credits: u32,
    script: impl FnMut(u64, &Seen) -> Option<(Code, u64)> + Send + 'static,
) -> (SocketAddr, JoinHandle<Vec<Seen>>) {
    let mut script: Script = Box::new(script);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut bytes, mut seen) = (Vec::new(), Vec::new());
        let mut piece = [0; 4096];
        while let Some(count) = stream.read(&mut piece).ok().filter(|count| *count > 0) {
            bytes.extend_from_slice(&piece[..count]);
            let mut rest = &bytes[..];
            while let Some(frame) = split(&mut rest, UPSTREAM_BODY_BYTES_MAX).unwrap() {
                serve(
                    &mut stream,
                    credits,
                    UpstreamFrame::decode(frame).unwrap(),
                    &mut seen,
                    &mut script,
                );
            }
            let left = rest.len();
            bytes.drain(..bytes.len() - left);
        }
        seen
    };
    (address, std::thread::spawn(serve))
}

fn serve(
    stream: &mut TcpStream,
    credits: u32,
    frame: UpstreamFrame<'_>,
    seen: &mut Vec<Seen>,
    script: &mut Script,
) {
    let (head, room, payload) = match frame {
        UpstreamFrame::Hello { .. } => {
            let (version, heartbeat_s) = (PROTOCOL_VERSION, 120);
            let welcome = GatewayFrame::Welcome { version, heartbeat_s, credits };
            return stream.write_all(&welcome.to_vec()).unwrap();
        }
        UpstreamFrame::PublishRoom { head, room, payload } => (head, room, payload),
        UpstreamFrame::PublishFrom { head, room, payload, .. } => (head, room, payload),
        other => panic!("{other:?}"),
    };
    let stamp = Stamp::read(payload.0).unwrap();
    let now = Seen { room, kind: head.kind, merge_key: head.merge_key, stamp };
    let answer = script(seen.len() as u64, &now);
    seen.push(now);
    if let Some((code, seq)) = answer {
        let replies = [PublishReply { request: head.request, code, seq }];
        let replies = GatewayFrame::Replies { replies: List::new(&replies), silent: 0 };
        // The publisher may have gone.
        let _ = stream.write_all(&replies.to_vec());
    }
}

/// A publisher at work, and what it reports.
struct Desked {
    says: Sender<Say>,
    reports: Receiver<Report>,
    thread: JoinHandle<Result<Published>>,
}

/// What a publisher leaves behind.
struct Left {
    published: Published,
    intervals: Vec<Interval>,
    broken: Vec<String>,
    lost: Vec<String>,
}

impl Left {
    /// Everything that was told of a phase.
    fn phase(&self, phase: usize) -> (Counts, Timings) {
        let (mut counts, mut timings) = (Counts::default(), Timings::default());
        for interval in self.intervals.iter().filter(|interval| interval.phase == phase) {
            counts.add(&interval.counts);
            timings.add(&interval.timings);
        }
        (counts, timings)
    }
}

const HASTE: Patience = Patience { silence_ns: HUNDRED_MS, backlog_ns: BACKLOG_MAX_NS };

fn work(scenario: Scenario, workers: Vec<Arc<Shared>>) -> Desked {
    work_with(HASTE, scenario, workers)
}

fn work_with(patience: Patience, scenario: Scenario, workers: Vec<Arc<Shared>>) -> Desked {
    let (says, hears) = mpsc::channel();
    let (tells, reports) = mpsc::channel();
    let desk = Desk { scenario: Arc::new(scenario), core: None, workers, worker: 9 };
    let thread = start(desk, hears, tells, patience).unwrap();
    Desked { says, reports, thread }
}

impl Desked {
    fn phase(&self, index: usize, start_ns: u64, to_ns: u64) {
        let (from_ns, members) = (start_ns + HUNDRED_MS, Arc::new(vec![1; 9]));
        self.says.send(Say::Phase { index, start_ns, from_ns, to_ns, members }).unwrap();
    }

    /// Waits until the end.
    fn left(self) -> Left {
        let published = self.thread.join().unwrap().unwrap();
        drop(self.says);
        let (intervals, broken, lost) = (Vec::new(), Vec::new(), Vec::new());
        let mut left = Left { published, intervals, broken, lost };
        for report in self.reports {
            assert_eq!(report.worker, 9);
            match report.what {
                What::Interval(interval) => left.intervals.push(*interval),
                What::Broken(why) => left.broken.push(why),
                What::Lost(why) => left.lost.push(why),
                other => panic!("{other:?}"),
            }
        }
        let mut sum = Counts::default();
        left.intervals.iter().for_each(|interval| sum.add(&interval.counts));
        assert_eq!(sum, left.published.counts, "intervals leave nothing out");
        left
    }

    /// Closes the books once a moment has passed, and waits until the end.
    fn close_after(self, moment_ns: u64) -> Left {
        std::thread::sleep(crate::clock::until(moment_ns));
        self.says.send(Say::Close).unwrap();
        self.left()
    }
}

fn fixed(rate: f64) -> Vec<Stream> {
    vec![messages(Rate::Messages(rate), Arrival::Fixed)]
}

#[test]
fn messages_are_sent_as_scheduled_and_answers_counted() {
    let (address, seen) = gateway(100, |n, seen| {
        let code = if n % 4 == 3 { Code::Limited } else { Code::Ok };
        Some((code, u64::from(seen.stamp.index) * 10))
    });
    let desked = work(scenario_at(address, 2, fixed(200.0)), Vec::new());
    let start_ns = now_ns() + HUNDRED_MS / 2;
    let (turn_ns, end_ns) = (start_ns + 2 * HUNDRED_MS, start_ns + 4 * HUNDRED_MS);
    desked.phase(0, start_ns, end_ns);
    // The second phase is said early and ends the first one when it begins.
    desked.phase(1, turn_ns, end_ns);
    let left = desked.close_after(end_ns + HUNDRED_MS);
    let seen = seen.join().unwrap();
    for (n, seen) in (0..).zip(&seen) {
        let intended_ns = start_ns + n * SECOND_NS / 200;
        assert_eq!((seen.room, seen.stamp.intended_ns), (100 + n % 2, intended_ns));
        assert_eq!(u64::from(seen.stamp.index), n / 2 + 1, "rooms count for themselves");
    }
    let counts = left.published.counts;
    assert_eq!([counts.offered, counts.published, seen.len() as u64], [80; 3]);
    assert_eq!([counts.admitted, counts.limited, counts.unanswered], [60, 20, 0]);
    assert_eq!(left.published.refused["Limited"], 20);
    let last_seqs: Vec<u64> = left.published.rooms.iter().map(|room| room.last_seq).collect();
    assert_eq!(last_seqs, [400, 390], "what was limited has no number");
    assert_eq!((left.published.open, left.published.broken.as_ref()), (0, None));
    for (counts, timings) in [left.phase(0), left.phase(1)] {
        assert_eq!([counts.offered, counts.published, counts.admitted], [40, 40, 30]);
        let timed = (timings.lag.len(), timings.answer.len());
        assert_eq!(timed, (20, 20), "the warm-up is not timed");
    }
}

#[test]
fn a_gateway_that_holds_back_makes_messages_late_but_none_is_left_out() {
    let (address, seen) = gateway(1, |n, _| {
        if n == 0 {
            std::thread::sleep(std::time::Duration::from_nanos(3 * HUNDRED_MS));
        }
        Some((Code::Ok, n + 1))
    });
    let desked = work(scenario_at(address, 1, fixed(100.0)), Vec::new());
    let start_ns = now_ns();
    let end_ns = start_ns + 10 * HUNDRED_MS;
    desked.phase(0, start_ns, end_ns);
    let left = desked.close_after(end_ns + HUNDRED_MS);
    let seen = seen.join().unwrap();
    let counts = left.published.counts;
    assert_eq!([counts.offered, counts.published, counts.admitted], [100; 3]);
    let is_scheduled =
        |(n, seen): (u64, &Seen)| seen.stamp.intended_ns == start_ns + n * SECOND_NS / 100;
    assert!((0..).zip(&seen).all(is_scheduled), "the schedule waits for nobody");
    assert!(seen[1].stamp.lag_us > 200_000, "{:?}", seen[1]);
}

#[test]
fn what_could_not_be_sent_in_its_phase_was_offered() {
    let (address, seen) = gateway(2, |_, _| None);
    let desked = work(scenario_at(address, 1, fixed(100.0)), Vec::new());
    let (start_ns, middle_ns) = (now_ns(), now_ns() + 15 * HUNDRED_MS);
    desked.phase(0, start_ns, middle_ns);
    let counts = || match desked.reports.recv().unwrap().what {
        What::Interval(interval) => interval.counts,
        other => panic!("{other:?}"),
    };
    let first = counts();
    assert_eq!(first.published, 2);
    assert!(first.offered >= 100, "what is due is told although it cannot be sent: {first:?}");
    desked.phase(1, middle_ns, middle_ns);
    assert!((150..=151).contains(&(first.offered + counts().offered)));
    // The leader has gone: nobody wants to know any more how this ends.
    drop((desked.says, desked.reports));
    let published = desked.thread.join().unwrap().unwrap();
    assert_eq!([published.counts.published, published.counts.unanswered], [2, 2]);
    assert_eq!(seen.join().unwrap().len(), 2);
}

/// A gateway of one credit that leaves the n-th publish without an answer for so long.
fn stalling(n: u64, ns: u64) -> (SocketAddr, JoinHandle<Vec<Seen>>) {
    gateway(1, move |now, _| {
        if now == n {
            std::thread::sleep(std::time::Duration::from_nanos(ns));
        }
        Some((Code::Ok, now + 1))
    })
}

#[test]
fn what_is_held_back_at_the_end_of_a_phase_is_sent_after_it_and_belongs_to_it() {
    let (address, seen) = stalling(30, 5 * HUNDRED_MS);
    let desked = work(scenario_at(address, 1, fixed(100.0)), Vec::new());
    let start_ns = now_ns();
    let turn_ns = start_ns + 4 * HUNDRED_MS;
    desked.phase(0, start_ns, turn_ns);
    desked.phase(1, turn_ns, turn_ns + 3 * HUNDRED_MS);
    // The end comes while much is held back.
    let left = desked.close_after(turn_ns + 3 * HUNDRED_MS);
    let is_scheduled =
        |(n, seen): (u64, &Seen)| seen.stamp.intended_ns == start_ns + n * SECOND_NS / 100;
    assert!((0..).zip(&seen.join().unwrap()).all(is_scheduled), "in order of time");
    let [(one, one_timed), (two, two_timed)] = [0, 1].map(|phase| left.phase(phase));
    assert_eq!([one.offered, one.published, one.admitted], [40; 3]);
    assert_eq!([two.offered, two.published, two.admitted], [30; 3]);
    assert_eq!([&one_timed.lag, &one_timed.answer].map(|times| times.len()), [30; 2]);
    assert!(one_timed.lag.max() > 450_000, "{}", one_timed.lag.max());
    assert!(one_timed.answer.max() > 480_000, "{}", one_timed.answer.max());
    assert_eq!([&two_timed.lag, &two_timed.answer].map(|times| times.len()), [20; 2]);
}

#[test]
fn what_is_held_back_for_too_long_was_offered_and_delays_no_phase() {
    let (address, seen) = stalling(0, 6 * HUNDRED_MS);
    let patience = Patience { backlog_ns: 2 * HUNDRED_MS, ..HASTE };
    let desked = work_with(patience, scenario_at(address, 1, fixed(100.0)), Vec::new());
    let start_ns = now_ns();
    let turn_ns = start_ns + 2 * HUNDRED_MS;
    desked.phase(0, start_ns, turn_ns);
    desked.phase(1, turn_ns, turn_ns + 5 * HUNDRED_MS);
    let left = desked.close_after(turn_ns + 5 * HUNDRED_MS);
    let seen = seen.join().unwrap();
    let [one, two] = [0, 1].map(|phase| left.phase(phase).0);
    assert_eq!([one.offered, one.published, two.offered, two.published], [20, 1, 50, 50]);
    assert!(seen[1..].iter().all(|seen| seen.stamp.intended_ns >= turn_ns));
    let mut indices = (1..).zip(&seen);
    assert!(indices.all(|(n, seen)| n == seen.stamp.index), "nobody misses what was not sent");
}

#[test]
fn rooms_with_merged_messages_end_with_a_number_when_they_are_silent() {
    let shared = Shared::new(Arc::new(AtomicBool::new(false)));
    let delivered = shared.clone();
    let mut refusals = 1;
    let (address, seen) = gateway(100, move |n, seen| {
        delivered.delivered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if seen.kind != kind::END {
            return Some((Code::Merged, 0));
        }
        // An end that is refused is said again.
        refusals -= 1;
        Some(if refusals == 0 { (Code::Overloaded, 7) } else { (Code::Ok, 1000 + n) })
    });
    let scenario = scenario_at(address, 2, vec![gifts(), states(), fixed(10.0).remove(0)]);
    let desked = work(scenario, vec![shared]);
    let start_ns = now_ns();
    desked.phase(0, start_ns, start_ns + 10 * HUNDRED_MS);
    let left = desked.close_after(start_ns + 10 * HUNDRED_MS);
    let seen = seen.join().unwrap();
    let ends: Vec<usize> = (0..seen.len()).filter(|&n| seen[n].kind == kind::END).collect();
    let said = seen.len() - 3;
    assert_eq!(ends, [said, said + 1, said + 2], "nothing follows them but another try");
    assert_eq!((seen[said].room, seen[said + 1].room, seen[said + 2].room), (100, 101, 100));
    let counts = left.published.counts;
    assert_eq!([counts.published, counts.merged, counts.admitted], [said as u64, said as u64, 0]);
    let mut expected = BTreeMap::from([(100, Let::default()), (101, Let::default())]);
    for (n, seen) in (0..).zip(&seen) {
        let room = expected.get_mut(&seen.room).unwrap();
        match seen.kind {
            kind::TAP => room.taps += 1,
            kind::STATE => room.last_state = room.last_state.max(seen.stamp.index),
            kind::END => room.last_seq = 1000 + n,
            _ => {}
        }
        assert_eq!(seen.merge_key > 0, matches!(seen.kind, kind::TAP | kind::STATE));
    }
    assert_eq!(left.published.rooms, expected.into_values().collect::<Vec<_>>());
    assert!(left.published.rooms.iter().all(|room| room.taps > 0 && room.last_state > 0));
    assert_eq!(left.published.open, 0);
}

#[test]
fn a_window_is_full_until_the_slowest_worker_knows_more() {
    let shared = || Shared::new(Arc::new(AtomicBool::new(false)));
    let workers = [shared(), shared()];
    workers.iter().for_each(|worker| crate::shared::write(&worker.ready, 1));
    crate::shared::write(&workers[0].progress, 50);
    let (address, seen) = gateway(100, |n, _| Some((Code::Ok, n + 1)));
    let scenario = scenario_at(address, 1, vec![messages(Rate::Window(5), Arrival::Fixed)]);
    let desked = work(scenario, workers.to_vec());
    let start_ns = now_ns();
    desked.phase(0, start_ns, start_ns + 4 * HUNDRED_MS);
    std::thread::sleep(crate::clock::until(start_ns + 2 * HUNDRED_MS));
    crate::shared::write(&workers[1].progress, 3);
    let left = desked.close_after(start_ns + 4 * HUNDRED_MS);
    let counts = left.published.counts;
    assert_eq!([counts.offered, counts.published, counts.admitted], [8; 3]);
    assert_eq!(seen.join().unwrap().len(), 8);
}

#[test]
fn to_close_is_in_force_at_once() {
    let (address, seen) = gateway(100, |n, _| Some((Code::Ok, n + 1)));
    let desked = work(scenario_at(address, 1, fixed(100.0)), Vec::new());
    let later_ns = now_ns() + 600 * SECOND_NS;
    desked.phase(0, now_ns(), later_ns);
    desked.phase(1, later_ns, later_ns + SECOND_NS);
    let left = desked.close_after(now_ns() + HUNDRED_MS);
    let counts = left.published.counts;
    assert!((5..1000).contains(&counts.offered), "{counts:?}");
    assert_eq!([counts.published, counts.admitted], [seen.join().unwrap().len() as u64; 2]);
    assert!(left.intervals.iter().all(|interval| interval.phase == 0));
}

#[test]
fn a_gateway_that_goes_away_is_told_at_once() {
    let (address, seen) = gateway(100, |n, _| {
        assert!(n < 3, "enough of that");
        Some((Code::Ok, n + 1))
    });
    let desked = work(scenario_at(address, 1, fixed(100.0)), Vec::new());
    desked.phase(0, now_ns(), now_ns() + 600 * SECOND_NS);
    let left = desked.left();
    assert!(seen.join().is_err());
    assert_eq!((left.lost.len(), left.broken), (1, Vec::new()));
    assert_eq!(
        (left.published.broken.as_ref(), left.published.target_lost),
        (left.lost.first(), true)
    );
    assert_eq!(left.published.rooms[0].last_seq, 3);
    assert!(left.published.counts.offered < 1000, "what was not due was not offered");
}

#[test]
fn an_address_without_a_gateway_is_a_lost_target() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut scenario = scenario_at(address, 1, fixed(1.0));
    let open = |scenario: &Scenario| Door::open(scenario).err();
    let error = open(&scenario).expect("nobody listens");
    assert!(error.downcast_ref::<TargetLost>().is_some(), "{error:#}");
    scenario.target.upstream = None;
    let error = open(&scenario).expect("there is no address");
    assert_eq!(Exit::of_error(&error), Exit::Usage);
    scenario.phases.iter_mut().for_each(|phase| phase.streams.clear());
    assert!(open(&scenario).is_none(), "nothing is published, so nothing is missing");
}

#[test]
fn another_server_numbers_messages_by_their_place_in_the_room() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut text, mut piece, mut handled) = (Vec::new(), [0; 4096], 0);
        stream.read_exact(&mut piece[..b"*1\r\n$4\r\nPING\r\n".len()]).unwrap();
        stream.write_all(b"+PONG\r\n").unwrap();
        while let Some(count) = stream.read(&mut piece).ok().filter(|count| *count > 0) {
            text.extend_from_slice(&piece[..count]);
            let asked = text.windows(7).filter(|window| window == b"PUBLISH").count();
            for n in handled..asked {
                let answer: &[u8] = if n == 9 { b"-OOM no memory\r\n" } else { b":2\r\n" };
                stream.write_all(answer).unwrap();
            }
            handled = asked;
        }
        handled
    });
    let mut scenario = scenario_at(address, 2, vec![gifts(), fixed(50.0).remove(0)]);
    scenario.target.protocol = crate::dialect::Protocol::Redis;
    let desked = work(scenario, Vec::new());
    let start_ns = now_ns();
    desked.phase(0, start_ns, start_ns + 5 * HUNDRED_MS);
    let left = desked.close_after(start_ns + 5 * HUNDRED_MS);
    let handled = server.join().unwrap() as u64;
    let counts = left.published.counts;
    assert_eq!([counts.published, counts.admitted, counts.refused], [handled, handled - 1, 1]);
    assert_eq!(left.published.refused.values().sum::<u64>(), 1);
    assert!(left.published.refused.keys().all(|why| why.contains("OOM")));
    let sum = |of: fn(&Let) -> u64| left.published.rooms.iter().map(of).sum::<u64>();
    // The index of what was refused is given again, if nothing was sent behind it.
    assert!(left.published.unsure <= 1);
    assert_eq!(sum(|room| room.last_seq), handled - 1 + left.published.unsure);
    assert_eq!((sum(|room| room.admitted), sum(|room| room.taps)), (handled - 1, 0));
    assert_eq!((left.published.open, left.published.broken), (left.published.unsure, None));
}

#[test]
fn what_is_not_answered_is_taken_when_it_was_written() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = fixed(10_000.0).remove(0);
    stream.size = (PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX);
    let mut scenario = scenario_at(listener.local_addr().unwrap(), 1, vec![stream]);
    scenario.target.protocol = crate::dialect::Protocol::Mqtt;
    let (tells, hears) = mpsc::channel();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[0x20, 2, 0, 0]).unwrap();
        // It reads nothing, and goes when it is told.
        hears.recv()
    });
    let desked = work(scenario, Vec::new());
    desked.phase(0, now_ns(), now_ns() + 600 * SECOND_NS);
    let (mut published, mut stalled) = (0, false);
    while !stalled {
        let What::Interval(interval) = desked.reports.recv().unwrap().what else { panic!() };
        published += interval.counts.published;
        stalled = interval.counts.published == 0;
    }
    tells.send(()).unwrap();
    server.join().unwrap().unwrap();
    let left = desked.thread.join().unwrap().unwrap();
    let counts = left.counts;
    assert_eq!((counts.published, left.target_lost), (published, true));
    assert!(counts.admitted > 0 && left.rooms[0].last_seq == counts.admitted, "{counts:?}");
    // What was queued last was never written.
    assert!(counts.unanswered > 1, "{counts:?}");
    assert_eq!(counts.unanswered, counts.published - counts.admitted);
}
