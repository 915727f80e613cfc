//! Properties of every message and every stream, on inputs that nobody chose.

use barrage_wire::frame::split;
use barrage_wire::fuzz::{self, Direction, Part, Source, put_message};
use barrage_wire::limits::MESSAGE_HEAD_BYTES_MAX;
use barrage_wire::ws::apply_mask;
use proptest::collection::vec;
use proptest::prelude::*;

/// Frames of one direction that are right.
fn stream(direction: Direction, data: &[u8], count: usize) -> Vec<u8> {
    let (mut source, mut bytes) = (Source(data), Vec::new());
    (0..count).for_each(|_| put_message(direction, &mut source, &mut bytes));
    bytes
}

/// Takes all whole frames off the front of `bytes`.
fn take_frames(bytes: &mut Vec<u8>, direction: Direction, frames: &mut Vec<(u8, Vec<u8>)>) {
    let mut rest = &bytes[..];
    while let Some(frame) = split(&mut rest, direction.body_bytes_max()).expect("right frames") {
        frames.push((frame.kind, frame.body.to_vec()));
    }
    let taken = bytes.len() - rest.len();
    bytes.drain(..taken);
}

fn direction() -> impl Strategy<Value = Direction> {
    (0..4usize).prop_map(|at| Direction::ALL[at])
}

/// A failure prints its smallest input, which is to become a named test, so no file keeps it.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        direction in direction(),
        data in vec(any::<u8>(), 0..2000),
    ) {
        let bytes = stream(direction, &data, 8);
        let max = direction.body_bytes_max();
        let (mut rest, mut again) = (&bytes[..], Vec::new());
        while let Some(frame) = split(&mut rest, max).expect("within limits") {
            again.extend(direction.recode(frame).expect("a message of the schema decodes"));
        }
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn any_cut_of_a_stream_gives_the_same_frames(
        direction in direction(),
        data in vec(any::<u8>(), 0..500),
        pieces in vec(1..200usize, 1..50),
    ) {
        let bytes = stream(direction, &data, 6);
        let (mut whole, mut cut) = (Vec::new(), Vec::new());
        take_frames(&mut bytes.clone(), direction, &mut whole);
        let (mut buffer, mut rest) = (Vec::new(), &bytes[..]);
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            buffer.extend_from_slice(now);
            take_frames(&mut buffer, direction, &mut cut);
            rest = later;
        }
        prop_assert_eq!(whole.len(), 6);
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn a_session_reads_back_as_it_was_written(data in vec(any::<u8>(), 0..3000)) {
        fuzz::operations(&data);
    }

    #[test]
    fn any_bytes_are_taken_as_frames_without_harm(data in vec(any::<u8>(), 0..600)) {
        fuzz::frames(&data);
    }

    #[test]
    fn any_body_of_any_kind_is_taken_without_harm(
        direction in direction(),
        at in any::<prop::sample::Index>(),
        body in vec(any::<u8>(), 0..120),
    ) {
        let kinds = direction.kinds();
        let kind = kinds[at.index(kinds.len())].0;
        let mut bytes = Vec::new();
        barrage_wire::frame::put(&mut bytes, kind, |out| out.extend(body));
        fuzz::frames(&bytes);
    }

    #[test]
    fn any_bytes_are_taken_as_websocket_frames_without_harm(
        role in 0..2u8,
        seed in any::<u8>(),
        // Small numbers make valid headers likely.
        frames in vec((any::<u8>(), 0..8u8, vec(any::<u8>(), 0..12)), 0..12),
    ) {
        let mut data = vec![role, seed];
        for (first, length, rest) in frames {
            let masked = if role == 0 { 0x80 } else { 0 };
            data.extend([first & 0x8f, masked | length]);
            data.extend(rest);
        }
        fuzz::websocket(&data);
    }

    #[test]
    fn any_bytes_are_taken_as_a_handshake_without_harm(data in vec(any::<u8>(), 0..300)) {
        fuzz::handshake(&data);
    }

    #[test]
    fn masking_is_the_same_as_byte_by_byte(
        mask in any::<[u8; 4]>(),
        data in vec(any::<u8>(), 0..300),
    ) {
        let naive: Vec<u8> = (0..data.len()).map(|at| data[at] ^ mask[at % 4]).collect();
        let mut masked = data;
        apply_mask(&mut masked, mask);
        prop_assert_eq!(masked, naive);
    }
}

#[test]
fn the_schema_has_every_message_of_the_code() {
    for direction in Direction::ALL {
        let code: Vec<u8> = direction.kinds().iter().map(|(kind, _)| *kind).collect();
        let schema: Vec<u8> = direction.schema().iter().map(|(kind, _)| *kind).collect();
        assert_eq!(code, schema, "{direction:?}");
    }
}

#[test]
fn the_largest_payload_fits_behind_the_fixed_fields_of_every_message() {
    for (kind, parts) in Direction::ALL.iter().flat_map(|direction| direction.schema()) {
        let fixed = parts.iter().map(|part| match part {
            Part::Any(bytes) | Part::Code(bytes, ..) => *bytes,
            Part::Text(_) | Part::List(..) | Part::Tail => 0,
        });
        let bytes: usize = fixed.sum();
        assert!(bytes <= MESSAGE_HEAD_BYTES_MAX, "kind {kind}: {bytes} bytes");
    }
}
