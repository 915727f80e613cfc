//! The kernel ring against real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use barrage_sys::{Event, KernelRing, Listener, Ring, RingConfig, SendSlice, Waker};

const CONFIG: RingConfig = RingConfig {
    slots: 80,
    connections: 1000,
    requests: 64,
    completions: 128,
    buffers: 8,
    buffer_bytes: 512,
};

fn ring(config: RingConfig) -> (KernelRing, SocketAddr) {
    let waker = Waker::new().expect("an eventfd");
    let mut ring = KernelRing::new(config, waker).expect("a ring");
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.address().expect("a TCP listener has an address");
    ring.listen(listener);
    (ring, address)
}

/// Runs an echo server until `clients` connections have come and gone; returns what was seen.
fn echo_until(ring: &mut KernelRing, clients: usize) -> (usize, usize, Vec<u32>) {
    let (mut closed, mut most_rings, mut indexes) = (0, 0, Vec::new());
    while closed < clients {
        let mut replies = Vec::new();
        let mut ends = Vec::new();
        ring.reap(&mut |event| match event {
            Event::Accepted { conn, .. } => indexes.push(conn.index),
            Event::Received { conn, bytes } => replies.push((conn, bytes.to_vec())),
            Event::Ended { conn, .. } => ends.push(conn),
            Event::Closed { .. } => closed += 1,
            Event::Sent { slice, result, .. } => assert_eq!(result, Ok(slice.len())),
            Event::Connected { .. } => unreachable!("nobody connects from here"),
        });
        for (conn, bytes) in replies {
            ring.send(conn, SendSlice::from_vec(bytes));
        }
        ends.into_iter().for_each(|conn| ring.close(conn));
        ring.submit();
        most_rings = most_rings.max(ring.rings());
        if closed < clients {
            ring.wait(Duration::from_secs(10), || true);
        }
    }
    (closed, most_rings, indexes)
}

#[test]
fn more_connections_than_one_table_holds_are_echoed_on_several_rings() {
    const CLIENTS: usize = 100;
    let (mut ring, address) = ring(CONFIG);
    let clients = std::thread::spawn(move || {
        let mut all: Vec<_> =
            (0..CLIENTS).map(|_| TcpStream::connect(address).expect("a connection")).collect();
        for (number, client) in all.iter_mut().enumerate() {
            client.write_all(&(number as u64).to_le_bytes()).expect("written");
        }
        for (number, client) in all.iter_mut().enumerate() {
            let mut reply = [0; 8];
            client.read_exact(&mut reply).expect("an echo");
            assert_eq!(u64::from_le_bytes(reply), number as u64);
        }
    });
    let (closed, rings, indexes) = echo_until(&mut ring, CLIENTS);
    clients.join().expect("the clients are content");
    assert_eq!((closed, indexes.len()), (CLIENTS, CLIENTS));
    assert!(rings > 1, "80 slots do not hold 100 connections, yet there is one ring");
    assert_eq!(ring.connections(), 0);
}

#[test]
fn a_slot_is_used_again_under_another_generation() {
    let (mut ring, address) = ring(CONFIG);
    let clients = std::thread::spawn(move || {
        for _ in 0..100 {
            let mut client = TcpStream::connect(address).expect("a connection");
            client.write_all(b"again").expect("written");
            client.read_exact(&mut [0; 5]).expect("an echo");
        }
    });
    let (_, rings, mut indexes) = echo_until(&mut ring, 100);
    clients.join().expect("the clients are content");
    indexes.sort_unstable();
    indexes.dedup();
    assert_eq!(rings, 1, "one at a time fits one table");
    assert!(indexes.len() < 100, "slots were used again");
}

#[test]
fn a_close_ends_what_is_in_flight() {
    let (mut ring, address) = ring(CONFIG);
    let mut client = TcpStream::connect(address).expect("a connection");
    let mut closed = false;
    let mut stuck = None;
    while !closed {
        let mut accepted = None;
        let mut sent = None;
        ring.reap(&mut |event| match event {
            Event::Accepted { conn, .. } => accepted = Some(conn),
            Event::Sent { conn, slice, result } => sent = Some((conn, slice.len(), result)),
            Event::Closed { .. } => closed = true,
            Event::Received { .. } | Event::Ended { .. } | Event::Connected { .. } => {}
        });
        if let Some(conn) = accepted {
            ring.send(conn, SendSlice::from_vec(vec![7; 64 << 20]));
        }
        if let Some((conn, len, Ok(count))) = sent {
            assert!(count < len, "nobody reads, so not everything is taken");
            ring.send(conn, SendSlice::from_vec(vec![7; 64 << 20]));
            ring.submit();
            stuck = Some(conn);
        }
        if let Some(conn) = stuck.take() {
            ring.close(conn);
        }
        ring.submit();
        if !closed {
            ring.wait(Duration::from_secs(10), || true);
        }
    }
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    assert!(!rest.is_empty() && rest.iter().all(|byte| *byte == 7));
}

#[test]
fn a_reset_is_one_for_the_peer_and_a_close_is_not() {
    let mut endings = Vec::new();
    for reset in [true, false] {
        let (mut ring, address) = ring(CONFIG);
        let client = std::thread::spawn(move || {
            let mut client = TcpStream::connect(address).expect("a connection");
            client.read(&mut [0; 8]).map_err(|error| error.kind())
        });
        let mut closed = 0;
        while closed == 0 {
            let mut come = None;
            ring.reap(&mut |event| match event {
                Event::Accepted { conn, .. } => come = Some(conn),
                Event::Closed { .. } => closed += 1,
                other => panic!("{other:?} of a client that says nothing"),
            });
            match come {
                Some(conn) if reset => ring.reset(conn),
                Some(conn) => ring.close(conn),
                None => {}
            }
            ring.submit();
            if closed == 0 {
                ring.wait(Duration::from_secs(10), || true);
            }
        }
        endings.push(client.join().expect("the client is content"));
        assert_eq!(ring.connections(), 0);
    }
    assert_eq!(endings, [Err(std::io::ErrorKind::ConnectionReset), Ok(0)]);
}

/// Connections to a port that are being made.
fn connecting_to(port: u16) -> usize {
    const SYN_SENT: &str = "02";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let there = format!(":{port:04X}");
    let is_there = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next().is_some_and(|peer| peer.ends_with(&there)) && words.next() == Some(SYN_SENT)
    };
    table.lines().filter(is_there).count()
}

#[test]
fn a_connect_that_was_given_up_is_over_before_its_slot_is_used_again() {
    // A listener that has no place left: whoever connects now waits.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    listener.bind(&any.into()).expect("a port");
    listener.listen(0).expect("a listener");
    let address = listener.local_addr().ok().and_then(|at| at.as_socket()).expect("its address");
    let mut waiting = Vec::new();
    while connecting_to(address.port()) == 0 {
        let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        peer.set_nonblocking(true).expect("a socket that is there");
        let _ = peer.connect(&address.into());
        waiting.push(peer);
    }
    let mut ring = KernelRing::new(CONFIG, Waker::new().expect("an eventfd")).expect("a ring");
    let before = connecting_to(address.port());
    let conn = ring.connect(None, address).expect("a connect is begun");
    ring.submit();
    assert_eq!(connecting_to(address.port()), before + 1, "it waits");
    ring.close(conn);
    let mut closed = false;
    while !closed {
        ring.submit();
        ring.reap(&mut |event| match event {
            Event::Closed { conn: gone } => closed = gone == conn,
            other => panic!("{other:?} after close"),
        });
        if !closed {
            ring.wait(Duration::from_secs(10), || true);
        }
    }
    assert_eq!(connecting_to(address.port()), before, "nothing of it can come any more");
}

#[test]
fn a_path_that_is_not_a_socket_is_left_alone() {
    let path = std::env::temp_dir().join(format!("barrage-precious-{}", std::process::id()));
    std::fs::write(&path, "precious").expect("written");
    assert!(Listener::unix(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
    std::fs::remove_file(&path).expect("removed");
    drop(Listener::unix(&path).expect("a free path"));
    assert!(Listener::unix(&path).is_ok(), "a socket that nobody listens on is replaced");
    std::fs::remove_file(&path).expect("removed");
}

#[test]
fn whoever_has_connected_is_accepted_before_a_listener_goes_and_nobody_after() {
    // More than accepts in flight.
    const WAITING: usize = 200;
    let (mut ring, address) = ring(RingConfig { slots: 512, ..CONFIG });
    let clients: Vec<_> =
        (0..WAITING).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    assert!(ring.is_accepting());
    ring.stop_accepting();
    let mut accepted = 0;
    while ring.is_accepting() {
        ring.submit();
        ring.reap(&mut |event| accepted += usize::from(matches!(event, Event::Accepted { .. })));
    }
    assert_eq!(accepted, clients.len());
    let error = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_listener_goes_in_time_whoever_waits() {
    // There is no place for all of them, so some wait for ever.
    let (mut ring, address) = ring(RingConfig { slots: 8, connections: 8, ..CONFIG });
    let clients: Vec<_> =
        (0..100).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    ring.stop_accepting();
    let mut ticks = 0;
    while ring.is_accepting() {
        ring.submit();
        ring.reap(&mut |_| ());
        ring.tick();
        ticks += 1;
        assert!(ticks < 1000, "it listens for ever");
    }
    assert!((ring.connections() as usize) < clients.len());
    let error = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(clients);
}
