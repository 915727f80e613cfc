//! A gateway of a few lines, for tests of the load generator: one thread per connection.

// A stub fails by a panic, as the tests that it is part of.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use barrage_wire::client::Cursor;
use barrage_wire::limits::{CLIENT_BODY_BYTES_MAX, PROTOCOL_VERSION, UPSTREAM_BODY_BYTES_MAX};
use barrage_wire::server::Code;
use barrage_wire::upstream::PublishReply;
use barrage_wire::ws::{self, Inbound, Incoming, Role};
use barrage_wire::{
    ClientFrame, GatewayFrame, List, ServerFrame, Tail, Text, UpstreamFrame, split,
};

/// What the stub does wrong on purpose, at every third message to the first member of a room.
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
}

#[derive(Default)]
struct State {
    rooms: HashMap<u64, Room>,
    subscriber: Option<TcpStream>,
    clients: HashMap<u64, Peer>,
}

#[derive(Clone)]
struct Peer {
    stream: Arc<TcpStream>,
    ws: bool,
}

impl Peer {
    fn say(&self, frame: &ServerFrame<'_>) {
        let frame = frame.to_vec();
        let mut out = Vec::new();
        if self.ws {
            let (header, used) = ws::server_header(frame.len());
            out.extend_from_slice(&header[..used]);
        }
        out.extend_from_slice(&frame);
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
    let peer = Peer { stream: Arc::new(stream), ws };
    let mut bytes = Vec::new();
    let mut frames = Vec::new();
    let mut inbound = Inbound::default();
    let mut open = !ws;
    let mut user = 0;
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
            client_frame(&peer, &mut user, frame, &mut state.lock().unwrap());
        }
        let left = rest.to_vec();
        frames = left;
    }
}

fn client_frame(peer: &Peer, user: &mut u64, frame: ClientFrame<'_>, state: &mut State) {
    match frame {
        ClientFrame::Hello { token, device, .. } => {
            *user = token.0.strip_prefix("open:").unwrap().parse().unwrap();
            assert_eq!(*user, device + 1);
            state.clients.insert(*user, peer.clone());
            peer.say(&ServerFrame::Welcome {
                version: PROTOCOL_VERSION,
                heartbeat_s: 1,
                connection: *user,
                user: *user,
                body_bytes_max: CLIENT_BODY_BYTES_MAX as u32,
                rooms_max: 8,
                resume: Text(""),
            });
        }
        ClientFrame::Join { request, cursor: Cursor { room, .. } } => {
            let place = state.rooms.entry(room).or_default();
            place.members.push(peer.clone());
            peer.say(&ServerFrame::Joined {
                request,
                alias: room as u32,
                room,
                epoch: 1,
                head: place.head,
                level: 1,
                members: place.members.len() as u32,
            });
        }
        ClientFrame::Ping { nonce } => peer.say(&ServerFrame::Pong { nonce }),
        ClientFrame::Uplink { request, channel, kind, payload } => {
            let ticket = u128::from(*user) << 64 | u128::from(request);
            let (connection, user) = (*user, *user);
            let uplink = GatewayFrame::Uplink { ticket, connection, user, channel, kind, payload };
            state.subscriber.as_ref().unwrap().write_all(&uplink.to_vec()).unwrap();
        }
        ClientFrame::Leave { .. } | ClientFrame::Publish { .. } | ClientFrame::Ack { .. } => {}
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
                    let room = state.rooms.entry(room).or_default();
                    let seq = publish(room, head.category, payload, mischief);
                    replies.push(PublishReply { request: head.request, code: Code::Ok, seq });
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

fn publish(room: &mut Room, category: u16, payload: Tail<'_>, mischief: Mischief) -> u64 {
    room.head += 1;
    let seq = room.head;
    for (number, member) in room.members.iter().enumerate() {
        let alias = ROOM as u32;
        let message = ServerFrame::Message { alias, seq, category, kind: 0, payload };
        let mischief = if number == 0 && seq.is_multiple_of(3) { mischief } else { Mischief::None };
        match mischief {
            Mischief::None => member.say(&message),
            Mischief::Skip => {}
            Mischief::Shed => {
                let counts = [0, 0, 0, 1];
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

/// The room that tests publish to.
pub const ROOM: u64 = 7;
