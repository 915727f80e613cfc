//! What has come of a campaign. Pure: facts in, a verdict out.

use crate::exit::Exit;
use crate::record::Counts;
use crate::record::kept::{Clock, Figures, Objective, Verdict};
use crate::scenario::{Slo, Validity};

#[cfg(test)]
mod tests;

/// Sending later than this is what waking a thread up takes; only more is held against the latency.
const LAG_US_IGNORED: u64 = 250;
/// Longest that a worker may wait for a core, in percent of the time.
pub const WAITED_PERCENT_MAX: f64 = 10.0;
/// What the kernel says when it is this machine that has no more to give.
const GENERATOR_LIMITS: [&str; 14] = [
    "has no free port",
    "os error 23)",
    "Too many open files in system",
    "descriptors ran out",
    "Address already in use",
    "os error 98",
    "Cannot assign requested address",
    "os error 99",
    "No buffer space",
    "os error 105",
    "Too many open files",
    "os error 24",
    "Cannot allocate memory",
    "os error 12)",
];

/// What is known about a campaign at its end.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Clients that were to be connected.
    pub clients: u64,
    /// Everything that was counted.
    pub totals: Counts,
    /// The figures of all measured phases.
    pub measured: Figures,
    /// How long they were together, in seconds.
    pub measured_s: f64,
    /// Share of it that the worker waited for a core that waited the longest.
    pub waited: f64,
    /// Connects in a second, over all ramps.
    pub connects_per_s: Option<f64>,
    /// Growth of the target's memory per connection.
    pub target_bytes_per_client: Option<f64>,
    /// How long until all who were disconnected were back.
    pub reconnect_s: Option<f64>,
    /// Whether anything was to be published while measuring.
    pub publishes: bool,
    /// The figures of each measured phase whose messages came by a schedule, not by a window.
    pub paced: Vec<Figures>,
    /// Messages times members, where that can be known.
    pub expected: Option<u64>,
    /// Rooms whose books could not be ended.
    pub open_rooms: u64,
    /// Numbers in the rooms that somebody else has got while we published.
    pub others: u64,
    /// Rooms of which it is not known what their members are to have got.
    pub unsure_rooms: u64,
    /// Whether the end was not waited for although messages were still coming.
    pub drain_cut: bool,
    /// Why connections ended.
    pub ended: Vec<(String, u64)>,
    /// Other machines' clocks.
    pub clocks: Vec<Clock>,
    /// Ctrl-C.
    pub stopped: bool,
    /// Parts of the generator that have ended early, and why.
    pub broken: Vec<String>,
    /// An abort condition was met.
    pub aborted: Option<String>,
    /// The target has gone.
    pub target_lost: Option<String>,
}

/// Judges.
pub fn judge(facts: &Facts, slo: &Slo, validity: &Validity) -> Verdict {
    let faults = faults(facts);
    let invalid_reasons = invalid(facts, validity);
    let objectives = objectives(facts, slo);
    let missed = objectives.iter().filter(|objective| !objective.met).count();
    let (exit, why) = if let Some(lost) = &facts.target_lost {
        (Exit::TargetLost, format!("the target is lost: {lost}"))
    } else if let Some(first) = faults.first() {
        (Exit::Faulty, first.clone())
    } else if let Some(first) = invalid_reasons.first() {
        (Exit::Invalid, first.clone())
    } else if let Some(why) = &facts.aborted {
        (Exit::Missed, format!("given up: {why}"))
    } else if missed > 0 {
        (Exit::Missed, missed_line(&objectives))
    } else {
        (Exit::Pass, "valid, everything is accounted for, every objective is met".to_owned())
    };
    Verdict { exit, why, objectives, invalid_reasons, faults, aborted: facts.aborted.clone() }
}

/// Whether it was this machine that had no more to give, by what was said of an error.
pub fn is_own_limit(why: &str) -> bool {
    GENERATOR_LIMITS.iter().any(|limit| why.contains(limit))
}

/// How many deliveries have a known fate.
pub fn accounted(counts: &Counts) -> u64 {
    counts.delivered
        + counts.declared_shed
        + counts.declared_reset
        + counts.disconnected
        + counts.unexplained
}

fn missed_line(objectives: &[Objective]) -> String {
    let missed = objectives.iter().filter(|objective| !objective.met);
    let say = |objective: &Objective| match objective.found {
        Some(found) => format!("{} is {found:.3}, wanted {}", objective.name, objective.wanted),
        None => format!("{} could not be measured{}", objective.name, advice(&objective.name)),
    };
    missed.map(say).collect::<Vec<_>>().join("; ")
}

fn advice(name: &str) -> &'static str {
    match name {
        "target_cpu_percent" | "target_bytes_per_client" => {
            ": give target.metrics or target.pid, of a target that tells it"
        }
        "reconnect_s" => ": not all came back in time",
        _ => ": nothing was timed",
    }
}

fn faults(facts: &Facts) -> Vec<String> {
    let totals = &facts.totals;
    // What was not waited for, or may never have been let in, is not proven to be missing.
    let is_proven = !facts.drain_cut && facts.unsure_rooms == 0;
    let unexplained = if is_proven { totals.unexplained } else { 0 };
    let mut faults: Vec<String> = [
        (unexplained, "messages are missing without a word"),
        (totals.duplicate, "messages came twice"),
        (totals.reordered, "messages came after later ones"),
        (totals.over_declared, "messages were declared as left out and are not missing"),
        (totals.stray, "messages came for rooms that their receiver is not in"),
        (totals.wrong_totals, "rooms have other totals of gifts or values than were let in"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    let accounted = accounted(totals);
    if let Some(expected) = facts.expected.filter(|&expected| expected != accounted) {
        faults.push(format!(
            "the books do not balance: {accounted} deliveries are accounted for and {expected} \
             were expected; does somebody else publish to these rooms?"
        ));
    }
    faults
}

fn invalid(facts: &Facts, validity: &Validity) -> Vec<String> {
    let mut reasons = Vec::new();
    if facts.stopped {
        reasons.push("the run was stopped before its time".to_owned());
    }
    reasons.extend(facts.broken.iter().cloned());
    let unexplained = facts.totals.unexplained;
    if unexplained > 0 && facts.drain_cut {
        reasons.push(format!(
            "{unexplained} messages were not heard in time: the run ended while they may have been \
             on their way"
        ));
    } else if unexplained > 0 && facts.unsure_rooms > 0 {
        reasons.push(format!(
            "{unexplained} messages are missing, and of {} rooms it is not known what was let in",
            facts.unsure_rooms
        ));
    }
    for (why, count) in &facts.ended {
        if is_own_limit(why) {
            reasons.push(format!(
                "{count} connections were not made because of this machine: {why}; `doctor` says \
                 how to mend that"
            ));
        }
    }
    let percent = facts.measured.busy * 100.0;
    if percent > validity.busy_percent {
        reasons.push(format!(
            "a thread of the generator was {percent:.0} % busy, over {:.0} %: latencies are \
             partly its own",
            validity.busy_percent
        ));
    }
    let waited = facts.waited * 100.0;
    // Where a worker may be busy all the time, waiting is not held against it either.
    if waited > WAITED_PERCENT_MAX && validity.busy_percent < 100.0 {
        reasons.push(format!(
            "a worker waited for a core {waited:.0} % of the time, over {WAITED_PERCENT_MAX} %: \
             something else runs there, perhaps the publisher"
        ));
    }
    publishing(facts, validity, &mut reasons);
    clocks(facts, validity, &mut reasons);
    reasons
}

fn publishing(facts: &Facts, validity: &Validity, reasons: &mut Vec<String>) {
    if !facts.publishes {
        return;
    }
    if facts.totals.published == 0 {
        reasons.push("nothing was published".to_owned());
    } else if facts.totals.refused + facts.totals.limited == facts.totals.published {
        reasons.push("nothing was admitted: every publish was refused".to_owned());
    }
    if facts.totals.unanswered > 0 {
        reasons.push(format!("{} publishes were never answered", facts.totals.unanswered));
    }
    if facts.open_rooms > 0 {
        reasons.push(format!("the books of {} rooms could not be ended", facts.open_rooms));
    }
    if facts.others > 0 {
        reasons.push(format!(
            "somebody else has published {} messages in these rooms: their deliveries are among ours",
            facts.others
        ));
    }
    // What a quiet phase does well does not make up for another.
    let offered = facts.paced.iter().filter(|phase| phase.counts.offered > 0);
    let worst = offered.max_by(|one, other| unpublished(one).total_cmp(&unpublished(other)));
    if let Some(phase) =
        worst.filter(|phase| unpublished(phase) > 100.0 - validity.published_percent)
    {
        reasons.push(format!(
            "only {} of {} messages of {} were published when they were due: the target or the \
             publishing thread cannot keep up with this rate",
            phase.counts.published, phase.counts.offered, phase.name
        ));
    }
    reasons.extend(late(&facts.paced, validity));
}

/// Percent of a phase's messages that were due and not published.
fn unpublished(phase: &Figures) -> f64 {
    let missing = phase.counts.offered.saturating_sub(phase.counts.published);
    missing as f64 * 100.0 / phase.counts.offered as f64
}

/// Whether messages were sent too late in any of these phases.
fn late(paced: &[Figures], validity: &Validity) -> Option<String> {
    let lags = || paced.iter().filter_map(|phase| Some((phase, phase.lag_us?.p99)));
    let (latest, lag) = lags().max_by_key(|(_, lag)| *lag)?;
    if lag as f64 > validity.lag_p99_ms * 1e3 {
        return Some(format!(
            "messages of {} were sent {lag} µs late (p99), over {} ms",
            latest.name, validity.lag_p99_ms
        ));
    }
    let share = |phase: &Figures, lag: u64| {
        phase.latency_us.map_or(0.0, |latency| lag as f64 * 100.0 / latency.p99.max(1) as f64)
    };
    let (phase, lag) = lags()
        .filter(|(_, lag)| *lag > LAG_US_IGNORED)
        .max_by(|one, other| share(one.0, one.1).total_cmp(&share(other.0, other.1)))?;
    (share(phase, lag) > validity.lag_percent).then(|| {
        format!(
            "messages of {} were sent {lag} µs late (p99), over {} % of the latency's p99",
            phase.name, validity.lag_percent
        )
    })
}

fn clocks(facts: &Facts, validity: &Validity, reasons: &mut Vec<String>) {
    let Some(latency) = facts.measured.latency_us else { return };
    for clock in &facts.clocks {
        let error_us = clock.error_ns as f64 / 1e3;
        if error_us > latency.p50 as f64 * validity.clock_percent / 100.0 {
            reasons.push(format!(
                "the clock of {} may be {error_us:.0} µs off, over {} % of the latency's p50 \
                 ({} µs): nothing finer can be claimed",
                clock.agent, validity.clock_percent, latency.p50
            ));
        }
    }
}

fn objectives(facts: &Facts, slo: &Slo) -> Vec<Objective> {
    let (totals, measured) = (&facts.totals, &facts.measured);
    let latency = measured.latency_us;
    let ms = |us: u64| us as f64 / 1e3;
    let part = |count: u64, of: u64| Some(count as f64 * 100.0 / of.max(1) as f64);
    let declared = totals.declared_shed + totals.declared_reset;
    let due = facts.expected.unwrap_or_else(|| accounted(totals));
    // Those who never got ready, or among others those who tried in vain to come back.
    let never = facts.clients.saturating_sub(totals.connected).max(totals.failed);
    let cpu = measured.target_cpu_s.filter(|_| facts.measured_s > 0.0);
    let mut objectives = Vec::new();
    let mut most = |name: &str, wanted: Option<f64>, found: Option<f64>| {
        objectives.extend(wanted.map(|wanted| objective(name, wanted, found, true)));
    };
    most("p50_ms", slo.p50_ms, latency.map(|latency| ms(latency.p50)));
    most("p90_ms", slo.p90_ms, latency.map(|latency| ms(latency.p90)));
    most("p99_ms", slo.p99_ms, latency.map(|latency| ms(latency.p99)));
    most("p999_ms", slo.p999_ms, latency.map(|latency| ms(latency.p999)));
    most("max_ms", slo.max_ms, latency.map(|latency| ms(latency.max)));
    most("reconnect_s", slo.reconnect_s, facts.reconnect_s);
    most("failed_percent", Some(slo.failed_percent), part(never, facts.clients));
    most("lost_percent", Some(slo.lost_percent), part(totals.lost, facts.clients));
    most("shed_percent", slo.shed_percent, part(declared, due));
    let cpu = cpu.map(|cpu_s| cpu_s * 100.0 / facts.measured_s);
    most("target_cpu_percent", slo.target_cpu_percent, cpu);
    most("target_bytes_per_client", slo.target_bytes_per_client, facts.target_bytes_per_client);
    let least = [
        ("deliveries_per_s_min", slo.deliveries_per_s_min, measured.deliveries_per_s),
        ("connects_per_s_min", slo.connects_per_s_min, facts.connects_per_s),
    ];
    for (name, wanted, found) in least {
        objectives.extend(wanted.map(|wanted| objective(name, wanted, found, false)));
    }
    objectives
}

fn objective(name: &str, wanted: f64, found: Option<f64>, is_most: bool) -> Objective {
    let met = found.is_some_and(|found| if is_most { found <= wanted } else { found >= wanted });
    let relation = if is_most { "<=" } else { ">=" };
    Objective { name: name.to_owned(), wanted: format!("{relation} {wanted}"), found, met }
}
