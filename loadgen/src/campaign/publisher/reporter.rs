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
    /// What was told so far, by phase.
    told: Vec<Counts>,
    /// What was timed since, by phase.
    timings: Vec<Option<Box<Timings>>>,
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
    /// For who reports at that place, of so many phases.
    pub fn new(reports: Sender<Report>, worker: usize, phases: usize) -> Self {
        let (told, timings) = (vec![Counts::default(); phases], vec![None; phases]);
        Self { reports, worker, open: None, told, timings, busy: 0.0, is_unheard: false }
    }

    /// A message of a phase was sent so much later than intended.
    pub fn lag(&mut self, phase: usize, ns: u64) {
        self.timings(phase).lag.saturating_record(ns / NS_PER_US);
    }

    /// An answer came so long after its message, of a phase, was to be sent.
    pub fn answer(&mut self, phase: usize, ns: u64) {
        self.timings(phase).answer.saturating_record(ns / NS_PER_US);
    }

    fn timings(&mut self, phase: usize) -> &mut Timings {
        self.timings[phase].get_or_insert_default()
    }

    /// Whether an interval is over.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.open.as_ref().is_some_and(|open| now_ns >= open.from_ns + INTERVAL_NS)
    }

    /// Tells what has come since the last interval, by phase; the next one begins, in the same
    /// phase. A phase that is over has an interval of its own if anything has come of it.
    pub fn tell(&mut self, counts: &[Counts], now_ns: u64) {
        let cpu = thread_cpu_time();
        let Some(open) = &mut self.open else { return };
        let (present, from_ns) = (open.phase, open.from_ns);
        let elapsed_ns = now_ns.saturating_sub(from_ns);
        if elapsed_ns >= BUSY_NS_MIN {
            self.busy = (cpu - open.cpu).as_nanos() as f64 / elapsed_ns as f64;
        }
        (open.from_ns, open.cpu) = (now_ns, cpu);
        for (phase, counts) in counts.iter().enumerate() {
            let timings = self.timings[phase].take();
            let told = std::mem::replace(&mut self.told[phase], *counts);
            if phase != present && timings.is_none() && *counts == told {
                continue;
            }
            let interval = Interval {
                source: SOURCE.to_owned(),
                phase,
                from_ns,
                to_ns: now_ns,
                ready: 0,
                busy: self.busy,
                counts: counts.since(&told),
                timings: timings.map(|timings| *timings).unwrap_or_default(),
            };
            self.say(What::Interval(Box::new(interval)));
        }
    }

    /// From now on intervals belong to another phase.
    pub fn turn(&mut self, phase: usize, counts: &[Counts], now_ns: u64) {
        self.tell(counts, now_ns);
        self.open = Some(Open { phase, from_ns: now_ns, cpu: thread_cpu_time() });
    }

    /// The thread ends because of an error; whether it is that the target has gone.
    pub fn broken(&mut self, why: &str, target_lost: bool) {
        let why = why.to_owned();
        self.say(if target_lost { What::Lost(why) } else { What::Broken(why) });
    }

    fn say(&mut self, what: What) {
        let report = Report { worker: self.worker, what };
        self.is_unheard |= self.reports.send(report).is_err();
    }
}
