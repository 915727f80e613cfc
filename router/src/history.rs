//! What a room remembers.

use std::collections::VecDeque;

use crate::frame::Frame;

/// The fewest slots that the ring allocates, for one frame or for four.
const RING_SLOTS_MIN: usize = 4;

/// How much one room may remember. Whichever limit is reached first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Frames; 0 remembers nothing.
    pub frames_max: u32,
    /// Encoded bytes of all frames together.
    pub bytes_max: u32,
}

impl HistoryLimits {
    /// The most memory that one room's history takes: the bytes, and a ring of frames that grows by
    /// doubling. The few words that `Bytes` and the allocator add to a frame are not counted.
    pub const fn memory_bytes_max(self) -> usize {
        let slots = (self.frames_max as usize).next_power_of_two();
        let slots = if slots < RING_SLOTS_MIN { RING_SLOTS_MIN } else { slots };
        self.bytes_max as usize + slots * size_of::<Frame>()
    }
}

/// A ring of the latest frames, without a gap between them. The oldest goes first, whatever its
/// class: one order keeps `since` exact, and what must outlive the ring is for the history on disk.
#[derive(Debug)]
pub struct History {
    /// Allocated by the first frame, so that a silent room costs nothing.
    ring: VecDeque<Frame>,
    bytes: usize,
    limits: HistoryLimits,
}

impl History {
    /// Remembers nothing yet.
    pub fn new(limits: HistoryLimits) -> Self {
        Self { ring: VecDeque::new(), bytes: 0, limits }
    }

    /// Remembers the frame after the newest one and forgets what no longer fits. A frame that is
    /// larger than the limit leaves the ring empty: the limit is never exceeded for it.
    pub fn push(&mut self, frame: Frame) {
        assert!(
            self.ring.back().is_none_or(|newest| newest.seq + 1 == frame.seq),
            "history has no gaps"
        );
        let HistoryLimits { frames_max, bytes_max } = self.limits;
        let bytes_before = (bytes_max as usize).checked_sub(frame.bytes.len());
        let frames_before = (frames_max as usize).checked_sub(1);
        let (Some(bytes_before), Some(frames_before)) = (bytes_before, frames_before) else {
            self.ring.clear();
            self.bytes = 0;
            return;
        };
        // Room is made before the frame goes in, so that a full ring does not double for one frame.
        while self.ring.len() > frames_before || self.bytes > bytes_before {
            let oldest = self.ring.pop_front().expect("a ring over its limits holds a frame");
            self.bytes -= oldest.bytes.len();
        }
        self.bytes += frame.bytes.len();
        self.ring.push_back(frame);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.ring, self.bytes) = (VecDeque::new(), 0);
    }

    /// The oldest sequence number that is remembered.
    pub fn oldest(&self) -> Option<u64> {
        self.ring.front().map(|frame| frame.seq)
    }

    /// The frames after `seq`, or `None` when the one right after it is not here: forgotten, or not
    /// said yet. After the newest frame there are none, which is an answer.
    pub fn since(&self, seq: u64) -> Option<impl ExactSizeIterator<Item = &Frame>> {
        let skip = seq.checked_add(1)?.checked_sub(self.oldest()?)?;
        let skip = usize::try_from(skip).ok().filter(|&skip| skip <= self.ring.len())?;
        Some(self.ring.range(skip..))
    }

    /// Encoded bytes that are remembered.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it takes now, beside its own size: the encoded bytes and the ring's slots.
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.ring.capacity() * size_of::<Frame>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Class;
    use bytes::Bytes;

    fn frame(seq: u64, bytes: usize) -> Frame {
        let bytes = Bytes::from(vec![0; bytes]);
        Frame { seq, class: Class::P3, never_drop: false, category: 4, merged: None, bytes }
    }

    /// Pushes frames of `sizes`, numbered from 1, and checks which are remembered.
    fn check(frames_max: u32, bytes_max: u32, sizes: &[usize], expected: &[u64]) {
        let mut history = History::new(HistoryLimits { frames_max, bytes_max });
        for (seq, &bytes) in (1..).zip(sizes) {
            history.push(frame(seq, bytes));
        }
        let kept: Vec<u64> = history.ring.iter().map(|frame| frame.seq).collect();
        assert_eq!(kept, expected, "{frames_max} frames, {bytes_max} bytes, {sizes:?}");
        let bytes: usize = expected.iter().map(|&seq| sizes[seq as usize - 1]).sum();
        assert_eq!(history.bytes(), bytes);
    }

    #[test]
    fn the_oldest_goes_first() {
        check(3, 100, &[], &[]);
        check(3, 100, &[1, 1, 1], &[1, 2, 3]);
        check(3, 100, &[1, 1, 1, 1, 1], &[3, 4, 5]);
        check(9, 100, &[40, 60], &[1, 2]);
        check(9, 100, &[40, 60, 1], &[2, 3]);
        check(9, 100, &[30, 30, 30, 95], &[4]);
        check(0, 100, &[1, 1], &[]);
    }

    #[test]
    fn a_frame_over_the_limit_is_not_remembered_and_nothing_before_it() {
        check(9, 100, &[10, 101], &[]);
        check(9, 100, &[10, 101, 10], &[3]);
    }

    #[test]
    fn since_answers_only_when_nothing_is_missing() {
        let mut history = History::new(HistoryLimits { frames_max: 3, bytes_max: 100 });
        assert!(history.since(0).is_none(), "nothing is remembered");
        (1..=5).for_each(|seq| history.push(frame(seq, 1)));
        let answer = |seq| -> Option<Vec<u64>> {
            Some(history.since(seq)?.map(|frame| frame.seq).collect())
        };
        assert_eq!(history.oldest(), Some(3));
        assert_eq!(answer(1), None);
        assert_eq!(answer(2), Some(vec![3, 4, 5]));
        assert_eq!(answer(4), Some(vec![5]));
        assert_eq!(answer(5), Some(vec![]));
        assert_eq!(answer(6), None);
        assert_eq!(answer(u64::MAX), None);
    }

    #[test]
    fn the_ring_stays_within_the_memory_it_states() {
        for frames_max in [1, 3, 4, 5, 64, 100] {
            let limits = HistoryLimits { frames_max, bytes_max: 1_000 };
            let mut history = History::new(limits);
            (1..=300).for_each(|seq| history.push(frame(seq, 10)));
            let memory = history.ring.capacity() * size_of::<Frame>() + history.bytes();
            assert!(memory <= limits.memory_bytes_max(), "{frames_max} frames: {memory}");
        }
    }
}
