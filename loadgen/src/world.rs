//! What all clients of the network thread have in common: the plan, the clock and the counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::latency::Latencies;
use crate::ledger::Tally;
use crate::plan::{Plan, Rooms};
use crate::shared::Errand;
use crate::stamp::Stamp;
use crate::watch::Watch;

/// Different reasons for lost connections that are told apart.
const FAULTS_MAX: usize = 32;
const FAULT_OTHER: &str = "other reasons";
const NS_PER_US: u64 = 1000;

/// How many clients are where.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Have had everything that they asked for, WELCOME and every JOINED.
    pub ready: u64,
    /// Ended before that.
    pub failed: u64,
    /// Ended after that.
    pub lost: u64,
}

/// Uplinks and their answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct UplinkCounts {
    /// Sent.
    pub sent: u64,
    /// Answered by the upstream.
    pub answered: u64,
    /// Answered by the gateway instead, with a code that is not OK.
    pub refused: u64,
    /// Those of them that were too many.
    pub limited: u64,
    /// Unanswered when the client's connection ended.
    pub disconnected: u64,
}

/// One of the rooms that are accounted for.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomBook {
    /// Its head when it was joined.
    pub head: u64,
    /// Clients that got ready in it.
    pub ready: u64,
}

/// Joining and leaving after the ramp.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errands {
    /// What is going on.
    pub now: Option<Errand>,
    /// The client whose turn is next.
    pub next: usize,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Rooms that were joined.
    pub joined: u64,
    /// Rooms that were left.
    pub left: u64,
    /// Joins and leaves that the gateway has refused.
    pub refused: u64,
}

/// Everything that the clients share.
pub struct World {
    /// What they are to do.
    pub plan: Arc<Plan>,
    /// The time of the event that is being handled.
    pub now_ns: u64,
    /// Messages that were to be sent before this are not measured.
    pub from_ns: u64,
    /// No uplinks after this.
    pub to_ns: u64,
    /// How many clients are where.
    pub counts: Counts,
    /// What became of messages.
    pub tally: Tally,
    /// What became of uplinks.
    pub uplinks: UplinkCounts,
    /// From the intended time of sending.
    pub latencies: Latencies,
    /// From the actual time of sending.
    pub uncorrected: Latencies,
    /// The rooms that are accounted for: the last ones of the plan.
    pub rooms: Vec<RoomBook>,
    /// What the first client of each of them has seen, if the plan wants it.
    pub watches: Vec<Watch>,
    /// Joining and leaving after the ramp.
    pub errands: Errands,
    /// Bytes that the gateway has sent.
    pub received_bytes: u64,
    /// When the last message arrived.
    pub last_delivery_ns: u64,
    /// What the gateway said in WELCOME.
    pub heartbeat_s: u16,
    /// Why connections ended, and how many.
    pub faults: BTreeMap<String, u64>,
    /// Frames that the client being served says.
    pub say: Vec<u8>,
    /// Bytes that the client being served sends besides: WebSocket control frames.
    pub say_raw: Vec<u8>,
}

impl World {
    /// Nothing has happened yet.
    pub fn new(plan: Arc<Plan>) -> Self {
        let rooms = plan.rooms.last().map_or(0, |rooms| rooms.count());
        Self {
            rooms: vec![RoomBook::default(); rooms],
            watches: vec![Watch::default(); if plan.watched { rooms } else { 0 }],
            errands: Errands::default(),
            received_bytes: 0,
            plan,
            now_ns: 0,
            from_ns: u64::MAX,
            to_ns: 0,
            counts: Counts::default(),
            tally: Tally::default(),
            uplinks: UplinkCounts::default(),
            latencies: Latencies::default(),
            uncorrected: Latencies::default(),
            last_delivery_ns: 0,
            heartbeat_s: 0,
            faults: BTreeMap::new(),
            say: Vec::new(),
            say_raw: Vec::new(),
        }
    }

    /// Which of the rooms that are accounted for is client `k`'s.
    pub fn room_of(&self, k: usize) -> Option<usize> {
        self.plan.rooms.last().map(|rooms: &Rooms| rooms.index(k as u32))
    }

    /// A message, or the answer to an uplink, has come.
    #[inline]
    pub fn record(&mut self, payload: &[u8]) {
        let Some(stamp) = Stamp::read(payload) else { return };
        if stamp.intended_ns < self.from_ns {
            return;
        }
        let latency_ns = self.now_ns.saturating_sub(stamp.intended_ns);
        self.latencies.record_ns(latency_ns);
        if self.plan.paced {
            let lag_ns = u64::from(stamp.lag_us) * NS_PER_US;
            self.uncorrected.record_ns(latency_ns.saturating_sub(lag_ns));
        }
    }

    /// Remembers why a connection has ended.
    pub fn fault(&mut self, why: String) {
        let full = self.faults.len() >= FAULTS_MAX && !self.faults.contains_key(&why);
        *self.faults.entry(if full { FAULT_OTHER.to_owned() } else { why }).or_default() += 1;
    }
}
