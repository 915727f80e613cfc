//! Rules from a seed, so tight that everything happens within seconds.

use barrage_router::{Aggregation, Category, Level, LevelRules, MergeRules, Policy, Rate};

use crate::random::Random;

/// Under which ids messages are said, most often what is merged. Not all of them are categories of
/// every policy.
pub const IDS: [u16; 14] = [0, 1, 2, 3, 3, 3, 3, 4, 5, 6, 6, 6, 6, 7];

pub fn rules(random: &mut Random) -> Policy {
    let builtin = Policy::builtin();
    let mut policy = Policy::builtin().without_categories();
    policy.levels = LevelRules {
        from: random.pick(&[[2, 4, 6], [3, 3, 9], [1_000, 10_000, 100_000]]),
        dwell_ms: random.pick(&[1, 300]),
        dwell_max_ms: random.pick(&[300, 2_400]),
    };
    policy.merge = MergeRules {
        combo_gap_ms: random.pick(&[1, 600, 2_000]),
        combo_every_ms: random.pick(&[0, 300, 1_000]),
        state_every_ms: random.pick(&[0, 300, 2_000]),
    };
    for category in builtin.categories() {
        let aggregation = match random.below(10) {
            0 => Aggregation::None,
            1 => Aggregation::Combo,
            2 => Aggregation::Latest,
            _ => category.aggregation,
        };
        let limits = [(); Level::ALL.len()].map(|()| match random.below(3) {
            0 => Rate::UNLIMITED,
            _ => {
                Rate { per_second: random.pick(&[1, 3, 10, 1_000]), burst: random.pick(&[0, 1, 5]) }
            }
        });
        if category.never_drop || random.below(20) > 0 {
            policy.insert("any", Category { aggregation, limits, ..*category });
        }
    }
    policy
}
