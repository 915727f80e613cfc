//! All clients of the network thread: events in, sends and closes out.

mod away;
mod foreign;
mod survey;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use barrage_sys::{ConnId, Event, KernelRing, Ring, SendSlice};
use barrage_wire::ClientFrame;
use barrage_wire::limits::WS_MESSAGE_BYTES_MAX;
use barrage_wire::ws::{HandshakeError, parse_response, write_request};

use crate::clock::SECOND_NS;
use crate::dialect::Dialect;
use crate::fleet::away::Away;
use crate::fleet::foreign::Foreign;
use crate::fleet::survey::Survey;
use crate::ledger::Membership;
use crate::plan::{Plan, Transport, UPLINK_BYTES_MAX};
use crate::session::{Client, Phase, Rare, Session, errand_frames, first_frames, us_of, ws_key};
use crate::shared::Errand;
use crate::stream::{Fault, feed_tcp, feed_ws};
use crate::world::World;

/// Where a WebSocket is asked for.
const WS_PATH: &str = "/";
/// Joins and leaves that may be unanswered at any time, unless one client alone has more.
const ERRANDS_UNANSWERED_MAX: u64 = 8192;
/// A connection gets ready within this, or is given up.
const READY_US_MAX: u32 = 15_000_000;
/// What may wait to be sent behind the send in flight: far more than a target asks for that reads
/// the answers.
const OUTGOING_BYTES_MAX: usize = 2 * WS_MESSAGE_BYTES_MAX;
const _: () = assert!(UPLINK_BYTES_MAX < OUTGOING_BYTES_MAX, "all uplinks of a client may wait");
/// Marks a slot without a client.
const NOBODY: u32 = u32::MAX;
/// The connection of a client that never had one.
const NOWHERE: ConnId = ConnId { index: u32::MAX, generation: u32::MAX };

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
    resets: Vec<ConnId>,
    /// The same pings for everybody: of TCP and of WebSocket.
    pings: [SendSlice; 2],
    ping_next: usize,
    /// What the target speaks if it is not Barrage.
    dialect: Option<Dialect>,
    /// One unfinished state to lend out, so that whole frames allocate nothing.
    spare: Option<Box<Rare>>,
    /// Those who have gone and come back.
    away: Away,
    /// How far the rooms are.
    survey: Survey,
    per_client: usize,
}

impl Fleet {
    /// No clients yet.
    pub fn new(plan: Arc<Plan>) -> Self {
        let clients = plan.clients as usize;
        let per_client = plan.rooms.per_client();
        let dialect = plan.dialect.clone();
        let keep_alive = dialect.as_ref().map(Dialect::keep_alive);
        let ping = ClientFrame::Ping { nonce: 0 }.to_vec();
        let pings = [plan.transport, Transport::Ws].map(|transport| {
            let mut bytes = Vec::new();
            match keep_alive {
                Some(keep_alive) => bytes.extend(keep_alive.iter().flat_map(|keep| keep.bytes)),
                None => transport.put(&mut bytes, &ping),
            }
            SendSlice::from_vec(bytes)
        });
        let mut world = World::new(plan);
        if let Some(Some(keep_alive)) = keep_alive {
            world.heartbeat_s = keep_alive.every.as_secs() as u16;
        }
        Self {
            clients: Vec::with_capacity(clients),
            memberships: vec![Membership::default(); clients * per_client],
            by_slot: Vec::new(),
            away: Away::new(&world.plan),
            survey: Survey::new(world.plan.rooms.count()),
            world,
            sends: Vec::new(),
            closes: Vec::new(),
            resets: Vec::new(),
            pings,
            ping_next: 0,
            dialect,
            spare: None,
            per_client,
        }
    }

    /// Clients that have a connection, or had one, or could not get one.
    pub fn begun(&self) -> usize {
        self.clients.len()
    }

    /// Bytes of user memory of one client, with everything that is kept for it.
    pub fn bytes_per_client(&self) -> u64 {
        let slots: usize = self.by_slot.iter().map(Vec::capacity).sum();
        let rares = self.clients.iter().filter_map(|client| client.rare.as_ref());
        let rare: usize = rares.map(|rare| size_of::<Rare>() + rare.bytes()).sum();
        let bytes = self.clients.capacity() * size_of::<Client>()
            + self.memberships.capacity() * size_of::<Membership>()
            + slots * size_of::<u32>()
            + rare
            + self.away.bytes()
            + self.survey.bytes()
            + self.world.epochs.bytes();
        bytes.div_ceil(self.clients.capacity().max(1)) as u64
    }

    /// Takes the connection of a new client, or none when there could not be one.
    pub fn add(&mut self, made: Result<ConnId, String>) {
        let number = self.clients.len();
        let k = self.world.plan.k(number);
        let mut client = Client::new(NOWHERE);
        client.ws = self.world.plan.speaks_ws(k);
        let own = (number as u32, 0)..=(number as u32, u32::MAX);
        client.watches = self.world.watchers.range(own).next().is_some();
        client.phase = Phase::Gone;
        self.clients.push(client);
        match made {
            Ok(conn) => self.take(number, conn),
            Err(why) => {
                self.world.counts.failed += 1;
                self.world.fault(why);
            }
        }
    }

    /// Gives client `number` a connection that is being made.
    fn take(&mut self, number: usize, conn: ConnId) {
        while self.by_slot.len() <= conn.ring() {
            self.by_slot.push(Vec::new());
        }
        let slots = &mut self.by_slot[conn.ring()];
        if slots.len() <= conn.slot() {
            slots.resize(conn.slot() + 1, NOBODY);
        }
        slots[conn.slot()] = number as u32;
        let client = &mut self.clients[number];
        client.conn = conn;
        client.phase = Phase::Connecting;
        client.sending = false;
        client.begun_us = us_of(self.world.now_ns);
        client.dialect = Default::default();
        self.world.counts.in_flight += 1;
    }

    /// Gives up whoever is not ready of the first `goal` clients, and those of them who have not
    /// begun.
    pub fn give_up(&mut self, goal: u64) {
        let why = "did not get ready in time";
        for number in 0..self.clients.len() {
            if self.clients[number].phase.in_flight() {
                self.lose(number, why.to_owned());
            }
        }
        while (self.clients.len() as u64) < goal {
            self.add(Err(why.to_owned()));
        }
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
        match self.clients[number].ws {
            false => {
                self.hello(number);
                self.answer(number);
            }
            true => {
                let host = self.world.plan.target_of(self.world.plan.k(number)).to_string();
                let mut request = Vec::with_capacity(256);
                write_request(&host, WS_PATH, ws_key(number as u32), &mut request);
                self.clients[number].phase = Phase::Handshake;
                self.send(number, SendSlice::from_vec(request));
            }
        }
    }

    /// Leaves to be said what a client begins with.
    fn hello(&mut self, number: usize) {
        self.clients[number].phase = Phase::Hello;
        let k = self.world.plan.k(number);
        if let Some(dialect) = &self.dialect {
            if let Some(place) = self.world.plan.rooms.nth(k, 0) {
                dialect.hello(k, place.id, &mut self.world.say_raw);
            }
            return;
        }
        let places = &self.memberships[number * self.per_client..][..self.per_client];
        let frames = first_frames(&self.world, k, &self.clients[number], places);
        self.world.say.extend_from_slice(&frames);
    }

    fn received(&mut self, conn: ConnId, bytes: &mut [u8]) {
        let Some(number) = self.number(conn) else { return };
        if matches!(self.clients[number].phase, Phase::Gone | Phase::Away) {
            return;
        }
        self.world.received_bytes += bytes.len() as u64;
        let mut rare = self.clients[number].rare.take().or_else(|| self.spare.take());
        let rare_now = rare.get_or_insert_default();
        let fed = self.feed(number, rare_now, bytes);
        let catches = !rare_now.catching.is_empty() || !self.world.catching.is_empty();
        if catches || self.clients[number].awaited {
            self.catch_up(number, &mut rare_now.catching);
        }
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
        let rooms = self.per_client;
        let memberships = &mut self.memberships[number * rooms..][..rooms];
        let (client, world) = (&mut self.clients[number], &mut self.world);
        if let Some(dialect) = &self.dialect {
            let mut state = client.dialect;
            let mut foreign = Foreign { number, client, memberships, world };
            let fed = dialect.feed(&mut state, &mut rare.partial, bytes, &mut foreign);
            self.clients[number].dialect = state;
            return fed;
        }
        let ws = client.ws;
        let mut session = Session { number, client, memberships, world };
        match ws {
            false => feed_tcp(&mut rare.partial, bytes, &mut session),
            true => feed_ws(&mut rare.partial, &mut rare.inbound, bytes, &mut session),
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
        self.world.plan.transport_of(self.clients[number].ws).put(&mut bytes, frames);
        self.write(number, bytes);
    }

    fn write(&mut self, number: usize, bytes: Vec<u8>) {
        let client = &mut self.clients[number];
        if !client.sending {
            return self.send(number, SendSlice::from_vec(bytes));
        }
        let outgoing = &mut client.rare.get_or_insert_default().outgoing;
        if outgoing.len() + bytes.len() > OUTGOING_BYTES_MAX {
            return self.lose(number, "the target asks and does not read the answers".to_owned());
        }
        outgoing.extend_from_slice(&bytes);
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
            _ if matches!(client.phase, Phase::Gone | Phase::Away) => {}
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
        let per_client = self.per_client as u64;
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
                errand_frames(&self.world.plan, self.world.plan.k(number), errand, &mut frames);
                self.world.errands.unanswered += per_client;
                self.say(number, &frames);
            }
        }
    }

    /// Pings up to `count` clients' turns: each that has been silent for long enough.
    pub fn ping_some(&mut self, count: usize) {
        let now_s = (self.world.now_ns / SECOND_NS) as u32;
        let silence_s = u32::from(self.world.heartbeat_s);
        let now_us = us_of(self.world.now_ns);
        for _ in 0..count.min(self.clients.len()) {
            self.ping_next = (self.ping_next + 1) % self.clients.len();
            let client = &self.clients[self.ping_next];
            if client.phase.in_flight() {
                let late = now_us.wrapping_sub(client.begun_us) > READY_US_MAX;
                if late && self.world.plan.returns {
                    self.lose(self.ping_next, "did not get ready in time".to_owned());
                }
                continue;
            }
            let silent = silence_s > 0 && now_s.saturating_sub(client.said_s) >= silence_s;
            if silent && client.phase == Phase::Ready && !client.sending {
                self.send(self.ping_next, self.pings[usize::from(client.ws)].clone());
            }
        }
    }

    /// Whether every client that is left, or on its way back, knows the fate of every message up to
    /// the last one of each of its rooms, and the answer to each of its uplinks.
    pub fn is_complete(&self, last_seqs: &[u64]) -> bool {
        self.away.is_empty()
            && self.clients.iter().enumerate().all(|(number, client)| match client.phase {
                Phase::Ready => client.unanswered == 0 && self.has_heard(number, last_seqs),
                Phase::Away | Phase::Gone => true,
                // Whoever has never been ready is the ramp's matter.
                Phase::Connecting | Phase::Handshake | Phase::Hello | Phase::Welcomed => {
                    !client.known
                }
            })
    }

    fn has_heard(&self, number: usize, last_seqs: &[u64]) -> bool {
        let (mut heard, floating) = (true, self.clients[number].floating);
        self.world.plan.rooms.each(self.world.plan.k(number), |place| {
            let member = &self.memberships[number * self.per_client + place.nth];
            let last = place.book.and_then(|room| last_seqs.get(room)).copied().unwrap_or(0);
            heard &= !member.known() || floating || member.reached() >= last;
        });
        heard
    }

    /// Closes the books: nothing more will come.
    pub fn finish(&mut self, last_seqs: &[u64]) {
        self.count_unreturned();
        let World { plan, tally, rooms, .. } = &mut self.world;
        for (number, client) in self.clients.iter().enumerate() {
            let places = &mut self.memberships[number * self.per_client..][..self.per_client];
            plan.rooms.each(plan.k(number), |place| {
                let Some(room) = place.book else { return };
                let last = last_seqs.get(room).copied().unwrap_or(0);
                let epoch = rooms[room].epoch;
                let connected = client.phase == Phase::Ready && !client.floating;
                places[place.nth].finish_in(epoch, last, connected, tally);
            });
        }
    }

    /// Hands over what is to be sent and closed.
    pub fn flush(&mut self, ring: &mut KernelRing) {
        for (conn, slice) in self.sends.drain(..) {
            ring.send(conn, slice);
        }
        for conn in self.closes.drain(..) {
            ring.close(conn);
        }
        for conn in self.resets.drain(..) {
            ring.reset(conn);
        }
    }
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
