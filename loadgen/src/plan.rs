//! What the clients of a run are to do. Fixed before the first connection.

use std::net::SocketAddr;

use barrage_wire::limits::WS_MESSAGE_BYTES_MAX;
use barrage_wire::ws::{SERVER_HEADER_BYTES_MAX, put_masked};

use crate::dialect::Dialect;
use crate::scenario::layout::Layout;
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

/// Which rooms clients join.
#[derive(Clone, Debug)]
pub enum Places {
    /// One of each of these. Messages of the last one are accounted for.
    Given(Vec<Rooms>),
    /// Those of a campaign. All are accounted for.
    Layout(Layout),
}

/// One of a client's places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which of the client's places, from 0.
    pub nth: usize,
    /// The room's id.
    pub id: u64,
    /// Which of the rooms that are accounted for, if it is one.
    pub book: Option<usize>,
}

impl Places {
    /// How many rooms each client joins.
    pub fn per_client(&self) -> usize {
        match self {
            Self::Given(rooms) => rooms.len(),
            Self::Layout(layout) => layout.per_client(),
        }
    }

    /// How many rooms are accounted for.
    pub fn count(&self) -> usize {
        match self {
            Self::Given(rooms) => rooms.last().map_or(0, |rooms| rooms.count()),
            Self::Layout(layout) => layout.count() as usize,
        }
    }

    /// All places of client `k`.
    pub fn each(&self, k: u32, mut each: impl FnMut(Place)) {
        match self {
            Self::Given(given) => {
                for (nth, rooms) in given.iter().enumerate() {
                    let book = (nth + 1 == given.len()).then(|| rooms.index(k));
                    each(Place { nth, id: rooms.of(k), book });
                }
            }
            Self::Layout(layout) => {
                let mut nth = 0;
                layout.rooms_of(k, |room| {
                    each(Place { nth, id: layout.id(room), book: Some(room as usize) });
                    nth += 1;
                });
            }
        }
    }

    /// One place of client `k`.
    pub fn nth(&self, k: u32, nth: usize) -> Option<Place> {
        let mut found = None;
        self.each(k, |place| {
            if place.nth == nth {
                found = Some(place);
            }
        });
        found
    }
}

/// Where clients of WebSocket connect to, when not all clients are alike.
#[derive(Clone, Copy, Debug)]
pub struct WsShare {
    /// The address.
    pub target: SocketAddr,
    /// How many in a hundred.
    pub percent: f64,
}

/// Whether client `k` is one of so many in a hundred that are taken evenly.
pub fn is_of_share(k: u32, percent: f64) -> bool {
    let upto = |k: u64| (k as f64 * percent / 100.0).floor();
    upto(u64::from(k) + 1) > upto(u64::from(k))
}

/// What the clients of a run are to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What they speak, but for those of `ws`.
    pub transport: Transport,
    /// Where they connect to, but for those of `ws`.
    pub target: SocketAddr,
    /// Those among clients of TCP who speak WebSocket.
    pub ws: Option<WsShare>,
    /// What they speak if it is not Barrage.
    pub dialect: Option<Dialect>,
    /// Where they come from.
    pub sources: Sources,
    /// The number of the first.
    pub first: u32,
    /// How many there are.
    pub clients: u32,
    /// The tenant.
    pub app: u32,
    /// What they show; `{user}` stands for the client's number from 1.
    pub token: String,
    /// Rooms that each joins.
    pub rooms: Places,
    /// Whether the rooms are joined when the run says so, and not with HELLO.
    pub joins_later: bool,
    /// Whether the first client of each room that is accounted for writes down what it sees.
    pub watched: bool,
    /// Only messages of this kind are timed, if one is given.
    pub timed_kind: Option<u16>,
    /// Uplinks, if they send any.
    pub uplinks: Option<Uplinks>,
    /// Whether messages come by a schedule, so that the lag of their sender is of interest.
    pub paced: bool,
    /// Whether clients that lose their connection come back.
    pub returns: bool,
    /// What is to be added to a moment of the publisher's clock to get one of this machine's.
    pub clock_offset_ns: i64,
    /// The core of the network thread.
    pub core: Option<usize>,
}

/// What clients show, unless something else is given.
pub const TOKEN_OPEN: &str = "open:{user}";

impl Plan {
    /// The number of a client among all, by its place here.
    pub fn k(&self, number: usize) -> u32 {
        self.first + number as u32
    }

    /// Whether client `k` speaks WebSocket.
    pub fn speaks_ws(&self, k: u32) -> bool {
        self.transport == Transport::Ws || self.ws.is_some_and(|ws| is_of_share(k, ws.percent))
    }

    /// What client `k` speaks below its frames.
    pub fn transport_of(&self, ws: bool) -> Transport {
        if ws { Transport::Ws } else { self.transport }
    }

    /// Where client `k` connects to.
    pub fn target_of(&self, k: u32) -> SocketAddr {
        match self.ws {
            Some(ws) if is_of_share(k, ws.percent) => ws.target,
            _ => self.target,
        }
    }
}

#[cfg(test)]
impl Plan {
    /// A plain one, of clients of TCP that come back.
    pub(crate) fn of_test(rooms: Places, clients: u32) -> Self {
        let target = "127.0.0.1:1".parse().expect("an address");
        Self {
            transport: Transport::Tcp,
            target,
            sources: Sources::plan(&[], target, 1, 28_000).expect("sources"),
            ws: None,
            dialect: None,
            first: 0,
            clients,
            app: 1,
            token: TOKEN_OPEN.to_owned(),
            rooms,
            joins_later: false,
            watched: false,
            timed_kind: None,
            uplinks: None,
            paced: true,
            returns: true,
            clock_offset_ns: 0,
            core: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even() {
        let share = |percent| (0..1000).filter(|&k| is_of_share(k, percent)).count();
        assert_eq!([0.0, 12.5, 50.0, 100.0].map(share), [0, 125, 500, 1000]);
        let taken: Vec<_> = (0..8).filter(|&k| is_of_share(k, 25.0)).collect();
        assert_eq!(taken, [3, 7]);
    }

    #[test]
    fn only_the_last_given_room_is_accounted_for() {
        let places = Places::Given(vec![Rooms::spread(7, 2), Rooms::One(9)]);
        assert_eq!(places.nth(1, 0), Some(Place { nth: 0, id: 8, book: None }));
        assert_eq!(places.nth(1, 1), Some(Place { nth: 1, id: 9, book: Some(0) }));
        assert_eq!((places.nth(1, 2), places.count(), places.per_client()), (None, 1, 2));
    }

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
