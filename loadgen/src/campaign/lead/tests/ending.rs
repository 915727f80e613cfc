//! What is waited for at the end, and whose fault it is when something is missing then.

use super::*;

/// Says for so many seconds what has come, and a little later that all has. When it is told to end
/// before that second it says what is missing.
fn trickle(hand: usize, seconds: u64, cut_before_s: f64, order: &Order) -> Option<Says> {
    if hand > 0 {
        return None;
    }
    let Order::Drain { until_ns, .. } = order else { return None };
    let delivered = |delivered| Counts { delivered, ..Counts::default() };
    let books = |counts| What::Finished(Box::new(Last { counts, ..Last::default() }));
    let counts = Counts { connected: 6, ..delivered(MESSAGES * 6 - 3) };
    if s(*until_ns) < cut_before_s {
        return Some(vec![(0.1, books(Counts { unexplained: 3, ..counts }))]);
    }
    let says = (1..=seconds).map(|at_s| (at_s as f64, interval(delivered(1), 6)));
    let all = Counts { delivered: MESSAGES * 6, ..counts };
    let end = (seconds < 60).then(|| (seconds as f64 + 5.0, books(all)));
    Some(says.chain(end.filter(|_| seconds > 0)).collect())
}

#[test]
fn what_is_slow_at_the_end_is_waited_for_as_long_as_it_comes() {
    type Script = fn(usize, &Order) -> Option<Says>;
    let table: [(Script, f64, f64, Exit, &str); 4] = [
        (|hand, order| trickle(hand, 40, 70.0, order), 1e9, 45.0, Exit::Pass, ""),
        (
            |hand, order| trickle(hand, 99, 70.0, order),
            1e9,
            60.0,
            Exit::Invalid,
            "3 messages were not heard in time",
        ),
        (
            |hand, order| trickle(hand, 0, 70.0, order),
            1e9,
            10.0,
            Exit::Faulty,
            "3 messages are missing",
        ),
        (
            |hand, order| trickle(hand, 0, 20.0, order),
            2.0,
            3.0,
            Exit::Invalid,
            "stopped before its time",
        ),
    ];
    for (script, stop_at_s, lasts_s, exit, why) in table {
        let played = play(Play { script, stop_at_s, ..Play::default() });
        played.check(exit, why);
        assert_eq!(played.summary.verdict.faults.is_empty(), exit != Exit::Faulty);
        let lasted = played.at("0: stop") - played.at("0: drain");
        assert!((lasts_s..lasts_s + 1.5).contains(&lasted), "{why}: {lasted}");
    }
}

#[test]
fn a_target_that_closed_the_publisher_s_connection_is_lost() {
    for (target_lost, exit) in [(true, Exit::TargetLost), (false, Exit::Invalid)] {
        let broken = Some("the upstream was closed".to_owned());
        let published = Published { broken, target_lost, ..Published::default() };
        let played = play(Play { published, ..Play::default() });
        played.check(exit, "ended");
        played.check(exit, "the upstream was closed");
    }
}

#[test]
fn nobody_who_could_get_out_of_here_says_nothing_of_the_target() {
    const WHY: &str = "no client could get ready: 127.0.0.1 is not an address of this machine, or \
                       has no free port: see --source. Is the gateway running on 127.0.0.1:1?";
    let lost = || What::Lost(WHY.to_owned());
    let played = play(Play { aside: vec![(0.2, 1, lost)], ..Play::default() });
    played.check(Exit::Invalid, "worker-1 has ended: no client could get ready");
}
