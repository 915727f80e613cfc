//! Memory that may be sent while it still grows.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::rc::Rc;

/// A fixed piece of memory that is only ever appended to. Slices of what was appended can be handed
/// to the kernel while more is appended behind them: bytes never move and never change.
pub struct Segment {
    bytes: NonNull<u8>,
    capacity: usize,
    len: Cell<usize>,
}

impl Segment {
    /// An empty segment with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Rc<Self> {
        Rc::new(Self::own(Vec::with_capacity(capacity)))
    }

    /// A segment that holds `bytes`.
    pub fn from_vec(bytes: Vec<u8>) -> Rc<Self> {
        Rc::new(Self::own(bytes))
    }

    fn own(bytes: Vec<u8>) -> Self {
        let mut bytes = ManuallyDrop::new(bytes);
        // A Vec's pointer is never null.
        let pointer = NonNull::new(bytes.as_mut_ptr()).unwrap_or(NonNull::dangling());
        Self { bytes: pointer, capacity: bytes.capacity(), len: Cell::new(bytes.len()) }
    }

    /// Bytes appended so far.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that can still be appended.
    pub fn room(&self) -> usize {
        self.capacity - self.len.get()
    }

    /// Appends `bytes`, or nothing when there is no room for all of them.
    #[must_use]
    pub fn append(&self, bytes: &[u8]) -> bool {
        let len = self.len.get();
        if bytes.len() > self.capacity - len {
            return false;
        }
        // SAFETY: `len + bytes.len() <= capacity`, so the target is inside the allocation. It lies
        // behind `len`, and slices are only ever given out in front of `len`, so nobody reads it;
        // `bytes` may itself be such a slice, and does not overlap for the same reason.
        unsafe {
            self.bytes.as_ptr().add(len).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        self.len.set(len + bytes.len());
        true
    }

    /// What was appended at `start..end`.
    pub fn bytes(&self, start: usize, end: usize) -> &[u8] {
        assert!(start <= end && end <= self.len.get(), "a slice ends where the segment does");
        // SAFETY: the range is inside the allocation and was written by `append` or came with the
        // Vec; it is never written again while `self` is shared, because `append` writes behind
        // `len` only and `clear` takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(start), end - start) }
    }

    /// Forgets what was appended. Needs the only reference, so no slice can be in flight.
    pub fn clear(&mut self) {
        self.len.set(0);
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: pointer, length and capacity are those of the Vec taken apart in `own`; bytes up
        // to `len` are initialised.
        drop(unsafe { Vec::from_raw_parts(self.bytes.as_ptr(), self.len.get(), self.capacity) });
    }
}

/// Bytes of a segment, to be sent. Keeps the segment alive for as long as the kernel may read it.
#[derive(Clone)]
pub struct SendSlice {
    segment: Rc<Segment>,
    start: u32,
    end: u32,
}

impl SendSlice {
    /// The bytes `start..end` of `segment`, which must have been appended already.
    pub fn new(segment: Rc<Segment>, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= segment.len() && end <= u32::MAX as usize);
        Self { segment, start: start as u32, end: end as u32 }
    }

    /// All of `bytes`.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self::new(Segment::from_vec(bytes), 0, end)
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.segment.bytes(self.start as usize, self.end as usize)
    }

    /// What is left after the first `count` bytes.
    pub fn skip(&self, count: usize) -> Self {
        let start = (self.start as usize + count).min(self.end as usize);
        Self::new(Rc::clone(&self.segment), start, self.end as usize)
    }

    /// Its first `count` bytes.
    pub fn first(&self, count: usize) -> Self {
        let end = (self.start as usize + count).min(self.end as usize);
        Self::new(Rc::clone(&self.segment), self.start as usize, end)
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }
}

impl fmt::Debug for SendSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendSlice({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_keep_their_bytes_while_the_segment_grows() {
        let segment = Segment::with_capacity(8);
        assert!(segment.append(b"abc"));
        let slice = SendSlice::new(Rc::clone(&segment), 0, 3);
        assert!(segment.append(slice.bytes()), "a segment may repeat itself");
        assert!(!segment.append(b"def"), "two bytes are left");
        assert!(segment.append(b"de"));
        assert_eq!(slice.bytes(), b"abc");
        assert_eq!(segment.bytes(0, 8), b"abcabcde");
        drop(segment);
        assert_eq!(slice.skip(1).bytes(), b"bc", "the slice keeps the memory alive");
    }

    #[test]
    fn a_segment_made_of_bytes_holds_them() {
        let slice = SendSlice::from_vec(b"hello".to_vec());
        assert_eq!((slice.len(), slice.bytes()), (5, &b"hello"[..]));
        assert!(slice.skip(9).is_empty());
    }
}
