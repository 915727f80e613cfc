//! As fast as a window allows: how many messages are on their way to members. Pure.

use crate::clock::SECOND_NS;

/// When nothing has moved for so long, what is on its way is taken to be lost. Members who come late
/// or go leave gaps that nobody will ever close.
const STUCK_NS: u64 = SECOND_NS;

/// What is known about messages that are on their way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// Messages that were sent and known before, or are lost.
    settled: i64,
    known: u64,
    moved_ns: u64,
}

impl Window {
    /// From now on: what was sent before and is not known will never be.
    pub fn new(sent: u64, known: u64, now_ns: u64) -> Self {
        Self { settled: difference(sent, known), known, moved_ns: now_ns }
    }

    /// How many are on their way, of `sent` ones, when the slowest worker knows the fate of `known`.
    pub fn on_their_way(&mut self, sent: u64, known: u64, now_ns: u64) -> u64 {
        let away = difference(sent, known);
        if known != self.known || away <= self.settled {
            (self.known, self.moved_ns) = (known, now_ns);
        } else if now_ns.saturating_sub(self.moved_ns) >= STUCK_NS {
            (self.settled, self.moved_ns) = (away, now_ns);
        }
        u64::try_from(away - self.settled).unwrap_or(0)
    }
}

fn difference(sent: u64, known: u64) -> i64 {
    i64::try_from(i128::from(sent) - i128::from(known)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_on_its_way() {
        let mut window = Window::new(10, 7, 0);
        assert_eq!(window.on_their_way(10, 7, 1), 0, "what was before does not count");
        assert_eq!(window.on_their_way(15, 7, 2), 5);
        assert_eq!(window.on_their_way(15, 11, 3), 1);
        assert_eq!(window.on_their_way(15, 20, 4), 0, "more may be known than was sent");
    }

    #[test]
    fn a_window_that_is_stuck_opens_again_after_a_while() {
        let mut window = Window::new(0, 0, 0);
        assert_eq!(window.on_their_way(5, 0, 10), 5);
        assert_eq!(window.on_their_way(5, 1, STUCK_NS), 4, "something has moved");
        assert_eq!(window.on_their_way(5, 1, 2 * STUCK_NS - 1), 4);
        assert_eq!(window.on_their_way(5, 1, 2 * STUCK_NS), 0);
        assert_eq!(window.on_their_way(8, 1, 2 * STUCK_NS + 1), 3);
    }
}
