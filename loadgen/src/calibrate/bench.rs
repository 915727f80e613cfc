//! One worker, as campaigns have it, against one sink.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::course;
use super::sink::{Play, Played, Sink};
use crate::clock::{SECOND_NS, now_ns, seconds_ns};
use crate::orders::{Books, Order, Report, What};
use crate::record::{Counts, Interval, Timings};
use crate::shared::{Shared, read};
use crate::worker::{self, Job};

/// The phases of [`course::scenario`].
const RAMP: usize = 0;
const LISTEN: usize = 1;
const REST: usize = 2;

/// How long all clients may take to connect.
const RAMP_MAX: Duration = Duration::from_secs(120);
/// How long a worker may take to say something that it was asked for.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long the last messages may be on their way.
const ARRIVE_NS_MAX: u64 = 2 * SECOND_NS;
const LOOK: Duration = Duration::from_millis(1);
/// Between the order and the first message.
const LEAD_NS: u64 = SECOND_NS / 20;

/// Cores of the two threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cores {
    /// The sink's.
    pub sink: Option<usize>,
    /// The worker's.
    pub worker: Option<usize>,
}

/// A worker and a sink.
pub struct Bench {
    clients: u32,
    sink: Sink,
    orders: Sender<Order>,
    reports: Receiver<Report>,
    shared: Arc<Shared>,
    worker: JoinHandle<()>,
    last_seq: u64,
}

/// What was seen in some time.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What was counted.
    pub counts: Counts,
    /// What was timed.
    pub timings: Timings,
    /// Share of its core that the worker used.
    pub busy: f64,
    /// How long it was.
    pub seconds: f64,
}

impl Bench {
    /// Starts both, with nobody connected.
    pub fn start(clients: u32, cores: Cores, stop: &Arc<AtomicBool>) -> Result<Self> {
        let sink = Sink::start(clients, cores.sink)?;
        let scenario = Arc::new(course::scenario(sink.address, clients));
        let shared = Shared::new(Arc::clone(stop));
        let ((orders, ordered), (said, reports)) = (channel(), channel());
        let job = Job {
            scenario,
            worker: 0,
            source: "worker-0".to_owned(),
            first: 0,
            count: clients,
            core: cores.worker,
            clock_offset_ns: 0,
        };
        let worker = worker::spawn(job, Arc::clone(&shared), ordered, said)?;
        Ok(Self { clients, sink, orders, reports, shared, worker, last_seq: 0 })
    }

    /// Connects all clients, as fast as it goes.
    pub fn ramp(&mut self) -> Result<Seen> {
        let began_ns = now_ns();
        self.order(Order::Phase { index: RAMP, from_ns: u64::MAX, to_ns: u64::MAX })?;
        self.order(Order::Connect { clients: self.clients, per_s: 0.0 })?;
        let mut intervals = Vec::new();
        let until = Instant::now() + RAMP_MAX;
        let ended_ns = loop {
            if self.shared.stopped() {
                bail!("stopped while clients connected");
            }
            match self.hear(until)? {
                What::Interval(interval) => intervals.push(*interval),
                What::Ramped => break now_ns(),
                other => bail!("the worker says {other:?} before it has ramped"),
            }
        };
        self.rest(RAMP, &mut intervals)?;
        let seen = sum(&intervals, RAMP, began_ns, ended_ns);
        if seen.counts.connected < u64::from(self.clients) {
            let (there, all) = (seen.counts.connected, self.clients);
            bail!("{there} of {all} clients got ready at the sink: see `doctor --clients {all}`");
        }
        Ok(seen)
    }

    /// Lets the sink play for so long, and every client listen.
    pub fn play(
        &mut self,
        per_s: f64,
        batch: u32,
        size: usize,
        secs: f64,
    ) -> Result<(Played, Seen)> {
        let from_ns = now_ns() + LEAD_NS;
        let to_ns = from_ns + seconds_ns(secs);
        self.order(Order::Phase { index: LISTEN, from_ns, to_ns })?;
        let before = read(&self.shared.delivered);
        self.sink.play(Play { per_s, batch, size, from_ns, to_ns })?;
        let played = self.sink.played(Duration::from_secs_f64(secs * 2.0) + ANSWER_MAX)?;
        self.last_seq = played.last_seq;
        let expected = before + played.sent * u64::from(self.clients);
        let give_up_ns = now_ns() + ARRIVE_NS_MAX;
        while read(&self.shared.delivered) < expected && now_ns() < give_up_ns {
            std::thread::sleep(LOOK);
        }
        let ended_ns = now_ns();
        let mut intervals = Vec::new();
        self.rest(LISTEN, &mut intervals)?;
        Ok((played, sum(&intervals, LISTEN, from_ns, ended_ns)))
    }

    /// Ends both.
    pub fn end(self) -> Result<Books> {
        let until_ns = now_ns() + ARRIVE_NS_MAX;
        self.order(Order::Drain { last_seqs: vec![self.last_seq], until_ns })?;
        let until = Instant::now() + ANSWER_MAX;
        let books = loop {
            match self.hear(until)? {
                What::Finished(books) => break *books,
                What::Interval(_) => {}
                other => bail!("the worker says {other:?} instead of its books"),
            }
        };
        self.worker.join().map_err(|_| anyhow!("a worker has panicked; that is a bug"))?;
        self.sink.end()?;
        Ok(books)
    }

    /// Waits for the last interval of `phase`.
    fn rest(&self, phase: usize, intervals: &mut Vec<Interval>) -> Result<()> {
        let ordered_ns = now_ns();
        self.order(Order::Phase { index: REST, from_ns: u64::MAX, to_ns: u64::MAX })?;
        let until = Instant::now() + ANSWER_MAX;
        loop {
            let What::Interval(interval) = self.hear(until)? else { continue };
            let last = interval.phase == phase && interval.to_ns >= ordered_ns;
            intervals.push(*interval);
            if last {
                return Ok(());
            }
        }
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).context("the worker has ended")
    }

    /// What the worker says next. It says something every second, so the bound is for all of it.
    fn hear(&self, until: Instant) -> Result<What> {
        let left = until.saturating_duration_since(Instant::now());
        let report = self.reports.recv_timeout(left).context("the worker takes too long")?;
        match report.what {
            What::Broken(why) => bail!("the worker has ended: {why}"),
            what => Ok(what),
        }
    }
}

/// Everything of one phase; `from_ns` and `to_ns` are when it happened.
fn sum(intervals: &[Interval], phase: usize, from_ns: u64, to_ns: u64) -> Seen {
    let (mut counts, mut timings) = (Counts::default(), Timings::default());
    let (mut busy_ns, mut all_ns) = (0.0, 0.0);
    for interval in intervals.iter().filter(|interval| interval.phase == phase) {
        counts.add(&interval.counts);
        timings.add(&interval.timings);
        // What lies before the first message is idleness.
        let idle_until_ns = interval.from_ns.max(from_ns);
        all_ns += interval.to_ns.saturating_sub(idle_until_ns) as f64;
        busy_ns += interval.busy * (interval.to_ns - interval.from_ns) as f64;
    }
    let busy = if all_ns > 0.0 { (busy_ns / all_ns).min(1.0) } else { 0.0 };
    let seconds = (to_ns - from_ns) as f64 / SECOND_NS as f64;
    Seen { counts, timings, busy, seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(phase: usize, from_ns: u64, to_ns: u64, busy: f64, delivered: u64) -> Interval {
        let counts = Counts { delivered, ..Counts::default() };
        let (source, timings) = (String::new(), Timings::default());
        Interval { source, phase, from_ns, to_ns, ready: 0, busy, counts, timings }
    }

    #[test]
    fn only_the_phase_counts_and_waiting_for_it_is_no_idleness() {
        let intervals = [
            interval(REST, 0, 100, 1.0, 1000),
            interval(LISTEN, 100, 200, 0.25, 5),
            interval(LISTEN, 200, 300, 0.75, 6),
        ];
        let seen = sum(&intervals, LISTEN, 150, 300);
        assert_eq!((seen.counts.delivered, seen.seconds), (11, 150e-9));
        assert!((seen.busy - 100.0 / 150.0).abs() < 1e-9, "{seen:?}");
    }
}
