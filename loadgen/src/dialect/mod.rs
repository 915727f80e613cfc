//! What targets speak that are not Barrage: enough of each protocol to subscribe and to publish, so
//! that the same campaign can be run against other servers.
//!
//! The receiving side, [`Dialect`], has no sockets: bytes in, messages out. Only unfinished bytes
//! are kept. The publishing side is [`Upstream`].

mod http;
mod mqtt;
mod nats;
mod redis;
mod upstream;
mod ws_raw;

pub use upstream::{Answer, Upstream};

use std::time::Duration;

use barrage_wire::limits::PAYLOAD_BYTES_MAX;

use crate::plan::WS_MASK;
use crate::scenario::Target;

/// What a target speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Protocol {
    /// Barrage, over TCP or WebSocket.
    #[default]
    Barrage,
    /// WebSocket messages without a protocol of their own; publishing is an HTTP POST.
    WsRaw,
    /// MQTT 3.1.1, QoS 0.
    Mqtt,
    /// NATS.
    Nats,
    /// Redis publish and subscribe, RESP2.
    Redis,
}

/// What is wrong with the server's bytes, or what it refused, in words.
pub type Fault = String;

/// The longest frame, line or message that is taken from a server.
pub const FRAME_BYTES_MAX: usize = u16::MAX as usize;
/// How far to read on when a frame's length is not known yet: heads are about as long as this.
const HEAD_BYTES_STEP: usize = 64;

const _: () = assert!(PAYLOAD_BYTES_MAX + 4096 < FRAME_BYTES_MAX, "a message and its head fit");

/// Who is told what the bytes hold.
pub trait Heard {
    /// The subscription is in force. Told once for each connection.
    fn ready(&mut self);
    /// A message has come.
    fn message(&mut self, payload: &[u8]) -> Result<(), Fault>;
    /// These bytes are to be sent.
    fn say(&mut self, bytes: &[u8]);
}

/// What is kept of one connection, beside its unfinished bytes. New for each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DialectState {
    /// So many of the kept bytes are the beginning of a message in fragments.
    assembled: u16,
    ready: bool,
}

const _: () = assert!(size_of::<DialectState>() == 4, "a million connections hold one each");

/// What keeps an idle connection open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// What to send …
    pub bytes: &'static [u8],
    /// … after so long without having said anything.
    pub every: Duration,
}

/// A protocol as its subscribers speak it: one room for each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// WebSocket messages without a protocol of their own.
    WsRaw {
        /// What the handshake says about the server.
        host: String,
        /// The path of a subscription; `{room}` stands for the room's number.
        path: String,
    },
    /// MQTT 3.1.1, QoS 0; a room is the topic `room/N`.
    Mqtt,
    /// NATS; a room is the subject `room.N`.
    Nats,
    /// Redis, RESP2; a room is the channel `room:N`.
    Redis,
}

/// A frame taken off the front of received bytes.
enum Step<'a> {
    /// It was so long, and says that.
    Whole(usize, Item<'a>),
    /// There have to be so many bytes for it, or for knowing how many.
    Short(usize),
}

/// What a frame says.
enum Item<'a> {
    /// A message.
    Message(&'a [u8]),
    /// Part of a message; the last one or not.
    Fragment(&'a [u8], bool),
    /// The subscription is in force.
    Ready,
    /// To be answered with this.
    Say(&'static [u8]),
    /// To be answered with a WebSocket pong.
    WsPing(&'a [u8]),
    /// The connection was taken; a subscription is another matter.
    Connected,
    /// Nothing that matters.
    Nothing,
}

impl Dialect {
    /// What subscribers of `target` speak; none for Barrage, which has more to say than this.
    pub fn of(target: &Target) -> Option<Self> {
        match target.protocol {
            Protocol::Barrage => None,
            Protocol::WsRaw => Some(Self::WsRaw {
                host: target.tcp.map_or("localhost".to_owned(), |address| address.to_string()),
                path: target.subscribe_path.clone(),
            }),
            Protocol::Mqtt => Some(Self::Mqtt),
            Protocol::Nats => Some(Self::Nats),
            Protocol::Redis => Some(Self::Redis),
        }
    }

    /// Appends what a client begins with: everything until it is subscribed to `room`.
    pub fn hello(&self, client: u32, room: u64, out: &mut Vec<u8>) {
        match self {
            Self::WsRaw { host, path } => ws_raw::hello(host, &at_room(path, room), out),
            Self::Mqtt => mqtt::hello(&format!("barrage-loadgen-{client}"), room, out),
            Self::Nats => nats::hello(room, out),
            Self::Redis => redis::hello(room, out),
        }
    }

    /// What keeps an idle connection open, if anything has to.
    pub fn keep_alive(&self) -> Option<KeepAlive> {
        match self {
            Self::Mqtt => Some(mqtt::KEEP_ALIVE),
            // NATS and WebSocket servers ask themselves; Redis leaves subscribers alone.
            Self::WsRaw { .. } | Self::Nats | Self::Redis => None,
        }
    }

    /// Feeds what was received. `partial` holds what was unfinished before, and then what is now.
    /// After a fault the connection is to be closed.
    #[inline]
    pub fn feed(
        &self,
        state: &mut DialectState,
        partial: &mut Vec<u8>,
        bytes: &[u8],
        heard: &mut impl Heard,
    ) -> Result<(), Fault> {
        let feed = Feed { state, partial, heard };
        match self {
            Self::WsRaw { .. } => feed.all(bytes, ws_raw::next),
            Self::Mqtt => feed.all(bytes, |_, bytes| mqtt::next(bytes)),
            Self::Nats => feed.all(bytes, |_, bytes| nats::next(bytes)),
            Self::Redis => feed.all(bytes, |_, bytes| redis::next(bytes)),
        }
    }
}

/// A path with the room's number in it.
fn at_room(path: &str, room: u64) -> String {
    path.replace("{room}", &room.to_string())
}

/// The faults that all protocols have in common.
fn too_long(what: &str, bytes: usize) -> Fault {
    format!("the server sends {what} of {bytes} bytes, and {FRAME_BYTES_MAX} are the most")
}

/// One connection while it is fed.
struct Feed<'a, H> {
    state: &'a mut DialectState,
    partial: &'a mut Vec<u8>,
    heard: &'a mut H,
}

impl<H: Heard> Feed<'_, H> {
    /// `next` takes one frame off the front of bytes; it is told whether the connection is ready.
    #[inline]
    fn all(
        mut self,
        bytes: &[u8],
        next: impl Fn(bool, &[u8]) -> Result<Step<'_>, Fault>,
    ) -> Result<(), Fault> {
        let mut rest = bytes;
        if self.partial.len() > usize::from(self.state.assembled) {
            match self.complete(rest, &next)? {
                Some(taken) => rest = &rest[taken..],
                None => return Ok(()),
            }
        }
        while !rest.is_empty() {
            match next(self.state.ready, rest)? {
                Step::Whole(taken, item) => {
                    self.item(item)?;
                    rest = &rest[taken..];
                }
                Step::Short(_) => break,
            }
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Completes the frame that was begun; says how many bytes that took, or nothing if they were
    /// not enough.
    fn complete(
        &mut self,
        bytes: &[u8],
        next: impl Fn(bool, &[u8]) -> Result<Step<'_>, Fault>,
    ) -> Result<Option<usize>, Fault> {
        let assembled = usize::from(self.state.assembled);
        let kept = self.partial.len() - assembled;
        let mut moved = 0;
        let taken = loop {
            let frame = &self.partial[assembled..];
            match next(self.state.ready, frame)? {
                Step::Whole(taken, _) => break taken,
                Step::Short(_) if moved == bytes.len() => return Ok(None),
                Step::Short(want) => {
                    let more = want.saturating_sub(frame.len()).max(1);
                    let until = moved.saturating_add(more).min(bytes.len());
                    self.partial.extend_from_slice(&bytes[moved..until]);
                    moved = until;
                }
            }
        };
        // A fragment goes back to where it was, so the frame must be out of the way.
        let mut frame = match assembled {
            0 => std::mem::take(self.partial),
            _ => self.partial.split_off(assembled),
        };
        if let Step::Whole(_, item) = next(self.state.ready, &frame)? {
            self.item(item)?;
        }
        if self.partial.is_empty() {
            frame.clear();
            *self.partial = frame;
        }
        // The frame was unfinished, so its end is among the new bytes.
        Ok(Some(taken - kept))
    }

    #[inline]
    fn item(&mut self, item: Item<'_>) -> Result<(), Fault> {
        match item {
            Item::Message(payload) => {
                self.ready();
                self.heard.message(payload)
            }
            Item::Fragment(payload, last) => self.fragment(payload, last),
            Item::Ready => {
                self.ready();
                Ok(())
            }
            Item::Say(bytes) => {
                self.heard.say(bytes);
                Ok(())
            }
            Item::WsPing(payload) => {
                let mut pong = Vec::new();
                barrage_wire::ws::put_pong(&mut pong, Some(WS_MASK), payload);
                self.heard.say(&pong);
                Ok(())
            }
            Item::Connected | Item::Nothing => Ok(()),
        }
    }

    /// A server may deliver before it confirms, so the first message says the same.
    #[inline]
    fn ready(&mut self) {
        if !self.state.ready {
            self.state.ready = true;
            self.heard.ready();
        }
    }

    /// Keeps a fragment, or hands out the message that it ends.
    fn fragment(&mut self, payload: &[u8], last: bool) -> Result<(), Fault> {
        self.partial.extend_from_slice(payload);
        let whole = self.partial.len();
        self.state.assembled = whole.try_into().map_err(|_| too_long("a message", whole))?;
        if last {
            let mut message = std::mem::take(self.partial);
            self.state.assembled = 0;
            self.heard.message(&message)?;
            message.clear();
            *self.partial = message;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
