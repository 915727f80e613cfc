//! `room`: publish to the members of one room, or of several, and time every delivery.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use barrage_wire::server::MESSAGE_OVERHEAD_BYTES;
use barrage_wire::upstream::AckMode;

use crate::cli::{Ack, RoomArgs};
use crate::gateway::Gateway;
use crate::network::{self, Outcome};
use crate::plan::{Plan, Rooms};
use crate::publisher::{self, Pace, Published, Publishing};
use crate::report::{self, Report};
use crate::run::{self, Run, Used};
use crate::verdict::{self, Facts};
use crate::world::summary;

/// Bytes of frames on their way to one member with `--rate 0`: less than a gateway keeps for a
/// member that is behind, so that nothing is shed.
const WINDOW_BYTES: usize = 512 * 1024;
const WINDOW_MIN: usize = 64;

/// Runs the command.
pub fn run(args: &RoomArgs, stop: &Arc<AtomicBool>) -> Result<Report> {
    let clients = &args.clients;
    if args.room.checked_add(args.rooms.into()).is_none() {
        bail!("--room {} leaves no ids for {} rooms", args.room, args.rooms);
    }
    let rooms = vec![Rooms::spread(args.room, args.rooms)];
    let mut plan = run::plan(clients, args.members, rooms, None)?;
    plan.paced = args.rate > 0.0;
    // Before the members, so that a wrong address is found at once.
    let upstream = run::upstream(&args.upstream, clients.app)?;
    let gateway = Gateway { pid: clients.gateway_pid, metrics: clients.metrics };
    let mut run = Run::start(plan.clone(), 0.0, gateway, args.reporting, stop)?;
    run.ramp();
    let span = run.span(args.warmup, args.secs);
    let publishing = Publishing {
        room: args.room,
        rooms: args.rooms,
        category: args.category,
        ack: match args.ack {
            Ack::Accepted => AckMode::Accepted,
            Ack::Stored => AckMode::Stored,
        },
        size: args.size,
        pace: pace(args),
        core: clients.upstream_core,
    };
    let publisher = publisher::spawn(upstream, publishing, span, Arc::clone(&run.shared))?;
    let used = run.measure(span);
    let stopped = run.shared.stopped();
    let published = network::join(publisher)?;
    let outcome = run.drain(published.last_seqs.clone())?;
    Ok(report(args, &plan, &outcome, published, used, stopped))
}

fn pace(args: &RoomArgs) -> Pace {
    if args.rate > 0.0 {
        return Pace::PerSecond(args.rate);
    }
    let fitting = WINDOW_BYTES / (MESSAGE_OVERHEAD_BYTES + args.size);
    Pace::Window(args.window.unwrap_or(fitting.max(WINDOW_MIN) as u64))
}

fn report(
    args: &RoomArgs,
    plan: &Plan,
    outcome: &Outcome,
    published: Published,
    used: Used,
    stopped: bool,
) -> Report {
    let world = &outcome.world;
    let by_room = published.admitted_by_room.iter().zip(&world.rooms);
    let expected = by_room.map(|(admitted, room)| admitted * u64::from(room.ready)).sum();
    let mut report = Report {
        rate: Some(args.rate),
        size: Some(args.size),
        secs: args.secs,
        offered: Some(published.offered),
        published: Some(published.published),
        admitted: Some(published.admitted()),
        limited: Some(published.limited()),
        refused: Some(report::by_code(&published.refused)),
        expected: Some(expected),
        admitted_per_s: Some(published.admitted_measured as f64 / args.secs),
        answer_us: published.answers.summary(),
        uncorrected_latency_us: summary(&world.timings.uncorrected),
        send_lag_us: published.lag.summary(),
        ..run::report("room", plan, outcome)
    };
    report.add_tally(outcome);
    report.add_speed(outcome, used);
    let facts = Facts {
        paced: plan.paced,
        busy: outcome.busy(),
        lag_p99_us: report.send_lag_us.map(|lag| lag.p99),
        latency_p99_us: report.latency_us.map(|latency| latency.p99),
        offered: published.offered,
        published: published.published,
        refused: published.refused(),
        unanswered: published.unanswered,
        clients: plan.clients.into(),
        ready: world.counts.ready,
        lost: world.counts.lost,
        stray: world.tally.stray,
        expected,
        accounted: world.tally.accounted(),
        stopped,
        broken: published.broken,
    };
    report.invalid_reasons = verdict::reasons(&facts);
    let category = args.category.to_string();
    report.invalid_reasons.extend(publisher::advice(&published.refused, &category));
    report.valid = report.invalid_reasons.is_empty();
    report
}
