//! `connect`: make many connections, hold them, see what they cost and whether they last.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use barrage_wire::upstream::AckMode;

use crate::cli::ConnectArgs;
use crate::clock::{SECOND_NS, now_ns, seconds_ns};
use crate::gateway::{Gateway, Sample};
use crate::network::{self, Outcome};
use crate::plan::{Plan, Rooms};
use crate::procfs;
use crate::publisher::{self, Pace, Published, Publishing};
use crate::report::{self, Report};
use crate::run::{self, Run};
use crate::shared::{Errand, Span, read};
use crate::verdict::{self, Facts};

/// Clients per room, unless given otherwise.
const CLIENTS_PER_ROOM: u32 = 50;
/// How long a broadcast to everybody may take.
const BROADCAST_MAX_NS: u64 = 60 * SECOND_NS;
/// Without any join or leave for so long no more are waited for.
const ERRAND_STALL_NS: u64 = 30 * SECOND_NS;
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

/// What came of joining rooms after the ramp.
#[derive(Clone, Copy)]
struct Joined {
    memory: Memory,
    rooms: u64,
    left: u64,
    failed: u64,
    seconds: f64,
}

/// What was seen between the ramp and the end.
struct Held {
    joined: Option<Joined>,
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
        drop(run::upstream(address, args.clients.app)?);
    }
    let gateway = Gateway { pid: args.clients.gateway_pid, metrics: args.clients.metrics };
    let (before, first) = (Memory::now(&gateway), gateway.sample());
    let mut run = Run::start(plan.clone(), args.rate, gateway, args.reporting, stop)?;
    run.ramp();
    let ramp_used = gateway.sample().since(first);
    let held_until_ns = now_ns() + seconds_ns(args.hold);
    // Half of the hold lets things settle, the broadcast gets the rest.
    run.wait_until(now_ns() + seconds_ns(args.hold) / 2, "hold");
    let after = Memory::now(&gateway);
    let joined = args.rooms_per_client.map(|per_client| join_and_leave(args, per_client, &mut run));
    let mut last_seqs = Vec::new();
    let mut broadcast = None;
    if args.then_broadcast && run.goes_on() {
        let published = broadcast_once(args, &mut run)?;
        last_seqs.clone_from(&published.last_seqs);
        broadcast = Some(published);
    }
    run.wait_until(held_until_ns, "hold");
    let stopped = run.shared.stopped();
    let outcome = run.drain(last_seqs)?;
    let held = Held { joined, before, after, ramp_used, broadcast, stopped };
    Ok(report(args, &plan, &outcome, held))
}

fn plan(args: &ConnectArgs) -> Result<Plan> {
    if let Some(per_client) = args.rooms_per_client {
        let own = u64::from(args.count) * u64::from(per_client);
        let count = args.rooms.map_or(own, u64::from);
        let Ok(count) = u32::try_from(count) else { bail!("{count} rooms are too many") };
        if count < per_client {
            bail!("--rooms {count} are fewer than each client is to join");
        }
        one_room(args, count)?;
        let rooms = Rooms::several(args.room, count, per_client);
        let mut plan = run::plan(&args.clients, args.count, rooms, None)?;
        plan.joins_later = true;
        return Ok(plan);
    }
    let count = args.rooms.unwrap_or(args.count.div_ceil(CLIENTS_PER_ROOM));
    let mut rooms = vec![Rooms::spread(args.room, count)];
    if args.one_room || args.then_broadcast {
        rooms.push(Rooms::One(one_room(args, count)?));
    }
    run::plan(&args.clients, args.count, rooms, None)
}

/// The room of all clients: the one after the rooms that they are spread over.
fn one_room(args: &ConnectArgs, count: u32) -> Result<u64> {
    match args.room.checked_add(count.into()) {
        Some(room) => Ok(room),
        None => bail!("--room {} leaves no ids for {count} rooms", args.room),
    }
}

/// Lets every client join its rooms, looks at the gateway's memory, and lets them leave again.
fn join_and_leave(args: &ConnectArgs, per_client: u32, run: &mut Run) -> Joined {
    let wanted = run.ready() * u64::from(per_client);
    let started_ns = now_ns();
    run_errand(Errand::Join, wanted, run);
    let seconds = (now_ns() - started_ns) as f64 / SECOND_NS as f64;
    let rooms = read(&run.shared.joined);
    run.wait_until(now_ns() + seconds_ns(args.hold) / 2, "hold");
    let memory = Memory::now(&run.gateway);
    // A room that was not joined cannot be left; that is one failure.
    let refused = read(&run.shared.errands_refused);
    run_errand(Errand::Leave, rooms, run);
    let left = read(&run.shared.left);
    let failed = wanted.saturating_sub(rooms).max(refused) + rooms.saturating_sub(left);
    Joined { memory, rooms, left, failed, seconds }
}

/// Sends the clients, and waits for so many answers or until no more come.
fn run_errand(errand: Errand, wanted: u64, run: &mut Run) {
    let refused_before = read(&run.shared.errands_refused);
    run.shared.send_to(errand);
    let (mut moved_ns, mut last) = (now_ns(), 0);
    loop {
        let (done, doing) = match errand {
            Errand::Join => (&run.shared.joined, "join"),
            Errand::Leave => (&run.shared.left, "leave"),
        };
        let refused = read(&run.shared.errands_refused) - refused_before;
        let answered = read(done) + refused;
        if answered != last {
            (last, moved_ns) = (answered, now_ns());
        }
        let stalled = now_ns() - moved_ns > ERRAND_STALL_NS;
        if answered >= wanted || stalled || !run.look(doing) {
            return;
        }
    }
}

fn broadcast_once(args: &ConnectArgs, run: &mut Run) -> Result<Published> {
    let Some(address) = &args.upstream else { bail!("--then-broadcast needs --upstream") };
    let count = args.rooms.unwrap_or(args.count.div_ceil(CLIENTS_PER_ROOM));
    let publishing = Publishing {
        room: one_room(args, count)?,
        rooms: 1,
        category: args.category,
        ack: AckMode::Accepted,
        size: args.size,
        pace: Pace::Burst(1),
        core: args.clients.upstream_core,
    };
    let upstream = run::upstream(address, args.clients.app)?;
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
    if let Some(joined) = held.joined {
        let grown = grown(joined.memory.gateway, after.gateway);
        report.rooms_joined = Some(joined.rooms);
        report.rooms_left = Some(joined.left);
        report.rooms_failed = Some(joined.failed);
        report.joins_per_s = Some(joined.rooms as f64 / joined.seconds.max(f64::MIN_POSITIVE));
        report.rss_bytes_per_room =
            grown.filter(|_| joined.rooms > 0).map(|bytes| bytes / joined.rooms as f64);
    }
    let mut facts = Facts {
        paced: false,
        clients: plan.clients.into(),
        ready: world.counts.ready,
        lost: world.counts.lost,
        stray: world.tally.stray,
        stopped: held.stopped,
        ..Facts::default()
    };
    let mut advice = Vec::new();
    if let Some(published) = held.broadcast {
        report.add_tally(outcome);
        report.size = Some(args.size);
        report.offered = Some(published.offered);
        report.published = Some(published.published);
        report.admitted = Some(published.admitted());
        report.limited = Some(published.limited());
        report.refused = Some(report::by_code(&published.refused));
        report.expected = Some(published.admitted() * world.counts.ready);
        report.broadcast_ms = (world.tally.delivered > 0)
            .then(|| world.last_delivery_ns.saturating_sub(published.first_ns) as f64 / 1e6);
        facts.offered = published.offered;
        facts.published = published.published;
        facts.refused = published.refused();
        facts.unanswered = published.unanswered;
        facts.expected = published.admitted() * world.counts.ready;
        facts.accounted = world.tally.accounted();
        facts.broken = published.broken;
        advice = publisher::advice(&published.refused, &args.category.to_string());
    }
    report.invalid_reasons = verdict::reasons(&facts);
    report.invalid_reasons.extend(advice);
    if let Some(failed) = report.rooms_failed.filter(|&failed| failed > 0) {
        report
            .invalid_reasons
            .push(format!("{failed} joins or leaves were refused or not answered"));
    }
    report.valid = report.invalid_reasons.is_empty();
    report
}
