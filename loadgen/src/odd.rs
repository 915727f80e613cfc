//! Odd clients, on a thread of their own: those who read slowly, and those who do what no client
//! should.
//!
//! A slow reader is accounted for like everybody else, only on its own: what the gateway leaves out
//! for it must be declared, and what it missed when it was thrown out must come when it is back. A
//! rascal is not accounted for: how each of its connections ended is counted, and it publishes in
//! rooms that nobody else is in, so that nobody's books are disturbed.

mod link;
mod rascal;
mod slow;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use crate::clock::{SECOND_NS, now_ns};
use crate::ledger::{Epochs, Tally};
use crate::orders::{Books, Order, Report, What};
use crate::procfs;
use crate::random::Random;
use crate::record::{Counts, Interval, Timings};
use crate::scenario::Scenario;
use crate::scenario::layout::Layout;
use crate::sources::Sources;
use link::Link;
use rascal::Rascal;
use slow::Slow;

/// How long the thread sleeps at most: slow readers may read a little, or an act is due.
const TICK_NS: i64 = 10_000_000;
/// Bytes that are received at once.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Different ends of connections that are told apart.
const FAULTS_MAX: usize = 100;
const FAULT_OTHER: &str = "other reasons";

/// Starts the odd clients of a scenario; they connect at once. The thread hears `Phase`, `Drain` and
/// `Stop`; it reports intervals as `slow` and `misbehaving`, each with a place of its own among all
/// who report, and `Finished` for both at the end.
pub fn spawn(
    scenario: Arc<Scenario>,
    places: [usize; 2],
    orders: Receiver<Order>,
    reports: Sender<Report>,
) -> Result<JoinHandle<()>> {
    let target = scenario.target.tcp.context("odd clients speak TCP: give target.tcp")?;
    let slow = scenario.clients.slow.map_or(0, |slow| slow.count);
    let rascals = scenario.clients.misbehaving.as_ref().map_or(0, |rascals| rascals.count);
    let given = &scenario.clients.sources;
    let sources = Sources::plan(given, target, slow + rascals, procfs::local_ports()?)?;
    let layout = Layout::new(scenario.rooms, scenario.seed);
    let first = scenario.clients.count;
    let crowd = Crowd {
        slow: (0..slow).map(|nth| Slow::new(first + nth, nth, &scenario, &layout)).collect(),
        rascals: (0..rascals).map(|nth| Rascal::new(first + slow + nth, nth)).collect(),
        world: World {
            target,
            sources,
            now_ns: now_ns(),
            ending: None,
            random: Random::new(scenario.seed),
            buffer: vec![0; RECEIVE_BYTES],
            slow: Group::default(),
            rascals: Group::default(),
            tally: Tally::default(),
            epochs: Epochs::default(),
            scenario,
        },
        desk: Desk { places, orders, reports, phase: 0, interval_from_ns: now_ns(), cpu_ns: 0 },
    };
    let thread = std::thread::Builder::new().name("odd".to_owned());
    thread.spawn(move || crowd.run()).context("cannot start the thread of the odd clients")
}

/// All odd clients.
struct Crowd {
    slow: Vec<Slow>,
    rascals: Vec<Rascal>,
    world: World,
    desk: Desk,
}

/// What the odd clients share.
struct World {
    scenario: Arc<Scenario>,
    target: SocketAddr,
    sources: Sources,
    now_ns: u64,
    /// The last number of each room and the latest moment, once nothing more is published.
    ending: Option<(Vec<u64>, u64)>,
    random: Random,
    buffer: Vec<u8>,
    slow: Group,
    rascals: Group,
    /// What became of the slow readers' messages.
    tally: Tally,
    /// The epochs that they have seen.
    epochs: Epochs,
}

/// What one sort of odd clients has counted.
#[derive(Default)]
struct Group {
    counts: Counts,
    /// What of that was reported.
    reported: Counts,
    ready: u64,
    faults: BTreeMap<String, u64>,
}

impl Group {
    /// Remembers how a connection has ended, or what else is worth a number.
    fn fault(&mut self, why: String) {
        let full = self.faults.len() >= FAULTS_MAX && !self.faults.contains_key(&why);
        *self.faults.entry(if full { FAULT_OTHER.to_owned() } else { why }).or_default() += 1;
    }

    fn books(&mut self, bytes_per_client: u64) -> Books {
        Books {
            counts: self.counts,
            faults: std::mem::take(&mut self.faults).into_iter().collect(),
            watches: Vec::new(),
            bytes_per_client,
        }
    }
}

/// Where orders come from and reports go to.
struct Desk {
    places: [usize; 2],
    orders: Receiver<Order>,
    reports: Sender<Report>,
    phase: usize,
    interval_from_ns: u64,
    cpu_ns: u64,
}

impl World {
    /// The connection of client `k` begins.
    fn connect(&self, k: u32, receive_bytes: Option<u32>) -> std::io::Result<Link> {
        Link::begin(self.target, self.sources.of(k), receive_bytes)
    }

    /// What client `k` shows.
    fn token(&self, k: u32) -> String {
        self.scenario.clients.token.replace("{user}", &(u64::from(k) + 1).to_string())
    }
}

impl Crowd {
    fn run(mut self) {
        loop {
            if self.hear() {
                return self.finish();
            }
            self.wait_and_serve();
            if self.world.now_ns >= self.desk.interval_from_ns + SECOND_NS {
                self.report();
            }
            if let Some((_, until_ns)) = self.world.ending {
                let done = self.slow.iter().all(|slow| slow.is_done(&self.world));
                if done || self.world.now_ns >= until_ns {
                    return self.finish();
                }
            }
        }
    }

    /// Takes orders; says whether to end now.
    fn hear(&mut self) -> bool {
        loop {
            match self.desk.orders.try_recv() {
                Ok(Order::Phase { index, .. }) => {
                    self.report();
                    self.desk.phase = index;
                }
                Ok(Order::Drain { last_seqs, until_ns }) => {
                    self.world.ending = Some((last_seqs, until_ns));
                    self.rascals.clear();
                    self.world.rascals.ready = 0;
                }
                // They come and go on their own.
                Ok(Order::Connect { .. } | Order::Churn(_) | Order::Disconnect(_)) => {}
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => return false,
            }
        }
    }

    /// Waits for something to happen to a connection, or a little, and gives everybody a turn.
    fn wait_and_serve(&mut self) {
        let now_ns = self.world.now_ns;
        let ending = self.world.ending.is_some();
        let slow = self.slow.iter().map(|slow| slow.waits_for(now_ns, ending));
        let links = slow.chain(self.rascals.iter().map(Rascal::waits_for));
        // Whoever waits for nothing must not be in the list: the kernel tells errors unasked.
        let mut polled: Vec<Option<usize>> = Vec::with_capacity(self.slow.len());
        let mut fds = Vec::with_capacity(self.slow.len());
        for waits in links {
            polled.push(waits.map(|(link, flags)| {
                fds.push(PollFd::from_borrowed_fd(link.socket().as_fd(), flags));
                fds.len() - 1
            }));
        }
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK_NS };
        // When it fails nothing is known to have happened, and everybody still has a turn.
        let _ = poll(&mut fds, Some(&tick));
        let happened: Vec<PollFlags> =
            polled.iter().map(|at| at.map_or(PollFlags::empty(), |at| fds[at].revents())).collect();
        self.world.now_ns = crate::clock::now_ns();
        let (of_slow, of_rascals) = happened.split_at(self.slow.len());
        for (slow, happened) in self.slow.iter_mut().zip(of_slow) {
            slow.turn(*happened, &mut self.world);
        }
        for (rascal, happened) in self.rascals.iter_mut().zip(of_rascals) {
            rascal.turn(*happened, &mut self.world);
        }
    }

    fn report(&mut self) {
        let Self { world, desk, .. } = self;
        world.now_ns = now_ns();
        world.slow.counts = with_tally(world.slow.counts, &world.tally);
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        let cpu_ns = cpu.tv_sec as u64 * SECOND_NS + cpu.tv_nsec as u64;
        let elapsed_ns = world.now_ns.saturating_sub(desk.interval_from_ns).max(1);
        let busy = cpu_ns.saturating_sub(desk.cpu_ns) as f64 / elapsed_ns as f64;
        let exist = [!self.slow.is_empty(), world.scenario.clients.misbehaving.is_some()];
        let groups = [("slow", &mut world.slow), ("misbehaving", &mut world.rascals)];
        for (((name, group), worker), exists) in groups.into_iter().zip(desk.places).zip(exist) {
            if !exists {
                continue;
            }
            let interval = Interval {
                source: name.to_owned(),
                phase: desk.phase,
                from_ns: desk.interval_from_ns,
                to_ns: world.now_ns,
                ready: group.ready,
                busy,
                counts: group.counts.since(&group.reported),
                timings: Timings::default(),
            };
            group.reported = group.counts;
            // A leader that has gone needs no report.
            let _ = desk.reports.send(Report { worker, what: What::Interval(Box::new(interval)) });
        }
        desk.interval_from_ns = world.now_ns;
        desk.cpu_ns = cpu_ns;
    }

    fn finish(mut self) {
        for slow in &mut self.slow {
            slow.finish(&mut self.world);
        }
        self.report();
        let books = [
            self.world.slow.books(size_of::<Slow>() as u64),
            self.world.rascals.books(size_of::<Rascal>() as u64),
        ];
        for (books, worker) in books.into_iter().zip(self.desk.places) {
            let what = What::Finished(Box::new(books));
            let _ = self.desk.reports.send(Report { worker, what });
        }
    }
}

/// The same counts with what became of messages by now.
fn with_tally(counts: Counts, tally: &Tally) -> Counts {
    Counts {
        delivered: tally.delivered,
        declared_shed: tally.declared_shed,
        declared_reset: tally.declared_reset,
        disconnected: tally.disconnected,
        unexplained: tally.unexplained,
        duplicate: tally.duplicate,
        reordered: tally.reordered,
        over_declared: tally.over_declared,
        resets: tally.resets,
        stray: tally.stray,
        ..counts
    }
}
