//! Messages of the history, as those who ask for a page are told them.

use barrage_store::{Position, Record};
use barrage_wire::codec::Tail;
use barrage_wire::limits::SERVER_BODY_BYTES_MAX;
use barrage_wire::server::Code;
use barrage_wire::{GatewayFrame, ServerFrame, split};
use bytes::Bytes;

/// How a page ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct End {
    pub code: Code,
    /// The room's epoch now, the first number of it from which nothing is missing, and its newest.
    pub epoch: u64,
    pub oldest: u64,
    pub head: u64,
    /// Where the next page begins, if there is more.
    pub next: Option<Position>,
}

/// One message for a page, encoded; None when the message itself was not kept.
pub fn encode(request: u32, record: &Record, by_upstream: bool) -> Option<Bytes> {
    let mut bytes = &record.frame[..];
    // What does not decode was written by another version: there is nothing to say of it.
    let frame = split(&mut bytes, SERVER_BODY_BYTES_MAX).ok()??;
    let (kind_of_frame, said) = (frame.kind, Said::of(ServerFrame::decode(frame).ok()?)?);
    let Position { epoch, seq } = record.at;
    let time_ms = record.time_ms;
    let Said { category, kind, flags, sender, key, count, total, payload } = said;
    let (frame, payload) = (kind_of_frame, Tail(payload));
    Some(Bytes::from(if by_upstream {
        GatewayFrame::Past {
            request,
            epoch,
            seq,
            time_ms,
            frame,
            category,
            kind,
            flags,
            sender,
            key,
            count,
            total,
            payload,
        }
        .to_vec()
    } else {
        ServerFrame::Past {
            request,
            epoch,
            seq,
            time_ms,
            frame,
            category,
            kind,
            flags,
            sender,
            key,
            count,
            total,
            payload,
        }
        .to_vec()
    }))
}

/// The end of a page, encoded.
pub fn encode_end(request: u32, end: &End, by_upstream: bool) -> Bytes {
    let End { code, epoch, oldest, head, next } = *end;
    let (next_epoch, next) = next.map_or((0, 0), |next| (next.epoch, next.seq));
    Bytes::from(if by_upstream {
        GatewayFrame::PastEnd { request, code, epoch, oldest, head, next_epoch, next }.to_vec()
    } else {
        ServerFrame::PastEnd { request, code, epoch, oldest, head, next_epoch, next }.to_vec()
    })
}

/// What the numbered frames of a room have in common. Fields that one lacks are 0.
#[derive(Default)]
struct Said<'a> {
    category: u16,
    kind: u16,
    flags: u8,
    sender: u64,
    key: u64,
    count: u32,
    total: u64,
    payload: &'a [u8],
}

impl<'a> Said<'a> {
    fn of(frame: ServerFrame<'a>) -> Option<Self> {
        match frame {
            ServerFrame::Message { category, kind, payload, .. } => {
                Some(Self { category, kind, payload: payload.0, ..Self::default() })
            }
            ServerFrame::Combo {
                category,
                kind,
                flags,
                sender,
                key,
                count,
                total,
                payload,
                ..
            } => {
                let payload = payload.0;
                Some(Self { category, kind, flags, sender, key, count, total, payload })
            }
            ServerFrame::State { category, kind, key, payload, .. } => {
                Some(Self { category, kind, key, payload: payload.0, ..Self::default() })
            }
            _ => None,
        }
    }
}
