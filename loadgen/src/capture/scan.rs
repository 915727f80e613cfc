//! What the records of a capture mean: which publishes there were, and how they were answered. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use barrage_wire::upstream::{AckMode, PublishHead};
use barrage_wire::{
    FRAME_HEADER_BYTES, GatewayFrame, List, RawFrame, ServerFrame, Tail, UpstreamFrame,
};

use crate::capture::file::{Direction, Record, Source};

/// Rooms that are told apart in a summary.
const ROOMS_MAX: usize = 100_000;
/// Publishes of one capture that wait for their answer at any time; a gateway's credits are fewer.
const OPEN_MAX: usize = 1_000_000;

/// To whom something was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// The members of a room.
    Room(u64),
    /// The same, on behalf of a user, who gave so many.
    From(u64, u64, u32),
    /// A user.
    User(u64),
    /// Users.
    Users(Vec<u64>),
    /// Everybody.
    App,
}

/// Something that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// When, in nanoseconds after the start of the capture.
    pub at_ns: u64,
    /// About it.
    pub head: PublishHead,
    /// To whom.
    pub to: To,
    /// What.
    pub payload: Vec<u8>,
}

impl Publish {
    /// Appends it as a frame, with another head.
    pub fn encode(&self, head: PublishHead, out: &mut Vec<u8>) {
        let payload = Tail(&self.payload);
        match &self.to {
            To::Room(room) => UpstreamFrame::PublishRoom { head, room: *room, payload },
            To::From(room, sender, count) => {
                let (room, sender, count) = (*room, *sender, *count);
                UpstreamFrame::PublishFrom { head, room, sender, count, payload }
            }
            To::User(user) => UpstreamFrame::PublishUser { head, user: *user, payload },
            To::Users(users) => {
                UpstreamFrame::PublishUsers { head, users: List::new(users), payload }
            }
            To::App => UpstreamFrame::PublishApp { head, payload },
        }
        .encode(out);
    }

    /// The room, if it is for one.
    pub fn room(&self) -> Option<u64> {
        match self.to {
            To::Room(room) | To::From(room, ..) => Some(room),
            To::User(_) | To::Users(_) | To::App => None,
        }
    }
}

/// Frames of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was in a capture, as far as it was scanned.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Where it was made; known after the first record.
    pub source: Option<Source>,
    /// When it was begun: milliseconds since 1970.
    pub unix_ms: u64,
    /// The gateway's listener.
    pub target: String,
    /// All records.
    pub records: u64,
    /// The latest moment.
    pub last_ns: u64,
    /// Connections.
    pub connections: u64,
    /// Frames by direction and name.
    pub frames: BTreeMap<(bool, &'static str), Frames>,
    /// Publishes, or messages that a client has got.
    pub publishes: u64,
    /// When the first and the last of them were.
    pub published_ns: Option<(u64, u64)>,
    /// By category.
    pub categories: BTreeMap<u16, u64>,
    /// By room, for the first hundred thousand.
    pub rooms: HashMap<u64, u64>,
    /// Answers to publishes, by code.
    pub answers: BTreeMap<&'static str, u64>,
    /// Publishes that asked for no answer.
    pub silent: u64,
    /// Frames that are none of this version of the protocol.
    pub unknown: u64,
    /// Directions of connections that were not recorded to their end.
    pub unframed: u64,
    /// Records that the capture lacks.
    pub missed: u64,
    /// The capture has its end.
    pub ended: bool,
    open: HashSet<(u32, u32)>,
    aliases: HashMap<u32, u64>,
}

impl Scan {
    /// The next record: what it published, if it did.
    pub fn record(&mut self, record: &Record) -> Option<Publish> {
        self.records += 1;
        self.last_ns = self.last_ns.max(record.at_ns());
        match record {
            Record::Start { source, unix_ms, target } => {
                self.source = Some(*source);
                self.unix_ms = *unix_ms;
                self.target.clone_from(target);
            }
            Record::Opened { .. } => self.connections += 1,
            Record::Unframed { .. } => self.unframed += 1,
            Record::Closed { .. } => {}
            Record::Missed { records, .. } => self.missed += records,
            Record::End { .. } => self.ended = true,
            Record::Frame { at_ns, connection, direction, bytes } => {
                return self.frame(*at_ns, *connection, *direction, bytes);
            }
        }
        None
    }

    fn frame(
        &mut self,
        at_ns: u64,
        connection: u32,
        direction: Direction,
        bytes: &[u8],
    ) -> Option<Publish> {
        let (Some(body), Some(kind)) = (bytes.get(FRAME_HEADER_BYTES..), bytes.get(4)) else {
            self.unknown += 1;
            return None;
        };
        let raw = RawFrame { kind: *kind, body };
        let up = direction == Direction::Up;
        let (name, publish) = match (self.source, direction) {
            (Some(Source::Upstream), Direction::Up) => match UpstreamFrame::decode(raw) {
                Ok(frame) => (frame.name(), self.said(at_ns, connection, frame)),
                Err(_) => ("?", None),
            },
            (Some(Source::Upstream), Direction::Down) => match GatewayFrame::decode(raw) {
                Ok(frame) => {
                    self.answered(connection, frame);
                    (frame.name(), None)
                }
                Err(_) => ("?", None),
            },
            (Some(Source::Client), Direction::Down) => match ServerFrame::decode(raw) {
                Ok(frame) => (frame.name(), self.heard(at_ns, frame)),
                Err(_) => ("?", None),
            },
            (Some(Source::Client), Direction::Up) | (None, _) => ("?", None),
        };
        self.unknown += u64::from(name == "?");
        let frames = self.frames.entry((up, name)).or_default();
        frames.count += 1;
        frames.bytes += bytes.len() as u64;
        if let Some(publish) = &publish {
            self.count(publish);
        }
        publish
    }

    fn count(&mut self, publish: &Publish) {
        self.publishes += 1;
        let (first_ns, _) = self.published_ns.unwrap_or((publish.at_ns, 0));
        self.published_ns = Some((first_ns, publish.at_ns));
        *self.categories.entry(publish.head.category).or_default() += 1;
        if let Some(room) = publish.room()
            && (self.rooms.len() < ROOMS_MAX || self.rooms.contains_key(&room))
        {
            *self.rooms.entry(room).or_default() += 1;
        }
    }

    /// A service has said something.
    fn said(&mut self, at_ns: u64, connection: u32, frame: UpstreamFrame<'_>) -> Option<Publish> {
        let (head, to, payload) = match frame {
            UpstreamFrame::PublishRoom { head, room, payload } => (head, To::Room(room), payload),
            UpstreamFrame::PublishFrom { head, room, sender, count, payload } => {
                (head, To::From(room, sender, count), payload)
            }
            UpstreamFrame::PublishUser { head, user, payload } => (head, To::User(user), payload),
            UpstreamFrame::PublishUsers { head, users, payload } => {
                (head, To::Users(users.iter().collect()), payload)
            }
            UpstreamFrame::PublishApp { head, payload } => (head, To::App, payload),
            UpstreamFrame::Hello { .. }
            | UpstreamFrame::Subscribe { .. }
            | UpstreamFrame::UplinkReply { .. }
            | UpstreamFrame::Kick { .. }
            | UpstreamFrame::Ping { .. }
            | UpstreamFrame::Mute { .. }
            | UpstreamFrame::Ban { .. }
            | UpstreamFrame::History { .. } => return None,
        };
        match head.ack {
            AckMode::None => self.silent += 1,
            AckMode::Accepted | AckMode::Stored => {
                if self.open.len() < OPEN_MAX {
                    self.open.insert((connection, head.request));
                }
            }
        }
        Some(Publish { at_ns, head, to, payload: payload.0.to_vec() })
    }

    /// The gateway has answered a service. Answers to other requests are not counted.
    fn answered(&mut self, connection: u32, frame: GatewayFrame<'_>) {
        let GatewayFrame::Replies { replies, .. } = frame else { return };
        for reply in replies.iter() {
            if self.open.remove(&(connection, reply.request)) {
                *self.answers.entry(reply.code.name()).or_default() += 1;
            }
        }
    }

    /// A client has got something: what a service would have to say for that.
    fn heard(&mut self, at_ns: u64, frame: ServerFrame<'_>) -> Option<Publish> {
        let (alias, category, kind, merge_key, from, payload) = match frame {
            ServerFrame::Joined { alias, room, .. } => {
                self.aliases.insert(alias, room);
                return None;
            }
            ServerFrame::Message { alias, category, kind, payload, .. } => {
                (alias, category, kind, 0, None, payload)
            }
            ServerFrame::Combo { alias, category, kind, sender, key, count, payload, .. } => {
                (alias, category, kind, key, Some((sender, count)), payload)
            }
            ServerFrame::State { alias, category, kind, key, payload, .. } => {
                (alias, category, kind, key, None, payload)
            }
            ServerFrame::Welcome { .. }
            | ServerFrame::Shed { .. }
            | ServerFrame::Reset { .. }
            | ServerFrame::Reply { .. }
            | ServerFrame::Direct { .. }
            | ServerFrame::Redirect { .. }
            | ServerFrame::Close { .. }
            | ServerFrame::Pong { .. }
            | ServerFrame::Snapshot { .. }
            | ServerFrame::Past { .. }
            | ServerFrame::PastEnd { .. } => return None,
        };
        let room = *self.aliases.get(&alias)?;
        let to = from.map_or(To::Room(room), |(sender, count)| To::From(room, sender, count));
        let head = PublishHead { category, kind, merge_key, ..PublishHead::default() };
        Some(Publish { at_ns, head, to, payload: payload.0.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_wire::server::Code;
    use barrage_wire::upstream::PublishReply;

    fn start(source: Source) -> Record {
        Record::Start { source, unix_ms: 0, target: String::new() }
    }

    fn frame(at_ns: u64, direction: Direction, bytes: Vec<u8>) -> Record {
        Record::Frame { at_ns, connection: 1, direction, bytes }
    }

    fn publish(request: u32, ack: AckMode) -> Vec<u8> {
        let head = PublishHead { request, ack, category: 4, ..PublishHead::default() };
        UpstreamFrame::PublishRoom { head, room: 9, payload: Tail(b"hi") }.to_vec()
    }

    fn replies(of: &[(u32, Code)]) -> Vec<u8> {
        let reply = |&(request, code)| PublishReply { request, code, seq: 1 };
        let replies: Vec<PublishReply> = of.iter().map(reply).collect();
        GatewayFrame::Replies { replies: List::new(&replies), silent: 0 }.to_vec()
    }

    fn scan(records: &[Record]) -> (Scan, Vec<Publish>) {
        let mut scan = Scan::default();
        let publishes = records.iter().filter_map(|record| scan.record(record)).collect();
        (scan, publishes)
    }

    #[test]
    fn publishes_are_found_with_their_answers() {
        let kick = UpstreamFrame::Kick { request: 7, user: 1, text: barrage_wire::Text("") };
        let (scan, publishes) = scan(&[
            start(Source::Upstream),
            frame(5, Direction::Up, publish(1, AckMode::Accepted)),
            frame(6, Direction::Up, publish(2, AckMode::None)),
            frame(7, Direction::Up, kick.to_vec()),
            frame(8, Direction::Down, replies(&[(1, Code::Limited), (7, Code::Ok), (9, Code::Ok)])),
            frame(9, Direction::Up, publish(1, AckMode::Stored)),
            frame(9, Direction::Down, replies(&[(1, Code::Ok)])),
            frame(10, Direction::Up, vec![0; 3]),
        ]);
        assert_eq!(publishes.iter().map(|p| p.at_ns).collect::<Vec<_>>(), [5, 6, 9]);
        assert_eq!(scan.answers, BTreeMap::from([("Limited", 1), ("Ok", 1)]));
        assert_eq!((scan.publishes, scan.silent, scan.unknown), (3, 1, 1));
        assert_eq!((scan.categories[&4], scan.rooms[&9]), (3, 3));
        assert_eq!(scan.published_ns, Some((5, 9)));
        assert_eq!(scan.frames[&(true, "Kick")].count, 1);
    }

    #[test]
    fn a_publish_encodes_as_it_was() {
        let head = PublishHead { request: 3, category: 1, ..PublishHead::default() };
        let payload = Tail(b"payload");
        let users = [1, 2, 3];
        for said in [
            UpstreamFrame::PublishRoom { head, room: 9, payload },
            UpstreamFrame::PublishFrom { head, room: 9, sender: 4, count: 5, payload },
            UpstreamFrame::PublishUser { head, user: 6, payload },
            UpstreamFrame::PublishUsers { head, users: List::new(&users), payload },
            UpstreamFrame::PublishApp { head, payload },
        ] {
            let bytes = said.to_vec();
            let records = [start(Source::Upstream), frame(1, Direction::Up, bytes.clone())];
            let (_, publishes) = scan(&records);
            let mut again = Vec::new();
            publishes[0].encode(publishes[0].head, &mut again);
            assert_eq!(again, bytes, "{}", said.name());
        }
    }

    #[test]
    fn what_a_client_got_is_what_was_published() {
        let (alias, room, category, kind, payload) = (5, 77, 3, 2, Tail(b"x".as_slice()));
        let joined = ServerFrame::Joined {
            request: 1,
            alias,
            room,
            epoch: 1,
            head: 0,
            level: 1,
            members: 1,
        };
        #[rustfmt::skip]
        let combo = ServerFrame::Combo {
            alias, seq: 1, category, kind, flags: 0, sender: 8, key: 9, count: 10, total: 99,
            payload,
        };
        let state = ServerFrame::State { alias, seq: 2, category, kind, key: 9, payload };
        let message = ServerFrame::Message { alias, seq: 3, category, kind, payload };
        let stray = ServerFrame::Message { alias: 6, seq: 3, category, kind, payload };
        let mut records = vec![start(Source::Client)];
        records.extend(
            [joined, combo, state, message, stray]
                .map(|said| frame(1, Direction::Down, said.to_vec())),
        );
        let (_, publishes) = scan(&records);
        let found: Vec<(&To, u64)> = publishes.iter().map(|p| (&p.to, p.head.merge_key)).collect();
        assert_eq!(found, [(&To::From(77, 8, 10), 9), (&To::Room(77), 9), (&To::Room(77), 0)]);
        assert!(publishes.iter().all(|p| (p.head.category, p.head.kind) == (3, 2)));
    }
}
