//! The publisher's intervals: what was counted and timed since the last one.

use std::sync::mpsc::Sender;
use std::time::Duration;

use barrage_sys::thread_cpu_time;

use crate::clock::SECOND_NS;
use crate::orders::{Report, What};
use crate::record::{Counts, Interval, Timings};

/// How long an interval is.
const INTERVAL_NS: u64 = SECOND_NS;
/// Of a shorter interval its share of processor time says nothing; it is told as the one before was.
const BUSY_NS_MIN: u64 = SECOND_NS / 10;
const NS_PER_US: u64 = 1000;
const SOURCE: &str = "publisher";

/// Where intervals go.
pub struct Reporter {
    reports: Sender<Report>,
    worker: usize,
    /// The interval under way; none before the first phase.
    open: Option<Open>,
    /// What was told so far.
    told: Counts,
    timings: Timings,
    busy: f64,
    /// Whether nobody listens any more.
    pub is_unheard: bool,
}

struct Open {
    phase: usize,
    from_ns: u64,
    cpu: Duration,
}

impl Reporter {
    /// For who reports at that place.
    pub fn new(reports: Sender<Report>, worker: usize) -> Self {
        let (open, told, timings) = (None, Counts::default(), Timings::default());
        Self { reports, worker, open, told, timings, busy: 0.0, is_unheard: false }
    }

    /// A message was sent so much later than intended.
    pub fn lag(&mut self, ns: u64) {
        self.timings.lag.saturating_record(ns / NS_PER_US);
    }

    /// An answer came so long after its message was to be sent.
    pub fn answer(&mut self, ns: u64) {
        self.timings.answer.saturating_record(ns / NS_PER_US);
    }

    /// Whether an interval is over.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.open.as_ref().is_some_and(|open| now_ns >= open.from_ns + INTERVAL_NS)
    }

    /// Tells what has come since the last interval; the next one begins, in the same phase.
    pub fn tell(&mut self, counts: &Counts, now_ns: u64) {
        let cpu = thread_cpu_time();
        let Some(open) = &mut self.open else { return };
        let elapsed_ns = now_ns.saturating_sub(open.from_ns);
        if elapsed_ns >= BUSY_NS_MIN {
            self.busy = (cpu - open.cpu).as_nanos() as f64 / elapsed_ns as f64;
        }
        let interval = Interval {
            source: SOURCE.to_owned(),
            phase: open.phase,
            from_ns: open.from_ns,
            to_ns: now_ns,
            ready: 0,
            busy: self.busy,
            counts: counts.since(&self.told),
            timings: std::mem::take(&mut self.timings),
        };
        (open.from_ns, open.cpu, self.told) = (now_ns, cpu, *counts);
        self.say(What::Interval(Box::new(interval)));
    }

    /// From now on intervals belong to another phase.
    pub fn turn(&mut self, phase: usize, counts: &Counts, now_ns: u64) {
        self.tell(counts, now_ns);
        self.open = Some(Open { phase, from_ns: now_ns, cpu: thread_cpu_time() });
    }

    /// The thread ends because of an error.
    pub fn broken(&mut self, why: &str) {
        self.say(What::Broken(why.to_owned()));
    }

    fn say(&mut self, what: What) {
        let report = Report { worker: self.worker, what };
        self.is_unheard |= self.reports.send(report).is_err();
    }
}
