//! One connection: what is known of the peer, and what is on its way to and from it.

use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr};

use barrage_sys::{ConnId, Peer, SLOT_BITS, SendSlice};
use barrage_wire::FRAME_HEADER_BYTES;
use barrage_wire::server::CLASSES;
use barrage_wire::upstream::PublishReply;
use barrage_wire::ws::{self, Inbound};
use bytes::Bytes;
use smallvec::SmallVec;

use barrage_router::RoomKey;

use crate::limits::SEND_BYTES_MAX;
use crate::mail::HistoryAsk;
use crate::room_log::Transport;
use crate::tickets::Tickets;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A client over TCP or WebSocket.
    Client(Transport),
    /// An upstream service.
    Upstream,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The slot is not in use.
    Free,
    /// The WebSocket handshake is not finished.
    Handshake,
    /// HELLO has not come.
    Hello,
    /// HELLO was answered.
    Open,
    /// What is queued goes out, and then no more.
    Closing,
    /// All is sent; the peer is to close.
    Finishing,
    /// The ring was asked to close it.
    Gone,
}

/// What the send in flight carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// There is none.
    None,
    /// Frames for this connection alone.
    Outbox,
    /// Frames of a room's log.
    Room {
        /// The room's local index.
        room: u32,
        /// How many.
        frames: u16,
    },
    /// Frames of a room that was left meanwhile.
    LeftRoom,
}

/// A place in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The room's local index.
    pub room: u32,
    /// The member's index there.
    pub member: u32,
}

/// What a connection is marked as.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Mark {
    /// It is on the shard's ready list.
    Ready = 1,
    /// The wheel looks whether its unfinished frame is finished in time.
    FrameWatched = 2,
    /// A page of history is on its way to it.
    Paging = 4,
    /// It has come, and waits to be sent.
    PageHere = 8,
}

/// See the module. A million of these are held, so what is seldom there is behind a pointer.
pub struct Conn {
    pub user: u64,
    pub device: u64,
    address: [u8; 16],
    pub outbox: Option<Box<Outbox>>,
    pub input: Option<Box<Input>>,
    pub upstream: Option<Box<Upstream>>,
    /// The app comes first, then rooms in the order they were joined in.
    pub rooms: SmallVec<[Membership; 3]>,
    pub flight: Flight,
    pub generation: u32,
    pub app: u32,
    /// The tick at which something was last heard.
    pub heard: u32,
    /// The tick at which the phase began; while it is open, at which the send in flight did.
    pub since: u32,
    /// Frames heard in the second of `heard`.
    pub frames_this_second: u16,
    port: u16,
    pub platform: u8,
    pub phase: Phase,
    pub role: Role,
    /// Bits of `Mark`.
    marks: u8,
}

const _: () = assert!(size_of::<Conn>() <= 120, "a million connections hold one each");

impl Conn {
    fn free() -> Self {
        Self {
            user: 0,
            device: 0,
            address: [0; 16],
            outbox: None,
            input: None,
            upstream: None,
            rooms: SmallVec::new(),
            flight: Flight::None,
            generation: 0,
            app: 0,
            heard: 0,
            since: 0,
            frames_this_second: 0,
            port: 0,
            platform: 0,
            phase: Phase::Free,
            role: Role::Upstream,
            marks: 0,
        }
    }

    /// A connection that has just been accepted.
    pub fn accepted(generation: u32, role: Role, peer: Peer, now: u32) -> Self {
        let (address, port) = match peer {
            Peer::Unix => (Ipv6Addr::UNSPECIFIED, 0),
            Peer::Ip(SocketAddr::V4(address)) => (address.ip().to_ipv6_mapped(), address.port()),
            Peer::Ip(SocketAddr::V6(address)) => (*address.ip(), address.port()),
        };
        let phase = match role {
            Role::Client(Transport::WebSocket) => Phase::Handshake,
            Role::Client(Transport::Tcp) | Role::Upstream => Phase::Hello,
        };
        let address = address.octets();
        Self { address, port, generation, role, phase, heard: now, since: now, ..Self::free() }
    }

    /// It is no longer a member there. A send in flight goes on, and counts for nobody.
    pub fn left(&mut self, gone: Membership) {
        self.rooms.retain(|membership| *membership != gone);
        if matches!(self.flight, Flight::Room { room, .. } if room == gone.room) {
            self.flight = Flight::LeftRoom;
        }
    }

    /// Its membership of a room.
    pub fn membership_in(&mut self, room: u32) -> Option<&mut Membership> {
        self.rooms.iter_mut().find(|membership| membership.room == room)
    }

    /// Whether it has a mark.
    pub fn is(&self, mark: Mark) -> bool {
        self.marks & mark as u8 != 0
    }

    /// Gives it a mark; says whether it had none.
    pub fn mark(&mut self, mark: Mark) -> bool {
        let new = !self.is(mark);
        self.marks |= mark as u8;
        new
    }

    /// Takes a mark from it.
    pub fn unmark(&mut self, mark: Mark) {
        self.marks &= !(mark as u8);
    }

    /// A send begins.
    pub fn takes_off(&mut self, flight: Flight, now: u32) {
        self.flight = flight;
        if self.is_open() {
            self.since = now;
        }
    }

    /// The peer's address as events tell it: IPv6, or IPv4 mapped into it; zero for a Unix socket.
    pub fn address(&self) -> (u128, u16) {
        (u128::from_be_bytes(self.address), self.port)
    }

    /// How its frames travel.
    pub fn transport(&self) -> Transport {
        match self.role {
            Role::Client(transport) => transport,
            Role::Upstream => Transport::Tcp,
        }
    }

    /// Queues one encoded frame.
    pub fn push(&mut self, frame: &[u8]) {
        let transport = self.transport();
        put(&mut self.outbox.get_or_insert_default().bytes, transport, frame);
    }

    /// Queues bytes as they are.
    pub fn push_raw(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.outbox.get_or_insert_default().bytes);
    }

    /// Bytes that wait to be sent to it alone.
    pub fn outbox_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.len())
    }

    /// Whether HELLO was answered and nothing has ended it.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the peer's bytes still matter.
    pub fn is_heard(&self) -> bool {
        matches!(self.phase, Phase::Handshake | Phase::Hello | Phase::Open)
    }
}

fn put(out: &mut Vec<u8>, transport: Transport, frame: &[u8]) {
    if transport == Transport::WebSocket {
        let (header, used) = ws::server_header(frame.len());
        out.extend_from_slice(&header[..used]);
    }
    out.extend_from_slice(frame);
}

/// A frame that waits as it is in the history, shared with all who wait for it.
pub struct Later {
    /// The room whose frame it is; 0: no room's. It may have had another name when it was said, so
    /// this one is written into the frame's first field when it is sent.
    pub alias: u32,
    /// The frame.
    pub frame: Bytes,
}

/// Bytes of the first field of every room's frames.
const ALIAS_BYTES: usize = size_of::<u32>();

/// Frames for one connection alone.
#[derive(Default)]
pub struct Outbox {
    /// What a short send has left; it goes before everything else.
    pub rest: Option<SendSlice>,
    pub bytes: Vec<u8>,
    /// What follows as the client reads, and its bytes.
    pub later: VecDeque<Later>,
    pub later_bytes: usize,
    /// Messages for the user or the app that were left out and not declared yet, per class.
    pub shed: [u32; CLASSES],
}

impl Outbox {
    fn len(&self) -> usize {
        self.bytes.len() + self.rest.as_ref().map_or(0, SendSlice::len)
    }

    /// Moves on with what is sent later, as much as one send carries.
    pub fn refill(&mut self, transport: Transport) {
        while self.bytes.len() < SEND_BYTES_MAX
            && let Some(Later { alias, frame }) = self.later.pop_front()
        {
            self.later_bytes -= frame.len();
            put(&mut self.bytes, transport, &frame);
            let at = self.bytes.len() - frame.len() + FRAME_HEADER_BYTES;
            if alias != 0
                && let Some(place) = self.bytes.get_mut(at..at + ALIAS_BYTES)
            {
                place.copy_from_slice(&alias.to_le_bytes());
            }
        }
    }

    /// Drops the missed messages of a room that was left.
    pub fn forget(&mut self, alias: u32) {
        self.later.retain(|later| {
            let stays = later.alias != alias;
            self.later_bytes -= if stays { 0 } else { later.frame.len() };
            stays
        });
    }

    /// What to send next.
    pub fn take(&mut self) -> SendSlice {
        self.rest.take().unwrap_or_else(|| SendSlice::from_vec(std::mem::take(&mut self.bytes)))
    }

    /// Whether nothing is left to be sent or declared.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.later.is_empty() && self.shed == [0; CLASSES]
    }
}

/// A frame, or a WebSocket message, that is not all there yet.
#[derive(Default)]
pub struct Input {
    pub bytes: Vec<u8>,
    pub fragments: Inbound,
    /// The tick at which it began.
    pub since: u32,
}

/// What is known of an upstream.
#[derive(Default)]
pub struct Upstream {
    /// Publishes without an answer.
    pub outstanding: u32,
    /// Answers that were not sent yet.
    pub replies: VecDeque<PublishReply>,
    /// Credits to be given back without an answer.
    pub silent: u32,
    /// Left out because it does not read, not declared yet.
    pub events_lost: u64,
    pub uplinks_lost: u64,
    pub subscribed: bool,
    pub tickets: Tickets,
    /// Pages of history that it has asked for; there are no more of them than credits.
    pub pages_waiting: VecDeque<(u32, RoomKey, HistoryAsk)>,
}

/// All connections of a shard, by ring and slot.
#[derive(Default)]
pub struct Conns {
    rings: Vec<Vec<Conn>>,
    slots: usize,
}

impl Conns {
    /// Places for connections on rings of so many slots. Memory is touched as it is used.
    pub fn new(slots: u32) -> Self {
        Self { rings: Vec::new(), slots: slots as usize }
    }

    /// A connection that was accepted.
    pub fn insert(&mut self, id: ConnId, conn: Conn) {
        while self.rings.len() <= id.ring() {
            self.rings.push(Vec::with_capacity(self.slots));
        }
        let ring = &mut self.rings[id.ring()];
        while ring.len() <= id.slot() {
            ring.push(Conn::free());
        }
        ring[id.slot()] = conn;
    }

    /// Frees the place of a connection.
    pub fn remove(&mut self, id: ConnId) {
        if let Some(conn) = self.find(id) {
            *conn = Conn::free();
        }
    }

    /// The connection, if it is still that one.
    pub fn find(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.rings.get_mut(id.ring())?.get_mut(id.slot())?;
        (conn.generation == id.generation && conn.phase != Phase::Free).then_some(conn)
    }

    /// The connection at an index that is known to be in use.
    pub fn at(&mut self, index: u32) -> &mut Conn {
        let slot = index & ((1 << SLOT_BITS) - 1);
        &mut self.rings[(index >> SLOT_BITS) as usize][slot as usize]
    }

    /// The name of the connection at an index that is known to be in use.
    pub fn id(&mut self, index: u32) -> ConnId {
        ConnId { index, generation: self.at(index).generation }
    }

    /// Every connection in use.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> {
        self.rings.iter().enumerate().flat_map(|(ring, slots)| {
            let used = slots.iter().enumerate().filter(|(_, conn)| conn.phase != Phase::Free);
            used.map(move |(slot, conn)| ConnId {
                index: ConnId::index_of(ring, slot),
                generation: conn.generation,
            })
        })
    }
}
