//! One connection through the proxy: two sockets, and what is on its way between them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::Socket;

use crate::faults::Faults;
use crate::faults::counts::Counts;
use crate::faults::mischief::Mischief;
use crate::random::{Random, mix};

/// Bytes on their way in one direction. When there are more, the sender has to wait.
const LANE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that are read at once.
pub const READ_BYTES: usize = 64 * 1024;
/// Reads in a row of one connection before others have their turn.
const READS_MAX: usize = 16;
/// How long a frame waits for the neighbour that it is to change places with.
const HOLD_NS: u64 = 200_000_000;

const _: () = assert!(READ_BYTES < LANE_BYTES_MAX);

/// One of a connection's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Towards the client.
    Client,
    /// Towards the target.
    Target,
}

/// How a connection stands after it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It goes on; when something is to be done without anything coming.
    Goes(Option<u64>),
    /// Both sides have ended it, and everything was passed on.
    Ended,
}

struct Piece {
    due_ns: u64,
    bytes: Vec<u8>,
    sent: usize,
}

/// One direction.
#[derive(Default)]
struct Lane {
    queue: VecDeque<Piece>,
    bytes: usize,
    readable: bool,
    writable: bool,
    /// The sender has said all.
    ended: bool,
    /// The receiver knows that.
    shut: bool,
}

/// A connection.
pub struct Link {
    client: Socket,
    target: Socket,
    down: Lane,
    up: Lane,
    mischief: Mischief,
    random: Random,
    /// When the last piece that went down may go out: none overtakes another.
    due_ns: u64,
    held_since_ns: Option<u64>,
    /// When it is to be served without anything coming, as its owner has noted.
    pub timer_ns: Option<u64>,
}

impl Link {
    /// Between two nonblocking sockets.
    pub fn new(client: Socket, target: Socket, seed: u64, number: u64) -> Self {
        Self {
            client,
            target,
            down: Lane::default(),
            up: Lane::default(),
            mischief: Mischief::new(seed, number),
            random: Random::new(mix(!seed ^ mix(number))),
            due_ns: 0,
            held_since_ns: None,
            timer_ns: None,
        }
    }

    /// One end may be read from or written to again.
    pub fn ready(&mut self, end: End, readable: bool, writable: bool) {
        let (from, to) = match end {
            End::Client => (&mut self.up, &mut self.down),
            End::Target => (&mut self.down, &mut self.up),
        };
        from.readable |= readable;
        to.writable |= writable;
    }

    /// Moves what can be moved. An error means that one end broke.
    pub fn serve(
        &mut self,
        now_ns: u64,
        faults: &Faults,
        scratch: &mut [u8],
        counts: &mut Counts,
    ) -> io::Result<Served> {
        let mut again = false;
        let mut reads = 0;
        loop {
            let mut moved =
                self.read_up(scratch)? | self.read_down(now_ns, faults, scratch, counts)?;
            moved |= self.up.write(&self.target, now_ns, None, &mut counts.bytes_up)?;
            let split = faults.split.map(|most| (most, &mut self.random));
            moved |= self.down.write(&self.client, now_ns, split, &mut counts.bytes_down)?;
            reads += 1;
            if !moved || reads >= READS_MAX {
                again |= moved;
                break;
            }
        }
        if self.down.shut && self.up.shut {
            return Ok(Served::Ended);
        }
        let later = [
            again.then_some(now_ns),
            self.down.queue.front().map(|piece| piece.due_ns).filter(|due_ns| *due_ns > now_ns),
            self.held_since_ns.map(|since_ns| since_ns + HOLD_NS),
        ];
        Ok(Served::Goes(later.into_iter().flatten().min()))
    }

    fn read_up(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        let Some(count) = self.up.read(&self.client, scratch)? else { return Ok(false) };
        self.up.push(0, scratch[..count].to_vec());
        Ok(true)
    }

    fn read_down(
        &mut self,
        now_ns: u64,
        faults: &Faults,
        scratch: &mut [u8],
        counts: &mut Counts,
    ) -> io::Result<bool> {
        let mut bytes = Vec::new();
        if self.held_since_ns.is_some_and(|since_ns| now_ns >= since_ns + HOLD_NS) {
            self.mischief.release(&mut bytes);
        }
        let read = self.down.read(&self.target, scratch)?;
        match read {
            Some(count) if faults.bytes_only => bytes.extend_from_slice(&scratch[..count]),
            Some(0) => self.mischief.end(&mut bytes),
            Some(count) => {
                self.mischief.pass(&scratch[..count], &faults.frames, &mut bytes, counts);
            }
            None => {}
        }
        self.held_since_ns = self.mischief.holds().then(|| self.held_since_ns.unwrap_or(now_ns));
        let jitter_ns = faults.jitter_ns as f64 * self.random.share();
        self.due_ns = self.due_ns.max(now_ns + faults.delay_ns + jitter_ns as u64);
        self.down.push(self.due_ns, bytes);
        Ok(read.is_some())
    }

    /// Ends the connection so that both ends see a reset.
    pub fn reset(self) {
        for socket in [&self.client, &self.target] {
            // A socket that refuses is closed all the same.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }
}

impl Lane {
    /// Reads, if that is possible and there is room; 0: the sender has said all.
    fn read(&mut self, from: &Socket, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.readable || self.ended || self.bytes >= LANE_BYTES_MAX {
            return Ok(None);
        }
        match (&*from).read(scratch) {
            Ok(0) => {
                self.ended = true;
                Ok(Some(0))
            }
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn push(&mut self, due_ns: u64, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.queue.push_back(Piece { due_ns, bytes, sent: 0 });
        }
    }

    /// Writes what is due, whole or in pieces of a random length; says whether anything went out.
    fn write(
        &mut self,
        to: &Socket,
        now_ns: u64,
        mut split: Option<(usize, &mut Random)>,
        counted: &mut u64,
    ) -> io::Result<bool> {
        let mut moved = false;
        while self.writable
            && let Some(piece) = self.queue.front_mut().filter(|piece| piece.due_ns <= now_ns)
        {
            let left = piece.bytes.len() - piece.sent;
            let most = match &mut split {
                Some((most, random)) => (1 + random.below(*most as u64) as usize).min(left),
                None => left,
            };
            match (&*to).write(&piece.bytes[piece.sent..piece.sent + most]) {
                Ok(count) => {
                    piece.sent += count;
                    self.bytes -= count;
                    *counted += count as u64;
                    moved = true;
                    if piece.sent == piece.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.ended && self.queue.is_empty() && !self.shut {
            self.shut = true;
            // Who has gone already need not be told.
            let _ = to.shutdown(std::net::Shutdown::Write);
        }
        Ok(moved)
    }
}
