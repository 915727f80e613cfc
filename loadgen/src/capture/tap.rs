//! Between services and the gateway's upstream listener: every byte goes on as it came, and frames
//! are written down beside.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::capture::file::{Direction, Record};
use crate::capture::frames::Framer;
use crate::capture::scribe::Pen;
use crate::upstream::UpstreamAddress;

/// Services at one time. More are refused.
const CONNECTIONS_MAX: usize = 256;
/// Services that wait to be accepted.
const BACKLOG: i32 = 128;
/// Bytes that are read, written down and passed on at once.
const READ_BYTES: usize = 64 * 1024;
/// How long the gateway may take to accept.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How often the tap looks whether it is to end.
const LOOK_NS: i64 = 50_000_000;

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tapped {
    /// Connections that were passed on.
    pub connections: u64,
    /// Connections that the gateway did not take, or that were too many.
    pub refused: u64,
}

struct Connection {
    client: Arc<Socket>,
    gateway: Arc<Socket>,
    threads: [JoinHandle<()>; 2],
}

impl Connection {
    fn ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    fn end(self) {
        for socket in [&self.client, &self.gateway] {
            // It may have ended by itself.
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads {
            // A thread that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

/// A listener for services.
pub struct Tap {
    listener: Socket,
    address: UpstreamAddress,
    to: UpstreamAddress,
}

impl Tap {
    /// Listens; connections go on to `to`.
    pub fn listen(at: &UpstreamAddress, to: &UpstreamAddress) -> Result<Self> {
        let listener = listen(at).with_context(|| format!("cannot listen on {at}"))?;
        let address = match at {
            UpstreamAddress::Tcp(_) => {
                let bound = listener.local_addr()?.as_socket();
                UpstreamAddress::Tcp(bound.ok_or_else(|| anyhow!("{at} is no IP address"))?)
            }
            UpstreamAddress::Unix(path) => UpstreamAddress::Unix(path.clone()),
        };
        Ok(Self { listener, address, to: to.clone() })
    }

    /// Where it listens.
    pub fn address(&self) -> &UpstreamAddress {
        &self.address
    }

    /// Passes connections on until `stop`, or until nothing more is written down and nobody is
    /// connected.
    pub fn run(&self, pen: Pen, stop: &AtomicBool) -> Result<Tapped> {
        let mut tapped = Tapped::default();
        let mut connections: Vec<Connection> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            connections.retain(|connection| !connection.ended());
            if pen.is_full() && connections.is_empty() {
                break;
            }
            let time = Timespec { tv_sec: 0, tv_nsec: LOOK_NS };
            // An interrupted wait is a short one.
            let _ = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&time));
            let Ok((client, _)) = self.listener.accept() else { continue };
            let number = (tapped.connections + tapped.refused + 1) as u32;
            let made = match connections.len() < CONNECTIONS_MAX {
                true => self.pass_on(client, number, &pen),
                false => Err(anyhow!("{CONNECTIONS_MAX} services are connected")),
            };
            match made {
                Ok(connection) => {
                    tapped.connections += 1;
                    connections.push(connection);
                }
                Err(error) => {
                    tapped.refused += 1;
                    eprintln!("capture: a connection is refused: {error:#}");
                }
            }
        }
        connections.into_iter().for_each(Connection::end);
        Ok(tapped)
    }

    fn pass_on(&self, client: Socket, connection: u32, pen: &Pen) -> Result<Connection> {
        let gateway =
            connect(&self.to).with_context(|| format!("cannot connect to {}", self.to))?;
        client.set_nonblocking(false)?;
        if matches!(self.address, UpstreamAddress::Tcp(_)) {
            client.set_tcp_nodelay(true)?;
        }
        pen.put(vec![Record::Opened { at_ns: pen.now_ns(), connection }]);
        let (client, gateway) = (Arc::new(client), Arc::new(gateway));
        let start = |from: &Arc<Socket>, to: &Arc<Socket>, direction| {
            let framer = Framer::new(connection, direction);
            let (from, to, pen) = (Arc::clone(from), Arc::clone(to), pen.clone());
            std::thread::Builder::new().name("tap".to_owned()).spawn(move || {
                copy(&from, &to, framer, &pen);
                if direction == Direction::Down {
                    pen.put(vec![Record::Closed { at_ns: pen.now_ns(), connection }]);
                }
            })
        };
        let up = start(&client, &gateway, Direction::Up)?;
        let down = match start(&gateway, &client, Direction::Down) {
            Ok(down) => down,
            Err(error) => {
                // The other thread ends with its sockets.
                let _ = client.shutdown(Shutdown::Both);
                return Err(error.into());
            }
        };
        Ok(Connection { client, gateway, threads: [up, down] })
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let UpstreamAddress::Unix(path) = &self.address {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Passes bytes on. They are handed to the scribe before they go, so that in the capture an answer
/// never stands before what it answers; who reads slowly slows down who writes, as without a tap.
fn copy(mut from: &Socket, mut to: &Socket, mut framer: Framer, pen: &Pen) {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => {
                // Neither side can be told more than that it is over.
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        };
        if !pen.is_full() {
            let mut records = Vec::new();
            framer.feed(pen.now_ns(), &bytes[..count], &mut records);
            pen.put(records);
        }
        if to.write_all(&bytes[..count]).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
    // The other direction may still have something to say.
    let _ = to.shutdown(Shutdown::Write);
}

fn domain(address: &UpstreamAddress) -> std::io::Result<(Domain, SockAddr)> {
    Ok(match address {
        UpstreamAddress::Tcp(address) => (Domain::for_address(*address), (*address).into()),
        UpstreamAddress::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    })
}

fn listen(at: &UpstreamAddress) -> std::io::Result<Socket> {
    let (domain, address) = domain(at)?;
    let listener = Socket::new(domain, Type::STREAM, None)?;
    if domain != Domain::UNIX {
        listener.set_reuse_address(true)?;
    }
    listener.bind(&address)?;
    listener.listen(BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn connect(to: &UpstreamAddress) -> std::io::Result<Socket> {
    let (domain, address) = domain(to)?;
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect_timeout(&address, CONNECT_MAX)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::capture::file::{Reader, Source};
    use crate::capture::scribe::{self, Written};
    use crate::random::Random;

    fn local() -> UpstreamAddress {
        UpstreamAddress::Tcp("127.0.0.1:0".parse().expect("an address"))
    }

    fn tcp(address: &UpstreamAddress) -> std::net::SocketAddr {
        match address {
            UpstreamAddress::Tcp(address) => *address,
            UpstreamAddress::Unix(path) => panic!("{path:?}"),
        }
    }

    fn file(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("barrage-tap-{}-{name}", std::process::id()));
        // Left over, if the last test of this name was killed.
        let _ = std::fs::remove_file(&path);
        path
    }

    fn records(path: &Path) -> Vec<Record> {
        let mut reader = Reader::open(path).expect("a capture");
        let mut records = Vec::new();
        while let Some(record) = reader.read().expect("it is sound") {
            records.push(record);
        }
        records
    }

    /// Runs `body` with both ends of a connection through a tap; what was written down.
    fn tapped(
        name: &str,
        bytes_max: Option<u64>,
        body: impl FnOnce(TcpStream, TcpStream),
    ) -> (Vec<Record>, Written) {
        let gateway = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let to = UpstreamAddress::Tcp(gateway.local_addr().expect("it is bound"));
        let tap = Tap::listen(&local(), &to).expect("a free port");
        let path = file(name);
        let (pen, scribe) =
            scribe::begin(&path, Source::Upstream, "here", bytes_max).expect("a new file");
        let stop = AtomicBool::new(false);
        let tapped = std::thread::scope(|scope| {
            let running = scope.spawn(|| tap.run(pen, &stop));
            let client = TcpStream::connect(tcp(tap.address())).expect("the tap listens");
            let (target, _) = gateway.accept().expect("the tap connects");
            body(client, target);
            stop.store(true, Ordering::Relaxed);
            running.join().expect("it does not panic").expect("it ends in order")
        });
        assert_eq!(tapped, Tapped { connections: 1, refused: 0 });
        let written = scribe.finish().expect("the file is written");
        let records = records(&path);
        std::fs::remove_file(path).expect("it is there");
        (records, written)
    }

    #[test]
    fn bytes_that_are_no_frames_pass_as_they_are() {
        let mut random = Random::new(3);
        let bytes: Vec<u8> = (0..3_000_000).map(|_| random.next() as u8).collect();
        let (records, _) = tapped("foreign", None, |client, target| {
            std::thread::scope(|scope| {
                let bytes = &bytes;
                for mut from in [&client, &target] {
                    scope.spawn(move || {
                        from.write_all(bytes).expect("the tap reads");
                        from.shutdown(Shutdown::Write).expect("it is open");
                    });
                }
                for mut to in [&client, &target] {
                    let mut read = Vec::new();
                    to.read_to_end(&mut read).expect("it ends in order");
                    assert!(read == *bytes, "something was changed");
                }
            });
        });
        let unframed = records.iter().filter(|r| matches!(r, Record::Unframed { .. })).count();
        assert_eq!(unframed, 2, "{records:?}");
        assert!(matches!(records.last(), Some(Record::End { .. })));
    }

    #[test]
    fn a_full_capture_ends_and_its_traffic_goes_on() {
        let ping = barrage_wire::UpstreamFrame::Ping { nonce: 1 }.to_vec();
        let (records, written) = tapped("full", Some(4096), |mut client, mut target| {
            for _ in 0..1000 {
                client.write_all(&ping).expect("the tap reads");
                let mut read = vec![0; ping.len()];
                target.read_exact(&mut read).expect("the tap writes");
                assert_eq!(read, ping);
            }
        });
        assert!((4096..8192).contains(&written.bytes), "{written:?}");
        assert!(matches!(records.last(), Some(Record::End { .. })));
        assert_eq!(records.len() as u64, written.records);
    }
}
