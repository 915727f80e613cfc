//! Frames out of bytes that go by between services and the gateway, for writing down. Pure.

use barrage_wire::limits::UPSTREAM_BODY_BYTES_MAX;
use barrage_wire::{FRAME_HEADER_BYTES, RawFrame, Text, UpstreamFrame, peek};

use crate::capture::file::{Direction, Record};

/// The kind of the frame that has a token.
const HELLO: u8 = 128;

/// Finds the frames of one direction of one connection.
#[derive(Debug)]
pub struct Framer {
    connection: u32,
    direction: Direction,
    partial: Vec<u8>,
    unframed: bool,
}

impl Framer {
    /// For one direction of a connection.
    pub fn new(connection: u32, direction: Direction) -> Self {
        Self { connection, direction, partial: Vec::new(), unframed: false }
    }

    /// Bytes have come: appends what is to be written down.
    pub fn feed(&mut self, at_ns: u64, bytes: &[u8], records: &mut Vec<Record>) {
        if self.unframed {
            return;
        }
        let (connection, direction) = (self.connection, self.direction);
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let mut rest = &all[..];
        loop {
            match peek(rest, UPSTREAM_BODY_BYTES_MAX) {
                Ok(Some(length)) if length <= rest.len() => {
                    let (frame, after) = rest.split_at(length);
                    let bytes = self.without_token(frame);
                    records.push(Record::Frame { at_ns, connection, direction, bytes });
                    rest = after;
                }
                Ok(_) => break,
                Err(_) => {
                    self.unframed = true;
                    records.push(Record::Unframed { at_ns, connection, direction });
                    return;
                }
            }
        }
        self.partial.extend_from_slice(rest);
    }

    /// A capture is passed around, and a token would let whoever has it speak for the tenant.
    fn without_token(&self, frame: &[u8]) -> Vec<u8> {
        let raw = RawFrame { kind: frame[4], body: &frame[FRAME_HEADER_BYTES..] };
        match (self.direction, raw.kind) {
            (Direction::Up, HELLO) => match UpstreamFrame::decode(raw) {
                Ok(UpstreamFrame::Hello { version, app, name, .. }) => {
                    UpstreamFrame::Hello { version, app, token: Text(""), name }.to_vec()
                }
                _ => header_only(frame),
            },
            (Direction::Up | Direction::Down, _) => frame.to_vec(),
        }
    }
}

/// A HELLO that cannot be read may have a token in it all the same.
fn header_only(frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    bytes[4] = frame[4];
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_wire::{Tail, upstream::PublishHead};

    fn publish(room: u64) -> Vec<u8> {
        let head = PublishHead { request: 7, ..PublishHead::default() };
        UpstreamFrame::PublishRoom { head, room, payload: Tail(b"payload") }.to_vec()
    }

    /// The frames of bytes that come in pieces, and whether they were frames to the end.
    fn found(bytes: &[u8], cut: usize) -> (Vec<Vec<u8>>, bool) {
        let mut framer = Framer::new(1, Direction::Up);
        let mut records = Vec::new();
        bytes.chunks(cut).for_each(|piece| framer.feed(1, piece, &mut records));
        let framed = !records.iter().any(|record| matches!(record, Record::Unframed { .. }));
        let frames = records.into_iter().filter_map(|record| match record {
            Record::Frame { bytes, .. } => Some(bytes),
            _ => None,
        });
        (frames.collect(), framed)
    }

    #[test]
    fn frames_are_found_however_the_bytes_come() {
        let frames = vec![publish(1), publish(2), UpstreamFrame::Ping { nonce: 3 }.to_vec()];
        for cut in [1, 5, 8, 1000] {
            assert_eq!(found(&frames.concat(), cut), (frames.clone(), true), "pieces of {cut}");
        }
    }

    #[test]
    fn tokens_are_left_out_and_nothing_else() {
        let hello = |token| {
            let (version, app, name) = (1, 2, Text("chat"));
            UpstreamFrame::Hello { version, app, token: Text(token), name }.to_vec()
        };
        assert_eq!(found(&hello("secret"), 1000).0, [hello("")]);
        let mut broken = hello("secret");
        broken[FRAME_HEADER_BYTES + 6] = 0xff;
        assert_eq!(found(&broken, 1000).0, [vec![0, 0, 0, 0, HELLO, 0, 0, 0]]);
    }

    #[test]
    fn what_is_no_frame_is_said_once() {
        let bytes = [publish(1), vec![0x16, 3, 1, 2, 0, 1, 0], vec![0xff; 50]].concat();
        for cut in [1, 1000] {
            assert_eq!(found(&bytes, cut), (vec![publish(1)], false));
        }
    }
}
