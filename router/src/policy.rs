//! The rules in force, as one value that can be replaced at any time.

use crate::category::{Aggregation, Category, Keep, Retention};
use crate::class::Class;
use crate::level::Level;
use crate::rate::Rate;

/// Categories that a policy may have; their ids are below it.
pub const CATEGORIES_MAX: usize = 256;
/// Categories of the built-in policy.
pub const CATEGORIES_BUILTIN: usize = 8;
/// Platforms that the protocol knows.
pub const PLATFORMS: usize = 6;

/// When a room's level changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelRules {
    /// Members from which on a room is L2, L3 and L4; rising.
    pub from: [u32; 3],
    /// How long a room has to be under a threshold before its level falls.
    pub dwell_ms: u32,
    /// The dwell doubles each time that the level rises again soon after it has fallen, up to this.
    pub dwell_max_ms: u32,
}

/// How repeated messages are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeRules {
    /// A combo ends when nothing was added for this long.
    pub combo_gap_ms: u32,
    /// While it runs, a message goes out at most once in this time.
    pub combo_every_ms: u32,
    /// The values of one state key go out at most once in this time.
    pub state_every_ms: u32,
}

/// How messages that wait for an ACK are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxRules {
    /// Sent again when no ACK has come for this long.
    pub retry_after_ms: u32,
    /// How often in all.
    pub tries: u8,
    /// A message is kept for devices that are away for this long.
    pub ttl_s: u32,
    /// Messages that are kept for one user; the oldest goes first.
    pub messages_max: u16,
}

/// Who may say how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Messages that a user may publish, counted at each core that is home to rooms.
    pub user: Rate,
    /// Messages that an app may publish in all its rooms.
    pub app: Rate,
}

/// The rules in force: every category by id, and what holds for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A category stands at its id, so that a lookup is one index; ids without one are gaps.
    by_id: Vec<Option<Category>>,
    /// Their names, for people, logs and metrics.
    names: Vec<Box<str>>,
    /// See `LevelRules`.
    pub levels: LevelRules,
    /// See `MergeRules`.
    pub merge: MergeRules,
    /// See `InboxRules`.
    pub inbox: InboxRules,
    /// See `Quotas`.
    pub quotas: Quotas,
    /// Connections that a user may have per platform; 0: any number.
    pub devices: [u16; PLATFORMS],
    /// Bytes that the gateway may send in a second; 0: any number.
    pub egress_bytes_per_second: u64,
}

impl Policy {
    /// What applies when the operator has said nothing else. `policy/default.toml` of the gateway
    /// says the same, with comments; a test compares them.
    pub fn builtin() -> Self {
        use Aggregation::{Combo, Latest, None};
        use Class::{P0, P1, P2, P3};
        let unlimited = [Rate::UNLIMITED; Level::ALL.len()];
        let limits = |l2, l3, l4| {
            let rate = |per_second| Rate { per_second, burst: per_second };
            [Rate::UNLIMITED, rate(l2), rate(l3), rate(l4)]
        };
        let table: [(&str, Class, bool, Aggregation, _); CATEGORIES_BUILTIN] = [
            ("system", P0, true, None, unlimited),
            ("gift_large", P1, true, None, unlimited),
            ("flying_screen", P1, true, None, unlimited),
            ("gift_small", P2, false, Combo, limits(400, 200, 100)),
            ("chat", P3, false, None, limits(400, 200, 100)),
            ("like", P3, false, None, limits(200, 100, 50)),
            ("state", P3, false, Latest, limits(100, 50, 20)),
            ("stream", P3, false, None, unlimited),
        ];
        let mut policy = Self {
            by_id: Vec::new(),
            names: Vec::new(),
            levels: LevelRules {
                from: [1_000, 10_000, 100_000],
                dwell_ms: 10_000,
                dwell_max_ms: 160_000,
            },
            merge: MergeRules { combo_gap_ms: 2_000, combo_every_ms: 1_000, state_every_ms: 2_000 },
            inbox: InboxRules {
                retry_after_ms: 18_000,
                tries: 3,
                ttl_s: 7 * 24 * 3600,
                messages_max: 100,
            },
            quotas: Quotas::default(),
            devices: [0; PLATFORMS],
            egress_bytes_per_second: 0,
        };
        for (id, (name, class, never_drop, aggregation, limits)) in (0u16..).zip(table) {
            let (keep, age_s) = match name {
                "stream" => (Keep::Memory, 0),
                _ if never_drop => (Keep::Disk, 30 * 24 * 3600),
                _ => (Keep::Disk, 24 * 3600),
            };
            let retention = Retention { age_s, count: 0, bytes: 0 };
            let inbox = never_drop;
            let category =
                Category { id, class, never_drop, aggregation, limits, inbox, keep, retention };
            policy.insert(name, category);
        }
        policy
    }

    /// The same rules without a category, for those who bring their own.
    pub fn without_categories(mut self) -> Self {
        self.by_id.clear();
        self.names.clear();
        self
    }

    /// Adds a category, or replaces the one with its id.
    pub fn insert(&mut self, name: &str, category: Category) {
        let id = usize::from(category.id);
        assert!(id < CATEGORIES_MAX, "ids are checked where policies are read");
        if self.by_id.len() <= id {
            self.by_id.resize(id + 1, None);
            self.names.resize(id + 1, Box::default());
        }
        self.by_id[id] = Some(category);
        self.names[id] = name.into();
    }

    /// The category with this id.
    #[inline]
    pub fn category(&self, id: u16) -> Option<&Category> {
        self.by_id.get(usize::from(id))?.as_ref()
    }

    /// Its name; empty when there is none.
    pub fn name(&self, id: u16) -> &str {
        self.names.get(usize::from(id)).map_or("", |name| name)
    }

    /// Every category, by rising id.
    pub fn categories(&self) -> impl Iterator<Item = &Category> {
        self.by_id.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_categories_are_where_their_ids_say() {
        let policy = Policy::builtin();
        let expected = [
            "0 system P0 kept",
            "1 gift_large P1 kept",
            "2 flying_screen P1 kept",
            "3 gift_small P2 droppable",
            "4 chat P3 droppable",
            "5 like P3 droppable",
            "6 state P3 droppable",
            "7 stream P3 droppable",
        ];
        assert_eq!(policy.categories().count(), expected.len());
        for (id, expected) in (0..).zip(expected) {
            let Category { id, class, never_drop, .. } = policy.category(id).unwrap();
            let fate = if *never_drop { "kept" } else { "droppable" };
            assert_eq!(format!("{id} {} {class:?} {fate}", policy.name(*id)), expected);
        }
        assert_eq!(policy.category(8), None);
        assert_eq!(policy.category(u16::MAX), None);
        assert_eq!(policy.name(u16::MAX), "");
    }

    #[test]
    fn small_rooms_and_what_is_never_dropped_have_no_limit() {
        for category in Policy::builtin().categories() {
            assert!(category.limit(Level::L1).is_unlimited());
            let last = category.limit(Level::L4);
            assert!(!category.never_drop || last.is_unlimited(), "{category:?}");
            let stricter = Level::ALL.windows(2).all(|pair| {
                let (low, high) = (category.limit(pair[0]), category.limit(pair[1]));
                low.is_unlimited() || (!high.is_unlimited() && high.per_second <= low.per_second)
            });
            assert!(stricter, "limits get stricter as the level rises: {category:?}");
        }
    }
}
