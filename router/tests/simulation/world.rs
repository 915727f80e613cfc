//! Shards that are homes of rooms and doors for members, and the mail between them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU16;

use barrage_router::{
    Admission, Alias, AppId, CatchUp, Cursor, HistoryLimits, Millis, Policy, Publish, ROOM_IDLE_MS,
    Room, RoomId, RoomKey, ShardIndex, home_of_room,
};

use crate::client::{Member, State};
use crate::mail::{Ask, Queues, Tell};
use crate::model::Model;
use crate::report::Report;

/// What members and clocks do in a run, before everything is delivered.
const STEPS: u32 = 250;
const SHARDS_MAX: u64 = 4;
const ROOMS_MAX: u64 = 3;
const MEMBERS_MAX: u64 = 12;

/// SplitMix64: small, and the same everywhere for ever.
struct Random(u64);

impl Random {
    /// Under `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

pub struct World {
    random: Random,
    now: u64,
    policy: Policy,
    shards: usize,
    /// The real rooms, and which shard is home to each.
    rooms: Vec<Option<Room>>,
    homes: Vec<usize>,
    models: Vec<Model>,
    members: Vec<Member>,
    /// From shards to homes.
    asks: Queues<Ask>,
    /// From homes to shards.
    tells: Queues<Tell>,
    /// Of 100 steps, how many deliver mail: few make long delays and full queues.
    delivery_percent: u64,
    trace: DefaultHasher,
    report: Report,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let shards = 1 + random.below(SHARDS_MAX) as u16;
        let rooms = 1 + random.below(ROOMS_MAX) as usize;
        let members = 1 + random.below(MEMBERS_MAX);
        let of_shards = NonZeroU16::new(shards).expect("at least one");
        let shards = usize::from(shards);
        let home = |room| usize::from(home_of_room(key(room), of_shards).0);
        let mut model = |room| {
            let limits = HistoryLimits {
                frames_max: random.pick(&[0, 1, 4, 16, 100, 100]),
                bytes_max: random.pick(&[0, 100, 500, 2_000, 100_000, 100_000]),
            };
            Model::new(room as u32 + 1, limits, shards)
        };
        Self {
            now: 0,
            policy: Policy::builtin(),
            shards,
            rooms: (0..rooms).map(|_| None).collect(),
            homes: (0..rooms).map(home).collect(),
            models: (0..rooms).map(&mut model).collect(),
            members: (0..members)
                .map(|_| Member::new(random.below(rooms as u64) as usize))
                .collect(),
            asks: Queues::new(shards),
            tells: Queues::new(shards),
            delivery_percent: random.pick(&[35, 50, 70, 90]),
            trace: DefaultHasher::new(),
            report: Report::default(),
            random,
        }
    }

    pub fn run(mut self) -> Report {
        for _ in 0..STEPS {
            if self.random.below(100) < self.delivery_percent {
                self.deliver();
            } else {
                self.act();
            }
        }
        while self.deliver() {}
        self.check_end();
        // Everybody who is away comes back: what they missed is what the others saw.
        for member in 0..self.members.len() {
            if self.members[member].state == State::Away {
                self.join(member);
                while self.deliver() {}
            }
        }
        self.check_end();
        self.report.trace = self.trace.finish();
        self.report
    }

    /// Something happens that is not mail.
    fn act(&mut self) {
        let member = self.random.below(self.members.len() as u64) as usize;
        match self.random.below(100) {
            0..45 => self.publish(member),
            45..95 if self.members[member].state == State::Away => self.join(member),
            // A disconnect is the same leave: the client keeps its cursor either way.
            45..65 => self.leave(member),
            65..95 => self.now += self.random.below(1_000),
            _ => {
                self.now += self.random.below(2 * ROOM_IDLE_MS);
                self.forget_idle();
            }
        }
    }

    /// Asks the home unless the queue is full; then the step is lost and may be tried again.
    fn ask(&mut self, shard: usize, room: usize, ask: Ask) -> bool {
        let home = self.homes[room];
        if self.asks.is_full(shard, home) {
            self.report.full += 1;
            return false;
        }
        self.asks.push(shard, home, room, ask);
        true
    }

    fn publish(&mut self, member: usize) {
        let ask = Ask::Publish {
            category: self.random.below(self.policy.categories().count() as u64) as u16,
            kind: self.random.below(1 << 16) as u16,
            payload: vec![0; self.random.below(100) as usize],
        };
        let (shard, room) = (self.members[member].shard, self.members[member].room);
        self.ask(shard, room, ask);
    }

    fn join(&mut self, index: usize) {
        let shard = self.random.below(self.shards as u64) as usize;
        let (room, visit) = (self.members[index].room, self.members[index].visit + 1);
        let cursor = self.twist(room, self.members[index].cursor);
        let ask = Ask::Join { member: index, visit, cursor };
        if self.ask(shard, room, ask) {
            let member = &mut self.members[index];
            member.state = State::Joining;
            (member.shard, member.visit, member.cursor) = (shard, visit, cursor);
        }
    }

    /// Mostly the cursor as it is, and now and then one that a broken client might send.
    fn twist(&mut self, room: usize, cursor: Option<Cursor>) -> Option<Cursor> {
        match self.random.below(10) {
            0 => None,
            1 => Some(Cursor {
                epoch: 1 + self.random.below(self.models[room].epoch() + 1),
                seq: self.random.pick(&[u64::MAX, self.models[room].head() + 1, 0]),
            }),
            2 => Some(Cursor {
                epoch: self.models[room].epoch().max(1),
                seq: self.random.below(self.models[room].head() + 2),
            }),
            _ => cursor,
        }
    }

    fn leave(&mut self, member: usize) {
        let (shard, room) = (self.members[member].shard, self.members[member].room);
        if self.ask(shard, room, Ask::Leave) {
            self.members[member].state = State::Away;
        }
    }

    fn forget_idle(&mut self) {
        for (place, model) in self.rooms.iter_mut().zip(&mut self.models) {
            if let Some(room) = place {
                assert_eq!(room.is_idle(Millis(self.now)), model.is_idle(self.now));
                if room.is_idle(Millis(self.now)) {
                    *place = None;
                    model.forget();
                    self.report.forgotten += 1;
                }
            }
        }
    }

    /// Delivers the front of some queue, and says whether there was any mail.
    fn deliver(&mut self) -> bool {
        let pairs = self.shards * self.shards;
        let start = self.random.below(2 * pairs as u64) as usize;
        (start..start + 2 * pairs).any(|place| {
            let (from, to) = (place % pairs / self.shards, place % self.shards);
            match place / pairs {
                0 | 2 => self.answer(from, to),
                _ => self.hear(from, to),
            }
        })
    }

    /// A home takes an ask, if all that follows from it fits the queues.
    fn answer(&mut self, shard: usize, home: usize) -> bool {
        let full = |to: usize| self.tells.is_full(home, to);
        let blocked = match self.asks.front(shard, home) {
            Some((_, Ask::Join { .. })) => full(shard),
            Some((room, Ask::Publish { .. })) => {
                self.models[*room].shards().any(|to| full(usize::from(to)))
            }
            Some((_, Ask::Leave)) | None => false,
        };
        if blocked {
            self.report.full += 1;
            return false;
        }
        let ask = self.asks.pop(shard, home);
        ask.map(|(room, ask)| self.handle(room, shard, ask)).is_some()
    }

    /// The home's work: the real room and the model are asked the same.
    fn handle(&mut self, index: usize, shard: usize, ask: Ask) {
        let (now, from) = (Millis(self.now), ShardIndex(shard as u16));
        let (model, home) = (&mut self.models[index], self.homes[index]);
        model.touch(self.now);
        let room = self.rooms[index].get_or_insert_with(|| {
            Room::new(key(index), Alias(model.alias), model.epoch(), model.limits)
        });
        match ask {
            Ask::Join { member, visit, cursor } => {
                let joined = room.join(now, from, cursor);
                model.join(shard);
                model.check_joined(cursor, &joined);
                format!("{joined:?}").hash(&mut self.trace);
                let tell = Tell::Joined { member, visit, joined };
                self.tells.push(home, shard, index, tell);
            }
            Ask::Leave => {
                room.leave(now, from);
                model.leave(shard);
            }
            Ask::Publish { category, kind, payload } => {
                let category = self.policy.category(category).expect("a built-in category");
                let payload = &payload[..];
                let message = Publish { category, kind, payload };
                let Admission::Admitted(frame) = room.publish(now, message) else {
                    panic!("nothing is limited yet");
                };
                model.publish(category, kind, payload);
                assert_eq!(frame.seq, model.head(), "numbers have no gaps");
                assert_eq!(frame.bytes, model.frame(model.epoch(), frame.seq));
                assert_eq!(frame.class, category.class);
                assert_eq!(frame.never_drop, category.never_drop);
                (frame.seq, &frame.bytes[..]).hash(&mut self.trace);
                let epoch = room.epoch();
                for to in room.shards() {
                    let frame = frame.clone();
                    let tell = Tell::Frame { epoch, frame };
                    self.tells.push(home, usize::from(to.0), index, tell);
                }
            }
        }
        assert_eq!(room.members(), model.members());
        assert!(room.shards().map(|to| to.0).eq(model.shards()), "whom to mail");
        let oldest = room.history().oldest().unwrap_or(room.head() + 1);
        assert_eq!(oldest, model.oldest());
    }

    /// A shard takes a tell and passes it to its members.
    fn hear(&mut self, home: usize, shard: usize) -> bool {
        let Some((room, tell)) = self.tells.pop(home, shard) else {
            return false;
        };
        let model = &self.models[room];
        match tell {
            Tell::Joined { member, visit, joined } => {
                let member = &mut self.members[member];
                if member.state != State::Joining || member.visit != visit {
                    self.report.gone_before_joined += 1;
                    return true;
                }
                assert_eq!((member.room, member.shard), (room, shard));
                member.joined(model, &joined);
                match joined.catch_up {
                    CatchUp::Live => self.report.live += 1,
                    CatchUp::Missed(_) => self.report.missed += 1,
                    CatchUp::Reset { .. } => self.report.reset += 1,
                }
            }
            Tell::Frame { epoch, frame } => {
                let place = (room, shard, State::Here);
                for member in &mut self.members {
                    if (member.room, member.shard, member.state) == place {
                        member.receive(model, epoch, &frame);
                        self.report.frames += 1;
                    }
                }
            }
        }
        true
    }

    /// With all mail delivered, everybody has everything, and homes count who is there.
    fn check_end(&self) {
        for (index, model) in self.models.iter().enumerate() {
            let is_here = |member: &&Member| member.room == index && member.state == State::Here;
            let here: Vec<&Member> = self.members.iter().filter(is_here).collect();
            let (epoch, seq) = (model.epoch(), model.head());
            for member in &here {
                assert_eq!(member.cursor, Some(Cursor { epoch, seq }), "all are at the head");
            }
            let room = self.rooms[index].as_ref();
            assert_eq!(room.map_or(0, Room::members), here.len() as u32);
            let mut shards: Vec<u16> = here.iter().map(|member| member.shard as u16).collect();
            shards.sort_unstable();
            shards.dedup();
            let counted = room.into_iter().flat_map(Room::shards).map(|shard| shard.0);
            assert!(counted.eq(shards), "homes know where members are");
        }
        let joining = |member: &Member| member.state == State::Joining;
        assert!(!self.members.iter().any(joining), "everybody was answered");
    }
}

fn key(room: usize) -> RoomKey {
    RoomKey { app: AppId(1), room: RoomId(room as u64) }
}
