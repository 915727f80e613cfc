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
    /// Client `k` joins `first + (k * stride + at) % count`.
    Spread {
        /// The first room.
        first: u64,
        /// How many there are.
        count: u32,
        /// How many rooms one client joins in this way.
        stride: u32,
        /// Which of them it is.
        at: u32,
    },
}

impl Rooms {
    /// `count` rooms from `first` on, of which each client joins one.
    pub fn spread(first: u64, count: u32) -> Self {
        Self::Spread { first, count, stride: 1, at: 0 }
    }

    /// `count` rooms from `first` on, of which each client joins so many that follow each other.
    pub fn several(first: u64, count: u32, per_client: u32) -> Vec<Self> {
        let stride = per_client;
        (0..per_client).map(|at| Self::Spread { first, count, stride, at }).collect()
    }

    /// The room of client `k`.
    pub fn of(self, k: u32) -> u64 {
        match self {
            Self::One(room) => room,
            Self::Spread { first, .. } => first + self.index(k) as u64,
        }
    }

    /// Which of the rooms that is, from 0.
    pub fn index(self, k: u32) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Spread { count, stride, at, .. } => {
                ((u64::from(k) * u64::from(stride) + u64::from(at)) % u64::from(count)) as usize
            }
        }
    }

    /// How many rooms there are.
    pub fn count(self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Spread { count, .. } => count as usize,
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
    /// Whether the rooms are joined when the run says so, and not with HELLO.
    pub joins_later: bool,
    /// Whether the first client of each of the last rooms writes down what it sees.
    pub watched: bool,
    /// Only messages of this kind are timed, if one is given.
    pub timed_kind: Option<u16>,
    /// Uplinks, if they send any.
    pub uplinks: Option<Uplinks>,
    /// Whether messages come by a schedule, so that the lag of their sender is of interest.
    pub paced: bool,
    /// The core of the network thread.
    pub core: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_of_one_client_differ_and_all_are_used() {
        let rooms = Rooms::several(100, 12, 3);
        let of = |k| rooms.iter().map(|rooms| rooms.of(k)).collect::<Vec<_>>();
        assert_eq!([of(0), of(1), of(4)], [[100, 101, 102], [103, 104, 105], [100, 101, 102]]);
        let spread = Rooms::spread(7, 2);
        assert_eq!([0, 1, 2].map(|k| spread.of(k)), [7, 8, 7]);
        assert_eq!((spread.index(3), spread.count()), (1, 2));
        assert_eq!((Rooms::One(9).of(5), Rooms::One(9).index(5), Rooms::One(9).count()), (9, 0, 1));
    }
}
