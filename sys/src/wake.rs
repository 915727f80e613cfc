//! How one thread wakes another that sleeps on its ring.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes a sleeping thread; costs one load while it is awake.
///
/// The sleeper calls `sleep`, looks for work once more, and only then waits on the eventfd. The
/// other side queues its work first and then calls `wake`. The fences make sure that at least one
/// of the two sees the other.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asleep: AtomicBool,
    eventfd: OwnedFd,
}

impl Waker {
    /// A waker for the calling thread's ring.
    pub fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Inner { asleep: AtomicBool::new(false), eventfd })))
    }

    /// To be called after work was queued.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::AcqRel) {
            self.signal();
        }
    }

    /// Wakes the sleeper whatever it does.
    pub fn signal(&self) {
        // The counter can only refuse at 2^64 - 2, and then the sleeper is awake anyway.
        let _ = rustix::io::write(&self.0.eventfd, &1u64.to_ne_bytes());
    }

    /// Says that the caller is about to sleep; it must look for work once more after this.
    pub fn sleep(&self) {
        self.0.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the caller is awake.
    pub fn awake(&self) {
        self.0.asleep.store(false, Ordering::Relaxed);
    }

    /// The descriptor to wait on.
    pub fn raw_fd(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.eventfd.as_fd()
    }
}
