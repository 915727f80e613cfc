//! Who does what when in a storm. Pure: the same seed makes the same storm.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::SECOND_NS;
use crate::random::Random;

/// How a storm is made.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Rooms, the two of a pair next to each other.
    pub rooms: u32,
    /// Members of each who give.
    pub senders: u32,
    /// Taps a second of each while they give, give or take `TAPS_SPREAD`.
    pub taps_per_s: f64,
    /// How long one gives the same gift.
    pub burst_ns: u64,
    /// How long the pause after it is, give or take `PAUSE_SPREAD`.
    pub pause_ns: u64,
    /// Different gifts.
    pub gifts: u32,
    /// How often a second a pair's score is told.
    pub bar_per_s: f64,
    /// Chat messages a second in each room.
    pub chat_per_s: f64,
    /// Where chance begins.
    pub seed: u64,
}

/// Six taps a second are between five and seven.
const TAPS_SPREAD: f64 = 1.0 / 6.0;
const PAUSE_SPREAD: f64 = 0.5;

/// Something that is said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// A gift, once.
    Tap {
        /// Who gives, from 0 in each room.
        sender: u32,
        /// Which gift, from 1.
        gift: u64,
    },
    /// The score of the room's pair.
    Score,
    /// A line of chat.
    Chat,
}

/// What is due at some moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Act {
    /// When.
    pub at_ns: u64,
    /// In which room, from 0.
    pub room: u32,
    /// What.
    pub what: What,
}

/// All acts of a storm, in order.
#[derive(Debug)]
pub struct Schedule {
    weather: Weather,
    to_ns: u64,
    random: Random,
    givers: Vec<Giver>,
    /// When each source acts next: first the givers, then the rooms' scores, then their chats.
    queue: BinaryHeap<Reverse<(u64, u32)>>,
}

#[derive(Clone, Copy, Debug)]
struct Giver {
    gift: u64,
    burst_ends_ns: u64,
}

impl Schedule {
    /// A storm from one moment to another.
    pub fn new(weather: Weather, start_ns: u64, to_ns: u64) -> Self {
        let givers = (weather.rooms * weather.senders) as usize;
        let mut this = Self {
            weather,
            to_ns,
            random: Random::new(weather.seed),
            givers: Vec::with_capacity(givers),
            queue: BinaryHeap::new(),
        };
        let round_ns = weather.burst_ns + weather.pause_ns;
        for source in 0..givers as u32 {
            // Some are in the middle of a burst when the storm begins, others in a pause.
            let began_ns = this.random.share() * round_ns as f64;
            let begins_ns = start_ns + round_ns - began_ns as u64;
            let giver = this.burst(begins_ns);
            this.givers.push(giver);
            let in_burst_ns = (weather.burst_ns as f64 - began_ns).max(0.0) as u64;
            if in_burst_ns > 0 {
                this.givers[source as usize].burst_ends_ns = start_ns + in_burst_ns;
                let first_ns = start_ns + (this.interval_ns() as f64 * this.random.share()) as u64;
                this.queue.push(Reverse((first_ns, source)));
            } else {
                this.queue.push(Reverse((begins_ns, source)));
            }
        }
        for room in 0..weather.rooms {
            // The two rooms of a pair hear of the score at the same time.
            let pairs = u64::from(weather.rooms.div_ceil(2));
            let phase = |per_s| period_ns(per_s) * u64::from(room / 2) / pairs;
            let first = givers as u32 + room;
            if weather.bar_per_s > 0.0 {
                this.queue.push(Reverse((start_ns + phase(weather.bar_per_s), first)));
            }
            if weather.chat_per_s > 0.0 {
                let at_ns = start_ns + phase(weather.chat_per_s);
                this.queue.push(Reverse((at_ns, first + weather.rooms)));
            }
        }
        this
    }

    /// When something is due next; none when the storm is over.
    pub fn next_ns(&self) -> Option<u64> {
        let Reverse((at_ns, _)) = self.queue.peek()?;
        (*at_ns < self.to_ns).then_some(*at_ns)
    }

    /// What is due by now and was not handed out.
    pub fn due(&mut self, now_ns: u64) -> Option<Act> {
        self.next_ns().filter(|at_ns| *at_ns <= now_ns)?;
        let Reverse((at_ns, source)) = self.queue.pop()?;
        let givers = self.givers.len() as u32;
        let rooms = self.weather.rooms;
        let (room, what, next_ns) = if source < givers {
            let (gift, next_ns) = self.tap(source as usize, at_ns);
            let sender = source % self.weather.senders;
            (source / self.weather.senders, What::Tap { sender, gift }, next_ns)
        } else if source < givers + rooms {
            (source - givers, What::Score, at_ns + period_ns(self.weather.bar_per_s))
        } else {
            (source - givers - rooms, What::Chat, at_ns + period_ns(self.weather.chat_per_s))
        };
        self.queue.push(Reverse((next_ns, source)));
        Some(Act { at_ns, room, what })
    }

    /// What a giver taps now, and when the next tap is.
    fn tap(&mut self, giver: usize, at_ns: u64) -> (u64, u64) {
        let Giver { gift, burst_ends_ns } = self.givers[giver];
        let next_ns = at_ns + self.interval_ns();
        if next_ns < burst_ends_ns {
            return (gift, next_ns);
        }
        let pause = 1.0 + PAUSE_SPREAD * self.random.around();
        let next_ns = burst_ends_ns.max(at_ns + 1) + (self.weather.pause_ns as f64 * pause) as u64;
        self.givers[giver] = self.burst(next_ns);
        (gift, next_ns)
    }

    fn burst(&mut self, begins_ns: u64) -> Giver {
        let gift = 1 + self.random.next() % u64::from(self.weather.gifts);
        Giver { gift, burst_ends_ns: begins_ns + self.weather.burst_ns }
    }

    fn interval_ns(&mut self) -> u64 {
        let per_s = self.weather.taps_per_s * (1.0 + TAPS_SPREAD * self.random.around());
        period_ns(per_s)
    }
}

fn period_ns(per_s: f64) -> u64 {
    ((SECOND_NS as f64 / per_s) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 1_000 * SECOND_NS;

    fn weather(seed: u64) -> Weather {
        Weather {
            rooms: 4,
            senders: 10,
            taps_per_s: 6.0,
            burst_ns: 4 * SECOND_NS,
            pause_ns: 2 * SECOND_NS,
            gifts: 5,
            bar_per_s: 5.0,
            chat_per_s: 20.0,
            seed,
        }
    }

    fn acts(weather: Weather, seconds: u64) -> Vec<Act> {
        let mut schedule = Schedule::new(weather, START_NS, START_NS + seconds * SECOND_NS);
        std::iter::from_fn(|| schedule.due(u64::MAX)).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_storm_in_order() {
        let one = acts(weather(7), 30);
        assert_eq!(one, acts(weather(7), 30));
        assert_ne!(one, acts(weather(8), 30));
        assert!(one.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
        assert!(one.iter().all(|act| (START_NS..START_NS + 30 * SECOND_NS).contains(&act.at_ns)));
    }

    #[test]
    fn nothing_is_handed_out_before_its_time() {
        let mut schedule = Schedule::new(weather(1), START_NS, START_NS + SECOND_NS);
        assert_eq!(schedule.due(START_NS - 1), None);
        let next_ns = schedule.next_ns().unwrap();
        assert_eq!(schedule.due(next_ns).unwrap().at_ns, next_ns);
    }

    #[test]
    fn givers_tap_one_gift_five_to_seven_times_a_second_and_rest() {
        let all = acts(weather(3), 60);
        let mut taps = 0;
        for room in 0..4 {
            for giver in 0..10 {
                let own: Vec<(u64, u64)> = all
                    .iter()
                    .filter(|act| act.room == room)
                    .filter_map(|act| match act.what {
                        What::Tap { sender, gift } if sender == giver => Some((act.at_ns, gift)),
                        _ => None,
                    })
                    .collect();
                taps += own.len();
                for pair in own.windows(2) {
                    let apart_ms = (pair[1].0 - pair[0].0) / 1_000_000;
                    // A pause is a second or longer; taps are 1/7 to 1/5 of one apart.
                    let in_burst = (142..=200).contains(&apart_ms);
                    assert!(in_burst || apart_ms >= 1_000, "{apart_ms} ms");
                    assert!(!in_burst || pair[0].1 == pair[1].1, "one burst is of one gift");
                }
            }
        }
        // 40 givers, two thirds of 60 seconds at six a second.
        assert!((8_500..10_700).contains(&taps), "{taps}");
    }

    #[test]
    fn the_rooms_of_a_pair_hear_of_the_score_at_the_same_time() {
        let all = acts(weather(3), 10);
        let scores = |room| {
            let own = all.iter().filter(move |act| act.room == room && act.what == What::Score);
            own.map(|act| act.at_ns).collect::<Vec<_>>()
        };
        assert_eq!(scores(0).len(), 50);
        assert_eq!((scores(0), scores(2)), (scores(1), scores(3)));
        let chats = all.iter().filter(|act| act.what == What::Chat).count();
        assert_eq!(chats, 4 * 10 * 20);
    }
}
