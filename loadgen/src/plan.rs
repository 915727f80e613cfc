//! What the clients of a run are to do. Fixed before the first connection.

use std::net::SocketAddr;

use barrage_wire::limits::WS_MESSAGE_BYTES_MAX;
use barrage_wire::ws::{SERVER_HEADER_BYTES_MAX, put_masked};

use crate::sources::Sources;

/// What a client's connection speaks below the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Frames as they are.
    Tcp,
    /// Frames in WebSocket messages.
    Ws,
}

impl Transport {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Ws => "ws",
        }
    }

    /// Appends `frames` as a client of this transport sends them.
    pub fn put(self, out: &mut Vec<u8>, frames: &[u8]) {
        match self {
            Self::Tcp => out.extend_from_slice(frames),
            Self::Ws => put_masked(out, WS_MASK, frames),
        }
    }
}

/// The mask protects proxies from scripts in browsers; a constant does for a load generator.
pub const WS_MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Bytes of uplinks that one client may have in flight: they go out as one message.
pub const UPLINK_BYTES_MAX: usize = WS_MESSAGE_BYTES_MAX - SERVER_HEADER_BYTES_MAX - 1024;

/// Which room a client joins.
#[derive(Clone, Copy, Debug)]
pub enum Rooms {
    /// All join the same.
    One(u64),
    /// Client `k` joins `first + k % count`.
    Spread {
        /// The first room.
        first: u64,
        /// How many there are.
        count: u32,
    },
}

impl Rooms {
    /// The room of client `k`.
    pub fn of(self, k: u32) -> u64 {
        match self {
            Self::One(room) => room,
            Self::Spread { first, count } => first + u64::from(k % count),
        }
    }
}

/// How clients send uplinks.
#[derive(Clone, Copy, Debug)]
pub struct Uplinks {
    /// To which channel.
    pub channel: u16,
    /// Bytes of a payload.
    pub size: usize,
    /// Unanswered uplinks per client.
    pub window: usize,
}

/// What the clients of a run are to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What they speak.
    pub transport: Transport,
    /// Where they connect to.
    pub target: SocketAddr,
    /// Where they come from.
    pub sources: Sources,
    /// How many there are.
    pub clients: u32,
    /// How many connect in a second, at most; 0: no limit.
    pub connects_per_s: f64,
    /// The tenant.
    pub app: u32,
    /// Rooms that each joins. Messages of the last one are accounted for.
    pub rooms: Vec<Rooms>,
    /// Uplinks, if they send any.
    pub uplinks: Option<Uplinks>,
    /// Whether messages come by a schedule, so that the lag of their sender is of interest.
    pub paced: bool,
    /// The core of the network thread.
    pub core: Option<usize>,
}
