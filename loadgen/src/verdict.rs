//! Whether a run's figures say something about the gateway. Pure: facts in, reasons out.

/// A generator that is busier than this adds its own delay to every latency.
pub const BUSY_MAX: f64 = 0.95;
/// A generator that is busier than this is what bounds an unpaced run.
pub const BUSY_UNPACED_MAX: f64 = 0.97;
/// Latest that one message in a hundred may be sent.
pub const LAG_P99_US_MAX: u64 = 5_000;
/// The same in parts of the latency's 99th percentile …
pub const LAG_SHARE_MAX: f64 = 0.1;
/// … unless it is under this, which is what waking a thread up takes.
pub const LAG_P99_US_IGNORED: u64 = 250;
/// Least of the offered messages that must have been published.
pub const PUBLISHED_SHARE_MIN: f64 = 0.99;

/// What is known about a run.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Messages came by a schedule.
    pub paced: bool,
    /// Share of its core that the generator's network thread used.
    pub busy: Option<f64>,
    /// How late messages were sent, 99th percentile.
    pub lag_p99_us: Option<u64>,
    /// Latency, 99th percentile.
    pub latency_p99_us: Option<u64>,
    /// Messages due by the schedule.
    pub offered: u64,
    /// Messages sent.
    pub published: u64,
    /// Messages that the gateway refused.
    pub refused: u64,
    /// Messages that the gateway never answered.
    pub unanswered: u64,
    /// Clients that there should be.
    pub clients: u64,
    /// Clients that got ready.
    pub ready: u64,
    /// Clients whose connection ended.
    pub lost: u64,
    /// Messages of rooms that nobody is a member of.
    pub stray: u64,
    /// Messages times members.
    pub expected: u64,
    /// Messages whose fate is known, over all members.
    pub accounted: u64,
    /// Ctrl-C.
    pub stopped: bool,
    /// The upstream connection ended early, and why.
    pub broken: Option<String>,
}

/// Why the figures cannot be trusted. Empty: they can.
pub fn reasons(facts: &Facts) -> Vec<String> {
    let mut reasons = Vec::new();
    people(facts, &mut reasons);
    sender(facts, &mut reasons);
    receiver(facts, &mut reasons);
    reasons
}

fn people(facts: &Facts, reasons: &mut Vec<String>) {
    if facts.stopped {
        reasons.push("the run was stopped before its time".to_owned());
    }
    if facts.ready < facts.clients {
        let missing = facts.clients - facts.ready;
        reasons.push(format!("{missing} of {} clients never got ready", facts.clients));
    }
    if facts.lost > 0 {
        reasons.push(format!("{} connections ended during the run", facts.lost));
    }
}

fn sender(facts: &Facts, reasons: &mut Vec<String>) {
    if let Some(why) = &facts.broken {
        reasons.push(format!("publishing ended early: {why}"));
    }
    if facts.published > 0 && facts.refused == facts.published {
        reasons.push("nothing was admitted: every publish was refused".to_owned());
    }
    if facts.unanswered > 0 {
        reasons.push(format!("{} publishes were never answered", facts.unanswered));
    }
    let share = facts.published as f64 / facts.offered.max(1) as f64;
    if facts.offered > 0 && share < PUBLISHED_SHARE_MIN && facts.refused == 0 {
        reasons.push(format!(
            "{} of {} offered messages were published in time: the gateway or the upstream \
             thread cannot keep up with this rate",
            facts.published, facts.offered
        ));
    }
    let Some(lag) = facts.lag_p99_us.filter(|_| facts.paced) else { return };
    let share_max = facts.latency_p99_us.map_or(f64::MAX, |us| us as f64 * LAG_SHARE_MAX);
    if lag > LAG_P99_US_MAX {
        reasons.push(format!("messages were sent {lag} us late (p99), over {LAG_P99_US_MAX}"));
    } else if lag > LAG_P99_US_IGNORED && lag as f64 > share_max {
        reasons.push(format!(
            "messages were sent {lag} us late (p99), over a tenth of the p99 latency"
        ));
    }
}

fn receiver(facts: &Facts, reasons: &mut Vec<String>) {
    let percent = facts.busy.unwrap_or_default() * 100.0;
    match facts.busy {
        Some(busy) if facts.paced && busy > BUSY_MAX => reasons.push(format!(
            "the generator's network thread was {percent:.0} % busy: latencies are partly its own"
        )),
        Some(busy) if !facts.paced && busy > BUSY_UNPACED_MAX => reasons.push(format!(
            "the generator's network thread was {percent:.0} % busy: the rate is a lower bound of \
             what the gateway can do"
        )),
        Some(_) | None => {}
    }
    if facts.stray > 0 {
        let stray = facts.stray;
        reasons.push(format!("{stray} messages came for rooms that were not joined"));
    }
    if facts.accounted != facts.expected {
        reasons.push(format!(
            "the books do not balance: {} messages are accounted for and {} were expected; does \
             somebody else publish to this room?",
            facts.accounted, facts.expected
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Facts {
        Facts {
            paced: true,
            busy: Some(0.5),
            lag_p99_us: Some(400),
            latency_p99_us: Some(20_000),
            offered: 1000,
            published: 1000,
            clients: 10,
            ready: 10,
            expected: 10_000,
            accounted: 10_000,
            ..Facts::default()
        }
    }

    /// `change` makes a sound run invalid for `reason`, or leaves it valid when that is empty.
    fn check(change: impl FnOnce(&mut Facts), reason: &str) {
        let mut facts = sound();
        change(&mut facts);
        let reasons = reasons(&facts);
        match (reason, &reasons[..]) {
            ("", []) => {}
            ("", _) => panic!("should be valid: {reasons:?}"),
            (_, [only]) => assert!(only.contains(reason), "{only}"),
            (_, _) => panic!("one reason was expected: {reasons:?}"),
        }
    }

    #[test]
    fn a_sound_run_is_valid() {
        check(|_| {}, "");
    }

    #[test]
    fn a_busy_generator_makes_a_run_invalid() {
        check(|facts| facts.busy = Some(0.94), "");
        check(|facts| facts.busy = Some(0.96), "96 % busy: latencies");
        check(|facts| (facts.paced, facts.busy) = (false, Some(0.96)), "");
        check(|facts| (facts.paced, facts.busy) = (false, Some(0.98)), "lower bound");
    }

    #[test]
    fn late_sending_makes_a_paced_run_invalid() {
        check(|facts| facts.lag_p99_us = Some(5_001), "5001 us late (p99), over 5000");
        check(|facts| facts.lag_p99_us = Some(2_001), "over a tenth");
        check(|facts| facts.lag_p99_us = Some(2_000), "");
        let quick = |facts: &mut Facts| facts.latency_p99_us = Some(100);
        check(|facts| (quick(facts), facts.lag_p99_us = Some(250)).0, "");
        check(|facts| (quick(facts), facts.lag_p99_us = Some(251)).0, "over a tenth");
        check(|facts| (facts.paced, facts.lag_p99_us) = (false, Some(9_000)), "");
    }

    #[test]
    fn too_little_published_makes_a_run_invalid_unless_it_was_refused() {
        check(|facts| facts.published = 990, "");
        check(|facts| facts.published = 989, "989 of 1000");
        check(|facts| (facts.published, facts.refused) = (900, 1), "");
        check(|facts| facts.unanswered = 3, "3 publishes were never answered");
        check(|facts| facts.broken = Some("gone".to_owned()), "ended early: gone");
    }

    #[test]
    fn people_who_are_missing_make_a_run_invalid() {
        check(|facts| facts.ready = 9, "1 of 10 clients never got ready");
        check(|facts| facts.lost = 2, "2 connections ended");
        check(|facts| facts.stopped = true, "stopped before its time");
    }

    #[test]
    fn books_must_balance() {
        check(|facts| facts.accounted = 9_999, "do not balance");
        check(|facts| facts.stray = 5, "5 messages came for rooms");
    }
}
