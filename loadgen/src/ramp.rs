//! Getting all clients connected: as fast as it goes, so many at a time.

use std::io;

use anyhow::{Result, bail};
use barrage_sys::KernelRing;

use crate::clock::SECOND_NS;
use crate::fleet::Fleet;

/// Connections being made or joining at any time. A listener's backlog holds more.
const IN_FLIGHT_MAX: u64 = 512;
/// Connections begun before the others' events are looked at.
const BATCH_MAX: u64 = 64;
/// Without any progress for so long the ramp is given up.
const STALL_NS: u64 = 15 * SECOND_NS;

/// How far the ramp has come.
pub struct Ramp {
    started_ns: u64,
    ended_ns: u64,
    /// When a client last got ready or failed.
    moved_ns: u64,
    settled: u64,
    /// Clients that failed before they had a connection.
    unborn: u64,
}

impl Ramp {
    /// Begins now.
    pub fn new(now_ns: u64) -> Self {
        Self { started_ns: now_ns, ended_ns: 0, moved_ns: now_ns, settled: 0, unborn: 0 }
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
        if counts.ready == 0 && counts.failed > 0 {
            let why = fleet.world.faults.keys().next().cloned().unwrap_or_default();
            let target = fleet.world.plan.target;
            bail!("no client could get ready: {why}. Is the gateway running on {target}?");
        }
        if settled != self.settled {
            (self.settled, self.moved_ns) = (settled, now_ns);
        }
        let clients = u64::from(fleet.world.plan.clients);
        if settled >= clients {
            self.ended_ns = now_ns;
            return Ok(false);
        }
        let begun = fleet.begun() as u64 + self.unborn;
        if now_ns - self.moved_ns > STALL_NS {
            if counts.ready == 0 {
                let target = fleet.world.plan.target;
                bail!("no answer from {target} in {} s: is that a gateway?", STALL_NS / SECOND_NS);
            }
            fleet.world.fault("did not get ready in time".to_owned());
            fleet.world.counts.failed += clients - settled;
            self.ended_ns = now_ns;
            return Ok(false);
        }
        let count = (IN_FLIGHT_MAX.saturating_sub(begun - settled))
            .min(clients - begun)
            .min(self.due(now_ns, fleet.world.plan.connects_per_s).saturating_sub(begun))
            .min(BATCH_MAX);
        for _ in 0..count {
            self.begin(ring, fleet)?;
        }
        Ok(count > 0)
    }

    /// How many connections may have been begun by now.
    fn due(&self, now_ns: u64, per_s: f64) -> u64 {
        if per_s == 0.0 {
            return u64::MAX;
        }
        let elapsed_s = (now_ns - self.started_ns) as f64 / SECOND_NS as f64;
        (elapsed_s * per_s) as u64 + 1
    }

    fn begin(&mut self, ring: &mut KernelRing, fleet: &mut Fleet) -> Result<()> {
        let source = fleet.world.plan.sources.of(fleet.begun() as u32);
        match ring.connect(source, fleet.world.plan.target) {
            Ok(conn) => fleet.add(conn),
            Err(error) if fleet.begun() == 0 => {
                bail!("cannot connect: {}", explain(&error, source))
            }
            Err(error) => {
                self.unborn += 1;
                fleet.refuse(explain(&error, source));
            }
        }
        Ok(())
    }
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
