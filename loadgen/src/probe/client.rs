//! A client with a thread to itself: it says something and waits for what comes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use barrage_wire::client::{Cursor, Platform};
use barrage_wire::limits::{PROTOCOL_VERSION, SERVER_BODY_BYTES_MAX};
use barrage_wire::{ClientFrame, FRAME_HEADER_BYTES, List, RawFrame, ServerFrame, Text, split};

use crate::clock::{SECOND_NS, now_ns, until};
use crate::exit::TargetLost;

/// How long a connect and each answer may take.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX_NS: u64 = ANSWER_MAX.as_secs() * SECOND_NS;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;
/// The shortest wait that a socket can be asked for.
const WAIT_MIN: Duration = Duration::from_micros(1);

const _: () = assert!(SERVER_BODY_BYTES_MAX + FRAME_HEADER_BYTES < READ_BYTES);

/// Who a client is.
#[derive(Clone, Debug)]
pub struct Who {
    /// The tenant.
    pub app: u32,
    /// What it shows.
    pub token: String,
    /// Names its device.
    pub device: u64,
}

/// A connection to the gateway's TCP listener.
pub struct Client {
    stream: TcpStream,
    /// What has come is at `handled..filled`.
    received: Vec<u8>,
    filled: usize,
    handled: usize,
    /// Silence for longer than this many seconds, and it should ping. Known after WELCOME.
    pub heartbeat_s: u16,
    /// When it has last said something.
    said_ns: u64,
}

/// What a frame means to who waits.
pub type Heard<'a, T> = dyn FnMut(&ServerFrame<'_>, RawFrame<'_>) -> Result<Option<T>> + 'a;

impl Client {
    /// Makes the connection.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX)
            .map_err(|error| lost(format!("cannot connect to {address}: {error}")))?;
        stream.set_nodelay(true)?;
        let received = vec![0; 2 * READ_BYTES];
        Ok(Self { stream, received, filled: 0, handled: 0, heartbeat_s: 0, said_ns: now_ns() })
    }

    /// Says HELLO and waits for WELCOME.
    pub fn hello(&mut self, who: &Who) -> Result<()> {
        self.say(&ClientFrame::Hello {
            version: PROTOCOL_VERSION,
            app: who.app,
            device: who.device,
            platform: Platform::Bot,
            resume: List::new(&[]),
            token: Text(&who.token),
        })?;
        let welcomed = self.hear(now_ns() + ANSWER_MAX_NS, &mut |frame, _| match frame {
            ServerFrame::Welcome { heartbeat_s, .. } => Ok(Some(*heartbeat_s)),
            _ => Ok(None),
        })?;
        self.heartbeat_s = welcomed.context("no WELCOME: is that a gateway's TCP listener?")?;
        Ok(())
    }

    /// Asks to become a member from now on.
    pub fn ask_to_join(&mut self, request: u32, room: u64) -> Result<()> {
        self.say(&ClientFrame::Join { request, cursor: Cursor { room, epoch: 0, seq: 0 } })
    }

    /// Becomes a member; the room's alias.
    pub fn join(&mut self, room: u64) -> Result<u32> {
        self.ask_to_join(1, room)?;
        let joined = self.hear(now_ns() + ANSWER_MAX_NS, &mut |frame, _| match frame {
            ServerFrame::Joined { alias, .. } => Ok(Some(*alias)),
            ServerFrame::Reply { code, .. } => {
                Err(anyhow!("the gateway refuses to let us join room {room}: {}", code.name()))
            }
            _ => Ok(None),
        })?;
        joined.with_context(|| format!("no answer to the JOIN of room {room}"))
    }

    /// Pings when it was silent for half of what the gateway bears. To be called now and then.
    pub fn keep_alive(&mut self) -> Result<()> {
        let silence_ns_max = u64::from(self.heartbeat_s.max(2)) * SECOND_NS / 2;
        match now_ns().saturating_sub(self.said_ns) > silence_ns_max {
            true => self.say(&ClientFrame::Ping { nonce: now_ns() }),
            false => Ok(()),
        }
    }

    /// Says something.
    pub fn say(&mut self, frame: &ClientFrame<'_>) -> Result<()> {
        self.said_ns = now_ns();
        let sent = self.stream.write_all(&frame.to_vec());
        sent.map_err(|error| lost(format!("the connection broke: {error}")))
    }

    /// Hands out frames until one is what is waited for, or until that moment.
    pub fn hear<T>(&mut self, until_ns: u64, heard: &mut Heard<'_, T>) -> Result<Option<T>> {
        loop {
            let mut rest = &self.received[self.handled..self.filled];
            while let Some(raw) = split(&mut rest, SERVER_BODY_BYTES_MAX)? {
                self.handled = self.filled - rest.len();
                let frame = ServerFrame::decode(raw)?;
                if let ServerFrame::Close { reason, text, .. } = frame {
                    let why = format!("closed by the gateway: {} {}", reason.name(), text.0);
                    return Err(lost(why));
                }
                if let Some(found) = heard(&frame, raw)? {
                    return Ok(Some(found));
                }
            }
            if !self.read(until_ns)? {
                return Ok(None);
            }
        }
    }

    /// Reads more; says whether anything came in time.
    fn read(&mut self, until_ns: u64) -> Result<bool> {
        self.received.copy_within(self.handled..self.filled, 0);
        self.filled -= std::mem::take(&mut self.handled);
        loop {
            let left = until(until_ns);
            if left.is_zero() {
                return Ok(false);
            }
            self.stream.set_read_timeout(Some(left.max(WAIT_MIN)))?;
            match self.stream.read(&mut self.received[self.filled..]) {
                Ok(0) => return Err(lost("the gateway has ended the connection".to_owned())),
                Ok(count) => {
                    self.filled += count;
                    return Ok(true);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Err(lost(format!("the connection broke: {error}"))),
                },
            }
        }
    }
}

fn lost(why: String) -> anyhow::Error {
    TargetLost(why).into()
}
