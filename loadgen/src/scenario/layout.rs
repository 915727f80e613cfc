//! Who is in which room. Pure, and nothing is kept per client: a client's rooms follow from its
//! number and the seed.

use crate::random::{Random, mix, share_of};
use crate::scenario::{Rooms, Spread, To};

/// Looks for a room that a client has not got yet: so often, and then takes the next free one.
const TRIES_MAX: u32 = 8;

/// The rooms of all clients.
#[derive(Clone, Debug)]
pub struct Layout {
    rooms: Rooms,
    seed: u64,
    /// For Zipf: the share of the rooms up to each.
    shares: Vec<f64>,
}

impl Layout {
    /// Of these rooms.
    pub fn new(rooms: Rooms, seed: u64) -> Self {
        let shares = match rooms.spread {
            Spread::Even => Vec::new(),
            Spread::Zipf { exponent } => zipf(rooms.count, exponent),
        };
        Self { rooms, seed, shares }
    }

    /// How many rooms there are.
    pub fn count(&self) -> u32 {
        self.rooms.count
    }

    /// How many each client joins.
    pub fn per_client(&self) -> usize {
        self.rooms.per_client.min(self.rooms.count) as usize
    }

    /// The id of a room.
    pub fn id(&self, room: u32) -> u64 {
        self.rooms.first + u64::from(room)
    }

    /// The rooms of client `k`, from 0, all different. No room is empty if there are as many clients
    /// as rooms: in a spread that is even and without a hot room clients take the rooms in turn, each
    /// the next `per_client`; in all others the first room of client `k` is room `k` as long as there
    /// are so many.
    pub fn rooms_of(&self, k: u32, mut each: impl FnMut(u32)) {
        let per_client = self.per_client();
        if per_client == 1 {
            return each(self.first_of(k));
        }
        if self.shares.is_empty() && self.rooms.hot_percent == 0.0 {
            let start = u64::from(k) * per_client as u64;
            (0..per_client as u64)
                .for_each(|nth| each(((start + nth) % u64::from(self.rooms.count)) as u32));
            return;
        }
        let mut taken = Vec::with_capacity(per_client);
        taken.push(self.first_of(k));
        let mut random = Random::new(self.seed ^ mix(u64::from(k) + 1));
        while taken.len() < per_client {
            let found = (0..TRIES_MAX)
                .map(|_| self.at_share(random.share()))
                .find(|room| !taken.contains(room));
            let room = found.unwrap_or_else(|| {
                let next = |from: u32| (from + 1) % self.rooms.count;
                let mut room = next(taken[taken.len() - 1]);
                while taken.contains(&room) {
                    room = next(room);
                }
                room
            });
            taken.push(room);
        }
        taken.into_iter().for_each(each);
    }

    fn first_of(&self, k: u32) -> u32 {
        if k < self.rooms.count {
            return k;
        }
        let bits = mix(self.seed ^ mix(u64::from(k)));
        if share_of(mix(bits ^ 1)) * 100.0 < self.rooms.hot_percent {
            return 0;
        }
        match self.rooms.spread {
            Spread::Even => k % self.rooms.count,
            Spread::Zipf { .. } => self.at_share(share_of(bits)),
        }
    }

    fn at_share(&self, share: f64) -> u32 {
        if self.shares.is_empty() {
            return ((share * f64::from(self.rooms.count)) as u32).min(self.rooms.count - 1);
        }
        (self.shares.partition_point(|&upto| upto <= share) as u32).min(self.rooms.count - 1)
    }

    /// How many of the first `clients` clients are in each room.
    pub fn members(&self, clients: u32) -> Vec<u32> {
        let mut members = vec![0; self.rooms.count as usize];
        (0..clients).for_each(|k| self.rooms_of(k, |room| members[room as usize] += 1));
        members
    }

    /// The room of a stream's message number `index`.
    pub fn pick(&self, to: To, index: u64, random: &mut Random) -> u32 {
        match to {
            To::Even => (index % u64::from(self.rooms.count)) as u32,
            To::Hot => 0,
            To::Members => {
                if random.share() * 100.0 < self.rooms.hot_percent {
                    return 0;
                }
                self.at_share(random.share())
            }
        }
    }
}

fn zipf(count: u32, exponent: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let mut upto: Vec<f64> = (1..=count)
        .map(|n| {
            sum += f64::from(n).powf(-exponent);
            sum
        })
        .collect();
    upto.iter_mut().for_each(|share| *share /= sum);
    upto
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(count: u32, per_client: u32, spread: Spread, hot_percent: f64) -> Layout {
        Layout::new(Rooms { first: 100, count, per_client, spread, hot_percent }, 7)
    }

    fn of(layout: &Layout, k: u32) -> Vec<u32> {
        let mut rooms = Vec::new();
        layout.rooms_of(k, |room| rooms.push(room));
        rooms
    }

    #[test]
    fn an_even_spread_is_even_and_rooms_of_one_client_differ() {
        let layout = layout(12, 3, Spread::Even, 0.0);
        assert_eq!(
            [of(&layout, 0), of(&layout, 1), of(&layout, 4)],
            [[0, 1, 2], [3, 4, 5], [0, 1, 2]]
        );
        assert_eq!(layout.members(8), vec![2; 12]);
        assert_eq!(layout.id(3), 103);
    }

    #[test]
    fn zipf_gives_the_first_room_the_most_and_none_nothing() {
        let layout = layout(100, 1, Spread::Zipf { exponent: 1.0 }, 0.0);
        let members = layout.members(100_100);
        // The harmonic number of 100 is 5.187: the first room has a share of 19.3 %.
        assert!((18_800..19_800).contains(&members[0]), "{members:?}");
        assert!((9_200..10_100).contains(&members[1]), "{members:?}");
        assert!(members.iter().all(|&count| count > 0));
        assert_eq!(members.iter().sum::<u32>(), 100_100);
    }

    #[test]
    fn a_hot_room_has_its_share_whatever_the_spread() {
        let layout = layout(50, 1, Spread::Even, 40.0);
        let members = layout.members(50_050);
        assert!((20_000..21_200).contains(&members[0]), "{members:?}");
        let mut random = Random::new(1);
        let hot = (0..10_000).filter(|&n| layout.pick(To::Members, n, &mut random) == 0).count();
        assert!((3_900..4_300).contains(&hot), "{hot}");
    }

    #[test]
    fn several_rooms_of_a_steep_spread_differ() {
        let layout = layout(5, 4, Spread::Zipf { exponent: 3.0 }, 50.0);
        for k in 0..100 {
            let mut rooms = of(&layout, k);
            rooms.sort_unstable();
            rooms.dedup();
            assert_eq!(rooms.len(), 4, "client {k}");
        }
    }
}
