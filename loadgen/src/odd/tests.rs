//! Odd clients against a gateway that says what the test tells it to.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use barrage_wire::client::Cursor;
use barrage_wire::limits::CLIENT_BODY_BYTES_MAX;
use barrage_wire::server::CloseReason;
use barrage_wire::{ClientFrame, RawFrame, ServerFrame, Tail, Text, frame, split};

use super::spawn;
use crate::clock::{SECOND_NS, now_ns};
use crate::orders::{Books, Order, Report, What};
use crate::scenario::file;

const EPOCH: u64 = 77;
const ROOM: u64 = 5;

struct Gateway {
    listener: TcpListener,
    orders: Sender<Order>,
    reports: Receiver<Report>,
}

/// One connection as the gateway sees it.
struct Peer {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// Starts odd clients and the gateway that they connect to.
fn start(odd: &str) -> Gateway {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let text = "name = \"odd\"\n[clients]\ncount = 1\n[rooms]\nfirst = 5\n[[phases]]\n\
                name = \"up\"\nkind = \"ramp\"\n";
    let settings = [format!("target.tcp={address}"), odd.to_owned()];
    let scenario = file::parse(text, "test", &settings).unwrap().scenario;
    let (orders, heard) = channel();
    let (says, reports) = channel();
    spawn(Arc::new(scenario), [3, 4], heard, says).unwrap();
    Gateway { listener, orders, reports }
}

impl Gateway {
    fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().unwrap();
        Peer { stream, bytes: Vec::new() }
    }

    /// The books of the slow readers and of the rascals.
    fn books(self) -> [Books; 2] {
        let mut books = [None, None];
        // It ends when the thread does, which has the only sender.
        for Report { worker, what } in self.reports.iter() {
            match what {
                What::Finished(finished) => books[worker - 3] = Some(*finished),
                What::Interval(interval) => {
                    assert!(interval.to_ns >= interval.from_ns);
                    assert!(interval.busy >= 0.0);
                }
                other => panic!("{other:?}"),
            }
        }
        books.map(|books| books.expect("both are reported"))
    }
}

impl Peer {
    /// Reads one frame, and has it looked at.
    fn hear<T>(&mut self, look: impl Fn(ClientFrame<'_>) -> T) -> T {
        loop {
            if frame::peek(&self.bytes, CLIENT_BODY_BYTES_MAX).unwrap().is_some() {
                let mut rest = &self.bytes[..];
                let whole: Option<RawFrame<'_>> = split(&mut rest, CLIENT_BODY_BYTES_MAX).unwrap();
                if let Some(whole) = whole {
                    let heard = look(ClientFrame::decode(whole).unwrap());
                    let taken = self.bytes.len() - rest.len();
                    self.bytes.drain(..taken);
                    return heard;
                }
            }
            let mut more = [0; 4096];
            let count = self.stream.read(&mut more).unwrap();
            assert!(count > 0, "the client went");
            self.bytes.extend_from_slice(&more[..count]);
        }
    }

    /// HELLO; its token.
    fn hello(&mut self) -> String {
        self.hear(|frame| match frame {
            ClientFrame::Hello { token, .. } => token.0.to_owned(),
            other => panic!("{other:?}"),
        })
    }

    /// JOIN; where to go on from.
    fn join(&mut self) -> Cursor {
        self.hear(|frame| match frame {
            ClientFrame::Join { request: 1, cursor } => cursor,
            other => panic!("{other:?}"),
        })
    }

    fn say(&mut self, frames: &[ServerFrame<'_>]) {
        let bytes: Vec<u8> = frames.iter().flat_map(ServerFrame::to_vec).collect();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Waits until the client has gone.
    fn gone(mut self) {
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}

fn welcome() -> ServerFrame<'static> {
    let (version, heartbeat_s, connection, user) = (1, 120, 1, 2);
    let (body_bytes_max, rooms_max, resume) = (16_512, 64, Text(""));
    #[rustfmt::skip]
    let welcome = ServerFrame::Welcome {
        version, heartbeat_s, connection, user, body_bytes_max, rooms_max, resume,
    };
    welcome
}

fn joined(head: u64) -> ServerFrame<'static> {
    let (request, alias, room, epoch, level, members) = (1, 9, ROOM, EPOCH, 1, 1);
    ServerFrame::Joined { request, alias, room, epoch, head, level, members }
}

fn message(seq: u64) -> ServerFrame<'static> {
    ServerFrame::Message { alias: 9, seq, category: 7, kind: 1, payload: Tail(&[0; 16]) }
}

fn close(reason: CloseReason) -> ServerFrame<'static> {
    ServerFrame::Close { reason, retry_after_ms: 0, text: Text("") }
}

fn drain(last: u64) -> Order {
    Order::Drain { last_seqs: vec![last], until_ns: now_ns() + 20 * SECOND_NS }
}

#[test]
fn a_slow_reader_goes_on_where_it_was_and_all_is_explained() {
    let gateway = start("clients.slow.count=1");
    let mut peer = gateway.accept();
    assert_eq!(peer.hello(), "open:2", "the one after the scenario's clients");
    assert_eq!(peer.join(), Cursor { room: ROOM, epoch: 0, seq: 0 });
    peer.say(&[welcome(), joined(10), message(11), message(12)]);
    peer.say(&[close(CloseReason::SlowReader)]);
    drop(peer);

    let mut peer = gateway.accept();
    peer.hello();
    assert_eq!(peer.join(), Cursor { room: ROOM, epoch: EPOCH, seq: 12 });
    let shed = ServerFrame::Shed { alias: 9, first: 13, last: 15, counts: [0, 0, 0, 2] };
    peer.say(&[welcome(), joined(15), shed, message(14), message(16)]);
    drop(peer);

    let mut peer = gateway.accept();
    peer.hello();
    assert_eq!(peer.join(), Cursor { room: ROOM, epoch: EPOCH, seq: 16 });
    let reset = ServerFrame::Reset { alias: 9, epoch: EPOCH, oldest: 18, head: 20 };
    peer.say(&[welcome(), joined(20), reset, message(21)]);
    gateway.orders.send(drain(21)).unwrap();
    peer.gone();

    let [slow, rascals] = gateway.books();
    let counts = slow.counts;
    assert_eq!((counts.connected, counts.reconnected, counts.dropped), (1, 2, 2));
    assert_eq!((counts.delivered, counts.declared_shed, counts.declared_reset), (5, 2, 4));
    assert_eq!((counts.unexplained, counts.duplicate, counts.lost, counts.stray), (0, 0, 0, 0));
    let faults = [
        ("closed by the gateway: SlowReader".to_owned(), 1),
        ("ended by the gateway without a word".to_owned(), 1),
    ];
    assert_eq!(slow.faults, faults);
    assert_eq!(rascals.counts.connected, 0);
}

#[test]
fn what_is_missing_without_a_word_is_unexplained() {
    let gateway = start("clients.slow.count=1");
    let mut peer = gateway.accept();
    peer.hello();
    peer.join();
    peer.say(&[welcome(), joined(0), message(1), message(1), message(3), message(4)]);
    gateway.orders.send(drain(4)).unwrap();
    peer.gone();
    let [slow, _] = gateway.books();
    assert_eq!((slow.counts.delivered, slow.counts.unexplained, slow.counts.duplicate), (3, 1, 1));
}

#[test]
fn a_slow_reader_is_slow() {
    let gateway = start("clients.slow={ count = 1, bytes_per_s = 100, buffer_bytes = 1024 }");
    let mut peer = gateway.accept();
    let begun_ns = now_ns();
    peer.hello();
    peer.join();
    let messages: Vec<_> = (1..=20).map(message).collect();
    peer.say(&[welcome(), joined(0)]);
    peer.say(&messages);
    let bytes: usize = messages.iter().map(|message| message.to_vec().len()).sum();
    let mut heard = 0;
    for Report { what, .. } in gateway.reports.iter() {
        let What::Interval(interval) = what else { continue };
        heard += interval.counts.received_bytes;
        // It may have read a little ahead, and never what is in its buffer.
        let seconds = (interval.to_ns - begun_ns) as f64 / SECOND_NS as f64;
        assert!(heard as f64 <= 100.0 * (seconds + 1.0), "{heard} bytes in {seconds} s");
        if heard > 150 {
            break;
        }
    }
    assert!((heard as usize) < bytes);
    gateway.orders.send(drain(20)).unwrap();
    peer.gone();
    let [slow, _] = gateway.books();
    assert_eq!((slow.counts.delivered, slow.counts.unexplained), (20, 0), "in the end it reads on");
}

#[test]
fn rascals_come_back_and_how_they_were_thrown_out_is_counted() {
    let kinds = "kinds = [\"bad-token\", \"garbage\", \"huge\", \"reset\", \"flood\"]";
    let gateway =
        start(&format!("clients.misbehaving={{ count = 1, acts_per_s = 1000, {kinds} }}"));
    let mut peer = gateway.accept();
    assert_eq!(peer.hello(), "nobody");
    peer.say(&[close(CloseReason::Token)]);
    drop(peer);

    let mut peer = gateway.accept();
    let mut garbage = [0; 256];
    peer.stream.read_exact(&mut garbage).unwrap();
    peer.say(&[close(CloseReason::Protocol)]);
    drop(peer);

    let mut peer = gateway.accept();
    let mut header = [0; 8];
    peer.stream.read_exact(&mut header).unwrap();
    assert!(frame::peek(&header, CLIENT_BODY_BYTES_MAX).is_err(), "longer than any may be");
    peer.say(&[close(CloseReason::Protocol)]);
    drop(peer);

    let mut peer = gateway.accept();
    assert_eq!(peer.hello(), "open:2");
    peer.say(&[welcome()]);
    let error = peer.stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let mut peer = gateway.accept();
    peer.hello();
    assert_eq!(peer.join().room, ROOM + 1, "a room of its own");
    peer.hear(|frame| assert!(matches!(frame, ClientFrame::Ping { .. })));
    peer.say(&[close(CloseReason::RateLimited)]);
    // What the client still says is read, so that the last word is not lost in a reset.
    peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    peer.gone();
    // It is back at once.
    let peer = gateway.accept();
    gateway.orders.send(Order::Stop).unwrap();
    peer.gone();

    let [slow, rascals] = gateway.books();
    assert_eq!(slow.counts.connected, 0);
    assert_eq!(rascals.counts.connected, 1);
    let of = |why: &str| rascals.faults.iter().find(|(fault, _)| fault == why).map_or(0, |f| f.1);
    for why in [
        "bad-token: closed by the gateway: Token",
        "garbage: closed by the gateway: Protocol",
        "huge: closed by the gateway: Protocol",
        "reset: reset by the client",
        "flood: closed by the gateway: RateLimited",
        "acts: garbage",
    ] {
        assert_eq!(of(why), 1, "{why}: {:?}", rascals.faults);
    }
}
