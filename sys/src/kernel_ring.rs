//! The kernel's implementation of `Ring`: a growing set of data rings.
//!
//! The descriptor table of one ring is bounded by RLIMIT_NOFILE. A full ring is not the end: the
//! next one is opened, so that the limit bounds a ring and not the process.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::data_ring::{ACCEPTS_IN_FLIGHT, DataRing, RECEIVES_MAX, RingError};
use crate::ring::{ConnId, Event, Ring, SLOT_BITS};
use crate::segment::SendSlice;
use crate::wake::Waker;

/// Connections that may wait to be accepted, per listener; the kernel caps it at `somaxconn`.
const BACKLOG: i32 = 65_535;

/// Ticks for which whoever waits to be accepted is still taken when a ring stops accepting.
const LAST_ACCEPTS_TICKS_MAX: u32 = 10;

/// How big rings are, and how many connections all of them may hold together.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Direct descriptors of one ring; at most RLIMIT_NOFILE.
    pub slots: u32,
    /// Connections of the whole set.
    pub connections: u32,
    /// Requests queued before they are handed over.
    pub requests: u32,
    /// Completions that wait without the kernel having to allocate.
    pub completions: u32,
    /// Receive buffers of one ring; a power of two.
    pub buffers: u16,
    /// Bytes of one receive buffer.
    pub buffer_bytes: usize,
}

impl RingConfig {
    /// Slots that one ring can have under `open_files`, the limit in force.
    pub fn slots_under(open_files: u64) -> u32 {
        open_files.min(1 << SLOT_BITS) as u32
    }

    /// Bytes of user-visible memory that one ring takes at most.
    pub fn ring_bytes(&self) -> usize {
        self.requests as usize * 64
            + self.completions as usize * 16
            + usize::from(self.buffers) * (self.buffer_bytes + 16)
    }
}

/// A socket that connections come from.
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Listens on a TCP address. Every shard has its own; the kernel spreads connections.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it: a pass fills its own segments, and a reply must not wait.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { socket: socket.into() })
    }

    /// Listens on a path of the file system. A socket file that nobody listens on is replaced.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        if let Err(error) = socket.bind(&address) {
            // Only a socket whose listener is gone may be replaced, never a file of somebody's.
            let is_socket = std::fs::symlink_metadata(path)
                .is_ok_and(|metadata| metadata.file_type().is_socket());
            if error.kind() == io::ErrorKind::AddrInUse && !is_socket {
                let text = "a file is there already, and it is not a socket";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            if !is_socket || probe.connect(&address).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        socket.listen(BACKLOG)?;
        Ok(Self { socket: socket.into() })
    }

    /// The same listener for another shard.
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// Whether somebody has connected and was not accepted.
    fn has_waiting(&self) -> bool {
        let ready =
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&Timespec::default()));
        matches!(ready, Ok(1..))
    }

    /// Where it listens; none for a path.
    pub fn address(&self) -> Option<SocketAddr> {
        socket2::SockRef::from(&self.socket).local_addr().ok()?.as_socket()
    }
}

/// A shard's data rings.
pub struct KernelRing {
    rings: Vec<DataRing>,
    /// None: it was closed.
    listeners: Vec<Option<Listener>>,
    /// Accepts in flight, per listener.
    armed: Vec<usize>,
    /// Ticks left to listeners that are closed as soon as nobody waits; none while they stay.
    stopping: Option<u32>,
    config: RingConfig,
    waker: Waker,
    opening_failed: bool,
    /// The ring that was reaped first last time.
    first: usize,
    /// What has gone wrong last, for the operator.
    trouble: Option<String>,
}

impl KernelRing {
    /// A set with one ring, for the calling thread alone.
    pub fn new(config: RingConfig, waker: Waker) -> Result<Self, RingError> {
        let first = DataRing::new(0, &config, waker.raw_fd())?;
        Ok(Self {
            rings: vec![first],
            listeners: Vec::new(),
            armed: Vec::new(),
            stopping: None,
            config,
            waker,
            opening_failed: false,
            first: 0,
            trouble: None,
        })
    }

    /// Takes connections from `listener`, and returns the number that `Accepted` gives it.
    pub fn listen(&mut self, listener: Listener) -> usize {
        self.listeners.push(Some(listener));
        self.armed.push(0);
        self.arm_accepts();
        self.listeners.len() - 1
    }

    /// Connects to `remote`, from `local` when it is given. Naming a port, too, is much faster when
    /// there are many: the kernel's search for a free one grows with those in use.
    pub fn connect(&mut self, local: Option<SocketAddr>, remote: SocketAddr) -> io::Result<ConnId> {
        let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(local) = local {
            if local.port() == 0 {
                // The port is then chosen when connecting, by the whole four-tuple: without this,
                // one port serves one connection and not one per destination.
                bind_address_no_port(&socket)?;
            } else {
                // A port whose last connection has ended a moment ago is as good as any.
                socket.set_reuse_address(true)?;
            }
            socket.bind(&local.into())?;
        }
        let ring = self.ring_with_room().ok_or(io::ErrorKind::StorageFull)?;
        self.rings[ring].connect(socket.as_fd(), remote.into())
    }

    /// Ends a connection as `close` does, but without a word: the peer gets a reset. Before Linux 6.7
    /// it is the same as `close`.
    pub fn reset(&mut self, conn: ConnId) {
        self.rings[conn.ring()].reset(conn);
    }

    /// Connections that hold a slot.
    pub fn connections(&self) -> u32 {
        self.rings.iter().map(DataRing::used).sum()
    }

    /// What has gone wrong since the last call, if anything.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    /// Rings opened so far.
    pub fn rings(&self) -> usize {
        self.rings.len()
    }

    fn ring_with_room(&mut self) -> Option<usize> {
        if let Some(ring) = self.rings.iter().position(|ring| ring.room() > 0) {
            return Some(ring);
        }
        if self.opening_failed || self.connections() >= self.config.connections {
            return None;
        }
        match DataRing::new(self.rings.len(), &self.config, self.waker.raw_fd()) {
            Ok(ring) => self.rings.push(ring),
            Err(error) => {
                self.trouble = Some(format!("no further data ring: {error}"));
                self.opening_failed = true;
                return None;
            }
        }
        Some(self.rings.len() - 1)
    }

    fn arm_accepts(&mut self) {
        for listener in 0..self.listeners.len() {
            let Some(fd) = self.listeners[listener].as_ref().map(|open| open.socket.as_raw_fd())
            else {
                continue;
            };
            while self.armed[listener] < ACCEPTS_IN_FLIGHT {
                let Some(ring) = self.ring_with_room() else { return };
                self.rings[ring].accept(listener, fd);
                self.armed[listener] += 1;
            }
        }
    }

    /// Closes listeners on which nobody waits, or all when their time is over.
    fn close_listeners(&mut self) {
        let Some(ticks_left) = self.stopping else { return };
        for listener in &mut self.listeners {
            let Some(open) = listener.take_if(|open| ticks_left == 0 || !open.has_waiting()) else {
                continue;
            };
            // Accepts in flight hold the socket open, so they go first.
            for ring in &mut self.rings {
                ring.stop_accepting(open.socket.as_raw_fd());
                ring.submit();
            }
        }
    }

    /// Sleeps until something has happened, or for `timeout`. `is_idle` is asked last, when a wake-up
    /// can no longer be missed: it says whether the caller has nothing else to do.
    pub fn wait(&mut self, timeout: Duration, is_idle: impl FnOnce() -> bool) {
        self.waker.sleep();
        // Every ring must be told, so this does not stop at the first that is busy.
        let mut quiet = true;
        for ring in &mut self.rings {
            quiet &= ring.sleep();
        }
        if quiet && is_idle() {
            let time = Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: i64::from(timeout.subsec_nanos()),
            };
            let fd = self.waker.as_fd();
            let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time));
            if matches!(ready, Ok(1..)) {
                // Takes the count back to zero; there is one, so this does not block.
                let _ = rustix::io::read(self.waker.as_fd(), &mut [0; 8]);
            }
        }
        self.waker.awake();
        self.rings.iter_mut().for_each(DataRing::awake);
    }
}

fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option's value is the int that the length says.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Ring for KernelRing {
    fn send(&mut self, conn: ConnId, slice: SendSlice) {
        self.rings[conn.ring()].send(conn, slice);
    }

    fn finish(&mut self, conn: ConnId) {
        self.rings[conn.ring()].finish(conn);
    }

    fn close(&mut self, conn: ConnId) {
        self.rings[conn.ring()].close(conn);
    }

    fn stop_accepting(&mut self) {
        self.stopping.get_or_insert(LAST_ACCEPTS_TICKS_MAX);
        self.close_listeners();
    }

    fn is_accepting(&self) -> bool {
        self.listeners.iter().any(Option::is_some) || self.armed.iter().any(|&armed| armed > 0)
    }

    fn submit(&mut self) {
        self.rings.iter_mut().for_each(DataRing::submit);
    }

    fn set_deaf(&mut self, deaf: bool) {
        self.rings.iter_mut().for_each(|ring| ring.set_deaf(deaf));
    }

    fn reap(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> usize {
        let (mut reaped, mut received, mut ended) = (0, 0, false);
        let rings = self.rings.len();
        // Another ring is first each time, so that none waits for the others' receives for long.
        self.first = (self.first + 1) % rings;
        for turn in 0..rings {
            if received >= RECEIVES_MAX {
                break;
            }
            let ring = &mut self.rings[(self.first + turn) % rings];
            reaped += ring.reap(sink);
            received += ring.receives();
            for (listener, result) in ring.accepts_ended() {
                self.armed[listener] -= 1;
                // What has failed is not tried again before the next tick.
                ended |= result >= 0;
                if result < 0 && self.stopping.is_none() {
                    let error = io::Error::from_raw_os_error(-result);
                    self.trouble = Some(format!("a connection could not be accepted: {error}"));
                }
            }
        }
        self.close_listeners();
        if ended {
            self.arm_accepts();
        }
        reaped
    }

    fn tick(&mut self) {
        self.opening_failed = false;
        self.stopping = self.stopping.map(|ticks| ticks.saturating_sub(1));
        self.close_listeners();
        self.arm_accepts();
    }
}
