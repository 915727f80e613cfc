//! Whoever ticks a room only when it says that it is due sees the same as whoever ticks it all the
//! time.

use barrage_router::{
    Alias, AppId, HistoryLimits, Millis, Policy, Publish, Room, RoomId, RoomKey, ShardIndex,
};

use crate::random::Random;
use crate::rules::{IDS, rules};

const SEEDS: u64 = 40;
/// How much happens to each room.
const EVENTS: u64 = 150;
const PAUSE_MS_MAX: u64 = 400;
/// Long enough for everything that waits.
const END_MS: u64 = 30_000;

/// Everything that a room said and answered, with the moments.
fn story(seed: u64, always: bool) -> Vec<String> {
    let (mut random, mut now, mut members) = (Random(seed), 0, 0u64);
    let key = RoomKey { app: AppId(1), room: RoomId(2) };
    let history = HistoryLimits { frames_max: 10, bytes_max: 1_000 };
    let mut room = Room::new(key, Alias(3), 4, history);
    let mut policy = rules(&mut random);
    let mut story = Vec::new();
    for _ in 0..EVENTS {
        let next = now + random.below(PAUSE_MS_MAX);
        pass(&mut room, &policy, now..next + 1, always, &mut story);
        now = next;
        match random.below(10) {
            0 => {
                room.join(Millis(now), &policy, ShardIndex(0), None);
                members += 1;
            }
            1 if members > 0 => {
                room.leave(Millis(now), &policy, ShardIndex(0));
                members -= 1;
            }
            2 if random.below(5) == 0 => {
                policy = rules(&mut random);
                tick(&mut room, now, &policy, &mut story);
            }
            _ => publish(&mut room, now, &policy, &mut random, &mut story),
        }
    }
    pass(&mut room, &policy, now..now + END_MS, always, &mut story);
    assert_eq!(room.due(), None, "nothing waits for ever");
    story
}

/// Lets time pass.
fn pass(
    room: &mut Room,
    policy: &Policy,
    moments: std::ops::Range<u64>,
    always: bool,
    story: &mut Vec<String>,
) {
    for now in moments {
        if always || room.due().is_some_and(|due| due.0 <= now) {
            tick(room, now, policy, story);
        }
    }
}

fn tick(room: &mut Room, now: u64, policy: &Policy, story: &mut Vec<String>) {
    let (mut out, level) = (Vec::new(), room.level());
    room.tick(Millis(now), policy, &mut out);
    assert!(room.due().is_none_or(|due| due.0 > now), "everything due is done");
    story.extend(out.iter().map(|frame| format!("{now} {frame:?}")));
    if room.level() != level {
        story.push(format!("{now} {:?}", room.level()));
    }
}

fn publish(
    room: &mut Room,
    now: u64,
    policy: &Policy,
    random: &mut Random,
    story: &mut Vec<String>,
) {
    let id = random.pick(&IDS);
    let (sender, key, count) = (random.below(3), random.below(3), random.below(5) as u32);
    let payload = &[random.below(256) as u8; 2][..random.below(3) as usize];
    if let Some(category) = policy.category(id) {
        let mut out = Vec::new();
        let message = Publish { category, kind: 0, payload, sender, key, count };
        let answer = room.publish(Millis(now), policy, message, &mut out);
        story.extend(out.iter().map(|frame| format!("{now} {frame:?}")));
        story.push(format!("{now} {answer:?}"));
    }
}

fn check(seed: u64) {
    let _name_the_seed = crate::OnPanic(seed);
    let (always, when_due) = (story(seed, true), story(seed, false));
    let differs = always.iter().zip(&when_due).find(|(always, due)| always != due);
    assert_eq!(differs, None, "seed {seed}");
    assert_eq!(always.len(), when_due.len(), "seed {seed}");
}

#[test]
fn who_ticks_when_due_misses_nothing() {
    crate::seeds(SEEDS).for_each(check);
}

/// It was counted by the rules of whenever somebody looked.
#[test]
fn a_quiet_time_is_counted_by_the_rules_of_the_last_crossing() {
    check(104);
}
