//! One client's side of the protocol: what it says first, and what frames mean to it.

use barrage_sys::ConnId;
use barrage_wire::client::{Cursor, Platform};
use barrage_wire::limits::PROTOCOL_VERSION;
use barrage_wire::server::Code;
use barrage_wire::ws::put_pong;
use barrage_wire::{ClientFrame, List, RawFrame, ServerFrame, Tail, Text};

use crate::ledger::Membership;
use crate::plan::{Plan, WS_MASK};
use crate::stamp::Stamp;
use crate::stream::{Control, Fault, Sink, WsInbound};
use crate::world::World;

/// The kind of `ServerFrame::Message`.
const MESSAGE: u8 = 66;
/// Fixed fields of a MESSAGE: alias, sequence number, category, kind.
const MESSAGE_FIELDS_BYTES: usize = 16;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The connection is being made.
    Connecting,
    /// The WebSocket handshake was sent.
    Handshake,
    /// HELLO and JOINs were sent.
    Hello,
    /// WELCOME has come.
    Welcomed,
    /// Every JOINED has come.
    Ready,
    /// The connection has ended.
    Gone,
}

/// What is kept of one client. A million of them fit.
pub struct Client {
    /// Its connection.
    pub conn: ConnId,
    /// What most clients have nothing of at most times.
    pub rare: Option<Box<Rare>>,
    /// When it last said something, in seconds.
    pub said_s: u32,
    /// How far it has come.
    pub phase: Phase,
    /// A send is in flight.
    pub sending: bool,
    /// Uplinks without an answer.
    pub unanswered: u16,
}

const _: () = assert!(
    size_of::<Client>() + 2 * size_of::<Membership>() <= 100,
    "a million clients are to fit beside the gateway"
);

/// What is unfinished about a client.
#[derive(Default)]
pub struct Rare {
    /// A frame that has not come whole.
    pub partial: Vec<u8>,
    /// What is to be sent after the send in flight.
    pub outgoing: Vec<u8>,
    /// Fragments of a WebSocket message.
    pub inbound: WsInbound,
}

impl Rare {
    /// Whether nothing is unfinished.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.outgoing.is_empty() && self.inbound.is_unused()
    }
}

/// The frames that client `k` begins with: HELLO and its JOINs.
pub fn first_frames(plan: &Plan, k: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let token = format!("open:{}", u64::from(k) + 1);
    let hello = ClientFrame::Hello {
        version: PROTOCOL_VERSION,
        app: plan.app,
        device: k.into(),
        platform: Platform::Bot,
        resume: List::new(&[]),
        token: Text(&token),
    };
    hello.encode(&mut out);
    for (request, rooms) in (1..).zip(&plan.rooms) {
        let cursor = Cursor { room: rooms.of(k), epoch: 0, seq: 0 };
        ClientFrame::Join { request, cursor }.encode(&mut out);
    }
    out
}

/// The 16 bytes of client `k`'s WebSocket handshake.
pub fn ws_key(k: u32) -> [u8; 16] {
    let mut key = *b"barrage-loadgen!";
    key[..4].copy_from_slice(&k.to_le_bytes());
    key
}

/// A client while it is served.
pub struct Session<'a> {
    /// The client.
    pub client: &'a mut Client,
    /// Its places in rooms, in the order of the plan.
    pub memberships: &'a mut [Membership],
    /// What it shares with the others.
    pub world: &'a mut World,
}

impl Sink for Session<'_> {
    #[inline]
    fn frame(&mut self, frame: RawFrame<'_>) -> Result<(), Fault> {
        if frame.kind == MESSAGE { self.message(frame.body) } else { self.other(frame) }
    }

    fn control(&mut self, control: Control<'_>) {
        match control {
            Control::Ping(payload) => {
                put_pong(&mut self.world.say_raw, Some(WS_MASK), payload);
            }
            // The end of the connection follows, and is what counts.
            Control::Close(_) => {}
        }
    }
}

impl Session<'_> {
    /// The hot path: one of these per delivery, at ten million a second.
    #[inline]
    fn message(&mut self, body: &[u8]) -> Result<(), Fault> {
        let Some((fields, payload)) = body.split_first_chunk::<MESSAGE_FIELDS_BYTES>() else {
            return Err("the gateway sends a MESSAGE that is too short".to_owned());
        };
        let fields = u128::from_le_bytes(*fields);
        let (alias, seq) = (fields as u32, (fields >> 32) as u64);
        let Some(membership) = self.memberships.iter_mut().find(|place| place.is(alias)) else {
            self.world.tally.stray += 1;
            return Ok(());
        };
        if membership.message(seq, &mut self.world.tally) {
            self.world.record(payload);
        }
        Ok(())
    }

    #[cold]
    fn other(&mut self, frame: RawFrame<'_>) -> Result<(), Fault> {
        let frame = ServerFrame::decode(frame)
            .map_err(|error| format!("the gateway breaks the protocol: {error}"))?;
        match frame {
            ServerFrame::Welcome { heartbeat_s, .. } => {
                self.world.heartbeat_s = heartbeat_s;
                self.client.phase = Phase::Welcomed;
                self.ready_when_joined();
            }
            ServerFrame::Joined { request, alias, head, .. } => {
                self.joined(request, alias, head)?
            }
            ServerFrame::Shed { alias, first, last, counts } => {
                let count = counts.iter().copied().map(u64::from).sum();
                self.place(alias, |place, tally| place.shed(first, last, count, tally));
            }
            ServerFrame::Reset { alias, head, .. } => {
                self.place(alias, |place, tally| place.reset(head, tally));
            }
            ServerFrame::Reply { code, payload, .. } => self.reply(code, payload.0)?,
            ServerFrame::Close { reason, text, .. } => {
                return Err(format!("closed by the gateway: {} {}", reason.name(), text.0));
            }
            // MESSAGE has its own path. A REDIRECT is not followed: what counts is how long the
            // connection lives. Nothing is asked of the others.
            ServerFrame::Message { .. }
            | ServerFrame::Redirect { .. }
            | ServerFrame::Direct { .. }
            | ServerFrame::Pong { .. } => {}
        }
        Ok(())
    }

    fn place(&mut self, alias: u32, act: impl FnOnce(&mut Membership, &mut crate::ledger::Tally)) {
        match self.memberships.iter_mut().find(|place| place.is(alias)) {
            Some(place) => act(place, &mut self.world.tally),
            None => self.world.tally.stray += 1,
        }
    }

    fn joined(&mut self, request: u32, alias: u32, head: u64) -> Result<(), Fault> {
        let place = (request as usize).checked_sub(1).and_then(|at| self.memberships.get_mut(at));
        let Some(place) = place else {
            return Err(format!("the gateway answers a JOIN that was not asked: {request}"));
        };
        place.join(alias, head);
        if request as usize == self.memberships.len() {
            self.world.head = self.world.head.max(head);
        }
        self.ready_when_joined();
        Ok(())
    }

    fn ready_when_joined(&mut self) {
        let welcomed = self.client.phase == Phase::Welcomed;
        if welcomed && self.memberships.iter().all(Membership::joined) {
            self.client.phase = Phase::Ready;
            self.world.counts.ready += 1;
        }
    }

    fn reply(&mut self, code: Code, payload: &[u8]) -> Result<(), Fault> {
        if self.client.phase != Phase::Ready {
            return Err(format!("the gateway refuses a JOIN: {}", code.name()));
        }
        self.client.unanswered = self.client.unanswered.saturating_sub(1);
        if code == Code::Ok {
            self.world.uplinks.answered += 1;
            self.world.record(payload);
        } else {
            self.world.uplinks.refused += 1;
        }
        self.uplink(1);
        Ok(())
    }

    /// Says `count` more uplinks, while it is time for them.
    pub fn uplink(&mut self, count: usize) {
        let Some(plan) = self.world.plan.uplinks else { return };
        if self.world.now_ns >= self.world.to_ns {
            return;
        }
        let mut payload = vec![0; plan.size];
        for _ in 0..count {
            let index = self.world.uplinks.sent as u32;
            Stamp { intended_ns: self.world.now_ns, index, lag_us: 0 }.write(&mut payload);
            let uplink = ClientFrame::Uplink {
                request: index,
                channel: plan.channel,
                kind: 0,
                payload: Tail(&payload),
            };
            uplink.encode(&mut self.world.say);
            self.world.uplinks.sent += 1;
            self.client.unanswered += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_where_the_hot_path_looks_for_it() {
        let payload = Tail(b"payload");
        let message = ServerFrame::Message {
            alias: 0x0a0b_0c0d,
            seq: 1 << 40,
            category: 3,
            kind: 4,
            payload,
        };
        let frame = message.to_vec();
        assert_eq!(frame[4], MESSAGE);
        let body = &frame[barrage_wire::FRAME_HEADER_BYTES..];
        let fields = u128::from_le_bytes(*body.first_chunk().expect("sixteen bytes"));
        assert_eq!((fields as u32, (fields >> 32) as u64), (0x0a0b_0c0d, 1 << 40));
        assert_eq!(&body[MESSAGE_FIELDS_BYTES..], b"payload");
    }
}
