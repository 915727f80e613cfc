//! Getting all clients connected: as fast as it goes, so many at a time.

use std::io;

use anyhow::Result;
use barrage_sys::{ConnId, KernelRing};

use crate::clock::SECOND_NS;
use crate::exit::TargetLost;
use crate::fleet::Fleet;
use crate::plan::Plan;

/// Connections being made or joining at any time. A listener's backlog holds more.
pub const IN_FLIGHT_MAX: u64 = 512;
/// Connections begun before the others' events are looked at.
pub const BATCH_MAX: u64 = 64;
/// Without any progress for so long the ramp is given up.
const STALL_NS: u64 = 15 * SECOND_NS;
/// When so many have failed and none is ready, the target is not there.
const FAILED_FIRST_MAX: u64 = 64;

/// How far the ramp has come.
pub struct Ramp {
    started_ns: u64,
    ended_ns: u64,
    /// When a client last got ready or failed.
    moved_ns: u64,
    settled: u64,
    /// Clients that had begun before.
    before: u64,
    /// Clients that are to have begun at its end.
    goal: u64,
    per_s: f64,
}

impl Ramp {
    /// Begins now, with so many clients that have begun before, until so many have, at most so many
    /// a second; 0: as fast as it goes.
    pub fn new(now_ns: u64, before: u64, goal: u64, per_s: f64) -> Self {
        Self { started_ns: now_ns, ended_ns: 0, moved_ns: now_ns, settled: 0, before, goal, per_s }
    }

    /// Whether it is over.
    pub fn ended(&self) -> bool {
        self.ended_ns > 0
    }

    /// How long it took.
    pub fn seconds(&self) -> f64 {
        self.ended_ns.saturating_sub(self.started_ns) as f64 / SECOND_NS as f64
    }

    /// Begins connections; says whether something was begun. Fails when the gateway is not there.
    pub fn advance(
        &mut self,
        now_ns: u64,
        ring: &mut KernelRing,
        fleet: &mut Fleet,
    ) -> Result<bool> {
        let counts = fleet.world.counts;
        let settled = counts.ready + counts.failed;
        let enough = if fleet.world.plan.returns { FAILED_FIRST_MAX.min(self.goal) } else { 1 };
        if counts.ready == 0 && counts.failed >= enough.max(1) {
            let why = fleet.world.faults.keys().next().cloned().unwrap_or_default();
            let target = fleet.world.plan.target;
            let text =
                format!("no client could get ready: {why}. Is the gateway running on {target}?");
            return Err(TargetLost(text).into());
        }
        let begun = fleet.begun() as u64;
        if settled != self.settled || begun == settled {
            (self.settled, self.moved_ns) = (settled, now_ns);
        }
        if settled >= self.goal {
            self.ended_ns = now_ns;
            return Ok(false);
        }
        if now_ns - self.moved_ns > STALL_NS {
            if counts.ready == 0 {
                let target = fleet.world.plan.target;
                let seconds = STALL_NS / SECOND_NS;
                let text = format!("no answer from {target} in {seconds} s: is that a gateway?");
                return Err(TargetLost(text).into());
            }
            fleet.give_up(self.goal);
            self.ended_ns = now_ns;
            return Ok(false);
        }
        let count = (IN_FLIGHT_MAX.saturating_sub(counts.in_flight))
            .min(self.goal.saturating_sub(begun))
            .min(self.due(now_ns).saturating_sub(begun - self.before))
            .min(BATCH_MAX);
        for _ in 0..count {
            let k = fleet.world.plan.k(fleet.begun());
            let made = connect(ring, &fleet.world.plan, k);
            fleet.add(made);
        }
        Ok(count > 0)
    }

    /// How many connections may have been begun by now.
    fn due(&self, now_ns: u64) -> u64 {
        if self.per_s == 0.0 {
            return u64::MAX;
        }
        let elapsed_s = (now_ns - self.started_ns) as f64 / SECOND_NS as f64;
        (elapsed_s * self.per_s) as u64 + 1
    }
}

/// Begins the connection of client `k`.
pub fn connect(ring: &mut KernelRing, plan: &Plan, k: u32) -> Result<ConnId, String> {
    let source = plan.sources.of(k);
    ring.connect(source, plan.target_of(k)).map_err(|error| explain(&error, source))
}

fn explain(error: &io::Error, source: Option<std::net::SocketAddr>) -> String {
    match (error.kind(), source) {
        (io::ErrorKind::AddrNotAvailable, Some(source)) => format!(
            "{} is not an address of this machine, or has no free port: see --source",
            source.ip()
        ),
        (io::ErrorKind::StorageFull, _) => {
            "no room for another connection: locked memory or descriptors ran out (ulimit -l, \
             ulimit -n)"
                .to_owned()
        }
        (_, _) => error.to_string(),
    }
}
