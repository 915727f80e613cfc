//! The receiver's rule of PROTOCOL.md, word by word.

use super::client::{Room, Said};

/// What a client knows of a room, and what it has got and been told of.
#[derive(Clone, Debug)]
pub struct Receiver {
    alias: u32,
    n: u64,
    end: u64,
    left: u64,
    /// Sequence numbers of the messages, in order.
    pub seqs: Vec<u64>,
    /// Left out, per class.
    pub shed: [u64; 4],
    /// How many times something was left out.
    pub declared: usize,
}

impl Receiver {
    pub fn new(room: &Room) -> Self {
        let (alias, n) = (room.alias, room.head);
        Self { alias, n, end: n, left: 0, seqs: Vec::new(), shed: [0; 4], declared: 0 }
    }

    /// Everything up to here is here or was declared; `None` in the middle of a range.
    pub fn knows_up_to(&self) -> Option<u64> {
        (self.left == 0).then_some(self.n)
    }

    /// Takes the room's next frame; panics when the gateway has broken the rule.
    pub fn hear(&mut self, said: &Said) {
        match said {
            Said::Shed { alias, first, last, counts } if *alias == self.alias => {
                assert_eq!(self.left, 0, "a range begins inside another: {said:?}");
                assert_eq!(*first, self.n + 1, "a range does not begin where we are: {said:?}");
                assert!(last >= first, "a range ends before it begins: {said:?}");
                let out: u64 = counts.iter().map(|&count| u64::from(count)).sum();
                assert!(out > 0, "nothing is left out: {said:?}");
                self.end = *last;
                self.left = (self.end - self.n).checked_sub(out).expect("no more than there are");
                if self.left == 0 {
                    self.n = self.end;
                }
                for (sum, &count) in self.shed.iter_mut().zip(counts) {
                    *sum += u64::from(count);
                }
                self.declared += 1;
            }
            Said::Message { alias, seq, .. }
            | Said::Combo { alias, seq, .. }
            | Said::State { alias, seq, .. }
                if *alias == self.alias =>
            {
                let seq = *seq;
                if self.left > 0 {
                    assert!(self.n < seq && seq <= self.end, "{seq} is outside of the range");
                    (self.n, self.left) = (seq, self.left - 1);
                    if self.left == 0 {
                        self.n = self.end;
                    }
                } else {
                    assert_eq!(seq, self.n + 1, "a gap that was not declared");
                    self.n = seq;
                }
                self.seqs.push(seq);
            }
            Said::Reset { alias, .. } if *alias == self.alias => {
                panic!("a member is not reset while it reads: {said:?}")
            }
            _ => {}
        }
    }
}
