//! A client over TCP or WebSocket, behind one interface.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use barrage_wire::client::{Cursor, Platform};
use barrage_wire::codec::{List, Tail, Text};
use barrage_wire::limits::{PROTOCOL_VERSION, SERVER_BODY_BYTES_MAX};
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::ws::{self, Inbound, Incoming, Role};
use barrage_wire::{ClientFrame, ServerFrame, split};

use super::socket::Socket;
use super::{APP, SOON};

/// How a client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Tcp,
    WebSocket,
}

impl Via {
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::WebSocket];
}

/// A frame from the gateway, with its own copy of what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Welcome {
        version: u16,
        heartbeat_s: u16,
        connection: u64,
        user: u64,
        rooms_max: u16,
    },
    Joined {
        request: u32,
        alias: u32,
        room: u64,
        epoch: u64,
        head: u64,
        level: u8,
        members: u32,
    },
    Message {
        alias: u32,
        seq: u64,
        category: u16,
        kind: u16,
        payload: Vec<u8>,
    },
    Shed {
        alias: u32,
        first: u64,
        last: u64,
        counts: [u32; 4],
    },
    Reset {
        alias: u32,
        epoch: u64,
        oldest: u64,
        head: u64,
    },
    Reply {
        request: u32,
        code: Code,
        seq: u64,
        payload: Vec<u8>,
    },
    Direct {
        inbox_seq: u64,
        category: u16,
        kind: u16,
        flags: u8,
        payload: Vec<u8>,
    },
    Combo {
        alias: u32,
        seq: u64,
        category: u16,
        flags: u8,
        sender: u64,
        key: u64,
        count: u32,
        total: u64,
        payload: Vec<u8>,
    },
    State {
        alias: u32,
        seq: u64,
        key: u64,
        payload: Vec<u8>,
    },
    Snapshot {
        alias: u32,
        seq: u64,
        key: u64,
        payload: Vec<u8>,
    },
    Past {
        request: u32,
        epoch: u64,
        seq: u64,
        time_ms: u64,
        frame: u8,
        category: u16,
        flags: u8,
        sender: u64,
        key: u64,
        count: u32,
        total: u64,
        payload: Vec<u8>,
    },
    PastEnd {
        request: u32,
        code: Code,
        epoch: u64,
        oldest: u64,
        head: u64,
        next_epoch: u64,
        next: u64,
    },
    Redirect,
    Close {
        reason: CloseReason,
        retry_after_ms: u32,
        text: String,
    },
    Pong {
        nonce: u64,
    },
}

impl From<ServerFrame<'_>> for Said {
    fn from(frame: ServerFrame<'_>) -> Self {
        match frame {
            ServerFrame::Welcome { version, heartbeat_s, connection, user, rooms_max, .. } => {
                Self::Welcome { version, heartbeat_s, connection, user, rooms_max }
            }
            ServerFrame::Joined { request, alias, room, epoch, head, level, members } => {
                Self::Joined { request, alias, room, epoch, head, level, members }
            }
            ServerFrame::Message { alias, seq, category, kind, payload } => {
                Self::Message { alias, seq, category, kind, payload: payload.0.to_vec() }
            }
            ServerFrame::Shed { alias, first, last, counts } => {
                Self::Shed { alias, first, last, counts }
            }
            ServerFrame::Reset { alias, epoch, oldest, head } => {
                Self::Reset { alias, epoch, oldest, head }
            }
            ServerFrame::Reply { request, code, seq, payload } => {
                Self::Reply { request, code, seq, payload: payload.0.to_vec() }
            }
            ServerFrame::Direct { inbox_seq, category, kind, flags, payload } => {
                Self::Direct { inbox_seq, category, kind, flags, payload: payload.0.to_vec() }
            }
            ServerFrame::Combo {
                alias,
                seq,
                category,
                flags,
                sender,
                key,
                count,
                total,
                payload,
                ..
            } => {
                let payload = payload.0.to_vec();
                Self::Combo { alias, seq, category, flags, sender, key, count, total, payload }
            }
            ServerFrame::State { alias, seq, key, payload, .. } => {
                Self::State { alias, seq, key, payload: payload.0.to_vec() }
            }
            ServerFrame::Snapshot { alias, seq, key, payload, .. } => {
                Self::Snapshot { alias, seq, key, payload: payload.0.to_vec() }
            }
            ServerFrame::Past {
                request,
                epoch,
                seq,
                time_ms,
                frame,
                category,
                flags,
                sender,
                key,
                count,
                total,
                payload,
                ..
            } => Self::Past {
                request,
                epoch,
                seq,
                time_ms,
                frame,
                category,
                flags,
                sender,
                key,
                count,
                total,
                payload: payload.0.to_vec(),
            },
            ServerFrame::PastEnd { request, code, epoch, oldest, head, next_epoch, next } => {
                Self::PastEnd { request, code, epoch, oldest, head, next_epoch, next }
            }
            ServerFrame::Redirect { .. } => Self::Redirect,
            ServerFrame::Close { reason, retry_after_ms, text } => {
                Self::Close { reason, retry_after_ms, text: text.0.to_owned() }
            }
            ServerFrame::Pong { nonce } => Self::Pong { nonce },
        }
    }
}

/// A room, as `Joined` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub room: u64,
    pub alias: u32,
    pub epoch: u64,
    pub head: u64,
    pub members: u32,
}

impl Room {
    /// The cursor of a client that has read everything up to `seq`.
    pub fn at(&self, seq: u64) -> Cursor {
        Cursor { room: self.room, epoch: self.epoch, seq }
    }
}

/// From now on.
pub fn from_now(room: u64) -> Cursor {
    Cursor { room, epoch: 0, seq: 0 }
}

/// See the module.
pub struct Client {
    pub socket: Socket,
    pub via: Via,
    bytes: Vec<u8>,
    used: usize,
    heard: VecDeque<Said>,
    inbound: Inbound,
    /// Payloads of WebSocket pongs, in order.
    pub pongs: usize,
    /// The code of the WebSocket close frame.
    pub close_code: Option<u16>,
    ended: bool,
    request: u32,
    /// From `Welcome`.
    pub connection: u64,
    pub user: u64,
}

impl Client {
    /// A connection on which nothing was said; over WebSocket, after the handshake.
    pub fn connect(address: SocketAddr, via: Via) -> Self {
        Self::on(Socket::tcp(address), via)
    }

    /// The same, on a socket of one's own.
    pub fn on(socket: Socket, via: Via) -> Self {
        let mut client = Self {
            socket,
            via,
            bytes: Vec::new(),
            used: 0,
            heard: VecDeque::new(),
            inbound: Inbound::default(),
            pongs: 0,
            close_code: None,
            ended: false,
            request: 100,
            connection: 0,
            user: 0,
        };
        if via == Via::WebSocket {
            client.shake_hands();
        }
        client
    }

    /// Connects and says HELLO.
    pub fn come(address: SocketAddr, via: Via, user: u64) -> Self {
        let mut client = Self::connect(address, via);
        client.hello(user, &[]);
        client
    }

    fn shake_hands(&mut self) {
        let key = [7; 16];
        let mut request = Vec::new();
        ws::write_request("test", "/", key, &mut request);
        self.socket.write(&request);
        let until = Instant::now() + SOON;
        loop {
            match ws::parse_response(&self.bytes, key).expect("the handshake is granted") {
                Some(used) => {
                    self.used = used;
                    return;
                }
                None => {
                    let read = self.socket.read(&mut self.bytes, until);
                    assert!(!matches!(read, Some(0) | None), "no answer to the handshake");
                }
            }
        }
    }

    /// Says HELLO with cursors, and waits for the answer.
    pub fn hello(&mut self, user: u64, resume: &[Cursor]) {
        self.hello_as(APP, user, resume);
    }

    pub fn hello_as(&mut self, app: u32, user: u64, resume: &[Cursor]) {
        self.send_bytes(&hello(PROTOCOL_VERSION, app, &format!("open:{user}"), resume));
        match self.hear() {
            Said::Welcome { connection, user, .. } => {
                (self.connection, self.user) = (connection, user);
            }
            other => panic!("not welcome: {other:?}"),
        }
    }

    /// Says HELLO as one of the user's devices, and does not wait.
    pub fn hello_from(&mut self, user: u64, device: u64, platform: Platform, resume: &[Cursor]) {
        let (version, app, token) = (PROTOCOL_VERSION, APP, format!("open:{user}"));
        let (resume, token) = (List::new(resume), Text(&token));
        self.send(&ClientFrame::Hello { version, app, device, platform, resume, token });
    }

    /// Connects as one of the user's devices.
    pub fn come_from(
        address: SocketAddr,
        via: Via,
        user: u64,
        device: u64,
        platform: Platform,
    ) -> Self {
        let mut client = Self::connect(address, via);
        client.hello_from(user, device, platform, &[]);
        match client.hear() {
            Said::Welcome { connection, user, .. } => {
                (client.connection, client.user) = (connection, user);
            }
            other => panic!("not welcome: {other:?}"),
        }
        client
    }

    /// Has everything of the inbox up to a number.
    pub fn ack(&mut self, inbox_seq: u64) {
        self.send(&ClientFrame::Ack { inbox_seq });
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &ClientFrame<'_>) {
        self.send_bytes(&frame.to_vec());
    }

    /// Sends bytes; over WebSocket as one binary message.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let bytes = self.framed(bytes);
        self.socket.write(&bytes);
    }

    /// The bytes as they travel.
    pub fn framed(&self, bytes: &[u8]) -> Vec<u8> {
        match self.via {
            Via::Tcp => bytes.to_vec(),
            Via::WebSocket => {
                let mut out = Vec::new();
                ws::put_masked(&mut out, [1, 2, 3, 4], bytes);
                out
            }
        }
    }

    /// The next frame; it must come soon.
    pub fn hear(&mut self) -> Said {
        let heard = self.hear_until(Instant::now() + SOON);
        heard.unwrap_or_else(|| match self.ended {
            true => panic!("the gateway closed, and something was still to be said"),
            false => panic!("nothing was said within {SOON:?}"),
        })
    }

    /// The next frame, or `None` when the connection has ended or the deadline has passed.
    pub fn hear_until(&mut self, until: Instant) -> Option<Said> {
        loop {
            if let Some(said) = self.heard.pop_front() {
                return Some(said);
            }
            self.decode();
            if !self.heard.is_empty() {
                continue;
            }
            if self.ended || self.socket.read(&mut self.bytes, until)? == 0 {
                self.ended = true;
                return None;
            }
        }
    }

    /// Whether the connection has ended and everything was heard.
    pub fn has_ended(&self) -> bool {
        self.ended && self.heard.is_empty()
    }

    /// Everything that is said until the connection ends, which must be soon.
    pub fn hear_all(&mut self) -> Vec<Said> {
        let until = Instant::now() + SOON;
        let all = std::iter::from_fn(|| self.hear_until(until)).collect();
        assert!(self.ended, "the gateway does not close; it said {all:?}");
        all
    }

    /// The reason of the `Close` that must come last, whatever comes before.
    pub fn hear_close(&mut self) -> (CloseReason, String) {
        match self.hear_all().pop() {
            Some(Said::Close { reason, text, .. }) => (reason, text),
            other => panic!("no Close at the end, but {other:?}"),
        }
    }

    fn decode(&mut self) {
        match self.via {
            Via::Tcp => {
                let mut rest = &self.bytes[self.used..];
                while let Some(said) = take(&mut rest) {
                    self.heard.push_back(said);
                }
                self.used = self.bytes.len() - rest.len();
            }
            Via::WebSocket => self.decode_messages(),
        }
        self.bytes.drain(..self.used);
        self.used = 0;
    }

    fn decode_messages(&mut self) {
        loop {
            let bytes = &mut self.bytes[self.used..];
            let (used, incoming) =
                self.inbound.next(Role::Client, bytes).expect("the gateway speaks WebSocket");
            if used == 0 {
                return;
            }
            self.used += used;
            assert_eq!(self.close_code, None, "nothing comes after a close frame");
            match incoming {
                Some(Incoming::Message(mut message)) => {
                    let said = take(&mut message).expect("a message holds one frame");
                    assert!(message.is_empty(), "a message holds one frame only");
                    self.heard.push_back(said);
                }
                Some(Incoming::Pong) => self.pongs += 1,
                Some(Incoming::Close(code)) => self.close_code = Some(code),
                Some(Incoming::Ping(_)) => panic!("the gateway sends no pings"),
                None => panic!("the gateway does not fragment"),
            }
        }
    }

    /// Asks to be a member; returns the number of the request.
    pub fn ask_to_join(&mut self, cursor: Cursor) -> u32 {
        let request = self.next_request();
        self.send(&ClientFrame::Join { request, cursor });
        request
    }

    /// Joins from now on.
    pub fn join(&mut self, room: u64) -> Room {
        self.join_at(from_now(room))
    }

    /// Joins with a cursor; the answer must come next.
    pub fn join_at(&mut self, cursor: Cursor) -> Room {
        let request = self.ask_to_join(cursor);
        let (answered, room) = self.hear_joined();
        assert_eq!((answered, room.room), (request, cursor.room));
        room
    }

    /// The `Joined` that must come next, and the request it answers.
    pub fn hear_joined(&mut self) -> (u32, Room) {
        match self.hear() {
            Said::Joined { request, alias, room, epoch, head, members, .. } => {
                (request, Room { room, alias, epoch, head, members })
            }
            other => panic!("not joined: {other:?}"),
        }
    }

    /// Says something in a room; returns the number of the request.
    pub fn publish(&mut self, alias: u32, category: u16, payload: &[u8]) -> u32 {
        let request = self.next_request();
        let payload = Tail(payload);
        self.send(&ClientFrame::Publish { request, alias, category, kind: 9, payload });
        request
    }

    pub fn leave(&mut self, room: u64) -> u32 {
        let request = self.next_request();
        self.send(&ClientFrame::Leave { request, room });
        request
    }

    pub fn uplink(&mut self, channel: u16, kind: u16, payload: &[u8]) -> u32 {
        let request = self.next_request();
        let payload = Tail(payload);
        self.send(&ClientFrame::Uplink { request, channel, kind, payload });
        request
    }

    /// Pings, and returns everything that came before the pong.
    pub fn ping(&mut self) -> Vec<Said> {
        let nonce = u64::from(self.next_request());
        self.send(&ClientFrame::Ping { nonce });
        let mut before = Vec::new();
        loop {
            match self.hear() {
                Said::Pong { nonce: answered } => {
                    assert_eq!(answered, nonce);
                    return before;
                }
                said => before.push(said),
            }
        }
    }

    /// The reply to a request, past whatever else is said before it.
    pub fn reply(&mut self, to: u32) -> (Code, u64, Vec<u8>) {
        loop {
            if let Said::Reply { request, code, seq, payload } = self.hear()
                && request == to
            {
                return (code, seq, payload);
            }
        }
    }

    /// The next message of a room, past whatever else is said before it.
    pub fn message(&mut self, of: u32) -> (u64, Vec<u8>) {
        loop {
            match self.hear() {
                Said::Message { alias, seq, payload, .. } if alias == of => return (seq, payload),
                said @ (Said::Shed { .. } | Said::Reset { .. } | Said::Close { .. }) => {
                    panic!("a message was to come, not {said:?}")
                }
                _ => {}
            }
        }
    }

    pub fn next_request(&mut self) -> u32 {
        self.request += 1;
        self.request
    }
}

/// The bytes of a HELLO, of a device without a name: as many of one user may come as tests want.
pub fn hello(version: u16, app: u32, token: &str, resume: &[Cursor]) -> Vec<u8> {
    let resume = List::new(resume);
    let (device, platform, token) = (0, Platform::Web, Text(token));
    ClientFrame::Hello { version, app, device, platform, resume, token }.to_vec()
}

fn take(bytes: &mut &[u8]) -> Option<Said> {
    let frame = split(bytes, SERVER_BODY_BYTES_MAX).expect("the gateway keeps to the limits")?;
    Some(ServerFrame::decode(frame).expect("the gateway speaks the protocol").into())
}
