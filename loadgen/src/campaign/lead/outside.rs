//! What a leader sees and hears beside its own books: the time, reports, the target.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::campaign::target::{self, Doors, Sampler};
use crate::clock::{now_ns, until};
use crate::exit::TargetLost;
use crate::orders::Report;
use crate::procfs;
use crate::record::kept::TargetSample;
use crate::scenario::Scenario;

/// How long the leader sleeps at most.
const NAP: Duration = Duration::from_millis(50);

/// All that a leader knows of the world. Tests have one in which no time passes.
pub trait Outside {
    /// The moment.
    fn now_ns(&self) -> u64;
    /// The next report, if one comes soon and before that moment.
    fn hear(&mut self, reports: &Receiver<Report>, until_ns: u64) -> Option<Report>;
    /// Whether the target takes connections.
    fn reach(&self, scenario: &Scenario) -> Result<(), TargetLost>;
    /// Lets the target be looked at then.
    fn look_at(&mut self, at_ns: u64);
    /// What was seen of the target since the last time; none: it did not answer.
    fn seen(&mut self) -> Vec<Option<TargetSample>>;
    /// Whether anybody looks at the target.
    fn is_watched(&self) -> bool;
    /// Bytes of memory that this machine could still give.
    fn available_bytes(&self) -> Option<u64>;
}

/// The world as it is here.
pub struct Here {
    /// Who looks at the target.
    pub sampler: Option<Sampler>,
    /// The doors that this machine goes through.
    pub doors: Doors,
}

impl Outside for Here {
    fn now_ns(&self) -> u64 {
        now_ns()
    }

    fn hear(&mut self, reports: &Receiver<Report>, until_ns: u64) -> Option<Report> {
        let nap = until(until_ns).min(NAP);
        match reports.recv_timeout(nap) {
            Ok(report) => Some(report),
            Err(RecvTimeoutError::Timeout) => None,
            // Everybody has gone, and said why; then time passes only.
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(nap);
                None
            }
        }
    }

    fn reach(&self, scenario: &Scenario) -> Result<(), TargetLost> {
        target::reach_by(scenario, self.doors)
    }

    fn look_at(&mut self, at_ns: u64) {
        if let Some(sampler) = &self.sampler {
            sampler.look_at(at_ns);
        }
    }

    fn seen(&mut self) -> Vec<Option<TargetSample>> {
        self.sampler.iter().flat_map(Sampler::seen).collect()
    }

    fn is_watched(&self) -> bool {
        self.sampler.is_some()
    }

    fn available_bytes(&self) -> Option<u64> {
        procfs::available_bytes().ok()
    }
}
