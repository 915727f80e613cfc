//! What a shard sees of the network: requests in, closed events out.

use std::net::SocketAddr;

use crate::segment::SendSlice;

/// Bits of a connection's index that name its slot; the bits above name its ring.
pub const SLOT_BITS: u32 = 18;

/// Names a connection. The index is reused after `Event::Closed`, the generation then differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Ring and slot.
    pub index: u32,
    /// Counts the slot's uses.
    pub generation: u32,
}

impl ConnId {
    /// The ring that holds the connection.
    pub fn ring(self) -> usize {
        (self.index >> SLOT_BITS) as usize
    }

    /// The slot in that ring.
    pub fn slot(self) -> usize {
        (self.index & ((1 << SLOT_BITS) - 1)) as usize
    }

    /// The index of `slot` in `ring`.
    pub fn index_of(ring: usize, slot: usize) -> u32 {
        debug_assert!(slot < 1 << SLOT_BITS);
        (ring as u32) << SLOT_BITS | slot as u32
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address of the Internet.
    Ip(SocketAddr),
    /// A process of this machine.
    Unix,
}

/// What happened. Nothing else ever does.
#[derive(Debug)]
pub enum Event<'a> {
    /// A listener has a new connection; it is being read already.
    Accepted {
        /// The connection.
        conn: ConnId,
        /// Which listener, by the order they were added in.
        listener: usize,
        /// The other end.
        peer: Peer,
    },
    /// A connection that was asked for is there; it is being read already.
    Connected {
        /// The connection.
        conn: ConnId,
    },
    /// Bytes have come. They may be changed in place.
    Received {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: &'a mut [u8],
    },
    /// A send has ended: all of it, a part of it, or with an error (a positive errno).
    Sent {
        /// The connection.
        conn: ConnId,
        /// What was to be sent.
        slice: SendSlice,
        /// Bytes that the kernel took, or why it took none.
        result: Result<usize, i32>,
    },
    /// Nothing will be received any more: the peer has closed (0) or the socket failed (errno).
    Ended {
        /// The connection.
        conn: ConnId,
        /// Why.
        errno: i32,
    },
    /// `close` has done its work. The index may be used again.
    Closed {
        /// The connection.
        conn: ConnId,
    },
}

/// The network as a shard sees it. Requests are queued until `submit`; what came of them is told by
/// `reap`. After `close`, nothing but `Closed` is heard of a connection.
pub trait Ring {
    /// Sends `slice`. One send per connection may be in flight.
    fn send(&mut self, conn: ConnId, slice: SendSlice);
    /// Says that nothing more will be sent; the other direction stays open.
    fn finish(&mut self, conn: ConnId);
    /// Ends the connection and whatever is in flight on it.
    fn close(&mut self, conn: ConnId);
    /// Takes whoever has connected already, and closes the listeners: others are refused at once.
    fn stop_accepting(&mut self);
    /// Whether `Accepted` may still be told.
    fn is_accepting(&self) -> bool;
    /// Hands the queued requests to the kernel, which does at once whatever it can.
    fn submit(&mut self);
    /// Keeps what peers say to itself from now on, or tells it again. Nothing is lost: when the
    /// buffers are full, the kernel keeps the rest, and then the peers wait. Not for long, since a
    /// peer that has gone is not heard of either.
    fn set_deaf(&mut self, deaf: bool);
    /// Tells `sink` what has happened and returns how many events that were. Bounded: there may
    /// be more to reap when the count is not zero.
    fn reap(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> usize;
    /// Retries what could not be done for want of something that comes back with time.
    fn tick(&mut self);
}
