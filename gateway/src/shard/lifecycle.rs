//! How connections come, are watched, and go.

use barrage_router::{AppId, UserId, UserKey, home_of_room, home_of_user};
use barrage_sys::{ConnId, Peer, Ring};
use barrage_wire::codec::Text;
use barrage_wire::server::CloseReason;
use barrage_wire::upstream::EventKind;
use barrage_wire::{GatewayFrame, ServerFrame, ws};

use super::TICK_US;
use super::core::{Core, Drain};
use crate::conn::{Conn, Flight, Input, Mark, Phase, Role};
use crate::limits::{
    CLIENTS_REFUSED_MAX, DRAIN_WALKS_MAX, FRAME_MAX, HELLO_MAX, IDLE_MAX, INPUT_BYTES_MAX,
    LINGER_MAX, SEND_STALL_MAX, SERVICES_PER_SHARD_MAX, SERVICES_REFUSED_MAX,
};
use crate::mail::Mail;
use crate::refusal::Refusal;
use crate::room_log::Transport;

/// Connections told to go in one step of a drain.
const DRAIN_STEP: usize = 512;

/// There are more connections of a kind than may be.
enum Over {
    /// The newest can be told.
    Little,
    /// There is not even place for that.
    Far,
}

pub(super) const fn ticks(time: std::time::Duration) -> u32 {
    time.as_micros().div_ceil(TICK_US as u128) as u32
}

impl Core {
    pub(super) fn accepted(&mut self, id: ConnId, role: Role, peer: Peer) {
        self.conns.insert(id, Conn::accepted(id.generation, role, peer, self.clock.tick));
        self.connections += 1;
        self.services += u32::from(role == Role::Upstream);
        self.metrics.accepted_total += 1;
        self.wheel.look_after(id, self.clock.tick, ticks(HELLO_MAX));
        let over = self.over_limit(role);
        self.metrics.refused_full_total += u64::from(over.is_some());
        match over {
            // So many are being told already that there is no place for one more.
            Some(Over::Far) => self.close(id),
            _ if self.draining.is_some() => {
                self.refuse(id, Refusal::new(CloseReason::Draining, "the gateway is going away"));
            }
            Some(Over::Little) => {
                let text = "this core of the gateway is full: try again";
                self.refuse(id, Refusal::new(CloseReason::Full, text));
            }
            None => {}
        }
    }

    /// Clients and services have places of their own, so that neither keeps the other out.
    fn over_limit(&self, role: Role) -> Option<Over> {
        let (count, max, refused_max) = match role {
            Role::Client(_) => {
                let clients = self.connections - self.services;
                (clients, self.config.connections, CLIENTS_REFUSED_MAX)
            }
            Role::Upstream => (self.services, SERVICES_PER_SHARD_MAX, SERVICES_REFUSED_MAX),
        };
        match count.saturating_sub(max) {
            0 => None,
            over if over <= refused_max => Some(Over::Little),
            _ => Some(Over::Far),
        }
    }

    pub(super) fn received(&mut self, id: ConnId, bytes: &mut [u8]) {
        let tick = self.clock.tick;
        self.metrics.received_bytes_total += bytes.len() as u64;
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_heard()) else { return };
        if conn.heard / 10 != tick / 10 {
            conn.frames_this_second = 0;
        }
        conn.heard = tick;
        let mut input = conn.input.take();
        let result = match &mut input {
            Some(input) => {
                input.bytes.extend_from_slice(bytes);
                let mut whole = std::mem::take(&mut input.bytes);
                self.parse(id, &mut whole, &mut input.fragments).map(|parsed| {
                    whole.drain(..parsed.used);
                    input.bytes = whole;
                    parsed.whole
                })
            }
            None => {
                let mut fragments = ws::Inbound::default();
                self.parse(id, bytes, &mut fragments).map(|parsed| {
                    if parsed.used < bytes.len() || fragments.is_assembling() {
                        let rest = bytes[parsed.used..].to_vec();
                        input = Some(Box::new(Input { bytes: rest, fragments, since: tick }));
                    }
                    true
                })
            }
        };
        match result {
            Ok(progress) => self.keep_input(id, input, progress),
            Err(refusal) => self.refuse(id, refusal),
        }
    }

    /// Puts an unfinished frame aside; `progress` says that it is another one than before.
    fn keep_input(&mut self, id: ConnId, input: Option<Box<Input>>, progress: bool) {
        let tick = self.clock.tick;
        let Some(mut input) = input else { return };
        if input.bytes.is_empty() && !input.fragments.is_assembling() {
            return;
        }
        if input.bytes.len() > INPUT_BYTES_MAX {
            let text = "an unfinished frame is longer than any may be";
            return self.refuse(id, Refusal::new(CloseReason::Protocol, text));
        }
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_heard()) else { return };
        if progress || input.since == 0 {
            input.since = tick;
        }
        conn.input = Some(input);
        if conn.mark(Mark::FrameWatched) {
            self.wheel.look_once_after(id, tick, ticks(FRAME_MAX));
        }
    }

    /// Nothing will come from this connection any more.
    pub(super) fn ended(&mut self, id: ConnId, errno: i32) {
        let reason = if errno == 0 { CloseReason::PeerClosed } else { CloseReason::Socket };
        self.detach(id, reason);
        self.close(id);
    }

    pub(super) fn close(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.find(id)
            && conn.phase != Phase::Gone
        {
            conn.phase = Phase::Gone;
            self.closes.push(id);
        }
    }

    pub(super) fn closed(&mut self, id: ConnId) {
        let is_service = self.conns.find(id).is_some_and(|conn| conn.role == Role::Upstream);
        self.services -= u32::from(is_service);
        self.conns.remove(id);
        self.connections -= 1;
        self.metrics.closed_total += 1;
    }

    /// Tells a connection why it has to go, and lets it go when it was told.
    pub(super) fn refuse(&mut self, id: ConnId, refusal: Refusal) {
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_heard()) else { return };
        let handshaking = conn.phase == Phase::Handshake;
        if let Some(outbox) = &mut conn.outbox {
            // It comes back and resumes: what waits is not lost, and would only be in the way.
            outbox.later.clear();
            outbox.later_bytes = 0;
            if refusal.reason == CloseReason::SlowReader {
                outbox.bytes.clear();
            }
        }
        self.count_refusal(refusal.reason);
        tracing::debug!(
            connection = format_args!("{:x}", self.connection_number(id)),
            reason = refusal.reason.name(),
            text = %refusal.text,
            "closing a connection"
        );
        self.detach(id, refusal.reason);
        self.scratch.clear();
        let Some(conn) = self.conns.find(id) else { return };
        conn.phase = Phase::Closing;
        conn.since = self.clock.tick;
        conn.input = None;
        match conn.role {
            Role::Client(_) if handshaking => {
                conn.push_raw(|out| match &refusal.handshake {
                    Some(error) => ws::write_refusal(error, out),
                    None => write_unavailable(&refusal.text, out),
                });
            }
            Role::Client(transport) => {
                let Refusal { reason, retry_after_ms, ref text, .. } = refusal;
                ServerFrame::Close { reason, retry_after_ms, text: Text(text) }
                    .encode(&mut self.scratch);
                conn.push(&self.scratch);
                if transport == Transport::WebSocket {
                    conn.push_raw(|out| {
                        ws::put_close(out, None, refusal.ws_code, refusal.reason.name());
                    });
                }
            }
            Role::Upstream => {
                GatewayFrame::Close { reason: refusal.reason, text: Text(&refusal.text) }
                    .encode(&mut self.scratch);
                conn.push(&self.scratch);
            }
        }
        self.wheel.look_once_after(id, self.clock.tick, ticks(LINGER_MAX));
        self.mark_ready(id);
    }

    fn count_refusal(&mut self, reason: CloseReason) {
        let counter = match reason {
            CloseReason::Protocol | CloseReason::Version | CloseReason::Token => {
                &mut self.metrics.protocol_errors_total
            }
            CloseReason::HelloTimeout | CloseReason::FrameTimeout | CloseReason::Idle => {
                &mut self.metrics.timeouts_total
            }
            CloseReason::SlowReader => &mut self.metrics.slow_readers_total,
            CloseReason::RateLimited | CloseReason::Credits => &mut self.metrics.rate_limited_total,
            CloseReason::PeerClosed
            | CloseReason::Draining
            | CloseReason::Full
            | CloseReason::Replaced
            | CloseReason::Kicked
            | CloseReason::Banned
            | CloseReason::Socket => return,
        };
        *counter += 1;
    }

    /// Takes a connection out of everything that it is part of.
    pub(super) fn detach(&mut self, id: ConnId, reason: CloseReason) {
        let here = self.here(id);
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_open()) else { return };
        conn.phase = Phase::Closing;
        conn.since = self.clock.tick;
        if let Flight::Room { .. } = conn.flight {
            conn.flight = Flight::LeftRoom;
        }
        let user = UserKey { app: AppId(conn.app), user: UserId(conn.user) };
        let device = conn.device;
        match conn.role {
            Role::Client(_) => {
                while let Some(conn) = self.conns.find(id)
                    && let Some(membership) = conn.rooms.pop()
                {
                    let key = self.leave_local(membership);
                    if key.room.0 != 0 {
                        let home = home_of_room(key, self.shards());
                        self.post.send(home, Mail::Leave { shard: here.shard, key });
                        // Only the disconnect says why.
                        self.emit(EventKind::Leave, id, key.room.0, CloseReason::PeerClosed);
                    }
                }
                let home = home_of_user(user, self.shards());
                self.post.send(home, Mail::UserOff { user, who: here, device });
                self.emit(EventKind::Disconnect, id, 0, reason);
                self.metrics.clients -= 1;
            }
            Role::Upstream => {
                if conn.upstream.as_ref().is_some_and(|upstream| upstream.subscribed) {
                    self.tell_all(|| Mail::Unsubscribe(here));
                }
                self.abandon_uplinks(id);
                self.metrics.upstreams -= 1;
            }
        }
    }

    /// Moves the wheel on; looks at whoever is due.
    pub(super) fn tick(&mut self) -> bool {
        let mut ticked = false;
        while let Some(due) = self.wheel.turn(self.clock.tick) {
            ticked = true;
            for look in due {
                self.look(look.conn, look.once);
            }
        }
        // Once, however many ticks have passed: a core that was held up has no more to say.
        if ticked {
            self.sweep_rooms();
            self.sweep_orders();
            self.divide();
            self.expire_uplinks();
            self.tell_lost_events();
        }
        ticked
    }

    fn look(&mut self, id: ConnId, once: bool) {
        let now = self.clock.tick;
        let Some(conn) = self.conns.find(id) else { return };
        let since = now.wrapping_sub(conn.since);
        if once && conn.is_heard() {
            conn.unmark(Mark::FrameWatched);
        }
        let again = match conn.phase {
            Phase::Free | Phase::Gone => return,
            Phase::Handshake | Phase::Hello => match ticks(HELLO_MAX).checked_sub(since) {
                Some(left) if left > 0 => left,
                _ => {
                    let text = "no HELLO within 10 seconds";
                    return self.refuse(id, Refusal::new(CloseReason::HelloTimeout, text));
                }
            },
            Phase::Open => match overdue(conn, now) {
                Some(refusal) => return self.refuse(id, refusal),
                None => ticks(SEND_STALL_MAX),
            },
            Phase::Closing | Phase::Finishing => {
                if since >= ticks(LINGER_MAX) {
                    return self.close(id);
                }
                ticks(LINGER_MAX) - since
            }
        };
        let Some(conn) = self.conns.find(id).filter(|_| once) else {
            return self.wheel.look_after(id, now, again);
        };
        // The frame that was watched is finished; another one may have begun meanwhile.
        let began = conn.input.as_ref().filter(|_| conn.phase == Phase::Open);
        if let Some(began) = began.map(|input| input.since) {
            conn.mark(Mark::FrameWatched);
            let left = ticks(FRAME_MAX).saturating_sub(now.wrapping_sub(began));
            self.wheel.look_once_after(id, now, left.max(1));
        }
    }

    /// Everybody is to go, when they have what was admitted before.
    pub(super) fn start_drain(&mut self) {
        let everybody = self.conns.ids().collect();
        let rooms = self.homes.rooms.iter().map(|(index, _)| index as u32).collect();
        let since = self.clock.tick;
        self.draining = Some(Drain { since, everybody, rooms, said_all: false, emptied: false });
    }

    /// Whether nobody is left who could ask anything of any shard.
    pub(super) fn is_over(&self) -> bool {
        self.emptied >= self.post.shards()
    }

    /// Whether nothing more is admitted.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Tells some of those that are to go.
    pub(super) fn drain_some(&mut self) {
        if self.post.any_congested() {
            return;
        }
        self.close_rooms();
        let is_answering = self.is_storing() || !self.tallies.is_empty();
        let Some(drain) = &mut self.draining else { return };
        let in_time = self.clock.tick.wrapping_sub(drain.since) < ticks(DRAIN_WALKS_MAX);
        let owes_answers = (is_answering || !drain.rooms.is_empty()) && in_time;
        if !drain.said_all && !owes_answers {
            drain.said_all = true;
            // Behind the last frames of its rooms, and the last answers.
            self.tell_all(|| Mail::SaidAll);
        }
        let rooms = &self.local.rooms;
        let behind = rooms.iter().any(|(_, room)| room.is_behind());
        let walking =
            behind || self.said_all < self.post.shards() || self.local.walks.any_waits_or_rests();
        if walking && in_time {
            return;
        }
        // Answers that have come in this step are still to be given.
        self.write_replies();
        for _ in 0..DRAIN_STEP {
            let Some(id) = self.draining.as_mut().and_then(|drain| drain.everybody.pop()) else {
                return self.tell_emptied();
            };
            let text = "the gateway is going away: connect again, to another one if there is";
            self.refuse(id, Refusal::new(CloseReason::Draining, text));
        }
    }

    /// The last connection is gone: the others need not wait for this shard.
    fn tell_emptied(&mut self) {
        if self.is_empty()
            && let Some(drain) = &mut self.draining
            && !std::mem::replace(&mut drain.emptied, true)
        {
            self.tell_all(|| Mail::Emptied);
        }
    }

    /// Ends connections that were flushed, and those that are gone.
    pub(super) fn close_some<R: Ring>(&mut self, ring: &mut R) {
        self.finishes.drain(..).for_each(|id| ring.finish(id));
        self.closes.drain(..).for_each(|id| ring.close(id));
    }
}

fn overdue(conn: &Conn, now: u32) -> Option<Refusal> {
    let over = |since: u32, max| now.wrapping_sub(since) >= ticks(max);
    if conn.flight != Flight::None && over(conn.since, SEND_STALL_MAX) {
        let text = "nothing was read for 30 seconds: resume with your cursors";
        return Some(Refusal::new(CloseReason::SlowReader, text));
    }
    if conn.input.as_ref().is_some_and(|input| over(input.since, FRAME_MAX)) {
        let text = "a frame was not finished within 10 seconds";
        return Some(Refusal::new(CloseReason::FrameTimeout, text));
    }
    over(conn.heard, IDLE_MAX).then(|| {
        let text = "nothing was heard for longer than two heartbeats: send PING";
        Refusal::new(CloseReason::Idle, text)
    })
}

/// The answer to a WebSocket handshake that is not at fault itself.
fn write_unavailable(text: &str, out: &mut Vec<u8>) {
    let length = text.len() + 1;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain; \
         charset=utf-8\r\nContent-Length: {length}\r\n\r\n{text}\n"
    );
    out.extend_from_slice(answer.as_bytes());
}
