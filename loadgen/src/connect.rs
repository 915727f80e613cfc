//! `connect`: make many connections, hold them, see what they cost and whether they last.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};

use crate::cli::ConnectArgs;
use crate::clock::{SECOND_NS, now_ns, seconds_ns};
use crate::gateway::{Gateway, Sample};
use crate::network::{self, Outcome};
use crate::plan::{Plan, Rooms};
use crate::procfs;
use crate::publisher::{self, Pace, Published, Publishing};
use crate::report::Report;
use crate::run::{self, Run};
use crate::shared::{Span, read};
use crate::upstream::Upstream;
use crate::verdict::{self, Facts};

/// Clients per room, unless given otherwise.
const CLIENTS_PER_ROOM: u32 = 50;
/// How long a broadcast to everybody may take.
const BROADCAST_MAX_NS: u64 = 60 * SECOND_NS;
/// How long the broadcast's publisher waits for its turn to be over; it ends with one message.
const BROADCAST_SEND_NS: u64 = SECOND_NS / 2;

/// Memory in use at one moment.
#[derive(Clone, Copy)]
struct Memory {
    gateway: Option<u64>,
    available: Option<u64>,
    own: Option<u64>,
}

impl Memory {
    fn now(gateway: &Gateway) -> Self {
        Self {
            gateway: gateway.rss_bytes(),
            available: procfs::available_bytes().ok(),
            own: procfs::own_rss_bytes().ok(),
        }
    }
}

/// What was seen between the ramp and the end.
struct Held {
    before: Memory,
    after: Memory,
    ramp_used: Sample,
    broadcast: Option<Published>,
    stopped: bool,
}

/// Runs the command.
pub fn run(args: &ConnectArgs, stop: &Arc<AtomicBool>) -> Result<Report> {
    let plan = plan(args)?;
    // A wrong address is to be found before the ramp. The gateway would not keep a silent
    // connection through a long one, so the broadcast makes its own.
    if let Some(address) = args.upstream.as_ref().filter(|_| args.then_broadcast) {
        drop(Upstream::connect(address, args.clients.app)?);
    }
    let gateway = Gateway { pid: args.clients.gateway_pid, metrics: args.clients.metrics };
    let (before, first) = (Memory::now(&gateway), gateway.sample());
    let mut run = Run::start(plan.clone(), gateway, args.reporting, stop)?;
    run.ramp();
    let ramp_used = gateway.sample().since(first);
    let held_until_ns = now_ns() + seconds_ns(args.hold);
    // Half of the hold lets things settle, the broadcast gets the rest.
    run.wait_until(now_ns() + seconds_ns(args.hold) / 2, "hold");
    let after = Memory::now(&gateway);
    let mut last_seq = 0;
    let mut broadcast = None;
    if args.then_broadcast && run.goes_on() {
        let published = broadcast_once(args, &mut run)?;
        last_seq = published.last_seq;
        broadcast = Some(published);
    }
    run.wait_until(held_until_ns, "hold");
    let stopped = run.shared.stopped();
    let outcome = run.drain(last_seq)?;
    let held = Held { before, after, ramp_used, broadcast, stopped };
    Ok(report(args, &plan, &outcome, held))
}

fn plan(args: &ConnectArgs) -> Result<Plan> {
    let count = args.rooms.unwrap_or(args.count.div_ceil(CLIENTS_PER_ROOM));
    let mut rooms = vec![Rooms::Spread { first: args.room, count }];
    if args.one_room || args.then_broadcast {
        rooms.push(Rooms::One(one_room(args, count)?));
    }
    let mut plan = run::plan(&args.clients, args.count, rooms, None)?;
    plan.connects_per_s = args.rate;
    Ok(plan)
}

/// The room of all clients: the one after the rooms that they are spread over.
fn one_room(args: &ConnectArgs, count: u32) -> Result<u64> {
    match args.room.checked_add(count.into()) {
        Some(room) => Ok(room),
        None => bail!("--room {} leaves no ids for {count} rooms", args.room),
    }
}

fn broadcast_once(args: &ConnectArgs, run: &mut Run) -> Result<Published> {
    let Some(address) = &args.upstream else { bail!("--then-broadcast needs --upstream") };
    let count = args.rooms.unwrap_or(args.count.div_ceil(CLIENTS_PER_ROOM));
    let publishing = Publishing {
        room: one_room(args, count)?,
        category: args.category,
        size: args.size,
        pace: Pace::Burst(1),
        core: args.clients.upstream_core,
    };
    let upstream = Upstream::connect(address, args.clients.app)?;
    let start_ns = now_ns();
    let span = Span { start_ns, from_ns: start_ns, to_ns: start_ns + BROADCAST_SEND_NS };
    run.shared.set_span(span);
    let publisher = publisher::spawn(upstream, publishing, span, Arc::clone(&run.shared))?;
    let deadline_ns = start_ns + BROADCAST_MAX_NS;
    while read(&run.shared.delivered) + read(&run.shared.lost) < run.ready()
        && now_ns() < deadline_ns
        && run.look("send")
    {}
    network::join(publisher)
}

fn report(args: &ConnectArgs, plan: &Plan, outcome: &Outcome, held: Held) -> Report {
    let world = &outcome.world;
    let per_conn = |bytes: Option<f64>| {
        (world.counts.ready > 0).then(|| Some(bytes? / world.counts.ready as f64)).flatten()
    };
    let grown = |now: Option<u64>, then: Option<u64>| Some(now? as f64 - then? as f64);
    let Held { before, after, .. } = held;
    let mut report = Report {
        rate: Some(args.rate),
        secs: args.hold,
        rss_bytes_per_conn: per_conn(grown(after.gateway, before.gateway)),
        system_bytes_per_conn: per_conn(grown(before.available, after.available)),
        own_rss_bytes_per_conn: per_conn(grown(after.own, before.own)),
        gateway_cpu_s: held.ramp_used.cpu_s,
        loadgen_cpu_pct: outcome.ramp_busy().map(|busy| busy * 100.0),
        ..run::report("connect", plan, outcome)
    };
    let mut facts = Facts {
        paced: false,
        clients: plan.clients.into(),
        ready: world.counts.ready,
        lost: world.counts.lost,
        stray: world.tally.stray,
        stopped: held.stopped,
        ..Facts::default()
    };
    if let Some(published) = held.broadcast {
        report.add_tally(outcome);
        report.size = Some(args.size);
        report.offered = Some(published.offered);
        report.published = Some(published.published);
        report.admitted = Some(published.admitted);
        report.limited = Some(published.limited());
        report.expected = Some(published.admitted * world.counts.ready);
        report.broadcast_ms = (world.tally.delivered > 0)
            .then(|| world.last_delivery_ns.saturating_sub(published.first_ns) as f64 / 1e6);
        facts.offered = published.offered;
        facts.published = published.published;
        facts.refused = published.limited();
        facts.unanswered = published.unanswered;
        facts.broken = published.broken;
        facts.expected = published.admitted * world.counts.ready;
        facts.accounted = world.tally.accounted();
    }
    report.invalid_reasons = verdict::reasons(&facts);
    report.valid = report.invalid_reasons.is_empty();
    report
}
