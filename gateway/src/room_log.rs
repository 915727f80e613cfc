//! The recent frames of one room on one shard, as bytes that can be sent to every member.
//!
//! A member is a sequence number: the next frame that it wants. Everything from there to the head
//! is one contiguous slice, sent straight from the log's memory. There is a track of bytes per
//! transport in use, because WebSocket frames carry a header of their own.

use std::collections::VecDeque;
use std::rc::Rc;

use barrage_router::{Frame, MergeId, STATE_KEYS_MAX};
use barrage_sys::{Segment, SendSlice};
use barrage_wire::server::{CLASSES, PAST_STATE, STATE_OVERHEAD_BYTES};
use barrage_wire::ws;
use bytes::Bytes;

use crate::limits::{
    LOG_CLASSES_MAX, LOG_KEPT_BYTES_MAX, LOG_WINDOW_BYTES, LOGS_BYTES_MAX, PIECE_BYTES,
    PIECE_BYTES_SMALL, PIECES_POOLED_MAX, SEND_BYTES_MAX,
};

/// How frames travel to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Frames, one behind the other.
    Tcp,
    /// One binary message per frame.
    WebSocket,
}

/// Pieces of memory for the logs of a shard.
#[derive(Default)]
pub struct Pieces {
    free: Vec<Rc<Segment>>,
    in_use: usize,
}

impl Pieces {
    fn take(&mut self, bytes: usize) -> Rc<Segment> {
        self.in_use += bytes;
        let pooled = if bytes == PIECE_BYTES { self.free.pop() } else { None };
        pooled.unwrap_or_else(|| Segment::with_capacity(bytes))
    }

    /// A piece that is still being sent from goes back to the allocator when that has ended.
    fn give(&mut self, mut piece: Rc<Segment>) {
        self.in_use -= piece.capacity();
        if piece.capacity() == PIECE_BYTES
            && self.free.len() < PIECES_POOLED_MAX
            && let Some(exclusive) = Rc::get_mut(&mut piece)
        {
            exclusive.clear();
            self.free.push(piece);
        }
    }

    /// Bytes that logs hold.
    pub fn in_use(&self) -> usize {
        self.in_use
    }
}

/// The frames `next..next + frames`, as bytes.
pub struct Batch {
    /// The bytes.
    pub slice: SendSlice,
    /// How many frames.
    pub frames: u16,
}

/// What a member that fell out of the window has missed.
#[derive(Debug, PartialEq, Eq)]
pub struct Lag {
    /// The first message that is not in the window.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// How many of them are left out, per class.
    pub counts: [u32; CLASSES],
    /// Those that are not left out.
    pub kept: Vec<Bytes>,
}

/// A member is so far behind that something which may not be dropped is no longer here.
#[derive(Debug, PartialEq, Eq)]
pub struct TooFarBehind;

/// See the module. Most rooms are quiet most of the time, so what a busy one needs is allocated while
/// somebody does not have everything.
pub struct RoomLog {
    /// The newest frame.
    head: u64,
    /// The newest frame of each class; 0 before the first.
    newest: [u64; CLASSES],
    /// The transports of members.
    serves: [bool; 2],
    window: Option<Box<Window>>,
}

/// What is remembered while somebody is behind.
struct Window {
    /// The class of each frame from `classes_first` to the head, and whether it is kept.
    classes: VecDeque<u8>,
    classes_first: u64,
    kept: VecDeque<(u64, Bytes)>,
    kept_bytes: usize,
    /// The newest frame of each state key, the oldest in front: who is behind gets it, whatever
    /// came before is left out.
    states: VecDeque<State>,
    /// Never-drop frames before this one are no longer kept.
    kept_first: u64,
    tracks: [Option<Track>; 2],
}

const KEPT: u8 = 0x80;

impl RoomLog {
    /// An empty log of a room whose newest frame is `head`.
    pub fn new(head: u64) -> Self {
        Self { head, newest: [0; CLASSES], serves: [false; 2], window: None }
    }

    /// The newest frame.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The most urgent class from frame `next` on.
    pub fn urgency_from(&self, next: u64) -> usize {
        self.newest.iter().position(|&newest| newest >= next).unwrap_or(CLASSES)
    }

    /// Keeps bytes for members on `transport` from the next frame on.
    pub fn serve(&mut self, transport: Transport) {
        self.serves[transport as usize] = true;
        let first = self.head + 1;
        if let Some(window) = &mut self.window {
            window.tracks[transport as usize].get_or_insert_with(|| Track::new(first));
        }
    }

    /// Appends the frame after the head.
    pub fn append(&mut self, frame: &Frame, pieces: &mut Pieces) {
        assert_eq!(frame.seq, self.head + 1, "the home mails frames in order");
        self.head = frame.seq;
        self.newest[frame.class.index()] = frame.seq;
        let serves = self.serves;
        let window = self.window.get_or_insert_with(|| Window::new(frame.seq, serves));
        window.append(frame, pieces);
    }

    /// Takes whole frames from `next` on, at most `frames_max` and as many as one send carries.
    /// None when there is nothing new; `lag` says what to do when `next` has left the window.
    pub fn batch(&self, transport: Transport, next: u64, frames_max: u16) -> Option<Batch> {
        let track = self.track(transport)?;
        (next <= self.head).then(|| track.batch(next, frames_max))
    }

    /// The first frame whose bytes are there.
    pub fn window_first(&self, transport: Transport) -> u64 {
        self.track(transport).map_or(self.head + 1, |track| track.first)
    }

    fn track(&self, transport: Transport) -> Option<&Track> {
        self.window.as_ref()?.tracks[transport as usize].as_ref()
    }

    /// What a member that wants `next` misses before the window.
    pub fn lag(&self, transport: Transport, next: u64) -> Result<Lag, TooFarBehind> {
        let end = self.window_first(transport);
        self.window.as_ref().ok_or(TooFarBehind)?.lag(next, end)
    }

    /// Everybody has everything up to `next - 1`: gives the memory before it back.
    pub fn trim(&mut self, next: u64, pieces: &mut Pieces) {
        let window = self.window.iter_mut();
        for track in window.flat_map(|window| window.tracks.iter_mut().flatten()) {
            track.trim(next, pieces);
        }
    }

    /// Everybody has everything: gives all memory back.
    pub fn clear(&mut self, pieces: &mut Pieces) {
        if let Some(window) = self.window.take() {
            window.tracks.into_iter().flatten().for_each(|track| track.give(pieces));
        }
    }
}

impl Window {
    /// Nothing yet; frames from `first` on follow.
    fn new(first: u64, serves: [bool; 2]) -> Box<Self> {
        Box::new(Self {
            classes: VecDeque::new(),
            classes_first: first,
            kept: VecDeque::new(),
            kept_bytes: 0,
            states: VecDeque::new(),
            kept_first: first,
            tracks: serves.map(|serves| serves.then(|| Track::new(first))),
        })
    }

    fn append(&mut self, frame: &Frame, pieces: &mut Pieces) {
        let kept = if frame.never_drop { KEPT } else { 0 };
        self.classes.push_back(frame.class.index() as u8 | kept);
        if self.classes.len() > LOG_CLASSES_MAX {
            self.classes.pop_front();
            self.classes_first += 1;
        }
        if frame.never_drop {
            self.keep(frame);
        } else if let Some(id) = frame.merged.filter(|_| is_state(frame)) {
            self.states.retain(|state| state.id != id);
            if self.states.len() == STATE_KEYS_MAX {
                // A key that was taken away makes room first.
                let is_gone = |state: &State| state.bytes.len() == STATE_OVERHEAD_BYTES;
                let place = self.states.iter().position(is_gone).unwrap_or(0);
                self.states.remove(place);
            }
            let (seq, class, bytes) = (frame.seq, frame.class.index(), frame.bytes.clone());
            self.states.push_back(State { id, seq, class, bytes });
        }
        let [tcp, websocket] = &mut self.tracks;
        if let Some(track) = tcp {
            track.append(&[], &frame.bytes, pieces);
        }
        if let Some(track) = websocket {
            let (header, used) = ws::server_header(frame.bytes.len());
            track.append(&header[..used], &frame.bytes, pieces);
        }
    }

    fn keep(&mut self, frame: &Frame) {
        self.kept_bytes += frame.bytes.len();
        self.kept.push_back((frame.seq, frame.bytes.clone()));
        while self.kept_bytes > LOG_KEPT_BYTES_MAX
            && let Some((seq, bytes)) = self.kept.pop_front()
        {
            self.kept_bytes -= bytes.len();
            self.kept_first = seq + 1;
        }
    }

    /// What a member that wants `next` misses before `end`.
    fn lag(&self, next: u64, end: u64) -> Result<Lag, TooFarBehind> {
        if next < self.classes_first || next < self.kept_first {
            return Err(TooFarBehind);
        }
        let from = (next - self.classes_first) as usize;
        let mut counts = [0; CLASSES];
        for class in self.classes.range(from..from + (end - next) as usize) {
            if class & KEPT == 0 {
                counts[usize::from(*class)] += 1;
            }
        }
        let is_missed = |seq: &u64| (next..end).contains(seq);
        let kept = self.kept.iter().filter(|(seq, _)| is_missed(seq));
        let mut kept: Vec<(u64, Bytes)> = kept.cloned().collect();
        for state in self.states.iter().filter(|state| is_missed(&state.seq)) {
            counts[state.class] -= 1;
            kept.push((state.seq, state.bytes.clone()));
        }
        kept.sort_unstable_by_key(|&(seq, _)| seq);
        let kept = kept.into_iter().map(|(_, bytes)| bytes).collect();
        Ok(Lag { first: next, last: end - 1, counts, kept })
    }
}

/// The newest value of a key.
struct State {
    id: MergeId,
    seq: u64,
    class: usize,
    bytes: Bytes,
}

/// Where a frame's header says what it is.
pub const FRAME_KIND_AT: usize = 4;

fn is_state(frame: &Frame) -> bool {
    frame.bytes.get(FRAME_KIND_AT) == Some(&PAST_STATE)
}

/// The bytes of the frames `first..=head` for one transport. Offsets count from the track's start
/// and never repeat.
struct Track {
    pieces: VecDeque<Piece>,
    bytes: usize,
    first: u64,
    /// Where each frame ends.
    ends: VecDeque<u64>,
    /// Where the newest frame ends.
    end: u64,
}

struct Piece {
    segment: Rc<Segment>,
    start: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.segment.len() as u64
    }
}

impl Track {
    fn new(first: u64) -> Self {
        Self { pieces: VecDeque::new(), bytes: 0, first, ends: VecDeque::new(), end: 0 }
    }

    fn append(&mut self, header: &[u8], frame: &[u8], pieces: &mut Pieces) {
        let bytes = header.len() + frame.len();
        if self.pieces.back().is_none_or(|piece| piece.segment.room() < bytes) {
            let small = self.pieces.is_empty() && bytes <= PIECE_BYTES_SMALL;
            let capacity = if small { PIECE_BYTES_SMALL } else { PIECE_BYTES };
            self.make_room(capacity, pieces);
            let segment = pieces.take(capacity);
            self.bytes += capacity;
            self.pieces.push_back(Piece { segment, start: self.end });
        }
        if let Some(piece) = self.pieces.back() {
            let fits = piece.segment.append(header) && piece.segment.append(frame);
            assert!(fits, "one piece holds the largest frame");
        }
        self.end += bytes as u64;
        self.ends.push_back(self.end);
    }

    fn make_room(&mut self, bytes: usize, pieces: &mut Pieces) {
        let over = |track: &Self, pieces: &Pieces| {
            track.bytes + bytes > LOG_WINDOW_BYTES || pieces.in_use() + bytes > LOGS_BYTES_MAX
        };
        while self.pieces.len() > 1 && over(self, pieces) {
            self.drop_front(pieces);
        }
    }

    fn drop_front(&mut self, pieces: &mut Pieces) {
        let Some(piece) = self.pieces.pop_front() else { return };
        let frames = self.ends.partition_point(|&end| end <= piece.end());
        self.ends.drain(..frames);
        self.first += frames as u64;
        self.bytes -= piece.segment.capacity();
        pieces.give(piece.segment);
    }

    /// Where frame `next` starts.
    fn offset(&self, next: u64) -> u64 {
        match next.checked_sub(self.first + 1) {
            Some(index) => self.ends[index as usize],
            None => self.pieces.front().map_or(self.end, |piece| piece.start),
        }
    }

    fn batch(&self, next: u64, frames_max: u16) -> Batch {
        assert!(next >= self.first, "members behind the window are told first");
        let start = self.offset(next);
        let index = (next - self.first) as usize;
        // Most members are near the head, so the piece is looked for from there.
        let piece = self.pieces.iter().rev().find(|piece| piece.start <= start);
        let piece = piece.expect("the window holds what it says");
        let mut end = piece.end();
        let mut frames = self.ends.len() - index;
        let frames_max = frames_max as usize;
        if end < self.end || end - start > SEND_BYTES_MAX as u64 || frames > frames_max {
            let limit = end.min(start + SEND_BYTES_MAX as u64);
            frames = self.ends.partition_point(|&end| end <= limit) - index;
            frames = frames.clamp(1, frames_max);
            end = self.ends[index + frames - 1];
        }
        let from = (start - piece.start) as usize;
        let to = (end - piece.start) as usize;
        let slice = SendSlice::new(Rc::clone(&piece.segment), from, to);
        Batch { slice, frames: frames as u16 }
    }

    fn trim(&mut self, next: u64, pieces: &mut Pieces) {
        if next <= self.first {
            return;
        }
        let start = self.offset(next);
        // The newest piece stays: there is room in it.
        while self.pieces.len() > 1 && self.pieces.front().is_some_and(|piece| piece.end() <= start)
        {
            self.drop_front(pieces);
        }
    }

    fn give(self, pieces: &mut Pieces) {
        self.pieces.into_iter().for_each(|piece| pieces.give(piece.segment));
    }
}

#[cfg(test)]
mod tests {
    use barrage_router::Class;
    use barrage_wire::{ServerFrame, Tail};

    use super::*;

    fn frame(seq: u64, bytes: usize, never_drop: bool) -> Frame {
        let class = if never_drop { Class::P1 } else { Class::P3 };
        let bytes = Bytes::from(vec![seq as u8; bytes]);
        Frame { seq, class, never_drop, category: 0, merged: None, bytes }
    }

    fn log_of(frames: impl IntoIterator<Item = Frame>) -> (RoomLog, Pieces) {
        let (mut log, mut pieces) = (RoomLog::new(0), Pieces::default());
        log.serve(Transport::Tcp);
        frames.into_iter().for_each(|frame| log.append(&frame, &mut pieces));
        (log, pieces)
    }

    #[test]
    fn a_member_gets_everything_from_its_cursor_to_the_head() {
        let (log, _) = log_of((1..=5).map(|seq| frame(seq, 10, false)));
        let check = |next, max, frames: u16, first: u8, last: u8| {
            let batch = log.batch(Transport::Tcp, next, max).expect("there is something");
            let bytes = batch.slice.bytes();
            assert_eq!((batch.frames, bytes.len()), (frames, frames as usize * 10));
            assert_eq!((bytes[0], bytes[bytes.len() - 1]), (first, last));
        };
        check(1, u16::MAX, 5, 1, 5);
        check(4, u16::MAX, 2, 4, 5);
        check(2, 1, 1, 2, 2);
        assert!(log.batch(Transport::Tcp, 6, u16::MAX).is_none(), "the head was read");
        assert!(log.batch(Transport::WebSocket, 1, u16::MAX).is_none(), "nobody asked for it");
    }

    #[test]
    fn batches_end_with_their_piece_and_miss_nothing() {
        let (log, _) = log_of((1..=1000).map(|seq| frame(seq, 700, false)));
        let (mut next, mut sends) = (1, 0);
        while let Some(batch) = log.batch(Transport::Tcp, next, u16::MAX) {
            assert!(batch.slice.len() <= SEND_BYTES_MAX);
            for (index, bytes) in batch.slice.bytes().chunks(700).enumerate() {
                assert!(bytes.iter().all(|&byte| byte == (next + index as u64) as u8));
            }
            next += u64::from(batch.frames);
            sends += 1;
        }
        assert_eq!(next, 1001);
        assert!(sends < 15, "about 93 frames of 700 bytes fit one send, not {}", 1000 / sends);
    }

    #[test]
    fn websocket_frames_carry_their_header() {
        let (mut log, mut pieces) = (RoomLog::new(7), Pieces::default());
        log.serve(Transport::WebSocket);
        log.append(&frame(8, 200, false), &mut pieces);
        let batch = log.batch(Transport::WebSocket, 8, u16::MAX).expect("a frame");
        assert_eq!(batch.slice.bytes()[..4], [0x82, 126, 0, 200]);
        assert_eq!(batch.slice.len(), 204);
    }

    #[test]
    fn what_leaves_the_window_is_counted_and_the_paid_for_is_kept() {
        let frames = 10 * (LOG_WINDOW_BYTES / 1000) as u64;
        let (log, pieces) =
            log_of((1..=frames).map(|seq| frame(seq, 1000, seq.is_multiple_of(100))));
        assert!(pieces.in_use() <= LOG_WINDOW_BYTES, "{} bytes are held", pieces.in_use());
        let first = log.window_first(Transport::Tcp);
        assert!(first > 1);
        let lag = log.lag(Transport::Tcp, 2).map(|lag| (lag.counts, lag.kept.len()));
        let kept = (first - 1) / 100;
        assert_eq!(lag, Ok(([0, 0, 0, (first - 2 - kept) as u32], kept as usize)));
        assert!(log.batch(Transport::Tcp, first, u16::MAX).is_some());
    }

    #[test]
    fn the_newest_value_of_a_state_outlives_the_window() {
        let state = |seq, key| {
            let payload = Tail(&[seq as u8]);
            let state = ServerFrame::State { alias: 1, seq, category: 6, kind: 0, key, payload };
            let merged = Some(MergeId { category: 6, sender: 0, key });
            Frame { merged, bytes: Bytes::from(state.to_vec()), ..frame(seq, 0, false) }
        };
        let frames = 10 * (LOG_WINDOW_BYTES / 1000) as u64;
        let (log, _) = log_of((1..=frames).map(|seq| match seq {
            2 | 5 => state(seq, 7),
            3 => state(seq, 8),
            _ => frame(seq, 1000, seq == 4),
        }));
        let lag = log.lag(Transport::Tcp, 1).expect("it is not that far behind");
        let all = (lag.last - lag.first + 1) as u32;
        assert_eq!(lag.counts, [0, 0, 0, all - 3], "one is kept, two are the newest of their keys");
        let kept: Vec<usize> = lag.kept.iter().map(Bytes::len).collect();
        assert_eq!(kept, [state(3, 8).bytes.len(), 1000, state(5, 7).bytes.len()]);
    }

    #[test]
    fn a_member_that_would_lose_what_it_paid_for_is_too_far_behind() {
        let (log, _) = log_of((1..=3000).map(|seq| frame(seq, 1000, true)));
        assert_eq!(log.lag(Transport::Tcp, 1), Err(TooFarBehind));
    }

    #[test]
    fn memory_comes_back_when_everybody_has_read() {
        let (mut log, mut pieces) = log_of((1..=200).map(|seq| frame(seq, 1000, seq == 7)));
        let before = pieces.in_use();
        log.trim(150, &mut pieces);
        assert!(pieces.in_use() < before);
        assert!(log.batch(Transport::Tcp, 150, u16::MAX).is_some(), "150 is still to be read");
        log.clear(&mut pieces);
        assert_eq!(pieces.in_use(), 0);
        log.append(&frame(201, 10, false), &mut pieces);
        assert_eq!(log.batch(Transport::Tcp, 201, 9).map(|batch| batch.frames), Some(1));
    }
}
