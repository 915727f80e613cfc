//! `uplink`: clients ask, an upstream of ours answers.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;

use crate::cli::UplinkArgs;
use crate::echo;
use crate::gateway::Gateway;
use crate::network::{self, Outcome};
use crate::plan::{Plan, Uplinks};
use crate::report::Report;
use crate::run::{self, Run, Used};
use crate::verdict::{self, Facts};

/// Runs the command.
pub fn run(args: &UplinkArgs, stop: &Arc<AtomicBool>) -> Result<Report> {
    let clients = &args.connections;
    let uplinks = Uplinks { channel: args.channel, size: args.size, window: args.window.into() };
    let plan = run::plan(clients, args.clients, Vec::new(), Some(uplinks))?;
    let upstream = run::upstream(&args.upstream, clients.app)?;
    let gateway = Gateway { pid: clients.gateway_pid, metrics: clients.metrics };
    let mut run = Run::start(plan.clone(), 0.0, gateway, args.reporting, stop)?;
    let shared = Arc::clone(&run.shared);
    let echo = echo::spawn(upstream, args.channel, clients.upstream_core, shared)?;
    run.ramp();
    let span = run.span(args.warmup, args.secs);
    let used = run.measure(span);
    let stopped = run.shared.stopped();
    let outcome = run.drain(Vec::new())?;
    let broken = network::join(echo).err().map(|error| format!("{error:#}"));
    Ok(report(args, &plan, &outcome, used, stopped, broken))
}

fn report(
    args: &UplinkArgs,
    plan: &Plan,
    outcome: &Outcome,
    used: Used,
    stopped: bool,
    broken: Option<String>,
) -> Report {
    let world = &outcome.world;
    let uplinks = world.uplinks;
    let told = uplinks.answered + uplinks.refused + uplinks.disconnected;
    let mut report = Report {
        size: Some(args.size),
        rate: Some(0.0),
        secs: args.secs,
        offered: Some(uplinks.sent),
        published: Some(uplinks.sent),
        admitted: Some(uplinks.sent - uplinks.refused),
        limited: Some(uplinks.limited),
        refused: (uplinks.refused > 0)
            .then(|| [("by the gateway".to_owned(), uplinks.refused)].into()),
        expected: Some(uplinks.sent - uplinks.refused),
        delivered: Some(uplinks.answered),
        disconnected: Some(uplinks.disconnected),
        unexplained: Some(uplinks.sent.saturating_sub(told)),
        ..run::report("uplink", plan, outcome)
    };
    report.add_speed(outcome, used);
    let facts = Facts {
        busy: outcome.busy(),
        clients: plan.clients.into(),
        ready: world.counts.ready,
        lost: world.counts.lost,
        stopped,
        broken,
        ..Facts::default()
    };
    report.invalid_reasons = verdict::reasons(&facts);
    if uplinks.refused > 0 {
        report.invalid_reasons.push(format!(
            "{} uplinks were answered by the gateway and not by the upstream",
            uplinks.refused
        ));
    }
    report.valid = report.invalid_reasons.is_empty();
    report
}
