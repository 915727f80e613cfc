//! Every rule, by a sound run with one thing changed.

use super::*;
use crate::latency::Summary;

fn sound() -> Facts {
    let times = |p50, p99| Some(Summary { p50, p90: p50, p99, p999: p99, max: p99 });
    let counts = Counts {
        connected: 10,
        delivered: 1000,
        offered: 100,
        published: 100,
        admitted: 100,
        ..Counts::default()
    };
    let measured = Figures {
        counts,
        latency_us: times(2_000, 10_000),
        lag_us: times(10, 100),
        deliveries_per_s: Some(500.0),
        target_cpu_s: Some(1.0),
        busy: 0.5,
        ..Figures::default()
    };
    let paced = vec![Figures { name: "calm".to_owned(), ..measured.clone() }; 2];
    Facts {
        clients: 10,
        totals: counts,
        measured,
        measured_s: 2.0,
        connects_per_s: Some(100.0),
        target_bytes_per_client: Some(4000.0),
        reconnect_s: Some(3.0),
        publishes: true,
        paced,
        expected: Some(1000),
        ..Facts::default()
    }
}

fn bounds() -> Validity {
    Validity {
        busy_percent: 90.0,
        lag_p99_ms: 5.0,
        lag_percent: 10.0,
        published_percent: 99.0,
        clock_percent: 10.0,
    }
}

fn judged(change: impl FnOnce(&mut Facts, &mut Slo)) -> Verdict {
    let (mut facts, mut slo) = (sound(), Slo::default());
    change(&mut facts, &mut slo);
    judge(&facts, &slo, &bounds())
}

/// With that change the verdict is `exit`, and its line says `why`.
fn check(exit: Exit, why: &str, change: impl FnOnce(&mut Facts, &mut Slo)) {
    let verdict = judged(change);
    assert_eq!(verdict.exit, exit, "{verdict:?}");
    assert!(verdict.why.contains(why), "{verdict:?}");
}

#[test]
fn a_sound_run_passes() {
    check(Exit::Pass, "every objective", |_, _| {});
    check(Exit::Pass, "", |facts, _| facts.publishes = false);
}

#[test]
fn what_is_wrong_with_messages_is_faulty() {
    use Exit::Faulty;
    let count = |change: fn(&mut Counts)| {
        move |facts: &mut Facts, _: &mut Slo| {
            facts.expected = None;
            change(&mut facts.totals);
        }
    };
    check(Faulty, "7 messages are missing", count(|totals| totals.unexplained = 7));
    check(Faulty, "7 messages came twice", count(|totals| totals.duplicate = 7));
    check(Faulty, "7 messages came after", count(|totals| totals.reordered = 7));
    check(Faulty, "7 messages were declared", count(|totals| totals.over_declared = 7));
    check(Faulty, "7 messages came for rooms", count(|totals| totals.stray = 7));
    check(Faulty, "7 rooms have other totals", count(|totals| totals.wrong_totals = 7));
    check(Faulty, "do not balance", |facts, _| facts.expected = Some(1001));
    check(Exit::Pass, "", |facts, _| {
        (facts.totals.delivered, facts.totals.declared_shed) = (990, 4);
        (facts.totals.declared_reset, facts.totals.disconnected) = (3, 3);
    });
}

#[test]
fn a_generator_at_its_limit_makes_a_run_invalid() {
    use Exit::{Invalid, Pass};
    check(Pass, "", |facts, _| facts.measured.busy = 0.90);
    check(Invalid, "91 % busy", |facts, _| facts.measured.busy = 0.91);
    check(Invalid, "stopped", |facts, _| facts.stopped = true);
    check(Invalid, "a worker broke", |facts, _| facts.broken = vec!["a worker broke".into()]);
    let ended = |text: &str| vec![(text.to_owned(), 3)];
    check(Invalid, "3 connections", |facts, _| {
        facts.ended = ended("Cannot assign requested address (os error 99)");
    });
    check(Pass, "", |facts, _| facts.ended = ended("Connection reset by peer (os error 104)"));
}

#[test]
fn late_or_missing_publishes_make_a_run_invalid() {
    use Exit::{Invalid, Pass};
    let lag = |us| {
        move |facts: &mut Facts, _: &mut Slo| {
            facts.paced[1].lag_us = Some(Summary { p99: us, ..Summary::default() });
        }
    };
    check(Pass, "", lag(1_000));
    check(Invalid, "10 % of the latency", lag(1_001));
    check(Invalid, "over 5 ms", lag(5_001));
    check(Pass, "", |facts, slo| {
        lag(9_000)(facts, slo);
        facts.paced = Vec::new();
    });
    check(Pass, "", |facts, slo| {
        lag(250)(facts, slo);
        facts.paced[1].latency_us = Some(Summary { p50: 50, p99: 100, ..Summary::default() });
    });
    check(Pass, "", |facts, _| facts.paced[0].counts.published = 99);
    check(Invalid, "98 of 100 messages of busy", |facts, _| {
        let counts = Counts { published: 98, ..facts.paced[0].counts };
        facts.paced[1] = Figures { name: "busy".into(), counts, ..facts.paced[1].clone() };
    });
    check(Pass, "", |facts, _| {
        facts.paced[1].counts.offered = 0;
        facts.paced[1].counts.published = 0;
    });
    check(Invalid, "nothing was published", |facts, _| facts.totals.published = 0);
    check(Invalid, "every publish was refused", |facts, _| {
        (facts.totals.refused, facts.totals.limited) = (60, 40);
    });
    check(Invalid, "never answered", |facts, _| facts.totals.unanswered = 1);
    check(Invalid, "2 rooms", |facts, _| facts.open_rooms = 2);
    check(Invalid, "somebody else has published 3", |facts, _| facts.others = 3);
}

#[test]
fn a_lag_is_held_against_the_latency_of_its_own_phase() {
    let lags = |first: (u64, u64), second: (u64, u64)| {
        move |facts: &mut Facts, _: &mut Slo| {
            for (phase, (lag, latency)) in facts.paced.iter_mut().zip([first, second]) {
                phase.lag_us = Some(Summary { p99: lag, ..Summary::default() });
                phase.latency_us = Some(Summary { p99: latency, ..Summary::default() });
            }
            facts.paced[0].name = "storm".to_owned();
        }
    };
    check(Exit::Pass, "", lags((4000, 40_000), (300, 3_000)));
    check(Exit::Invalid, "of calm were sent 301 µs late", lags((4000, 40_000), (301, 3_000)));
    check(Exit::Invalid, "of storm were sent 4001 µs", lags((4001, 40_000), (300, 3_000)));
    check(Exit::Invalid, "of storm were sent 5001 µs", lags((5001, 99_000), (2000, 3_000)));
}

#[test]
fn what_was_not_waited_for_is_not_proven_to_be_missing() {
    let change = |unexplained, drain_cut, unsure_rooms| {
        move |facts: &mut Facts, _: &mut Slo| {
            facts.expected = None;
            facts.totals.unexplained = unexplained;
            (facts.drain_cut, facts.unsure_rooms) = (drain_cut, unsure_rooms);
        }
    };
    check(Exit::Pass, "", change(0, true, 1));
    check(Exit::Faulty, "3 messages are missing", change(3, false, 0));
    check(Exit::Invalid, "3 messages were not heard in time", change(3, true, 0));
    check(Exit::Invalid, "of 2 rooms it is not known", change(3, false, 2));
    check(Exit::Faulty, "1 messages came twice", |facts, slo| {
        change(3, true, 0)(facts, slo);
        facts.totals.duplicate = 1;
    });
}

#[test]
fn a_worker_that_waits_for_a_core_is_not_believed() {
    check(Exit::Pass, "", |facts, _| facts.waited = 0.1);
    check(Exit::Invalid, "waited for a core 11 % of the time", |facts, _| facts.waited = 0.11);
    let (mut facts, validity) = (sound(), Validity { busy_percent: 100.0, ..bounds() });
    facts.waited = 0.9;
    assert_eq!(judge(&facts, &Slo::default(), &validity).exit, Exit::Pass, "nobody asks");
}

#[test]
fn a_clock_that_may_be_off_refuses_finer_claims() {
    let clock = |error_ns| {
        move |facts: &mut Facts, _: &mut Slo| {
            facts.clocks = vec![Clock { agent: "far".into(), offset_ns: 0, error_ns }];
        }
    };
    check(Exit::Pass, "", clock(200_000));
    check(Exit::Invalid, "the clock of far may be 201", clock(201_000));
}

#[test]
fn every_objective_can_be_met_and_missed() {
    type Field = fn(&mut Slo) -> &mut Option<f64>;
    let table: [(&str, Field, f64, f64); 11] = [
        ("p50_ms", |slo| &mut slo.p50_ms, 2.0, 1.9),
        ("p90_ms", |slo| &mut slo.p90_ms, 2.0, 1.9),
        ("p99_ms", |slo| &mut slo.p99_ms, 10.0, 9.9),
        ("p999_ms", |slo| &mut slo.p999_ms, 10.0, 9.9),
        ("max_ms", |slo| &mut slo.max_ms, 10.0, 9.9),
        ("deliveries_per_s_min", |slo| &mut slo.deliveries_per_s_min, 500.0, 501.0),
        ("connects_per_s_min", |slo| &mut slo.connects_per_s_min, 100.0, 101.0),
        ("reconnect_s", |slo| &mut slo.reconnect_s, 3.0, 2.9),
        ("shed_percent", |slo| &mut slo.shed_percent, 1.0, -1.0),
        ("target_cpu_percent", |slo| &mut slo.target_cpu_percent, 50.0, 49.0),
        ("target_bytes_per_client", |slo| &mut slo.target_bytes_per_client, 4000.0, 3999.0),
    ];
    for (name, field, met, missed) in table {
        check(Exit::Pass, "", |_, slo| *field(slo) = Some(met));
        check(Exit::Missed, name, |_, slo| *field(slo) = Some(missed));
    }
    check(Exit::Missed, "failed_percent is 10", |facts, _| facts.totals.connected = 9);
    check(Exit::Missed, "failed_percent is 20", |facts, _| facts.totals.failed = 2);
    check(Exit::Missed, "lost_percent is 20", |facts, _| facts.totals.lost = 2);
}

#[test]
fn a_claim_that_was_not_measured_is_not_met() {
    check(Exit::Missed, "give target.metrics", |facts, slo| {
        (facts.measured.target_cpu_s, slo.target_cpu_percent) = (None, Some(1000.0));
    });
    check(Exit::Missed, "nothing was timed", |facts, slo| {
        (facts.measured.latency_us, slo.p99_ms) = (None, Some(1000.0));
    });
}

#[test]
fn the_worst_is_said() {
    let worse = |upto: usize| {
        move |facts: &mut Facts, slo: &mut Slo| {
            slo.p99_ms = Some(1.0);
            facts.stopped = upto > 0;
            facts.totals.duplicate = u64::from(upto > 1);
            facts.target_lost = (upto > 2).then(|| "it is gone".to_owned());
        }
    };
    let exits = [0, 1, 2, 3].map(|upto| judged(worse(upto)).exit);
    assert_eq!(exits, [Exit::Missed, Exit::Invalid, Exit::Faulty, Exit::TargetLost]);
    check(Exit::Missed, "given up: too slow", |facts, _| facts.aborted = Some("too slow".into()));
}
