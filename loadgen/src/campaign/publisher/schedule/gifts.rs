//! Gift combos: those who give tap one gift again and again, rest, and begin with another.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::What;
use crate::clock::SECOND_NS;
use crate::random::Random;

/// Six taps a second are between five and seven.
const TAPS_SPREAD: f64 = 1.0 / 6.0;
/// A pause is between half as long and half as long again.
const PAUSE_SPREAD: f64 = 0.5;

/// How is given.
#[derive(Clone, Copy, Debug)]
pub struct Giving {
    /// Who give, in each room.
    pub givers_per_room: u32,
    /// Taps of each in a second while it gives.
    pub taps_per_s: f64,
    /// How long one gives the same gift.
    pub burst_ns: u64,
    /// How long the pause after it is.
    pub pause_ns: u64,
    /// How many gifts there are.
    pub gifts: u32,
}

/// The taps of all who give.
#[derive(Clone, Debug)]
pub struct Gifts {
    giving: Giving,
    givers: Vec<Giver>,
    /// When each taps next.
    queue: BinaryHeap<Reverse<(u64, u32)>>,
}

#[derive(Clone, Copy, Debug)]
struct Giver {
    burst_ends_ns: u64,
    gift: u32,
}

impl Gifts {
    /// From then on, in so many rooms.
    pub fn new(giving: Giving, rooms: u32, start_ns: u64, random: &mut Random) -> Self {
        let gives = giving.taps_per_s > 0.0 && giving.burst_ns > 0;
        let count = if gives { rooms * giving.givers_per_room } else { 0 };
        let mut this = Self {
            giving,
            givers: Vec::with_capacity(count as usize),
            queue: BinaryHeap::with_capacity(count as usize),
        };
        for giver in 0..count {
            let (state, first_ns) = this.begin(start_ns, random);
            this.givers.push(state);
            this.queue.push(Reverse((first_ns, giver)));
        }
        this
    }

    /// A giver at the beginning: some are in the middle of a burst, others in a pause.
    fn begin(&self, start_ns: u64, random: &mut Random) -> (Giver, u64) {
        let Giving { burst_ns, pause_ns, .. } = self.giving;
        let round_ns = (burst_ns + pause_ns) as f64;
        let into_ns = (random.share() * round_ns) as u64;
        let in_burst_ns = burst_ns.saturating_sub(into_ns);
        let first_ns = (self.interval_ns(random) as f64 * random.share()) as u64;
        if first_ns >= in_burst_ns {
            let begins_ns = start_ns + burst_ns + pause_ns - into_ns;
            return (self.burst(begins_ns, random), begins_ns);
        }
        let giver = self.burst(start_ns, random);
        (Giver { burst_ends_ns: start_ns + in_burst_ns, ..giver }, start_ns + first_ns)
    }

    /// When the next tap is due.
    pub fn next_ns(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at_ns, _))| *at_ns)
    }

    /// The next tap, whenever it was due: its room, and what it is.
    pub fn take(&mut self, random: &mut Random) -> Option<(u32, What)> {
        let Reverse((at_ns, number)) = self.queue.pop()?;
        let Giver { gift, burst_ends_ns } = self.givers[number as usize];
        let mut next_ns = at_ns + self.interval_ns(random);
        if next_ns >= burst_ends_ns {
            let pause = 1.0 + PAUSE_SPREAD * random.around();
            let pause_ns = (self.giving.pause_ns as f64 * pause) as u64;
            // Without a pause the next burst begins with a tap in its time.
            next_ns = next_ns.max(burst_ends_ns + pause_ns);
            self.givers[number as usize] = self.burst(next_ns, random);
        }
        self.queue.push(Reverse((next_ns, number)));
        let giver = number % self.giving.givers_per_room;
        Some((number / self.giving.givers_per_room, What::Tap { giver, gift }))
    }

    /// Passes over everything that is due before `end_ns`: how many that were.
    pub fn pass(&mut self, end_ns: u64, random: &mut Random) -> u64 {
        let mut count = 0;
        while self.next_ns().is_some_and(|at_ns| at_ns < end_ns) && self.take(random).is_some() {
            count += 1;
        }
        count
    }

    fn burst(&self, begins_ns: u64, random: &mut Random) -> Giver {
        let gift = 1 + random.below(u64::from(self.giving.gifts)) as u32;
        Giver { burst_ends_ns: begins_ns + self.giving.burst_ns, gift }
    }

    fn interval_ns(&self, random: &mut Random) -> u64 {
        let per_s = self.giving.taps_per_s * (1.0 + TAPS_SPREAD * random.around());
        ((SECOND_NS as f64 / per_s) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const START_NS: u64 = 1_000 * SECOND_NS;

    fn giving() -> Giving {
        Giving {
            givers_per_room: 10,
            taps_per_s: 6.0,
            burst_ns: 4 * SECOND_NS,
            pause_ns: 2 * SECOND_NS,
            gifts: 5,
        }
    }

    /// The taps of each giver in so many seconds: when, and which gift.
    fn taps(giving: Giving, seconds: u64) -> BTreeMap<(u32, u32), Vec<(u64, u32)>> {
        let random = &mut Random::new(3);
        let mut gifts = Gifts::new(giving, 4, START_NS, random);
        let mut taps: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let end_ns = START_NS + seconds * SECOND_NS;
        while let Some(at_ns) = gifts.next_ns().filter(|at_ns| *at_ns < end_ns) {
            let Some((room, What::Tap { giver, gift })) = gifts.take(random) else { break };
            taps.entry((room, giver)).or_default().push((at_ns, gift));
        }
        taps
    }

    #[test]
    fn givers_tap_one_gift_five_to_seven_times_a_second_and_rest() {
        let all = taps(giving(), 60);
        assert_eq!(all.len(), 40, "everybody gives");
        for (who, own) in &all {
            for pair in own.windows(2) {
                let apart_ms = (pair[1].0 - pair[0].0) / 1_000_000;
                // A pause is a second or longer; taps are 1/7 to 1/5 of one apart.
                let in_burst = (142..=200).contains(&apart_ms);
                assert!(in_burst || apart_ms >= 1_000, "{who:?}: {apart_ms} ms");
                assert!(!in_burst || pair[0].1 == pair[1].1, "one burst is of one gift");
            }
            assert!(own.iter().all(|(_, gift)| (1..=5).contains(gift)));
        }
        // 40 givers, two thirds of 60 seconds at six a second.
        let count: usize = all.values().map(Vec::len).sum();
        assert!((8_500..10_700).contains(&count), "{count}");
    }

    #[test]
    fn combos_are_bounded_by_bursts() {
        for own in taps(giving(), 60).values() {
            let mut run_ns = own[0].0;
            for pair in own.windows(2) {
                if pair[1].0 - pair[0].0 >= SECOND_NS {
                    run_ns = pair[1].0;
                }
                assert!(pair[1].0 - run_ns < 4 * SECOND_NS);
            }
        }
    }

    #[test]
    fn without_a_pause_taps_keep_their_rate() {
        let count: usize =
            taps(Giving { pause_ns: 0, ..giving() }, 60).values().map(Vec::len).sum();
        assert!((13_900..14_900).contains(&count), "{count}");
    }

    #[test]
    fn without_taps_nothing_is_due() {
        assert!(taps(Giving { taps_per_s: 0.0, ..giving() }, 60).is_empty());
        assert!(taps(Giving { givers_per_room: 0, ..giving() }, 60).is_empty());
    }
}
