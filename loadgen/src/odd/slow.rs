//! A slow reader.

use std::io;

use barrage_wire::client::{Cursor, Platform};
use barrage_wire::limits::PROTOCOL_VERSION;
use barrage_wire::server::CloseReason;
use barrage_wire::{ClientFrame, List, RawFrame, ServerFrame, Text};
use rustix::event::PollFlags;

use super::World;
use super::link::Link;
use crate::clock::SECOND_NS;
use crate::ledger::{Membership, Tally};
use crate::scenario::layout::Layout;
use crate::scenario::{Scenario, SlowReaders};
use crate::stream::{Control, Fault, Sink, feed_tcp};

/// How long it stays away after it was thrown out.
const AWAY_NS: u64 = SECOND_NS / 2;
/// The same once nothing more is published.
const AWAY_AT_END_NS: u64 = SECOND_NS / 20;
/// It gives up when it could not get ready so often in a row.
const TRIES_MAX: u32 = 10;
/// It says something so often, so that it is slow and not idle.
const PING_NS: u64 = 30 * SECOND_NS;
/// It reads so often in a second, unless that were less than a byte.
const READS_PER_S: u64 = 20;
/// When nothing has come for so long at the end, nothing more is on its way.
const QUIET_NS: u64 = SECOND_NS;
/// How a connection ends without a CLOSE.
const NO_WORD: &str = "ended by the gateway without a word";

/// One room of a slow reader.
struct Seat {
    /// By its place in the scenario.
    room: u32,
    id: u64,
    place: Membership,
}

/// A client who reads slowly.
pub(super) struct Slow {
    k: u32,
    rate: SlowReaders,
    seats: Vec<Seat>,
    link: Option<Link>,
    /// When to connect, if it is not.
    back_at_ns: u64,
    partial: Vec<u8>,
    welcomed: bool,
    ready: bool,
    was_ready: bool,
    /// Tries in a row that did not get ready.
    tries: u32,
    /// Why the gateway closes the connection, when it has said so.
    closed: Option<CloseReason>,
    /// Bytes that it may read now.
    may_read: u64,
    /// Up to when that was reckoned.
    reckoned_ns: u64,
    heard_ns: u64,
    said_ns: u64,
}

impl Slow {
    /// Client `k`, the `nth` of its sort.
    pub fn new(k: u32, nth: u32, scenario: &Scenario, layout: &Layout) -> Self {
        let rate = scenario.clients.slow.expect("slow readers come from a scenario that has them");
        let mut seats = Vec::new();
        layout.rooms_of(k, |room| {
            let (id, place) = (layout.id(room), Membership::default());
            seats.push(Seat { room, id, place });
        });
        Self {
            k,
            rate,
            seats,
            link: None,
            // One millisecond apart, so that they do not all come at once.
            back_at_ns: u64::from(nth) * SECOND_NS / 1000 + crate::clock::now_ns(),
            partial: Vec::new(),
            welcomed: false,
            ready: false,
            was_ready: false,
            tries: 0,
            closed: None,
            may_read: 0,
            reckoned_ns: 0,
            heard_ns: 0,
            said_ns: 0,
        }
    }

    /// The connection and what to wait for on it.
    pub fn waits_for(&self, now_ns: u64, ending: bool) -> Option<(&Link, PollFlags)> {
        let link = self.link.as_ref()?;
        let flags = link.waits_for(ending || self.allowance(now_ns) >= self.portion());
        (!flags.is_empty()).then_some((link, flags))
    }

    /// Bytes that are worth reading.
    fn portion(&self) -> u64 {
        (u64::from(self.rate.bytes_per_s) / READS_PER_S).max(1)
    }

    fn allowance(&self, now_ns: u64) -> u64 {
        let elapsed_ns = now_ns.saturating_sub(self.reckoned_ns);
        let earned = u128::from(elapsed_ns) * u128::from(self.rate.bytes_per_s);
        let earned = (earned / u128::from(SECOND_NS)) as u64;
        // What was not read in time is not made up for: it would not be slow then.
        (self.may_read + earned).min(2 * self.portion())
    }

    /// Does what is due, and what has become possible.
    pub fn turn(&mut self, happened: PollFlags, world: &mut World) {
        if self.tries >= TRIES_MAX {
            return;
        }
        if self.link.is_none() {
            if world.now_ns >= self.back_at_ns {
                self.connect(world);
            }
            return;
        }
        let went = self.progress(happened, world);
        if let Err(why) = went {
            self.ended(&why, world);
        }
    }

    fn connect(&mut self, world: &mut World) {
        match world.connect(self.k, Some(self.rate.buffer_bytes)) {
            Ok(link) => {
                self.link = Some(link);
                self.partial.clear();
                (self.welcomed, self.ready, self.closed) = (false, false, None);
                (self.may_read, self.reckoned_ns) = (0, world.now_ns);
                (self.heard_ns, self.said_ns) = (world.now_ns, world.now_ns);
            }
            Err(error) => self.ended(&format!("cannot connect: {error}"), world),
        }
    }

    fn progress(&mut self, happened: PollFlags, world: &mut World) -> Result<(), Fault> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let broken = |error: io::Error| format!("the connection is broken: {error}");
        let made = link.progress(happened).map_err(broken)?;
        if made || world.now_ns >= self.said_ns + PING_NS && link.unsent_bytes() == 0 {
            self.said_ns = world.now_ns;
            let says = match made {
                true => self.first_frames(world),
                false => ClientFrame::Ping { nonce: 0 }.to_vec(),
            };
            self.link.as_mut().map_or(Ok(()), |link| link.say(&says)).map_err(broken)?;
        }
        // A slow reader does not see that the connection has ended before it has read what it has.
        if happened.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read(world)?;
        }
        Ok(())
    }

    fn read(&mut self, world: &mut World) -> Result<(), Fault> {
        let Some(mut link) = self.link.take() else { return Ok(()) };
        let mut buffer = std::mem::take(&mut world.buffer);
        let allowed = match world.ending {
            Some(_) => buffer.len(),
            None => buffer.len().min(self.allowance(world.now_ns).max(1) as usize),
        };
        let result = link.receive(&mut buffer[..allowed]);
        self.link = Some(link);
        let heard = match result {
            Ok(None) => Ok(()),
            Ok(Some(0)) => Err(match self.closed {
                Some(reason) => format!("closed by the gateway: {}", reason.name()),
                None => NO_WORD.to_owned(),
            }),
            Ok(Some(count)) => {
                self.may_read = self.allowance(world.now_ns).saturating_sub(count as u64);
                self.reckoned_ns = world.now_ns;
                self.heard_ns = world.now_ns;
                world.slow.counts.received_bytes += count as u64;
                let mut partial = std::mem::take(&mut self.partial);
                let heard =
                    feed_tcp(&mut partial, &buffer[..count], &mut Ears { slow: self, world });
                self.partial = partial;
                heard
            }
            Err(error) => Err(format!("the connection is broken: {error}")),
        };
        world.buffer = buffer;
        heard
    }

    /// HELLO, and a JOIN for each room from where it was.
    fn first_frames(&self, world: &World) -> Vec<u8> {
        let mut out = Vec::new();
        let hello = ClientFrame::Hello {
            version: PROTOCOL_VERSION,
            app: world.scenario.target.app,
            device: self.k.into(),
            platform: Platform::Bot,
            resume: List::new(&[]),
            token: Text(&world.token(self.k)),
        };
        hello.encode(&mut out);
        for (request, seat) in (1..).zip(&self.seats) {
            let epoch = world.epochs.of(seat.place.epoch());
            let cursor = Cursor { room: seat.id, epoch, seq: seat.place.reached() };
            ClientFrame::Join { request, cursor }.encode(&mut out);
        }
        out
    }

    /// The connection has ended; it comes back.
    fn ended(&mut self, why: &str, world: &mut World) {
        self.link = None;
        self.seats.iter_mut().for_each(|seat| seat.place.leave());
        world.slow.fault(why.to_owned());
        let away_ns = if world.ending.is_some() { AWAY_AT_END_NS } else { AWAY_NS };
        self.back_at_ns = world.now_ns + away_ns;
        if self.ready {
            self.ready = false;
            self.tries = 0;
            world.slow.ready -= 1;
            // Who reads too slowly has asked for it. One whose socket has been full for long cannot
            // even be told why.
            let asked = match self.closed {
                Some(reason) => reason == CloseReason::SlowReader,
                None => why == NO_WORD,
            };
            world.slow.counts.dropped += u64::from(asked);
            world.slow.counts.lost += u64::from(!asked);
            return;
        }
        self.tries += 1;
        if self.tries == TRIES_MAX {
            world.slow.counts.failed += 1;
        }
    }

    /// Whether everything has come that was published.
    pub fn is_done(&self, world: &World) -> bool {
        let Some((last_seqs, _)) = &world.ending else { return false };
        let last = |seat: &Seat| last_seqs.get(seat.room as usize).copied().unwrap_or(0);
        self.tries >= TRIES_MAX
            || self.ready && self.seats.iter().all(|seat| seat.place.reached() >= last(seat))
    }

    /// Nothing more will come: what has not is put into the books.
    pub fn finish(&mut self, world: &mut World) {
        let Some((last_seqs, _)) = &world.ending else { return };
        // What is still on its way to a reader who has no time left is not missing unexplained.
        let heard_all = self.ready && world.now_ns > self.heard_ns + QUIET_NS;
        for seat in &mut self.seats {
            let last = last_seqs.get(seat.room as usize).copied().unwrap_or(0);
            seat.place.finish(last, heard_all, &mut world.tally);
        }
    }

    fn joined(&mut self, request: u32, alias: u32, epoch: u32, head: u64) -> Result<(), Fault> {
        let seat = (request as usize).checked_sub(1).and_then(|at| self.seats.get_mut(at));
        let Some(seat) = seat else {
            return Err(format!("the gateway answers a JOIN that was not asked: {request}"));
        };
        match seat.place.known() {
            true => seat.place.go_on(alias),
            false => seat.place.join_in(alias, epoch, head),
        }
        Ok(())
    }

    fn check_ready(&mut self, world: &mut World) {
        if self.ready || !self.welcomed || !self.seats.iter().all(|seat| seat.place.joined()) {
            return;
        }
        (self.ready, self.tries) = (true, 0);
        world.slow.ready += 1;
        match std::mem::replace(&mut self.was_ready, true) {
            false => world.slow.counts.connected += 1,
            true => world.slow.counts.reconnected += 1,
        }
    }
}

/// A slow reader while it hears.
struct Ears<'a> {
    slow: &'a mut Slow,
    world: &'a mut World,
}

impl Sink for Ears<'_> {
    fn frame(&mut self, frame: RawFrame<'_>) -> Result<(), Fault> {
        let decoded = ServerFrame::decode(frame)
            .map_err(|error| format!("the gateway breaks the protocol: {error}"))?;
        match decoded {
            ServerFrame::Message { alias, seq, .. }
            | ServerFrame::Combo { alias, seq, .. }
            | ServerFrame::State { alias, seq, .. } => self.place(alias, |seat, tally| {
                seat.place.message(seq, tally);
            }),
            ServerFrame::Shed { alias, first, last, counts } => {
                let count = counts.iter().copied().map(u64::from).sum();
                self.place(alias, |seat, tally| seat.place.shed(first, last, count, tally));
            }
            ServerFrame::Reset { alias, epoch, head, .. } => {
                let epoch = self.world.epochs.number(epoch);
                self.place(alias, |seat, tally| seat.place.reset_in(epoch, head, tally));
            }
            ServerFrame::Welcome { .. } => {
                self.slow.welcomed = true;
                self.slow.check_ready(self.world);
            }
            ServerFrame::Joined { request, alias, epoch, head, .. } => {
                let epoch = self.world.epochs.number(epoch);
                self.slow.joined(request, alias, epoch, head)?;
                self.slow.check_ready(self.world);
            }
            ServerFrame::Reply { code, .. } => {
                return Err(format!("the gateway refuses a JOIN: {}", code.name()));
            }
            ServerFrame::Close { reason, .. } => self.slow.closed = Some(reason),
            ServerFrame::Snapshot { .. }
            | ServerFrame::Past { .. }
            | ServerFrame::PastEnd { .. }
            | ServerFrame::Redirect { .. }
            | ServerFrame::Direct { .. }
            | ServerFrame::Pong { .. } => {}
        }
        Ok(())
    }

    fn control(&mut self, _: Control<'_>) {}
}

impl Ears<'_> {
    fn place(&mut self, alias: u32, act: impl FnOnce(&mut Seat, &mut Tally)) {
        match self.slow.seats.iter_mut().find(|seat| seat.place.is(alias)) {
            Some(seat) => act(seat, &mut self.world.tally),
            None => self.world.tally.stray += 1,
        }
    }
}
