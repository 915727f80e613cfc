//! Which message reached whom, and why the others did not. Pure: frames in, counts out.
//!
//! A receiver expects the sequence of a room without a gap. A gap is explained by a SHED that
//! named it before, by a RESET, or by the end of the connection, or it is not explained.
//!
//! Whoever has joined a room once is supposed to be a member until the end of the run. So every
//! message that the room admits after that is accounted for exactly once at each such receiver:
//! as delivered, as declared (by a SHED or a RESET), as missed while there was no connection, or
//! as unexplained. What an epoch that nobody knows any more had left is not known to a receiver:
//! its numbers end where the receiver was.

#[cfg(test)]
mod model;

use std::collections::HashMap;

/// Numbers behind the newest of which it is known which have come.
const WINDOW: u64 = u64::BITS as u64;
/// A window without a gap.
const WHOLE: u64 = u64::MAX;
/// Different epochs that are told apart. Whoever is in another one begins anew after a reconnect.
const EPOCHS_MAX: usize = 4 << 20;

/// No room has a number above this one. A higher one that the target says counts as this, so that
/// nothing here comes near the end of what can be counted.
pub const SEQ_MAX: u64 = 1 << 48;

/// What became of messages, over all receivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Arrived.
    pub delivered: u64,
    /// Left out, and the receiver was told.
    pub declared_shed: u64,
    /// Left out by a RESET.
    pub declared_reset: u64,
    /// Missed by receivers who had no connection.
    pub disconnected: u64,
    /// Missing without a word.
    pub unexplained: u64,
    /// Arrived again.
    pub duplicate: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Declared as left out by a SHED, and yet not missing.
    pub over_declared: u64,
    /// RESETs: the gateway could not go on where the receiver was.
    pub resets: u64,
    /// For a room that the receiver is not a member of.
    pub stray: u64,
}

impl Tally {
    /// Messages whose fate is known. What is missed is counted by the target's word, so that sums of
    /// it may come to their end.
    pub fn accounted(&self) -> u64 {
        let Self { declared_shed, declared_reset, disconnected, unexplained, .. } = *self;
        let missed = [declared_shed, declared_reset, disconnected, unexplained];
        missed.into_iter().fold(self.delivered, u64::saturating_add)
    }
}

/// The epochs that were seen, so that a membership needs four bytes for its own. Number 0 is none.
#[derive(Debug, Default)]
pub struct Epochs {
    seen: Vec<u64>,
    numbers: HashMap<u64, u32>,
}

impl Epochs {
    /// The number of an epoch; 0 when it is none, or one too many.
    pub fn number(&mut self, epoch: u64) -> u32 {
        if let Some(&number) = self.numbers.get(&epoch) {
            return number;
        }
        if epoch == 0 || self.seen.len() >= EPOCHS_MAX {
            return 0;
        }
        self.seen.push(epoch);
        let number = self.seen.len() as u32;
        self.numbers.insert(epoch, number);
        number
    }

    /// The epoch of a number; 0 for none.
    pub fn of(&self, number: u32) -> u64 {
        (number as usize).checked_sub(1).and_then(|at| self.seen.get(at)).copied().unwrap_or(0)
    }

    /// Bytes that all this takes.
    pub fn bytes(&self) -> usize {
        self.seen.capacity() * size_of::<u64>()
            + self.numbers.capacity() * (size_of::<(u64, u32)>() + 1)
    }
}

/// One receiver's place in one room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Membership {
    /// The sequence number that must come next; 0: never joined.
    next: u64,
    /// Which of the numbers before `next` need not be waited for: they have come, or are declared.
    /// The lowest bit is the newest.
    window: u64,
    /// The end of the range of the last SHED.
    shed_last: u64,
    /// How many of that range are still to be left out.
    shed_left: u32,
    /// Unexplained ones that are older than the window, and may turn out to be late.
    missing: u32,
    /// The room's name on this connection; 0: not joined on it.
    alias: u32,
    /// The number of the epoch that `next` counts in.
    epoch: u32,
}

const _: () = assert!(size_of::<Membership>() <= 40, "a million clients hold one or two each");

impl Membership {
    /// The only JOINED, where epochs do not matter: messages after `head` follow.
    pub fn join(&mut self, alias: u32, head: u64) {
        self.join_in(alias, 0, head);
    }

    /// The first JOINED: messages after `head` of that epoch follow.
    pub fn join_in(&mut self, alias: u32, epoch: u32, head: u64) {
        let next = head.min(SEQ_MAX) + 1;
        *self = Self { next, window: WHOLE, alias, epoch, ..Self::default() };
    }

    /// JOINED on a later connection, which asked to go on from where this is. If the epoch is
    /// another one, a RESET follows that says more.
    pub fn go_on(&mut self, alias: u32) {
        self.alias = alias;
    }

    /// JOINED on a later connection, which asked for nothing: what was said meanwhile is missed.
    pub fn begin_anew(&mut self, alias: u32, epoch: u32, head: u64, tally: &mut Tally) {
        let missed = self.jump(epoch, head);
        tally.disconnected = tally.disconnected.saturating_add(missed);
        self.alias = alias;
    }

    /// The connection has ended. What is left of a SHED's range is said anew after a reconnect.
    pub fn leave(&mut self) {
        (self.alias, self.shed_last, self.shed_left) = (0, 0, 0);
    }

    /// Whether JOINED has come on this connection.
    pub fn joined(&self) -> bool {
        self.alias != 0
    }

    /// Whether JOINED has ever come.
    pub fn known(&self) -> bool {
        self.next > 0
    }

    /// Whether frames with this alias are about it.
    #[inline]
    pub fn is(&self, alias: u32) -> bool {
        self.alias == alias && alias != 0
    }

    /// The room's name on this connection; 0: not joined.
    #[inline]
    pub fn alias(&self) -> u32 {
        self.alias
    }

    /// The number of the epoch it is in.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The last sequence number whose fate is known.
    pub fn reached(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// MESSAGE: says whether it is one that had not come before. A number that is too high is none.
    #[inline]
    pub fn message(&mut self, seq: u64, tally: &mut Tally) -> bool {
        if seq == self.next && self.window == WHOLE && self.shed_left == 0 {
            self.next += 1;
            tally.delivered += 1;
            return true;
        }
        self.message_off_the_path(seq, tally)
    }

    #[cold]
    fn message_off_the_path(&mut self, seq: u64, tally: &mut Tally) -> bool {
        if seq > SEQ_MAX {
            return false;
        }
        if seq >= self.next {
            self.skip_to(seq, tally);
            self.push(1, true);
            tally.delivered += 1;
            self.settle(tally);
            return true;
        }
        let behind = self.next - 1 - seq;
        let awaited = if behind < WINDOW {
            let bit = 1 << behind;
            let awaited = self.window & bit == 0;
            self.window |= bit;
            awaited
        } else {
            // Which of the older ones are missing is not kept: if any is, this may be it.
            let awaited = self.missing > 0;
            self.missing -= u32::from(awaited);
            awaited
        };
        if !awaited {
            tally.duplicate += 1;
            return false;
        }
        tally.unexplained = tally.unexplained.saturating_sub(1);
        tally.delivered += 1;
        tally.reordered += 1;
        true
    }

    /// SHED: `count` of `first..=last` are left out, the others follow in order.
    pub fn shed(&mut self, first: u64, last: u64, count: u64, tally: &mut Tally) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let last = last.min(SEQ_MAX);
        if last < self.next || last < first {
            over_declare(count, tally);
            return;
        }
        // A range that goes on where the one before it ends may be announced before what is kept of
        // that one has come.
        if first > self.next.max(self.shed_last + 1) {
            self.skip_to(first, tally);
        }
        if self.shed_last < self.next {
            over_declare(std::mem::take(&mut self.shed_left), tally);
        }
        self.shed_last = self.shed_last.max(last);
        self.shed_left = self.shed_left.saturating_add(count);
        self.settle(tally);
    }

    /// RESET, where epochs do not matter.
    pub fn reset(&mut self, head: u64, tally: &mut Tally) {
        self.reset_in(self.epoch, head, tally);
    }

    /// RESET: messages after `head` of that epoch follow; what is before it will not come, and this
    /// says so. All of a new epoch was said while the receiver was to be a member.
    pub fn reset_in(&mut self, epoch: u32, head: u64, tally: &mut Tally) {
        tally.resets += 1;
        let left_out = self.jump(epoch, head);
        tally.declared_reset = tally.declared_reset.saturating_add(left_out);
    }

    /// Goes on behind `head` of an epoch, never back in the same one. Says how many numbers of that
    /// epoch are left out.
    fn jump(&mut self, epoch: u32, head: u64) -> u64 {
        (self.shed_last, self.shed_left) = (0, 0);
        if epoch != self.epoch {
            self.join_in(self.alias, epoch, head);
            return head.min(SEQ_MAX);
        }
        let gap = (head.min(SEQ_MAX) + 1).saturating_sub(self.next);
        self.push(gap, true);
        gap
    }

    /// Nothing more will come; `last` is the last message that was admitted, in that epoch.
    pub fn finish_in(&mut self, epoch: u32, last: u64, connected: bool, tally: &mut Tally) {
        if self.known() && epoch != self.epoch {
            self.join_in(self.alias, epoch, 0);
        }
        self.finish(last, connected, tally);
    }

    /// Nothing more will come; `last` is the last message that was admitted, in the epoch in which
    /// this is.
    pub fn finish(&mut self, last: u64, connected: bool, tally: &mut Tally) {
        if !self.known() {
            return;
        }
        let last = last.min(SEQ_MAX);
        if self.next <= last {
            let before = tally.unexplained;
            self.skip_to(last + 1, tally);
            if !connected {
                let missed = tally.unexplained - before;
                tally.disconnected = tally.disconnected.saturating_add(missed);
                tally.unexplained = before;
            }
        }
        if self.shed_last < self.next {
            over_declare(std::mem::take(&mut self.shed_left), tally);
        }
    }

    /// Gives up what is before `seq`: as far as a SHED goes it was declared.
    fn skip_to(&mut self, seq: u64, tally: &mut Tally) {
        let gap = seq - self.next;
        let named = seq.min(self.shed_last + 1).saturating_sub(self.next);
        let shed = named.min(u64::from(self.shed_left));
        self.shed_left -= shed as u32;
        self.push(shed, true);
        self.push(gap - shed, false);
        tally.declared_shed = tally.declared_shed.saturating_add(shed);
        tally.unexplained = tally.unexplained.saturating_add(gap - shed);
    }

    /// Moves on by so many numbers, which are settled or missing.
    fn push(&mut self, count: u64, settled: bool) {
        let moved = count.min(WINDOW) as u32;
        let leaving = moved - self.window.checked_shr(64 - moved).unwrap_or(0).count_ones();
        self.window = self.window.checked_shl(moved).unwrap_or(0);
        let unseen = if settled {
            self.window |= WHOLE.checked_shr(64 - moved).unwrap_or(0);
            0
        } else {
            count - u64::from(moved)
        };
        let missing = u64::from(self.missing) + u64::from(leaving) + unseen;
        self.missing = u32::try_from(missing).unwrap_or(u32::MAX);
        self.next += count;
    }

    /// When all that remains of a SHED's range is left out, nothing of it needs to be waited for.
    fn settle(&mut self, tally: &mut Tally) {
        let left = u64::from(self.shed_left);
        let behind = self.shed_last + 1;
        if left > 0 && behind == self.next + left {
            self.skip_to(behind, tally);
        }
    }
}

fn over_declare(count: u32, tally: &mut Tally) {
    tally.over_declared = tally.over_declared.saturating_add(count.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Seen {
        Message(u64),
        Shed(u64, u64, u64),
        Reset(u64),
        Gone,
    }
    use Seen::{Gone, Message as M, Reset, Shed};

    /// What a receiver that joined at head 10 has seen, when 10 messages (11 to 20) were admitted.
    fn check(seen: &[Seen], expected: &str) {
        let mut tally = Tally::default();
        let mut membership = Membership::default();
        membership.join_in(7, 1, 10);
        let mut connected = true;
        for seen in seen {
            match *seen {
                M(seq) => {
                    membership.message(seq, &mut tally);
                }
                Shed(first, last, count) => membership.shed(first, last, count, &mut tally),
                Reset(head) => membership.reset_in(1, head, &mut tally),
                Gone => connected = false,
            }
        }
        membership.finish_in(1, 20, connected, &mut tally);
        let Tally { delivered, declared_shed, disconnected, unexplained, .. } = tally;
        let mut text = format!("{delivered} got");
        for (count, name) in [
            (declared_shed, "shed"),
            (tally.declared_reset, "skipped"),
            (disconnected, "gone"),
            (unexplained, "unexplained"),
            (tally.duplicate, "twice"),
            (tally.reordered, "late"),
            (tally.over_declared, "too many declared"),
            (tally.resets, "reset"),
        ] {
            if count > 0 {
                text += &format!(", {count} {name}");
            }
        }
        assert_eq!(text, expected);
        assert_eq!(tally.accounted(), 10, "every admitted message is accounted for once");
    }

    fn run(range: std::ops::RangeInclusive<u64>) -> Vec<Seen> {
        range.map(M).collect()
    }

    fn then(mut first: Vec<Seen>, second: impl IntoIterator<Item = Seen>) -> Vec<Seen> {
        first.extend(second);
        first
    }

    #[test]
    fn a_whole_sequence_is_delivered() {
        check(&run(11..=20), "10 got");
    }

    #[test]
    fn a_gap_is_unexplained_wherever_it_is() {
        check(&then(run(11..=13), run(16..=20)), "8 got, 2 unexplained");
        check(&run(13..=20), "8 got, 2 unexplained");
        check(&run(11..=18), "8 got, 2 unexplained");
        check(&[], "0 got, 10 unexplained");
    }

    #[test]
    fn a_declared_gap_is_shed() {
        let after = then(vec![Shed(12, 15, 4)], run(16..=20));
        check(&then(run(11..=11), after), "6 got, 4 shed");
        let last = then(run(11..=15), [Shed(16, 20, 5)]);
        check(&last, "5 got, 5 shed");
    }

    #[test]
    fn what_is_kept_of_a_declared_range_follows_in_order() {
        let kept = [Shed(11, 20, 7), M(13), M(14), M(20)];
        check(&kept, "3 got, 7 shed");
        let ends_early = [Shed(11, 15, 4), M(13), M(16), M(17), M(18), M(19), M(20)];
        check(&ends_early, "6 got, 4 shed");
    }

    #[test]
    fn a_declaration_explains_no_more_than_it_says() {
        check(
            &[Shed(11, 15, 2), M(16), M(17), M(18), M(19), M(20)],
            "5 got, 2 shed, 3 unexplained",
        );
        check(&then(vec![Shed(13, 14, 2)], run(15..=20)), "6 got, 2 shed, 2 unexplained");
    }

    #[test]
    fn a_declaration_of_too_many_is_noticed() {
        // When 12 must be the one that is left out, nobody waits for it; that it comes is a fault.
        check(&then(vec![Shed(11, 12, 1)], run(11..=20)), "9 got, 1 shed, 1 twice");
        check(&then(run(11..=20), [Shed(11, 12, 2)]), "10 got, 2 too many declared");
    }

    #[test]
    fn two_declarations_in_a_row_add_up() {
        let both = [Shed(11, 14, 3), Shed(15, 18, 4), M(14), M(19), M(20)];
        check(&both, "3 got, 7 shed");
        let in_order = [Shed(11, 14, 3), M(14), Shed(15, 18, 4), M(19), M(20)];
        check(&in_order, "3 got, 7 shed");
    }

    #[test]
    fn duplicates_and_late_ones_are_told_apart() {
        check(&then(run(11..=20), run(19..=20)), "10 got, 2 twice");
        let late = then(run(11..=12), [M(14), M(13)]);
        check(&then(late, run(15..=20)), "10 got, 1 late");
    }

    #[test]
    fn who_has_gone_misses_the_rest() {
        check(&then(run(11..=14), [Gone]), "4 got, 6 gone");
        check(&then(run(11..=14), [M(16), Gone]), "5 got, 4 gone, 1 unexplained");
        check(&[Shed(11, 14, 2), Gone], "0 got, 2 shed, 8 gone");
    }

    #[test]
    fn a_reset_declares_what_it_skips() {
        let reset = then(run(11..=12), [Reset(15)]);
        check(&then(reset, run(16..=20)), "7 got, 3 skipped, 1 reset");
    }

    #[test]
    fn numbers_near_their_end_are_taken_or_left_and_break_nothing() {
        for head in [SEQ_MAX, u64::MAX - 1, u64::MAX] {
            let mut tally = Tally::default();
            let mut place = Membership::default();
            place.join_in(7, 1, 10);
            assert!(place.message(11, &mut tally) && !place.message(u64::MAX, &mut tally));
            assert_eq!(tally.accounted(), 1, "a number that is too high is none");
            place.shed(head - 1, head, u64::MAX, &mut tally);
            place.reset_in(1, head, &mut tally);
            place.reset_in(2, head, &mut tally);
            place.shed(head, head, 1, &mut tally);
            place.begin_anew(7, 3, head, &mut tally);
            place.message(head, &mut tally);
            place.finish_in(4, head, true, &mut tally);
            place.finish_in(5, head, false, &mut tally);
            assert!(tally.accounted() >= SEQ_MAX);
        }
    }

    #[test]
    fn late_ones_are_told_from_duplicates_one_by_one() {
        // 12 is missing; that 11 comes twice does not make up for it.
        let mixed = [M(11), M(13), M(11), M(12), M(12)];
        check(&then(mixed.into(), run(14..=20)), "10 got, 2 twice, 1 late");
        let twice = [M(11), M(13), M(11), M(13)];
        check(&then(twice.into(), run(14..=20)), "9 got, 1 unexplained, 2 twice");
    }
}
