//! What clients say to others: in rooms, to services, and what they ask to see again.

use std::borrow::Cow;

use barrage_router::{
    Aggregation, AppId, Category, Class, Level, RoomId, RoomKey, UserId, UserKey, home_of_room,
    home_of_user,
};
use barrage_sys::ConnId;
use barrage_wire::GatewayFrame;
use barrage_wire::codec::Tail;
use barrage_wire::server::Code;
use barrage_wire::upstream::events;
use bytes::Bytes;

use super::core::Core;
use super::upstream::ticket;
use crate::conn::{Conn, Mark, Role};
use crate::filter::{Verdict, What};
use crate::limits::PAGE_BYTES_MAX;
use crate::mail::{Head, HistoryAsk, Mail, Origin};
use crate::past;

/// What a client is told whose words are refused. Not which: it would try another spelling.
const NOT_ALLOWED: &[u8] = b"the words are not allowed here";

/// Whether only services may publish in a category: what is paid for, and what others' messages are
/// merged with.
pub(super) fn is_for_services(category: &Category) -> bool {
    category.never_drop || category.aggregation != Aggregation::None
}

/// Where a client says something.
struct Said {
    app: u32,
    /// 0 for an uplink.
    room: u64,
    /// None for a message to a room.
    channel: Option<u16>,
    category: u16,
    kind: u16,
}

impl Core {
    pub(super) fn client_publish(
        &mut self,
        id: ConnId,
        request: u32,
        alias: u32,
        category: u16,
        kind: u16,
        payload: &[u8],
    ) {
        let rooms = &self.local.rooms;
        let Some(conn) = self.conns.find(id) else { return };
        let mut keys = conn.rooms.iter().map(|member| &rooms[member.room as usize]);
        let Some(key) = keys.find(|room| room.alias == alias && alias != 0).map(|room| room.key)
        else {
            return self.reply(id, request, Code::NotMember, 0, &[]);
        };
        let (app, sender) = (conn.app, conn.user);
        let Some(&category) = self.config.rules.policy.category(category) else {
            return self.reply(id, request, Code::UnknownCategory, 0, &[]);
        };
        if is_for_services(&category) {
            let why = b"categories that are merged or never dropped are for upstreams";
            return self.reply(id, request, Code::Forbidden, 0, why);
        }
        let head = Head {
            category: category.id,
            class: category.class,
            never_drop: category.never_drop,
            stored: false,
            by_client: true,
            kind,
            count: 1,
            expires_ms: 0,
            sender,
            key: 0,
            idempotency_key: 0,
        };
        let said = Said { app, room: key.room.0, channel: None, category: category.id, kind };
        match self.filtered(id, &said, payload) {
            Some(payload) => {
                let origin = Origin { at: self.here(id), request, silent: false };
                self.publish(origin, key, head, &payload);
            }
            None => self.reply(id, request, Code::Refused, 0, NOT_ALLOWED),
        }
    }

    /// The user's device has everything up to a number of its inbox.
    pub(super) fn ack(&mut self, id: ConnId, seq: u64) {
        let who = self.here(id);
        let Some(conn) = self.conns.find(id) else { return };
        let user = UserKey { app: AppId(conn.app), user: UserId(conn.user) };
        let device = conn.device;
        let home = home_of_user(user, self.shards());
        self.post.send(home, Mail::Acked { user, who, device, seq });
    }

    pub(super) fn client_history(&mut self, id: ConnId, request: u32, room: u64, ask: HistoryAsk) {
        let Some(conn) = self.conns.find(id) else { return };
        let key = RoomKey { app: AppId(conn.app), room: RoomId(room) };
        let refused = if self.membership(id, key).is_none() || room == 0 {
            Some(Code::NotMember)
        } else {
            let (now, page) = (self.clock.millis(), PAGE_BYTES_MAX as u64);
            let spare = self.guards.egress.admit(now, Class::P3, false, Level::L4, page).is_ok();
            // One page at a time: the next one is asked for when it has come.
            let asks = spare && self.conns.find(id).is_some_and(|conn| conn.mark(Mark::Paging));
            (!asks).then_some(Code::Overloaded)
        };
        if let Some(code) = refused {
            let end = past::End { code, ..past::End::default() };
            let frame = past::encode_end(request, &end, false);
            return self.say_encoded(id, &frame);
        }
        let (home, who) = (home_of_room(key, self.shards()), self.here(id));
        self.post.send(home, Mail::History { who, request, key, ask, by_upstream: false });
    }

    /// A page of a room's history has come.
    pub(super) fn page(&mut self, id: ConnId, frames: Vec<Bytes>) {
        let Some(conn) = self.conns.find(id) else { return };
        conn.mark(Mark::PageHere);
        if let Some(upstream) = conn.upstream.as_deref_mut() {
            upstream.outstanding -= 1;
        }
        self.say_later(id, 0, frames.into_iter());
    }

    /// A page was sent, and with it everything that waited: the next one may come.
    pub(super) fn paged(&mut self, id: ConnId) {
        let Some(conn) = self.conns.find(id) else { return };
        conn.unmark(Mark::Paging);
        conn.unmark(Mark::PageHere);
        let next = conn.upstream.as_deref_mut().and_then(|it| it.pages_waiting.pop_front());
        if let Some((request, key, ask)) = next {
            self.ask_page(id, request, key, ask);
        }
    }

    /// A service wants a page. One is on its way at a time: each may be a megabyte.
    pub(super) fn ask_page(&mut self, id: ConnId, request: u32, key: RoomKey, ask: HistoryAsk) {
        let Some(conn) = self.conns.find(id) else { return };
        if !conn.mark(Mark::Paging) {
            if let Some(upstream) = conn.upstream.as_deref_mut() {
                upstream.pages_waiting.push_back((request, key, ask));
            }
            return;
        }
        let (home, who) = (home_of_room(key, self.shards()), self.here(id));
        self.post.send(home, Mail::History { who, request, key, ask, by_upstream: true });
    }

    /// What the word lists leave of what a client says. None: it does not pass.
    fn filtered<'a>(
        &mut self,
        id: ConnId,
        said: &Said,
        payload: &'a [u8],
    ) -> Option<Cow<'a, [u8]>> {
        let what = match said.channel {
            Some(_) => What::Uplink,
            None => What::Category(said.category),
        };
        match self.config.rules.filter.check(said.app, what, payload) {
            Verdict::Pass => Some(Cow::Borrowed(payload)),
            Verdict::Flag { word } => {
                let connection = format_args!("{:x}", self.connection_number(id));
                tracing::debug!(connection, word, "a message has a word that is flagged");
                self.flag(id, said, payload);
                Some(Cow::Borrowed(payload))
            }
            Verdict::Reject { word } => {
                self.metrics.words_rejected_total += 1;
                let connection = format_args!("{:x}", self.connection_number(id));
                tracing::debug!(connection, word, "a message has a word that is not allowed");
                None
            }
            Verdict::Mask { payload, flagged } => {
                self.metrics.words_masked_total += 1;
                if flagged.is_some() {
                    self.flag(id, said, &payload);
                }
                Some(Cow::Owned(payload))
            }
        }
    }

    /// Tells those who asked for it that a client has said something doubtful.
    fn flag(&mut self, id: ConnId, said: &Said, payload: &[u8]) {
        self.metrics.words_flagged_total += 1;
        let connection = self.connection_number(id);
        let Some(conn) = self.conns.find(id) else { return };
        let Said { app, room, channel, category, kind } = *said;
        let user = conn.user;
        let (channel, payload) = (channel.unwrap_or(0), Tail(payload));
        let flagged =
            GatewayFrame::Flagged { connection, user, room, channel, category, kind, payload };
        self.tell_subscribers(app, events::FLAGGED, user, &flagged);
    }

    pub(super) fn uplink(
        &mut self,
        id: ConnId,
        request: u32,
        channel: u16,
        kind: u16,
        payload: &[u8],
    ) {
        let Some(conn) = self.conns.find(id) else { return };
        let (app, user) = (conn.app, conn.user);
        let said = Said { app, room: 0, channel: Some(channel), category: 0, kind };
        let Some(payload) = self.filtered(id, &said, payload) else {
            self.metrics.uplinks_refused_total += 1;
            return self.reply(id, request, Code::Refused, 0, NOT_ALLOWED);
        };
        let refused = match self.subscribers.for_uplink(app, channel, user) {
            None => Code::NoUpstream,
            Some(at) if self.post.congested(at.shard) => Code::Overloaded,
            Some(at) => {
                let from = Origin { at: self.here(id), request, silent: false };
                let frame = GatewayFrame::Uplink {
                    ticket: ticket(from),
                    connection: self.connection_number(id),
                    user,
                    channel,
                    kind,
                    payload: Tail(&payload),
                };
                let frame = Bytes::from(frame.to_vec());
                return self.post.send(at.shard, Mail::Uplink { conn: at.conn, from, app, frame });
            }
        };
        self.metrics.uplinks_refused_total += 1;
        self.reply(id, request, refused, 0, &[]);
    }

    /// An upstream has answered an uplink.
    pub(super) fn uplink_reply(
        &mut self,
        id: ConnId,
        app: u32,
        request: u32,
        code: Code,
        payload: &[u8],
    ) {
        // A ticket may be made up. It is only good for clients, and of the upstream's own app.
        let to_client = |conn: &mut Conn| conn.is_open() && matches!(conn.role, Role::Client(_));
        if self.conns.find(id).is_some_and(|conn| to_client(conn) && conn.app == app) {
            self.reply(id, request, code, 0, payload);
        }
    }
}
