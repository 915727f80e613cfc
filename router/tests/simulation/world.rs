//! Shards that are homes of rooms and doors for members, and the mail between them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU16;

use barrage_router::{
    Admission, Alias, AppId, CatchUp, Cursor, Frame, HistoryLimits, Millis, Policy, Publish,
    ROOM_IDLE_MS, Room, RoomId, RoomKey, ShardIndex, home_of_room,
};

use crate::client::{Member, State};
use crate::mail::{Ask, Queues, Tell};
use crate::model::Model;
use crate::random::Random;
use crate::report::Report;
use crate::rules::{IDS, rules};

/// What members and clocks do in a run, before everything is delivered.
const STEPS: u32 = 250;
const SHARDS_MAX: u64 = 4;
const ROOMS_MAX: u64 = 3;
const MEMBERS_MAX: u64 = 12;

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
        let policy = rules(&mut random);
        let mut model = |room| {
            let limits = HistoryLimits {
                frames_max: random.pick(&[0, 1, 4, 16, 100, 100]),
                bytes_max: random.pick(&[0, 100, 500, 2_000, 100_000, 100_000]),
            };
            Model::new(room as u32 + 1, limits, shards)
        };
        Self {
            now: 0,
            policy,
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
        self.settle();
        self.check_end();
        // Everybody who is away comes back: what they missed is what the others saw.
        for member in 0..self.members.len() {
            if self.members[member].state == State::Away {
                self.join(member);
                while self.deliver() {}
            }
        }
        self.settle();
        self.check_end();
        self.report.trace = self.trace.finish();
        self.report
    }

    /// Something happens that is not mail.
    fn act(&mut self) {
        let member = self.random.below(self.members.len() as u64) as usize;
        let room = self.random.below(self.rooms.len() as u64) as usize;
        match self.random.below(200) {
            0..90 => self.publish(member),
            90..140 if self.members[member].state == State::Away => self.join(member),
            // A disconnect is the same leave: the client keeps its cursor either way.
            90..110 => self.leave(member),
            110..140 => self.now += self.random.below(100),
            140..155 => self.now += self.random.below(1_500),
            155..187 => self.tick(room),
            187..190 => {
                self.policy = rules(&mut self.random);
                (0..self.rooms.len()).for_each(|room| self.tick(room));
            }
            190..194 => self.close(room),
            194..198 => self.restart(room),
            _ => {
                self.now += self.random.below(2 * ROOM_IDLE_MS);
                self.forget_idle();
            }
        }
    }

    /// Everything is delivered, and everything that waits for its moment has it.
    fn settle(&mut self) {
        loop {
            while self.deliver() {}
            let dues = self.rooms.iter().flatten().filter_map(Room::due);
            let Some(due) = dues.min() else { return };
            self.now = self.now.max(due.0);
            (0..self.rooms.len()).for_each(|room| self.tick(room));
        }
    }

    fn tick(&mut self, index: usize) {
        let Some(room) = &mut self.rooms[index] else { return };
        let (now, model, mut out) = (Millis(self.now), &mut self.models[index], Vec::new());
        room.tick(now, &self.policy, &mut out);
        assert!(room.due().is_none_or(|due| due > now), "everything due is done");
        model.observe_level(self.now, &self.policy, room, true);
        model.frames(self.now, &self.policy, &out, false);
        model.check_ticked(self.now, &self.policy);
        self.report.ticked += u64::from(!out.is_empty());
        self.say(index, out);
    }

    /// What waits goes out at once.
    fn close(&mut self, index: usize) {
        let Some(room) = &mut self.rooms[index] else { return };
        let (model, mut out) = (&mut self.models[index], Vec::new());
        room.close(Millis(self.now), &self.policy, &mut out);
        model.frames(self.now, &self.policy, &out, true);
        model.merges.close();
        self.report.closed += u64::from(!out.is_empty());
        self.say(index, out);
    }

    /// The home of a room without members ends, and another goes on with its numbers.
    fn restart(&mut self, index: usize) {
        if self.rooms[index].as_ref().is_some_and(|room| room.members() == 0) {
            self.close(index);
            let model = &mut self.models[index];
            let (alias, epoch, head) = (Alias(model.alias), model.epoch(), model.head());
            let room = Room::resume(key(index), alias, epoch, head, model.limits);
            self.rooms[index] = Some(room);
            model.resume();
            self.report.resumed += 1;
        }
    }

    /// Mails frames to the shards with members. What was given a number is not held back: what a
    /// tick sends may make a queue longer than it should be.
    fn say(&mut self, index: usize, out: Vec<Frame>) {
        let (home, room) = (self.homes[index], self.rooms[index].as_ref());
        let room = room.expect("only a room that is there says something");
        let epoch = room.epoch();
        for frame in out {
            (frame.seq, &frame.bytes[..]).hash(&mut self.trace);
            self.report.merged += u64::from(frame.merged.is_some());
            for to in room.shards() {
                let frame = frame.clone();
                self.tells.push(home, usize::from(to.0), index, Tell::Frame { epoch, frame });
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
        let payload_bytes = self.random.pick(&[0, 1, 10, 100]);
        let ask = Ask::Publish {
            category: self.random.pick(&IDS),
            kind: self.random.below(3) as u16,
            payload: vec![self.random.below(256) as u8; payload_bytes],
            sender: self.random.below(2),
            key: self.random.pick(&[0, 1, 1, 2]),
            count: self.random.pick(&[0, 1, 1, 1, 3, u32::MAX]),
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
            member.lies |= cursor.is_some() && cursor != member.cursor;
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
        for index in 0..self.rooms.len() {
            self.tick(index);
            let (place, model) = (&mut self.rooms[index], &mut self.models[index]);
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
        let (model, policy, home) = (&mut self.models[index], &self.policy, self.homes[index]);
        model.wake();
        let room = self.rooms[index].get_or_insert_with(|| {
            Room::new(key(index), Alias(model.alias), model.epoch(), model.limits)
        });
        let (level, mut out) = (room.level(), Vec::new());
        match ask {
            Ask::Join { member, visit, cursor } => {
                let joined = room.join(now, policy, from, cursor);
                model.join(shard);
                model.touch(self.now);
                model.observe_level(self.now, policy, room, false);
                model.check_joined(cursor, &joined);
                format!("{joined:?}").hash(&mut self.trace);
                self.report.snapshots += joined.snapshot.len() as u64;
                let tell = Tell::Joined { member, visit, joined };
                self.tells.push(home, shard, index, tell);
            }
            Ask::Leave => {
                room.leave(now, policy, from);
                model.leave(shard);
                model.touch(self.now);
                model.observe_level(self.now, policy, room, false);
            }
            Ask::Publish { category, kind, payload, sender, key, count } => {
                // Without its category the message goes no further than the home.
                let Some(&category) = policy.category(category) else { return };
                let payload = &payload[..];
                let message = Publish { category: &category, kind, payload, sender, key, count };
                let admission = room.publish(now, policy, message, &mut out);
                model.observe_level(self.now, policy, room, false);
                model.published(self.now, policy, &message, admission, &out);
                match admission {
                    Admission::Admitted { .. } => self.report.admitted += 1,
                    Admission::Merged => self.report.waited += 1,
                    Admission::Limited { .. } => self.report.limited += 1,
                }
                format!("{admission:?}").hash(&mut self.trace);
            }
        }
        assert_eq!(room.members(), model.members());
        assert!(room.shards().map(|to| to.0).eq(model.shards()), "whom to mail");
        let oldest = room.history().oldest().unwrap_or(room.head() + 1);
        assert_eq!((room.head(), oldest), (model.head(), model.oldest()));
        self.report.levels += u64::from(room.level() < level);
        self.say(index, out);
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
                member.check_values(model);
            }
            assert!(model.merges.has_said_all(), "nothing is left unsaid");
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
