//! What the threads of a run tell each other: a few numbers, each written by one of them.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::clock::now_ns;

/// The part of a run that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When sending begins: the warm-up.
    pub start_ns: u64,
    /// When measuring begins.
    pub from_ns: u64,
    /// When sending and measuring end.
    pub to_ns: u64,
}

/// What all clients are to do after the ramp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Join the rooms of the plan.
    Join,
    /// Leave them.
    Leave,
}

/// Numbers of a run that several threads look at.
#[derive(Debug)]
pub struct Shared {
    stop: Arc<AtomicBool>,
    /// Clients that are where the run wants them.
    pub ready: AtomicU64,
    /// Clients that never got there.
    pub failed: AtomicU64,
    /// Clients whose connection has ended after they were ready.
    pub lost: AtomicU64,
    /// Deliveries so far.
    pub delivered: AtomicU64,
    /// Messages of all rooms whose fate is known, of each room as many as its members know of on
    /// average; kept for windows alone.
    pub progress: AtomicU64,
    /// Rooms that clients were sent to join, and have.
    pub joined: AtomicU64,
    /// Rooms that clients were sent to leave, and have.
    pub left: AtomicU64,
    /// Joins and leaves that the gateway has refused.
    pub errands_refused: AtomicU64,
    errand: AtomicU8,
    /// Set when every client is ready or has failed.
    ramped: AtomicBool,
    finished: AtomicBool,
    span: [AtomicU64; 3],
    /// The last sequence number of each room; not set while more may come.
    last_seqs: OnceLock<Vec<u64>>,
    drain_until_ns: AtomicU64,
}

impl Shared {
    /// For a run that ends early when `stop` is set.
    pub fn new(stop: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            stop,
            ready: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            left: AtomicU64::new(0),
            errands_refused: AtomicU64::new(0),
            errand: AtomicU8::new(0),
            ramped: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            span: [const { AtomicU64::new(0) }; 3],
            last_seqs: OnceLock::new(),
            drain_until_ns: AtomicU64::new(0),
        })
    }

    /// Whether the run is to end now.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Says that the ramp is over.
    pub fn set_ramped(&self) {
        self.ramped.store(true, Ordering::Release);
    }

    /// Whether the ramp is over.
    pub fn ramped(&self) -> bool {
        self.ramped.load(Ordering::Acquire)
    }

    /// Says that the clients are done, and with that everything.
    pub fn set_finished(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Whether everything is done.
    pub fn finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Says when to send and to measure.
    pub fn set_span(&self, span: Span) {
        self.span[2].store(span.to_ns, Ordering::Relaxed);
        self.span[1].store(span.from_ns, Ordering::Relaxed);
        self.span[0].store(span.start_ns, Ordering::Release);
    }

    /// When to send and to measure, once that is known.
    pub fn span(&self) -> Option<Span> {
        let start_ns = self.span[0].load(Ordering::Acquire);
        (start_ns > 0).then(|| Span {
            start_ns,
            from_ns: self.span[1].load(Ordering::Relaxed),
            to_ns: self.span[2].load(Ordering::Relaxed),
        })
    }

    /// Sends all clients to do something.
    pub fn send_to(&self, errand: Errand) {
        let number = match errand {
            Errand::Join => 1,
            Errand::Leave => 2,
        };
        self.errand.store(number, Ordering::Release);
    }

    /// What all clients are to do.
    pub fn errand(&self) -> Option<Errand> {
        match self.errand.load(Ordering::Acquire) {
            1 => Some(Errand::Join),
            2 => Some(Errand::Leave),
            _ => None,
        }
    }

    /// Says that nothing after the last number of each room will come, and how long to wait for
    /// what is missing. It can be said once.
    pub fn drain(&self, last_seqs: Vec<u64>, until_ns: u64) {
        self.drain_until_ns.store(until_ns, Ordering::Relaxed);
        let first = self.last_seqs.set(last_seqs);
        assert!(first.is_ok(), "a run ends once");
    }

    /// The last messages, once they are known, and whether there is still time to wait for them.
    pub fn draining(&self) -> Option<(&[u64], bool)> {
        let last_seqs = self.last_seqs.get()?;
        let until_ns = self.drain_until_ns.load(Ordering::Relaxed);
        Some((last_seqs, now_ns() < until_ns))
    }
}

/// Reads a number that another thread writes.
pub fn read(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

/// Lets other threads see a number.
pub fn write(number: &AtomicU64, value: u64) {
    number.store(value, Ordering::Relaxed);
}
