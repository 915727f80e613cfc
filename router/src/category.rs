//! Where a message is shown, and what follows from that.

use crate::class::Class;

/// Whether messages of a category are merged before they are sent.
///
/// Only `None` acts today: the others keep the place where merging is decided visible, and until it
/// is built their messages go out one by one, which is right, only more than is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Every message is sent.
    None,
    /// Repeats of a gift within a window become one message; their totals are conserved.
    Combo,
    /// Only the latest per key counts, and the final one is always sent.
    Latest,
}

/// A place on the client's screen, with the rules for what is shown there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Category {
    /// What messages name it by.
    pub id: u16,
    /// For people, logs and metrics.
    pub name: &'static str,
    /// What its messages give way to.
    pub class: Class,
    /// Its messages reach everybody who keeps up at all, whatever else is left out.
    pub never_drop: bool,
    /// How its messages are merged.
    pub aggregation: Aggregation,
}

/// Categories of the built-in policy.
pub const CATEGORIES_BUILTIN: usize = 7;

/// The rules in force: every category, by id.
#[derive(Clone, Debug)]
pub struct Policy {
    /// A category stands at its id, so that a lookup is one index; ids without one are gaps.
    by_id: Vec<Option<Category>>,
}

impl Policy {
    /// What applies when the operator has said nothing else.
    pub fn builtin() -> Self {
        use Aggregation::{Combo, Latest, None};
        use Class::{P0, P1, P2, P3};
        let table: [(&'static str, Class, bool, Aggregation); CATEGORIES_BUILTIN] = [
            ("system", P0, true, None),
            ("gift_large", P1, true, None),
            ("flying_screen", P1, true, None),
            ("gift_small", P2, false, Combo),
            ("chat", P3, false, None),
            ("like", P3, false, None),
            ("state", P3, false, Latest),
        ];
        let category = |(id, (name, class, never_drop, aggregation))| {
            Some(Category { id, name, class, never_drop, aggregation })
        };
        Self { by_id: (0u16..).zip(table).map(category).collect() }
    }

    /// The category with this id.
    #[inline]
    pub fn category(&self, id: u16) -> Option<&Category> {
        self.by_id.get(usize::from(id))?.as_ref()
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
        ];
        assert_eq!(policy.categories().count(), expected.len());
        for (id, expected) in (0..).zip(expected) {
            let Category { id, name, class, never_drop, .. } = policy.category(id).unwrap();
            let fate = if *never_drop { "kept" } else { "droppable" };
            assert_eq!(format!("{id} {name} {class:?} {fate}"), expected);
        }
        assert_eq!(policy.category(7), None);
        assert_eq!(policy.category(u16::MAX), None);
    }
}
