//! Sees when to give a campaign up. Pure.

use crate::exit::TargetLost;
use crate::record::Counts;
use crate::scenario::Abort;

/// So many looks in a row a target has to be away to be taken for lost.
const STRIKES_MAX: u32 = 2;

/// Remembers what was bad a moment ago.
#[derive(Clone, Debug, Default)]
pub struct Watchman {
    slow_intervals: u32,
    strikes: u32,
    /// Looks at the target's metrics in a row that were not answered.
    pub silent: u32,
}

impl Watchman {
    /// Somebody has knocked at the target, or had no reason to: why it is lost, if it is.
    pub fn knocked(&mut self, reached: Result<(), TargetLost>) -> Option<String> {
        let Err(TargetLost(lost)) = reached else {
            self.strikes = 0;
            return None;
        };
        self.strikes += 1;
        (self.strikes >= STRIKES_MAX).then_some(lost)
    }

    /// Whether to give up, and why. A p99 is that of an interval that has just ended, if one has in
    /// which anything was timed.
    pub fn aborts(
        &mut self,
        abort: &Abort,
        counts: &Counts,
        clients: u64,
        p99_us: Option<u64>,
    ) -> Option<String> {
        let gone = (counts.failed + counts.lost) as f64 * 100.0 / clients.max(1) as f64;
        if abort.lost_percent.is_some_and(|most| gone > most) {
            return Some(format!("{gone:.1} % of the clients have failed or are lost"));
        }
        if abort.unexplained.is_some_and(|most| counts.unexplained >= most) {
            return Some(format!("{} messages are missing unexplained", counts.unexplained));
        }
        let (most, us) = abort.p99_ms.zip(p99_us)?;
        let ms = us as f64 / 1e3;
        self.slow_intervals = if ms > most { self.slow_intervals + 1 } else { 0 };
        let slow = self.slow_intervals;
        (slow >= abort.intervals.max(1))
            .then(|| format!("the p99 was {ms:.0} ms, the last of {slow} intervals over the bound"))
    }
}

/// Whether to wait on for what may be on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It may still come.
    On,
    /// Nothing has come for so long that nothing will.
    Quiet,
    /// It still came, and took too long.
    Cut,
}

/// Waits as long as something comes, but not for ever.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    seen: u64,
    moved_ns: u64,
    quiet_ns: u64,
    end_ns: u64,
}

impl Patience {
    /// Begins now: for so long while nothing comes, and for so long at most.
    pub fn new(now_ns: u64, quiet_ns: u64, most_ns: u64) -> Self {
        Self { seen: 0, moved_ns: now_ns, quiet_ns, end_ns: now_ns + most_ns }
    }

    /// It is over then at the latest, if nothing comes.
    pub fn until_ns(&self) -> u64 {
        self.end_ns.min(self.moved_ns + self.quiet_ns)
    }

    /// So much has come by now.
    pub fn look(&mut self, now_ns: u64, seen: u64) -> Wait {
        if seen > self.seen {
            (self.seen, self.moved_ns) = (seen, now_ns);
        }
        if now_ns.saturating_sub(self.moved_ns) >= self.quiet_ns {
            Wait::Quiet
        } else if now_ns >= self.end_ns {
            Wait::Cut
        } else {
            Wait::On
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_waited_for_and_what_does_not_is_not() {
        use Wait::{Cut, On, Quiet};
        let check = |looks: &[(u64, u64)], last: Wait| {
            let mut patience = Patience::new(100, 10, 30);
            for (nth, &(now_ns, seen)) in looks.iter().enumerate() {
                let expected = if nth + 1 == looks.len() { last } else { On };
                assert_eq!(patience.look(now_ns, seen), expected, "{looks:?} {nth}");
            }
        };
        check(&[(109, 0)], On);
        check(&[(109, 0), (110, 0)], Quiet);
        check(&[(105, 1), (114, 1), (115, 1)], Quiet);
        check(&[(109, 1), (118, 2), (127, 3), (129, 3)], On);
        check(&[(109, 1), (118, 2), (127, 3), (130, 3)], Cut);
        check(&[(109, 1), (118, 2), (120, 2), (128, 2)], Quiet);
        let mut patience = Patience::new(100, 10, 30);
        assert_eq!(patience.until_ns(), 110);
        patience.look(109, 1);
        assert_eq!(patience.until_ns(), 119);
        patience.look(125, 2);
        assert_eq!(patience.until_ns(), 130);
    }

    #[test]
    fn each_abort_condition_ends_a_run_and_no_sooner() {
        let abort = Abort {
            lost_percent: Some(10.0),
            p99_ms: Some(50.0),
            intervals: 3,
            unexplained: Some(5),
        };
        let check = |failed, lost, unexplained, p99s: &[u64], why: Option<&str>| {
            let counts = Counts { failed, lost, unexplained, ..Counts::default() };
            let (mut watchman, mut last) = (Watchman::default(), None);
            for &p99 in p99s {
                // A second without an interval, or without anything timed, changes nothing.
                let p99 = (p99 > 0).then_some(p99);
                last = watchman.aborts(&abort, &counts, 100, p99);
            }
            match (why, &last) {
                (None, None) => {}
                (Some(why), Some(text)) => assert!(text.contains(why), "{text}"),
                _ => panic!("{why:?} {last:?}"),
            }
        };
        check(5, 5, 4, &[50_000], None);
        check(5, 6, 0, &[0], Some("11.0 %"));
        check(0, 0, 5, &[0], Some("5 messages are missing"));
        check(0, 0, 0, &[60_000, 60_000], None);
        check(0, 0, 0, &[60_000, 60_000, 40_000, 60_000], None);
        check(0, 0, 0, &[60_000, 60_000, 60_000], Some("3 intervals"));
        check(0, 0, 0, &[60_000, 60_000, 0], None);
        check(0, 0, 0, &[60_000, 0, 60_000, 0, 60_000], Some("3 intervals"));
    }

    #[test]
    fn a_target_that_is_away_for_a_moment_is_not_lost() {
        let mut watchman = Watchman::default();
        let lost = || Err(TargetLost("gone".to_owned()));
        let looks = [lost(), Ok(()), lost(), lost()].map(|look| watchman.knocked(look));
        assert_eq!(looks, [None, None, None, Some("gone".to_owned())]);
    }
}
