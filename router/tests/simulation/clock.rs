//! A clock that stands still, steps back and jumps to the end of time: no count and no last value
//! is lost for it.

use std::collections::BTreeMap;

use barrage_router::{
    Admission, Aggregation, Alias, AppId, Frame, HistoryLimits, Millis, Policy, Publish, Room,
    RoomId, RoomKey, ShardIndex,
};
use barrage_wire::ServerFrame;

use crate::OnPanic;
use crate::model::decode;
use crate::random::Random;
use crate::rules::{IDS, rules};

const SEEDS: u64 = 400;
const EVENTS: u64 = 100;

/// Sums of counts by gift, and latest values by key.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    counts: BTreeMap<(u16, u64, u64), u64>,
    values: BTreeMap<(u16, u64), Vec<u8>>,
}

impl Sums {
    fn add(&mut self, category: u16, sender: u64, key: u64, count: u32) {
        *self.counts.entry((category, sender, key)).or_default() += u64::from(count);
    }

    fn said(&mut self, frames: &[Frame]) {
        for frame in frames {
            match decode(&frame.bytes) {
                ServerFrame::Combo { category, sender, key, count, .. } => {
                    self.add(category, sender, key, count);
                }
                ServerFrame::State { category, key, payload, .. } => {
                    self.values.insert((category, key), payload.0.to_vec());
                }
                ServerFrame::Message { .. } => {}
                other => panic!("a room does not say {other:?}"),
            }
        }
    }
}

fn run(seed: u64) {
    let _name_the_seed = OnPanic(seed);
    let mut random = Random(seed);
    let key = RoomKey { app: AppId(1), room: RoomId(2) };
    let history = HistoryLimits { frames_max: 10, bytes_max: 1_000 };
    let mut room = Room::new(key, Alias(3), 4, history);
    let mut policy = rules(&mut random);
    let (mut asked, mut said, mut now) = (Sums::default(), Sums::default(), 1_000u64);
    let (mut out, mut head) = (Vec::new(), 0);
    for _ in 0..EVENTS {
        let ms = random.below(1_000);
        now = match random.below(20) {
            0 => random.pick(&[0, u64::MAX, u64::MAX - ms, ms, u64::MAX / 1_000_000]),
            1..5 => now,
            5..10 => now.saturating_sub(ms),
            _ => now.saturating_add(ms),
        };
        match random.below(12) {
            0 => drop(room.join(Millis(now), &policy, ShardIndex(0), None)),
            1 if room.members() > 0 => room.leave(Millis(now), &policy, ShardIndex(0)),
            2 => room.tick(Millis(now), &policy, &mut out),
            3 if random.below(5) == 0 => policy = rules(&mut random),
            _ => publish(&mut room, Millis(now), &mut random, &policy, &mut out, &mut asked),
        }
        said.said(&out);
        head += out.drain(..).len() as u64;
        assert_eq!(room.head(), head);
    }
    room.close(Millis(now), &policy, &mut out);
    said.said(&out);
    assert_eq!(said, asked);
    out.clear();
    room.tick(Millis(u64::MAX), &policy, &mut out);
    assert_eq!((out, room.due()), (Vec::new(), None), "nothing is left to say");
}

fn publish(
    room: &mut Room,
    now: Millis,
    random: &mut Random,
    policy: &Policy,
    out: &mut Vec<Frame>,
    asked: &mut Sums,
) {
    let (id, sender, key) = (random.pick(&IDS), random.below(2), random.below(3));
    let count = random.pick(&[0, 1, 2, u32::MAX]);
    let payload = &[random.below(256) as u8; 2][..random.below(3) as usize];
    let Some(category) = policy.category(id) else { return };
    let message = Publish { category, kind: 0, payload, sender, key, count };
    let answer = room.publish(now, policy, message, out);
    let Some(id) = message.merge_id().filter(|_| !matches!(answer, Admission::Limited { .. }))
    else {
        return;
    };
    match category.aggregation {
        Aggregation::Combo => {
            asked.add(id.category, id.sender, id.key, count.max(1));
        }
        Aggregation::Latest | Aggregation::None => {
            asked.values.insert((id.category, id.key), payload.to_vec());
        }
    }
}

#[test]
fn a_wild_clock_loses_nothing() {
    crate::seeds(SEEDS).for_each(run);
}
