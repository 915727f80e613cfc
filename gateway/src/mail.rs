//! What shards say to each other, and the queues that carry it.
//!
//! There is one bounded queue per ordered pair of shards. A mail that finds its queue full waits in
//! the sender's spill; while a spill is long, the sender refuses new messages for that shard, so
//! that nothing which was admitted is ever lost on the way.

use std::collections::VecDeque;

use barrage_router::{
    Class, Cursor, Device, Frame, Joined, Order, RoomKey, ShardIndex, Target, UserKey,
};
use barrage_sys::{ConnId, Waker};
use barrage_wire::server::Code;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::limits::{MAIL_QUEUE_MAX, MAIL_SPILL_MAX};
use crate::refusal::Refusal;
use crate::uplink::Subscriber;

/// A connection, seen from any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnRef {
    /// The shard that holds it.
    pub shard: ShardIndex,
    /// Its name there.
    pub conn: ConnId,
}

/// Who waits for an answer, and to which request.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The connection that asked.
    pub at: ConnRef,
    /// Its number for the request.
    pub request: u32,
    /// It did not ask for an answer.
    pub silent: bool,
}

/// Collects the answers of several shards to one request.
#[derive(Clone, Copy, Debug)]
pub struct TallyId {
    /// Where they are collected.
    pub shard: ShardIndex,
    /// Which collection.
    pub index: u32,
}

/// A message that was not sequenced yet.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The category, whose other rules the home looks up in the policy that it has.
    pub category: u16,
    /// What it gives way to.
    pub class: Class,
    /// It reaches everybody who keeps up at all.
    pub never_drop: bool,
    /// Answered when it is in the history log, and not before.
    pub stored: bool,
    /// A client says it, and not a service.
    pub by_client: bool,
    /// The application's own type.
    pub kind: u16,
    /// How many a tap of a combo counts for.
    pub count: u32,
    /// Not to be delivered after this, in milliseconds of the gateway's clock; 0: no limit.
    pub expires_ms: u64,
    /// The user who says it; 0 when a service does.
    pub sender: u64,
    /// Messages of one key may be merged; 0: none.
    pub key: u64,
    /// 0: none.
    pub idempotency_key: u128,
}

/// A place in a room's history.
#[derive(Clone, Copy, Debug)]
pub struct HistoryAsk {
    /// 0: by time.
    pub epoch: u64,
    /// The first message wanted.
    pub from: u64,
    /// The first moment wanted, in milliseconds since 1970.
    pub since_ms: u64,
    /// Messages wanted.
    pub count: u16,
}

/// What was said in a room before what its home remembers, for a member that comes back.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// The epoch that the member goes on in, and that epoch's newest number.
    pub epoch: u64,
    /// See `epoch`.
    pub head: u64,
    /// Encoded frames, in order: messages, what was left out, and where another epoch begins.
    pub frames: Vec<Bytes>,
}

/// A message for users whose inboxes may keep it.
#[derive(Clone, Debug)]
pub struct ToUser {
    /// About the message.
    pub head: Head,
    /// How long the inbox keeps it, in milliseconds; 0: as long as the policy says.
    pub ttl_ms: u32,
    /// The message itself.
    pub payload: Bytes,
}

/// An amount of what all shards share: of bytes to be sent, or of messages of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Bytes a second.
    Egress(u64),
    /// Messages a second.
    App {
        /// The app.
        app: u32,
        /// How many.
        per_second: u64,
    },
}

/// A message for users or a whole app, encoded once.
#[derive(Clone, Debug)]
pub struct Direct {
    /// What it gives way to.
    pub class: Class,
    /// It is not left out for a connection that does not read.
    pub never_drop: bool,
    /// The whole `ServerFrame::Direct`.
    pub frame: Bytes,
}

/// Everything that one shard can say to another.
#[derive(Debug)]
pub enum Mail {
    /// To a room's home: a connection wants to be a member.
    Join { who: ConnRef, request: u32, key: RoomKey, cursor: Option<Cursor> },
    /// From a room's home: it is counted, and frames after `joined.head` follow.
    Joined {
        conn: ConnId,
        request: u32,
        key: RoomKey,
        joined: Box<Joined>,
        earlier: Option<Box<Earlier>>,
    },
    /// To a room's home: a member on this shard is gone.
    Leave { shard: ShardIndex, key: RoomKey },
    /// To a room's home, and straight back behind what it has mailed before: a LEAVE of a client that
    /// is not a member yet.
    LeaveAsked { who: ConnRef, request: u32, key: RoomKey },
    /// From a room's home: it is back.
    LeaveAskedBack { conn: ConnId, request: u32, key: RoomKey },
    /// To a room's home: something to be said there.
    Publish { origin: Origin, key: RoomKey, head: Box<Head>, payload: Bytes },
    /// From a room's home: the next frame.
    Frame { alias: u32, frame: Frame },
    /// To the shard of whoever published: how it ended.
    Published { origin: Origin, code: Code, seq: u64 },
    /// To a user's home: a connection has come.
    UserOn { user: UserKey, who: ConnRef, device: Device },
    /// To a user's home: a connection has gone.
    UserOff { user: UserKey, who: ConnRef, device: u64 },
    /// To a user's home: a device has everything up to this number of the inbox.
    Acked { user: UserKey, who: ConnRef, device: u64, seq: u64 },
    /// To users' home: a message for each of them.
    ToUsers { tally: TallyId, app: u32, users: Vec<u64>, target: Target, message: Box<ToUser> },
    /// To a connection's shard.
    ToConn { conn: ConnId, direct: Direct },
    /// To an app's home, which passes it on to every shard.
    ToApp { tally: TallyId, app: u32, head: Box<Head>, direct: Direct },
    /// To every shard: a message for all connections of the app.
    ToAppHere { tally: TallyId, app: u32, direct: Direct },
    /// To a tally's shard: the answer of so many parts.
    Tallied { tally: TallyId, code: Code, count: u64, parts: u32 },
    /// To a user's home: close all its connections.
    Kick { tally: TallyId, user: UserKey, text: String },
    /// To a connection's shard: it is to go.
    KickConn { conn: ConnId, refusal: Box<Refusal> },
    /// To a user's home, which keeps the order: somebody is banned or muted, or no longer.
    Order { tally: TallyId, order: Box<Order> },
    /// To every shard: so it is.
    Apply { tally: TallyId, order: Box<Order> },
    /// To a room's home: a page of what was said.
    History { who: ConnRef, request: u32, key: RoomKey, ask: HistoryAsk, by_upstream: bool },
    /// From a room's home: the page, encoded; the last frame ends it.
    Page { conn: ConnId, frames: Vec<Bytes> },
    /// To the shard that divides what is scarce: what one shard would use.
    Demand { shard: ShardIndex, demand: Demand },
    /// From it: what the shard may use.
    Share { demand: Demand },
    /// To every shard: the sender drains, and nothing of its rooms comes any more.
    SaidAll,
    /// To every shard: the sender drains and has no connection left, so it asks for nothing more.
    Emptied,
    /// To every shard: an upstream wants events and uplinks.
    Subscribe(Box<Subscriber>),
    /// To every shard: an upstream is gone.
    Unsubscribe(ConnRef),
    /// To an upstream's shard: an event, encoded.
    Event { conn: ConnId, frame: Bytes },
    /// To an upstream's shard: an uplink, encoded, and who waits for its answer.
    Uplink { conn: ConnId, from: Origin, app: u32, frame: Bytes },
    /// To an upstream's shard: so many events could not even be mailed.
    EventsLost { conn: ConnId, count: u64 },
    /// To a client's shard: the answer to its uplink.
    UplinkReply { conn: ConnId, app: u32, request: u32, code: Code, payload: Bytes },
}

/// One shard's ends of all queues.
pub struct Post {
    me: ShardIndex,
    /// Mail to this very shard, and mail for queues that were full.
    spills: Vec<VecDeque<Mail>>,
    to: Vec<Sender<Mail>>,
    from: Vec<Receiver<Mail>>,
    wakers: Vec<Waker>,
    /// Shards that were mailed since they were last woken.
    mailed: Vec<bool>,
}

/// The ends of the queues between the shards that these wakers wake.
pub fn connect(wakers: &[Waker]) -> Vec<Post> {
    let shards = wakers.len();
    let mut posts: Vec<_> = (0..shards)
        .map(|me| Post {
            me: ShardIndex(me as u16),
            spills: (0..shards).map(|_| VecDeque::new()).collect(),
            to: Vec::new(),
            from: Vec::new(),
            wakers: wakers.to_vec(),
            mailed: vec![false; shards],
        })
        .collect();
    for from in 0..shards {
        for to in 0..shards {
            // A shard's mail to itself waits in its spill only.
            let (sender, receiver) = bounded(if from == to { 0 } else { MAIL_QUEUE_MAX });
            posts[from].to.push(sender);
            posts[to].from.push(receiver);
        }
    }
    posts
}

impl Post {
    /// This shard.
    pub fn me(&self) -> ShardIndex {
        self.me
    }

    /// All shards.
    pub fn shards(&self) -> u16 {
        self.to.len() as u16
    }

    /// Mails something; to itself, too.
    pub fn send(&mut self, to: ShardIndex, mail: Mail) {
        let index = usize::from(to.0);
        let spill = &mut self.spills[index];
        if to == self.me || !spill.is_empty() {
            spill.push_back(mail);
            return;
        }
        self.mailed[index] = true;
        match self.to[index].try_send(mail) {
            Ok(()) => {}
            Err(TrySendError::Full(mail)) => spill.push_back(mail),
            // A shard that has ended needs no mail: the process is going down.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Whether new messages for this shard are to be refused.
    pub fn congested(&self, to: ShardIndex) -> bool {
        self.spills[usize::from(to.0)].len() >= MAIL_SPILL_MAX
    }

    /// Whether anything is congested, so that no more work should be taken in.
    pub fn any_congested(&self) -> bool {
        self.spills.iter().any(|spill| spill.len() >= MAIL_SPILL_MAX)
    }

    /// The next mail from `shard`.
    pub fn take(&mut self, shard: usize) -> Option<Mail> {
        if shard == usize::from(self.me.0) {
            self.spills[shard].pop_front()
        } else {
            self.from[shard].try_recv().ok()
        }
    }

    /// Whether something waits to be taken, or to be passed on.
    pub fn is_empty(&self) -> bool {
        self.from.iter().all(Receiver::is_empty) && self.spills.iter().all(VecDeque::is_empty)
    }

    /// Passes on what was spilled, and wakes whoever was mailed.
    pub fn flush(&mut self) {
        for (index, spill) in self.spills.iter_mut().enumerate() {
            if index == usize::from(self.me.0) {
                continue;
            }
            while let Some(mail) = spill.pop_front() {
                match self.to[index].try_send(mail) {
                    Ok(()) => self.mailed[index] = true,
                    Err(TrySendError::Full(mail)) => {
                        spill.push_front(mail);
                        break;
                    }
                    Err(TrySendError::Disconnected(_)) => spill.clear(),
                }
            }
            if std::mem::take(&mut self.mailed[index]) {
                self.wakers[index].wake();
            }
        }
    }
}
