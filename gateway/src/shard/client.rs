//! How clients come into the gateway and into rooms, and how they are answered.

use barrage_router::{AppId, CatchUp, Cursor, Device, Joined, RoomId, RoomKey, UserId, UserKey};
use barrage_router::{home_of_room, home_of_user};
use barrage_sys::ConnId;
use barrage_wire::client::ClientFrame;
use barrage_wire::codec::{Tail, Text};
use barrage_wire::limits::{CLIENT_BODY_BYTES_MAX, PROTOCOL_VERSION, UPSTREAM_BODY_BYTES_MAX};
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::upstream::EventKind;
use barrage_wire::ws::{self, Inbound, Incoming};
use barrage_wire::{CLIENT_HELLO, RawFrame, ServerFrame, split};
use bytes::Bytes;

use super::core::Core;
use crate::conn::{Later, Membership, Phase, Role};
use crate::limits::{
    CLIENT_OUTBOX_BYTES_MAX, HEARTBEAT, LATER_BYTES_MAX, MISSED_FRAMES_MAX,
    ROOMS_PER_CONNECTION_MAX,
};
use crate::mail::{Earlier, HistoryAsk, Mail};
use crate::refusal::Refusal;
use crate::room_log::Transport;

/// What was taken off received bytes.
pub(super) struct Parsed {
    /// How many of them.
    pub used: usize,
    /// Nothing was unfinished at some point: what is left over began after it.
    pub whole: bool,
}

impl Parsed {
    fn frames(used: usize) -> Self {
        Self { used, whole: used > 0 }
    }
}

impl Core {
    /// Takes whole frames off `bytes`.
    pub(super) fn parse(
        &mut self,
        id: ConnId,
        bytes: &mut [u8],
        fragments: &mut Inbound,
    ) -> Result<Parsed, Refusal> {
        let Some(conn) = self.conns.find(id) else { return Ok(Parsed::frames(bytes.len())) };
        match (conn.role, conn.phase) {
            (Role::Client(Transport::WebSocket), Phase::Handshake) => {
                let Some(request) = ws::parse_request(bytes)? else { return Ok(Parsed::frames(0)) };
                conn.phase = Phase::Hello;
                conn.push_raw(|out| ws::write_response(&request, out));
                self.mark_ready(id);
                let used = request.consumed;
                let messages = self.parse_messages(id, &mut bytes[used..], fragments)?;
                Ok(Parsed { used: used + messages.used, whole: true })
            }
            (Role::Client(Transport::WebSocket), _) => self.parse_messages(id, bytes, fragments),
            (Role::Client(Transport::Tcp), _) => {
                let max = CLIENT_BODY_BYTES_MAX;
                self.parse_frames(id, bytes, max, Self::client_frame).map(Parsed::frames)
            }
            (Role::Upstream, _) => {
                let max = UPSTREAM_BODY_BYTES_MAX;
                self.parse_frames(id, bytes, max, Self::upstream_frame).map(Parsed::frames)
            }
        }
    }

    fn parse_frames(
        &mut self,
        id: ConnId,
        bytes: &[u8],
        body_bytes_max: usize,
        handle: impl Fn(&mut Self, ConnId, RawFrame<'_>) -> Result<(), Refusal>,
    ) -> Result<usize, Refusal> {
        let mut rest = bytes;
        while let Some(frame) = split(&mut rest, body_bytes_max)? {
            self.metrics.received_frames_total += 1;
            handle(self, id, frame)?;
        }
        Ok(bytes.len() - rest.len())
    }

    fn parse_messages(
        &mut self,
        id: ConnId,
        bytes: &mut [u8],
        fragments: &mut Inbound,
    ) -> Result<Parsed, Refusal> {
        let (mut used, mut whole) = (0, false);
        loop {
            let (taken, incoming) = fragments.next(ws::Role::Server, &mut bytes[used..])?;
            if taken == 0 {
                return Ok(Parsed { used, whole });
            }
            used += taken;
            match incoming {
                Some(Incoming::Message(message)) => {
                    let parsed =
                        self.parse_frames(id, message, CLIENT_BODY_BYTES_MAX, Self::client_frame)?;
                    if parsed != message.len() {
                        let text = "a frame does not end with its WebSocket message";
                        return Err(Refusal::new(CloseReason::Protocol, text));
                    }
                }
                Some(Incoming::Ping(payload)) => {
                    self.count_frame(id)?;
                    // Nothing follows a CLOSE, not even a pong.
                    if let Some(conn) = self.conns.find(id).filter(|conn| conn.is_heard()) {
                        conn.push_raw(|out| ws::put_pong(out, None, payload));
                    }
                    self.answered(id);
                }
                Some(Incoming::Close(_)) => {
                    return Err(Refusal::new(CloseReason::PeerClosed, "goodbye"));
                }
                // Small fragments and pongs cost as much as frames do.
                Some(Incoming::Pong) | None => self.count_frame(id)?,
            }
            whole |= !fragments.is_assembling();
        }
    }

    fn count_frame(&mut self, id: ConnId) -> Result<(), Refusal> {
        let max = self.config.client_frames_per_second;
        let Some(conn) = self.conns.find(id) else { return Ok(()) };
        conn.frames_this_second = conn.frames_this_second.saturating_add(1);
        if u32::from(conn.frames_this_second) > max {
            let text = format!("more than {max} frames in one second");
            return Err(Refusal::new(CloseReason::RateLimited, text));
        }
        Ok(())
    }

    fn client_frame(&mut self, id: ConnId, frame: RawFrame<'_>) -> Result<(), Refusal> {
        Refusal::of_version(frame, CLIENT_HELLO)?;
        let frame = ClientFrame::decode(frame)?;
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_heard()) else { return Ok(()) };
        let greeted = conn.is_open();
        self.count_frame(id)?;
        match frame {
            ClientFrame::Hello { .. } if greeted => {
                Err(Refusal::new(CloseReason::Protocol, "HELLO was said already"))
            }
            ClientFrame::Hello { .. } => self.hello(id, &frame),
            _ if !greeted => Err(Refusal::new(CloseReason::Protocol, "HELLO comes first")),
            ClientFrame::Join { request, cursor } => {
                self.join(id, request, &cursor);
                Ok(())
            }
            ClientFrame::Leave { request, room } => {
                self.leave(id, request, room);
                Ok(())
            }
            ClientFrame::Publish { request, alias, category, kind, payload } => {
                self.client_publish(id, request, alias, category, kind, payload.0);
                Ok(())
            }
            ClientFrame::Uplink { request, channel, kind, payload } => {
                self.uplink(id, request, channel, kind, payload.0);
                Ok(())
            }
            ClientFrame::Ack { inbox_seq } => {
                self.ack(id, inbox_seq);
                Ok(())
            }
            ClientFrame::History { request, room, epoch, from, since_ms, count } => {
                let ask = HistoryAsk { epoch, from, since_ms, count };
                self.client_history(id, request, room, ask);
                Ok(())
            }
            ClientFrame::Ping { nonce } => {
                self.say(id, &ServerFrame::Pong { nonce });
                Ok(())
            }
        }
    }

    fn hello(&mut self, id: ConnId, frame: &ClientFrame<'_>) -> Result<(), Refusal> {
        let ClientFrame::Hello { app, device, platform, resume, token, .. } = frame else {
            return Ok(());
        };
        let user = self.config.auth.client(*app, token.0)?;
        let key = UserKey { app: AppId(*app), user: UserId(user) };
        if let Some(banned) = self.banned(key) {
            return Err(banned);
        }
        let (connection, me) = (self.connection_number(id), self.here(id));
        let tick = self.clock.tick;
        let Some(conn) = self.conns.find(id) else { return Ok(()) };
        conn.phase = Phase::Open;
        conn.since = tick;
        (conn.app, conn.user, conn.device, conn.platform) = (*app, user, *device, *platform as u8);
        let membership = self.join_app(id, *app);
        if let Some(conn) = self.conns.find(id) {
            conn.rooms.push(membership);
        }
        let home = home_of_user(key, self.shards());
        let device = Device { name: *device, platform: *platform, arrived: self.clock.us };
        self.post.send(home, Mail::UserOn { user: key, who: me, device });
        self.metrics.clients += 1;
        self.say(
            id,
            &ServerFrame::Welcome {
                version: PROTOCOL_VERSION,
                heartbeat_s: HEARTBEAT.as_secs() as u16,
                connection,
                user,
                body_bytes_max: CLIENT_BODY_BYTES_MAX as u32,
                rooms_max: ROOMS_PER_CONNECTION_MAX as u16,
                resume: Text(""),
            },
        );
        self.emit(EventKind::Connect, id, 0, CloseReason::PeerClosed);
        for cursor in resume.iter() {
            self.join(id, 0, &cursor);
        }
        Ok(())
    }

    fn join(&mut self, id: ConnId, request: u32, cursor: &barrage_wire::client::Cursor) {
        let Some(conn) = self.conns.find(id) else { return };
        let app = conn.app;
        // The app's own room counts too.
        if conn.rooms.len() > ROOMS_PER_CONNECTION_MAX {
            return self.reply(id, request, Code::TooManyRooms, 0, &[]);
        }
        if cursor.room == 0 {
            return self.reply(id, request, Code::Forbidden, 0, b"room 0 is the app's own");
        }
        let key = RoomKey { app: AppId(app), room: RoomId(cursor.room) };
        if self.membership(id, key).is_some() {
            return self.reply(id, request, Code::AlreadyMember, 0, &[]);
        }
        let (home, who) = (home_of_room(key, self.shards()), self.here(id));
        let cursor = Cursor::from_wire(cursor);
        self.post.send(home, Mail::Join { who, request, key, cursor });
    }

    /// The room's home has counted a connection as a member.
    pub(super) fn joined(
        &mut self,
        id: ConnId,
        request: u32,
        key: RoomKey,
        joined: Joined,
        earlier: Option<Box<Earlier>>,
    ) {
        let refused = match self.conns.find(id).filter(|conn| conn.is_open()) {
            None => Some(None),
            Some(conn) if conn.rooms.len() > ROOMS_PER_CONNECTION_MAX => {
                Some(Some(Code::TooManyRooms))
            }
            Some(_) => self.membership(id, key).map(|_| Some(Code::AlreadyMember)),
        };
        if let Some(code) = refused {
            let (home, shard) = (home_of_room(key, self.shards()), self.me());
            self.post.send(home, Mail::Leave { shard, key });
            if let Some(code) = code {
                self.reply(id, request, code, 0, &[]);
            }
            return;
        }
        let membership = self.join_local(id, key, &joined);
        if let Some(conn) = self.conns.find(id) {
            conn.rooms.push(membership);
        }
        let Joined { alias, epoch, head, level, members, catch_up, snapshot } = joined;
        let (alias, room) = (alias.0, key.room.0);
        let goes_on = earlier.as_ref().map_or((epoch, head), |it| (it.epoch, it.head));
        let first = ServerFrame::Joined {
            request,
            alias,
            room,
            epoch: goes_on.0,
            head: goes_on.1,
            level,
            members,
        };
        self.say(id, &first);
        if let Some(earlier) = earlier {
            self.say_later(id, alias, earlier.frames.into_iter());
        }
        match catch_up {
            CatchUp::Live => {}
            CatchUp::Missed(frames) => {
                self.say_later(id, alias, frames.into_iter().map(|frame| frame.bytes));
            }
            CatchUp::Reset { oldest } => {
                self.say(id, &ServerFrame::Reset { alias, epoch, oldest, head });
            }
        }
        self.say_later(id, alias, snapshot.into_iter());
        self.emit(EventKind::Join, id, room, CloseReason::PeerClosed);
    }

    fn leave(&mut self, id: ConnId, request: u32, room: u64) {
        let Some(conn) = self.conns.find(id) else { return };
        let key = RoomKey { app: AppId(conn.app), room: RoomId(room) };
        let Some(membership) = self.membership(id, key).filter(|_| room != 0) else {
            // A JOIN may be on its way to the room's home, and is back before what follows it there.
            let (home, who) = (home_of_room(key, self.shards()), self.here(id));
            return self.post.send(home, Mail::LeaveAsked { who, request, key });
        };
        self.leave_now(id, request, key, membership);
    }

    /// A LEAVE has been to the room's home and back: if there was a JOIN before it, it is done.
    pub(super) fn leave_asked(&mut self, id: ConnId, request: u32, key: RoomKey) {
        match self.membership(id, key).filter(|_| key.room.0 != 0) {
            Some(membership) => self.leave_now(id, request, key, membership),
            None => self.reply(id, request, Code::NotMember, 0, &[]),
        }
    }

    fn leave_now(&mut self, id: ConnId, request: u32, key: RoomKey, membership: Membership) {
        let alias = self.local.rooms[membership.room as usize].alias;
        if let Some(conn) = self.conns.find(id) {
            conn.left(membership);
            if let Some(outbox) = &mut conn.outbox {
                outbox.forget(alias);
            }
        }
        self.leave_local(membership);
        let (home, shard) = (home_of_room(key, self.shards()), self.me());
        self.post.send(home, Mail::Leave { shard, key });
        self.emit(EventKind::Leave, id, key.room.0, CloseReason::PeerClosed);
        self.reply(id, request, Code::Ok, 0, &[]);
    }

    pub(super) fn membership(&mut self, id: ConnId, key: RoomKey) -> Option<Membership> {
        let rooms = &self.local.rooms;
        let conn = self.conns.find(id)?;
        conn.rooms.iter().copied().find(|member| rooms[member.room as usize].key == key)
    }

    /// Answers a client's request.
    pub(super) fn reply(&mut self, id: ConnId, request: u32, code: Code, seq: u64, why: &[u8]) {
        self.say(id, &ServerFrame::Reply { request, code, seq, payload: Tail(why) });
    }

    /// Tells one client something.
    pub(super) fn say(&mut self, id: ConnId, frame: &ServerFrame<'_>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        frame.encode(&mut scratch);
        self.say_encoded(id, &scratch);
        self.scratch = scratch;
    }

    /// Tells one client what it has missed, as it reads: frames wait as they are in the history, and
    /// are copied when there is room for them.
    pub(super) fn say_later(
        &mut self,
        id: ConnId,
        alias: u32,
        frames: impl Iterator<Item = Bytes>,
    ) {
        let mut frames = frames.peekable();
        if frames.peek().is_none() {
            return;
        }
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_heard()) else { return };
        let outbox = conn.outbox.get_or_insert_default();
        for frame in frames {
            outbox.later_bytes += frame.len();
            outbox.later.push_back(Later { alias, frame });
        }
        if outbox.later.len() > MISSED_FRAMES_MAX || outbox.later_bytes > LATER_BYTES_MAX {
            let text = "more missed messages wait than a connection may have: read them first";
            return self.refuse(id, Refusal::new(CloseReason::SlowReader, text));
        }
        self.mark_ready(id);
    }

    /// Tells one client something that is encoded already.
    pub(super) fn say_encoded(&mut self, id: ConnId, frame: &[u8]) {
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_heard()) else { return };
        conn.push(frame);
        self.answered(id);
    }

    /// An answer waits: it goes out, unless too many do.
    fn answered(&mut self, id: ConnId) {
        let Some(conn) = self.conns.find(id) else { return };
        if conn.outbox_bytes() > CLIENT_OUTBOX_BYTES_MAX * 2 {
            let text = "answers wait and are not read";
            return self.refuse(id, Refusal::new(CloseReason::SlowReader, text));
        }
        self.mark_ready(id);
    }
}
