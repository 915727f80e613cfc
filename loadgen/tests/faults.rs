//! The proxy between plain sockets: what it does to bytes and connections whatever they carry.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use barrage_loadgen::cli::Cli;
use barrage_loadgen::exit::Exit;
use barrage_loadgen::faults::mischief::{Dose, Frames};
use barrage_loadgen::faults::weather::Plan;
use barrage_loadgen::faults::{Config, Faults, Handle, spawn};
use barrage_loadgen::random::Random;
use barrage_wire::{ServerFrame, Tail};
use clap::Parser;
use socket2::Socket;

/// How long anything that should happen at once may take on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn bytes_only() -> Faults {
    Faults { bytes_only: true, ..Faults::default() }
}

/// A proxy in front of a listener of ours.
fn proxy(faults: Faults) -> (Handle, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (listen, to) = ("127.0.0.1:0".parse().unwrap(), listener.local_addr().unwrap());
    (spawn(Config { listen, to, faults, seed: 1 }).unwrap(), listener)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Both ends of a connection through the proxy.
fn pair(faults: Faults) -> (Handle, TcpStream, TcpStream) {
    let (proxy, listener) = proxy(faults);
    let client = connect(proxy.address);
    let (target, _) = listener.accept().unwrap();
    target.set_read_timeout(Some(SOON)).unwrap();
    (proxy, client, target)
}

fn random_bytes(count: usize) -> Vec<u8> {
    let mut random = Random::new(7);
    (0..count).map(|_| random.next() as u8).collect()
}

fn reset(stream: TcpStream) {
    Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// What comes, and whether the end is a reset.
fn read_all(mut stream: &TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => (bytes, false),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (bytes, true),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn bytes_go_both_ways_unchanged_and_each_way_ends_on_its_own() {
    // More than the proxy holds, so that whoever sends has to wait for who reads.
    let bytes = random_bytes(24 * 1024 * 1024);
    for faults in [Faults::default(), bytes_only(), Faults { split: Some(100_000), ..bytes_only() }]
    {
        let (proxy, client, target) = pair(faults);
        std::thread::scope(|scope| {
            let bytes = &bytes;
            for mut from in [&client, &target] {
                scope.spawn(move || {
                    from.write_all(bytes).unwrap();
                    from.shutdown(Shutdown::Write).unwrap();
                });
            }
            for to in [&client, &target] {
                assert!(read_all(to) == (bytes.to_vec(), false), "something was changed");
            }
        });
        let counts = proxy.stop().unwrap();
        assert_eq!((counts.bytes_up, counts.bytes_down), (bytes.len() as u64, bytes.len() as u64));
        assert_eq!((counts.connections, counts.resets), (1, 0));
    }
}

#[test]
fn whoever_does_not_read_is_not_read_for() {
    let (proxy, client, target) = pair(bytes_only());
    let mut sent = 0;
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let piece = vec![7; 1024 * 1024];
    // Sooner or later every buffer on the way is full.
    while let Ok(count) = (&client).write(&piece) {
        sent += count;
        assert!(sent < 512 * 1024 * 1024, "the proxy takes more than it passes on");
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&target).0.len(), sent);
    proxy.stop().unwrap();
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let (_proxy, client, target) = pair(bytes_only());
    reset(target);
    assert_eq!(read_all(&client), (vec![], true));
    let (_proxy, client, target) = pair(bytes_only());
    reset(client);
    assert_eq!(read_all(&target), (vec![], true));
}

#[test]
fn all_connections_can_be_reset() {
    let (proxy, listener) = proxy(bytes_only());
    let ends: Vec<[TcpStream; 2]> = (0..20)
        .map(|_| {
            let client = connect(proxy.address);
            let (target, _) = listener.accept().unwrap();
            target.set_read_timeout(Some(SOON)).unwrap();
            [client, target]
        })
        .collect();
    proxy.reset_all();
    for end in ends.iter().flatten() {
        assert_eq!(read_all(end), (vec![], true));
    }
    assert_eq!(proxy.stop().unwrap().resets, 20);
}

#[test]
fn a_target_that_is_not_there_is_seen_by_the_client() {
    let (proxy, listener) = proxy(bytes_only());
    drop(listener);
    let client = connect(proxy.address);
    assert!(read_all(&client).0.is_empty(), "the connection ends");
    assert_eq!(proxy.stop().unwrap().refused, 1);
}

#[test]
fn hundreds_of_connections_are_served_at_once() {
    let (proxy, listener) = proxy(Faults { split: Some(3), ..bytes_only() });
    let echo = std::thread::spawn(move || {
        let targets: Vec<TcpStream> = (0..400).map(|_| listener.accept().unwrap().0).collect();
        for mut target in &targets {
            let mut bytes = [0; 8];
            target.read_exact(&mut bytes).unwrap();
            target.write_all(&bytes).unwrap();
        }
        targets
    });
    let clients: Vec<TcpStream> = (0..400).map(|_| connect(proxy.address)).collect();
    for (number, mut client) in clients.iter().enumerate() {
        client.write_all(&(number as u64).to_le_bytes()).unwrap();
    }
    for (number, mut client) in clients.iter().enumerate() {
        let mut bytes = [0; 8];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), number as u64);
    }
    echo.join().unwrap();
    assert_eq!(proxy.stop().unwrap().connections, 400);
}

/// How long a byte takes to the client.
fn way(mut target: &TcpStream, mut client: &TcpStream) -> Duration {
    let from = Instant::now();
    target.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    from.elapsed()
}

#[test]
fn a_delay_takes_its_time() {
    let delay = Duration::from_millis(150);
    let faults = Faults { delay_ns: delay.as_nanos() as u64, ..bytes_only() };
    let (_proxy, client, target) = pair(faults);
    assert!(way(&target, &client) >= delay);
}

#[test]
fn a_stall_takes_its_time() {
    // It begins with the first byte that was passed on.
    let weather = Plan { stall_ns: 600_000_000, stall_at_ns: 50_000_000, ..Plan::default() };
    let (proxy, client, target) = pair(Faults { weather, ..bytes_only() });
    let from = Instant::now();
    while from.elapsed() < Duration::from_millis(300) {
        way(&target, &client);
    }
    assert!(from.elapsed() >= Duration::from_millis(600), "{:?}", from.elapsed());
    assert_eq!(proxy.stop().unwrap().stalls, 1);
    let (proxy, client, target) = pair(bytes_only());
    proxy.stall(Duration::from_secs(1));
    // The proxy looks after its wishes every few milliseconds.
    std::thread::sleep(Duration::from_millis(200));
    let took = way(&target, &client);
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert_eq!(proxy.stop().unwrap().stalls, 1);
}

#[test]
fn a_frame_whose_neighbour_does_not_come_is_not_kept_for_ever() {
    let reorder = Dose { share: 0.0, nth: vec![1] };
    let frames = Frames { reorder, ..Frames::default() };
    let (proxy, mut client, mut target) = pair(Faults { frames, ..Faults::default() });
    let payload = Tail(b"alone");
    let message = ServerFrame::Message { alias: 1, seq: 1, category: 7, kind: 1, payload }.to_vec();
    target.write_all(&message).unwrap();
    let mut read = vec![0; message.len()];
    client.read_exact(&mut read).unwrap();
    assert_eq!(read, message);
    let counts = proxy.stop().unwrap();
    assert_eq!((counts.numbered, counts.reordered), (1, 0));
}

#[test]
fn the_command_ends_when_it_is_told_to_and_says_what_it_did() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let line = format!("barrage-loadgen faults --listen 127.0.0.1:0 --to {to} --drop 0.5 --json");
    let command = Cli::try_parse_from(line.split(' ')).unwrap().command;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let thread = std::thread::spawn(move || barrage_loadgen::execute(&command, &told));
    stop.store(true, Ordering::Relaxed);
    let ended = thread.join().unwrap().unwrap();
    let told: serde_json::Value = serde_json::from_str(&ended.text).unwrap();
    assert_eq!((ended.exit, &told["dropped"]), (Exit::Pass, &0.into()));
    assert_eq!(told["to"], to.to_string());
}
