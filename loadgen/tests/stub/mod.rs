//! A gateway of a few lines, for tests of the load generator: one thread per connection.

// A stub fails by a panic, as the tests that it is part of. Not every test uses all of it.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use barrage_wire::client::Cursor;
use barrage_wire::limits::{CLIENT_BODY_BYTES_MAX, PROTOCOL_VERSION, UPSTREAM_BODY_BYTES_MAX};
use barrage_wire::server::Code;
use barrage_wire::upstream::{PublishHead, PublishReply};
use barrage_wire::ws::{self, Inbound, Incoming, Role};
use barrage_wire::{
    ClientFrame, GatewayFrame, List, ServerFrame, Tail, Text, UpstreamFrame, split,
};

/// What the stub does wrong on purpose, at every third message to the member of a room with the
/// lowest user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    None,
    /// It is not sent.
    Skip,
    /// It is not sent, and a SHED says so.
    Shed,
    /// It is sent twice.
    Twice,
    /// The connection is closed instead.
    HangUp,
    /// A combo leaves one tap out.
    Miscount,
    /// Only the first value of a key is sent.
    Stale,
}

/// Where the stub listens.
#[derive(Clone, Copy)]
pub struct Stub {
    pub tcp: SocketAddr,
    pub ws: SocketAddr,
    pub upstream: SocketAddr,
}

#[derive(Default)]
struct Room {
    head: u64,
    members: Vec<Peer>,
    /// Everything that was said, for those who come back.
    said: Vec<Vec<u8>>,
    /// Publishes of the category that is limited.
    asked: u64,
    /// Runs by category, sender and gift: taps that have not gone out, and those that have.
    runs: BTreeMap<(u16, u64, u64), (u32, u64)>,
    /// The value that has not gone out, by key.
    values: BTreeMap<u64, Option<Vec<u8>>>,
}

#[derive(Default)]
struct State {
    rooms: HashMap<u64, Room>,
    subscriber: Option<TcpStream>,
    clients: HashMap<u64, Peer>,
}

#[derive(Clone)]
struct Peer {
    user: u64,
    stream: Arc<TcpStream>,
    ws: bool,
}

impl Peer {
    fn say(&self, frame: &ServerFrame<'_>) {
        self.say_bytes(&frame.to_vec());
    }

    fn say_bytes(&self, frame: &[u8]) {
        let mut out = Vec::new();
        if self.ws {
            let (header, used) = ws::server_header(frame.len());
            out.extend_from_slice(&header[..used]);
        }
        out.extend_from_slice(frame);
        let _ = (&*self.stream).write_all(&out);
    }
}

/// Starts a stub that lives as long as the test.
pub fn start(mischief: Mischief) -> Stub {
    let state = Arc::new(Mutex::new(State::default()));
    let listen = |serve: fn(TcpStream, &Mutex<State>, Mischief)| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream.unwrap(), &state, mischief));
            }
        });
        address
    };
    Stub {
        tcp: listen(|stream, state, _| client(stream, state, false)),
        ws: listen(|stream, state, _| client(stream, state, true)),
        upstream: listen(upstream),
    }
}

fn client(stream: TcpStream, state: &Mutex<State>, ws: bool) {
    stream.set_nodelay(true).unwrap();
    let mut peer = Peer { user: 0, stream: Arc::new(stream), ws };
    let mut bytes = Vec::new();
    let mut frames = Vec::new();
    let mut inbound = Inbound::default();
    let mut open = !ws;
    loop {
        let mut piece = [0; 4096];
        match (&*peer.stream).read(&mut piece) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => return,
        }
        if !open {
            let Some(request) = ws::parse_request(&bytes).unwrap() else { continue };
            let mut response = Vec::new();
            ws::write_response(&request, &mut response);
            (&*peer.stream).write_all(&response).unwrap();
            bytes.drain(..request.consumed);
            open = true;
        }
        if ws {
            loop {
                let (used, incoming) = inbound.next(Role::Server, &mut bytes).unwrap();
                if let Some(Incoming::Message(payload)) = incoming {
                    frames.extend_from_slice(payload);
                }
                bytes.drain(..used);
                if used == 0 {
                    break;
                }
            }
        } else {
            frames.append(&mut bytes);
        }
        let mut rest = &frames[..];
        while let Some(raw) = split(&mut rest, CLIENT_BODY_BYTES_MAX).unwrap() {
            let frame = ClientFrame::decode(raw).unwrap();
            client_frame(&mut peer, frame, &mut state.lock().unwrap());
        }
        let left = rest.to_vec();
        frames = left;
    }
}

fn client_frame(peer: &mut Peer, frame: ClientFrame<'_>, state: &mut State) {
    match frame {
        ClientFrame::Hello { token, device, .. } => {
            peer.user = token.0.strip_prefix("open:").unwrap().parse().unwrap();
            assert_eq!(peer.user, device + 1);
            state.clients.insert(peer.user, peer.clone());
            peer.say(&ServerFrame::Welcome {
                version: PROTOCOL_VERSION,
                heartbeat_s: 1,
                connection: peer.user,
                user: peer.user,
                body_bytes_max: CLIENT_BODY_BYTES_MAX as u32,
                rooms_max: 8,
                resume: Text(""),
            });
        }
        ClientFrame::Join { request, cursor: Cursor { room, epoch, seq } } => {
            let place = state.rooms.entry(room).or_default();
            place.members.retain(|member| member.user != peer.user);
            place.members.push(peer.clone());
            peer.say(&ServerFrame::Joined {
                request,
                alias: room as u32,
                room,
                epoch: EPOCH,
                head: place.head,
                level: 1,
                members: place.members.len() as u32,
            });
            if epoch == EPOCH {
                place.said[seq as usize..].iter().for_each(|frame| peer.say_bytes(frame));
            }
        }
        ClientFrame::Ping { nonce } => peer.say(&ServerFrame::Pong { nonce }),
        ClientFrame::Uplink { request, channel, kind, payload } => {
            let ticket = u128::from(peer.user) << 64 | u128::from(request);
            let (connection, user) = (peer.user, peer.user);
            let uplink = GatewayFrame::Uplink { ticket, connection, user, channel, kind, payload };
            state.subscriber.as_ref().unwrap().write_all(&uplink.to_vec()).unwrap();
        }
        ClientFrame::Leave { request, room } => {
            assert!(state.rooms.contains_key(&room), "only what was joined is left");
            let (code, payload) = (Code::Ok, Tail(&[]));
            peer.say(&ServerFrame::Reply { request, code, seq: 0, payload });
        }
        ClientFrame::Publish { .. } | ClientFrame::Ack { .. } | ClientFrame::History { .. } => {}
    }
}

fn upstream(mut stream: TcpStream, state: &Mutex<State>, mischief: Mischief) {
    stream.set_nodelay(true).unwrap();
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 65_536];
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => return,
        }
        let mut rest = &bytes[..];
        let mut replies = Vec::new();
        while let Some(raw) = split(&mut rest, UPSTREAM_BODY_BYTES_MAX).unwrap() {
            let frame = UpstreamFrame::decode(raw).unwrap();
            let state = &mut state.lock().unwrap();
            match frame {
                UpstreamFrame::Hello { .. } => {
                    let version = PROTOCOL_VERSION;
                    let welcome = GatewayFrame::Welcome { version, heartbeat_s: 1, credits: 100 };
                    stream.write_all(&welcome.to_vec()).unwrap();
                }
                UpstreamFrame::PublishRoom { head, room, payload } => {
                    replies.push(publish(state, room, 0, head, payload, mischief));
                }
                UpstreamFrame::PublishFrom { head, room, sender, count, payload } => {
                    assert_eq!(count, 1, "the load generator taps once at a time");
                    replies.push(publish(state, room, sender, head, payload, mischief));
                }
                UpstreamFrame::Subscribe { .. } => {
                    state.subscriber = Some(stream.try_clone().unwrap());
                }
                UpstreamFrame::UplinkReply { ticket, code, payload } => {
                    let user = (ticket >> 64) as u64;
                    let request = ticket as u32;
                    state.clients[&user].say(&ServerFrame::Reply {
                        request,
                        code,
                        seq: 0,
                        payload,
                    });
                }
                other => panic!("{other:?} is not expected"),
            }
        }
        let left = rest.to_vec();
        bytes = left;
        if !replies.is_empty() {
            let replies = GatewayFrame::Replies { replies: List::new(&replies), silent: 0 };
            stream.write_all(&replies.to_vec()).unwrap();
        }
    }
}

/// Says a message, keeps it back, or refuses it. A run goes on with every third tap; what is kept
/// back beyond that goes out before anything of category 0.
fn publish(
    state: &mut State,
    id: u64,
    sender: u64,
    head: PublishHead,
    payload: Tail<'_>,
    mischief: Mischief,
) -> PublishReply {
    let PublishHead { request, category, kind, merge_key: key, .. } = head;
    let room = state.rooms.entry(id).or_default();
    let alias = id as u32;
    let reply = |code, seq| PublishReply { request, code, seq };
    match category {
        0 => flush(room, id, mischief),
        CATEGORY_COMBO if key != 0 => {
            let (pending, total) = room.runs.entry((category, sender, key)).or_default();
            *pending += 1;
            let first = *total == 0;
            if first || *pending == 3 {
                let seq = combo(room, id, (category, sender, key), mischief);
                return if first { reply(Code::Ok, seq) } else { reply(Code::Merged, 0) };
            }
            return reply(Code::Merged, 0);
        }
        CATEGORY_LATEST => {
            let first = !room.values.contains_key(&key);
            let value = room.values.entry(key).or_default();
            if !first {
                *value = Some(payload.0.to_vec());
                return reply(Code::Merged, 0);
            }
            let frame = |seq| ServerFrame::State { alias, seq, category, kind, key, payload };
            return reply(Code::Ok, say(room, mischief, frame));
        }
        CATEGORY_LIMITED => {
            room.asked += 1;
            if room.asked.is_multiple_of(2) {
                return reply(Code::Limited, 9);
            }
        }
        CATEGORY_UNKNOWN => return reply(Code::UnknownCategory, 0),
        _ => {}
    }
    let frame = |seq| ServerFrame::Message { alias, seq, category, kind, payload };
    reply(Code::Ok, say(room, mischief, frame))
}

fn flush(room: &mut Room, id: u64, mischief: Mischief) {
    let runs: Vec<_> = room.runs.keys().copied().collect();
    for run in runs {
        combo(room, id, run, mischief);
    }
    for (key, value) in std::mem::take(&mut room.values) {
        if let Some(value) = value.filter(|_| mischief != Mischief::Stale) {
            let (alias, category, kind) = (id as u32, CATEGORY_LATEST, 3);
            let payload = Tail(&value);
            say(room, mischief, |seq| ServerFrame::State {
                alias,
                seq,
                category,
                kind,
                key,
                payload,
            });
        }
    }
}

fn combo(room: &mut Room, id: u64, run: (u16, u64, u64), mischief: Mischief) -> u64 {
    let (pending, total) = room.runs.get_mut(&run).unwrap();
    let mut count = std::mem::take(pending);
    *total += u64::from(count);
    if mischief == Mischief::Miscount {
        count = count.saturating_sub(1);
    }
    let ((category, sender, key), total) = (run, *total);
    let (alias, kind, flags, payload) = (id as u32, 2, 0, Tail(&[]));
    #[rustfmt::skip]
    let frame = |seq| ServerFrame::Combo {
        alias, seq, category, kind, flags, sender, key, count, total, payload,
    };
    say(room, mischief, frame)
}

fn say<'a>(room: &mut Room, mischief: Mischief, frame: impl Fn(u64) -> ServerFrame<'a>) -> u64 {
    room.head += 1;
    let seq = room.head;
    let message = frame(seq);
    room.said.push(message.to_vec());
    let victim = room.members.iter().map(|member| member.user).min();
    for member in &room.members {
        let hit = Some(member.user) == victim && seq.is_multiple_of(3);
        let mischief = if hit { mischief } else { Mischief::None };
        match mischief {
            Mischief::None | Mischief::Miscount | Mischief::Stale => member.say(&message),
            Mischief::Skip => {}
            Mischief::Shed => {
                let (alias, counts) = (alias_of(&message), [0, 0, 0, 1]);
                member.say(&ServerFrame::Shed { alias, first: seq, last: seq, counts });
            }
            Mischief::Twice => {
                member.say(&message);
                member.say(&message);
            }
            Mischief::HangUp => {
                let _ = member.stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }
    seq
}

fn alias_of(frame: &ServerFrame<'_>) -> u32 {
    match frame {
        ServerFrame::Message { alias, .. }
        | ServerFrame::Combo { alias, .. }
        | ServerFrame::State { alias, .. } => *alias,
        other => panic!("{other:?} is not numbered"),
    }
}

/// Categories of the stub's policy; the others are said as they are.
const CATEGORY_COMBO: u16 = 3;
const CATEGORY_LATEST: u16 = 6;
/// Every second message is refused.
pub const CATEGORY_LIMITED: u16 = 5;
/// There is none of this number.
pub const CATEGORY_UNKNOWN: u16 = 99;

/// The one epoch of all rooms.
const EPOCH: u64 = 1;

/// The room that tests publish to.
pub const ROOM: u64 = 7;
