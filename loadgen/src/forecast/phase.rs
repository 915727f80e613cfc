//! What one phase publishes, and who hears it.

use std::collections::BTreeMap;
use std::sync::Arc;

use barrage_wire::server::{COMBO_OVERHEAD_BYTES, MESSAGE_OVERHEAD_BYTES};
use serde::Serialize;

use crate::campaign::publisher::schedule::{Plan, Schedule, What};
use crate::clock::SECOND_NS;
use crate::dialect::Protocol;
use crate::scenario::layout::Layout;
use crate::scenario::{Rate, Scenario, StreamKind};

/// Messages of one room that come within this time may go out together, if nobody wants them sooner.
const TOGETHER_MS: f64 = 100.0;
/// Publishes that are counted one by one; what is beyond is taken to go on like that.
const COUNTED_MAX: u64 = 5_000_000;

/// From so many members on a room is of the second, third and fourth level, by the built-in policy.
const LEVELS_FROM: [u32; 3] = [1_000, 10_000, 100_000];
/// What the built-in policy admits in a second by category, in rooms of these levels.
const LIMITS: [(u16, [f64; 3]); 4] = [
    (3, [400.0, 200.0, 100.0]),
    (4, [400.0, 200.0, 100.0]),
    (5, [200.0, 100.0, 50.0]),
    (6, [100.0, 50.0, 20.0]),
];
/// A combo goes out so often in a second, and the latest value of a key so often.
const COMBOS_PER_S: f64 = 1.0;
const STATES_PER_S: f64 = 0.5;

/// What a phase does.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PhaseForecast {
    /// Its name.
    pub name: String,
    /// How long it takes.
    pub secs: f64,
    /// Clients that are connected in it, but for those who are away.
    pub clients: u32,
    /// Messages that are due.
    pub published: u64,
    /// Deliveries of what the built-in policy lets through, with nobody away.
    pub deliveries: u64,
    /// The same in a second.
    pub deliveries_per_s: f64,
    /// Sends in a second, when messages go out together as long as the objective for the 99th
    /// percentile lets them.
    pub sends_per_s: f64,
    /// Bits in a second to the clients.
    pub bits_per_s: f64,
    /// It publishes as fast as it goes, so that nothing can be said.
    pub unbounded: bool,
}

/// What one stream tells one room in one category.
#[derive(Clone, Copy, Default)]
struct Told {
    publishes: f64,
    bytes: f64,
    frame_bytes: usize,
    /// How often a second it goes out at most, because it is merged.
    merged_per_s: Option<f64>,
}

/// Everything that is told, by room, category and stream, and in how many seconds.
struct Counted {
    told: BTreeMap<(u32, u16, usize), Told>,
    count: u64,
    seconds: f64,
}

/// What a phase publishes, and who hears it.
pub(super) fn published(
    scenario: &Scenario,
    place: usize,
    members: &[u32],
    layout: &Arc<Layout>,
) -> PhaseForecast {
    let phase = &scenario.phases[place];
    let secs = phase.ns as f64 / SECOND_NS as f64;
    let counted = count(scenario, place, members, layout);
    let scale = secs / counted.seconds;
    let members_of = |room: u32| members.get(room as usize).copied().unwrap_or(0);
    // Limits are of a room's category, whichever streams say it.
    let mut due_in: BTreeMap<(u32, u16), f64> = BTreeMap::new();
    for (&(room, category, _), told) in &counted.told {
        *due_in.entry((room, category)).or_default() += told.due(counted.seconds);
    }
    let (mut deliveries, mut bytes) = (0.0, 0.0);
    let mut heard_in: BTreeMap<u32, f64> = BTreeMap::new();
    for (&(room, category, _), told) in &counted.told {
        let members = members_of(room);
        let limit = limit_per_s(scenario, category, members) * counted.seconds;
        let due = due_in.get(&(room, category)).copied().unwrap_or(0.0);
        let admitted = if due > limit { limit / due } else { 1.0 };
        let heard = told.due(counted.seconds) * admitted * f64::from(members);
        deliveries += heard;
        *heard_in.entry(room).or_default() += heard / counted.seconds;
        bytes += heard * (told.bytes / told.publishes + told.frame_bytes as f64);
    }
    let together_ms = scenario.slo.p99_ms.unwrap_or(TOGETHER_MS).clamp(1.0, TOGETHER_MS);
    let sends_per_s = heard_in.iter().map(|(&room, heard_per_s)| {
        heard_per_s.min(f64::from(members_of(room)) * 1000.0 / together_ms)
    });
    let unbounded = phase.streams.iter().any(|&stream| {
        let kind = scenario.streams[stream].kind;
        matches!(kind, StreamKind::Messages { rate: Rate::Window(_), .. })
    });
    PhaseForecast {
        name: phase.name.clone(),
        secs,
        clients: 0,
        published: (counted.count as f64 * scale).round() as u64,
        deliveries: (deliveries * scale).round() as u64,
        deliveries_per_s: deliveries / counted.seconds,
        sends_per_s: sends_per_s.sum(),
        bits_per_s: bytes * 8.0 / counted.seconds,
        unbounded,
    }
}

/// Counts what the publisher will be told to say.
fn count(scenario: &Scenario, place: usize, members: &[u32], layout: &Arc<Layout>) -> Counted {
    let phase = &scenario.phases[place];
    let plan = Plan { scenario, phase: place, members, start_ns: 0, to_ns: phase.ns };
    let mut schedule = Schedule::new(&plan, layout);
    let mut counted = Counted { told: BTreeMap::new(), count: 0, seconds: 0.0 };
    let mut counted_to_ns = phase.ns;
    while let Some(act) = schedule.due(u64::MAX) {
        let told = counted.told.entry((act.room, act.category, act.stream)).or_default();
        told.publishes += 1.0;
        told.bytes += act.size as f64;
        told.merged_per_s = merged_per_s(scenario, act.stream, act.what);
        told.frame_bytes = match act.what {
            What::Tap { .. } => COMBO_OVERHEAD_BYTES,
            What::Message | What::State { .. } => MESSAGE_OVERHEAD_BYTES,
        };
        counted.count += 1;
        if counted.count == COUNTED_MAX {
            counted_to_ns = act.at_ns.max(1);
            break;
        }
    }
    counted.seconds = counted_to_ns as f64 / SECOND_NS as f64;
    counted
}

impl Told {
    /// How often it goes out in so many seconds if nothing limits it.
    fn due(&self, seconds: f64) -> f64 {
        self.merged_per_s.map_or(self.publishes, |per_s| self.publishes.min(per_s * seconds))
    }
}

/// How often a second a room hears what is merged, from all who tell it.
fn merged_per_s(scenario: &Scenario, stream: usize, what: What) -> Option<f64> {
    match (what, scenario.streams[stream].kind) {
        (What::Tap { .. }, StreamKind::Gifts { givers_per_room, burst_ns, pause_ns, .. }) => {
            // A burst of a combo goes out every second, and once more when it ends.
            let burst_s = burst_ns as f64 / SECOND_NS as f64;
            let round_s = burst_s + pause_ns as f64 / SECOND_NS as f64;
            let each = (burst_s * COMBOS_PER_S).ceil() + 1.0;
            Some(f64::from(givers_per_room) * each / round_s)
        }
        (What::State { .. }, StreamKind::States { keys, .. }) => {
            Some(f64::from(keys) * STATES_PER_S)
        }
        _ => None,
    }
}

/// What the built-in policy admits in a second, if the target is one that has it.
fn limit_per_s(scenario: &Scenario, category: u16, members: u32) -> f64 {
    let level = LEVELS_FROM.iter().filter(|from| members >= **from).count();
    let barrage = scenario.target.protocol == Protocol::Barrage;
    let limits = LIMITS.iter().find(|(limited, _)| *limited == category && barrage);
    match (limits, level.checked_sub(1)) {
        (Some((_, limits)), Some(level)) => limits[level],
        _ => f64::INFINITY,
    }
}
