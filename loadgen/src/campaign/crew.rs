//! Everybody who works for the leader of a campaign.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use barrage_sys::cores_online;

use crate::agent::lead::{self, Remote, RemoteClock};
use crate::campaign::publisher::{self, Desk, Published, Say};
use crate::campaign::shares::{self, Part};
use crate::odd;
use crate::orders::{Order, Report};
use crate::scenario::Scenario;
use crate::scenario::file::Loaded;
use crate::shared::Shared;
use crate::worker::{self, Job};

/// Those who work.
pub struct Crew {
    /// Who have clients, by their place in reports.
    pub hands: Vec<Hand>,
    /// Who publishes.
    pub publisher: Option<Speaker>,
    /// The odd clients.
    pub odd: Option<Sender<Order>>,
    /// What all of them say.
    pub reports: Receiver<Report>,
    /// Other machines' clocks.
    pub clocks: Vec<RemoteClock>,
    /// Ends local workers at once.
    pub stop: Arc<AtomicBool>,
    /// Everybody's threads, but the publisher's.
    pub threads: Vec<JoinHandle<()>>,
}

/// One who has clients.
pub struct Hand {
    /// What it is told.
    pub orders: Sender<Order>,
    /// Its clients.
    pub part: Part,
    /// Its name in reports.
    pub source: String,
    /// What it tells the publisher; for an agent the leader does.
    pub shared: Arc<Shared>,
    /// Whether it is on another machine.
    pub is_remote: bool,
}

/// The publishing thread.
pub struct Speaker {
    /// What it is told.
    pub says: Sender<Say>,
    /// What it leaves.
    pub thread: JoinHandle<Result<Published>>,
}

/// The places of the publisher and of the two kinds of odd clients come after the hands'.
const PLACES_AFTER: usize = 1;

/// Calls the agents and starts everybody else.
pub fn hire(loaded: &Loaded, agents: &[String], token: &str) -> Result<Crew> {
    let scenario = Arc::new(loaded.scenario.clone());
    let remotes = agents.iter().map(|address| Remote::connect(address, token));
    let remotes = remotes.collect::<Result<Vec<_>>>()?;
    tell_apart(remotes.iter().map(Remote::name))?;
    // With agents this machine only leads and publishes: it may be a small one.
    let cores = if remotes.is_empty() { worker_cores(&scenario) } else { Vec::new() };
    let weights: Vec<u32> =
        cores.iter().map(|_| 1).chain(remotes.iter().map(Remote::cores)).collect();
    let parts = shares::divide(scenario.clients.count, &weights);
    let (to, reports) = channel();
    let mut crew = Crew {
        hands: Vec::new(),
        publisher: None,
        odd: None,
        reports,
        clocks: remotes.iter().map(Remote::watched_clock).collect(),
        stop: Arc::new(AtomicBool::new(false)),
        threads: Vec::new(),
    };
    let hired = crew.fill(loaded, &scenario, &parts, &cores, remotes, &to);
    if hired.is_err() {
        crew.dismiss();
    }
    hired.map(|()| crew)
}

impl Crew {
    fn fill(
        &mut self,
        loaded: &Loaded,
        scenario: &Arc<Scenario>,
        parts: &[Part],
        cores: &[Option<usize>],
        remotes: Vec<Remote>,
        to: &Sender<Report>,
    ) -> Result<()> {
        let (local, far) = parts.split_at(cores.len());
        for (&part, &core) in local.iter().zip(cores) {
            let source = format!("worker-{}", self.hands.len());
            let job = self.job(scenario, part, &source, core);
            let (shared, orders) = self.add(part, source, false);
            self.threads.push(worker::spawn(job, shared, orders, to.clone())?);
        }
        for (&part, remote) in far.iter().zip(remotes) {
            let source = remote.name().to_owned();
            let job = self.job(scenario, part, &source, None);
            let (_, orders) = self.add(part, source, true);
            self.threads.push(lead::spawn(remote, loaded, job, orders, to.clone())?);
        }
        let place = self.hands.len();
        if scenario.clients.slow.is_some() || scenario.clients.misbehaving.is_some() {
            let (says, orders) = channel();
            let places = [place + PLACES_AFTER, place + PLACES_AFTER + 1];
            self.threads.push(odd::spawn(Arc::clone(scenario), places, orders, to.clone())?);
            self.odd = Some(says);
        }
        if scenario.phases.iter().any(|phase| !phase.streams.is_empty()) {
            let desk = Desk {
                scenario: Arc::clone(scenario),
                core: scenario.generator.publisher_core,
                workers: self.hands.iter().map(|hand| Arc::clone(&hand.shared)).collect(),
                worker: place,
            };
            let (says, said) = channel();
            let thread = publisher::spawn(desk, said, to.clone())?;
            self.publisher = Some(Speaker { says, thread });
        }
        Ok(())
    }

    fn job(&self, scenario: &Arc<Scenario>, part: Part, source: &str, core: Option<usize>) -> Job {
        Job {
            scenario: Arc::clone(scenario),
            worker: self.hands.len(),
            source: source.to_owned(),
            first: part.first,
            count: part.count,
            core,
            clock_offset_ns: 0,
        }
    }

    fn add(
        &mut self,
        part: Part,
        source: String,
        is_remote: bool,
    ) -> (Arc<Shared>, Receiver<Order>) {
        let shared = Shared::new(Arc::clone(&self.stop));
        let (orders, ordered) = channel();
        let hand = Hand { orders, part, source, shared: Arc::clone(&shared), is_remote };
        self.hands.push(hand);
        (shared, ordered)
    }

    /// Tells all who have clients.
    pub fn order(&self, order: &Order) {
        for hand in &self.hands {
            // One that has ended has said why.
            let _ = hand.orders.send(order.clone());
        }
    }

    /// Tells the odd clients.
    pub fn order_odd(&self, order: Order) {
        if let Some(odd) = &self.odd {
            let _ = odd.send(order);
        }
    }

    /// Tells the publisher.
    pub fn say(&self, say: Say) {
        if let Some(publisher) = &self.publisher {
            let _ = publisher.says.send(say);
        }
    }

    /// Ends everybody who is still there. Threads that do not end are left to the process's end.
    pub fn dismiss(&self) {
        self.order(&Order::Stop);
        self.order_odd(Order::Stop);
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Figures are kept by name, so no two agents may have the same.
fn tell_apart<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut known = HashSet::new();
    for name in names {
        if !known.insert(name) {
            bail!("two agents are called {name}: start one of them with another `--name`");
        }
    }
    Ok(())
}

/// The cores of the network threads of this machine.
fn worker_cores(scenario: &Scenario) -> Vec<Option<usize>> {
    let target = &scenario.target;
    let addresses = [target.tcp, target.ws].into_iter().flatten();
    let is_here = addresses.map(|address| address.ip()).any(is_own);
    let clients = scenario.clients.count.max(1) as usize;
    let generator = &scenario.generator;
    let mut cores = choose(&cores_online(), generator.workers as usize, &generator.cores, is_here);
    cores.truncate(clients);
    cores
}

/// Whether an address is this machine's: one that it can listen on.
fn is_own(address: IpAddr) -> bool {
    address.is_loopback() || std::net::TcpListener::bind((address, 0)).is_ok()
}

/// As many workers as were asked for; else one on the highest core beside a target that is here, and
/// all but the lowest core for one that is elsewhere.
fn choose(
    online: &[usize],
    workers: usize,
    given: &[usize],
    target_is_here: bool,
) -> Vec<Option<usize>> {
    let wanted = match workers {
        0 if !given.is_empty() => given.len(),
        0 if target_is_here => 1,
        0 => online.len().saturating_sub(1).max(1),
        workers => workers,
    };
    let mut free: Vec<usize> =
        if given.is_empty() { online.iter().rev().copied().collect() } else { given.to_vec() };
    // On a machine with one core everybody shares it, and the kernel knows best how.
    if given.is_empty() && online.len() < 2 {
        free.clear();
    }
    let places = (0..wanted).map(|nth| (!free.is_empty()).then(|| free[nth % free.len()]));
    places.collect()
}

/// Waits for the publisher's books.
pub fn join(speaker: Speaker) -> Result<Published> {
    let joined = speaker.thread.join();
    let result = joined.map_err(|_| {
        anyhow::anyhow!("the publishing thread has panicked; that is a bug of barrage-loadgen")
    })?;
    result.context("publishing has failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_have_the_highest_cores_and_leave_one_to_others() {
        let some = |cores: &[usize]| cores.iter().map(|&core| Some(core)).collect::<Vec<_>>();
        let online = [0, 1, 2, 3];
        assert_eq!(choose(&online, 0, &[], true), some(&[3]));
        assert_eq!(choose(&online, 0, &[], false), some(&[3, 2, 1]));
        assert_eq!(choose(&online, 2, &[], true), some(&[3, 2]));
        assert_eq!(choose(&online, 0, &[1, 2], true), some(&[1, 2]));
        assert_eq!(choose(&online, 3, &[1, 2], true), some(&[1, 2, 1]));
        assert_eq!(choose(&[0], 0, &[], false), [None]);
    }

    #[test]
    fn two_agents_of_one_name_are_refused() {
        assert!(tell_apart(["a", "b", "a2"].into_iter()).is_ok());
        let error = tell_apart(["a", "b", "a"].into_iter()).unwrap_err().to_string();
        assert!(error.contains("two agents are called a"), "{error}");
    }

    #[test]
    fn an_address_of_this_machine_is_known() {
        assert!(is_own("127.3.2.1".parse().unwrap()));
        assert!(!is_own("192.0.2.10".parse().unwrap()));
    }
}
