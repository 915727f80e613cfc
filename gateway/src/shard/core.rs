//! A shard's state, and which part of it every event and every mail is for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use ahash::AHashMap;
use barrage_router::{
    AppId, Frame, HistoryLimits, MergeId, Millis, Room, RoomKey, Seen, ShardIndex, Target,
};
use barrage_sys::{ConnId, Event};
use barrage_wire::server::Code;
use slab::Slab;

use super::TICK_US;
use super::guards::Guards;
use super::history::History;
use super::home::{Aliases, Epochs};
use super::inbox::Inboxes;
use super::publish::Waiter;
use crate::auth::Auth;
use crate::conn::{Conns, Mark, Role};
use crate::directory::Directory;
use crate::limits::{IDEMPOTENCY_KEYS_MAX, ROOMS_PER_HOME_MAX};
use crate::local_room::LocalRoom;
use crate::mail::{ConnRef, Head, Mail, Origin, Post, TallyId};
use crate::metrics::Metrics;
use crate::policy_file::Rules;
use crate::room_log::Pieces;
use crate::uplink::Subscribers;
use crate::walks::Walks;
use crate::wheel::Wheel;

/// What a shard is told when it is made.
#[derive(Clone)]
pub struct ShardConfig {
    /// Clients' connections that it may hold.
    pub connections: u32,
    /// Slots of one of its rings.
    pub slots_per_ring: u32,
    /// Frames that a client may send in one second.
    pub client_frames_per_second: u32,
    /// Frames of a room that one send may carry.
    pub frames_per_send: u16,
    /// The share of the core that one room's fan-out may use, in percent.
    pub pace_percent: u32,
    /// What rooms remember.
    pub history: HistoryLimits,
    /// How tokens are checked.
    pub auth: Auth,
    /// The rules in force.
    pub rules: Arc<Rules>,
    /// What the gateway's clock has to be added to, to be milliseconds since 1970.
    pub unix_ms: u64,
    /// Different at every start, and rising: epochs are made of it.
    pub epoch: u64,
}

/// The gateway's time, the same on all shards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    pub us: u64,
    /// Ticks of `limits::TICK`.
    pub tick: u32,
}

impl Clock {
    pub(super) fn set(&mut self, us: u64) {
        self.us = self.us.max(us);
        self.tick = (self.us / TICK_US) as u32;
    }

    pub(super) fn millis(self) -> barrage_router::Millis {
        barrage_router::Millis(self.us / 1000)
    }
}

/// A room at its home.
pub(super) struct HomeRoom {
    pub room: Room,
    /// When it is looked at next, if it is.
    pub armed: Option<Millis>,
    /// Bytes of what it remembers, as they were counted last.
    pub counted_bytes: usize,
}

/// Rooms whose home this is, and what homes know besides.
pub(super) struct Homes {
    pub rooms: Slab<HomeRoom>,
    pub by_key: AHashMap<RoomKey, u32>,
    /// Rooms that have something to do at some moment: those that are armed.
    pub due: BTreeSet<(Millis, u32)>,
    /// Publishes that wait for a message that carries them, by room, identity and kind of frame.
    pub merged: AHashMap<(u32, MergeId, u8), Vec<Waiter>>,
    /// Bytes that rooms remember.
    pub history_bytes: usize,
    pub users: Directory,
    pub inboxes: Inboxes,
    pub seen: Seen,
    /// Where the search for idle rooms goes on.
    pub sweep: usize,
    pub epochs: Epochs,
    /// Rooms that there may be. A field, so that tests need not make millions.
    pub rooms_max: usize,
    /// How many of them are whose.
    pub by_app: AHashMap<AppId, usize>,
    pub aliases: Aliases,
}

/// Rooms with members here.
#[derive(Default)]
pub(super) struct Local {
    pub rooms: Slab<LocalRoom>,
    pub by_alias: AHashMap<u32, u32>,
    pub by_app: AHashMap<u32, u32>,
    pub pieces: Pieces,
    /// Those with something to send.
    pub walks: Walks,
    /// A room that was given more than one walk can carry.
    pub flooded: Option<u32>,
}

/// Answers of several shards to one request, as far as they have come.
pub(super) struct Tally {
    pub to: TallyEnd,
    pub code: Code,
    pub count: u64,
    pub parts_left: u32,
}

/// A shard that is to end.
pub(super) struct Drain {
    /// The tick at which it was told so.
    pub since: u32,
    /// Those who were not told yet.
    pub everybody: Vec<ConnId>,
    /// Rooms that have not said yet what they have kept back.
    pub rooms: Vec<u32>,
    /// Its rooms have said what they had kept back, every answer was given, and all shards know.
    pub said_all: bool,
    /// It has no connection left, and all shards know.
    pub emptied: bool,
}

/// Who gets the sum of a tally.
pub(super) enum TallyEnd {
    /// Whoever has asked.
    Origin(Origin),
    /// Another tally, of which it is one part. Remembered for the key of the message.
    Part { of: TallyId, app: u32, target: Target, head: Head },
}

/// Everything that a shard knows, without the ring.
pub struct Core {
    pub(super) config: ShardConfig,
    pub(super) clock: Clock,
    pub(super) conns: Conns,
    /// All connections, and those of services among them.
    pub(super) connections: u32,
    pub(super) services: u32,
    pub(super) local: Local,
    pub(super) homes: Homes,
    pub(super) history: Option<History>,
    pub(super) guards: Guards,
    pub(super) post: Post,
    pub(super) tallies: Slab<Tally>,
    pub(super) subscribers: Subscribers,
    pub(super) wheel: Wheel,
    /// Connections to which something can be sent now.
    pub(super) ready: VecDeque<u32>,
    /// Upstreams with answers to be written.
    pub(super) replying: Vec<ConnId>,
    /// Events that could not be mailed to an upstream's shard. One entry per subscriber at most.
    pub(super) lost_events: AHashMap<ConnRef, u64>,
    /// Upstreams that serve uplinks, which may have to be answered for.
    pub(super) serving: Vec<ConnId>,
    pub(super) finishes: Vec<ConnId>,
    pub(super) closes: Vec<ConnId>,
    pub(super) draining: Option<Drain>,
    /// Shards that drain and have nothing more to say.
    pub(super) said_all: u16,
    /// Shards that drain and have no connection left.
    pub(super) emptied: u16,
    pub(super) metrics: Metrics,
    /// For encoding a frame that is copied at once.
    pub(super) scratch: Vec<u8>,
    /// Bytes copied for users in this step.
    pub(super) worked_bytes: usize,
    /// For what a room says at once.
    pub(super) frames: Vec<Frame>,
}

impl Core {
    pub(super) fn new(config: ShardConfig, post: Post) -> Self {
        let homes = Homes {
            rooms: Slab::new(),
            by_key: AHashMap::new(),
            due: BTreeSet::new(),
            merged: AHashMap::new(),
            history_bytes: 0,
            users: Directory::new(),
            inboxes: Inboxes::default(),
            seen: Seen::new(IDEMPOTENCY_KEYS_MAX),
            sweep: 0,
            epochs: Epochs::new(config.epoch),
            rooms_max: ROOMS_PER_HOME_MAX,
            by_app: AHashMap::new(),
            aliases: Aliases::default(),
        };
        let mut core = Self {
            conns: Conns::new(config.slots_per_ring),
            clock: Clock::default(),
            connections: 0,
            services: 0,
            local: Local { walks: Walks::new(config.pace_percent), ..Local::default() },
            config,
            homes,
            history: None,
            guards: Guards::new(),
            post,
            tallies: Slab::new(),
            subscribers: Subscribers::default(),
            wheel: Wheel::new(0),
            ready: VecDeque::new(),
            replying: Vec::new(),
            lost_events: AHashMap::new(),
            serving: Vec::new(),
            finishes: Vec::new(),
            closes: Vec::new(),
            draining: None,
            said_all: 0,
            emptied: 0,
            metrics: Metrics::default(),
            scratch: Vec::new(),
            worked_bytes: 0,
            frames: Vec::new(),
        };
        core.rules_changed();
        core
    }

    /// Other rules come into force.
    pub(super) fn set_rules(&mut self, rules: Arc<Rules>) {
        self.config.rules = rules;
        self.rules_changed();
        // What waits may go out sooner, or at once; a room in which nothing waits looks at the rules
        // when something is said.
        let now = self.clock.millis();
        let armed: Vec<u32> = self.homes.due.iter().map(|&(_, index)| index).collect();
        armed.into_iter().for_each(|index| self.homes.arm_at(index, Some(now)));
    }

    /// Milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        self.config.unix_ms + self.clock.us / 1000
    }

    /// What the ring says.
    pub(super) fn event(&mut self, event: Event<'_>, roles: &[Role]) {
        match event {
            Event::Accepted { conn, listener, peer } => self.accepted(conn, roles[listener], peer),
            Event::Received { conn, bytes } => self.received(conn, bytes),
            Event::Sent { conn, slice, result } => self.sent(conn, &slice, result),
            Event::Ended { conn, errno } => self.ended(conn, errno),
            Event::Closed { conn } => self.closed(conn),
            Event::Connected { .. } => unreachable!("a shard connects to nobody"),
        }
    }

    /// What a shard says, this one included.
    pub(super) fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Join { who, request, key, cursor } => {
                self.home_join(who, request, key, cursor);
            }
            Mail::Joined { conn, request, key, joined, earlier } => {
                self.joined(conn, request, key, *joined, earlier);
            }
            Mail::Leave { shard, key } => self.home_leave(shard, key),
            Mail::LeaveAsked { who, request, key } => self.home_leave_asked(who, request, key),
            Mail::LeaveAskedBack { conn, request, key } => self.leave_asked(conn, request, key),
            Mail::Publish { origin, key, head, payload } => {
                self.home_publish(origin, key, &head, &payload);
            }
            Mail::Frame { alias, frame } => self.append(alias, &frame),
            Mail::Published { origin, code, seq } => self.published(origin, code, seq),
            Mail::UserOn { user, who, device } => self.home_user_on(user, who, device),
            Mail::UserOff { user, who, device } => self.home_user_off(user, who, device),
            Mail::Acked { user, who, device, seq } => self.home_acked(user, who, device, seq),
            Mail::ToUsers { tally, app, users, target, message } => {
                self.home_to_users(tally, app, &users, target, &message);
            }
            Mail::ToConn { conn, direct } => self.hand_to_conn(conn, &direct),
            Mail::ToApp { tally, app, head, direct } => {
                self.home_to_app(tally, app, &head, &direct)
            }
            Mail::ToAppHere { tally, app, direct } => self.hand_to_app(tally, app, &direct),
            Mail::Tallied { tally, code, count, parts } => {
                self.tallied(tally, code, count, parts);
            }
            Mail::Kick { tally, user, text } => self.home_kick(tally, user, &text),
            Mail::KickConn { conn, refusal } => self.refuse(conn, *refusal),
            Mail::Order { tally, order } => self.home_order(tally, *order),
            Mail::Apply { tally, order } => self.apply_order(tally, &order),
            Mail::History { who, request, key, ask, by_upstream } => {
                self.home_history(who, request, key, ask, by_upstream);
            }
            Mail::Page { conn, frames } => self.page(conn, frames),
            Mail::Demand { shard, demand } => self.demanded(shard, demand),
            Mail::Share { demand } => self.shared(demand),
            Mail::SaidAll => self.said_all += 1,
            Mail::Emptied => self.emptied += 1,
            Mail::Subscribe(subscriber) => self.subscribers.insert(*subscriber),
            Mail::Unsubscribe(at) => self.subscribers.remove(at),
            Mail::Event { conn, frame } => self.event_to_upstream(conn, &frame),
            Mail::Uplink { conn, from, app, frame } => {
                self.uplink_to_upstream(conn, from, app, &frame);
            }
            Mail::EventsLost { conn, count } => self.events_lost(conn, count),
            Mail::UplinkReply { conn, app, request, code, payload } => {
                self.uplink_reply(conn, app, request, code, &payload);
            }
        }
    }

    /// This shard.
    pub(super) fn me(&self) -> ShardIndex {
        self.post.me()
    }

    /// A connection of this shard, for others.
    pub(super) fn here(&self, conn: ConnId) -> ConnRef {
        ConnRef { shard: self.me(), conn }
    }

    /// Something can be sent to this connection.
    pub(super) fn mark_ready(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.find(id)
            && conn.mark(Mark::Ready)
        {
            self.ready.push_back(id.index);
        }
    }

    /// Whether a room has to be walked before anything else is taken in.
    pub(super) fn is_flooded(&mut self) -> bool {
        let rooms = &self.local.rooms;
        let room = self.local.flooded.and_then(|index| rooms.get(index as usize));
        if !room.is_some_and(LocalRoom::is_flooded) {
            // Another one that is flooded, too, is found by its next frame.
            self.local.flooded = None;
        }
        self.local.flooded.is_some()
    }

    /// Whether the next step has work already.
    pub(super) fn has_more(&self) -> bool {
        !self.ready.is_empty()
            || self.local.walks.any_waits()
            || !self.closes.is_empty()
            || self.draining.as_ref().is_some_and(|drain| !drain.everybody.is_empty())
    }

    /// How long nothing is to be done by itself.
    pub(super) fn sleep_us(&self) -> u64 {
        let tick = TICK_US - self.clock.us % TICK_US;
        let rested = self.local.walks.next_rested_us();
        let room = self.homes.due.first().map(|&(due, _)| due);
        let homes = room.into_iter().chain(self.inboxes_due()).map(|due| due.0 * 1000);
        let next = rested.into_iter().chain(homes).map(|at| at.saturating_sub(self.clock.us)).min();
        next.map_or(tick, |next| next.clamp(1, tick))
    }

    /// Whether no connection is left.
    pub(super) fn is_empty(&self) -> bool {
        self.connections == 0
    }

    pub(super) fn snapshot(&self) -> Metrics {
        Metrics {
            connections: u64::from(self.connections),
            rooms_home: self.homes.rooms.len() as u64,
            rooms_local: self.local.rooms.len() as u64,
            log_bytes: self.local.pieces.in_use() as u64,
            rooms_memory_bytes: self.homes.history_bytes as u64,
            inboxes: self.homes.inboxes.len() as u64,
            egress_fullness_permille: self.egress_fullness(),
            history_failing: u64::from(self.history.is_some() && !self.stores()),
            ..self.metrics.clone()
        }
    }
}
