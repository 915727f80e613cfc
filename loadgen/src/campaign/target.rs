//! The target seen from outside: whether it is there, and once a second what it uses.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::campaign::judge::is_own_limit;
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
/// Moments that are to be looked at; the leader names two in a phase.
const MOMENTS_MAX: usize = 64;

/// Looks at the target until it is dropped.
pub struct Sampler {
    samples: Receiver<Option<TargetSample>>,
    moments: SyncSender<u64>,
}

/// Which doors of the target somebody goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doors {
    /// The clients' and the publisher's.
    All,
    /// The publisher's: the clients are elsewhere, and theirs may be out of reach from here.
    Upstream,
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
        // What the target was before anybody came is known before anybody does.
        let _ = to.try_send(gateway.look().ok());
        let (moments, asked) = sync_channel(MOMENTS_MAX);
        let body = move || {
            let (mut next_ns, mut wanted) = (now_ns() + SECOND_NS, Vec::new());
            while wait(&asked, &mut wanted, next_ns) {
                // A page that was late is not made up for.
                next_ns = now_ns() + SECOND_NS;
                let sample = gateway.look().ok();
                // When the leader lets so many wait, the next one says the same.
                let _ = to.try_send(sample);
            }
        };
        let builder = std::thread::Builder::new().name("target".to_owned());
        builder.spawn(body).context("cannot start the thread that watches the target")?;
        Ok(Some(Self { samples, moments }))
    }

    /// Looks then, too, beside once a second.
    pub fn look_at(&self, at_ns: u64) {
        // More than it can remember are not wanted as much as the first ones.
        let _ = self.moments.try_send(at_ns);
    }

    /// What was seen since the last time; none: it did not answer.
    pub fn seen(&self) -> impl Iterator<Item = Option<TargetSample>> + '_ {
        self.samples.try_iter()
    }
}

/// Waits until it is time to look, at `next_ns` or a moment before it that is wanted; not if nobody
/// wants to know any more.
fn wait(asked: &Receiver<u64>, wanted: &mut Vec<u64>, next_ns: u64) -> bool {
    loop {
        let first_ns = wanted.iter().copied().min().map_or(next_ns, |first| first.min(next_ns));
        match asked.recv_timeout(until(first_ns)) {
            Ok(at_ns) if wanted.len() < MOMENTS_MAX => wanted.push(at_ns),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    let now = now_ns();
    wanted.retain(|&at_ns| at_ns > now);
    true
}

/// Whether everything that the scenario connects to takes connections.
pub fn reach(scenario: &Scenario) -> Result<(), TargetLost> {
    reach_by(scenario, Doors::All)
}

/// Whether these doors take connections.
pub fn reach_by(scenario: &Scenario, which: Doors) -> Result<(), TargetLost> {
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
    let clients = [tcp, ws].into_iter().filter(|_| which == Doors::All);
    clients.chain([upstream.filter(|_| publishes)]).flatten().try_for_each(knock)
}

fn knock(address: SocketAddr) -> Result<(), TargetLost> {
    knocked(address, TcpStream::connect_timeout(&address, CONNECT_MAX).map(drop))
}

/// Whether that came of the target. When it is this machine that has no more to give, the target may
/// well be there.
fn knocked(address: SocketAddr, knocked: io::Result<()>) -> Result<(), TargetLost> {
    match knocked {
        Err(error) if !is_own_limit(&error.to_string()) => {
            Err(TargetLost(format!("{address} takes no connection: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The target in a line.
pub fn name(target: &Target) -> String {
    let doors = [("tcp", target.tcp), ("ws", target.ws)];
    let doors = doors.iter().filter_map(|(name, door)| Some(format!("{name} {}", (*door)?)));
    let doors: Vec<String> = doors.collect();
    format!("{:?} at {}", target.protocol, doors.join(", ")).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn limits_of_this_machine_say_nothing_of_the_target() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        for (errno, is_there) in
            [(24, true), (23, true), (99, true), (98, true), (111, false), (110, false)]
        {
            let error = Err(io::Error::from_raw_os_error(errno));
            assert_eq!(knocked(address, error).is_ok(), is_there, "{errno}");
        }
    }

    #[test]
    fn a_moment_that_is_wanted_is_waited_for_and_then_forgotten() {
        let (ask, asked) = channel();
        let now = now_ns();
        let later = now + 3600 * SECOND_NS;
        let (soon, mut wanted) = (now + SECOND_NS / 100, Vec::new());
        ask.send(later).unwrap();
        ask.send(soon).unwrap();
        assert!(wait(&asked, &mut wanted, later));
        assert!(now_ns() >= soon, "not before it");
        assert_eq!(wanted, [later]);
        drop(ask);
        assert!(!wait(&asked, &mut wanted, later), "nobody wants to know any more");
    }
}
