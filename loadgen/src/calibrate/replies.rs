//! Just enough of a gateway: what the sink says to a client. Pure: bytes in, frames out.

use barrage_wire::limits::{CLIENT_BODY_BYTES_MAX, PROTOCOL_VERSION};
use barrage_wire::server::CloseReason;
use barrage_wire::{ClientFrame, DecodeError, ServerFrame, Text, frame};

use crate::stamp::Stamp;

/// The one alias of the one room.
const ALIAS: u32 = 1;
/// The epoch of its sequence.
const EPOCH: u64 = 1;
/// Nobody pings while a calibration lasts.
const HEARTBEAT_S: u16 = 600;
const ROOMS_MAX: u16 = 64;
/// The category that has no limit and may be dropped.
const CATEGORY: u16 = crate::cli::CATEGORY_STREAM;

/// One client of the sink.
#[derive(Debug, Default)]
pub struct Peer {
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// Whether it is a member.
    pub joined: bool,
}

impl Peer {
    /// Takes what the client says, and appends what it is answered; `head` is the last message's
    /// number.
    pub fn feed(&mut self, bytes: &[u8], head: u64, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let mut partial = std::mem::take(&mut self.partial);
        if partial.is_empty() {
            self.partial = self.answer_all(bytes, head, out)?.to_vec();
        } else {
            partial.extend_from_slice(bytes);
            self.partial = self.answer_all(&partial, head, out)?.to_vec();
        }
        Ok(())
    }

    /// Answers whole frames and returns what is left: less than one frame.
    fn answer_all<'a>(
        &mut self,
        mut bytes: &'a [u8],
        head: u64,
        out: &mut Vec<u8>,
    ) -> Result<&'a [u8], DecodeError> {
        while let Some(raw) = frame::split(&mut bytes, CLIENT_BODY_BYTES_MAX)? {
            self.answer(&ClientFrame::decode(raw)?, head, out);
        }
        Ok(bytes)
    }

    fn answer(&mut self, said: &ClientFrame<'_>, head: u64, out: &mut Vec<u8>) {
        match said {
            ClientFrame::Hello { device, .. } => ServerFrame::Welcome {
                version: PROTOCOL_VERSION,
                heartbeat_s: HEARTBEAT_S,
                connection: *device,
                user: *device,
                body_bytes_max: CLIENT_BODY_BYTES_MAX as u32,
                rooms_max: ROOMS_MAX,
                resume: Text(""),
            }
            .encode(out),
            ClientFrame::Join { request, cursor } => {
                self.joined = true;
                let (alias, epoch, members) = (ALIAS, EPOCH, 1);
                let (request, room, level) = (*request, cursor.room, 1);
                ServerFrame::Joined { request, alias, room, epoch, head, level, members }
                    .encode(out);
            }
            ClientFrame::Ping { nonce } => ServerFrame::Pong { nonce: *nonce }.encode(out),
            // A calibration's clients say nothing else.
            ClientFrame::Leave { .. }
            | ClientFrame::Publish { .. }
            | ClientFrame::Uplink { .. }
            | ClientFrame::Ack { .. }
            | ClientFrame::History { .. } => ServerFrame::Close {
                reason: CloseReason::Protocol,
                retry_after_ms: 0,
                text: Text("a sink only listens"),
            }
            .encode(out),
        }
    }
}

/// Appends message `seq` of the room.
pub fn put_message(out: &mut Vec<u8>, seq: u64, intended_ns: u64, lag_us: u32, payload: &mut [u8]) {
    Stamp { intended_ns, index: seq as u32, lag_us }.write(payload);
    let payload = barrage_wire::Tail(payload);
    let kind = crate::watch::kind::CHAT;
    ServerFrame::Message { alias: ALIAS, seq, category: CATEGORY, kind, payload }.encode(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_wire::List;
    use barrage_wire::client::{Cursor, Platform};

    fn said() -> Vec<u8> {
        let mut out = Vec::new();
        let (version, resume, token) = (PROTOCOL_VERSION, List::new(&[]), Text("open:1"));
        let (app, device, platform) = (1, 7, Platform::Bot);
        ClientFrame::Hello { version, app, device, platform, resume, token }.encode(&mut out);
        let cursor = Cursor { room: 1, epoch: 0, seq: 0 };
        ClientFrame::Join { request: 1, cursor }.encode(&mut out);
        ClientFrame::Ping { nonce: 9 }.encode(&mut out);
        out
    }

    fn names(mut bytes: &[u8]) -> Vec<&'static str> {
        let mut names = Vec::new();
        while let Some(raw) = frame::split(&mut bytes, CLIENT_BODY_BYTES_MAX).unwrap() {
            names.push(ServerFrame::decode(raw).unwrap().name());
        }
        assert!(bytes.is_empty());
        names
    }

    #[test]
    fn a_client_gets_its_answers_however_its_bytes_come() {
        let said = said();
        for cut in 0..said.len() {
            let (mut peer, mut out) = (Peer::default(), Vec::new());
            peer.feed(&said[..cut], 5, &mut out).unwrap();
            peer.feed(&said[cut..], 5, &mut out).unwrap();
            assert_eq!(names(&out), ["Welcome", "Joined", "Pong"], "cut at {cut}");
            assert!(peer.joined);
        }
        let (mut peer, mut out) = (Peer::default(), Vec::new());
        assert!(peer.feed(&[0xff; 16], 0, &mut out).is_err(), "nonsense is refused");
    }

    #[test]
    fn a_message_has_its_stamp() {
        let mut out = Vec::new();
        put_message(&mut out, 42, 1_000_000, 3, &mut [0; 32]);
        let raw = frame::split(&mut out.as_slice(), CLIENT_BODY_BYTES_MAX).unwrap();
        let Ok(ServerFrame::Message { seq: 42, payload, .. }) =
            ServerFrame::decode(raw.expect("a whole frame"))
        else {
            panic!("no message")
        };
        let stamp = Stamp { intended_ns: 1_000_000, index: 42, lag_us: 3 };
        assert_eq!((Stamp::read(payload.0), payload.0.len()), (Some(stamp), 32));
    }
}
