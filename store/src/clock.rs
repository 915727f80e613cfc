//! The one time of day: what the system said at the start, and since then what has passed.
//!
//! Whatever lasts a while (records, and what an owner notes) is given and ended by it, so a system's
//! clock that is set while it runs ends nothing early. What it was off then is remembered here until
//! the next start, which takes the system's time again: what was dated by a clock that was behind
//! is then taken for that much younger.

use std::time::{Duration, Instant, SystemTime};

use crate::error::Fault;
use crate::keys::{Row, Write};
use crate::limits::CLOCK_STEPS_MAX;

/// Milliseconds since 1970 that never go back and never jump.
#[derive(Clone, Copy, Debug)]
pub struct UnixClock {
    start_ms: u64,
    started: Instant,
}

/// What a note with a moment in it has to become when that is so many milliseconds later.
pub type Redate = fn(space: u8, key: &[u8], value: &[u8], by_ms: u64) -> Option<Vec<u8>>;

impl UnixClock {
    /// From now on, as the system's clock says.
    pub fn start() -> Self {
        Self::start_at(system_ms())
    }

    /// From now on, with this for now.
    pub fn start_at(start_ms: u64) -> Self {
        Self { start_ms, started: Instant::now() }
    }

    /// Where it began.
    pub fn start_ms(&self) -> u64 {
        self.start_ms
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Now.
    pub fn now_ms(&self) -> u64 {
        self.start_ms + self.started.elapsed().as_millis() as u64
    }

    /// By how much the system's clock is ahead of this one, or behind it. None when there was too
    /// long between looking at the one and at the other.
    pub fn system_ahead_ms(&self) -> Option<i64> {
        const LOOK_MAX: Duration = Duration::from_millis(100);
        let (before, system_ms) = (Instant::now(), system_ms());
        let ahead_ms = system_ms as i64 - self.now_ms() as i64;
        (before.elapsed() < LOOK_MAX).then_some(ahead_ms)
    }

    /// The same clock, but not before a moment that is past.
    pub(crate) fn not_before(self, ms: u64) -> Self {
        Self { start_ms: self.start_ms.max(ms), ..self }
    }
}

fn system_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// What is remembered of clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dating {
    /// Where the clock began that is running.
    pub(crate) start_ms: u64,
    /// By how much the system's is ahead of it.
    pub(crate) ahead_ms: u64,
    /// What was dated by clocks that were behind, the latest last.
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
    pub(crate) by_ms: u64,
}

impl Dating {
    /// The next clock begins. By how much notes have to be later: what was dated up to the newest
    /// moment had been dated by a clock that was so much behind.
    pub(crate) fn begin(&mut self, clock: UnixClock, newest_ms: u64) -> u64 {
        let by_ms = std::mem::take(&mut self.ahead_ms);
        if by_ms > 0 {
            if self.steps.len() == CLOCK_STEPS_MAX {
                self.steps.remove(0);
            }
            let (from_ms, to_ms) = (self.start_ms, newest_ms.max(self.start_ms));
            self.steps.push(Step { from_ms, to_ms, by_ms });
        }
        self.start_ms = clock.start_ms;
        by_ms
    }

    /// When something was really said.
    pub(crate) fn correct(&self, time_ms: u64) -> u64 {
        let is_in = |step: &&Step| (step.from_ms..=step.to_ms).contains(&time_ms);
        let by_ms = self.steps.iter().filter(is_in).map(|step| step.by_ms).max();
        time_ms.saturating_add(by_ms.unwrap_or(0))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::new();
        row.u64(self.start_ms);
        row.u64(self.ahead_ms);
        for step in &self.steps {
            [step.from_ms, step.to_ms, step.by_ms].into_iter().for_each(|value| row.u64(value));
        }
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, Fault> {
        let mut row = Row::new("clocks", row);
        let (start_ms, ahead_ms) = (row.u64()?, row.u64()?);
        let mut steps = Vec::new();
        while !row.is_empty() && steps.len() < CLOCK_STEPS_MAX {
            steps.push(Step { from_ms: row.u64()?, to_ms: row.u64()?, by_ms: row.u64()? });
        }
        Ok(Self { start_ms, ahead_ms, steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_clock_that_was_behind_has_dated_is_younger_than_it_says() {
        let mut dating = Dating::default();
        assert_eq!(dating.begin(UnixClock::start_at(100), 0), 0);
        dating.ahead_ms = 1000;
        assert_eq!(dating.begin(UnixClock::start_at(1300), 250), 1000);
        assert_eq!(dating.begin(UnixClock::start_at(1400), 1350), 0, "that was once");
        assert_eq!(Dating::decode(&dating.encode()).unwrap(), dating);
        let corrected = [99, 100, 250, 251, 1300].map(|ms| dating.correct(ms));
        assert_eq!(corrected, [99, 1100, 1250, 251, 1300]);
        for _ in 0..2 * CLOCK_STEPS_MAX {
            dating.ahead_ms = 1;
            dating.begin(UnixClock::start_at(2000), 2000);
        }
        assert_eq!(dating.steps.len(), CLOCK_STEPS_MAX);
    }

    #[test]
    fn a_clock_goes_on_from_where_it_must() {
        let clock = UnixClock::start_at(1000);
        assert!(clock.now_ms() >= 1000 && clock.not_before(5000).now_ms() >= 5000);
        assert_eq!(clock.not_before(10).start_ms(), 1000);
        let ahead = std::iter::repeat_with(|| clock.system_ahead_ms()).flatten().next();
        assert!(ahead.is_some_and(|ahead| ahead > 1_000_000_000_000), "{ahead:?}");
    }
}
