//! A worker of a campaign against a stub: orders in, reports out.

// Helpers of a test fail by a panic, as the test does.
#![allow(clippy::unwrap_used)]

mod stub;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use barrage_loadgen::clock::{SECOND_NS, now_ns};
use barrage_loadgen::dialect::Protocol;
use barrage_loadgen::orders::{Books, Order, Report, What};
use barrage_loadgen::record::{Counts, Interval, Timings};
use barrage_loadgen::scenario::layout::Layout;
use barrage_loadgen::scenario::{
    Abort, Churn, Clients, Disconnect, Generator, Rooms, Scenario, Slo, Spread, Target, Validity,
};
use barrage_loadgen::shared::Shared;
use barrage_loadgen::stamp::{STAMP_BYTES, Stamp};
use barrage_loadgen::worker::{self, Job};
use barrage_wire::limits::{PROTOCOL_VERSION, UPSTREAM_BODY_BYTES_MAX};
use barrage_wire::upstream::{AckMode, PublishHead};
use barrage_wire::{GatewayFrame, Tail, Text, UpstreamFrame, split};
use stub::{Mischief, Stub};

const CLIENTS: u32 = 20;
const ROOMS: u32 = 3;
const ROOM_FIRST: u64 = 100;
/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn scenario(stub: Stub, ws_percent: f64) -> Scenario {
    Scenario {
        name: "worker".to_owned(),
        about: String::new(),
        seed: 7,
        target: Target {
            protocol: Protocol::Barrage,
            tcp: Some(stub.tcp),
            ws: Some(stub.ws),
            upstream: None,
            metrics: None,
            pid: None,
            app: 1,
            subscribe_path: String::new(),
            publish_path: String::new(),
        },
        clients: Clients {
            count: CLIENTS,
            ws_percent,
            sources: Vec::new(),
            token: "open:{user}".to_owned(),
            slow: None,
            misbehaving: None,
        },
        rooms: Rooms {
            first: ROOM_FIRST,
            count: ROOMS,
            per_client: 2,
            spread: Spread::Even,
            hot_percent: 0.0,
        },
        streams: Vec::new(),
        phases: Vec::new(),
        slo: Slo::default(),
        validity: Validity {
            busy_percent: 90.0,
            lag_p99_ms: 1.0,
            lag_percent: 10.0,
            published_percent: 99.0,
            clock_percent: 10.0,
        },
        abort: Abort { lost_percent: None, p99_ms: None, intervals: 1, unexplained: None },
        generator: Generator::default(),
    }
}

/// A worker with all clients, and somebody who publishes.
struct Campaign {
    scenario: Arc<Scenario>,
    shared: Arc<Shared>,
    orders: Sender<Order>,
    reports: Receiver<Report>,
    thread: JoinHandle<()>,
    upstream: TcpStream,
    /// Messages of each room.
    published: u64,
    /// The sum of all intervals.
    counts: Counts,
    timings: Timings,
    /// Deliveries that were timed, by phase.
    timed: BTreeMap<usize, u64>,
}

impl Campaign {
    fn start(stub: Stub, ws_percent: f64) -> Self {
        Self::of(scenario(stub, ws_percent), stub.upstream)
    }

    fn of(scenario: Scenario, upstream: SocketAddr) -> Self {
        let scenario = Arc::new(scenario);
        let shared = Shared::new(Arc::new(AtomicBool::new(false)));
        let (orders, heard) = channel();
        let (says, reports) = channel();
        let job = Job {
            scenario: Arc::clone(&scenario),
            worker: 0,
            source: "worker-0".to_owned(),
            first: 0,
            count: CLIENTS,
            core: None,
            clock_offset_ns: 0,
        };
        let thread = worker::spawn(job, Arc::clone(&shared), heard, says).expect("a worker");
        let mut upstream = TcpStream::connect(upstream).unwrap();
        let hello = UpstreamFrame::Hello {
            version: PROTOCOL_VERSION,
            app: 1,
            token: Text("open"),
            name: Text(""),
        };
        upstream.write_all(&hello.to_vec()).unwrap();
        let (counts, timings) = (Counts::default(), Timings::default());
        let mut this = Self {
            scenario,
            shared,
            orders,
            reports,
            thread,
            upstream,
            published: 0,
            counts,
            timings,
            timed: BTreeMap::new(),
        };
        this.order(Order::Phase { index: 1, from_ns: 0, to_ns: u64::MAX });
        this.order(Order::Connect { clients: CLIENTS, per_s: 0.0 });
        this.wait(|what| matches!(what, What::Ramped));
        this
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the worker lives");
    }

    /// Adds up intervals until the worker says something else, which has to be this.
    fn wait(&mut self, is_it: impl Fn(&What) -> bool) -> What {
        loop {
            match self.reports.recv_timeout(PATIENCE).expect("the worker says something").what {
                What::Interval(interval) => self.add(&interval),
                what if is_it(&what) => return what,
                other => panic!("{other:?} is not expected"),
            }
        }
    }

    fn add(&mut self, interval: &Interval) {
        assert_eq!(interval.source, "worker-0");
        self.counts.add(&interval.counts);
        self.timings.add(&interval.timings);
        *self.timed.entry(interval.phase).or_default() += interval.timings.corrected.len();
    }

    /// Adds up intervals until these have said enough.
    fn hear_until(&mut self, is_enough: impl Fn(&Self) -> bool) {
        while !is_enough(self) {
            match self.reports.recv_timeout(PATIENCE).expect("the worker says something").what {
                What::Interval(interval) => self.add(&interval),
                other => panic!("{other:?} is not expected"),
            }
        }
    }

    fn wait_for_ready(&self, ready: u64) {
        let until_ns = now_ns() + PATIENCE.as_nanos() as u64;
        while self.shared.ready.load(Ordering::Relaxed) != ready {
            assert!(now_ns() < until_ns, "the clients never got there");
            std::thread::yield_now();
        }
    }

    /// Publishes so many messages to each room, and waits until they have their numbers.
    fn publish(&mut self, count: u64) {
        self.publish_intended(count, now_ns);
    }

    /// The same, with another moment at which each was to be sent.
    fn publish_intended(&mut self, count: u64, intended: fn() -> u64) {
        for _ in 0..count {
            self.published += 1;
            for room in 0..u64::from(ROOMS) {
                let mut payload = [0; STAMP_BYTES];
                let index = self.published as u32;
                Stamp { intended_ns: intended(), index, lag_us: 0 }.write(&mut payload);
                let (ack, category, kind) = (AckMode::Accepted, 4, 1);
                let (request, ttl_ms, merge_key) = (index, 0, 0);
                let head = PublishHead {
                    request,
                    ack,
                    category,
                    kind,
                    ttl_ms,
                    merge_key,
                    idempotency_key: 0,
                };
                let (room, payload) = (ROOM_FIRST + room, Tail(&payload));
                let publish = UpstreamFrame::PublishRoom { head, room, payload };
                self.upstream.write_all(&publish.to_vec()).unwrap();
            }
        }
        let (mut answered, mut bytes) = (0, Vec::new());
        while answered < count * u64::from(ROOMS) {
            let mut piece = [0; 4096];
            let got = self.upstream.read(&mut piece).unwrap();
            assert!(got > 0, "the stub is there");
            bytes.extend_from_slice(&piece[..got]);
            let mut rest = &bytes[..];
            while let Some(raw) = split(&mut rest, UPSTREAM_BODY_BYTES_MAX).unwrap() {
                if let GatewayFrame::Replies { replies, .. } = GatewayFrame::decode(raw).unwrap() {
                    answered += replies.iter().count() as u64;
                }
            }
            bytes = rest.to_vec();
        }
    }

    /// Ends the campaign; says what came of it and what should have been delivered.
    fn end(mut self) -> (Books, Counts, Timings, u64) {
        let last_seqs = vec![self.published; ROOMS as usize];
        self.order(Order::Drain { last_seqs, until_ns: now_ns() + 10 * SECOND_NS });
        let What::Finished(books) = self.wait(|what| matches!(what, What::Finished(_))) else {
            unreachable!("it was waited for")
        };
        self.thread.join().expect("the worker ends in peace");
        let rooms = Layout::new(self.scenario.rooms, self.scenario.seed);
        let members: u32 = rooms.members(CLIENTS).iter().sum();
        let expected = u64::from(members) * self.published;
        let accounted = {
            let Counts { delivered, declared_shed, declared_reset, .. } = books.counts;
            let Counts { disconnected, unexplained, .. } = books.counts;
            delivered + declared_shed + declared_reset + disconnected + unexplained
        };
        assert_eq!(accounted, expected, "each message is accounted for once: {books:?}");
        (*books, self.counts, self.timings, expected)
    }
}

/// A target that stands still while a phase ends is as slow as it is: what was intended before is
/// timed for the phase that it was intended in, and for no other.
#[test]
fn what_comes_after_the_end_of_its_phase_is_timed_for_it() {
    let mut campaign = Campaign::start(stub::start(Mischief::None), 50.0);
    campaign.order(Order::Phase { index: 2, from_ns: now_ns(), to_ns: u64::MAX });
    campaign.hear_until(|campaign| campaign.timed.contains_key(&2));
    campaign.publish_intended(7, || now_ns() - 10 * SECOND_NS);
    campaign.publish(2);
    let members = u64::from(CLIENTS) * 2;
    campaign.hear_until(|campaign| campaign.timed.values().sum::<u64>() >= 9 * members);
    assert_eq!(campaign.timed, BTreeMap::from([(0, 0), (1, 7 * members), (2, 2 * members)]));
    let (books, counts, timings, expected) = campaign.end();
    assert_eq!((books.counts, books.counts.delivered), (counts, expected));
    assert_eq!(timings.corrected.len(), expected, "each is timed once");
}

fn storm(percent: f64, resume: bool, away_ns: u64) -> Order {
    Order::Disconnect(Disconnect { percent, away_ns, resume, per_s: 0.0 })
}

#[test]
fn a_plain_campaign_is_counted_and_timed() {
    for ws_percent in [0.0, 50.0, 100.0] {
        let mut campaign = Campaign::start(stub::start(Mischief::None), ws_percent);
        campaign.publish(30);
        let (books, counts, timings, expected) = campaign.end();
        assert_eq!((books.counts.delivered, books.counts.connected), (expected, CLIENTS.into()));
        assert_eq!(books.counts, counts, "intervals leave nothing out");
        assert_eq!([timings.corrected.len(), timings.uncorrected.len()], [expected; 2]);
        assert_eq!(timings.connect.len(), u64::from(CLIENTS));
        assert!(books.faults.is_empty(), "{books:?}");
        assert!((1..=200).contains(&books.bytes_per_client), "{books:?}");
    }
}

#[test]
fn who_resumes_misses_nothing() {
    let mut campaign = Campaign::start(stub::start(Mischief::None), 50.0);
    campaign.publish(5);
    campaign.order(storm(50.0, true, SECOND_NS / 5));
    campaign.wait_for_ready(10);
    campaign.publish(20);
    campaign.wait(|what| matches!(what, What::Returned));
    campaign.publish(5);
    let (books, _, timings, expected) = campaign.end();
    assert_eq!((books.counts.dropped, books.counts.reconnected), (10, 10));
    assert_eq!((books.counts.delivered, books.counts.lost), (expected, 0), "{books:?}");
    assert_eq!(timings.connect.len(), u64::from(CLIENTS) + 10);
}

#[test]
fn who_does_not_resume_has_missed_what_was_said_meanwhile() {
    let mut campaign = Campaign::start(stub::start(Mischief::None), 0.0);
    campaign.publish(5);
    // Far longer than what follows, and the end of it is waited for.
    campaign.order(storm(50.0, false, 2 * SECOND_NS));
    campaign.wait_for_ready(10);
    campaign.publish(20);
    campaign.wait(|what| matches!(what, What::Returned));
    campaign.publish(5);
    let (books, _, _, expected) = campaign.end();
    // Ten clients in two rooms each.
    assert_eq!(books.counts.disconnected, 10 * 2 * 20, "{books:?}");
    assert_eq!(books.counts.delivered, expected - 400);
}

#[test]
fn churn_with_resume_loses_nothing() {
    let mut campaign = Campaign::start(stub::start(Mischief::None), 50.0);
    let churn =
        Churn { clients_per_s: 200.0, away_ns: SECOND_NS / 50, resume: true, abrupt_percent: 50.0 };
    campaign.order(Order::Churn(Some(churn)));
    let until_ns = now_ns() + SECOND_NS;
    while now_ns() < until_ns {
        campaign.publish(1);
    }
    campaign.order(Order::Churn(None));
    let (books, _, _, expected) = campaign.end();
    assert!(books.counts.dropped > 50, "{books:?}");
    assert_eq!(books.counts.dropped, books.counts.reconnected);
    assert_eq!((books.counts.delivered, books.counts.unexplained), (expected, 0), "{books:?}");
}

#[test]
fn who_is_cut_off_comes_back() {
    let mut campaign = Campaign::start(stub::start(Mischief::HangUp), 0.0);
    campaign.publish(3);
    campaign.wait_for_ready(CLIENTS.into());
    let (books, _, _, expected) = campaign.end();
    assert!(books.counts.lost > 0 && !books.faults.is_empty(), "{books:?}");
    let Counts { delivered, disconnected, unexplained, .. } = books.counts;
    assert_eq!((delivered + disconnected, unexplained), (expected, 0), "{books:?}");
}

#[test]
fn what_is_missing_is_found() {
    let mut campaign = Campaign::start(stub::start(Mischief::Skip), 0.0);
    // The last one comes, so that nobody has to wait for what does not.
    campaign.publish(31);
    let (books, ..) = campaign.end();
    // A third of the messages of each room, at one of its members.
    assert_eq!(books.counts.unexplained, 10 * u64::from(ROOMS), "{books:?}");
}

/// A few lines of a Redis server: whoever subscribes hears what is published to all, from number 1.
fn redis() -> (SocketAddr, Sender<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let subscribers = Arc::new(Mutex::new(Vec::<(TcpStream, String)>::new()));
    let here = Arc::clone(&subscribers);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).unwrap();
            let said = String::from_utf8(bytes[..count].to_vec()).unwrap();
            let room = said.split("\r\n").find(|word| word.starts_with("room:")).unwrap();
            let answer = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{room}\r\n:1\r\n", room.len());
            let mut here = here.lock().unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            here.push((stream, room.to_owned()));
        }
    });
    let (publish, published) = channel();
    std::thread::spawn(move || {
        for index in published {
            let mut payload = [0; STAMP_BYTES];
            Stamp { intended_ns: now_ns(), index, lag_us: 0 }.write(&mut payload);
            for (stream, room) in subscribers.lock().unwrap().iter_mut() {
                let head = format!("*3\r\n$7\r\nmessage\r\n${}\r\n{room}\r\n", room.len());
                let message = [head.as_bytes(), b"$16\r\n", &payload[..], b"\r\n"].concat();
                // Who has gone hears nothing.
                let _ = stream.write_all(&message);
            }
        }
    });
    (address, publish)
}

#[test]
fn another_protocol_is_accounted_for_by_the_stamps() {
    let (address, publish) = redis();
    let stub = Stub { tcp: address, ws: address, upstream: address };
    let mut scenario = scenario(stub, 0.0);
    scenario.target.protocol = Protocol::Redis;
    scenario.rooms.per_client = 1;
    let mut campaign = Campaign::of(scenario, stub::start(Mischief::None).upstream);
    (1..=10).for_each(|index| publish.send(index).unwrap());
    let delivered = |campaign: &Campaign| campaign.shared.delivered.load(Ordering::Relaxed);
    while delivered(&campaign) < 10 * u64::from(CLIENTS) {
        std::thread::yield_now();
    }
    campaign.order(storm(50.0, false, SECOND_NS / 5));
    campaign.wait_for_ready(10);
    (11..=20).for_each(|index| publish.send(index).unwrap());
    campaign.wait(|what| matches!(what, What::Returned));
    // One is left out for everybody.
    [21, 23, 24].into_iter().for_each(|index| publish.send(index).unwrap());
    campaign.published = 24;
    let (books, ..) = campaign.end();
    let Counts { delivered, disconnected, unexplained, .. } = books.counts;
    // Those who were away begin with 21 at the earliest, as nothing says where a room is.
    assert_eq!((delivered, disconnected, unexplained), (20 * 23 - 100, 100, 20), "{books:?}");
}
