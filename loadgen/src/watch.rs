//! What one member of a room has seen, written down frame by frame, to be held against what was
//! published there.

use barrage_wire::{DecodeError, RawFrame, ServerFrame};

use crate::stamp::Stamp;

/// Kinds of messages that are told apart. The gateway carries them as they are.
pub mod kind {
    /// Somebody says something.
    pub const CHAT: u16 = 1;
    /// A gift is tapped once.
    pub const TAP: u16 = 2;
    /// A value of a key.
    pub const STATE: u16 = 3;
    /// The last message of a room.
    pub const END: u16 = 4;
}

/// What a room's first member has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Watch {
    /// `Message` frames, without the one that ends the room.
    pub messages: u64,
    /// `Combo` frames.
    pub combos: u64,
    /// `State` frames.
    pub states: u64,
    /// Taps that these frames carried.
    pub taps: u64,
    /// The highest number that the publisher gave to a value that has come; 0 before the first. Of
    /// several keys the last to come need not have it.
    pub last_state: u32,
    /// The room's head when this member first joined it; none as long as it has not. At 0 it has seen
    /// the room from its first message on.
    #[serde(default)]
    pub joined_head: Option<u64>,
    /// Whether the message that ends the room has come.
    pub ended: bool,
}

impl Watch {
    /// A numbered frame has come for the first time.
    pub fn see(&mut self, frame: RawFrame<'_>) -> Result<(), DecodeError> {
        match ServerFrame::decode(frame)? {
            ServerFrame::Message { kind, payload, .. } => {
                self.messages += u64::from(kind != kind::END);
                match kind {
                    kind::END => self.ended = true,
                    kind::TAP => self.taps += 1,
                    kind::STATE => self.state(payload.0),
                    // Nothing is added up of chat and of kinds that nobody here sends.
                    _ => {}
                }
            }
            ServerFrame::Combo { count, .. } => {
                self.combos += 1;
                self.taps += u64::from(count);
            }
            ServerFrame::State { payload, .. } => {
                self.states += 1;
                self.state(payload.0);
            }
            // They have no numbers.
            ServerFrame::Welcome { .. }
            | ServerFrame::Joined { .. }
            | ServerFrame::Shed { .. }
            | ServerFrame::Reset { .. }
            | ServerFrame::Reply { .. }
            | ServerFrame::Close { .. }
            | ServerFrame::Snapshot { .. }
            | ServerFrame::Past { .. }
            | ServerFrame::PastEnd { .. }
            | ServerFrame::Redirect { .. }
            | ServerFrame::Direct { .. }
            | ServerFrame::Pong { .. } => {}
        }
        Ok(())
    }

    /// Numbered frames of every kind.
    pub fn frames(&self) -> u64 {
        self.messages + self.combos + self.states + u64::from(self.ended)
    }

    fn state(&mut self, payload: &[u8]) {
        let number = Stamp::read(payload).map_or(0, |stamp| stamp.index);
        self.last_state = self.last_state.max(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::STAMP_BYTES;
    use barrage_wire::limits::SERVER_BODY_BYTES_MAX;
    use barrage_wire::{Tail, split};

    #[test]
    fn taps_and_values_are_counted_in_whichever_frame_they_come() {
        let stamp = |index| {
            let mut payload = [0; STAMP_BYTES];
            Stamp { intended_ns: 1, index, lag_us: 0 }.write(&mut payload);
            payload
        };
        let (fifth, sixth) = (stamp(5), stamp(6));
        let (alias, seq, key, category) = (1, 1, 7, 3);
        let message =
            |kind, payload| ServerFrame::Message { alias, seq, category, kind, payload }.to_vec();
        let payload = Tail(&[]);
        let (flags, sender, count, total, kind) = (0, 1, 9, 12, kind::TAP);
        #[rustfmt::skip]
        let combo = ServerFrame::Combo {
            alias, seq, category, kind, flags, sender, key, count, total, payload,
        };
        let (kind, payload) = (kind::STATE, Tail(&sixth));
        let state = ServerFrame::State { alias, seq, category, kind, key, payload };
        let mut watch = Watch::default();
        for frame in [
            message(kind::CHAT, Tail(&fifth)),
            message(kind::TAP, Tail(&fifth)),
            combo.to_vec(),
            message(kind::STATE, Tail(&fifth)),
            state.to_vec(),
            // The value of another key, published before and kept back for longer.
            message(kind::STATE, Tail(&fifth)),
            message(kind::END, Tail(&[])),
        ] {
            let frame = split(&mut &frame[..], SERVER_BODY_BYTES_MAX).unwrap().unwrap();
            watch.see(frame).unwrap();
        }
        let (messages, taps, last_state, joined_head) = (4, 10, 6, None);
        let (combos, states, ended) = (1, 1, true);
        let expected = Watch { messages, combos, states, taps, last_state, joined_head, ended };
        assert_eq!((watch, watch.frames()), (expected, 7));
    }
}
