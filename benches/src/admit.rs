//! Bodies of the `admit` benchmarks: one publish through a room alone, by what the policy makes of
//! it. Time is an argument of a room, so it goes as slowly as each case wants.

use barrage_router::{Admission, Frame, Millis, Policy, Publish, Room};

use crate::micro::room_of;

/// Members of the room: enough for limits, and few enough to join quickly.
pub const MEMBERS: u32 = 2_000;
/// Runs of gifts that go on at the same time.
pub const RUNS: u64 = 1_000;
/// Keys that have values.
pub const KEYS: u64 = 64;

/// Categories of the built-in policy.
const GIFT_LARGE: u16 = 1;
const GIFT_SMALL: u16 = 3;
const CHAT: u16 = 4;
const STATE: u16 = 6;

/// A room that is published to. Each body says how many frames went out.
#[derive(Debug)]
pub struct Admit {
    room: Room,
    policy: Policy,
    payload: Vec<u8>,
    publishes: u64,
    out: Vec<Frame>,
}

impl Admit {
    /// A room with so many members, and payloads of so many bytes.
    pub fn new(members: u32, payload_bytes: usize) -> Self {
        let policy = Policy::builtin();
        let room = room_of(&policy, 1, members);
        let payload = vec![0xa5; payload_bytes];
        Self { room, policy, payload, publishes: 0, out: Vec::new() }
    }

    /// Chat at 333 a second, which is under the limit of 400.
    pub fn chat_under_limit(&mut self) -> usize {
        self.publish(CHAT, 0, 0, 3_000)
    }

    /// Chat at 10,000 a second: 24 of 25 are refused.
    pub fn chat_over_limit(&mut self) -> usize {
        self.publish(CHAT, 0, 0, 100)
    }

    /// One of `RUNS` members taps a gift, six times a second each: one run each that goes on.
    pub fn combo(&mut self) -> usize {
        self.publish(GIFT_SMALL, 1 + self.publishes % RUNS, 1, 1_000_000 / 6 / RUNS)
    }

    /// One of `KEYS` values changes, ten times a second each.
    pub fn state(&mut self) -> usize {
        self.publish(STATE, 0, 1 + self.publishes % KEYS, 1_000_000 / 10 / KEYS)
    }

    /// A large gift, which nothing limits or merges.
    pub fn never_drop(&mut self) -> usize {
        self.publish(GIFT_LARGE, 1, 0, 1_000)
    }

    /// One publish, so many microseconds after the one before. What is due goes out with it.
    fn publish(&mut self, category: u16, sender: u64, key: u64, apart_us: u64) -> usize {
        self.publishes += 1;
        let now = Millis(self.publishes * apart_us / 1_000);
        let category = self.policy.category(category).expect("the built-in policy has it");
        let payload = &self.payload;
        let message = Publish { category, kind: 0, payload, sender, key, count: 1 };
        self.out.clear();
        let admission = self.room.publish(now, &self.policy, message, &mut self.out);
        let carried = matches!(admission, Admission::Admitted { .. });
        assert!(!carried || !self.out.is_empty(), "what is admitted goes out");
        self.out.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frames that so many publishes make.
    fn frames(members: u32, publishes: u64, body: fn(&mut Admit) -> usize) -> usize {
        let mut admit = Admit::new(members, 16);
        (0..publishes).map(|_| body(&mut admit)).sum()
    }

    #[test]
    fn what_is_under_a_limit_goes_out_and_what_is_over_it_mostly_does_not() {
        assert_eq!(frames(MEMBERS, 3_000, Admit::chat_under_limit), 3_000);
        // One second: the burst of 400, and 400 more.
        assert_eq!(frames(MEMBERS, 10_000, Admit::chat_over_limit), 800);
        assert_eq!(frames(10, 10_000, Admit::chat_over_limit), 10_000, "small rooms have no limit");
        assert_eq!(frames(MEMBERS, 1_000, Admit::never_drop), 1_000);
    }

    #[test]
    fn repeats_are_merged() {
        // Four seconds: each run begins with a frame, and has one a second after it.
        let combos = frames(10, 24_000, Admit::combo);
        assert!((3_000..=5_000).contains(&combos), "{combos}");
        // Each value goes out at once, and then every two seconds.
        let states = frames(10, 2_560, Admit::state);
        assert!((KEYS as usize * 2..=KEYS as usize * 3).contains(&states), "{states}");
    }
}
