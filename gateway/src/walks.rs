//! Which rooms are walked next, and how far: the scheduler of a shard's fan-out.
//!
//! A step has so much work to give. Every queue that waits has a part of it that nobody takes away;
//! what is left goes to the most urgent. A class has two queues: rooms that have just been given
//! something are served first and a little, rooms whose walks are long take turns. So a message of
//! a higher class, or a large room, makes others wait for a part of a step and not for a walk, and a
//! great many small rooms leave a large one half of its class's part.
//!
//! Work is a model of what a send costs and not a measurement, so the same input gives the same walk.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use barrage_wire::server::CLASSES;

use crate::limits::{
    FIRST_WALK_WORK, GUARANTEED_WORK, LONG_WALK_WORK, STEP_WALK_WORK, TICK, WORK_PER_SEND,
    WORK_PER_VISIT,
};

/// What looking at a member costs.
pub fn visit_work() -> u32 {
    WORK_PER_VISIT
}

/// What a send of so many bytes costs.
pub fn send_work(bytes: usize) -> u32 {
    WORK_PER_SEND + bytes as u32 / 10
}

/// Leave to walk in a room.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// Which room.
    pub room: u32,
    /// How much work; the last send may go over it.
    pub work: u32,
    queue: usize,
}

/// A class's queue of rooms whose walks begin, and the one of those that go on.
const PER_CLASS: usize = 2;
const QUEUES: usize = CLASSES * PER_CLASS;

/// A room rests no longer than this for one step, whatever has held the core up.
const REST_US_MAX: u64 = TICK.as_micros() as u64;

/// See the module. Rooms are named by their local index.
#[derive(Default)]
pub struct Walks {
    queues: [VecDeque<u32>; QUEUES],
    seats: Vec<Seat>,
    /// Queues that have had in this step what they have for themselves, and what the next one and
    /// all together have spent.
    guaranteed: usize,
    spent: u32,
    spent_in_all: u32,
    /// The share of the core that one room may use, in percent, if that is not all of it.
    share: Option<u64>,
    /// Who was walked in the last step, how far, and when that began.
    walked: Vec<(u32, u32)>,
    walked_since_us: u64,
    /// Who has used its share, and until when it rests.
    resting: BinaryHeap<Reverse<(u64, u32)>>,
}

const _: () = assert!(size_of::<Seat>() <= 16, "a million quiet rooms have one each");

/// What is known of a room.
#[derive(Clone, Copy, Default)]
struct Seat {
    /// The queues that it has a place in, one bit each. A place in a queue in which it has no
    /// business any more is found out when its turn comes.
    places: u8,
    /// The queue in which it is to be, if it waits.
    queue: Option<u8>,
    /// Its walk has gone on for more than a beginner's work.
    long: bool,
    resting: bool,
    /// Work left of its turn.
    credit: u32,
    /// Microseconds of rest that it owes.
    owed_us: u32,
}

impl Walks {
    /// Nobody waits. A room may use `pace_percent` of the core.
    pub fn new(pace_percent: u32) -> Self {
        let share = (pace_percent < 100).then_some(u64::from(pace_percent.max(1)));
        Self { share, ..Self::default() }
    }

    /// A room has something to send, most urgently of this class.
    pub fn wait(&mut self, room: u32, class: usize) {
        if self.seats.len() <= room as usize {
            self.seats.resize_with(room as usize + 1, Seat::default);
        }
        let seat = &mut self.seats[room as usize];
        let queue = class * PER_CLASS + usize::from(seat.long);
        seat.queue = Some(queue as u8);
        if !seat.resting && seat.take_place(queue) {
            self.queues[queue].push_back(room);
        }
    }

    /// A room is no more. Its index may be another's soon.
    pub fn forget(&mut self, room: u32) {
        if let Some(seat) = self.seats.get_mut(room as usize) {
            // Its places stay where they are until their turn comes, and so do their bits.
            *seat = Seat { places: seat.places, ..Seat::default() };
        }
    }

    /// A step begins, and nothing has been heard yet. The last one took until now: rooms that went over their share for it rest.
    pub fn begin(&mut self, now_us: u64) {
        (self.guaranteed, self.spent, self.spent_in_all) = (0, 0, 0);
        self.put_to_rest(now_us);
        self.walked_since_us = now_us;
        while let Some(&Reverse((until, room))) = self.resting.peek()
            && until <= now_us
        {
            self.resting.pop();
            let seat = &mut self.seats[room as usize];
            seat.resting = false;
            if let Some(queue) = seat.queue.map(usize::from)
                && seat.take_place(queue)
            {
                self.queues[queue].push_back(room);
            }
        }
    }

    fn put_to_rest(&mut self, now_us: u64) {
        let Some(share) = self.share else { return };
        let took_us = now_us.saturating_sub(self.walked_since_us);
        let work_in_all: u64 = self.walked.iter().map(|&(_, work)| u64::from(work)).sum();
        for &(room, work) in &self.walked {
            let used_us = took_us * u64::from(work) / work_in_all.max(1);
            let seat = &mut self.seats[room as usize];
            let owed_us = u64::from(seat.owed_us) + used_us * (100 - share) / share;
            seat.owed_us = u32::try_from(owed_us).unwrap_or(u32::MAX);
        }
        for (room, _) in self.walked.drain(..) {
            let seat = &mut self.seats[room as usize];
            let owed_us = u64::from(std::mem::take(&mut seat.owed_us)).min(REST_US_MAX);
            if owed_us > 0 && seat.queue.is_some() {
                seat.resting = true;
                self.resting.push(Reverse((now_us + owed_us, room)));
            }
        }
    }

    /// Who walks next, until this step's work is done or nobody waits. Every grant is to be settled.
    pub fn next(&mut self) -> Option<Grant> {
        while self.guaranteed < QUEUES {
            let queue = self.guaranteed;
            let guaranteed = GUARANTEED_WORK[queue / PER_CLASS] / PER_CLASS as u32;
            let left = guaranteed.saturating_sub(self.spent);
            if left > 0
                && let Some(grant) = self.grant(queue, left)
            {
                return Some(grant);
            }
            (self.guaranteed, self.spent) = (queue + 1, 0);
        }
        let left = STEP_WALK_WORK.saturating_sub(self.spent_in_all);
        (0..QUEUES).filter(|_| left > 0).find_map(|queue| self.grant(queue, left))
    }

    fn grant(&mut self, queue: usize, work_max: u32) -> Option<Grant> {
        while let Some(room) = self.queues[queue].pop_front() {
            let seat = &mut self.seats[room as usize];
            seat.places &= !(1 << queue);
            if seat.queue != Some(queue as u8) || seat.resting {
                continue;
            }
            if seat.credit == 0 {
                seat.credit = if seat.long { LONG_WALK_WORK } else { FIRST_WALK_WORK };
            }
            return Some(Grant { room, work: seat.credit.min(work_max), queue });
        }
        None
    }

    /// A room has walked; `class` is the most urgent one of what its members still lack.
    pub fn settle(&mut self, grant: Grant, work: u32, class: Option<usize>) {
        let Grant { room, queue, .. } = grant;
        self.spent += work;
        self.spent_in_all += work;
        if self.share.is_some() && work > 0 {
            self.walked.push((room, work));
        }
        let seat = &mut self.seats[room as usize];
        seat.credit = seat.credit.saturating_sub(work);
        let Some(class) = class else {
            (seat.queue, seat.long, seat.credit) = (None, false, 0);
            return;
        };
        let goes_on = seat.credit > 0 && class == queue / PER_CLASS;
        seat.long |= seat.credit == 0;
        let next = class * PER_CLASS + usize::from(seat.long);
        seat.queue = Some(next as u8);
        if !seat.take_place(next) {
            return;
        }
        if goes_on {
            self.queues[next].push_front(room);
        } else {
            self.queues[next].push_back(room);
        }
    }

    /// Whether somebody may be walked at once.
    pub fn any_waits(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }

    /// Whether somebody may be walked, or will be when it has rested.
    pub fn any_waits_or_rests(&self) -> bool {
        self.any_waits() || !self.resting.is_empty()
    }

    /// When the first one has rested enough.
    pub fn next_rested_us(&self) -> Option<u64> {
        self.resting.peek().map(|&Reverse((until, _))| until)
    }
}

impl Seat {
    /// Says whether it had no place in that queue.
    fn take_place(&mut self, queue: usize) -> bool {
        let is_new = self.places & 1 << queue == 0;
        self.places |= 1 << queue;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_ring::Random;

    const SEND: u32 = WORK_PER_SEND + WORK_PER_VISIT;

    /// Rooms that need so many sends, of these classes.
    struct World {
        walks: Walks,
        rooms: Vec<[u32; CLASSES]>,
        now_us: u64,
    }

    impl World {
        fn new(rooms: usize, pace_percent: u32) -> Self {
            Self { walks: Walks::new(pace_percent), rooms: vec![[0; CLASSES]; rooms], now_us: 0 }
        }

        fn class(&self, room: u32) -> Option<usize> {
            self.rooms[room as usize].iter().position(|&sends| sends > 0)
        }

        /// A message that makes so many sends. As a walk does, it restarts the count of its class.
        fn say(&mut self, room: u32, class: usize, sends: u32) {
            self.rooms[room as usize][class] = sends;
            let class = self.class(room).expect("it was given something");
            self.walks.wait(room, class);
        }

        /// One step; says how many sends each room got.
        fn step(&mut self) -> Vec<(u32, u32)> {
            self.now_us += 300;
            self.walks.begin(self.now_us);
            let (mut sent, mut in_all) = (Vec::new(), 0);
            while let Some(grant) = self.walks.next() {
                let mut work = 0;
                let mut sends = 0;
                while work < grant.work && self.class(grant.room).is_some() {
                    // A send carries what is wanted, of every class.
                    for left in &mut self.rooms[grant.room as usize] {
                        *left = left.saturating_sub(1);
                    }
                    work += SEND;
                    sends += 1;
                }
                in_all += work;
                sent.push((grant.room, sends));
                self.walks.settle(grant, work, self.class(grant.room));
            }
            assert!(in_all < STEP_WALK_WORK + QUEUES as u32 * SEND, "a step has an end");
            sent
        }

        /// Steps until a room has everything.
        fn steps_until_done(&mut self, room: u32, mut meanwhile: impl FnMut(&mut Self)) -> u32 {
            for steps in 1..10_000 {
                meanwhile(self);
                self.step();
                if self.class(room).is_none() {
                    return steps;
                }
            }
            panic!("room {room} is starved");
        }
    }

    #[test]
    fn a_quiet_room_waits_one_step_whatever_its_neighbour_is_told() {
        for class in 0..CLASSES {
            let mut world = World::new(2, 100);
            world.say(0, class, 2_000);
            world.step();
            world.say(1, 3, 1);
            let steps = world.steps_until_done(1, |world| world.say(0, class, 2_000));
            assert_eq!(steps, 1, "beside a room of class {class}");
        }
    }

    #[test]
    fn a_gift_makes_a_room_urgent_for_one_walk() {
        let mut world = World::new(1, 100);
        world.say(0, 3, 2_000);
        world.say(0, 1, 2_000);
        for _ in 0..40 {
            world.step();
            world.say(0, 3, 2_000);
        }
        assert_eq!(world.class(0), Some(3));
    }

    #[test]
    fn one_step_walks_in_many_small_rooms() {
        let mut world = World::new(1_000, 100);
        (0..1_000).for_each(|room| world.say(room, 3, 1));
        let served = world.step().len();
        assert!((60..=70).contains(&served), "{served} rooms in one step");
        // They began in this order, and nobody comes twice.
        let mut rooms: Vec<u32> = world.step().iter().map(|&(room, _)| room).collect();
        rooms.dedup();
        assert!(rooms.is_sorted() && rooms[0] == served as u32);
    }

    #[test]
    fn small_rooms_without_number_leave_a_large_one_its_half() {
        let mut world = World::new(1_001, 100);
        world.say(1_000, 3, 2_000);
        // Long before small ones come, or it would begin as they do.
        world.step();
        let steps = world.steps_until_done(1_000, |world| {
            for room in 0..1_000 {
                if world.class(room).is_none() {
                    world.say(room, 3, 1);
                }
            }
        });
        let guaranteed = GUARANTEED_WORK[3] / PER_CLASS as u32 / WORK_PER_SEND;
        assert!(steps <= 2_000 / guaranteed, "{steps} steps");
    }

    #[test]
    fn two_large_rooms_take_turns() {
        let mut world = World::new(2, 100);
        world.say(0, 3, 2_000);
        world.step();
        world.say(1, 3, 2_000);
        let mut sent = [0; 2];
        for _ in 0..20 {
            for (room, sends) in world.step() {
                sent[room as usize] += sends;
            }
        }
        assert!(sent[0].abs_diff(sent[1]) <= 128, "{sent:?}");
    }

    #[test]
    fn a_room_that_is_paced_uses_its_share() {
        let mut world = World::new(1, 25);
        let mut sent = 0;
        for _ in 0..1_000 {
            world.say(0, 3, 2_000);
            sent += world.step().iter().map(|&(_, sends)| sends).sum::<u32>();
        }
        let all = 1_000 * (STEP_WALK_WORK / WORK_PER_SEND);
        assert!((all / 5..all / 3).contains(&sent), "{sent} sends where {all} were possible");
    }

    #[test]
    fn a_room_that_is_no_more_leaves_its_index_to_another() {
        let mut world = World::new(2, 100);
        world.say(0, 1, 5);
        world.rooms[0] = [0; CLASSES];
        world.walks.forget(0);
        world.say(0, 3, 1);
        assert_eq!(world.step(), [(0, 1)]);
        assert!(!world.walks.any_waits_or_rests());
    }

    /// Rooms of all sizes and classes from a seed. What a class is guaranteed bounds how long any
    /// room waits: all that its class had to send when its message came, and one more turn for each
    /// room of it, at the rate of half of the class's part.
    #[test]
    fn nobody_waits_longer_than_its_class_has_to_send() {
        (0..60).for_each(check_waits);
    }

    fn check_waits(seed: u64) {
        let mut random = Random(seed);
        let rooms = random.pick(&[2, 10, 100]);
        let busy = random.pick(&[1, 20, 200]);
        let large = random.pick(&[1, 40, 3_000]);
        let mut world = World::new(rooms, 100);
        // When each room's wait ends at the latest.
        let mut latest = vec![None; rooms];
        for step in 0..2_000u64 {
            for _ in 0..random.below(busy) {
                let room = random.below(rooms) as u32;
                let class = random.pick(&[0, 1, 2, 3, 3, 3, 3]);
                let sends = 1 + random.below(large) as u32;
                if world.class(room).is_some() {
                    continue;
                }
                world.say(room, class, sends);
                latest[room as usize] = Some(step + world.bound(class));
            }
            world.step();
            for (room, latest) in (0..).zip(&mut latest) {
                match world.class(room) {
                    None => *latest = None,
                    Some(class) => {
                        let latest = latest.expect("it waits");
                        assert!(step <= latest, "seed {seed}: room {room} of class {class}");
                    }
                }
            }
        }
        while world.walks.any_waits_or_rests() {
            world.step();
        }
        assert!((0..rooms as u32).all(|room| world.class(room).is_none()), "seed {seed}");
    }

    impl World {
        /// Steps in which a message of this class is at everybody, however much comes after it: in
        /// the queue of beginners one turn of each, in the other as many rounds as it has turns.
        fn bound(&self, class: usize) -> u64 {
            let per_step = u64::from(GUARANTEED_WORK[class] / PER_CLASS as u32 / WORK_PER_SEND);
            let longest = self.rooms.iter().map(|room| *room.iter().max().expect("classes"));
            let longest = u64::from(longest.max().expect("rooms"));
            let (first, long) = (FIRST_WALK_WORK / WORK_PER_SEND, LONG_WALK_WORK / WORK_PER_SEND);
            let rounds = longest.div_ceil(u64::from(long)) + 1;
            let turn = u64::from(long.max(first)) + 1;
            2 + self.rooms.len() as u64 * turn * rounds / per_step
        }
    }
}
