//! Receive buffers that the kernel picks from by itself.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

const PAGE_BYTES: usize = 4096;
/// Every data ring has one group of buffers.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// A ring of equal buffers, registered with one `io_uring`.
///
/// The memory is never freed: a kernel that winds a closed ring up may still write to it, and rings
/// live as long as the process.
pub(crate) struct Buffers {
    entries: NonNull<BufRingEntry>,
    data: NonNull<u8>,
    count: u16,
    bytes_each: usize,
    tail: u16,
}

impl Buffers {
    /// Registers `count` (a power of two) buffers with `ring`.
    pub(crate) fn register(ring: &IoUring, count: u16, bytes_each: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two() && bytes_each > 0);
        let entries = allocate::<BufRingEntry>(entries_layout(count));
        let data = allocate::<u8>(data_layout(count, bytes_each));
        let mut buffers = Self { entries, data, count, bytes_each, tail: 0 };
        // SAFETY: the entries are page-aligned, zeroed and `count` long, and are never freed.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                count,
                BUFFER_GROUP,
                0,
            )?;
        }
        for id in 0..count {
            buffers.put(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The first `len` bytes of buffer `id`, which the kernel has filled and not got back yet.
    pub(crate) fn filled(&mut self, id: u16, len: usize) -> &mut [u8] {
        assert!(id < self.count && len <= self.bytes_each, "the kernel names its own buffers");
        // SAFETY: the range is inside the data; the kernel gave the buffer to us and does not touch
        // it until `put`, and `&mut self` keeps any other slice away.
        unsafe {
            let start = self.data.as_ptr().add(usize::from(id) * self.bytes_each);
            std::slice::from_raw_parts_mut(start, len)
        }
    }

    /// Gives buffer `id` back; the kernel sees it after `publish`.
    pub(crate) fn put(&mut self, id: u16) {
        assert!(id < self.count);
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index < count`, and the kernel reads entries in front of the published tail
        // only, which this one is not.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(index);
            entry.set_addr(self.data.as_ptr().add(usize::from(id) * self.bytes_each) as u64);
            entry.set_len(self.bytes_each as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was put.
    pub(crate) fn publish(&mut self) {
        // SAFETY: the tail is a naturally aligned u16 inside the first entry; the kernel reads it
        // with acquire semantics, and only this thread writes it.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

fn entries_layout(count: u16) -> Layout {
    pages(usize::from(count) * size_of::<BufRingEntry>())
}

fn data_layout(count: u16, bytes_each: usize) -> Layout {
    pages(usize::from(count) * bytes_each)
}

fn pages(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, PAGE_BYTES).expect("buffer sizes are small constants")
}

fn allocate<T>(layout: Layout) -> NonNull<T> {
    // SAFETY: the layout is not empty: counts and sizes are positive.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory.cast()).unwrap_or_else(|| handle_alloc_error(layout))
}
