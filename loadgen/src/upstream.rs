//! The upstream side: one socket to the gateway, on the thread of whoever publishes or answers.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use barrage_wire::limits::{PROTOCOL_VERSION, UPSTREAM_BODY_BYTES_MAX};
use barrage_wire::{FRAME_HEADER_BYTES, GatewayFrame, Text, UpstreamFrame, frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::clock::SECOND_NS;

/// How long the gateway has to answer our HELLO.
const WELCOME_MAX: Duration = Duration::from_secs(5);
/// Bytes that are kept of what was received.
const RECEIVE_BYTES: usize = 256 * 1024;
const _: () = assert!(
    UPSTREAM_BODY_BYTES_MAX + FRAME_HEADER_BYTES < RECEIVE_BYTES,
    "an unfinished frame leaves room to read on"
);
/// Without a token key the gateway takes this from loopback addresses.
const TOKEN: &str = "open";
const NAME: &str = "loadgen";

/// Where the gateway listens for upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A path of the file system.
    Unix(PathBuf),
}

impl UpstreamAddress {
    /// Reads `HOST:PORT` or `unix:PATH`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(path.into())),
            None => parse_address(text).map(Self::Tcp),
        }
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Reads `HOST:PORT`; the first address of a name counts.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text
        .to_socket_addrs()
        .map_err(|error| format!("{error}; give an address and a port, as in 127.0.0.1:7000"))?;
    found.next().ok_or_else(|| "the name has no address".to_owned())
}

/// A connection to the gateway's upstream listener, after WELCOME.
pub struct Upstream {
    socket: Socket,
    /// What has come is at `handled..filled`.
    received: Vec<u8>,
    filled: usize,
    handled: usize,
    unsent: Vec<u8>,
    /// After so long without a word from us the gateway wants a ping.
    heartbeat_ns: u64,
    /// Since when nothing was said; none: something was.
    silent_since_ns: Option<u64>,
    /// Publishes that may be unanswered at any time.
    pub credits: u32,
}

impl Upstream {
    /// Connects and says HELLO.
    pub fn connect(address: &UpstreamAddress, app: u32) -> Result<Self> {
        let socket = Self::socket(address).with_context(|| {
            format!("cannot connect to the upstream listener: is the gateway running on {address}?")
        })?;
        let mut this = Self {
            socket,
            received: vec![0; RECEIVE_BYTES],
            filled: 0,
            handled: 0,
            unsent: Vec::new(),
            heartbeat_ns: 0,
            silent_since_ns: None,
            credits: 0,
        };
        let version = PROTOCOL_VERSION;
        this.say(&UpstreamFrame::Hello { version, app, token: Text(TOKEN), name: Text(NAME) });
        this.welcome().with_context(|| {
            format!("no WELCOME from {address}: is that the gateway's --upstream address?")
        })?;
        Ok(this)
    }

    fn socket(address: &UpstreamAddress) -> io::Result<Socket> {
        let (domain, remote) = match address {
            UpstreamAddress::Tcp(address) => (Domain::for_address(*address), (*address).into()),
            UpstreamAddress::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.connect_timeout(&remote, WELCOME_MAX)?;
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    fn welcome(&mut self) -> Result<()> {
        let until = std::time::Instant::now() + WELCOME_MAX;
        while self.credits == 0 {
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                bail!("nothing was heard for {} s", WELCOME_MAX.as_secs());
            }
            self.flush()?;
            self.wait(left);
            let mut welcome = (0, 0);
            self.receive(&mut |frame| {
                if let GatewayFrame::Welcome { credits, heartbeat_s, .. } = frame {
                    welcome = (credits, u64::from(heartbeat_s) * SECOND_NS);
                }
                Ok(())
            })?;
            (self.credits, self.heartbeat_ns) = welcome;
        }
        Ok(())
    }

    /// Queues a frame.
    pub fn say(&mut self, frame: &UpstreamFrame<'_>) {
        frame.encode(&mut self.unsent);
    }

    /// Queues a ping when nothing was said for so long that the gateway might take us for gone. To be
    /// called now and then, before `flush`.
    pub fn keep_alive(&mut self, now_ns: u64) {
        let since_ns = *self.silent_since_ns.get_or_insert(now_ns);
        if self.heartbeat_ns > 0 && now_ns.saturating_sub(since_ns) >= self.heartbeat_ns {
            self.silent_since_ns = Some(now_ns);
            self.say(&UpstreamFrame::Ping { nonce: now_ns });
        }
    }

    /// Queues frames that were encoded already, and empties `frames`.
    pub fn say_encoded(&mut self, frames: &mut Vec<u8>) {
        self.unsent.append(frames);
    }

    /// Bytes that wait for the gateway to read.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// Sends what is queued, as far as the gateway takes it.
    pub fn flush(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match (&self.socket).write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the upstream connection broke"),
            }
        }
        if sent > 0 {
            self.silent_since_ns = None;
            self.unsent.drain(..sent);
        }
        Ok(())
    }

    /// Sleeps until the gateway has said something, takes more, or for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let time = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let interest =
            if self.unsent.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        // An interrupted wait is a short one.
        let _ = poll(&mut [PollFd::new(&self.socket, interest)], Some(&time));
    }

    /// Hands out the frames that have come. Fails when the connection has ended.
    pub fn receive(&mut self, sink: &mut dyn FnMut(GatewayFrame<'_>) -> Result<()>) -> Result<()> {
        self.read()?;
        let mut rest = &self.received[self.handled..self.filled];
        while let Some(raw) = frame::split(&mut rest, UPSTREAM_BODY_BYTES_MAX)? {
            match GatewayFrame::decode(raw)? {
                GatewayFrame::Close { reason, text } => {
                    bail!("the gateway closed the upstream: {} {}", reason.name(), text.0)
                }
                frame => sink(frame)?,
            }
        }
        self.handled = self.filled - rest.len();
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        self.received.copy_within(self.handled..self.filled, 0);
        self.filled -= std::mem::take(&mut self.handled);
        let result = (&self.socket).read(&mut self.received[self.filled..]);
        self.filled += *result.as_ref().unwrap_or(&0);
        match result {
            Ok(0) => Err(anyhow!("the gateway closed the upstream connection")),
            Ok(_) => Ok(()),
            Err(error) if is_later(&error) => Ok(()),
            Err(error) => Err(error).context("the upstream connection broke"),
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_gateway_is_pinged_after_silence_and_not_sooner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = UpstreamAddress::Tcp(listener.local_addr().unwrap());
        let gateway = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (version, heartbeat_s) = (PROTOCOL_VERSION, 2);
            let welcome = GatewayFrame::Welcome { version, heartbeat_s, credits: 1 };
            stream.write_all(&welcome.to_vec()).unwrap();
        });
        let mut upstream = Upstream::connect(&address, 1).unwrap();
        gateway.join().unwrap();
        upstream.unsent.clear();
        let pings = [0, 1, 2, 3, 4, 5].map(|second| {
            let before = upstream.unsent_bytes();
            upstream.keep_alive(second * SECOND_NS);
            upstream.unsent_bytes() > before
        });
        assert_eq!(pings, [false, false, true, false, true, false], "even if it does not read");
    }

    #[test]
    fn addresses_are_tcp_or_paths() {
        let shown = |text| UpstreamAddress::parse(text).map(|address| address.to_string());
        assert_eq!(shown("127.0.0.1:7002").as_deref(), Ok("127.0.0.1:7002"));
        assert_eq!(shown("unix:/run/b.sock").as_deref(), Ok("unix:/run/b.sock"));
        assert!(shown("127.0.0.1").is_err_and(|error| error.contains("and a port")));
    }
}
