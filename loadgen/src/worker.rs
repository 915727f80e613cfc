//! A network thread of a campaign: a slice of the clients, orders in, reports out.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use barrage_sys::thread_cpu_time;

use crate::clock::{SECOND_NS, now_ns};
use crate::dialect::Dialect;
use crate::exit::TargetLost;
use crate::network::Engine;
use crate::orders::{Books, Order, Report, What};
use crate::plan::{Places, Plan, Transport, WsShare};
use crate::procfs;
use crate::ramp::Ramp;
use crate::record::{Counts, Interval};
use crate::scenario::layout::Layout;
use crate::scenario::{Rate, Scenario, StreamKind};
use crate::shared::{Shared, write};
use crate::sources::Sources;
use crate::watch::kind;

/// How long an interval is, unless the phase changes.
const INTERVAL_NS: u64 = SECOND_NS;
const NS_PER_US: u64 = 1000;
/// How often somebody looks whether everything has arrived.
const LOOK_NS: u64 = 5_000_000;

/// What one worker is there for.
#[derive(Clone, Debug)]
pub struct Job {
    /// The campaign.
    pub scenario: Arc<Scenario>,
    /// Its place among all workers, in reports.
    pub worker: usize,
    /// Its name in intervals.
    pub source: String,
    /// The first of its clients, by number.
    pub first: u32,
    /// How many clients it has.
    pub count: u32,
    /// Its core.
    pub core: Option<usize>,
    /// What is to be added to a moment of the publisher's clock to get one of this machine's.
    pub clock_offset_ns: i64,
}

/// Starts a worker. It ends after `Finished` or `Broken`.
pub fn spawn(
    job: Job,
    shared: Arc<Shared>,
    orders: Receiver<Order>,
    reports: Sender<Report>,
) -> Result<JoinHandle<()>> {
    let plan = plan(&job)?;
    let (worker, to) = (job.worker, reports.clone());
    let run = move || Worker::new(job, plan, shared, orders, reports)?.run();
    let body = move || {
        if let Some(what) = last_word(run) {
            // Whoever does not listen any more has ended.
            let _ = to.send(Report { worker, what });
        }
    };
    std::thread::Builder::new()
        .name("worker".to_owned())
        .spawn(body)
        .context("cannot start a worker's thread")
}

/// Runs a worker, and says why it has ended early if it has.
fn last_word(run: impl FnOnce() -> Result<()>) -> Option<What> {
    // Nothing of what was unwound is used again.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(match error.downcast_ref::<TargetLost>() {
            Some(_) => What::Lost(format!("{error:#}")),
            None => What::Broken(format!("{error:#}")),
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            Some(What::Broken(format!(
                "it has panicked, which is a bug of barrage-loadgen: {text}"
            )))
        }
    }
}

/// What the clients of a job are to do.
fn plan(job: &Job) -> Result<Plan> {
    let Scenario { target, clients, .. } = &*job.scenario;
    let dialect = Dialect::of(target);
    let all_ws = clients.ws_percent >= 100.0 && dialect.is_none();
    let (tcp, ws) = (target.tcp, target.ws.filter(|_| dialect.is_none()));
    let (transport, address, ws) = match (tcp, ws) {
        (_, Some(ws)) if all_ws => (Transport::Ws, ws, None),
        (Some(tcp), Some(ws)) if clients.ws_percent > 0.0 => {
            (Transport::Tcp, tcp, Some(WsShare { target: ws, percent: clients.ws_percent }))
        }
        (Some(_), None) if clients.ws_percent > 0.0 && dialect.is_none() => {
            bail!(
                "{} % of the clients speak WebSocket, and target.ws is not given",
                clients.ws_percent
            )
        }
        (Some(tcp), _) => (Transport::Tcp, tcp, None),
        (None, _) => bail!("target.tcp is not given, and not all clients speak WebSocket"),
    };
    let watched = dialect.is_none() && is_watched(&job.scenario);
    // On loopback addresses cost nothing, so all workers share enough of them for all clients.
    let loopback = clients.sources.is_empty() && address.ip().is_loopback();
    let connections = if loopback { clients.count } else { job.count };
    let sources = Sources::plan(&clients.sources, address, connections, procfs::local_ports()?)?;
    Ok(Plan {
        transport,
        target: address,
        ws,
        dialect,
        sources,
        first: job.first,
        clients: job.count,
        app: target.app,
        token: clients.token.clone(),
        rooms: Places::Layout(Layout::new(job.scenario.rooms, job.scenario.seed)),
        joins_later: false,
        watched,
        // What is merged waits on purpose: only chat says how fast the target is.
        timed_kind: watched.then_some(kind::CHAT),
        uplinks: None,
        paced: true,
        returns: true,
        clock_offset_ns: job.clock_offset_ns,
        core: job.core,
    })
}

/// Whether somebody counts totals.
fn is_watched(scenario: &Scenario) -> bool {
    scenario.streams.iter().any(|stream| match stream.kind {
        StreamKind::Gifts { .. } | StreamKind::States { .. } => true,
        StreamKind::Messages { .. } => false,
    })
}

/// Whether somebody sends no more than what a window allows.
fn has_windows(scenario: &Scenario) -> bool {
    scenario.streams.iter().any(|stream| match stream.kind {
        StreamKind::Messages { rate, .. } => match rate {
            Rate::Window(_) => true,
            Rate::Messages(_) | Rate::Deliveries(_) => false,
        },
        StreamKind::Gifts { .. } | StreamKind::States { .. } => false,
    })
}

/// What a drain waits for.
struct Drain {
    last_seqs: Vec<u64>,
    until_ns: u64,
}

struct Worker {
    job: Job,
    engine: Engine,
    shared: Arc<Shared>,
    orders: Receiver<Order>,
    reports: Sender<Report>,
    ramp: Option<Ramp>,
    /// Somebody waits to hear that all are back.
    returning: bool,
    drain: Option<Drain>,
    looked_ns: u64,
    phase: usize,
    interval_ns: u64,
    cpu: Duration,
    /// What the kernel said of waiting for a core when the thread began.
    waited_first_ns: u64,
    told: Counts,
}

impl Worker {
    fn new(
        job: Job,
        plan: Plan,
        shared: Arc<Shared>,
        orders: Receiver<Order>,
        reports: Sender<Report>,
    ) -> Result<Self> {
        let mut engine = Engine::new(plan)?;
        engine.fleet.world.windowed = has_windows(&job.scenario);
        let now_ns = engine.fleet.world.now_ns;
        Ok(Self {
            job,
            engine,
            shared,
            orders,
            reports,
            ramp: None,
            returning: false,
            drain: None,
            looked_ns: now_ns,
            phase: 0,
            interval_ns: now_ns,
            cpu: thread_cpu_time(),
            waited_first_ns: procfs::thread_waited_ns().unwrap_or_default(),
            told: Counts::default(),
        })
    }

    fn run(mut self) -> Result<()> {
        loop {
            let reaped = self.engine.hear();
            if !self.obey() {
                break;
            }
            let mut began = self.ramp()?;
            let Engine { ring, fleet, .. } = &mut self.engine;
            fleet.churn();
            began |= fleet.bring_back(ring);
            if self.returning && fleet.awaited() == 0 {
                self.returning = false;
                self.say(What::Returned);
            }
            self.engine.ping();
            self.engine.say();
            self.tell();
            if now_ns().saturating_sub(self.interval_ns) >= INTERVAL_NS {
                self.end_interval();
            }
            if self.is_drained() {
                break;
            }
            if reaped == 0 && !began {
                self.engine.rest(self.is_connecting());
            }
        }
        self.end();
        Ok(())
    }

    fn is_connecting(&self) -> bool {
        self.ramp.is_some() || self.engine.fleet.world.counts.in_flight > 0
    }

    /// Does what it is told; says whether to go on.
    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return false,
                Ok(order) => self.follow(order),
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn follow(&mut self, order: Order) {
        let fleet = &mut self.engine.fleet;
        match order {
            Order::Connect { clients, per_s } => {
                let goal = u64::from(clients.min(self.job.count));
                let begun = fleet.begun() as u64;
                self.ramp = Some(Ramp::new(fleet.world.now_ns, begun, goal, per_s));
            }
            Order::Phase { index, from_ns, to_ns } => {
                self.end_interval();
                let world = &mut self.engine.fleet.world;
                world.time(self.phase, from_ns, to_ns);
                let phase = self.job.scenario.phases.get(index);
                world.publishing |= phase.is_some_and(|phase| !phase.streams.is_empty());
                self.phase = index;
            }
            Order::Churn(churn) => fleet.set_churn(churn),
            Order::Disconnect(disconnect) => {
                fleet.disconnect(disconnect);
                self.returning = true;
            }
            Order::Drain { last_seqs, until_ns } => {
                fleet.come_home();
                self.drain = Some(Drain { last_seqs, until_ns });
            }
            // It ends the loop that calls this.
            Order::Stop => {}
        }
    }

    fn ramp(&mut self) -> Result<bool> {
        let Some(ramp) = &mut self.ramp else { return Ok(false) };
        let Engine { ring, fleet, .. } = &mut self.engine;
        let began = ramp.advance(fleet.world.now_ns, ring, fleet)?;
        if ramp.ended() {
            self.ramp = None;
            // Whoever hears that all are there knows how many.
            self.end_interval();
            self.say(What::Ramped);
        }
        Ok(began)
    }

    fn is_drained(&mut self) -> bool {
        let Some(drain) = &self.drain else { return false };
        let now_ns = self.engine.fleet.world.now_ns;
        if now_ns >= drain.until_ns {
            return true;
        }
        if now_ns - self.looked_ns < LOOK_NS {
            return false;
        }
        self.looked_ns = now_ns;
        self.engine.fleet.is_complete(&drain.last_seqs)
    }

    /// Lets the publisher see how far things are.
    fn tell(&self) {
        let world = &self.engine.fleet.world;
        write(&self.shared.ready, world.counts.here);
        write(&self.shared.failed, world.counts.failed + world.counts.unreturned);
        write(&self.shared.lost, world.counts.lost);
        write(&self.shared.delivered, world.tally.delivered);
        write(&self.shared.progress, world.progress());
    }

    fn end_interval(&mut self) {
        let (to_ns, cpu) = (now_ns(), thread_cpu_time());
        let totals = Counts { waited_us: self.waited_us(), ..self.engine.fleet.world.totals() };
        let world = &mut self.engine.fleet.world;
        let wall_ns = (to_ns - self.interval_ns).max(1);
        let interval = Interval {
            source: self.job.source.clone(),
            phase: self.phase,
            from_ns: self.interval_ns,
            to_ns,
            ready: world.counts.here,
            busy: (cpu - self.cpu).as_nanos() as f64 / wall_ns as f64,
            counts: totals.since(&self.told),
            timings: std::mem::take(&mut world.timings),
        };
        (self.interval_ns, self.cpu, self.told) = (to_ns, cpu, totals);
        // What was on its way at the end of a phase is timed for that phase, and counted for this.
        let late = world.take_late().map(|(phase, timings)| Interval {
            source: interval.source.clone(),
            phase,
            busy: 0.0,
            counts: Counts::default(),
            timings,
            ..interval
        });
        let late: Vec<_> = late.collect();
        for interval in late.into_iter().chain([interval]) {
            self.say(What::Interval(Box::new(interval)));
        }
    }

    /// Since the thread began. A kernel that does not tell finds no fault.
    fn waited_us(&self) -> u64 {
        let now = procfs::thread_waited_ns().unwrap_or_default();
        now.saturating_sub(self.waited_first_ns) / NS_PER_US
    }

    fn end(mut self) {
        self.end_interval();
        let last_seqs = self.drain.take().map(|drain| drain.last_seqs).unwrap_or_default();
        let bytes_per_client = self.engine.fleet.bytes_per_client();
        self.engine.fleet.finish(&last_seqs);
        let world = &mut self.engine.fleet.world;
        let books = Books {
            counts: Counts { waited_us: self.told.waited_us, ..world.totals() },
            faults: std::mem::take(&mut world.faults).into_iter().collect(),
            watches: std::mem::take(&mut world.watches).into_iter().collect(),
            bytes_per_client,
        };
        self.tell();
        self.say(What::Finished(Box::new(books)));
    }

    fn say(&self, what: What) {
        // A leader that is gone takes its end of the orders with it: the next look ends the thread.
        let _ = self.reports.send(Report { worker: self.job.worker, what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn whoever_ends_early_says_why() {
        assert!(last_word(|| Ok(())).is_none());
        let broken = |run: fn() -> Result<()>| match last_word(run) {
            Some(What::Broken(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(broken(|| Err(anyhow!("inner").context("outer"))), "outer: inner");
        assert!(broken(|| panic!("no such {}", "client")).ends_with("loadgen: no such client"));
        assert!(broken(|| panic!("plain")).ends_with("loadgen: plain"));
        let lost = last_word(|| Err(anyhow::Error::from(TargetLost("gone".into())).context("x")));
        assert!(matches!(&lost, Some(What::Lost(why)) if why == "x: gone"), "{lost:?}");
    }
}
