//! A room's size band. Limits get stricter as it rises.

/// Members from which on a room is L2, L3 and L4.
const THRESHOLDS: [u32; 3] = [1_000, 10_000, 100_000];

/// A room's size band.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Under 1,000 members.
    L1 = 1,
    /// Under 10,000 members.
    L2 = 2,
    /// Under 100,000 members.
    L3 = 3,
    /// More.
    L4 = 4,
}

impl Level {
    /// The band of a room with so many members.
    ///
    /// Hysteresis goes here: nothing is limited by level yet, so a room that hovers at a threshold
    /// may flap. Once limits depend on it, this takes the level before and lets a room down only
    /// when it is well under the threshold that it rose over.
    pub fn of(members: u32) -> Self {
        match THRESHOLDS.partition_point(|&from| from <= members) {
            0 => Self::L1,
            1 => Self::L2,
            2 => Self::L3,
            _ => Self::L4,
        }
    }

    /// The band as the protocol says it, 1 to 4.
    pub fn number(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_begins_at_its_threshold() {
        let counts = [0, 999, 1_000, 9_999, 10_000, 99_999, 100_000, u32::MAX];
        let levels = counts.map(|members| Level::of(members).number());
        assert_eq!(levels, [1, 1, 2, 2, 3, 3, 4, 4]);
    }
}
