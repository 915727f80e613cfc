//! One client's side of the protocol: what it says first, and what frames mean to it.

mod requests;
#[cfg(test)]
mod tests;

pub use requests::{errand_frames, first_frames, ws_key};

use barrage_sys::ConnId;
use barrage_wire::server::{
    COMBO_OVERHEAD_BYTES, Code, MESSAGE_OVERHEAD_BYTES, PAST_COMBO, PAST_MESSAGE, PAST_STATE,
    STATE_OVERHEAD_BYTES,
};
use barrage_wire::ws::put_pong;
use barrage_wire::{ClientFrame, DecodeError, FRAME_HEADER_BYTES, RawFrame, ServerFrame, Tail};

use crate::dialect::DialectState;
use crate::ledger::{Membership, SEQ_MAX, Tally};
use crate::plan::WS_MASK;
use crate::stamp::Stamp;
use crate::stream::{Control, Fault, Sink, WsInbound};
use crate::world::World;

/// Fields that every numbered frame begins with: alias, sequence number, category, kind.
const NUMBERED_FIELDS_BYTES: usize = 16;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The connection is being made.
    Connecting,
    /// The WebSocket handshake was sent.
    Handshake,
    /// HELLO was sent, and the JOINs unless they come later.
    Hello,
    /// WELCOME has come.
    Welcomed,
    /// Every JOINED has come, unless the JOINs come later. (Or, where the target does not speak
    /// Barrage, the subscription is in force.)
    Ready,
    /// There is no connection; it comes back at its time.
    Away,
    /// The connection has ended for good.
    Gone,
}

impl Phase {
    /// Whether there is a connection that is to get ready.
    pub fn in_flight(self) -> bool {
        match self {
            Self::Connecting | Self::Handshake | Self::Hello | Self::Welcomed => true,
            Self::Ready | Self::Away | Self::Gone => false,
        }
    }
}

/// What is kept of one client. A million of them fit.
pub struct Client {
    /// Its connection.
    pub conn: ConnId,
    /// What most clients have nothing of at most times.
    pub rare: Option<Box<Rare>>,
    /// When it last said something, in seconds.
    pub said_s: u32,
    /// When its connection was begun, in microseconds of a clock that turns over.
    pub begun_us: u32,
    /// What another protocol than Barrage has to remember.
    pub dialect: DialectState,
    /// Uplinks without an answer.
    pub unanswered: u16,
    /// How far it has come.
    pub phase: Phase,
    /// Connections in a row that did not get ready.
    pub tries: u8,
    /// A send is in flight.
    pub sending: bool,
    /// It speaks WebSocket.
    pub ws: bool,
    /// It writes down what it sees.
    pub watches: bool,
    /// It was ready once.
    pub known: bool,
    /// When it comes back it goes on where it was.
    pub resume: bool,
    /// Somebody waits for it to be back.
    pub awaited: bool,
    /// Where its room is, the next message says.
    pub floating: bool,
}

impl Client {
    /// One whose connection is being made.
    pub fn new(conn: ConnId) -> Self {
        Self {
            conn,
            rare: None,
            said_s: 0,
            begun_us: 0,
            dialect: DialectState::default(),
            unanswered: 0,
            phase: Phase::Connecting,
            tries: 0,
            sending: false,
            ws: false,
            watches: false,
            known: false,
            resume: false,
            awaited: false,
            floating: false,
        }
    }
}

const _: () = assert!(
    size_of::<Client>() + 2 * size_of::<Membership>() + 2 * size_of::<u32>() <= 200,
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
    /// What it has to hear before it is where it was: which of its places, up to which number.
    pub catching: Vec<(u32, u64)>,
}

impl Rare {
    /// Whether nothing is unfinished.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
            && self.outgoing.is_empty()
            && self.inbound.is_unused()
            && self.catching.is_empty()
    }

    /// Bytes that are allocated for it.
    pub fn bytes(&self) -> usize {
        self.partial.capacity()
            + self.outgoing.capacity()
            + self.catching.capacity() * size_of::<(u32, u64)>()
    }
}

/// A client while it is served.
pub struct Session<'a> {
    /// Its number.
    pub number: usize,
    /// The client.
    pub client: &'a mut Client,
    /// Its places in rooms, in the order of the plan.
    pub memberships: &'a mut [Membership],
    /// What it shares with the others.
    pub world: &'a mut World,
}

impl Sink for Session<'_> {
    #[inline(always)]
    fn frame(&mut self, frame: RawFrame<'_>) -> Result<(), Fault> {
        let overhead = match frame.kind {
            PAST_MESSAGE => MESSAGE_OVERHEAD_BYTES,
            PAST_COMBO => COMBO_OVERHEAD_BYTES,
            PAST_STATE => STATE_OVERHEAD_BYTES,
            _ => return self.other(frame.kind, frame.body),
        };
        self.numbered(frame, overhead - FRAME_HEADER_BYTES)
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
    /// The hot path: one of these per delivery, at ten million a second. The payload begins behind
    /// so many bytes of the body. It is part of the loop over frames, and hands on no `RawFrame`, so
    /// that none has to be in memory.
    #[inline(always)]
    fn numbered(&mut self, frame: RawFrame<'_>, payload_at: usize) -> Result<(), Fault> {
        let fields = frame.body.first_chunk::<NUMBERED_FIELDS_BYTES>();
        let (Some(fields), Some(payload)) = (fields, frame.body.get(payload_at..)) else {
            return Err(too_short());
        };
        let fields = u128::from_le_bytes(*fields);
        let (alias, seq, kind) = (fields as u32, (fields >> 32) as u64, (fields >> 112) as u16);
        let membership = match &mut *self.memberships {
            // Nearly everybody has one room.
            [first, ..] if first.is(alias) => Some(first),
            all => all.iter_mut().find(|place| place.is(alias)),
        };
        let Some(membership) = membership else {
            self.world.tally.stray += 1;
            return Ok(());
        };
        if membership.message(seq, &mut self.world.tally) {
            if self.world.times(kind) {
                self.world.record(payload);
            }
            if self.client.watches {
                self.watch(alias, frame.kind, frame.body)?;
            }
        } else if seq > SEQ_MAX {
            return Err(too_high(seq));
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn watch(&mut self, alias: u32, kind: u8, body: &[u8]) -> Result<(), Fault> {
        let nth = self.memberships.iter().position(|place| place.is(alias)).unwrap_or(0);
        let world = &mut *self.world;
        let (frame, place) = (RawFrame { kind, body }, (self.number as u32, nth as u32));
        let room = world.watchers.get(&place);
        match room.and_then(|room| world.watches.get_mut(room)) {
            Some(watch) => watch.see(frame).map_err(|error| protocol_text(&error)),
            None => Ok(()),
        }
    }

    #[cold]
    #[inline(never)]
    fn other(&mut self, kind: u8, body: &[u8]) -> Result<(), Fault> {
        let frame = RawFrame { kind, body };
        let frame = ServerFrame::decode(frame).map_err(|error| protocol_text(&error))?;
        match frame {
            ServerFrame::Welcome { .. } if self.client.phase != Phase::Hello => {
                return Err("the gateway says WELCOME twice".to_owned());
            }
            ServerFrame::Welcome { heartbeat_s, .. } => {
                self.world.heartbeat_s = heartbeat_s;
                self.client.phase = Phase::Welcomed;
                self.ready_when_joined();
            }
            ServerFrame::Joined { request, alias, epoch, head, .. } => {
                let epoch = self.world.epochs.number(epoch);
                self.joined(request, alias, epoch, head)?;
            }
            ServerFrame::Shed { alias, first, last, counts } => {
                possible(first.max(last))?;
                let count = counts.iter().copied().map(u64::from).sum();
                // Those without a number belong to no room.
                if alias != 0 {
                    self.place(alias, |place, tally| place.shed(first, last, count, tally));
                }
            }
            ServerFrame::Reset { alias, epoch, head, .. } => self.reset(alias, epoch, head)?,
            ServerFrame::Reply { request, code, payload, .. } => {
                self.reply(request, code, payload.0)?;
            }
            ServerFrame::Close { reason, text, .. } => {
                return Err(format!("closed by the gateway: {} {}", reason.name(), text.0));
            }
            // Numbered frames have their own path. A REDIRECT is not followed: what counts is how
            // long the connection lives. Nothing is asked of the others.
            ServerFrame::Message { .. }
            | ServerFrame::Combo { .. }
            | ServerFrame::State { .. }
            | ServerFrame::Snapshot { .. }
            | ServerFrame::Past { .. }
            | ServerFrame::PastEnd { .. }
            | ServerFrame::Redirect { .. }
            | ServerFrame::Direct { .. }
            | ServerFrame::Pong { .. } => {}
        }
        Ok(())
    }

    fn place(&mut self, alias: u32, act: impl FnOnce(&mut Membership, &mut Tally)) {
        match self.memberships.iter_mut().find(|place| place.is(alias)) {
            Some(place) => act(place, &mut self.world.tally),
            None => self.world.tally.stray += 1,
        }
    }

    fn reset(&mut self, alias: u32, epoch: u64, head: u64) -> Result<(), Fault> {
        possible(head)?;
        let epoch = self.world.epochs.number(epoch);
        let Some(nth) = self.memberships.iter().position(|place| place.is(alias)) else {
            self.world.tally.stray += 1;
            return Ok(());
        };
        self.memberships[nth].reset_in(epoch, head, &mut self.world.tally);
        self.follow_epoch(nth, epoch);
        // What was to be heard up to a number of another epoch ends here.
        self.is_to_reach(nth, self.memberships[nth].reached());
        Ok(())
    }

    /// A membership that was known before is in this epoch now.
    fn follow_epoch(&mut self, nth: usize, epoch: u32) {
        let place = self.world.plan.rooms.nth(self.world.plan.k(self.number), nth);
        if let Some(room) = place.and_then(|place| place.book) {
            let book = &mut self.world.rooms[room];
            book.epoch = book.epoch.max(epoch);
        }
    }

    /// Only when a place has reached this number its client is where it was.
    fn is_to_reach(&mut self, nth: usize, upto: u64) {
        self.world.catching.retain(|&(place, _)| place != nth as u32);
        self.world.catching.push((nth as u32, upto));
    }

    fn joined(&mut self, request: u32, alias: u32, epoch: u32, head: u64) -> Result<(), Fault> {
        possible(head)?;
        let nth = (request as usize).wrapping_sub(1);
        let Some(place) = self.memberships.get_mut(nth).filter(|_| alias != 0) else {
            return Err(format!("the gateway answers a JOIN that was not asked: {request}"));
        };
        if place.joined() {
            return Err(format!("the gateway answers a JOIN twice: {request}"));
        }
        if !place.known() {
            place.join_in(alias, epoch, head);
            self.first_joined(nth, epoch, head);
        } else if self.client.resume && self.world.epochs.of(place.epoch()) != 0 {
            place.go_on(alias);
            if epoch == place.epoch() && place.reached() < head {
                self.is_to_reach(nth, head);
            }
        } else {
            place.begin_anew(alias, epoch, head, &mut self.world.tally);
            self.follow_epoch(nth, epoch);
        }
        if self.world.plan.joins_later {
            self.world.errands.joined += 1;
            self.world.errands.unanswered = self.world.errands.unanswered.saturating_sub(1);
        }
        self.ready_when_joined();
        Ok(())
    }

    fn first_joined(&mut self, nth: usize, epoch: u32, head: u64) {
        let world = &mut *self.world;
        if let Some(room) = world.watchers.get(&(self.number as u32, nth as u32))
            && let Some(watch) = world.watches.get_mut(room)
        {
            watch.joined_head = Some(head);
        }
        let place = world.plan.rooms.nth(world.plan.k(self.number), nth);
        if let Some(room) = place.and_then(|place| place.book) {
            world.first_joined(room, epoch, head);
        }
    }

    fn ready_when_joined(&mut self) {
        let welcomed = self.client.phase == Phase::Welcomed;
        let joined = self.world.plan.joins_later || self.memberships.iter().all(Membership::joined);
        if welcomed && joined {
            ready(self.number, self.client, self.world);
        }
    }

    fn reply(&mut self, request: u32, code: Code, payload: &[u8]) -> Result<(), Fault> {
        if self.client.phase != Phase::Ready {
            return Err(format!("the gateway refuses a JOIN: {}", code.name()));
        }
        if self.world.plan.joins_later {
            self.errand_reply(request, code);
            return Ok(());
        }
        self.client.unanswered = self.client.unanswered.saturating_sub(1);
        if code == Code::Ok {
            self.world.uplinks.answered += 1;
            self.world.record(payload);
        } else {
            self.world.uplinks.refused += 1;
            self.world.uplinks.limited += u64::from(code == Code::Limited);
        }
        self.uplink(1);
        Ok(())
    }

    /// The answer to a LEAVE, or to a JOIN that is refused.
    fn errand_reply(&mut self, request: u32, code: Code) {
        let joining = request as usize <= self.memberships.len();
        let errands = &mut self.world.errands;
        errands.unanswered = errands.unanswered.saturating_sub(1);
        if code == Code::Ok && !joining {
            errands.left += 1;
        } else {
            errands.refused += 1;
            let what = if joining { "JOIN" } else { "LEAVE" };
            self.world.fault(format!("a {what} is refused: {}", code.name()));
        }
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

/// A client has all that it asked for.
pub fn ready(number: usize, client: &mut Client, world: &mut World) {
    client.phase = Phase::Ready;
    client.tries = 0;
    world.counts.here += 1;
    world.counts.in_flight = world.counts.in_flight.saturating_sub(1);
    let took_us = us_of(world.now_ns).wrapping_sub(client.begun_us);
    world.timings.connect.saturating_record(took_us.into());
    if std::mem::replace(&mut client.known, true) {
        world.counts.reconnected += 1;
        return;
    }
    world.counts.ready += 1;
    let World { plan, rooms, .. } = world;
    plan.rooms.each(plan.k(number), |place| {
        if let Some(room) = place.book {
            rooms[room].ready += 1;
        }
    });
}

/// A moment in microseconds of a clock that turns over after 71 minutes.
pub fn us_of(at_ns: u64) -> u32 {
    (at_ns / 1000) as u32
}

/// Refuses numbers that no room can have, so that nobody behind this has to count so far.
fn possible(seq: u64) -> Result<(), Fault> {
    if seq > SEQ_MAX { Err(too_high(seq)) } else { Ok(()) }
}

#[cold]
fn too_high(seq: u64) -> Fault {
    format!("the gateway counts up to {seq}, and no room can have said so much")
}

#[cold]
fn too_short() -> Fault {
    "the gateway sends a numbered frame that is too short".to_owned()
}

fn protocol_text(error: &DecodeError) -> Fault {
    format!("the gateway breaks the protocol: {error}")
}
