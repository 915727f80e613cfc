//! A socket of either family, read up to a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::SOON;

/// See the module.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, SOON).expect("the gateway accepts");
        stream.set_nodelay(true).expect("a TCP socket");
        Self::Tcp(stream).with_deadlines()
    }

    /// With a receive buffer so small that a peer soon notices when nobody reads.
    pub fn tcp_narrow(address: SocketAddr) -> Self {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
        let socket = socket.expect("a socket");
        sockopt::set_socket_recv_buffer_size(&socket, 8192).expect("a smaller buffer");
        rustix::net::connect(&socket, &address).expect("the gateway accepts");
        Self::Tcp(TcpStream::from(socket)).with_deadlines()
    }

    pub fn unix(path: &Path) -> Self {
        Self::Unix(UnixStream::connect(path).expect("the gateway accepts")).with_deadlines()
    }

    fn with_deadlines(self) -> Self {
        match &self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(SOON)),
            Self::Unix(stream) => stream.set_write_timeout(Some(SOON)),
        }
        .expect("a timeout above zero");
        self
    }

    /// Another handle of the same socket.
    pub fn share(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().expect("a descriptor is free")),
            Self::Unix(stream) => Self::Unix(stream.try_clone().expect("a descriptor is free")),
        }
    }

    /// This end's port; 0 for a Unix socket.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(stream) => stream.local_addr().expect("it is connected").port(),
            Self::Unix(_) => 0,
        }
    }

    /// Writes everything.
    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).expect("the gateway reads");
    }

    /// Writes everything, unless the gateway has closed.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Says that nothing more will be written.
    pub fn finish(&self) {
        // A gateway that has closed already is as good.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// Appends what arrives next to `to`: 0 bytes at the end of the stream, `None` when the deadline
    /// passes. A reset connection has ended as well.
    pub fn read(&mut self, to: &mut Vec<u8>, until: Instant) -> Option<usize> {
        let mut buffer = [0; 64 * 1024];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let left = left.max(Duration::from_millis(1));
            let read = match self {
                Self::Tcp(stream) => {
                    stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut buffer))
                }
                Self::Unix(stream) => {
                    stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut buffer))
                }
            };
            match read {
                Ok(count) => {
                    to.extend_from_slice(&buffer[..count]);
                    return Some(count);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Some(0),
                    other => panic!("reading: {other}"),
                },
            }
        }
    }

    /// Everything up to the end of the stream, which must come before `until`.
    pub fn read_to_end(&mut self, until: Instant) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            match self.read(&mut bytes, until) {
                Some(0) => return bytes,
                Some(_) => {}
                None => panic!("the gateway did not close; it said {:?}", preview(&bytes)),
            }
        }
    }
}

fn preview(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}
