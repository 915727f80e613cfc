//! All clients of the network thread: events in, sends and closes out.

use std::io;
use std::sync::Arc;

use barrage_sys::{ConnId, Event, Ring, SendSlice};
use barrage_wire::ClientFrame;
use barrage_wire::ws::{HandshakeError, parse_response, write_request};

use crate::clock::SECOND_NS;
use crate::ledger::Membership;
use crate::plan::{Plan, Transport};
use crate::session::{Client, Phase, Rare, Session, errand_frames, first_frames, ws_key};
use crate::shared::Errand;
use crate::stream::{Fault, feed_tcp, feed_ws};
use crate::world::World;

/// Where a WebSocket is asked for.
const WS_PATH: &str = "/";
/// Joins and leaves that may be unanswered at any time, unless one client alone has more.
const ERRANDS_UNANSWERED_MAX: u64 = 8192;
/// Marks a slot without a client.
const NOBODY: u32 = u32::MAX;

/// The clients, by the order they were connected in.
pub struct Fleet {
    clients: Vec<Client>,
    /// As many per client as the plan has rooms.
    memberships: Vec<Membership>,
    /// Client numbers by ring and slot.
    by_slot: Vec<Vec<u32>>,
    /// What they share.
    pub world: World,
    sends: Vec<(ConnId, SendSlice)>,
    closes: Vec<ConnId>,
    /// The same ping for everybody.
    ping: SendSlice,
    ping_next: usize,
    /// Ready clients that have gone knew the fate of so many messages.
    gone_reached: u64,
    /// One unfinished state to lend out, so that whole frames allocate nothing.
    spare: Option<Box<Rare>>,
}

impl Fleet {
    /// No clients yet.
    pub fn new(plan: Arc<Plan>) -> Self {
        let clients = plan.clients as usize;
        let mut ping = Vec::new();
        plan.transport.put(&mut ping, &ClientFrame::Ping { nonce: 0 }.to_vec());
        Self {
            clients: Vec::with_capacity(clients),
            memberships: vec![Membership::default(); clients * plan.rooms.len()],
            by_slot: Vec::new(),
            world: World::new(plan),
            sends: Vec::new(),
            closes: Vec::new(),
            ping: SendSlice::from_vec(ping),
            ping_next: 0,
            gone_reached: 0,
            spare: None,
        }
    }

    /// Clients that have a connection, or had one.
    pub fn begun(&self) -> usize {
        self.clients.len()
    }

    /// Takes a connection that is being made.
    pub fn add(&mut self, conn: ConnId) {
        let number = self.clients.len() as u32;
        while self.by_slot.len() <= conn.ring() {
            self.by_slot.push(Vec::new());
        }
        let slots = &mut self.by_slot[conn.ring()];
        if slots.len() <= conn.slot() {
            slots.resize(conn.slot() + 1, NOBODY);
        }
        slots[conn.slot()] = number;
        self.clients.push(Client {
            conn,
            rare: None,
            said_s: 0,
            phase: Phase::Connecting,
            sending: false,
            unanswered: 0,
        });
    }

    /// The client of a connection; none when the slot has another one by now.
    #[inline]
    fn number(&self, conn: ConnId) -> Option<usize> {
        let number = *self.by_slot.get(conn.ring())?.get(conn.slot())? as usize;
        (self.clients.get(number)?.conn == conn).then_some(number)
    }

    /// Handles what has happened.
    #[inline]
    pub fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Received { conn, bytes } => self.received(conn, bytes),
            Event::Sent { conn, slice, result } => self.sent(conn, &slice, result),
            Event::Connected { conn } => self.connected(conn),
            Event::Ended { conn, errno } => self.ended(conn, errno),
            // Nobody connects to a load generator, and a closed connection was forgotten before.
            Event::Accepted { .. } | Event::Closed { .. } => {}
        }
    }

    fn connected(&mut self, conn: ConnId) {
        let Some(number) = self.number(conn) else { return };
        match self.world.plan.transport {
            Transport::Tcp => self.hello(number),
            Transport::Ws => {
                let host = self.world.plan.target.to_string();
                let mut request = Vec::with_capacity(256);
                write_request(&host, WS_PATH, ws_key(number as u32), &mut request);
                self.clients[number].phase = Phase::Handshake;
                self.send(number, SendSlice::from_vec(request));
            }
        }
    }

    fn hello(&mut self, number: usize) {
        let frames = first_frames(&self.world.plan, number as u32);
        self.clients[number].phase = Phase::Hello;
        self.say(number, &frames);
    }

    fn received(&mut self, conn: ConnId, bytes: &mut [u8]) {
        let Some(number) = self.number(conn) else { return };
        if self.clients[number].phase == Phase::Gone {
            return;
        }
        self.world.received_bytes += bytes.len() as u64;
        let mut rare = self.clients[number].rare.take().or_else(|| self.spare.take());
        let rare_now = rare.get_or_insert_default();
        let fed = self.feed(number, rare_now, bytes);
        if rare_now.is_empty() && self.spare.is_none() {
            self.spare = rare;
        } else if !rare_now.is_empty() {
            self.clients[number].rare = rare;
        }
        match fed {
            Ok(()) => self.answer(number),
            Err(fault) => self.lose(number, fault),
        }
    }

    /// Hands received bytes to the client's session, after the handshake if there is one.
    #[inline]
    fn feed(&mut self, number: usize, rare: &mut Rare, bytes: &mut [u8]) -> Result<(), Fault> {
        let mut bytes = bytes;
        let mut rest;
        if self.clients[number].phase == Phase::Handshake {
            rare.partial.extend_from_slice(bytes);
            let parsed = parse_response(&rare.partial, ws_key(number as u32));
            let Some(used) = parsed.map_err(handshake_text)? else { return Ok(()) };
            rest = rare.partial.split_off(used);
            rare.partial.clear();
            bytes = &mut rest[..];
            self.hello(number);
        }
        let rooms = self.world.plan.rooms.len();
        let transport = self.world.plan.transport;
        let mut session = Session {
            number,
            client: &mut self.clients[number],
            memberships: &mut self.memberships[number * rooms..][..rooms],
            world: &mut self.world,
        };
        match transport {
            Transport::Tcp => feed_tcp(&mut rare.partial, bytes, &mut session),
            Transport::Ws => feed_ws(&mut rare.partial, &mut rare.inbound, bytes, &mut session),
        }
    }

    /// Sends what the session has left to be said.
    #[inline]
    fn answer(&mut self, number: usize) {
        if !self.world.say_raw.is_empty() {
            let raw = std::mem::take(&mut self.world.say_raw);
            self.write(number, raw);
        }
        if !self.world.say.is_empty() {
            let mut frames = std::mem::take(&mut self.world.say);
            self.say(number, &frames);
            frames.clear();
            self.world.say = frames;
        }
    }

    fn say(&mut self, number: usize, frames: &[u8]) {
        let mut bytes = Vec::with_capacity(frames.len() + 16);
        self.world.plan.transport.put(&mut bytes, frames);
        self.write(number, bytes);
    }

    fn write(&mut self, number: usize, bytes: Vec<u8>) {
        let client = &mut self.clients[number];
        if client.sending {
            client.rare.get_or_insert_default().outgoing.extend_from_slice(&bytes);
        } else {
            self.send(number, SendSlice::from_vec(bytes));
        }
    }

    fn send(&mut self, number: usize, slice: SendSlice) {
        let client = &mut self.clients[number];
        client.sending = true;
        client.said_s = (self.world.now_ns / SECOND_NS) as u32;
        self.sends.push((client.conn, slice));
    }

    fn sent(&mut self, conn: ConnId, slice: &SendSlice, result: Result<usize, i32>) {
        let Some(number) = self.number(conn) else { return };
        let client = &mut self.clients[number];
        client.sending = false;
        match result {
            _ if client.phase == Phase::Gone => {}
            Ok(count) if count < slice.len() => self.send(number, slice.skip(count)),
            Ok(_) => {
                let Some(rare) = &mut client.rare else { return };
                let outgoing = std::mem::take(&mut rare.outgoing);
                if rare.is_empty() {
                    client.rare = None;
                }
                if !outgoing.is_empty() {
                    self.send(number, SendSlice::from_vec(outgoing));
                }
            }
            Err(errno) => self.lose(number, ended_text(errno)),
        }
    }

    fn ended(&mut self, conn: ConnId, errno: i32) {
        if let Some(number) = self.number(conn) {
            self.lose(number, ended_text(errno));
        }
    }

    /// Counts a connection that could not even be begun.
    pub fn refuse(&mut self, why: String) {
        self.world.counts.failed += 1;
        self.world.fault(why);
    }

    /// Gives a client up and closes its connection.
    fn lose(&mut self, number: usize, why: String) {
        self.world.say.clear();
        self.world.say_raw.clear();
        let client = &mut self.clients[number];
        let phase = std::mem::replace(&mut client.phase, Phase::Gone);
        client.rare = None;
        match phase {
            Phase::Gone => return,
            Phase::Ready => {
                self.world.counts.lost += 1;
                self.world.uplinks.disconnected += u64::from(client.unanswered);
                self.gone_reached += self.reached(number);
            }
            Phase::Connecting | Phase::Handshake | Phase::Hello | Phase::Welcomed => {
                self.world.counts.failed += 1;
            }
        }
        self.closes.push(self.clients[number].conn);
        self.world.fault(why);
    }

    /// Messages of the room that matters whose fate client `number` knows.
    fn reached(&self, number: usize) -> u64 {
        let head = self.world.room_of(number).map_or(0, |room| self.world.rooms[room].head);
        self.place(number).map_or(0, |place| place.reached().saturating_sub(head))
    }

    fn place(&self, number: usize) -> Option<&Membership> {
        let rooms = self.world.plan.rooms.len();
        self.memberships.get((number * rooms + rooms).checked_sub(1)?)
    }

    /// Messages, in all rooms together, whose fate is known at every ready client of their room that is
    /// left, on average. A client hears of one room in so many.
    pub fn progress(&self) -> u64 {
        let left = self.world.counts.ready - self.world.counts.lost;
        let known = self.world.tally.accounted().saturating_sub(self.gone_reached);
        let rooms = self.world.plan.rooms.first().map_or(1, |rooms| rooms.count() as u64);
        known.saturating_mul(rooms).checked_div(left).unwrap_or(0)
    }

    /// Lets every ready client say its first uplinks.
    pub fn begin_uplinks(&mut self) {
        let Some(window) = self.world.plan.uplinks.map(|uplinks| uplinks.window) else { return };
        for number in 0..self.clients.len() {
            if self.clients[number].phase == Phase::Ready {
                let (client, world) = (&mut self.clients[number], &mut self.world);
                Session { number, client, memberships: &mut [], world }.uplink(window);
                self.answer(number);
            }
        }
    }

    /// Sends all clients to join their rooms, or to leave them: a few at a time.
    pub fn run_errand(&mut self, errand: Errand) {
        if self.world.errands.now != Some(errand) {
            let errands = &mut self.world.errands;
            (errands.now, errands.next, errands.unanswered) = (Some(errand), 0, 0);
        }
        let per_client = self.world.plan.rooms.len() as u64;
        while let number = self.world.errands.next
            && number < self.clients.len()
        {
            let unanswered = self.world.errands.unanswered;
            if unanswered > 0 && unanswered + per_client > ERRANDS_UNANSWERED_MAX {
                return;
            }
            self.world.errands.next += 1;
            if self.clients[number].phase == Phase::Ready {
                let mut frames = Vec::new();
                errand_frames(&self.world.plan, number as u32, errand, &mut frames);
                self.world.errands.unanswered += per_client;
                self.say(number, &frames);
            }
        }
    }

    /// Pings up to `count` clients' turns: each that has been silent for long enough.
    pub fn ping_some(&mut self, count: usize) {
        let now_s = (self.world.now_ns / SECOND_NS) as u32;
        let silence_s = u32::from(self.world.heartbeat_s);
        if silence_s == 0 || self.clients.is_empty() {
            return;
        }
        for _ in 0..count.min(self.clients.len()) {
            self.ping_next = (self.ping_next + 1) % self.clients.len();
            let client = &self.clients[self.ping_next];
            let silent = now_s.saturating_sub(client.said_s) >= silence_s;
            if silent && client.phase == Phase::Ready && !client.sending {
                self.send(self.ping_next, self.ping.clone());
            }
        }
    }

    /// Whether every client that is left knows the fate of every message up to the last one of its
    /// room, and the answer to each of its uplinks.
    pub fn is_complete(&self, last_seqs: &[u64]) -> bool {
        self.clients.iter().enumerate().all(|(number, client)| {
            let last = last_of(&self.world, number, last_seqs);
            let settled = self.place(number).is_none_or(|place| place.reached() >= last);
            client.phase != Phase::Ready || (settled && client.unanswered == 0)
        })
    }

    /// Closes the books: nothing more will come.
    pub fn finish(&mut self, last_seqs: &[u64]) {
        let rooms = self.world.plan.rooms.len();
        if rooms == 0 {
            return;
        }
        let places = self.memberships.chunks_exact_mut(rooms);
        for ((number, client), places) in self.clients.iter().enumerate().zip(places) {
            let last = last_of(&self.world, number, last_seqs);
            if let Some(place) = places.last_mut() {
                place.finish(last, client.phase == Phase::Ready, &mut self.world.tally);
            }
        }
    }

    /// Hands over what is to be sent and closed.
    pub fn flush(&mut self, ring: &mut impl Ring) {
        for (conn, slice) in self.sends.drain(..) {
            ring.send(conn, slice);
        }
        for conn in self.closes.drain(..) {
            ring.close(conn);
        }
    }
}

/// The last message of client `number`'s room; 0 when nothing was published there.
fn last_of(world: &World, number: usize, last_seqs: &[u64]) -> u64 {
    world.room_of(number).and_then(|room| last_seqs.get(room)).copied().unwrap_or(0)
}

fn handshake_text(error: HandshakeError) -> String {
    match error {
        HandshakeError::Malformed => {
            "the answer is not HTTP, so this is no WebSocket listener".to_owned()
        }
        error => format!("the WebSocket handshake fails: {error}"),
    }
}

fn ended_text(errno: i32) -> String {
    match errno {
        0 => "the gateway closed the connection without a reason".to_owned(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}
