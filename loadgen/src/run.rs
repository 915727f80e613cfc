//! What the commands that connect clients have in common: start, ramp, measure, drain.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use barrage_sys::cores_online;

use crate::cli::{Clients, Reporting};
use crate::clock::{SECOND_NS, now_ns, seconds_ns};
use crate::exit::TargetLost;
use crate::gateway::{Gateway, Sample};
use crate::network::{self, Outcome};
use crate::plan::{Places, Plan, Rooms, TOKEN_OPEN, Uplinks};
use crate::procfs;
use crate::progress::Progress;
use crate::report::Report;
use crate::shared::{Shared, Span, read};
use crate::sources::Sources;
use crate::upstream::{Upstream, UpstreamAddress};
use crate::world::summary;

/// How long after the ramp sending begins: time to settle.
const SETTLE_NS: u64 = SECOND_NS / 10;
/// How long missing messages are waited for.
const DRAIN_MAX_NS: u64 = 10 * SECOND_NS;
/// How often the main thread looks around.
const LOOK: Duration = Duration::from_millis(10);

/// A run with its clients on their way.
pub struct Run {
    /// What the threads tell each other.
    pub shared: Arc<Shared>,
    /// The gateway seen from outside.
    pub gateway: Gateway,
    progress: Progress,
    network: JoinHandle<Result<Outcome>>,
}

/// The core of the network thread, unless one is given.
pub fn core_or_default(given: Option<usize>) -> Option<usize> {
    let cores = cores_online();
    given.or(if cores.len() >= 2 { cores.last().copied() } else { None })
}

/// Connects to where messages are published; early, so that a wrong address is found at once.
pub fn upstream(address: &UpstreamAddress, app: u32) -> Result<Upstream> {
    Upstream::connect(address, app).map_err(|error| TargetLost(format!("{error:#}")).into())
}

/// What the clients are to do, but for what only one command knows.
pub fn plan(
    clients: &Clients,
    count: u32,
    rooms: Vec<Rooms>,
    uplinks: Option<Uplinks>,
) -> Result<Plan> {
    let (transport, target) = clients.target.transport();
    let given = clients.source.as_ref().map_or(&[][..], |list| &list.0);
    Ok(Plan {
        transport,
        target,
        sources: Sources::plan(given, target, count, procfs::local_ports()?)?,
        ws: None,
        dialect: None,
        first: 0,
        clients: count,
        app: clients.app,
        token: TOKEN_OPEN.to_owned(),
        rooms: Places::Given(rooms),
        joins_later: false,
        watched: false,
        timed_kind: None,
        uplinks,
        paced: false,
        returns: false,
        clock_offset_ns: 0,
        core: core_or_default(clients.core),
    })
}

impl Run {
    /// Starts the clients, at most so many a second; 0: as fast as it goes.
    pub fn start(
        plan: Plan,
        connects_per_s: f64,
        gateway: Gateway,
        reporting: Reporting,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self> {
        gateway.check()?;
        let shared = Shared::new(Arc::clone(stop));
        let network = network::spawn(plan, connects_per_s, Arc::clone(&shared))?;
        Ok(Self { shared, gateway, progress: Progress::new(reporting.quiet), network })
    }

    /// Waits until every client is ready or has failed.
    pub fn ramp(&mut self) {
        while !self.shared.ramped() && self.look("connect") {}
    }

    /// Says when to send and to measure, from now on.
    pub fn span(&self, warmup: f64, secs: f64) -> Span {
        let start_ns = now_ns() + SETTLE_NS;
        let from_ns = start_ns + seconds_ns(warmup);
        let span = Span { start_ns, from_ns, to_ns: from_ns + seconds_ns(secs) };
        self.shared.set_span(span);
        span
    }

    /// Waits for the end of what is measured; says what the gateway used in that time.
    pub fn measure(&mut self, span: Span) -> Used {
        self.wait_until(span.from_ns, "warm up");
        let (first, first_ns) = (self.gateway.sample(), now_ns());
        self.wait_until(span.to_ns, "measure");
        let (last, last_ns) = (self.gateway.sample(), now_ns());
        let seconds = (last_ns - first_ns) as f64 / SECOND_NS as f64;
        Used { sample: last.since(first), seconds }
    }

    /// Waits for a moment, or for Ctrl-C.
    pub fn wait_until(&mut self, at_ns: u64, doing: &str) {
        while now_ns() < at_ns && self.look(doing) {}
    }

    /// Whether the run is to go on: nobody has stopped it and the clients' thread is alive.
    pub fn goes_on(&self) -> bool {
        !self.shared.stopped() && !self.network.is_finished()
    }

    /// Rests for a moment and shows how far things are; says whether the run is to go on.
    pub fn look(&mut self, doing: &str) -> bool {
        std::thread::sleep(LOOK);
        self.progress.show(doing, &self.shared);
        self.goes_on()
    }

    /// Waits until everything up to the last number of each room has arrived, or for as long as
    /// that may take.
    pub fn drain(mut self, last_seqs: Vec<u64>) -> Result<Outcome> {
        self.shared.drain(last_seqs, now_ns() + DRAIN_MAX_NS);
        while !self.network.is_finished() {
            std::thread::sleep(LOOK);
            self.progress.show("drain", &self.shared);
        }
        self.shared.set_finished();
        self.progress.end();
        network::join(self.network)
    }

    /// Clients that are ready.
    pub fn ready(&self) -> u64 {
        read(&self.shared.ready)
    }
}

/// What the gateway used in some time.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Processor time and sends.
    pub sample: Sample,
    /// How long that was.
    pub seconds: f64,
}

/// The part of a report that every command with clients fills in the same way.
pub fn report(command: &'static str, plan: &Plan, outcome: &Outcome) -> Report {
    let world = &outcome.world;
    Report {
        command,
        transport: Some(plan.transport.name()),
        members: plan.clients.into(),
        latency_us: summary(&world.timings.corrected),
        loadgen_cpu_pct: outcome.busy().map(|busy| busy * 100.0),
        connected: Some(world.counts.ready),
        failed: Some(world.counts.failed),
        lost: Some(world.counts.lost),
        faults: world.faults.clone(),
        ramp_s: Some(outcome.ramp_s),
        connects_per_s: (outcome.ramp_s > 0.0).then(|| world.counts.ready as f64 / outcome.ramp_s),
        ..Report::default()
    }
}

impl Report {
    /// Adds what became of room messages.
    pub fn add_tally(&mut self, outcome: &Outcome) {
        let tally = outcome.world.tally;
        self.delivered = Some(tally.delivered);
        self.declared_shed = Some(tally.declared_shed);
        self.declared_reset = Some(tally.declared_reset).filter(|&count| count > 0);
        self.disconnected = Some(tally.disconnected);
        self.unexplained = Some(tally.unexplained);
        self.duplicate = Some(tally.duplicate);
        self.reordered = Some(tally.reordered);
        self.over_declared = Some(tally.over_declared);
        self.resets = Some(tally.resets);
    }

    /// Adds how fast it went and what the gateway used.
    pub fn add_speed(&mut self, outcome: &Outcome, used: Used) {
        self.deliveries_per_s = outcome.deliveries_per_s();
        self.sends_per_s = used.sample.sends.map(|sends| sends / used.seconds);
        self.gateway_cpu_s = used.sample.cpu_s;
        // The thread's marks and the samples are some milliseconds apart: rates make up for that.
        self.deliveries_per_gateway_cpu_s = self.deliveries_per_s.and_then(|per_s| {
            let cpu_s = used.sample.cpu_s.filter(|&cpu_s| cpu_s > 0.0)?;
            Some(per_s * used.seconds / cpu_s)
        });
    }
}
