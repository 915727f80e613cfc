//! The messages a second time, as data: what PROTOCOL.md says, written down apart from the code
//! that encodes and decodes, so that neither can be wrong alone.

use super::Source;
use crate::codec::DecodeError;
use crate::frame::RawFrame;
use crate::limits::*;
use crate::{ClientFrame, GatewayFrame, ServerFrame, UpstreamFrame};

/// One of the four tables of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to gateway.
    Client,
    /// Gateway to client.
    Server,
    /// Upstream service to gateway.
    Upstream,
    /// Gateway to upstream service.
    Gateway,
}

impl Direction {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Client, Self::Server, Self::Upstream, Self::Gateway];

    /// The limit that receivers of this direction apply.
    pub fn body_bytes_max(self) -> usize {
        match self {
            Self::Client => CLIENT_BODY_BYTES_MAX,
            Self::Server => SERVER_BODY_BYTES_MAX,
            Self::Upstream | Self::Gateway => UPSTREAM_BODY_BYTES_MAX,
        }
    }

    /// The kinds and names that the code knows.
    pub fn kinds(self) -> &'static [(u8, &'static str)] {
        match self {
            Self::Client => ClientFrame::KINDS,
            Self::Server => ServerFrame::KINDS,
            Self::Upstream => UpstreamFrame::KINDS,
            Self::Gateway => GatewayFrame::KINDS,
        }
    }

    /// Decodes a frame and encodes the message again.
    pub fn recode(self, frame: RawFrame<'_>) -> Result<Vec<u8>, DecodeError> {
        match self {
            Self::Client => ClientFrame::decode(frame).map(|message| message.to_vec()),
            Self::Server => ServerFrame::decode(frame).map(|message| message.to_vec()),
            Self::Upstream => UpstreamFrame::decode(frame).map(|message| message.to_vec()),
            Self::Gateway => GatewayFrame::decode(frame).map(|message| message.to_vec()),
        }
    }

    /// The messages, each a kind and its fields.
    pub fn schema(self) -> &'static [(u8, &'static [Part])] {
        match self {
            Self::Client => CLIENT,
            Self::Server => SERVER,
            Self::Upstream => UPSTREAM,
            Self::Gateway => GATEWAY,
        }
    }
}

/// A field, or several that are alike.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// So many bytes that hold anything.
    Any(usize),
    /// An integer of so many bytes, from the first to the last value.
    Code(usize, u16, u16),
    /// A length and so many bytes of UTF-8 at most.
    Text(usize),
    /// A count and so many items at most.
    List(&'static [Part], usize),
    /// A payload.
    Tail,
}
use Part::{Any, Code, List, Tail, Text};

const NAME: Part = Text(TEXT_BYTES_MAX);
const TOKEN: Part = Text(TOKEN_BYTES_MAX);
const RESULT: Part = Code(2, 0, 18);
const REASON: Part = Code(2, 0, 15);
/// Request; acknowledgement; category, kind, time to live, merge key, idempotency key.
const HEAD: [Part; 3] = [Any(4), Code(1, 0, 2), Any(2 + 2 + 4 + 8 + 16)];

/// Request, room, epoch, number, time, count.
const HISTORY: Part = Any(4 + 8 + 8 + 8 + 8 + 2);
/// Request, epoch, number, time; frame, category, kind, flags; sender, key, count, total.
const PAST: Part = Any(4 + 8 + 8 + 8 + 1 + 2 + 2 + 1 + 8 + 8 + 4 + 8);
/// Epoch, oldest, head; where the next page begins.
const PAST_END: Part = Any(8 + 8 + 8 + 8 + 8);

const CLIENT: &[(u8, &[Part])] = &[
    (1, &[Any(2 + 4 + 8), Code(1, 0, 5), List(&[Any(24)], RESUME_CURSORS_MAX), TOKEN]),
    (2, &[Any(4 + 24)]),
    (3, &[Any(4 + 8)]),
    (4, &[Any(4 + 4 + 2 + 2), Tail]),
    (5, &[Any(4 + 2 + 2), Tail]),
    (6, &[Any(8)]),
    (7, &[Any(8)]),
    (8, &[HISTORY]),
];

const SERVER: &[(u8, &[Part])] = &[
    (64, &[Any(2 + 2 + 8 + 8 + 4 + 2), NAME]),
    (65, &[Any(4 + 4 + 8 + 8 + 8 + 1 + 4)]),
    (66, &[Any(4 + 8 + 2 + 2), Tail]),
    (67, &[Any(4 + 8 + 8 + 16)]),
    (68, &[Any(4 + 8 + 8 + 8)]),
    (69, &[Any(4), RESULT, Any(8), Tail]),
    (70, &[Any(8 + 2 + 2 + 1), Tail]),
    (71, &[Any(4), List(&[NAME], REDIRECT_ADDRESSES_MAX)]),
    (72, &[REASON, Any(4), NAME]),
    (73, &[Any(8)]),
    (74, &[Any(4 + 8 + 2 + 2 + 1 + 8 + 8 + 4 + 8), Tail]),
    (75, &[Any(4 + 8 + 2 + 2 + 8), Tail]),
    (76, &[Any(4 + 8 + 2 + 2 + 8), Tail]),
    (77, &[PAST, Tail]),
    (78, &[Any(4), RESULT, PAST_END]),
];

const UPSTREAM: &[(u8, &[Part])] = &[
    (128, &[Any(2 + 4), TOKEN, NAME]),
    (129, &[HEAD[0], HEAD[1], HEAD[2], Any(8), Tail]),
    (130, &[HEAD[0], HEAD[1], HEAD[2], Any(8), Tail]),
    (131, &[HEAD[0], HEAD[1], HEAD[2], List(&[Any(8)], MULTICAST_USERS_MAX), Tail]),
    (132, &[HEAD[0], HEAD[1], HEAD[2], Tail]),
    (133, &[Any(2), NAME, List(&[Any(2)], SUBSCRIBE_CHANNELS_MAX)]),
    (134, &[Any(16), RESULT, Tail]),
    (135, &[Any(4 + 8), NAME]),
    (136, &[Any(8)]),
    (137, &[HEAD[0], HEAD[1], HEAD[2], Any(8 + 8 + 4), Tail]),
    (138, &[Any(4 + 8 + 8 + 4)]),
    (139, &[Any(4 + 8 + 4), NAME]),
    (140, &[HISTORY]),
];

const GATEWAY: &[(u8, &[Part])] = &[
    (192, &[Any(2 + 2 + 4)]),
    (193, &[List(&[Any(4), RESULT, Any(8)], REPLIES_MAX), Any(4)]),
    (194, &[Code(1, 1, 4), Any(8 + 8 + 8 + 1 + 8 + 16 + 2), REASON]),
    (195, &[Any(16 + 8 + 8 + 2 + 2), Tail]),
    (196, &[Any(8 + 8)]),
    (197, &[Any(8)]),
    (198, &[REASON, NAME]),
    (199, &[PAST, Tail]),
    (200, &[Any(4), RESULT, PAST_END]),
    (201, &[Any(8 + 8 + 8 + 2 + 2 + 2), Tail]),
];

/// Appends a frame that is right, chosen by `source`.
pub fn put_message(direction: Direction, source: &mut Source<'_>, out: &mut Vec<u8>) {
    let schema = direction.schema();
    let (kind, parts) = schema[source.below(schema.len())];
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind, 0, 0, 0]);
    parts.iter().for_each(|part| put_part(part, source, out));
    let body_bytes = (out.len() - start - 8) as u32;
    out[start..start + 4].copy_from_slice(&body_bytes.to_le_bytes());
}

fn put_part(part: &Part, source: &mut Source<'_>, out: &mut Vec<u8>) {
    match *part {
        Any(bytes) => out.extend((0..bytes).map(|_| source.byte())),
        Code(bytes, first, last) => {
            let value = first + source.below((last - first) as usize + 1) as u16;
            out.extend_from_slice(&value.to_le_bytes()[..bytes]);
        }
        Text(max) => {
            let text = text(source, max);
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        List(item, max) => {
            let count = source.length(max);
            out.extend_from_slice(&(count as u16).to_le_bytes());
            for part in std::iter::repeat_n(item, count).flatten() {
                put_part(part, source, out);
            }
        }
        Tail => {
            let bytes = source.length(PAYLOAD_BYTES_MAX);
            out.extend((0..bytes).map(|_| source.byte()));
        }
    }
}

/// Characters of every length in UTF-8.
fn text(source: &mut Source<'_>, max: usize) -> String {
    const CHARACTERS: [char; 6] = ['\0', 'a', 'é', '弹', '幕', '🎁'];
    let mut text = String::new();
    for _ in 0..source.length(max) {
        let character = CHARACTERS[source.below(CHARACTERS.len())];
        if text.len() + character.len_utf8() <= max {
            text.push(character);
        }
    }
    text
}
