//! From a room's log to its members' sockets.

use barrage_router::{AppId, Class, Frame, Joined, RoomId, RoomKey};
use barrage_sys::{ConnId, Ring, SendSlice};
use barrage_wire::boundary::{tcp_boundary, ws_boundary};
use barrage_wire::server::{CLASSES, CloseReason, Code};
use barrage_wire::{GatewayFrame, ServerFrame};

use super::core::Core;
use super::lifecycle::ticks;
use crate::conn::{Conn, Flight, Mark, Membership, Phase, Role};
use crate::limits::{
    CLIENT_OUTBOX_BYTES_MAX, LINGER_MAX, STEP_READY_WORK, UPSTREAM_OUTBOX_BYTES_MAX,
};
use crate::local_room::LocalRoom;
use crate::mail::{Direct, Mail, TallyId};
use crate::refusal::Refusal;
use crate::room_log::{Batch, Lag, Transport};
use crate::walks::{send_work, visit_work};

impl Core {
    /// The room's next frame.
    pub(super) fn append(&mut self, alias: u32, frame: &Frame) {
        // Nobody here is a member any more when the last one has left meanwhile.
        if let Some(&room) = self.local.by_alias.get(&alias) {
            self.append_to(room, frame);
        }
    }

    fn append_to(&mut self, index: u32, frame: &Frame) {
        let room = &mut self.local.rooms[index as usize];
        room.log.append(frame, &mut self.local.pieces);
        room.grown(frame.class.index(), frame.bytes.len());
        if room.is_flooded() && self.local.flooded.is_none() {
            self.local.flooded = Some(index);
        }
        if let Some(class) = room.urgency() {
            self.local.walks.wait(index, class);
        }
    }

    /// A message for all connections of an app on this shard.
    pub(super) fn hand_to_app(&mut self, tally: TallyId, app: u32, direct: &Direct) {
        let mut count = 0;
        if let Some(&index) = self.local.by_app.get(&app) {
            let room = &self.local.rooms[index as usize];
            count = room.len() as u64;
            let bytes = count * direct.frame.len() as u64;
            self.guards.egress.spend(self.clock.millis(), direct.class, true, bytes);
            let frame = Frame {
                seq: room.log.head() + 1,
                class: direct.class,
                never_drop: direct.never_drop,
                category: 0,
                merged: None,
                bytes: direct.frame.clone(),
            };
            self.append_to(index, &frame);
        }
        let code = if count > 0 { Code::Ok } else { Code::Offline };
        self.post.send(tally.shard, Mail::Tallied { tally, code, count, parts: 1 });
    }

    /// A message for one connection.
    pub(super) fn hand_to_conn(&mut self, id: ConnId, direct: &Direct) {
        let Some(conn) = self.conns.find(id).filter(|conn| conn.is_open()) else { return };
        // What may be dropped leaves half of the place to what may not.
        let max = if direct.never_drop { 2 } else { 1 } * CLIENT_OUTBOX_BYTES_MAX / 2;
        let full = conn.outbox_bytes() + direct.frame.len() > max;
        if full && direct.never_drop {
            let text = "messages that may not be dropped wait and are not read";
            return self.refuse(id, Refusal::new(CloseReason::SlowReader, text));
        }
        if full {
            let mut counts = [0; CLASSES];
            counts[direct.class.index()] = 1;
            self.metrics.shed(counts);
            conn.outbox.get_or_insert_default().shed[direct.class.index()] += 1;
        } else {
            conn.push(&direct.frame);
            self.metrics.direct_total += 1;
        }
        self.mark_ready(id);
    }

    /// Makes a connection a member of its app's own room.
    pub(super) fn join_app(&mut self, id: ConnId, app: u32) -> Membership {
        let rooms = &mut self.local.rooms;
        let room = *self.local.by_app.entry(app).or_insert_with(|| {
            let key = RoomKey { app: AppId(app), room: RoomId(0) };
            rooms.insert(LocalRoom::new(key, 0, 0)) as u32
        });
        self.add_member(id, room)
    }

    /// Makes a connection a member of a room here.
    pub(super) fn join_local(&mut self, id: ConnId, key: RoomKey, joined: &Joined) -> Membership {
        let (alias, rooms) = (joined.alias.0, &mut self.local.rooms);
        let room = *self
            .local
            .by_alias
            .entry(alias)
            .or_insert_with(|| rooms.insert(LocalRoom::new(key, alias, joined.head)) as u32);
        let head = rooms[room as usize].log.head();
        assert_eq!(head, joined.head, "frames up to the head came before");
        self.add_member(id, room)
    }

    fn add_member(&mut self, id: ConnId, room: u32) -> Membership {
        let transport = self.conns.at(id.index).transport();
        let local = &mut self.local.rooms[room as usize];
        local.log.serve(transport);
        self.metrics.memberships += 1;
        Membership { room, member: local.join(id.index) }
    }

    /// Ends a membership here; says which room it was.
    pub(super) fn leave_local(&mut self, gone: Membership) -> RoomKey {
        let room = &mut self.local.rooms[gone.room as usize];
        let key = room.key;
        let moved = room.leave(gone.member, &mut self.local.pieces);
        if let Some(moved) = moved
            && let Some(membership) = self.conns.at(moved).membership_in(gone.room)
        {
            membership.member = gone.member;
        }
        self.metrics.memberships -= 1;
        if room.len() == 0 {
            let mut room = self.local.rooms.remove(gone.room as usize);
            room.log.clear(&mut self.local.pieces);
            self.local.walks.forget(gone.room);
            if key.room.0 == 0 {
                self.local.by_app.remove(&key.app.0);
            } else {
                self.local.by_alias.remove(&room.alias);
            }
        }
        key
    }

    /// A send has ended.
    pub(super) fn sent(&mut self, id: ConnId, slice: &SendSlice, result: Result<usize, i32>) {
        let Some(conn) = self.conns.find(id) else { return };
        let flight = std::mem::replace(&mut conn.flight, Flight::None);
        let count = match result {
            Ok(count) => count,
            Err(errno) => return self.ended(id, errno),
        };
        self.metrics.sends_total += 1;
        self.metrics.sent_bytes_total += count as u64;
        match flight {
            Flight::None => unreachable!("what was sent was in flight"),
            Flight::Outbox => {
                if let Role::Client(_) = conn.role {
                    let now = self.clock.millis();
                    self.guards.egress.spend(now, Class::P0, true, count as u64);
                }
                if count < slice.len() {
                    conn.outbox.get_or_insert_default().rest = Some(slice.skip(count));
                }
            }
            Flight::Room { room, frames } => {
                let frames =
                    if count == slice.len() { frames.into() } else { cut(conn, slice, count) };
                self.metrics.deliveries_total += u64::from(frames);
                if let Some(membership) = conn.membership_in(room).map(|found| *found) {
                    let room = &mut self.local.rooms[room as usize];
                    let next = room.wants(membership.member) + u64::from(frames);
                    room.advance(membership.member, next, &mut self.local.pieces);
                }
            }
            Flight::LeftRoom => {
                if count < slice.len() {
                    cut(conn, slice, count);
                }
            }
        }
        let waits = conn.outbox.is_some() || conn.phase == Phase::Closing;
        if waits || is_late(&self.local.rooms, conn) {
            self.mark_ready(id);
        }
    }

    /// Serves connections that have something of their own, or that the walks have passed by.
    pub(super) fn serve_ready<R: Ring>(&mut self, ring: &mut R) {
        let mut work = 0;
        for _ in 0..self.ready.len() {
            if work >= STEP_READY_WORK {
                return;
            }
            let Some(index) = self.ready.pop_front() else { return };
            let id = self.conns.id(index);
            let conn = self.conns.at(index);
            conn.unmark(Mark::Ready);
            work += visit_work();
            if conn.flight == Flight::None && !matches!(conn.phase, Phase::Free | Phase::Gone) {
                work += self.serve_conn(ring, id);
            }
        }
    }

    /// Says how much work it was.
    fn serve_conn<R: Ring>(&mut self, ring: &mut R, id: ConnId) -> u32 {
        let tick = self.clock.tick;
        self.declare(id);
        let conn = self.conns.at(id.index);
        let transport = conn.transport();
        if let Some(outbox) = &mut conn.outbox {
            outbox.refill(transport);
            let slice = outbox.take();
            let is_empty = outbox.is_empty();
            if is_empty {
                conn.outbox = None;
            }
            let paged = is_empty && conn.is(Mark::PageHere);
            if !slice.is_empty() {
                let work = send_work(slice.len());
                conn.takes_off(Flight::Outbox, tick);
                ring.send(id, slice);
                if paged {
                    self.paged(id);
                }
                return work;
            }
        }
        if conn.phase == Phase::Closing {
            (conn.phase, conn.since) = (Phase::Finishing, tick);
            self.wheel.look_once_after(id, tick, ticks(LINGER_MAX));
            self.finishes.push(id);
            return 0;
        }
        let rooms = &self.local.rooms;
        let late = conn.rooms.iter().filter(|at| rooms[at.room as usize].is_late(at.member));
        // Not the rooms' own urgency: that is over when the walk is, and the late are still behind.
        let most_urgent = late.min_by_key(|at| rooms[at.room as usize].urgency_for(at.member));
        most_urgent.copied().map_or(0, |membership| self.serve_member(ring, membership))
    }

    /// Says what was left out of the outbox, now that there is room to say it.
    fn declare(&mut self, id: ConnId) {
        let conn = self.conns.at(id.index);
        let shed = conn.outbox.as_mut().map(|outbox| std::mem::take(&mut outbox.shed));
        if let Some(counts) = shed.filter(|counts| *counts != [0; CLASSES]) {
            self.say(id, &ServerFrame::Shed { alias: 0, first: 0, last: 0, counts });
        }
        let conn = self.conns.at(id.index);
        let room = conn.outbox_bytes() < UPSTREAM_OUTBOX_BYTES_MAX / 2;
        if let Some(upstream) = conn.upstream.as_deref_mut()
            && room
            && (upstream.events_lost > 0 || upstream.uplinks_lost > 0)
        {
            let events = std::mem::take(&mut upstream.events_lost);
            let uplinks = std::mem::take(&mut upstream.uplinks_lost);
            self.tell_upstream(id, &GatewayFrame::Lost { events, uplinks });
        }
    }

    /// Sends a member what it wants, if that is in the window; says how much work it was.
    fn serve_member<R: Ring>(&mut self, ring: &mut R, at: Membership) -> u32 {
        let room = &self.local.rooms[at.room as usize];
        let next = room.wants(at.member);
        let index = room.conn(at.member);
        let conn = self.conns.at(index);
        let transport = conn.transport();
        if next < room.log.window_first(transport) {
            self.catch_up(at, index);
            return 0;
        }
        let batch = room.log.batch(transport, next, self.config.frames_per_send);
        let Some(Batch { slice, frames }) = batch else { return 0 };
        let work = send_work(slice.len());
        conn.takes_off(Flight::Room { room: at.room, frames }, self.clock.tick);
        ring.send(ConnId { index, generation: conn.generation }, slice);
        work
    }

    /// Tells a member what it has missed, and goes on with what the window holds.
    fn catch_up(&mut self, at: Membership, conn_index: u32) {
        let id = self.conns.id(conn_index);
        let transport = self.conns.at(conn_index).transport();
        let room = &mut self.local.rooms[at.room as usize];
        let Ok(lag) = room.log.lag(transport, room.wants(at.member)) else {
            let text = "too far behind for what may not be dropped: resume with your cursors";
            return self.refuse(id, Refusal::new(CloseReason::SlowReader, text));
        };
        let Lag { first, last, counts, kept } = lag;
        room.advance(at.member, last + 1, &mut self.local.pieces);
        let alias = room.alias;
        self.metrics.shed(counts);
        self.metrics.deliveries_total += kept.len() as u64;
        if counts != [0; CLASSES] {
            // Messages of the app carry no number.
            let (first, last) = if alias == 0 { (0, 0) } else { (first, last) };
            self.say(id, &ServerFrame::Shed { alias, first, last, counts });
        }
        // As it reads: the newest values of many states may be more than an outbox holds.
        self.say_later(id, alias, kept.into_iter());
        self.mark_ready(id);
    }

    /// Walks on, in as many rooms as a step has work for. False when nobody waits.
    pub(super) fn fan_out<R: Ring>(&mut self, ring: &mut R) -> bool {
        let mut walked = false;
        while let Some(grant) = self.local.walks.next() {
            walked = true;
            let work = self.walk(ring, grant.room, grant.work);
            let room = self.local.rooms.get(grant.room as usize);
            self.local.walks.settle(grant, work, room.and_then(LocalRoom::urgency));
        }
        walked
    }

    /// Walks on in one room until the work is done or the walk is over; says how much work it was.
    fn walk<R: Ring>(&mut self, ring: &mut R, index: u32, work_max: u32) -> u32 {
        let mut work = 0;
        while work < work_max
            && let Some(room) = self.local.rooms.get_mut(index as usize)
            && let Some(visit) = room.visit(&mut self.local.pieces)
        {
            work += visit_work();
            if visit.next > room.log.head() {
                continue;
            }
            let conn = self.conns.at(visit.conn);
            // It is looked at when its send has ended, and when its own frames are out.
            if conn.flight == Flight::None && !conn.is(Mark::Ready) {
                work += self.serve_member(ring, Membership { room: index, member: visit.member });
            }
        }
        work
    }
}

/// A send of room frames stopped in the middle. The frame that it cut has to be finished whatever
/// comes, so its rest goes to the outbox and counts as sent. Says how many frames that makes.
fn cut(conn: &mut Conn, slice: &SendSlice, count: usize) -> u32 {
    let boundary = match conn.transport() {
        Transport::Tcp => tcp_boundary(slice.bytes(), count),
        Transport::WebSocket => ws_boundary(slice.bytes(), count),
    };
    if boundary.end == count {
        return boundary.frames as u32;
    }
    let rest = slice.skip(count).first(boundary.end - count);
    conn.outbox.get_or_insert_default().rest = Some(rest);
    boundary.frames as u32 + 1
}

fn is_late(rooms: &slab::Slab<LocalRoom>, conn: &Conn) -> bool {
    conn.rooms.iter().any(|at| rooms[at.room as usize].is_late(at.member))
}
