//! Where a message is shown, and what follows from that.

use crate::class::Class;
use crate::level::Level;
use crate::rate::Rate;

/// Whether messages of a category are merged before they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Every message is sent.
    None,
    /// Repeats of a gift by one sender become one message a second; their totals are conserved.
    Combo,
    /// Only the latest per key counts, and the final one is always sent.
    Latest,
}

/// What outlives the room's memory of a category's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing does; on disk is only that there was a message, so that nobody is told otherwise.
    Memory,
    /// The message is in the durable history, if the gateway has one.
    Disk,
}

/// How long the durable history holds a category. What is reached first counts; 0: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Seconds.
    pub age_s: u64,
    /// Messages of the category in all rooms together.
    pub count: u64,
    /// Encoded bytes of them.
    pub bytes: u64,
}

/// A place on the client's screen, with the rules for what is shown there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Category {
    /// What messages name it by.
    pub id: u16,
    /// What its messages give way to.
    pub class: Class,
    /// Its messages reach everybody who keeps up at all, whatever else is left out.
    pub never_drop: bool,
    /// How its messages are merged.
    pub aggregation: Aggregation,
    /// How many a room of each level admits.
    pub limits: [Rate; Level::ALL.len()],
    /// Whether its messages for users wait in their inboxes until each device has them.
    pub inbox: bool,
    /// What outlives the room's memory.
    pub keep: Keep,
    /// For how long.
    pub retention: Retention,
}

impl Category {
    /// How many a room of this level admits. What is never dropped is never limited.
    pub fn limit(&self, level: Level) -> Rate {
        if self.never_drop { Rate::UNLIMITED } else { self.limits[level.index()] }
    }
}
