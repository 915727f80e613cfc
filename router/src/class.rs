//! What gives way to what when there is too much.

use barrage_wire::server::CLASSES;

/// A message's class. P0 goes first and gives way last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// System.
    P0 = 0,
    /// Large gifts, and whatever else somebody paid much for.
    P1 = 1,
    /// Small gifts.
    P2 = 2,
    /// Chat, likes and activity state.
    P3 = 3,
}

const _: () = assert!(Class::ALL.len() == CLASSES, "a SHED notice counts every class");

impl Class {
    /// Every class, the first to go first.
    pub const ALL: [Self; 4] = [Self::P0, Self::P1, Self::P2, Self::P3];

    /// The class's place in counts by class.
    pub fn index(self) -> usize {
        self as usize
    }
}
