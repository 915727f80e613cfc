//! The target seen from outside: whether it is there, and once a second what it uses.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::{SECOND_NS, now_ns, until};
use crate::exit::TargetLost;
use crate::gateway::Gateway;
use crate::record::kept::TargetSample;
use crate::scenario::{Scenario, Target};
use crate::upstream::UpstreamAddress;

/// How long the target may take to take a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Samples that wait for the leader; more than it ever lets wait.
const SAMPLES_MAX: usize = 64;
/// How long the sampler sleeps at most, so that it ends soon.
const NAP: Duration = Duration::from_millis(100);

/// Looks at the target until it is dropped.
pub struct Sampler {
    samples: Receiver<Option<TargetSample>>,
    over: Arc<AtomicBool>,
}

impl Sampler {
    /// Begins, if the scenario says where to look; fails when nothing is to be seen there.
    pub fn start(target: &Target) -> Result<Option<Self>> {
        let gateway = Gateway { pid: target.pid, metrics: target.metrics };
        if gateway.pid.is_none() && gateway.metrics.is_none() {
            return Ok(None);
        }
        gateway.check().context("the target cannot be watched")?;
        let (to, samples) = sync_channel(SAMPLES_MAX);
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let body = move || {
            let mut next_ns = now_ns();
            while !is_over.load(Ordering::Relaxed) {
                let left = until(next_ns);
                if !left.is_zero() {
                    std::thread::sleep(left.min(NAP));
                    continue;
                }
                // A page that was late is not made up for.
                next_ns = now_ns() + SECOND_NS;
                let sample = gateway.look().ok();
                // When the leader lets so many wait, the next one says the same.
                let _ = to.try_send(sample);
            }
        };
        let builder = std::thread::Builder::new().name("target".to_owned());
        builder.spawn(body).context("cannot start the thread that watches the target")?;
        Ok(Some(Self { samples, over }))
    }

    /// What was seen since the last time; none: it did not answer.
    pub fn seen(&self) -> impl Iterator<Item = Option<TargetSample>> + '_ {
        self.samples.try_iter()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Whether everything that the scenario connects to takes connections.
pub fn reach(scenario: &Scenario) -> Result<(), TargetLost> {
    let target = &scenario.target;
    let upstream = match &target.upstream {
        Some(UpstreamAddress::Tcp(address)) => Some(*address),
        Some(UpstreamAddress::Unix(_)) | None => None,
    };
    let publishes = scenario.phases.iter().any(|phase| !phase.streams.is_empty());
    // Only doors that somebody goes through.
    let ws_percent = scenario.clients.ws_percent;
    let tcp = target.tcp.filter(|_| ws_percent < 100.0);
    let ws = target.ws.filter(|_| ws_percent > 0.0);
    let doors = [tcp, ws, upstream.filter(|_| publishes)];
    doors.into_iter().flatten().try_for_each(knock)
}

fn knock(address: SocketAddr) -> Result<(), TargetLost> {
    let refused = |error| TargetLost(format!("{address} takes no connection: {error}"));
    TcpStream::connect_timeout(&address, CONNECT_MAX).map(drop).map_err(refused)
}

/// The target in a line.
pub fn name(target: &Target) -> String {
    let doors = [("tcp", target.tcp), ("ws", target.ws)];
    let doors = doors.iter().filter_map(|(name, door)| Some(format!("{name} {}", (*door)?)));
    let doors: Vec<String> = doors.collect();
    format!("{:?} at {}", target.protocol, doors.join(", ")).to_lowercase()
}
