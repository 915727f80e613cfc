//! Flow control of one room: limits, what is merged, and how its level falls.

use barrage_wire::limits::PAYLOAD_BYTES_MAX;
use barrage_wire::server::STATE_OVERHEAD_BYTES;

use crate::agenda::{Agenda, Item, Turn};
use crate::category::Aggregation;
use crate::combo::{COMBOS_MAX, Combos};
use crate::frame::MergeId;
use crate::ids::Millis;
use crate::level::Descent;
use crate::room::{Admission, Publish};
use crate::states::{STATE_KEYS_MAX, States};
use crate::writer::Label;

/// Payload bytes that a room holds at most for what it merges: each run's latest tap, each key's
/// value, and the snapshot of them.
pub const FLOW_BYTES_MAX: usize = COMBOS_MAX * PAYLOAD_BYTES_MAX
    + STATE_KEYS_MAX * (PAYLOAD_BYTES_MAX + STATE_OVERHEAD_BYTES + PAYLOAD_BYTES_MAX);

/// Everything that a room only has while something is limited or merged in it, or its level might
/// fall.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub descent: Descent,
    pub agenda: Agenda,
    pub states: States,
    combos: Combos,
}

impl Flow {
    /// Admits a message, merges it with others, or refuses it.
    pub fn publish(&mut self, message: &Publish<'_>, turn: &mut Turn<'_>) -> Admission {
        let Publish { category, kind, payload, .. } = *message;
        match (category.aggregation, message.merge_id()) {
            (Aggregation::Combo, Some(id)) => self.tap(id, message, turn),
            (Aggregation::Latest, Some(id)) => self.put(id, message, turn),
            (_, None) | (Aggregation::None, Some(_)) => {
                self.advance(turn);
                let rate = category.limit(turn.level);
                match self.agenda.admit(category.id, rate, turn.now) {
                    Ok(()) => {
                        let seq = turn.writer.message(Label::from(category), kind, payload);
                        Admission::Admitted { seq }
                    }
                    Err(retry_after_ms) => Admission::Limited { retry_after_ms },
                }
            }
        }
    }

    /// Sends what is due.
    pub fn advance(&mut self, turn: &mut Turn<'_>) {
        while self.agenda.due().is_some_and(|due| due <= turn.now) {
            self.send_due(turn);
        }
    }

    /// Sends everything that waits, and ends every run.
    pub fn close(&mut self, turn: &mut Turn<'_>) {
        self.states.close(&mut self.agenda, turn);
        self.combos.close(&mut self.agenda, turn);
    }

    /// When `advance` has something to do, or the level may fall.
    pub fn due(&self) -> Option<Millis> {
        self.agenda.due().into_iter().chain(self.descent.due()).min()
    }

    /// Whether something is still to go out.
    pub fn is_pending(&self) -> bool {
        !self.combos.is_empty() || self.states.is_pending()
    }

    /// Whether forgetting it changes nothing.
    pub fn is_forgettable(&self, now: Millis) -> bool {
        self.combos.is_empty()
            && self.states.is_empty()
            && self.descent.is_forgettable(now)
            && self.agenda.is_at_rest(now)
    }

    fn send_due(&mut self, turn: &mut Turn<'_>) {
        while let Some((at, item)) = self.agenda.first_due(turn.now) {
            match item {
                Item::Run(id) => self.combos.fires(id, &mut self.agenda, turn),
                Item::State(id) => self.states.fires(at, id, &mut self.agenda),
            }
        }
        for lane in 0..self.agenda.lanes() {
            while let Some(item) = self.agenda.first_to_pass(lane, turn) {
                match item {
                    Item::Run(id) => self.combos.passes(id, &mut self.agenda, turn),
                    Item::State(id) => {
                        self.states.send(id, &mut self.agenda, turn);
                    }
                }
            }
        }
    }

    /// A tap joins its run before what is due is sent, so that a frame of that run which goes out
    /// in this turn carries it.
    fn tap(&mut self, id: MergeId, message: &Publish<'_>, turn: &mut Turn<'_>) -> Admission {
        let added = self.combos.add(id, message, &mut self.agenda, turn);
        self.advance(turn);
        match (added, self.combos.carried(id)) {
            (true, Some(seq)) => Admission::Admitted { seq },
            (true, None) => Admission::Merged,
            (false, _) => self.combos.begin(id, message, &mut self.agenda, turn),
        }
    }

    fn put(&mut self, id: MergeId, message: &Publish<'_>, turn: &mut Turn<'_>) -> Admission {
        if !self.states.contains(id) {
            // A key that is gone by now makes room for this one.
            self.advance(turn);
        }
        let answer = self.states.put(id, message, &mut self.agenda, turn);
        self.advance(turn);
        answer.unwrap_or_else(|| match self.states.carried(id) {
            Some(seq) => Admission::Admitted { seq },
            None => Admission::Merged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Class;
    use crate::frame::Frame;
    use crate::history::HistoryLimits;
    use crate::ids::{Alias, AppId, RoomId, RoomKey, ShardIndex};
    use crate::policy::Policy;
    use crate::rate::Rate;
    use crate::room::{CatchUp, Cursor, Room};
    use crate::states::STATE_KEYS_RETRY_MS;
    use crate::{Category, Level};
    use barrage_wire::ServerFrame;
    use barrage_wire::limits::SERVER_BODY_BYTES_MAX;
    use barrage_wire::server::COMBO_FINAL;

    const CHAT: u16 = 4;
    const GIFT: u16 = 3;
    const STATE: u16 = 6;

    /// Rules with one limit for every level and category. Combos: gap 2,000, every 1,000; states:
    /// every 2,000.
    fn rules(per_second: u32) -> Policy {
        let mut policy = Policy::builtin();
        for id in [CHAT, GIFT, STATE] {
            let limits = [Rate { per_second, burst: 1 }; Level::ALL.len()];
            let category = Category { limits, ..*policy.category(id).unwrap() };
            policy.insert("limited", category);
        }
        policy
    }

    struct Script {
        room: Room,
        rules: Policy,
        /// What was said and answered, in order.
        seen: Vec<String>,
    }

    impl Script {
        fn new(rules: Policy) -> Self {
            let key = RoomKey { app: AppId(1), room: RoomId(2) };
            let history = HistoryLimits { frames_max: 1_000, bytes_max: 1_000_000 };
            Self { room: Room::new(key, Alias(3), 5, history), rules, seen: Vec::new() }
        }

        /// Lets time pass, ticking when the room says.
        fn until(&mut self, end: u64) {
            while let Some(due) = self.room.due().filter(|due| due.0 <= end) {
                let mut out = Vec::new();
                self.room.tick(due, &self.rules, &mut out);
                assert!(self.room.due() > Some(due) || self.room.due().is_none(), "it is done");
                self.saw(due.0, &out);
            }
        }

        fn publish(&mut self, now: u64, id: u16, who: (u64, u64), count: u32, payload: &[u8]) {
            self.until(now);
            let (mut out, (sender, key)) = (Vec::new(), who);
            let category = *self.rules.category(id).unwrap();
            let message = Publish { category: &category, kind: 9, payload, sender, key, count };
            let answer = self.room.publish(Millis(now), &self.rules, message, &mut out);
            self.saw(now, &out);
            match answer {
                Admission::Admitted { seq } => {
                    assert!(out.iter().any(|frame| frame.seq == seq), "it is one of those");
                }
                Admission::Merged => self.seen.push("~".to_owned()),
                Admission::Limited { retry_after_ms } => {
                    self.seen.push(format!("-{retry_after_ms}"))
                }
            }
        }

        fn close(&mut self, now: u64) {
            let mut out = Vec::new();
            self.room.close(Millis(now), &self.rules, &mut out);
            self.saw(now, &out);
        }

        fn saw(&mut self, now: u64, frames: &[Frame]) {
            self.seen.extend(frames.iter().map(|frame| format!("{now}:{}", said(&frame.bytes))));
        }

        fn seen(&mut self) -> String {
            std::mem::take(&mut self.seen).join(" ")
        }
    }

    /// A frame in short: `m` for a message, `sender.key+count=total` for a combo, `!` if final,
    /// `key=value` for a state.
    fn said(mut bytes: &[u8]) -> String {
        let raw = barrage_wire::split(&mut bytes, SERVER_BODY_BYTES_MAX).unwrap().unwrap();
        match ServerFrame::decode(raw).unwrap() {
            ServerFrame::Message { .. } => "m".to_owned(),
            ServerFrame::Combo { sender, key, count, total, flags, .. } => {
                let end = if flags & COMBO_FINAL != 0 { "!" } else { "" };
                format!("{sender}.{key}+{count}={total}{end}")
            }
            ServerFrame::State { key, payload, .. }
            | ServerFrame::Snapshot { key, payload, .. } => {
                format!("{key}={}", String::from_utf8_lossy(payload.0))
            }
            other => panic!("a room does not say {other:?}"),
        }
    }

    /// Taps of one gift by one sender.
    fn check_combo(per_second: u32, taps: &[(u64, u32)], expected: &str) {
        let mut script = Script::new(rules(per_second));
        for &(now, count) in taps {
            script.publish(now, GIFT, (7, 1), count, b"rose");
        }
        script.until(99_000);
        assert_eq!(script.seen(), expected, "{taps:?} at {per_second}/s");
    }

    #[test]
    fn a_single_tap_is_one_frame() {
        check_combo(0, &[(0, 1)], "0:7.1+1=1");
        check_combo(0, &[(0, 0)], "0:7.1+1=1");
        check_combo(0, &[(0, 5), (2_000, 3)], "0:7.1+5=5 2000:7.1+3=3");
    }

    #[test]
    fn taps_of_a_run_are_added_up() {
        let slow = &[(0, 1), (100, 1), (200, 3), (1_500, 1)];
        check_combo(0, slow, "0:7.1+1=1 ~ ~ 1000:7.1+4=5 ~ 2000:7.1+1=6 3500:7.1+0=6!");
        check_combo(0, &[(0, 1), (1_999, 1)], "0:7.1+1=1 1999:7.1+1=2 3999:7.1+0=2!");
        check_combo(0, &[(0, 1), (1_000, 2)], "0:7.1+1=1 1000:7.1+2=3 3000:7.1+0=3!");
    }

    #[test]
    fn counts_that_do_not_fit_one_frame_take_two() {
        let expected = "0:7.1+4294967295=4294967295 ~ 2:7.1+4294967295=8589934590 \
                        2:7.1+1=8589934591 2002:7.1+0=8589934591!";
        check_combo(0, &[(0, u32::MAX), (1, u32::MAX), (2, 1)], expected);
    }

    #[test]
    fn parts_of_a_run_wait_for_the_limit_and_the_final_one_does_not() {
        let mut script = Script::new(rules(1));
        script.publish(0, GIFT, (7, 1), 1, b"");
        script.publish(500, GIFT, (8, 1), 1, b"");
        script.publish(1_000, GIFT, (8, 1), 1, b"");
        script.publish(1_500, GIFT, (7, 1), 1, b"");
        script.publish(2_500, GIFT, (8, 1), 1, b"");
        script.until(99_000);
        let expected = "0:7.1+1=1 -500 1000:8.1+1=1 ~ 2000:7.1+1=2 ~ 3000:8.1+1=2 3500:7.1+0=2! \
                        4500:8.1+0=2!";
        assert_eq!(script.seen(), expected);
    }

    #[test]
    fn nothing_is_held_for_longer_than_the_hold() {
        const SENDERS: u64 = 8;
        let mut script = Script::new(rules(0));
        for now in (0..60_000).step_by(500) {
            (0..SENDERS).for_each(|sender| script.publish(now, GIFT, (sender, 1), 1, b""));
            // All have begun, and now there is room for one a second.
            script.rules = rules(1);
        }
        script.until(99_000);
        for sender in 0..SENDERS {
            let of = format!(":{sender}.1+");
            let frames = script.seen.iter().filter_map(|seen| Some(seen.split_once(&of)?.0));
            let moments: Vec<u64> = frames.map(|moment| moment.parse().unwrap()).collect();
            let longest = moments.windows(2).map(|pair| pair[1] - pair[0]).max();
            assert_eq!(longest, Some(1_000 + crate::COMBO_HOLD_MAX_MS), "{moments:?}");
        }
        let last = format!("={}!", 60_000 / 500);
        let ends = script.seen.iter().filter(|seen| seen.ends_with(&last)).count();
        assert_eq!(ends as u64, SENDERS, "every run ends with its total");
    }

    #[test]
    fn a_flood_of_final_frames_does_not_silence_a_category_for_long() {
        let mut script = Script::new(rules(0));
        for _ in 0..2 {
            (0..100).for_each(|sender| script.publish(0, GIFT, (sender, 1), 1, b""));
        }
        script.rules = rules(1);
        script.until(2_000);
        script.seen.clear();
        script.publish(2_000, GIFT, (7, 1), 1, b"");
        script.publish(2_000, GIFT, (7, 0), 1, b"");
        assert_eq!(script.seen(), "-6000 -6000");
        script.publish(8_000, GIFT, (7, 1), 1, b"");
        assert_eq!(script.seen(), "8000:7.1+1=1");
    }

    #[test]
    fn without_a_key_a_gift_is_a_message_under_the_limit() {
        let mut script = Script::new(rules(1));
        [0, 1, 1_000].into_iter().for_each(|now| script.publish(now, GIFT, (7, 0), 1, b""));
        assert_eq!(script.seen(), "0:m -999 1000:m");
    }

    #[test]
    fn one_more_run_than_there_may_be_is_refused() {
        let mut script = Script::new(rules(0));
        (0..COMBOS_MAX as u64).for_each(|sender| script.publish(0, GIFT, (sender, 1), 1, b""));
        script.seen.clear();
        script.publish(1, GIFT, (u64::MAX, 1), 1, b"");
        script.publish(2, GIFT, (0, 1), 1, b"");
        assert_eq!(script.seen(), "-2000 ~");
        script.until(2_000);
        script.publish(2_001, GIFT, (u64::MAX, 1), 1, b"");
        assert!(script.seen().ends_with(" 2001:18446744073709551615.1+1=1"));
    }

    /// Values of one key.
    fn check_state(per_second: u32, values: &[(u64, &str)], expected: &str) {
        let mut script = Script::new(rules(per_second));
        for &(now, value) in values {
            script.publish(now, STATE, (7, 1), 0, value.as_bytes());
        }
        script.until(99_000);
        assert_eq!(script.seen(), expected, "{values:?} at {per_second}/s");
    }

    #[test]
    fn the_last_value_always_goes_out() {
        check_state(0, &[(0, "a")], "0:1=a");
        check_state(0, &[(0, "a"), (1, "b"), (2, "c")], "0:1=a ~ ~ 2000:1=c");
        check_state(0, &[(0, "a"), (2_000, "b"), (3_999, "c")], "0:1=a 2000:1=b ~ 4000:1=c");
        check_state(1, &[(0, "a"), (1, "b"), (9_000, "c")], "0:1=a ~ 2000:1=b 9000:1=c");
    }

    #[test]
    fn a_state_waits_for_the_limit_and_is_never_refused() {
        let mut script = Script::new(rules(1));
        (1..=3).for_each(|key| script.publish(0, STATE, (0, key), 0, b"a"));
        script.publish(10, STATE, (0, 2), 0, b"b");
        script.until(99_000);
        assert_eq!(script.seen(), "0:1=a ~ ~ ~ 1000:2=b 2000:3=a");
    }

    #[test]
    fn an_empty_value_is_sent_and_forgotten_and_no_way_around_the_pace() {
        check_state(0, &[(0, "a"), (1, ""), (2, "b")], "0:1=a ~ ~ 2000:1=b");
        check_state(0, &[(0, ""), (1, "b")], "0:1= ~ 2000:1=b");
        let mut script = Script::new(rules(0));
        script.publish(0, STATE, (0, 1), 0, b"a");
        script.publish(2_000, STATE, (0, 1), 0, b"");
        assert_eq!(script.room.snapshot(), Vec::<bytes::Bytes>::new());
        script.until(4_000);
        assert!(script.room.flow_is_forgotten(), "nothing is left of it");
    }

    /// The simulation's seed 2: what became of it was asked when it was forgotten already.
    #[test]
    fn a_removal_that_goes_out_at_once_is_admitted() {
        let mut rules = rules(0);
        rules.merge.state_every_ms = 0;
        let mut script = Script::new(rules);
        let values = ["a", "", "", "b"].into_iter();
        values.for_each(|value| script.publish(0, STATE, (0, 1), 0, value.as_bytes()));
        assert_eq!(script.seen(), "0:1=a 0:1= 0:1= 0:1=b");
    }

    #[test]
    fn one_more_key_than_there_may_be_is_refused() {
        let mut script = Script::new(rules(0));
        (0..STATE_KEYS_MAX as u64).for_each(|key| script.publish(0, STATE, (0, key), 0, b"a"));
        script.seen.clear();
        script.publish(1, STATE, (0, 1_000), 0, b"a");
        script.publish(1, STATE, (0, 0), 0, b"");
        assert_eq!(script.seen(), format!("-{STATE_KEYS_RETRY_MS} ~"));
        script.publish(4_000, STATE, (0, 1_000), 0, b"a");
        assert_eq!(script.seen(), "2000:0= 4000:1000=a");
    }

    #[test]
    fn whoever_joins_gets_the_latest_values() {
        let mut script = Script::new(rules(0));
        script.publish(0, STATE, (0, 1), 0, b"a");
        script.publish(1, STATE, (0, 2), 0, b"b");
        script.publish(2, STATE, (0, 1), 0, b"waits");
        let (now, rules) = (Millis(3), &script.rules);
        let mut join = |cursor: Option<(u64, u64)>| {
            let cursor = cursor.map(|(epoch, seq)| Cursor { epoch, seq });
            script.room.join(now, rules, ShardIndex(0), cursor)
        };
        let (first, second) = (join(None), join(None));
        let values: Vec<String> = first.snapshot.iter().map(|bytes| said(bytes)).collect();
        assert_eq!(values, ["1=waits", "2=b"]);
        assert_eq!(first.snapshot[0].as_ptr(), second.snapshot[0].as_ptr(), "encoded once");
        assert_eq!(join(Some((4, 2))).snapshot, first.snapshot, "a reset begins anew");
        assert_eq!(
            join(Some((5, 2))).snapshot,
            first.snapshot,
            "it may have gone before it got it"
        );
        let behind = join(Some((5, 1)));
        assert!(matches!(behind.catch_up, CatchUp::Missed(_)));
        assert_eq!(behind.snapshot, first.snapshot);
    }

    #[test]
    fn closing_sends_what_waits() {
        let mut script = Script::new(rules(0));
        script.publish(0, GIFT, (7, 1), 1, b"");
        script.publish(0, GIFT, (7, 2), 1, b"");
        script.publish(1, GIFT, (7, 1), 2, b"");
        assert!(!script.room.is_idle(Millis(u64::MAX)), "a count is to go out");
        script.publish(1, STATE, (0, 1), 0, b"a");
        script.publish(1, STATE, (0, 1), 0, b"b");
        script.seen.clear();
        script.close(2);
        assert_eq!(script.seen(), "2:1=b 2:7.1+2=3!");
        assert_eq!(script.room.due(), None);
        script.publish(3, STATE, (0, 1), 0, b"c");
        assert!(!script.room.is_idle(Millis(u64::MAX)), "a value is to go out");
        script.until(99_000);
        assert!(script.room.is_idle(Millis(u64::MAX)));
    }

    #[test]
    fn what_is_never_dropped_is_neither_limited_nor_held() {
        let mut policy = rules(1);
        for id in [CHAT, GIFT, STATE] {
            let category = Category { never_drop: true, ..*policy.category(id).unwrap() };
            policy.insert("kept", category);
        }
        let mut script = Script::new(policy);
        for now in [0, 1] {
            script.publish(now, CHAT, (7, 0), 1, b"");
            script.publish(now, GIFT, (7, 1), 1, b"");
            script.publish(now, STATE, (7, 1), 1, b"a");
        }
        assert_eq!(script.seen(), "0:m 0:7.1+1=1 0:1=a 1:m 1:7.1+1=2 1:1=a");
    }

    #[test]
    fn what_waits_goes_out_as_it_was_when_its_category_is_gone() {
        let mut script = Script::new(rules(1));
        script.publish(0, GIFT, (7, 1), 1, b"");
        script.publish(0, STATE, (7, 1), 0, b"a");
        script.publish(1, GIFT, (7, 1), 1, b"");
        script.publish(1, STATE, (7, 1), 0, b"b");
        script.seen.clear();
        script.rules = Policy::builtin().without_categories();
        let mut out = Vec::new();
        script.room.tick(Millis(99_000), &script.rules, &mut out);
        assert!(out.iter().all(|frame| frame.class >= Class::P2 && !frame.never_drop));
        script.saw(99_000, &out);
        assert_eq!(script.seen(), "99000:7.1+1=2! 99000:1=b");
    }

    #[test]
    fn a_clock_at_its_end_or_stepping_back_loses_nothing() {
        let mut script = Script::new(rules(1));
        for (now, value) in [(u64::MAX, b"a"), (5, b"b"), (u64::MAX - 1, b"c"), (0, b"d")] {
            let mut out = Vec::new();
            script.room.tick(Millis(now), &script.rules, &mut out);
            script.saw(now, &out);
            for id in [GIFT, STATE] {
                let category = *script.rules.category(id).unwrap();
                let message = Publish {
                    category: &category,
                    kind: 9,
                    payload: value,
                    sender: 7,
                    key: 1,
                    count: 1,
                };
                out.clear();
                let _ = script.room.publish(Millis(now), &script.rules, message, &mut out);
                script.saw(now, &out);
            }
        }
        script.seen.clear();
        script.close(0);
        assert!(script.seen().contains("1=d"));
    }
}
