//! What upstream services say, and what they are told.

use barrage_router::{
    AppId, Order, RoomId, RoomKey, ShardIndex, Target, UserId, UserKey, home_of_user,
};
use barrage_sys::ConnId;
use barrage_wire::codec::{List, Tail};
use barrage_wire::limits::{PROTOCOL_VERSION, REPLIES_MAX};
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::upstream::{AckMode, EventKind, PublishHead, PublishReply};
use barrage_wire::{GatewayFrame, RawFrame, ServerFrame, UPSTREAM_HELLO, UpstreamFrame};
use bytes::Bytes;

use super::core::{Core, TallyEnd};
use super::moderation::{mute, user as user_of};
use crate::conn::{Role, Upstream};
use crate::limits::{
    HEARTBEAT, SUBSCRIBERS_MAX, UPSTREAM_CREDITS, UPSTREAM_OUTBOX_BYTES_MAX, USERS_PER_PART_MAX,
};
use crate::mail::{ConnRef, Direct, Head, HistoryAsk, Mail, Origin, ToUser};
use crate::refusal::Refusal;
use crate::uplink::{Subscriber, event_bit};

/// Who asked what, as an upstream carries it: shard, generation, index, request.
pub(super) fn ticket(from: Origin) -> u128 {
    u128::from(from.at.shard.0) << 96
        | u128::from(from.at.conn.generation) << 64
        | u128::from(from.at.conn.index) << 32
        | u128::from(from.request)
}

/// The other way. Whatever an upstream makes up names a connection that may not be there.
fn origin_of(ticket: u128) -> (ConnRef, u32) {
    let conn = ConnId { generation: (ticket >> 64) as u32, index: (ticket >> 32) as u32 };
    (ConnRef { shard: ShardIndex((ticket >> 96) as u16), conn }, ticket as u32)
}

impl Core {
    pub(super) fn upstream_frame(
        &mut self,
        id: ConnId,
        frame: RawFrame<'_>,
    ) -> Result<(), Refusal> {
        Refusal::of_version(frame, UPSTREAM_HELLO)?;
        let frame = UpstreamFrame::decode(frame)?;
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_heard()) else { return Ok(()) };
        let (greeted, app) = (conn.is_open(), conn.app);
        match frame {
            UpstreamFrame::Hello { .. } if greeted => {
                Err(Refusal::new(CloseReason::Protocol, "HELLO was said already"))
            }
            UpstreamFrame::Hello { app, token, name, .. } => {
                self.upstream_hello(id, app, token.0, name.0)
            }
            _ if !greeted => Err(Refusal::new(CloseReason::Protocol, "HELLO comes first")),
            UpstreamFrame::PublishRoom { head, room, payload } => {
                self.publish_room(id, app, &head, room, None, 1, payload.0)
            }
            UpstreamFrame::PublishFrom { head, room, sender, count, payload } => {
                self.publish_room(id, app, &head, room, Some(sender), count, payload.0)
            }
            UpstreamFrame::Mute { request, user, room, seconds } => {
                let (user, until_ms) = (user_of(app, user), self.until_ms(seconds));
                self.order(id, request, user, mute(user, room, until_ms))
            }
            UpstreamFrame::Ban { request, user, seconds, text } => {
                let (user, until_ms) = (user_of(app, user), self.until_ms(seconds));
                let text = text.0.into();
                self.order(id, request, user, Order::Ban { user, until_ms, text })
            }
            UpstreamFrame::History { request, room, epoch, from, since_ms, count } => {
                self.take_credit(id, request, AckMode::Accepted)?;
                let key = RoomKey { app: AppId(app), room: RoomId(room) };
                let ask = HistoryAsk { epoch, from, since_ms, count };
                self.ask_page(id, request, key, ask);
                Ok(())
            }
            UpstreamFrame::PublishUser { head, user, payload } => {
                self.publish_users(id, app, &head, &[user], Target::User(user), payload.0)
            }
            UpstreamFrame::PublishUsers { head, users, payload } => {
                // Who is named twice still gets it once.
                let mut users: Vec<u64> = users.iter().collect();
                users.sort_unstable();
                users.dedup();
                self.publish_users(id, app, &head, &users, Target::Users(0), payload.0)
            }
            UpstreamFrame::PublishApp { head, payload } => {
                self.publish_app(id, app, &head, payload.0)
            }
            UpstreamFrame::Subscribe { events, group, channels } => {
                self.subscribe(id, app, events, group.0, channels.iter().collect());
                Ok(())
            }
            UpstreamFrame::UplinkReply { ticket, code, payload } => {
                // A ticket that is not open may be made up, or it is answered already.
                let open = self.upstream(id).is_some_and(|upstream| upstream.tickets.close(ticket));
                if open {
                    self.answer_uplink(ticket, app, code, Bytes::copy_from_slice(payload.0));
                }
                Ok(())
            }
            UpstreamFrame::Kick { request, user, text } => {
                self.upstream_kick(id, request, user_of(app, user), text.0.to_owned())
            }
            UpstreamFrame::Ping { nonce } => {
                self.tell_upstream(id, &GatewayFrame::Pong { nonce });
                Ok(())
            }
        }
    }

    fn upstream_hello(
        &mut self,
        id: ConnId,
        app: u32,
        token: &str,
        name: &str,
    ) -> Result<(), Refusal> {
        self.config.auth.upstream(app, token)?;
        let tick = self.clock.tick;
        let Some(conn) = self.conns.find(id) else { return Ok(()) };
        conn.phase = crate::conn::Phase::Open;
        conn.since = tick;
        conn.app = app;
        conn.upstream = Some(Box::new(Upstream::default()));
        self.metrics.upstreams += 1;
        tracing::info!(app, name, "an upstream has come");
        self.tell_upstream(
            id,
            &GatewayFrame::Welcome {
                version: PROTOCOL_VERSION,
                heartbeat_s: HEARTBEAT.as_secs() as u16,
                credits: UPSTREAM_CREDITS,
            },
        );
        Ok(())
    }

    /// Counts a request against the credits.
    pub(super) fn take_credit(
        &mut self,
        id: ConnId,
        request: u32,
        ack: AckMode,
    ) -> Result<Origin, Refusal> {
        let at = self.here(id);
        if let Some(upstream) = self.upstream(id) {
            upstream.outstanding += 1;
            if upstream.outstanding > UPSTREAM_CREDITS {
                let text = format!("more than {UPSTREAM_CREDITS} publishes are unanswered");
                return Err(Refusal::new(CloseReason::Credits, text));
            }
        }
        Ok(Origin { at, request, silent: ack == AckMode::None })
    }

    fn upstream(&mut self, id: ConnId) -> Option<&mut Upstream> {
        self.conns.find(id)?.upstream.as_deref_mut()
    }

    /// What a publish says about its message; or how it ends at once.
    fn head(&self, head: &PublishHead, sender: u64, count: u32) -> Result<Head, Code> {
        let category =
            self.config.rules.policy.category(head.category).ok_or(Code::UnknownCategory)?;
        let ttl = u64::from(head.ttl_ms);
        let expires_ms = if ttl == 0 { 0 } else { self.clock.millis().0 + ttl };
        Ok(Head {
            category: category.id,
            class: category.class,
            never_drop: category.never_drop,
            stored: head.ack == AckMode::Stored,
            by_client: false,
            kind: head.kind,
            count,
            expires_ms,
            sender,
            key: head.merge_key,
            idempotency_key: head.idempotency_key,
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of two frames that do the same")]
    fn publish_room(
        &mut self,
        id: ConnId,
        app: u32,
        head: &PublishHead,
        room: u64,
        sender: Option<u64>,
        count: u32,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let origin = self.take_credit(id, head.request, head.ack)?;
        let key = RoomKey { app: AppId(app), room: RoomId(room) };
        match self.head(head, sender.unwrap_or(0), count) {
            Ok(_) if room == 0 || sender == Some(0) => self.published(origin, Code::Forbidden, 0),
            Ok(head) => self.publish(origin, key, head, payload),
            Err(code) => self.published(origin, code, 0),
        }
        Ok(())
    }

    fn publish_users(
        &mut self,
        id: ConnId,
        app: u32,
        head: &PublishHead,
        users: &[u64],
        target: Target,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let origin = self.take_credit(id, head.request, head.ack)?;
        let ttl_ms = head.ttl_ms;
        let head = match self.head(head, 0, 1) {
            Ok(_) if users.contains(&0) => {
                self.published(origin, Code::Forbidden, 0);
                return Ok(());
            }
            Ok(head) => head,
            Err(code) => {
                self.published(origin, code, 0);
                return Ok(());
            }
        };
        let message = ToUser { head, ttl_ms, payload: Bytes::copy_from_slice(payload) };
        let mut homes = vec![Vec::new(); usize::from(self.post.shards())];
        for &user in users {
            let user = UserKey { app: AppId(app), user: UserId(user) };
            homes[usize::from(home_of_user(user, self.shards()).0)].push(user.user.0);
        }
        let parts =
            homes.iter().map(|users| users.len().div_ceil(USERS_PER_PART_MAX)).sum::<usize>();
        if parts == 0 {
            self.published(origin, Code::Offline, 0);
            return Ok(());
        }
        let tally = self.open_tally(TallyEnd::Origin(origin), parts as u32);
        for (shard, users) in (0..).map(ShardIndex).zip(homes) {
            let congested = self.post.congested(shard);
            // In parts, so that others get their turn between them.
            for (part, users) in (0..).zip(users.chunks(USERS_PER_PART_MAX)) {
                if congested {
                    self.metrics.overloaded_total += 1;
                    self.tallied(tally, Code::Overloaded, 0, 1);
                    continue;
                }
                let (users, message) = (users.to_vec(), Box::new(message.clone()));
                let target =
                    if let Target::Users(_) = target { Target::Users(part) } else { target };
                self.post.send(shard, Mail::ToUsers { tally, app, users, target, message });
            }
        }
        Ok(())
    }

    fn publish_app(
        &mut self,
        id: ConnId,
        app: u32,
        head: &PublishHead,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let origin = self.take_credit(id, head.request, head.ack)?;
        let (category, kind) = (head.category, head.kind);
        match self.head(head, 0, 1) {
            Err(code) => self.published(origin, code, 0),
            // It goes to whoever is there: there is no history of it.
            Ok(head) if head.stored => self.published(origin, Code::Unstored, 0),
            Ok(head) => {
                let payload = Tail(payload);
                let frame = ServerFrame::Direct { inbox_seq: 0, category, kind, flags: 0, payload };
                let direct = Direct {
                    class: head.class,
                    never_drop: head.never_drop,
                    frame: Bytes::from(frame.to_vec()),
                };
                let (tally, head) = (self.open_tally(TallyEnd::Origin(origin), 1), Box::new(head));
                self.post.send(self.home_of_app(app), Mail::ToApp { tally, app, head, direct });
            }
        }
        Ok(())
    }

    /// A request of somebody on this shard has ended.
    pub(super) fn published(&mut self, origin: Origin, code: Code, seq: u64) {
        let id = origin.at.conn;
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_open()) else { return };
        if let Role::Client(_) = conn.role {
            return self.reply(id, origin.request, code, seq, &[]);
        }
        let Some(upstream) = conn.upstream.as_deref_mut() else { return };
        upstream.outstanding -= 1;
        if upstream.replies.is_empty() && upstream.silent == 0 {
            self.replying.push(id);
        }
        if origin.silent {
            upstream.silent += 1;
        } else {
            upstream.replies.push_back(PublishReply { request: origin.request, code, seq });
        }
    }

    /// Writes the answers of this step, many to a frame.
    pub(super) fn write_replies(&mut self) {
        for id in std::mem::take(&mut self.replying) {
            while let Some(upstream) = self.upstream(id)
                && (!upstream.replies.is_empty() || upstream.silent > 0)
            {
                let count = upstream.replies.len().min(REPLIES_MAX);
                let replies: Vec<_> = upstream.replies.drain(..count).collect();
                let silent = std::mem::take(&mut upstream.silent);
                let replies = List::new(&replies);
                self.tell_upstream(id, &GatewayFrame::Replies { replies, silent });
            }
        }
    }

    fn subscribe(&mut self, id: ConnId, app: u32, events: u16, group: &str, channels: Vec<u16>) {
        let at = self.here(id);
        let known = self.upstream(id).is_some_and(|upstream| upstream.subscribed);
        if !known && self.subscribers.len() >= SUBSCRIBERS_MAX {
            let text = "the gateway has as many subscribers as it may";
            return self.refuse(id, Refusal::new(CloseReason::Full, text));
        }
        if let Some(upstream) = self.upstream(id)
            && !std::mem::replace(&mut upstream.subscribed, true)
        {
            self.serving.push(id);
        }
        let group = group.to_owned();
        let subscriber = Subscriber { at, app, events, group, channels };
        self.tell_all(|| Mail::Subscribe(Box::new(subscriber.clone())));
    }

    /// Tells whoever asked for it that something has happened to a client.
    pub(super) fn emit(&mut self, event: EventKind, id: ConnId, room: u64, reason: CloseReason) {
        if self.subscribers.len() == 0 {
            return;
        }
        let connection = self.connection_number(id);
        let Some(conn) = self.conns.find(id) else { return };
        let (app, user) = (conn.app, conn.user);
        let (address, port) = conn.address();
        let frame = GatewayFrame::Event {
            event,
            connection,
            user,
            device: conn.device,
            platform: conn.platform,
            room,
            address,
            port,
            reason,
        };
        self.tell_subscribers(app, event_bit(event), user, &frame);
    }

    /// Tells those upstreams of an app that have asked for it.
    pub(super) fn tell_subscribers(
        &mut self,
        app: u32,
        bit: u16,
        user: u64,
        frame: &GatewayFrame<'_>,
    ) {
        let mut encoded = None;
        for at in self.subscribers.for_event(app, bit, user) {
            if self.post.congested(at.shard) {
                *self.lost_events.entry(at).or_default() += 1;
                continue;
            }
            let frame = encoded.get_or_insert_with(|| Bytes::from(frame.to_vec())).clone();
            self.post.send(at.shard, Mail::Event { conn: at.conn, frame });
        }
    }

    /// Tells upstreams how many events could not be mailed to them, when they can be told again.
    pub(super) fn tell_lost_events(&mut self) {
        let post = &mut self.post;
        self.lost_events.retain(|at, count| {
            let wait = post.congested(at.shard);
            if !wait {
                post.send(at.shard, Mail::EventsLost { conn: at.conn, count: *count });
            }
            wait
        });
    }

    pub(super) fn event_to_upstream(&mut self, id: ConnId, frame: &[u8]) {
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_open()) else { return };
        if conn.outbox_bytes() + frame.len() > UPSTREAM_OUTBOX_BYTES_MAX {
            return self.events_lost(id, 1);
        }
        conn.push(frame);
        self.metrics.events_total += 1;
        self.mark_ready(id);
    }

    pub(super) fn events_lost(&mut self, id: ConnId, count: u64) {
        self.metrics.events_lost_total += count;
        if let Some(upstream) = self.upstream(id) {
            upstream.events_lost += count;
        }
        self.mark_ready(id);
    }

    pub(super) fn uplink_to_upstream(&mut self, id: ConnId, from: Origin, app: u32, frame: &[u8]) {
        let tick = self.clock.tick;
        let open = self.conns.find(id).filter(|conn| conn.is_open());
        let Some(conn) = open else { return self.refuse_uplink(ticket(from), app, Code::NoAnswer) };
        let full = conn.outbox_bytes() + frame.len() > UPSTREAM_OUTBOX_BYTES_MAX;
        let Some(upstream) = conn.upstream.as_deref_mut() else { return };
        if full || !upstream.tickets.open(ticket(from), tick) {
            upstream.uplinks_lost += 1;
            self.mark_ready(id);
            return self.refuse_uplink(ticket(from), app, Code::Overloaded);
        }
        conn.push(frame);
        self.metrics.uplinks_total += 1;
        self.mark_ready(id);
    }

    fn refuse_uplink(&mut self, ticket: u128, app: u32, code: Code) {
        self.metrics.uplinks_refused_total += 1;
        self.answer_uplink(ticket, app, code, Bytes::new());
    }

    fn answer_uplink(&mut self, ticket: u128, app: u32, code: Code, payload: Bytes) {
        let (to, request) = origin_of(ticket);
        let reply = Mail::UplinkReply { conn: to.conn, app, request, code, payload };
        self.post.send(to.shard, reply);
    }

    /// Answers for upstreams that have not answered in time.
    pub(super) fn expire_uplinks(&mut self) {
        let tick = self.clock.tick;
        let mut serving = std::mem::take(&mut self.serving);
        serving.retain(|&id| {
            let Some(conn) = self.conns.find(id).filter(|conn| conn.is_open()) else {
                return false;
            };
            let app = conn.app;
            while let Some(ticket) = self.upstream(id).and_then(|it| it.tickets.expire(tick)) {
                self.refuse_uplink(ticket, app, Code::NoAnswer);
            }
            true
        });
        self.serving = serving;
    }

    /// An upstream is gone: answers for it.
    pub(super) fn abandon_uplinks(&mut self, id: ConnId) {
        let Some(conn) = self.conns.find(id) else { return };
        let app = conn.app;
        let Some(upstream) = conn.upstream.as_deref_mut() else { return };
        for ticket in upstream.tickets.take_all() {
            self.refuse_uplink(ticket, app, Code::NoAnswer);
        }
    }

    /// Tells one upstream something that must be said: an answer, or what was left out.
    pub(super) fn tell_upstream(&mut self, id: ConnId, frame: &GatewayFrame<'_>) {
        self.scratch.clear();
        frame.encode(&mut self.scratch);
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_heard()) else { return };
        conn.push(&self.scratch);
        if conn.outbox_bytes() > UPSTREAM_OUTBOX_BYTES_MAX * 2 {
            let text = "answers wait and are not read";
            return self.refuse(id, Refusal::new(CloseReason::SlowReader, text));
        }
        self.mark_ready(id);
    }

    /// The number that names a connection in logs and events: shard, generation, index.
    pub(super) fn connection_number(&self, id: ConnId) -> u64 {
        u64::from(self.me().0) << 52
            | u64::from(id.generation & 0xf_ffff) << 32
            | u64::from(id.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_leads_back_to_whoever_asked() {
        let conn = ConnId { index: 0xdead_beef, generation: 0x00ff_1234 };
        let at = ConnRef { shard: ShardIndex(513), conn };
        let origin = Origin { at, request: 0xffff_fffe, silent: false };
        assert_eq!(origin_of(ticket(origin)), (at, 0xffff_fffe));
    }
}
