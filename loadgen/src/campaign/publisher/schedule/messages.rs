//! Messages at a rate, evenly or by chance.

use super::even_count;
use crate::clock::SECOND_NS;
use crate::random::Random;
use crate::scenario::layout::Layout;
use crate::scenario::{Arrival, Rooms, Spread, To};

/// Messages of one stream.
#[derive(Clone, Debug)]
pub struct Messages {
    start_ns: u64,
    arrival: Arrival,
    to: To,
    /// Nanoseconds from one to the next on average; none: none ever comes by itself.
    gap_ns: Option<f64>,
    /// How many were said.
    said: u64,
    /// When the next one is due, after the beginning.
    next_ns: f64,
}

impl Messages {
    /// So many in a second from then on.
    pub fn new(start_ns: u64, per_s: f64, arrival: Arrival, to: To, random: &mut Random) -> Self {
        let gap_ns = (per_s > 0.0).then(|| SECOND_NS as f64 / per_s);
        let next_ns = match (arrival, gap_ns) {
            (Arrival::Poisson, Some(gap_ns)) => random.exponential(gap_ns),
            (Arrival::Poisson, None) | (Arrival::Fixed, _) => 0.0,
        };
        Self { start_ns, arrival, to, gap_ns, said: 0, next_ns }
    }

    /// When the next one is due.
    pub fn next_ns(&self) -> Option<u64> {
        self.gap_ns.map(|_| self.start_ns.saturating_add(self.next_ns as u64))
    }

    /// Says the next one, whenever it was due; its room.
    pub fn take(&mut self, layout: &Layout, when: &mut Random, which: &mut Random) -> u32 {
        let room = layout.pick(self.to, self.said, which);
        self.turn(self.said + 1, when);
        room
    }

    /// Passes over everything that is due before `end_ns`: how many that were.
    pub fn pass(&mut self, end_ns: u64, random: &mut Random) -> u64 {
        let before = self.said;
        match (self.arrival, self.gap_ns) {
            (_, None) => {}
            (Arrival::Fixed, Some(gap_ns)) => {
                let count = even_count(gap_ns, self.start_ns, end_ns);
                self.turn(count.max(before), random);
            }
            (Arrival::Poisson, Some(_)) => {
                while self.next_ns().is_some_and(|at_ns| at_ns < end_ns) {
                    self.turn(self.said + 1, random);
                }
            }
        }
        self.said - before
    }

    /// So many were said by now, of chance ones one more than before.
    fn turn(&mut self, said: u64, random: &mut Random) {
        self.said = said;
        let Some(gap_ns) = self.gap_ns else { return };
        self.next_ns = match self.arrival {
            // Reckoned anew each time, so that errors do not add up.
            Arrival::Fixed => said as f64 * gap_ns,
            Arrival::Poisson => self.next_ns + random.exponential(gap_ns),
        };
    }
}

/// How many messages in a second make so many deliveries; 0 when nobody would hear them.
pub fn per_s(deliveries_per_s: f64, rooms: &Rooms, to: To, members: &[u32]) -> f64 {
    let heard = heard(rooms, to, members);
    if heard > 0.0 { deliveries_per_s / heard } else { 0.0 }
}

/// How many hear a message on average, as `Layout::pick` picks its room.
fn heard(rooms: &Rooms, to: To, members: &[u32]) -> f64 {
    let first = f64::from(members.first().copied().unwrap_or(0));
    let mean = |share: &dyn Fn(u32) -> f64| {
        let (mut heard, mut shares) = (0.0, 0.0);
        for room in 0..rooms.count {
            let share = share(room);
            heard += share * f64::from(members.get(room as usize).copied().unwrap_or(0));
            shares += share;
        }
        heard / shares
    };
    let even = || mean(&|_| 1.0);
    match to {
        To::Hot => first,
        To::Even => even(),
        To::Members => {
            let others = match rooms.spread {
                Spread::Even => even(),
                Spread::Zipf { exponent } => mean(&|room| f64::from(room + 1).powf(-exponent)),
            };
            let hot = rooms.hot_percent / 100.0;
            hot * first + (1.0 - hot) * others
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 5 * SECOND_NS;

    fn layout() -> Layout {
        let (count, spread) = (4, Spread::Even);
        Layout::new(Rooms { first: 1, count, per_client: 1, spread, hot_percent: 0.0 }, 1)
    }

    #[test]
    fn a_fixed_rate_does_not_drift_over_hours() {
        let (rate, hours) = (2_999.7, 3);
        let random = &mut Random::new(1);
        let layout = layout();
        let mut messages = Messages::new(START_NS, rate, Arrival::Fixed, To::Even, random);
        let count = (rate * 3600.0 * f64::from(hours)) as u64;
        (0..count).for_each(|_| {
            messages.take(&layout, random, &mut Random::new(1));
        });
        let due_ns = messages.next_ns().unwrap() - START_NS;
        let exact_ns = u128::from(count) * 10_000_000_000 / 29_997;
        assert!(u128::from(due_ns).abs_diff(exact_ns) <= 1, "{due_ns} {exact_ns}");
    }

    #[test]
    fn chance_keeps_the_rate_and_forgets_what_was() {
        let random = &mut Random::new(3);
        let layout = layout();
        let mut messages = Messages::new(0, 1000.0, Arrival::Poisson, To::Even, random);
        let mut times = vec![0];
        for _ in 0..100_000 {
            times.push(messages.next_ns().unwrap());
            messages.take(&layout, random, &mut Random::new(1));
        }
        let gaps_ms = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6);
        let (sum, squares) =
            gaps_ms.fold((0.0, 0.0), |(sum, squares), gap| (sum + gap, squares + gap * gap));
        let mean = sum / 100_000.0;
        let variance = squares / 100_000.0 - mean * mean;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        // An exponential time varies as much as its mean is; a fixed one not at all.
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn without_a_rate_nothing_is_due() {
        let random = &mut Random::new(3);
        for arrival in [Arrival::Fixed, Arrival::Poisson] {
            let messages = Messages::new(0, 0.0, arrival, To::Even, random);
            assert_eq!(messages.next_ns(), None);
        }
    }

    #[test]
    fn deliveries_are_as_many_as_the_picked_rooms_have_members() {
        let spreads = [Spread::Even, Spread::Zipf { exponent: 1.2 }];
        let members: Vec<u32> =
            (0..20).map(|room| 5 + 37 * (room % 3) + 400 / (room + 1)).collect();
        for (spread, hot_percent) in spreads.into_iter().zip([0.0, 30.0]) {
            for to in [To::Even, To::Members, To::Hot] {
                let rooms = Rooms { first: 1, count: 20, per_client: 1, spread, hot_percent };
                let layout = Layout::new(rooms, 1);
                let random = &mut Random::new(9);
                let picked = (0..200_000).map(|n| layout.pick(to, n, random) as usize);
                let mean = picked.map(|room| f64::from(members[room])).sum::<f64>() / 200_000.0;
                let rate = per_s(300_000.0, &rooms, to, &members);
                assert!((rate * mean / 300_000.0 - 1.0).abs() < 0.02, "{spread:?} {to:?}");
            }
        }
    }

    #[test]
    fn nobody_hears_a_room_without_members() {
        let (count, spread) = (3, Spread::Even);
        let rooms = Rooms { first: 1, count, per_client: 1, spread, hot_percent: 0.0 };
        assert_eq!(per_s(100.0, &rooms, To::Even, &[]), 0.0);
        assert_eq!(per_s(100.0, &rooms, To::Hot, &[0, 5, 5]), 0.0);
        assert_eq!(per_s(100.0, &rooms, To::Even, &[0, 10, 20]), 10.0);
    }
}
