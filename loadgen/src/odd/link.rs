//! One connection of an odd client: a socket that never waits.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use rustix::event::PollFlags;
use socket2::{Domain, Socket, Type};

/// A connection, and what is still to be sent on it.
pub(super) struct Link {
    socket: Socket,
    connecting: bool,
    out: Vec<u8>,
}

impl Link {
    /// Begins to connect, with a receive buffer of so many bytes if that is given.
    pub fn begin(
        target: SocketAddr,
        source: Option<SocketAddr>,
        receive_bytes: Option<u32>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = receive_bytes {
            // Before the connection is made, so that the window that is offered is as small.
            socket.set_recv_buffer_size(bytes as usize)?;
        }
        if let Some(source) = source {
            socket.bind(&source.into())?;
        }
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => Err(error),
            _ => Ok(Self { socket, connecting: true, out: Vec::new() }),
        }
    }

    /// The socket, to wait for.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What to wait for, when what comes is wanted or not. Errors are told in any case.
    pub fn waits_for(&self, reads: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        if self.connecting || !self.out.is_empty() {
            flags |= PollFlags::OUT;
        }
        if reads && !self.connecting {
            flags |= PollFlags::IN;
        }
        flags
    }

    /// What has happened may have made the connection, or room for more to be sent; says whether
    /// the connection was made just now.
    pub fn progress(&mut self, happened: PollFlags) -> io::Result<bool> {
        let any = PollFlags::OUT | PollFlags::ERR | PollFlags::HUP;
        if !happened.intersects(any) {
            return Ok(false);
        }
        let made = self.connecting;
        if self.connecting {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            self.connecting = false;
        }
        self.flush()?;
        Ok(made)
    }

    /// Bytes that wait to be sent.
    pub fn unsent_bytes(&self) -> usize {
        self.out.len()
    }

    /// Sends this after what waits to be sent.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.extend_from_slice(bytes);
        match self.connecting {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// Receives at most as much as the buffer holds; none when there is nothing now, and nothing at
    /// all at the end.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match (&self.socket).read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the connection without a word, by a reset.
    pub fn reset(self) -> io::Result<()> {
        self.socket.set_linger(Some(Duration::ZERO))
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match (&self.socket).write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.drain(..sent);
        Ok(())
    }
}

const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
