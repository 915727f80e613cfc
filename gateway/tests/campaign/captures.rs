//! Live traffic written down, and said again.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barrage_loadgen::capture::file::Reader;
use barrage_loadgen::capture::scan::{Publish, Scan};
use barrage_loadgen::exit::Exit;
use barrage_wire::UpstreamFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::Code;
use barrage_wire::upstream::PublishHead;

use crate::common::gateway::free_addresses;
use crate::common::{Gateway, SOON, Socket, TempDir, Upstream};
use crate::harness::{Outcome, generator, generator_until, turn, until_counted};

/// What a room says last.
const MARKER: &[u8] = b"this is the last message of the room";

/// A command of the generator on a thread of its own, until it is told to stop.
struct Aside {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome>,
}

impl Aside {
    fn start(line: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Self { stop, thread: std::thread::spawn(move || generator_until(&line, &told)) }
    }

    fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the command does not panic")
    }
}

/// Everything that a capture says was published.
fn publishes(file: &str) -> Vec<Publish> {
    let mut reader = Reader::open(Path::new(file)).expect("a capture");
    let mut scan = Scan::default();
    let mut publishes = Vec::new();
    while let Some(record) = reader.read().expect("it is sound") {
        publishes.extend(scan.record(&record));
    }
    assert!(scan.ended && reader.torn_bytes == 0, "it has its end");
    publishes
}

fn until(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A tap in front of a gateway's upstream listener, and its address.
fn tap(gateway: &Gateway, out: &str) -> (Aside, std::net::SocketAddr) {
    let [listen] = free_addresses();
    let upstream = gateway.upstream;
    let line =
        format!("capture --upstream-proxy {listen} --upstream {upstream} --out {out} --json");
    let aside = Aside::start(line);
    until("the tap listens", || TcpStream::connect(listen).is_ok());
    (aside, listen)
}

/// A client of rooms that writes down what it hears.
fn member(gateway: &Gateway, rooms: &str, members: u64, out: &str) -> Aside {
    let tcp = gateway.tcp;
    let aside = Aside::start(format!("capture --tcp {tcp} --rooms {rooms} --out {out} --json"));
    until_counted(gateway, "memberships", members);
    aside
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().expect("it was made of text").to_owned()
}

#[test]
fn what_went_through_a_tap_is_published_again_as_it_was() {
    let _turn = turn();
    let dir = TempDir::new("capture");
    let [tapped, heard] = ["tapped", "heard"].map(|name| path(&dir, name));
    let gateway = Gateway::start("0", &[]);
    let (aside, listen) = tap(&gateway, &tapped);
    let room = generator(&format!(
        "room --tcp {} --upstream {listen} --members 4 --rate 500 --size 100 --secs 0.5 --warmup 0 \
         --rooms 2 --json --quiet",
        gateway.tcp
    ));
    let told = aside.end();
    told.assert_exit(Exit::Pass);
    assert_eq!((room.count("unexplained"), told.count("missed")), (0, 0));
    let shown = generator(&format!("capture --show {tapped} --json"));
    assert_eq!(shown.count("publishes"), room.count("published"));
    assert_eq!(shown.count("answers.Ok"), room.count("admitted"));

    let member = member(&gateway, "1001,1002", 2, &heard);
    let replay = generator(&format!(
        "replay {tapped} --upstream {} --speed max --rooms-offset 1000 --expect-same --json",
        gateway.upstream
    ));
    replay.assert_exit(Exit::Pass);
    assert_eq!(replay.count("published"), room.count("published"));
    end_after_marker(&gateway, &[1001, 1002], &heard, member);
    let by_room = |file: &str, offset: u64| {
        let mut all: Vec<(u64, Vec<u8>)> = publishes(file)
            .into_iter()
            .filter(|publish| publish.payload != MARKER)
            .map(|publish| (publish.room().expect("a room") + offset, publish.payload))
            .collect();
        all.sort_by_key(|(room, _)| *room);
        all
    };
    assert_eq!(by_room(&tapped, 1000), by_room(&heard, 0), "the same in the same order");
}

/// Ends a member when it has written down everything that its rooms said so far.
fn end_after_marker(gateway: &Gateway, rooms: &[u64], file: &str, member: Aside) {
    let mut service = gateway.upstream();
    for &room in rooms {
        assert_eq!(service.say_to_room(room, MARKER).0, Code::Ok);
    }
    until("the last messages are written down", || {
        let bytes = std::fs::read(file).unwrap_or_default();
        let found = bytes.windows(MARKER.len()).filter(|window| *window == MARKER);
        found.count() == rooms.len()
    });
    member.end().assert_exit(Exit::Pass);
}

#[test]
fn a_key_of_a_capture_is_new_and_yet_repeats_itself() {
    let _turn = turn();
    let dir = TempDir::new("capture");
    let tapped = path(&dir, "tapped");
    let gateway = Gateway::start("0", &[]);
    let (aside, listen) = tap(&gateway, &tapped);
    let mut service = Upstream::come(Socket::tcp(listen));
    for (key, code) in [(7, Code::Ok), (7, Code::Duplicate), (8, Code::Ok), (0, Code::Ok)] {
        let head = PublishHead { idempotency_key: key, ..service.head() };
        service.send(&UpstreamFrame::PublishRoom { head, room: 5, payload: Tail(b"gift") });
        assert_eq!(service.replies(1)[0].code, code);
    }
    aside.end().assert_exit(Exit::Pass);
    let replay = |options: &str| {
        let line = format!("replay {tapped} --upstream {} --json {options}", gateway.upstream);
        let outcome = generator(&line);
        outcome.assert_exit(Exit::Pass);
        (outcome.count("answers.Ok"), outcome.count("answers.Duplicate"))
    };
    assert_eq!(replay("--expect-same"), (3, 1));
    assert_eq!(replay("--expect-same"), (3, 1), "and again");
    assert_eq!(replay("--keep-keys"), (1, 3));
}

#[test]
fn a_replay_to_nobody_says_so() {
    let _turn = turn();
    let dir = TempDir::new("capture");
    let tapped = path(&dir, "tapped");
    let gateway = Gateway::start("0", &[]);
    let (aside, listen) = tap(&gateway, &tapped);
    Upstream::come(Socket::tcp(listen)).say_to_room(1, b"hello");
    aside.end().assert_exit(Exit::Pass);
    let [nobody] = free_addresses();
    generator(&format!("replay {tapped} --upstream {nobody}")).assert_exit(Exit::TargetLost);
    let foreign = dir.file("foreign", "this is no capture");
    let line = format!("replay {foreign} --upstream {}", gateway.upstream);
    generator(&line).assert_exit(Exit::Usage);
}
