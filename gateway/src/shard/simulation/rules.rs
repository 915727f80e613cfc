//! The policies of a run: what they do is drawn once, how much of it again and again.

use std::sync::Arc;

use barrage_router::{Aggregation, Category, LevelRules, MergeRules, Policy, Quotas, Rate};

use crate::fake_ring::Random;
use crate::policy_file::{self, Rules};

/// The category that merges combos, and the one that keeps the latest, where anything is merged.
pub const GIFT_SMALL: u16 = 3;
pub const STATE: u16 = 6;
/// Users' messages of these wait in inboxes, where there are any.
const KEPT: [u16; 3] = [0, 1, 4];

/// What the policies of a run do.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub merges: bool,
    pub limits: bool,
    pub inboxes: bool,
    pub quotas: bool,
    pub egress: bool,
    /// Mutes and bans, which no policy is needed for.
    pub orders: bool,
    /// Connections of a user on one platform; 0: any number.
    pub devices: u16,
    /// Messages that an inbox keeps, and for how long.
    pub kept_max: u16,
    pub kept_s: u32,
    pub times: MergeRules,
}

impl Kind {
    /// Every message is sent as it is, to everybody.
    pub const PLAIN: Self = Self {
        merges: false,
        limits: false,
        inboxes: false,
        quotas: false,
        egress: false,
        orders: false,
        devices: 0,
        kept_max: 100,
        kept_s: 7 * 24 * 3600,
        times: MergeRules { combo_gap_ms: 200, combo_every_ms: 100, state_every_ms: 200 },
    };

    pub fn draw(random: &mut Random) -> Self {
        let what = random.below(9);
        let is = |this| what == this || what >= 7;
        Self {
            merges: is(1) || random.percent(25),
            limits: is(2),
            inboxes: is(3),
            quotas: is(4),
            egress: is(5),
            orders: random.percent(if is(6) { 100 } else { 20 }),
            devices: if is(6) { random.pick(&[0, 1, 2]) } else { 0 },
            kept_max: random.pick(&[100, 100, 3]),
            kept_s: random.pick(&[Self::PLAIN.kept_s, Self::PLAIN.kept_s, 1]),
            times: MergeRules {
                combo_gap_ms: random.pick(&[20, 200, 2_000]),
                combo_every_ms: random.pick(&[10, 100, 1_000]),
                state_every_ms: random.pick(&[10, 200, 2_000]),
            },
        }
    }

    /// Whether messages of a category wait in the inboxes of users.
    pub fn is_kept(&self, category: u16) -> bool {
        self.inboxes && KEPT.contains(&category)
    }

    /// Whether anything may be refused because there is too much of it.
    pub fn refuses(&self) -> bool {
        self.limits || self.quotas || self.egress
    }

    /// One policy of this kind.
    pub fn rules(&self, random: &mut Random) -> Arc<Rules> {
        let mut rules = policy_file::builtin();
        let builtin = Policy::builtin();
        let policy = &mut rules.policy;
        let rate = |random: &mut Random| {
            let (per_second, burst) = (1 + random.below(30) as u32, random.below(10) as u32);
            Rate { per_second, burst }
        };
        for &category in builtin.categories() {
            let merges = self.merges && random.percent(90);
            let aggregation = if merges { category.aggregation } else { Aggregation::None };
            let limited = self.limits && !category.never_drop && random.percent(70);
            let mut limits = [Rate::UNLIMITED; 4];
            if limited {
                limits.iter_mut().skip(random.below(2)).for_each(|limit| *limit = rate(random));
            }
            let inbox = self.is_kept(category.id);
            let name = builtin.name(category.id);
            policy.insert(name, Category { aggregation, limits, inbox, ..category });
        }
        if self.limits {
            policy.levels = LevelRules { from: [2, 3, 5], dwell_ms: 500, dwell_max_ms: 2_000 };
        }
        policy.merge = self.times;
        policy.inbox.messages_max = self.kept_max;
        policy.inbox.ttl_s = self.kept_s;
        if self.quotas {
            let app = random.pick(&[Rate::UNLIMITED, Rate { per_second: 30, burst: 10 }]);
            policy.quotas = Quotas { user: rate(random), app };
        }
        policy.devices = [self.devices; barrage_router::PLATFORMS];
        if self.egress {
            policy.egress_bytes_per_second = random.pick(&[0, 2_000, 50_000]);
        }
        Arc::new(rules)
    }
}
