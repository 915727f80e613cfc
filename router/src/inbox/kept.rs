//! One message of an inbox and its frame.

use barrage_wire::server::{DIRECT_ACK, DIRECT_REPEAT};
use barrage_wire::{FRAME_HEADER_BYTES, ServerFrame, Tail};
use bytes::Bytes;

use super::{InboxMessage, InboxOutput, InboxPush};
use crate::class::Class;
use crate::ids::Millis;

/// Where the flags are in an encoded `Direct`, behind `inbox_seq`, `category` and `kind`.
const FLAGS_AT: usize = FRAME_HEADER_BYTES + size_of::<u64>() + 2 * size_of::<u16>();
/// Where its payload begins.
const PAYLOAD_AT: usize = FLAGS_AT + 1;

/// A message and its frame, encoded once for the first send to every device.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) seq: u64,
    pub(super) expires: Millis,
    pub(super) frame: Bytes,
    category: u16,
    kind: u16,
    class: Class,
}

impl Kept {
    pub(super) fn new(message: &InboxMessage) -> Self {
        let InboxMessage { seq, category, class, kind, ref payload, expires } = *message;
        Self::encode(seq, expires, InboxPush { category, class, kind, payload, ttl_ms: 0 })
    }

    pub(super) fn encode(seq: u64, expires: Millis, push: InboxPush<'_>) -> Self {
        let InboxPush { category, class, kind, payload, ttl_ms: _ } = push;
        let mut frame = Vec::with_capacity(PAYLOAD_AT + payload.len());
        let (flags, payload) = (DIRECT_ACK, Tail(payload));
        ServerFrame::Direct { inbox_seq: seq, category, kind, flags, payload }.encode(&mut frame);
        Self { seq, expires, frame: frame.into(), category, kind, class }
    }

    pub(super) fn record(&self) -> InboxMessage {
        let Self { seq, expires, ref frame, category, kind, class } = *self;
        InboxMessage { seq, category, class, kind, payload: frame.slice(PAYLOAD_AT..), expires }
    }

    pub(super) fn send<A>(&self, to: A, repeat: bool) -> InboxOutput<A> {
        let frame = if repeat { self.repeat() } else { self.frame.clone() };
        InboxOutput::Send { to, seq: self.seq, class: self.class, repeat, frame }
    }

    fn repeat(&self) -> Bytes {
        let mut frame = self.frame.to_vec();
        frame[FLAGS_AT] |= DIRECT_REPEAT;
        frame.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_wire::split;

    #[test]
    fn frames_say_what_was_pushed_and_whether_it_is_a_repeat() {
        for length in [0, 1, 300] {
            let payload = vec![0xff; length];
            let (category, class, kind, ttl_ms) = (0xffff, Class::P1, 0xffff, 0);
            let push = InboxPush { category, class, kind, payload: &payload, ttl_ms };
            let kept = Kept::encode(7, Millis(9), push);
            for (repeat, flags) in [(false, DIRECT_ACK), (true, DIRECT_ACK | DIRECT_REPEAT)] {
                let InboxOutput::Send { frame, .. } = kept.send((), repeat) else { panic!() };
                let payload = Tail(&payload);
                let direct = ServerFrame::Direct { inbox_seq: 7, category, kind, flags, payload };
                let mut rest = &frame[..];
                let raw = split(&mut rest, PAYLOAD_AT + length).unwrap().unwrap();
                assert_eq!((ServerFrame::decode(raw), rest), (Ok(direct), &[][..]));
            }
            let expires = Millis(9);
            let message =
                InboxMessage { seq: 7, category, class, kind, payload: payload.into(), expires };
            assert_eq!(kept.record(), message);
            assert_eq!(Kept::new(&message).frame, kept.frame);
        }
    }
}
