//! A room's size band. Limits get stricter as it rises.

use crate::ids::Millis;
use crate::policy::LevelRules;

/// A room's size band; a policy says where each begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// A small room; by default, under 1,000 members.
    L1 = 1,
    /// By default, under 10,000 members.
    L2 = 2,
    /// By default, under 100,000 members.
    L3 = 3,
    /// More.
    L4 = 4,
}

impl Level {
    /// Every level, the smallest rooms first.
    pub const ALL: [Self; 4] = [Self::L1, Self::L2, Self::L3, Self::L4];

    /// Its place in limits by level.
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// The band of so many members. A room rises to it at once, and falls to it with a delay.
    pub fn of(members: u32, rules: &LevelRules) -> Self {
        Self::ALL[rules.from.iter().filter(|&&from| from <= members).count()]
    }

    /// The band as the protocol says it, 1 to 4.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// How a level falls: after a while, and after a longer one if it has gone up and down lately.
///
/// A rise that follows a fall within `dwell_max_ms` doubles the dwell, and so long without crossing
/// a threshold brings it back. So a room that keeps crossing one changes its level at most twice in
/// about that time, however it goes about it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Descent {
    /// Doubled from the policy's; 0 when it is the policy's.
    dwell_ms: u32,
    /// Since when the members have been too few for the level.
    under: Option<Millis>,
    /// When it falls, if they stay so.
    falls: Millis,
    /// The last fall that no rise has answered.
    fell: Option<Millis>,
    /// From when on it is quiet, unless a threshold is crossed before.
    quiet: Millis,
}

impl Descent {
    /// The level of a room that has `members` now and had `level` before. Asked whenever either
    /// might change, so that it sees every crossing.
    pub fn observe(
        &mut self,
        now: Millis,
        rules: &LevelRules,
        members: u32,
        level: Level,
    ) -> Level {
        if self.is_forgettable(now) {
            *self = Self::default();
        }
        let soon_ms = rules.dwell_max_ms.max(rules.dwell_ms);
        let dwell_ms = self.dwell_ms.clamp(rules.dwell_ms, soon_ms);
        let wanted = Level::of(members, rules);
        if wanted >= level {
            let rises = wanted > level;
            if rises && self.fell.take().is_some_and(|fell| now.since(fell) < u64::from(soon_ms)) {
                self.dwell_ms = dwell_ms.saturating_mul(2).min(soon_ms);
            }
            if self.under.take().is_some() || rises {
                self.quiet = now.plus(soon_ms);
            }
            return wanted;
        }
        let under = *self.under.get_or_insert(now);
        self.falls = under.plus(dwell_ms);
        if now < self.falls {
            return level;
        }
        (self.under, self.fell, self.quiet) = (None, Some(now), now.plus(soon_ms));
        wanted
    }

    /// When the level falls unless something happens before.
    pub fn due(&self) -> Option<Millis> {
        self.under.map(|_| self.falls)
    }

    /// Whether forgetting it changes nothing.
    pub fn is_forgettable(&self, now: Millis) -> bool {
        let is_new = self.fell.is_none() && self.dwell_ms == 0;
        self.under.is_none() && (is_new || self.quiet <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: LevelRules = LevelRules { from: [10, 20, 30], dwell_ms: 100, dwell_max_ms: 1_600 };

    /// Members change as `(moment, members)` says, and whoever looks at the room does so when the
    /// level is due to fall. Expects the levels and when each began.
    fn check(members: &[(u64, u32)], expected: &str) {
        assert_eq!(levels(members), expected, "{members:?}");
    }

    fn levels(members: &[(u64, u32)]) -> String {
        let (mut descent, mut level) = (Descent::default(), Level::L1);
        let mut seen = Vec::new();
        let mut present = 0;
        let mut look = |descent: &mut Descent, now, members| {
            let next = descent.observe(Millis(now), &RULES, members, level);
            if next != level {
                seen.push(format!("{now}:L{}", next.number()));
            }
            level = next;
        };
        for &(now, members) in members {
            while let Some(due) = descent.due().filter(|due| due.0 < now) {
                look(&mut descent, due.0, present);
            }
            look(&mut descent, now, members);
            present = members;
        }
        seen.join(" ")
    }

    #[test]
    fn a_level_begins_at_its_threshold() {
        let counts = [0, 9, 10, 19, 20, 29, 30, u32::MAX];
        let levels = counts.map(|members| Level::of(members, &RULES).number());
        assert_eq!(levels, [1, 1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn it_rises_at_once_and_falls_after_the_dwell() {
        check(&[(0, 10), (1, 20), (2, 35)], "0:L2 1:L3 2:L4");
        check(&[(0, 10), (500, 9), (599, 9)], "0:L2");
        check(&[(0, 10), (500, 9), (600, 9)], "0:L2 600:L1");
        check(&[(0, 10), (500, 9), (9_000, 0)], "0:L2 600:L1");
        check(&[(0, 35), (500, 22), (550, 5), (9_000, 0)], "0:L4 600:L1");
    }

    #[test]
    fn who_comes_back_in_time_begins_the_dwell_anew() {
        check(&[(0, 10), (500, 9), (599, 10), (600, 9), (699, 9)], "0:L2");
        check(&[(0, 10), (500, 9), (599, 10), (600, 9), (700, 9)], "0:L2 700:L1");
    }

    #[test]
    fn a_rise_soon_after_a_fall_doubles_the_dwell() {
        let again = [(0, 10), (500, 9), (650, 10), (1_000, 9), (1_300, 10), (2_000, 9), (9_000, 9)];
        check(&again, "0:L2 600:L1 650:L2 1200:L1 1300:L2 2400:L1");
    }

    #[test]
    fn a_quiet_time_brings_the_dwell_back() {
        let quiet = |quiet_ms: u64| {
            let down: u64 = 650 + quiet_ms;
            levels(&[(0, 10), (500, 9), (650, 10), (down, 9), (99_000, 9)])
        };
        assert_eq!(quiet(1_599), "0:L2 600:L1 650:L2 2449:L1");
        assert_eq!(quiet(1_600), "0:L2 600:L1 650:L2 2350:L1");
    }

    /// However long the waves around a threshold are, levels do not flap.
    #[test]
    fn waves_around_a_threshold_change_the_level_seldom() {
        const HOUR_MS: u64 = 3_600_000;
        let changes_max = 2 * HOUR_MS / u64::from(RULES.dwell_max_ms) + 10;
        for half_ms in [1, 50, 99, 100, 101, 150, 400, 799, 800, 801, 1_599, 1_600, 1_601, 1_700] {
            let waves: Vec<_> = (0..HOUR_MS / half_ms)
                .map(|wave| (wave * half_ms, if wave % 2 == 0 { 10 } else { 9 }))
                .collect();
            let changes = levels(&waves).split(' ').count() as u64;
            assert!(changes <= changes_max, "{changes} changes with waves of {half_ms} ms");
        }
    }

    #[test]
    fn any_rules_and_any_clock_are_taken() {
        let rules = LevelRules { from: [30, 0, 10], dwell_ms: u32::MAX, dwell_max_ms: 0 };
        let mut descent = Descent::default();
        let mut level = |now, members, level| descent.observe(Millis(now), &rules, members, level);
        assert_eq!(level(1 << 40, 5, Level::L4), Level::L4);
        assert_eq!(level(0, 5, Level::L4), Level::L4, "a clock that steps back ends no dwell");
        assert_eq!(level(u64::MAX, 5, Level::L4), Level::L2);
        assert_eq!(level(0, 50, Level::L2), Level::L4);
        assert_eq!(descent.due(), None);
    }
}
