//! Limits, said as plainly as possible: every pair of moments is looked at.

use std::collections::BTreeMap;

use barrage_router::Rate;

const NS_PER_MS: u64 = 1_000_000;

/// What has passed each category's limit.
#[derive(Debug, Default)]
pub struct Limits {
    categories: BTreeMap<u16, Passed>,
}

#[derive(Debug, Default)]
struct Passed {
    /// Under which rate; with another one, counting begins anew.
    rate: Rate,
    moments: Vec<u64>,
    /// Who was refused was told that from this moment on there is a chance.
    promised: Option<u64>,
}

impl Limits {
    /// A frame has gone out because the limit let it.
    pub fn passed(&mut self, now: u64, category: u16, rate: Rate) {
        let passed = self.of(category, rate);
        passed.promised = None;
        passed.moments.push(now);
        if rate.is_unlimited() {
            return;
        }
        let interval_ns = 1_000_000_000 / u64::from(rate.per_second);
        for (index, &moment) in passed.moments.iter().enumerate() {
            let since = (passed.moments.len() - index) as u64;
            let over = since.saturating_sub(u64::from(rate.burst.max(1)));
            let ns = (now - moment) * NS_PER_MS;
            assert!(over * interval_ns <= ns, "{since} since {moment} with {rate:?}: {passed:?}");
        }
    }

    /// A frame has gone out that did not ask.
    pub fn forced(&mut self, category: u16, rate: Rate) {
        self.of(category, rate).promised = None;
    }

    /// A message was refused.
    pub fn refused(&mut self, now: u64, category: u16, rate: Rate, retry_after_ms: u32) {
        assert!(!rate.is_unlimited(), "only a limit refuses");
        assert!(retry_after_ms > 0, "now is too early");
        let passed = self.of(category, rate);
        let kept = passed.promised.is_none_or(|promised| now < promised);
        assert!(kept, "it was told to try again by now, and nobody came between");
        passed.promised = Some(now + u64::from(retry_after_ms));
    }

    fn of(&mut self, category: u16, rate: Rate) -> &mut Passed {
        let passed = self.categories.entry(category).or_default();
        if passed.rate != rate {
            *passed = Passed { rate, ..Passed::default() };
        }
        passed
    }
}
