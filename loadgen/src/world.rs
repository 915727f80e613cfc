//! What all clients of the network thread have in common: the plan, the clock and the counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::latency::Summary;
use crate::ledger::{Epochs, Tally};
use crate::plan::Plan;
use crate::record::{self, Times, Timings};
use crate::shared::Errand;
use crate::stamp::Stamp;
use crate::watch::Watch;

/// Different reasons for lost connections that are told apart.
const FAULTS_MAX: usize = 32;
const FAULT_OTHER: &str = "other reasons";
/// Spans before the present one of which late messages are still timed.
const PAST_SPANS_MAX: usize = 8;
const NS_PER_US: u64 = 1000;

/// How many clients are where.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Have once had everything that they asked for, WELCOME and every JOINED.
    pub ready: u64,
    /// Ended before that.
    pub failed: u64,
    /// Connections that ended after that although nobody had asked for it.
    pub lost: u64,
    /// Connections that were ended on purpose.
    pub dropped: u64,
    /// Clients that got ready again.
    pub reconnected: u64,
    /// Clients that were ready once and tried in vain to come back.
    pub unreturned: u64,
    /// Clients that are ready now.
    pub here: u64,
    /// Connections that are on their way to be ready.
    pub in_flight: u64,
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
    /// Its head when it was first joined.
    pub head: u64,
    /// The newest number that was heard, where nobody else says one.
    pub newest: u64,
    /// Clients that got ready in it.
    pub ready: u32,
    /// The number of the newest epoch that was heard of.
    pub epoch: u32,
    /// Whether anybody has joined it.
    pub joined: bool,
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

/// A span of time that is over, and what was timed of its messages since anybody asked.
struct Past {
    phase: usize,
    from_ns: u64,
    until_ns: u64,
    /// None as long as nothing has come.
    timings: Option<Box<Timings>>,
}

/// Everything that the clients share.
pub struct World {
    /// What they are to do.
    pub plan: Arc<Plan>,
    /// The time of the event that is being handled.
    pub now_ns: u64,
    /// Messages that were to be sent before this are not timed.
    pub from_ns: u64,
    /// Those that were to be sent from this on are not timed either.
    pub until_ns: u64,
    /// As in the plan: what the hot path needs of it lies here.
    clock_offset_ns: i64,
    timed_kind: Option<u16>,
    paced: bool,
    /// No uplinks after this.
    pub to_ns: u64,
    /// How many clients are where.
    pub counts: Counts,
    /// What became of messages.
    pub tally: Tally,
    /// What became of uplinks.
    pub uplinks: UplinkCounts,
    /// What was timed.
    pub timings: Timings,
    /// The rooms that are accounted for.
    pub rooms: Vec<RoomBook>,
    /// Somebody sends no more than what a window allows, and has to be told how far things are.
    pub windowed: bool,
    /// What the last survey has found: see `progress`.
    pub known: u64,
    /// Something may have been published by now.
    pub publishing: bool,
    /// What was measured before.
    past: Vec<Past>,
    /// Epochs that rooms were in.
    pub epochs: Epochs,
    /// What the first client of each room here has seen, if the plan wants it, by room.
    pub watches: BTreeMap<u32, Watch>,
    /// Which of them belongs to which client and which of its places.
    pub watchers: BTreeMap<(u32, u32), u32>,
    /// What the client being served has to hear before it is where it was: which of its places, up
    /// to which number.
    pub catching: Vec<(u32, u64)>,
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
        let watchers = watchers(&plan);
        let own = watchers.values().map(|&room| (room, Watch::default()));
        Self {
            rooms: vec![RoomBook::default(); plan.rooms.count()],
            watches: own.collect(),
            watchers,
            windowed: false,
            known: 0,
            publishing: false,
            past: Vec::new(),
            epochs: Epochs::default(),
            catching: Vec::new(),
            errands: Errands::default(),
            received_bytes: 0,
            clock_offset_ns: plan.clock_offset_ns,
            timed_kind: plan.timed_kind,
            paced: plan.paced,
            plan,
            now_ns: 0,
            from_ns: u64::MAX,
            until_ns: u64::MAX,
            to_ns: 0,
            counts: Counts::default(),
            tally: Tally::default(),
            uplinks: UplinkCounts::default(),
            timings: Timings::default(),
            last_delivery_ns: 0,
            heartbeat_s: 0,
            faults: BTreeMap::new(),
            say: Vec::new(),
            say_raw: Vec::new(),
        }
    }

    /// Whether messages of a kind are timed.
    #[inline]
    pub fn times(&self, kind: u16) -> bool {
        self.timed_kind.is_none_or(|timed| timed == kind)
    }

    /// A message, or the answer to an uplink, has come.
    #[inline]
    pub fn record(&mut self, payload: &[u8]) {
        if let Some(stamp) = Stamp::read(payload) {
            self.record_stamp(stamp);
        }
    }

    /// A message with this stamp has come.
    #[inline]
    pub fn record_stamp(&mut self, stamp: Stamp) {
        let intended_ns = stamp.intended_ns.wrapping_add_signed(self.clock_offset_ns);
        if intended_ns < self.from_ns || intended_ns >= self.until_ns {
            return self.record_late(intended_ns, stamp);
        }
        let latency_ns = self.now_ns.saturating_sub(intended_ns);
        self.timings.corrected.saturating_record(latency_ns / NS_PER_US);
        if self.paced {
            let lag_ns = u64::from(stamp.lag_us) * NS_PER_US;
            let uncorrected_ns = latency_ns.saturating_sub(lag_ns);
            self.timings.uncorrected.saturating_record(uncorrected_ns / NS_PER_US);
        }
    }

    /// What was intended in a span that is over belongs to that one, however late it comes: it must
    /// not be the slowest that are left out.
    #[cold]
    #[inline(never)]
    fn record_late(&mut self, intended_ns: u64, stamp: Stamp) {
        let (now_ns, paced) = (self.now_ns, self.paced);
        let mut spans = self.past.iter_mut().rev();
        let is_inside = |past: &&mut Past| (past.from_ns..past.until_ns).contains(&intended_ns);
        let Some(past) = spans.find(is_inside) else { return };
        let timings = past.timings.get_or_insert_default();
        let latency_ns = now_ns.saturating_sub(intended_ns);
        timings.corrected.saturating_record(latency_ns / NS_PER_US);
        if paced {
            let uncorrected_ns = latency_ns.saturating_sub(u64::from(stamp.lag_us) * NS_PER_US);
            timings.uncorrected.saturating_record(uncorrected_ns / NS_PER_US);
        }
    }

    /// From now on messages are timed that were to be sent in `from_ns..until_ns`; those of the span
    /// before, which was that of `phase`, for that one. What was timed so far is taken away before.
    pub fn time(&mut self, phase: usize, from_ns: u64, until_ns: u64) {
        let before = Past { phase, from_ns: self.from_ns, until_ns: self.until_ns, timings: None };
        if before.from_ns < before.until_ns {
            if self.past.len() >= PAST_SPANS_MAX {
                self.past.remove(0);
            }
            self.past.push(before);
        }
        (self.from_ns, self.until_ns) = (from_ns, until_ns);
    }

    /// What was timed of spans that are over, since this was last asked: with their phases.
    pub fn take_late(&mut self) -> impl Iterator<Item = (usize, Timings)> + '_ {
        let late = |past: &mut Past| Some((past.phase, *past.timings.take()?));
        self.past.iter_mut().filter_map(late)
    }

    /// A client's first JOINED of a room that is accounted for.
    pub fn first_joined(&mut self, room: usize, epoch: u32, head: u64) {
        let book = &mut self.rooms[room];
        if !book.joined {
            (book.joined, book.head) = (true, head);
        }
        book.epoch = book.epoch.max(epoch);
    }

    /// Messages of all rooms whose fate is known: of each room as many as its members here know of
    /// on average. Of a room without a member here as many are supposed to be known as of that one
    /// of which the fewest are. It is a little late, and 0 unless there are windows.
    pub fn progress(&self) -> u64 {
        self.known
    }

    /// Everything that was counted, in the words of records.
    pub fn totals(&self) -> record::Counts {
        let (counts, tally) = (&self.counts, &self.tally);
        record::Counts {
            connected: counts.ready,
            reconnected: counts.reconnected,
            failed: counts.failed + counts.unreturned,
            lost: counts.lost,
            dropped: counts.dropped,
            delivered: tally.delivered,
            declared_shed: tally.declared_shed,
            declared_reset: tally.declared_reset,
            disconnected: tally.disconnected,
            unexplained: tally.unexplained,
            duplicate: tally.duplicate,
            reordered: tally.reordered,
            over_declared: tally.over_declared,
            resets: tally.resets,
            stray: tally.stray,
            received_bytes: self.received_bytes,
            ..record::Counts::default()
        }
    }

    /// Remembers why a connection has ended.
    pub fn fault(&mut self, why: String) {
        let full = self.faults.len() >= FAULTS_MAX && !self.faults.contains_key(&why);
        *self.faults.entry(if full { FAULT_OTHER.to_owned() } else { why }).or_default() += 1;
    }
}

/// The figures of what was timed; none when nothing was.
pub fn summary(times: &Times) -> Option<Summary> {
    let at = |quantile| times.value_at_quantile(quantile);
    let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(at);
    (!times.is_empty()).then(|| Summary { p50, p90, p99, p999, max: times.max() })
}

/// The first client of each room, of all clients there are: by client and place, those that are
/// here.
fn watchers(plan: &Plan) -> BTreeMap<(u32, u32), u32> {
    let mut watchers = BTreeMap::new();
    if !plan.watched {
        return watchers;
    }
    let mut seen = vec![false; plan.rooms.count()];
    let mut unseen = seen.len();
    for k in 0..plan.first + plan.clients {
        if unseen == 0 {
            break;
        }
        plan.rooms.each(k, |place| {
            let Some(room) = place.book.filter(|&room| !seen[room]) else { return };
            seen[room] = true;
            unseen -= 1;
            if k >= plan.first {
                watchers.insert((k - plan.first, place.nth as u32), room as u32);
            }
        });
    }
    watchers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Places;

    #[test]
    fn a_message_is_timed_for_the_phase_that_it_was_intended_in() {
        let mut world = World::new(Arc::new(Plan::of_test(Places::Given(Vec::new()), 1)));
        let late = |world: &mut World, now_ns: u64, intended_ns: u64| {
            world.now_ns = now_ns;
            world.record_stamp(Stamp { intended_ns, index: 1, lag_us: 1 });
            let late: Vec<_> = world.take_late().collect();
            let lens =
                late.iter().map(|(phase, t)| (*phase, t.corrected.max())).collect::<Vec<_>>();
            (world.timings.corrected.len(), lens)
        };
        assert_eq!(late(&mut world, 5_000, 4_000), (0, vec![]), "nothing is timed yet");
        world.time(0, 10_000, 20_000);
        assert_eq!(late(&mut world, 19_000, 10_000), (1, vec![]));
        world.time(1, 20_000, 30_000);
        assert_eq!(late(&mut world, 25_000, 20_000), (2, vec![]));
        assert_eq!(late(&mut world, 26_000, 19_000), (2, vec![(1, 7)]));
        assert_eq!(late(&mut world, 26_000, 9_000), (2, vec![]), "before any span");
        world.time(2, u64::MAX, u64::MAX);
        world.time(3, 40_000, 50_000);
        assert_eq!(late(&mut world, 45_000, 19_000), (2, vec![(1, 26)]), "two phases ago");
        assert_eq!(late(&mut world, 45_000, 29_000), (2, vec![(2, 16)]));
        assert_eq!(late(&mut world, 45_000, 35_000), (2, vec![]), "between two spans");
        for phase in 4..100 {
            world.time(phase, 50_000, 60_000);
        }
        assert_eq!(world.past.len(), PAST_SPANS_MAX, "what is kept of the past is bounded");
    }
}
