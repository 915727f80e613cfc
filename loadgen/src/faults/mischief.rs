//! What is done to the frames of one connection, on their way from the gateway to a client. Pure:
//! bytes in, bytes out.

use barrage_wire::limits::SERVER_BODY_BYTES_MAX;
use barrage_wire::server::{PAST_COMBO, PAST_MESSAGE, PAST_STATE};
use barrage_wire::{FRAME_HEADER_BYTES, peek};
use clap::ValueEnum;

use crate::faults::counts::Counts;
use crate::random::{Random, mix};

/// Where a numbered frame's alias and sequence number are.
const ALIAS_AT: usize = FRAME_HEADER_BYTES;
const SEQ_END: usize = ALIAS_AT + 4 + 8;
/// Bytes of which a receiver looks at every bit: the length and kind of a frame, and then alias and
/// sequence number. Flags and reserved bytes between them mean nothing.
const LOOKED_AT_HEADER_BYTES: usize = 5;

/// One thing that can be done to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is left out.
    Drop,
    /// It is sent twice.
    Duplicate,
    /// It changes places with the one that follows it in its room.
    Reorder,
    /// One bit of what a receiver looks at is changed.
    Corrupt,
}

impl Act {
    const ALL: [Self; 4] = [Self::Drop, Self::Duplicate, Self::Reorder, Self::Corrupt];
}

/// How often one thing is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dose {
    /// To such a share of frames, by chance.
    pub share: f64,
    /// To exactly these of each connection, counted from 1.
    pub nth: Vec<u64>,
}

/// What faults are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Messages.
    Message,
    /// Combos of gifts.
    Combo,
    /// Values of keys.
    State,
}

impl Which {
    fn kind(self) -> u8 {
        match self {
            Self::Message => PAST_MESSAGE,
            Self::Combo => PAST_COMBO,
            Self::State => PAST_STATE,
        }
    }
}

/// What is done to numbered frames.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frames {
    /// How often they are left out.
    pub drop: Dose,
    /// How often they are sent twice.
    pub duplicate: Dose,
    /// How often two change places.
    pub reorder: Dose,
    /// How often a bit is changed.
    pub corrupt: Dose,
    /// The only kind that it is done to; none: every kind.
    pub only: Option<Which>,
}

impl Frames {
    fn dose(&self, act: Act) -> &Dose {
        match act {
            Act::Drop => &self.drop,
            Act::Duplicate => &self.duplicate,
            Act::Reorder => &self.reorder,
            Act::Corrupt => &self.corrupt,
        }
    }
}

/// What is done to the frames of one connection.
#[derive(Debug)]
pub struct Mischief {
    random: Random,
    /// A frame that has not come whole.
    partial: Vec<u8>,
    /// Numbered frames of the kind that faults are for.
    numbered: u64,
    /// A frame that waits for the next one of its room.
    held: Option<Vec<u8>>,
    /// The bytes are no frames, and nothing is done to them any more.
    unframed: bool,
}

impl Mischief {
    /// For one connection of a proxy.
    pub fn new(seed: u64, connection: u64) -> Self {
        Self {
            random: Random::new(mix(seed ^ mix(connection))),
            partial: Vec::new(),
            numbered: 0,
            held: None,
            unframed: false,
        }
    }

    /// Whether a frame waits for its neighbour.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Gives up waiting for a neighbour: what was held back goes out in its own place.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        out.extend(self.held.take().into_iter().flatten());
    }

    /// Gives out everything that there is, because nothing follows.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        self.release(out);
        out.append(&mut self.partial);
    }

    /// Takes bytes from the gateway and appends those for the client.
    pub fn pass(&mut self, bytes: &[u8], frames: &Frames, out: &mut Vec<u8>, counts: &mut Counts) {
        if self.unframed {
            out.extend_from_slice(bytes);
            return;
        }
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let mut rest = &all[..];
        loop {
            match peek(rest, SERVER_BODY_BYTES_MAX) {
                Ok(Some(length)) if length <= rest.len() => {
                    let (frame, after) = rest.split_at(length);
                    self.frame(frame, frames, out, counts);
                    rest = after;
                }
                Ok(_) => break,
                Err(_) => {
                    self.unframed = true;
                    counts.unframed += 1;
                    self.release(out);
                    out.extend_from_slice(rest);
                    return;
                }
            }
        }
        self.partial.extend_from_slice(rest);
    }

    fn frame(&mut self, frame: &[u8], frames: &Frames, out: &mut Vec<u8>, counts: &mut Counts) {
        let numbered = matches!(frame[4], PAST_MESSAGE | PAST_COMBO | PAST_STATE);
        if !numbered || frame.len() < SEQ_END {
            // What it says may be about what is held back: SHED and RESET count on their place.
            self.release(out);
            out.extend_from_slice(frame);
            return;
        }
        let meant = frames.only.is_none_or(|only| only.kind() == frame[4]);
        self.numbered += u64::from(meant);
        counts.numbered += u64::from(meant);
        if let Some(held) = self.held.take_if(|held| alias(held) == alias(frame)) {
            out.extend_from_slice(frame);
            out.extend_from_slice(&held);
            counts.reordered += 1;
            return;
        }
        match self.choose(frames).filter(|_| meant) {
            None => out.extend_from_slice(frame),
            Some(Act::Drop) => counts.dropped += 1,
            Some(Act::Duplicate) => {
                counts.duplicated += 1;
                out.extend_from_slice(frame);
                out.extend_from_slice(frame);
            }
            Some(Act::Reorder) => {
                self.release(out);
                self.held = Some(frame.to_vec());
            }
            Some(Act::Corrupt) => {
                counts.corrupted += 1;
                let start = out.len();
                out.extend_from_slice(frame);
                self.corrupt(&mut out[start..]);
            }
        }
    }

    /// What is done to the present frame. Chance is asked the same number of times for each, so that
    /// one fault more leaves the others where they were.
    fn choose(&mut self, frames: &Frames) -> Option<Act> {
        let mut chosen = None;
        for act in Act::ALL {
            let dose = frames.dose(act);
            let hit = self.random.share() < dose.share || dose.nth.contains(&self.numbered);
            chosen = chosen.or(hit.then_some(act));
        }
        chosen
    }

    fn corrupt(&mut self, frame: &mut [u8]) {
        let bytes = LOOKED_AT_HEADER_BYTES + (SEQ_END - ALIAS_AT);
        let bit = self.random.below(8 * bytes as u64) as usize;
        let byte = bit / 8;
        let at = if byte < LOOKED_AT_HEADER_BYTES {
            byte
        } else {
            ALIAS_AT + byte - LOOKED_AT_HEADER_BYTES
        };
        frame[at] ^= 1 << (bit % 8);
    }
}

fn alias(frame: &[u8]) -> &[u8] {
    &frame[ALIAS_AT..ALIAS_AT + 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_wire::server::CLASSES;
    use barrage_wire::{ServerFrame, Tail, split};

    fn message(alias: u32, seq: u64) -> Vec<u8> {
        let payload = Tail(b"payload");
        ServerFrame::Message { alias, seq, category: 7, kind: 1, payload }.to_vec()
    }

    fn state(alias: u32, seq: u64) -> Vec<u8> {
        let payload = Tail(b"value");
        ServerFrame::State { alias, seq, category: 6, kind: 3, key: 1, payload }.to_vec()
    }

    fn nth(nth: &[u64]) -> Dose {
        Dose { share: 0.0, nth: nth.to_vec() }
    }

    /// Passes frames in pieces of `cut` bytes; what comes out, with what was done.
    fn pass(frames: &Frames, bytes: &[u8], cut: usize) -> (Vec<u8>, Counts) {
        let (mut mischief, mut counts) = (Mischief::new(1, 1), Counts::default());
        let mut out = Vec::new();
        for piece in bytes.chunks(cut) {
            mischief.pass(piece, frames, &mut out, &mut counts);
        }
        mischief.end(&mut out);
        (out, counts)
    }

    /// The aliases and numbers of frames; a SHED is `s`, another kind `?`.
    fn told(mut bytes: &[u8]) -> String {
        let mut text = Vec::new();
        while let Some(raw) = split(&mut bytes, SERVER_BODY_BYTES_MAX).expect("frames") {
            text.push(match ServerFrame::decode(raw) {
                Ok(ServerFrame::Message { alias, seq, .. }) => format!("{alias}.{seq}"),
                Ok(ServerFrame::State { alias, seq, .. }) => format!("{alias}={seq}"),
                Ok(ServerFrame::Shed { .. }) => "s".to_owned(),
                _ => "?".to_owned(),
            });
        }
        assert!(bytes.is_empty(), "a frame is cut off");
        text.join(" ")
    }

    /// Messages 1 to 4 of room 1 with one of room 2 and one value in between.
    fn stream() -> Vec<u8> {
        let all = [message(1, 1), message(2, 1), message(1, 2), state(1, 3), message(1, 4)];
        all.concat()
    }

    fn check(frames: &Frames, expected: &str, count: impl Fn(&Counts) -> u64, injected: u64) {
        for cut in [1, 7, 1000] {
            let (out, counts) = pass(frames, &stream(), cut);
            assert_eq!(told(&out), expected, "in pieces of {cut}");
            assert_eq!(count(&counts), injected);
        }
    }

    #[test]
    fn without_faults_nothing_changes() {
        for cut in [1, 7, 1000] {
            assert_eq!(pass(&Frames::default(), &stream(), cut).0, stream());
        }
    }

    #[test]
    fn exactly_what_was_asked_for_is_done() {
        let drop = Frames { drop: nth(&[3, 5]), ..Frames::default() };
        check(&drop, "1.1 2.1 1=3", |counts| counts.dropped, 2);
        let twice = Frames { duplicate: nth(&[1]), ..Frames::default() };
        check(&twice, "1.1 1.1 2.1 1.2 1=3 1.4", |counts| counts.duplicated, 1);
        let only = Frames { only: Some(Which::State), drop: nth(&[1]), ..Frames::default() };
        check(&only, "1.1 2.1 1.2 1.4", |counts| counts.dropped, 1);
    }

    #[test]
    fn neighbours_of_one_room_change_places() {
        let swap = |at| Frames { reorder: nth(&[at]), ..Frames::default() };
        check(&swap(1), "2.1 1.2 1.1 1=3 1.4", |counts| counts.reordered, 1);
        check(&swap(2), "1.1 1.2 1=3 1.4 2.1", |counts| counts.reordered, 0);
    }

    #[test]
    fn what_is_held_back_does_not_pass_what_is_not_numbered() {
        let shed = ServerFrame::Shed { alias: 1, first: 2, last: 2, counts: [0; CLASSES] };
        let bytes = [message(1, 1), shed.to_vec(), message(1, 3)].concat();
        let swap = Frames { reorder: nth(&[1]), ..Frames::default() };
        let (out, counts) = pass(&swap, &bytes, 5);
        assert_eq!((told(&out).as_str(), counts.reordered), ("1.1 s 1.3", 0));
    }

    #[test]
    fn chance_is_as_often_as_asked_and_repeats_itself() {
        let bytes: Vec<u8> = (1..=10_000).flat_map(|seq| message(1, seq)).collect();
        let drop = Dose { share: 0.1, nth: vec![] };
        let frames = Frames { drop, ..Frames::default() };
        let (out, counts) = pass(&frames, &bytes, 4096);
        assert!((900..1100).contains(&counts.dropped), "{counts:?}");
        assert_eq!(out.len(), (10_000 - counts.dropped as usize) * message(1, 1).len());
        assert_eq!(pass(&frames, &bytes, 100), (out, counts));
    }

    #[test]
    fn one_bit_is_corrupted_and_it_is_one_that_counts() {
        let corrupt = Dose { share: 1.0, nth: vec![] };
        let frames = Frames { corrupt, ..Frames::default() };
        let frame = message(7, 9);
        for connection in 0..1000 {
            let (mut mischief, mut out) = (Mischief::new(1, connection), Vec::new());
            mischief.pass(&frame, &frames, &mut out, &mut Counts::default());
            let changed: Vec<usize> = (0..frame.len()).filter(|&at| out[at] != frame[at]).collect();
            let [at] = changed[..] else { panic!("{changed:?}") };
            assert_eq!((out[at] ^ frame[at]).count_ones(), 1);
            assert!(matches!(at, 0..5 | 8..20), "{at}");
        }
    }

    #[test]
    fn bytes_that_are_no_frames_go_through_untouched() {
        let drop = Dose { share: 1.0, nth: vec![] };
        let frames = Frames { drop, ..Frames::default() };
        let bytes = b"HTTP/1.1 200 OK\r\n\r\nwhatever this is, it is none of ours".as_slice();
        let (out, counts) = pass(&frames, bytes, 3);
        assert_eq!((out.as_slice(), counts.unframed), (bytes, 1));
    }
}
