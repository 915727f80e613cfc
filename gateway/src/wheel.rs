//! One hashed timer wheel per shard: looks at a connection at or after a tick, and costs 8 bytes.

use barrage_sys::ConnId;

const SLOTS: usize = 1024;
/// Marks an entry that is not asked for again. Generations have 24 bits.
const ONCE: u32 = 1 << 31;

/// A connection whose time has come.
pub struct Look {
    /// The connection, which may be gone.
    pub conn: ConnId,
    /// Another look is scheduled already.
    pub once: bool,
}

/// See the module. Time is in ticks.
pub struct Wheel {
    slots: Vec<Vec<Entry>>,
    now: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    index: u32,
    generation: u32,
}

impl Wheel {
    /// An empty wheel whose time is `now`.
    pub fn new(now: u32) -> Self {
        Self { slots: vec![Vec::new(); SLOTS], now }
    }

    /// Looks at `conn` when `ticks` have passed since `now`, or at the wheel's horizon when that is
    /// sooner: whoever is looked at too early asks again. The wheel may not have turned to `now`
    /// yet; counted from where it is, a look would come too early, and one that comes once would
    /// be lost.
    pub fn look_after(&mut self, conn: ConnId, now: u32, ticks: u32) {
        let ticks = now.wrapping_sub(self.now).saturating_add(ticks).clamp(1, SLOTS as u32 - 1);
        let slot = (self.now.wrapping_add(ticks)) as usize % SLOTS;
        self.slots[slot].push(Entry { index: conn.index, generation: conn.generation });
    }

    /// Looks at `conn` once more than otherwise, when `ticks` have passed since `now`.
    pub fn look_once_after(&mut self, conn: ConnId, now: u32, ticks: u32) {
        self.look_after(ConnId { generation: conn.generation | ONCE, ..conn }, now, ticks);
    }

    /// Moves on by at most one tick towards `now`; returns whom to look at.
    pub fn turn(&mut self, now: u32) -> Option<impl Iterator<Item = Look> + use<>> {
        if self.now == now {
            return None;
        }
        self.now = self.now.wrapping_add(1);
        let due = std::mem::take(&mut self.slots[self.now as usize % SLOTS]);
        Some(due.into_iter().map(|entry| Look {
            conn: ConnId { index: entry.index, generation: entry.generation & !ONCE },
            once: entry.generation & ONCE != 0,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_comes_up_once_and_not_early() {
        let mut wheel = Wheel::new(u32::MAX - 5);
        let conn = |index| ConnId { index, generation: 1 };
        for (index, ticks) in [0, 1, 9, 1000, 5000].into_iter().enumerate() {
            wheel.look_after(conn(index as u32), u32::MAX - 5, ticks);
        }
        let mut seen = Vec::new();
        let mut at = 0u32;
        for tick in 1..=3000u32 {
            let now = (u32::MAX - 5).wrapping_add(tick);
            while let Some(due) = wheel.turn(now) {
                at += 1;
                seen.extend(due.map(|look| (look.conn.index, at)));
            }
        }
        assert_eq!(seen, [(0, 1), (1, 1), (2, 9), (3, 1000), (4, 1023)]);
    }

    #[test]
    fn a_wheel_that_lags_behind_the_clock_looks_no_sooner() {
        let mut wheel = Wheel::new(7);
        wheel.look_once_after(ConnId { index: 1, generation: 1 }, 9, 3);
        let mut at = 7;
        while wheel.turn(20).is_some_and(|mut due| due.next().is_none()) {
            at += 1;
        }
        assert_eq!(at + 1, 12);
    }
}
