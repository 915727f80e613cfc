//! A client who does what no client should.

use barrage_wire::client::{Cursor, Platform};
use barrage_wire::limits::PROTOCOL_VERSION;
use barrage_wire::server::CloseReason;
use barrage_wire::{ClientFrame, FRAME_HEADER_BYTES, List, RawFrame, ServerFrame, Tail, Text};
use rustix::event::PollFlags;

use super::World;
use super::link::Link;
use crate::clock::{SECOND_NS, seconds_ns};
use crate::scenario::{Misbehaving, Mischief};
use crate::stream::{Control, Fault, Sink, feed_tcp};

/// It ends a connection itself when the gateway has endured it for so long. A gateway gives 10
/// seconds to a HELLO and to a frame.
const ENDURED_NS: u64 = 20 * SECOND_NS;
/// How long it waits after a connection that could not be made.
const UNREACHABLE_NS: u64 = SECOND_NS;
/// Bytes of one act of garbage.
const GARBAGE_BYTES: u64 = 256;
/// Frames of one act of a flood.
const FLOOD_FRAMES: u32 = 2000;
/// A flood goes on when less than this waits to be sent: the gateway may not read it.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// It receives so often in a turn at most: a gateway that answers a flood as fast as it comes must not
/// keep the others waiting.
const RECEIVES_MAX: u32 = 16;
/// What one says in its own room, shorter than any message that is timed.
const CHATTER: &[u8] = b"spam";

/// A client who misbehaves.
pub(super) struct Rascal {
    k: u32,
    nth: u32,
    acts: u32,
    next_act_ns: u64,
    now: Option<Act>,
    had_connection: bool,
}

/// What it is doing.
struct Act {
    kind: Mischief,
    link: Link,
    partial: Vec<u8>,
    since_ns: u64,
    /// The alias of its own room, when it has joined that.
    alias: Option<u32>,
    closed: Option<CloseReason>,
    made: bool,
    welcomed: bool,
}

impl Rascal {
    /// Client `k`, the `nth` of its sort.
    pub fn new(k: u32, nth: u32) -> Self {
        let next_act_ns = crate::clock::now_ns() + u64::from(nth) * SECOND_NS / 1000;
        Self { k, nth, acts: 0, next_act_ns, now: None, had_connection: false }
    }

    /// The connection and what to wait for on it.
    pub fn waits_for(&self) -> Option<(&Link, PollFlags)> {
        self.now.as_ref().map(|act| (&act.link, act.link.waits_for(true)))
    }

    /// Does what is due, and hears what has come.
    pub fn turn(&mut self, happened: PollFlags, world: &mut World) {
        if self.now.is_none() {
            if world.now_ns >= self.next_act_ns {
                self.begin(world);
            }
            return;
        }
        match self.go_on(happened, world) {
            Ok(true) => {}
            Ok(false) => self.ended(None, world),
            Err(why) => self.ended(Some(&why), world),
        }
    }

    fn begin(&mut self, world: &mut World) {
        let Some(Misbehaving { kinds, .. }) = &world.scenario.clients.misbehaving else { return };
        let kind = kinds[(self.nth.wrapping_add(self.acts)) as usize % kinds.len()];
        match world.connect(self.k, None) {
            Ok(link) => {
                self.now = Some(Act::new(kind, link, world.now_ns));
            }
            Err(error) => self.unreachable(&error.to_string(), world),
        }
    }

    fn unreachable(&mut self, why: &str, world: &mut World) {
        world.rascals.fault(format!("cannot connect: {why}"));
        if !self.had_connection && self.acts == 0 {
            // Once only, though it goes on trying.
            self.acts = 1;
            world.rascals.counts.failed += 1;
        }
        self.next_act_ns = world.now_ns + UNREACHABLE_NS;
    }

    /// Says whether the connection is still there, or how it has ended.
    fn go_on(&mut self, happened: PollFlags, world: &mut World) -> Result<bool, String> {
        let Some(act) = &mut self.now else { return Ok(true) };
        let made = act.link.progress(happened).map_err(|error| format!("broken: {error}"))?;
        if made {
            act.made = true;
            match std::mem::replace(&mut self.had_connection, true) {
                false => world.rascals.counts.connected += 1,
                true => world.rascals.counts.reconnected += 1,
            }
            world.rascals.ready += 1;
        }
        if !act.made {
            return Ok(true);
        }
        if made || world.now_ns >= self.next_act_ns && repeats(act.kind) {
            self.acts = self.acts.wrapping_add(1);
            let rate = world.scenario.clients.misbehaving.as_ref().map_or(1.0, |m| m.acts_per_s);
            self.next_act_ns = world.now_ns + seconds_ns(1.0 / rate);
            world.rascals.fault(format!("acts: {}", name(act.kind)));
            act.perform(self.k, self.nth, made, world)?;
        }
        if happened.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            act.hear(world)?;
        }
        if act.welcomed && act.kind == Mischief::Reset {
            return Ok(false);
        }
        if world.now_ns >= act.since_ns + ENDURED_NS {
            return Err("endured until the client went".to_owned());
        }
        Ok(true)
    }

    /// The connection has ended; it comes back when the next act is due.
    fn ended(&mut self, why: Option<&str>, world: &mut World) {
        let Some(act) = self.now.take() else { return };
        let kind = name(act.kind);
        if !act.made {
            return self.unreachable(why.unwrap_or("refused"), world);
        }
        let how = match (act.closed, why) {
            (Some(reason), _) => format!("closed by the gateway: {}", reason.name()),
            (None, Some(why)) => why.to_owned(),
            (None, None) => match act.link.reset() {
                Ok(()) => "reset by the client".to_owned(),
                Err(error) => format!("cannot be reset: {error}"),
            },
        };
        world.rascals.fault(format!("{kind}: {how}"));
        world.rascals.counts.dropped += 1;
        world.rascals.ready -= 1;
        self.next_act_ns = self.next_act_ns.max(world.now_ns);
    }
}

/// Whether it does the same again while it is endured.
fn repeats(kind: Mischief) -> bool {
    match kind {
        Mischief::JoinFlood | Mischief::Flood => true,
        Mischief::Mute
        | Mischief::Garbage
        | Mischief::BadToken
        | Mischief::Huge
        | Mischief::Half
        | Mischief::Reset => false,
    }
}

fn name(kind: Mischief) -> &'static str {
    match kind {
        Mischief::Mute => "mute",
        Mischief::Garbage => "garbage",
        Mischief::BadToken => "bad-token",
        Mischief::Huge => "huge",
        Mischief::Half => "half",
        Mischief::JoinFlood => "join-flood",
        Mischief::Flood => "flood",
        Mischief::Reset => "reset",
    }
}

impl Act {
    fn new(kind: Mischief, link: Link, since_ns: u64) -> Self {
        let (alias, closed, made, welcomed) = (None, None, false, false);
        Self { kind, link, partial: Vec::new(), since_ns, alias, closed, made, welcomed }
    }

    /// Does it.
    fn perform(&mut self, k: u32, nth: u32, first: bool, world: &mut World) -> Result<(), String> {
        let rooms = &world.scenario.rooms;
        // Its own room, behind those of the scenario; there is one even behind the last of all ids.
        let room = rooms.first.wrapping_add(u64::from(rooms.count)).wrapping_add(nth.into()).max(1);
        let mut out = Vec::new();
        let cursor = Cursor { room, epoch: 0, seq: 0 };
        match self.kind {
            Mischief::Mute => {}
            Mischief::Garbage => {
                out.extend((0..GARBAGE_BYTES).map(|_| world.random.next() as u8));
            }
            Mischief::BadToken => hello(k, "nobody", world, &mut out),
            Mischief::Huge => {
                let mut header = ClientFrame::Ping { nonce: 0 }.to_vec();
                header.truncate(FRAME_HEADER_BYTES);
                header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
                out = header;
            }
            Mischief::Half => {
                hello(k, &world.token(k), world, &mut out);
                out.truncate(out.len() / 2);
            }
            Mischief::Reset => {
                hello(k, &world.token(k), world, &mut out);
                let ping = ClientFrame::Ping { nonce: 0 }.to_vec();
                out.extend_from_slice(&ping[..ping.len() / 2]);
            }
            Mischief::JoinFlood | Mischief::Flood => {
                if first {
                    hello(k, &world.token(k), world, &mut out);
                    ClientFrame::Join { request: 1, cursor }.encode(&mut out);
                }
                if self.link.unsent_bytes() < UNSENT_BYTES_MAX {
                    self.flood(room, &mut out);
                }
            }
        }
        self.link.say(&out).map_err(|error| format!("broken: {error}"))
    }

    /// One act of a flood.
    fn flood(&self, room: u64, out: &mut Vec<u8>) {
        let cursor = Cursor { room, epoch: 0, seq: 0 };
        for request in 2..2 + FLOOD_FRAMES / 2 {
            match (self.kind, self.alias) {
                (Mischief::JoinFlood, _) => {
                    ClientFrame::Leave { request, room }.encode(out);
                    ClientFrame::Join { request, cursor }.encode(out);
                }
                (_, Some(alias)) => {
                    let payload = Tail(CHATTER);
                    let category = crate::cli::CATEGORY_STREAM;
                    ClientFrame::Publish { request, alias, category, kind: 0, payload }.encode(out);
                    ClientFrame::Ping { nonce: request.into() }.encode(out);
                }
                (_, None) => ClientFrame::Ping { nonce: request.into() }.encode(out),
            }
        }
    }

    /// Hears why the gateway has had enough; an error says how the connection has ended.
    fn hear(&mut self, world: &mut World) -> Result<(), String> {
        for _ in 0..RECEIVES_MAX {
            match self.link.receive(&mut world.buffer) {
                Ok(None) => return Ok(()),
                Ok(Some(0)) => return Err("the gateway has ended the connection".to_owned()),
                Ok(Some(count)) => {
                    world.rascals.counts.received_bytes += count as u64;
                    let mut partial = std::mem::take(&mut self.partial);
                    let heard = feed_tcp(&mut partial, &world.buffer[..count], self);
                    self.partial = partial;
                    heard?;
                }
                Err(error) => return Err(format!("broken: {error}")),
            }
        }
        Ok(())
    }
}

impl Sink for Act {
    fn frame(&mut self, frame: RawFrame<'_>) -> Result<(), Fault> {
        let frame = ServerFrame::decode(frame)
            .map_err(|error| format!("the gateway breaks the protocol: {error}"))?;
        match frame {
            ServerFrame::Joined { alias, .. } => self.alias = Some(alias),
            ServerFrame::Close { reason, .. } => self.closed = Some(reason),
            ServerFrame::Welcome { .. } => self.welcomed = true,
            // What else it is told does not matter to it.
            ServerFrame::Message { .. }
            | ServerFrame::Combo { .. }
            | ServerFrame::State { .. }
            | ServerFrame::Shed { .. }
            | ServerFrame::Reset { .. }
            | ServerFrame::Reply { .. }
            | ServerFrame::Direct { .. }
            | ServerFrame::Redirect { .. }
            | ServerFrame::Snapshot { .. }
            | ServerFrame::Past { .. }
            | ServerFrame::PastEnd { .. }
            | ServerFrame::Pong { .. } => {}
        }
        Ok(())
    }

    fn control(&mut self, _: Control<'_>) {}
}

fn hello(k: u32, token: &str, world: &World, out: &mut Vec<u8>) {
    let hello = ClientFrame::Hello {
        version: PROTOCOL_VERSION,
        app: world.scenario.target.app,
        device: k.into(),
        platform: Platform::Bot,
        resume: List::new(&[]),
        token: Text(token),
    };
    hello.encode(out);
}
