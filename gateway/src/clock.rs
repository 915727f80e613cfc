//! Notices that the system's clock was set. The gateway's own time goes on as it was: what lasts a
//! while ends when that has passed, and not when somebody sets a clock.

/// By how much the system's clock must have been set to be said to be; the reading of clocks and
/// small corrections stay below it.
const STEP_MIN_MS: u64 = 2_000;

/// How far the system's clock was from the gateway's time when that was last worth saying.
pub struct StepWatch {
    ahead_ms: i64,
}

impl StepWatch {
    /// From now on; what it was off before is said elsewhere.
    pub fn new(ahead_ms: i64) -> Self {
        Self { ahead_ms }
    }

    /// By how much the system's clock is ahead now; what there is to say if that is another than
    /// before.
    pub fn look(&mut self, ahead_ms: i64) -> Option<String> {
        let by_ms = ahead_ms.saturating_sub(self.ahead_ms);
        if by_ms.unsigned_abs() < STEP_MIN_MS {
            return None;
        }
        self.ahead_ms = ahead_ms;
        let seconds = |ms: i64| ms.unsigned_abs() as f64 / 1000.0;
        let (step, by_s) = (if by_ms > 0 { "forward" } else { "back" }, seconds(by_ms));
        let side = if ahead_ms < 0 { "ahead of" } else { "behind" };
        Some(format!(
            "the system's clock was set {step} by {by_s} s. The gateway's own time goes on, now {} s \
             {side} it, so that no ban, message or retention ends early or late for it; the next start \
             takes the system's time",
            seconds(ahead_ms)
        ))
    }

    /// By how much it is ahead, as it was last said.
    pub fn ahead_ms(&self) -> i64 {
        self.ahead_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks, in turn, at clocks that are so many seconds apart; `+` and `-` are steps forward and
    /// back, `.` is nothing to say.
    fn check(apart_ms: &[i64], says: &str) {
        let mut watch = StepWatch::new(0);
        let said = apart_ms.iter().map(|&ms| match watch.look(ms) {
            None => '.',
            Some(text) if text.contains("forward") => '+',
            Some(_) => '-',
        });
        assert_eq!(said.collect::<String>(), says, "{apart_ms:?}");
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_once() {
        check(&[0, 3, -3, 1_999, 0], ".....");
        check(&[0, 5_000, 5_001, 4_998], ".+..");
        check(&[-7_200_000, -7_200_000, 0, 0], "-.+.");
        check(&[1_500, 3_000, 4_500], ".+.");
        check(&[i64::MAX, i64::MIN], "+-");
        let text = StepWatch::new(0).look(90_000).expect("it was set");
        assert!(text.contains("forward by 90 s") && text.contains("90 s behind it"), "{text}");
        let text = StepWatch::new(0).look(-500_500).expect("it was set");
        assert!(text.contains("back by 500.5 s") && text.contains("500.5 s ahead of it"), "{text}");
    }
}
