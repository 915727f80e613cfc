//! `storm`: pairs of PK rooms in which many give at the same time; what the gateway's policy makes
//! of it, and whether every gift counts.

pub mod publisher;
pub mod report;
pub mod schedule;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;

use crate::cli::StormArgs;
use crate::clock::seconds_ns;
use crate::gateway::Gateway;
use crate::network::{self, Outcome};
use crate::plan::{Plan, Rooms};
use crate::publisher::advice;
use crate::report::{Report, by_code};
use crate::run::{self, Run, Used};
use crate::storm::publisher::{Stormed, Storming};
use crate::storm::schedule::Weather;
use crate::verdict::{self, Facts};
use crate::watch::kind;
use crate::world::summary;

pub use report::StormReport;

/// Runs the command.
pub fn run(args: &StormArgs, stop: &Arc<AtomicBool>) -> Result<Report> {
    let clients = &args.clients;
    let rooms = args.rooms * 2;
    let spread = vec![Rooms::spread(args.room, rooms)];
    let mut plan = run::plan(clients, rooms * args.members, spread, None)?;
    plan.watched = true;
    // What is merged waits on purpose: only chat says how fast the gateway is.
    plan.timed_kind = Some(kind::CHAT);
    plan.paced = true;
    // Before the members, so that a wrong address is found at once.
    let upstream = run::upstream(&args.upstream, clients.app)?;
    let gateway = Gateway { pid: clients.gateway_pid, metrics: clients.metrics };
    let mut run = Run::start(plan.clone(), 0.0, gateway, args.reporting, stop)?;
    run.ramp();
    let span = run.span(0.0, args.secs);
    let storming = storming(args, rooms);
    let publisher = publisher::spawn(upstream, storming, span, Arc::clone(&run.shared))?;
    let used = run.measure(span);
    while !publisher.is_finished() && run.look("settle") {}
    let stopped = run.shared.stopped();
    let stormed = network::join(publisher)?;
    let outcome = run.drain(stormed.rooms.iter().map(|room| room.last_seq).collect())?;
    Ok(report(args, &plan, &outcome, stormed, used, stopped))
}

fn storming(args: &StormArgs, rooms: u32) -> Storming {
    let weather = Weather {
        rooms,
        senders: args.senders,
        taps_per_s: args.taps,
        burst_ns: seconds_ns(args.burst_secs),
        pause_ns: seconds_ns(args.pause_secs),
        gifts: args.gifts,
        bar_per_s: args.bar_rate,
        chat_per_s: args.chat_rate,
        seed: args.seed,
    };
    Storming {
        room: args.room,
        weather,
        categories: args.categories(),
        size: args.size,
        settle_ns: seconds_ns(args.settle_secs),
        core: args.clients.upstream_core,
    }
}

fn report(
    args: &StormArgs,
    plan: &Plan,
    outcome: &Outcome,
    stormed: Stormed,
    used: Used,
    stopped: bool,
) -> Report {
    let world = &outcome.world;
    let all = stormed.all();
    let rooms = stormed.rooms.iter().zip(&world.rooms);
    let expected = rooms
        .map(|(place, book)| place.last_seq.saturating_sub(book.head) * u64::from(book.ready))
        .sum();
    let categories = args.categories();
    let mut storm = StormReport::new(&stormed, outcome, args.room);
    (storm.pairs, storm.senders, storm.seed) = (args.rooms, args.senders, args.seed);
    storm.categories = categories;
    let mut report = Report {
        size: Some(args.size),
        secs: args.secs,
        offered: Some(all.offered),
        published: Some(all.published),
        admitted: Some(all.ok + all.merged),
        limited: Some(all.limited),
        refused: Some(by_code(&stormed.refused)),
        expected: Some(expected),
        uncorrected_latency_us: summary(&world.timings.uncorrected),
        send_lag_us: stormed.lag.summary(),
        ..run::report("storm", plan, outcome)
    };
    report.add_tally(outcome);
    report.add_speed(outcome, used);
    let facts = Facts {
        paced: plan.paced,
        busy: outcome.busy(),
        lag_p99_us: report.send_lag_us.map(|lag| lag.p99),
        latency_p99_us: report.latency_us.map(|latency| latency.p99),
        offered: all.offered,
        published: all.published,
        refused: all.limited + all.refused,
        unanswered: stormed.unanswered,
        clients: plan.clients.into(),
        ready: world.counts.ready,
        lost: world.counts.lost,
        stray: world.tally.stray,
        expected,
        accounted: world.tally.accounted(),
        stopped,
        broken: stormed.broken,
    };
    report.invalid_reasons = verdict::reasons(&facts);
    let names = categories.map(|category| category.to_string()).join(", ");
    report.invalid_reasons.extend(advice(&stormed.refused, &names));
    let open = stormed.rooms.iter().filter(|room| room.last_seq == 0).count();
    if open > 0 {
        report.invalid_reasons.push(format!(
            "{open} rooms could not be ended with a message of category 0: their books are open"
        ));
    }
    report.valid = report.invalid_reasons.is_empty();
    report.storm = Some(storm);
    report
}
